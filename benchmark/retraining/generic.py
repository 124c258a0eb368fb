"""Runs of any model side by side: one backward pass through the losses of all of them, and the optimiser's step in place."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from benchmark.core import calculus
from benchmark.core.losses import LOSSES, OfOutputs, asked
from benchmark.core.models import Model
from benchmark.core.problem import Problem, Samples, clipping
from benchmark.retraining.updaters import adding, each_run_whole, l2, updater


def blocks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `length`."""
    return (slice(start, start + size) for start in range(0, length, size))


class GenericRuns:
    """R runs of one problem, trained side by side from one state (S, P), or from one for each (R, S, P).

    Several are one pass mapped over the rows of their parameters (R, P). A single one, and those that torch cannot map, go
    through the model itself, whose parameters lie in such a row.
    """

    def __init__(self, problem: Problem, state: Tensor, runs: int) -> None:
        self.problem, self.runs, self.model = problem, runs, problem.model
        states = (state if state.ndim == 3 else state[None]).expand(runs, -1, -1)
        rows = [row.clone(memory_format=torch.contiguous_format) for row in states.unbind(1)]  # of their own also where R is 1
        self.updater = updater(problem, rows, each_run_whole)
        self.mapped = self.model.mapped and runs > 1
        self.living = [] if self.mapped else [self.model.living(theta) for theta in self.updater.value]

    def step(self, t: int, rows: Tensor, weights: Tensor) -> None:
        """One training step on the samples `rows` with weights (R, B)."""
        batch = self.problem.train[rows]
        with torch.enable_grad():
            gradient = self._mapped_slope(batch, weights) if self.mapped else self._slopes(batch, weights)
        if decay := l2(self.problem, t, weights):
            gradient.addcmul_(self.updater.value, decay.decays)
        if self.problem.clip:
            gradient.mul_(clipping(gradient, self.problem.clip))
        self.updater.update(t, adding(gradient), None)

    def _mapped_slope(self, batch: Samples, weights: Tensor) -> Tensor:
        """Gradients (R, P) of the weighted losses."""
        thetas = self.updater.value.detach().requires_grad_()
        losses = self._each(self.model.losses)(thetas, batch.inputs, batch.targets)
        return torch.autograd.grad((losses * weights).sum(), thetas)[0].detach()

    def _slopes(self, batch: Samples, weights: Tensor) -> Tensor:
        """The same, one run after another."""
        loss, found = LOSSES[self.model.loss], []
        for run, own in zip(self.living, weights, strict=True):
            total = loss(run.outputs(batch.inputs), batch.targets) @ own
            found.append(torch.cat([slope.flatten() for slope in torch.autograd.grad(total, run.leaves)]))
        return torch.stack(found)

    def _each(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A function of one run's parameters (P,) for all of them (R, P)."""
        return calculus.many(function, over=(0, None, None), chunk=None)

    def query_losses(self) -> Tensor:
        """What is asked of the queries in each run, (R, Q)."""
        losses = self._of_query(asked(self.model.loss, self.problem.query_function))
        return losses.mean(1, keepdim=True) if self.problem.query_kind == "mean" else losses

    def outputs_of_query(self) -> Tensor:
        """Outputs (R, Q, C) of each run for every query sample, whatever the kind of query."""
        return self._of_query(lambda outputs, _targets: outputs)

    @torch.no_grad()
    def _of_query(self, read: OfOutputs) -> Tensor:
        query = self.problem.query
        parts = [query[some] for some in blocks(len(query), query_block(self.problem))]
        if self.mapped:
            whole = self._each(lambda theta, inputs, targets: read(self.model.outputs(theta, inputs), targets))
            return torch.cat([whole(self.updater.value, part.inputs, part.targets) for part in parts], dim=1)
        each = [[read(run.outputs(part.inputs), part.targets) for part in parts] for run in self.living]
        return torch.stack([torch.cat(one) for one in each])

    def parameters(self) -> Tensor:
        """Flat parameters (R, P)."""
        return self.updater.value.clone()


def query_block(problem: Problem) -> int:
    """Query samples whose losses are computed at once, to bound memory: 256, or a batch where a sample's values may be many."""
    return 256 if problem.model.dense else problem.batches.shape[1]


# ---- how much a step is ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Work:
    """What one run takes for one step."""

    flops: float  # of matrix products and convolutions, forward and back
    kept: int  # bytes that the forward pass keeps for the way back


_measured: "WeakKeyDictionary[Model, dict[object, Work]]" = WeakKeyDictionary()


def work(problem: Problem) -> Work:
    """The work of one run's step, counted on a first batch: the same on every machine."""
    rows = problem.batch(0)
    key = (tuple(problem.train.inputs[rows].shape), problem.initial.dtype, problem.initial.device.type)
    known = _measured.setdefault(problem.model, {})
    if key not in known:
        known[key] = _work(problem, rows)
    return known[key]


def _work(problem: Problem, rows: Tensor) -> Work:
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch, theta = problem.train[rows], problem.initial.detach().clone().requires_grad_()
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(note, lambda tensor: tensor):
            total = problem.model.losses(theta, batch.inputs, batch.targets).sum()
        torch.autograd.grad(total, theta)
    return Work(float(counter.get_total_flops()), sum(kept.values()))
