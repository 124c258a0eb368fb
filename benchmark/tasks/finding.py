"""Tasks by name: of the suites, of a person's own file, of an installed package."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Timer
from types import ModuleType
from typing import Any, TypeVar

from benchmark.base.errors import LoobenchError, explained, unknown
from benchmark.base.files import sha256
from benchmark.core.declaration import PART
from benchmark.core.registry import source_of
from benchmark.tasks import suites
from benchmark.tasks.definition import AnyTask
from benchmark.tasks.own import OwnTask, Training

GROUP = "loobench.tasks"  # of entry points of installed packages: a name, and the module that declares
SLOW = 10.0  # seconds of an import after which that is said
Function = TypeVar("Function", bound=Callable[[], Training])


@dataclass(frozen=True)
class Declared:
    """A task of one's own before its function is called, and how many seeds are usual."""

    name: str
    seeds: int
    make: Callable[[], Training]


def task(name: str, *, seeds: int = 1) -> Callable[[Function], Function]:
    """Declare a function that returns a `Training` as the task `name`, run for so many seeds where nothing else is said."""

    def declare(function: Function) -> Function:
        if not re.fullmatch(PART, name):
            raise LoobenchError(f"a task's name is lower-case letters, digits and hyphens, got {name!r}")
        function.loobench_task = Declared(name, seeds, function)  # type: ignore[attr-defined]
        return function

    return declare


def found(name: str) -> dict[AnyTask, int]:
    """The tasks meant by a name of a suite's task, a file ``file.py[:name]`` or an entry point, and how many seeds are usual.

    Raises LoobenchError for an unknown one, and where a file cannot be run or declares none.
    """
    first, _, wanted = name.partition(":")
    if first in suites.TASKS:
        known = suites.TASKS[first]
        return {known: suites.suite(known.suite).seeds}
    declared = _declared(first)
    if declared is None:
        raise unknown("task", name, suites.TASKS)
    if wanted and wanted not in declared:
        raise unknown(f"task in {first}", wanted, declared)
    chosen = [declared[wanted]] if wanted else [*declared.values()]
    return {made(one): one.seeds for one in chosen}


def made(declared: Declared) -> OwnTask:
    """The task of a declaration, whose function is called. Raises LoobenchError where it returns no training."""
    if declared.name in suites.TASKS:
        raise LoobenchError(f"the task {declared.name} is one of the suites: rename yours")
    with _spoken(declared.name, f"the function of task {declared.name}"):
        training = declared.make()
    if not isinstance(training, Training):
        raise LoobenchError(f"task {declared.name} must return a loobench.Training, got {type(training).__name__}")
    return OwnTask(declared.name, training)


def _declared(name: str) -> dict[str, Declared] | None:
    if name.endswith(".py"):
        return _of(loaded(Path(name)), name)
    points = packaged()
    if name not in points:
        return None
    with _spoken(name, f"the package of task {name}"):
        return _of(points[name].load(), name)


def packaged() -> dict[str, EntryPoint]:
    """The tasks that installed packages offer, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def loaded(path: Path) -> ModuleType:
    """The module of a person's own file, which is run here. Raises LoobenchError where that fails."""
    text = source_of(path)
    spec = spec_from_file_location(f"loobench_task_{sha256(text)[:16]}", path.absolute())
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses, and the source of its classes, are looked up
    with _spoken(str(path), str(path)), beside(path):
        spec.loader.exec_module(module)
    return module


@contextmanager
def beside(path: Path) -> Iterator[None]:
    """Inside the block the files beside a file can be imported, as where Python runs it."""
    sys.path.insert(0, str(path.absolute().parent))
    try:
        yield
    finally:
        sys.path.remove(str(path.absolute().parent))


@contextmanager
def _spoken(name: str, what: str) -> Iterator[None]:
    """Run a person's own code: its errors get a place, and after a while it is said what takes so long."""
    advice = "what loads data belongs into the function, and what it computes from it into a file"
    timer = Timer(SLOW, print, [f"note: {what} has been running for {SLOW:.0f} s: {advice}"], {"file": sys.stderr})
    timer.daemon = True
    timer.start()
    try:
        with explained(name, f"{what} fails", str(Path(name).absolute())):
            yield
    finally:
        timer.cancel()


def _of(module: Any, name: str) -> dict[str, Declared]:
    declared = [one for value in vars(module).values() if isinstance(one := getattr(value, "loobench_task", None), Declared)]
    if not declared:
        raise LoobenchError(f'{name} declares no task: put @loobench.task("my-task") over a function (docs/own.md)')
    return {one.name: one for one in declared}
