"""What a board reads off results and the limits of their truths: scores of a seed, curves, pairs of effects."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from benchmark.scores.columns import COLUMNS, USED, Limit, Scored
from benchmark.scores.metrics import Values
from benchmark.scores.numbers import defined, entry, figure, mean, number
from benchmark.scores.results import Bounds, Result
from benchmark.scores.rows import Known, called, finished, mark, published
from benchmark.tasks.questions import asked_of


def kind(result: Result) -> str:
    """The kind of truth of a result, or that its effects are used for something."""
    return USED if result.task.get("uses") else asked_of(result.task).kind


def groups(results: Iterable[Result], key: Callable[[Result], str]) -> list[tuple[str, list[Result]]]:
    """Results by `key`, in order of it."""
    ordered = sorted(results, key=lambda result: (key(result), result.name, called(result)))
    return [(name, list(members)) for name, members in groupby(ordered, key)]


def by_task(results: Iterable[Result]) -> list[tuple[str, list[Result]]]:
    """Results by task and device."""
    return groups(results, lambda result: result.name)


def rankings(results: Sequence[Result]) -> list[dict[str, Values]]:
    """Of each task, seed -> (Q,) the score that ranks; one value, the mean, where those of the queries are not known."""
    return [{seed: ranking(result, seed) for seed in result.cells} for result in results]


def ranking(result: Result, seed: str) -> Values:
    """The score that ranks, of each query of a seed; NaN where not defined."""
    cell = result.cells[seed]
    first = COLUMNS[kind(result)][0].of(Scored(cell.scores, {}, {}))
    return np.array([number(value) for value in cell.by_query] or [first])


def has_gaps(rankings: Sequence[Mapping[str, Values]]) -> bool:
    """Whether the score that ranks is not defined for some query."""
    return any(np.isnan(values).any() for task in rankings for values in task.values())


def scored(result: Result, seed: str, limits: Known) -> Scored:
    """One seed of a result, with the limits of its task and seed."""
    cell, found = result.cells[seed], bound(result, seed, limits)
    counts = {
        "cost": cell.relative_cost,
        "grad": cell.gradients / cell.exact_gradients,
        "hvp": cell.hessian_products / cell.exact_gradients,
        "MB": np.nan if cell.memory is None else cell.memory / 1e6,
    }
    return Scored(cell.scores, found.values if found else {}, counts)


# ---- limits ----------------------------------------------------------------------------------------------------------
def bound(result: Result, seed: str, limits: Known) -> Bounds | None:
    """The limits of a cell's task and seed: those published, else for a result of one's own one's own; None without any.

    They are of one definition of the task. On which machine the truth was computed does not matter: limits are the same to the
    digits that are kept, though last bits of truths are not.
    """
    known = (limits.get(name) for name in dict.fromkeys((result.name, result.name + mark(result))))
    return next((one.seeds[seed] for one in known if one and one.task_digest == result.task_digest and seed in one.seeds), None)


def bounds(results: Sequence[Result], limits: Known) -> dict[str, Bounds]:
    """The limits of the seeds that published results of one task, or all, have: who answered, and where, changes nothing."""
    found = [(seed, bound(result, seed, limits)) for result in published(results) for seed in result.cells]
    return {seed: one for seed, one in found if one}


def limited(limit: Limit, found: Iterable[Bounds]) -> str:
    """A limit at the last horizon, the mean over seeds that have it; nothing where none has."""
    values = last(limit.name, found)
    return figure(mean(values), limit.digits) if values else ""


def last(name: str, found: Iterable[Bounds]) -> list[float]:
    """What is known of a limit at the last horizon."""
    return defined([entry(one.values, name) for one in found])


# ---- curves and pairs ------------------------------------------------------------------------------------------------
def curve(result: Result) -> list[tuple[int, float]]:
    """The score that ranks at each horizon, the mean over seeds: (horizon, score) where it is defined."""
    if not finished(result):
        return []
    name, horizons = asked_of(result.task).primary, result.task["horizons"]
    known = [cell.scores.get(name) or [None] * len(horizons) for cell in result.cells.values()]
    values = np.array([[number(value) for value in curve] for curve in known])
    pairs = zip(horizons, values.mean(0), strict=True)
    return [(int(horizon), float(value)) for horizon, value in pairs if not np.isnan(value)]


def pairs(result: Result, limits: Known) -> Iterator[tuple[int, float, float]]:
    """(seed, true, predicted) of the effects that are kept to be looked at, over the truth's standard deviation."""
    for seed, cell in result.cells.items():
        found = bound(result, seed, limits)
        both = zip(found.points, cell.points, strict=True) if found and len(found.points) == len(cell.points) else ()
        yield from ((int(seed), true, predicted) for true, predicted in both)
