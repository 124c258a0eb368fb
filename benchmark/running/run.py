"""From tasks and estimators to result files, cell by cell, so that whatever stops a run loses at most one of them.

A cell goes one way: work of a plan, a case (`cell.opened`), an answer of whoever gives it, in this process (`cell.here`) or on
a cluster, scores (`cell.concluded`), and its place in the store.
"""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.base import machine
from benchmark.base.errors import Diverged
from benchmark.base.files import digest, json_digest, read
from benchmark.base.places import publication
from benchmark.base.records import encode
from benchmark.core.declaration import Estimator
from benchmark.retraining import chunks
from benchmark.running.cell import Answer, Answers, Case, Setup, bounds, concluded, here, opened
from benchmark.running.plan import Asked, Plan, Work, standing
from benchmark.running.scoring import rescore
from benchmark.scores.checks import check
from benchmark.scores.results import Bounds, Cell, Limits, Result
from benchmark.scores.store import set_aside
from benchmark.truths import truth
from benchmark.truths.truth import MakeBar


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


@dataclass(frozen=True)
class Job:
    """A plan under way: what stood in its places when it began, and who answers."""

    plan: Plan
    bar: MakeBar
    cells: frozenset[str]  # digests of the cells
    files: frozenset[str]  # digests of the files that answer another question
    answers: Answers

    def set_aside(self, at: Path) -> None:
        """Keep a file of another question in the cache. Raises LoobenchError where it has come since."""
        set_aside(at, self.plan.setup.cache / "superseded", self.files)


def execute(plan: Plan, bar: MakeBar, answers: Answers | None = None) -> Iterator[Outcome | Trouble]:
    """Run all cells of a plan that are not done yet, writing each as it is done. `bar(total, text, unit)` shows progress.

    Estimators are called in this process, unless others give their `answers`. What another run computes now comes last, and is
    taken from it. Raises LoobenchError before the first cell where a result is damaged, and where data cannot be had.
    """
    job, todo, late = begun(plan, bar, answers), [*plan.work()], list[Work]()
    with machine.one_thread(), closing(bar(len(todo) * len(plan.estimators), "all", "cell")) as whole:
        for works, others in ((todo, late), (late, None)):
            for work in works:
                try:
                    for outcome in _seed(job, work, others):
                        whole.update(1)
                        yield outcome
                except Diverged as error:
                    yield Trouble(work.task.name, work.seed, str(error))


def begun(plan: Plan, bar: MakeBar, answers: Answers | None = None) -> Job:
    """A plan at its beginning, whose results and limits are whole. Raises DamagedFile where one is not."""
    found, other = standing(plan)
    for result in found:
        check(encode(result), Result)
    cells = frozenset(_digest(result, seed) for result in found for seed in result.cells)
    return Job(plan, bar, cells, frozenset(digest(read(at)) for at in other), answers or here(plan.setup))


def _digest(result: Result, seed: str) -> str:
    return json_digest([result.name, result.estimator.name, seed, encode(result.cells[seed])])


# ---- a seed of a task ------------------------------------------------------------------------------------------------
def _seed(job: Job, work: Work, late: list[Work] | None) -> Iterator[Outcome]:
    """The cells of one seed; what another run is at is put into `late`, or waited for where that is None."""
    todo = []
    for asked in work.asked:
        if done := _finished(job, asked, work.seed):
            yield done
        else:
            todo.append(asked)
    if todo:
        left = yield from _computed(job, replace(work, asked=tuple(todo)), patient=late is None)
        if left and late is None:
            yield from _seed(job, replace(work, asked=left), None)
        elif left and late is not None:
            if not late:
                chunks.tell(f"another run is at {work}: other cells come first, then what it has done is taken")
            late.append(replace(work, asked=left))
    elif str(work.seed) not in job.plan.store.find(work.limits).seeds:  # from whatever machine
        _opened(job, work, patient=True)


def _finished(job: Job, asked: Asked, seed: int) -> Outcome | None:
    """The cell where it needs no further work: come from another run, or scored anew from this cache."""
    result = job.plan.store.find(asked.result)
    if (come := _come(job, result, seed)) or not _good(result, seed):
        return come
    result, missing = rescore(result, job.plan.store, job.plan.setup.cache, (str(seed),))
    return None if missing else _as_it_stands(result, seed)


def _come(job: Job, result: Result, seed: int) -> Outcome | None:
    """The cell where another run has put a good one there since this one began."""
    come = _good(result, seed) and _digest(result, str(seed)) not in job.cells
    return _as_it_stands(result, seed) if come else None


def _good(result: Result, seed: int) -> bool:
    return str(seed) in result.cells and not result.cells[str(seed)].failed


def _as_it_stands(result: Result, seed: int) -> Outcome:
    return Outcome(result.name, seed, result.estimator.name, result.cells[str(seed)], fresh=False)


def _computed(job: Job, work: Work, *, patient: bool) -> Generator[Outcome, None, tuple[Asked, ...]]:
    """Compute the cells of one seed, each under a claim; returns those that were left, to be asked for later."""
    with closing(Turn(job, work, patient=patient)) as turn:
        for number, case, answer in job.answers(turn.questions()):
            outcome = turn.kept(number, case, answer)
            yield from turn.come()
            yield outcome
        yield from turn.come()
    return turn.left


class Turn:
    """The cells of a seed that are asked about, each under a claim from when its question is taken until its answer is kept.

    A cell that another run is at is waited for only while none is claimed here, so that no two runs wait for one another.
    """

    def __init__(self, job: Job, work: Work, *, patient: bool) -> None:
        self.job, self.work, self.patient = job, work, patient
        self.asked: list[Asked] = []  # by number of the question
        self.claims: dict[int, ExitStack] = {}  # of those that are not answered yet
        self.left: tuple[Asked, ...] = ()  # what others are at
        self._come: list[Outcome] = []

    def questions(self) -> Iterator[tuple[Case, Estimator]]:
        """What is to be asked, each claimed when it is taken; the case is opened with the first."""
        case: Case | None = None
        for place, asked in enumerate(self.work.asked):
            with ExitStack() as claim:
                wait = self.patient and not self.claims
                mine = claim.enter_context(self.job.plan.store.claim(asked.result, self.work.seed, wait=wait))
                if mine and (outcome := _come(self.job, self.job.plan.store.find(asked.result), self.work.seed)):
                    self._come.append(outcome)
                    continue
                if not mine or not (case := case or _opened(self.job, self.work, patient=self.patient)):
                    self.left = self.work.asked[place:]
                    return
                self.claims[len(self.asked)] = claim.pop_all()
                self.asked.append(asked)
            yield case, asked.estimator

    def kept(self, number: int, case: Case, answer: Answer) -> Outcome:
        """Score the answer to a question, and keep it; its cell is then free."""
        asked = self.asked[number]
        with self.claims.pop(number):
            return keep(self.job, case, asked, concluded(self.job.plan.setup, case, asked.estimator, answer))

    def come(self) -> Iterator[Outcome]:
        """The cells that other runs have kept, each told once."""
        while self._come:
            yield self._come.pop(0)

    def close(self) -> None:
        """Free all cells that are still claimed."""
        for claim in self.claims.values():
            claim.close()


def _opened(job: Job, work: Work, *, patient: bool) -> Case | None:
    """The case of a seed, its limits noted; None where another process computes its truth now, and we are not to wait."""
    if not (patient or _idle(job.plan.setup, work)):
        return None
    case = opened(job.plan.setup, work.task, work.seed, job.bar)
    note_limits(job, case, work.limits)
    return case


def _idle(setup: Setup, work: Work) -> bool:
    """Whether no other process computes the truth of a seed into this cache now."""
    with truth.computing(work.task, work.seed, setup.cache, setup.device, wait=False) as free:
        return free


# ---- into the store --------------------------------------------------------------------------------------------------
def keep(job: Job, case: Case, asked: Asked, cell: Cell) -> Outcome:
    """Put a cell into its result file, unless it is a failure where a good one stands.

    Raises LoobenchError where the file has become one of another version on the way.
    """

    def added(result: Result) -> Result:
        before = result.cells.get(str(case.seed))
        stays = cell.failed and before and before.status == "ok"
        return result if stays else result.with_cell(case.seed, cell, case.provenance)

    result = job.plan.store.change(asked.result, added, job.set_aside)
    return Outcome(result.name, case.seed, asked.estimator.name, cell, fresh=True)


def note_limits(job: Job, case: Case, blank: Limits) -> None:
    """Put the ceilings and floors of a truth beside the results, unless those that stand there are the same or published."""
    found, at, name = bounds(case), job.plan.store.at(blank), f"{case.task.name}, seed {case.seed}"

    def added(known: Limits) -> Limits:
        stays = _stands(known.seeds.get(str(case.seed)), found, name, at)
        return known if stays else known.with_seed(case.seed, found)

    job.plan.store.change(blank, added, job.set_aside)


def _stands(standing: Bounds | None, found: Bounds, name: str, at: Path) -> bool:
    """Whether the limits that stand in a file stay: they agree with those found, or, said aloud, are published."""
    if standing is None or standing.agrees(found):
        return standing is not None
    published = publication(at.parent) is not None
    what = f"stay as they are; to have them anew, move {at} away and repeat" if published else "give way to those found now"
    chunks.tell(f"the limits of {name} differ by more than rounding from those in {at}, which {what}")
    return published
