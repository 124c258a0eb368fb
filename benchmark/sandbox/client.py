"""Strangers' estimators: found by file or package, and asked in the sandbox, in a process that can reach nothing.

Nothing that process says is believed; the conversation with it is in session.py.
"""

import importlib
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from benchmark.base.errors import Failure, LoobenchError
from benchmark.base.files import read
from benchmark.core import registry
from benchmark.core.declaration import Estimator
from benchmark.core.trajectory import Trajectory
from benchmark.core.wrapped import Module
from benchmark.retraining.train import train
from benchmark.sandbox import warmup
from benchmark.sandbox.process import Allowance, Server, server
from benchmark.sandbox.session import Answer, Confined, session

GROUP = "loobench.estimators"  # of entry points of installed packages: a name, and the module that declares
FREE = 1.2, 0.004  # times what a file that does nothing takes around its call, and seconds more: not charged to the method
LARGE = 1_000_000  # numbers of a large run, to see what reading takes
IDLE = b"""
from benchmark.estimating import estimator

@estimator("idle", paper="nobody's: what is taken around a call that does nothing")
def idle(run):
    return run.final.new_zeros(len(run.problem.train), run.problem.queries)
"""


@dataclass(frozen=True)
class Rules:
    """Who is run in the sandbox, and with what allowance."""

    strangers: bool = True  # estimators that are not in the repository
    everyone: bool = False
    allowance: Allowance = field(default_factory=Allowance)


# ---- from names to estimators ------------------------------------------------------------------------------------
def resolve(names: Iterable[str], rules: Rules | None = None) -> list[Estimator]:
    """`registry.resolve`, also for the entry points of installed packages, with strangers in the sandbox.

    Raises LoobenchError as that does, and where this machine has no sandbox for those who need it.
    """
    rules = rules or Rules()
    load = (lambda name: _declared(name, rules.allowance)) if rules.strangers or rules.everyone else _trusted
    found = registry.resolve(names, load)
    return [confined(one, rules.allowance) for one in found] if rules.everyone else found


def packaged() -> dict[str, EntryPoint]:
    """The estimators that installed packages offer, by name."""
    return {found.name: found for found in entry_points(group=GROUP)}


def _trusted(name: str) -> dict[str, Estimator] | None:
    """The estimators of a file or package, imported into this process."""
    if name.endswith(".py"):
        return registry.load(Path(name))
    if name not in packaged():
        return None
    with registry.guest(f"package {packaged()[name].module}"):
        return registry.declared(importlib.import_module(packaged()[name].value))


def _declared(name: str, allowance: Allowance) -> dict[str, Estimator] | None:
    """The estimators of a file or package, as they declare themselves in the sandbox; None where `name` is neither."""
    if name.endswith(".py"):
        return _introduced(Confined(_plain(Path(name).name), registry.source_of(Path(name)), None, allowance), name)
    if name not in packaged():
        return None
    point = packaged()[name]
    function = Confined(_plain(f"{name}.py"), _module_source(point), point.module, allowance)
    return _introduced(function, f"package {point.module}")


def _plain(file: str) -> str:
    """A file name that is safe to show and to import by."""
    return file if re.fullmatch(r"[A-Za-z0-9_-]{1,64}\.py", file) else "submission.py"


def _module_source(point: EntryPoint) -> bytes:
    """The file of an entry point's module, found without importing it. Raises LoobenchError where packages do not have it."""
    stem = point.module.replace(".", "/")
    places = [point.dist.locate_file(name) for name in (f"{stem}.py", f"{stem}/__init__.py")] if point.dist else []
    found = next((at for place in places if (at := Path(str(place))).is_file()), None)
    if found is None:
        raise LoobenchError(
            f"{point.module} is not where packages are installed (is it editable?): give its file, as in path.py"
        )
    return registry.source_of(found)


def _introduced(function: Confined, name: str) -> dict[str, Estimator]:
    try:
        with session(function, time.monotonic() + function.allowance.seconds) as line:
            variants = {one.name: one for one in line.declared}
    except Failure as failure:
        raise LoobenchError(f"{name}: {failure.status}: {failure}") from failure
    variants = {name: replace(one, function=replace(function, library=one.library)) for name, one in variants.items()}
    if taken := variants.keys() & registry.registered().keys():
        raise LoobenchError(f"{name} declares {', '.join(sorted(taken))}, taken by a registered estimator: rename it")
    return variants


def confined(estimator: Estimator, allowance: Allowance) -> Estimator:
    """The same estimator, to be run in the sandbox."""
    if isinstance(estimator.function, Confined):
        return estimator
    at = Path(str(sys.modules[estimator.function.__module__].__file__))
    return replace(estimator, function=Confined(at.name, read(at), None, allowance, estimator.library))


def source(estimator: Estimator) -> bytes:
    """The text of the file that declares an estimator."""
    function: Any = confined(estimator, Allowance()).function
    return bytes(function.source)


# ---- asking ------------------------------------------------------------------------------------------------------
def answers(estimator: Estimator, cuts: Iterable[Trajectory]) -> list[Answer]:
    """What a confined estimator answers to each of some runs, in a process for each that has seen nothing. Raises Failure."""
    function: Any = estimator.function
    deadline = time.monotonic() + function.allowance.seconds
    try:
        return [_answer(function, estimator, cut, deadline) for cut in cuts]
    except Failure as failure:
        text = str(failure)
        named = text if text.startswith(estimator.name) else f"{estimator.name}: {text}"
        raise Failure(failure.status, named, failure.traceback) from failure


def _answer(function: Confined, estimator: Estimator, run: Trajectory, deadline: float) -> Answer:
    with session(function, deadline) as line:
        answer, around, size = line.ask(estimator, run)
    return replace(answer, seconds=answer.seconds + max(0.0, around - reading(size, building(run))))


def reading(size: int, building: float = 0.0) -> float:
    """Seconds of processor around a call that are not charged: reading the file and a run of `size` bytes, and answering."""
    once, per_byte = _reading(server())
    return FREE[0] * (once + per_byte * size + building) + FREE[1]


def building(run: Trajectory) -> float:
    """Seconds that the model of a run takes to be built in the sandbox, a person's own; 0 for a network of ours."""
    model = run.problem.model
    if not isinstance(model, Module):
        return 0.0
    if (key := (server(), model.digest())) not in _built:
        seconds, size = _idle(run)
        once, per_byte = _reading(server())
        _built[key] = max(0.0, seconds - once - per_byte * size)
    return _built[key]


_built: dict[tuple[Server, str], float] = {}


@lru_cache(maxsize=1)
def _reading(_server: Server) -> tuple[float, float]:
    """What a file that does nothing takes around its call, and what for each byte of the run."""
    small = train(warmup.problem(warmup.NETWORKS[0], warmup.OPTIMIZERS[0]))
    large = replace(small, states=small.states.new_zeros(2, 1, LARGE))
    (once, size), (longer, larger) = (sorted(_idle(run) for _ in range(5))[2] for run in (small, large))
    return once, max(0.0, longer - once) / (larger - size)


def _idle(run: Trajectory) -> tuple[float, int]:
    """Seconds around a call that does nothing, and the bytes of its run."""
    function = Confined("idle.py", IDLE, None, Allowance())
    with session(function, time.monotonic() + Allowance().seconds) as line:
        return line.ask(line.declared[0], run)[1:]
