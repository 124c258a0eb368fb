"""Which rows of a board are told apart by paired tests: groups of ties, ranks and cliques; and the Pareto front.

Terms and letters are those of intervals.py.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from benchmark.base.errors import LoobenchError
from benchmark.scores.intervals import (
    LEVEL,
    Cells,
    Interval,
    Range,
    Rows,
    average,
    cell_table,
    check_rows,
    difference,
    means_of,
)
from benchmark.scores.metrics import Values

EXACT = 50  # cells up to which the signed-rank test is exact
DIGITS = 12  # decimals of a paired difference; beyond them equal differences would not tie


@dataclass(frozen=True)
class Compared:
    """A row beside the best: best minus row, Holm-adjusted signed-rank p of no difference, its group (1 is the best's)."""

    difference: Interval
    p: float
    group: int


def compare(rows: Rows, between: Range | None = None) -> dict[str, Compared]:
    """Each row against the best, that of the highest mean, in the order of means (then of names), with groups of ties.

    Group 1 begins with the best row, each further group with the best of the rest. The next group begins at the first row, in
    the order of means, that is told from the head of this one, so that all rows below it are in later groups too and groups
    are contiguous. Told means that both of these say so:

    - two-sided Wilcoxon signed-rank p over common cells < .05, Holm-adjusted over the rows below the head;
    - two-sided Student p of the paired difference (standard error and degrees of freedom of `interval`), sorted upward, and
      each times the number of pairs among the rows not yet told, is < .05: pairs, because the head was chosen by the same
      data as the best of those rows, so that its lead is that of the luckiest of all pairs.

    Without common cells p is 1. Fewer than 6 common cells, or a task with one common seed, tell nothing. For two rows with no
    seed in common in some task `difference` is all NaN. Raises LoobenchError where there is no row, and as `difference`.
    """
    check_rows(rows)
    order = sorted(rows, key=lambda name: (-average(rows[name]), name))
    cells = cell_table([rows[name] for name in order])
    adjusted = [1.0, *holm(_signed_ranks(cells, 0)).tolist()]
    groups = _groups(cells)
    best = rows[order[0]]
    return {
        name: Compared(difference(best, rows[name], between), p, group)
        for name, p, group in zip(order, adjusted, groups, strict=True)
    }


def pareto(accuracy: ArrayLike, cost: ArrayLike) -> list[bool]:
    """Whether no other is at least as accurate and at least as cheap, and better in one. (R,), (R,) -> R values

    One whose accuracy or cost is NaN is not on the front and keeps nobody off it. Raises LoobenchError where lengths differ.
    """
    gain, price = np.asarray(accuracy, float), np.asarray(cost, float)
    if gain.ndim != 1 or gain.shape != price.shape:
        raise LoobenchError(f"pareto: expected an accuracy and a cost of each row, got shapes {gain.shape} and {price.shape}")
    no_worse = (gain[:, None] >= gain) & (price[:, None] <= price)  # whether the row of the line is, to that of the column
    better = (gain[:, None] > gain) | (price[:, None] < price)
    front: list[bool] = (~np.isnan(gain) & ~np.isnan(price) & ~(no_worse & better).any(0)).tolist()
    return front


def ranks(rows: Rows) -> dict[str, float]:
    """Average rank over the cells that all rows have, 1 being the highest score and ties sharing theirs; best row first.

    NaN where no cell is common to all rows. Raises LoobenchError as `compare`.
    """
    check_rows(rows)
    names = sorted(rows)
    table = _ranked(cell_table([rows[name] for name in names]))
    average = table.mean(1) if table.size else np.full(len(names), np.nan)
    return dict(sorted(zip(names, average.tolist(), strict=True), key=lambda item: item[1]))


def cliques(rows: Rows) -> list[tuple[str, ...]]:
    """Maximal runs of two or more rows, in the order of `ranks`, no two of which are told apart: bars of a rank diagram.

    Two rows are told apart by the two-sided signed-rank test over their common cells, at .05 with Holm's adjustment over all
    pairs, after Friedman's test over all rows at .05 (Benavoli, Corani & Mangili 2016, JMLR 17(5), who advise against
    Nemenyi's test, which depends on the other rows). No clique where no cell is common to all. Raises LoobenchError as
    `compare`.
    """
    order = list(ranks(rows))
    cells = cell_table([rows[name] for name in order])
    told = _pairs_told(cells) if _friedman(_ranked(cells)) < LEVEL else np.zeros((len(order), len(order)), bool)
    ends = [_reach(told, start) for start in range(len(order))]
    runs = [(start, end) for start, end in enumerate(ends) if end - start > 1 and (start == 0 or ends[start - 1] < end)]
    return [tuple(order[start:end]) for start, end in runs] if _ranked(cells).size else []


def holm(p: ArrayLike) -> Values:
    """p-values adjusted for their number m: ``max_{j <= i} min(1, (m - j + 1) p_(j))`` for the i-th smallest. (m,) -> (m,)

    Holm 1979, Scandinavian Journal of Statistics 6(2).
    """
    values = np.asarray(p, float)
    return _step_down(values, np.arange(len(values), 0, -1.0))


def _step_down(p: Values, times: Values) -> Values:
    """Sorted p, each times its number, made monotone and at most 1, in the order given."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * times))
    return adjusted


def _student(cells: Cells, head: int) -> Values:
    """Two-sided Student p of each later row against the head, by paired differences; 1 where no lead of the head is known."""
    found = means_of(Cells(np.round(cells.scores[head] - cells.scores[head + 1 :], DIGITS), cells.task))
    sure = found.error <= 10.0**-DIGITS  # all differences of a task are the same
    ratio = np.divide(found.value, found.error, out=np.zeros(len(found.value)), where=found.error > 0)
    p = np.where(sure, 0, 2 * special.stdtr(found.freedom, -ratio))
    return np.where(found.value > 0, p, 1.0)


def _signed_ranks(cells: Cells, head: int) -> Values:
    """Two-sided p of each later row against the head by Wilcoxon's signed-rank test, over common cells, zeros left out."""
    paired = np.round(cells.scores[head] - cells.scores[head + 1 :], DIGITS)
    kept = np.isfinite(paired) & (paired != 0)
    last = np.where(kept, np.abs(paired), np.inf)  # so that what is left out takes no rank from the rest
    twice = np.round(2 * _ranks(last)).astype(int)  # mean ranks are halves
    lines = zip(twice, paired > 0, kept, strict=True)
    return np.array([_signed_rank(ranked[row], positive[row]) for ranked, positive, row in lines])


def _signed_rank(twice: NDArray[np.int64], positive: NDArray[np.bool_]) -> float:
    """Two-sided p of ranks, doubled, and signs: exact up to `EXACT` of them, ties included, then normal; 1 without any."""
    total, smaller = twice.sum(), int(min(twice[positive].sum(), twice[~positive].sum()))
    if len(twice) <= EXACT:
        return min(1.0, 2 * _tail(tuple(sorted(twice.tolist())), smaller))
    return float(min(1.0, 2 * special.ndtr((smaller + 1 - total / 2) / np.sqrt((twice**2).sum() / 4))))


def _ranks(values: Values) -> Values:
    """Ranks within each line, the lowest first, ties averaged. (R, C) -> (R, C)"""
    return np.asarray(stats.rankdata(values, axis=1)) if values.size else values


def _tail(twice: tuple[int, ...], smaller: int) -> float:
    """Probability that the ranks of positive sign sum to no more than this, signs being fair coins."""
    return float(_below(twice)[smaller])


@lru_cache(maxsize=256)
def _below(twice: tuple[int, ...]) -> Values:
    """Distribution function of the sum of those ranks that a fair coin picks, doubled to be whole, at 0, 1, ..."""
    chance = np.zeros(sum(twice) + 1)
    chance[0] = 1
    for rank in twice:
        chance[rank:] = chance[rank:] + chance[:-rank]
    return np.cumsum(chance) / 2.0 ** len(twice)


def _groups(cells: Cells) -> list[int]:
    """The group of each row, rows being in the order of means."""
    starts, rows = [0], len(cells.scores)
    while (end := _end(cells, starts[-1])) < rows:
        starts.append(end)
    return np.searchsorted(starts, np.arange(rows), side="right").tolist()  # type: ignore[no-any-return]


def _end(cells: Cells, head: int) -> int:
    """The first row after the head that is told from it, or the number of rows."""
    left = np.arange(len(cells.scores) - head, 1, -1.0)  # rows not yet told, the head included
    told = holm(_signed_ranks(cells, head)) < LEVEL
    told &= _step_down(_student(cells, head), left * (left - 1) / 2) < LEVEL
    return head + 1 + int(np.argmax(told)) if told.any() else len(cells.scores)


def _ranked(cells: Cells) -> Values:
    """Ranks of the rows within each cell that all have, the highest score first. (R, cells)"""
    return _ranks(-np.round(cells.scores[:, np.isfinite(cells.scores).all(0)], DIGITS).T).T


def _friedman(ranked: Values) -> float:
    """The p of Friedman's test, ties allowed for: 0 for two rows, where the signed-rank test alone decides; 1 where all tie."""
    rows, cells = ranked.shape
    spread = float(((ranked - (rows + 1) / 2) ** 2).sum())
    if rows < 3 or not spread:
        return float(rows > 2)
    total = ((ranked.sum(1) - cells * (rows + 1) / 2) ** 2).sum()
    return float(stats.chi2.sf((rows - 1) * total / spread, rows - 1))


def _pairs_told(cells: Cells) -> NDArray[np.bool_]:
    """Whether two rows differ by the signed-rank test with Holm over all pairs. (R, R), above the diagonal"""
    rows = len(cells.scores)
    p = np.concatenate([_signed_ranks(cells, head) for head in range(rows)])
    told = np.zeros((rows, rows), bool)
    told[np.triu_indices(rows, 1)] = holm(p) < LEVEL
    return told


def _reach(told: NDArray[np.bool_], start: int) -> int:
    """The end of the longest run from `start` in which no two rows are told apart."""
    ends = range(start + 1, len(told) + 1)
    return max(end for end in ends if not told[start:end, start:end].any())
