"""Optimisers in place: one parameter tensor of many runs, moved by a gradient that comes as a product."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from benchmark.base.errors import LoobenchError
from benchmark.core.optimizers import Adam, Muon, Sgd
from benchmark.core.problem import Problem

Product = Callable[[Tensor, float, float], object]  # product(out, beta, alpha): out <- beta out + alpha (gradient)
ByRun = Callable[[Tensor], Tensor]  # a parameter tensor seen as (..., R, n)


@dataclass(frozen=True, eq=False)
class L2:
    """The L2 term of one step in each of R runs, its weight times the sum of the batch's sample weights there."""

    decays: Tensor  # (R, 1)
    kept: Tensor  # (R, 1), 1 - rate decay: what a step of plain SGD leaves of a parameter


def l2(problem: Problem, t: int, weights: Tensor) -> L2 | None:
    """The L2 term of step t with sample weights (R, B); None where there is none."""
    if not problem.weight_decay:
        return None
    decays = problem.weight_decay * weights.sum(1, keepdim=True)
    return L2(decays, torch.sub(1, decays, alpha=problem.optimizer.rate(t)))


class Updater(Protocol):
    """One parameter tensor of R runs under one optimiser: moves it by a gradient that comes as a product."""

    value: Tensor

    def update(self, t: int, product: Product, l2: L2 | None) -> None:
        """One step."""


class SgdUpdater:
    """``value <- (1 - rate decay_r) value - rate g``: the product lands in the value itself."""

    def __init__(self, optimizer: Sgd, rows: list[Tensor], by_run: ByRun) -> None:
        self.optimizer, self.by_run = optimizer, by_run
        (self.value,) = rows

    def update(self, t: int, product: Product, l2: L2 | None) -> None:
        if l2:
            self.by_run(self.value).mul_(l2.kept)
        product(self.value, 1.0, -self.optimizer.rate(t))


class MomentumUpdater:
    """``m <- momentum m + g + decay_r value; value <- value - rate m``."""

    def __init__(self, optimizer: Sgd, rows: list[Tensor], by_run: ByRun) -> None:
        self.optimizer, self.by_run = optimizer, by_run
        self.value, self.velocity = rows

    def update(self, t: int, product: Product, l2: L2 | None) -> None:
        product(self.velocity, self.optimizer.momentum, 1.0)
        if l2:
            self.by_run(self.velocity).addcmul_(self.by_run(self.value), l2.decays)
        self.value.add_(self.velocity, alpha=-self.optimizer.rate(t))


class AdamUpdater:
    """Adam and AdamW, with one buffer for the gradient and the root of the second moment after it."""

    def __init__(self, optimizer: Adam, rows: list[Tensor], by_run: ByRun) -> None:
        self.optimizer, self.by_run = optimizer, by_run
        self.value, self.first, self.second = rows
        self.buffer = torch.zeros_like(self.value)

    def update(self, t: int, product: Product, l2: L2 | None) -> None:
        o, buffer = self.optimizer, self.buffer
        product(buffer, 0.0, 1.0)
        if l2:
            self.by_run(buffer).addcmul_(self.by_run(self.value), l2.decays)
        self.first.mul_(o.beta1).add_(buffer, alpha=1 - o.beta1)
        self.second.mul_(o.beta2).addcmul_(buffer, buffer, value=1 - o.beta2)
        torch.div(self.second, 1 - o.beta2 ** (t + 1), out=buffer).sqrt_().add_(o.eps)
        if o.decay:
            self.value.mul_(1 - o.rate(t) * o.decay)
        self.value.addcdiv_(self.first, buffer, value=-o.rate(t) / (1 - o.beta1 ** (t + 1)))


class MuonUpdater:
    """Muon by its own step, of all parameters of R runs at once: the value is (R, P)."""

    def __init__(self, optimizer: Muon, rows: list[Tensor], by_run: ByRun) -> None:
        self.optimizer, self.by_run, self.rows = optimizer, by_run, rows
        self.value = rows[0]

    def update(self, t: int, product: Product, l2: L2 | None) -> None:
        gradient = torch.zeros_like(self.value)
        product(gradient, 0.0, 1.0)
        if l2:
            self.by_run(gradient).addcmul_(self.by_run(self.value), l2.decays)
        for row, after in zip(self.rows, self.optimizer.step(torch.stack(self.rows), gradient, t), strict=True):
            row.copy_(after)


def updater(problem: Problem, rows: list[Tensor], by_run: ByRun) -> Updater:
    """The in-place form of the problem's optimiser for one parameter tensor and its moments, the rows of the state."""
    optimizer = problem.optimizer
    if isinstance(optimizer, Adam):
        return AdamUpdater(optimizer, rows, by_run)
    if isinstance(optimizer, Muon):
        return MuonUpdater(optimizer, rows, by_run)
    if not isinstance(optimizer, Sgd):
        raise LoobenchError(f"optimiser {optimizer.name} has no in-place form: write one in benchmark/retraining/updaters.py")
    return (MomentumUpdater if optimizer.momentum else SgdUpdater)(optimizer, rows, by_run)


def adding(gradient: Tensor) -> Product:
    """A gradient that is there already, as a product."""
    return lambda out, beta, alpha: out.mul_(beta).add_(gradient, alpha=alpha)


def each_run_whole(value: Tensor) -> Tensor:
    """(R, ...) -> (R, n): for parameters with the run first."""
    return value.flatten(1)
