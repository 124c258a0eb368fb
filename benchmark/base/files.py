"""Files that are whole or absent: written beside and renamed, read with a check; and content digests."""

import hashlib
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from benchmark.base.errors import DamagedFile, LoobenchError

if TYPE_CHECKING:
    from filelock import AcquireReturnProxy, BaseFileLock, SoftFileLease

LOCKS = ".locks"  # the folder of lock files beside what they guard
SILENCE = 30.0  # seconds without a sign of life after which a lock is anyone's
PATIENCE = 5.0  # seconds of waiting before that is said
ROUNDS = 20  # of `SILENCE` that are waited for what others hold for moments


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


def sweep(path: Path) -> None:
    """Remove what writers of `path` that were killed left beside it; for who holds its lock."""
    for left in path.parent.glob(f".{escape(path.name)}.*"):
        left.unlink(missing_ok=True)


# ---- locks -----------------------------------------------------------------------------------------------------------
@contextmanager
def locked(at: Path) -> Iterator[None]:
    """Hold the lock file `at` while something is read, changed and written; waits for whoever holds it.

    It is two locks. The kernel's is sure, but some file systems have none, or one that other machines do not see. The file
    itself is seen by all of them, but is anyone's once its holder is gone, or silent for `SILENCE`.
    Raises LoobenchError where it cannot be had, with who has it and what to do, and where there is nothing to make locks with.
    """
    if not can_lock():
        raise LoobenchError(f"cannot lock {at}: locks are made with filelock 4.2 or later; pip install 'filelock>=4.2'")
    from filelock import FileLock

    kernel, marker = FileLock(at.with_suffix(".flock"), fallback_to_soft=False), _marker(at)
    waits, doing = [PATIENCE, *[SILENCE] * ROUNDS], "waiting for a lock of"
    with ExitStack() as held:
        with _lockable(at):
            with suppress(OSError):  # no such lock here: the file will have to do
                held.enter_context(_acquired(kernel, marker, waits, doing))
            held.enter_context(_acquired(marker, marker, waits, doing))
        yield


@contextmanager
def claimed(at: Path, what: str, *, wait: bool = True) -> Iterator[bool]:
    """Say by the file `at` that this process computes `what`; whether it may: another process may be at it.

    With `wait` it waits until that one has finished or is gone. Claims only spare work: should a process have been frozen for
    long, two compute what it claimed. Where there is no filelock 4.2 or later to make them with, every process may.
    """
    if not can_lock():
        yield True
        return
    marker, waits = _marker(at), chain([PATIENCE], repeat(SILENCE)) if wait else [0.0]
    with ExitStack() as held:
        mine = True
        try:
            with _lockable(at):
                held.enter_context(_acquired(marker, marker, waits, f"{what} is being computed; waiting for"))
        except _Taken:
            mine = False
        yield mine


def can_lock() -> bool:
    """Whether there is a filelock that has leases; torch is content with older ones, and `import benchmark` with none."""
    try:
        from filelock import SoftFileLease  # noqa: F401
    except ImportError:
        return False
    return True


class _Taken(LoobenchError):
    """A lock that others hold."""


def _marker(at: Path) -> "SoftFileLease":
    """The lock that is a file, which its holder touches every `SILENCE` / 3."""
    from filelock import SoftFileLease

    return SoftFileLease(at, lease_duration=SILENCE)


@contextmanager
def _lockable(at: Path) -> Iterator[None]:
    """Make the folder of a lock file, which git does not see; what goes wrong inside is an error in words."""
    try:
        at.parent.mkdir(parents=True, exist_ok=True)
        if not (unseen := at.parent / ".gitignore").exists():
            unseen.write_text("*\n")
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LoobenchError(f"cannot lock {at}: {reason}; free or choose another place and repeat") from error


def _acquired(
    lock: "BaseFileLock", marker: "SoftFileLease", waits: Iterable[float], doing: str
) -> "AcquireReturnProxy[BaseFileLock]":
    """The lock, to be released; tried for so many seconds at a time. Raises _Taken with who wrote the marker."""
    from filelock import Timeout

    for seconds in waits:
        before = _nameless(marker)
        try:
            return lock.acquire(timeout=seconds)
        except Timeout:
            if seconds == PATIENCE:
                print(f"note: {doing} {_holder(marker)}", file=sys.stderr)
            if seconds == SILENCE and lock is marker and before and before == _nameless(marker):
                marker.force_break()  # its process was killed before it could write its name
    raise _Taken(f"{marker.lock_file} is held by {_holder(marker)}: end that process, or delete the file, and repeat")


def _nameless(marker: "SoftFileLease") -> tuple[int, int] | None:
    """What tells a marker without a word from another such; None for one with a name, and where there is none."""
    with suppress(OSError):
        found = os.stat(marker.lock_file)
        return None if found.st_size else (found.st_ino, found.st_ctime_ns)
    return None


def _holder(marker: "SoftFileLease") -> str:
    """Who wrote a marker, and when they last gave a sign of life."""
    owner = marker.owner
    who = f"process {owner.pid} on {owner.hostname!a}" if owner else "a process that left no name"
    with suppress(OSError):
        who += f", last heard of {max(0.0, time.time() - os.stat(marker.lock_file).st_mtime):.0f} s ago"
    return f"{who} ({marker.lock_file})"


# ---- reading ---------------------------------------------------------------------------------------------------------
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


def unix(text: bytes) -> bytes:
    """A text as the repository has it: a checkout may have other ends of lines (`core.autocrlf`)."""
    return text.replace(b"\r\n", b"\n")


def sha256(text: bytes) -> str:
    """SHA-256 of a text file as `sha256sum` prints it, whatever ends its lines here."""
    return hashlib.sha256(unix(text)).hexdigest()


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
