"""From numbers to verdicts, on numbers made up for it."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_results import CELL, result

from benchmark import verdicts
from benchmark.questions import FurtherTraining, LeaveOneOut, asked_of
from benchmark.results import Cell, Claim, load_all
from benchmark.verdicts import Again, Beside, Excess, Report, Verified, decide, excess, fresh_seeds_differ

ROOT = Path(__file__).resolve().parents[1]
REFERENCES = ("sgd-ie", "grad-dot")
CLAIMED = replace(
    CELL,
    scores={"kendall": [0.7, 0.8], "spearman": [0.8, 0.9], "jaccard_10": [0.5, 0.5], "rmse": [1e-4, 1e-4]},
    by_query=[0.7, 0.9],
    points=[0.5, -20.0],
)


def verdict(here: Cell | None, claimed: Cell = CLAIMED, trouble: str = "") -> str | None:
    return decide(result(), [Again(0, claimed, here, trouble)], LeaveOneOut).verdict


def with_queries(*values: float | None) -> Cell:
    known = [value for value in values if value is not None]
    return replace(CLAIMED, by_query=[*values], scores={**CLAIMED.scores, "kendall": [0.7, sum(known) / len(known)]})


def with_score(name: str, *values: float | None) -> Cell:
    return replace(CLAIMED, scores={**CLAIMED.scores, name: [*values]})


CASES: dict[str, tuple[Cell, str]] = {
    "equal": (CLAIMED, "verified"),
    "other times, memory, bits and messages": (
        replace(CLAIMED, seconds=9.0, relative_cost=9.0, memory=None, truth="t", estimate="f", message="hello"),
        "verified",
    ),
    "off by 0.0005": (with_queries(0.7005, 0.9005), "verified"),
    "off by 0.002": (with_queries(0.702, 0.902), "differs"),
    "a worse score claimed": (with_queries(0.698, 0.898), "differs"),
    "off by 0.002 in the queries, not in their mean as it is told": (replace(CLAIMED, by_query=[0.702, 0.902]), "differs"),
    "one query off by 0.009, the mean as it was": (with_queries(0.709, 0.891), "verified"),
    "one query off by 0.011, the mean as it was": (with_queries(0.711, 0.889), "differs"),
    "a query not defined here": (with_queries(0.8, None), "differs"),
    "another number of queries": (with_queries(0.8), "differs"),
    "the score that ranks, at an earlier horizon": (with_score("kendall", 0.702, 0.8), "differs"),
    "another correlation off by 0.009": (with_score("spearman", 0.8, 0.909), "verified"),
    "another correlation off by 0.011": (with_score("spearman", 0.8, 0.911), "differs"),
    "a set off by one swap": (with_score("jaccard_10", 0.5, 0.65), "verified"),
    "a set off by many": (with_score("jaccard_10", 0.5, 0.75), "differs"),
    "an error off by 4 %": (with_score("rmse", 1e-4, 1.04e-4), "verified"),
    "an error off by 6 %": (with_score("rmse", 1e-4, 1.06e-4), "differs"),
    "a metric not defined here": (with_score("rmse", 1e-4, None), "differs"),
    "a metric that is not there": (with_score("cosine", 0.1, 0.1), "differs"),
    "fewer gradients counted": (replace(CLAIMED, gradients=15), "differs"),
    "another count of the truth's gradients": (replace(CLAIMED, exact_gradients=101), "differs"),
    "another weight decay": (replace(CLAIMED, weight_decay=0.02), "differs"),
    "a point of the figure elsewhere": (replace(CLAIMED, points=[0.6, -20.0]), "differs"),
    "a point of the figure in other last digits": (replace(CLAIMED, points=[0.501, -20.1]), "verified"),
    "a crash here": (replace(CLAIMED, status="crashed", scores={}, by_query=[]), "failed"),
    "not supported here": (replace(CLAIMED, status="unsupported", scores={}, by_query=[]), "differs"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_cell_is_confirmed_within_the_tolerances_and_not_beyond(case: str) -> None:
    here, expected = CASES[case]

    assert verdict(here) == expected


def test_a_claim_of_queries_is_compared_also_where_it_gives_only_their_mean() -> None:
    brief = replace(CLAIMED, by_query=[])

    assert verdict(CLAIMED, brief) == "verified"
    assert verdict(with_queries(0.702, 0.902), brief) == "differs"


def test_the_score_of_further_training_is_the_mean_over_horizons() -> None:
    cell = replace(CLAIMED, by_query=[], scores={"cosine": [0.2, 0.4]})

    assert verdicts.value([cell], FurtherTraining) == pytest.approx(0.3)


def test_statuses_must_agree() -> None:
    gone = replace(CLAIMED, status="crashed", scores={}, by_query=[], message="seen on another machine")

    assert verdict(CLAIMED, gone) == "differs"
    assert verdict(replace(gone, message="another text"), gone) == "verified"
    assert verdict(replace(gone, status="timeout"), gone) == "differs"


def test_a_cell_without_truth_here_is_failed_and_says_why() -> None:
    found = decide(result(), [Again(0, CLAIMED, None, "training diverged")], LeaveOneOut)

    assert found.verdict == "failed"
    assert "training diverged" in found.detail


def test_without_a_cell_that_was_computed_again_there_is_no_verdict() -> None:
    found = decide(result(), [], LeaveOneOut, suspicions=[("failed", "something")])

    assert found.verdict is None
    assert found.value is None
    assert found.detail == "no seed was sampled"


def test_the_worst_verdict_of_all_cells_and_suspicions_counts() -> None:
    fine, off = Again(0, CLAIMED, CLAIMED), Again(1, CLAIMED, with_queries(0.702, 0.902))
    suspicion = ("fresh seeds differ", "too good")

    assert decide(result(), [fine, fine], LeaveOneOut).verdict == "verified"
    assert decide(result(), [fine], LeaveOneOut, suspicions=[suspicion]).verdict == "fresh seeds differ"
    assert decide(result(), [fine, off], LeaveOneOut, suspicions=[suspicion]).verdict == "differs"
    assert decide(result(), [off], LeaveOneOut, suspicions=[("failed", "non-deterministic")]).verdict == "failed"


def test_a_claimed_value_that_its_own_cells_do_not_give_differs() -> None:
    cells = {"0": CLAIMED}
    claim = Claim(0.8, "somebody", "2026-01-31T12:00:00+00:00", "here")

    honest, raised = (replace(result(), cells=cells, claimed=replace(claim, value=value)) for value in (0.8, 0.81))
    assert decide(honest, [Again(0, CLAIMED, CLAIMED)], LeaveOneOut).verdict == "verified"
    assert decide(raised, [Again(0, CLAIMED, CLAIMED)], LeaveOneOut).verdict == "differs"


def test_value_and_largest_difference_and_costs_are_those_of_the_cells_computed_again() -> None:
    found = decide(result(), [Again(1, CLAIMED, replace(with_queries(0.703, 0.895), relative_cost=0.5))], LeaveOneOut)

    assert found.seeds == (1,)
    assert found.value == pytest.approx(0.799)
    assert found.largest_difference == pytest.approx(0.005)
    assert found.costs == (CLAIMED.relative_cost, 0.5)


def test_other_last_bits_of_the_truth_are_told_and_no_fault() -> None:
    found = decide(result(), [Again(1, CLAIMED, replace(CLAIMED, truth="others"))], LeaveOneOut)

    assert found.verdict == "verified"
    assert found.detail == "the truth has other last bits here (seed 1)"


# ---- fresh seeds -----------------------------------------------------------------------------------------------------
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


def test_a_reference_that_lacks_a_seed_is_left_out() -> None:
    own, whole, broken = {0: 0.9, 1000: 0.9}, {0: 0.5, 1000: 0.4}, {0: 0.5}

    found = excess("task", own, [whole, broken], [0], [1000])
    assert found
    assert found.drop == pytest.approx(-0.1)
    assert excess("task", own, [], [0], [1001]) is None  # no fresh score


def test_the_standard_error_is_that_of_the_mean_of_drops() -> None:
    """Against the spread of drops that are drawn."""
    random = np.random.RandomState(0)
    drawn = [
        [Excess("t", tuple(random.normal(0, 0.2, 3)), tuple(random.normal(0, 0.2, 2))) for _ in range(5)] for _ in range(4000)
    ]
    means, errors = zip(*map(verdicts.excess_drop, drawn), strict=True)

    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(means), rel=0.05)


def published() -> Iterator[list[tuple[str, dict[int, float]]]]:
    """Of each estimator: its tasks, scores less the references', of the published results with four seeds or more."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for one in load_all(ROOT / "results"):
        scores = {int(seed): verdicts.value([cell], asked_of(one.task)) for seed, cell in one.cells.items()}
        known = {seed: score for seed, score in scores.items() if score is not None}
        if len(known) >= 4:
            found.setdefault(one.estimator.name, {})[one.name] = known
    references = [found[name] for name in REFERENCES]
    for name in sorted(found.keys() - {*REFERENCES}):
        yield [
            (task, relative(scores, [one[task] for one in references if task in one])) for task, scores in found[name].items()
        ]


def relative(scores: dict[int, float], references: list[dict[int, float]]) -> dict[int, float]:
    def beside(seed: int) -> float:
        return float(np.mean([one[seed] for one in references if seed in one] or [0.0]))

    return {seed: score - beside(seed) for seed, score in scores.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "share"), [(1, 0.02), (3, 0.002), (6, 0.0005)])
def test_published_estimators_are_hardly_ever_accused_where_four_of_their_seeds_are_split_by_chance(
    tasks: int, share: float
) -> None:
    random, accused, drawn = np.random.RandomState(0), 0, 0
    for known in published():
        for _ in range(100 if len(known) >= tasks else 0):
            chosen = [known[place] for place in random.permutation(len(known))[:tasks]]
            split = [(task, scores, random.permutation(sorted(scores))[:4]) for task, scores in chosen]
            found = [excess(task, scores, [], seeds[:2].tolist(), seeds[2:].tolist()) for task, scores, seeds in split]
            accused += bool(fresh_seeds_differ([one for one in found if one]))
            drawn += 1

    assert drawn > 5000
    assert accused / drawn < share


# ---- shown -----------------------------------------------------------------------------------------------------------
HOSTILE = "<script>alert(1)</script> | [x](javascript:1)\n# `head` ![i](//evil) www.evil.org @everyone \x1b[31m&amp;"


def report(verified: Sequence[Verified], **changed: Any) -> Report:
    usual: dict[str, Any] = {
        "references": (Beside(result().name, "grad-dot", 0.5, 0.4),),
        "fresh_seeds": {result().name: (1000,)},
        "nonce": "0123456789abcdef",
        "sampled": "all",
        "by": "somebody",
        "when": "2026-01-31T12:00:00+00:00",
        "environment": "Linux",
    }
    return Report(tuple(verified), **{**usual, **changed})


def test_a_stranger_s_text_is_no_markup_link_mention_or_control_character() -> None:
    crash = replace(CLAIMED, status="crashed", scores={}, by_query=[], message=HOSTILE)
    named = replace(result(), estimator=replace(result().estimator, name=HOSTILE))
    found = report([decide(named, [Again(0, CLAIMED, crash)], LeaveOneOut)], by=HOSTILE, environment=HOSTILE)

    page = verdicts.markdown(found)
    assert "failed" in page
    assert not re.search(r"[<>\[\]@!\x1b]|&#64;|www\.|javascript:|//", page)
    assert max(line.count("|") for line in page.splitlines()) == len(verdicts.HEADERS) + 1
    assert not any(line.startswith("#") for line in page.splitlines()[1:])
    assert "\x1b" not in verdicts.table(found)


def test_a_page_has_the_verdict_both_kinds_of_rows_and_what_was_sampled() -> None:
    unsampled = decide(result(task="quick-digits-mlp-sgd"), [], LeaveOneOut)
    found = report([decide(result(), [Again(0, CLAIMED, CLAIMED)], LeaveOneOut, fresh=0.75), unsampled])

    page = verdicts.markdown(found)
    assert page.startswith("## Verdict: verified\n")
    for words in ("0.7500", "grad-dot (reference)", "0.4000", "not sampled", "0123456789abcdef", "0.001", "1000"):
        assert words in page
    assert verdicts.table(found).splitlines()[-1] == "verdict: verified"
    assert report([unsampled]).verdict == "failed"
