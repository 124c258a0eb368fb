"""Figures of points and curves: score against cost, score against horizon, predicted against true effects."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.scores.cells import bounds, curve, pairs
from benchmark.scores.metrics import Values
from benchmark.scores.numbers import mean, number
from benchmark.scores.results import Bounds
from benchmark.scores.rows import Board, Row, Table
from benchmark.tasks.questions import FurtherTraining

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from benchmark.publishing.drawing import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    NARROW,
    PALE,
    RED,
    SMALL,
    WIDE,
    canvas,
    estimates,
    score_name,
    settle,
    short,
    within,
)
from benchmark.publishing.labels import end_label, place, spread_out

LINES, PANELS = 8, 6  # at most so many in one figure


# ---- accuracy against cost -------------------------------------------------------------------------------------------
def priced(table: Table) -> list[Row]:
    """Complete and trusted rows with a score and a cost."""
    return [row for row in table.estimators if row.ranks and not np.isnan(row.score.mean) and row.means["cost"] > 0]


def lacks_cost(board: Board, table: Table) -> str:  # noqa: ARG001
    """Complete rows with a score and a cost."""
    return "" if priced(table) else "it has no complete row with a score and a cost"


def cost(board: Board, table: Table) -> "Figure":  # noqa: ARG001
    """The score that ranks, with its 95 % interval, against cost over that of exact leave-one-out; the Pareto front."""
    rows = priced(table)
    told = [row for row in rows if row.front or best(row) or "exact" in row.marks]
    figure, [axes] = canvas(WIDE if len(told) > 6 else NARROW, 95 if len(told) > 6 else 70)
    axes.axvline(1, color=GREY, linewidth=0.6, linestyle=(0, (4, 2)))
    draw_front(axes, rows)
    for row in sorted(rows, key=lambda row: (row in told, row.name)):
        draw_priced(axes, row)
    frame_cost(axes, table, rows)
    settle(figure)
    labels = [(row.means["cost"], row.score.mean, short(row.name)) for row in told]
    place(axes, labels, landmarks(axes, rows, told))
    return figure


def best(row: Row) -> bool:
    """Whether a row is not told from the best."""
    return row.compared is not None and row.compared.group == 1


def draw_front(axes: "Axes", rows: Sequence[Row]) -> None:
    """The best score to be had for a cost, a staircase through the rows on the front."""
    front = np.reshape(sorted((row.means["cost"], row.score.mean) for row in rows if row.front), (-1, 2))
    axes.plot(*front.T, color=BLUE, linewidth=0.8, drawstyle="steps-post", label="front", zorder=1.5)


def draw_priced(axes: "Axes", row: Row) -> None:
    """A row's interval and mark: its shape says whether it is among the best, its colour whether it is on the front."""
    price, score = row.means["cost"], row.score
    colour, size = (BLUE, 3.5) if row.front else (RED, 3.5) if best(row) else (BLACK if "exact" in row.marks else PALE, 2.5)
    shape = "D" if best(row) else "o"
    axes.plot([price, price], [score.low, score.high], color=colour, linewidth=0.7, label=f"{row.name} interval")
    axes.plot([price], [score.mean], shape, color=colour, markersize=size, markeredgewidth=0, label=row.name, zorder=3)


def frame_cost(axes: "Axes", table: Table, rows: Sequence[Row]) -> None:
    """Axes with units, and what the marks mean."""
    from matplotlib.lines import Line2D

    axes.set_xscale("log")
    axes.set_ylim(*within(axes.get_ylim()))
    axes.set_xlabel("cost (time over that of exact leave-one-out)")
    axes.set_ylabel(score_name(table))
    above = axes.get_xaxis_transform()
    axes.annotate("exact retraining", (1, 1), (0, 2), xycoords=above, textcoords="offset points", ha="center", color=GREY)
    marks = (
        [Line2D([], [], color=BLUE, marker="o", linewidth=0.8, label="Pareto front")] if any(row.front for row in rows) else []
    )
    if any(map(best, rows)):
        marks.append(Line2D([], [], color=RED, marker="D", linewidth=0, label="best, or not told from it"))
    if not all(row.front or best(row) for row in rows):
        marks.append(Line2D([], [], color=PALE, marker="o", markersize=2.5, linewidth=0, label="others"))
    axes.figure.legend(handles=marks, loc="outside lower center", ncols=3)


def landmarks(axes: "Axes", rows: Sequence[Row], told: Sequence[Row]) -> Values:
    """Points on what labels keep clear of, in pixels: all marks, the front, intervals of the labelled rows. (S, 2)"""
    marks = [(row.means["cost"], row.score.mean) for row in rows]
    bars = [(row.means["cost"], y) for row in told for y in np.linspace(row.score.low, row.score.high, 12)]
    front = sorted((row.means["cost"], row.score.mean) for row in rows if row.front)
    stairs = [(x, low) for (left, low), (right, _) in pairwise(front) for x in np.geomspace(left, right, 25)]
    found: Values = axes.transData.transform([*marks, *bars, *stairs])
    return found[np.isfinite(found).all(1)]


# ---- score against horizon -------------------------------------------------------------------------------------------
def curves(board: Board, table: Table) -> list[tuple[str, list[tuple[int, float]]]]:
    """The best rows of a task that have a score at two horizons or more: name, (horizon, score)."""
    found = [(row.name, curve(row.results[0])) for row in estimates(board, table) if row.complete]
    return [(name, points) for name, points in found if len(points) > 1][:LINES]


def lacks_horizons(board: Board, table: Table) -> str:
    """A score at two horizons."""
    return "" if curves(board, table) else "it has one horizon, or no complete row"


def horizons(board: Board, table: Table) -> "Figure":
    """The score that ranks against horizon for the best rows of a task, and the ceiling of each horizon, dashed."""
    figure, [axes] = canvas(NARROW, 65)
    found, notes = curves(board, table), []
    for rank, (name, points) in enumerate(found):
        style: dict[str, Any] = {"color": COLOURS[rank], "marker": MARKERS[rank], "markeredgewidth": 0}
        axes.plot(*zip(*points, strict=True), label=name, **style)
        notes.append(end_label(axes, points[-1], short(name, 24), COLOURS[rank]))
    if above := ceiling(board, table):
        axes.plot(*zip(*above, strict=True), color=BLACK, linewidth=0.8, linestyle=(0, (4, 2)), label="ceiling")
        notes.append(end_label(axes, above[-1], "ceiling", BLACK))
    frame_horizons(axes, table)
    settle(figure)
    spread_out(axes, notes)
    return figure


def ceiling(board: Board, table: Table) -> list[tuple[int, float]]:
    """The ceiling at each horizon, the mean over seeds that have it: (horizon, ceiling) where it is known."""
    found = bounds(table.results, board.limits).values()
    steps = table.results[0].task["horizons"]
    values = [mean(known(found, at)) for at in range(len(steps))]
    return [(int(step), value) for step, value in zip(steps, values, strict=True) if not np.isnan(value)]


def known(found: Iterable[Bounds], horizon: int) -> list[float]:
    """What is known of the ceiling at one horizon."""
    values = [number(one.values["ceiling"][horizon]) for one in found if one.values.get("ceiling")]
    return [value for value in values if not np.isnan(value)]


def frame_horizons(axes: "Axes", table: Table) -> None:
    """Axes with units, a tick at each horizon."""
    task = table.results[0].task
    further = task.get("truth", {}).get("kind") == FurtherTraining.kind
    axes.set_xlabel("epochs of further training" if further else "horizon (epochs)")
    axes.set_ylabel(score_name(table))
    axes.set_ylim(*within(axes.get_ylim()))
    axes.set_xticks(task["horizons"])
    axes.set_title(short(table.name, 50), loc="left", parse_math=False)


# ---- predicted against true effects ----------------------------------------------------------------------------------
def compared(board: Board, table: Table) -> list[tuple[Row, Values]]:
    """The best rows of a task whose pairs were kept, with them: (row, (true, predicted) of each)."""
    chosen = estimates(board, table)
    found = ((row, np.array([pair[1:] for pair in pairs(row.results[0], board.limits)])) for row in chosen)
    return [(row, values) for row, values in found if len(values)][:PANELS]


def lacks_pairs(board: Board, table: Table) -> str:
    """Pairs of effects."""
    return "" if compared(board, table) else "no pairs of true and predicted effects were kept"


def scatter(board: Board, table: Table) -> "Figure":
    """Predicted against true effects, each over the standard deviation of the true ones; y = x for estimates in loss."""
    found = compared(board, table)
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, panels = canvas(WIDE if columns > 1 else NARROW, 62 * rows if columns > 1 else 75, rows, columns)
    for axes, (row, values) in zip(panels, found, strict=False):
        draw_pairs(axes, row, values)
        axes.set_title(f"{short(row.name)}   {score_name(table)} {row.score.mean:.2f}", loc="left", parse_math=False)
    for axes in panels[len(found) :]:
        axes.remove()
    figure.supxlabel("true effect (standard deviations of true effects)", fontsize=7)
    figure.supylabel("predicted effect (same unit)", fontsize=7)
    return figure


def draw_pairs(axes: "Axes", row: Row, values: Values) -> None:
    """A panel; many points are drawn as an image, which keeps files small."""
    true, predicted = values.T
    axes.axhline(0, color=PALE, linewidth=0.5)
    axes.axvline(0, color=PALE, linewidth=0.5)
    axes.plot(
        true,
        predicted,
        "o",
        color=BLUE,
        markersize=2.5,
        markeredgewidth=0,
        alpha=0.6,
        label=row.name,
        rasterized=len(true) > 200,
    )
    if row.results[0].estimator.loss_units:
        limits = axes.axis()
        axes.axline((0, 0), slope=1, color=BLACK, linewidth=0.7, linestyle=(0, (4, 2)), label="identity")
        axes.axis(limits)
    else:
        axes.annotate(
            "own unit, not that of loss", (0.97, 0.04), xycoords="axes fraction", ha="right", fontsize=SMALL, color=GREY
        )
