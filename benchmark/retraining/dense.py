"""Fully connected layers of many runs side by side. Values are (R, features, B): the run first, the sample last.

The runs share their inputs, so that all first layers are one product ``x (B, d) @ W (d, R h)``. Under plain SGD the first
layer is ``W_r = s_r V_r`` with a number s_r for each run, which takes the L2 term, so that a step passes over V once. Where
inputs are many and samples few, V never leaves ``W_0 + X^T A``: it is trained as ``A (N, R h)`` through the Gram matrix
``X X^T``, and under plain SGD a step then touches the rows of its batch alone.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from benchmark.core.optimizers import Sgd
from benchmark.core.problem import Problem
from benchmark.retraining.updaters import L2, adding, each_run_whole, updater

Parts = list[list[Tensor]]  # the parameters of one layer in each row of the state
Rows = Tensor | slice  # which samples of a split


@dataclass(frozen=True, eq=False)
class Gram:
    """Inner products of the inputs: ``train`` (N, N) among themselves, ``query`` (Q, N) with the query's."""

    train: Tensor
    query: Tensor

    @staticmethod
    def of(problem: Problem) -> "Gram":
        """All inner products that runs of the problem need, shared by all of them."""
        inputs = problem.train.inputs
        return Gram(inputs @ inputs.T, problem.query.inputs @ inputs.T)


def spread(part: Tensor, runs: int, dim: int = 0) -> Tensor:
    """A part that all runs start from, or one for each, written out for each run: 1 or R in `dim` -> R."""
    sizes = [runs if at == dim else -1 for at in range(part.ndim)]
    return part.expand(sizes).clone(memory_format=torch.contiguous_format)


def side_by_side(weight: Tensor, runs: int) -> Tensor:
    """Weights (1 or R, h, d) -> (d, R h)"""
    return spread(weight.permute(2, 0, 1), runs, dim=1).flatten(1)


class DenseRuns:
    """A later layer of R runs: weight (R, out, in) and bias (R, out, 1)."""

    def __init__(self, problem: Problem, _layer: object, rows: Parts, runs: int) -> None:
        self.weight = updater(problem, [spread(weight, runs) for weight, _ in rows], each_run_whole)
        self.bias = updater(problem, [spread(bias[:, :, None], runs) for _, bias in rows], each_run_whole)

    def forward(self, values: Tensor) -> Tensor:
        """(R, in, B) -> (R, out, B)"""
        self.inputs = values
        return torch.baddbmm(self.bias.value, self.weight.value, values)

    def backward(self, t: int, slope: Tensor, l2: L2 | None) -> Tensor:
        """Move by the gradient of outputs whose slope is (R, out, B); returns the slope (R, in, B) of the inputs before it."""
        turned_weight = self.weight.value.transpose(1, 2)
        before = turned_weight @ slope if slope.shape[1] > 1 else turned_weight * slope  # thin products are slow
        turned = self.inputs.transpose(1, 2)
        self.weight.update(t, lambda out, beta, alpha: out.baddbmm_(slope, turned, beta=beta, alpha=alpha), l2)
        self.bias.update(t, adding(slope.sum(2, keepdim=True)), l2)
        return before

    def parameters(self) -> list[Tensor]:
        """Weight and bias of each run, in the order of the flat vector."""
        return [self.weight.value, self.bias.value]


class FirstDense:
    """The first layer of R runs side by side, h outputs each; `form` holds its weight."""

    def __init__(self, problem: Problem, rows: Parts, runs: int, gram: Gram | None) -> None:
        self.form = form(problem, torch.stack([weight for weight, _ in rows]), runs, gram)
        self.bias = updater(problem, [spread(bias[:, :, None], runs) for _, bias in rows], each_run_whole)

    def forward(self, split: str, rows: Rows) -> Tensor:
        """Outputs (R, h, B) for some samples of the split, train or query."""
        return self.form.outputs(split, rows, self.bias.value)

    def backward(self, t: int, rows: Tensor, slope: Tensor, l2: L2 | None) -> None:
        """Move by the gradient of outputs whose slope is (R, h, B)."""
        self.form.update(t, rows, slope, l2)
        self.bias.update(t, adding(slope.sum(2, keepdim=True)), l2)

    def parameters(self) -> list[Tensor]:
        """Weight and bias of each run, in the order of the flat vector."""
        return [self.form.weights(), self.bias.value]


# ---- forms of the first weights --------------------------------------------------------------------------------------
class Form(Protocol):
    """A way to hold the first weights of R runs."""

    def outputs(self, split: str, rows: Rows, bias: Tensor, /) -> Tensor:
        """``W_r x + b_r`` for some samples of a split, (R, h, B); bias (R, h, 1)."""

    def update(self, t: int, rows: Tensor, slope: Tensor, l2: L2 | None, /) -> None:
        """One step with the gradient ``slope_r x^T`` over training samples, the L2 term included."""

    def weights(self) -> Tensor:
        """(R, h, d)"""


def form(problem: Problem, rows: Tensor, runs: int, gram: Gram | None) -> Form:
    """The cheapest form for the problem's optimiser; rows (S, 1 or R, h, d) of the state to start from."""
    if problem.optimizer.name == "sgd":
        return Scaled(problem, Span(problem, rows, runs, gram) if gram else Matrix(problem, rows, runs), runs)
    return SpanMomentum(problem, rows, runs, gram) if gram else Columns(problem, rows, runs)


def apart(columns: Tensor, bias: Tensor, scale: Tensor | None = None) -> Tensor:
    """(B, R h) -> (R, h, B), times the scale (R, 1, 1) of each run, plus its bias (R, h, 1): all in one pass."""
    turned = columns.T.view(*bias.shape[:2], -1)
    found = columns.new_empty(turned.shape)
    return torch.add(turned, bias, out=found) if scale is None else torch.addcmul(bias, turned, scale, out=found)


def together(slope: Tensor) -> Tensor:
    """(R, h, B) -> (B, R h)"""
    return slope.flatten(0, 1).T


def by_run(columns: Tensor, runs: int) -> Tensor:
    """(d, R h) -> (d, R, h)"""
    return columns.view(len(columns), runs, -1)


class Columns:
    """``W^T (d, R h)`` as it is, for any optimiser."""

    def __init__(self, problem: Problem, rows: Tensor, runs: int) -> None:
        self.problem, self.runs = problem, runs
        self.weight = updater(problem, [side_by_side(row, runs) for row in rows], lambda value: by_run(value, runs))

    def outputs(self, split: str, rows: Rows, bias: Tensor) -> Tensor:
        return apart(getattr(self.problem, split).inputs[rows] @ self.weight.value, bias)

    def update(self, t: int, rows: Tensor, slope: Tensor, l2: L2 | None) -> None:
        turned, columns = self.problem.train.inputs[rows].T, together(slope)
        self.weight.update(t, lambda out, beta, alpha: out.addmm_(turned, columns, beta=beta, alpha=alpha), l2)

    def weights(self) -> Tensor:
        return by_run(self.weight.value, self.runs).permute(1, 2, 0)


class Body(Protocol):
    """Weights of R runs that gradients can be added to, and that each run can multiply by a number of its own."""

    def products(self, split: str, rows: Rows, /) -> Tensor:
        """``x W_r^T`` of all runs side by side, (B, R h)."""

    def add(self, rows: Tensor, slope: Tensor, alpha: float, /) -> None:
        """Add alpha times ``slope_r x^T`` over training samples; slope (R, h, B)."""

    def multiply(self, factors: Tensor, /) -> None:
        """Multiply run r by ``factors[r]``, (R, 1)."""

    def weights(self) -> Tensor:
        """(R, h, d)"""


class Scaled:
    """Plain SGD: ``W_r = s_r V_r``, where s_r shrinks by the L2 term and V moves by the gradient over s_r."""

    def __init__(self, problem: Problem, body: Body, runs: int) -> None:
        self.problem, self.body = problem, body
        self.scale = problem.initial.new_ones(runs)

    def outputs(self, split: str, rows: Rows, bias: Tensor) -> Tensor:
        return apart(self.body.products(split, rows), bias, self.scale[:, None, None])

    def update(self, t: int, rows: Tensor, slope: Tensor, l2: L2 | None) -> None:
        if l2:
            self.shrink(l2.kept[:, 0])
            slope = slope / self.scale[:, None, None]
        self.body.add(rows, slope, -self.problem.optimizer.rate(t))

    def shrink(self, factors: Tensor) -> None:
        """Multiply the weights of run r by ``factors[r]``; a scale that gets small is put into the body."""
        self.scale.mul_(factors)
        if float(self.scale.abs().min()) < 1e-3:
            self.body.multiply(self.scale[:, None])
            self.scale.fill_(1.0)

    def weights(self) -> Tensor:
        return self.body.weights() * self.scale[:, None, None]


class Matrix:
    """The weights as a matrix ``(d, R h)``."""

    def __init__(self, problem: Problem, rows: Tensor, runs: int) -> None:
        self.problem, self.runs = problem, runs
        self.value = side_by_side(rows[0], runs)

    def products(self, split: str, rows: Rows) -> Tensor:
        products: Tensor = getattr(self.problem, split).inputs[rows] @ self.value
        return products

    def add(self, rows: Tensor, slope: Tensor, alpha: float) -> None:
        self.value.addmm_(self.problem.train.inputs[rows].T, together(slope), alpha=alpha)

    def multiply(self, factors: Tensor) -> None:
        by_run(self.value, self.runs).mul_(factors)

    def weights(self) -> Tensor:
        return by_run(self.value, self.runs).permute(1, 2, 0)


class Span:
    """Weights ``W_r = A_r^T D`` in the span of the basis D: the N inputs, and the weights (and velocity) at the start.

    Exact, because a gradient is something times the inputs and the L2 term is a multiple of the weights: N + S h rows, not d.
    """

    def __init__(self, problem: Problem, rows: Tensor, runs: int, gram: Gram, row: int = 0) -> None:
        assert rows.shape[1] == 1  # all runs start alike
        outputs, self.starts = rows.shape[2], rows[:, 0].flatten(0, 1)  # (S h, d)
        self.problem, self.gram = problem, gram
        self.at_start = {split: getattr(problem, split).inputs @ self.starts.T for split in ("train", "query")}  # (N, S h)
        own = len(problem.train) + row * outputs
        self.value = rows.new_zeros(len(problem.train) + len(self.starts), runs, outputs)  # A
        self.value[own : own + outputs] = torch.eye(outputs).to(rows)[:, None]

    def products(self, split: str, rows: Rows) -> Tensor:
        kernel = torch.cat([getattr(self.gram, split)[rows], self.at_start[split][rows]], dim=1)  # (B, N + S h)
        return kernel @ self.value.flatten(1)

    def add(self, rows: Tensor, slope: Tensor, alpha: float) -> None:
        self.value.index_add_(0, rows, slope.permute(2, 0, 1).contiguous(), alpha=alpha)

    def multiply(self, factors: Tensor) -> None:
        self.value.mul_(factors)

    def weights(self) -> Tensor:
        inputs = self.problem.train.inputs
        on_inputs, on_starts = torch.split(self.value.flatten(1), [len(inputs), len(self.starts)])
        columns: Tensor = (on_inputs.T @ inputs).addmm_(on_starts.T, self.starts)
        return columns.view(*self.value.shape[1:], -1)


class SpanMomentum:
    """SGD with momentum: weights and velocity, each in the span."""

    def __init__(self, problem: Problem, rows: Tensor, runs: int, gram: Gram) -> None:
        assert isinstance(problem.optimizer, Sgd)
        self.problem, self.optimizer = problem, problem.optimizer
        self.value, self.velocity = (Span(problem, rows, runs, gram, row) for row in range(2))

    def outputs(self, split: str, rows: Rows, bias: Tensor) -> Tensor:
        return apart(self.value.products(split, rows), bias)

    def update(self, t: int, rows: Tensor, slope: Tensor, l2: L2 | None) -> None:
        self.velocity.value.mul_(self.optimizer.momentum)
        self.velocity.add(rows, slope, 1.0)
        if l2:
            self.velocity.value.addcmul_(self.value.value, l2.decays)
        self.value.value.add_(self.velocity.value, alpha=-self.optimizer.rate(t))

    def weights(self) -> Tensor:
        return self.value.weights()
