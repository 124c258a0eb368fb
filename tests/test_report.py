"""The leaderboard is a function of the results, and says what is missing."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats
from test_results import CELL, result

from benchmark import report, results
from benchmark.cli import main
from benchmark.errors import DamagedFile, LoobenchError
from benchmark.results import Result

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


def test_the_board_depends_on_the_results_alone_and_not_on_their_order() -> None:
    made = [scored("sgd-ie", 0.5, 0.7), scored("grad-dot", 0.4, 0.4), scored("loss", 0.1, 0.2, task=TWO[1])]

    assert report.leaderboard(made) == report.leaderboard(made[::-1])


def test_rows_are_sorted_by_the_mean_over_seeds_and_carry_its_interval() -> None:
    rows = first_table(report.leaderboard([scored("grad-dot", 0.1, 0.2), scored("sgd-ie", 0.5, 0.7), scored("loss", 0.4)]))
    width = stats.t.interval(0.95, 1, loc=0, scale=stats.sem([0.5, 0.7]))[1]

    assert [row[0] for row in rows] == ["sgd-ie", "loss", "grad-dot"]
    assert rows[0][1] == f"0.600 ± {width:.3f}"
    assert rows[1][1] == "0.400"  # one seed has no interval
    assert [row[-2] for row in rows] == ["2", "1", "2"]


def test_a_suite_row_averages_tasks_within_a_seed_first() -> None:
    made = [scored("sgd-ie", 0.2, 0.4, task=TWO[0]), scored("sgd-ie", 0.6, 0.8, task=TWO[1])]
    width = stats.t.interval(0.95, 1, loc=0, scale=stats.sem([0.4, 0.6]))[1]

    assert first_table(report.leaderboard(made))[0][1] == f"0.500 ± {width:.3f}"


def test_failures_and_missing_tasks_are_shown_and_sort_below() -> None:
    both = [scored("grad-dot", 0.1, task=task) for task in TWO]
    half = [scored("sgd-ie", 0.9, task=TWO[0]), failed("sgd-ie", "unsupported", TWO[1])]
    none = [failed("loss", "crashed", task) for task in TWO]
    rows = first_table(report.leaderboard([*both, *half, *none]))

    assert [(row[0], row[1], row[-3], row[-1]) for row in rows] == [
        ("grad-dot", "0.100", "2/2", ""),
        ("sgd-ie", "0.900", "1/2", "unsupported"),
        ("loss", "", "0/2", "crashed"),
    ]


def test_precisions_and_devices_do_not_share_a_table() -> None:
    usual = scored("sgd-ie", 0.5)
    single = replace(usual, task={**usual.task, "dtype": "float32", "name": TWO[0] + "-float32"}, device="cuda")
    headings = re.findall(r"^##+ (.*)$", report.leaderboard([usual, single]), re.MULTILINE)

    assert headings == ["Suite quick", TWO[0], "Suite quick (float32, cuda)", f"{TWO[0]}-float32-cuda", "How to read"]


def test_results_for_two_definitions_of_a_task_are_refused() -> None:
    other = replace(scored("loss", 0.1), task_digest="0" * 64)

    with pytest.raises(DamagedFile, match=f"results of {TWO[0]} answer different definitions"):
        report.leaderboard([scored("sgd-ie", 0.5), other])


def test_names_cannot_break_out_of_the_table() -> None:
    made = scored("sgd-ie", 0.5)
    nasty = replace(made, estimator=replace(made.estimator, name="a|b<img>\n# c"))

    assert r"a\|b\<img\> # c" in report.leaderboard([nasty])


def test_no_results_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(LoobenchError, match="no results to report: run"):
        report.leaderboard([])
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
