"""What all tests share: one thread each, a private cache, and the Hub that serves the shared data on loopback."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

Start = Callable[[type[BaseHTTPRequestHandler]], str]
WARM = pytest.StashKey[str]()
SHARED = Path(__file__).resolve().parents[2] / "shared"
gc.disable()  # until all tests are known: what is imported and collected stays, and looking through it took 5 of 12 seconds


def pytest_collection_finish() -> None:
    """From here on there is garbage, and what is there by now is none."""
    gc.enable()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Programs that tests start obey Ctrl-C, also where this one was started in the background and must ignore it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lockable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is nothing to make locks with, the one process of a test writes its results without."""
    from benchmark.base import files
    from benchmark.scores import store

    if not files.can_lock():
        monkeypatch.setattr(store, "locked", lambda at: nullcontext())


@pytest.fixture(scope="session")
def start_hub() -> Iterator[Callable[..., str]]:
    """Start a Hub on loopback with the given faults; returns its address."""
    script = SHARED / "hub" / "serve_hub.py"
    if not script.exists():
        pytest.skip("needs the shared data and Hub server beside the checkout")
    servers = []

    def start(*faults: str) -> str:
        server = subprocess.Popen([sys.executable, script, *faults], stdout=subprocess.PIPE, text=True)
        servers.append(server)
        assert server.stdout
        return server.stdout.readline().strip()

    yield start
    for server in servers:
        server.terminate()
        server.wait()
        assert server.stdout
        server.stdout.close()


@pytest.fixture(scope="session")
def hub(start_hub: Callable[..., str]) -> str:
    """A Hub without faults."""
    return start_hub()


def warm_at(config: pytest.Config) -> str:
    """The address of tests/warm.py, which is started when it is first asked for and ends with the session."""
    if WARM not in config.stash:
        folder = TemporaryDirectory(prefix="loobench-")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(at := f"{folder.name}/warm")
            listener.listen()
            program, handle = Path(__file__).with_name("warm.py"), listener.fileno()
            process = subprocess.Popen([sys.executable, program, str(handle)], pass_fds=[handle], stdin=subprocess.PIPE)
        config.stash[WARM] = at
        config.add_cleanup(folder.cleanup)
        config.add_cleanup(process.communicate)
    return config.stash[WARM]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """The test processes of pytest-xdist share one."""
    node.workerinput["warm"] = warm_at(node.config)


@pytest.fixture(scope="session")
def warm(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """A line to tests/warm.py: commands start there in a tenth of the time."""
    known = getattr(request.config, "workerinput", {})
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.connect(known.get("warm") or warm_at(request.config))
        yield line


class Started:
    """A program that runs as a child of tests/warm.py."""

    def __init__(self, warm: socket.socket, **asked: object) -> None:
        self.line, self.output, self.errors = warm, os.memfd_create("output"), os.memfd_create("errors")
        socket.send_fds(warm, [json.dumps(asked).encode()], [self.output, self.errors])
        self.number = int(json.loads(warm.recv(64)))

    def said(self, where: int | None = None) -> str:
        """What it has printed by now, read without moving the place where it goes on."""
        at = self.output if where is None else where
        return os.pread(at, os.fstat(at).st_size, 0).decode()

    def end(self) -> subprocess.CompletedProcess[str]:
        """What it ends with."""
        self.line.settimeout(300)
        try:
            status = json.loads(self.line.recv(64))
        except TimeoutError:
            os.kill(self.number, signal.SIGKILL)
            raise
        told = self.said(), self.said(self.errors)
        os.close(self.output)
        os.close(self.errors)
        return subprocess.CompletedProcess([], status, *told)


@pytest.fixture
def loobench(tmp_path: Path, warm: socket.socket) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a person would, in an empty folder, with a Hub address that refuses connections by default."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        usual = {
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HF_HOME": str(tmp_path / "hf"),
            "LOOBENCH_CACHE": str(tmp_path / "cache"),
        }
        whole = {**os.environ, **usual, **environment}
        return Started(warm, name="loobench", arguments=arguments, folder=str(tmp_path), environment=whole, code=None).end()

    return run


@pytest.fixture(scope="session")
def begin(warm: socket.socket) -> Callable[..., Started]:
    """Start Python code in the current folder, in another process that has imported libraries and nothing of ours."""

    def begun(code: str, *arguments: str, **environment: str) -> Started:
        whole = {**os.environ, **environment}
        return Started(warm, name="-c", arguments=arguments, folder=str(Path.cwd()), environment=whole, code=code)

    return begun


@pytest.fixture(scope="session")
def python(begin: Callable[..., Started]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run such code to its end."""
    return lambda code, *arguments, **environment: begin(code, *arguments, **environment).end()


@pytest.fixture
def redone(python: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[[str], int]:
    """The exit code of the exported program ``out/redo.py`` for a left-out sample, where nobody knows loobench."""
    blind = "import runpy, sys; sys.modules['benchmark'] = None; sys.argv[0] = 'redo.py'; "
    return lambda sample: python(blind + "runpy.run_path('out/redo.py', run_name='__main__')", sample).returncode


@pytest.fixture
def start() -> Iterator[Start]:
    """Serve by a handler; returns the address."""
    servers: list[ThreadingHTTPServer] = []

    def serve(handler: type[BaseHTTPRequestHandler]) -> str:
        servers.append(server := ThreadingHTTPServer(("127.0.0.1", 0), handler))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
