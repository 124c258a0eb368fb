"""Runs in Weights & Biases, all in one child process that a benchmark neither waits for nor fails by.

The parent writes lines of JSON, in which only names, paths and progress cross, and the child reads the result files itself.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Full, Queue
from statistics import fmean
from typing import IO, Any, Protocol

from benchmark.base.errors import LoobenchError, unknown
from benchmark.base.files import json_digest, read
from benchmark.base.places import ROOT
from benchmark.base.records import encode
from benchmark.running.run import estimate_path
from benchmark.scores import results
from benchmark.scores.results import Cell, Limits, Result
from benchmark.tasks.questions import asked_of
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
AGAIN = 60.0  # seconds between two sendings of a result that grows seed by seed
LINGER = 600.0  # most seconds that the child goes on after its last order
COSTS = ("seconds", "relative_cost", "gradients", "hessian_products", "memory")  # fields of a cell
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
        [sys.executable, "-P", "-m", "benchmark.running.tracking"],
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


# ---- what a run holds --------------------------------------------------------------------------------------------
def run_id(result: Result) -> str:
    """The id of a result's run: the same for the same task, protocol, device and estimator with its source and settings."""
    estimator = result.estimator
    return json_digest([result.task_digest, result.device, estimator.name, estimator.identity])[:32]


def about(result: Result, options: Options) -> dict[str, Any]:
    """What a result's run is called and found by, as wandb.init takes it."""
    task = result.task
    tags = (task["suite"], str(task.get("model", "")), str(task.get("optimizer", {}).get("kind", "")), *options.tags)
    return {
        "id": run_id(result),
        "name": f"{result.name}/{result.estimator.name}"[:NAME],
        "group": (options.group or task["suite"])[:NAME],
        "tags": [tag[:TAG] for tag in dict.fromkeys(tags) if tag],
        "job_type": "estimate",
    }


def config(result: Result) -> dict[str, Any]:
    """What was run: task record, estimator with settings, source and identity, digests of each seed, environment."""
    named = ("problem", "trajectory", "truth", "estimate")
    return {
        "task": result.task,
        "task_digest": result.task_digest,
        "estimator": encode(result.estimator),
        "device": result.device,
        "protocol": result.protocol,
        "digests": {seed: {name: getattr(cell, name) for name in named} for seed, cell in result.cells.items()},
        "provenance": result.provenance,
    }


def history(result: Result) -> Iterator[tuple[int, dict[str, float]]]:
    """Step and fields of each seed and horizon, step = seed * H + number of the horizon; a seed's cost is in its last row."""
    horizons = result.task["horizons"]
    for seed, cell in result.cells.items():
        for number, horizon in enumerate(horizons):
            scores = {name: value for name, values in cell.scores.items() if (value := values[number]) is not None}
            paid = costs(cell) if number == len(horizons) - 1 else {}
            yield int(seed) * len(horizons) + number, {"seed": int(seed), "horizon": horizon, **scores, **paid}


def costs(cell: Cell) -> dict[str, float]:
    """What a cell cost, by `cost/<field>`; nothing where the estimator gave no answer."""
    found = {f"cost/{name}": getattr(cell, name) for name in COSTS} if cell.status == "ok" else {}
    return {name: value for name, value in found.items() if value is not None}


def summary(result: Result) -> dict[str, Any]:
    """`final/<metric>` and `cost/<field>`, means over the seeds that have them, and of each seed status and failure."""
    cells = result.cells
    last = [{**{f"final/{name}": values[-1] for name, values in cell.scores.items()}, **costs(cell)} for cell in cells.values()]
    names = dict.fromkeys(name for row in last for name in row)
    known = {name: [value for row in last if (value := row.get(name)) is not None] for name in names}
    return {
        **{name: fmean(values) for name, values in known.items() if values},
        "seeds": len(cells),
        "status": {seed: cell.status for seed, cell in cells.items()},
        "failures": {seed: f"{cell.status}: {cell.message}" for seed, cell in cells.items() if cell.failed},
    }


def pairs(result: Result, known: Limits | None) -> list[tuple[int, float, float]]:
    """Rows (seed, true, predicted) of the effects kept to be looked at, over the standard deviation of the true ones."""
    bounds = known.seeds if known and known.task_digest == result.task_digest else {}
    both = [
        (int(seed), zip(bounds[seed].points, cell.points, strict=False))
        for seed, cell in result.cells.items()
        if seed in bounds
    ]
    return [(seed, true, told) for seed, points in both for true, told in points if None not in (true, told)]


def curve(result: Result) -> tuple[str, list[tuple[int, float, str]]]:
    """The metric that ranks, and rows (horizon, score, seed) of it; none where there is one horizon."""
    metric, horizons = asked_of(result.task).primary, result.task["horizons"]
    curves = {seed: cell.scores.get(metric, ()) for seed, cell in result.cells.items()} if len(horizons) > 1 else {}
    points = [(at, value, seed) for seed, values in curves.items() for at, value in zip(horizons, values, strict=False)]
    return metric, [(at, value, seed) for at, value, seed in points if value is not None]


# ---- the child ---------------------------------------------------------------------------------------------------
class Inbox:
    """What still has to be sent, the latest word on each thing only."""

    def __init__(self) -> None:
        self.waiting: dict[str, Message] = {}
        self.open = True
        self._changed = threading.Condition()

    def fill(self, lines: Iterable[str]) -> None:
        """Take in lines until there are no more."""
        for line in lines:
            message = json.loads(line)
            with self._changed:
                self.waiting[name_of(message)] = message
                self._changed.notify()
        with self._changed:
            self.open = False
            self._changed.notify()

    def next(self, ready: Callable[[str], bool], patience: float = 1.0) -> Message | None:
        """The first thing that is ready, or any once there are no more lines; None where none came in so many seconds."""
        with self._changed:
            if not self._ready(ready) and self.open:
                self._changed.wait(patience)
            found = self._ready(ready)
            return self.waiting.pop(found[0]) if found else None

    def _ready(self, ready: Callable[[str], bool]) -> list[str]:
        return [name for name in self.waiting if not self.open or ready(name)]


def name_of(message: Message) -> str:
    """The thing that a message is about."""
    return json.dumps([message["kind"], message.get("task"), message.get("estimator"), message.get("text")])


@dataclass
class Sender:
    """The child's end: everything that speaks to W&B."""

    options: Options
    folder: Path
    cache: Path
    tell: Tell
    wandb: Any
    mode: str = ""
    sent: dict[str, float] = field(default_factory=dict)  # when, by name of the thing
    digests: dict[str, str] = field(default_factory=dict)  # of the results that were sent
    truths: dict[str, Any] = field(default_factory=dict)  # runs in progress, by text
    kept: set[str] = field(default_factory=set)  # ids of runs that are on disk only
    gone: set[str] = field(default_factory=set)  # ids of runs that arrived

    def __post_init__(self) -> None:
        self.mode = self.mode or self.options.mode

    def ready(self, name: str) -> bool:
        """Whether a thing may be sent again already."""
        return name not in self.digests or time.monotonic() - self.sent[name] >= AGAIN

    def send(self, message: Message) -> None:
        """Send one thing; what goes wrong is told, and stops nothing else."""
        try:
            self._result(message) if message["kind"] == "result" else self._progress(message)
        except Exception as error:  # W&B may raise anything, and none of it is worth a benchmark
            self._failed(error)

    def finish(self) -> str:
        """End the runs of truths that were left open; returns a sentence on where all went."""
        for run in self.truths.values():
            with suppress(Exception):
                run.finish(exit_code=1)
        parts = [f"{len(self.gone)} runs sent to project {self.options.project}"] if self.gone else []
        parts += [f"{len(self.kept)} runs kept in {self.home}; send them by `{self.sync}`"] if self.kept else []
        return ", ".join(parts)

    @property
    def home(self) -> Path:
        """Where W&B keeps its runs."""
        return self.cache / "wandb"

    @property
    def sync(self) -> str:
        """The command that sends runs kept offline."""
        return f"wandb sync {self.home}/offline-run-*"

    def _result(self, message: Message) -> None:
        name, at = name_of(message), self.folder / message["task"] / results.file_name(message["estimator"])
        result = results.load(at)
        files = {"result.json": at, "limits.json": self.folder / f"{result.name}.json"}
        state = json_digest([stated(file) for file in files.values()])
        if self.digests.get(name) == state:
            return
        run = self._open(**about(result, self.options))
        run.config.update(config(result), allow_val_change=True)
        self._log(run, result, results.load_limits(files["limits.json"]) if files["limits.json"].exists() else None)
        run.log_artifact(self._artifact(result, files))
        self._close(run)
        self.digests[name], self.sent[name] = state, time.monotonic()

    def _log(self, run: Any, result: Result, known: Limits | None) -> None:
        rows = list(history(result))
        for name in dict.fromkeys(name for _, row in rows for name in row):
            run.define_metric(name, summary="none")  # that of the last seed would pass for the mean
        for step, row in rows[:-1]:
            run.log(row, step=step)
        for step, row in rows[-1:]:
            run.log({**row, **self._charts(result, known)}, step=step)
        run.summary.update(summary(result))

    def _charts(self, result: Result, known: Limits | None) -> dict[str, Any]:
        plot, shown = self.wandb.plot, {}
        if rows := pairs(result, known):
            shown["predicted_against_true"] = table = self._table(("seed", "true", "predicted"), rows)
            shown["scatter"] = plot.scatter(table, "true", "predicted", title=f"{result.estimator.name}: predicted, true")
        metric, points = curve(result)
        if points:
            table = self._table(("horizon", metric, "seed"), points)
            shown["curve"] = plot.line(table, "horizon", metric, stroke="seed", title=f"{metric} by horizon")
        return shown

    def _table(self, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> Any:
        return self.wandb.Table(columns=list(columns), data=[list(row) for row in rows])

    def _artifact(self, result: Result, files: Mapping[str, Path]) -> Any:
        """The result, the limits, and the raw estimates of this cache, with the digests they state of themselves."""
        raw = {seed: estimate_path(cell.estimate, self.cache) for seed, cell in result.cells.items() if cell.estimate}
        there = {seed: at for seed, at in raw.items() if at.exists()}
        found = {name: at for name, at in files.items() if at.exists()}
        estimates = {seed: result.cells[seed].estimate for seed in there}
        digests = {name: stated(at) for name, at in found.items()}
        artifact = self.wandb.Artifact(f"result-{run_id(result)}", "result", metadata={**digests, "estimates": estimates})
        for name, at in found.items():
            artifact.add_file(str(at), name=name)  # a copy: the file may change before it is sent
        for seed, at in there.items():
            artifact.add_file(str(at), name=f"estimates/{seed}.safetensors", policy="immutable")
        return artifact

    def _progress(self, message: Message) -> None:
        text = message["text"]
        if text not in self.truths:
            group = self.options.group or "truths"
            self.truths[text] = self._open(
                id=json_digest([text, group])[:32], name=text, group=group, tags=list(self.options.tags), job_type="truth"
            )
        run, fields = self.truths[text], message["fields"]
        run.log({name: value for name, value in fields.items() if value is not None})
        if message["closed"]:
            del self.truths[text]
            self._close(run, exit_code=int(fields["done"] < fields["total"]))

    def _open(self, **what: Any) -> Any:
        """A run, offline where it cannot be had online."""
        try:
            return self._init(**what)
        except Exception as error:
            if self.mode == "offline":
                raise
            self._fall_back(error)
            return self._init(**what)

    def _init(self, **what: Any) -> Any:
        self.cache.mkdir(parents=True, exist_ok=True)
        return self.wandb.init(
            project=self.options.project,
            entity=self.options.entity,
            mode=self.mode,
            resume="allow",
            reinit="create_new",  # the run of a truth stays open beside those of results
            save_code=False,
            dir=str(self.cache),
            **what,
        )

    def _close(self, run: Any, exit_code: int = 0) -> None:
        here = Path(run.settings.sync_dir)
        offline = here.name.startswith("offline-")
        run.finish(exit_code=exit_code)
        (self.kept if offline else self.gone).add(run.id)
        if offline and run.job_type == "estimate":
            forget(here, run.id)

    def _fall_back(self, error: Exception) -> None:
        """Be offline from here on; what W&B remembers of runs it could not begin would be in the way."""
        self.tell({"warning": f"{said(error)}: its runs are kept in {self.home}", "advice": f"send them by `{self.sync}`"})
        self.mode = "offline"
        self.truths.clear()
        with suppress(Exception):
            self.wandb.teardown(exit_code=1)

    def _failed(self, error: Exception) -> None:
        self.tell({"warning": said(error), "advice": REPEAT})
        if isinstance(error, TimeoutError):
            self.mode = "offline"


def forget(here: Path, run: str) -> None:
    """Remove older offline folders of a run: the one `here` has all they had, and would lose to them where sent first."""
    for old in here.parent.glob(f"offline-run-*-{run}"):
        if old.name != here.name:
            shutil.rmtree(old, ignore_errors=True)


def stated(at: Path) -> str | None:
    """The digest that a file of ours states of itself; None where there is no file."""
    return str(json.loads(read(at))["digest"]) if at.exists() else None


def said(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def lacking(error: Exception) -> str:
    """Why there is no wandb: it is not installed, or it is there and its import ends in an error."""
    absent = isinstance(error, ModuleNotFoundError) and error.name == "wandb"
    why = f"it cannot be imported: {type(error).__name__}: {said(error)}"
    return "it is not installed (`pip install wandb`)" if absent else why


def main() -> int:
    """The child: read orders from the standard input until it ends, and tell of trouble on the standard output."""
    orders, words = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    _be_mute()
    tell = _teller(words)
    first = json.loads(orders.readline() or "null")
    if not first:
        return 1
    inbox = Inbox()
    threading.Thread(target=_fill, args=(inbox, orders), daemon=True).start()
    try:
        import wandb

        wandb.init  # noqa: B018 - a folder named wandb passes for the package
    except Exception as error:
        tell({"warning": lacking(error), "advice": f"once it can be imported, {REPEAT}"})
        tell({"complete": True, "note": ""})
        return 0
    options = Options(**{**first["options"], "tags": tuple(first["options"]["tags"])})
    sender = Sender(options, Path(first["folder"]), Path(first["cache"]), tell, wandb)
    serve(inbox, sender)
    tell({"complete": True, "note": sender.finish()})
    return 0


def serve(inbox: Inbox, sender: Sender) -> None:
    """Send what is ordered as it becomes ready, until nothing is left and there are no more orders."""
    while inbox.open or inbox.waiting:
        if message := inbox.next(sender.ready):
            sender.send(message)


def _fill(inbox: Inbox, orders: Iterable[str]) -> None:
    """Take in orders to their end, and see to it that this process does not outlive that by more than LINGER."""
    inbox.fill(orders)
    last = threading.Timer(LINGER, os._exit, (1,))
    last.daemon = True
    last.start()


def _be_mute() -> None:
    """Nothing that W&B reads or prints may meet our lines; and it works only when nobody else needs the core."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    with suppress(OSError):
        os.nice(10)


def _teller(words: IO[str]) -> Tell:
    def tell(message: Message) -> None:
        with suppress(OSError):  # nobody listens any more
            words.write(json.dumps(message) + "\n")
            words.flush()

    return tell


if __name__ == "__main__":
    sys.exit(main())
