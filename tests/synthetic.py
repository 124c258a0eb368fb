"""Results as a run might have left them, with known qualities: for tests of what is made from results."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmark.base.streams import stream
from benchmark.core.registry import registered
from benchmark.scores import results
from benchmark.scores.results import Bounds, Cell, Described, Limits, Result
from benchmark.submissions import scaffold
from benchmark.tasks.definition import Task
from benchmark.tasks.questions import asked_of

POINTS = 50
PROVENANCE = {"command": "loobench run", "commit": "0" * 40, "loobench": "0.0.0", "device": "a processor", "threads": 1}


def authored(source: Path) -> Path:
    """A scaffold in which its author has written what it asks for."""
    text = source.read_text()
    for placeholder, words in zip(scaffold.PLACEHOLDERS.values(), ("gradients at a few moments", "Ada 2026"), strict=True):
        text = text.replace(placeholder, words)
    source.write_text(text)
    return source


def estimator(name: str) -> Described:
    """A described estimator of any name."""
    known = registered().get(name)
    return Described(
        name, {"damping": 0.1}, known.paper if known else "A paper, 2026", f"{name}-source", name, True, "paper", False
    )


def cell(task: Task, name: str, seed: int, quality: float, cost: float, *, spread: float = 0.05) -> Cell:
    """A good cell whose ranking score is `quality` with noise from seeds and queries."""
    random, asked = stream(f"synthetic/{task.name}/{name}", seed), asked_of(task.record())
    horizons, queries = len(task.horizons), 1 if task.queries == "mean" else task.query
    by_query = quality + spread * (random.normal() + random.normal(size=queries)) / 2
    rising = [float(by_query.mean()) - 0.02 * (horizons - 1 - h) for h in range(horizons)]
    curve = [float(by_query.mean())] * horizons if asked.throughout else rising
    true = truths(task, seed)
    guess = quality * true + np.sqrt(max(0.0, 1 - quality**2)) * random.normal(size=POINTS)
    others = {name: [0.5] * horizons for name in ("spearman", "relative_rmse", "jaccard_10", "cosine", "kendall")}
    return Cell(
        status="ok",
        message="",
        scores={**others, asked.primary: curve},
        by_query=by_query.tolist(),
        points=guess.tolist(),
        seconds=cost,
        exact_seconds=1.0,
        relative_cost=cost,
        gradients=100,
        hessian_products=10,
        memory=10**7,
        exact_gradients=1000,
        notes={},
        problem="p" * 64,
        trajectory="t" * 64,
        truth=f"{task.name}-{seed}",
        estimate="e" * 64,
        weight_decay=0.01,
        provenance="here",
    )


def truths(task: Task, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    """(POINTS,) effects over their standard deviation."""
    return stream(f"synthetic/{task.name}", seed).normal(size=POINTS)


def result(task: Task, name: str, seeds: int, quality: float, cost: float = 1.0) -> Result:
    """An estimator's result on a task."""
    blank = replace(results.blank(task, "cpu", registered()["sgd-ie"]), estimator=estimator(name))
    for seed in range(seeds):
        blank = blank.with_cell(seed, cell(task, name, seed, quality, cost), PROVENANCE)
    return blank


def failed(task: Task, name: str, status: str, message: str = "it broke") -> Result:
    """A result whose first seed is a failure, or unsupported."""
    empty = replace(
        cell(task, name, 0, 0.0, 0.0), status=status, message=message, scores={}, by_query=[], points=[], estimate=""
    )
    return replace(results.blank(task, "cpu", registered()["sgd-ie"]), estimator=estimator(name)).with_cell(
        0, empty, PROVENANCE
    )


def limits(task: Task, seeds: int) -> Limits:
    """What limits a task's truths."""
    found = results.no_limits(task, "cpu")
    for seed in range(seeds):
        values = {"ceiling": [0.95] * len(task.horizons), "noise": [1e-12] * len(task.horizons)}
        found = found.with_seed(seed, Bounds(f"{task.name}-{seed}", dict(values), {}, truths(task, seed).tolist()))
    return found


def everything(
    tasks: Mapping[str, Task], qualities: Mapping[str, tuple[float, float]], seeds: int
) -> tuple[list[Result], dict[str, Limits]]:
    """Each estimator, name -> (quality, cost), on each task."""
    made = [result(task, name, seeds, *quality) for task in tasks.values() for name, quality in qualities.items()]
    return made, {task.name: limits(task, seeds) for task in tasks.values()}
