"""The fold of the one verb: the reference run, and any number of runs with samples left out."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark import calculus
from benchmark.engine import Runs, at_once
from benchmark.problem import Problem, Trajectory

Progress = Callable[[int], object]  # called with the number of sample visits just done


def train(problem: Problem) -> Trajectory:
    """The reference run, every sample kept."""
    states = [problem.start()]
    for t in range(problem.steps):
        weights = problem.weights(t)
        calculus.count(gradients=len(weights))
        states.append(problem.step(t, states[-1], weights))
    return Trajectory(problem, torch.stack(states))


def retrain(
    problem: Problem,
    keep: Tensor,
    *,
    read: Callable[[Runs], Tensor] = Runs.parameters,
    gram: bool | None = None,
    runs: int | None = None,
    progress: Progress = lambda visits: None,
) -> Tensor:
    """Train R times from the same start on the same batches, run r with the samples of `keep[r]` only. (R, N) -> (H, R, ...)

    A sample not kept has weight 0 in every batch and the batch keeps its 1/|B|; a number other than 0 and 1 in `keep` is that
    part of a sample's weight. `read` takes what is wanted from some runs at each horizon: `Runs.parameters` (R, P) or
    `Runs.query_losses` (R, Q). `runs` are advanced at once; their number decides the last bit, so that by default it depends on
    the problem alone. `gram` switches the Gram form of the first layer on or off, by default on where it is cheaper.
    `progress` is told of sample visits done.
    """
    parts = max(1, -(-len(keep) // (runs or at_once(problem, gram))))
    return torch.cat([_fold(problem, part, read, gram, progress) for part in keep.tensor_split(parts)], dim=1)


def _fold(problem: Problem, keep: Tensor, read: Callable[[Runs], Tensor], gram: bool | None, progress: Progress) -> Tensor:
    runs, readings = Runs(problem, problem.start(), len(keep), gram=gram), []
    for t in range(problem.steps):
        weights = keep[:, problem.batch(t)] * problem.weights(t)
        calculus.count(gradients=weights.numel())
        runs.step(t, weights)
        progress(weights.numel())
        if t + 1 in problem.horizons:
            readings.append(read(runs))
    return torch.stack(readings)


def leave_one_out(run: Trajectory, *, progress: Progress = lambda visits: None) -> Tensor:
    """Effect (H, N, Q) of leaving out each sample: query loss of the run without it minus query loss of `run`."""
    problem = run.problem
    keep = ~torch.eye(len(problem.train), dtype=torch.bool, device=problem.initial.device)
    without = retrain(problem, keep, read=Runs.query_losses, progress=progress)
    return without - torch.stack([problem.query_losses(cut.final) for cut in run.at_horizons()])[:, None]
