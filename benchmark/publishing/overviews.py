"""Figures of a whole suite: the scores of all tasks and estimators, and average ranks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmark.scores import ties
from benchmark.scores.cells import by_task, rankings
from benchmark.scores.metrics import Values
from benchmark.scores.results import Result
from benchmark.scores.rows import Board, Row, Suite, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from benchmark.publishing.drawing import (
    BLACK,
    GREY,
    NARROW,
    PALE,
    SMALL,
    WIDE,
    canvas,
    estimates,
    score_name,
    short,
    suite_of,
)

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
SHOWN, CELLS, RANKED = 20, 600, 12  # at most so many estimators, cells and ranks in one figure
ABSENT = {"unsupported": "////", "failed": "xxxx", "not run": "", "not defined": "----"}  # why a cell is empty -> hatching


# ---- tasks and estimators --------------------------------------------------------------------------------------------
def lacks_heatmap(board: Board, table: Table) -> str:
    """Two tasks."""
    return "" if estimates(board, table) and len(by_task(table.results)) > 1 else "it has one task, or no estimator"


def heatmap(board: Board, table: Table) -> "Figure":
    """The score that ranks, times 100, of each task and estimator; cells without one are hatched with the reason."""
    tasks = {name: at for at, (name, _) in enumerate(by_task(table.results))}
    found = estimates(board, table)
    rows = found[: min(SHOWN, max(1, CELLS // len(tasks)))]
    figure, [axes] = canvas(WIDE if len(rows) > 6 else NARROW, 38 + 4.2 * len(tasks))
    scores, reasons = cells(board, table, rows, tasks)
    colour_cells(axes, scores)
    for (task, row), reason in np.ndenumerate(reasons):
        write_cell(axes, (row, task), float(scores[task, row]), reason)
    frame_heatmap(axes, table, rows, list(tasks), len(found))
    explain(figure, [reason for reason in ABSENT if (reasons == reason).any()])
    return figure


def cells(board: Board, table: Table, rows: Sequence[Row], tasks: Mapping[str, int]) -> tuple[Values, NDArray[np.str_]]:
    """Scores of tasks and rows, NaN where there is none, and then why. (tasks, rows) each"""
    suite = suite_of(board, table)
    scores, reasons = np.full((len(tasks), len(rows)), np.nan), np.full((len(tasks), len(rows)), "not run", dtype="<U20")
    for place, row in enumerate(rows):
        means = task_scores(suite, row.name)
        for result in row.results:
            at = tasks[result.name], place
            scores[at] = means[result.name]
            reasons[at] = absent(result, means[result.name])
    return scores, reasons


def task_scores(suite: Suite, name: str) -> dict[str, float]:
    """The score that ranks of one estimator, by task."""
    return {table.name: row.score.mean for table in suite.tasks for row in table.estimators if row.name == name}


def absent(result: Result, score: float) -> str:
    """Why a result has no score, "" where it has one."""
    missing = {cell.status for cell in result.cells.values()} - {"ok"}
    if missing:
        return "failed" if missing - {"unsupported"} else "unsupported"
    return "not defined" if np.isnan(score) else ""


def colour_cells(axes: "Axes", scores: Values) -> None:
    """Darker where better, white at 0 and below; monotone in grey print too."""
    rows, columns = scores.shape
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    style: dict[str, Any] = {"cmap": "Blues", "vmin": 0, "vmax": 1, "edgecolor": "white", "linewidth": 0.4}
    axes.pcolormesh(*edges, np.ma.masked_invalid(scores), rasterized=scores.size > 200, **style)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)


def write_cell(axes: "Axes", at: tuple[int, int], score: float, reason: str) -> None:
    """A cell's number, or the hatching of its reason."""
    if reason:
        corner = (at[0] - 0.5, at[1] - 0.5)
        axes.add_patch(hatched(reason, corner))
        return
    axes.text(*at, percent(score), ha="center", va="center", fontsize=SMALL, color="white" if score > 0.6 else BLACK)


def percent(score: float) -> str:
    """A score times 100, without a decimal, with the sign that axes have for minus."""
    return f"{round(100 * score)}".replace("-", MINUS)


def hatched(reason: str, corner: tuple[float, float] = (0, 0)) -> Any:
    """A cell without a score."""
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, facecolor="white", edgecolor=PALE, linewidth=0.4, hatch=ABSENT[reason], label=reason)


def frame_heatmap(axes: "Axes", table: Table, rows: Sequence[Row], tasks: Sequence[str], known: int) -> None:
    """Names of estimators above and of tasks, without that of the suite, at the side; what is shown."""
    prefix = f"{table.name.split(' ')[0]}-"
    names = [task.removeprefix(prefix) for task in tasks]
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(rows)), [short(row.name, 24) for row in rows], rotation=90, parse_math=False)
    axes.set_yticks(range(len(tasks)), [short(name, 34) for name in names], parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    of = "" if len(rows) == known else f", the first {len(rows)} of {known} estimators"
    axes.set_xlabel(f"{short(table.name, 40)}: {score_name(table)} {TIMES} 100{of}", parse_math=False)


def explain(figure: "Figure", reasons: Sequence[str]) -> None:
    """What the hatching means, where there is some."""
    if reasons:
        handles = [hatched(reason) for reason in reasons]
        figure.legend(handles=handles, loc="outside lower right", ncols=len(reasons), handlelength=1.4, handleheight=1.4)


# ---- average ranks ---------------------------------------------------------------------------------------------------
def rankable(board: Board, table: Table) -> dict[str, list[dict[str, Values]]]:
    """The best complete rows of a suite: name -> of each task, seed -> (Q,) the score that ranks."""
    rows = [row for row in estimates(board, table) if row.complete and not np.isnan(row.score.mean)][:RANKED]
    return {row.name: rankings([result for _, [result] in by_task(row.results)]) for row in rows}


def lacks_ranks(board: Board, table: Table) -> str:
    """Two complete rows with common seeds."""
    rows = rankable(board, table)
    if len(rows) < 2:
        return "it has fewer than two complete rows"
    return "its rows have no seed in common" if any(map(np.isnan, ties.ranks(rows).values())) else ""


def diagram(board: Board, table: Table) -> "Figure":
    """Average ranks, the best to the right; a bar joins rows not told apart.

    The layout is that of Demsar 2006 (JMLR 7), the test that of `benchmark.scores.ties.cliques`.
    """
    rows = rankable(board, table)
    average, joined = ties.ranks(rows), ties.cliques(rows)
    levels = stacked([(average[names[0]], average[names[-1]]) for names in joined])
    top = 0.7 * (max(levels, default=-1) + 1) + 0.9
    depth = top + (len(rows) + 1) // 2
    figure, [axes] = canvas(WIDE, 12 + 4 * depth)
    for names, level in zip(joined, levels, strict=True):
        at = -0.6 - 0.7 * level
        axes.plot([average[names[0]], average[names[-1]]], [at, at], color=BLACK, linewidth=2.5, label="|".join(names))
    for place, name in enumerate(average):
        draw_rank(axes, name, average, place, top)
    frame_ranks(axes, table, len(rows), depth)
    return figure


def stacked(bars: Sequence[tuple[float, float]]) -> list[int]:
    """The level of each bar, the lowest at which it is clear of those before it."""
    levels: list[int] = []
    for at, (low, high) in enumerate(bars):
        met = {levels[other] for other in range(at) if bars[other][0] <= high and low <= bars[other][1]}
        levels.append(next(level for level in range(at + 1) if level not in met))
    return levels


def draw_rank(axes: "Axes", name: str, average: Mapping[str, float], place: int, top: float) -> None:
    """A row's line from the axis down and out to its name: the better half to the right, best and worst highest."""
    rows, rank = len(average), average[name]
    better = place < (rows + 1) // 2
    height = -top - (place if better else rows - 1 - place)
    edge = 1 - 0.02 * rows if better else rows * 1.02
    axes.plot([rank, rank, edge], [0, height, height], color=GREY, linewidth=0.6, label=name)
    text = f"{rank:.2f}  {short(name)}" if better else f"{short(name)}  {rank:.2f}"
    shift, side = ((2, 0), "left") if better else ((-2, 0), "right")
    axes.annotate(text, (edge, height), shift, textcoords="offset points", ha=side, va="center", parse_math=False)


def frame_ranks(axes: "Axes", table: Table, rows: int, depth: float) -> None:
    """The axis of ranks above, the best to the right."""
    axes.set_xlim(rows * 1.02, 1 - 0.02 * rows)
    axes.set_ylim(-depth, 0)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xticks(range(1, rows + 1))
    axes.set_yticks([])
    axes.spines[["left", "bottom", "right"]].set_visible(False)
    axes.spines["top"].set_visible(True)
    axes.spines["top"].set_bounds(1, rows)
    axes.set_xlabel(f"average rank by {score_name(table)} on {short(table.name, 40)}", parse_math=False)
