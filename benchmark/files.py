"""Files that are whole or absent: written beside and renamed, read with a check; and content digests."""

import fcntl
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from benchmark.errors import DamagedFile, LoobenchError


def write(path: Path, content: bytes) -> None:
    """Write `content` to `path` at once: a reader sees the old file or the new one, also after a crash.

    Raises LoobenchError where the folder cannot be written or the disk is full; the old file is then untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_beside(path, content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LoobenchError(f"cannot write {path}: {reason}; free or choose another place and repeat") from error


def _write_beside(path: Path, content: bytes) -> None:
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def probe(folder: Path) -> None:
    """Raise LoobenchError where a folder cannot be written."""
    write(at := folder / f".probe-{os.getpid()}", b"")
    at.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for another process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read(path: Path) -> bytes:
    """The bytes of `path`. Raises LoobenchError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise LoobenchError(f"cannot read {path}: {error.strerror}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> None:
    """Write named tensors and JSON `facts` as one safetensors file."""
    write(path, pack(tensors, facts or {}))


def pack(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """Named tensors and JSON `facts` in the safetensors format."""
    metadata = {key: json.dumps(value) for key, value in facts.items()}
    packed: bytes = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, metadata)
    return packed


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a safetensors file. Raises DamagedFile where it is none."""
    return unpack(read(path), path)


def unpack(content: bytes, origin: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of `pack`, from a place that errors name. Raises DamagedFile where it is no safetensors file."""
    try:
        (size,) = struct.unpack("<Q", content[:8])
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
        return load(content), {key: json.loads(value) for key, value in metadata.items()}
    except (SafetensorError, ValueError, struct.error, AttributeError, TypeError, RecursionError) as error:
        raise DamagedFile(f"{origin} is not a whole safetensors file: {error}") from error


def write_sealed(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts with a digest of both."""
    write_tensors(path, tensors, {**facts, "digest": _seal(tensors, facts)})


def read_sealed(path: Path, expected: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a sealed file. Raises DamagedFile where they changed, or lack the `expected` facts."""
    tensors, facts = read_tensors(path)
    stated = facts.pop("digest", None)
    if stated != (found := _seal(tensors, facts)):
        raise DamagedFile(f"{path}: expected digest {stated}, got {found}")
    if any(facts.get(key) != value for key, value in expected.items()):
        raise DamagedFile(f"{path}: expected {dict(expected)}")
    return tensors, facts


def _seal(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    return json_digest([dict(facts), {name: tensor_digest([tensor]) for name, tensor in tensors.items()}])


def digest(*parts: bytes) -> str:
    """SHA-256 over the parts, each preceded by its length, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        total.update(struct.pack("<Q", len(part)))
        total.update(part)
    return total.hexdigest()


def json_digest(value: Any) -> str:
    """Digest of a JSON value in its canonical form: sorted keys, no spaces."""
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def tensor_digest(tensors: Iterable[Tensor]) -> str:
    """Digest of tensors in order: dtype, shape and little-endian bytes of each."""
    return digest(*(part for tensor in tensors for part in _parts(tensor)))


def stack_digest(tensors: Iterable[Tensor], count: int) -> str:
    """`tensor_digest` of the one tensor that stacks `count` tensors of one shape, of which one is held at a time."""
    total = hashlib.sha256()
    for place, tensor in enumerate(tensors):
        _, content = _parts(tensor)
        if not place:
            header = f"{tensor.dtype} {(count, *tensor.shape)}".encode()
            total.update(struct.pack("<Q", len(header)) + header + struct.pack("<Q", count * len(content)))
        total.update(content)
    return total.hexdigest()


def _parts(tensor: Tensor) -> tuple[bytes, bytes]:
    values = tensor.detach().cpu().contiguous()
    return f"{values.dtype} {tuple(values.shape)}".encode(), values.reshape(-1).view(torch.uint8).numpy().tobytes()
