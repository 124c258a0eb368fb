"""Runs in Weights & Biases, all in one child process that a benchmark neither waits for nor fails by: the benchmark's side.

The parent writes lines of JSON, in which only names, paths and progress cross, and the child (sender.py) reads the result files
itself.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Full, Queue
from typing import Any, Protocol

from benchmark.base.errors import LoobenchError, unknown
from benchmark.base.places import ROOT
from benchmark.truths.truth import Bar, MakeBar

MODES = {  # as W&B calls them, and what each is here; `shared` is for processes that write one run together, which ours do not
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "shared": "offline",
    "disabled": "disabled",
}
NAME, TAG = 128, 64  # most characters
ROOM = 1000  # lines that wait for the pipe; progress beyond them is dropped, results come later
LONG, EVERY = 10.0, 5.0  # seconds after which a truth is long, and between two reports of it
QUIET, PATIENCE, HURRY = 5.0, 60.0, 5.0  # seconds: waited at the end in silence, at all, and after an error or Ctrl-C
LINGER = 600.0  # most seconds that the child goes on after its last order
SAFE = "the benchmark's results are on disk as ever"
REPEAT = "the same command with --wandb sends what exists without computing it anew"
PRIVATE = {  # nothing of the machine, its user or their code, and no word on the terminal
    "SILENT": "true",
    "CONSOLE": "off",
    "HOST": "",
    "SAVE_CODE": "false",
    "DISABLE_CODE": "true",
    "DISABLE_GIT": "true",
    "DISABLE_JOB_CREATION": "true",
    "ERROR_REPORTING": "false",
    "X_DISABLE_META": "true",
    "X_DISABLE_MACHINE_INFO": "true",
    "X_DISABLE_STATS": "true",
    "X_SAVE_REQUIREMENTS": "false",
}
BOUNDED = {"INIT_TIMEOUT": "20", "FINISH_TIMEOUT": "300", "FINISH_TIMEOUT_RAISES": "true"}  # seconds; the user's own go first
Message = dict[str, Any]
Tell = Callable[[Message], None]


@dataclass(frozen=True)
class Options:
    """Where runs go: project, entity (None: the login's own), group (None: the suite), further tags; online, offline, disabled.

    Raises LoobenchError for what W&B would refuse: another mode, a tag or a name of a wrong length or with signs of paths.
    """

    project: str = "loobench"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    mode: str = "online"

    def __post_init__(self) -> None:
        if self.mode not in MODES.values():
            raise unknown("mode of W&B", self.mode, MODES)
        if not 0 < len(self.project) <= NAME or re.search(r"[/\\#?%:]", self.project):
            raise LoobenchError(f"a W&B project has 1 to 128 characters, none of / \\ # ? % :, got {self.project!r}")
        if bad := [tag for tag in self.tags if not 0 < len(tag) <= TAG]:
            raise LoobenchError(f"a W&B tag has 1 to 64 characters, got {bad[0]!r}")


def meant(mode: str, where: str) -> str:
    """What a mode of W&B is here. Raises LoobenchError for an unknown one, which says `where` it stands."""
    if mode not in MODES:
        raise unknown(f"mode of W&B in {where}", mode, MODES)
    return MODES[mode]


def usual_mode(mine: Mapping[str, str], folder: Path) -> str:
    """The mode where no option decides it: that of the environment, else of W&B's settings files, else online.

    As W&B reads them: those of the working `folder` go before those of the user. Raises LoobenchError for an unknown mode.
    """
    if mine.get("WANDB_DISABLED", "").lower() not in ("", "0", "false", "no", "off"):
        return "disabled"
    files = [folder / (".wandb" if (folder / ".wandb").exists() else "wandb") / "settings"]
    with suppress(RuntimeError):  # a user without a home
        files.append(Path(mine.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser() / "settings")
    said = {"WANDB_MODE": mine.get("WANDB_MODE"), **{str(at): _mode_set_in(at) for at in files}}
    return next((meant(mode, where) for where, mode in said.items() if mode), "online")


def _mode_set_in(at: Path) -> str | None:
    parser = ConfigParser()
    with suppress(OSError, ConfigError, UnicodeDecodeError):  # W&B goes on without it, too
        parser.read(at)
        return parser.get("default", "mode", fallback=None)
    return None


class Track(Protocol):
    """What a command may tell: neither call waits or raises."""

    def result(self, task: str, estimator: str) -> None:
        """The result of that name (of the task, and of the device unless the usual) has a new cell, or is to be sent."""

    def bar(self, make: MakeBar) -> MakeBar:
        """The same progress bars, of which those over visits also report what lasts long."""


class Untracked:
    """Tells nobody."""

    def result(self, task: str, estimator: str) -> None: ...

    def bar(self, make: MakeBar) -> MakeBar:
        return make


@contextmanager
def tracker(options: Options | None, folder: Path, cache: Path) -> Iterator[Track]:
    """What to tell of the results in `folder` inside the block; without options, or disabled, it does nothing.

    The child starts with the first word to it. At the end it is waited for, at most PATIENCE seconds, then left to go on alone
    for at most LINGER; after an error or Ctrl-C in the block at most HURRY seconds, then ended.
    """
    if options is not None and options.mode == "disabled":
        _say("W&B: its mode here is disabled: nothing is sent or written for it; --wandb-mode online or offline overrules that")
    if options is None or options.mode == "disabled":
        yield Untracked()
        return
    track = Tracker(options, folder, cache)
    try:
        yield track
    except BaseException:
        track.close(HURRY, leave=False)
        raise
    track.close(PATIENCE, leave=True)


class Tracker:
    """The parent's end: a thread that writes, a thread that listens, and at most one warning."""

    def __init__(self, options: Options, folder: Path, cache: Path) -> None:
        self._first = {"options": asdict(options), "folder": str(folder.absolute()), "cache": str(cache.absolute())}
        self._cache, self._mode = cache.absolute(), options.mode
        self._lines: Queue[str | None] = Queue(ROOM)
        self._late: dict[str, None] = {}
        self._child: subprocess.Popen[str] | None = None
        self._started, self._over = False, threading.Event()
        self._warned = self._left = self._complete = False

    def result(self, task: str, estimator: str) -> None:
        line = json.dumps({"kind": "result", "task": task, "estimator": estimator})
        if not self._put(line):
            self._late[line] = None

    def bar(self, make: MakeBar) -> MakeBar:
        def made(total: int, text: str, unit: str) -> Bar:
            shown = make(total, text, unit)
            return _Reported(shown, total, text, self.progress) if unit == "visit" else shown

        return made

    def progress(self, message: Message) -> None:
        """Report what lasts long, unless too many lines wait."""
        self._put(json.dumps({"kind": "progress", **message}))

    def close(self, patience: float, *, leave: bool) -> None:
        """Wait so many seconds for the child, then leave it to go on alone, or end it. Ctrl-C ends it at once."""
        if not self._started:
            return
        try:
            self._wait(patience)
        except KeyboardInterrupt:
            leave = False
        if not self._over.is_set() and not self._complete:  # what is complete only has to end
            (self._leave if leave else self._end)()

    def _put(self, line: str) -> bool:
        if not self._started:
            self._started = True
            threading.Thread(target=self._write, daemon=True).start()
        try:
            self._lines.put_nowait(line)
        except Full:
            return False
        return True

    def _write(self) -> None:
        """Start the child and hand it the lines, until there is no more of either."""
        try:
            self._child = child = _start(self._cache, self._mode)
        except OSError as error:
            self._warn(f"its process cannot be started: {error}", REPEAT)
            self._over.set()
            return
        threading.Thread(target=self._listen, args=(child,), daemon=True).start()
        assert child.stdin
        with suppress(OSError), child.stdin:  # the listener says what it died of
            child.stdin.write(json.dumps(self._first) + "\n")
            while (line := self._lines.get()) is not None:
                child.stdin.write(line + "\n")
                child.stdin.flush()

    def _listen(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout
        with child.stdout, suppress(ValueError):  # a line cut short
            for line in child.stdout:
                self._hear(json.loads(line))
        code = child.wait()
        if not self._complete and not self._left:
            self._warn(f"its process ended before its work did (exit code {code})", REPEAT)
        self._over.set()

    def _hear(self, message: Message) -> None:
        if "warning" in message:
            self._warn(message["warning"], message["advice"])
        elif message.get("complete"):
            self._complete = True
            if message["note"] and not self._left:
                _say(f"W&B: {message['note']}")

    def _wait(self, patience: float) -> None:
        until = time.monotonic() + patience
        for line in (*self._late, None):
            self._insist(line, until)
        if self._over.wait(min(QUIET, patience)) or self._complete or patience <= QUIET:
            return
        _say(f"waiting at most {patience - QUIET:.0f} s more for W&B; Ctrl-C ends that, and no result is lost by it")
        self._over.wait(max(0.0, until - time.monotonic()))

    def _insist(self, line: str | None, until: float) -> None:
        """Put a line as soon as the pipe has room for it, or not at all once time is over."""
        while not self._over.is_set() and time.monotonic() < until:
            with suppress(Full):
                return self._lines.put(line, timeout=0.1)
        return None

    def _leave(self) -> None:
        self._left = True
        number = self._child.pid if self._child else "unknown"
        tail = f"for at most {LINGER / 60:.0f} minutes (process {number}, which may be ended)"
        self._warn(f"it is not done yet and goes on in the background {tail}", REPEAT)

    def _end(self) -> None:
        self._left = True
        if self._child:
            with suppress(OSError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._over.wait(HURRY)
        self._warn("it was not done and was ended", REPEAT)

    def _warn(self, what: str, advice: str) -> None:
        if not self._warned:
            self._warned = True
            _say(f"warning: W&B: {what}; {SAFE}; {advice}")


class _Reported:
    """A progress bar that also reports, once it has lasted LONG and then every EVERY seconds."""

    def __init__(self, shown: Bar, total: int, text: str, report: Tell) -> None:
        self.shown, self.total, self.text, self.report = shown, total, text, report
        self.done, self.start, self.last = 0, time.monotonic(), 0.0

    def update(self, n: int) -> object:
        self.done += n
        now = time.monotonic()
        if now - self.start >= LONG and now - self.last >= EVERY:
            self._report(now, closed=False)
        return self.shown.update(n)

    def close(self) -> object:
        if self.last:
            self._report(time.monotonic(), closed=True)
        return self.shown.close()

    def _report(self, now: float, *, closed: bool) -> None:
        self.last = now
        rate = self.done / max(now - self.start, 1e-9)
        left = (self.total - self.done) / rate if rate else None
        fields = {"done": self.done, "total": self.total, "rate": rate, "seconds_left": left}
        self.report({"text": self.text, "closed": closed, "fields": fields})


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # a closed terminal
        print(text, file=sys.stderr, flush=True)


def _start(cache: Path, mode: str) -> subprocess.Popen[str]:
    """The child, deaf to Ctrl-C in the terminal; it ends by itself once its input does."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "benchmark.running.sender"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(os.environ, cache, mode),
        start_new_session=True,
    )


def environment(mine: Mapping[str, str], cache: Path, mode: str) -> dict[str, str]:
    """The child's environment: this package, one core, the mode, W&B's own files beside the cache, and nothing private."""
    home, package = cache / "wandb", str(ROOT)
    places = {"WANDB_DATA_DIR": str(home / "data"), "WANDB_CACHE_DIR": str(home / "cache")}
    usual = {f"WANDB_{name}": value for name, value in BOUNDED.items()} | places
    forced = {f"WANDB_{name}": value for name, value in PRIVATE.items()} | {"OMP_NUM_THREADS": "1", "GOMAXPROCS": "1"}
    path = os.pathsep.join(filter(None, (package, mine.get("PYTHONPATH"))))
    own = {name: value for name, value in mine.items() if name != "WANDB_DISABLED"}  # the mode has it
    return {**usual, **own, **forced, "WANDB_MODE": mode, "PYTHONPATH": path}
