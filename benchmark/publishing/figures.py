"""Figures for papers, from the same board as the leaderboard; the same board gives the same bytes."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from benchmark.base.errors import LoobenchError, unknown
from benchmark.base.files import write
from benchmark.base.text import line
from benchmark.scores import statistics
from benchmark.scores.board import Board, Row, Suite, Table, bounds, by_task, curve, mean, number, pairs, rankings
from benchmark.scores.results import Bounds, Result
from benchmark.tasks.questions import FurtherTraining

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

Values = NDArray[np.float64]

NARROW, WIDE = 89, 183  # mm, one and two columns of a journal
FORMATS = {  # what would tell one day or version from another is left out
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.size": 0,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "loobench",
    "pdf.fonttype": 42,
}
BLACK, GREY, PALE = "#000000", "#777777", "#BBBBBB"
ORANGE, SKY, GREEN, BLUE, RED, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"  # Okabe & Ito 2008
COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SMALL = 6.5  # points
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
LINES, PANELS, SHOWN, CELLS, RANKED = 8, 6, 20, 600, 12  # at most so many of each in one figure
AXES = {"tau": "Kendall's τ", "LDS": "linear datamodeling score", "cos": "cosine"}
ABSENT = {"unsupported": "////", "failed": "xxxx", "not run": "", "not defined": "----"}  # why a cell is empty -> hatching


@dataclass(frozen=True)
class Kind:
    """A kind of figure: what is drawn of a table, what a table lacks for it ("" for nothing), and of which tables it is."""

    draw: "Callable[[Board, Table], Figure]"
    lacks: Callable[[Board, Table], str]
    suites: bool
    tasks: bool
    by_default: bool = True  # whether of every task of a suite too, where no task is named


# ---- which figures ---------------------------------------------------------------------------------------------------
def figures(
    board: Board, suite: str | None = None, task: str | None = None, kinds: Sequence[str] | None = None
) -> "Iterator[tuple[str, Figure]]":
    """Figures of a task; of a suite and its tasks; or of all suites: (name, figure), the name being ``<table>-<kind>``.

    Of all kinds, those are left out for which a table lacks something. Raises LoobenchError at once for an unknown suite, task
    or kind, where a kind that is named can be drawn of nothing that is asked for, and without matplotlib.
    """
    need_matplotlib()
    for name in kinds or ():
        if name not in KINDS:
            raise unknown("kind of figure", name, KINDS)
    suites, tasks = places(board, suite, task)
    found = [(name, drawn(board, KINDS[name], suites, tasks, named=task is not None)) for name in dict.fromkeys(kinds or KINDS)]
    for name, tables in found if kinds else ():
        refuse_none(board, KINDS[name], name, tables, [*suites, *tasks])
    return ((file_name(table.name, name), draw(board, name, table)) for name, tables in found for table in tables)


def draw(board: Board, kind: str, table: Table) -> "Figure":
    """One figure, its layout settled, so that all formats show the same."""
    with styled():
        figure = KINDS[kind].draw(board, table)
        settle(figure)
    return figure


def places(board: Board, suite: str | None, task: str | None) -> tuple[list[Table], list[Table]]:
    """The tables of suites and of tasks that are asked for. Raises LoobenchError for unknown ones."""
    suites = {found.name: found for found in board.suites}
    if suite is not None and suite not in suites:
        raise unknown("suite", suite, suites)
    chosen = list(suites.values()) if suite is None else [suites[suite]]
    tasks = {table.name: table for found in chosen for table in found.tasks}
    if task is not None and task not in tasks:
        raise unknown("task", task, tasks)
    return ([found.overall for found in chosen], list(tasks.values())) if task is None else ([], [tasks[task]])


def drawn(board: Board, kind: Kind, suites: Sequence[Table], tasks: Sequence[Table], *, named: bool) -> list[Table]:
    """The tables that a kind of figure is drawn of."""
    chosen = [*(suites if kind.suites else ()), *(tasks if kind.tasks and (named or kind.by_default) else ())]
    return [table for table in chosen if not kind.lacks(board, table)]


def refuse_none(board: Board, kind: Kind, name: str, found: Sequence[Table], asked: Sequence[Table]) -> None:
    """Raise LoobenchError where a named kind can be drawn of nothing that is asked for."""
    if found:
        return
    if len(asked) == 1 and not kind.tasks:
        raise LoobenchError(f"{name} is a figure of a suite, not of a task: name a suite by --suite, and no task")
    reasons = list(dict.fromkeys(kind.lacks(board, table) for table in asked))
    raise LoobenchError(f"no figure {name} of {asked[0].name}: {next(filter(None, reasons))}; see --kind for others")


def file_name(table: str, kind: str) -> str:
    """``<table>-<kind>``, in letters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", f"{table}-{kind}").strip("-.")


# ---- files -----------------------------------------------------------------------------------------------------------
def save(figure: "Figure", folder: Path, name: str, formats: Sequence[str] = ("svg",)) -> list[Path]:
    """Write ``folder/name.<format>`` for each format, at once each, and give their paths.

    Raises LoobenchError for an unknown format, before anything is written, and where the folder cannot be written.
    """
    for form in formats:
        if form not in FORMATS:
            raise unknown("format", form, FORMATS)
    paths = [folder / f"{name}.{form}" for form in dict.fromkeys(formats)]
    for path in paths:
        write(path, content(figure, path.suffix[1:]))
    return paths


def content(figure: "Figure", form: str) -> bytes:
    """The bytes of a figure's file, the same for the same figure."""
    whole = BytesIO()
    with styled():
        figure.savefig(whole, format=form, metadata=FORMATS[form])
    return whole.getvalue()


def need_matplotlib() -> None:
    """Raise LoobenchError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise LoobenchError("figures are drawn by matplotlib, which is not installed: `pip install matplotlib`") from error


def styled() -> AbstractContextManager[None]:
    """Our style for what is drawn inside, whatever the user's own is."""
    from matplotlib import style

    return style.context(["default", dict(STYLE)])


def canvas(width: float, height: float, rows: int = 1, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    """A figure of a size in mm with a grid of axes, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 25.4, height / 25.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def settle(figure: "Figure") -> None:
    """Lay out a figure, for good: texts that are placed afterwards, and other formats, move nothing."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def short(name: str, letters: int = 30) -> str:
    """A name that fits beside a figure."""
    return line(name, letters)


def estimates(board: Board, table: Table) -> list[Row]:
    """The trusted rows of estimators, the best first, but for those that are the truth itself on their suite."""
    suite = suite_of(board, table)
    exact = {row.name for row in suite.overall.estimators if "exact" in row.marks}
    return [row for row in table.estimators if row.trusted and row.name not in exact]


def suite_of(board: Board, table: Table) -> Suite:
    """The suite that a table is of."""
    return next(suite for suite in board.suites if table in (suite.overall, *suite.tasks))


def score_name(table: Table) -> str:
    """What an axis calls the score that ranks."""
    title = table.columns[0].title
    return AXES.get(title, title)


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


def within(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits of a score's axis: scores and their intervals lie in -1 ... 1."""
    return max(limits[0], -1.05), min(limits[1], 1.05)


def landmarks(axes: "Axes", rows: Sequence[Row], told: Sequence[Row]) -> Values:
    """Points on what labels keep clear of, in pixels: all marks, the front, intervals of the labelled rows. (S, 2)"""
    marks = [(row.means["cost"], row.score.mean) for row in rows]
    bars = [(row.means["cost"], y) for row in told for y in np.linspace(row.score.low, row.score.high, 12)]
    front = sorted((row.means["cost"], row.score.mean) for row in rows if row.front)
    stairs = [(x, low) for (left, low), (right, _) in pairwise(front) for x in np.geomspace(left, right, 25)]
    found: Values = axes.transData.transform([*marks, *bars, *stairs])
    return found[np.isfinite(found).all(1)]


# ---- labels that do not overlap --------------------------------------------------------------------------------------
RINGS, TURNS, SWEEPS = (3, 8, 14, 22, 32, 45, 60), 12, 3  # distances in points, directions, times each label is placed


@dataclass(frozen=True)
class Spot:
    """Where a label may be: offset in points, box and points on the line that leads to it in pixels, and what it hides."""

    offset: tuple[float, float]
    low: Values  # (2,) lower left corner
    high: Values  # (2,) upper right corner
    leader: Values  # (L, 2), none beside the point
    hides: float


def place(axes: "Axes", labels: Sequence[tuple[float, float, str]], drawn: Values) -> None:
    """Write (x, y, text) beside its point, where it hides least: over no other label nor its leader, if there is room."""
    found = [candidates(axes, label, drawn) for label in labels]
    taken: dict[int, Spot] = {}
    for at in [*range(len(found))] * SWEEPS:
        others = [spot for other, spot in taken.items() if other != at]
        taken[at] = min(found[at], key=lambda spot: spot.hides + 1000 * sum(overlap(spot, other) for other in others))
    for at, (x, y, text) in enumerate(labels):
        write_label(axes, (x, y), text, taken[at])


def write_label(axes: "Axes", point: tuple[float, float], text: str, spot: Spot) -> None:
    """A label at its spot, clear of lines under it, and with a line that leads to it where it is far."""
    line = {"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkA": 0, "shrinkB": 2} if len(spot.leader) else None
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.4}
    note = annotate(axes, point, spot.offset, text, arrowprops=line, bbox=ground, zorder=4)
    note.set_in_layout(False)


def annotate(axes: "Axes", point: tuple[float, float], offset: tuple[float, float], text: str, **style: Any) -> "Annotation":
    """A small text, centred at an offset in points from a point of the data."""
    where: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center"}
    return axes.annotate(text, point, offset, fontsize=SMALL, parse_math=False, **where, **style)


def candidates(axes: "Axes", label: tuple[float, float, str], drawn: Values) -> list[Spot]:
    """Spots around a point for a label, near ones first."""
    x, y, text = label
    note = annotate(axes, (x, y), (0, 0), text)
    box = note.get_window_extent()
    note.remove()
    at, half = axes.transData.transform((x, y)), np.array([box.width, box.height]) / 2
    turns = 2 * np.pi * np.arange(TURNS) / TURNS
    return [spot(axes, at, half, (ring, float(turn)), drawn) for ring in RINGS for turn in turns]


def spot(axes: "Axes", at: Values, half: Values, polar: tuple[float, float], drawn: Values) -> Spot:
    """The spot at a distance in points and an angle, for a box of half its size in pixels."""
    (ring, turn), pixels = polar, axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    shift = (ring * pixels + half) * (np.cos(turn), np.sin(turn))
    low, high = at + shift - half, at + shift + half
    leader = at + np.linspace(0.1, 0.95, 20 if ring > RINGS[0] else 0)[:, None] * (np.clip(at, low, high) - at)
    outside = (low < axes.bbox.min).any() or (high > axes.bbox.max).any()
    hides = 1000.0 * bool(outside) + 2 * inside(low, high, drawn) + near(leader, drawn) + 0.6 * (ring - RINGS[0])
    return Spot((float(shift[0] / pixels), float(shift[1] / pixels)), low, high, leader, hides)


def overlap(one: Spot, other: Spot) -> float:
    """Whether two boxes overlap, and points of each one's leader in the other's box; less, but some, where leaders cross."""
    boxes = bool((one.low < other.high + 1).all() and (other.low < one.high + 1).all())
    over = inside(one.low, one.high, other.leader) + inside(other.low, other.high, one.leader)
    return boxes + over + 0.01 * near(one.leader, other.leader)


def inside(low: Values, high: Values, points: Values) -> int:
    """How many points lie in a box."""
    return int(((points > low - 1) & (points < high + 1)).all(1).sum())


def near(leader: Values, points: Values) -> int:
    """How many points lie within 3 pixels of a leader's."""
    apart = np.abs(leader[:, None] - points).max(2, initial=0)
    return int((apart < 3).any(0).sum()) if apart.size else 0


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
    for place, (name, points) in enumerate(found):
        style: dict[str, Any] = {"color": COLOURS[place], "marker": MARKERS[place], "markeredgewidth": 0}
        axes.plot(*zip(*points, strict=True), label=name, **style)
        notes.append(end_label(axes, points[-1], short(name, 24), COLOURS[place]))
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


def end_label(axes: "Axes", end: tuple[float, float], text: str, colour: str) -> "Annotation":
    """A label to the right of the axes, with a line from the end of a curve."""
    return axes.annotate(
        text,
        end,
        (1.06, end[1]),
        textcoords=axes.get_yaxis_transform(),
        va="center",
        color=colour,
        parse_math=False,
        annotation_clip=False,
        arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": PALE, "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)},
    )


def spread_out(axes: "Axes", notes: "Sequence[Annotation]") -> None:
    """Move labels up and down, as little as can be, so that no two touch."""
    from matplotlib.text import Text

    order = sorted(notes, key=lambda note: note.xy[1])
    heights = axes.transData.transform([note.xy for note in order])[:, 1]
    gap = max((Text.get_window_extent(note).height for note in order), default=0) * 1.05  # without the lines to them
    apart = spread(heights, gap, axes.bbox.y0, axes.bbox.y1)
    moved = axes.transData.inverted().transform([(axes.bbox.x0, height) for height in apart])[:, 1]
    for note, height in zip(order, moved, strict=True):
        note.set_position((1.06, float(height)))


def spread(heights: ArrayLike, gap: float, low: float, high: float) -> Values:
    """The nearest heights, in squares, that rise by a gap or more within low ... high, if there is room. (L,) -> (L,)"""
    values = np.asarray(heights, float)
    least = gap * np.arange(len(values))
    level: Values = isotonic_regression(values - least).x
    return np.clip(level, low, max(low, high - gap * (len(values) - 1))) + least


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
    return "its rows have no seed in common" if any(map(np.isnan, statistics.ranks(rows).values())) else ""


def diagram(board: Board, table: Table) -> "Figure":
    """Average ranks, the best to the right; a bar joins rows not told apart.

    The layout is that of Demsar 2006 (JMLR 7), the test that of `benchmark.scores.statistics.cliques`.
    """
    rows = rankable(board, table)
    average, joined = statistics.ranks(rows), statistics.cliques(rows)
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


KINDS = {
    "cost": Kind(cost, lacks_cost, suites=True, tasks=True, by_default=False),
    "horizons": Kind(horizons, lacks_horizons, suites=False, tasks=True),
    "pairs": Kind(scatter, lacks_pairs, suites=False, tasks=True),
    "heatmap": Kind(heatmap, lacks_heatmap, suites=True, tasks=False),
    "ranks": Kind(diagram, lacks_ranks, suites=True, tasks=False),
}
