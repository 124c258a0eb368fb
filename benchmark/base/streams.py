"""Named random streams: no two purposes share one, and none is global."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def stream(name: str, seed: int) -> np.random.RandomState:
    """The random stream `name` of run `seed`, keyed by the SHA-256 of both.

    RandomState, because NumPy promises that its numbers never change; a Generator's may.
    """
    key = hashlib.sha256(f"{name}/{seed}".encode()).digest()
    return np.random.RandomState(np.frombuffer(key, dtype=np.uint32))


@contextmanager
def drawn(given: np.random.RandomState) -> Iterator[None]:
    """Inside the block the global random numbers of Python, NumPy and torch come from a stream, then they are as before.

    For the code of others, which knows no other random numbers.
    """
    import torch

    seeds = given.randint(2**31, size=3)
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(int(seeds[0]))
        np.random.seed(int(seeds[1]))
        torch.manual_seed(int(seeds[2]))
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
