"""The one go of `make gpu`: what fails, hangs or does not fit costs nothing else, and the table says so."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmark.base.errors import LoobenchError
from benchmark.commands import main
from benchmark.studies import card, device, speed
from benchmark.studies.card import Finding, Part

ROOT = Path(__file__).resolve().parents[1]
MACHINE = {
    "device": "Some Card 80GB",
    "driver": "1.2",
    "torch": "2.11.0+cu130",
    "processor": "Some Processor",
    "instruction_set": "AVX2",
    "cores": 16,
    "commit": "0123456789abcdef",
    "peak_gflops": {"float64": 60000.0, "float32": 50000.0},
}
ON = {"difference": 2e-13, "noise": {"repeat": 3e-14}, "seconds": 0.5, "of_peak": 0.25}
TRUTH = {"cpu_wall": 4.0, "float64": ON, "float32": {**ON, "difference": 4e-5}}
ONE = speed.Speed("one", "float64", 20, 20, 5, 10, 0.1, 0.1, 0.1, 0.1, 1.0, 10.0, 1.0, 2.0, 2.0, None)
ABSENT = (  # on the machine with a card
    *("datasets", "huggingface_hub", "wandb", "platformdirs", "matplotlib", "ot", "PIL", "vl_convert"),
    *("xdist", "filelock", "jsonschema", "selenium", "captum", "dattri", "kronfluence", "pydvl", "trak", "click", "rich"),
)
WITHOUT = f"""
import sys
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *more): return None if name.split(".")[0] in {ABSENT} else self.finder.find_spec(name, *more)
sys.meta_path[:] = map(Without, sys.meta_path)
"""


def program(name: str, code: str, limit: float = 20.0) -> Part:
    return Part(name, (sys.executable, "-S", "-c", code), limit)


def leaving(folder: Path, name: str) -> Part:
    return program(name, f"open({str(folder / name)!r} + '.json', 'w').write('{{\"left\": 1}}')")


def test_a_part_that_fails_or_hangs_or_does_not_fit_costs_the_others_nothing(tmp_path: Path) -> None:
    hanging = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']); "
    given = [
        leaving(tmp_path, "first"),
        program("broken", "print('begun'); raise ValueError('CUDA error: an illegal memory access')"),
        program("hanging", hanging + "print('at the third', flush=True); time.sleep(60)", limit=2.0),
        program("silent", "pass"),
        leaving(tmp_path, "later"),
    ]
    began = time.monotonic()
    first, broken, hanging_one, silent, later = card.carry_out(given, tmp_path, 60)

    assert time.monotonic() - began < 30
    assert (first.status, first.found) == (later.status, later.found) == ("done", {"left": 1})
    assert (broken.status, broken.error) == ("failed", "ValueError: CUDA error: an illegal memory access")
    assert (hanging_one.status, hanging_one.error) == ("out of time", "not done after 2 s; last: at the third")
    assert silent.status == "failed"


def test_what_no_time_is_left_for_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "LEAST", 1.0)
    given = [leaving(tmp_path, "first"), program("long", "import time; time.sleep(60)", 60), leaving(tmp_path, "later")]
    found = list(card.carry_out(given, tmp_path, 3))

    assert [one.status for one in found] == ["done", "out of time", "left out"]
    assert "later: left out: 0 s of 3 were left" in card.table(found)


def test_without_the_machine_there_is_nothing_to_do(tmp_path: Path) -> None:
    found = list(card.carry_out([program("machine", "raise SystemExit('no card')"), leaving(tmp_path, "later")], tmp_path, 60))

    assert [(one.part, one.status, one.error) for one in found] == [("machine", "failed", "no card")]


def test_a_file_that_an_earlier_run_left_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{}")
    (found,) = card.carry_out([program("broken", "raise SystemExit(3)")], tmp_path, 60)

    assert (found.status, found.found) == ("failed", None)


def test_the_table_fits_the_screen_and_has_every_figure_and_every_fault() -> None:
    findings = [
        Finding("machine", "done", 1.0, "", MACHINE),
        Finding("tests", "done", 1.0, "", {"status": 1, "passed": 40, "skipped": 2, "failed": ["tests/test_x.py::test_y"]}),
        Finding("truth-mlp", "done", 1.0, "", TRUTH),
        Finding("truth-cnn", "failed", 1.0, "RuntimeError: " + 100 * "long "),
        Finding("speed", "done", 1.0, "", {"cases": [{"case": "mlp", "engine": 0.5, "of_peak": 0.3, "loop": 5.0}]}),
    ]
    lines = card.table(findings)
    text = " ".join(lines)

    assert max(map(len, lines)) <= 80
    for part in (
        "Some Card 80GB",
        "driver 1.2",
        "2.11.0+cu130",
        "AVX2",
        "60000 in float64",
        "speed: mlp: 0.500 s, 0.30 of peak",
    ):
        assert part in text
    assert ["mlp", "float64", "2.0e-13", "3.0e-14", "4.00", "0.50", "0.250"] in [line.split() for line in lines]
    assert ["mlp", "float32", "4.0e-05", "3.0e-14", "4.00", "0.50", "0.250"] in [line.split() for line in lines]
    assert "tests: 40 passed, 2 skipped, 1 failed: tests/test_x.py::test_y" in lines
    assert "10.0 x the plain loop" in text
    assert "truth-cnn: failed: RuntimeError: long" in text
    assert card.faults(findings, "cuda") == ["truth-cnn is failed", "tests/test_x.py::test_y failed"]


def test_a_difference_in_float64_and_a_card_on_which_no_test_ran_are_faults() -> None:
    off = Finding("truth-mlp", "done", 1.0, "", {**TRUTH, "float64": {**ON, "difference": 2e-6}})
    none = Finding("tests", "done", 1.0, "", {"status": 0, "passed": 0, "skipped": 50, "failed": []})
    broken = Finding("tests", "done", 1.0, "", {"status": 3, "passed": 0, "skipped": 0, "failed": []})

    assert card.faults([off], "cuda") == ["truth-mlp in float64 differs by more than 1e-06 of the spread of the effects"]
    assert card.faults([none], "cuda") == ["no test ran on the GPU"]
    assert card.faults([none], "cpu") == []
    assert card.faults([broken], "cpu") == ["pytest ended with status 3"]


def test_the_difference_is_the_largest_over_the_spread_of_its_query() -> None:
    exact = torch.tensor([[[1.0, 10.0, 5.0], [3.0, 30.0, 5.0]]], dtype=torch.float64)  # (1, 2, 3); deviations 2**.5, 200**.5, 0
    effect = exact + torch.tensor([[[0.1, 2.0, 7.0], [-0.1, 0.0, 7.0]]], dtype=torch.float64)

    assert device.difference(effect, exact) == pytest.approx(2 / 200**0.5)
    with pytest.raises(LoobenchError, match="nothing to compare"):
        device.difference(effect * float("nan"), exact)
    with pytest.raises(LoobenchError, match="nothing to compare"):
        device.difference(exact, torch.ones_like(exact))


@pytest.mark.parametrize(("kind", "layer"), [("transformer", "Attention"), ("resnet-9", "Residual")])
def test_a_module_of_the_card_is_what_its_name_says_and_starts_from_the_same_numbers(kind: str, layer: str) -> None:
    given, again = device.KINDS[kind](60), device.KINDS[kind](60)

    assert layer in [type(part).__name__ for part in given.model.net.modules()]
    assert given.initial.dtype is torch.float64
    assert torch.equal(given.initial, again.initial)
    assert (len(given.left_out), len(given.query)) == (20, 20)


@pytest.mark.parametrize("kind", sorted(set(device.KINDS) - {"transformer", "resnet-9"}))
def test_a_kind_of_network_is_what_its_name_says(kind: str) -> None:
    given = device.KINDS[kind](20)
    names = [type(layer).__name__ for layer in given.model.layers]

    assert kind != "gram" or speed.gram_pays(given)
    assert ("Conv" in names) == kind.startswith("cnn")
    assert ("GroupNorm" in names) == (kind == "cnn-norm")
    assert given.optimizer.name == (kind if kind in ("momentum", "adam") else "sgd")
    assert len(given.train) == 20


def test_a_truth_beside_the_cpu_is_off_by_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(device.SAMPLES, "cpu", 24)
    found = device.compared(device.KINDS["adam"], "cpu")

    assert found["float64"]["difference"] < 1e-9
    assert 1e-9 < found["float32"]["difference"] < 1e-2
    assert found["float32"]["noise"]["samples"] == 24
    assert 0 < found["float32"]["of_peak"] < 1
    json.dumps(found, allow_nan=False)


def test_the_short_list_of_speed_is_measured_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    monkeypatch.setattr(speed, "measure", lambda case, problem, enough: measured.append((case, enough)) or ONE)
    monkeypatch.chdir(tmp_path)

    assert main.main(["speed", "--short"]) == 0
    found = json.loads(Path("speed.json").read_text())
    assert measured == [(name, speed.ENOUGH_IN_SHORT) for name in speed.SHORT]
    assert len(found["cases"]) == 3
    assert not found["growth"]
    assert not found["memory"]


def test_there_is_no_part_of_another_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert card.main(["--device", "cpu", "--part", "dance", "--out", str(tmp_path)]) == 2
    assert "unknown part 'dance'" in capsys.readouterr().err


def test_a_card_that_is_not_there_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert card.main(["--out", str(tmp_path)]) == 2
    assert "torch sees no GPU" in capsys.readouterr().err


def on_such_a_box(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python where what is `ABSENT` is not installed, from the checkout."""
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "sitecustomize.py").write_text(WITHOUT)
    paths = os.pathsep.join([str(tmp_path / "box"), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OUT": str(tmp_path / "out")}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=env, check=False)


PARTS = """
import os, runpy, sys
import torch._dynamo  # which each part needs
from benchmark.studies import card, speed
if os.fork() == 0:  # as a person starts it, with the imports done
    sys.argv[:] = ["card", "--device", "cpu", "--part", "truth-logistic"]
    runpy.run_module("benchmark.studies.card", run_name="__main__", alter_sys=True)
speed.SHORT, speed.ENOUGH_IN_SHORT = ("quick-digits-mlp-adam",), 0.01
speed.peak, speed.memory_taken = lambda *_: 1e12, lambda *_: None  # which take seconds
codes = [card.main(["--part", part, "--device", "cpu"]) for part in ("speed", "tests")]
sys.exit(any([*codes, os.waitstatus_to_exitcode(os.wait()[1])]))
"""


def test_the_parts_of_the_card_script_need_only_what_such_a_box_has(tmp_path: Path) -> None:
    """One program for all: what takes long is its start."""
    done = on_such_a_box(tmp_path, "-c", PARTS)
    assert done.returncode == 0, done.stdout + done.stderr
    truth, timed, tests = (
        json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("truth-logistic", "speed", "tests")
    )

    assert truth["float64"]["difference"] < 1e-9
    assert [case["case"] for case in timed["cases"]] == ["quick-digits-mlp-adam"]
    assert tests["status"] == 0
    assert tests["passed"] + tests["skipped"] > 100
    assert not tests["failed"]


def test_such_a_box_is_without_what_it_is_said_to_be_without(tmp_path: Path) -> None:
    done = on_such_a_box(tmp_path, "-c", "import filelock")

    assert "ModuleNotFoundError: No module named 'filelock'" in done.stderr
