"""The figure of a suite whose tasks differ in N: score and cost against the number of samples."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.publishing.drawing import (
    COLOURS,
    GREY,
    MARKERS,
    WIDE,
    canvas,
    score_name,
    short,
    suite_of,
    within,
)
from benchmark.scores.rows import Board, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
Point = tuple[int, float, float]  # N, score, cost


def families(board: Board, table: Table) -> dict[str, list[Table]]:
    """The tasks of a suite that differ in N alone, by the name they share: those of two sizes or more, the smallest first."""
    found = defaultdict(list)
    for task in suite_of(board, table).tasks:
        found[re.sub(rf"-{task.results[0].task['train']}$", "", task.name)].append(task)
    sizes = {name: sorted(tasks, key=lambda one: int(one.results[0].task["train"])) for name, tasks in found.items()}
    return {name: tasks for name, tasks in sizes.items() if len(tasks) > 1}


def curves(tasks: Sequence[Table]) -> dict[str, list[Point]]:
    """Of each estimator the points of its complete and trusted rows with a score and a cost."""
    found = defaultdict(list)
    for task in tasks:
        for row in task.estimators:
            if row.complete and row.trusted and not np.isnan(row.score.mean) and row.means["cost"] > 0:
                found[row.name].append((int(task.results[0].task["train"]), row.score.mean, row.means["cost"]))
    return dict(found)


def lacks_growth(board: Board, table: Table) -> str:
    """Tasks that differ in N."""
    return "" if any(map(curves, families(board, table).values())) else "it has no tasks that differ in the number of samples"


def growth(board: Board, table: Table) -> "Figure":
    """For each group of tasks the score that ranks, and cost over that of exact leave-one-out, against N."""
    found = families(board, table)
    figure, axes = canvas(WIDE, 12 + 62 * len(found), len(found), 2)
    names = sorted({name for tasks in found.values() for name in curves(tasks)})
    styles = {name: style(place) for place, name in enumerate(names)}
    for (family, tasks), left, right in zip(found.items(), axes[::2], axes[1::2], strict=True):
        for name, points in curves(tasks).items():
            sizes, scores, costs = zip(*points, strict=True)
            left.plot(sizes, scores, **styles[name])
            right.plot(sizes, costs, label=short(name), **styles[name])
        frame(left, right, table, family)
    ticks = sorted({int(task.results[0].task["train"]) for tasks in found.values() for task in tasks})
    for one in axes:
        one.set_xticks(ticks, [f"{size:,}" for size in ticks])
        one.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    handles, labels = axes[1].get_legend_handles_labels()
    for text in figure.legend(handles, labels, loc="outside right center").get_texts():
        text.set_parse_math(False)
    return figure


def style(place: int) -> dict[str, Any]:
    """A colour and marker, and dashes for every second round of colours."""
    turn, at = divmod(place, len(COLOURS))
    return {"color": COLOURS[at], "marker": MARKERS[at], "markeredgewidth": 0, "linestyle": ("-", (0, (3, 1.5)))[turn % 2]}


def frame(left: "Axes", right: "Axes", table: Table, family: str) -> None:
    """Axes with units, and the line of exact retraining."""
    for axes in (left, right):
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xlabel("training samples N")
    left.set_ylim(*within(left.get_ylim()))
    left.set_ylabel(score_name(table))
    left.set_title(short(family, 50), loc="left", parse_math=False)
    right.set_yscale("log")
    right.set_ylabel("cost (over exact leave-one-out)")
    right.axhline(1, color=GREY, linewidth=0.6, linestyle=(0, (4, 2)))
