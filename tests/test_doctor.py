"""The doctor: which machine computes stored truths bit for bit, what breaks it, and what is said of that."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmark.base import machine
from benchmark.base.files import tensor_digest
from benchmark.commands.main import main
from benchmark.scores import store
from benchmark.studies import doctor
from benchmark.tasks import suites

ROOT = Path(__file__).resolve().parents[1]


def test_the_doctor_finds_what_changes_bits_and_by_how_much() -> None:
    found = {(f.case, f.setting): f for f in doctor.examine()}
    settings = [setting.name for setting in doctor.SETTINGS]

    assert len(found) == len(doctor.CASES) * len(settings)
    assert all(f.difference < 1e-9 for f in found.values() if f.setting != "float32")
    for case in doctor.CASES:
        assert found[case, "chunks of 10 runs"].difference == found[case, "chunks of 10 runs, two at a time"].difference
        assert not found[case, "float32"].same


def test_the_doctor_says_when_truths_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "STORED", tmp_path / "doctor.json")
    monkeypatch.setattr(doctor, "SETTINGS", doctor.SETTINGS[:1])
    doctor.store()
    assert main(["doctor"]) == 0
    assert "This machine computes the stored truths bit for bit." in capsys.readouterr().out
    stored = doctor.stored()
    truths = {**stored["truths"]}
    monkeypatch.setattr(doctor, "truths", lambda: truths)
    stored["truths"]["quick-digits-mlp-sgd"] = "other"
    doctor.STORED.write_text(json.dumps(stored))
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "with other bits here: quick-digits-mlp-sgd\n" in said
    assert "stored truths with other last bits" in said

    usual = doctor.effects
    monkeypatch.setattr(doctor, "effects", lambda problem, setting: usual(problem, setting) * (1 + 1e-13))
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert main(["doctor"]) == 0
    assert "unset them and look again: MKL_CBWR=COMPATIBLE" in capsys.readouterr().out
    for factor in (1.01, float("nan")):
        monkeypatch.setattr(doctor, "effects", lambda problem, setting, factor=factor: usual(problem, setting) * factor)
        assert main(["doctor"]) == 1
        assert doctor.FAULT in capsys.readouterr().out


SIMULATING = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
SIMULATED = """
import os
import sys
from pathlib import Path
from benchmark.studies import doctor
from benchmark.commands.main import main
doctor.STORED, doctor.SETTINGS = Path(sys.argv[1]), doctor.SETTINGS[:1]
doctor.kind = lambda: "none"  # to start a sandbox takes seconds
code = main(["doctor"])
sys.stdout.flush()
os._exit(code)  # to take down all that is imported takes a second
"""


@pytest.mark.skipif(
    machine.instructions() != "AVX512" or bool(machine.variables()), reason="needs a processor with more than AVX2, as it is"
)
@pytest.mark.parametrize(
    "variables",
    [("ATEN_CPU_CAPABILITY",), pytest.param(("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS"), marks=pytest.mark.slow)],
)
def test_the_doctor_says_that_another_instruction_set_gives_other_bits(
    variables: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "STORED", tmp_path / "doctor.json")
    doctor.store()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **{name: SIMULATING[name] for name in variables}}
    command = [sys.executable, "-c", SIMULATED, str(doctor.STORED)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)

    _, _, said = found.stdout.partition("Published truths")
    differing, made, here, _, *verdict = said.splitlines()
    assert "quick-digits-mlp-adam" in differing  # ten classes: a softmax sums them in another order
    assert made == f"Stored bits are of: {doctor.of_machine(doctor.here())}"
    assert " with AVX512, " in made
    assert " with AVX2, " in here
    assert here.endswith(", ".join(f"{name}={value}" for name, value in SIMULATING.items() if name in variables))
    assert verdict[0].startswith("This machine computes the stored truths with other last bits")
    assert verdict[1] == doctor.ROUNDING


def test_the_doctor_compares_with_the_published_truths_and_says_whose_they_are() -> None:
    stored = doctor.stored()
    found = {name: store.load_limits(ROOT / "results" / f"{name}.json").seeds["0"].truth for name in stored["truths"]}
    cells = [store.load(at) for name in found for at in sorted((ROOT / "results" / name).glob("*.json"))[:3]]

    assert {task.name for task in suites.suite("quick").tasks} == found.keys()
    assert stored["truths"] == found
    assert {facts["device"] for one in cells for facts in one.provenance.values()} == {stored["made"]["processor"]}
    assert {facts["torch"] for one in cells for facts in one.provenance.values()} == {stored["made"]["torch"]}


def test_provenance_says_which_instructions_and_what_the_environment_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    plain = machine.provenance("loobench run", "cpu", "float64")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE\n")

    assert plain["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert not {*machine.VARIABLES} & {*plain}
    assert machine.provenance("loobench run", "cpu", "float64") == {**plain, "MKL_CBWR": "COMPATIBLE"}


def test_a_stored_effect_is_what_its_digest_says() -> None:
    for entry in doctor.stored()["cases"].values():
        effects = torch.tensor([float.fromhex(value) for value in entry["effects"]], dtype=torch.float64)
        assert tensor_digest([effects]) == entry["digest"]
