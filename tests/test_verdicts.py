"""From numbers to verdicts, on numbers made up for it."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_results import CELL, result

from benchmark.commands import terminal
from benchmark.scores.results import Cell, Claim
from benchmark.submissions import verdicts
from benchmark.submissions.verdicts import Again, Beside, Report, Verified, decide
from benchmark.tasks.questions import FurtherTraining, LeaveOneOut

ROOT = Path(__file__).resolve().parents[1]
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
    "fewer gradients counted": (replace(CLAIMED, gradients=4), "differs"),
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
    assert found.costs == (CLAIMED.relative_cost, 0.5, None)


def test_other_last_bits_of_the_truth_are_told_and_no_fault() -> None:
    found = decide(result(), [Again(1, CLAIMED, replace(CLAIMED, truth="others"))], LeaveOneOut)

    assert found.verdict == "verified"
    assert found.detail == "the truth has other last bits here (seed 1)"


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
    assert "\x1b" not in verdicts.below(found) + terminal.table_text(verdicts.HEADERS, verdicts.lines(found))


def test_a_page_has_the_verdict_both_kinds_of_rows_and_what_was_sampled() -> None:
    unsampled = decide(result(task="quick-digits-mlp-sgd"), [], LeaveOneOut)
    fresh = replace(with_queries(0.7, 0.8), relative_cost=0.5)
    found = report([decide(result(), [Again(0, CLAIMED, CLAIMED)], LeaveOneOut, [fresh]), unsampled])

    page = verdicts.markdown(found)
    assert page.startswith("## Verdict: verified\n")
    for words in ("0.7500", "grad-dot (reference)", "0.4000", "not sampled", "0123456789abcdef", "0.001", "1000"):
        assert words in page
    assert verdicts.below(found).splitlines()[-1] == "verdict: verified"
    assert report([unsampled]).verdict == "failed"
