"""One results folder, many jobs: nothing is lost, nothing is computed twice, and no lock outlives its process."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from test_audit import sent
from test_board import TWO, limits, scored
from test_migrate import as_before, older_cells
from test_run import TASK

from benchmark.base import files
from benchmark.base.errors import LoobenchError
from benchmark.base.files import claimed, locked
from benchmark.commands.main import main
from benchmark.core import registry
from benchmark.publishing import manifest, page
from benchmark.running import run
from benchmark.running.cell import Setup, opened
from benchmark.running.plan import Plan
from benchmark.running.scoring import _exchanged, rescore
from benchmark.scores import migrate, store
from benchmark.scores.results import Result
from benchmark.scores.store import Store
from benchmark.submissions import verify
from benchmark.tasks import data, suites
from benchmark.truths import truth

FOLDER = Path("results")
COMMAND = [sys.executable, "-m", "benchmark", "run", "--task", TASK, "--threads", "1", "--results", str(FOLDER)]
FLOCKS = """
import errno, fcntl, os
def refusing(number):
    def flock(*_):
        raise OSError(number, os.strerror(number))
    return flock
FLOCKS = {
    "usual": fcntl.flock,
    **{name: refusing(getattr(errno, name)) for name in ("ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL")},
    "of this machine alone": lambda *_: None,
}
"""


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A program that prints, started."""
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


@contextmanager
def elsewhere(act: Callable[[], None]) -> Iterator[threading.Thread]:
    """Something done at the same time."""
    thread = threading.Thread(target=act)
    thread.start()
    yield thread
    thread.join()


def until_there(at: Path) -> None:
    """Wait for a file, but not for ever."""
    end = time.monotonic() + 20
    while not at.exists() and time.monotonic() < end:
        time.sleep(0.05)


# ---- a lock ----------------------------------------------------------------------------------------------------------
def test_processes_that_count_under_a_lock_lose_no_count_on_any_kind_of_file_system() -> None:
    code = f"""{FLOCKS}
import sys
from pathlib import Path
from benchmark.base.files import locked
for kind, fcntl.flock in FLOCKS.items():
    for _ in range(30):
        with locked(Path(kind) / "count.lock"):
            count = Path(kind) / "count"
            count.write_text(str(int(count.read_text() if count.exists() else 0) + 1))
print(*FLOCKS, sep="\\n")
"""
    started = [python(code) for _ in range(2)]
    kinds, *_ = [one.communicate(timeout=120)[0].splitlines() for one in started]

    assert [one.returncode for one in started] == [0, 0]
    assert len(kinds) == 6
    assert {kind: int((Path(kind) / "count").read_text()) for kind in kinds} == dict.fromkeys(kinds, 60)


def test_a_lock_does_not_outlive_a_process_that_is_killed() -> None:
    code = f"""{FLOCKS}
import time
from pathlib import Path
from benchmark.base.files import locked
fcntl.flock = FLOCKS["usual"]
with locked(Path("usual.lock")):
    fcntl.flock = FLOCKS["ENOLCK"]
    with locked(Path("ENOLCK.lock")):
        print("held", flush=True)
        time.sleep(60)
"""
    holder, kinds = python(code), [Path("usual.lock"), Path("ENOLCK.lock")]
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    assert all(at.exists() for at in kinds)
    holder.kill()
    holder.communicate()

    for at in kinds:
        before = time.monotonic()
        with locked(at):
            assert time.monotonic() - before < 2


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    monkeypatch.setattr(files, "SILENCE", 0.6)
    monkeypatch.setattr(files, "ROUNDS", 4)


def marked(at: Path, content: str | None = None) -> Path:
    """A lock of a process of another machine."""
    at.write_text("filelock/2\npid=123\nhost=node7\nmode=lease\ntoken=x\nduration=0.6\n" if content is None else content)
    return at


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("content", [None, "", "filelock/2\npid=12"], ids=["whole", "empty", "cut"])
def test_a_lock_of_another_machine_without_a_sign_of_life_is_taken_over(
    content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    for hold in (locked, lambda at: claimed(at, "a cell")):
        before = time.monotonic()
        with hold(marked(Path("a.lock"), content)):
            assert time.monotonic() - before >= (0.5 if content is None else 0)
        assert not Path("a.lock").exists()
    told = capsys.readouterr().err
    assert (content is not None) or ("process 123 on 'node7'" in told and "last heard of" in told)


@pytest.mark.usefixtures("_hasty")
def test_a_lock_of_another_machine_that_lives_is_not_taken_and_who_has_it_is_said() -> None:
    at, over = marked(Path("a.lock")), threading.Event()

    def live() -> None:
        while not over.wait(0.1):
            os.utime(at)

    with elsewhere(live):
        try:
            with pytest.raises(LoobenchError, match=r"a\.lock.* held by process 123 on 'node7'.*: end that process, or delete"):
                locked(at).__enter__()
        finally:
            over.set()
    assert at.exists()


def test_where_the_kernel_has_locks_a_holder_that_gave_no_sign_of_life_keeps_its_lock() -> None:
    at, held, go = Path("a.lock"), threading.Event(), threading.Event()

    def hold() -> None:
        with locked(at):
            held.set()
            go.wait(10)

    with elsewhere(hold):
        held.wait(10)
        at.unlink()  # as if another had taken it over
        threading.Timer(0.5, go.set).start()
        with locked(at):
            assert go.is_set()


@pytest.mark.parametrize("what", ["a folder for it", "itself a folder", "of another agreement"])
def test_what_cannot_be_locked_is_an_error_of_one_line(what: str) -> None:
    at = Path("folder") / "a.lock"
    if what == "a folder for it":
        Path("folder").touch()
    elif what == "itself a folder":
        at.mkdir(parents=True)
    else:
        at.parent.mkdir()
        marked(at)
    for hold in (locked, lambda at: claimed(at, "a cell")):
        with pytest.raises(LoobenchError, match=r"cannot lock folder/a\.lock: .*; free or choose another place"):
            hold(at).__enter__()


def test_what_is_claimed_is_refused_or_waited_for() -> None:
    claimed_it, go = threading.Event(), threading.Event()

    def hold() -> None:
        with claimed(Path("a.claim"), "a cell") as mine:
            assert mine
            claimed_it.set()
            go.wait(10)

    with elsewhere(hold) as thread:
        claimed_it.wait(10)
        with claimed(Path("a.claim"), "a cell", wait=False) as mine:
            assert not mine
        threading.Timer(0.3, go.set).start()
        with claimed(Path("a.claim"), "a cell") as mine:
            assert mine
            assert go.is_set()
        thread.join()


# ---- what is guarded -------------------------------------------------------------------------------------------------
def planned(cache: str = "cache", seeds: tuple[int, ...] = (0, 1), names: tuple[str, ...] = ("loss", "grad-dot")) -> Plan:
    setup = Setup("cpu", Path(cache).absolute(), "loobench run")
    return Plan((suites.task(TASK),), tuple(registry.resolve(names)), (seeds,), setup, Store(FOLDER))


class Silent:
    """A progress bar that shows nothing."""

    def __init__(self, *_: object) -> None: ...
    def update(self, n: int) -> None: ...
    def close(self) -> None: ...


def keep(job: run.Job | None = None) -> Path:
    plan, made = planned(), scored("loss", 0.5, task=TASK)
    work = next(plan.work())
    case = opened(plan.setup, work.task, work.seed, Silent)
    run.keep(job or run.begun(plan, Silent), case, work.asked[0], made.cells["0"])
    return Store(FOLDER).at(made)


def note() -> Path:
    plan = planned(seeds=(0,))
    work = next(plan.work())
    run.note_limits(run.begun(plan, Silent), opened(plan.setup, work.task, work.seed, Silent), work.limits)
    return FOLDER / f"{TASK}.json"


def score() -> Path:
    assert main(["run", "--task", TASK, "--seeds", "1", "--estimator", "loss", "--results", str(FOLDER)]) == 0
    right = store.load(FOLDER / TASK / "loss.json")
    wrong = replace(right.cells["0"], scores={name: [0.0] * 3 for name in right.cells["0"].scores}, by_query=[0.0])
    at = Store(FOLDER).keep(replace(right, cells={"0": wrong}))
    rescore(store.load(at), Store(FOLDER), Path("cache").absolute())
    assert store.load(at) == right
    return at


def verified() -> Path:
    return verify._save(sent(scored("theirs", 0.4, 0.4)), FOLDER)


def migrated() -> Path:
    at = Store(FOLDER).keep(scored("loss", 0.1, 0.2))
    as_before(at, older_cells)
    assert main(["migrate", "--results", str(FOLDER)]) == 0
    return at


def reported() -> Path:
    Store(FOLDER).keep(scored("loss", 0.1, 0.2))
    Store(FOLDER).keep(limits(TWO[0], {"ceiling": [0.5]})[TWO[0]])
    assert main(["report", "--publish"]) == 0
    return FOLDER / "manifest.json"


@pytest.mark.parametrize("change", [keep, note, score, verified, migrated, reported])
def test_whatever_changes_a_file_of_results_does_so_under_the_lock_beside_it(
    change: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "library", lambda: b"")
    held: set[str] = set()
    written: dict[Path, set[str]] = {}
    usual, whole = files.locked, files.write

    @contextmanager
    def noted(at: Path) -> Iterator[None]:
        with usual(at):
            held.add(at.name)
            yield
            held.remove(at.name)

    def write(at: Path, content: bytes) -> None:
        written[at] = {*held}
        whole(at, content)

    for module in (store, migrate, manifest):
        monkeypatch.setattr(module, "write", write)
    monkeypatch.setattr(store, "locked", noted)
    at = change()

    assert written[at] == {"--".join(at.relative_to(FOLDER).parts) + ".lock"}
    assert (FOLDER / ".locks").is_dir()


def test_no_reader_of_results_takes_a_lock_for_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "library", lambda: b"")
    Store(FOLDER).keep(scored("loss", 0.1, 0.2))
    assert main(["report", "--publish"]) == 0
    before = {at: at.read_bytes() for at in FOLDER.rglob("*.json")}
    for command in (["init"], ["add", "."], ["-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "--message", "x"]):
        subprocess.run(["git", *command], check=True, capture_output=True)
    for at in before:
        with Store(FOLDER).lock(at):
            assert [*store.limit_files(FOLDER), *store.result_files(FOLDER)] == [at for at in before if at.name == "loss.json"]
            assert main(["report", "--check"]) == 0
            assert main(["audit", "--base", "HEAD"]) == 0
            assert subprocess.check_output(["git", "status", "--porcelain"]) == b""
    assert "results is as at HEAD" in capsys.readouterr().out


def test_what_killed_writers_left_is_removed_by_the_next_of_that_file() -> None:
    at = Store(FOLDER).keep(scored("loss", 0.1, 0.2))
    mine, other = at.with_name(".loss.json.abc"), at.with_name(".grad-dot.json.abc")
    for left in (mine, other):
        left.touch()
    with Store(FOLDER).lock(at):
        pass

    assert not mine.exists()
    assert other.exists()
    assert at.exists()


def test_scores_that_another_job_has_just_written_are_not_undone() -> None:
    at = Store(FOLDER).keep(was := scored("loss", 0.1, 0.2))
    theirs = scored("loss", 0.1, 0.9)
    Store(FOLDER).keep(theirs)
    mine = scored("loss", 0.5, 0.5)
    found = _exchanged(Store(FOLDER), was, mine.cells)

    assert store.load(at) == found
    assert found.cells == {"0": mine.cells["0"], "1": theirs.cells["1"]}


def test_a_cell_does_not_overwrite_the_results_of_another_version() -> None:
    job = run.begun(planned(), Silent)
    at = Store(FOLDER).keep(scored("loss", 0.1, 0.2, task=TASK))
    content = at.read_bytes()
    with pytest.raises(LoobenchError, match=r"of another version .* give one of the two its own --results"):
        keep(job)
    assert at.read_bytes() == content


def test_results_of_another_version_are_set_aside_once() -> None:
    plan = planned(seeds=(0,), names=("loss",))
    at = Store(FOLDER).keep(scored("loss", 0.1, 0.2, task=TASK))
    old = at.read_bytes()
    list(run.execute(plan, Silent))
    new = at.read_bytes()
    list(run.execute(plan, Silent))

    assert [one.read_bytes() for one in (plan.setup.cache / "superseded").rglob("*.json")] == [old]
    assert at.read_bytes() == new != old


# ---- the same work at the same time ----------------------------------------------------------------------------------
def test_what_another_run_has_done_meanwhile_is_taken_though_its_cache_is_elsewhere() -> None:
    second = run.execute(planned("second"), Silent)
    first = next(second)
    assert isinstance(first, run.Outcome)
    everything = list(run.execute(planned("first"), Silent))
    rest = list(second)

    assert [one.fresh for one in everything if isinstance(one, run.Outcome)] == [True] * 4
    assert [one.fresh for one in rest if isinstance(one, run.Outcome)] == [False] * 3
    assert len({(one.estimator, one.seed) for one in (first, *rest) if isinstance(one, run.Outcome)}) == 4


def test_a_cell_that_another_run_computes_comes_last_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    plan, begun = planned(), threading.Event()
    second = next(plan.work()).asked[1]

    def other() -> None:
        with plan.store.claim(second.result, 0, wait=True):
            begun.set()
            until_there(FOLDER / TASK / "grad-dot.json")

    with elsewhere(other):
        begun.wait(10)
        order = [(one.seed, one.estimator) for one in run.execute(plan, Silent) if isinstance(one, run.Outcome)]

    assert order == [(0, "loss"), (1, "loss"), (1, "grad-dot"), (0, "grad-dot")]
    assert f"another run is at {TASK}, seed 0" in capsys.readouterr().err


def test_a_truth_that_another_run_computes_into_the_same_cache_is_not_waited_for_while_there_is_other_work() -> None:
    plan, begun = planned(names=("loss",)), threading.Event()

    def other() -> None:
        with truth.computing(plan.tasks[0], 0, plan.setup.cache, "cpu"):
            begun.set()
            until_there(FOLDER / TASK / "loss.json")

    with elsewhere(other):
        begun.wait(10)
        assert [one.seed for one in run.execute(plan, Silent) if isinstance(one, run.Outcome)] == [1, 0]


def test_two_that_ask_for_a_truth_at_once_have_one() -> None:
    task, cache, begun = suites.task(TASK), Path("cache").absolute(), threading.Event()
    reference = truth.reference(task, 0, cache, "cpu")
    seconds = []

    def first() -> None:
        exact = truth.cached_truth(task, 0, reference, cache, "cpu", progress=lambda visits: begun.set())
        seconds.append(exact.seconds)

    with elsewhere(first):
        assert begun.wait(10)
        found = truth.cached_truth(task, 0, reference, cache, "cpu")
    assert seconds == [found.seconds]  # the first's, by now; a time of computing is never the same twice


def test_a_data_set_that_another_process_fetches_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, begun, usual = Path("cache").absolute(), threading.Event(), data.embedded

    def first() -> None:
        with claimed(cache / "locks" / "data-wine.lock", "wine"):
            begun.set()
            time.sleep(0.3)
            data.write_rows(data.cached("wine", cache), usual(data.source("wine")))

    monkeypatch.setattr(data, "embedded", lambda _: pytest.fail("fetched twice"))
    with elsewhere(first):
        begun.wait(10)
        assert data.load("wine", cache)["train"]


def killed(folder: Path, jobs: int, kills: int, seeds: int, names: tuple[str, ...]) -> list[subprocess.CompletedProcess[str]]:
    """So many runs of one command into one folder of results, each with its own cache, some killed and started again."""
    asked = [part for name in names for part in ("--estimator", name)]

    def start(job: int) -> subprocess.Popen[str]:
        command = [*COMMAND, "--seeds", str(seeds), *asked, "--cache", str(folder / f"node-{job}")]
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    draw, started = random.Random(0), [start(job) for job in range(jobs)]
    for _ in range(kills):
        time.sleep(draw.uniform(1, 4))
        job = draw.randrange(jobs)
        started[job].send_signal(signal.SIGKILL)
        started[job].communicate()
        started[job] = start(job)
    said = [one.communicate(timeout=600) for one in started]
    return [subprocess.CompletedProcess([], one.returncode, *two) for one, two in zip(started, said, strict=True)]


def expect_whole(folder: Path, seeds: int, names: tuple[str, ...]) -> None:
    """Every cell is there, once, in files that are whole; nothing else is."""
    wanted = [str(seed) for seed in range(seeds)]
    for name in names:
        text = (folder / TASK / f"{name}.json").read_text()
        assert list(store.parse(text.encode(), name, Result).cells) == wanted
        assert [key for key, _ in json.loads(text, object_pairs_hook=lambda pairs: pairs) if key == "cells"] == ["cells"]
    assert list(store.load_limits(folder / f"{TASK}.json").seeds) == wanted
    assert {at.name for at in folder.iterdir()} == {TASK, f"{TASK}.json", ".locks"}
    assert {at.name for at in (folder / TASK).iterdir() if not at.name.startswith(".")} == {f"{name}.json" for name in names}
    assert not list((folder / ".locks").glob("*.lock"))


def test_runs_at_the_same_time_with_caches_of_their_own_lose_no_cell(tmp_path: Path) -> None:
    names = ("loss", "grad-dot")
    for done in killed(tmp_path, 2, 1, 3, names):
        assert done.returncode == 0, done.stderr
    expect_whole(tmp_path / "results", 3, names)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["usual", "ENOLCK", "of this machine alone"])
def test_eight_runs_killed_and_started_again_at_random_leave_every_cell_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(f"{FLOCKS}\nfcntl.flock = FLOCKS[{kind!r}]\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]))
    names = ("loss", "grad-norm", "grad-dot", "el2n")
    for done in killed(tmp_path, 8, 12, 6, names):
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    expect_whole(tmp_path / "results", 6, names)
