"""leaderboard.md says what the board's records say, in tables that names cannot break."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import everything
from test_board import CURVE, FURTHER, SUBSETS, TWO, USED, answers, claimed, failed, limits, renamed, scored, taus, verified
from test_results import CELL

from benchmark import PROTOCOL
from benchmark.base.errors import LoobenchError
from benchmark.base.text import markdown
from benchmark.commands import terminal
from benchmark.commands.main import main
from benchmark.publishing import details, report, tables
from benchmark.publishing.tables import interval, letters
from benchmark.scores import board, numbers, store
from benchmark.scores.results import Limits, Result
from benchmark.scores.rows import Board
from benchmark.scores.store import Store
from benchmark.tasks.suites import CORE, SUITES, TASKS


def page(made: list[Result], known: dict[str, Limits] | None = None, sources: dict[str, str] | None = None) -> str:
    return report.leaderboard(board.board(made, known or {}), sources or {})


def named_table(text: str, heading: str, number: int = 0) -> list[dict[str, str]]:
    """The rows of the first table under a heading, by title of the column; the first column is `group`, the last `marks`."""
    found = re.findall(r"^\|.*\n(?:^\|.*\n?)+", re.split(rf"^##+ {re.escape(heading)}$", text, flags=re.M)[1], flags=re.M)
    lines = found[number].splitlines()
    titles, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    titles = [title or ("marks" if i else "group") for i, title in enumerate(titles)]
    return [dict(zip(titles, row, strict=True)) for row in rows]


def unlinked(cell: str) -> str:
    """The text of a cell without the address it leads to."""
    return re.sub(r"\[(.*)\]\(.*\)", r"\1", cell)


def test_the_page_depends_on_the_results_alone_and_not_on_their_order() -> None:
    made = [scored("sgd-ie", 0.5, 0.7), scored("grad-dot", 0.4, 0.4), scored("loss", 0.1, 0.2, task=TWO[1])]

    assert page(made) == page(made[::-1]) == page(made)


def test_a_row_shows_its_score_with_the_interval_and_how_far_it_is_behind_with_the_interval_of_that() -> None:
    made = [scored("grad-dot", 0.1, 0.2), scored("sgd-ie", 0.5, 0.7), scored("loss", 0.4)]
    rows = named_table(page(made), "Suite quick")
    records = {row.name: row for row in board.board(made, {}).suites[0].overall.rows}

    assert [row["estimator"] for row in rows] == ["sgd-ie", "loss", "grad-dot"]
    for row in rows:
        assert row["tau"] == interval(records[row["estimator"]].score)
    assert re.fullmatch(r"0.600 \[-?\d\.\d{3}, \d\.\d{3}\]", rows[0]["tau"])
    assert rows[1]["tau"] == "0.400"  # one seed has no interval
    assert [row["n"] for row in rows] == ["2", "1", "2"]
    assert rows[0]["behind"] == ""
    assert rows[2]["behind"].startswith("0.450 [")
    assert [row["group"] for row in rows] == ["A", "A", "A"]  # two cells tell nothing apart


def test_failures_and_missing_tasks_are_shown_and_sort_below() -> None:
    both = [scored("grad-dot", tau, tau, task=task) for task, tau in zip(TWO, (0.3, 0.1), strict=True)]
    half = [scored("sgd-ie", 0.9, task=TWO[0]), failed("sgd-ie", "unsupported", TWO[1])]
    none = [failed("loss", "crashed", task) for task in TWO]
    text = page([*both, *half, *none])
    rows = named_table(text, "Suite quick")

    assert [(row["group"], row["estimator"], row["tau"], row["tasks"], row["marks"]) for row in rows] == [
        ("A", "grad-dot", "0.200 [0.200, 0.200]", "2/2", "Pareto"),
    ]
    assert [[*row.values()] for row in named_table(text, "Suite quick", 1)] == [
        ["sgd-ie", "0.900", "0.300", "grad-dot", "1/2", "1", "maintainers", "unsupported"],
        ["loss", "", "", "", "0/2", "", "maintainers", "crashed"],
    ]


def test_precisions_and_devices_do_not_share_a_table() -> None:
    usual = scored("sgd-ie", 0.5)
    single = replace(usual, task={**usual.task, "dtype": "float32", "name": TWO[0] + "-float32"}, device="cuda")

    assert re.findall(r"^## (Suite.*)$", page([usual, single]), re.MULTILINE) == ["Suite quick", "Suite quick (float32, cuda)"]


def test_claims_are_marked_and_the_row_of_one_that_is_not_verified_stands_below() -> None:
    made = [scored("loss", 0.1, 0.2), verified(scored("checked", 0.59, 0.61)), claimed(scored("theirs", 0.9, 0.9))]
    text = page([*made, verified(scored("wrong", 0.8, 0.8), verdict="differs")])
    rows = [(row["group"], row["estimator"], row["marks"]) for row in named_table(text, "Suite quick")]
    tasks = {row["estimator"]: row[TWO[0]] for row in named_table(text, "quick, by task: tau")}

    assert rows == [
        ("A", "checked", "Pareto, verified 0.811 (claimed 0.812)"),
        ("A", "loss", ""),
        ("", "theirs", "unverified, claimed 0.812"),
        ("", "wrong", "unverified, claimed 0.812, differs"),
    ]
    assert {name: unlinked(cell) for name, cell in tasks.items()} == {
        "checked": "0.600",
        "loss": "0.150",
        "theirs": "0.900 unverified",
        "wrong": "0.800 unverified",
    }


def test_core_stands_first_with_its_version_and_digest_and_without_tables_by_task() -> None:
    made = board.board([scored("sgd-ie", 0.5, 0.6), scored("sgd-ie", 0.4, 0.6, task=TWO[1])], {}, [CORE])
    text = report.leaderboard(made, {})

    assert re.findall(r"^##+ (.*)$", text, re.M)[:3] == ["Suite core (version 1)", "Suite quick", "quick, by task: tau"]
    assert [(row["estimator"], row["tau"], row["tasks"]) for row in named_table(text, "Suite core (version 1)")] == [
        ("sgd-ie", "0.525", "2/14")  # no row has all 14, so that this is the table of those that lack some
    ]
    assert "a fixed choice of 14 tasks of other suites, seeds 0 to 1 of each" in text
    assert f"Protocol {PROTOCOL}; version 1, 2 tasks, digest `{made.suites[0].digest[:12]}`" in text


NASTY = "a|b<img src=x>\n# c [d](e) `f`"


def test_names_cannot_break_out_of_any_table() -> None:
    made, known = everything(
        {name: TASKS[name] for name in (*TWO, "hara2019-adult-mlp", "smooth-hara2019-adult-mlp")}, {"x": (0.5, 1.0)}, 2
    )
    text = page([renamed(one, NASTY) for one in made], known)
    shown = markdown(NASTY)

    for heading in ("Headline", "Suite quick", "quick, by task: tau", "Twins"):
        assert named_table(text, heading)[0]["estimator"] == shown, heading
    assert "<img" not in text
    assert not re.search(r"^# c", text, re.M)


def test_names_are_linked_to_their_sources_where_these_are_known() -> None:
    text = page([scored("sgd-ie", 0.5), scored("mine", 0.4)], sources={"sgd-ie": "estimators/sgd_ie.py"})

    assert [row["estimator"] for row in named_table(text, "Suite quick")] == ["[sgd-ie](estimators/sgd_ie.py)", "mine"]


def test_no_results_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(LoobenchError, match="no results to report: run"):
        board.board([], {})
    assert main(["report", "--results", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "leaderboard.md").exists()


def test_each_suite_says_of_what_version_and_of_which_tasks_it_is() -> None:
    made = [scored("sgd-ie", 0.5, task=task) for task in TWO]
    [suite] = board.board(made, {}).suites

    assert f"Protocol {PROTOCOL}; 2 tasks, digest `{suite.digest[:12]}`; computed by loobench 0.0.0." in page(made)


def test_letters_name_the_groups() -> None:
    assert [letters(number) for number in (1, 2, 26, 27, 52, 53, 702, 703)] == [
        "A",
        "B",
        "Z",
        "AA",
        "AZ",
        "BA",
        "ZZ",
        "AAA",
    ]


def test_a_table_for_a_terminal_has_the_score_its_part_of_the_ceiling_and_the_cost() -> None:
    made, known = everything({name: TASKS[name] for name in TWO}, {"sgd-ie": (0.8, 0.5), "grad-dot": (0.4, 0.1)}, 3)
    ((headers, rows),) = tables.brief(board.board(made, known).suites[0].overall)

    assert headers == ["estimator", "tau", "of ceiling", "cost", "n", "tie", ""]
    assert [row[0] for row in rows] == ["sgd-ie", "grad-dot"]
    assert max(map(len, terminal.table_text(headers, rows).splitlines())) <= terminal.WIDTH


def test_a_table_for_a_terminal_shows_rows_that_lack_tasks_below_with_the_best_that_has_them_all() -> None:
    made, known = everything({name: TASKS[name] for name in TWO}, {"sgd-ie": (0.8, 0.5), "grad-dot": (0.4, 0.1)}, 3)
    partial = [one for one in made if (one.estimator.name, one.name) != ("sgd-ie", TWO[1])]
    (_, upper), (_, lower) = tables.brief(board.board(partial, known).suites[0].overall)
    best = board.board(made, known).find(f"{TWO[0]}/grad-dot")[1].score.mean

    assert [row[0] for row in upper] == ["grad-dot"]
    assert [row[0] for row in lower] == ["sgd-ie"]
    assert lower[0][2:5] == [numbers.figure(best), "grad-dot", "1/2"]


# ---- figures ---------------------------------------------------------------------------------------------------------
FIGURE = re.compile(r"[-+]?(?:\d[\d.]*(?:e[-+]?\d+)?|inf)")


@pytest.fixture(scope="module")
def published() -> Board:
    """The board of all that is published."""
    folder = Path(__file__).resolve().parents[1] / "results"
    return board.board(store.load_all(folder), store.all_limits(folder), [CORE])


def test_no_figure_of_any_published_table_has_more_than_six_characters(published: Board) -> None:
    text = report.leaderboard(published, {})
    written = re.findall(r"^\|.*\n(?:^\|.*\n?)+", text, flags=re.M)
    cells = [line.strip("|\n").split("|")[1:] for table in written for line in table.splitlines()[2:]]
    shown = [
        details.table_record(table, published.limits) for suite in published.suites for table in (suite.overall, *suite.tasks)
    ]
    texts = [text for table in shown for row in table["rows"] for text in (row["shown"], row["behind_shown"], *row["texts"])]
    texts += [
        figure
        for suite in published.suites
        for table in suite.tasks
        for _, figure in details.limit_texts(table, published.limits)
    ]
    brief = [row[1:] for suite in published.suites for _, rows in tables.brief(suite.overall) for row in rows]
    found = {
        "leaderboard.md": [figure for row in cells for cell in row for figure in FIGURE.findall(plain(cell))],
        "the page": [figure for text in texts for figure in FIGURE.findall(text)],
        "a terminal": [figure for row in brief for cell in row for figure in FIGURE.findall(plain(cell))],
    }

    assert {name: [figure for figure in figures if len(figure) > 6] for name, figures in found.items()} == {
        name: [] for name in found
    }
    assert min(map(len, found.values())) > 1000


def plain(cell: str) -> str:
    """A table cell without addresses, and without names of estimators, which have digits too."""
    return re.sub(r"[A-Za-z][\w/.-]*", "", unlinked(cell.strip()))


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (0.12345, 3, "0.123"),
        (-0.12345, 3, "-0.123"),
        (54.872, 3, "54.872"),
        (200.591, 3, "200.59"),
        (-200.591, 3, "-200.6"),
        (999999.4, 3, "999999"),
        (999999.6, 3, "1.0e6"),
        (23161240.943, 3, "2.3e7"),
        (-23161240.943, 3, "-2.3e7"),
        (4.7e47, 3, "4.7e47"),
        (-4.7e47, 3, "-5e47"),
        (9.9e99, 0, "9.9e99"),
        (2e100, 3, "2e100"),
        (-2e299, 3, "-2e299"),
        (float("inf"), 3, "inf"),
        (float("nan"), 3, ""),
        (0.0, 3, "0.000"),
        (1.6e-16, None, "2e-16"),
        (1.6e-100, None, "2e-100"),
        (0.0, None, "0e+00"),
    ],
)
def test_a_figure_has_its_decimals_or_fewer_or_a_power_of_ten(value: float, digits: int | None, shown: str) -> None:
    assert numbers.figure(value, digits) == shown
    assert len(shown) <= 6


# ---- the headline ----------------------------------------------------------------------------------------------------
MAIN = {name: TASKS[name] for name in ("quick-digits-mlp-sgd", "quick-digits-mlp-adam", "hara2019-adult-mlp")}


def test_the_headline_has_the_best_five_of_each_main_suite_and_no_score_of_some_tasks_only() -> None:
    many = {f"e{i}": (0.9 - i / 10, 1.0) for i in range(7)}
    made, known = everything(MAIN, many, 2)
    made = [
        one
        for one in made
        if (one.name, one.estimator.name) not in (("quick-digits-mlp-adam", "e1"), ("hara2019-adult-mlp", "e6"))
    ]
    rows = {row["estimator"]: row for row in named_table(page(made, known), "Headline")}

    assert [*rows] == ["e0", "e2", "e3", "e4", "e5", "e1"]  # e1 of hara2019, e5 of quick
    assert rows["e1"]["quick"] == ""
    assert rows["e1"]["hara2019"].endswith("] A")
    assert rows["e0"]["quick"].endswith("] A")
    assert [*rows["e0"]] == ["estimator", "quick", "hara2019", "cost"]


def test_whoever_answers_one_easy_suite_alone_does_not_lead_the_headline() -> None:
    made, known = everything(MAIN, {"sgd-ie": (0.5, 1.0), "grad-dot": (0.3, 1.0), "clone": (0.9, 0.01)}, 2)
    easy = [one for one in made if one.estimator.name != "clone" or one.name == "hara2019-adult-mlp"]
    rows = named_table(page(easy, known), "Headline")

    assert [row["estimator"] for row in named_table(page(made, known), "Headline")] == ["clone", "sgd-ie", "grad-dot"]
    assert [(row["estimator"], bool(row["quick"]), bool(row["hara2019"])) for row in rows] == [
        ("sgd-ie", True, True),
        ("grad-dot", True, True),
        ("clone", False, True),
    ]


def test_the_headline_leaves_out_what_is_not_verified() -> None:
    made, known = everything(MAIN, {"sgd-ie": (0.5, 1.0), "theirs": (0.9, 0.1)}, 2)
    sent = [claimed(one) if one.estimator.name == "theirs" else one for one in made]
    partly = [claimed(one) if (one.estimator.name, one.name) == ("theirs", "hara2019-adult-mlp") else one for one in made]

    assert [row["estimator"] for row in named_table(page(made, known), "Headline")] == ["theirs", "sgd-ie"]
    assert [row["estimator"] for row in named_table(page(sent, known), "Headline")] == ["sgd-ie"]
    rows = {row["estimator"]: row["hara2019"] for row in named_table(page(partly, known), "Headline")}
    assert rows["theirs"] == ""


def test_with_one_core_suite_there_is_no_headline_and_a_page_that_quotes_it_stays_as_it_is() -> None:
    made = board.board([scored("sgd-ie", 0.5)], {})
    readme = f"before {report.OPENING} old {report.CLOSING} after"

    assert "## Headline" not in report.leaderboard(made, {})
    assert report.quoted(readme, made, {}) == readme


def test_the_table_of_the_headline_takes_its_place_in_a_page_that_has_the_marks() -> None:
    made = board.board(*everything(MAIN, {"sgd-ie": (0.5, 1.0)}, 2))
    once = report.quoted(f"before {report.OPENING} old {report.CLOSING} after", made, {})

    assert once.startswith(f"before {report.OPENING}\n\n| estimator")
    assert once.endswith(f"|\n\n{report.CLOSING} after")
    assert "old" not in once
    assert report.quoted(once, made, {}) == once
    assert report.quoted("no marks", made, {}) == "no marks"


# ---- kinds of truth and their limits ---------------------------------------------------------------------------------
def test_a_kind_of_truth_says_what_it_is_and_how_its_columns_read() -> None:
    made = [
        scored("sgd-ie", 0.5),
        answers("sgd-ie", SUBSETS, {"spearman": CURVE}),
        answers("sgd-ie", FURTHER, {"cosine": [0.5] * 5}),
    ]
    text = page([*made, answers("sgd-ie", USED, {"kendall": [0.5]})])

    for said in (
        "Truth: training on random subsets",
        "linear datamodeling score",
        "Truth: the final model trained further",
        "What effects are used for",
    ):
        assert said in text
        assert said not in page([scored("sgd-ie", 0.5)])


def test_a_suite_says_which_counterfactual_it_asks_where_it_is_the_other() -> None:
    usual, other = ("hara2019-adult-mlp", "renormalised-hara2019-adult-mlp")
    said = "a batch is divided by what is left of it"

    assert said not in page([scored("sgd-ie", 0.5, task=usual)])
    assert said in page([scored("sgd-ie", 0.5, task=other)])


def test_tasks_stand_side_by_side_above_what_limits_their_truths() -> None:
    first = {"ceiling": [0.1, 0.9], "other_initial": [0.1, 0.4], "other_order": [0.5, None], "kink_pairs": [0.1, 0.25]}
    known = limits(TWO[0], first, {"ceiling": [0.1, 0.7], "noise": [0.0, 2e-13]}, {"ceiling": [0.0, 0.0]})
    known[TWO[0]].seeds["2"] = replace(known[TWO[0]].seeds["2"], truth="with other last bits")
    made = [answers("sgd-ie", TWO[0], *taus(0.3, 0.4, 0.5)), failed("sgd-ie", "crashed", TWO[1]), failed("loss", "unsupported")]
    rows = named_table(page(made, known), "quick, by task: tau")

    assert rows[0]["breast-cancer-mlp-sgd"] == f"[0.400](results/{TWO[0]}/sgd-ie.json)"
    assert [[unlinked(cell) for cell in row.values()] for row in rows] == [
        ["sgd-ie", "0.400", "crashed"],
        ["(ceiling)", "0.533", ""],
        ["(tau with another start)", "0.400", ""],
        ["(kinks, share of pairs (sample, step))", "0.2500", ""],
        ["(noise)", "2e-13", ""],
    ]
    assert [*rows[0]] == ["estimator", "breast-cancer-mlp-sgd", "digits-mlp-sgd"]


def test_without_limits_there_is_nothing_said_of_ceilings() -> None:
    text = page([answers("sgd-ie", TWO[0], {"kendall": CURVE})])

    assert "ceiling" not in text.lower()
    assert "**Limits.**" not in text


def test_a_suite_of_many_tasks_has_a_table_of_them_for_each_data_set_and_model() -> None:
    names = [task.name for task in SUITES["acc2025"].tasks]
    made = [answers("sgd-ie", name, {"kendall": [i / 100] * 10}, {"kendall": [i / 100] * 10}) for i, name in enumerate(names)]
    made += [failed("loss", "crashed", names[0]), failed("loss", "unsupported", names[1])]
    known = limits(names[0], {"ceiling": [0.9], "noise": [1e-13]})
    many = page(made, known)
    rows = named_table(many, "acc2025, adult, logistic: tau")

    assert [[unlinked(cell) for cell in row.values()] for row in rows] == [
        ["sgd-ie", "0.000", "0.010", "0.020"],
        ["loss", "crashed", "", ""],
        ["(ceiling)", "0.900", "", ""],
        ["(noise)", "1e-13", "", ""],
    ]
    assert [*rows[0]] == ["estimator", "clean", "feature", "label"]
    assert len(re.findall("^### ", many, re.M)) == 6  # data sets times models
    assert named_table(many, "Suite acc2025")[0]["tasks"] == "18/18"


# ---- twins -----------------------------------------------------------------------------------------------------------
ROUGH = ("hara2019-adult-mlp", "hara2019-mnist-mlp")


def test_twins_stand_side_by_side_over_the_seeds_and_tasks_that_both_have() -> None:
    crashed = replace(CELL, status="crashed", scores={}, by_query=[], points=[], truth="t1")
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
    text = page(made, known)

    assert [[*row.values()] for row in named_table(text, "Twins")] == [
        ["sgd-ie", "0.600", "0.900", "0.700", "0.600", "2"],
        ["grad-dot", "0.900", "0.950", "0.800", "1.000", "1"],
    ]
    assert [*named_table(text, "Twins")[0]][1:3] == ["tau, ReLU", "tau, twin"]
    assert "crosses one in 20.00 % of pairs (left-out sample, step), mean over 2 ReLU tasks." in text
    assert text.index("## Suite smooth") < text.index("### Twins")


def test_what_is_not_verified_is_not_among_the_twins() -> None:
    sent = [claimed(scored("theirs", 0.5, task=name)) for name in (ROUGH[0], "smooth-" + ROUGH[0])]

    assert "Twins" in page([replace(one, claimed=None) for one in sent])
    assert "Twins" not in page(sent)


def test_without_a_pair_there_is_no_table_of_twins() -> None:
    alone = [answers("sgd-ie", "smooth-" + ROUGH[0], {"kendall": CURVE}), answers("loss", ROUGH[0], {"kendall": CURVE})]
    broken = [failed("sgd-ie", "crashed", ROUGH[0]), answers("sgd-ie", "smooth-" + ROUGH[0], {"kendall": CURVE})]

    assert "Twins" not in page(alone)
    assert "Twins" not in page(broken)


# ---- the command -----------------------------------------------------------------------------------------------------
def edited(at: Path, before: str, after: str) -> bytes:
    """Change a file; returns what it was."""
    was = at.read_bytes()
    assert before.encode() in was
    at.write_bytes(was.replace(before.encode(), after.encode()))
    return was


def test_report_check_finds_any_file_that_is_not_what_the_results_give(capsys: pytest.CaptureFixture[str]) -> None:
    at = Store(Path("results")).keep(scored("sgd-ie", 0.5, 0.6))
    assert main(["report", "--check"]) == 1  # no board yet
    assert main(["report", "--publish"]) == 0
    assert main(["report", "--check"]) == 0

    for name, before in (("leaderboard.md", "0.550"), ("docs/index.html", 'text/plain">eN')):
        was = edited(Path(name), before, before + "0")
        assert main(["report", "--check"]) == 1
        assert f"error: {name} is not what results gives: run `loobench report --publish`" in capsys.readouterr().err
        Path(name).write_bytes(was)
    other = Store(Path("results")).keep(scored("grad-dot", 0.5, 0.6))
    assert main(["report", "--check"]) == 1
    other.unlink()
    assert main(["report", "--check"]) == 0
    board_before = Path("leaderboard.md").read_bytes()
    edited(at, "0.5", "0.9")
    assert main(["report", "--publish"]) == 2
    assert Path("leaderboard.md").read_bytes() == board_before


def test_pages_of_tasks_that_are_gone_are_found_and_removed() -> None:
    gone = Store(Path("results")).keep(scored("sgd-ie", 0.5, task=TWO[1]))
    Store(Path("results")).keep(scored("sgd-ie", 0.5))
    assert main(["report", "--publish"]) == 0
    before = {*Path("docs").rglob("*.js")}
    gone.unlink()

    assert main(["report", "--check"]) == 1
    assert main(["report", "--publish"]) == 0
    assert {*Path("docs").rglob("*.js")} < before
    assert main(["report", "--check"]) == 0


def test_the_readme_beside_the_board_gets_the_headline_and_is_checked() -> None:
    for one in everything(MAIN, {"sgd-ie": (0.5, 1.0)}, 2)[0]:
        Store(Path("results")).keep(one)
    Path("README.md").write_text(f"# x\n\n{report.OPENING}\n{report.CLOSING}\n")
    assert main(["report", "--publish"]) == 0
    assert "| [sgd-ie](estimators/sgd_ie.py)" in Path("README.md").read_text()
    assert main(["report", "--check"]) == 0
    edited(Path("README.md"), "sgd-ie", "mine")
    assert main(["report", "--check"]) == 1


def test_report_check_finds_changed_limits() -> None:
    Store(Path("results")).keep(answers("sgd-ie", TWO[0], {"kendall": CURVE}))
    assert main(["report", "--publish"]) == 0
    assert main(["report", "--check"]) == 0
    Store(Path("results")).keep(limits(TWO[0], {"ceiling": [0.5]})[TWO[0]])
    assert main(["report", "--check"]) == 1
    assert main(["report", "--publish"]) == 0
    assert main(["report", "--check"]) == 0
    edited(Path("results") / f"{TWO[0]}.json", "0.5", "0.9")
    assert main(["report", "--check"]) == 2
