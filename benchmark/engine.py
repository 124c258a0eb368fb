"""Many runs of one MLP at once, in place, at the speed of the machine's matrix products.

Four ideas. The runs share their inputs, so that all first layers are one product ``x (B, d) @ W (d, R h)``. Parameters,
moments and gradients are separate tensors written in place, so that no step allocates what has the size of the state. Under
plain SGD the first layer is ``W_r = s_r V_r`` with a number s_r for each run, which takes the L2 term, so that a step passes
over V once. And where inputs are many and samples few, V never leaves ``W_0 + X^T A``: it is trained as ``A (N, R h)`` through
the Gram matrix ``X X^T``.
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


class Updater(Protocol):
    """One parameter tensor of R runs under one optimiser: moves it by a gradient that comes as a product."""

    value: Tensor

    def update(self, t: int, product: Product, totals: Tensor) -> None:
        """One step, the L2 term included; `totals` (R,) is the sum of the batch's sample weights in each run."""


class SgdUpdater:
    """``value <- (1 - rate decay total_r) value - rate g``: the product lands in the value itself."""

    def __init__(self, optimizer: Sgd, decay: float, rows: list[Tensor], by_run: ByRun) -> None:
        self.optimizer, self.decay, self.by_run = optimizer, decay, by_run
        (self.value,) = rows

    def update(self, t: int, product: Product, totals: Tensor) -> None:
        rate = self.optimizer.rate(t)
        if self.decay:
            self.by_run(self.value).mul_((1 - rate * self.decay * totals)[:, None])
        product(self.value, 1.0, -rate)


class MomentumUpdater:
    """``m <- momentum m + g + decay total_r value; value <- value - rate m``."""

    def __init__(self, optimizer: Sgd, decay: float, rows: list[Tensor], by_run: ByRun) -> None:
        self.optimizer, self.decay, self.by_run = optimizer, decay, by_run
        self.value, self.velocity = rows

    def update(self, t: int, product: Product, totals: Tensor) -> None:
        product(self.velocity, self.optimizer.momentum, 1.0)
        if self.decay:
            self.by_run(self.velocity).addcmul_(self.by_run(self.value), (self.decay * totals)[:, None])
        self.value.add_(self.velocity, alpha=-self.optimizer.rate(t))


class AdamUpdater:
    """Adam and AdamW, with one buffer for the gradient and the root of the second moment after it."""

    def __init__(self, optimizer: Adam, decay: float, rows: list[Tensor], by_run: ByRun) -> None:
        self.optimizer, self.decay, self.by_run = optimizer, decay, by_run
        self.value, self.first, self.second = rows
        self.buffer = torch.zeros_like(self.value)

    def update(self, t: int, product: Product, totals: Tensor) -> None:
        o, buffer = self.optimizer, self.buffer
        product(buffer, 0.0, 1.0)
        if self.decay:
            self.by_run(buffer).addcmul_(self.by_run(self.value), (self.decay * totals)[:, None])
        self.first.mul_(o.beta1).add_(buffer, alpha=1 - o.beta1)
        self.second.mul_(o.beta2).addcmul_(buffer, buffer, value=1 - o.beta2)
        torch.div(self.second, 1 - o.beta2 ** (t + 1), out=buffer).sqrt_().add_(o.eps)
        if o.decay:
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

    def backward(self, t: int, inputs: Tensor, slope: Tensor, totals: Tensor) -> Tensor:
        """Move by the gradient of outputs whose slope is (R, B, out); returns the slope (R, B, in) of the inputs before it."""
        before = slope @ self.weight.value.transpose(1, 2)
        turned = inputs.transpose(1, 2)
        self.weight.update(t, lambda out, beta, alpha: out.baddbmm_(turned, slope, beta=beta, alpha=alpha), totals)
        total = slope.sum(1, keepdim=True)
        self.bias.update(t, lambda out, beta, alpha: out.mul_(beta).add_(total, alpha=alpha), totals)
        return before


class First:
    """The first layer of R runs side by side, h columns each; `form` holds its weight (d, R h)."""

    def __init__(self, problem: Problem, weights: list[Tensor], biases: list[Tensor], runs: int, gram: bool) -> None:
        self.inputs = problem.train.inputs
        kinds = (Gram, Scaled) if problem.optimizer.name == "sgd" else (Gram, Columns)
        self.form: Form = kinds[not gram](problem, [w.T for w in weights], runs)
        self.bias = updater(problem, [b.repeat(1, runs) for b in biases], lambda value: value.view(1, runs, -1))

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs (B, R h) for the training samples `rows`."""
        return self.form.products(self.inputs[rows], rows).add_(self.bias.value)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs (K, R h) for any inputs (K, d)."""
        return self.form.products(inputs, None).add_(self.bias.value)

    def backward(self, t: int, rows: Tensor, slope: Tensor, totals: Tensor) -> None:
        """Move by the gradient of outputs whose slope is (B, R h)."""
        self.form.update(t, rows, slope, totals)
        total = slope.sum(0, keepdim=True)
        self.bias.update(t, lambda out, beta, alpha: out.mul_(beta).add_(total, alpha=alpha), totals)


class Form(Protocol):
    """A way to hold the first weights (d, R h) of R runs."""

    def products(self, inputs: Tensor, rows: Tensor | None, /) -> Tensor:
        """``inputs @ W``, (K, d) -> (K, R h); `rows` says which training samples they are, if they are any."""

    def update(self, t: int, rows: Tensor, slope: Tensor, totals: Tensor, /) -> None:
        """One step with the gradient ``inputs[rows].T @ slope``, the L2 term included."""

    def weights(self) -> Tensor:
        """(d, R h)"""


class Columns:
    """The weight as it is, for any optimiser."""

    def __init__(self, problem: Problem, rows: list[Tensor], runs: int) -> None:
        self.inputs = problem.train.inputs
        self.weight = updater(problem, [row.repeat(1, runs) for row in rows], lambda value: value.view(len(value), runs, -1))

    def products(self, inputs: Tensor, _rows: Tensor | None) -> Tensor:
        return inputs @ self.weight.value

    def update(self, t: int, rows: Tensor, slope: Tensor, totals: Tensor) -> None:
        turned = self.inputs[rows].T
        self.weight.update(t, lambda out, beta, alpha: out.addmm_(turned, slope, beta=beta, alpha=alpha), totals)

    def weights(self) -> Tensor:
        return self.weight.value


class Scaled:
    """Plain SGD: ``W_r = s_r V_r``, where s_r shrinks by the L2 term and V moves by the gradient over s_r."""

    def __init__(self, problem: Problem, rows: list[Tensor], runs: int) -> None:
        self.problem, self.runs = problem, runs
        self.value = rows[0].repeat(1, runs)
        self.scale = self.value.new_ones(runs)

    def products(self, inputs: Tensor, _rows: Tensor | None) -> Tensor:
        return (inputs @ self.value).mul_(self.scales())

    def update(self, t: int, rows: Tensor, slope: Tensor, totals: Tensor) -> None:
        rate = self.problem.optimizer.rate(t)
        self.shrink(1 - rate * self.problem.weight_decay * totals)
        self.value.addmm_(self.problem.train.inputs[rows].T, slope / self.scales(), alpha=-rate)

    def shrink(self, factors: Tensor) -> None:
        """Multiply the weights of run r by ``factors[r]``; a scale that gets small is put into the value."""
        self.scale.mul_(factors)
        if float(self.scale.abs().min()) < 1e-3:
            self.value.mul_(self.scales())
            self.scale.fill_(1.0)

    def scales(self) -> Tensor:
        """S of each column, (R h,)."""
        return self.scale.repeat_interleave(self.value.shape[1] // self.runs)

    def weights(self) -> Tensor:
        return self.value * self.scales()


class Gram:
    """SGD with L2 and momentum m, in the span of the inputs: ``W_r = s_r W_0 + X^T A_r``, its velocity ``q_r W_0 + X^T V_r``.

    Exact, because a gradient is ``X^T`` times something and the L2 term is a multiple of W: N rows instead of d.
    """

    def __init__(self, problem: Problem, rows: list[Tensor], runs: int) -> None:
        self.problem, self.runs = problem, runs
        self.start = rows[0].contiguous()  # (d, h); the velocity is 0 at the start
        inputs = problem.train.inputs
        self.gram, self.at_start = inputs @ inputs.T, inputs @ self.start  # (N, N), (N, h)
        self.span = self.start.new_zeros(len(inputs), runs * self.start.shape[1])
        self.velocity = torch.zeros_like(self.span)
        self.scale, self.push = self.start.new_ones(runs), self.start.new_zeros(runs)

    def products(self, inputs: Tensor, rows: Tensor | None) -> Tensor:
        start = inputs @ self.start if rows is None else self.at_start[rows]
        gram = inputs @ self.problem.train.inputs.T if rows is None else self.gram[rows]
        return torch.addmm(self.of_start(start), gram, self.span)

    def update(self, t: int, rows: Tensor, slope: Tensor, totals: Tensor) -> None:
        optimizer, decays = self.problem.optimizer, self.problem.weight_decay * totals
        assert isinstance(optimizer, Sgd)
        by_run = (len(self.span), self.runs, -1)
        self.velocity.mul_(optimizer.momentum).index_add_(0, rows, slope)
        self.velocity.view(by_run).addcmul_(self.span.view(by_run), decays[:, None])
        self.push.mul_(optimizer.momentum).addcmul_(self.scale, decays)
        self.span.add_(self.velocity, alpha=-optimizer.rate(t))
        self.scale.add_(self.push, alpha=-optimizer.rate(t))

    def of_start(self, values: Tensor) -> Tensor:
        """(K, h) values of W_0 times the s of each run, (K, R h)."""
        return (self.scale[:, None] * values[:, None]).view(len(values), -1)

    def weights(self) -> Tensor:
        return torch.addmm(self.of_start(self.start), self.problem.train.inputs.T, self.span)


def gram_applies(problem: Problem) -> bool:
    """Whether the first layer stays in the span of the inputs: under SGD, with momentum or not, from rest."""
    return isinstance(problem.optimizer, Sgd)


def may_start_late(problem: Problem, gram: bool | None) -> bool:
    """Whether runs may begin from a later state of the reference run: not if its velocity would leave the Gram form's span."""
    return problem.optimizer.name != "momentum" or not (gram_pays(problem) if gram is None else gram)


def gram_pays(problem: Problem) -> bool:
    """Whether the Gram form applies and is cheaper."""
    return gram_applies(problem) and problem.train.inputs.shape[1] > 2 * len(problem.train)


def at_once(problem: Problem, gram: bool | None = None) -> int:
    """How many runs to train side by side: as many as keep their first layers within 4 MB of cache, from 32 to 256."""
    inside = len(problem.train) if (gram_pays(problem) if gram is None else gram) else problem.train.inputs.shape[1]
    return min(256, max(32, 2**22 // (8 * inside * problem.model.widths[1])))


class Runs:
    """R runs of one problem from one state, trained side by side."""

    def __init__(self, problem: Problem, state: Tensor, runs: int, *, gram: bool | None = None) -> None:
        self.problem, self.runs, self.model = problem, runs, problem.model
        parts = list(zip(*map(self.model.layers, state), strict=True))  # of each layer: (weight, bias) in each row of the state
        layers = [([weight for weight, _ in part], [bias for _, bias in part]) for part in parts]
        self.first = First(problem, *layers[0], runs, gram_pays(problem) if gram is None else gram)
        self.later = [Dense(problem, *layer, runs) for layer in layers[1:]]

    def step(self, t: int, weights: Tensor) -> None:
        """One training step with sample weights (R, |B_t|)."""
        problem, rows = self.problem, self.problem.batch(t)
        values = self._forward(self.first.forward(rows))
        slope = LOSS_SLOPES[self.model.loss](values[-1], problem.train.targets[rows]) * weights[:, :, None]
        totals = weights.sum(1)
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
        weight = self.first.form.weights()
        parts = [weight.view(len(weight), self.runs, -1).permute(1, 2, 0), self.first.bias.value.view(self.runs, -1)]
        for layer in self.later:
            parts += [layer.weight.value.transpose(1, 2), layer.bias.value]
        return torch.cat([part.reshape(self.runs, -1) for part in parts], dim=1)
