"""Raw estimates (H, K, Q) in the cache, each in a file that its content names."""

from pathlib import Path

from torch import Tensor

from benchmark.base.errors import DamagedFile
from benchmark.base.files import read_tensors, tensor_digest, write_tensors


def path(digest: str, cache: Path) -> Path:
    """Where the estimate of that digest is kept."""
    return cache / "estimates" / f"{digest}.safetensors"


def keep(effect: Tensor, cache: Path) -> str:
    """Keep an estimate; returns its digest."""
    digest = tensor_digest([effect])
    write_tensors(path(digest, cache), {"effect": effect})
    return digest


def find(digest: str, cache: Path) -> Tensor | None:
    """The estimate of that digest; None where it is not there, or not what its name says."""
    at = path(digest, cache)
    try:
        tensor = read_tensors(at)[0]["effect"] if at.exists() else None
    except (DamagedFile, KeyError):
        return None
    return tensor if tensor is not None and tensor_digest([tensor]) == digest else None
