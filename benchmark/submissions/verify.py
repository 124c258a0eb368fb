"""Claims computed again on this machine, so that nobody has to trust who makes them (docs/verification.md)."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from benchmark import PROTOCOL
from benchmark.base import machine
from benchmark.base.errors import Diverged, LoobenchError
from benchmark.base.files import read
from benchmark.base.places import ROOT
from benchmark.base.streams import stream
from benchmark.base.text import is_line, line, quoted
from benchmark.core import registry
from benchmark.core.registry import Estimator
from benchmark.core.syntax import source_digest
from benchmark.retraining.chunks import Means
from benchmark.running.run import Plan, computed, opened
from benchmark.sandbox import client
from benchmark.sandbox.client import Rules
from benchmark.scores import results
from benchmark.scores.results import Cell, Result, Verification
from benchmark.submissions import scaffold, submission, suspicions, verdicts
from benchmark.submissions.suspicions import Excess, Spent
from benchmark.submissions.verdicts import Again, Beside, Report, Verified
from benchmark.tasks import definition, suites
from benchmark.tasks.definition import Task
from benchmark.tasks.questions import asked_of
from benchmark.truths.truth import MakeBar

REFERENCES = ("sgd-ie", "grad-dot", "adam-ie", "if-direct-gauss-newton", "tracin", "loss")  # of each family a cheap one
SHOWN = 2  # of them, beside a verdict
FIRST_FRESH, LAST_FRESH = 100, 2**31 - 1  # the command line's seeds end before the first
CHEAP_TRUTH, CHEAPEST = 10.0, 6  # fresh seeds are for tasks whose truth takes so many seconds, and for so many in any case
CONFINED = Rules(everyone=True)  # merged or not: who verifies trusts nobody


@dataclass(frozen=True)
class Subject:
    """A result whose claims are to be computed again, and by what; `folder`: of results, where its file lies, if it does."""

    result: Result
    task: Task
    estimator: Estimator
    folder: Path | None


@dataclass(frozen=True)
class Inquiry:
    """How much is computed again, with what, and who does it."""

    nonce: str  # decides the sample and the fresh seeds
    cache: Path
    means: Callable[[str], Means]  # of a device
    cheap: float = 60.0  # cells that take so many seconds, with their truth, are all computed again
    sample: int = 2  # so many of the others, of each estimator
    fresh: int = 8  # seeds of each cheap task
    references: tuple[Estimator, ...] = ()
    by: str = "unknown"

    def __post_init__(self) -> None:
        """Raise LoobenchError for what cannot be asked."""
        if not re.fullmatch(r"[0-9a-f]{8,64}", self.nonce):
            raise LoobenchError(f"--nonce takes 8 to 64 digits 0-9 and a-f, got {self.nonce!a:.80}")
        if not (self.cheap >= 0 and self.sample >= 0 and 1 <= self.fresh <= 100):
            given = f"{self.cheap:g}, {self.sample} and {self.fresh}"
            raise LoobenchError(f"--cheap and --sample take 0 or more, --fresh 1 to 100, got {given}")
        if not (self.by and is_line(self.by, 100)):
            raise LoobenchError(f"--by takes 1 to 100 printable characters, got {quoted(self.by)}")


@dataclass(frozen=True)
class Place:
    """One seed of a task, on a class of device."""

    task: Task
    device: str
    seed: int


SEEING = 0, 8  # the version that notes derivatives which an estimator takes past the counters
Known = tuple[Estimator, str]  # with the digest of the file that declares it
Jobs = dict[Place, list[Estimator]]
Found = dict[Place, dict[str, Cell] | str]  # the cell of each estimator by name; or why there is no truth
Chosen = Sequence[tuple[Subject, int]]  # with the seed of a cell


# ---- what to verify --------------------------------------------------------------------------------------------------
def subjects(inputs: Iterable[Path], sources: Sequence[str], rules: Rules = CONFINED) -> list[Subject]:
    """The results in bundles (folders) and result files, each with the estimator that must reproduce it.

    That of a bundle is in its one source file; that of a result file is registered, or in one of the files `sources`.
    Raises LoobenchError where input cannot be read or is of another source, version, setting, protocol or task than
    what is here, and where one result is given twice.
    """
    given = {name: one for source in sources for name, one in _declared(source, rules).items()}
    found = [one for at in inputs for one in (_of_bundle(at, rules) if at.is_dir() else [_of_file(at, given)])]
    names = [(one.result.name, one.result.estimator.name) for one in found]
    if twice := [_called(one.result) for one, name in zip(found, names, strict=True) if names.count(name) > 1]:
        raise LoobenchError(f"each result is verified once, but two are of {twice[0]}: leave one out")
    if len({one.estimator.name for one in found}) < len({one.estimator.identity() for one in found}):
        raise LoobenchError("two estimators of one name cannot be verified together: verify one after the other")
    inside = [replace(one, estimator=client.confined(one.estimator, rules.allowance)) for one in found]
    return inside if rules.everyone else found


def _declared(source: str, rules: Rules) -> dict[str, Known]:
    """The estimators of a file `path.py[:name]`, each with the digest of the file."""
    path = source.partition(":")[0]
    if not path.endswith(".py"):
        raise LoobenchError(f"--estimator takes the file of an estimator that is not registered, FILE.py, got {source!a:.80}")
    content = source_digest(read(Path(path)))
    return {one.name: (one, content) for one in client.resolve([source], rules)}


def _of_bundle(folder: Path, rules: Rules) -> list[Subject]:
    bundle = submission.read(folder)
    source = source_digest(read(bundle.source))
    names = {result.estimator.name for result in bundle.results}
    known = {name: (one, source) for name, one in registry.registered().items() if name in names and one.source == source}
    declared = known if len(known) == len(names) else _declared(str(bundle.source), rules)  # known: it was merged
    return [_subject(result, declared, None) for result in bundle.results]


def _of_file(at: Path, given: Mapping[str, Known]) -> Subject:
    result, folder = results.load(at), at.absolute().parent.parent
    results.refuse_copies(at.absolute(), result, folder)
    if at.absolute() != results.path(result, folder):
        raise LoobenchError(f"{at} holds the result of {_called(result)}: verify it in a folder of results, under that name")
    name = result.estimator.name
    if name in given:
        return _subject(result, given, folder)
    if name not in registry.registered():
        raise LoobenchError(f"{at}: the estimator {name!a:.80} is not registered: name its source by --estimator FILE.py")
    one = registry.registered()[name]
    return _subject(result, {name: (one, source_digest(read(ROOT / registry.sources()[name])))}, folder)


def _subject(result: Result, declared: Mapping[str, Known], folder: Path | None) -> Subject:
    """A result with the estimator of its name, which must be the one that it says."""
    name = result.estimator.name
    if name not in declared:
        raise LoobenchError(f"{_called(result)}: the file declares {', '.join(sorted(declared))}, and not that")
    estimator, source = declared[name]
    if result.estimator.source != source:
        raise LoobenchError(
            f"{_called(result)}: the result is of a source with digest {result.estimator.source:.12}, the file here has "
            f"{source[:12]}: run `loobench run` again with this file, or give the one of the result"
        )
    if not result.cells:
        raise LoobenchError(f"{_called(result)}: the result has no seed: there is nothing to verify")
    if estimator.missing:
        raise LoobenchError(f"{_called(result)} needs {estimator.missing}")
    if left := scaffold.unfilled(estimator.paper, client.source(estimator)):
        raise LoobenchError(f"{_called(result)}: {left[0]}; then run it again")
    task = _task(result)
    _expect_declared(result, results.blank(task, machine.device(result.device), estimator))
    return Subject(result, task, estimator, folder)


def _called(result: Result) -> str:
    """A result's task and estimator, for a message: a stranger's file may have anything there."""
    return line(f"{result.name} {result.estimator.name}", 160)


def _task(result: Result) -> Task:
    """The task of a result as it is here. Raises LoobenchError where that or the protocol is another."""
    name, again = (
        _called(result),
        "run `loobench run` again with this loobench, or verify with that one",
    )
    if result.protocol != PROTOCOL:
        raise LoobenchError(
            f"{name}: computed under protocol {result.protocol:.20}, here is {PROTOCOL}, whose numbers differ: {again}"
        )
    dtype = str(result.task["dtype"])
    task = definition.variant(suites.task(str(result.task["name"]).removesuffix(f"-{dtype}")), dtype)
    if (result.task_digest, result.task) != (task.digest(), task.record()):
        raise LoobenchError(
            f"{name}: the task has digest {task.digest()[:12]} here, the result is of {result.task_digest:.12}: {again}"
        )
    return task


def _expect_declared(result: Result, here: Result) -> None:
    """Raise LoobenchError where a result describes its estimator otherwise than its file does."""
    claimed, declared = vars(result.estimator), vars(here.estimator)
    if other := [key for key in declared if claimed[key] != declared[key]]:
        told = "; ".join(f"{key} is {declared[key]!a:.80}, the result says {claimed[key]!a:.80}" for key in other)
        raise LoobenchError(f"{_called(result)}: its file says otherwise: {told}: run `loobench run` again")


def references(names: Sequence[str]) -> tuple[Estimator, ...]:
    """The registered estimators that fresh seeds are judged beside. Raises LoobenchError for names that are not registered."""
    if files := [name for name in names if name.partition(":")[0].endswith(".py")]:
        raise LoobenchError(f"--reference takes registered estimators, got {files[0]}")
    return tuple(registry.resolve(names)) if names else ()


def choose(found: Sequence[Subject], inquiry: Inquiry) -> list[tuple[Subject, int]]:
    """Of each estimator all cheap cells and a random sample of the others, which the nonce decides, by task and seed."""
    cells = sorted(((one, int(seed)) for one in found for seed in one.result.cells), key=_order)
    by_name = groupby(cells, lambda cell: cell[0].estimator.name)
    return [cell for name, some in by_name for cell in _sampled(name, list(some), inquiry)]


def _order(cell: tuple[Subject, int]) -> tuple[str, str, int]:
    return cell[0].estimator.name, cell[0].result.name, cell[1]


def _sampled(name: str, cells: Chosen, inquiry: Inquiry) -> list[tuple[Subject, int]]:
    costly = [place for place, cell in enumerate(cells) if _seconds(*cell) > inquiry.cheap]
    drawn = stream(f"verify/{inquiry.nonce}/{name}", 0).permutation(len(costly))[: inquiry.sample]
    left = {*costly} - {costly[place] for place in drawn}
    return [cell for place, cell in enumerate(cells) if place not in left]


def _seconds(subject: Subject, seed: int) -> float:
    """What a cell took, with its truth, as claimed."""
    cell = _claimed(subject, seed)
    return cell.exact_seconds + cell.seconds


def _claimed(subject: Subject, seed: int) -> Cell:
    return subject.result.cells[str(seed)]


# ---- computing again -------------------------------------------------------------------------------------------------
def verify(found: Sequence[Subject], inquiry: Inquiry, bar: MakeBar) -> Report:
    """Compute a sample of claims again, one cell of each estimator twice, and fresh seeds; nothing is written but the cache.

    Raises LoobenchError where no cell was chosen, and where data cannot be had.
    """
    chosen = choose(found, inquiry)
    if not chosen:
        raise LoobenchError("no cell was chosen to be computed again: raise --sample or --cheap")
    with machine.one_thread():
        here = _answers(_jobs(chosen, inquiry), inquiry, "claims", bar)
        fresh = _fresh_cells(chosen, here, inquiry)
        drawn = _answers(_jobs(fresh, inquiry), inquiry, "fresh seeds", bar)
        twice = _answers(_jobs(_twice(chosen, here), replace(inquiry, references=())), inquiry, "once more", bar)
    study = Study(inquiry, chosen, fresh, {**drawn, **here}, twice)
    return Report(
        tuple(_verified(one, study) for one in found),
        tuple(_beside(study)),
        {task: tuple(sorted({seed for one, seed in fresh if one.result.name == task})) for task in _names(fresh)},
        inquiry.nonce,
        f"all cells of at most {inquiry.cheap:g} s, and {inquiry.sample} of the others, of each estimator",
        inquiry.by,
        datetime.now(UTC).isoformat(timespec="seconds"),
        environment(found[0].result.device),
    )


def _jobs(cells: Chosen, inquiry: Inquiry) -> Jobs:
    """What is to be computed at each place: the estimators of the cells there, and the references."""
    jobs: Jobs = {}
    for subject, seed in cells:
        wanted = jobs.setdefault(_place(subject, seed), list(inquiry.references))
        wanted += [subject.estimator] * (subject.estimator.name not in {one.name for one in wanted})
    return jobs


def _place(subject: Subject, seed: int) -> Place:
    return Place(subject.task, subject.result.device, seed)


def _answers(jobs: Jobs, inquiry: Inquiry, text: str, bar: MakeBar) -> Found:
    """The cells of all jobs, with a progress bar."""
    warm: set[str] = set()
    with closing(bar(sum(map(len, jobs.values())), text, "cell")) as whole:
        found: Found = {}
        for place, wanted in jobs.items():
            found[place] = _answered(place, wanted, inquiry, warm, bar)
            whole.update(len(wanted))
    return found


def _answered(
    place: Place, wanted: Sequence[Estimator], inquiry: Inquiry, warm: set[str], bar: MakeBar
) -> dict[str, Cell] | str:
    """The cell of each estimator at one place, as `loobench run` computes it; or why there is no truth."""
    unused = inquiry.cache / "verify"  # nothing is written into a folder of results
    plan = Plan((), (), (), place.device, inquiry.cache, unused, "loobench verify", inquiry.means(place.device))
    try:
        case, empty, _ = opened(plan, place.task, place.seed, bar)
    except Diverged as error:
        return str(error)
    return {one.name: computed(plan, case, one, empty, warm) for one in wanted}


def _cell(found: Found, subject: Subject, seed: int, name: str = "") -> Cell | None:
    """A cell that was computed here, of the subject's estimator or another; None where it was not, or there is no truth."""
    cells = found.get(_place(subject, seed), "")
    return None if isinstance(cells, str) else cells.get(name or subject.estimator.name)


def _fresh_cells(chosen: Chosen, here: Found, inquiry: Inquiry) -> list[tuple[Subject, int]]:
    """Fresh seeds of each estimator's cheap tasks: those with a claim that holds an answer, here too."""
    answered = [(subject, cell) for subject, seed in chosen if (cell := _cell(here, subject, seed)) and cell.status == "ok"]
    found = []
    for name in _estimators(chosen):
        costs = {one.result.name: (cell.exact_seconds, one) for one, cell in answered if one.estimator.name == name}
        order = sorted(costs.values(), key=lambda cost: (cost[0], cost[1].result.name))
        cheap = [one for rank, (seconds, one) in enumerate(order) if seconds <= CHEAP_TRUTH or rank < CHEAPEST]
        found += [(one, seed) for one in cheap for seed in fresh_seeds(one.result.name, inquiry)]
    return found


def fresh_seeds(task: str, inquiry: Inquiry) -> list[int]:
    """The seeds of a task that the nonce decides: from 100, where those of the command line end, to 2**31 - 1."""
    random = stream(f"verify/{inquiry.nonce}/fresh/{task}", 0)
    drawn: dict[int, None] = {}
    while len(drawn) < inquiry.fresh:
        drawn[int(random.randint(FIRST_FRESH, LAST_FRESH + 1, dtype="int64"))] = None
    return list(drawn)


def _estimators(chosen: Chosen) -> list[str]:
    return list(dict.fromkeys(one.estimator.name for one, _ in chosen))


def _names(chosen: Chosen) -> list[str]:
    return list(dict.fromkeys(one.result.name for one, _ in chosen))


def _twice(chosen: Chosen, here: Found) -> list[tuple[Subject, int]]:
    """Of each estimator the cheapest cell with an answer, to be computed once more."""
    answered = [(one, seed, cell) for one, seed in chosen if (cell := _cell(here, one, seed)) and cell.status == "ok"]
    cheapest: dict[str, tuple[float, Subject, int]] = {}
    for one, seed, cell in answered:
        cost = (cell.exact_seconds + cell.seconds, one, seed)
        cheapest[one.estimator.name] = min(cost, cheapest.get(one.estimator.name, cost), key=lambda known: known[0])
    return [(one, seed) for _, one, seed in cheapest.values()]


# ---- verdicts --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Study:
    """All that was computed: the chosen cells, the fresh ones, what was found of both, and of the cells computed twice."""

    inquiry: Inquiry
    chosen: Chosen
    fresh: Chosen
    found: Found
    twice: Found

    def seeds(self, subject: Subject, *, fresh: bool = False) -> list[int]:
        """The seeds of one result that were computed."""
        return [seed for one, seed in (self.fresh if fresh else self.chosen) if one is subject]

    def cells(self, subject: Subject, *, fresh: bool = False) -> list[Cell]:
        """The cells of one result that were computed here."""
        return [cell for seed in self.seeds(subject, fresh=fresh) if (cell := _cell(self.found, subject, seed))]

    def scores(self, subject: Subject, seeds: Iterable[int], name: str = "") -> dict[int, float]:
        """Seed -> the score that ranks, the mean over queries, where there is one."""
        cells = ((seed, _cell(self.found, subject, seed, name)) for seed in seeds)
        found = ((seed, verdicts.value([cell], asked_of(subject.result.task))) for seed, cell in cells if cell)
        return {seed: score for seed, score in found if score is not None}


def _verified(subject: Subject, study: Study) -> Verified:
    """The verdict on one result."""
    again = [_again(subject, seed, study) for seed in study.seeds(subject)]
    name = subject.estimator.name
    found = [*_nondeterministic(name, study), *_suspicious(name, study), *_dearer(name, study), *_uncounted(name, study)]
    fresh = study.cells(subject, fresh=True)
    return verdicts.decide(subject.result, again, asked_of(subject.result.task), fresh, found)


def _again(subject: Subject, seed: int, study: Study) -> Again:
    cells = study.found[_place(subject, seed)]
    trouble = cells if isinstance(cells, str) else ""
    return Again(seed, _claimed(subject, seed), _cell(study.found, subject, seed), trouble)


def _nondeterministic(name: str, study: Study) -> Iterator[tuple[str, str]]:
    """Why an estimator is not deterministic, if it is not: on the CPU bits must repeat, on a GPU scores."""
    for subject, seed in study.chosen:
        one, other = _cell(study.found, subject, seed), _cell(study.twice, subject, seed)
        if subject.estimator.name != name or not one or not other or one.estimate == other.estimate:
            continue
        apart = [*verdicts.differences(one, other, asked_of(subject.result.task))]
        if subject.result.device == "cpu" or apart:
            said = f": {other.message}" if other.message else ""
            yield verdicts.FAILED, f"non-deterministic: two calls on {subject.result.name} seed {seed} differ{said}"


def _suspicious(name: str, study: Study) -> Iterator[tuple[str, str]]:
    """Why an estimator's answers to fresh seeds are not those to claimed ones, if they are not."""
    subjects = _subjects(name, study.fresh)
    answers = [found for one in subjects if (found := _answered_of(one, study))]
    failed = [cell for one in subjects for cell in study.cells(one, fresh=True) if cell.status != "ok"]
    why = ": ".join(filter(None, (failed[0].status, failed[0].message))) if failed else ""
    if reason := suspicions.answers_differ(answers, why):
        yield verdicts.FRESH, reason
    excesses = [found for one in subjects if (found := _excess(one, study))]
    if reason := suspicions.fresh_seeds_differ(excesses):
        yield verdicts.FRESH, reason


def _answered_of(subject: Subject, study: Study) -> Excess | None:
    """Which seeds have an answer here; None without claimed or fresh ones."""
    known = [study.cells(subject, fresh=fresh) for fresh in (False, True)]
    claimed, fresh = (tuple(float(cell.status == "ok") for cell in cells) for cells in known)
    return Excess(subject.result.name, claimed, fresh) if claimed and fresh else None


def _dearer(name: str, study: Study) -> Iterator[tuple[str, str]]:
    """Why an estimator's costs are not the claimed ones, if they are not: on claimed seeds, or on fresh ones."""
    measures = {"cost": verdicts.cost, "counted work": verdicts.counted}
    for what, measure in measures.items():
        for where, fresh in (("on the claimed seeds", False), ("on fresh seeds", True)):
            definition = [one for subject in _subjects(name, study.chosen) if (one := _spent(subject, study, measure, fresh))]
            if reason := suspicions.costs_differ(what, where, definition):
                yield verdicts.COST, reason


def _spent(subject: Subject, study: Study, measure: Callable[[Sequence[Cell]], float | None], fresh: bool) -> Spent | None:
    """What a result claims to take and what it took here; None where one of them is not known."""
    claimed = measure([_claimed(subject, seed) for seed in study.seeds(subject)])
    here = measure(study.cells(subject, fresh=fresh))
    return None if claimed is None or here is None else Spent(subject.result.name, claimed, here)


def _uncounted(name: str, study: Study) -> Iterator[tuple[str, str]]:
    """Why an estimator's counts are not all of its work, where its claims do not say so."""
    for subject in _subjects(name, study.chosen):
        here = any("uncounted" in cell.notes for fresh in (False, True) for cell in study.cells(subject, fresh=fresh))
        if here and _could_say(subject) and not any("uncounted" in cell.notes for cell in subject.result.cells.values()):
            yield verdicts.COST, f"on {subject.result.name} it takes derivatives that it does not count, and does not say so"
            return


def _could_say(subject: Subject) -> bool:
    """Whether a claim is of a version that notes such derivatives: all but results in a folder, whose manifest guards them."""
    versions = [subject.result.provenance[cell.provenance]["loobench"] for cell in subject.result.cells.values()]
    return subject.folder is None or any(_numbers(version) >= SEEING for version in versions)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _subjects(name: str, cells: Chosen) -> list[Subject]:
    return [one for one in {id(one): one for one, _ in cells}.values() if one.estimator.name == name]


def _excess(subject: Subject, study: Study) -> Excess | None:
    """Scores less those of the references, the estimator itself not among them."""
    claimed, fresh = study.seeds(subject), study.seeds(subject, fresh=True)
    others = [one.name for one in study.inquiry.references if one.name != subject.estimator.name]
    beside = [study.scores(subject, [*claimed, *fresh], name) for name in others]
    return suspicions.excess(subject.result.name, study.scores(subject, [*claimed, *fresh]), beside, claimed, fresh)


def _beside(study: Study) -> Iterator[Beside]:
    """What each reference scores on the tasks of the chosen cells, where it answers them."""
    own = {one.estimator.name for one, _ in study.chosen}
    for task in _names(study.chosen):
        some = [next(cell[0] for cell in study.chosen if cell[0].result.name == task)]
        claimed, fresh = ([seed for one, seed in cells if one.result.name == task] for cells in (study.chosen, study.fresh))
        for name in (one.name for one in study.inquiry.references[:SHOWN] if one.name not in own):
            means = [verdicts.mean(list(study.scores(some[0], {*seeds}, name).values())) for seeds in (claimed, fresh)]
            if means != [None, None]:
                yield Beside(task, name, means[0], means[1])


# ---- written ---------------------------------------------------------------------------------------------------------
def refuse_taken(found: Sequence[Subject], folder: Path) -> None:
    """Raise LoobenchError where a folder of results has another result in the place of one of a bundle."""
    for one in found:
        at = results.path(one.result, folder)
        if one.folder is None and at.exists() and results.load(at).substance != one.result.substance:
            raise LoobenchError(
                f"{at} is there, and is not the result of the bundle: move it away, or choose another --results"
            )


def save(found: Sequence[Subject], report: Report, folder: Path | None) -> list[Path]:
    """Write the verifications into result files in their place, and a bundle's results, verified or not, into `folder`.

    Returns what was written. Raises LoobenchError where a file is no longer what was verified; that one is left.
    """
    written = []
    for one, verified in zip(found, report.verified, strict=True):
        place = one.folder or folder
        if place and (verified.verdict or not one.folder):
            written.append(_save(replace(one.result, verified=verification(verified, report)), place))
    return written


def _save(result: Result, folder: Path) -> Path:
    at = results.path(result, folder)
    with results.changing(at, folder):
        if at.exists() and results.load(at).substance != result.substance:
            raise LoobenchError(f"{at} was changed while it was verified and is left as it is: repeat `loobench verify`")
        return results.save(result, folder)


def verification(one: Verified, report: Report) -> Verification | None:
    """A verdict as result files have it; None where no seed was computed again."""
    if not one.verdict:
        return None
    return Verification(
        verdict=one.verdict,
        value=one.value,
        fresh=one.fresh,
        largest_difference=one.largest_difference,
        seeds=[str(seed) for seed in one.seeds],
        nonce=report.nonce,
        by=report.by,
        when=report.when,
        environment=report.environment,
        of=one.result.substance,
    )


def environment(device: str) -> str:
    """System, processor, Python and torch, in words."""
    facts = machine.provenance("", device, "")
    return f"{facts['system']}, {facts['device']}, Python {facts['python']}, torch {facts['torch']}"
