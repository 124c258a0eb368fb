"""Claims computed again on this machine, so that nobody has to trust who makes them (docs/verification.md)."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmark.base import machine
from benchmark.base.errors import Diverged, LoobenchError
from benchmark.core.declaration import Estimator
from benchmark.running.cell import Setup, computed, opened
from benchmark.scores import store
from benchmark.scores.results import Cell, Result, Verification
from benchmark.scores.store import Store
from benchmark.submissions.inquiry import (
    Chosen,
    Found,
    Inquiry,
    Place,
    cheapest_cells,
    choose,
    fresh_cells,
    place_of,
    task_names,
)
from benchmark.submissions.judgement import Study, judged, references_beside
from benchmark.submissions.subjects import Subject
from benchmark.submissions.verdicts import Report, Verified
from benchmark.truths.truth import MakeBar

Jobs = dict[Place, list[Estimator]]


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
        fresh = fresh_cells(chosen, here, inquiry)
        drawn = _answers(_jobs(fresh, inquiry), inquiry, "fresh seeds", bar)
        twice = _answers(_jobs(cheapest_cells(chosen, here), replace(inquiry, references=())), inquiry, "once more", bar)
    study = Study(inquiry, chosen, fresh, {**drawn, **here}, twice)
    return Report(
        tuple(judged(one, study) for one in found),
        tuple(references_beside(study)),
        {task: tuple(sorted({seed for one, seed in fresh if one.result.name == task})) for task in task_names(fresh)},
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
        wanted = jobs.setdefault(place_of(subject, seed), list(inquiry.references))
        wanted += [subject.estimator] * (subject.estimator.name not in {one.name for one in wanted})
    return jobs


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
    setup = Setup(place.device, inquiry.cache, "loobench verify", inquiry.means(place.device))
    try:
        case = opened(setup, place.task, place.seed, bar)
    except Diverged as error:
        return str(error)
    return {one.name: computed(setup, case, one, warm) for one in wanted}


# ---- written ---------------------------------------------------------------------------------------------------------
def refuse_taken(found: Sequence[Subject], folder: Path) -> None:
    """Raise LoobenchError where a folder of results has another result in the place of one of a bundle."""
    for one in found:
        at = Store(folder).at(one.result)
        if one.folder is None and at.exists() and store.load(at).substance != one.result.substance:
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
    place = Store(folder)
    with place.lock(at := place.at(result)):
        if at.exists() and store.load(at).substance != result.substance:
            raise LoobenchError(f"{at} was changed while it was verified and is left as it is: repeat `loobench verify`")
        return place.keep(result)


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
