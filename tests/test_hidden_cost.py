"""Exact retraining costs what it costs, wherever a file hides it: each file here scores perfectly and tries not to pay."""

import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import MODELS, problem

from benchmark.base.errors import LoobenchError
from benchmark.core.calculus import Count, largest
from benchmark.core.declaration import Estimator
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train
from benchmark.running.cell import warm_up
from benchmark.running.evaluate import Estimate, estimate
from benchmark.sandbox import client, warmup
from benchmark.sandbox.client import Rules
from benchmark.sandbox.process import Allowance, server

RULES = Rules(allowance=Allowance(seconds=120.0))
HEAD = """
import sys, threading, time
import torch
from benchmark.estimating import Problem, estimator, leave_one_out, train

KEPT = {}

def retrained(run):
    return leave_one_out(run)[-1]

def zeros(run):
    return torch.zeros(len(run.problem.train), run.problem.queries, dtype=run.final.dtype)

def burn(seconds=WORTH):
    start = time.process_time()
    while time.process_time() < start + seconds:
        torch.ones(100, 100, dtype=torch.float64) @ torch.ones(100, 100, dtype=torch.float64)

def frames():
    frame = sys._getframe()
    while frame:
        yield frame
        frame = frame.f_back
"""
OPEN = """
@estimator("mine", paper="made up for a test")
def mine(run):
    return retrained(run)
"""
REMEMBERED = """
@estimator("mine", paper="made up for a test")
def mine(run):
    if not KEPT:  # the call that is hoped not to count
        KEPT["answer"] = retrained(run)
    return KEPT["answer"] + 0.0 * zeros(run)
"""
PLACES = {
    "at import": "burn()" + OPEN.replace("retrained(run)", "zeros(run) + torch.arange(len(run.problem.train))[:, None]"),
    "in a decorator of its own": """
def paid(function):
    burn()
    return function

@estimator("mine", paper="made up for a test")
@paid
def mine(run):
    return zeros(run) + torch.arange(len(run.problem.train))[:, None]
""",
    "while its settings are made": """
class Late:
    def __call__(self):
        burn()
        return 1.0

@estimator("mine", paper="made up for a test", tuned_on="untuned", much=Late()())
def mine(run, *, much):
    return zeros(run) + torch.arange(len(run.problem.train))[:, None]
""",
    "in a thread that import leaves behind": """
threading.Thread(target=burn, daemon=True).start()
@estimator("mine", paper="made up for a test")
def mine(run):
    time.sleep(1.5)
    return zeros(run) + torch.arange(len(run.problem.train))[:, None]
""",
    "in a thread that goes on after the answer": """
@estimator("mine", paper="made up for a test")
def mine(run):
    answer = zeros(run) + torch.arange(len(run.problem.train))[:, None]
    held = threading.Event()
    def work():
        held.set()
        answer.copy_(retrained(run))
    threading.Thread(target=work).start()
    held.wait()
    return Slow(answer)

class Slow(torch.Tensor):
    @staticmethod
    def __new__(cls, answer):
        return torch.Tensor._make_subclass(cls, answer)

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        while threading.active_count() > 1:
            time.sleep(0.01)
        return super().__torch_function__(function, types, arguments, keywords or {})
""",
    "in what is done with its answer": """
class Lazy(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        if KEPT:
            found = retrained(KEPT.pop("run"))
            for one in arguments:
                if isinstance(one, Lazy):
                    one.as_subclass(torch.Tensor).copy_(found)
        return super().__torch_function__(function, types, arguments, keywords or {})

@estimator("mine", paper="made up for a test")
def mine(run):
    answer = zeros(run).as_subclass(Lazy)
    KEPT["run"] = run
    return answer
""",
    "in the reading of the run, which it patches": """
inside = next(frame for frame in frames() if "transport" in frame.f_globals)
read = inside.f_globals["transport"].decode
def decode(content):
    run = read(content)
    KEPT["answer"] = retrained(run)
    return run
inside.f_globals["transport"].decode = decode
@estimator("mine", paper="made up for a test")
def mine(run):
    return KEPT["answer"]
""",
    "in the copying of the run, which it patches": """
inside = next(frame for frame in frames() if "map_tensors" in frame.f_globals and "receive" in frame.f_globals)
copy = inside.f_globals["map_tensors"]
def copied(run, change):
    KEPT["answer"] = retrained(run)
    return copy(run, change)
inside.f_globals["map_tensors"] = copied
@estimator("mine", paper="made up for a test")
def mine(run):
    return KEPT["answer"]
""",
    "after the word that it is done, in the judging of its shape, which it patches": """
inside = next(frame for frame in frames() if "of_shape" in frame.f_globals and "receive" in frame.f_globals)
judge = inside.f_globals["of_shape"]
def judged(effect, run, estimator):
    effect.copy_(retrained(run))
    return judge(effect, run, estimator)
inside.f_globals["of_shape"] = judged
@estimator("mine", paper="made up for a test")
def mine(run):
    return zeros(run)
""",
    "in a timer": """
import signal
signal.signal(signal.SIGALRM, lambda *_: burn())
signal.setitimer(signal.ITIMER_REAL, 0.01)
@estimator("mine", paper="made up for a test")
def mine(run):
    time.sleep(0.1)
    return zeros(run) + torch.arange(len(run.problem.train))[:, None]
""",
}


@pytest.fixture(scope="module", autouse=True)
def _works() -> None:
    try:
        server()
    except LoobenchError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def run() -> Trajectory:
    """A run whose retraining takes some hundred times what a call takes."""
    given = problem(MODELS["cnn-norm"], train=40, batch=10, epochs=9)
    return train(replace(given, horizons=(4, 24, 36)))


@pytest.fixture(scope="module")
def honest(run: Trajectory, tmp_path_factory: pytest.TempPathFactory) -> Estimate:
    """Retraining in the open."""
    return answered(OPEN, run, tmp_path_factory.mktemp("open"), 0.0)


def answered(body: str, run: Trajectory, folder: Path, worth: float) -> Estimate:
    at = folder / "mine.py"
    at.write_text(HEAD.replace("WORTH", f"{worth:.3f}") + textwrap.dedent(body))
    (found,) = client.resolve([str(at)], RULES)
    return estimate(found, run)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_hidden_there_is_paid(place: str, run: Trajectory, honest: Estimate, tmp_path: Path) -> None:
    found = answered(PLACES[place], run, tmp_path, honest.seconds)

    assert honest.seconds > 0.1
    assert found.seconds > 0.8 * honest.seconds
    assert torch.equal(found.effect, honest.effect) or "retrained" not in PLACES[place]  # it works, but for the cost


def test_what_one_horizon_s_call_keeps_is_not_there_for_the_next(run: Trajectory, honest: Estimate, tmp_path: Path) -> None:
    found = answered(REMEMBERED, run, tmp_path, 0.0)

    assert torch.equal(found.effect, honest.effect)  # each call had to compute its own
    assert found.seconds > 0.8 * honest.seconds


FILED = """
import os, pathlib
@estimator("mine", paper="made up for a test")
def mine(run):
    places = [pathlib.Path(name) for name in (os.environ["HOME"], os.environ["TMPDIR"], "..")]
    found = [at for place in places if place.is_dir() for at in place.rglob("kept-*") if at.is_file()]
    answer = zeros(run) + torch.arange(len(run.problem.train))[:, None] * (2.0 if found else 1.0)
    for place in places[:2]:
        try:
            (place / f"kept-{run.problem.steps}").write_bytes(b"an answer")
        except OSError:
            pass
    return answer
"""


def test_no_file_of_one_horizon_s_call_is_there_for_the_next(run: Trajectory, tmp_path: Path) -> None:
    found = answered(FILED, run, tmp_path, 0.0)

    assert torch.equal(found.effect[0], found.effect[-1])


def test_the_costliest_call_is_charged(run: Trajectory, honest: Estimate, tmp_path: Path) -> None:
    """A file that knows how long the task is answers the last horizon cheaply, and retrains for those that are not scored."""
    early = OPEN.replace("retrained(run)", "retrained(run) if run.problem.steps < 36 else retrained(run.until(1))")
    found = answered(early, run, tmp_path, 0.0)

    assert found.seconds > 0.8 * honest.seconds * 24 / 36
    assert found.count.gradients > 0.5 * honest.count.gradients


def calls(run: Trajectory) -> Iterator[Trajectory]:
    """The runs that an estimator of this process is given, as `loobench run` calls it."""
    seen: list[Trajectory] = []

    def look(given: Trajectory) -> torch.Tensor:
        seen.append(given)
        return torch.arange(float(len(given.problem.train)))[:, None].expand(-1, given.problem.queries).to(given.final)

    one = Estimator("look", look, {}, "a test", "")
    warm_up(one, run, "cpu")
    estimate(one, run)
    return iter(seen)


def test_a_call_that_warms_up_sees_a_made_up_problem_alone(run: Trajectory) -> None:
    first = next(calls(run))
    shown = [first.problem.train.inputs, first.problem.query.inputs, first.problem.initial, first.states]
    real = [run.problem.train.inputs, run.problem.query.inputs, run.problem.initial, run.states]

    assert first.problem.steps == 1
    assert len(first.problem.train) == warmup.SAMPLES
    for one, other in zip(shown, real, strict=True):
        assert not set(one.flatten().tolist()) & set(other.flatten().tolist()) - {0.0, 1.0}


def test_the_call_that_is_scored_first_is_that_of_the_last_horizon(run: Trajectory) -> None:
    _, *scored = calls(run)

    assert [one.problem.steps for one in scored] == [36, 24, 4]


def test_the_costliest_of_some_counts_has_the_most_of_each() -> None:
    found = largest([Count(5, 0, {"residual": 0.1}), Count(3, 7, {"iterations": 4.0, "residual": 0.2})])

    assert found == Count(5, 7, {"iterations": 4.0, "residual": 0.2})
