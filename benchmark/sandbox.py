"""Strangers' estimators in a process that has nothing and can reach nothing: this side of it, which believes nothing it says.

The room is made by bubblewrap (own namespaces: no network, no other process, a file system of the system's read-only parts and
a private /tmp), or, where that is not to be had, by Landlock alone. In both the child gives up system calls and memory for good
(benchmark/kernel.py) before it reads the stranger's code. It gets the run and returns a tensor, as safetensors on a socket.
Times and memory are read from outside.
"""

import array
import atexit
import importlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import benchmark
from benchmark import kernel, registry, transport
from benchmark.calculus import Count
from benchmark.errors import DamagedFile, Failure, LoobenchError, Withheld
from benchmark.files import digest, pack, read, unpack
from benchmark.problem import Trajectory
from benchmark.registry import Estimator
from benchmark.results import FAILURES

GROUP = "loobench.estimators"  # of entry points of installed packages: a name, and the module that declares
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
SYSTEM_TOO = ("/sys/devices/system/cpu",)
OWN = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm", "/proc/version")
KEPT = re.compile(r"(MKL|OMP|KMP|ATEN|DNNL|ONEDNN|OPENBLAS)_\w+")  # of the environment: they decide the last bits
SCRATCH = 256 << 20  # bytes of the private /tmp, and of a file in it
START = 120.0  # seconds that the server may take to start
ENDS = ("forbidden-access", "timeout", "out-of-memory")  # failures after which there is no process
LOADING = 0.5, 2e-9  # seconds of processor, and per byte, to read a run or hand over an answer: not charged to the method


@dataclass(frozen=True)
class Allowance:
    """What one estimator may take for one seed of a task."""

    seconds: float = 600.0  # on the wall, all horizons together
    memory: int = 4 << 30  # bytes beyond what the harness holds


@dataclass(frozen=True)
class Rules:
    """Who is run in the sandbox, and with what allowance."""

    strangers: bool = True  # estimators that are not in the repository
    everyone: bool = False
    allowance: Allowance = Allowance()


@dataclass(frozen=True, eq=False)
class Answer:
    """What an estimator returned, of any shape, and what it took."""

    effect: Any
    seconds: float
    count: Count
    memory: int | None


@dataclass(frozen=True)
class Confined:
    """The function of an estimator that is only ever called in the sandbox: source of its file, or name of its module."""

    file: str
    source: bytes
    module: str | None
    allowance: Allowance

    def __call__(self, _run: Trajectory, **_settings: Any) -> Any:
        """Refuse: the code of this function must not run in this process."""
        raise LoobenchError(f"{self.file} runs in the sandbox only: ask evaluate.estimate")


# ---- from names to estimators ------------------------------------------------------------------------------------
def resolve(names: Iterable[str], rules: Rules | None = None) -> list[Estimator]:
    """`registry.resolve`, also for the entry points of installed packages, with strangers in the sandbox.

    Raises LoobenchError as that does, and where this machine has no sandbox for those who need it.
    """
    rules = rules or Rules()
    load = (lambda name: _declared(name, rules.allowance)) if rules.strangers or rules.everyone else _trusted
    found = registry.resolve(names, load)
    return [confined(one, rules.allowance) for one in found] if rules.everyone else found


def packaged() -> dict[str, EntryPoint]:
    """The estimators that installed packages offer, by name."""
    return {found.name: found for found in entry_points(group=GROUP)}


def _trusted(name: str) -> dict[str, Estimator] | None:
    """The estimators of a file or package, imported into this process."""
    if name.endswith(".py"):
        return registry.load(Path(name))
    return registry.declared(importlib.import_module(packaged()[name].value)) if name in packaged() else None


def _declared(name: str, allowance: Allowance) -> dict[str, Estimator] | None:
    """The estimators of a file or package, as they declare themselves in the sandbox; None where `name` is neither."""
    if name.endswith(".py"):
        return _introduced(Confined(_plain(Path(name).name), read(Path(name)), None, allowance), name)
    if name not in packaged():
        return None
    point = packaged()[name]
    return _introduced(Confined(f"{name}.py", _module_source(point), point.value, allowance), f"package {point.value}")


def _plain(file: str) -> str:
    """A file name that is safe to show and to import by."""
    return file if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}\.py", file) else "submission.py"


def _module_source(point: EntryPoint) -> bytes:
    """The file of an entry point's module, found without importing it."""
    stem = point.module.replace(".", "/")
    places = [point.dist.locate_file(name) for name in (f"{stem}.py", f"{stem}/__init__.py")] if point.dist else []
    return next((Path(str(at)).read_bytes() for at in places if Path(str(at)).is_file()), b"")


def _introduced(function: Confined, name: str) -> dict[str, Estimator]:
    try:
        with session(function) as line:
            variants = {one.name: one for one in line.declared}
    except Failure as failure:
        raise LoobenchError(f"{name}: {failure.status}: {failure}") from failure
    if taken := variants.keys() & registry.registered().keys():
        raise LoobenchError(f"{name} declares {', '.join(sorted(taken))}, taken by a registered estimator: rename it")
    return variants


def confined(estimator: Estimator, allowance: Allowance) -> Estimator:
    """The same estimator, to be run in the sandbox."""
    if isinstance(estimator.function, Confined):
        return estimator
    at = Path(str(sys.modules[estimator.function.__module__].__file__))
    return replace(estimator, function=Confined(at.name, read(at), None, allowance))


# ---- asking ------------------------------------------------------------------------------------------------------
def answers(estimator: Estimator, cuts: Sequence[Trajectory]) -> list[Answer]:
    """What a confined estimator answers to each of some runs, in one process of its own. Raises Failure."""
    function: Any = estimator.function
    try:
        with session(function) as line:
            line.warm_up(estimator, cuts[0])
            return [line.ask(estimator, cut) for cut in cuts]
    except Failure as failure:
        text = str(failure)
        raise Failure(failure.status, text if text.startswith(estimator.name) else f"{estimator.name}: {text}") from failure


@contextmanager
def session(function: Confined) -> Iterator["Session"]:
    """A process in the sandbox that has loaded the code; it ends with the block."""
    if server().process.poll() is not None:  # somebody killed it
        server().close()
        server.cache_clear()
    line = Session(function)
    try:
        line.open()
        yield line
    finally:
        line.close()


class Session:
    """One process of a stranger's code, until it has answered, failed or used up its time."""

    def __init__(self, function: Confined) -> None:
        self.function = function
        self.deadline = time.monotonic() + function.allowance.seconds
        self.declared: list[Estimator] = []
        self.server = server()
        self.ours, theirs = socket.socketpair()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            self.server.begin(theirs, function.allowance)
        self.process, self.handle = 0, -1
        self.over = False  # whether there is nothing more to be asked

    def open(self) -> None:
        """Learn which process it is, hand the code over, and hear what it declares."""
        credentials = self._credentials()
        self.process = struct.unpack("3i", credentials)[0]
        self.handle = os.pidfd_open(self.process)
        source = array.array("B", self.function.source)
        self._send(pack({"source": _bytes(source)}, {"file": self.function.file, "module": self.function.module}))
        _, facts = self._frame(1 << 20)
        self.declared = [self._believed(content) for content in facts.get("declared", [])]

    def _credentials(self) -> bytes:
        self.ours.settimeout(self._left())
        try:
            _, extras, _, _ = self.ours.recvmsg(1, socket.CMSG_SPACE(12))
        except TimeoutError:
            raise self._late() from None
        found = [bytes(content) for _, kind, content in extras if kind == socket.SCM_CREDENTIALS]
        if not found:
            raise self._gone()
        return found[0]

    def _believed(self, content: Any) -> Estimator:
        """A declaration of the other side, checked as if it were made here."""
        source = digest(self.function.source) if self.function.source else str(content.get("source"))
        return registry.rebuilt(content, self.function, source)

    def ask(self, estimator: Estimator, run: Trajectory) -> Answer:
        """The answer to one run. Raises Failure."""
        content = transport.encode(run)
        allowed = LOADING[0] + LOADING[1] * len(content)
        self._send(pack({}, {"estimator": estimator.name, "settings": estimator.settings}))
        self._send(content)
        asked = self._clock()
        self._word(b"ready")
        _forget_peak(self.process)
        before, start = _resident(self.process, "VmRSS"), self._clock()
        self._send(b"go")
        self._word(b"done")
        end, peak = self._clock(), _resident(self.process, "VmHWM")
        tensors, facts = self._frame(_most(run))
        seconds = end - start + max(0.0, start - asked - allowed) + max(0.0, self._clock() - end - allowed)
        memory = None if before is None or peak is None else max(0, peak - before)
        return Answer(tensors.get("effect"), seconds, _counted(facts), memory)

    def warm_up(self, estimator: Estimator, run: Trajectory) -> None:
        """One call on one step: the first use of some operations costs time that is not the method's."""
        try:
            self.ask(estimator, run.until(1))
        except Withheld:
            return
        except Failure as failure:  # one step may be too few; what ends the process is another matter
            if failure.status in ENDS or self.over:
                raise

    def _clock(self) -> float:
        """Seconds of processor that the process has used, all its threads together."""
        try:
            return time.clock_gettime((~self.process << 3) | 2)  # the clock of a process, as Linux numbers them
        except OSError:
            raise self._gone() from None

    def _word(self, expected: bytes) -> None:
        content = self._receive(1 << 20)
        if content != expected:
            self._failure(self._unpacked(content)[1])
            self.over = True
            raise Failure("crashed", f"{self.function.file} broke off the conversation")

    def _frame(self, most: int) -> tuple[dict[str, Any], dict[str, Any]]:
        tensors, facts = self._unpacked(self._receive(most))
        self._failure(facts)
        return tensors, facts

    def _unpacked(self, content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            return unpack(content, "the answer")
        except DamagedFile as error:
            self.over = True
            raise Failure("crashed", f"{error}") from error

    def _failure(self, facts: dict[str, Any]) -> None:
        """Raise the failure that the other side tells of, if it does."""
        if "failure" not in facts:
            return
        known = facts["failure"] in (*FAILURES, "unsupported")
        raise Failure(facts["failure"] if known else "crashed", printable(str(facts.get("message"))))

    def _send(self, content: bytes) -> None:
        self.ours.settimeout(self._left())
        try:
            self.ours.sendall(struct.pack("<Q", len(content)) + content)
        except TimeoutError:
            raise self._late() from None
        except OSError:
            pass  # it has ended; what it said last, or how it ended, is told by what is read

    def _receive(self, most: int) -> bytes:
        size = struct.unpack("<Q", self._exactly(8))[0]
        if size > most:
            self.over = True
            raise Failure("bad-shape", f"{self.function.file} sent {size} bytes, expected {most} at most")
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        held = bytearray(size)
        view, at = memoryview(held), 0
        while at < size:
            self.ours.settimeout(self._left())
            try:
                got = self.ours.recv_into(view[at:])
            except TimeoutError:
                raise self._late() from None
            except OSError:
                got = 0
            if not got:
                raise self._gone()
            at += got
        return bytes(held)

    def _left(self) -> float:
        if (left := self.deadline - time.monotonic()) <= 0:
            raise self._late()
        return left

    def _late(self) -> Failure:
        limit = self.function.allowance.seconds
        return Failure("timeout", f"{self.function.file} took more than {limit:g} s (--time-limit allows more)")

    def _gone(self) -> Failure:
        """Why the process is there no longer."""
        self.over = True
        status = self.server.ended(self.deadline)
        name = self.function.file
        if status is None:
            return Failure("crashed", f"{name} closed its line and went on")
        if not os.WIFSIGNALED(status):
            return Failure("crashed", f"the process of {name} ended with code {os.waitstatus_to_exitcode(status)}")
        ended = signal.Signals(os.WTERMSIG(status))
        kinds = {signal.SIGXCPU: "timeout", signal.SIGSYS: "forbidden-access", signal.SIGKILL: "out-of-memory"}
        return Failure(kinds.get(ended, "crashed"), f"the system ended the process of {name} by {ended.name}")

    def close(self) -> None:
        """End the process, if it has not ended."""
        self.ours.close()
        if self.handle >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.handle, signal.SIGKILL)
            os.close(self.handle)
        self.server.finish()


def _bytes(source: "array.array[int]") -> Any:
    import torch

    return torch.tensor(source, dtype=torch.uint8)


def _most(run: Trajectory) -> int:
    """Bytes of the largest answer that could be of the right shape."""
    problem = run.problem
    return 16 * len(problem.horizons) * len(problem.train) * problem.queries + (1 << 16)


def _counted(facts: dict[str, Any]) -> Count:
    """What the other side says it counted, if that can be true."""
    gradients, products, notes = (facts.get(name) for name in ("gradients", "hessian_products", "notes"))
    if not all(type(one) is int and 0 <= one < 2**53 for one in (gradients, products)) or not _noted(notes):
        raise Failure("crashed", "its count of gradients is not one")
    return Count(int(gradients or 0), int(products or 0), {name: float(value) for name, value in (notes or {}).items()})


def _noted(notes: Any) -> bool:
    """Whether these can be the notes of solvers."""
    if not isinstance(notes, dict) or len(notes) > 16:
        return False
    return all(re.fullmatch("[a-z_]{1,32}", name) and type(value) in (int, float) for name, value in notes.items())


def printable(text: str) -> str:
    """A stranger's text as one short line."""
    return re.sub(r"[^ -~]+", " ", re.sub(r"(/[^\s/'\":,]+)+/", "", text))[:300]


def _resident(process: int, kind: str) -> int | None:
    """Bytes of resident pages of a process, now or at their peak."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:")), None)


def _forget_peak(process: int) -> None:
    """Let the system count the peak of a process anew."""
    with suppress(OSError):
        Path(f"/proc/{process}/clear_refs").write_text("5")


# ---- the server --------------------------------------------------------------------------------------------------
class Server:
    """The process in the sandbox that starts one child for each job; see benchmark/inmate.py."""

    def __init__(self, backend: str, command: Callable[[int], list[str]]) -> None:
        self.backend = backend
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                command(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )
        self.busy = self.spent = False
        self.control.settimeout(START)
        try:
            greeting = self.control.recv(16)
        except OSError:
            greeting = b""
        if greeting != b"ready":
            self.process.kill()
            assert self.process.stderr
            raise LoobenchError(self.process.stderr.read().decode(errors="replace").strip()[-300:] or "it did not start")

    def begin(self, line: socket.socket, allowance: Allowance) -> None:
        """Start a child that answers on a socket."""
        facts = {
            "readable": [str(path) for path in (*readable(), *OWN)],
            "memory": allowance.memory,
            "file_size": SCRATCH,
            "seconds": allowance.seconds,
            "landlock": kernel.landlock() > 0,
        }
        socket.send_fds(self.control, [json.dumps(facts).encode()], [line.fileno()])
        self.busy = True

    def ended(self, deadline: float) -> int | None:
        """How the child ended, waiting a little; None where it has not."""
        self.control.settimeout(max(0.01, min(5.0, deadline - time.monotonic())))
        try:
            status = int(self.control.recv(64) or b"9")
        except (TimeoutError, OSError):
            return None
        self.busy = False
        return status

    def finish(self) -> None:
        """Wait until the child has ended; a server that one could not be taken from, or that others might share, ends too."""
        if self.busy and self.ended(time.monotonic() + 5) is None:
            self.spent = True
        if self.spent or not kernel.landlock():  # without it one child's files would be there for the next
            self.close()
            server.cache_clear()

    def close(self) -> None:
        """End the server and all in its room."""
        self.control.close()
        self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()


@lru_cache(maxsize=1)
def server() -> Server:
    """The server of this process. Raises LoobenchError where no kind of sandbox works here."""
    reasons = []
    for backend, (missing, command) in BACKENDS.items():
        try:
            if reason := missing():
                raise LoobenchError(reason)
            found = Server(backend, command)
        except (LoobenchError, OSError) as error:
            reasons.append(f"{backend}: {error}")
            continue
        atexit.register(found.close)
        return found
    raise LoobenchError(
        f"no sandbox works on this machine ({'; '.join(reasons)}). Install bubblewrap, or use Linux 5.13 or newer; "
        "--no-sandbox runs the estimator as you, with your files and your network: only for code that you wrote or have read"
    )


def kind() -> str:
    """The kind of sandbox that works here, or "none" and why."""
    try:
        return server().backend
    except LoobenchError as error:
        return f"none: {error}"


def readable() -> list[Path]:
    """What a child may read: the system's programs and libraries, Python and its packages, and this package."""
    packages = [Path(entry) for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    own = Path(benchmark.__file__).resolve().parent
    roots = [*map(Path, (*SYSTEM, *SYSTEM_TOO)), Path(sys.prefix), Path(sys.base_prefix), *packages, own]
    return [path for path in dict.fromkeys(roots) if path.exists()]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
    usual = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LANG": "C.UTF-8"}
    return {**kept, **usual, "PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp"}


def _program(handle: int) -> list[str]:
    """The server as a command."""
    own = str(Path(benchmark.__file__).resolve().parent.parent)
    paths = [own, *(entry for entry in sys.path if entry.endswith("-packages"))]
    code = f"import sys; sys.path[:0] = {paths!r}; from benchmark.inmate import main; main({handle})"
    return [sys.executable, "-I", "-B", "-c", code]


def _bubblewrapped(handle: int) -> list[str]:
    binds = [part for path in readable() for part in ("--ro-bind", str(path), str(path))]
    rooms = ["--proc", "/proc", "--dev", "/dev", "--size", str(SCRATCH), "--tmpfs", "/tmp"]
    apart = ["--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL", "--chdir", "/tmp"]
    return [shutil.which("bwrap") or "bwrap", *apart, *rooms, *binds, "--remount-ro", "/", "--", *_program(handle)]


def _no_filter() -> str | None:
    return None if kernel.filtered() else "the system calls of this kind of machine are not known"


def _no_bubblewrap() -> str | None:
    return _no_filter() or (None if shutil.which("bwrap") else "bwrap is not installed")


def _no_landlock() -> str | None:
    return _no_filter() or (None if kernel.landlock() else "this kernel has none")


BACKENDS: dict[str, tuple[Callable[[], str | None], Callable[[int], list[str]]]] = {
    "bubblewrap": (_no_bubblewrap, _bubblewrapped),
    "landlock": (_no_landlock, _program),
}
