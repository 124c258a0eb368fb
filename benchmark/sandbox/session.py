"""The harness's side of one process in the sandbox: a stranger's code, until it has answered, failed or used up its time.

It gets the run and returns a tensor, as safetensors on a socket. Times and memory are read from outside. What it runs in is
made by benchmark/sandbox/process.py.
"""

import array
import os
import re
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.base.errors import LONGEST, DamagedFile, Failure, LoobenchError, tell
from benchmark.base.files import pack, unpack
from benchmark.base.text import line, printable, without_folders
from benchmark.core import declaration, registry
from benchmark.core.calculus import Count
from benchmark.core.declaration import Estimator
from benchmark.core.syntax import source_digest
from benchmark.core.trajectory import Trajectory
from benchmark.sandbox import transport
from benchmark.sandbox.process import Allowance, server
from benchmark.scores.results import FAILURES

TICK = 0.1  # seconds between two looks at a process that is waited for
THREADS = 256  # that it may have


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
    library: str | None = None  # imported before the clock starts

    def __call__(self, _run: Trajectory, **_settings: Any) -> Any:
        """Refuse: the code of this function must not run in this process."""
        raise LoobenchError(f"{self.file} runs in the sandbox only: ask evaluate.estimate")


@contextmanager
def session(function: Confined, deadline: float) -> Iterator["Session"]:
    """A process in the sandbox that has loaded the code; it ends with the block, and is ended at the `deadline`."""
    line = _begun(function, deadline)
    try:
        line.open()
        yield line
    finally:
        line.close()


def _begun(function: Confined, deadline: float) -> "Session":
    with suppress(OSError):  # where the server has ended: somebody killed it
        return Session(function, deadline)
    try:
        return Session(function, deadline)
    except OSError as error:
        raise LoobenchError(f"the sandbox ended before it began: {error}") from error


class Session:
    """One process of a stranger's code, until it has answered, failed or used up its time."""

    def __init__(self, function: Confined, deadline: float) -> None:
        self.function, self.deadline = function, deadline
        self.declared: list[Estimator] = []
        self.withholds = False  # whether the run that is asked about shows the final model alone
        self.server, self.begun = server(), 0.0
        self.ours, theirs = socket.socketpair()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.process, self.handle, self.watched = 0, -1, 0.0
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
        function, source = self.function, array.array("B", self.function.source)
        job = {"file": function.file, "module": function.module, "library": function.library}
        self._send(pack({"source": _bytes(source)}, job))
        self._word(b"set")
        self.begun = self._clock()
        self._send(b"go")
        _, facts = self._frame(1 << 20)
        told = facts.get("declared")
        if not isinstance(told, list) or not 0 < len(told) <= registry.MOST_DECLARED:
            raise LoobenchError(f"{self.function.file} declares no estimators that can be understood")
        self.declared = [self._believed(content) for content in told]

    def _believed(self, content: Any) -> Estimator:
        """A declaration of the other side, checked as if it were made here."""
        return declaration.rebuilt(content, self.function, source_digest(self.function.source))

    def ask(self, estimator: Estimator, run: Trajectory) -> tuple[Answer, float, int]:
        """The answer to one run; seconds of processor since the file began to be read but for the call's; bytes of the run.

        Raises Failure.
        """
        content, self.withholds = transport.encode(run), run.final_alone
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
        around = self._clock() - self.begun - (end - start)
        memory = None if before is None or peak is None else max(0, peak - before)
        return Answer(tensors.get("effect"), end - start, _counted(facts), memory), around, len(content)

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
        """Raise the failure that the other side tells of, if it does."""
        if "refused" in facts:
            tell(_lines(str(facts.get("traceback"))))
            raise LoobenchError(line(without_folders(str(facts["refused"])), 600))
        if "failure" not in facts:
            return
        known = facts["failure"] in (*FAILURES, *["unsupported"] * self.withholds)  # where nothing is withheld it lies
        told = without_folders(str(facts.get("message"))), _lines(str(facts.get("traceback")))
        raise Failure(facts["failure"] if known else "crashed", *told)

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


def _lines(text: str) -> str:
    """A stranger's text as short lines."""
    return printable(without_folders("\n".join(text.splitlines()[-100:])))[-LONGEST:]


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
