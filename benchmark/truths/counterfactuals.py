"""The truths there are, each as masks over the samples and one or more problems to train with them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmark.base.streams import stream
from benchmark.core.problem import Problem
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import left_out
from benchmark.tasks.definition import AnyTask, batches
from benchmark.tasks.questions import FurtherTraining, LeaveOneOut, Subsets


@dataclass(frozen=True, eq=False)
class Design:
    """What is trained for a truth: the same runs in each of R problems, which differ in their start or their order.

    The effect of group m in a problem is the query loss of run m minus that of the last, which keeps all samples.
    """

    problems: tuple[Problem, ...]
    keep: Tensor  # (M + 1, N)
    removed: Tensor | None  # (M, N) bool, the members of each group; None: the samples asked, one at a time

    @property
    def visits(self) -> int:
        """Sample visits in all runs of all problems."""
        return sum(int((problem.batches >= 0).sum()) for problem in self.problems) * len(self.keep)


def each_sample(run: Trajectory, _asked: Any = None, _seed: int = 0) -> Design:
    """Without each of the problem's samples, one at a time."""
    return Design((run.problem,), left_out(run.problem), None)


def subsets(run: Trajectory, asked: Subsets, seed: int) -> Design:
    """On random subsets of equal size, drawn from the stream `subsets`; from the run's own start, and from others.

    A subset may lack a class: the network is then never shown it, and the truth is what it is.
    """
    problem, size = run.problem, len(run.problem.train)
    random, kept = stream("subsets", seed), round(asked.keep * size)
    keep = torch.zeros(asked.count + 1, size, dtype=torch.bool)
    for row in keep[:-1]:
        row[torch.from_numpy(random.permutation(size)[:kept])] = True
    keep[-1] = True
    keep = keep.to(problem.initial.device)
    others = [replace(problem, initial=initial(problem, f"subsets/initial/{r}", seed)) for r in range(1, asked.repeats)]
    return Design((problem, *others), keep, ~keep[:-1])


def initial(problem: Problem, name: str, seed: int) -> Tensor:
    """Initial parameters (P,) from the stream `name`."""
    return problem.model.initial(stream(name, seed)).to(problem.initial)


def order(problem: Problem, epochs: int, name: str, seed: int) -> Tensor:
    """Batches (T, B) of so many epochs in an order from the stream `name`, of the size of the problem's."""
    size = problem.batches.shape[1]
    return batches(len(problem.train), size, epochs, stream(name, seed)).to(problem.batches.device)


def further_training(run: Trajectory, asked: FurtherTraining, seed: int) -> Design:
    """From the final parameters on, moments 0, with and without each sample, in orders from the streams `further/0`, ..."""
    problem = run.problem
    start = replace(problem, optimizer=asked.optimizer, initial=run.final)
    orders = [order(problem, asked.epochs, f"further/{r}", seed) for r in range(asked.repeats)]
    steps = len(orders[0]) // asked.epochs
    horizons = tuple(epoch * steps for epoch in asked.horizons)
    return Design(tuple(replace(start, batches=rows, horizons=horizons) for rows in orders), left_out(problem), None)


DESIGNS: dict[str, Callable[[Trajectory, Any, int], Design]] = {
    LeaveOneOut.kind: each_sample,
    Subsets.kind: subsets,
    FurtherTraining.kind: further_training,
}


def design(task: AnyTask, run: Trajectory, seed: int) -> Design:
    """What is trained for the truth of a task; where estimates are of more samples than that leaves out, in groups of one."""
    found = DESIGNS[task.truth.kind](run, task.truth, seed)
    return replace(found, removed=~found.keep[:-1]) if task.uses and task.leave_out else found
