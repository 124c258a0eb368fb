"""What the cells computed again say of each result: its verdict, and what the references score beside it."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmark.base.places import publication
from benchmark.scores.results import Cell
from benchmark.submissions import suspicions, verdicts
from benchmark.submissions.inquiry import Chosen, Found, Inquiry, cell_of, claimed_cell, place_of, task_names
from benchmark.submissions.subjects import Subject
from benchmark.submissions.suspicions import Excess, Spent
from benchmark.submissions.verdicts import Again, Beside, Verified
from benchmark.tasks.questions import asked_of

SEEING = 0, 8  # the version that notes derivatives which an estimator takes past the counters
SHOWN = 2  # references, beside a verdict


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
        return [cell for seed in self.seeds(subject, fresh=fresh) if (cell := cell_of(self.found, subject, seed))]

    def scores(self, subject: Subject, seeds: Iterable[int], name: str = "") -> dict[int, float]:
        """Seed -> the score that ranks, the mean over queries, where there is one."""
        cells = ((seed, cell_of(self.found, subject, seed, name)) for seed in seeds)
        found = ((seed, verdicts.value([cell], asked_of(subject.result.task))) for seed, cell in cells if cell)
        return {seed: score for seed, score in found if score is not None}


def judged(subject: Subject, study: Study) -> Verified:
    """The verdict on one result."""
    again = [_again(subject, seed, study) for seed in study.seeds(subject)]
    name = subject.estimator.name
    found = [*_nondeterministic(name, study), *_suspicious(name, study), *_costlier(name, study), *_uncounted(name, study)]
    fresh = study.cells(subject, fresh=True)
    return verdicts.decide(subject.result, again, asked_of(subject.result.task), fresh, found)


def _again(subject: Subject, seed: int, study: Study) -> Again:
    cells = study.found[place_of(subject, seed)]
    trouble = cells if isinstance(cells, str) else ""
    return Again(seed, claimed_cell(subject, seed), cell_of(study.found, subject, seed), trouble)


def _nondeterministic(name: str, study: Study) -> Iterator[tuple[str, str]]:
    """Why an estimator is not deterministic, if it is not: on the CPU bits must repeat, on a GPU scores."""
    for subject, seed in study.chosen:
        one, other = cell_of(study.found, subject, seed), cell_of(study.twice, subject, seed)
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


def _costlier(name: str, study: Study) -> Iterator[tuple[str, str]]:
    """Why an estimator's costs are not the claimed ones, if they are not: on claimed seeds, or on fresh ones."""
    measures = {"cost": verdicts.cost, "counted work": verdicts.counted}
    for what, measure in measures.items():
        for where, fresh in (("on the claimed seeds", False), ("on fresh seeds", True)):
            spent = [one for subject in _subjects(name, study.chosen) if (one := _spent(subject, study, measure, fresh))]
            if reason := suspicions.costs_differ(what, where, spent):
                yield verdicts.COST, reason


def _spent(subject: Subject, study: Study, measure: Callable[[Sequence[Cell]], float | None], fresh: bool) -> Spent | None:
    """What a result claims to take and what it took here; None where one of them is not known."""
    claimed = measure([claimed_cell(subject, seed) for seed in study.seeds(subject)])
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
    """Whether a claim is of a version that notes such derivatives: all but what is published, whose manifest guards it."""
    if subject.folder is None or publication(subject.folder) is None:
        return True
    facts = (subject.result.provenance[cell.provenance] for cell in subject.result.cells.values())
    return any(_numbers(str(one.get("loobench", ""))) >= SEEING for one in facts)


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


def references_beside(study: Study) -> Iterator[Beside]:
    """What each reference scores on the tasks of the chosen cells, where it answers them."""
    own = {one.estimator.name for one, _ in study.chosen}
    for task in task_names(study.chosen):
        some = [next(cell[0] for cell in study.chosen if cell[0].result.name == task)]
        claimed, fresh = ([seed for one, seed in cells if one.result.name == task] for cells in (study.chosen, study.fresh))
        for name in (one.name for one in study.inquiry.references[:SHOWN] if one.name not in own):
            means = [verdicts.mean(list(study.scores(some[0], {*seeds}, name).values())) for seeds in (claimed, fresh)]
            if means != [None, None]:
                yield Beside(task, name, means[0], means[1])
