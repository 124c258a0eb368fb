"""The Hub is asked whatever lies in the working folder, for a bounded time, and what it answers is said in words."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED, Start

from benchmark.base.errors import LoobenchError
from benchmark.tasks import data, hub

Loobench = Callable[..., subprocess.CompletedProcess[str]]


def always(status: int, **headers: str) -> type[BaseHTTPRequestHandler]:
    """One answer to all requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    return Handler


def served(act: Callable[[Any, bytes], None]) -> type[BaseHTTPRequestHandler]:
    """The Hub beside the checkout, whose parquet files are sent by `act`."""
    if not (at := SHARED / "hub" / "serve_hub.py").exists():
        pytest.skip("needs the shared data and Hub server beside the checkout")
    spec = importlib.util.spec_from_file_location("serve_hub", at)
    assert spec
    assert spec.loader
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))

    class Handler(module.Hub):  # type: ignore[name-defined,misc]
        root = SHARED / "data"
        faults = type("None", (), {"fail_first": 0, "truncate": False, "corrupt": False})

        def answer(self, status: int, body: bytes, headers: dict[str, str], cut: bool = False) -> None:
            if self.command == "GET" and self.path.endswith(".parquet"):
                return act(self, body)
            return super().answer(status, body, headers, cut)  # type: ignore[no-any-return]

    return Handler


def trickle(handler: Any, body: bytes) -> None:
    """1 KB a second."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    with suppress(OSError):  # it was given up
        for start in range(0, len(body), 100):
            handler.wfile.write(body[start : start + 100])
            time.sleep(0.1)


def wait_an_hour(handler: Any, _: bytes) -> None:
    handler.send_response(429)
    handler.send_header("Retry-After", "3600")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def nothing_kept(folder: Path) -> bool:
    return not [*(folder / "cache").rglob("*.safetensors"), *(folder / "hf").rglob("*.incomplete")]


# ---- how long --------------------------------------------------------------------------------------------------------
SLOW: dict[str, Callable[[], type[BaseHTTPRequestHandler]]] = {
    "asks to wait an hour": lambda: always(503, Retry_After="3600"),
    "asks to wait an hour for each file": lambda: served(wait_an_hour),
    "sends 1 KB a second": lambda: served(trickle),
    "sends nothing": lambda: served(lambda handler, body: time.sleep(100)),
}


QUICK = ("asks to wait an hour for each file", "sends 1 KB a second")


@pytest.mark.parametrize("how", [pytest.param(how, marks=[pytest.mark.slow] * (how not in QUICK)) for how in SLOW])
def test_a_hub_that_is_too_slow_is_given_up_in_bounded_time_with_what_changes_that(
    how: str, start: Start, loobench: Loobench, tmp_path: Path
) -> None:
    address, began = start(SLOW[how]()), time.monotonic()
    done = loobench("prepare", "sst2", HF_ENDPOINT=address, LOOBENCH_HUB_PATIENCE="3")

    assert time.monotonic() - began < 60
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert f"error: cannot download data set sst2 (stanfordnlp/sst2) from {address}: " in last
    assert re.search(r"\d+ kB came in \d s, 30 kB are expected", last)
    assert last.endswith(
        "nothing was kept: try again later, or with more patience: LOOBENCH_HUB_PATIENCE=30 loobench prepare sst2"
    )
    assert "Traceback" not in done.stderr
    assert nothing_kept(tmp_path)


def test_all_of_it_takes_thirty_times_the_patience_at_most(tmp_path: Path) -> None:
    """A Hub that is never too slow, and never done: the bytes are written by hand."""
    script = (
        "import os, sys, threading, time; from pathlib import Path; "
        "from benchmark.tasks import data, hub; room = Path(sys.argv[1])\n"
        "asked = hub.Asked(data.source('sst2'), room, 0.1, os.getppid())\n"
        "threading.Thread(target=hub._watch, args=(asked, threading.Event()), daemon=True).start()\n"
        "while True: (room / str(time.time())).write_bytes(bytes(5000)); time.sleep(0.01)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, done.stderr) == (1, "")
    assert time.monotonic() - began > data.LONGEST * 0.1
    assert "it was not done after 3 s; nothing was kept" in json.loads((tmp_path / data.SAID).read_text())["message"]


@pytest.mark.parametrize("said", ["", "0", "-1", "soon", "nan", "inf", "1e9"])
def test_a_patience_that_is_no_number_of_seconds_is_an_error(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOBENCH_HUB_PATIENCE", said)
    if not said:
        assert data.patience() == 60
        return
    with pytest.raises(LoobenchError, match="LOOBENCH_HUB_PATIENCE takes seconds, from 1 on"):
        data.patience()


@pytest.mark.slow
def test_ctrl_c_and_a_killed_command_end_the_download(start: Start, tmp_path: Path) -> None:
    place = {"HF_ENDPOINT": start(served(trickle)), "HF_HOME": str(tmp_path / "hf"), "PYTHONUNBUFFERED": "1"}
    for how, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        command = [sys.executable, "-m", "benchmark", "prepare", "sst2"]
        root = str(Path(__file__).resolve().parents[1])
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **place, "PYTHONPATH": root}, cwd=tmp_path
        ) as parent:
            child = soon(lambda parent=parent: children(parent.pid))  # type: ignore[misc]
            soon(lambda: [*(tmp_path / "hf").rglob("*.incomplete")])
            parent.send_signal(how)
            assert parent.wait(20) == code
            soon(lambda child=child: not alive(child[0]))  # type: ignore[misc]
            assert nothing_kept(tmp_path)
            assert parent.stderr
            assert "Traceback" not in parent.stderr.read()


def children(parent: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soon(found: Callable[[], Any], seconds: float = 40) -> Any:
    """What is found once there is something."""
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return value


# ---- what it answers -------------------------------------------------------------------------------------------------
ANSWERS = {
    401: "it answers 401: a token was sent, which may be wrong or too old; these data sets need none: unset HF_TOKEN",
    403: "it answers 403: the data set is private or gated there",
    404: "it answers 404: it has no such data set; HF_ENDPOINT may name what is no Hub",
}


@pytest.mark.parametrize(
    ("status", "code"), [(401, ""), pytest.param(403, "GatedRepo", marks=pytest.mark.slow), (404, "RepoNotFound"), (404, "")]
)
def test_what_a_status_means_is_said_with_what_to_do(
    status: int, code: str, start: Start, loobench: Loobench, tmp_path: Path
) -> None:
    address = start(always(status, **({"X_Error_Code": code} if code else {})))
    done = loobench("prepare", "sst2", HF_ENDPOINT=address, HF_TOKEN="hf_wrong")
    last = done.stderr.splitlines()[-1]

    assert done.returncode == 2
    assert f"from {address}: {ANSWERS[status]}" in last
    assert last.endswith("; nothing was kept; then run `loobench prepare sst2` again")
    assert "check the connection" not in done.stderr
    assert "Traceback" not in done.stderr
    assert nothing_kept(tmp_path)


@pytest.mark.slow
def test_a_hub_that_wants_a_token_where_none_was_sent_says_that(start: Start, loobench: Loobench) -> None:
    done = loobench("prepare", "sst2", HF_ENDPOINT=start(always(401)))

    assert done.returncode == 2
    assert "it answers 401: no token was sent, and it wants one" in done.stderr


def test_a_status_of_the_files_alone_is_said_too(start: Start, loobench: Loobench) -> None:
    def refuse(handler: Any, _: bytes) -> None:
        handler.send_response(403)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    done = loobench("prepare", "sst2", HF_ENDPOINT=start(served(refuse)))

    assert done.returncode == 2
    assert ANSWERS[403] in done.stderr


@pytest.mark.slow
def test_one_that_is_forbidden_to_go_online_is_told_by_what(hub: str, loobench: Loobench) -> None:
    done = loobench("prepare", "sst2", HF_ENDPOINT=hub, HF_HUB_OFFLINE="1")

    assert done.returncode == 2
    assert "it is not asked: unset HF_HUB_OFFLINE" in done.stderr


# ---- what lies in the working folder ---------------------------------------------------------------------------------
def lay(folder: Path, what: str) -> None:
    """Something in the working folder that is named as the repository, or nearly so."""
    at = folder / "stanfordnlp" / "sst2"
    if what == "a file where the owner's folder would be":
        (folder / "stanfordnlp").write_text("x")
        return
    at.parent.mkdir()
    if what == "a file of that name":
        at.write_text("x")
        return
    at.mkdir()
    if what == "rows":
        (at / "train.csv").write_text("sentence,label\nfine,1\n")
    if what == "a script":
        (at / "sst2.py").write_text("raise SystemExit")
    if what == "a module that the client imports":
        (folder / "pyarrow.py").write_text("raise SystemExit")


LAID = {  # and whether it is tried in the quick tests
    "rows": True,
    "a script": True,
    "a file of that name": False,
    "a file where the owner's folder would be": False,
    "a module that the client imports": False,
}


@pytest.mark.parametrize("what", [pytest.param(name, marks=[pytest.mark.slow] * (not quick)) for name, quick in LAID.items()])
def test_the_hub_is_asked_whatever_lies_in_the_working_folder(what: str, hub: str, loobench: Loobench, tmp_path: Path) -> None:
    lay(tmp_path, what)
    before = set(tmp_path.iterdir())
    done = loobench("prepare", "sst2", HF_ENDPOINT=hub, HF_HOME="hf", TESTS_START_COLD="1")  # "hf" is in the working folder

    assert done.returncode == 0, done.stderr
    assert data.SOURCES["sst2"].digest in done.stdout
    assert (tmp_path / "hf" / "hub").is_dir()
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "hf", tmp_path / "cache"}


def test_places_of_the_client_are_those_that_the_user_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("SCRATCH", "/scratch")
    given = {
        "HF_HOME": "hf",
        "HF_HUB_CACHE": "~/hub",
        "HF_DATASETS_CACHE": "$SCRATCH/hf",
        "SSL_CERT_FILE": "/etc/cert",
        "XDG_CACHE_HOME": "",
        "HF_TOKEN": "x",
        "PATH": "a:b",
        "LD_LIBRARY_PATH": "a:b",
    }

    assert hub.absolute(given) == {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_CACHE": "/home/ada/hub",
        "HF_DATASETS_CACHE": "/scratch/hf",
        "SSL_CERT_FILE": "/etc/cert",
    }
