"""What a run has to do: the cells of a plan, seed by seed, each with the place of its result."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.base.errors import LoobenchError
from benchmark.base.files import probe
from benchmark.core.declaration import Estimator
from benchmark.running.cell import Setup
from benchmark.scores.results import Limits, Result, blank, no_limits
from benchmark.scores.store import Store
from benchmark.tasks.definition import AnyTask


@dataclass(frozen=True)
class Asked:
    """An estimator, and the result that its answers go into, without their seeds."""

    estimator: Estimator
    result: Result


@dataclass(frozen=True)
class Work:
    """A seed of a task: who is asked about it, and the limits that its truth goes into, without their seeds."""

    task: AnyTask
    seed: int
    asked: tuple[Asked, ...]
    limits: Limits

    def __str__(self) -> str:
        return f"{self.task.name}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What to run, with what, and where to keep it."""

    tasks: tuple[AnyTask, ...]
    estimators: tuple[Estimator, ...]
    seeds: tuple[tuple[int, ...], ...]  # of each task
    setup: Setup
    store: Store
    afresh: bool = True  # whether files that answer another question may start afresh

    def work(self) -> Iterator[Work]:
        """Its tasks and seeds, in order."""
        device = self.setup.device
        for task, seeds in zip(self.tasks, self.seeds, strict=True):
            asked = tuple(Asked(one, blank(task, device, one)) for one in self.estimators)
            yield from (Work(task, seed, asked, no_limits(task, device)) for seed in seeds)


def standing(plan: Plan) -> tuple[list[Result], list[Path]]:
    """What is kept of a plan's results, and the files in their places and of limits that answer other questions.

    Raises DamagedFile where one is not whole.
    """
    works = {one.task: one for one in plan.work()}.values()
    results = [asked.result for one in works for asked in one.asked]
    other = [*map(plan.store.other, results), *(plan.store.other(one.limits) for one in works)]
    return [*map(plan.store.find, results)], [at for at in other if at]


def superseded(plan: Plan) -> list[Path]:
    """The files of results and limits that answer another question than this plan's, and so start afresh.

    Raises LoobenchError where a folder cannot be written, a result is damaged, or such files may not start afresh.
    """
    probe(plan.setup.cache)
    probe(plan.store.folder)
    _, other = standing(plan)
    if other and not plan.afresh:
        raise LoobenchError(
            f"{len(other)} published files would start afresh, as {other[0]}, which is of another version of the task, the "
            f"estimator or loobench: say --replace (the old ones go to {plan.setup.cache / 'superseded'}), or leave --publish "
            "out to compute results of your own"
        )
    return other
