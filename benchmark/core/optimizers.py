"""Optimisers as pure steps on a state: written once, differentiable, and all that the estimators need of them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """`step(state, gradient, t)` maps the state (S, P) and a gradient (P,) to the next state (S, P)."""

    @property
    def name(self) -> str:
        """sgd, momentum, adam or adamw."""

    @property
    def rows(self) -> int:
        """S: row 0 holds the parameters, further rows the moments."""

    def rate(self, t: int) -> float:
        """Learning rate of step t = 0, 1, ..."""

    def step(self, state: Tensor, gradient: Tensor, t: int) -> Tensor:
        """The state after step t."""

    def push(self, state: Tensor, gradient: Tensor, shift: Tensor, change: Tensor, t: int) -> Tensor:
        """The derivative of `step` at a state and gradient, applied to a shift of the one and a change of the other."""


def record(optimizer: Any) -> dict[str, Any]:
    """An optimiser as a JSON value: its kind, since two kinds may have equal fields, and its fields."""
    return {"kind": optimizer.name, **asdict(optimizer)}


SCHEDULES: dict[str, Callable[[int], float]] = {"constant": lambda t: 1.0, "inverse-sqrt": lambda t: float(t + 1) ** -0.5}


@dataclass(frozen=True)
class Sgd:
    """Gradient descent: ``m <- momentum m + g; theta <- theta - rate m`` (no m where momentum is 0)."""

    lr: float  # learning rate, where the schedule is 1
    momentum: float = 0.0
    schedule: str = "constant"  # or "inverse-sqrt", lr / sqrt(t + 1)

    @property
    def name(self) -> str:
        return "momentum" if self.momentum else "sgd"

    @property
    def rows(self) -> int:
        return 2 if self.momentum else 1

    def rate(self, t: int) -> float:
        return self.lr * SCHEDULES[self.schedule](t)

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
    schedule: str = "constant"  # or "inverse-sqrt", lr / sqrt(t + 1)

    @property
    def name(self) -> str:
        return "adamw" if self.decay else "adam"

    @property
    def rows(self) -> int:
        return 3

    def rate(self, t: int) -> float:
        return self.lr * SCHEDULES[self.schedule](t)

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
