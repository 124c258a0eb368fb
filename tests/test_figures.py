"""Figures show what the board says, in files whose bytes repeat."""

import re
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib")

import synthetic
from matplotlib.figure import Figure
from matplotlib.text import Text
from test_board import claimed

from benchmark.base.errors import LoobenchError
from benchmark.publishing import figures, labels, overviews
from benchmark.scores import ties
from benchmark.scores.board import board
from benchmark.scores.cells import curve, pairs
from benchmark.scores.rows import Board
from benchmark.tasks.definition import Task
from benchmark.tasks.suites import SUITES

QUICK = {task.name: task for task in SUITES["quick"].tasks}
TASK = "quick-digits-mlp-sgd"
GROWTH = {task.name: task for task in SUITES["growth"].tasks}
QUALITIES = {
    "sgd-ie": (0.9, 2.0),
    "sgd-ie-exact": (0.89, 2.1),
    "grad-dot": (0.6, 0.01),
    "tracin": (0.5, 0.5),
    "loss": (0.1, 0.001),
    "trak": (-0.3, 5.0),
}


@cache
def known() -> Board:
    """Six estimators on the quick tasks; two more that failed or do not support a task."""
    results, limits = synthetic.everything(QUICK, QUALITIES, 3)
    more = [synthetic.result(task, name, 3, 0.7) for task in QUICK.values() for name in ("half", "other") if task.name != TASK]
    bad = [synthetic.failed(QUICK[TASK], "half", "crashed"), synthetic.failed(QUICK[TASK], "other", "unsupported")]
    return board([*results, *more, *bad], limits)


def one(kind: str, *, task: str | None = None, of: Board | None = None) -> Figure:
    """The only figure of a kind."""
    [(_, figure)] = figures.figures(of or known(), None if task else "quick", task, [kind])
    return figure


def lines(figure: Figure) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """What lines and marks show, by label."""
    return {str(line.get_label()): line.get_xydata() for axes in figure.axes for line in axes.lines}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def place_of(kind: str) -> tuple[tuple[str | None, str | None], dict[str, Task]]:
    """A suite or task that a kind can be drawn of, and the tasks to have results of."""
    if kind == "growth":
        return ("growth", None), GROWTH
    return ((None, TASK) if kind in ("horizons", "pairs") else ("quick", None)), QUICK


@pytest.mark.parametrize("kind", figures.KINDS)
def test_each_kind_gives_small_files_of_each_format_whose_bytes_repeat(kind: str, tmp_path: Path) -> None:
    place, tasks = place_of(kind)
    of = board(*synthetic.everything(tasks, QUALITIES, 3))
    for folder in ("one", "two"):
        [(name, figure)] = figures.figures(of, *place, [kind])
        paths = figures.save(figure, tmp_path / folder, name, ("svg", "pdf", "png"))

    assert name == f"{place[1] or place[0]}-{kind}"
    assert [path.read_bytes()[:5] for path in paths] == [b"<?xml", b"%PDF-", b"\x89PNG\r"]
    assert all(1000 < path.stat().st_size < 300_000 for path in paths)
    assert all(path.read_bytes() == (tmp_path / "one" / path.name).read_bytes() for path in paths)


def test_files_name_no_date_no_program_and_no_font_that_a_reader_must_have(tmp_path: Path) -> None:
    svg, pdf, png = (path.read_bytes() for path in figures.save(one("ranks"), tmp_path, "ranks", ("svg", "pdf", "png")))

    assert not re.search(rb"<text|<dc:date|<dc:creator", svg)
    assert not re.search(rb"/CreationDate|/Producer|/Creator", pdf)
    assert b"/FontFile2" in pdf
    assert b"tEXt" not in png


def test_drawing_leaves_the_users_settings_and_pyplot_alone() -> None:
    import matplotlib
    from matplotlib import pyplot

    with matplotlib.rc_context({"font.size": 31, "svg.fonttype": "none"}):
        before = dict(matplotlib.rcParams)
        figure = one("cost")
        assert dict(matplotlib.rcParams) == before

    assert figures.content(figure, "svg") == figures.content(one("cost"), "svg")
    assert not pyplot.get_fignums()


def test_cost_shows_score_interval_and_cost_of_each_complete_row_and_no_other() -> None:
    table, shown = known().suites[0].overall, lines(one("cost"))

    for row in table.estimators:
        assert (row.name in shown) == row.complete
    for row in filter(lambda row: row.complete, table.estimators):
        assert shown[row.name].tolist() == [[row.means["cost"], row.score.mean]]
        assert shown[f"{row.name} interval"][:, 1].tolist() == [row.score.low, row.score.high]


def test_cost_draws_the_front_and_names_its_rows_and_those_not_told_from_the_best() -> None:
    table, figure = known().suites[0].overall, one("cost")
    front = [row for row in table.estimators if row.front]
    named = {row.name for row in table.estimators if row.front or (row.compared and row.compared.group == 1)}

    assert sorted(row.name for row in front) == ["grad-dot", "loss"]
    assert lines(figure)["front"].tolist() == sorted([row.means["cost"], row.score.mean] for row in front)
    assert set(texts(figure)) == named | {"exact retraining"}
    assert {"sgd-ie", "loss"} <= named < set(QUALITIES)


def test_labels_of_a_crowd_do_not_overlap() -> None:
    crowd = {f"estimator-{at:02}": (0.5 + 0.01 * at, 0.1 * 1.05**at) for at in range(16)}
    figure = one("cost", of=board(*synthetic.everything(QUICK, crowd, 2)))
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for axes in figure.axes for text in axes.texts if text.get_text() in crowd]

    assert len(boxes) > 8
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_horizons_show_the_curve_of_each_of_the_best_rows_and_the_ceiling() -> None:
    [table] = [table for table in known().suites[0].tasks if table.name == TASK]
    shown = lines(one("horizons", task=TASK))

    assert set(shown) == {*QUALITIES, "ceiling"}
    for row in (row for row in table.estimators if row.name in QUALITIES):
        assert shown[row.name].tolist() == [[*map(float, point)] for point in curve(row.results[0])]
    assert shown["ceiling"] == pytest.approx(np.array([[step, 0.95] for step in QUICK[TASK].horizons]))


def test_horizons_show_at_most_eight_rows_and_labels_apart() -> None:
    many = {f"estimator-{at:02}": (0.5 + 0.001 * at, 1.0) for at in range(12)}
    figure = one("horizons", task=TASK, of=board(*synthetic.everything(QUICK, many, 2)))
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]

    assert len(boxes) == 9
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_heights_are_spread_by_the_gap_and_move_no_more_than_they_must() -> None:
    assert labels.spread([0, 10], 3, 0, 20).tolist() == [0, 10]
    assert labels.spread([5, 5], 2, 0, 20).tolist() == [4, 6]
    assert labels.spread([20, 20], 2, 0, 20).tolist() == [18, 20]


def test_pairs_show_all_kept_effects_and_the_identity_only_for_estimates_of_loss() -> None:
    results, limits = synthetic.everything({TASK: QUICK[TASK]}, {"sgd-ie": (0.9, 1.0), "tracin": (0.5, 1.0)}, 2)
    other = replace(results[1], estimator=replace(results[1].estimator, loss_units=False))
    known = board([results[0], other], limits)
    figure = one("pairs", task=TASK, of=known)

    for axes, result in zip(figure.axes, (results[0], other), strict=True):
        points = {str(line.get_label()): line for line in axes.lines}
        expected = [[true, predicted] for _, true, predicted in pairs(result, limits)]
        assert points[result.estimator.name].get_xydata().tolist() == expected
        assert ("identity" in points) == result.estimator.loss_units
        assert axes.get_ylim()[0] <= min(predicted for _, predicted in expected)
    assert len(expected) == 2 * synthetic.POINTS


def test_the_heatmap_has_each_score_and_hatches_what_is_missing_by_its_reason() -> None:
    figure = one("heatmap")
    [axes] = figure.axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    tasks = [label.get_text() for label in axes.get_yticklabels()]
    shown = {text.get_position(): text.get_text().replace("\N{MINUS SIGN}", "-") for text in axes.texts}
    missing = {(*patch.get_xy(), patch.get_hatch()) for patch in axes.patches}

    for table in known().suites[0].tasks:
        for row in (row for row in table.estimators if row.complete):
            at = names.index(row.name), tasks.index(table.name.removeprefix("quick-"))
            assert int(shown[at]) == round(100 * row.score.mean)
    at = tasks.index(TASK.removeprefix("quick-")) - 0.5
    assert missing == {
        (names.index("half") - 0.5, at, overviews.ABSENT["failed"]),
        (names.index("other") - 0.5, at, overviews.ABSENT["unsupported"]),
    }
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"failed", "unsupported"}


def test_the_heatmap_shows_the_twenty_best_and_says_so() -> None:
    many = {f"estimator-{at:02}": (0.3 + 0.02 * at, 1.0) for at in range(25)}
    [axes] = one("heatmap", of=board(*synthetic.everything(QUICK, many, 1))).axes

    assert "the first 20 of 25 estimators" in axes.get_xlabel()
    assert "estimator-24" in [label.get_text() for label in axes.get_xticklabels()]
    assert "estimator-00" not in [label.get_text() for label in axes.get_xticklabels()]


def test_ranks_and_bars_are_those_of_the_statistics_with_the_best_to_the_right() -> None:
    table, figure = known().suites[0].overall, one("ranks")
    rows = overviews.rankable(known(), table)
    average, joined = ties.ranks(rows), ties.cliques(rows)
    shown = lines(figure)

    assert set(rows) == set(QUALITIES)
    assert {name: shown[name][0, 0] for name in average} == average
    assert joined
    assert {label for label in shown if "|" in label} == {"|".join(names) for names in joined}
    for names in joined:
        assert shown["|".join(names)][:, 0].tolist() == [average[names[0]], average[names[-1]]]
    assert figure.axes[0].xaxis_inverted()


def test_bars_that_meet_lie_on_different_levels() -> None:
    assert overviews.stacked([(1, 2), (1.5, 3), (2.5, 4), (3.5, 5)]) == [0, 1, 0, 1]
    assert overviews.stacked([(1, 2), (3, 4)]) == [0, 0]


def test_an_estimator_that_is_the_truth_itself_is_only_in_the_figure_of_cost() -> None:
    results, limits = synthetic.everything(QUICK, QUALITIES, 2)
    truth = [synthetic.result(task, "truth", 2, 1.0) for task in QUICK.values()]
    exact = [replace(result, cells={seed: perfect(cell) for seed, cell in result.cells.items()}) for result in truth]
    known = board([*results, *exact], limits)

    assert "truth" in texts(one("cost", of=known))
    assert "truth" not in lines(one("ranks", of=known))
    assert "truth" not in lines(one("horizons", task=TASK, of=known))


def perfect(cell: synthetic.Cell) -> synthetic.Cell:
    """A cell all of whose scores are 1."""
    return replace(cell, by_query=[1.0] * len(cell.by_query), scores={name: [1.0] * len(v) for name, v in cell.scores.items()})


def test_growth_shows_score_and_cost_of_each_method_against_the_number_of_samples() -> None:
    of = board(*synthetic.everything(GROWTH, QUALITIES, 2))
    [(_, figure)] = figures.figures(of, "growth", None, ["growth"])
    rows = {(table.name, row.name): row for table in of.suites[0].tasks for row in table.estimators}
    smooth, rough = ({line.get_label(): line.get_xydata().tolist() for line in figure.axes[at].lines} for at in (1, 3))

    for family, shown in (("growth-mnist-mlp", smooth), ("growth-mnist-mlp-relu", rough)):
        for name in QUALITIES:
            sizes = (200, 1000, 5000, 20_000, 60_000)
            assert shown[name] == [[size, rows[f"{family}-{size}", name].means["cost"]] for size in sizes]
    left = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    assert [200.0, rows["growth-mnist-mlp-200", "trak"].score.mean] in [points[0] for points in left]


def test_what_is_not_verified_is_in_no_figure() -> None:
    for kind in figures.KINDS:
        place, tasks = place_of(kind)
        made, limits = synthetic.everything(tasks, {"sgd-ie": (0.9, 0.5), "loss": (0.2, 0.1), "theirs": (0.95, 0.1)}, 3)
        sent = [claimed(one) if one.estimator.name == "theirs" else one for one in made]
        [(_, trusted)] = figures.figures(board(made, limits), *place, [kind])
        [(_, figure)] = figures.figures(board(sent, limits), *place, [kind])
        assert "theirs" in said(trusted), kind
        assert "theirs" not in said(figure), kind


def said(figure: Figure) -> str:
    """All texts of a figure."""
    return " ".join(one.get_text() for one in figure.findobj(Text))


def test_names_with_markup_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = {"$x_1$": (0.9, 1.0), "<b>&": (0.5, 0.5), "**a**\\frac": (0.4, 0.1)}
    for kind in figures.KINDS:
        place, tasks = place_of(kind)
        [(_, figure)] = figures.figures(board(*synthetic.everything(tasks, names, 2)), *place, [kind])
        figures.save(figure, tmp_path, kind)
        assert not any(text.get_parse_math() for text in figure.findobj(Text) if "$x_1$" in text.get_text())
        assert len(re.findall(r"<!-- .*\$x_1\$", (tmp_path / f"{kind}.svg").read_text())) == 1
    assert figures.file_name("quick (float32, cuda)", "cost") == "quick-float32-cuda-cost"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("quik",), "unknown suite 'quik': did you mean quick"),
        ((None, "quick-digit-mlp-sgd"), "unknown task"),
        ((None, None, ["horizon"]), "unknown kind of figure 'horizon': did you mean horizons"),
        ((None, TASK, ["heatmap"]), "heatmap is a figure of a suite, not of a task"),
    ],
)
def test_what_is_not_known_is_an_error_at_once(arguments: tuple[str | None, ...], said: str) -> None:
    with pytest.raises(LoobenchError, match=said):
        figures.figures(known(), *arguments)  # type: ignore[arg-type]


def test_an_unknown_format_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(LoobenchError, match="unknown format 'svgz': did you mean svg"):
        figures.save(Figure(), tmp_path, "a", ("png", "svgz"))

    assert not list(tmp_path.iterdir())


def test_what_a_board_lacks_is_left_out_of_all_kinds_and_an_error_where_its_kind_is_named() -> None:
    task = SUITES["cleansing"].tasks[0]
    results = [synthetic.result(task, "sgd-ie", 1, 0.9)]
    known = board(results, {})

    assert [name for name, _ in figures.figures(known)] == ["cleansing-cost"]
    for kind, reason in {
        "horizons": "one horizon",
        "pairs": "no pairs",
        "ranks": "two complete rows",
        "heatmap": "one task",
        "growth": "no tasks that differ in the number of samples",
    }.items():
        with pytest.raises(LoobenchError, match=reason):
            figures.figures(known, None, None, [kind])


def test_without_a_name_a_suite_gives_its_own_figures_and_those_of_its_tasks() -> None:
    found = figures.places(known(), "quick", None)
    names = {kind: len(figures.drawn(known(), figures.KINDS[kind], *found, named=False)) for kind in figures.KINDS}

    assert names == {"cost": 1, "horizons": 6, "pairs": 6, "heatmap": 1, "growth": 0, "ranks": 1}
