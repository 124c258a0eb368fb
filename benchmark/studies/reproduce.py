"""What `loobench reproduce` runs: the results that published figures are judged by, and figures that no result file has."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.base import files, machine
from benchmark.base.errors import Diverged, LoobenchError
from benchmark.core.registry import registered
from benchmark.retraining import chunks
from benchmark.retraining.chunks import FREE, Means
from benchmark.running.cell import Setup
from benchmark.running.evaluate import Failure
from benchmark.running.plan import Plan, superseded
from benchmark.running.run import Outcome, Trouble, execute
from benchmark.scores import results, store
from benchmark.scores.store import Store
from benchmark.studies.extras import EXTRAS, Extra, keep, kept
from benchmark.studies.judging import Figures, Scores
from benchmark.studies.published import KOH_LIANG, METHODS, PAPERS, PUBLISHED
from benchmark.tasks import suites
from benchmark.tasks.definition import Task
from benchmark.truths import truth
from benchmark.truths.truth import MakeBar


@dataclass(frozen=True)
class Study:
    """What to run of which papers, and where results and figures are kept; `seeds` None: those of the suites."""

    papers: tuple[str, ...]
    seeds: tuple[int, ...] | None
    cache: Path
    results: Path
    figures: Path  # where those are kept that no result file has
    means: Means = FREE
    command: str = "loobench reproduce"  # as recorded in provenance
    by: str = "unknown"
    afresh: bool = True  # whether files of other versions may start afresh


def papers(name: str | None) -> tuple[str, ...]:
    """The paper called `name`, or all. Raises LoobenchError for an unknown one."""
    if name is not None and name not in PAPERS:
        raise LoobenchError(f"unknown paper {name!r}: known: {', '.join(PAPERS)}")
    return tuple(PAPERS) if name is None else (name,)


def gather(study: Study) -> Scores:
    """Scores of all result files that answer today's tasks, and the kept figures that are in no result file."""
    found: dict[tuple[str, str], dict[int, Figures]] = {}
    for task, estimator in needed(PAPERS):
        if at := _result_file(task, estimator, study.results):
            found[task.name, estimator] = {int(s): cell.scores for s, cell in at.cells.items() if cell.status == "ok"}
    for extra in EXTRAS:
        for task in extra.tasks():
            for seed, figures in kept(extra, task, study.figures, current=False).items():
                for name, values in figures.items():
                    found.setdefault((task.name, name), {})[seed] = values
    return found


def _result_file(task: Task, estimator: str, folder: Path) -> results.Result | None:
    at = folder / task.name / results.file_name(estimator)
    found = store.load(at) if at.exists() else None
    return found if found and found.task_digest == task.digest() else None


def needed(chosen: Iterable[str]) -> list[tuple[Task, str]]:
    """The tasks and registered estimators whose results the papers' figures are judged by."""
    figures = [one for one in PUBLISHED if one.paper in chosen and not one.comparable and one.estimator != KOH_LIANG]
    pairs = [(name, e) for one in figures for name in one.tasks for e in (one.estimator, one.against) if e]
    if "wei2025" in chosen:
        pairs += [(task.name, method) for task in suites.suite("final-model").tasks for method in METHODS]
    return [(suites.task(name), estimator) for name, estimator in dict.fromkeys(pairs)]


def plans(study: Study) -> list[Plan]:
    """What `loobench run` would have to do for it: one plan for all tasks that need the same estimators."""
    wanted: dict[Task, list[str]] = {}
    for task, estimator in needed(study.papers):
        wanted.setdefault(task, []).append(estimator)
    alike: dict[tuple[str, ...], list[Task]] = {}
    for task, estimators in wanted.items():
        alike.setdefault(tuple(sorted(estimators)), []).append(task)
    return [
        Plan(
            tasks=tuple(tasks),
            estimators=tuple(registered()[name] for name in names),
            seeds=tuple(study.seeds or tuple(range(suites.suite(task.suite).seeds)) for task in tasks),
            setup=Setup("cpu", study.cache, study.command, study.means, study.by),
            store=Store(study.results),
            afresh=study.afresh,
        )
        for names, tasks in alike.items()
    ]


def fill(study: Study, bar: MakeBar) -> Iterator[str]:
    """Run what is missing and keep it; yields what failed, in words."""
    todo = plans(study)
    for plan in todo:
        superseded(plan)
    for plan in todo:
        for found in execute(plan, bar):
            if isinstance(found, Trouble):
                yield f"{found.result} seed {found.seed}: {found.message}"
            if isinstance(found, Outcome) and found.cell.failed:
                yield f"{found.result} {found.estimator} seed {found.seed}: {found.cell.status}: {found.cell.message}"
    for extra in EXTRAS:
        if extra.paper in study.papers:
            yield from _fill_extra(study, extra, bar)


def _fill_extra(study: Study, extra: "Extra", bar: MakeBar) -> Iterator[str]:
    cells = [(task, seed) for task in extra.tasks() for seed in _seeds(study, extra, task)]
    with machine.one_thread(), closing(bar(len(cells), extra.name, "cell")) as shown:
        for task, seed in cells:
            try:
                _compute(study, extra, task, seed, bar)
            except (Failure, Diverged) as error:
                yield f"{task.name} {extra.name} seed {seed}: {error}"
            shown.update(1)


def _seeds(study: Study, extra: "Extra", task: Task) -> tuple[int, ...]:
    return study.seeds or tuple(range(extra.seeds or suites.suite(task.suite).seeds))


def _compute(study: Study, extra: "Extra", task: Task, seed: int, bar: MakeBar) -> None:
    before = kept(extra, task, study.figures)
    if seed not in before:
        run, exact = truth.answer(task, seed, study.cache, "cpu", bar, study.means)
        with chunks.allowing(replace(study.means, workers=1)):
            found = extra.figures(task, seed, run, exact, study.cache)
        with files.locked(study.figures / files.LOCKS / f"{extra.name}-{task.name}.lock"):
            keep(extra, task, study.figures, {**kept(extra, task, study.figures), seed: found})
