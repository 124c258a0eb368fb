"""From tasks and estimators to result files, cell by cell, so that whatever stops a run loses at most one of them."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.base import machine
from benchmark.base.errors import DamagedFile, Diverged, LoobenchError
from benchmark.base.files import (
    LOCKS,
    claimed,
    digest,
    json_digest,
    probe,
    read,
    read_tensors,
    tensor_digest,
    write,
    write_tensors,
)
from benchmark.base.places import publication
from benchmark.base.records import encode
from benchmark.base.streams import stream
from benchmark.core.declaration import Estimator
from benchmark.core.problem import Problem
from benchmark.core.trajectory import Trajectory
from benchmark.retraining import chunks
from benchmark.retraining.chunks import FREE, Means
from benchmark.running.evaluate import Estimate, Failure, estimate
from benchmark.sandbox.client import Confined
from benchmark.sandbox.warmup import like
from benchmark.scores import metrics, results
from benchmark.scores.results import Bounds, Cell, Limits, Result
from benchmark.tasks.definition import Task, shown
from benchmark.tasks.questions import Question, asked_of
from benchmark.truths import truth, uses
from benchmark.truths.effects import GroundTruth
from benchmark.truths.truth import MakeBar
from benchmark.truths.uses import Prepared

Scores = dict[str, list[float | None]]  # name -> H values
Work = tuple[Task, int, Sequence[Estimator]]  # a seed of a task, and who is asked about it
SELF = 100  # samples whose self-influence is asked
POINTS = 50  # pairs (sample, query) whose estimate and effect are kept to be looked at


@dataclass(frozen=True)
class Plan:
    """What to run, where, and where to keep it."""

    tasks: tuple[Task, ...]
    estimators: tuple[Estimator, ...]
    seeds: tuple[tuple[int, ...], ...]  # of each task
    device: str
    cache: Path
    results: Path
    command: str  # as recorded in provenance
    means: Means = FREE
    by: str = "unknown"  # who computes, as recorded in provenance
    afresh: bool = True  # whether files that answer another question may start afresh
    old: frozenset[str] = frozenset()  # digests of those that did when it began

    def cells(self) -> Iterator[tuple[Task, int]]:
        """Tasks and seeds, in order."""
        return ((task, seed) for task, seeds in zip(self.tasks, self.seeds, strict=True) for seed in seeds)


@dataclass(frozen=True)
class Outcome:
    """A cell as it now stands in its result file; `fresh` where this run computed it."""

    result: str  # name of the result: of the task, and of the device unless it is the usual one
    seed: int
    estimator: str
    cell: Cell
    fresh: bool


@dataclass(frozen=True)
class Trouble:
    """A task and seed for which there is no truth, and why."""

    result: str
    seed: int
    message: str


@dataclass(frozen=True, eq=False)
class Case:
    """One seed of a task: what estimators see of its run, and what they are scored against."""

    task: Task
    seed: int
    problem: Problem  # with all that estimators do not see
    run: Trajectory
    exact: GroundTruth
    prepared: Prepared | None  # what its uses are judged by


def execute(plan: Plan, bar: MakeBar) -> Iterator[Outcome | Trouble]:
    """Run all cells of a plan that are not done yet, writing each as it is done. `bar(total, text, unit)` shows progress.

    What another run computes now comes last, and is taken from it. Raises LoobenchError before the first cell where a result is
    damaged, and where data cannot be had.
    """
    plan = replace(plan, old=frozenset(digest(read(at)) for at in _others(plan)))
    before = frozenset(_standing(plan))
    warm: set[str] = set()
    todo: list[Work] = [(task, seed, plan.estimators) for task, seed in plan.cells()]
    late: list[Work] = []
    cells = len(todo) * len(plan.estimators)
    with machine.one_thread(), closing(bar(cells, "all", "cell")) as whole:
        for work, others in chain(zip(todo, repeat(late)), zip(late, repeat(None))):  # `late` grows on the way
            try:
                for outcome in _seed(plan, work, before, others, warm, bar):
                    whole.update(1)
                    yield outcome
            except Diverged as error:
                yield Trouble(work[0].name, work[1], str(error))


def _standing(plan: Plan) -> Iterator[str]:
    """The digests of the cells that stand in the results of a plan, each checked first. Raises DamagedFile."""
    for task in plan.tasks:
        results.limits(results.no_limits(task, plan.device), plan.results)
        for estimator in plan.estimators:
            results.check(encode(found := stored(task, plan.device, estimator, plan.results)))
            yield from (_digest(found, seed) for seed in found.cells)


def _digest(result: Result, seed: str) -> str:
    return json_digest([result.name, result.estimator.name, seed, encode(result.cells[seed])])


def stored(task: Task, device: str, estimator: Estimator, folder: Path) -> Result:
    """The result so far: from its file if that answers the same question, else blank. Raises DamagedFile."""
    fresh = results.blank(task, device, estimator)
    at = results.path(fresh, folder)
    found = results.load(at) if at.exists() else fresh
    return found if found.same_question(fresh) else fresh


def superseded(plan: Plan) -> list[Path]:
    """The files of results and limits that answer another question than this plan's, and so start afresh.

    Raises LoobenchError where a folder cannot be written, a result is damaged, or such files may not start afresh.
    """
    probe(plan.cache)
    probe(plan.results)
    other = _others(plan)
    if other and not plan.afresh:
        raise LoobenchError(
            f"{len(other)} published files would start afresh, as {other[0]}, which is of another version of the task, the "
            f"estimator or loobench: say --replace (the old ones go to {plan.cache / 'superseded'}), or leave --publish out to "
            "compute results of your own"
        )
    return other


def _others(plan: Plan) -> list[Path]:
    """The files of results and limits in this plan's places that answer another question."""
    blanks = [results.blank(task, plan.device, estimator) for task in plan.tasks for estimator in plan.estimators]
    limits = [results.no_limits(task, plan.device) for task in plan.tasks]
    found = [results.path(one, plan.results) for one in blanks if _another(one, plan.results)]
    return found + [results.limits_path(one, plan.results) for one in limits if _other_limits(one, plan.results)]


def _another(blank: Result, folder: Path) -> bool:
    """Whether there is a file in a result's place, and it answers another question."""
    at = results.path(blank, folder)
    return at.exists() and not results.load(at).same_question(blank)


def _other_limits(blank: Limits, folder: Path) -> bool:
    """Whether there is a file in the place of limits, and it is of another definition of the task."""
    at = results.limits_path(blank, folder)
    return at.exists() and results.load_limits(at).task_digest != blank.task_digest


def _set_aside(at: Path, plan: Plan) -> None:
    """Keep a file that is about to be written over in the cache. Raises LoobenchError where it came while the plan was run."""
    content = read(at)
    if digest(content) not in plan.old:
        raise LoobenchError(
            f"{at} is of another version of its estimator or loobench by now: another run writes into the same results; give "
            "one of the two its own --results, then repeat"
        )
    write(plan.cache / "superseded" / at.parent.name / f"{at.stem}-{digest(content)[:12]}.json", content)


def estimate_path(digest: str, cache: Path) -> Path:
    """Where a raw estimate (H, K, Q) is kept, named by its content."""
    return cache / "estimates" / f"{digest}.safetensors"


def kept(digest: str, cache: Path) -> Tensor | None:
    """The raw estimate of that digest from the cache; None where it is not there, or not what its name says."""
    at = estimate_path(digest, cache)
    try:
        tensor = read_tensors(at)[0]["effect"] if at.exists() else None
    except (DamagedFile, KeyError):
        return None
    return tensor if tensor is not None and tensor_digest([tensor]) == digest else None


def _seed(
    plan: Plan, work: Work, before: frozenset[str], late: list[Work] | None, warm: set[str], bar: MakeBar
) -> Iterator[Outcome]:
    """The cells of one seed; what another run is at is put into `late`, or waited for where that is None."""
    task, seed, estimators = work
    todo = []
    for estimator in estimators:
        if result := _finished(plan, task, seed, estimator, before):
            yield _as_it_stands(result, seed)
        else:
            todo.append(estimator)
    if todo:
        left = yield from _computed(plan, (task, seed, todo), before, late is None, warm, bar)
        if left and not late:
            chunks.tell(f"another run is at {task.name}, seed {seed}: other cells come first, then what it has done is taken")
        if left and late is not None:
            late.append((task, seed, left))
    elif not has_limits(plan, task, seed):
        note_limits(plan, opened(plan, task, seed, bar)[0])


def _as_it_stands(result: Result, seed: int) -> Outcome:
    return Outcome(result.name, seed, result.estimator.name, result.cells[str(seed)], fresh=False)


def _finished(plan: Plan, task: Task, seed: int, estimator: Estimator, before: frozenset[str]) -> Result | None:
    """The result where its cell of `seed` needs no further work: come from another run, or scored from this cache."""
    result = stored(task, plan.device, estimator, plan.results)
    cell = result.cells.get(str(seed))
    if not cell or cell.failed:
        return None
    if _come(result, seed, before):
        return result
    result, missing = rescore(results.path(result, plan.results), plan.cache, seeds=(str(seed),))
    return None if missing else result


def _come(result: Result, seed: int, before: frozenset[str]) -> bool:
    """Whether another run has put a good cell of `seed` there since this one began."""
    cell = result.cells.get(str(seed))
    return cell is not None and not cell.failed and _digest(result, str(seed)) not in before


def _computed(
    plan: Plan, work: Work, before: frozenset[str], patient: bool, warm: set[str], bar: MakeBar
) -> Generator[Outcome, None, Sequence[Estimator]]:
    """Compute the cells of one seed, each under a claim; returns those that were left, to be asked for later."""
    task, seed, todo = work
    ready: tuple[Case, Cell, machine.Provenance] | None = None
    for place, estimator in enumerate(todo):
        with _claim(plan, task, seed, estimator, wait=patient) as mine:
            if not mine:
                return todo[place:]
            if _come(result := stored(task, plan.device, estimator, plan.results), seed, before):
                outcome = _as_it_stands(result, seed)
            else:
                if ready is None and not (patient or _idle(plan, task, seed)):
                    return todo[place:]
                if ready is None:
                    ready = opened(plan, task, seed, bar)
                    note_limits(plan, ready[0])
                case, empty, provenance = ready
                cell = computed(plan, case, estimator, empty, warm)
                name = _keep(plan, task, seed, estimator, cell, provenance)
                outcome = Outcome(name, seed, estimator.name, cell, fresh=True)
        yield outcome
    return ()


def _claim(plan: Plan, task: Task, seed: int, estimator: Estimator, *, wait: bool) -> AbstractContextManager[bool]:
    """Claim a cell, so that no other run into the same results computes it too."""
    at = results.path(results.blank(task, plan.device, estimator), plan.results)
    name = f"{at.parent.name}--{at.stem}--{seed}.claim"
    return claimed(plan.results / LOCKS / name, f"{estimator.name} on {task.name}, seed {seed},", wait=wait)


def _idle(plan: Plan, task: Task, seed: int) -> bool:
    """Whether no other process computes the truth of a seed into this cache now."""
    with truth.computing(task, seed, plan.cache, plan.device, wait=False) as free:
        return free


def opened(plan: Plan, task: Task, seed: int, bar: MakeBar) -> tuple[Case, Cell, machine.Provenance]:
    """One seed of a task with its truth, its cell before any estimator has answered, and what it is computed on.

    Raises Diverged where there is no truth.
    """
    run, exact = truth.answer(task, seed, plan.cache, plan.device, bar, plan.means)
    prepared = truth.cached_uses(task, seed, run, exact, plan.cache, plan.device, bar, plan.means) if task.uses else None
    provenance = {**machine.provenance(plan.command, plan.device, task.dtype), "by": plan.by}
    case = Case(task, seed, run.problem, shown(task, run), exact, prepared)
    return case, empty_cell(run, exact, json_digest(provenance)[:12]), provenance


def computed(plan: Plan, case: Case, estimator: Estimator, empty: Cell, warm: set[str]) -> Cell:
    """An estimator's cell, after a first call that does not count unless its name is among the `warm`."""
    if estimator.name not in warm:
        warm_up(estimator, case.run, plan.device)
        warm.add(estimator.name)
    with chunks.allowing(replace(plan.means, workers=1)):
        return answered(plan, case, estimator, empty)


def has_limits(plan: Plan, task: Task, seed: int) -> bool:
    """Whether the ceilings and floors of a seed are beside the results, from whatever machine."""
    return str(seed) in results.limits(results.no_limits(task, plan.device), plan.results).seeds


def note_limits(plan: Plan, case: Case) -> None:
    """Put the ceilings and floors of a truth beside the results, unless those that stand there are the same or published."""
    references = uses.references(case.prepared) if case.prepared else {}
    bounds = Bounds(
        case.exact.digest(),
        {name: results.rounded(curve) for name, curve in case.exact.limits.items()},
        {name: dict(zip(found, results.rounded(found.values()), strict=True)) for name, found in references.items()},
        points(case.exact.effect, case.exact, case.seed),
    )
    blank = results.no_limits(case.task, plan.device)
    at = results.limits_path(blank, plan.results)
    with results.changing(at, plan.results):
        if _other_limits(blank, plan.results):
            _set_aside(at, plan)
        known = results.limits(blank, plan.results)
        if not _stands(known.seeds.get(str(case.seed)), bounds, f"{case.task.name}, seed {case.seed}", at):
            results.save_limits(known.with_seed(case.seed, bounds), plan.results)


def _stands(standing: Bounds | None, found: Bounds, name: str, at: Path) -> bool:
    """Whether the limits that stand in a file stay: they agree with those found, or, said aloud, are published."""
    if standing is None or standing.agrees(found):
        return standing is not None
    published = publication(at.parent) is not None
    what = f"stay as they are; to have them anew, move {at} away and repeat" if published else "give way to those found now"
    chunks.tell(f"the limits of {name} differ by more than rounding from those in {at}, which {what}")
    return published


def _keep(plan: Plan, task: Task, seed: int, estimator: Estimator, cell: Cell, provenance: machine.Provenance) -> str:
    """Put a cell into its result file, unless it is a failure where a good one stands; returns the result's name.

    Raises LoobenchError where the file has become one of another version on the way.
    """
    blank = results.blank(task, plan.device, estimator)
    at = results.path(blank, plan.results)
    with results.changing(at, plan.results):
        result = stored(task, plan.device, estimator, plan.results)
        before = result.cells.get(str(seed))
        if not (cell.failed and before and before.status == "ok"):
            if _another(blank, plan.results):
                _set_aside(at, plan)
            results.save(result.with_cell(seed, cell, provenance), plan.results)
    return result.name


def empty_cell(run: Trajectory, exact: GroundTruth, provenance: str) -> Cell:
    """A cell before the estimator has answered: what does not depend on it."""
    return Cell(
        status="unsupported",
        message="",
        scores={},
        by_query=[],
        points=[],
        seconds=0.0,
        exact_seconds=round(exact.seconds, 6),
        relative_cost=0.0,
        gradients=0,
        hessian_products=0,
        memory=None,
        exact_gradients=exact.gradients,
        notes={},
        problem=run.problem.digest()[: results.SHORT],
        trajectory=run.digest()[: results.SHORT],
        truth=exact.digest(),
        estimate="",
        weight_decay=run.problem.weight_decay,
        provenance=provenance,
    )


def answered(plan: Plan, case: Case, estimator: Estimator, empty: Cell) -> Cell:
    """The cell with the estimator's answer, its raw numbers kept in the cache first; or with its failure."""
    try:
        found = estimate(estimator, case.run, plan.device)
    except Failure as failure:
        return replace(empty, status=failure.status, message=str(failure))
    digest = tensor_digest([found.effect])
    write_tensors(estimate_path(digest, plan.cache), {"effect": found.effect})
    return replace(
        empty,
        status="ok",
        scores=scored(found.effect, case.exact, case.task.truth.units and estimator.loss_units)
        | put_to_use(plan, case, estimator, found),
        by_query=ranking(found.effect, case.exact, type(case.task.truth)),
        points=points(case.exact.predicted(found.effect), case.exact, case.seed),
        seconds=round(found.seconds, 6),
        relative_cost=round(found.seconds / case.exact.seconds, 6),
        gradients=found.count.gradients,
        hessian_products=found.count.hessian_products,
        memory=found.memory,
        notes=found.count.notes,
        estimate=digest,
    )


def scored(effect: Tensor, exact: GroundTruth, units: bool) -> Scores:
    """The metrics of an estimate (H, K, Q) against a truth."""
    found = metrics.scores(exact.predicted(effect), exact.effect, units=units)
    return {name: results.rounded(curve) for name, curve in found.items()}


def ranking(effect: Tensor, exact: GroundTruth, asked: type[Question]) -> list[float | None]:
    """Of each query, the score of an estimate (H, K, Q) that ranks it."""
    metric = metrics.METRICS[asked.primary]
    return results.rounded(metrics.ranking(exact.predicted(effect), exact.effect, metric, throughout=asked.throughout))


def points(effect: Tensor, exact: GroundTruth, seed: int) -> list[float]:
    """Some of the effects (H, M, Q) at the last horizon, over the standard deviation of the true ones; the same for all."""
    spread = exact.effect[-1].std(correction=0).item()
    chosen = stream("points", seed).permutation(exact.effect[-1].numel())[:POINTS]
    values = effect[-1].flatten()[np.sort(chosen)] / spread
    return [value for value in results.rounded(values.tolist(), results.POINT_DIGITS) if value is not None] if spread else []


def put_to_use(plan: Plan, case: Case, estimator: Estimator, found: Estimate) -> Scores:
    """The scores of what the task uses effects for, one horizon each; none where it uses them for nothing."""
    if not case.prepared:
        return {}
    own = self_influence(plan, case, estimator, found)
    effect = found.effect[-1, :, 0]
    values = uses.scores(effect, case.prepared, case.problem, units=estimator.loss_units, self_influence=own, means=plan.means)
    return {name: results.rounded([value]) for name, value in values.items()}


def self_influence(plan: Plan, case: Case, estimator: Estimator, found: Estimate) -> tuple[Tensor, Tensor] | None:
    """Numbers (K,) of random samples, and what the estimator says each one's absence does to its own loss (K,).

    None where that would count more than a quarter of the gradients of the truth, and where the estimator does not answer it.
    """
    problem = case.run.problem
    numbers = torch.from_numpy(stream("self-influence", case.seed).permutation(len(problem.train))[:SELF]).sort().values
    if (found.count.gradients + found.count.hessian_products) * len(numbers) > case.exact.gradients / 4:
        return None
    asked = replace(problem, query=problem.train[numbers], query_kind="each", left_out=numbers.to(problem.left_out.device))
    try:
        return numbers, estimate(estimator, replace(case.run, problem=asked), plan.device).effect[-1].diagonal()
    except Failure:
        return None


def warm_up(estimator: Estimator, run: Trajectory, device: str) -> None:
    """One call on a made-up step: what takes long the first time is not the method's. Who is confined is not called before."""
    if isinstance(estimator.function, Confined):
        return
    with suppress(Failure):  # one step may be too few for it; the real call decides
        estimate(estimator, like(run), device)


def rescore(at: Path, cache: Path, seeds: Iterable[str] | None = None) -> tuple[Result, dict[str, str]]:
    """Compute the metrics of a result file, or of some of its seeds, anew from kept estimates and truths.

    Returns the result as its file now has it, and the seeds that are left as they are, each with what the cache lacks for it.
    """
    result = results.load(at)
    chosen = result.cells if seeds is None else {seed: result.cells[seed] for seed in seeds}
    fresh = {seed: _rescored(result, seed, cell, cache) for seed, cell in chosen.items() if cell.status == "ok"}
    changed = {seed: cell for seed, cell in fresh.items() if isinstance(cell, Cell) and cell != result.cells[seed]}
    updated = _exchanged(at, result, changed) if changed else result
    return updated, {seed: lacking for seed, lacking in fresh.items() if isinstance(lacking, str)}


def _exchanged(at: Path, before: Result, changed: Mapping[str, Cell]) -> Result:
    """Put cells into a result file in the place of those of `before`; what others have changed since stays."""
    with results.changing(at, at.parent.parent):
        now = results.load(at)
        mine = {seed: cell for seed, cell in changed.items() if now.cells.get(seed) == before.cells[seed]}
        results.save(updated := replace(now, cells={**now.cells, **mine}), at.parent.parent)
    return updated


def _rescored(result: Result, seed: str, cell: Cell, cache: Path) -> Cell | str:
    """The cell with its scores computed anew, or what the cache lacks for that."""
    found = kept(cell.estimate, cache)
    exact = truth.kept(result.task_digest, int(seed), cache, result.device)
    if found is None or exact is None:
        return " and ".join(["no estimate"] * (found is None) + ["no truth"] * (exact is None)) + " in the cache"
    if exact[0].digest() != cell.truth:
        return "another truth in the cache than the one it was scored against"
    asked = asked_of(result.task)
    return replace(
        cell,
        scores=cell.scores
        | scored(found, exact[0], asked.units and result.estimator.loss_units),  # of uses: took training, stay
        by_query=ranking(found, exact[0], asked),
        points=points(exact[0].predicted(found), exact[0], int(seed)),
    )
