"""What a run has to do, and what it is told to leave to others: plans, their work seed by seed, and claims on single cells."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmark.base.errors import LoobenchError
from benchmark.base.files import LOCKS, claimed, digest, probe, read, write
from benchmark.core.declaration import Estimator
from benchmark.running.cell import Setup
from benchmark.scores.results import Limits, Result, blank, no_limits
from benchmark.scores.store import Store
from benchmark.tasks.definition import Task


@dataclass(frozen=True)
class Work:
    """A seed of a task, and the estimators that are asked about it."""

    task: Task
    seed: int
    estimators: tuple[Estimator, ...]

    def __str__(self) -> str:
        return f"{self.task.name}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What to run, with what, and where to keep it."""

    tasks: tuple[Task, ...]
    estimators: tuple[Estimator, ...]
    seeds: tuple[tuple[int, ...], ...]  # of each task
    setup: Setup
    store: Store
    afresh: bool = True  # whether files that answer another question may start afresh

    def work(self) -> Iterator[Work]:
        """Its tasks and seeds, in order."""
        pairs = zip(self.tasks, self.seeds, strict=True)
        return (Work(task, seed, self.estimators) for task, seeds in pairs for seed in seeds)

    def results(self) -> list[Result]:
        """The results it adds to, without their seeds."""
        return [blank(task, self.setup.device, estimator) for task in self.tasks for estimator in self.estimators]

    def limits(self) -> list[Limits]:
        """The limits it adds to, without their seeds."""
        return [no_limits(task, self.setup.device) for task in self.tasks]

    def other(self) -> list[Path]:
        """The files of results and limits in their places that answer another question."""
        found = [*map(self.store.other, self.results()), *map(self.store.other, self.limits())]
        return [at for at in found if at]

    def claim(self, work: Work, estimator: Estimator, *, wait: bool) -> AbstractContextManager[bool]:
        """Claim a cell, so that no other run into the same results computes it too; whether it is ours."""
        at = self.store.at(blank(work.task, self.setup.device, estimator))
        name = f"{at.parent.name}--{at.stem}--{work.seed}.claim"
        return claimed(self.store.folder / LOCKS / name, f"{estimator.name} on {work},", wait=wait)


def superseded(plan: Plan) -> list[Path]:
    """The files of results and limits that answer another question than this plan's, and so start afresh.

    Raises LoobenchError where a folder cannot be written, a result is damaged, or such files may not start afresh.
    """
    probe(plan.setup.cache)
    probe(plan.store.folder)
    other = plan.other()
    if other and not plan.afresh:
        raise LoobenchError(
            f"{len(other)} published files would start afresh, as {other[0]}, which is of another version of the task, the "
            f"estimator or loobench: say --replace (the old ones go to {plan.setup.cache / 'superseded'}), or leave --publish "
            "out to compute results of your own"
        )
    return other


def set_aside(at: Path, plan: Plan, known: frozenset[str]) -> None:
    """Keep a file that is about to be written over in the cache. Raises LoobenchError where its digest is not a `known` one."""
    content = read(at)
    if digest(content) not in known:
        raise LoobenchError(
            f"{at} is of another version of its estimator or loobench by now: another run writes into the same results; give "
            "one of the two its own --results, then repeat"
        )
    write(plan.setup.cache / "superseded" / at.parent.name / f"{at.stem}-{digest(content)[:12]}.json", content)
