"""The one typed door to `torch.func`, and the count of what went through it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
CHUNK = 64  # tangents or cotangents carried at once: bounds memory, keeps products wide


@dataclass
class Count:
    """Machine-free cost: gradients and Hessian-vector products of one sample's loss at one parameter vector.

    And the notes that solvers made on the way, such as residual and iterations; of each the largest.
    """

    gradients: int = 0
    hessian_products: int = 0
    notes: dict[str, float] = field(default_factory=dict)


def largest(counts: Sequence[Count]) -> Count:
    """The largest of each figure."""
    notes = {name: max(one.notes.get(name, figure) for one in counts) for each in counts for name, figure in each.notes.items()}
    return Count(max(one.gradients for one in counts), max(one.hessian_products for one in counts), notes)


_counts: ContextVar[tuple[Count, ...]] = ContextVar("counts", default=())


@contextmanager
def counting() -> Iterator[Count]:
    """Count all that is announced by `count` inside the block, also in nested blocks."""
    tally = Count()
    token = _counts.set((*_counts.get(), tally))
    try:
        yield tally
    finally:
        _counts.reset(token)


def count(*, gradients: int = 0, hessian_products: int = 0) -> None:
    """Announce per-sample gradients and Hessian-vector products about to be computed."""
    for tally in _counts.get():
        tally.gradients += gradients
        tally.hessian_products += hessian_products


def note(**figures: float) -> None:
    """Leave figures about how a result came about, say a solver's `residual`, to be recorded with it."""
    for tally in _counts.get():
        for name, figure in figures.items():
            tally.notes[name] = max(figure, tally.notes.get(name, figure))


def gradient(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The gradient of a scalar `function` in its first argument."""
    grad: Callable[..., Tensor] = torch.func.grad(function)
    return grad


def many(function: Callable[..., Any], *, over: tuple[int | None, ...], chunk: int | None = CHUNK) -> Callable[..., Any]:
    """`function` for many values at once of the arguments whose entry in `over` is 0."""
    mapped: Callable[..., Any] = torch.func.vmap(function, in_dims=over, chunk_size=chunk)
    return mapped


def linearised(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Value of `function` at `at`, and the map from a cotangent of the value to that of the argument."""
    value, back = torch.func.vjp(function, at)[:2]
    return value, lambda cotangent: back(cotangent)[0]


def pull(function: Callable[..., Tensor], at: tuple[Tensor, ...], cotangents: Tensor) -> tuple[Tensor, ...]:
    """Vector-Jacobian products of `function` at `at` with K cotangents (K, ...): one (K, ...) per argument."""
    back = torch.func.vjp(function, *at)[1]
    pulled: tuple[Tensor, ...] = many(back, over=(0,))(cotangents)
    return pulled


def push(function: Callable[..., Tensor], at: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Value of `function` at `at` and its Jacobian-vector product with one tangent per argument."""
    at = tuple(value.clone() for value in at)  # a dual of a view carries a tangent as large as the view's base
    pushed: tuple[Tensor, Tensor] = torch.func.jvp(function, at, tangents)  # type: ignore[assignment]
    return pushed


def symmetric_push(function: Callable[[Tensor], Tensor], at: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """`push` for a `function` with a symmetric Jacobian, as a gradient's is: pulls instead, at half the time."""
    value, back = torch.func.vjp(function, at)[:2]
    return value, back(tangent)[0]
