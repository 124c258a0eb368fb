"""Named random streams: no two purposes share one, and none is global."""

import hashlib

import numpy as np


def stream(name: str, seed: int) -> np.random.RandomState:
    """The random stream `name` of run `seed`, keyed by the SHA-256 of both.

    RandomState, because NumPy promises that its numbers never change; a Generator's may.
    """
    key = hashlib.sha256(f"{name}/{seed}".encode()).digest()
    return np.random.RandomState(np.frombuffer(key, dtype=np.uint32))
