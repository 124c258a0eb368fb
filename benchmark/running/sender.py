"""The child process that speaks to Weights & Biases: it takes orders from tracking.py, and sends the result files they name."""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmark.base.files import json_digest, read
from benchmark.running.logged import about, config, curve, history, pairs, run_id, summary
from benchmark.running.scoring import estimate_path
from benchmark.running.tracking import LINGER, REPEAT, Message, Options, Tell
from benchmark.scores import results, store
from benchmark.scores.results import Limits, Result

AGAIN = 60.0  # seconds between two sendings of a result that grows seed by seed


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
        result = store.load(at)
        files = {"result.json": at, "limits.json": self.folder / f"{result.name}.json"}
        state = json_digest([stated(file) for file in files.values()])
        if self.digests.get(name) == state:
            return
        run = self._open(**about(result, self.options))
        run.config.update(config(result), allow_val_change=True)
        self._log(run, result, store.load_limits(files["limits.json"]) if files["limits.json"].exists() else None)
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
        digests = {name: stated(at) for name, at in found.items()}
        told = {**digests, "estimates": {seed: result.cells[seed].estimate for seed in there}}
        artifact = self.wandb.Artifact(f"result-{run_id(result)}", "result", metadata=told)
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
