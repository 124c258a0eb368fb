"""The committed figures of a small task follow from its committed estimates and truths.

`python tests/test_golden.py CACHE` gathers these anew from a cache, once the task's results were computed anew.
"""

import sys
from pathlib import Path

import pytest
from safetensors.torch import save
from torch import Tensor

from benchmark import board, results, run, truth
from benchmark.files import read_tensors, tensor_digest, write
from benchmark.problem import GroundTruth
from benchmark.questions import asked_of
from benchmark.results import Result

TASK = "quick-breast-cancer-logistic-sgd"
ROOT = Path(__file__).resolve().parents[1]
KEPT = Path(__file__).parent / "golden" / f"{TASK}.safetensors"
RESULTS = [results.load(at) for at in sorted((ROOT / "results" / TASK).glob("*.json"))]


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
        assert cell.scores == run.scored(effect, exact, asked.units and result.estimator.loss_units)
        assert cell.by_query == run.ranking(effect, exact, asked)
        assert cell.points == run.points(effect, exact, int(seed))


def test_the_board_shows_the_mean_of_the_committed_scores(kept: dict[str, Tensor]) -> None:
    table = board.table(TASK, RESULTS, {})
    for row in table.estimators:
        cells = row.results[0].cells.items()
        if row.complete:
            found = [
                run.ranking(kept[cell.estimate], GroundTruth(kept[cell.truth], 1.0, 1), asked_of(row.results[0].task))
                for _, cell in cells
            ]
            assert row.score.mean == pytest.approx(sum(value for (value,) in found if value) / len(found), abs=1e-9)


def gather(cache: Path) -> None:
    """Put the estimates and truths of the task's results from a cache into the kept file."""
    found: dict[str, Tensor] = {}
    for result in RESULTS:
        for seed, cell in result.cells.items():
            if cell.status == "ok":
                effect, exact = run.kept(cell.estimate, cache), truth.kept(result.task_digest, int(seed), cache, "cpu")
                assert effect is not None, f"{result.estimator.name} seed {seed}: its estimate is not in {cache}"
                assert exact, f"the truth of seed {seed} is not in {cache}"
                found |= {cell.estimate: effect.contiguous(), cell.truth: exact[0].effect.contiguous()}
    write(KEPT, save(dict(sorted(found.items()))))


if __name__ == "__main__":
    gather(Path(sys.argv[1]))
