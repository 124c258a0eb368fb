"""Optimisers as pure steps on a state: written once, differentiable, and all that the estimators need of them."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from math import cos, pi, prod
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from benchmark.base.errors import LoobenchError, unknown


class Optimizer(Protocol):
    """`step(state, gradient, t)` maps the state (S, P) and a gradient (P,) to the next state (S, P)."""

    @property
    def name(self) -> str:
        """sgd, momentum, adam, adamw or muon."""

    @property
    def rows(self) -> int:
        """S: row 0 holds the parameters, further rows the moments."""

    def rate(self, t: int) -> float:
        """Learning rate of step t = 0, 1, ..."""

    def step(self, state: Tensor, gradient: Tensor, t: int) -> Tensor:
        """The state after step t."""

    def push(self, state: Tensor, gradient: Tensor, shift: Tensor, change: Tensor, t: int) -> Tensor:
        """The derivative of `step` at a state and gradient, applied to a shift of the one and a change of the other."""


def record(of: Any) -> dict[str, Any]:
    """An optimiser or a schedule as a JSON value: its kind, since two kinds may have equal fields, and its fields."""
    kind = of.kind if isinstance(of, WarmUp | Cosine | OneCycle) else of.name
    return {"kind": kind, **{part.name: _plain(getattr(of, part.name)) for part in fields(of)}}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return record(value) if is_dataclass(value) else value


# ---- schedules: what the learning rate is multiplied by -----------------------------------------------------------------
@dataclass(frozen=True)
class WarmUp:
    """``(t + 1) / steps`` until it is 1, then 1. As torch's LinearLR from 1/steps. Raises LoobenchError for no steps."""

    kind: ClassVar[str] = "warm-up"
    steps: int

    def __post_init__(self) -> None:
        _check_steps(self.kind, self.steps)

    def __call__(self, t: int) -> float:
        return min(1.0, (t + 1) / self.steps)


@dataclass(frozen=True)
class Cosine:
    """``(1 + cos(pi u)) / 2``, ``u = (t - warmup) / (total - warmup)``: to 0 after `total` steps, and 0 from there on.

    In the first `warmup` steps ``(t + 1) / warmup``. As torch's CosineAnnealingLR after a LinearLR. Raises LoobenchError
    where no step is left after the warm-up. Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5.
    """

    kind: ClassVar[str] = "cosine"
    total: int  # T of the run, so that it ends at 0
    warmup: int = 0

    def __post_init__(self) -> None:
        _check_steps(self.kind, self.total)
        if not 0 <= self.warmup < self.total:
            raise LoobenchError(f"a cosine of {self.total} steps warms up for 0 to {self.total - 1} of them, got {self.warmup}")

    def __call__(self, t: int) -> float:
        if t < self.warmup:
            return (t + 1) / self.warmup
        return _falling(min(1.0, (t - self.warmup) / (self.total - self.warmup)))


@dataclass(frozen=True)
class OneCycle:
    """From 1/25 up to 1 within .3 of the steps, then down to 1/250,000, both along half a cosine; `lr` is the peak.

    As torch's OneCycleLR without cycled momentum: the peak is at step ``.3 total - 1``, the end at step ``total - 1``.
    Raises LoobenchError for a step after it. Source: Smith and Topin 2018, arXiv:1708.07120.
    """

    kind: ClassVar[str] = "one-cycle"
    total: int  # T of the run

    def __post_init__(self) -> None:
        _check_steps(self.kind, self.total)

    def __call__(self, t: int) -> float:
        if t >= self.total:
            raise LoobenchError(f"a one-cycle schedule of {self.total} steps has no step {t + 1}: give it the steps of the run")
        peak, start, end = 0.3 * self.total - 1, 1 / 25, 1 / 25e4
        if t <= peak:
            return 1 + (start - 1) * _falling(t / peak if peak else 0.0)
        return end + (1 - end) * _falling((t - peak) / (self.total - 1 - peak))


def _falling(part: float) -> float:
    """From 1 to 0 along half a cosine."""
    return (1 + cos(pi * part)) / 2


def _check_steps(kind: str, steps: int) -> None:
    if steps < 1:
        raise LoobenchError(f"a {kind} schedule takes a number of steps from 1 on, got {steps}")


Schedule = str | WarmUp | Cosine | OneCycle  # "constant", "inverse-sqrt", which is 1 / sqrt(t + 1), or a record

SCHEDULES: dict[str, Callable[[int], float]] = {"constant": lambda t: 1.0, "inverse-sqrt": lambda t: float(t + 1) ** -0.5}


def factor(schedule: Schedule, t: int) -> float:
    """What the learning rate of step t = 0, 1, ... is multiplied by. Raises LoobenchError for an unknown name."""
    if not isinstance(schedule, str):
        return schedule(t)
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule](t)


# ---- optimisers --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Sgd:
    """Gradient descent: ``m <- momentum m + g; theta <- theta - rate m`` (no m where momentum is 0)."""

    lr: float  # learning rate, where the schedule is 1
    momentum: float = 0.0
    schedule: Schedule = "constant"  # or "inverse-sqrt", lr / sqrt(t + 1), or `WarmUp`, `Cosine`, `OneCycle`

    @property
    def name(self) -> str:
        return "momentum" if self.momentum else "sgd"

    @property
    def rows(self) -> int:
        return 2 if self.momentum else 1

    def rate(self, t: int) -> float:
        return self.lr * factor(self.schedule, t)

    def step(self, state: Tensor, gradient: Tensor, t: int) -> Tensor:
        if not self.momentum:
            return state - self.rate(t) * gradient
        velocity = self.momentum * state[1] + gradient
        return torch.stack([state[0] - self.rate(t) * velocity, velocity])

    def push(self, state: Tensor, gradient: Tensor, shift: Tensor, change: Tensor, t: int) -> Tensor:  # noqa: ARG002
        return self.step(shift, change, t)  # it is linear


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, Algorithm 1), with decoupled weight decay as in AdamW where `decay` is positive.

    ``m <- b1 m + (1-b1) g; v <- b2 v + (1-b2) g^2;
    theta <- (1 - rate decay) theta - rate m/(1-b1^k) / (sqrt(v/(1-b2^k)) + eps)`` with k = t + 1.
    """

    lr: float  # learning rate, where the schedule is 1
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    decay: float = 0.0  # decoupled weight decay; positive for AdamW
    schedule: Schedule = "constant"  # or "inverse-sqrt", lr / sqrt(t + 1), or `WarmUp`, `Cosine`, `OneCycle`

    @property
    def name(self) -> str:
        return "adamw" if self.decay else "adam"

    @property
    def rows(self) -> int:
        return 3

    def rate(self, t: int) -> float:
        return self.lr * factor(self.schedule, t)

    def step(self, state: Tensor, gradient: Tensor, t: int) -> Tensor:
        first = self.beta1 * state[1] + (1 - self.beta1) * gradient
        second = self.second_moment(state[2], gradient)
        root = flat_root(second / (1 - self.beta2 ** (t + 1)))
        move = first / (1 - self.beta1 ** (t + 1)) / (root + self.eps)
        theta = (1 - self.rate(t) * self.decay) * state[0] - self.rate(t) * move
        return torch.stack([theta, first, second])

    def push(self, state: Tensor, gradient: Tensor, shift: Tensor, change: Tensor, t: int) -> Tensor:
        first = self.beta1 * shift[1] + (1 - self.beta1) * change
        second = self.second_moment_push(shift[2], gradient, change)
        corrections = 1 - self.beta1 ** (t + 1), 1 - self.beta2 ** (t + 1)
        root = flat_root(self.second_moment(state[2], gradient) / corrections[1])
        bent = torch.where(root > 0, second / (2 * corrections[1] * root), 0.0)  # of the root
        move = (self.beta1 * state[1] + (1 - self.beta1) * gradient) / (root + self.eps)
        theta = (1 - self.rate(t) * self.decay) * shift[0]
        theta = theta - self.rate(t) / corrections[0] * (first - move * bent) / (root + self.eps)
        return torch.stack([theta, first, second])

    def second_moment_push(self, shift: Tensor, gradient: Tensor, change: Tensor) -> Tensor:
        """``b2 dv + 2 (1-b2) g dg``"""
        return self.beta2 * shift + 2 * (1 - self.beta2) * gradient * change

    def second_moment(self, before: Tensor, gradient: Tensor) -> Tensor:
        """``b2 v + (1-b2) g^2``"""
        return self.beta2 * before + (1 - self.beta2) * gradient**2


class FrozenAdam(Adam):
    """Adam whose derivatives take the second moment as a constant."""

    def second_moment(self, before: Tensor, gradient: Tensor) -> Tensor:
        """The same value, without derivative."""
        return super().second_moment(before, gradient).detach()

    def second_moment_push(self, shift: Tensor, gradient: Tensor, change: Tensor) -> Tensor:  # noqa: ARG002
        """0"""
        return torch.zeros_like(shift)


def flat_root(values: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0: a weight that never saw a gradient must not make tangents NaN."""
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1.0).sqrt(), 0.0)


# ---- an optimiser of matrices ------------------------------------------------------------------------------------------
Shape = tuple[int, ...]
QUINTIC = 3.4445, -4.7750, 2.0315  # a, b, c of an iteration that is steepest at 0
ITERATIONS = 5


@dataclass(frozen=True)
class Muon:
    """Momentum whose matrix is made nearly orthogonal, for 2-d parameters (n, m); `other` moves all others.

    ``m <- b m + (1-b) g; u = (1-b) g + b m; theta <- (1 - rate decay) theta - rate sqrt(max(1, n/m)) O(u)`` with b the
    momentum and O(u) of `orthogonal`. As torch.optim.Muon, which iterates in bfloat16, so that it has no useful derivative;
    here the iteration is in the precision of the state. It steps the whole flat state and no part of it, and takes none of
    the runs of our own layers. Raises LoobenchError where the shapes are not those of the state.
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """

    lr: float  # learning rate of the matrices, where the schedule is 1
    shapes: tuple[Shape, ...]  # of all parameters, as they follow in the flat vector
    momentum: float = 0.95
    decay: float = 0.1  # decoupled weight decay of the matrices
    other: Adam = Adam(3e-4, decay=0.01)  # with a schedule of its own
    schedule: Schedule = "constant"  # of the matrices: or "inverse-sqrt", lr / sqrt(t + 1), or `WarmUp`, `Cosine`, `OneCycle`

    @property
    def name(self) -> str:
        return "muon"

    @property
    def rows(self) -> int:
        return 3  # a matrix has no second moment: 0

    def rate(self, t: int) -> float:
        return self.lr * factor(self.schedule, t)

    def step(self, state: Tensor, gradient: Tensor, t: int) -> Tensor:
        sizes = [prod(shape) for shape in self.shapes]
        if sum(sizes) != state.shape[-1]:
            raise LoobenchError(f"muon has shapes of {sum(sizes)} parameters, the state {state.shape[-1]}: give the model's")
        parts = zip(self.shapes, torch.split(state, sizes, -1), torch.split(gradient, sizes, -1), strict=True)
        return torch.cat([self._part(shape, rows, slope, t) for shape, rows, slope in parts], -1)

    def _part(self, shape: Shape, state: Tensor, gradient: Tensor, t: int) -> Tensor:
        return self._matrix(shape, state, gradient, t) if len(shape) == 2 else self.other.step(state, gradient, t)

    def _matrix(self, shape: Shape, state: Tensor, gradient: Tensor, t: int) -> Tensor:
        momentum = self.momentum * state[1] + (1 - self.momentum) * gradient
        ahead = (1 - self.momentum) * gradient + self.momentum * momentum
        move = orthogonal(ahead.reshape(*ahead.shape[:-1], *shape)).flatten(-2) * max(1, shape[0] / shape[1]) ** 0.5
        rate = self.rate(t)
        theta = (1 - rate * self.decay) * state[0] - rate * move
        return torch.stack([theta, momentum, torch.zeros_like(momentum)])

    def push(self, state: Tensor, gradient: Tensor, shift: Tensor, change: Tensor, t: int) -> Tensor:
        at = state.expand_as(shift), gradient.expand_as(change)
        moved: Tensor = torch.func.jvp(lambda state, gradient: self.step(state, gradient, t), at, (shift, change))[1]
        return moved


def orthogonal(matrices: Tensor) -> Tensor:
    """Roughly ``U V^T`` of matrices ``U S V^T``: ``x <- a x + (b A + c A^2) x, A = x x^T`` five times, from x of norm 1.

    With a, b, c of `QUINTIC`, which leave singular values between about .7 and 1.2. (..., n, m)
    """
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    a, b, c = QUINTIC
    square = wide.square().sum((-2, -1), keepdim=True)
    found = wide / flat_root(square).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = found @ found.mT
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.mT if wide is not matrices else found
