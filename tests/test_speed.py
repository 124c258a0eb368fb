"""What `loobench speed` compares does the same work, and is counted right."""

import json
from pathlib import Path

import pytest
import torch

from benchmark.commands.main import main
from benchmark.retraining.train import left_out, retrain
from benchmark.studies import plain, speed


def test_every_way_that_is_timed_gives_the_same_parameters() -> None:
    problem = speed.synthetic((7, 5, 3), 12, 5, 2)
    keep = left_out(problem)[:12]
    expected = torch.stack([plain.plain_loop(problem, i)[0] for i in range(12)])

    for found in (retrain(problem, keep, gram=False)[-1], retrain(problem, keep)[-1], plain.mapped(problem, keep)):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_operations_are_counted_forward_and_backward() -> None:
    problem = speed.synthetic((7, 5, 3), 12, 5, 2)

    # per visit: forward 2 (35 + 15), slopes of weights 2 (35 + 15), slope of the hidden layer 2 * 15
    assert speed.flops(problem, runs=4) == 4 * 24 * (100 + 100 + 30)


def test_the_exponent_of_a_known_growth_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_time_of", lambda size, device: 3.0 * size["inputs"] ** 1.5)

    assert speed.growth("cpu") == pytest.approx(
        {"samples": 0, "inputs": 1.5, "hidden": 0, "epochs": 0, "runs": 0, "queries": 0}, abs=1e-9
    )


def test_the_command_measures_a_task_and_writes_its_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "ENOUGH", 0.1)
    assert main(["speed", "--task", "quick-breast-cancer-logistic-sgd"]) == 0
    found = json.loads(Path("speed.json").read_text())

    (case,) = found["cases"]
    assert case["samples"] == 100
    assert 0 < case["of_peak"] < 1
    assert case["gflops"] == pytest.approx(case["of_peak"] * case["peak_gflops"])
    assert case["memory"] is not None
    assert found["provenance"]["threads"] == 1
    assert "matrix-product peak" in capsys.readouterr().out
    assert main(["speed", "--task", "nosuch"]) == 2
