"""A process that has imported what each command has to, and turns into a command, in a child of its own, when it is asked to.

It listens for test processes, imports nothing before the first of them calls, and has a child for each, which takes one
request at a time: a JSON record, and with it where output goes. A request is a command, or a piece of Python that is to see
no module of ours but what it imports itself. What a program is told by its environment before Python starts, it cannot learn
here. Nor is the program that fetches a data set started anew, but where the environment has `COLD`: it is forked, too, and
imports the Hub's client itself.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

SLOW = (
    *("torch._dynamo", "sklearn.linear_model", "scipy.stats", "pandas", "pyarrow.dataset", "pyarrow.parquet", "httpx"),
    *("benchmark.commands.run", "benchmark.commands.list", "benchmark.tasks.hub", "benchmark.estimating"),
)
OURS = ("benchmark", "loobench", "baselines", "estimators")
COLD = "TESTS_START_COLD"


def main() -> Callable[[], object] | None:
    """Serve until who started this closes standard input, or is no more; in a child, what it is to do."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    line = called(listener)
    for name in SLOW if line else ():
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    gc.freeze()
    while line:
        if os.fork() == 0:
            listener.close()
            return serve(line)
        line.close()
        line = called(listener)
    with contextlib.suppress(ChildProcessError):
        while os.wait():
            pass
    return None


def called(listener: socket.socket) -> socket.socket | None:
    """A line to the next test process that calls; None where none will."""
    ready, _, _ = select.select([listener, sys.stdin], [], [])
    return listener.accept()[0] if listener in ready else None


def serve(line: socket.socket) -> Callable[[], object] | None:
    """Start what a test process asks for, until it closes its side; in a child, what it is to do."""
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


def become(request: dict[str, Any], handles: list[int]) -> Callable[[], object]:
    """Take over arguments, folder and output; what is to be done then."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests were started in the background
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for standard, handle in enumerate(handles, start=1):
        os.dup2(handle, standard)
        os.close(handle)
    os.chdir(request["folder"])
    sys.argv[:] = [request["name"], *request["arguments"]]
    sys.path[0] = request["folder"]
    os.environ.clear()
    os.environ.update(request["environment"])
    if (code := request["code"]) is None:
        return command
    return lambda: python(code)


def command() -> object:
    """Be the command; what it ends with."""
    if COLD not in os.environ:
        sys.modules["benchmark.tasks.data"]._ended = ended  # type: ignore[attr-defined]
    with contextlib.suppress(BrokenPipeError):
        return ending(lambda: runpy.run_module("benchmark", run_name="__main__", alter_sys=True))
    return 0


def python(code: str) -> object:
    """Be `python -c` with that code; what it ends with. Modules of ours are imported anew, from where it finds them."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.modules["__main__"] = ModuleType("__main__")
    return ending(lambda: exec(code, vars(sys.modules["__main__"])))


def ending(act: Callable[[], object]) -> object:
    """Do what ends a program; the code of its exit."""
    try:
        act()
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


if __name__ == "__main__" and (act := main()):
    leave(act)
