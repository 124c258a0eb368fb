"""Truths, estimates and scores come out as they are stored: a change that moves one must raise PROTOCOL.

Ten small tasks of all kinds are computed (tests/gold.py writes them down): bit for bit where arithmetic has the same last bits,
to 1e-9 of the spread elsewhere. The committed figures of one task of the board follow from its committed estimates and truths
(`python tests/test_golden.py CACHE` gathers these anew from a cache, once the task's results were computed anew).
"""

import sys
from pathlib import Path

import gold
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from benchmark import PROTOCOL
from benchmark.base import machine
from benchmark.base.files import read_tensors, tensor_digest, write
from benchmark.core.declaration import OPTIMIZERS
from benchmark.core.optimizers import SCHEDULES
from benchmark.running import scoring
from benchmark.scores import board, store
from benchmark.scores.results import Result
from benchmark.tasks.questions import QUESTIONS, asked_of
from benchmark.truths import truth
from benchmark.truths.effects import GroundTruth

CLOSE = 1e-9  # over the standard deviation, of truths and estimates on another processor
DIGITS = 1e-5  # of scores there, which are kept to six digits; two effects that are closer than rounding may change places
TASK = "quick-breast-cancer-logistic-sgd"
ROOT = Path(__file__).resolve().parents[1]
KEPT = Path(__file__).parent / "golden" / f"{TASK}.safetensors"
RESULTS = [store.load(at) for at in sorted((ROOT / "results" / TASK).glob("*.json"))]


# ---- ten tasks of all kinds ------------------------------------------------------------------------------------------
def far(found: Tensor, stored: Tensor) -> float:
    """The largest difference, over the standard deviation of what is stored."""
    return float((found - stored).abs().max() / stored.std()) if not torch.equal(found, stored) else 0.0


def differing(found: dict[str, list[float | None]], stored: dict[str, list[float | None]], within: float) -> list[str]:
    """The scores that differ by more than `within`, of which are larger than 1 that part."""
    assert found.keys() == stored.keys()
    pairs = ((name, one, other) for name in found for one, other in zip(found[name], stored[name], strict=True))
    return [
        f"{name}: {one}, stored {other}"
        for name, one, other in pairs
        if (one is None or other is None or abs(one - other) > within * max(1, abs(other))) and one != other
    ]


def test_the_stored_numbers_are_of_this_protocol() -> None:
    assert gold.stored()["protocol"] == PROTOCOL, "numbers moved on purpose: store them anew by `python tests/gold.py`"
    assert [*gold.stored()["cases"]] == [*gold.NAMES]
    assert len(gold.NAMES) == 10


@pytest.mark.parametrize("name", gold.NAMES)
def test_truth_estimates_and_scores_come_out_as_they_are_stored(name: str) -> None:
    case, known, stored = gold.computed(name), gold.tensors(name), gold.stored()["cases"][name]
    assert {one: found.status for one, found in case.found.items()} == {
        one: found["status"] for one, found in stored["estimators"].items()
    }
    answers = {one: found.estimate for one, found in case.found.items() if found.estimate is not None}
    apart = {one: far(tensor, known[one]) for one, tensor in {"truth": case.effect, **answers}.items()}
    wrong = [
        f"{one}: {said}"
        for one, found in case.found.items()
        for said in differing(found.scores, stored["estimators"][one]["scores"], DIGITS)
    ]
    wrong += differing({n: [*c] for n, c in case.limits.items()}, stored["limits"], DIGITS)

    assert {one: value for one, value in apart.items() if not value <= CLOSE} == {}
    assert wrong == []
    if gold.stored()["arithmetic"] == machine.arithmetic():
        assert gold.digests(case) == stored["digests"], "other bits, by the same arithmetic"


def test_the_ten_tasks_are_of_all_kinds() -> None:
    """What a task can be made of, each at least once."""
    tasks = gold.TASKS.values()

    assert {type(task.truth) for task in tasks} == {*QUESTIONS.values()}
    assert {task.optimizer.name for task in tasks} == {*OPTIMIZERS}
    assert {task.queries for task in tasks} == {"mean", "each"}
    assert {task.counterfactual for task in tasks} == {"zero-weight", "renormalised"}
    assert {task.noise for task in tasks} >= {"none", "labels", "gaussian"}
    assert any(task.uses for task in tasks)
    assert any(task.weight_decay is None for task in tasks)
    assert {task.optimizer.schedule for task in tasks} == {*SCHEDULES}


# ---- a task of the board ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def kept() -> dict[str, Tensor]:
    """Estimates (H, K, Q) and truths (H, K, Q), by digest."""
    return read_tensors(KEPT)[0]


def test_kept_tensors_are_what_their_digests_say(kept: dict[str, Tensor]) -> None:
    assert {name: tensor_digest([tensor]) for name, tensor in kept.items()} == {name: name for name in kept}


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.estimator.name)
def test_committed_scores_are_those_of_the_committed_estimates(result: Result, kept: dict[str, Tensor]) -> None:
    asked = asked_of(result.task)
    scored = {seed: cell for seed, cell in result.cells.items() if cell.status == "ok"}
    for seed, cell in scored.items():
        effect, exact = kept[cell.estimate], GroundTruth(kept[cell.truth], 1.0, 1)
        assert cell.scores == scoring.scores(effect, exact, asked.units and result.estimator.loss_units)
        assert cell.by_query == scoring.ranking(effect, exact, asked)
        assert cell.points == scoring.points(effect, exact, int(seed))


def test_the_board_shows_the_mean_of_the_committed_scores(kept: dict[str, Tensor]) -> None:
    table = board.table(TASK, RESULTS, {})
    for row in table.estimators:
        cells = row.results[0].cells.items()
        if row.complete:
            found = [
                scoring.ranking(kept[cell.estimate], GroundTruth(kept[cell.truth], 1.0, 1), asked_of(row.results[0].task))
                for _, cell in cells
            ]
            assert row.score.mean == pytest.approx(sum(value for (value,) in found if value) / len(found), abs=1e-9)


def gather(cache: Path) -> None:
    """Put the estimates and truths of the task's results from a cache into the kept file."""
    found: dict[str, Tensor] = {}
    for result in RESULTS:
        for seed, cell in result.cells.items():
            if cell.status == "ok":
                effect, exact = scoring.kept(cell.estimate, cache), truth.kept(result.task_digest, int(seed), cache, "cpu")
                assert effect is not None, f"{result.estimator.name} seed {seed}: its estimate is not in {cache}"
                assert exact, f"the truth of seed {seed} is not in {cache}"
                found |= {cell.estimate: effect.contiguous(), cell.truth: exact.effect.contiguous()}
    write(KEPT, save(dict(sorted(found.items()))))


if __name__ == "__main__":
    gather(Path(sys.argv[1]))
