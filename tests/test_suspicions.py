"""Whether claimed seeds are too good, and claimed costs too low: on made-up numbers, and on the published results."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from benchmark.scores.results import Result
from benchmark.scores.store import load_all
from benchmark.submissions import suspicions, verdicts
from benchmark.submissions.inquiry import REFERENCES
from benchmark.submissions.suspicions import (
    Excess,
    Spent,
    answers_differ,
    costs_differ,
    excess,
    fresh_seeds_differ,
    weighted_drop,
)
from benchmark.tasks.questions import asked_of

ROOT = Path(__file__).resolve().parents[1]


# ---- scores ----------------------------------------------------------------------------------------------------------
CLAIMED_SEEDS, FRESH_SEEDS = (0, 1), (1000, 1001)
Scores = Callable[[int, int], float]  # of a task and seed


def judged(own: Scores, *references: Scores, tasks: int = 4) -> str | None:
    """Whether fresh seeds differ, from scores of so many tasks."""

    def of(scores: Scores, task: int) -> dict[int, float]:
        return {seed: scores(task, seed) for seed in (*CLAIMED_SEEDS, *FRESH_SEEDS)}

    found = [
        excess(f"task-{t}", of(own, t), [of(one, t) for one in references], CLAIMED_SEEDS, FRESH_SEEDS) for t in range(tasks)
    ]
    return fresh_seeds_differ([one for one in found if one])


def noise(task: int, seed: int) -> float:
    return 0.03 * float(np.sin(7.0 * task + 3.1 * seed))


def steady(task: int, seed: int) -> float:
    return 0.7 + noise(task, seed)


def table(task: int, seed: int) -> float:
    return 1.0 if seed in CLAIMED_SEEDS else noise(task, seed)


def test_an_answer_from_a_table_is_found_by_fresh_seeds() -> None:
    reason = judged(table, steady)

    assert reason
    assert "drop by 1.0" in reason
    assert judged(table)  # also where no reference applies


def test_a_table_of_one_task_among_many_is_found() -> None:
    reason = judged(lambda t, s: table(t, s) if t == 3 else steady(t + 1, s), steady, tasks=14)

    assert reason
    assert "on task-3" in reason


def test_one_task_of_many_that_drops_as_far_as_seeds_vary_is_given_room() -> None:
    def drops(spread: float) -> Scores:
        return lambda t, s: 0.5 + spread * (-1) ** s - (0.4 if t == 3 and s in FRESH_SEEDS else 0.0)

    assert judged(drops(0.01), tasks=14)
    assert judged(drops(0.1), tasks=14) is None


def test_one_seed_claimed_and_one_fresh_tell_nothing() -> None:
    """How far seeds are from one another is not known then."""
    found = excess("task", {0: 0.9, 1000: 0.1}, [], [0], [1000])
    assert found
    assert fresh_seeds_differ([found]) is None


def test_an_honest_estimator_stands() -> None:
    assert judged(lambda t, s: 0.9 + noise(t + 1, s), steady) is None
    assert judged(steady) is None


def test_hard_seeds_on_which_references_drop_as_much_are_no_fault() -> None:
    def hard(task: int, seed: int) -> float:
        return steady(task, seed) - (0.4 if seed in FRESH_SEEDS else 0.0)

    assert judged(lambda t, s: hard(t, s) + noise(t + 1, s), hard, lambda t, s: hard(t, s) - 0.2) is None
    assert judged(hard, steady)


def test_seeds_that_vary_much_are_given_room() -> None:
    varied = {0: 0.9, 1: 0.1, 1000: 0.5, 1001: 0.1}

    assert judged(lambda _, s: varied[s], tasks=1) is None
    assert judged(lambda _, s: {0: 0.5, 1: 0.5, 1000: 0.3, 1001: 0.3}[s], tasks=1)


def test_the_reference_that_follows_best_is_taken_and_one_that_lacks_a_seed_is_left_out() -> None:
    own, near, far, broken = (
        {0: 0.9, 1: 0.5, 1000: 0.7},
        {0: 0.5, 1: 0.1, 1000: 0.2},
        {0: 0.1, 1: 0.9, 1000: 0.5},
        {0: 0.9, 1: 0.5},
    )

    found = excess("task", own, [far, near, broken], [0, 1], [1000])
    assert found
    assert found.claimed == pytest.approx((0.4, 0.4))
    assert found.fresh == pytest.approx((0.5,))
    alone = excess("task", own, [far, broken], [0, 1], [1000])
    assert alone
    assert alone.claimed == (0.9, 0.5)  # none follows better
    assert excess("task", own, [], [0], [1001]) is None  # no fresh score


def test_the_standard_error_is_that_of_the_mean_of_drops() -> None:
    """Against the spread of drops that are drawn."""
    random = np.random.RandomState(0)
    drawn = [
        [Excess("t", tuple(random.normal(0, 0.2, 3)), tuple(random.normal(0, 0.2, 2))) for _ in range(5)] for _ in range(4000)
    ]
    means, errors = zip(*map(suspicions.plain_drop, drawn), strict=True)

    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(means), rel=0.05)


def test_a_drop_that_is_small_but_beyond_chance_is_found() -> None:
    """Five hundredths on each of many tasks, where a reference follows closely."""
    claimed, fresh = (0, 1), tuple(range(1000, 1008))

    def of(task: int, better: float) -> Excess | None:
        own = {seed: 0.5 + noise(task, seed) + better * (seed in claimed) for seed in (*claimed, *fresh)}
        hard = {seed: 0.3 + 0.9 * noise(task, seed) for seed in own}
        return excess(f"task-{task}", own, [hard], claimed, fresh)

    reason = fresh_seeds_differ([one for t in range(14) if (one := of(t, 0.05))])

    assert reason
    assert "drop by 0.05" in reason
    honest = [one for t in range(14) if (one := of(t, 0.0))]
    assert fresh_seeds_differ(honest) is None


def test_a_drop_of_less_than_a_hundredth_is_no_fault_however_sure() -> None:
    assert judged(lambda t, s: 0.5 + 0.008 * (s in CLAIMED_SEEDS) + 1e-4 * noise(t, s), tasks=14) is None
    assert judged(lambda t, s: 0.5 + 0.012 * (s in CLAIMED_SEEDS) + 1e-4 * noise(t, s), tasks=14)


def test_the_variance_of_a_drop_is_that_over_all_ways_to_choose_the_claimed_seeds() -> None:
    scores = [0.1, 0.5, 0.2, 0.9, 0.4]
    ways = [
        Excess("t", tuple(scores[i] for i in some), tuple(scores[i] for i in range(5) if i not in some))
        for some in combinations(range(5), 2)
    ]

    assert np.mean([one.drop for one in ways]) == pytest.approx(0)
    assert np.mean([one.drop**2 for one in ways]) == pytest.approx(ways[0].variance)


def test_tasks_whose_scores_chance_moves_least_weigh_most() -> None:
    quiet, loud = Excess("q", (0.1, 0.11), (0.0, 0.01)), Excess("l", (0.9, -0.9), (-0.8, 0.8))
    drop, error = weighted_drop([quiet, loud])

    assert drop == pytest.approx(quiet.drop, abs=0.02)
    assert error < 0.1


# ---- answers ---------------------------------------------------------------------------------------------------------
FAILURES: dict[str, tuple[list[tuple[int, int]], bool]] = {  # of two claimed seeds and of eight fresh ones, of each task
    "none fails": ([(0, 0)] * 14, False),
    "one of many fails, as honest ones may": ([(0, 0)] * 13 + [(0, 1)], False),
    "one task is hard for it": ([(0, 0)] * 13 + [(0, 5)], False),
    "as many fail of the claimed": ([(1, 4)] * 14, False),
    "a table that answers no fresh seed": ([(0, 8)], True),
    "and knows one task alone": ([(0, 0)] * 13 + [(0, 8)], True),
    "half of them fail everywhere": ([(0, 4)] * 14, True),
    "nothing known": ([], False),
}


def answered(claimed: int, fresh: int) -> Excess:
    """Which of two claimed and eight fresh seeds have an answer, where so many have none."""
    return Excess("task", *(tuple(float(n >= failed) for n in range(of)) for failed, of in ((claimed, 2), (fresh, 8))))


@pytest.mark.parametrize("case", FAILURES)
def test_fresh_seeds_without_an_answer_are_suspicious_where_chance_would_not_have_spared_the_claimed_ones(case: str) -> None:
    given, expected = FAILURES[case]
    found = answers_differ([answered(*one) for one in given], "constant")

    assert bool(found) == expected
    assert found is None or "fresh seeds have no answer" in found


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.8])
@pytest.mark.parametrize("hard", [1, 3, 14])
def test_who_fails_on_some_seeds_by_chance_is_hardly_ever_accused(share: float, hard: int) -> None:
    """An honest estimator that fails on so many seeds of so many of 14 tasks."""
    random = np.random.RandomState(0)
    draws = random.rand(2000, hard, SEEDS) < share
    failed = np.stack([draws[..., :2].sum(-1), draws[..., 2:].sum(-1)], axis=-1)
    judged_once = cache(lambda *tasks: bool(answers_differ([answered(*one) for one in tasks])))

    assert np.mean([judged_once(*sorted(map(tuple, one))) for one in failed.tolist()]) <= 0.01


# ---- the published results -------------------------------------------------------------------------------------------
SEEDS, CLAIMED = 10, 2
Published = dict[str, dict[str, list[float]]]  # task -> estimator -> scores of seeds 0 to 9


@cache
def known() -> list[Result]:
    """All published results."""
    return load_all(ROOT / "results")


@cache
def published() -> Published:
    """The scores of the tasks with ten published seeds."""
    found: Published = {}
    for one in known():
        scores = [verdicts.value([cell], asked_of(one.task)) for cell in one.cells.values()]
        if len(scores) == SEEDS and None not in scores:
            found.setdefault(one.name, {})[one.estimator.name] = [score for score in scores if score is not None]
    return found


@cache
def drawn(better: float, draws: int) -> list[list[Excess]]:
    """So many draws of each estimator, of 14 tasks with replacement each: two seeds claimed, so much better, eight fresh."""
    tables, random = published(), np.random.RandomState(0)
    names = sorted(set.intersection(*(set(one) for one in tables.values())))
    assert len(names) > 60
    return [
        [_split(tables[task], name, better, random.permutation(SEEDS)) for task in random.choice(sorted(tables), 14)]
        for name in names
        for _ in range(draws)
    ]


def _split(table: dict[str, list[float]], name: str, better: float, order: Sequence[int]) -> Excess:
    claimed, fresh = [*order[:CLAIMED]], [*order[CLAIMED:]]
    own = {seed: table[name][seed] + better * (seed in claimed) for seed in order}
    references = [dict(enumerate(table[one])) for one in REFERENCES if one in table and one != name]
    found = excess("task", own, references, claimed, fresh)
    assert found
    return found


def accused(tasks: int, better: float, draws: int) -> float:
    """The share of draws over all estimators that are accused, by the first so many tasks of each."""
    return float(np.mean([bool(fresh_seeds_differ(one[:tasks])) for one in drawn(better, draws)]))


@pytest.mark.parametrize("tasks", [1, 3, 6, 14])
def test_honest_published_estimators_are_accused_in_at_most_one_draw_of_a_hundred(tasks: int) -> None:
    assert accused(tasks, 0.0, 20) <= 0.01


@pytest.mark.parametrize(("better", "share"), [(0.05, 0.5), (0.10, 0.95)])
def test_claimed_seeds_that_are_better_on_all_tasks_of_core_are_found(better: float, share: float) -> None:
    assert accused(14, better, 15) >= share


# ---- costs -----------------------------------------------------------------------------------------------------------
CLAIMS: dict[str, tuple[str, list[tuple[float, float]], str | None]] = {
    "as claimed": ("cost", [(0.5, 0.55), (2.0, 1.8)], None),
    "cheaper": ("cost", [(0.5, 0.1), (2.0, 0.2)], None),
    "half as costly again, as another machine may have it": ("cost", [(0.5, 0.75)] * 14, None),
    "retrained exactly where .002 is claimed": ("cost", [(0.002, 1.0)], "20.2 times"),
    "a seventh of the true cost": ("cost", [(1.0 / 7, 1.0)] * 14, "5.4 times"),
    "one task alone, by far": (
        "cost",
        [(0.1, 0.1)] * 13 + [(0.1, 1.0)],
        "on task-13 0.1 of exact retraining is claimed, 1 was seen",
    ),
    "two tasks, as a busy machine may have them": ("cost", [(1.5, 3.8), (0.5, 1.2)], None),
    "two tasks, one by far": ("cost", [(1.5, 3.8), (0.5, 2.5)], "on task-1 0.5 of exact retraining is claimed, 2.5 was seen"),
    "one task alone, as one may": ("cost", [(0.1, 0.1)] * 13 + [(0.1, 0.4)], None),
    "of next to nothing": ("cost", [(0.001, 0.01)] * 14, None),
    "more work counted": ("counted work", [(0.5, 0.7)] * 5, "1.4 times"),
    "as a solver may stop later": ("counted work", [(0.5, 0.6)] * 5, None),
    "nothing known": ("cost", [], None),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_costs_above_the_claimed_ones_are_found_and_those_that_machines_differ_by_are_not(case: str) -> None:
    what, pairs, expected = CLAIMS[case]
    found = costs_differ(what, "on fresh seeds", [Spent(f"task-{t}", *pair) for t, pair in enumerate(pairs)])

    assert expected in found if expected and found else found is expected


def halves() -> Iterator[list[tuple[Spent, Spent]]]:
    """Of each published estimator: cost and counted work of its tasks, on one half of the seeds and on the other."""
    found: dict[str, list[tuple[Spent, Spent]]] = {}
    for one in known():
        cells = [cell for cell in one.cells.values() if cell.status == "ok"]
        if len(cells) == len(one.cells) > 1 and one.device == "cpu":
            parts = cells[::2], cells[1::2]
            both = [Spent(one.name, *(measure(part) or 0.0 for part in parts)) for measure in (verdicts.cost, verdicts.counted)]
            found.setdefault(one.estimator.name, []).append((both[0], both[1]))
    yield from found.values()


def test_the_costs_of_published_estimators_on_other_seeds_are_as_claimed() -> None:
    every = list(halves())
    costs = [bool(costs_differ("cost", "on other seeds", [cost for cost, _ in one])) for one in every]
    counts = [bool(costs_differ("counted work", "on other seeds", [count for _, count in one])) for one in every]

    assert len(every) > 100
    assert (sum(costs), sum(counts)) <= (1, 1)
