"""Many runs of one network at once, in place, at the speed of the machine's matrix products.

A run is its parameters, moments and gradients, held as separate tensors that are written in place: no step allocates what has
the size of the state. Values between layers are (R, features, B). The first layer sees the same inputs in all runs.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from benchmark.core import calculus, layers
from benchmark.core.layers import ACTIVATION_PULLS, ACTIVATIONS
from benchmark.core.losses import LOSS_SLOPES, LOSSES, asked
from benchmark.core.optimizers import Muon, Sgd
from benchmark.core.problem import Problem
from benchmark.retraining.convolution import ConvRuns, FirstConv, MaxPoolRuns
from benchmark.retraining.dense import DenseRuns, FirstDense, Gram, Parts, Rows
from benchmark.retraining.generic import GenericRuns, blocks, query_block
from benchmark.retraining.updaters import L2, l2


class LayerRuns(Protocol):
    """A layer of R runs, which remembers what the way back needs."""

    def forward(self, values: Tensor, /) -> Tensor:
        """(R, features before, B) -> (R, features, B)"""

    def backward(self, t: int, slope: Tensor, l2: L2 | None, /) -> Tensor:
        """Take step t; slopes (R, features, B) of the outputs -> (R, features before, B), of the inputs before the step."""

    def parameters(self) -> list[Tensor]:
        """Tensors (R, ...) in the order of the flat vector."""


class FirstRuns(Protocol):
    """The first layer of R runs, on samples that they share."""

    def forward(self, split: str, rows: Rows, /) -> Tensor:
        """Outputs (R, features, B) for some samples of the split, train or query."""

    def backward(self, t: int, rows: Tensor, slope: Tensor, l2: L2 | None, /) -> None:
        """Take step t with slopes (R, features, B) of the outputs for the training samples `rows`."""

    def parameters(self) -> list[Tensor]:
        """Tensors (R, ...) in the order of the flat vector."""


class AnyRuns(Protocol):
    """R runs of one problem, side by side."""

    problem: Problem
    runs: int  # R

    def step(self, t: int, rows: Tensor, weights: Tensor, /) -> None:
        """One training step on the samples `rows` with weights (R, B)."""

    def query_losses(self) -> Tensor:
        """Query losses of each run, without L2 term, or what else the problem asks, (R, Q)."""

    def outputs_of_query(self) -> Tensor:
        """Outputs (R, Q, C) of each run for every query sample."""

    def parameters(self) -> Tensor:
        """Flat parameters (R, P)."""


class ActivationRuns:
    """An activation in R runs."""

    def __init__(self, _problem: Problem, layer: layers.Activation, _rows: Parts, _runs: int) -> None:
        self.function = layer.function

    def forward(self, values: Tensor) -> Tensor:
        """(R, features, B) -> (R, features, B)"""
        self.value = ACTIVATIONS[self.function](values)
        return self.value

    def backward(self, _t: int, slope: Tensor, _l2: L2 | None) -> Tensor:
        """The slope of the inputs."""
        return ACTIVATION_PULLS[self.function](slope, self.value)

    def parameters(self) -> list[Tensor]:
        """None."""
        return []


LATER: dict[type, Callable[..., LayerRuns]] = {
    layers.Dense: DenseRuns,
    layers.Conv: ConvRuns,
    layers.MaxPool: MaxPoolRuns,
    layers.Activation: ActivationRuns,
}


class Runs:
    """R runs of one problem, trained side by side from one state (S, P), or from one for each (R, S, P).

    With `gram`, which takes one state for all, the first layer is held in its form.
    """

    def __init__(self, problem: Problem, state: Tensor, runs: int, gram: Gram | None = None) -> None:
        self.problem, self.runs, self.model = problem, runs, problem.model
        states = state if state.ndim == 3 else state[None]
        rows: list[Parts] = [
            list(parts) for parts in zip(*map(self.model.parts, states.unbind(1)), strict=True)
        ]  # of each layer
        self.later: list[LayerRuns] = [
            LATER[type(layer)](problem, layer, parts, runs)
            for layer, parts in zip(self.model.layers[1:], rows[1:], strict=True)
        ]
        self.first = self._first(rows[0], gram)

    def _first(self, rows: Parts, gram: Gram | None) -> FirstRuns:
        layer = self.model.layers[0]
        if not isinstance(layer, layers.Conv):
            return FirstDense(self.problem, rows, self.runs, gram)
        pool = self.later[0]
        if isinstance(pool, MaxPoolRuns):
            pool.apart = True
        return FirstConv(self.problem, layer, rows, self.runs, corners=isinstance(pool, MaxPoolRuns))

    def step(self, t: int, rows: Tensor, weights: Tensor) -> None:
        """One training step on the samples `rows` with weights (R, B)."""
        outputs = self._outputs("train", rows)
        slope = LOSS_SLOPES[self.model.loss](outputs, self.problem.train.targets[rows]) * weights[:, :, None]
        slope = slope.transpose(1, 2).contiguous()
        decay = l2(self.problem, t, weights)
        for layer in reversed(self.later):
            slope = layer.backward(t, slope, decay)
        self.first.backward(t, rows, slope, decay)

    def _outputs(self, split: str, rows: Rows) -> Tensor:
        """Network outputs (R, B, C) for some samples of the split."""
        values = self.first.forward(split, rows)
        for layer in self.later:
            values = layer.forward(values)
        return values.transpose(1, 2)

    def query_losses(self) -> Tensor:
        """Query losses of each run, without L2 term, (R, Q)."""
        query = self.problem.query
        losses = torch.cat([self._losses(some) for some in blocks(len(query), query_block(self.problem))], dim=1)
        return losses.mean(1, keepdim=True) if self.problem.query_kind == "mean" else losses

    def _losses(self, rows: slice) -> Tensor:
        targets, outputs = self.problem.query.targets[rows], self._outputs("query", rows)
        return over_runs(self.problem, outputs, targets)

    def outputs_of_query(self) -> Tensor:
        """Network outputs (R, Q, C) of each run for every query sample, whatever the kind of query."""
        return torch.cat(
            [self._outputs("query", some) for some in blocks(len(self.problem.query), query_block(self.problem))], dim=1
        )

    def parameters(self) -> Tensor:
        """Flat parameters (R, P)."""
        parts = [*self.first.parameters(), *(part for layer in self.later for part in layer.parameters())]
        return torch.cat([part.reshape(self.runs, -1) for part in parts], dim=1)


def over_runs(problem: Problem, outputs: Tensor, targets: Tensor) -> Tensor:
    """What is asked of the query outputs of R runs. (R, B, C), (B,) -> (R, B)"""
    if problem.query_function == "loss" and isinstance(problem.model.loss, str) and targets.ndim == 1:
        return LOSSES[problem.model.loss](outputs, targets.expand(len(outputs), -1))
    each: Tensor = calculus.many(asked(problem.model.loss, problem.query_function), over=(0, None), chunk=None)(
        outputs, targets
    )
    return each


def native(problem: Problem) -> bool:
    """Whether every layer has a form here, and the step goes layer by layer, which clipping and Muon do not.

    Normalisation has none: written out for many runs it was slower than a plain loop (docs/log.md).
    """
    kinds = {type(layer) for layer in problem.model.layers}
    return bool(kinds) and kinds <= LATER.keys() and not problem.clip and not isinstance(problem.optimizer, Muon)


def runs(problem: Problem, state: Tensor, count: int, gram: Gram | None = None) -> AnyRuns:
    """So many runs of a problem from one state (S, P), or from one for each (R, S, P): in our form where there is one."""
    return Runs(problem, state, count, gram) if native(problem) else GenericRuns(problem, state, count)


def parameters(runs: AnyRuns) -> Tensor:
    """Their flat parameters (R, P)."""
    return runs.parameters()


def query_losses(runs: AnyRuns) -> Tensor:
    """What is asked of their queries (R, Q)."""
    return runs.query_losses()


def gram_applies(problem: Problem) -> bool:
    """Whether the first layer stays in the span of the inputs: under SGD, with momentum or not, if it is dense."""
    return native(problem) and isinstance(problem.optimizer, Sgd) and isinstance(problem.model.layers[0], layers.Dense)


def gram_pays(problem: Problem) -> bool:
    """Whether the Gram form applies and is cheaper."""
    return gram_applies(problem) and problem.train.inputs.shape[1] > 2 * len(problem.train)
