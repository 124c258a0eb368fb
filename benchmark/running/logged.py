"""What a run in Weights & Biases holds of a result: its id, configuration, history, summary, pairs and curve."""

from collections.abc import Iterator
from statistics import fmean
from typing import Any

from benchmark.base.files import json_digest
from benchmark.base.records import encode
from benchmark.running.tracking import NAME, TAG, Options
from benchmark.scores.results import Cell, Limits, Result
from benchmark.tasks.questions import asked_of

COSTS = ("seconds", "relative_cost", "gradients", "hessian_products", "memory")  # fields of a cell


def run_id(result: Result) -> str:
    """The id of a result's run: the same for the same task, protocol, device and estimator with its source and settings."""
    estimator = result.estimator
    return json_digest([result.task_digest, result.device, estimator.name, estimator.identity])[:32]


def about(result: Result, options: Options) -> dict[str, Any]:
    """What a result's run is called and found by, as wandb.init takes it."""
    task = result.task
    tags = (task["suite"], str(task.get("model", "")), str(task.get("optimizer", {}).get("kind", "")), *options.tags)
    return {
        "id": run_id(result),
        "name": f"{result.name}/{result.estimator.name}"[:NAME],
        "group": (options.group or task["suite"])[:NAME],
        "tags": [tag[:TAG] for tag in dict.fromkeys(tags) if tag],
        "job_type": "estimate",
    }


def config(result: Result) -> dict[str, Any]:
    """What was run: task record, estimator with settings, source and identity, digests of each seed, environment."""
    named = ("problem", "trajectory", "truth", "estimate")
    return {
        "task": result.task,
        "task_digest": result.task_digest,
        "estimator": encode(result.estimator),
        "device": result.device,
        "protocol": result.protocol,
        "digests": {seed: {name: getattr(cell, name) for name in named} for seed, cell in result.cells.items()},
        "provenance": result.provenance,
    }


def history(result: Result) -> Iterator[tuple[int, dict[str, float]]]:
    """Step and fields of each seed and horizon, step = seed * H + number of the horizon; a seed's cost is in its last row."""
    horizons = result.task["horizons"]
    for seed, cell in result.cells.items():
        for number, horizon in enumerate(horizons):
            scores = {name: value for name, values in cell.scores.items() if (value := values[number]) is not None}
            paid = costs(cell) if number == len(horizons) - 1 else {}
            yield int(seed) * len(horizons) + number, {"seed": int(seed), "horizon": horizon, **scores, **paid}


def costs(cell: Cell) -> dict[str, float]:
    """What a cell cost, by `cost/<field>`; nothing where the estimator gave no answer."""
    found = {f"cost/{name}": getattr(cell, name) for name in COSTS} if cell.status == "ok" else {}
    return {name: value for name, value in found.items() if value is not None}


def summary(result: Result) -> dict[str, Any]:
    """`final/<metric>` and `cost/<field>`, means over the seeds that have them, and of each seed status and failure."""
    cells = result.cells
    last = [{**{f"final/{name}": values[-1] for name, values in cell.scores.items()}, **costs(cell)} for cell in cells.values()]
    names = dict.fromkeys(name for row in last for name in row)
    known = {name: [value for row in last if (value := row.get(name)) is not None] for name in names}
    return {
        **{name: fmean(values) for name, values in known.items() if values},
        "seeds": len(cells),
        "status": {seed: cell.status for seed, cell in cells.items()},
        "failures": {seed: f"{cell.status}: {cell.message}" for seed, cell in cells.items() if cell.failed},
    }


def pairs(result: Result, known: Limits | None) -> list[tuple[int, float, float]]:
    """Rows (seed, true, predicted) of the effects kept to be looked at, over the standard deviation of the true ones."""
    bounds = known.seeds if known and known.task_digest == result.task_digest else {}
    both = [
        (int(seed), zip(bounds[seed].points, cell.points, strict=False))
        for seed, cell in result.cells.items()
        if seed in bounds
    ]
    return [(seed, true, told) for seed, points in both for true, told in points if None not in (true, told)]


def curve(result: Result) -> tuple[str, list[tuple[int, float, str]]]:
    """The metric that ranks, and rows (horizon, score, seed) of it; none where there is one horizon."""
    metric, horizons = asked_of(result.task).primary, result.task["horizons"]
    curves = {seed: cell.scores.get(metric, ()) for seed, cell in result.cells.items()} if len(horizons) > 1 else {}
    points = [(at, value, seed) for seed, values in curves.items() for at, value in zip(horizons, values, strict=False)]
    return metric, [(at, value, seed) for at, value, seed in points if value is not None]
