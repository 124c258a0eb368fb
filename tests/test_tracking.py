"""What Weights & Biases is told, and that it never stops, slows or changes a benchmark."""

import base64
import hashlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Started
from test_results import CELL, result

from benchmark.base.errors import LoobenchError
from benchmark.base.files import tensor_digest, write_tensors
from benchmark.commands.main import main
from benchmark.running import sender, tracking
from benchmark.running.logged import pairs, run_id
from benchmark.running.scoring import estimate_path
from benchmark.running.tracking import Options, tracker
from benchmark.scores import results
from benchmark.scores.results import Bounds, Cell, Result
from benchmark.scores.store import Store
from benchmark.tasks.suites import TASKS

TASK = "quick-breast-cancer-mlp-sgd"  # three horizons
EFFECT = torch.arange(6.0).view(1, 3, 2)
ESTIMATE = tensor_digest([EFFECT])
SCORES = ([0.1, 0.2, 0.3], [0.2, 0.3, 0.5])


def cell(seed: int) -> Cell:
    """Two good seeds and a failure."""
    if seed == 2:
        return replace(CELL, status="crashed", message="boom", scores={}, points=[], estimate="", truth="t2")
    scores = {"kendall": list(SCORES[seed]), "rmse": [1.0, None, 2.0]}
    points = [0.5 + seed, -1.0, 0.25]
    took = {"seconds": 1.0 + seed, "exact_seconds": 4.0 + 4 * seed, "by_query": [SCORES[seed][-1]]}
    return replace(CELL, scores=scores, points=points, estimate=ESTIMATE, truth=f"t{seed}", memory=None, **took)


def made() -> Result:
    blank = replace(result(), cells={})
    for seed in range(3):
        blank = blank.with_cell(seed, cell(seed), {"command": "loobench run", "torch": "2"})
    return blank


def keep(folder: Path, cache: Path) -> Path:
    """Write the result, the limits of two of its seeds, and its raw estimate."""
    known = results.no_limits(TASKS[TASK], "cpu")
    for seed in range(2):
        known = known.with_seed(seed, Bounds(f"t{seed}", {}, {}, [1.0, 2.0 + seed, 3.0]))
    Store(folder).keep(known)
    write_tensors(estimate_path(ESTIMATE, cache), {"effect": EFFECT})
    return Store(folder).keep(made())


class Quiet:
    """A bar that shows nothing."""

    def __init__(self, *_: object) -> None: ...

    def update(self, n: int) -> object:
        return n

    def close(self) -> object:
        return None


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """A home without a login, and nothing of W&B in the environment."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("WANDB_CONFIG_DIR", str(home / "config"))
        yield patch


@pytest.fixture(autouse=True)
def _away(away: pytest.MonkeyPatch) -> None:
    """In every test."""


@dataclass(frozen=True)
class Logged:
    """Two trackers in a row told of the same result, and a long truth."""

    folder: Path
    cache: Path
    first: list[dict[str, Any]]  # records of the result's run
    again: list[dict[str, Any]]
    truth: list[dict[str, Any]]
    said: list[str]  # by the first tracker: online, without a login
    later: list[str]  # by the second: offline


def file_of(cache: Path, run: str) -> Path:
    """The file in the one folder of a run."""
    (at,) = cache.glob(f"wandb/offline-run-*-{run}/run-{run}.wandb")
    return at


READ = """
import sys
from wandb.cli.cli import cli
for at in sys.argv[1:]:
    try:
        cli(["leet", "inspect", "--json", at])
    except SystemExit as end:
        if end.code:
            raise
    print(flush=True)
"""


def records(python: Callable[..., subprocess.CompletedProcess[str]], *files: Path) -> list[list[dict[str, Any]]]:
    """The records in each of some files, read by W&B's own reader."""
    done = python(READ, *map(str, files))
    if "No such command" in done.stderr:
        pytest.skip("needs a wandb that can read its own runs, with `wandb leet inspect`")
    assert done.returncode == 0, done.stderr
    texts = done.stdout.split("\n\n")[: len(files)]
    return [[json.loads(line) for line in text.splitlines()] for text in texts]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, away: pytest.MonkeyPatch, python: Callable[..., Any]) -> Logged:
    pytest.importorskip("wandb")
    folder, cache, aside = (tmp_path_factory.mktemp(name) for name in ("results", "cache", "aside"))
    keep(folder, cache)
    options, run = Options("mine", tags=("new",)), run_id(made())
    said: list[str] = []
    with away.context() as patch:
        patch.setattr(tracking, "LONG", 0.0)
        patch.setattr(tracking, "_say", said.append)
        tell_all(options, folder, cache)
        first, told = shutil.copy(file_of(cache, run), aside), len(said)
        with tracker(replace(options, mode="offline"), folder, cache) as track:
            track.result(TASK, "sgd-ie")
    (truth,) = {at.name.removeprefix("run-").removesuffix(".wandb") for at in cache.glob("wandb/*run-*/*.wandb")} - {run}
    found = records(python, first, file_of(cache, run), file_of(cache, truth))
    return Logged(folder, cache, *found, said[:told], said[told:])


def tell_all(options: Options, folder: Path, cache: Path) -> None:
    """Tell of a truth that lasts and of a result."""
    with tracker(options, folder, cache) as track:
        bar = track.bar(Quiet)(10, "truth x seed 0", "visit")
        bar.update(4)
        track.result(TASK, "sgd-ie")
        bar.update(6)
        bar.close()


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in found if record["type"] == kind]


def merged(found: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return {key: value for update in of_kind(found, kind) for key, value in update.get("update", {}).items()}


def test_a_run_is_named_grouped_and_tagged_by_its_result(logged: Logged) -> None:
    (run,) = of_kind(logged.first, "run")

    assert (run["project"], run["run_id"], run["job_type"]) == ("mine", run_id(made()), "estimate")
    assert (run["display_name"], run["run_group"]) == (f"{TASK}/sgd-ie", "quick")
    assert run["tags"] == ["quick", "mlp-8", "sgd", "new"]


def test_the_config_holds_task_estimator_digests_and_environment(logged: Logged) -> None:
    config, stored = merged(logged.first, "config"), made()

    assert config["task"] == stored.task
    assert (config["task_digest"], config["protocol"]) == (stored.task_digest, stored.protocol)
    assert config["estimator"]["settings"] == stored.estimator.settings
    assert (config["estimator"]["source"], config["estimator"]["identity"]) == (
        stored.estimator.source,
        stored.estimator.identity,
    )
    assert config["provenance"] == stored.provenance
    assert config["digests"]["1"] == {"problem": "p", "trajectory": "t", "truth": "t1", "estimate": ESTIMATE}


def test_the_history_has_one_row_for_each_seed_and_horizon_with_its_metrics_and_the_cost_in_the_last(logged: Logged) -> None:
    rows = [row["item"] for row in of_kind(logged.first, "history")]

    assert [row["_step"] for row in rows] == list(range(9))
    assert [(row["seed"], row["horizon"]) for row in rows] == [(seed, at) for seed in range(3) for at in (1, 5, 10)]
    assert [row.get("kendall") for row in rows] == [*SCORES[0], *SCORES[1], None, None, None]
    assert [row.get("rmse") for row in rows] == [1.0, None, 2.0, 1.0, None, 2.0, None, None, None]
    assert [row.get("cost/seconds") for row in rows] == [None, None, 1.0, None, None, 2.0, None, None, None]
    assert rows[2]["cost/gradients"] == CELL.gradients
    assert "cost/memory" not in rows[2]


def test_the_summary_has_the_means_over_seeds_at_the_last_horizon_and_every_failure(logged: Logged) -> None:
    summary = merged(logged.first, "summary")

    assert summary["final/kendall"] == pytest.approx(0.4)
    assert summary["final/rmse"] == 2.0
    assert summary["cost/seconds"] == 1.5
    assert summary["seeds"] == 3
    assert not {"kendall", "seed"} & set(summary)  # those of the last row would pass for means
    assert summary["status"] == {"0": "ok", "1": "ok", "2": "crashed"}
    assert summary["failures"] == {"2": "crashed: boom"}


def test_the_table_has_true_beside_predicted_and_the_charts_read_it(logged: Logged) -> None:
    (last,) = [row["item"] for row in of_kind(logged.first, "history") if "curve_table.path" in row["item"]]
    (folder,) = logged.cache.glob(f"wandb/offline-run-*-{run_id(made())}")
    table = json.loads((folder / "files" / last["predicted_against_true.path"]).read_text())
    charts = json.dumps(merged(logged.first, "config"))

    assert table["columns"] == ["seed", "true", "predicted"]
    assert table["data"] == [[0, 1, 0.5], [0, 2, -1], [0, 3, 0.25], [1, 1, 1.5], [1, 3, -1], [1, 3, 0.25]]
    assert "wandb/scatter/" in charts
    assert "wandb/line/" in charts
    curve = json.loads((folder / "files" / last["curve_table.path"]).read_text())
    assert curve["data"] == [[at, score, str(k)] for k in range(2) for at, score in zip((1, 5, 10), SCORES[k], strict=True)]


def artifact(found: list[dict[str, Any]]) -> dict[str, Any]:
    (one,) = [made for made in of_kind(found, "artifact") if made["type"] == "result"]
    return one


def test_the_artifact_has_the_result_the_limits_and_the_raw_estimates_with_their_digests(logged: Logged) -> None:
    raw = estimate_path(ESTIMATE, logged.cache)
    files = {"result.json": logged.folder / TASK / "sgd-ie.json", "limits.json": logged.folder / f"{TASK}.json"}
    every = {**files, "estimates/0.safetensors": raw, "estimates/1.safetensors": raw}
    one = artifact(logged.first)
    metadata = one["metadata"] if isinstance(one["metadata"], dict) else json.loads(one["metadata"])

    assert {entry["path"]: entry["digest"] for entry in one["manifest"]["contents"]} == {
        name: base64.b64encode(hashlib.md5(at.read_bytes()).digest()).decode() for name, at in every.items()
    }
    assert metadata == {
        **{name: json.loads(at.read_text())["digest"] for name, at in files.items()},
        "estimates": {"0": ESTIMATE, "1": ESTIMATE},
    }


def test_a_repeat_has_the_same_run_and_the_same_artifact_and_takes_the_place_of_what_was_not_sent(logged: Logged) -> None:
    ids = [of_kind(found, "run")[0]["run_id"] for found in (logged.first, logged.again)]
    rows = [[row["item"].get("kendall") for row in of_kind(found, "history")] for found in (logged.first, logged.again)]

    assert ids[0] == ids[1]
    assert rows[0] == rows[1]
    assert artifact(logged.first)["digest"] == artifact(logged.again)["digest"]
    assert len(list(logged.cache.glob(f"wandb/offline-run-*-{ids[0]}"))) == 1


def test_a_long_truth_reports_its_progress_and_its_end(logged: Logged) -> None:
    (run,) = of_kind(logged.truth, "run")
    rows = [row["item"] for row in of_kind(logged.truth, "history")]

    assert (run["job_type"], run["display_name"], run["run_group"]) == ("truth", "truth x seed 0", "truths")
    assert rows[-1]["done"] == rows[-1]["total"] == 10
    assert rows[-1]["seconds_left"] == 0
    assert rows[-1]["rate"] > 0


def test_nothing_of_the_machine_its_user_or_their_code_is_logged(logged: Logged) -> None:
    names = {at.name for at in logged.cache.glob("wandb/offline-run-*/files/**/*") if at.is_file()}
    (run,) = of_kind(logged.first, "run")
    told = json.dumps([of_kind(logged.first, kind) for kind in ("run", "config", "summary", "history")])

    assert not names & {"wandb-metadata.json", "requirements.txt", "output.log", "diff.patch"}
    assert f'"{socket.gethostname()}"' not in told
    assert not set(run) & {"host", "git", "settings"}
    assert str(logged.cache) not in told
    assert str(Path(__file__).parents[1]) not in told


def test_the_id_is_that_of_the_question_and_of_nothing_else() -> None:
    usual = made()
    fewer = replace(usual, cells={"0": usual.cells["0"]}, provenance={**usual.provenance, "x": {}})
    others = [
        replace(usual, task_digest="other"),
        replace(usual, device="cuda"),
        replace(usual, estimator=replace(usual.estimator, name="other")),
        replace(usual, estimator=replace(usual.estimator, identity="other")),
    ]

    assert run_id(fewer) == run_id(usual)
    assert len({run_id(one) for one in (usual, *others)}) == 5


def test_a_point_is_shown_beside_the_true_one_of_its_task_and_seed_whatever_the_last_bits() -> None:
    known = results.no_limits(TASKS[TASK], "cpu").with_seed(0, Bounds("another", {}, {}, [1.0, 2.0, 3.0]))
    other = replace(known, task_digest="other")

    assert pairs(made(), known) == [(0, 1.0, 0.5), (0, 2.0, -1.0), (0, 3.0, 0.25)]
    assert pairs(made(), other) == pairs(made(), None) == []


def test_a_result_that_grows_is_sent_at_once_then_in_its_latest_state_and_no_later_than_the_end() -> None:
    inbox, now = sender.Inbox(), {"ready": True}
    word = {"kind": "result", "task": "t", "estimator": "e"}
    lines = [json.dumps({**word, "seed": seed}) for seed in range(3)]

    def following() -> Iterator[str]:
        yield lines[0]
        assert inbox.next(lambda name: now["ready"], 0.0) == {**word, "seed": 0}
        now["ready"] = False
        yield from lines[1:]
        assert inbox.next(lambda name: now["ready"], 0.0) is None

    inbox.fill(following())
    assert inbox.next(lambda name: now["ready"], 0.0) == {**word, "seed": 2}
    assert inbox.next(lambda name: True, 0.0) is None


# ---- trouble -----------------------------------------------------------------------------------------------------
@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put other code in the place of wandb, for the child."""

    def put(code: str) -> None:
        (tmp_path / "stub").mkdir()
        (tmp_path / "stub" / "wandb.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))

    return put


def tell(folder: Path, cache: Path, options: Options | None = None) -> float:
    """Tell a tracker of a result; the seconds that took."""
    before, start = keep(folder, cache).read_bytes(), time.monotonic()
    with tracker(options or Options(), folder, cache) as track:
        track.result(TASK, "sgd-ie")
    assert (folder / TASK / "sgd-ie.json").read_bytes() == before
    return time.monotonic() - start


def sending(cache: Path) -> str:
    return f"wandb sync {cache}/wandb/offline-run-*"


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("warning:")]


def test_a_dead_network_gives_one_warning_and_an_offline_run_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    for name, value in {"API_KEY": "0" * 40, "BASE_URL": "http://127.0.0.1:9", "INIT_TIMEOUT": "1"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    seconds = tell(tmp_path / "results", tmp_path / "cache")
    out, err = capfd.readouterr()
    (warning,) = warnings(err)

    assert seconds < 30
    assert "refused" in warning
    assert "results are on disk as ever" in warning
    assert sending(tmp_path / "cache") in warning
    assert out == ""
    assert list((tmp_path / "cache" / "wandb").glob(f"offline-run-*-{run_id(made())}/*.wandb"))


def test_no_login_gives_one_warning_and_offline_runs_and_never_a_question(logged: Logged) -> None:
    (warning,) = warnings("\n".join(logged.said))

    assert "wandb login" in warning
    assert sending(logged.cache) in warning
    assert not warnings("\n".join(logged.later))
    assert f"W&B: 1 runs kept in {logged.cache}/wandb; send them by `{sending(logged.cache)}`" in logged.later


def test_no_wandb_gives_one_warning(tmp_path: Path, stub: Callable[[str], None], capfd: pytest.CaptureFixture[str]) -> None:
    stub("raise ModuleNotFoundError(\"No module named 'wandb'\", name='wandb')")
    tell(tmp_path / "results", tmp_path / "cache")
    out, err = capfd.readouterr()

    assert (out, len(warnings(err))) == ("", 1)
    assert "not installed" in err
    assert "the same command with --wandb sends what exists" in err


BROKEN = {
    "import a_dependency_of_wandb": "ModuleNotFoundError: No module named 'a_dependency_of_wandb'",
    "import wandb.inner": "ModuleNotFoundError: No module named 'wandb.inner'",
    "from os import nothing_like_it": "ImportError: cannot import name 'nothing_like_it'",
    "raise RuntimeError('two  versions\\nof protobuf')": "RuntimeError: two versions of protobuf",
    "1 +": "SyntaxError: invalid syntax",
    "x = 1": "AttributeError: module 'wandb' has no attribute 'init'",
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_wandb_that_cannot_be_imported_is_said_to_be_there_and_why(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises((ImportError, RuntimeError, SyntaxError, AttributeError)) as found:
        importlib.import_module("wandb").init()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)

    assert sender.lacking(found.value).startswith(f"it cannot be imported: {BROKEN[code]}")


def test_what_is_wrong_with_an_installed_wandb_is_the_one_warning(
    tmp_path: Path, stub: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    stub("import a_dependency_of_wandb")
    tell(tmp_path / "results", tmp_path / "cache")
    (warning,) = warnings(capfd.readouterr().err)

    assert f"it cannot be imported: {BROKEN['import a_dependency_of_wandb']}" in warning
    assert "not installed" not in warning


def test_a_child_that_dies_in_the_middle_gives_one_warning_and_calls_go_on(
    tmp_path: Path, stub: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    stub("import os\ndef init(**_):\n    os._exit(3)\ndef teardown(**_): pass")
    keep(tmp_path / "results", tmp_path / "cache")
    with tracker(Options(), tmp_path / "results", tmp_path / "cache") as track:
        track.result(TASK, "sgd-ie")
        assert isinstance(track, tracking.Tracker)
        assert track._over.wait(30)
        for _ in range(2 * tracking.ROOM):
            track.result(TASK, "sgd-ie")
    (warning,) = warnings(capfd.readouterr().err)

    assert "ended before its work did (exit code 3)" in warning


HANGS = "import time\ndef init(**_):\n    time.sleep(1000)\ndef teardown(**_): pass"
DEAF = "import time\ntime.sleep(1000)"  # before it reads a line


def alive(number: int) -> bool:
    """Whether a process of ours is there and has not ended."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_child_that_hangs_is_left_after_a_bounded_time_and_never_holds_up_a_call(
    tmp_path: Path, stub: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stub(DEAF)
    monkeypatch.setattr(tracking, "QUIET", 0.2)
    monkeypatch.setattr(tracking, "PATIENCE", 1.0)
    monkeypatch.setattr(tracking, "ROOM", 50)
    track = tracking.Tracker(Options(), tmp_path, tmp_path)
    start = time.monotonic()
    for number in range(5000):
        track.result(f"{'t' * 100}{number}", "e")
        track.progress({"text": "t", "closed": False, "fields": {}})
    told = time.monotonic()
    track.close(tracking.PATIENCE, leave=True)
    spent = time.monotonic() - told
    err = capfd.readouterr().err
    assert track._child
    os.killpg(track._child.pid, signal.SIGKILL)
    assert track._over.wait(10)

    assert told - start < 1
    assert spent < 4
    assert len(track._late) > 1000  # not lost: they were to be put at the end
    assert "waiting at most" in err
    assert len(warnings(err)) == 1
    assert "goes on in the background" in err


CTRL_C = """
import sys, signal
from pathlib import Path
from benchmark.running import tracking
tracking.HURRY = 1.0
with tracking.tracker(tracking.Options(), Path(sys.argv[1]), Path(sys.argv[2])) as track:
    track.result(sys.argv[3], "sgd-ie")
    while track._child is None: pass
    print(track._child.pid, int('wandb' in sys.modules), flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_parent_leaves_no_child_behind_and_has_not_imported_wandb(
    how: signal.Signals, tmp_path: Path, stub: Callable[[str], None], begin: Callable[..., Started]
) -> None:
    stub(HANGS if how == signal.SIGINT else "def init(**_):\n    raise ValueError\ndef teardown(**_): pass")
    keep(tmp_path / "results", tmp_path / "cache")
    places = os.pathsep.join([str(Path(__file__).parents[1]), os.environ["PYTHONPATH"]])
    parent = begin(CTRL_C, str(tmp_path / "results"), str(tmp_path / "cache"), TASK, PYTHONPATH=places)
    until = time.monotonic() + 60
    while not parent.said().endswith("\n") and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.2)
    os.kill(parent.number, how)
    child, imported = map(int, parent.end().stdout.split())
    until = time.monotonic() + 60
    while alive(child) and time.monotonic() < until:
        time.sleep(0.1)

    assert not alive(child)
    assert not imported


def test_without_options_nothing_is_started_printed_or_changed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_start", lambda *_: pytest.fail("started a process"))
    with tracker(None, tmp_path, tmp_path) as track:
        track.result("t", "e")
        assert track.bar(Quiet) is Quiet
    with tracker(Options(), tmp_path, tmp_path):
        pass  # nothing to tell

    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_a_short_truth_and_bars_over_cells_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    track = tracking.Tracker(Options(), Path(), Path())  # whose threads start with the first word
    told: list[Any] = []
    monkeypatch.setattr(track, "progress", told.append)
    monkeypatch.setattr(tracking.time, "monotonic", iter([0.0, 5.0, 100.0, 101.0, 104.0, 111.0, 114.0, 115.0]).__next__)
    make = track.bar(Quiet)
    short = make(10, "short", "visit")
    short.update(10)  # after 5 s
    short.close()
    long = make(10, "long", "visit")  # from 100 s on
    for _ in range(4):  # after 1, 4, 11 and 14 s
        long.update(2)
    long.close()

    assert isinstance(make(1, "all", "cell"), Quiet)
    assert [(one["text"], one["closed"], one["fields"]["done"]) for one in told] == [("long", False, 6), ("long", True, 8)]
    assert told[0]["fields"]["seconds_left"] == pytest.approx(4 / (6 / 11))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "onlin"}, "unknown mode of W&B 'onlin': did you mean online"),
        ({"project": "a/b"}, "a W&B project has 1 to 128 characters"),
        ({"tags": ("",)}, "a W&B tag has 1 to 64 characters"),
    ],
)
def test_what_wandb_would_refuse_is_an_error_before_anything_starts(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(LoobenchError, match=message):
        Options(**wrong)


# ---- who decides the mode --------------------------------------------------------------------------------------------
def wrote(at: Path, mode: str) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_text(f"[default]\nmode = {mode}\n")


MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}


@pytest.mark.parametrize("mode", MODES)
def test_the_environment_decides_then_the_settings_of_the_folder_then_those_of_the_user(mode: str, tmp_path: Path) -> None:
    user, other = {"WANDB_CONFIG_DIR": str(tmp_path / "user")}, "disabled" if mode != "disabled" else "online"

    assert tracking.usual_mode(user, tmp_path) == "online"
    wrote(tmp_path / "user" / "settings", mode)
    assert tracking.usual_mode(user, tmp_path) == MODES[mode]
    wrote(tmp_path / "user" / "settings", other)
    wrote(tmp_path / "wandb" / "settings", mode)
    assert tracking.usual_mode(user, tmp_path) == MODES[mode]
    wrote(tmp_path / ".wandb" / "settings", other)
    assert tracking.usual_mode(user, tmp_path) == other
    assert tracking.usual_mode({**user, "WANDB_MODE": mode}, tmp_path) == MODES[mode]
    assert tracking.usual_mode({**user, "WANDB_MODE": mode, "WANDB_DISABLED": "true"}, tmp_path) == "disabled"
    assert tracking.usual_mode({**user, "WANDB_MODE": mode, "WANDB_DISABLED": "false"}, tmp_path) == MODES[mode]


READ_MODE = """
import json, os, sys, wandb
for folder, environment in json.loads(sys.argv[1]):
    if os.fork() == 0:  # one that has not read any
        os.chdir(folder)
        os.environ.update(environment)
        print(wandb.setup().settings.mode, flush=True)
        os._exit(0)
    os.wait()
"""


def test_wandb_itself_reads_the_same_mode_from_the_same_places(python: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    asked = [(tmp_path / mode, extra) for mode in MODES for extra in ({}, {"WANDB_MODE": "offline"})]
    for folder, _ in asked:
        wrote(folder / "wandb" / "settings", folder.name)
    done = python(READ_MODE, json.dumps([(str(folder), extra) for folder, extra in asked]))

    assert done.returncode == 0, done.stderr
    for said, (folder, extra) in zip(done.stdout.splitlines(), asked, strict=True):
        assert MODES[said] == tracking.usual_mode({**os.environ, **extra}, folder), folder.name


@pytest.mark.parametrize("settings", ["", "mode = online", "[default\n", "[default]\nbase_url = x\n", "\0"])
def test_settings_that_say_nothing_of_a_mode_or_cannot_be_read_decide_nothing(settings: str, tmp_path: Path) -> None:
    wrote(tmp_path / "wandb" / "settings", "x")
    (tmp_path / "wandb" / "settings").write_text(settings)

    assert tracking.usual_mode({"WANDB_CONFIG_DIR": str(tmp_path)}, tmp_path) == "online"


def test_an_unknown_mode_is_an_error_that_says_where_it_stands_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--wandb-mode", "onlin"]) == 2
    assert "unknown mode of W&B in --wandb-mode 'onlin': did you mean online" in capsys.readouterr().err
    wrote(tmp_path / "wandb" / "settings", "offlin")
    assert main(RUN) == 2
    assert f"unknown mode of W&B in {tmp_path}/wandb/settings 'offlin'" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "offlien")
    assert main(RUN) == 2
    assert "unknown mode of W&B in WANDB_MODE 'offlien': did you mean offline" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    assert main(RUN[:-1]) == 0  # it is nothing to a run that is not tracked


RUN = [
    "run",
    "--task",
    "quick-breast-cancer-logistic-sgd",
    "--threads",
    "1",
    "--seeds",
    "1",
    "--estimator",
    "grad-dot",
    "--wandb",
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The requests that come to the address that W&B is told to be at."""
    found: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.append(self.path)
            self.send_error(500)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in {
            "API_KEY": "a" * 40,
            "BASE_URL": f"http://127.0.0.1:{server.server_port}",
            "INIT_TIMEOUT": "3",
        }.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        yield found
        server.shutdown()


QUIET = {  # environment -> whether runs are kept on disk
    ("WANDB_MODE", "offline"): True,
    ("WANDB_MODE", "dryrun"): True,
    ("WANDB_MODE", "shared"): True,
    ("WANDB_MODE", "disabled"): False,
    ("WANDB_DISABLED", "true"): False,
}
LONG = ("dryrun", "shared")


@pytest.mark.parametrize("name", [pytest.param(n, id=n[1], marks=[pytest.mark.slow] * (n[1] in LONG)) for n in QUIET])
def test_a_mode_that_forbids_it_sends_nothing_and_disabled_writes_nothing_and_says_so(
    name: tuple[str, str], asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv(*name)
    assert main(RUN) == 0
    said = [line for line in capfd.readouterr().err.splitlines() if "W&B" in line and "waiting" not in line]

    assert not asked
    assert len(said) == 1
    assert bool([*tmp_path.glob("cache/wandb/offline-run-*")]) == QUIET[name]
    if not QUIET[name]:
        assert "its mode here is disabled: nothing is sent or written for it" in said[0]
        assert not [*tmp_path.rglob("*wandb*")]


@pytest.mark.slow
def test_the_option_overrules_the_environment_either_way(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    assert main([*RUN, "--wandb-mode", "disabled"]) == 0
    assert not asked
    assert "its mode here is disabled" in capfd.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert main([*RUN, "--wandb-mode", "online"]) == 0
    assert asked
