"""One cell, in one direction: a seed of a task is opened as a case, an estimator answers it, and its answer is scored."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmark.base import machine
from benchmark.base.files import json_digest
from benchmark.base.machine import Provenance
from benchmark.base.streams import stream
from benchmark.core.declaration import Estimator
from benchmark.core.problem import Problem
from benchmark.core.trajectory import Trajectory
from benchmark.retraining import chunks
from benchmark.retraining.chunks import FREE, Means
from benchmark.running import charging
from benchmark.running.evaluate import Estimate, Failure, estimate
from benchmark.running.scoring import Scores, keep, measured, points
from benchmark.sandbox.session import Confined
from benchmark.sandbox.warmup import like
from benchmark.scores.results import SHORT, Bounds, Cell, rounded
from benchmark.tasks.definition import AnyTask, shown
from benchmark.truths import truth, uses
from benchmark.truths.effects import GroundTruth
from benchmark.truths.truth import MakeBar
from benchmark.truths.uses import Prepared

Own = tuple[Tensor, Tensor] | None  # numbers (K,) of samples, and what the absence of each does to its own loss (K,)
Answer = tuple[Estimate, Own] | Failure
SELF = 100  # samples whose self-influence is asked


@dataclass(frozen=True)
class Setup:
    """What cells are computed with, and what their provenance says of it."""

    device: str
    cache: Path  # of data, truths and estimates
    command: str
    means: Means = FREE  # memory and threads for retraining
    by: str = "unknown"  # who computes


@dataclass(frozen=True, eq=False)
class Question:
    """What an estimator is asked: all that a process which calls it must know."""

    run: Trajectory  # as estimators see it
    seed: int
    everyone: bool  # whether an answer about all N samples is charged
    gradients: int | None  # of the truth, where samples' own losses are asked about too


@dataclass(frozen=True, eq=False)
class Case:
    """One seed of a task: what estimators see of its run, and what they are scored against."""

    task: AnyTask
    seed: int
    problem: Problem  # with all that estimators do not see
    run: Trajectory
    exact: GroundTruth
    prepared: Prepared | None  # what its uses are judged by
    blank: Cell  # a cell before an estimator has answered
    provenance: Provenance
    times: float = 1.0  # so many times exact retraining is charged

    @property
    def question(self) -> Question:
        """What estimators are asked on it."""
        gradients = self.exact.gradients if self.prepared else None
        return Question(self.run, self.seed, self.task.charged == "all", gradients)


Answers = Callable[[Iterable[tuple[Case, Estimator]]], Iterator[tuple[int, Case, Answer]]]
"""Answers to questions as they come: the number of the question, and its case as it stands for the machine that answered.

A question is taken when it can be worked on.
"""


# ---- the case --------------------------------------------------------------------------------------------------------
def opened(setup: Setup, task: AnyTask, seed: int, bar: MakeBar) -> Case:
    """One seed of a task with its truth, from the cache or computed. Raises Diverged where there is none."""
    run, exact = truth.answer(task, seed, setup.cache, setup.device, bar, setup.means)
    prepared = truth.cached_uses(task, seed, run, exact, setup.cache, setup.device, bar, setup.means) if task.uses else None
    provenance = _signed(machine.provenance(setup.command, setup.device, task.dtype), setup, exact)
    times = charging.share(run) if task.charged == "all" else 1.0
    blank = _blank(run, exact, _key(provenance), times)
    return Case(task, seed, run.problem, shown(task, run), exact, prepared, blank, provenance, times)


def elsewhere(setup: Setup, case: Case, made: Provenance, seconds: float) -> Case:
    """The case for answers of another machine, which describes itself, and on which its truth takes so many seconds."""
    provenance = _signed(made, setup, case.exact)
    blank = replace(case.blank, exact_seconds=round(case.times * seconds, 6), provenance=_key(provenance))
    return replace(case, blank=blank, provenance=provenance)


def _signed(made: Provenance, setup: Setup, exact: GroundTruth) -> Provenance:
    """Provenance with who computes, and where the truth is from."""
    return {**made, "by": setup.by, **({"origin": exact.origin} if exact.origin else {})}


def _key(provenance: Provenance) -> str:
    return json_digest(provenance)[:12]


def _blank(run: Trajectory, exact: GroundTruth, provenance: str, times: float) -> Cell:
    """A cell with what does not depend on an estimator; exact retraining is charged so many times."""
    return Cell(
        status="unsupported",
        message="",
        scores={},
        by_query=[],
        points=[],
        seconds=0.0,
        exact_seconds=round(times * exact.seconds, 6),
        relative_cost=0.0,
        gradients=0,
        hessian_products=0,
        memory=None,
        exact_gradients=round(times * exact.gradients),
        notes={},
        problem=run.problem.digest()[:SHORT],
        trajectory=run.digest()[:SHORT],
        truth=exact.digest(),
        estimate="",
        weight_decay=run.problem.weight_decay,
        provenance=provenance,
    )


def bounds(case: Case) -> Bounds:
    """The ceilings and floors of a case's truth, as they are published."""
    references = uses.references(case.prepared) if case.prepared else {}
    return Bounds(
        case.exact.digest(),
        {name: rounded(curve) for name, curve in case.exact.limits.items()},
        {name: dict(zip(found, rounded(found.values()), strict=True)) for name, found in references.items()},
        points(case.exact.effect, case.exact, case.seed),
    )


# ---- the answer, and the cell ----------------------------------------------------------------------------------------
def computed(setup: Setup, case: Case, estimator: Estimator, warm: set[str]) -> Cell:
    """An estimator's cell, or its failure, after a first call that does not count unless its name is among the `warm`."""
    return concluded(setup, case, estimator, asked(case.question, estimator, setup.device, setup.means, warm))


def here(setup: Setup) -> Answers:
    """Answers of this process, one after the other."""
    warm: set[str] = set()

    def answers(questions: Iterable[tuple[Case, Estimator]]) -> Iterator[tuple[int, Case, Answer]]:
        for number, (case, estimator) in enumerate(questions):
            yield number, case, asked(case.question, estimator, setup.device, setup.means, warm)

    return answers


def asked(question: Question, estimator: Estimator, device: str, means: Means, warm: set[str]) -> Answer:
    """What an estimator says, or how it fails, after a first call that does not count unless its name is among the `warm`."""
    if estimator.name not in warm:
        warm_up(estimator, question.run, device)
        warm.add(estimator.name)
    with chunks.allowing(replace(means, workers=1)):
        try:
            return answered(question, estimator, device)
        except Failure as failure:
            return failure


def concluded(setup: Setup, case: Case, estimator: Estimator, answer: Answer) -> Cell:
    """The cell of an answer, or of a failure."""
    if isinstance(answer, Failure):
        return replace(case.blank, status=answer.status, message=str(answer))
    with chunks.allowing(replace(setup.means, workers=1)):
        return scored(setup, case, estimator, *answer)


def warm_up(estimator: Estimator, run: Trajectory, device: str) -> None:
    """One call on a made-up step: what takes long the first time is not the method's. Who is confined is not called before."""
    if isinstance(estimator.function, Confined):
        return
    with suppress(Failure):  # one step may be too few for it; the real call decides
        estimate(estimator, like(run), device)


def answered(question: Question, estimator: Estimator, device: str) -> tuple[Estimate, Own]:
    """What an estimator says of a run, and where that is asked, of some samples' own losses. Raises Failure."""
    found = estimate(estimator, question.run, device)
    if question.everyone:
        found = charging.for_all(found, estimator, question.run, device)
    return found, None if question.gradients is None else self_influence(question, estimator, found, device)


def self_influence(question: Question, estimator: Estimator, found: Estimate, device: str) -> Own:
    """What the estimator says that the absence of random samples does to their own losses.

    None where that would count more than a quarter of the gradients of the truth, and where the estimator does not answer it.
    """
    problem, most = question.run.problem, (question.gradients or 0) / 4
    numbers = torch.from_numpy(stream("self-influence", question.seed).permutation(len(problem.train))[:SELF]).sort().values
    if found.count.work * len(numbers) > most:
        return None
    asked = replace(problem, query=problem.train[numbers], query_kind="each", left_out=numbers.to(problem.left_out.device))
    try:
        return numbers, estimate(estimator, replace(question.run, problem=asked), device).effect[-1].diagonal()
    except Failure:
        return None


def scored(setup: Setup, case: Case, estimator: Estimator, found: Estimate, own: Own) -> Cell:
    """The cell of an answer, whose raw numbers are kept in the cache first."""
    units, digest = estimator.loss_units, keep(found.effect, setup.cache)
    cell = measured(case.blank, found.effect, case.exact, type(case.task.truth), case.seed, loss_units=units)
    return replace(
        cell,
        status="ok",
        scores=cell.scores | put_to_use(setup, case, found, own, units),
        seconds=round(found.seconds, 6),
        relative_cost=round(found.seconds / case.blank.exact_seconds, 6),
        gradients=found.count.gradients,
        hessian_products=found.count.hessian_products,
        memory=found.memory,
        notes=found.count.notes,
        estimate=digest,
    )


def put_to_use(setup: Setup, case: Case, found: Estimate, own: Own, units: bool) -> Scores:
    """The scores of what the task uses effects for, one horizon each; none where it uses them for nothing."""
    if not case.prepared:
        return {}
    effect = found.effect[-1, :, 0]
    values = uses.scores(effect, case.prepared, case.problem, units=units, self_influence=own, means=setup.means)
    return {name: rounded([value]) for name, value in values.items()}
