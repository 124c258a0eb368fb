"""How sure a mean on a leaderboard is: its interval, and that of a paired difference.

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
from numpy.typing import NDArray
from scipy import special

from benchmark.base.errors import LoobenchError
from benchmark.base.streams import stream
from benchmark.scores.metrics import Values

Scores = Sequence[Mapping[str, NDArray[Any]]]
Rows = Mapping[str, Scores]
Range = tuple[float, float]  # the lowest and the highest that a score can be
REPLICATES = 4000
LEVEL = 0.05  # of every test, and what an interval leaves out


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, ends NaN where some task has fewer than 2 seeds; `seeds` is the fewest of any task."""

    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Cells:
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
    found = means_of(_table_of(blocks))
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
    check_rows({"row": row, "other": other})
    paired = [
        {seed: _minus(mine[seed], theirs[seed]) for seed in mine if seed in theirs}
        for mine, theirs in zip(row, other, strict=True)
    ]
    apart = (between[0] - between[1], between[1] - between[0]) if between else None
    return interval(paired, apart) if all(paired) else Interval(np.nan, np.nan, np.nan, 0)


def check_rows(rows: Rows) -> None:
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


def cell_table(rows: Sequence[Scores]) -> Cells:
    """The cells that any row has, task by task, seeds in order."""
    seeds = [sorted(set().union(*tasks)) for tasks in zip(*rows, strict=True)]
    keys = [(task, seed) for task, names in enumerate(seeds) for seed in names]
    scores = [[float(np.mean(row[task][seed])) if seed in row[task] else np.nan for task, seed in keys] for row in rows]
    return Cells(np.array(scores), np.array([task for task, _ in keys]))


def _table_of(blocks: Sequence[Values]) -> Cells:
    """The cells of one row."""
    task = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    return Cells(np.concatenate([block.mean(1) for block in blocks])[None], task)


def means_of(cells: Cells) -> _Mean:
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
