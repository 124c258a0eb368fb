"""From tasks and estimators to result files, cell by cell, so that whatever stops a run loses at most one of them."""

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark import chunks, machine, metrics, results, truth, uses
from benchmark.chunks import FREE, Means
from benchmark.errors import DamagedFile, Diverged
from benchmark.evaluate import Estimate, Failure, estimate
from benchmark.files import digest, json_digest, locked, probe, read, read_tensors, tensor_digest, write, write_tensors
from benchmark.problem import GroundTruth, Problem, Trajectory
from benchmark.questions import Question, asked_of
from benchmark.records import encode
from benchmark.registry import Estimator
from benchmark.results import Bounds, Cell, Result
from benchmark.sandbox import Confined
from benchmark.streams import stream
from benchmark.tasks import Task, shown
from benchmark.truth import MakeBar
from benchmark.uses import Prepared
from benchmark.warmup import like

Scores = dict[str, list[float | None]]  # name -> H values
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

    Raises LoobenchError before the first cell where a result is damaged, and where data cannot be had.
    """
    for task in plan.tasks:
        results.limits(results.no_limits(task, plan.device), plan.results)
        for estimator in plan.estimators:
            results.check(encode(stored(task, plan.device, estimator, plan.results)))
    warm: set[str] = set()
    cells = len(list(plan.cells())) * len(plan.estimators)
    with machine.one_thread(), closing(bar(cells, "all", "cell")) as whole:
        for task, seed in plan.cells():
            try:
                for outcome in _seed(plan, task, seed, warm, bar):
                    whole.update(1)
                    yield outcome
            except Diverged as error:
                yield Trouble(task.name, seed, str(error))


def stored(task: Task, device: str, estimator: Estimator, folder: Path) -> Result:
    """The result so far: from its file if that answers the same question, else blank. Raises DamagedFile."""
    fresh = results.blank(task, device, estimator)
    at = results.path(fresh, folder)
    found = results.load(at) if at.exists() else fresh
    return found if found.same_question(fresh) else fresh


def set_aside(plan: Plan) -> list[tuple[Path, Path]]:
    """Move result files that answer another question than this plan's into the cache, because they start afresh.

    Returns old and new place of each. Raises LoobenchError where a folder cannot be written or a result is damaged, and then
    has moved none.
    """
    probe(plan.cache)
    probe(plan.results)
    blanks = [results.blank(task, plan.device, estimator) for task in plan.tasks for estimator in plan.estimators]
    places = [(blank, at) for blank in blanks if (at := results.path(blank, plan.results)).exists()]
    other = [(blank, at) for blank, at in places if not results.load(at).same_question(blank)]
    return [(at, _aside(at, plan.cache / "superseded" / blank.name)) for blank, at in other]


def _aside(at: Path, folder: Path) -> Path:
    content = read(at)
    write(aside := folder / f"{at.stem}-{digest(content)[:12]}.json", content)
    at.unlink()
    return aside


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


def _seed(plan: Plan, task: Task, seed: int, warm: set[str], bar: MakeBar) -> Iterator[Outcome]:
    todo = []
    for estimator in plan.estimators:
        if result := _finished(plan, task, seed, estimator):
            yield Outcome(result.name, seed, estimator.name, result.cells[str(seed)], fresh=False)
        else:
            todo.append(estimator)
    if todo or not has_limits(plan, task, seed):
        yield from _computed(plan, task, seed, todo, warm, bar)


def _finished(plan: Plan, task: Task, seed: int, estimator: Estimator) -> Result | None:
    """The result where its cell of `seed` needs no further work: unsupported, or scored from what is in this cache."""
    result = stored(task, plan.device, estimator, plan.results)
    cell = result.cells.get(str(seed))
    if not cell or cell.failed:
        return None
    result, missing = rescore(results.path(result, plan.results), plan.cache, seeds=(str(seed),))
    return None if missing else result


def _computed(plan: Plan, task: Task, seed: int, todo: list[Estimator], warm: set[str], bar: MakeBar) -> Iterator[Outcome]:
    case, empty, provenance = opened(plan, task, seed, bar)
    note_limits(plan, case)
    for estimator in todo:
        cell = computed(plan, case, estimator, empty, warm)
        name = _keep(plan, task, seed, estimator, cell, provenance)
        yield Outcome(name, seed, estimator.name, cell, fresh=True)


def opened(plan: Plan, task: Task, seed: int, bar: MakeBar) -> tuple[Case, Cell, machine.Provenance]:
    """One seed of a task with its truth, its cell before any estimator has answered, and what it is computed on.

    Raises Diverged where there is no truth.
    """
    run, exact = truth.answer(task, seed, plan.cache, plan.device, bar, plan.means)
    prepared = truth.cached_uses(task, seed, run, exact, plan.cache, plan.device, bar, plan.means) if task.uses else None
    provenance = machine.provenance(plan.command, plan.device, task.dtype)
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
    """Whether the ceilings and floors of a seed's truth, of the one in this cache if there is one, are beside the results."""
    known = results.limits(results.no_limits(task, plan.device), plan.results).seeds.get(str(seed))
    exact = truth.kept(task.digest(), seed, plan.cache, plan.device)
    return known is not None and (exact is None or known.truth == exact[0].digest())


def note_limits(plan: Plan, case: Case) -> None:
    """Put the ceilings and floors of a truth beside the results."""
    references = uses.references(case.prepared) if case.prepared else {}
    bounds = Bounds(
        case.exact.digest(),
        {name: results.rounded(curve) for name, curve in case.exact.limits.items()},
        {name: dict(zip(found, results.rounded(found.values()), strict=True)) for name, found in references.items()},
        points(case.exact.effect, case.exact, case.seed),
    )
    blank = results.no_limits(case.task, plan.device)
    with locked(lock(plan.cache, results.limits_path(blank, plan.results))):
        results.save_limits(results.limits(blank, plan.results).with_seed(case.seed, bounds), plan.results)


def _keep(plan: Plan, task: Task, seed: int, estimator: Estimator, cell: Cell, provenance: machine.Provenance) -> str:
    """Put a cell into its result file, unless it is a failure where a good one stands; returns the result's name."""
    with locked(lock(plan.cache, results.path(results.blank(task, plan.device, estimator), plan.results))):
        result = stored(task, plan.device, estimator, plan.results)
        before = result.cells.get(str(seed))
        if not (cell.failed and before and before.status == "ok"):
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
    return [value for value in results.rounded(values.tolist(), 3) if value is not None] if spread else []


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


def lock(cache: Path, at: Path) -> Path:
    """The lock file for a result file: what reads, changes and writes it holds the lock."""
    return cache / "locks" / f"{at.parent.name}-{at.name}"


def rescore(at: Path, cache: Path, seeds: Iterable[str] | None = None) -> tuple[Result, list[str]]:
    """Compute the metrics of a result file, or of some of its seeds, anew from kept estimates and truths.

    Returns the result as its file now has it, and the seeds for which an estimate or truth is missing, left as they are.
    """
    with locked(lock(cache, at)):
        result = results.load(at)
        chosen = result.cells if seeds is None else {seed: result.cells[seed] for seed in seeds}
        fresh = {seed: _rescored(result, seed, cell, cache) for seed, cell in chosen.items() if cell.status == "ok"}
        known = {seed: cell for seed, cell in fresh.items() if cell}
        updated = replace(result, cells={**result.cells, **known})
        if updated != result:
            results.save(updated, at.parent.parent)
    return updated, [seed for seed, cell in fresh.items() if not cell]


def _rescored(result: Result, seed: str, cell: Cell, cache: Path) -> Cell | None:
    found = kept(cell.estimate, cache)
    exact = truth.kept(result.task_digest, int(seed), cache, result.device)
    if found is None or exact is None or exact[0].digest() != cell.truth:
        return None
    asked = asked_of(result.task)
    return replace(
        cell,
        scores=cell.scores
        | scored(found, exact[0], asked.units and result.estimator.loss_units),  # of uses: took training, stay
        by_query=ranking(found, exact[0], asked),
        points=points(exact[0].predicted(found), exact[0], int(seed)),
    )
