"""The program inside the sandbox: it loads what is slow to load, and for each job starts a child that gives up its rights.

It runs in a process of its own (benchmark/sandbox/process.py). What it says is not believed outside: a stranger's code shares
the child's memory. What keeps that code in is the kernel; the hook here only gives a forbidden act its name.
"""

import importlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

import benchmark
from benchmark.base.errors import Failure, LoobenchError
from benchmark.base.files import pack, unpack
from benchmark.core import calculus, registry
from benchmark.core.declaration import Estimator
from benchmark.core.problem import map_tensors, tensors
from benchmark.core.registry import FACE
from benchmark.core.syntax import source_digest
from benchmark.sandbox import kernel, transport, warmup
from benchmark.sandbox.answers import answer, of_shape, same_bits, typed

OWN = tuple(Path("/proc/self") / name for name in ("maps", "stat", "statm", "status"))
DEVICES = tuple(Path("/dev") / name for name in ("null", "zero", "full", "random", "urandom"))
SYSTEM = ("/etc/", "/proc/", "/sys/", "/dev/", "/usr/", "/lib", "/bin/", "/sbin/", "/var/", "/run/")  # left to the kernel
OPEN = ("core", "estimating", "retraining")  # packages and modules of the harness that the child keeps
PARTS = {"dattri": "dattri.algorithm", "pydvl": "pydvl.influence.torch"}  # what our adapters import of a library when called
REFUSED = (  # events of sys.addaudithook, by how they begin
    *("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill", "pty.", "signal.pthread_kill"),
    *("gc.get_objects", "gc.get_referrers", "sys._current_frames", "os.chmod", "os.chown", "os.setxattr", "winreg."),
)
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.")


# ---- the server --------------------------------------------------------------------------------------------------
def serve(control: socket.socket) -> None:
    """Take jobs until the other side closes: each comes with the socket that its child answers on; say how each ended."""
    prepare()
    control.send(b"ready")
    cleared = True
    while cleared:
        message, handles, _, _ = socket.recv_fds(control, 1 << 16, 1)
        if not message:
            return
        status, seconds, cleared = _run(control, handles[0], json.loads(message))
        control.send(json.dumps({"status": status, "seconds": seconds, "cleared": cleared}).encode())


def prepare() -> None:
    """Do what is slow the first time: imports, and the first use of derivatives. Then forget where the repository is."""
    torch.set_num_threads(1)
    importlib.import_module(FACE)
    warmup.everything()
    sys.path[:] = [entry for entry in sys.path if not Path(entry, "benchmark").is_dir() or entry.endswith("-packages")]
    importlib.invalidate_caches()
    for name in filter(hidden, [*sys.modules]):
        vars(benchmark).pop(name.split(".")[1], None)
        del sys.modules[name]
    sys.modules["loobench"] = Inert("loobench")
    sys.meta_path.insert(0, Witness())


class Inert(ModuleType):
    """What a person's own file sees of this program where its model is built: decorators that decorate nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _inert


def _inert(*given: Any, **_settings: Any) -> Any:
    return given[0] if given and callable(given[0]) else _inert


class Witness(MetaPathFinder):
    """Tells the hook of each import: of `importlib.import_module` Python does not."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002
        """Nothing: others find the module."""
        sys.audit("import", fullname)


def hidden(module: str) -> bool:
    """Whether a module is of the harness and not what an estimator's imports are made of."""
    house, _, rest = module.partition(".")
    return house == "benchmark" and rest.partition(".")[0] not in ("", *OPEN)


def _run(control: socket.socket, handle: int, job: dict[str, Any]) -> tuple[int, float, bool]:
    """Do a job in a child of this process; its exit status, its seconds of processor, and whether nothing is left of it."""
    room = tempfile.mkdtemp(prefix="job-")
    child = os.fork()
    if child == 0:
        control.close()
        _child(socket.socket(fileno=handle), job, Path(room))
    os.close(handle)
    watched = os.pidfd_open(child)
    told, _, _ = select.select([watched, control.fileno()], [], [])
    if control.fileno() in told:  # nothing is asked meanwhile: the other side has gone
        os.kill(child, signal.SIGKILL)
    os.close(watched)
    _, status, used = os.wait4(child, 0)
    with suppress(RecursionError):
        shutil.rmtree(room, ignore_errors=True)
    return status, used.ru_utime + used.ru_stime, not Path(room).exists()


# ---- the child ---------------------------------------------------------------------------------------------------
def _child(line: socket.socket, job: dict[str, Any], room: Path) -> NoReturn:
    """Answer what is asked on `line`, in `room`, and end without returning to the server's code."""
    code = 1
    try:
        _seclude(line, room)
        _answer(line, job, room)
        code = 0
    except Failure as failure:
        refuse(line, failure)
    except BaseException as error:
        refuse(line, Failure("crashed", f"{type(error).__name__}: {error}"))
    finally:
        os._exit(code)


def _seclude(line: socket.socket, room: Path) -> None:
    """Leave the server's session, open files and folder."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    own = os.dup2(line.fileno(), 3) if line.fileno() != 3 else 3
    os.closerange(own + 1, 1 << 20)
    line.detach()
    line.__init__(fileno=own)  # type: ignore[misc]
    kernel.let_be_read(True)
    os.chdir(room)
    os.environ.update(HOME=str(room), TMPDIR=str(room), TORCHINDUCTOR_CACHE_DIR=str(room))
    tempfile.tempdir = None
    for name in ("random", "numpy.random", "torch.random"):  # the server's children would all draw the same
        sys.modules[name].seed()
    line.sendall(b"!")  # by which the other side learns from the kernel who we are


def _answer(line: socket.socket, job: dict[str, Any], room: Path) -> None:
    given, facts = unpack(receive(line), "a job")
    at = room / facts["file"]
    at.write_bytes(given["source"].numpy().tobytes())
    readable = [*(Path(path) for path in (*job["readable"], *OWN)), room]
    kernel.drop_rights()
    kernel.keep_amounts(job["memory"], job["file_size"], job["seconds"])
    if job["landlock"]:
        kernel.keep_files([*readable, *DEVICES], [*([room] if job["writes"] else []), Path(os.devnull)])
    kernel.keep_calls()
    sys.addaudithook(_hook([*readable, *DEVICES], room, line))
    try:
        with typed(facts["file"], str(at)):
            found = _loaded(line, at, facts)
    except Failure as failure:
        if not isinstance(failure.__cause__, LoobenchError):
            raise
        return send(line, pack({}, {"refused": str(failure.__cause__), "traceback": failure.traceback}))
    send(line, pack({}, {"declared": [_declaration(one) for one in found.values()]}))
    while request := receive(line):
        _, facts = unpack(request, "a request")
        try:
            with typed(facts["estimator"], str(at)):
                _ask(line, replace(found[facts["estimator"]], settings=facts["settings"]))
        except Failure as failure:
            refuse(line, failure)


def _loaded(line: socket.socket, at: Path, facts: dict[str, Any]) -> dict[str, Estimator]:
    """The estimators of a file, or of an installed module. After `set` nothing but a stranger's code runs, and is timed."""
    code = None if facts["module"] else registry.compiled(at)
    source_digest(at.read_bytes())  # asked for by each declaration, and no work of the stranger's
    if facts["library"]:
        importlib.import_module(PARTS.get(facts["library"], facts["library"]))
    warmup.briefly()
    send(line, b"set")
    receive(line)
    if facts["module"]:
        return registry.declared(importlib.import_module(facts["module"]))
    return registry.imported_file(at, code)


def _declaration(variant: Estimator) -> dict[str, Any]:
    """All that an estimator declares, without its function."""
    content = asdict(replace(variant, function=lambda run: run.final))  # a function of a stranger may refuse to be copied
    return {name: value for name, value in content.items() if name != "function"}


def _ask(line: socket.socket, estimator: Estimator) -> None:
    """One call: the run comes, `ready` and `done` frame what is timed, then the answer goes."""
    run = transport.decode(receive(line))
    given = map_tensors(run, Tensor.clone)
    send(line, b"ready")
    receive(line)
    with calculus.counting() as count:
        effect = answer(estimator, given)
    send(line, b"done")
    receive(line)
    of_shape(effect, run, estimator)  # so that nothing large is sent in vain
    if not all(map(same_bits, tensors(given), tensors(run))):
        raise Failure("mutated-inputs", f"{estimator.name} changed the run it was given: work on clones")
    facts = {"gradients": count.gradients, "hessian_products": count.hessian_products, "notes": count.notes}
    send(line, pack({"effect": effect}, facts))


def _hook(readable: list[Path], room: Path, line: socket.socket) -> Callable[[str, tuple[Any, ...]], None]:
    """What ends the process with the failure `forbidden-access`, whatever the stranger's code would do with an exception."""
    roots = tuple(str(path.resolve()) for path in (*readable, room))
    busy = False

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            if reason := forbidden(event, arguments, roots, str(room.resolve())):
                refuse(line, Failure("forbidden-access", reason))
                os._exit(1)
        finally:
            busy = False

    return look


def forbidden(event: str, arguments: tuple[Any, ...], roots: tuple[str, ...], room: str) -> str | None:
    """What is forbidden about an event of `sys.addaudithook`, or None."""
    if event.startswith(REFUSED):
        return f"{event} {arguments[:1]!r:.80}"
    if event == "import":
        name = str(arguments[0])
        return f"import {name}" if hidden(name) else None
    if event == "open":
        writes = isinstance(arguments[1], str) and any(letter in arguments[1] for letter in "wax+")
        return _outside(arguments[0], (room, "/dev/") if writes else (*roots, *SYSTEM), "write" if writes else "read")
    if event.startswith(CHANGES):
        return next(filter(None, (_outside(path, (room,), event) for path in arguments)), None)
    return None


def _outside(path: Any, roots: tuple[str, ...], act: str) -> str | None:
    """What to say of an act on a path that is below none of the roots."""
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    whole = os.path.realpath(os.fsdecode(path))
    return None if whole.startswith(roots) else f"{act} {whole[:80]}"


# ---- messages ----------------------------------------------------------------------------------------------------
def send(line: socket.socket, content: bytes) -> None:
    """Send bytes after their number."""
    line.sendall(struct.pack("<Q", len(content)) + content)


def receive(line: socket.socket) -> bytes:
    """The bytes of one `send`; none where the other side has closed."""
    head = _exactly(line, 8)
    return _exactly(line, struct.unpack("<Q", head)[0]) if head else b""


def _exactly(line: socket.socket, size: int) -> bytes:
    held = bytearray(size)
    view, at = memoryview(held), 0
    while at < size:
        got = line.recv_into(view[at:])
        if not got:
            return b""
        at += got
    return bytes(held)


def refuse(line: socket.socket, failure: Failure) -> None:
    """Say that and how it failed."""
    send(line, pack({}, {"failure": failure.status, "message": str(failure), "traceback": failure.traceback}))


def main(handle: int) -> None:
    """Serve on an open socket."""
    kernel.let_be_read(False)
    try:
        serve(socket.socket(fileno=handle))
    except BrokenPipeError:
        sys.exit("the other side has gone")
    except LoobenchError as error:
        sys.exit(str(error))
