"""How sure a figure of a leaderboard is: intervals, paired differences, groups of rows not told apart, ranks and cliques.

A row of a board is an estimator. Its `Scores` are, for each task in turn, seed -> (Q,) scores, higher being better. Each seed
is an independent replicate: own split, initial parameters, batch order and queries. Queries are nested in seeds; tasks are
fixed, not sampled. Rows of the same task and seed are paired. A cell is one seed of one task; its score is the mean over
queries. n is the number of seeds of a task, M of tasks, C of cells, R of rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from benchmark.base.errors import LoobenchError
from benchmark.base.streams import stream

Values = NDArray[np.float64]
Scores = Sequence[Mapping[str, NDArray[Any]]]
Rows = Mapping[str, Scores]
Range = tuple[float, float]  # the lowest and the highest that a score can be

REPLICATES = 4000
LEVEL = 0.05  # of every test, and what an interval leaves out
EXACT = 50  # cells up to which the signed-rank test is exact
DIGITS = 12  # decimals of a paired difference; beyond them equal differences would not tie


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, ends NaN where some task has fewer than 2 seeds; `seeds` is the fewest of any task."""

    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Compared:
    """A row beside the best: best minus row, Holm-adjusted signed-rank p of no difference, its group (1 is the best's)."""

    difference: Interval
    p: float
    group: int


@dataclass(frozen=True)
class _Cells:
    """Cell scores of rows, NaN where a row lacks one, and the number of each cell's task."""

    scores: Values  # (R, C)
    task: NDArray[np.int64]  # (C,)


@dataclass(frozen=True)
class _Mean:
    """Means over tasks of means over seeds, their standard errors and Student degrees of freedom, each (R,)."""

    value: Values
    error: Values
    freedom: Values


def interval(scores: Scores, between: Range | None = None) -> Interval:
    """Mean over tasks of the mean over seeds of the mean over queries, with its 95 % interval by hierarchical bootstrap.

    ``mean + se t_k / t_inf q(z)`` for the 2.5 % and 97.5 % quantiles q of `REPLICATES` standardised replicates z, which draw
    seeds anew within each task and queries within each drawn seed (Davison & Hinkley 1997, section 3.8). To each drawn seed
    noise of variance s_t^2 / n_t is added, s_t^2 being the sample variance of the seed means: it gives back the share 1/n_t
    that resampling loses and fills the gaps between the values of few seeds (Hesterberg 2004, "Unbiasing the bootstrap").
    ``se^2 = sum_t v_t / M^2, v_t = s_t^2 / n_t``, which has the variance of queries once, not twice; t_k is the 97.5 %
    quantile of Student's t with ``k = (sum v_t)^2 / sum(v_t^2 / n_t) - 1`` degrees of freedom, kept between the fewest n_t - 1
    and their sum: halfway between Satterthwaite's (n_t - 1 and 0 in place of n_t and 1), too few for tasks of 2 or 3 seeds,
    and Welch's of 1947, Biometrika 34 (n_t + 1 and 2), too many where tasks differ in variance. With one seed in some task,
    whose variance is then unknown, both ends are NaN. Where scores lie `between` two numbers the ends do too, as `kept_between`
    has it. Raises LoobenchError where there is no task, a task has no seed, or a score is not finite.
    """
    _check("these scores", scores)
    seeds = min(len(task) for task in scores)
    mean = average(scores)
    if seeds < 2:
        return Interval(mean, np.nan, np.nan, seeds)
    blocks = _blocks(scores)
    found = _means(_table_of(blocks))
    spread = found.error[0] * special.stdtrit(found.freedom[0], 1 - LEVEL / 2) / special.ndtri(1 - LEVEL / 2)
    low, high = mean + spread * np.quantile(_replicates(blocks), [LEVEL / 2, 1 - LEVEL / 2])
    whole = Interval(mean, float(low), float(high), seeds)
    return kept_between(whole, between) if between else whole


def kept_between(found: Interval, between: Range) -> Interval:
    """The interval on the scale of the arcsine, so that its ends are within the range of the score.

    With the range mapped to -1 ... 1, an end at e from the mean m becomes ``sin(asin m + e / sqrt(1 - m^2))``, the angle kept
    between -pi/2 and pi/2. To first order that is ``m + e``; near an end of the range it is nearer to that end on its side, and
    farther from it on the other, as the skewness of bounded scores wants it. At the very end it is the mean itself.
    """
    middle, half = (between[0] + between[1]) / 2, (between[1] - between[0]) / 2
    mean = min(1.0, max(-1.0, (found.mean - middle) / half))
    slope = np.sqrt((1 - mean) * (1 + mean))
    if np.isnan(found.low):
        return found
    if slope == 0:
        return replace(found, low=found.mean, high=found.mean)
    angles = np.arcsin(mean) + (np.array([found.low, found.high]) - found.mean) / half / slope
    low, high = middle + half * np.sin(np.clip(angles, -np.pi / 2, np.pi / 2))
    return replace(found, low=float(low), high=float(high))


def difference(row: Scores, other: Scores, between: Range | None = None) -> Interval:
    """Mean of row minus other over the seeds both have, with its 95 % interval: `interval` of the differences query by query.

    Where the two have different numbers of queries in a cell, its means are subtracted. Where they share no seed in some task
    there is nothing to compare: all NaN, seeds 0. `between` is the range of the scores, not of their difference. Raises
    LoobenchError as `interval`, and where the numbers of tasks differ.
    """
    _check_rows({"row": row, "other": other})
    paired = [
        {seed: _minus(mine[seed], theirs[seed]) for seed in mine if seed in theirs}
        for mine, theirs in zip(row, other, strict=True)
    ]
    apart = (between[0] - between[1], between[1] - between[0]) if between else None
    return interval(paired, apart) if all(paired) else Interval(np.nan, np.nan, np.nan, 0)


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
    _check_rows(rows)
    order = sorted(rows, key=lambda name: (-average(rows[name]), name))
    cells = _table([rows[name] for name in order])
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
    _check_rows(rows)
    names = sorted(rows)
    table = _ranked(_table([rows[name] for name in names]))
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
    cells = _table([rows[name] for name in order])
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


def _check_rows(rows: Rows) -> None:
    """Raise LoobenchError unless there are rows, all of the same number of tasks, each as `_check` wants it."""
    if not rows or len({len(scores) for scores in rows.values()}) > 1:
        found = ", ".join(f"{name} has {len(scores)}" for name, scores in rows.items()) or "no row"
        raise LoobenchError(f"rows are compared on the same tasks: {found}; leave out rows that lack a task")
    for name, scores in rows.items():
        _check(name, scores)


def _check(name: str, scores: Scores) -> None:
    """Raise LoobenchError unless there is a task, each task has a seed, each seed finite scores (Q,)."""
    if not scores or not all(scores):
        raise LoobenchError(
            f"{name}: expected at least one task, and a seed in each, got {[len(task) for task in scores]} seeds"
        )
    for values in (np.asarray(values) for task in scores for values in task.values()):
        if values.ndim != 1 or not values.size or not np.isfinite(values).all():
            raise LoobenchError(f"{name}: expected finite scores (Q,) of each seed, got {values}; leave out what is not known")


def average(scores: Scores) -> float:
    """Mean over tasks of the mean over seeds of the mean over queries, whatever the order of tasks and seeds."""
    return float(np.mean(sorted(_block(task).mean() for task in scores)))


def _minus(mine: NDArray[Any], theirs: NDArray[Any]) -> Values:
    """Differences of two cells by query, or of their means where the numbers of queries differ."""
    one, other = (np.asarray(values, float) for values in (mine, theirs))
    return one - other if one.shape == other.shape else np.array([one.mean() - other.mean()])


def _replicates(blocks: Sequence[Values]) -> Values:
    """Bootstrap replicates of the mean over tasks, standardised. M x (n, Q) -> (REPLICATES,)"""
    total = np.zeros(REPLICATES)
    for number, block in enumerate(blocks):
        total += (_weights(*block.shape) @ _centred(block))[_shuffle(number)]
    deviation = float(total.std())
    return (total - total.mean()) / deviation if deviation > 0 else total


def _blocks(scores: Scores) -> list[Values]:
    """The scores of each task, in an order that does not depend on that of the tasks. M x (n, Q)"""
    return sorted((_block(task) for task in scores), key=lambda block: (block.shape, block.tolist()))


def _block(task: Mapping[str, NDArray[Any]]) -> Values:
    """Scores of a task in the order of seeds, (n, Q); where the numbers of queries differ the seeds' means, (n, 1)."""
    values = [np.asarray(task[seed], float) for seed in sorted(task)]
    same = len({len(value) for value in values}) == 1
    return np.stack(values) if same else np.array([[value.mean()] for value in values])


def _centred(block: Values) -> Values:
    """Scores less their mean, then the standard error of the mean, as `_weights` takes them. (n, Q) -> (n Q + 1,)"""
    error = block.mean(1).std(ddof=1) / np.sqrt(len(block))
    return np.append((block - block.mean()).ravel(), error)


@lru_cache(maxsize=16)
def _weights(seeds: int, queries: int) -> Values:
    """What each replicate makes of each score and of the noise, for all tasks of this shape. (REPLICATES, n Q + 1)

    Noise of variance s^2 / n on each of n drawn seeds is noise of variance s^2 / n^2 on their mean: se / sqrt(n) times a
    normal number.
    """
    draw = stream(f"bootstrap of {seeds} seeds and {queries} queries", 0)
    first = draw.randint(seeds, size=(REPLICATES, seeds, 1)) * queries  # of the drawn seed
    drawn = first + draw.randint(queries, size=(REPLICATES, seeds, queries))
    places = drawn + np.arange(REPLICATES)[:, None, None] * (seeds * queries)
    counts = np.bincount(places.ravel(), minlength=places.size).reshape(REPLICATES, -1)
    return np.hstack([counts / (seeds * queries), draw.randn(REPLICATES, 1) / np.sqrt(seeds)])


@lru_cache(maxsize=128)
def _shuffle(number: int) -> NDArray[np.int64]:
    """An order of the replicates for each task, so that tasks which share weights are drawn independently."""
    return stream("order of replicates", number).permutation(REPLICATES)


def _table(rows: Sequence[Scores]) -> _Cells:
    """The cells that any row has, task by task, seeds in order."""
    seeds = [sorted(set().union(*tasks)) for tasks in zip(*rows, strict=True)]
    keys = [(task, seed) for task, names in enumerate(seeds) for seed in names]
    scores = [[float(np.mean(row[task][seed])) if seed in row[task] else np.nan for task, seed in keys] for row in rows]
    return _Cells(np.array(scores), np.array([task for task, _ in keys]))


def _table_of(blocks: Sequence[Values]) -> _Cells:
    """The cells of one row."""
    task = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    return _Cells(np.concatenate([block.mean(1) for block in blocks])[None], task)


def _means(cells: _Cells) -> _Mean:
    """Mean over tasks, its standard error and degrees of freedom by row; NaN where a task has fewer than 2 seeds of the row.

    See `interval` for the formulae.
    """
    task = np.eye(cells.task.max() + 1)[cells.task]  # (C, M)
    seeds = np.isfinite(cells.scores) @ task  # (R, M)
    seeds[seeds < 2] = np.nan
    means = np.nan_to_num(cells.scores) @ task / seeds
    squares = np.nan_to_num((cells.scores - means[:, cells.task]) ** 2) @ task
    variances = squares / (seeds - 1) / seeds
    return _Mean(means.mean(1), np.sqrt(variances.sum(1)) / task.shape[1], _freedom(variances, seeds))


def _freedom(variances: Values, seeds: Values) -> Values:
    """``(sum v)^2 / sum(v^2 / n) - 1``, between the fewest n - 1 and their sum. (R, M), (R, M) -> (R,)"""
    least, most = (seeds - 1).min(1), (seeds - 1).sum(1)
    below = (variances**2 / seeds).sum(1)
    freedom: Values = np.divide(variances.sum(1) ** 2, below, out=most + 1, where=below > 0) - 1
    kept: Values = np.clip(freedom, least, most)
    return kept


def _student(cells: _Cells, head: int) -> Values:
    """Two-sided Student p of each later row against the head, by paired differences; 1 where no lead of the head is known."""
    found = _means(_Cells(np.round(cells.scores[head] - cells.scores[head + 1 :], DIGITS), cells.task))
    sure = found.error <= 10.0**-DIGITS  # all differences of a task are the same
    ratio = np.divide(found.value, found.error, out=np.zeros(len(found.value)), where=found.error > 0)
    p = np.where(sure, 0, 2 * special.stdtr(found.freedom, -ratio))
    return np.where(found.value > 0, p, 1.0)


def _signed_ranks(cells: _Cells, head: int) -> Values:
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


def _groups(cells: _Cells) -> list[int]:
    """The group of each row, rows being in the order of means."""
    starts, rows = [0], len(cells.scores)
    while (end := _end(cells, starts[-1])) < rows:
        starts.append(end)
    return np.searchsorted(starts, np.arange(rows), side="right").tolist()  # type: ignore[no-any-return]


def _end(cells: _Cells, head: int) -> int:
    """The first row after the head that is told from it, or the number of rows."""
    left = np.arange(len(cells.scores) - head, 1, -1.0)  # rows not yet told, the head included
    told = holm(_signed_ranks(cells, head)) < LEVEL
    told &= _step_down(_student(cells, head), left * (left - 1) / 2) < LEVEL
    return head + 1 + int(np.argmax(told)) if told.any() else len(cells.scores)


def _ranked(cells: _Cells) -> Values:
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


def _pairs_told(cells: _Cells) -> NDArray[np.bool_]:
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
