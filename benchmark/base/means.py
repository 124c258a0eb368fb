"""What a computation may use of the machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from benchmark.base import machine


@dataclass(frozen=True)
class Means:
    """What retraining may use of the machine: bytes of memory (None: all), and chunks trained side by side, a thread each."""

    memory: int | None = None
    workers: int = 1


def usual(device: str, memory: int | None = None, threads: int | None = None) -> Means:
    """The means of a command: half of the free memory, and a thread for each core of a CPU, where nothing else is said."""
    workers = machine.cores() if threads is None else threads
    return Means(machine.free_memory(device) // 2 if memory is None else memory, workers if device == "cpu" else 1)


FREE = Means()
_allowed: ContextVar[Means] = ContextVar("allowed", default=FREE)


@contextmanager
def allowing(means: Means) -> Iterator[None]:
    """Inside the block, whatever is not told its means has these."""
    token = _allowed.set(means)
    try:
        yield
    finally:
        _allowed.reset(token)


def allowed() -> Means:
    """What may be used by who is not told."""
    return _allowed.get()
