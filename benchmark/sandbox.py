"""Strangers' estimators in a process that has nothing and can reach nothing: this side of it, which believes nothing it says.

The room is that of benchmark/jail.py. The child gets the run and returns a tensor, as safetensors on a socket. Times and memory
are read from outside.
"""

import array
import importlib
import os
import re
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from benchmark import registry, transport
from benchmark.calculus import Count
from benchmark.errors import DamagedFile, Failure, LoobenchError, Withheld
from benchmark.files import digest, pack, read, unpack
from benchmark.jail import Allowance as Allowance
from benchmark.jail import kind as kind
from benchmark.jail import server as server
from benchmark.problem import Trajectory
from benchmark.registry import Estimator
from benchmark.results import FAILURES

GROUP = "loobench.estimators"  # of entry points of installed packages: a name, and the module that declares
ENDS = ("forbidden-access", "timeout", "out-of-memory")  # failures after which there is no process
LOADING = 0.05, 5e-9  # seconds of processor, and per byte, to read a run or hand over an answer: not charged to the method
TICK = 0.1  # seconds between two looks at a process that is waited for
THREADS = 256  # that it may have


@dataclass(frozen=True)
class Rules:
    """Who is run in the sandbox, and with what allowance."""

    strangers: bool = True  # estimators that are not in the repository
    everyone: bool = False
    allowance: Allowance = field(default_factory=Allowance)


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
        return _introduced(Confined(_plain(Path(name).name), registry.source_of(Path(name)), None, allowance), name)
    if name not in packaged():
        return None
    point = packaged()[name]
    function = Confined(_plain(f"{name}.py"), _module_source(point), point.module, allowance)
    return _introduced(function, f"package {point.module}")


def _plain(file: str) -> str:
    """A file name that is safe to show and to import by."""
    return file if re.fullmatch(r"[A-Za-z0-9_-]{1,64}\.py", file) else "submission.py"


def _module_source(point: EntryPoint) -> bytes:
    """The file of an entry point's module, found without importing it. Raises LoobenchError where packages do not have it."""
    stem = point.module.replace(".", "/")
    places = [point.dist.locate_file(name) for name in (f"{stem}.py", f"{stem}/__init__.py")] if point.dist else []
    found = next((at for place in places if (at := Path(str(place))).is_file()), None)
    if found is None:
        raise LoobenchError(
            f"{point.module} is not where packages are installed (is it editable?): give its file, as in path.py"
        )
    return registry.source_of(found)


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
    line = _begun(function)
    try:
        line.open()
        yield line
    finally:
        line.close()


def _begun(function: Confined) -> "Session":
    with suppress(OSError):  # where the server has ended: somebody killed it
        return Session(function)
    try:
        return Session(function)
    except OSError as error:
        raise LoobenchError(f"the sandbox ended before it began: {error}") from error


class Session:
    """One process of a stranger's code, until it has answered, failed or used up its time."""

    def __init__(self, function: Confined) -> None:
        self.function = function
        self.declared: list[Estimator] = []
        self.server = server()
        self.deadline = time.monotonic() + function.allowance.seconds
        self.ours, theirs = socket.socketpair()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.process, self.handle, self.watched, self.excused = 0, -1, 0.0, False
        try:
            with theirs:
                self.server.begin(theirs, function.allowance)
            self.process = self._credentials()
            self.handle = os.pidfd_open(self.process)
        except BaseException:
            self.close()
            raise

    def _credentials(self) -> int:
        """The number of the process, as the system tells it. Raises OSError where there is none."""
        _, extras, _, _ = self._step(partial(self.ours.recvmsg, 1, socket.CMSG_SPACE(12)))
        found = [struct.unpack("3i", content)[0] for _, kind, content in extras if kind == socket.SCM_CREDENTIALS]
        if not found or not found[0]:
            raise ConnectionError("nobody answers")
        return int(found[0])

    def open(self) -> None:
        """Hand the code over, and hear what it declares."""
        source = array.array("B", self.function.source)
        self._send(pack({"source": _bytes(source)}, {"file": self.function.file, "module": self.function.module}))
        _, facts = self._frame(1 << 20)
        told = facts.get("declared")
        if not isinstance(told, list) or not 0 < len(told) <= registry.MOST_DECLARED:
            raise LoobenchError(f"{self.function.file} declares no estimators that can be understood")
        self.declared = [self._believed(content) for content in told]

    def _believed(self, content: Any) -> Estimator:
        """A declaration of the other side, checked as if it were made here."""
        return registry.rebuilt(content, self.function, digest(self.function.source))

    def ask(self, estimator: Estimator, run: Trajectory) -> Answer:
        """The answer to one run. Raises Failure."""
        content = transport.encode(run)
        allowed = LOADING[0] + LOADING[1] * len(content)
        asked = self._clock()
        self._send(pack({}, {"estimator": estimator.name, "settings": estimator.settings}))
        self._send(content)
        self._word(b"ready")
        _forget_peak(self.process)
        before, start = _status(self.process, "VmRSS"), self._clock()
        self._send(b"go")
        self._word(b"done")
        end, peak = self._clock(), _status(self.process, "VmHWM")
        self._send(b"on")
        tensors, facts = self._frame(transport.largest(run))
        seconds = end - start + max(0.0, start - asked - allowed) + max(0.0, self._clock() - end - allowed)
        memory = None if before is None or peak is None else max(0, peak - before)
        return Answer(tensors.get("effect"), seconds, _counted(facts), memory)

    def warm_up(self, estimator: Estimator, run: Trajectory) -> None:
        """One call on one step: the first use of some operations costs time that is not the method's."""
        try:
            self.ask(estimator, run.until(1))
        except Withheld:
            return
        except Failure as failure:  # one step may be too few; what ends the process or the conversation is another matter
            if failure.status in ENDS or not self.excused:
                raise
            self.excused = False

    def _clock(self) -> float:
        """Seconds of processor that the process has used, all its threads together."""
        self._settle()
        try:
            return time.clock_gettime((~self.process << 3) | 2)  # the clock of a process, as Linux numbers them
        except OSError:
            raise self._gone() from None

    def _settle(self) -> None:
        """Let the process come to wait for us, for a moment: of what runs the system counts the last milliseconds late."""
        for _ in range(20):
            if (_told(self.process, "State") or "S").startswith("S"):
                return
            time.sleep(1e-4)

    def _word(self, expected: bytes) -> None:
        content = self._receive(1 << 20)
        if content != expected:
            self._failure(_unpacked(content)[1])
            raise Failure("crashed", f"{self.function.file} broke off the conversation")

    def _frame(self, most: int) -> tuple[dict[str, Any], dict[str, Any]]:
        tensors, facts = _unpacked(self._receive(most))
        self._failure(facts)
        return tensors, facts

    def _failure(self, facts: dict[str, Any]) -> None:
        """Raise the failure that the other side tells of, if it does; it may then be asked again."""
        if "refused" in facts:
            raise LoobenchError(printable(str(facts["refused"])))
        if "failure" not in facts:
            return
        self.excused, known = True, facts["failure"] in (*FAILURES, "unsupported")
        raise Failure(facts["failure"] if known else "crashed", printable(str(facts.get("message"))))

    def _send(self, content: bytes) -> None:
        view = memoryview(struct.pack("<Q", len(content)) + content)
        with suppress(OSError):  # it has ended; what it said last, or how it ended, is told by what is read
            while view:
                view = view[self._step(partial(self.ours.send, view)) :]

    def _receive(self, most: int) -> bytes:
        size = struct.unpack("<Q", self._exactly(8))[0]
        if size > most:
            raise Failure("bad-shape", f"{self.function.file} sent {size} bytes, expected {most} at most")
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        held = bytearray(size)
        view = memoryview(held)
        while view:
            try:
                got = self._step(partial(self.ours.recv_into, view))
            except OSError:
                got = 0
            if not got:
                raise self._gone()
            view = view[got:]
        return bytes(held)

    def _step(self, act: Callable[[], Any]) -> Any:
        """A step of a transfer, however long the other side makes us wait for it within its time; it is watched meanwhile."""
        while True:
            self.ours.settimeout(min(TICK, self._left()))
            self._watch()
            with suppress(TimeoutError):
                return act()

    def _watch(self) -> None:
        """Raise Failure where the process has more threads than any method needs: no limit of the system holds root's."""
        if not self.process or time.monotonic() < self.watched + TICK:
            return
        self.watched = time.monotonic()
        if (_status(self.process, "Threads") or 0) > THREADS:
            raise Failure("forbidden-access", f"{self.function.file} started more than {THREADS} threads")

    def _left(self) -> float:
        if (left := self.deadline - time.monotonic()) <= 0:
            raise self._late()
        return left

    def _late(self) -> Failure:
        limit = self.function.allowance.seconds
        return Failure("timeout", f"{self.function.file} took more than {limit:g} s (--time-limit allows more)")

    def _gone(self) -> Failure:
        """Why the process is there no longer."""
        end, name = self.server.ended(self.deadline), self.function.file
        if end is None:
            return Failure("crashed", f"{name} closed its line and went on")
        if not os.WIFSIGNALED(end.status):
            return Failure("crashed", f"the process of {name} ended with code {os.waitstatus_to_exitcode(end.status)}")
        number = os.WTERMSIG(end.status)
        long = end.seconds > self.function.allowance.seconds
        killed = "timeout" if long else "out-of-memory"
        kinds = {int(signal.SIGXCPU): "timeout", int(signal.SIGSYS): "forbidden-access", int(signal.SIGKILL): killed}
        told = next((one.name for one in signal.Signals if one == number), f"signal {number}")
        return Failure(kinds.get(number, "crashed"), f"the system ended the process of {name} by {told}")

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


def _unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        return unpack(content, "the answer")
    except DamagedFile as error:
        raise Failure("crashed", f"{error}") from error


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
    return all(
        re.fullmatch("[a-z_]{1,32}", name) and type(value) in (int, float) and abs(value) < 1e300
        for name, value in notes.items()
    )


def printable(text: str) -> str:
    """A stranger's text as one short line."""
    return re.sub(r"[^ -~]+", " ", re.sub(r"(/[^\s/'\":,]+)+/", "", text))[:600]


def _status(process: int, kind: str) -> int | None:
    """A number of what the system tells of a process; sizes in bytes."""
    text = _told(process, kind)
    return int(text.split()[0]) * (1024 if text.endswith("kB") else 1) if text else None


def _told(process: int, kind: str) -> str | None:
    """What the system tells of a process, None where it is there no longer."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{kind}:")), None)


def _forget_peak(process: int) -> None:
    """Let the system count the peak of a process anew."""
    with suppress(OSError):
        Path(f"/proc/{process}/clear_refs").write_text("5")
