"""What all figures share: style, colours and sizes, the empty canvas, and which rows of a table are drawn."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from benchmark.base.text import line
from benchmark.scores.rows import Board, Row, Suite, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NARROW, WIDE = 89, 183  # mm, one and two columns of a journal
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
AXES = {"tau": "Kendall's τ", "LDS": "linear datamodeling score", "cos": "cosine"}


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


def within(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits of a score's axis: scores and their intervals lie in -1 ... 1."""
    return max(limits[0], -1.05), min(limits[1], 1.05)
