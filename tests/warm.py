"""A process that has imported what each command has to, and turns into a command, in a child of its own, when it is asked to.

It is started by the fixture `loobench` with one end of a socket, and takes one request at a time: a JSON record, and with it
where output goes. What a command is told by its environment before Python starts, it cannot learn here.
"""

import contextlib
import json
import os
import runpy
import socket
import sys

import sklearn.linear_model  # noqa: F401
import torch._dynamo  # noqa: F401


def main() -> dict[str, str] | None:
    """Serve until the other side closes; in a child, the environment that its command is to have."""
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
    return dict(os.environ)


if __name__ == "__main__" and main():
    with contextlib.suppress(BrokenPipeError):
        runpy.run_module("benchmark", run_name="__main__", alter_sys=True)
