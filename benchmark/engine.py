"""Many runs of one MLP at once, in place, at the speed of the machine's matrix products.

Three ideas. The runs share their inputs, so that all first layers are one product ``x (B, d) @ W (d, R h)``. Parameters,
moments and gradients are separate tensors written in place, so that no step allocates what has the size of the state. And
where inputs are many and samples few, the first layer under SGD with L2 never leaves ``W = s W_0 + X^T A``: it is trained as
``A (N, R h)`` and the number s, through the Gram matrix ``X X^T``.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from benchmark.errors import LoobenchError
from benchmark.models import ACTIVATION_SLOPES, ACTIVATIONS, LOSS_SLOPES, LOSSES
from benchmark.optimizers import Adam, Sgd
from benchmark.problem import Problem, Samples

Product = Callable[[Tensor, float, float], object]  # product(out, beta, alpha): out <- beta out + alpha (gradient)
ByRun = Callable[[Tensor], Tensor]  # a parameter tensor seen as (..., R, h)


class Totals:
    """Sum of the batch's sample weights in each run: kept as 1, which it mostly is in a leave-one-out, and the exceptions."""

    def __init__(self, weights: Tensor) -> None:
        self.each = weights.sum(1)  # (R,)
        self.odd = ((self.each - 1).abs() > 100 * torch.finfo(weights.dtype).eps).nonzero().squeeze(1)
        self.surplus = self.each[self.odd] - 1

    def add(self, out: Tensor, value: Tensor, alpha: float) -> None:
        """``out += alpha total_r value`` for run r. (..., R, h) twice"""
        if alpha:
            out.add_(value, alpha=alpha)
            if len(self.odd):
                out[..., self.odd, :] += alpha * self.surplus[:, None] * value[..., self.odd, :]

    def shrink(self, value: Tensor, alpha: float) -> float:
        """``value *= 1 - alpha total_r`` for run r, but for a common factor, which is returned. (..., R, h)"""
        if alpha > 0.5:  # 1 - alpha may be 0, and cannot be divided by
            value.mul_(1 - alpha * self.each[:, None])
            return 1.0
        if alpha and len(self.odd):
            value[..., self.odd, :] *= (1 - alpha * (1 + self.surplus[:, None])) / (1 - alpha)
        return 1 - alpha


class Updater(Protocol):
    """One parameter tensor of R runs under one optimiser: moves it by a gradient that comes as a product."""

    value: Tensor

    def update(self, t: int, product: Product, totals: Totals) -> None:
        """One step, the L2 term included."""


class SgdUpdater:
    """``value <- (1 - rate decay total_r) value - rate g``: the product lands in the value itself."""

    def __init__(self, optimizer: Sgd, decay: float, rows: list[Tensor], by_run: ByRun) -> None:
        self.optimizer, self.decay, self.by_run = optimizer, decay, by_run
        (self.value,) = rows

    def update(self, t: int, product: Product, totals: Totals) -> None:
        rate = self.optimizer.rate(t)
        product(self.value, totals.shrink(self.by_run(self.value), rate * self.decay), -rate)


class MomentumUpdater:
    """``m <- momentum m + g + decay total_r value; value <- value - rate m``."""

    def __init__(self, optimizer: Sgd, decay: float, rows: list[Tensor], by_run: ByRun) -> None:
        self.optimizer, self.decay, self.by_run = optimizer, decay, by_run
        self.value, self.velocity = rows

    def update(self, t: int, product: Product, totals: Totals) -> None:
        product(self.velocity, self.optimizer.momentum, 1.0)
        totals.add(self.by_run(self.velocity), self.by_run(self.value), self.decay)
        self.value.add_(self.velocity, alpha=-self.optimizer.rate(t))


class AdamUpdater:
    """Adam and AdamW, with one buffer for the gradient and the root of the second moment after it."""

    def __init__(self, optimizer: Adam, decay: float, rows: list[Tensor], by_run: ByRun) -> None:
        self.optimizer, self.decay, self.by_run = optimizer, decay, by_run
        self.value, self.first, self.second = rows
        self.buffer = torch.zeros_like(self.value)

    def update(self, t: int, product: Product, totals: Totals) -> None:
        o, buffer = self.optimizer, self.buffer
        product(buffer, 0.0, 1.0)
        totals.add(self.by_run(buffer), self.by_run(self.value), self.decay)
        self.first.mul_(o.beta1).add_(buffer, alpha=1 - o.beta1)
        self.second.mul_(o.beta2).addcmul_(buffer, buffer, value=1 - o.beta2)
        torch.div(self.second, 1 - o.beta2 ** (t + 1), out=buffer).sqrt_().add_(o.eps)
        self.value.mul_(1 - o.rate(t) * o.decay)
        self.value.addcdiv_(self.first, buffer, value=-o.rate(t) / (1 - o.beta1 ** (t + 1)))


def updater(problem: Problem, rows: list[Tensor], by_run: ByRun) -> Updater:
    """The in-place form of the problem's optimiser for one parameter tensor and its moments, the rows of the state."""
    optimizer = problem.optimizer
    if isinstance(optimizer, Adam):
        return AdamUpdater(optimizer, problem.weight_decay, rows, by_run)
    if not isinstance(optimizer, Sgd):
        raise LoobenchError(f"optimiser {optimizer.name} has no in-place form: write one in benchmark/engine.py")
    return (MomentumUpdater if optimizer.momentum else SgdUpdater)(optimizer, problem.weight_decay, rows, by_run)


class Dense:
    """A later layer of R runs: weight (R, in, out) and bias (R, 1, out)."""

    def __init__(self, problem: Problem, weights: list[Tensor], biases: list[Tensor], runs: int) -> None:
        by_run: ByRun = lambda value: value.transpose(0, 1)  # noqa: E731
        self.weight = updater(problem, [w.T.expand(runs, -1, -1).clone() for w in weights], by_run)
        self.bias = updater(problem, [b.expand(runs, 1, -1).clone() for b in biases], by_run)

    def forward(self, inputs: Tensor) -> Tensor:
        """(R, B, in) -> (R, B, out)"""
        return torch.baddbmm(self.bias.value, inputs, self.weight.value)

    def backward(self, t: int, inputs: Tensor, slope: Tensor, totals: Totals) -> Tensor:
        """Move by the gradient of outputs whose slope is (R, B, out); returns the slope (R, B, in) of the inputs before it."""
        before = slope @ self.weight.value.transpose(1, 2)
        turned = inputs.transpose(1, 2)
        self.weight.update(t, lambda out, beta, alpha: out.baddbmm_(turned, slope, beta=beta, alpha=alpha), totals)
        total = slope.sum(1, keepdim=True)
        self.bias.update(t, lambda out, beta, alpha: out.mul_(beta).add_(total, alpha=alpha), totals)
        return before


class Columns:
    """The first layer of R runs, side by side: weight (d, R h), so that the shared input meets all runs in one product."""

    def __init__(self, problem: Problem, weights: list[Tensor], biases: list[Tensor], runs: int) -> None:
        self.problem, self.runs = problem, runs
        by_run: ByRun = lambda value: value.view(len(value), runs, -1)  # noqa: E731
        self.weight = updater(problem, [w.T.repeat(1, runs) for w in weights], by_run)
        self.bias = updater(problem, [b.repeat(1, runs) for b in biases], by_run)

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs (B, R h) for the training samples `rows`."""
        return torch.addmm(self.bias.value, self.problem.train.inputs[rows], self.weight.value)

    def backward(self, t: int, rows: Tensor, slope: Tensor, totals: Totals) -> None:
        """Move by the gradient of outputs whose slope is (B, R h)."""
        turned = self.problem.train.inputs[rows].T
        self.weight.update(t, lambda out, beta, alpha: out.addmm_(turned, slope, beta=beta, alpha=alpha), totals)
        total = slope.sum(0, keepdim=True)
        self.bias.update(t, lambda out, beta, alpha: out.mul_(beta).add_(total, alpha=alpha), totals)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs (K, R h) for any inputs (K, d)."""
        return torch.addmm(self.bias.value, inputs, self.weight.value)

    def weights(self) -> Tensor:
        """(d, R h)"""
        return self.weight.value


class Gram:
    """The first layer of R runs under plain SGD as ``W_r = s_r (W_0 + X^T A_r)``: exact, and N columns instead of d.

    Both parts of W shrink by the same factor at every step, so that s carries the L2 term, and a step touches only the rows of
    A that are in its batch.
    """

    def __init__(self, problem: Problem, weights: list[Tensor], biases: list[Tensor], runs: int) -> None:
        self.problem, self.runs = problem, runs
        self.start = weights[0].T.contiguous()  # (d, h)
        inputs = problem.train.inputs
        self.gram, self.at_start = inputs @ inputs.T, inputs @ self.start  # (N, N), (N, h)
        self.span = self.start.new_zeros(len(inputs), runs * self.start.shape[1])
        self.scale = self.start.new_ones(runs, 1)
        self.bias = updater(problem, [b.repeat(1, runs) for b in biases], lambda value: value.view(1, runs, -1))

    def scales(self) -> Tensor:
        """S of each column, (R h,)."""
        return self.scale.expand(-1, self.start.shape[1]).reshape(-1)

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs (B, R h) for the training samples `rows`."""
        spanned = torch.addmm(self.at_start[rows].repeat(1, self.runs), self.gram[rows], self.span)
        return spanned.mul_(self.scales()).add_(self.bias.value)

    def backward(self, t: int, rows: Tensor, slope: Tensor, totals: Totals) -> None:
        """Move by the gradient of outputs whose slope is (B, R h)."""
        rate = self.problem.optimizer.rate(t)
        self.scale.mul_(totals.shrink(self.scale, rate * self.problem.weight_decay))
        self.span.index_add_(0, rows, slope / self.scales(), alpha=-rate)
        total = slope.sum(0, keepdim=True)
        self.bias.update(t, lambda out, beta, alpha: out.mul_(beta).add_(total, alpha=alpha), totals)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs (K, R h) for any inputs (K, d)."""
        spanned = torch.addmm((inputs @ self.start).repeat(1, self.runs), inputs @ self.problem.train.inputs.T, self.span)
        return spanned.mul_(self.scales()).add_(self.bias.value)

    def weights(self) -> Tensor:
        """(d, R h)"""
        whole = torch.addmm(self.start.repeat(1, self.runs), self.problem.train.inputs.T, self.span)
        return whole.mul_(self.scales())


def gram_pays(problem: Problem) -> bool:
    """Whether the Gram form applies (plain SGD, an L2 step that leaves most of a weight) and is cheaper."""
    applies = problem.optimizer.name == "sgd" and problem.optimizer.rate(0) * problem.weight_decay < 0.1
    return applies and 2 * problem.train.inputs.shape[1] > 3 * len(problem.train)


def at_once(problem: Problem, gram: bool | None = None) -> int:
    """How many runs to train side by side: as many as keep the first layer's 4 MB in cache, from 16 to 256."""
    inside = len(problem.train) if (gram_pays(problem) if gram is None else gram) else problem.train.inputs.shape[1]
    return min(256, max(16, 2**22 // (8 * inside * problem.model.widths[1])))


class Runs:
    """R runs of one problem from one state, trained side by side."""

    def __init__(self, problem: Problem, state: Tensor, runs: int, *, gram: bool | None = None) -> None:
        self.problem, self.runs, self.model = problem, runs, problem.model
        parts = list(zip(*map(self.model.layers, state), strict=True))  # of each layer: (weight, bias) in each row of the state
        layers = [([weight for weight, _ in part], [bias for _, bias in part]) for part in parts]
        spans = gram_pays(problem) if gram is None else gram
        self.first = (Gram if spans else Columns)(problem, *layers[0], runs)
        self.later = [Dense(problem, *layer, runs) for layer in layers[1:]]

    def step(self, t: int, weights: Tensor) -> None:
        """One training step with sample weights (R, |B_t|)."""
        problem, rows = self.problem, self.problem.batch(t)
        values = self._forward(self.first.forward(rows))
        slope = LOSS_SLOPES[self.model.loss](values[-1], problem.train.targets[rows]) * weights[:, :, None]
        totals = Totals(weights)
        for layer, value in zip(self.later[::-1], values[-2::-1], strict=True):
            slope = layer.backward(t, value, slope, totals) * ACTIVATION_SLOPES[self.model.activation](value)
        self.first.backward(t, rows, slope.transpose(0, 1).reshape(len(rows), -1), totals)

    def _forward(self, first: Tensor) -> list[Tensor]:
        """Values after each activation (R, B, h) and the outputs (R, B, C), from the first layer's outputs (B, R h)."""
        values = [first.view(len(first), self.runs, -1).transpose(0, 1)]
        for layer in self.later:
            values[-1] = ACTIVATIONS[self.model.activation](values[-1].contiguous())
            values.append(layer.forward(values[-1]))
        return values

    def losses(self, samples: Samples) -> Tensor:
        """Losses without L2 term, (R, B)."""
        return LOSSES[self.model.loss](
            self._forward(self.first.outputs(samples.inputs))[-1], samples.targets.expand(self.runs, -1)
        )

    def query_losses(self) -> Tensor:
        """(R, Q)"""
        losses = self.losses(self.problem.query)
        return losses.mean(1, keepdim=True) if self.problem.query_kind == "mean" else losses

    def parameters(self) -> Tensor:
        """Flat parameters (R, P)."""
        weight = self.first.weights()
        parts = [weight.view(len(weight), self.runs, -1).permute(1, 2, 0), self.first.bias.value.view(self.runs, -1)]
        for layer in self.later:
            parts += [layer.weight.value.transpose(1, 2), layer.bias.value]
        return torch.cat([part.reshape(self.runs, -1) for part in parts], dim=1)
