"""What a truth takes before it is trained: runs, operations, bytes, messages; and seconds, from some steps that are tried."""

from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from statistics import median

from torch import Tensor

from benchmark.core.problem import Problem
from benchmark.core.trajectory import Trajectory
from benchmark.retraining import chunks, engine
from benchmark.retraining.chunks import Means
from benchmark.retraining.dense import Gram
from benchmark.retraining.engine import gram_pays
from benchmark.studies import speed
from benchmark.tasks.definition import AnyTask
from benchmark.tasks.questions import FurtherTraining
from benchmark.truths import truth
from benchmark.truths.counterfactuals import Design, design

TRIED = 5  # steps
WORKERS = (1, 2, 8, 64)  # for which it is said how long it takes


@dataclass(frozen=True)
class Forecast:
    """The work of a truth. The reference run, and what limits a truth, are not in it."""

    runs: int  # trained: K + 1 for leave-one-out, in each of the problems that the truth is the mean over
    at_once: int  # R, of one chunk
    chunks: int
    steps: int  # of all chunks, without the beginnings that they share with the reference run
    flops: float  # of the products of these steps
    state: int  # bytes of one run's parameters and moments
    kept: int  # bytes of the reference run, as it is kept
    message: int  # bytes of what a finished chunk gives back
    seconds: float  # of one thread, or of the GPU

    def alone(self, workers: int) -> float:
        """Seconds with so many workers, each with whole chunks: ``seconds ceil(chunks / workers) / chunks``."""
        return self.seconds * ceil(self.chunks / workers) / self.chunks

    def on(self, rate: float, workers: int = 1) -> float:
        """Seconds on so many machines of another kind, each of which does `rate` operations a second in such steps."""
        return self.flops / rate * ceil(self.chunks / workers) / self.chunks


def of_task(task: AnyTask, seed: int, cache: Path, device: str, means: Means) -> Forecast:
    """The work of the truth of a task and seed. The reference run is trained only where the question needs its end."""
    if isinstance(task.truth, FurtherTraining):
        run = truth.reference(task, seed, cache, device, means)
    else:
        problem = truth.fitted(task, seed, cache, device, means)
        run = Trajectory(problem, problem.start()[None])
    return forecast(design(task, run, seed), means)


def forecast(asked: Design, means: Means) -> Forecast:
    """The work of a design's runs, with the means at hand.

    Seconds are ``sum over chunks of steps x s + H x r``: s is the median time of a chunk's step in `TRIED` first ones, and r
    that of reading off the query losses. They are for a chunk of the usual size, so that a last, smaller one counts in full.
    """
    problem = asked.problems[0]
    gram, repeats = gram_pays(problem), len(asked.problems)
    starts, parts = truth.parted(problem, asked.keep, means)
    lengths, at_once = [problem.horizons[-1] - int(starts[rows].min()) for rows in parts], max(map(len, parts))
    steps, trained = sum(lengths), sum(length * len(rows) for length, rows in zip(lengths, parts, strict=True))
    step, reading = _tried(problem, asked.keep[:at_once], gram)
    item = problem.initial.element_size()
    return Forecast(
        runs=repeats * len(asked.keep),
        at_once=at_once,
        chunks=repeats * len(parts),
        steps=repeats * steps,
        flops=repeats * speed.flops(problem, 1) * trained / problem.steps,
        state=problem.optimizer.rows * problem.model.parameters * item,
        kept=chunks.states_bytes(problem, means),
        message=prod((len(problem.horizons), at_once, problem.queries)) * item,
        seconds=repeats * (steps * step + len(parts) * len(problem.horizons) * reading),
    )


def lines(found: Forecast) -> list[list[str]]:
    """A forecast as the rows of a table."""
    size = {name: f"{getattr(found, name) / 2**20:.3g} MiB" for name in ("state", "kept", "message")}
    return [
        ["runs, and of these at once", f"{found.runs}, {found.at_once}"],
        ["chunks, and their steps", f"{found.chunks}, {found.steps}"],
        ["operations of matrix products", f"{found.flops:.3g}"],
        ["state of one run", size["state"]],
        ["reference run, as it is kept", size["kept"]],
        ["what a finished chunk gives back", size["message"]],
        *([f"seconds by {count} worker{'s' * (count > 1)}", f"{found.alone(count):.3g}"] for count in WORKERS),
    ]


def _tried(problem: Problem, keep: Tensor, gram: bool) -> tuple[float, float]:
    """Seconds of a step of as many runs as there are masks (R, N), and of reading off their query losses."""
    runs = engine.runs(problem, problem.start(), len(keep), Gram.of(problem) if gram else None)
    device = problem.initial.device.type
    times = []
    for t in range(min(TRIED + 1, problem.steps)):
        batch = problem.batch(t)
        began = chunks.seconds(device)
        runs.step(t, batch, problem.shares(keep[:, batch].to(problem.initial)))
        times.append(chunks.seconds(device) - began)
    began = chunks.seconds(device)
    runs.query_losses()
    return median(times[1:] or times), chunks.seconds(device) - began  # the first takes what libraries take once
