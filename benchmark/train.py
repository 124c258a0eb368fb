"""The fold of the one verb: the reference run, and any number of runs with samples left out."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark import calculus
from benchmark.problem import Problem, Trajectory

RUNS = 64  # runs advanced at once; fixed, because the last bit of a truth depends on it
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
    read: Callable[[Tensor], Tensor] = lambda theta: theta,
    runs: int = RUNS,
    progress: Progress = lambda visits: None,
) -> Tensor:
    """Train R times from the same start on the same batches, run r with the samples of `keep[r]` only. (R, N) -> (H, R, ...)

    A sample not kept has weight 0 in every batch and the batch keeps its 1/|B|; a number other than 0 and 1 in `keep` is that
    part of a sample's weight. `read` maps the parameters (P,) of one run
    to what is wanted of them at each horizon. `runs` are advanced at once, and `progress` is told of sample visits done.
    """
    parts = max(1, -(-len(keep) // runs))
    return torch.cat([_fold(problem, part, read, progress) for part in keep.tensor_split(parts)], dim=1)


def _fold(problem: Problem, keep: Tensor, read: Callable[[Tensor], Tensor], progress: Progress) -> Tensor:
    states = problem.start().expand(len(keep), -1, -1)
    readings = {}
    for t in range(problem.steps):
        weights = keep[:, problem.batch(t)] * problem.weights(t)
        calculus.count(gradients=weights.numel())
        states = calculus.many(lambda state, weights, t=t: problem.step(t, state, weights), over=(0, 0))(states, weights)
        progress(weights.numel())
        if t + 1 in problem.horizons:
            readings[t + 1] = calculus.many(read, over=(0,))(states[:, 0])
    return torch.stack([readings[steps] for steps in problem.horizons])


def leave_one_out(run: Trajectory, *, progress: Progress = lambda visits: None) -> Tensor:
    """Effect (H, N, Q) of leaving out each sample: query loss of the run without it minus query loss of `run`."""
    problem = run.problem
    keep = ~torch.eye(len(problem.train), dtype=torch.bool, device=problem.initial.device)
    without = retrain(problem, keep, read=problem.query_losses, progress=progress)
    return without - torch.stack([problem.query_losses(cut.final) for cut in run.at_horizons()])[:, None]
