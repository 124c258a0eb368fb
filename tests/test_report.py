"""The leaderboard is a function of the results, and says what is missing."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_results import CELL, result

from benchmark import report, results
from benchmark.cli import main
from benchmark.errors import DamagedFile, LoobenchError
from benchmark.protocols import smooth_tasks
from benchmark.questions import QUESTIONS
from benchmark.results import Bounds, Limits, Result
from benchmark.suites import SUITES, TASKS
from benchmark.uses import USES

TWO = ("quick-breast-cancer-mlp-sgd", "quick-digits-mlp-sgd")


def scored(name: str, *values: float, task: str = TWO[0]) -> Result:
    made = replace(result(name, task), cells={})
    for seed, value in enumerate(values):
        made = made.with_cell(seed, replace(CELL, scores={"kendall": [0.0, 0.0, value]}), {"command": "run"})
    return made


def failed(name: str, status: str, task: str = TWO[0]) -> Result:
    return replace(result(name, task), cells={}).with_cell(0, replace(CELL, status=status, scores={}), {"command": "run"})


def first_table(board: str) -> list[list[str]]:
    rows = [line for line in board.split("## ")[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


SUBSETS, FURTHER, USED = "subsets-adult-mlp-50", "final-model-adult-sgd", "cleansing-mnist-10"
CURVE = [0.0, 0.0, 0.5]


def answers(name: str, task: str, *seeds: dict[str, Any]) -> Result:
    """A result with the given scores by seed; seed k is scored against the truth `t<k>`."""
    made = replace(result(name, task), cells={})
    for seed, scores in enumerate(seeds):
        made = made.with_cell(seed, replace(CELL, scores=scores, truth=f"t{seed}"), {"command": "run"})
    return made


def limits(task: str, *seeds: dict[str, Any], **references: dict[str, float | None]) -> dict[str, Limits]:
    """Limits with the given values by seed, of the truths `t<k>`."""
    made = results.no_limits(TASKS[task], "cpu")
    for seed, values in enumerate(seeds):
        made = made.with_seed(seed, Bounds(f"t{seed}", values, references, []))
    return {task: made}


def named_table(board: str, heading: str) -> list[dict[str, str]]:
    """The rows of the first table under a heading, by title of the column."""
    lines = re.split(rf"^##+ {re.escape(heading)}$", board, flags=re.M)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    end = next((i for i, line in enumerate(lines[start:], start) if not line.startswith("|")), len(lines))
    titles, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end]]
    return [dict(zip(titles, row, strict=True)) for row in rows]


def test_the_board_depends_on_the_results_alone_and_not_on_their_order() -> None:
    made = [scored("sgd-ie", 0.5, 0.7), scored("grad-dot", 0.4, 0.4), scored("loss", 0.1, 0.2, task=TWO[1])]

    assert report.leaderboard(made, {}) == report.leaderboard(made[::-1], {})


def test_rows_are_sorted_by_the_mean_over_seeds_and_carry_its_interval() -> None:
    rows = first_table(report.leaderboard([scored("grad-dot", 0.1, 0.2), scored("sgd-ie", 0.5, 0.7), scored("loss", 0.4)], {}))
    width = stats.t.interval(0.95, 1, loc=0, scale=stats.sem([0.5, 0.7]))[1]

    assert [row[0] for row in rows] == ["sgd-ie", "loss", "grad-dot"]
    assert rows[0][1] == f"0.600 ± {width:.3f}"
    assert rows[1][1] == "0.400"  # one seed has no interval
    assert [row[-2] for row in rows] == ["2", "1", "2"]


def test_a_suite_row_averages_tasks_within_a_seed_first() -> None:
    made = [scored("sgd-ie", 0.2, 0.4, task=TWO[0]), scored("sgd-ie", 0.6, 0.8, task=TWO[1])]
    width = stats.t.interval(0.95, 1, loc=0, scale=stats.sem([0.4, 0.6]))[1]

    assert first_table(report.leaderboard(made, {}))[0][1] == f"0.500 ± {width:.3f}"


def test_failures_and_missing_tasks_are_shown_and_sort_below() -> None:
    both = [scored("grad-dot", 0.1, task=task) for task in TWO]
    half = [scored("sgd-ie", 0.9, task=TWO[0]), failed("sgd-ie", "unsupported", TWO[1])]
    none = [failed("loss", "crashed", task) for task in TWO]
    rows = first_table(report.leaderboard([*both, *half, *none], {}))

    assert [(row[0], row[1], row[-3], row[-1]) for row in rows] == [
        ("grad-dot", "0.100", "2/2", ""),
        ("sgd-ie", "0.900", "1/2", "unsupported"),
        ("loss", "", "0/2", "crashed"),
    ]


def test_precisions_and_devices_do_not_share_a_table() -> None:
    usual = scored("sgd-ie", 0.5)
    single = replace(usual, task={**usual.task, "dtype": "float32", "name": TWO[0] + "-float32"}, device="cuda")
    headings = re.findall(r"^##+ (.*)$", report.leaderboard([usual, single], {}), re.MULTILINE)

    assert headings == ["Suite quick", TWO[0], "Suite quick (float32, cuda)", f"{TWO[0]}-float32-cuda", "How to read"]


def test_results_for_two_definitions_of_a_task_are_refused() -> None:
    other = replace(scored("loss", 0.1), task_digest="0" * 64)

    with pytest.raises(DamagedFile, match=f"results of {TWO[0]} answer different definitions"):
        report.leaderboard([scored("sgd-ie", 0.5), other], {})


def test_names_cannot_break_out_of_the_table() -> None:
    made = scored("sgd-ie", 0.5)
    nasty = replace(made, estimator=replace(made.estimator, name="a|b<img>\n# c"))

    assert r"a\|b\<img\> # c" in report.leaderboard([nasty], {})


def test_no_results_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(LoobenchError, match="no results to report: run"):
        report.leaderboard([], {})
    assert main(["report", "--results", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "leaderboard.md").exists()


def test_report_check_finds_a_changed_board_and_a_changed_result() -> None:
    at = results.save(scored("sgd-ie", 0.5, 0.6), Path("results"))
    assert main(["report", "--check"]) == 1  # no board yet
    assert main(["report"]) == 0
    assert main(["report", "--check"]) == 0
    board = Path("leaderboard.md").read_text()

    Path("leaderboard.md").write_text(board.replace("0.550", "0.990"))
    assert main(["report", "--check"]) == 1
    Path("leaderboard.md").write_text(board)
    results.save(scored("grad-dot", 0.5, 0.6), Path("results"))
    assert main(["report", "--check"]) == 1
    at.write_text(at.read_text().replace("0.5", "0.9"))
    assert main(["report"]) == 2
    assert Path("leaderboard.md").read_text() == board


# ---- kinds of truth --------------------------------------------------------------------------------------------------
def test_the_first_column_is_the_metric_that_ranks_the_question() -> None:
    one = report.Scored({asked.primary: [0.25, 0.75] for asked in QUESTIONS.values()}, {}, {})
    others = report.Scored({use: [9.0] for use in USES}, {}, {"cost": 9.0, "grad": 9.0, "hvp": 9.0})
    firsts = {kind: columns[0] for kind, columns in report.COLUMNS.items()}

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
    board = report.leaderboard([bad, good], {})
    rows = named_table(board, "Suite subsets")

    assert [(row["estimator"], row["LDS"], row["tau"], row["RMSE/sd"], row["cost"]) for row in rows] == [
        ("sgd-ie", "0.800", "0.200", "0.500", "0.25"),
        ("loss", "0.300", "0.900", "", "0.25"),
    ]
    assert "Truth: training on random subsets" in board
    assert "linear datamodeling score" in board


def test_further_training_is_ranked_by_the_mean_cosine_over_lengths_and_shows_the_first_and_the_last() -> None:
    steady = answers("sgd-ie", FURTHER, {"cosine": [0.6, 0.6, 0.6, 0.6, 0.6], "spearman": [0.0, 0.0, 0.0, 0.0, 0.7]})
    late = answers("loss", FURTHER, {"cosine": [0.1, 0.1, 0.1, 0.1, 0.9]})
    undefined = answers("grad-dot", FURTHER, {"cosine": [None, 0.9, 0.9, 0.9, 0.9]})
    rows = named_table(report.leaderboard([undefined, late, steady], {}), "Suite final-model")

    assert [(row["estimator"], row["cos"], row["cos first"], row["cos last"], row["rho"]) for row in rows] == [
        ("sgd-ie", "0.600", "0.600", "0.600", "0.700"),
        ("loss", "0.260", "0.100", "0.900", ""),
        ("grad-dot", "", "", "0.900", ""),
    ]


def test_uses_show_their_scores_beside_tau() -> None:
    scores = {"kendall": [0.5], **{name: [i / 100] for i, name in enumerate(USES)}}
    row = named_table(report.leaderboard([answers("sgd-ie", USED, scores)], {}), "Suite cleansing")[0]
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

    assert row["tau"] == "0.500"
    assert {title: row[title] for title in names} == {title: f"{scores[name][0]:.3f}" for title, name in names.items()}


def test_a_column_without_any_figure_is_left_out_but_for_the_first() -> None:
    rows = named_table(report.leaderboard([failed("sgd-ie", "crashed")], {}), "Suite quick")

    assert [*rows[0]] == ["estimator", "tau", "tasks", "n", ""]


def test_a_suite_says_which_counterfactual_it_asks_where_it_is_the_other() -> None:
    usual, other = ("hara2019-adult-mlp", "renormalised-hara2019-adult-mlp")
    said = "a batch is divided by what is left of it"

    assert said not in report.leaderboard([scored("sgd-ie", 0.5, task=usual)], {})
    assert said in report.leaderboard([scored("sgd-ie", 0.5, task=other)], {})


# ---- limits ----------------------------------------------------------------------------------------------------------
def test_of_ceiling_is_the_mean_ratio_over_the_seeds_whose_ceiling_is_of_the_same_truth_and_above_zero() -> None:
    taus = [{"kendall": [0.9, 0.9, tau]} for tau in (0.4, 0.6, 0.5, 0.5, 0.5)]
    known = limits(TWO[0], *({"ceiling": [0.1, 0.1, top]} for top in (0.5, 0.8, -0.5, None, 0.1)))
    known[TWO[0]].seeds["4"] = replace(known[TWO[0]].seeds["4"], truth="of another run")
    row = named_table(report.leaderboard([answers("sgd-ie", TWO[0], *taus)], known), "Suite quick")[0]
    width = stats.t.interval(0.95, 1, loc=0, scale=stats.sem([0.8, 0.75]))[1]

    assert row["of ceiling"] == f"0.775 ± {width:.3f}"
    assert row["n"] == "5"


def test_of_ceiling_averages_the_tasks_that_have_one_within_a_seed_first() -> None:
    made = [answers("sgd-ie", task, {"kendall": CURVE}, {"kendall": CURVE}) for task in TWO]
    known = limits(TWO[0], {"ceiling": [1.0]}, {"ceiling": [1.0]}) | limits(TWO[1], {"ceiling": [0.5]})
    row = named_table(report.leaderboard(made, known), "Suite quick")[0]

    assert row["of ceiling"].startswith("0.625 ")  # mean of (0.5 + 1.0) / 2 and 0.5


def test_without_limits_there_is_no_ceiling_and_no_line_on_limits() -> None:
    board = report.leaderboard([answers("sgd-ie", TWO[0], {"kendall": CURVE})], {})

    assert "ceiling" not in board
    assert "Limits" not in board


def test_of_ceiling_of_further_training_compares_the_longest_with_the_longest() -> None:
    made = answers("sgd-ie", FURTHER, {"cosine": [0.1, 0.1, 0.1, 0.1, 0.4]})
    known = limits(FURTHER, {"ceiling": [0.2, 0.2, 0.2, 0.2, 0.8]})

    assert named_table(report.leaderboard([made], known), FURTHER)[0]["of ceiling"] == "0.500"


def test_a_line_under_a_task_says_what_limits_it_as_the_mean_over_seeds_at_the_last_horizon() -> None:
    made = answers("sgd-ie", TWO[0], {"kendall": CURVE}, {"kendall": CURVE}, {"kendall": CURVE})
    first = {"ceiling": [0.1, 0.9], "other_initial": [0.1, 0.4], "other_order": [0.5, None], "kink_pairs": [0.1, 0.25]}
    known = limits(TWO[0], first, {"ceiling": [0.1, 0.7], "noise": [0.0, 2e-13]}, {"ceiling": [0.0, 0.0]})
    known[TWO[0]].seeds["2"] = replace(known[TWO[0]].seeds["2"], truth="of another run")
    board = report.leaderboard([made], known)

    assert re.findall("^Limits: .*$", board, re.M) == [
        "Limits: ceiling 0.800; tau with another start 0.400; kinks, share of pairs (sample, step) 0.2500; noise 2e-13."
    ]
    assert board.index("### " + TWO[0]) < board.index("Limits: ")


def test_the_line_of_a_mean_over_repeats_has_its_halves_and_the_subsets_without_a_class() -> None:
    made = answers("sgd-ie", SUBSETS, {"spearman": CURVE})
    known = limits(SUBSETS, {"split_half": [0.8], "ceiling": [0.94], "own": [0.6], "without_class": [3.0]})

    assert re.findall("^Limits: (.*); (.*); (.*); (.*)$", report.leaderboard([made], known), re.M) == [
        (
            "ceiling 0.940",
            "agreement of two halves 0.800",
            "of one repeat with the others 0.600",
            "subsets without a class 3.0.",
        )
    ]


def test_uses_stand_between_the_true_effects_and_random_ones_over_the_tasks_that_have_them() -> None:
    tasks = (USED, "cleansing-mnist-0")
    made = [answers("sgd-ie", task, {"kendall": [0.5], "cleansed_loss": [-0.1]}) for task in tasks]
    both: dict[str, dict[str, float | None]] = {
        "random": {"cleansed_loss": 0.02, "mislabel_auroc": 0.5},
        "oracle": {"cleansed_loss": -0.3, "mislabel_auroc": None},
    }
    known = limits(tasks[0], {}, **both) | limits(tasks[1], {}, random={"cleansed_loss": 0.04, "mislabel_auroc": 0.6})
    board = report.leaderboard(made, known)
    columns = ("estimator", "tau", "cleansed loss", "AUROC", "tasks")

    assert [tuple(row[title] for title in columns) for row in named_table(board, "Suite cleansing")] == [
        ("(oracle)", "", "-0.300", "", "1/2"),
        ("sgd-ie", "0.500", "-0.100", "", "2/2"),
        ("(random)", "", "0.030", "0.550", "2/2"),
    ]
    assert [row["estimator"] for row in named_table(board, tasks[1])] == ["sgd-ie", "(random)"]


def test_what_was_said_of_another_truth_is_no_reference() -> None:
    known = limits(USED, {}, random={"cleansed_loss": 0.02})
    known[USED].seeds["0"] = replace(known[USED].seeds["0"], truth="of another run")

    assert "| (random)" not in report.leaderboard([answers("sgd-ie", USED, {"kendall": [0.5]})], known)


# ---- twins -----------------------------------------------------------------------------------------------------------
ROUGH = ("hara2019-adult-mlp", "hara2019-mnist-mlp")


def test_the_name_of_a_twin_is_that_of_a_task_with_kinks_behind_a_word() -> None:
    assert {task.name.removeprefix(report.TWIN) for task in smooth_tasks()} <= {*TASKS}
    assert all(task.name.startswith(report.TWIN) for task in smooth_tasks())


def test_twins_stand_side_by_side_over_the_seeds_and_tasks_that_both_have() -> None:
    taus: Callable[..., list[dict[str, Any]]] = lambda *values: [{"kendall": [0.0, 0.0, value]} for value in values]  # noqa: E731
    crashed = replace(CELL, status="crashed", scores={}, truth="t1")
    made = [
        answers("sgd-ie", ROUGH[0], *taus(0.4, 0.6, 0.0)),  # a third seed, which the twin lacks
        answers("sgd-ie", "smooth-" + ROUGH[0], *taus(0.8, 0.8)),
        answers("sgd-ie", ROUGH[1], *taus(0.7)),
        answers("sgd-ie", "smooth-" + ROUGH[1], *taus(1.0, 0.0)),
        answers("grad-dot", ROUGH[0], *taus(0.9, 0.5)),
        answers("grad-dot", "smooth-" + ROUGH[0], *taus(0.95)).with_cell(1, crashed, {"command": "run"}),
        answers("loss", "smooth-" + ROUGH[0], *taus(0.9)),  # no result on the task with kinks
    ]
    known = limits(
        ROUGH[0], {"ceiling": [0.8], "kink_pairs": [0.2]}, {"ceiling": [0.6], "kink_pairs": [0.4]}, {"ceiling": [0.0]}
    )
    known |= limits("smooth-" + ROUGH[0], {"ceiling": [1.0]}, {"ceiling": [0.2]})
    known |= limits(ROUGH[1], {"kink_pairs": [0.1]}, {"kink_pairs": [0.7]})
    board = report.leaderboard(made, known)

    assert [[*row.values()] for row in named_table(board, "Twins")] == [
        ["sgd-ie", "0.600", "0.900", "0.700", "0.600", "2"],
        ["grad-dot", "0.900", "0.950", "0.800", "1.000", "1"],
    ]
    assert [*named_table(board, "Twins")[0]][1:3] == ["tau, ReLU", "tau, twin"]
    assert "crosses one in 20.00 % of pairs (left-out sample, step), mean over 2 ReLU tasks." in board
    assert board.index("## Suite smooth") < board.index("### Twins")


def test_without_a_pair_there_is_no_table_of_twins() -> None:
    alone = [answers("sgd-ie", "smooth-" + ROUGH[0], {"kendall": CURVE}), answers("loss", ROUGH[0], {"kendall": CURVE})]
    broken = [failed("sgd-ie", "crashed", ROUGH[0]), answers("sgd-ie", "smooth-" + ROUGH[0], {"kendall": CURVE})]

    assert "Twins" not in report.leaderboard(alone, {})
    assert "Twins" not in report.leaderboard(broken, {})


# ---- suites of many tasks --------------------------------------------------------------------------------------------
def test_a_suite_of_more_than_twelve_tasks_has_a_column_and_not_a_table_for_each() -> None:
    names = [task.name for task in SUITES["acc2025"].tasks]
    made = [answers("sgd-ie", name, {"kendall": [i / 100] * 10}, {"kendall": [i / 100] * 10}) for i, name in enumerate(names)]
    made += [failed("loss", "crashed", names[0]), failed("loss", "unsupported", names[1])]
    known = limits(names[0], {"ceiling": [0.9], "noise": [1e-13]})
    few, many = (report.leaderboard([one for one in made if one.name in some], known) for some in (names[:12], names))
    rows = named_table(many, "adult, logistic: tau")

    assert f"### {names[0]}" in few
    assert f"### {names[0]}" not in many
    assert [[*row.values()] for row in rows] == [
        ["sgd-ie", "0.000", "0.010", "0.020"],
        ["loss", "crashed", "", ""],
        ["(ceiling)", "0.900", "", ""],
        ["(noise)", "1e-13", "", ""],
    ]
    assert [*rows[0]] == ["estimator", "clean", "feature", "label"]
    assert len(re.findall("^### ", many, re.M)) == 6  # data sets times models


def test_the_whole_table_still_leads_a_suite_of_many_tasks() -> None:
    made = [answers("sgd-ie", task.name, {"kendall": CURVE}) for task in SUITES["adaptive"].tasks]

    assert named_table(report.leaderboard(made, {}), "Suite adaptive")[0]["tasks"] == "48/48"


# ---- the command -----------------------------------------------------------------------------------------------------
def test_report_check_finds_changed_limits() -> None:
    results.save(answers("sgd-ie", TWO[0], {"kendall": CURVE}), Path("results"))
    assert main(["report"]) == 0
    assert main(["report", "--check"]) == 0
    results.save_limits(limits(TWO[0], {"ceiling": [0.5]})[TWO[0]], Path("results"))
    assert main(["report", "--check"]) == 1
    assert main(["report"]) == 0
    assert main(["report", "--check"]) == 0
    at = Path("results") / f"{TWO[0]}.json"
    at.write_text(at.read_text().replace("0.5", "0.9"))
    assert main(["report", "--check"]) == 2
