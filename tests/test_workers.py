"""One truth by many workers: the same bits whoever trains which chunk, whoever is killed, on whatever machine."""

import errno
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from cases import MODELS, OPTIMIZERS, main, problem
from conftest import Started

from benchmark.base import machine
from benchmark.base.errors import LoobenchError, telling
from benchmark.base.files import read_tensors, write_sealed
from benchmark.commands.main import asked
from benchmark.core.trajectory import Replay, Trajectory
from benchmark.retraining import chunks
from benchmark.retraining.chunks import MIB, Means
from benchmark.retraining.train import Loop, train
from benchmark.running import cluster
from benchmark.tasks import definition, suites
from benchmark.tasks.questions import Subsets
from benchmark.truths import truth, workers
from benchmark.truths.counterfactuals import design
from benchmark.truths.workers import Part, Reference, part

ROOT = Path(__file__).resolve().parents[1]
TASK = "quick-breast-cancer-mlp-sgd"
Told = pytest.CaptureFixture[str]
NURSERY = """
import os, sys, time
from benchmark.commands.main import main
from benchmark.retraining import chunks, train
from benchmark import estimating
from benchmark.tasks import suites
from benchmark.truths import export, truth
import scipy.stats, sklearn.datasets, sklearn.linear_model, torch._dynamo, tqdm

chunks.at_once = lambda problem, gram: 4
pause, usual = float(sys.argv[1]), train.Loop._readings
answers = open(sys.argv[3], "w")

def slowly(*arguments):
    time.sleep(pause)
    return usual(*arguments)

train.Loop._readings = slowly
for line in open(sys.argv[2]):
    asked, *arguments = line.split()
    if asked == "wait":
        print(os.waitstatus_to_exitcode(os.waitpid(int(arguments[0]), 0)[1]), file=answers, flush=True)
        continue
    child = os.fork()
    if child == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{os.getpid()}.{name}", os.O_WRONLY | os.O_CREAT), number)
        code = 1
        try:
            code = main(arguments)
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(child, file=answers, flush=True)
"""


class Nursery:
    """A program that has imported all, and starts workers in a tenth of a second, whose every chunk takes a while more."""

    def __init__(self, begin: Callable[..., Started], pause: float, folder: Path) -> None:
        words, answers = folder / "words", folder / "answers"
        for at in (words, answers):
            os.mkfifo(at)
        self.program = begin(NURSERY, str(pause), str(words), str(answers), PYTHONPATH=str(ROOT))
        self.answers, self.words = answers.open(), words.open("w")

    def start(self, *arguments: str) -> int:
        """Start a worker; its process."""
        return int(self._asked("start", *arguments))

    def wait(self, process: int) -> int:
        """The exit code of a worker, once it has ended."""
        return int(self._asked("wait", str(process)))

    def _asked(self, *words: str) -> str:
        print(*words, file=self.words, flush=True)
        return self.answers.readline()

    def close(self) -> None:
        """Let it end."""
        self.words.close()
        self.answers.close()
        self.program.end()


@pytest.fixture
def nursery(begin: Callable[..., Started], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[float], Nursery]]:
    begun: list[Nursery] = []

    def start(pause: float) -> Nursery:
        begun.append(Nursery(begin, pause, tmp_path_factory.mktemp("nursery")))
        return begun[-1]

    yield start
    for one in begun:
        one.close()


@pytest.fixture
def four_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four runs at once: 26 chunks of 101 runs."""
    monkeypatch.setattr(chunks, "at_once", lambda problem, gram: 4)


def command(cache: Path, text: str) -> list[str]:
    return ["truth", TASK, "--cache", str(cache), "--threads", "1", "--part", text]


def kept(cache: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and facts of the one truth in a cache."""
    (at,) = cache.glob("truth/*.safetensors")
    return read_tensors(at)


def folder(cache: Path) -> Path:
    return truth.path(suites.task(TASK).digest(), 0, cache, "cpu").with_suffix(".chunks")


def alone(cache: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one process by itself finds."""
    assert main(["truth", TASK, "--cache", str(cache), "--threads", "1"]) == 0
    return kept(cache)


def same(found: tuple[dict[str, Any], dict[str, Any]], expected: tuple[dict[str, Any], dict[str, Any]]) -> bool:
    """Whether two truths have the same effects, bit for bit, and limits."""
    return torch.equal(found[0]["effect"], expected[0]["effect"]) and found[1]["limits"] == expected[1]["limits"]


# ---- parts -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("of", [1, 2, 3, 16, 40])
def test_parts_together_do_each_chunk_first_once_and_each_part_does_all_in_the_end(of: int) -> None:
    orders = [Part(number, of).order(30) for number in range(1, of + 1)]
    own = [len(range(number, 30, of)) for number in range(of)]

    assert all(sorted(order) == [*range(30)] for order in orders)
    assert sorted(i for order, count in zip(orders, own, strict=True) for i in order[:count]) == [*range(30)]
    assert orders[0] == [*range(30)] or of > 1


def test_workers_help_others_in_orders_that_differ() -> None:
    orders = [Part(number, 4).order(400)[100:] for number in (1, 2)]
    both = [set(orders[0]) & set(orders[1])][0]
    first, second = ([i for i in order if i in both] for order in orders)

    assert len(both) == 200
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 20


@pytest.mark.parametrize(
    "text", ["17/16", "0/4", "x", "3", "3/", "/4", "-1/4", "1.5/4", "1/0", "", "9999999999/9999999999", "auto"]
)
def test_a_part_out_of_range_is_an_error_in_one_line(text: str, capsys: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (name for names in workers.LAUNCHERS for name in names):
        monkeypatch.delenv(name, raising=False)
    assert main(command(Path("cache"), text)) == 2

    told = capsys.readouterr().err
    assert told.startswith("error: --part ")
    assert told.count("\n") == 1
    assert ("write --part NUMBER/OF" if text == "auto" else "takes NUMBER/OF, as in 3/16") in told


def test_parts_come_from_the_variables_of_launchers() -> None:
    torchrun = {"RANK": "2", "WORLD_SIZE": "8"}
    array = {
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_ARRAY_TASK_MIN": "5",
        "SLURM_ARRAY_TASK_COUNT": "4",
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "1",
    }
    steps = {**array, "SLURM_ARRAY_TASK_ID": "11", "SLURM_ARRAY_TASK_STEP": "2"}

    assert part("auto", torchrun) == Part(3, 8)
    assert part("auto", array) == Part(3, 4)
    assert part("auto", steps) == Part(4, 4)
    assert part("auto", {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}) == Part(4, 4)
    for wrong in ({"RANK": "8", "WORLD_SIZE": "8"}, {"RANK": "x", "WORLD_SIZE": "8"}, {**steps, "SLURM_ARRAY_TASK_ID": "10"}):
        with pytest.raises(LoobenchError, match="the launcher says number"):
            part("auto", wrong)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--part", "1/2", "--slurm", "4"], "--part and --slurm are ways to do the same"),
        (["--part", "1/2", "--ray", "auto"], "--part and --ray are ways to do the same"),
        (["--part", "1/2", "--export", "out"], "--export is for one process"),
        (["--slurm-set", "timeout_min=4"], "--slurm-set is for jobs that --slurm submits"),
        (["--slurm", "0"], "--slurm takes a number of workers, 1 or more, got 0"),
        (["--slurm", "2", "--slurm-set", "partition"], "--slurm-set takes NAME=VALUE"),
    ],
)
def test_options_that_do_not_go_together_are_an_error(options: list[str], said: str, capsys: Told) -> None:
    assert main(["truth", TASK, "--cache", "cache", *options]) == 2
    assert said in capsys.readouterr().err


# ---- side by side ----------------------------------------------------------------------------------------------------
def by(started: Nursery, cache: Path, number: int) -> tuple[list[int], float]:
    """How many chunks each of so many workers trained that started at once, and how long they took together."""
    began = time.monotonic()
    found = [started.start(*command(cache, f"{n}/{number}")) for n in range(1, number + 1)]
    assert [started.wait(one) for one in found] == [0] * number
    told = [Path(f"{one}.err").read_text() for one in found]
    trained = [int(one.partition(" trained ")[2].partition(" of ")[0]) if number > 1 else 26 for one in told]
    return trained, time.monotonic() - began


@pytest.mark.usefixtures("four_at_once")
def test_workers_at_once_share_the_chunks_and_all_have_the_truth_of_one(
    nursery: Callable[[float], Nursery], tmp_path: Path
) -> None:
    expected = alone(tmp_path / "alone")
    trained, _ = by(nursery(0.05), tmp_path / "shared", 3)

    assert same(kept(tmp_path / "shared"), expected)
    assert 26 <= sum(trained) <= 26 + 3  # the last ones may be trained by more than one
    assert min(trained) >= 4
    printed = {at.read_text() for at in Path().glob("*.out")}
    assert len({text.partition("digest")[2] for text in printed}) == 1
    assert not list((tmp_path / "shared").glob("truth/*.chunks"))
    assert not list((tmp_path / "shared").glob("locks/workers-*"))


@pytest.mark.slow
def test_two_workers_take_at_most_six_tenths_of_the_time_of_one(nursery: Callable[[float], Nursery], tmp_path: Path) -> None:
    """Chunks wait more than they compute, so that it does not matter what else the machine does."""
    started = nursery(0.5)
    _, one = by(started, tmp_path / "one", 1)
    _, two = by(started, tmp_path / "two", 2)

    assert two <= 0.6 * one


def files_of(cache: Path) -> dict[str, int]:
    """The finished chunks and figures, and what tells their very files from others of the same name."""
    return {at.name: at.stat().st_ino for at in folder(cache).glob("*.safetensors")}


@pytest.mark.slow
@pytest.mark.usefixtures("four_at_once")
def test_workers_that_are_killed_at_twenty_moments_lose_at_most_their_chunk_each_and_the_truth_is_the_same(
    nursery: Callable[[float], Nursery], tmp_path: Path
) -> None:
    expected, started, chance = alone(tmp_path / "alone"), nursery(0.6), random.Random(0)
    cache, before, seen = tmp_path / "shared", dict[str, int](), []
    both = {n: started.start(*command(cache, f"{n}/2")) for n in (1, 2)}
    for _ in range(20):
        time.sleep(chance.uniform(0, 3))
        which = chance.choice((1, 2))
        os.kill(both[which], signal.SIGKILL)
        assert started.wait(both[which]) == -signal.SIGKILL  # it was still at it
        now = files_of(cache)
        assert before.keys() <= now.keys()
        seen.append(len(now))
        before, both[which] = now, started.start(*command(cache, f"{which}/2"))
    assert [started.wait(one) for one in both.values()] == [0, 0]

    assert same(kept(cache), expected)
    assert 0 < seen[3] < seen[-1]


# ---- machines --------------------------------------------------------------------------------------------------------
def elsewhere(monkeypatch: pytest.MonkeyPatch, name: str = "another machine") -> None:
    monkeypatch.setattr(machine, "timed_on", lambda device: name)


def on(cache: Path, *, visits: list[int] | None = None, stop: int | None = None) -> truth.GroundTruth:
    """The truth of the task in a cache, with the visits that were trained for it; stopped after so many of its chunks."""
    run = truth.reference(suites.task(TASK), 0, cache, "cpu")
    told = [] if visits is None else visits

    def progress(more: int) -> None:
        told.append(more)
        if stop is not None and len(list(folder(cache).glob("*"))) >= stop:
            raise KeyboardInterrupt

    return truth.cached_truth(suites.task(TASK), 0, run, cache, "cpu", progress=progress)


def chunk_facts(cache: Path) -> list[dict[str, Any]]:
    facts = [read_tensors(at)[1] for at in folder(cache).glob("*.safetensors")]
    return [one for one in facts if "rows" in one]


def claimed_seconds(cache: Path, seconds: float) -> None:
    """Let each chunk that is there claim to have taken so long for each of its visits."""
    for at in folder(cache).glob("*.safetensors"):
        tensors, facts = read_tensors(at)
        facts.pop("digest")
        write_sealed(at, tensors, {**facts, "seconds": seconds * facts["visits"]})


@pytest.fixture
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their training takes most of a small truth's time."""
    monkeypatch.setattr(truth, "limits", lambda *_: {})


@pytest.mark.usefixtures("four_at_once", "no_limits")
def test_chunks_of_another_machine_are_taken_and_the_time_is_that_of_this_one_s_scaled_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = on(tmp_path / "alone")
    with monkeypatch.context() as there:
        elsewhere(there)
        with pytest.raises(KeyboardInterrupt):
            on(tmp_path, stop=10)
    theirs = chunk_facts(tmp_path)
    assert len(theirs) == 10
    claimed_seconds(tmp_path, 1.0)  # a very slow machine
    with pytest.raises(KeyboardInterrupt):
        on(tmp_path, stop=13)
    mine = [one for one in chunk_facts(tmp_path) if one not in theirs and one["machine"] == machine.timed_on("cpu")]
    assert len(mine) == 3
    found = on(tmp_path)
    (at,) = tmp_path.glob("truth/*.safetensors")

    assert torch.equal(found.effect, expected.effect)
    assert found.machine == machine.timed_on("cpu")
    assert found.seconds < 30 * expected.seconds + 30  # theirs would be some hundred thousand
    slow = sum(one["visits"] for one in theirs)
    assert read_tensors(at)[1]["elsewhere"] == {"another machine": pytest.approx(slow)}


@pytest.mark.usefixtures("four_at_once", "no_limits")
def test_the_time_of_a_truth_is_seconds_for_each_visit_here_times_all_visits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        elsewhere(there)
        with pytest.raises(KeyboardInterrupt):
            on(tmp_path, stop=25)
    theirs, spent = chunk_facts(tmp_path), list[float]()
    usual = workers.ChunkFiles.enter

    def noted(self: Any, rows: torch.Tensor, reading: torch.Tensor, seconds: float, visits: int) -> None:
        spent.append(seconds)
        usual(self, rows, reading, seconds, visits)

    monkeypatch.setattr(workers.ChunkFiles, "enter", noted)
    found = on(tmp_path)
    run = truth.reference(suites.task(TASK), 0, tmp_path, "cpu")
    # by hand: a run is trained from the first visit of its sample on, a chunk from that of its earliest run
    first = [min(t for t in range(run.problem.steps) if i in run.problem.batch(t)) for i in range(100)]
    starts = sorted(min(t, run.problem.horizons[0] - 1) for t in [*first, run.problem.horizons[0] - 1])
    left = [sum(len(run.problem.batch(t)) for t in range(start, run.problem.steps)) for start in starts]
    by_hand = sum(left[i] * len(starts[i : i + 4]) for i in range(0, 101, 4))

    assert sum(one["visits"] for one in theirs) + left[100] == by_hand
    mine = read_tensors(next(tmp_path.glob("truth/*.safetensors")))[1]
    assert found.seconds == pytest.approx(spent[0] / left[100] * by_hand)
    assert mine["elsewhere"] == {"another machine": pytest.approx(sum(one["seconds"] for one in theirs))}


def test_a_kept_truth_of_another_machine_is_taken_and_only_its_time_measured_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        elsewhere(there)
        first = on(tmp_path)
    visits: list[int] = []
    second, third = on(tmp_path, visits=visits), on(tmp_path, visits=visits)
    with monkeypatch.context() as there:
        elsewhere(there)
        again = on(tmp_path, visits=visits)

    assert not visits  # nothing was trained for effects
    assert torch.equal(first.effect, second.effect)
    assert (second.machine, second.limits) == (machine.timed_on("cpu"), first.limits)
    assert second.seconds == third.seconds != first.seconds
    assert 0.1 * first.seconds < second.seconds < 10 * first.seconds
    assert (again.seconds, again.machine) == (first.seconds, "another machine")


def test_the_time_that_is_measured_anew_is_of_all_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a clock that counts sample visits: what is measured on a few chunks is what all take."""
    monkeypatch.setattr(chunks, "at_once", lambda problem, gram: 10)
    run = truth.reference(suites.task(TASK), 0, tmp_path, "cpu")
    asked, done = design(suites.task(TASK), run, 0), []

    class Counted(truth.Clock):
        def enter(self, rows: torch.Tensor, reading: torch.Tensor, _seconds: float, visits: int) -> None:
            done.append(visits)
            super().enter(rows, reading, visits * 1e-3, visits)

    monkeypatch.setattr(truth, "Clock", Counted)
    some = truth.timed(run, asked, Means())
    few = len(done)
    monkeypatch.setattr(truth, "TIMED", 100)
    monkeypatch.setattr(truth, "ENOUGH", 1e9)
    whole = truth.timed(run, asked, Means())

    assert few < len(done) - few
    assert some == pytest.approx(sum(done[few:]) * 1e-3)
    assert some == pytest.approx(whole)


# ---- the reference run -----------------------------------------------------------------------------------------------
class Silent:
    """A bar that shows nothing."""

    def __init__(self, *_: object) -> None: ...
    def update(self, n: int) -> None: ...
    def close(self) -> None: ...


def shared(cache: Path, number: str = "1/2") -> tuple[Trajectory, truth.GroundTruth]:
    return truth.answer(suites.task(TASK), 0, cache, "cpu", Silent, part=workers.part(number, {}))


def nudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another processor: its reference run has other last bits."""
    usual = truth._trained

    def trained(*asked: Any) -> Trajectory:
        run = usual(*asked)
        return replace(run, states=run.states + 1e-14)

    monkeypatch.setattr(truth, "_trained", trained)


def test_all_workers_start_from_the_reference_run_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, first = shared(tmp_path)
    nudged(monkeypatch)
    there, second = shared(tmp_path, "2/2")
    alone_there, third = truth.answer(suites.task(TASK), 0, tmp_path, "cpu", Silent)

    assert torch.equal(run.states, there.states)
    assert torch.equal(run.states, alone_there.states)  # who comes later and alone takes it too, or the truth would be orphaned
    assert first.digest() == second.digest() == third.digest()


@pytest.mark.parametrize("memory", [None, 30 * MIB])
@pytest.mark.parametrize("few", [0, 1 << 30], ids=["checkpoints", "all states"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_reference_run_is_read_bit_for_bit_whatever_was_written_of_it(
    optimizer: str, few: int, memory: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = problem(MODELS["mlp"], OPTIMIZERS[optimizer], epochs=9)
    run, at = train(given), tmp_path / "a.run"
    monkeypatch.setattr(workers, "FEW", few)
    workers.keep_reference(at, Reference(run, run.digest()))
    monkeypatch.setattr(chunks, "spacing", lambda *_: 1 if memory is None else 5)
    found = workers.kept_reference(at, given, Means(memory))

    assert found is not None
    assert len(read_tensors(at)[0]["states"]) == (28 if few else 5)  # of 27 steps: before 0, 6, 12, 18, 24
    assert isinstance(found.run.states, Replay) == (memory is not None)
    assert torch.equal(found.run.whole(), run.states)
    assert found.digest == run.digest() == workers.stated_digest(at)


def test_two_reference_runs_that_differ_are_an_error_that_says_what_to_delete(tmp_path: Path) -> None:
    task = suites.task(TASK)
    run = truth.reference(task, 0, tmp_path, "cpu")
    other = replace(run, states=run.states + 1e-14)
    at = tmp_path / "a.run"
    workers.keep_reference(at, Reference(other, other.digest()))
    with workers.present(tmp_path / "meeting", Part(1, 2)) as mine:
        mine.tell(run.digest())
        with pytest.raises(
            LoobenchError,
            match=rf"two reference runs of it differ: digest {run.digest()[:12]} here, {other.digest()[:12]} .*delete {at}",
        ):
            workers.agreed(mine, "it", at)
        at.unlink()
        workers.agreed(mine, "it", at)
        with workers.present(tmp_path / "meeting", Part(2, 2)) as theirs:
            theirs.tell(other.digest())
            with pytest.raises(LoobenchError, match=r"two reference runs of it differ: .* of part 2/2, process \d+ on"):
                workers.agreed(mine, "it", at)
        workers.agreed(mine, "it", at)


def test_a_reference_run_that_was_exchanged_under_a_worker_stops_it_before_it_keeps_a_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = truth.limits

    def late(*asked: Any) -> Any:
        run = asked[2]
        other = replace(run, states=run.states + 1e-14)
        workers.keep_reference(next(tmp_path.glob("truth/*.run")), Reference(other, other.digest()))
        return usual(*asked)

    monkeypatch.setattr(truth, "limits", late)
    with pytest.raises(LoobenchError, match=f"two reference runs of the truth of {TASK}, seed 0 differ"):
        shared(tmp_path)
    assert not list(tmp_path.glob("truth/*.safetensors"))


def test_a_reference_run_of_another_problem_is_an_error_and_a_damaged_one_is_trained_anew(tmp_path: Path, capsys: Told) -> None:
    run, exact = shared(tmp_path)
    (at,) = tmp_path.glob("truth/*.run")
    at.write_bytes(at.read_bytes()[:-1] + b"x")
    assert shared(tmp_path)[1].digest() == exact.digest()
    assert "a kept reference run is damaged and is computed anew" in capsys.readouterr().err

    other = train(replace(run.problem, weight_decay=0.5))
    workers.keep_reference(at, Reference(other, other.digest()))
    with pytest.raises(LoobenchError, match=r"is of another problem .* all workers need the same versions"):
        shared(tmp_path)


# ---- who else is there -----------------------------------------------------------------------------------------------
def test_a_worker_of_another_protocol_is_said_and_its_chunks_are_of_another_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    meeting = truth._meeting(suites.task(TASK), 0, tmp_path, "cpu")
    before = truth.path(suites.task(TASK).digest(), 0, tmp_path, "cpu")
    monkeypatch.setattr(workers.benchmark, "PROTOCOL", "0.9")
    with workers.present(meeting, Part(2, 2)):
        monkeypatch.undo()
        shared(tmp_path)
    assert "by protocol 0.9 (loobench" in (said := capsys.readouterr().err)
    assert "that is another truth, and none of its chunks are taken" in said

    monkeypatch.setattr(definition, "PROTOCOL", "0.9")
    assert truth._meeting(suites.task(TASK), 0, tmp_path, "cpu") == meeting
    assert truth.path(suites.task(TASK).digest(), 0, tmp_path, "cpu") != before


def test_a_protocol_is_part_of_what_a_chunk_is_known_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = suites.task(TASK)
    run = truth.reference(task, 0, tmp_path, "cpu")
    asked, start = design(task, run, 0), Reference(run, run.digest())
    known = [truth.ledger(task, start, asked, tmp_path / "a", Means()).of]
    monkeypatch.setattr(truth, "PROTOCOL", "9.9")
    known.append(truth.ledger(task, start, asked, tmp_path / "a", Means()).of)
    known.append(truth.ledger(replace(task, dtype="float32"), start, asked, tmp_path / "a", Means()).of)
    known.append(truth.ledger(task, start, asked, tmp_path / "a", Means(), 1).of)
    known.append(truth.ledger(task, replace(start, digest="other"), asked, tmp_path / "a", Means()).of)
    elsewhere(monkeypatch)

    assert len({*known}) == 5
    assert truth.ledger(task, start, asked, tmp_path / "a", Means()).of == known[1]  # whatever the machine


def test_nothing_is_deleted_under_a_running_worker_and_the_next_who_comes_tidies_up(tmp_path: Path) -> None:
    meeting = truth._meeting(suites.task(TASK), 0, tmp_path, "cpu")
    with workers.present(meeting, Part(2, 2)) as peer:
        shared(tmp_path)
        on(tmp_path)
        assert chunk_facts(tmp_path)
        os.utime(peer.at, (0, 0))  # silent since 1970: it was killed
        on(tmp_path)
        assert not folder(tmp_path).exists()
    assert not meeting.exists()


def test_a_worker_that_lives_gives_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SILENCE", 0.3)
    with workers.present(tmp_path, Part(1, 2)) as mine, workers.present(tmp_path, Part(2, 2)):
        time.sleep(0.6)
        assert [peer.part for peer in mine.others()] == ["2/2"]
        (tmp_path / "broken.worker").write_text("{")
        assert [peer.part for peer in mine.others()] == ["2/2"]


# ---- a full disk -----------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("four_at_once", "no_limits")
def test_a_full_shared_disk_stops_a_worker_with_a_line_and_what_was_done_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    expected, usual = alone(tmp_path / "alone"), os.fsync

    def full(handle: int) -> None:
        if len(list(folder(tmp_path).glob("*.safetensors"))) >= 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        usual(handle)

    capsys.readouterr()
    with monkeypatch.context() as there:
        there.setattr(os, "fsync", full)
        assert main(command(tmp_path, "1/2")) == 2
    told = capsys.readouterr().err
    assert "error: cannot write " in told
    assert "No space left on device; free or choose another place and repeat" in told
    assert len(list(folder(tmp_path).iterdir())) == 7  # nothing half written
    before = files_of(tmp_path)
    with workers.present(truth._meeting(suites.task(TASK), 0, tmp_path, "cpu"), Part(2, 2)):
        assert main(command(tmp_path, "1/2")) == 0

    assert before.items() <= files_of(tmp_path).items()
    assert same(kept(tmp_path), expected)


# ---- SLURM -----------------------------------------------------------------------------------------------------------
class Submitit:
    """A stand-in for submitit, which notes what it is asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.commands, self.settings = error, list[list[str]](), dict[str, Any]()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("submitit")
        module.AutoExecutor = self  # type: ignore[attr-defined]
        helpers = ModuleType("submitit.helpers")
        helpers.CommandFunction = list  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "submitit", module)
        monkeypatch.setitem(sys.modules, "submitit.helpers", helpers)

    def __call__(self, folder: Path, cluster: str) -> "Submitit":
        self.settings |= {"folder": folder, "cluster": cluster}
        return self

    def update_parameters(self, **settings: Any) -> None:
        self.settings |= settings

    def batch(self) -> Any:
        return nullcontext()

    def submit(self, command: list[str]) -> Any:
        if self.error:
            raise self.error
        self.commands.append(command)
        return SimpleNamespace(job_id=f"77_{len(self.commands) - 1}")


SLURM = ["truth", TASK, "--seed", "1", "--cache", "cache", "--memory", "2G", "--threads", "1", "--slurm", "3"]


def test_an_array_has_a_job_for_each_part_with_the_options_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    found, cache = Submitit(), Path("cache").absolute()
    found.install(monkeypatch)
    assert main([*SLURM, "--slurm-set", "slurm_partition=gpu", "--slurm-set", "timeout_min=30"]) == 0

    assert [one[-2:] for one in found.commands] == [["--part", f"{number}/3"] for number in (1, 2, 3)]
    seen: list[Any] = []
    monkeypatch.setattr(truth, "answer", lambda *asked: seen.append(asked) or (_ for _ in ()).throw(LoobenchError("enough")))
    for one in found.commands:
        assert one[:3] == [sys.executable, "-m", "benchmark"]
        assert main(one[3:]) == 2
    assert [(one[0].name, *one[1:4], one[-2], one[-1]) for one in seen] == [
        (TASK, 1, cache, "cpu", Means(2 << 30, 1), Part(number, 3)) for number in (1, 2, 3)
    ]
    assert found.settings == {
        "folder": cache / "slurm",
        "cluster": "slurm",
        "name": "loobench",
        "timeout_min": 30,
        "slurm_partition": "gpu",
    }
    assert "submitted 3 workers: 77_0 to 77_2" in capsys.readouterr().out


def test_what_submitit_cannot_do_and_that_it_is_not_there_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    Submitit(RuntimeError("no partition\nat all")).install(monkeypatch)
    assert main(SLURM) == 2
    told = capsys.readouterr().err
    assert told == (
        "error: submitit cannot submit to slurm here: RuntimeError: no partition; mend --slurm-set, or see docs/workers.md\n"
    )

    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(SLURM) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --slurm needs submitit, which is not installed here: pip install 'loobench[slurm]'")
    assert told.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("submitit"), reason="needs submitit: pip install 'loobench[slurm]'")
def test_submitit_itself_starts_the_workers_of_a_truth(tmp_path: Path) -> None:
    expected = alone(tmp_path / "alone")
    options = ["--threads", "1", "--slurm", "2", "--slurm-set", "cluster=local", "--slurm-set", "timeout_min=5"]
    whole = [sys.executable, "-P", "-m", "benchmark", "truth", TASK, "--cache", str(tmp_path / "cache"), *options]
    subprocess.run(whole, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    while len(list(tmp_path.glob("cache/slurm/*_result.*"))) < 2:
        time.sleep(0.2)

    assert same(kept(tmp_path / "cache"), expected)


# ---- Ray -------------------------------------------------------------------------------------------------------------
class RayError(Exception):
    """What Ray raises."""


@dataclass(frozen=True, eq=False)
class Sent:
    """A piece of work that was sent, and already done."""

    value: Any


class InlineRay:
    """A stand-in for Ray: work is done here as soon as it is sent; the last that was sent is done first."""

    def __init__(self, fail: Exception | None = None) -> None:
        self.exceptions, self.fail, self.calls, self.settings = SimpleNamespace(RayError=RayError), fail, 0, dict[str, Any]()
        self.util = SimpleNamespace(scheduling_strategies=self)

    def NodeAffinitySchedulingStrategy(self, node: str, *, soft: bool) -> tuple[str, bool]:  # noqa: N802
        return node, soft

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "this node")

    def put(self, content: bytes) -> bytes:
        return content

    def get(self, answer: Any) -> Any:
        if not isinstance(answer, Sent):
            return answer
        if self.fail:
            error = RayError("a task failed")
            error.cause = self.fail  # type: ignore[attr-defined]
            raise error
        return answer.value

    def remote(self, function: Callable[..., Any]) -> Any:
        def sent(*asked: Any) -> Sent:
            self.calls += 1
            with telling(lambda _: None):  # what a node shows is not seen here
                return Sent(function(*asked))

        def options(**settings: Any) -> Any:
            self.settings = settings
            return SimpleNamespace(remote=sent)

        return SimpleNamespace(options=options)

    def wait(self, waiting: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        assert num_returns == 1
        return waiting[-1:], waiting[:-1]


def inline(monkeypatch: pytest.MonkeyPatch, fail: Exception | None = None) -> tuple[InlineRay, cluster.Cluster]:
    found = InlineRay(fail)
    monkeypatch.setattr(cluster, "_ray", lambda: found)
    return found, cluster.Cluster(found, "cpu")


@pytest.mark.usefixtures("four_at_once")
@pytest.mark.parametrize("few", [0, 1 << 30], ids=["checkpoints", "all states"])
def test_a_truth_whose_pieces_were_sent_as_bytes_is_that_of_one_process(
    few: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(tmp_path / "alone")
    monkeypatch.setattr(workers, "FEW", few)
    found, nodes = inline(monkeypatch)
    with machine.one_thread():
        cluster.train(nodes, suites.task(TASK), 0, tmp_path, Silent)
        assert found.calls == 26 + 5
        cluster.train(nodes, suites.task(TASK), 0, tmp_path, Silent)
        assert found.calls == 26 + 5  # all were there
        trained, usual = [], Loop._trained

        def noted(loop: Loop, *asked: Any) -> torch.Tensor:
            trained.append(len(loop.batches))
            return usual(loop, *asked)

        monkeypatch.setattr(Loop, "_trained", noted)
        truth.answer(suites.task(TASK), 0, tmp_path, "cpu", Silent)

    assert trained == [1]  # the step of the warm-up
    assert same(kept(tmp_path), expected)
    assert found.settings == {"num_cpus": 1, "max_retries": cluster.RETRIES}


def test_a_truth_of_subsets_from_several_starts_goes_over_a_cluster_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = replace(suites.task(TASK), truth=Subsets(0.5, count=6, repeats=2))
    with machine.one_thread():
        cluster.train(inline(monkeypatch)[1], task, 0, tmp_path, Silent)
        (_, there), (_, here) = (truth.answer(task, 0, cache, "cpu", Silent) for cache in (tmp_path, tmp_path / "alone"))

    assert torch.equal(there.repeats, here.repeats)


def test_a_node_with_another_version_and_a_piece_that_fails_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, nodes = inline(monkeypatch)
    monkeypatch.setattr(cluster, "here", iter([("1.1", "0.9"), ("1.1", "1.0"), ("1.1", "1.0")]).__next__)
    with pytest.raises(LoobenchError, match=r"has loobench 1.0 \(protocol 1.1\), this process 0.9 .*: install the same on all"):
        cluster.train(nodes, suites.task(TASK), 0, tmp_path, Silent)

    monkeypatch.undo()
    _, nodes = inline(monkeypatch, ValueError("no\nroom"))
    with pytest.raises(LoobenchError, match="a piece of work failed on the Ray cluster: ValueError: no; what was done is kept"):
        cluster.train(nodes, suites.task(TASK), 0, tmp_path, Silent)


def test_an_address_that_is_none_or_where_nobody_or_another_program_answers_is_an_error_within_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as closed:
        free = closed.getsockname()[1]
        closed.close()
        for address, said in (
            ("nonsense", "--ray takes auto, HOST:PORT or ray://HOST:PORT, got 'nonsense'"),
            ("host:99999", "--ray takes auto"),
            (f"127.0.0.1:{free}", f"no Ray cluster answers at 127.0.0.1:{free}: Connection refused; start one by"),
            (f"ray://127.0.0.1:{silent.getsockname()[1]}", "timed out"),
        ):
            began = time.monotonic()
            assert main(["truth", TASK, "--cache", "cache", "--ray", address]) == 2
            assert time.monotonic() - began < 5
            told = capsys.readouterr().err
            assert said in told
            assert told.count("\n") == 1


def test_another_program_than_ray_is_told_by_how_it_greets() -> None:
    def greet(server: socket.socket, content: bytes) -> None:
        with server.accept()[0] as line:
            line.sendall(content)

    def answers(content: bytes) -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=greet, args=(server, content))
            thread.start()
            found = cluster._greeted("127.0.0.1", server.getsockname()[1])
            thread.join()
            return found

    assert answers(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"settings") == b"\x04"
    assert answers(b"HTTP/1.1 400 Bad Request") != b"\x04"


def test_where_ray_is_not_installed_that_is_said_and_without_the_option_it_is_not_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["truth", TASK, "--cache", "cache"]) == 0
    assert main(["truth", TASK, "--cache", "cache", "--ray", "auto"]) == 2
    assert "error: --ray needs Ray, which is not installed here: pip install 'loobench[ray]'" in capsys.readouterr().err


ON_A_CLUSTER = """
import os, signal, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
from benchmark.base import machine
from benchmark.retraining import chunks
from benchmark.running import cluster
from benchmark.tasks import suites
from benchmark.truths import truth
from test_workers import Silent

cache, killed_after = Path(sys.argv[1]), int(sys.argv[2])
task = suites.task(sys.argv[3])
chunks.at_once = lambda problem, gram: 4
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = nodes.add_node(num_cpus=1)
folder = truth.path(task.digest(), 0, cache, "cpu").with_suffix(".chunks")

def kill():
    while len(list(folder.glob("*.safetensors"))) < killed_after:
        time.sleep(0.01)
    print("killed", len(list(folder.glob("*.safetensors"))), flush=True)
    nodes.remove_node(second, allow_graceful=False)

killer = threading.Thread(target=kill, daemon=True)  # which an error does not wait for
killer.start()
with machine.one_thread(), cluster.connected(nodes.address, "cpu") as found:
    cluster.train(found, task, 0, cache, Silent)
killer.join()
nodes.shutdown()
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("ray"), reason="needs Ray: pip install 'loobench[ray]'")
@pytest.mark.parametrize("after", [4, 16])
@pytest.mark.usefixtures("four_at_once")
def test_on_a_ray_cluster_of_two_nodes_one_of_which_is_killed_the_truth_is_the_same(after: int, tmp_path: Path) -> None:
    expected = alone(tmp_path / "alone")
    places = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    line = [sys.executable, "-P", "-c", ON_A_CLUSTER, str(tmp_path), str(after), TASK]
    done = subprocess.run(line, env=places, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert after <= int(done.stdout.partition("killed ")[2].split()[0]) < 26
    assert len(list(folder(tmp_path).glob("*.safetensors"))) == 31

    assert main(["truth", TASK, "--cache", str(tmp_path)]) == 0
    found = kept(tmp_path)
    assert torch.equal(found[0]["effect"], expected[0]["effect"])
    for name, curve in expected[1]["limits"].items():  # nodes train more than four at once for them, with other last bits
        assert found[1]["limits"][name] == pytest.approx(curve, rel=1e-6, abs=1e-12), name


def test_a_run_lets_a_cluster_train_its_truths_and_call_its_estimators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    found, nodes = inline(monkeypatch)
    addresses: list[object] = []
    monkeypatch.setattr(cluster, "connected", lambda *asked: addresses.append(asked) or nullcontext(nodes))
    command = ["run", "--task", TASK, "--seeds", "2", "--estimator", "grad-dot", "--cache", str(tmp_path), "--ray", "auto"]
    assert main(command) == 0

    assert addresses == [("auto", "cpu")]
    assert found.calls == 2 * (1 + 5 + 1)
    assert "2 cells computed" in capsys.readouterr().out
    assert main(command) == 0
    assert found.calls == 2 * (1 + 5 + 1)


# ---- the page --------------------------------------------------------------------------------------------------------
def test_every_command_of_the_page_is_one() -> None:
    text = (ROOT / "docs" / "workers.md").read_text().replace("\\\n", " ")
    found = re.findall(r"loobench ((?:truth|run|prepare) (?:[^\n`\"']|\"\$SLURM[^\n\"]*\")*)", text)
    lines = [shlex.split(line.partition("#")[0].rstrip(" &")) for line in found]
    words = {"TASK": TASK, "SUITE": "quick", "$((i": "1/4", "$((JOB_COMPLETION_INDEX": "1/8"}
    arithmetic = {"+", "1))/4", "1))/8"}

    assert len(lines) > 12
    for line in lines:
        asked([words.get(word, word) for word in line if word not in arithmetic])
