"""The board is a function of results and limits: rows in order, how sure they are, what is missing, what limits truths."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from test_results import CELL, result

from benchmark import PROTOCOL
from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.scores import board, cells, intervals, results, store
from benchmark.scores.columns import COLUMNS, Scored
from benchmark.scores.results import Bounds, Claim, Limits, Result, Verification
from benchmark.scores.rows import Board, Rival, Row, Suite, Table, own
from benchmark.tasks.definition import record_digest
from benchmark.tasks.protocols import smooth_tasks
from benchmark.tasks.questions import QUESTIONS
from benchmark.tasks.suites import CORE, SUITES, TASKS
from benchmark.truths.uses import USES

TWO = ("quick-breast-cancer-mlp-sgd", "quick-digits-mlp-sgd")
SUBSETS, FURTHER, USED = "subsets-adult-mlp-50", "final-model-adult-sgd", "cleansing-mnist-10"
CURVE = [0.0, 0.0, 0.5]
PUBLISHED = Path(__file__).parents[1] / "results"
MADE = {"command": "loobench run", "loobench": "0.0.0"}
TAU = (-1.0, 1.0)  # the range of a tau
LEADS = np.linspace(0.2, 0.3, 12)  # of one row over another, by seed


def answers(name: str, task: str, *seeds: dict[str, Any]) -> Result:
    """A result with the given scores by seed; seed k is scored against the truth `t<k>`, its queries are not known."""
    made = renamed(replace(result("sgd-ie", task), cells={}), name)
    for seed, scores in enumerate(seeds):
        made = made.with_cell(seed, replace(CELL, scores=scores, by_query=[], points=[], truth=f"t{seed}"), MADE)
    return made


def renamed(made: Result, name: str) -> Result:
    """The result of an estimator of any name."""
    return replace(made, estimator=replace(made.estimator, name=name))


def taus(*values: float | None) -> list[dict[str, Any]]:
    """Scores whose tau at the last of three horizons is given."""
    return [{"kendall": [0.0, 0.0, value]} for value in values]


def scored(name: str, *values: float, task: str = TWO[0]) -> Result:
    """A result with the given tau by seed."""
    return answers(name, task, *taus(*values))


def failed(name: str, status: str, task: str = TWO[0]) -> Result:
    """A result whose only seed is a failure."""
    return answers(name, task).with_cell(0, replace(CELL, status=status, scores={}, by_query=[], points=[]), MADE)


def changed(made: Result, seed: int, **fields: Any) -> Result:
    """The result with some fields of one seed's cell changed."""
    return made.with_cell(seed, replace(made.cells[str(seed)], **fields), MADE)


def costing(made: Result, cost: float) -> Result:
    """The result with this relative cost in each seed."""
    return replace(made, cells={seed: replace(cell, relative_cost=cost) for seed, cell in made.cells.items()})


def claimed(made: Result, value: float | None = 0.812) -> Result:
    """The result as a stranger sent it."""
    return replace(made, claimed=Claim(value, "a stranger", "2026-11-01T00:00:00Z", "Linux"))


def verified(made: Result, value: float | None = 0.811, verdict: str = "verified") -> Result:
    """The stranger's result, computed again with this verdict."""
    facts = ["0"], "nonce", "maintainers", "2026-11-02T00:00:00Z", "Linux, x86-64", made.substance
    return replace(made if made.claimed else claimed(made), verified=Verification(verdict, value, 0.8, 0.001, *facts))


def of_protocol(made: Result, protocol: str) -> Result:
    """The result as another protocol would have written it."""
    return replace(made, protocol=protocol, task_digest=record_digest(made.task, protocol))


def limits(task: str, *seeds: dict[str, Any], **references: dict[str, float | None]) -> dict[str, Limits]:
    """Limits with the given values by seed, of the truths `t<k>`."""
    made = results.no_limits(TASKS[task], "cpu")
    for seed, values in enumerate(seeds):
        made = made.with_seed(seed, Bounds(f"t{seed}", values, references, []))
    return {task: made}


def elsewhere(made: Sequence[Result]) -> list[Result]:
    """The results as another machine gives them, whose truths have other last bits."""
    return [replace(one, cells={seed: replace(cell, truth="other") for seed, cell in one.cells.items()}) for one in made]


def of_another_task(known: dict[str, Limits]) -> dict[str, Limits]:
    """The limits, of another definition of each task."""
    return {name: replace(one, task_digest="other") for name, one in known.items()}


def published_of(suite: str) -> list[Result]:
    """All published results of a suite's tasks."""
    files = [at for task in SUITES[suite].tasks for at in sorted((PUBLISHED / task.name).glob("*.json"))]
    return [store.load(at) for at in files]


def figures(found: Suite) -> dict[tuple[str, str], list[str]]:
    """(table, row) -> all that a row says of itself, by what it prints, NaN being equal to NaN."""
    tables = (found.overall, *found.tasks)
    return {(table.name, row.name): [repr(fact) for fact in facts(row)] for table in tables for row in table.rows}


def facts(row: Row) -> tuple[object, ...]:
    return row.score, row.means, row.done, row.tasks, row.seeds, row.marks, row.digest


def only(made: Sequence[Result], known: dict[str, Limits] | None = None) -> Suite:
    """The only suite of a board."""
    [found] = board.board(made, known or {}).suites
    return found


def rows(made: Sequence[Result], known: dict[str, Limits] | None = None) -> dict[str, Row]:
    """The rows of the only suite, by name, in order."""
    return {row.name: row for row in only(made, known).overall.rows}


def described(row: Row) -> list[Any]:
    """All that a row says, NaN being equal to NaN."""
    facts = (row.name, row.score, row.means, row.compared, row.rival, row.front, row.done, row.tasks, row.seeds, row.marks)
    return [repr(fact) for fact in (*facts, row.digest)]


def everything(made: Board) -> list[Any]:
    """All that a board says."""
    tables: list[tuple[Suite, Table]] = [(suite, table) for suite in made.suites for table in (suite.overall, *suite.tasks)]
    return [
        (suite.name, suite.protocol, suite.digest, table.name, [c.title for c in table.columns], [*map(described, table.rows)])
        for suite, table in tables
    ]


# ---- rows ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(3))
def test_the_board_depends_on_the_results_alone_and_not_on_their_order(seed: int) -> None:
    tasks = {name: TASKS[name] for name in (*TWO, *sorted(TASKS)[:2])}
    made, known = synthetic.everything(tasks, {"sgd-ie": (0.9, 2.0), "grad-dot": (0.8, 0.1), "loss": (0.1, 0.01)}, 3)
    other = random.Random(seed).sample(made, len(made))

    assert everything(board.board(other, known)) == everything(board.board(made, known))


def test_rows_are_compared_task_by_task_whatever_the_order_of_their_results() -> None:
    better = [scored("sgd-ie", *(base + LEADS), task=task) for task, base in zip(TWO, (0.1, 0.6), strict=True)]
    worse = [scored("loss", *([base] * len(LEADS)), task=task) for task, base in zip(TWO, (0.1, 0.6), strict=True)]
    compared = rows([*better, *worse[::-1]])["loss"].compared

    assert compared
    assert compared.difference == intervals.difference(cells.rankings(better), cells.rankings(worse), TAU)
    assert compared.group == 2


def test_rows_are_sorted_by_the_mean_over_seeds_and_carry_its_interval() -> None:
    found = rows([scored("grad-dot", 0.1, 0.2), scored("sgd-ie", 0.5, 0.7), scored("loss", 0.4)])

    assert [*found] == ["sgd-ie", "loss", "grad-dot"]
    assert found["sgd-ie"].score == intervals.interval([{"0": np.array([0.5]), "1": np.array([0.7])}], TAU)
    assert found["sgd-ie"].score.mean == pytest.approx(0.6)
    assert found["sgd-ie"].score.low < 0.5 < 0.7 < found["sgd-ie"].score.high
    assert [row.seeds for row in found.values()] == [(2, 2), (1, 1), (2, 2)]


def test_one_seed_has_no_interval() -> None:
    score = rows([scored("sgd-ie", 0.4)])["sgd-ie"].score

    assert score.mean == 0.4
    assert np.isnan([score.low, score.high]).all()
    assert score.seeds == 1


def test_equal_rows_stand_in_the_order_of_names() -> None:
    assert [*rows([scored("loss", 0.4), scored("grad-dot", 0.4), scored("sgd-ie", 0.4)])] == ["grad-dot", "loss", "sgd-ie"]


def test_a_suite_row_averages_seeds_within_a_task_and_then_tasks() -> None:
    first = answers("sgd-ie", TWO[0], *({"kendall": [*CURVE[:2], v], "spearman": [0, 0, v / 2]} for v in (0.2, 0.3, 0.4)))
    second = answers("sgd-ie", TWO[1], {"kendall": [0, 0, 0.9], "spearman": [0, 0, 0.7]})
    row = rows([costing(first, 1.0), costing(second, 2.0)])["sgd-ie"]

    assert row.score.mean == pytest.approx(0.6)  # 0.475 over all four seeds
    assert row.means["tau"] == pytest.approx(0.6)
    assert row.means["rho"] == pytest.approx(0.425)
    assert row.means["cost"] == pytest.approx(1.5)  # 1.25 over all four seeds
    assert row.seeds == (1, 3)


def test_the_score_is_the_mean_over_queries_where_they_are_known_and_their_mean_where_not() -> None:
    queries = changed(changed(scored("sgd-ie", 0.5, 0.5), 0, by_query=[0.1, 0.3]), 1, by_query=[0.2, 0.6])
    means = scored("loss", 0.5, 0.5)
    mixed = changed(scored("grad-dot", 0.5, 0.7), 0, by_query=[0.1, 0.3])
    found = rows([queries, means, mixed])

    assert {name: row.score.mean for name, row in found.items()} == pytest.approx(
        {"loss": 0.5, "grad-dot": (0.2 + 0.7) / 2, "sgd-ie": (0.2 + 0.4) / 2}
    )
    assert found["sgd-ie"].score == intervals.interval([{"0": np.array([0.1, 0.3]), "1": np.array([0.2, 0.6])}], TAU)
    assert found["sgd-ie"].score.high > intervals.interval([{"0": np.array([0.2]), "1": np.array([0.4])}]).mean


def test_a_query_without_a_score_leaves_the_row_without_one() -> None:
    gap = changed(scored("sgd-ie", 0.5, 0.5), 0, by_query=[0.1, None])
    found = rows([gap, scored("loss", 0.1, 0.1)])

    assert [*found] == ["loss", "sgd-ie"]
    assert np.isnan(found["sgd-ie"].score.mean)
    assert found["sgd-ie"].compared is None
    assert found["sgd-ie"].complete


def test_failures_and_missing_tasks_sort_below_and_have_no_group() -> None:
    both = [scored("grad-dot", 0.1, 0.1, task=task) for task in TWO]
    half = [scored("sgd-ie", 0.9, task=TWO[0]), failed("sgd-ie", "unsupported", TWO[1])]
    missing = [scored("tracin", 0.8, task=TWO[0])]
    none = [failed("loss", "crashed", task) for task in TWO]
    found = rows([*none, *missing, *half, *both])

    assert [(row.name, row.done, row.tasks, row.complete, row.marks) for row in found.values()] == [
        ("grad-dot", 2, 2, True, ()),
        ("sgd-ie", 1, 2, False, ("unsupported",)),
        ("tracin", 1, 2, False, ()),
        ("loss", 0, 2, False, ("crashed",)),
    ]
    assert [row.score.mean for row in found.values()][:3] == [0.1, 0.9, 0.8]
    assert np.isnan(found["loss"].score.mean)
    assert [bool(row.compared) for row in found.values()] == [True, False, False, False]
    assert [row.front for row in found.values()] == [True, False, False, False]


def test_a_task_is_complete_where_every_seed_is_scored() -> None:
    half = changed(scored("sgd-ie", 0.9, 0.9), 1, status="out-of-memory", scores={})
    found = rows([half, scored("loss", 0.1, 0.1)])

    assert [*found] == ["loss", "sgd-ie"]
    assert (found["sgd-ie"].done, found["sgd-ie"].seeds, found["sgd-ie"].marks) == (0, (0, 0), ("out-of-memory",))


def test_a_result_without_a_seed_is_a_row_without_a_score() -> None:
    found = rows([scored("sgd-ie", 0.5), answers("loss", TWO[0])])

    assert [*found] == ["sgd-ie", "loss"]
    assert np.isnan(found["loss"].score.mean)


def test_a_row_says_what_is_to_be_known_beside_its_figures() -> None:
    plain = scored("sgd-ie", 0.5, 0.5)
    reading = replace(plain, estimator=replace(plain.estimator, interpretation=True))
    short = changed(plain, 1, notes={"unconverged": 0.1})

    assert rows([plain])["sgd-ie"].marks == ()
    assert rows([reading])["sgd-ie"].marks == ("interpretation",)
    assert rows([short])["sgd-ie"].marks == ("not converged",)
    assert rows([changed(short, 1, notes={"unconverged": 0.0})])["sgd-ie"].marks == ()


def test_an_error_without_bound_is_the_median_over_cells_and_the_row_says_how_many_diverged() -> None:
    errors = ((0.5, 4.7e47, 0.3), (0.7, 100.1, 100.0))
    made = [
        answers("sgd-ie", task, *({"kendall": [0, 0, 0.5], "relative_rmse": [9.0, 9.0, value]} for value in some))
        for task, some in zip(TWO, errors, strict=True)
    ]
    row = rows(made)["sgd-ie"]

    assert row.means["RMSE/sd"] == (0.7 + 100.0) / 2  # of 0.3 0.5 0.7 100.0 100.1 4.7e47
    assert row.marks == ("2 of 6 diverged",)
    assert rows([scored("sgd-ie", 0.5)])["sgd-ie"].marks == ()
    unknown = answers("sgd-ie", TWO[0], {"kendall": [0, 0, 0.5], "relative_rmse": [1, 1, None]}, *taus(0.5))
    assert np.isnan(rows([unknown])["sgd-ie"].means["RMSE/sd"])


def test_a_row_that_lacks_tasks_stands_beside_the_best_that_has_all_on_its_tasks_alone() -> None:
    made = [scored("steady", tau, tau, task=task) for task, tau in zip(TWO, (0.6, 0.2), strict=True)]
    made += [scored("best", tau, tau, task=task) for task, tau in zip(TWO, (0.5, 0.9), strict=True)]
    made += [scored("exact", 1.0, 1.0, task=task) for task in TWO]
    made += [claimed(scored("theirs", 0.9, 0.9, task=task)) for task in TWO]
    made += [scored("partial", 0.55, 0.65), failed("none", "crashed"), failed("none", "crashed", TWO[1])]
    found = rows(made)

    assert (found["partial"].rival, found["partial"].score.mean) == (Rival("steady", 0.6), pytest.approx(0.6))
    assert [name for name, row in found.items() if row.partial] == ["partial", "none"]
    assert [row.rival for name, row in found.items() if name != "partial"] == [None] * 5
    assert found["best"].compared
    assert found["best"].compared.group == 1
    assert rows([scored("partial", 0.5), *(failed("none", "crashed", task) for task in TWO)])["partial"].rival is None


# ---- the truth itself, ties, and cost --------------------------------------------------------------------------------
def test_rows_told_apart_are_in_groups_and_behind_the_best_by_their_paired_difference() -> None:
    best = scored("sgd-ie", *(0.6 + LEADS))
    close = scored("tracin", *(0.6 + LEADS[::-1] - 0.001))
    far = scored("loss", *([0.5] * len(LEADS)))
    found = rows([far, close, best])
    compared = {name: row.compared for name, row in found.items() if row.compared}

    assert {name: one.group for name, one in compared.items()} == {"sgd-ie": 1, "tracin": 1, "loss": 2}
    assert compared["sgd-ie"].difference.mean == 0
    assert compared["loss"].difference.mean == pytest.approx(0.1 + LEADS.mean())
    assert compared["loss"].difference.low > 0


def test_what_is_the_truth_itself_is_marked_stands_first_and_is_not_what_others_are_behind() -> None:
    exact, almost = scored("exact", *([1 - 1e-7] * 12)), scored("almost", *([1 - 1e-5] * 12))
    found = rows([scored("sgd-ie", *(0.6 + LEADS)), almost, exact])
    compared = found["sgd-ie"].compared

    assert [*found] == ["exact", "almost", "sgd-ie"]
    assert (found["exact"].marks, found["almost"].marks) == (("exact",), ())
    assert found["exact"].compared is None
    assert found["exact"].complete
    assert found["almost"].compared
    assert found["almost"].compared.group == 1
    assert compared
    assert compared.difference.mean == pytest.approx(1 - 1e-5 - (0.6 + LEADS).mean())


def test_a_board_of_the_truth_alone_has_no_groups() -> None:
    assert rows([scored("exact", 1.0, 1.0)])["exact"].compared is None


def test_what_is_exact_on_the_tasks_it_has_is_marked_and_still_sorts_below() -> None:
    found = rows([scored("exact", 1.0), scored("sgd-ie", 0.5), scored("sgd-ie", 0.5, task=TWO[1])])

    assert [(name, row.marks) for name, row in found.items()] == [("sgd-ie", ()), ("exact", ("exact",))]


def test_the_front_is_what_nothing_is_as_accurate_and_as_cheap_as_exact_retraining_included() -> None:
    made = [
        costing(scored("costly", 0.99, 0.99), 1.5),  # retraining is better and cheaper
        costing(scored("good", 0.9, 0.9), 0.9),
        costing(scored("worse", 0.8, 0.8), 0.95),
        costing(scored("cheap", 0.1, 0.1), 0.01),
        costing(scored("equal", 0.1, 0.1), 0.01),
        costing(scored("cheapest", 0.9, 0.9, task=TWO[1]), 0.001),  # lacks no task of its own, but of the suite
    ]
    whole = [*made[:-1], *(replace_task(one, TWO[1]) for one in made[:-1])]
    found = rows([*whole, made[-1]])

    assert {name for name, row in found.items() if row.front} == {"good", "cheap", "equal"}


def replace_task(made: Result, task: str) -> Result:
    """The same cells on another task."""
    return replace(made, task=TASKS[task].record(), task_digest=TASKS[task].digest())


def test_exact_retraining_counts_as_a_row_of_score_1_and_cost_1() -> None:
    assert rows([costing(scored("exact", 1.0, 1.0), 1.0)])["exact"].front  # as good as retraining, not worse
    assert rows([costing(scored("exact", 1.0, 1.0), 0.99)])["exact"].front
    assert not rows([costing(scored("exact", 1.0, 1.0), 1.01)])["exact"].front
    assert not rows([costing(scored("exact", 0.9, 0.9), 1.0)])["exact"].front


def test_rows_that_may_be_chance_are_not_on_the_front_and_keep_nobody_off_it() -> None:
    made = [
        costing(scored("wrong", -0.9, -0.9, -0.9, -0.9), 0.0),
        costing(scored("chance", -0.02, 0.03, -0.01, 0.01), 0.001),
        costing(scored("weak", 0.10, 0.12, 0.11, 0.13), 0.01),
        costing(scored("luck", -0.5, 1.0, 0.9, 0.9), 0.02),  # it might be chance
        costing(scored("costlier", 0.3, 0.31, 0.3, 0.32), 0.025),  # than that, and worse
        costing(scored("once", 0.9), 0.03),  # one seed tells nothing
        costing(scored("good", 0.95, 0.96, 0.96, 0.95), 0.04),
    ]
    found = rows(made)

    assert [name for name, row in found.items()] == ["good", "once", "luck", "costlier", "weak", "chance", "wrong"]
    assert found["luck"].score.low < 0 < found["weak"].score.low
    assert [name for name, row in found.items() if row.front] == ["good", "costlier", "weak"]


# ---- claims ----------------------------------------------------------------------------------------------------------
def test_what_is_not_verified_stands_below_all_others_and_has_no_group_and_is_not_on_the_front() -> None:
    made = [scored("loss", *([0.1] * 12)), scored("sgd-ie", *(0.5 + LEADS)), failed("tracin", "unsupported")]
    theirs = [claimed(costing(scored(name, *([value] * 12)), 0.001)) for name, value in (("a", 0.7), ("b", 0.99), ("c", 1.0))]
    found = rows([*theirs, *made])

    assert [*found] == ["sgd-ie", "loss", "tracin", "c", "b", "a"]
    assert [row.compared is None for row in found.values()] == [False, False, True, True, True, True]
    assert not any(found[name].front for name in "abc")
    assert [(found[name].complete, found[name].trusted, found[name].ranks) for name in "abc"] == [(True, False, False)] * 3
    assert found["c"].marks == ("unverified, claimed 0.812",)  # a score of 1 makes no claim the truth itself


def test_what_is_not_verified_moves_no_other_row() -> None:
    made = [costing(scored(name, *(base + LEADS)), 0.5) for name, base in (("sgd-ie", 0.5), ("loss", 0.1), ("tracin", 0.4))]
    before = {name: described(row) for name, row in rows(made).items()}
    found = rows([*made, claimed(costing(scored("theirs", *([0.99] * 12)), 0.001))])

    assert {name: described(row) for name, row in found.items() if name != "theirs"} == before
    trusted = rows([*made, costing(scored("theirs", *([0.99] * 12)), 0.001)])
    assert [described(row) for row in trusted.values() if row.name != "theirs"] != [*before.values()]  # it would have


def test_a_verified_row_ranks_like_any_other_and_says_what_was_verified_and_what_claimed() -> None:
    tasks = [
        verified(claimed(scored("theirs", *(0.6 + LEADS), task=task), said), found)
        for task, said, found in zip(TWO, (0.9, 0.8), (0.91, 0.78), strict=True)
    ]
    found = rows([*tasks, *(scored("loss", *([0.1] * 12), task=task) for task in TWO)])

    assert found["theirs"].marks == ("verified 0.845 (claimed 0.850)",)
    assert (found["theirs"].ranks, found["theirs"].front) == (True, True)
    assert [row.compared and row.compared.group for row in found.values()] == [1, 2]


def test_one_result_that_is_not_verified_makes_the_row_of_the_suite_unverified_but_not_that_of_the_other_task() -> None:
    tasks = [verified(scored("theirs", 0.5, 0.6)), claimed(scored("theirs", 0.5, 0.6, task=TWO[1]), 0.9)]
    suite = only(tasks)

    assert suite.overall.rows[0].marks == ("unverified, claimed 0.856",)
    assert {table.name: table.rows[0].ranks for table in suite.tasks} == {TWO[0]: True, TWO[1]: False}


@pytest.mark.parametrize(("verdict", "said"), [("differs", "differs"), ("fresh seeds differ",) * 2, ("failed",) * 2])
def test_a_row_whose_verification_did_not_succeed_says_how_it_went(verdict: str, said: str) -> None:
    row = rows([verified(scored("theirs", 0.5), verdict=verdict)])["theirs"]

    assert row.marks == ("unverified, claimed 0.812", said)
    assert not row.trusted


def test_a_verification_of_what_the_result_was_before_does_not_count() -> None:
    before = verified(scored("theirs", 0.5, 0.6))
    row = rows([changed(before, 1, by_query=[0.61])])["theirs"]

    assert row.marks == ("unverified, claimed 0.812", "changed since verified")
    assert not row.trusted


def test_claims_and_verifications_without_a_value_leave_it_out() -> None:
    assert rows([claimed(failed("theirs", "crashed"), None)])["theirs"].marks == ("unverified", "crashed")
    assert rows([verified(claimed(scored("theirs", 0.5), None))])["theirs"].marks == ("verified",)


# ---- core ------------------------------------------------------------------------------------------------------------
def chosen(made: Sequence[Result]) -> list[Suite]:
    """The suites of a board with core."""
    return [*board.board(made, {}, [CORE]).suites]


def test_core_is_a_table_over_its_tasks_of_all_suites_before_them() -> None:
    inside = [scored("sgd-ie", 0.5, 0.6, task=task.name) for task in CORE.tasks]
    outside = scored("sgd-ie", 0.1, 0.1, task="hara2019-mnist-mlp")
    few = [scored("loss", 0.1, 0.1, task=task.name) for task in CORE.tasks[:4]]
    core, *others = chosen([*inside, outside, *few])
    found = {row.name: row for row in core.overall.rows}

    assert (core.name, core.title, core.version) == ("core", f"core (version {CORE.version})", CORE.version)
    assert [suite.name for suite in others] == ["quick", "hara2019", "acc2025", "adaptive"]
    assert (found["sgd-ie"].done, found["sgd-ie"].tasks, found["sgd-ie"].complete) == (14, 14, True)
    assert found["sgd-ie"].score.mean == pytest.approx(0.55)
    assert (found["loss"].done, found["loss"].tasks, found["loss"].complete) == (4, 14, False)
    assert {table.name for table in core.tasks} == {task.name for task in CORE.tasks}


def test_no_row_of_core_is_complete_before_it_has_all_tasks_of_the_choice() -> None:
    core, *_ = chosen([scored("sgd-ie", 0.5, 0.6, task=task.name) for task in CORE.tasks[1:]])

    assert [(row.done, row.tasks, row.complete) for row in core.overall.rows] == [(13, 14, False)]


def test_core_takes_the_first_seeds_alone_and_leaves_out_what_lacks_one() -> None:
    core, quick = chosen([scored("sgd-ie", 0.2, 0.4, 0.9), scored("loss", 0.9)])

    assert [(row.name, row.score.mean, row.seeds) for row in core.overall.rows] == [("sgd-ie", pytest.approx(0.3), (2, 2))]
    assert {row.name: row.seeds for row in quick.overall.rows} == {"loss": (1, 1), "sgd-ie": (3, 3)}


def test_core_has_no_other_precision_device_or_protocol() -> None:
    usual = scored("sgd-ie", 0.5, 0.5)
    single = replace(usual, task={**usual.task, "dtype": "float32"})
    others = [single, replace(usual, device="cuda"), of_protocol(usual, "0.9")]

    for other in others:
        assert [suite.version for suite in chosen([other])] == [None]
    assert [suite.version for suite in chosen([usual])] == [CORE.version, None]


@pytest.mark.parametrize(("verdict", "trusted"), [("verified", True), ("differs", False)])
def test_a_result_is_trusted_in_core_exactly_if_it_is_with_all_its_seeds(verdict: str, trusted: bool) -> None:
    core, quick = chosen([verified(scored("theirs", 0.5, 0.5, 0.5), verdict=verdict)])

    assert core.overall.rows[0].trusted is quick.overall.rows[0].trusted is trusted


def test_a_verification_of_the_first_seeds_alone_is_none_of_the_whole_result() -> None:
    short, whole = verified(scored("theirs", 0.5, 0.5)), scored("theirs", 0.5, 0.5, 0.5)
    core, quick = chosen([replace(whole, claimed=short.claimed, verified=short.verified)])

    assert core.overall.rows[0].trusted is quick.overall.rows[0].trusted is False


def test_a_row_of_core_is_found_by_name_and_a_task_with_all_its_seeds() -> None:
    made = board.board([scored("sgd-ie", 0.2, 0.4, 0.9)], {}, [CORE])

    assert made.find("core/sgd-ie")[1].score.mean == pytest.approx(0.3)
    assert made.find(f"{TWO[0]}/sgd-ie")[1].score.mean == pytest.approx(0.5)


# ---- suites and what is refused --------------------------------------------------------------------------------------
def test_precisions_and_devices_do_not_share_a_table() -> None:
    usual = scored("sgd-ie", 0.5)
    single = replace(usual, task={**usual.task, "dtype": "float32", "name": TWO[0] + "-float32"}, device="cuda")
    found = board.board([single, usual], {})

    assert [(suite.name, [table.name for table in suite.tasks]) for suite in found.suites] == [
        ("quick", [TWO[0]]),
        ("quick (float32, cuda)", [f"{TWO[0]}-float32-cuda"]),
    ]


def test_results_of_another_protocol_stand_in_a_table_of_their_own_with_the_protocol_in_its_name() -> None:
    old = of_protocol(scored("sgd-ie", 0.5, task=TWO[1]), "0.9.3")
    patched = of_protocol(scored("loss", 0.5, task=TWO[0]), f"{PROTOCOL}.7")  # major and minor are the same
    found = board.board([old, patched, scored("sgd-ie", 0.5, task="quick-digits-mlp-adam")], {})

    assert [(suite.name, suite.protocol.split(".")[:2], [*suite.overall.rows[0].results]) for suite in found.suites] == [
        ("quick", PROTOCOL.split("."), [suite_result(found, 0)]),
        ("quick (protocol 0.9)", ["0", "9"], [old]),
    ]
    assert len(found.suites[0].tasks) == 2


def suite_result(made: Board, suite: int) -> Result:
    """The first result of the first row."""
    return made.suites[suite].overall.rows[0].results[0]


def test_one_task_may_have_results_of_two_protocols_which_do_not_share_a_table() -> None:
    old, new = of_protocol(scored("sgd-ie", 0.5), "0.9"), scored("loss", 0.1)
    found = board.board([old, new], {})

    assert [(suite.name, [row.name for row in suite.overall.rows]) for suite in found.suites] == [
        ("quick", ["loss"]),
        ("quick (protocol 0.9)", ["sgd-ie"]),
    ]


def test_results_for_two_definitions_of_a_task_are_refused() -> None:
    other = replace(scored("loss", 0.1), task_digest="0" * 64)

    with pytest.raises(DamagedFile, match=rf"results of {TWO[0]} answer different definitions of it \(loss for 000000000000, "):
        board.board([scored("sgd-ie", 0.5), other], {})


def test_two_results_of_one_estimator_for_one_task_are_refused() -> None:
    with pytest.raises(DamagedFile, match=f"{TWO[0]} has two results of sgd-ie: move all but one away"):
        board.board([scored("sgd-ie", 0.5), scored("loss", 0.5), scored("sgd-ie", 0.6)], {})
    assert board.board([scored("sgd-ie", 0.5), scored("sgd-ie", 0.6, task=TWO[1])], {})


def test_no_results_is_an_error_that_says_what_to_run() -> None:
    with pytest.raises(LoobenchError, match="no results to report: run `loobench run --suite quick` first"):
        board.board([], {})


def test_the_digest_of_a_row_changes_with_any_of_its_results_and_not_with_those_of_others() -> None:
    mine, second, theirs = scored("sgd-ie", 0.5, 0.6), scored("sgd-ie", 0.7, task=TWO[1]), scored("loss", 0.1)
    digest = rows([mine, second, theirs])["sgd-ie"].digest

    assert rows([mine, second, scored("loss", 0.2)])["sgd-ie"].digest == digest
    assert rows([changed(mine, 1, seconds=0.6), second, theirs])["sgd-ie"].digest != digest
    assert rows([mine, changed(second, 0, estimate="other"), theirs])["sgd-ie"].digest != digest
    assert rows([mine, theirs])["sgd-ie"].digest != digest


def test_the_digest_of_a_suite_changes_with_a_definition_of_its_tasks_and_not_with_figures() -> None:
    one, two = scored("sgd-ie", 0.5), scored("sgd-ie", 0.5, task=TWO[1])
    other = {**two.task, "batch_size": 1}
    redefined = replace(two, task=other, task_digest=record_digest(other, two.protocol))
    digest = only([one, two]).digest

    assert only([scored("sgd-ie", 0.6), two, scored("loss", 0.1)]).digest == digest
    assert only([one, redefined]).digest != digest
    assert only([one]).digest != digest


def test_a_row_is_found_by_suite_or_task_and_estimator() -> None:
    made = board.board([scored("sgd-ie", 0.5), scored("captum/tracin", 0.4), scored("sgd-ie", 0.7, task=TWO[1])], {})
    suite = made.suites[0]

    assert made.find("quick/sgd-ie") == (suite.overall, suite.overall.rows[0])
    table, row = made.find(f"{TWO[1]}/sgd-ie")
    assert (table.name, row.score.mean) == (TWO[1], 0.7)
    assert made.find("quick/captum/tracin")[1].name == "captum/tracin"  # of another library
    assert made.find(made.example)[1] is suite.overall.rows[0]


@pytest.mark.parametrize("name", ["", "sgd-ie", "slow/sgd-ie", "/sgd-ie"])
def test_an_unknown_place_is_an_error_with_an_example_of_a_row(name: str) -> None:
    with pytest.raises(
        LoobenchError, match=r"rows are called <suite or task>/<estimator>, as quick/sgd-ie; the board has no '"
    ):
        board.board([scored("sgd-ie", 0.5)], {}).find(name)


@pytest.mark.parametrize("name", ["quick", "quick/", "quick/sgd-i", f"{TWO[0]}/nobody"])
def test_an_unknown_row_is_an_error_that_names_the_place_and_the_rows_there(name: str) -> None:
    place = name.partition("/")[0]

    with pytest.raises(LoobenchError, match=f"row of {place}.*sgd-ie"):
        board.board([scored("sgd-ie", 0.5)], {}).find(name)


# ---- kinds of truth --------------------------------------------------------------------------------------------------
def test_the_first_column_is_the_metric_that_ranks_the_question() -> None:
    one = Scored({asked.primary: [0.25, 0.75] for asked in QUESTIONS.values()}, {}, {})
    others = Scored({use: [9.0] for use in USES}, {}, {"cost": 9.0, "grad": 9.0, "hvp": 9.0, "MB": 9.0})
    firsts = {kind: columns[0] for kind, columns in COLUMNS.items()}

    assert {*firsts} == {*QUESTIONS, "uses"}
    assert {kind: (first.title, first.of(one)) for kind, first in firsts.items()} == {
        "leave-one-out": ("tau", 0.75),
        "subsets": ("LDS", 0.75),
        "further-training": ("cos", 0.5),  # the mean over horizons
        "uses": ("tau", 0.75),
    }
    assert all(np.isnan(first.of(others)) for first in firsts.values())


def test_subsets_are_ranked_by_the_linear_datamodeling_score_and_not_by_tau() -> None:
    good = answers("sgd-ie", SUBSETS, {"spearman": [0.1, 0.1, 0.8], "kendall": [0.1, 0.1, 0.2], "relative_rmse": CURVE})
    bad = answers("loss", SUBSETS, {"spearman": [0.9, 0.9, 0.3], "kendall": [0.9, 0.9, 0.9]})
    found = rows([bad, good])

    assert [*found] == ["sgd-ie", "loss"]
    assert [row.score.mean for row in found.values()] == [0.8, 0.3]
    assert [row.means["tau"] for row in found.values()] == [0.2, 0.9]
    assert found["sgd-ie"].means["RMSE/sd"] == 0.5
    assert np.isnan(found["loss"].means["RMSE/sd"])


def test_further_training_is_ranked_by_the_mean_cosine_over_lengths() -> None:
    steady = answers("sgd-ie", FURTHER, {"cosine": [0.6, 0.6, 0.6, 0.6, 0.6], "spearman": [0.0, 0.0, 0.0, 0.0, 0.7]})
    late = answers("loss", FURTHER, {"cosine": [0.1, 0.1, 0.1, 0.1, 0.9]})
    undefined = answers("grad-dot", FURTHER, {"cosine": [None, 0.9, 0.9, 0.9, 0.9]})
    found = rows([undefined, late, steady])
    shown = [[row.score.mean, *(row.means[title] for title in ("cos first", "cos last", "rho"))] for row in found.values()]

    assert [*found] == ["sgd-ie", "loss", "grad-dot"]
    np.testing.assert_allclose(
        shown, [[0.6, 0.6, 0.6, 0.7], [0.26, 0.1, 0.9, np.nan], [np.nan, np.nan, 0.9, np.nan]], rtol=1e-12
    )


def test_uses_show_their_scores_beside_tau() -> None:
    scores = {"kendall": [0.5], **{name: [i / 100] for i, name in enumerate(USES)}}
    found = only([answers("sgd-ie", USED, scores)])
    names = {
        "AUROC": "mislabel_auroc",
        "AP": "mislabel_average_precision",
        "cleansed loss": "cleansed_loss",
        "cleansed error": "cleansed_error",
        "fresh loss": "fresh_loss",
        "fresh error": "fresh_error",
        "coreset loss": "coreset_loss",
        "del random": "deletion_random_spearman",
        "del clustered": "deletion_clustered_spearman",
    }
    means = found.overall.rows[0].means

    assert found.kind == "uses"
    assert means["tau"] == 0.5
    assert {title: means[title] for title in names} == {title: scores[name][0] for title, name in names.items()}
    assert {*names} < {column.title for column in found.overall.columns}


def test_a_column_without_any_figure_is_left_out_but_for_the_first() -> None:
    assert [column.title for column in only([failed("sgd-ie", "crashed")]).overall.columns] == ["tau"]
    assert "MB" in [column.title for column in only([scored("sgd-ie", 0.5)]).overall.columns]
    assert "J10" not in [column.title for column in only([scored("sgd-ie", 0.5)]).overall.columns]


def test_counts_are_over_those_of_the_truth_and_memory_is_in_megabytes_where_all_seeds_have_it() -> None:
    made = changed(scored("sgd-ie", 0.5, 0.5), 1, memory=3 * 10**6, gradients=30, hessian_products=50)
    made = changed(made, 0, memory=10**6)
    means = rows([made])["sgd-ie"].means

    assert {title: means[title] for title in ("cost", "grad", "hvp", "MB")} == pytest.approx(
        {"cost": 0.25, "grad": 0.2, "hvp": 0.25, "MB": 2.0}
    )
    assert np.isnan(rows([changed(made, 1, memory=None)])["sgd-ie"].means["MB"])


# ---- limits ----------------------------------------------------------------------------------------------------------
def test_of_ceiling_is_the_mean_ratio_over_the_seeds_whose_ceiling_is_above_zero() -> None:
    made = scored("sgd-ie", 0.4, 0.6, 0.5, 0.5, 0.5)
    known = limits(TWO[0], *({"ceiling": [0.1, 0.1, top]} for top in (0.5, 0.8, -0.5, None)))
    row = rows([made], known)["sgd-ie"]

    assert row.means["of ceiling"] == pytest.approx((0.8 + 0.75) / 2)
    assert row.seeds == (5, 5)


def test_limits_belong_to_a_definition_of_a_task_and_a_seed_and_not_to_last_bits() -> None:
    made, known = [scored("sgd-ie", 0.4, 0.6)], limits(TWO[0], {"ceiling": [0.5]}, {"ceiling": [0.8]}, random={"kendall": 0.1})
    there, redefined = rows(elsewhere(made), known), rows(made, of_another_task(known))

    assert [*there] == ["sgd-ie", "(random)"]
    assert there["sgd-ie"].means["of ceiling"] == pytest.approx((0.8 + 0.75) / 2)
    assert np.isnan(redefined["sgd-ie"].means["of ceiling"])


def test_a_result_of_ones_own_is_held_against_the_published_limits_else_against_ones_own() -> None:
    there, here = (limits(TWO[0], *({"ceiling": [top]} for top in tops)) for tops in ((0.8,), (0.5, 0.5)))
    [made], own_limits = own([scored("sgd-ie", 0.4, 0.4)], here)

    assert cells.bound(made, "0", {**there, **own_limits}) is there[TWO[0]].seeds["0"]
    assert cells.bound(made, "1", {**there, **own_limits}) is here[TWO[0]].seeds["1"]
    assert cells.bound(scored("sgd-ie", 0.4, 0.4), "1", {**there, **own_limits}) is None


@pytest.mark.parametrize("suite", ["cleansing", "renormalised", "subsets", "final-model"])
def test_published_rows_say_the_same_whoever_else_is_there_and_wherever_their_truths_were_computed(suite: str) -> None:
    made, known = published_of(suite), store.all_limits(PUBLISHED)
    whole = figures(only(made, known))

    for name in {one.estimator.name for one in made}:
        fewer = figures(only([one for one in made if one.estimator.name != name], known))
        assert fewer == {(table, row): said for (table, row), said in whole.items() if row != name}
    other = figures(only(elsewhere(made), known))
    assert {place: said[:-1] for place, said in other.items()} == {place: said[:-1] for place, said in whole.items()}
    assert any("of ceiling': 0" in means for _, means, *_ in whole.values())


def test_of_ceiling_averages_the_seeds_of_a_task_that_have_one_and_then_the_tasks() -> None:
    made = [scored("sgd-ie", 0.5, 0.5, task=task) for task in (*TWO, "quick-digits-mlp-adam")]
    known = limits(TWO[0], {"ceiling": [1.0]}, {"ceiling": [1.0]}) | limits(TWO[1], {"ceiling": [0.5]})

    assert rows(made, known)["sgd-ie"].means["of ceiling"] == pytest.approx(0.75)  # of 0.5 and 1.0; the third task has none


def test_without_limits_nothing_is_over_a_ceiling() -> None:
    assert np.isnan(rows([scored("sgd-ie", 0.5)])["sgd-ie"].means["of ceiling"])


def test_of_ceiling_of_further_training_compares_the_longest_with_the_longest() -> None:
    made = answers("sgd-ie", FURTHER, {"cosine": [0.1, 0.1, 0.1, 0.1, 0.4]})
    known = limits(FURTHER, {"ceiling": [0.2, 0.2, 0.2, 0.2, 0.8]})

    assert only([made], known).tasks[0].rows[0].means["of ceiling"] == 0.5


def test_uses_stand_between_the_true_effects_and_random_ones_over_the_tasks_that_have_them() -> None:
    tasks = (USED, "cleansing-mnist-0")
    made = [answers("sgd-ie", task, {"kendall": [0.5], "cleansed_loss": [-0.1]}) for task in tasks]
    both: dict[str, dict[str, float | None]] = {
        "random": {"cleansed_loss": 0.02, "mislabel_auroc": 0.5},
        "oracle": {"cleansed_loss": -0.3, "mislabel_auroc": None},
    }
    known = limits(tasks[0], {}, **both) | limits(tasks[1], {}, random={"cleansed_loss": 0.04, "mislabel_auroc": 0.6})
    suite = only(made, known)
    shown = [(row.means["cleansed loss"], row.means["AUROC"]) for row in suite.overall.rows]

    assert [(row.name, row.done, row.tasks) for row in suite.overall.rows] == [
        ("(oracle)", 1, 2),
        ("sgd-ie", 2, 2),
        ("(random)", 2, 2),
    ]
    np.testing.assert_allclose(shown, [(-0.3, np.nan), (-0.1, np.nan), (0.03, 0.55)])
    assert [[row.name for row in table.rows] for table in suite.tasks] == [
        ["sgd-ie", "(random)"],
        ["(oracle)", "sgd-ie", "(random)"],
    ]
    assert [row.name for row in suite.overall.estimators] == ["sgd-ie"]


def test_a_reference_has_no_group_is_on_no_front_and_is_not_what_others_are_behind() -> None:
    known = limits(USED, {}, random={"kendall": 0.0}, oracle={"kendall": 1.0})
    found = rows([answers("sgd-ie", USED, {"kendall": [0.5]}, {"kendall": [0.5]})], known)

    assert [(name, bool(row.compared), row.front, row.complete, row.marks) for name, row in found.items()] == [
        ("(oracle)", False, False, False, ()),
        ("sgd-ie", True, True, True, ()),
        ("(random)", False, False, False, ()),
    ]
    assert found["(oracle)"].score.mean == 1.0


def test_what_was_said_of_another_definition_of_a_task_is_no_reference() -> None:
    known = limits(USED, {}, random={"cleansed_loss": 0.02})

    assert [*rows([answers("sgd-ie", USED, {"kendall": [0.5]})], of_another_task(known))] == ["sgd-ie"]


def test_the_name_of_a_twin_is_that_of_a_task_with_kinks_behind_a_word() -> None:
    assert {task.name.removeprefix(board.TWIN) for task in smooth_tasks()} <= {*TASKS}
    assert all(task.name.startswith(board.TWIN) for task in smooth_tasks())


# ---- curves and pairs ------------------------------------------------------------------------------------------------
def test_a_curve_is_the_score_that_ranks_at_each_horizon_where_all_seeds_have_it() -> None:
    made = answers("sgd-ie", TWO[0], {"kendall": [0.1, 0.2, 0.3]}, {"kendall": [0.3, None, 0.5]})

    assert cells.curve(made) == [(1, pytest.approx(0.2)), (10, pytest.approx(0.4))]


def test_the_curve_of_subsets_is_that_of_the_linear_datamodeling_score() -> None:
    made = answers("sgd-ie", SUBSETS, {"spearman": [0.1, 0.2, 0.3], "kendall": [0.9, 0.9, 0.9]})

    assert cells.curve(made) == [(1, 0.1), (5, 0.2), (10, 0.3)]


def test_what_is_not_scored_in_all_its_seeds_has_no_curve() -> None:
    half = changed(scored("sgd-ie", 0.5, 0.5), 1, status="crashed", scores={})

    assert cells.curve(half) == cells.curve(failed("sgd-ie", "crashed")) == cells.curve(answers("sgd-ie", TWO[0])) == []
    assert cells.curve(answers("sgd-ie", TWO[0], {"spearman": CURVE})) == []


def test_pairs_are_true_and_predicted_effects_of_the_seeds_that_have_both() -> None:
    made = scored("sgd-ie", 0.5, 0.5, 0.5, 0.5)
    for seed in range(3):
        made = changed(made, seed, points=[seed + 0.25, seed + 0.5])
    known = limits(TWO[0], {}, {}, {}, {})
    for seed, found in known[TWO[0]].seeds.items():
        known[TWO[0]].seeds[seed] = replace(found, points=[-1.0, 2.0])
    del known[TWO[0]].seeds["1"]

    assert [*cells.pairs(made, known)] == [(0, -1.0, 0.25), (0, 2.0, 0.5), (2, -1.0, 2.25), (2, 2.0, 2.5)]
    assert [*cells.pairs(made, {})] == []
    assert [*cells.pairs(made, limits(TWO[0], {}))] == []  # without points of the truth


def test_an_estimator_that_was_run_on_less_than_a_quarter_of_the_tasks_has_no_row() -> None:
    names = [task.name for task in SUITES["acc2025"].tasks]
    made = [answers("sgd-ie", name, {"kendall": [0.5] * 10}) for name in names]
    made += [
        answers(name, task, {"kendall": [0.9] * 10}) for name, count in (("loss", 4), ("grad-dot", 5)) for task in names[:count]
    ]
    found = board.board(made, {}).suites[0]

    assert [row.name for row in found.overall.rows] == ["sgd-ie", "grad-dot"]
    assert sum("loss" in [row.name for row in table.rows] for table in found.tasks) == 4
