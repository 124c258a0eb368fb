"""What an answer for all N samples costs, drawn on from calls for some of them, is what asking for all of them costs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import OPTIMIZERS, problem

from benchmark.base.errors import Failure, LoobenchError
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train
from benchmark.running import charging
from benchmark.running.cell import Setup, computed, opened
from benchmark.running.evaluate import Estimate, estimate
from benchmark.scores.intervals import interval
from benchmark.tasks.suites import TASKS

SOME = replace(TASKS["quick-digits-mlp-sgd"], name="some", train=60, query=5, epochs=2, horizons=(2,), leave_out=10)


def about(run: Trajectory, samples: int) -> Trajectory:
    return replace(run, problem=replace(run.problem, left_out=torch.arange(samples)))


def costs(found: Estimate) -> tuple[int, int]:
    return found.count.gradients, found.count.hessian_products


@pytest.mark.parametrize("name", ["sgd-ie", "acc-sgd-ie", "exact-loo", "grad-dot", "tracin", "dvemb", "if-cg", "self-gradient"])
def test_the_counts_drawn_on_to_all_samples_are_those_of_asking_for_all(name: str) -> None:
    run = train(problem(optimizer=OPTIMIZERS["sgd"], epochs=2))
    found = estimate(registered()[name], about(run, 5))
    whole = estimate(registered()[name], about(run, len(run.problem.train)))

    assert costs(charging.for_all(found, registered()[name], about(run, 5), "cpu")) == costs(whole)


def test_the_effects_are_those_of_the_samples_that_were_asked() -> None:
    run = about(train(problem(epochs=2)), 5)
    found = estimate(registered()["sgd-ie"], run)

    assert torch.equal(charging.for_all(found, registered()["sgd-ie"], run, "cpu").effect, found.effect)


@pytest.mark.parametrize(("name", "grows"), [("sgd-ie", False), ("acc-sgd-ie", True)])
def test_time_is_drawn_on_where_counts_grow_and_noise_is_not(name: str, grows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = about(train(problem(epochs=2)), 5)
    found = replace(estimate(registered()[name], run), seconds=1.0)
    two = replace(estimate(registered()[name], about(run, 2), judged=False), seconds=0.4)
    monkeypatch.setattr(charging, "estimate", lambda *_, **__: two)

    whole = 1.0 + (len(run.problem.train) - 5) * 0.6 / 3
    assert charging.for_all(found, registered()[name], run, "cpu").seconds == pytest.approx(whole if grows else 1.0)


@pytest.mark.parametrize("slope", [0.0, 1e-5, 1e-3, 0.1])
def test_a_time_that_hardly_grows_is_drawn_on_from_calls_so_far_apart_that_its_noise_does_not_count(slope: float) -> None:
    random, asked = np.random.RandomState(0), []

    def take(rows: int) -> float:
        asked.append(rows)
        return (1 + slope * rows) * (1 + 0.02 * random.uniform(-1, 1))

    found = charging.drawn_time(take(2), take(50), take, {2: 2, 50: 50}, 60_000)

    assert found == pytest.approx(1 + slope * 60_000, rel=0.15)
    assert asked[2:] == {0.0: [200, 800, 3200, 12_800, 51_200, 60_000], 1e-3: [200, 800], 0.1: []}.get(slope, asked[2:])


def test_the_next_call_asks_for_so_many_that_four_times_as_much_is_counted() -> None:
    assert charging.next_rows({2: 1002, 50: 1050}, 50) == 50 + 3 * 1050  # a thousand whatever is asked, and one for each
    assert charging.next_rows({2: 20, 50: 500}, 50) == 200  # ten for each
    assert charging.next_rows({2: 7, 50: 7}, 50) == 200  # nothing is known
    asked: list[int] = []
    charging.drawn_time(1.0, 1.0, lambda rows: asked.append(rows) or 1.1, {2: 600_002, 50: 600_050}, 60_000)
    assert asked == [60_000]  # of a method that is about as dear for all as for fifty


def test_who_cannot_answer_about_more_samples_is_charged_by_the_last_call_that_could_be_made() -> None:
    def take(rows: int) -> float:
        if rows > 400:
            raise Failure("out-of-memory", "too many")
        return 1.2

    assert charging.drawn_time(1.0, 1.1, take, {2: 2, 50: 50}, 1000) == pytest.approx(1.2 + 800 * 0.2 / 198)


def test_more_samples_are_those_left_out_and_others_in_order() -> None:
    run = train(problem(epochs=2))
    run = replace(run, problem=replace(run.problem, left_out=torch.tensor([3, 7, 11])))

    assert [charging.some(run, rows).tolist() for rows in (2, 3, 6, 12)] == [
        [3, 7],
        [3, 7, 11],
        [0, 1, 2, 3, 7, 11],
        [*range(12)],
    ]


def opened_as(charged: str, cache: Path) -> tuple[Setup, object]:
    setup = Setup("cpu", cache, "a test")
    bar = lambda *_: type("Bar", (), {"update": lambda *_: None, "close": lambda *_: None})()  # noqa: E731
    return setup, opened(setup, replace(SOME, charged=charged), 0, bar)


def test_exact_retraining_is_charged_for_all_where_the_task_says_so(tmp_path: Path) -> None:
    (setup, asked), (_, whole) = (opened_as(charged, tmp_path) for charged in ("asked", "all"))

    assert whole.blank.exact_gradients == 6 * asked.blank.exact_gradients  # 60 samples, 10 of them left out
    cells = [computed(setup, case, registered()["exact-loo"], set()) for case in (asked, whole)]
    assert [cell.gradients for cell in cells] == [11 * 120, 61 * 120]  # with the run that keeps all; 120 visits a run
    assert cells[1].relative_cost == pytest.approx(cells[1].seconds / cells[1].exact_seconds, rel=1e-3)
    assert cells[0].scores == cells[1].scores


def test_a_sweep_that_serves_all_samples_costs_a_sixth_where_a_sixth_is_asked(tmp_path: Path) -> None:
    cells = []
    for charged in ("asked", "all"):
        setup, case = opened_as(charged, tmp_path)
        cells.append(computed(setup, case, registered()["sgd-ie"], set()))
    shares = [(cell.gradients + cell.hessian_products) / cell.exact_gradients for cell in cells]

    assert cells[0].gradients == cells[1].gradients
    assert shares[1] == pytest.approx(shares[0] / 6)


def test_a_task_is_charged_for_those_asked_or_for_all() -> None:
    assert "charged" not in SOME.record()
    assert replace(SOME, charged="all").digest() != SOME.digest()
    with pytest.raises(LoobenchError, match="charged of task some"):
        replace(SOME, charged="none")


def test_intervals_over_seeds_cover_the_score_of_all_samples_where_each_seed_asks_some() -> None:
    """Each seed draws its own K of N, so that what sampling them adds is between seeds and in the interval."""
    random = np.random.RandomState(0)
    truth = random.randn(400)
    estimated = truth + random.randn(400)
    whole, covered = np.corrcoef(truth, estimated)[0, 1], 0

    def score(some: np.ndarray) -> np.ndarray:
        return np.array([np.corrcoef(truth[some], estimated[some])[0, 1]])

    for _ in range(200):
        found = interval([{str(k): score(random.permutation(400)[:40]) for k in range(4)}])
        covered += found.low <= whole <= found.high

    assert 0.9 * 200 <= covered <= 0.995 * 200  # of 95 %: 180 or fewer come in one of 600 such tests
