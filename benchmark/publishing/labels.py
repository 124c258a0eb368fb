"""Labels of a figure that do not overlap: beside points, and at the ends of curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
from benchmark.publishing.drawing import GREY, PALE, SMALL
from benchmark.scores.metrics import Values

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
