"""The fold of the one verb: the reference run, and any number of runs with samples left out."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark import calculus
from benchmark.engine import Runs, at_once, may_start_late
from benchmark.errors import LoobenchError
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
    states: Tensor | None = None,
    read: Callable[[Runs], Tensor] = Runs.parameters,
    gram: bool | None = None,
    runs: int | None = None,
    progress: Progress = lambda visits: None,
) -> Tensor:
    """Train R times from the same start on the same batches, run r with the samples of `keep[r]` only. (R, N) -> (H, R, ...)

    A sample not kept has weight 0 in every batch and the batch keeps its 1/|B|; a number other than 0 and 1 in `keep` is that
    part of a sample's weight. `read` takes what is wanted from some runs at each horizon: `Runs.parameters` (R, P) or
    `Runs.query_losses` (R, Q). With the `states` (T + 1, S, P) of the reference run, no run repeats what it shares with it.
    At most `runs` are advanced at once; their number decides the last bit, so that by default it depends on the problem and on
    R alone. `gram` switches the Gram form of the first layer on or off, by default on where it is cheaper. `progress` is told
    of sample visits done, shared ones included. Raises LoobenchError for no runs.
    """
    if not len(keep):
        raise LoobenchError("retrain needs at least one run, got none")
    keep = keep.to(problem.initial)
    late = states is not None and may_start_late(problem, gram)
    starts = departures(problem, keep) if late else torch.zeros(len(keep), dtype=torch.int64)
    order = starts.argsort(stable=True)
    parts = max(1, -(-len(keep) // (runs or at_once(problem, gram))))
    found = []
    for rows in order.tensor_split(parts):
        start = int(starts[rows].min())
        begun = Runs(problem, problem.start() if states is None else states[start], len(rows), gram=gram)
        found.append(_fold(problem, keep[rows.to(keep.device)], start, begun, read, progress))
    return torch.cat(found, dim=1)[:, order.argsort()]


def departures(problem: Problem, keep: Tensor) -> Tensor:
    """The step (R,) before which each run is the reference run, at most the last one before the first horizon."""
    first = torch.full((len(problem.train),), problem.steps)
    for t in reversed(range(problem.steps)):
        first[problem.batch(t).cpu()] = t
    visits = torch.where(keep.cpu() != 1, first, problem.steps).amin(1)
    return visits.clamp(max=problem.horizons[0] - 1)


def _fold(problem: Problem, keep: Tensor, start: int, runs: Runs, read: Callable[[Runs], Tensor], progress: Progress) -> Tensor:
    calculus.count(gradients=int((problem.batches >= 0).sum()) * len(keep))  # of the question, whatever is shared
    progress(sum(len(problem.batch(t)) for t in range(start)) * len(keep))
    readings = []
    for t in range(start, problem.steps):
        weights = keep[:, problem.batch(t)] * problem.weights(t)
        runs.step(t, weights)
        progress(weights.numel())
        if t + 1 in problem.horizons:
            readings.append(read(runs))
    return torch.stack(readings)


def leave_one_out(run: Trajectory, *, progress: Progress = lambda visits: None) -> Tensor:
    """Effect (H, N, Q) of leaving out each sample: query loss of the run without it minus query loss of `run`."""
    problem = run.problem
    keep = ~torch.eye(len(problem.train), dtype=torch.bool, device=problem.initial.device)
    without = retrain(problem, keep, states=run.states, read=Runs.query_losses, progress=progress)
    return without - torch.stack([problem.query_losses(cut.final) for cut in run.at_horizons()])[:, None]
