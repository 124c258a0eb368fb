"""The export can be read without our code, as its page says."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmark.base.files import tensor_digest
from benchmark.commands.main import main
from benchmark.tasks.suites import TASKS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "export.md"


def reader(folder: Path) -> Path:
    """The program in docs/export.md, word for word."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    at = folder / "reader.py"
    at.write_text(found[1])
    return at


@pytest.mark.parametrize("task", ["quick-digits-mlp-adam", "quick-breast-cancer-mlp-sgd", "quick-breast-cancer-logistic-sgd"])
def test_the_documented_numpy_program_redoes_leave_one_out_runs(task: str, tmp_path: Path) -> None:
    assert main(["truth", task, "--seed", "3", "--export", str(tmp_path / "out")]) == 0
    program = reader(tmp_path)
    for sample in ("0", "57"):
        done = subprocess.run([sys.executable, program, tmp_path / "out", sample], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_documented_program_knows_the_other_counterfactual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = replace(TASKS["quick-breast-cancer-mlp-sgd"], name="quick-renormalised", counterfactual="renormalised")
    monkeypatch.setitem(TASKS, given.name, given)
    assert main(["truth", given.name, "--export", str(tmp_path / "out")]) == 0
    done = subprocess.run(
        [sys.executable, reader(tmp_path), tmp_path / "out", "5"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_documented_program_notices_a_wrong_truth(tmp_path: Path) -> None:
    assert main(["truth", "quick-breast-cancer-logistic-sgd", "--export", str(tmp_path / "out")]) == 0
    program = reader(tmp_path)
    program.write_text(program.read_text().replace("else len(batch)", "else len(batch) - 1"))
    done = subprocess.run([sys.executable, program, tmp_path / "out", "0"], capture_output=True, text=True, check=False)

    assert done.returncode != 0


def test_the_digests_of_an_export_are_those_of_its_tensors_in_the_documented_order(tmp_path: Path) -> None:
    assert main(["truth", "quick-breast-cancer-logistic-sgd", "--export", str(tmp_path)]) == 0
    stated = json.loads((tmp_path / "task.json").read_text())["digests"]
    row = next(line for line in PAGE.read_text().splitlines() if line.startswith("| `problem.safetensors`"))
    splits = [f"{split}_{part}" for split in ("train", "query", "test") for part in ("inputs", "targets")]
    names = splits + re.findall(r"`(initial|batches|left_out|rates) \(", row)
    tensors = load_file(tmp_path / "problem.safetensors")

    assert len(names) == len(tensors)
    assert stated["problem"] == tensor_digest([tensors[name] for name in names])


def test_an_export_into_a_file_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("in the way")

    assert main(["truth", "quick-breast-cancer-logistic-sgd", "--export", str(tmp_path / "out")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_truth_prints_its_digest_and_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (_printed(capsys) for _ in range(2))

    assert "digest" in first
    assert first == second


def _printed(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["truth", "quick-breast-cancer-logistic-sgd"]) == 0
    return capsys.readouterr().out
