"""The one typed door to `torch.func`, and the count of what went through it."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
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

    @property
    def work(self) -> int:
        """Both together."""
        return self.gradients + self.hessian_products


def largest(counts: Sequence[Count]) -> Count:
    """The largest of each figure."""
    notes = {name: max(one.notes.get(name, figure) for one in counts) for each in counts for name, figure in each.notes.items()}
    return Count(max(one.gradients for one in counts), max(one.hessian_products for one in counts), notes)


@dataclass
class _Tally:
    """A count under way, and what passed through autograd from outside the harness, which announces what it does itself."""

    count: Count = field(default_factory=Count)
    passed: int = 0  # backward passes, and values given a tangent
    announced: int = 0  # gradients and Hessian products


_tallies: list[_Tally] = []  # of this process: also what other threads do is counted


@contextmanager
def counting() -> Iterator[Count]:
    """Count all that is announced by `count` inside the block, in any thread, also in nested blocks.

    What passes through autograd from outside the harness, and is announced by nobody, is noted as `uncounted` at the end.
    """
    tally = _Tally()
    _tallies.append(tally)
    try:
        with _doors():
            yield tally.count
    finally:
        _tallies.remove(tally)
        if (missed := tally.passed - tally.announced) > 0:
            tally.count.notes["uncounted"] = float(missed)


def count(*, gradients: int = 0, hessian_products: int = 0) -> None:
    """Announce per-sample gradients and Hessian-vector products about to be computed."""
    if not _tallies:
        return  # truths are trained step by step without anybody counting
    outside = not _of_the_harness(sys._getframe(1))
    for tally in _tallies:
        tally.count.gradients += gradients
        tally.count.hessian_products += hessian_products
        tally.announced += (gradients + hessian_products) * outside


# ---- the doors of autograd -------------------------------------------------------------------------------------------
class _Engine:
    """Torch's engine for backward passes, by way of this process's tallies."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def run_backward(self, *arguments: Any, **settings: Any) -> Any:
        """One backward pass."""
        _pass()
        return self.engine.run_backward(*arguments, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


@contextmanager
def _doors() -> Iterator[None]:
    """Watch who computes derivatives, backward and forward, in the block."""
    variable: Any = torch.autograd.Variable
    forward: Any = torch.autograd.forward_ad
    engine, dual = variable._execution_engine, forward.make_dual

    def make_dual(*arguments: Any, **settings: Any) -> Any:
        _pass()
        return dual(*arguments, **settings)

    if isinstance(engine, _Engine):
        yield
        return
    variable._execution_engine, forward.make_dual = _Engine(engine), make_dual
    try:
        yield
    finally:
        variable._execution_engine, forward.make_dual = engine, dual


def _pass() -> None:
    outside = not _of_the_harness(sys._getframe(2))
    for tally in _tallies:
        tally.passed += outside


def _of_the_harness(frame: FrameType | None) -> bool:
    """Whether the innermost frame from here on that is neither torch's nor of this module belongs to the harness."""
    while frame and _own(str(frame.f_globals.get("__name__"))):
        frame = frame.f_back
    return frame is not None and str(frame.f_globals.get("__name__")).startswith("benchmark.")


def _own(module: str) -> bool:
    return module == __name__ or module.partition(".")[0] == "torch"


def note(**figures: float) -> None:
    """Leave figures about how a result came about, say a solver's `residual`, to be recorded with it."""
    for tally in _tallies:
        for name, figure in figures.items():
            tally.count.notes[name] = max(figure, tally.count.notes.get(name, figure))


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


def pull_noting(function: Callable[..., tuple[Tensor, Any]], at: tuple[Any, ...], cotangents: Tensor) -> tuple[Any, Any]:
    """What `function` returns beside its value, and the products of `pull`, for arguments that are tensors or hold some."""
    _, back, noted = torch.func.vjp(function, *at, has_aux=True)  # type: ignore[misc]
    return noted, many(back, over=(0,))(cotangents)


def push(function: Callable[..., Tensor], at: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Value of `function` at `at` and its Jacobian-vector product with one tangent per argument."""
    at = tuple(value.clone() for value in at)  # a dual of a view carries a tangent as large as the view's base
    pushed: tuple[Tensor, Tensor] = torch.func.jvp(function, at, tangents)  # type: ignore[assignment]
    return pushed


def symmetric_push(function: Callable[[Tensor], Tensor], at: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """`push` for a `function` with a symmetric Jacobian, as a gradient's is: pulls instead, at half the time."""
    value, back = torch.func.vjp(function, at)[:2]
    return value, back(tangent)[0]
