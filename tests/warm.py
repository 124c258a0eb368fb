"""A process that has imported what each command has to, and turns into a command, in a child of its own, when it is asked to.

It is started by the fixture `loobench` with one end of a socket, and takes one request at a time: a JSON record, and with it
where output goes. What a command is told by its environment before Python starts, it cannot learn here. Nor is the program that
fetches a data set started anew, but where the environment has `COLD`: it is forked, too, and imports the Hub's client itself.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

SLOW = (
    *("torch._dynamo", "sklearn.linear_model", "scipy.stats", "pandas", "pyarrow.dataset", "pyarrow.parquet", "httpx"),
    *("benchmark.commands.run", "benchmark.commands.list", "benchmark.tasks.hub", "benchmark.estimating"),
)
COLD = "TESTS_START_COLD"


def main() -> dict[str, str] | None:
    """Serve until the other side closes; in a child, the environment that its command is to have."""
    for name in SLOW:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    gc.freeze()
    line = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, handles, _, _ = socket.recv_fds(line, 1 << 20, 2)
        if not message:
            return None
        child = os.fork()
        if child == 0:
            line.close()
            return become(json.loads(message), handles)
        for handle in handles:
            os.close(handle)
        line.send(json.dumps(child).encode())
        _, status = os.waitpid(child, 0)
        line.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())


def become(request: dict[str, object], handles: list[int]) -> dict[str, str]:
    """Take over arguments, folder and output."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for standard, handle in enumerate(handles, start=1):
        os.dup2(handle, standard)
        os.close(handle)
    os.chdir(str(request["folder"]))
    sys.argv[:] = ["loobench", *request["arguments"]]  # type: ignore[misc]
    sys.path[0] = str(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    if COLD not in os.environ:
        sys.modules["benchmark.tasks.data"]._ended = ended  # type: ignore[attr-defined]
    return dict(os.environ)


def command() -> object:
    """Be the command; what it ends with."""
    try:
        with contextlib.suppress(BrokenPipeError):
            runpy.run_module("benchmark", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code
    finally:
        atexit._run_exitfuncs()
    return 0


def leave(act: Callable[[], object]) -> NoReturn:
    """Do something and end with its code. Nothing is taken down one by one: with all that is imported that takes a second."""
    code: object = 1
    try:
        code = act()
        threading._shutdown()  # type: ignore[attr-defined]
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


# ---- the program that fetches a data set -----------------------------------------------------------------------------
def ended(program: str, arguments: list[str]) -> int:
    """`benchmark.tasks.data._ended`, by a fork."""
    child = os.fork()
    if child == 0:
        leave(lambda: fetch(program, arguments))
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:
        os.kill(child, signal.SIGTERM)
        raise


def fetch(program: str, arguments: list[str]) -> int:
    """Be that program; what it ends with. What the command is to do as it ends, as to remove a folder, is left to that."""
    os.setsid()
    os.dup2(2, 1)
    sys.argv[1:] = arguments
    del sys.path[0]
    return int(importlib.import_module(program).main())


if __name__ == "__main__" and main():
    leave(command)
