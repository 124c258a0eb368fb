"""Rows in blocks: of how many samples, or queries, something large is held at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.base.means import allowed
from benchmark.core import calculus

WHOLE = 256 * 2**20  # bytes up to which all rows are one block
PART = 128 * 2**20  # bytes of a block where they are not; of less than 32 MiB glibc does not use again what was freed
SHARE = 8  # a block takes no more of the memory that is allowed than one part in so many: what is made of it needs room too


def blocks(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """`rows` (B,) a block at a time, where each takes `size` bytes: say ``run.final.nbytes`` for a gradient.

    All at once up to 256 MiB, as sums over small tasks then have the same bits whatever is done in blocks; else as many as fit
    128 MiB, whole chunks of the harness's gradients where one fits. Where `--memory` allows less than 8 times that, less.
    """
    if len(rows) * size <= _within(WHOLE):
        return (rows,)
    most = max(1, _within(PART) // size)
    return torch.split(rows, most - most % calculus.CHUNK if most > calculus.CHUNK else most)


@dataclass(frozen=True)
class Again:
    """What is made of each block, again each time that one goes through them."""

    of: Callable[[Tensor], Tensor]
    parts: Sequence[Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.of, self.parts)


def of_each(parts: Sequence[Tensor], of: Callable[[Tensor], Tensor]) -> Iterable[Tensor]:
    """What is made of each block, to be gone through more than once: held where there is one block, else made again."""
    return Again(of, parts) if len(parts) > 1 else [of(parts[0])]


def _within(usual: int) -> int:
    """So many bytes, or a half, a quarter ... of them, where the memory that is allowed is short."""
    memory = allowed().memory
    while memory is not None and usual * SHARE > max(memory, SHARE):
        usual //= 2
    return usual
