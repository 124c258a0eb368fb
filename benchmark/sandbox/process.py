"""The process in which strangers' code runs, and what surrounds it: started, watched and ended from outside.

It is made by bubblewrap: own namespaces, so no network, no other process, and a file system of the system's read-only parts
and a private /tmp. Or, where that is not to be had, by Landlock alone: then files are refused one by one, and none is
writable. In both the child gives up system calls, privileges and memory for good (benchmark/sandbox/kernel.py).
"""

import atexit
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import benchmark
from benchmark.base.errors import LoobenchError
from benchmark.sandbox import kernel

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
SYSTEM_TOO = ("/sys/devices/system/cpu",)
OWN = tuple(f"/proc/{name}" for name in ("cpuinfo", "meminfo", "stat", "sys/vm", "version"))
KEPT = re.compile(r"(MKL|OMP|KMP|ATEN|DNNL|ONEDNN|OPENBLAS)_\w+")  # of the environment: they decide the last bits
SCRATCH = 256 << 20  # bytes of the private /tmp, and of a file in it
START = 120.0  # seconds that the server may take to start


@dataclass(frozen=True)
class Allowance:
    """What one estimator may take for one seed of a task."""

    seconds: float = 600.0  # on the wall, all horizons together
    memory: int = 4 << 30  # bytes beyond what the harness holds


@dataclass(frozen=True)
class End:
    """How a child ended."""

    status: int  # as the system says it
    seconds: float  # of processor


class Server:
    """The process in the sandbox that starts one child for each job; see benchmark/sandbox/server.py."""

    def __init__(self, backend: str, command: Callable[[int], list[str]]) -> None:
        self.backend = backend
        self.folder = None if backend == "bubblewrap" else tempfile.TemporaryDirectory(prefix="loobench-")
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                command(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(self.folder.name if self.folder else "/tmp"),
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
            told = self.process.stderr.read() if self.process.stderr else b""
            self.close()
            raise LoobenchError(told.decode(errors="replace").strip()[-300:] or "it did not start")

    def begin(self, line: socket.socket, allowance: Allowance) -> None:
        """Start a child that answers on a socket."""
        facts = {
            "readable": [str(path) for path in (*readable(), *OWN)],
            "writes": self.backend == "bubblewrap",  # whose /tmp is of bounded size, and nobody else's
            "memory": allowance.memory,
            "file_size": SCRATCH,
            "seconds": allowance.seconds,
            "landlock": kernel.landlock() > 0,
        }
        self.spent = True  # unless this goes well
        socket.send_fds(self.control, [json.dumps(facts).encode()], [line.fileno()])
        self.busy, self.spent = True, False

    def ended(self, deadline: float) -> End | None:
        """How the child ended, waiting a little; None where it has not."""
        self.control.settimeout(max(0.01, min(5.0, deadline - time.monotonic())))
        try:
            told = json.loads(self.control.recv(256) or b"null")
        except (TimeoutError, OSError):
            return None
        self.busy = False
        if told is None:  # the server has ended, and all in its room with it
            self.spent = True
            return End(signal.SIGKILL, 0.0)
        self.spent = not told["cleared"]
        return End(told["status"], told["seconds"])

    def finish(self) -> None:
        """Wait until the child has ended; a server that one could not be taken from, or that others might share, ends too."""
        if self.busy and self.ended(time.monotonic() + 5) is None:
            self.spent = True
        if self.spent or not kernel.landlock():  # without it one child's files would be there for the next
            self.close()

    def close(self) -> None:
        """End the server and all in its room; the next `server()` is another."""
        server.cache_clear()
        atexit.unregister(self.close)
        self.control.close()
        self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()
        if self.folder:
            self.folder.cleanup()


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


def _environment(scratch: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
    usual = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LANG": "C.UTF-8"}
    return {**kept, **usual, "PATH": "/usr/bin:/bin", "HOME": scratch, "TMPDIR": scratch}


def _program(handle: int) -> list[str]:
    """The server as a command."""
    own = str(Path(benchmark.__file__).resolve().parent.parent)
    paths = [own, *(entry for entry in sys.path if entry.endswith("-packages"))]
    code = f"import sys; sys.path[:0] = {paths!r}; from benchmark.sandbox.server import main; main({handle})"
    return [sys.executable, "-I", "-B", "-c", code]


def _bubblewrapped(handle: int) -> list[str]:
    binds = [part for path in readable() for part in ("--ro-bind", str(path), str(path))]
    rooms = ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--size", str(SCRATCH), "--tmpfs", "/tmp"]
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
