"""What `loobench speed --estimators` measures."""

import json
from pathlib import Path

import pytest
import torch

from benchmark.commands.main import main
from benchmark.core.registry import registered
from benchmark.retraining.train import leave_one_out, train
from benchmark.studies import costs


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {"network": lambda: costs.problem((6, 4, 1), 30, 10, 2), "line": lambda: costs.problem((6, 1), 30, 10, 2)}
    monkeypatch.setattr(costs, "CASES", cases)


def test_the_query_is_the_mean_of_other_samples() -> None:
    given = costs.problem((6, 1), 30, 10, 2)

    assert (len(given.train), len(given.query), given.queries) == (30, costs.QUERIES, 1)
    assert not (given.query.inputs[:, None] == given.train.inputs).all(2).any()


def test_prices_are_over_those_of_exact_retraining() -> None:
    found = {(price.case, price.estimator): price for price in costs.prices([registered()[n] for n in ("exact-loo", "sgd-ie")])}

    assert len(found) == 4
    exact, derivative = found["line", "exact-loo"], found["line", "sgd-ie"]
    assert (exact.gradients, exact.hessian_products, exact.kendall) == (1.0, 0.0, 1.0)
    assert derivative.hessian_products == pytest.approx(1 / 31)
    assert derivative.time > 0
    run = train(costs.CASES["line"]())
    assert costs.exactly(run)[1] == 2 * 30 * 31
    assert torch.equal(costs.exactly(run)[2], leave_one_out(run)[-1, :, 0])


def test_what_fails_is_shown_and_what_is_not_supported_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from benchmark.estimating import estimator\n"
        "@estimator('bad', paper='none')\ndef bad(run):\n    raise RuntimeError('no luck')\n"
    )
    assert main(["speed", "--estimators", str(bad), "acc-lowcost", "less", "chance"]) == 0
    found = json.loads(Path("speed.json").read_text())["prices"]

    assert {(price["case"], price["estimator"]) for price in found} == {
        ("network", "bad"), ("line", "bad"), ("line", "acc-lowcost"), ("network", "chance"), ("line", "chance"),
    }  # fmt: skip
    assert {price["failure"] for price in found if price["estimator"] == "bad"} == {"crashed"}
    assert "crashed" in capsys.readouterr().out
    assert main(["speed", "--estimators", "nosuch"]) == 2
