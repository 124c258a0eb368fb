"""Numbers of a board, of which some are missing: curves, means, and how a figure is written."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

Curve = Sequence[float | None]  # H values
WIDEST = 6  # characters of a figure


def number(value: float | None) -> float:
    """NaN for None."""
    return np.nan if value is None else value


def entry(curves: Mapping[str, Curve], name: str, horizon: int = -1) -> float:
    """A curve's value at one horizon; NaN where there is no such curve or no value."""
    return number((curves.get(name) or [None])[horizon])


def defined(values: Iterable[float]) -> list[float]:
    """Those that are not NaN."""
    return [value for value in values if not np.isnan(value)]


def mean(values: Sequence[float]) -> float:
    """Mean, NaN of none."""
    return float(np.mean(values)) if values else np.nan


def median(values: Sequence[float]) -> float:
    """Median, NaN of none and where one is NaN."""
    return float(np.median(values)) if values and not np.isnan(values).any() else np.nan


def figure(value: float, digits: int | None = 3) -> str:
    """A number in at most `WIDEST` characters: so many decimals, fewer where it is too long, else as 2.3e7; "" for NaN.

    With None in place of `digits` it is of the last form, with one digit.
    """
    if np.isnan(value):
        return ""
    forms = [f"{value:.0e}"] if digits is None else [f"{value:.{places}f}" for places in range(digits, -1, -1)]
    forms += [f"{value:.{places}e}".replace("e+0", "e").replace("e+", "e") for places in (1, 0)]
    return next((form for form in forms if len(form) <= WIDEST), forms[-1])
