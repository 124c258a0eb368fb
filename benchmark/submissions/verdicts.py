"""What computing claims again says of them: verdicts from numbers, and how they are shown. Nothing is run or read here.

A claimed cell is confirmed where the one computed here has its status, and

- the score that ranks: within `MEAN` as the mean over queries, at every horizon, and within `QUERY` of each query;
- metrics that are correlations or cosines: within `QUERY` at every horizon;
- metrics that count samples: within `COUNTED`, since one swapped tie changes a set of ten by a tenth;
- metrics in units of loss, and scores of uses: within a part `RELATIVE` of the larger (uses: and `USED` more);
- counts of gradients and Hessian products: within a part `COUNTS`, as an iterative solver may stop some steps later;
- the points of figures within `POINTS`, the weight decay within a part `DECAY`.

Another machine's last bits may swap ties, and nothing else should differ. Memory is not judged; nor are the digests of truths
and estimates, which name last bits.

What fresh seeds say is judged by suspicions.py: a verdict of its own, as are costs above the claimed ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import isfinite

import numpy as np
from tabulate import tabulate

from benchmark.base.text import line as printable
from benchmark.base.text import markdown as escaped
from benchmark.scores.metrics import METRICS
from benchmark.scores.results import FAILURES, VERDICTS, Cell, Result
from benchmark.submissions.suspicions import FAR, TIME
from benchmark.tasks.questions import Question

MEAN, QUERY = 0.001, 0.01
COUNTED = {"sign_agreement": 0.05, **{name: 0.2 for name in METRICS if name.startswith("jaccard")}}
RELATIVE, USED, COUNTS, POINTS, DECAY = 0.05, 0.02, 0.5, 0.02, 1e-3
ROUNDING = 1e-9  # of the comparison itself
VERIFIED, DIFFERS, FRESH, FAILED, COST = VERDICTS
WORST_LAST = (VERIFIED, COST, FRESH, DIFFERS, FAILED)
MOST = 3  # reasons told of one cell


@dataclass(frozen=True)
class Again:
    """A cell as claimed, and as computed here; None where there is no truth here, and `trouble` says why."""

    seed: int
    claimed: Cell
    here: Cell | None
    trouble: str = ""


@dataclass(frozen=True)
class Verified:
    """What computing a result again gave. `verdict` is None where no seed of it was sampled."""

    result: Result
    verdict: str | None
    value: float | None  # mean over the seeds computed again, and queries, of the score that ranks
    fresh: float | None  # the same over the fresh seeds
    largest_difference: float | None  # between a claimed score of a query and the one computed here
    seeds: tuple[int, ...]  # those computed again
    detail: str  # reasons, one after another
    claimed: float | None = None  # over all its seeds
    costs: tuple[float | None, ...] = ()  # over exact retraining, mean over seeds: claimed, here on the same, and on fresh ones


@dataclass(frozen=True)
class Beside:
    """What a reference scores on a task, on the claimed seeds that were computed again and on the fresh ones."""

    task: str
    estimator: str
    value: float | None
    fresh: float | None


@dataclass(frozen=True)
class Report:
    """All that was verified at once, and by which rules."""

    verified: tuple[Verified, ...]
    references: tuple[Beside, ...]
    fresh_seeds: Mapping[str, tuple[int, ...]]  # by task
    nonce: str
    sampled: str  # how, in words
    by: str
    when: str
    environment: str

    @property
    def verdict(self) -> str:
        """The worst of the verdicts."""
        return max((one.verdict for one in self.verified if one.verdict), key=WORST_LAST.index, default=FAILED)


# ---- scores ----------------------------------------------------------------------------------------------------------
def ranked(cell: Cell, asked: type[Question]) -> list[float | None]:
    """The score that ranks, of each query; one value, the mean, where those of the queries are not known."""
    curve = cell.scores.get(asked.primary) or [None]
    return cell.by_query or [mean(curve) if asked.throughout else curve[-1]]


def mean(values: Sequence[float | None]) -> float | None:
    """Mean; None of none, and where one is not known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def value(cells: Sequence[Cell], asked: type[Question]) -> float | None:
    """The mean over seeds and queries of the score that ranks, of the cells that have one; None without any."""
    known = [one for cell in cells if cell.status == "ok" for one in ranked(cell, asked) if one is not None]
    return float(f"{np.mean(known):.6g}") if known else None


def largest_difference(pairs: Sequence[tuple[Cell, Cell]], asked: type[Question]) -> float | None:
    """The largest absolute difference between scores of a query that both of a pair have; None without any."""
    both = [pair for one in pairs for pair in zip(*(ranked(cell, asked) for cell in one), strict=False)]
    found = [abs(a - b) for a, b in both if a is not None and b is not None]
    return float(f"{max(found):.6g}") if found else None


# ---- one cell --------------------------------------------------------------------------------------------------------
def differences(claimed: Cell, here: Cell, asked: type[Question]) -> Iterator[str]:
    """What differs by more than the tolerances between a claimed cell and the same computed here."""
    if claimed.status != here.status:
        said = f": {here.message}" if here.message else ""
        yield f"claimed {claimed.status}, here {here.status}{said}"
        return
    yield from _of_ranking(claimed, here, asked)
    for name in sorted({*claimed.scores, *here.scores}):
        pairs = zip_longest(claimed.scores.get(name, ()), here.scores.get(name, ()))
        yield from (_told(name, *pair) for pair in pairs if _apart(*pair, _allowed(name, *pair, asked)))
    yield from _of_counts(claimed, here)


def _of_ranking(claimed: Cell, here: Cell, asked: type[Question]) -> Iterator[str]:
    ours, theirs = ranked(here, asked), ranked(claimed, asked)
    if claimed.by_query and len(ours) != len(theirs):
        yield f"scores of {len(theirs)} queries are claimed, there are {len(ours)}"
        return
    if claimed.by_query:
        pairs = zip(theirs, ours, strict=True)
        yield from (_told(f"query {q}", *pair) for q, pair in enumerate(pairs) if _apart(*pair, QUERY))
    means = value([claimed], asked), value([here], asked)
    if _apart(*means, MEAN):
        yield _told("the score that ranks", *means)


def _of_counts(claimed: Cell, here: Cell) -> Iterator[str]:
    for name in ("gradients", "hessian_products", "exact_gradients"):
        pair = float(getattr(claimed, name)), float(getattr(here, name))
        if _apart(*pair, 0 if name == "exact_gradients" else COUNTS * max(pair)):
            yield _told(name.replace("_", " "), *pair)
    if _apart(claimed.weight_decay, here.weight_decay, DECAY * here.weight_decay):
        yield _told("weight decay", claimed.weight_decay, here.weight_decay)
    points = list(zip_longest(claimed.points, here.points)) if claimed.points else []
    if any(_apart(*pair, POINTS * max(1.0, *(abs(one or 0.0) for one in pair))) for pair in points):
        yield "the points of figures differ"


def _allowed(name: str, one: float | None, other: float | None, asked: type[Question]) -> float:
    """The largest difference of a metric between machines that compute alike."""
    larger = max(abs(one or 0.0), abs(other or 0.0))
    if name == asked.primary:
        return MEAN
    if name not in METRICS:
        return RELATIVE * larger + USED
    if not isfinite(METRICS[name].best) or not isfinite(METRICS[name].worst):
        return RELATIVE * larger
    return COUNTED.get(name, QUERY)


def _apart(one: float | None, other: float | None, allowed: float) -> bool:
    """Whether two values differ by more than is allowed, or one is known and the other is not."""
    if one is None or other is None:
        return one is not other
    return abs(one - other) > allowed + ROUNDING


def _told(what: str, claimed: float | None, here: float | None) -> str:
    shown = ["none" if one is None else f"{one:.6g}" for one in (claimed, here)]
    return f"{what}: claimed {shown[0]}, here {shown[1]}"


def cell_verdict(again: Again, asked: type[Question]) -> tuple[str, str]:
    """The verdict on one cell, and why.

    "failed" where what is claimed to be an answer fails here, or there is no truth here; "differs" where anything else differs.
    """
    if again.here is None:
        return FAILED, f"seed {again.seed}: no truth here: {again.trouble}"
    found = list(differences(again.claimed, again.here, asked))
    if not found:
        return VERIFIED, ""
    more = f"; and {len(found) - MOST} more" if len(found) > MOST else ""
    broken = again.claimed.status == "ok" and again.here.status in FAILURES
    return FAILED if broken else DIFFERS, f"seed {again.seed}: {'; '.join(found[:MOST])}{more}"


# ---- one result ------------------------------------------------------------------------------------------------------
def decide(
    result: Result,
    found: Sequence[Again],
    asked: type[Question],
    fresh: Sequence[Cell] = (),
    suspicions: Sequence[tuple[str, str]] = (),
) -> Verified:
    """The verdict on a result: the worst on its cells as computed again, and of those on its estimator, each with its reason.

    None without a cell that was computed again. `fresh`: its cells on fresh seeds.
    """
    claimed = result.claimed.value if result.claimed else value(list(result.cells.values()), asked)
    pairs = [(again.claimed, again.here) for again in found if again.here]
    verdicts = [cell_verdict(again, asked) for again in found]
    stated = value(list(result.cells.values()), asked)
    if found and _apart(claimed, stated, MEAN):
        verdicts.append((DIFFERS, _told("the claimed value", claimed, stated) + " by its own cells"))
    verdicts += suspicions
    verdict = max((one for one, _ in verdicts), key=WORST_LAST.index) if found else None
    reasons = [*(why for _, why in verdicts if why), *_other_bits(found)]
    detail = "; ".join(reasons) if found else "no seed was sampled"
    here = value([cell for _, cell in pairs], asked)
    largest = largest_difference(pairs, asked)
    seeds, costs = tuple(again.seed for again in found), _costs(pairs, fresh)
    return Verified(result, verdict, here, value(fresh, asked), largest, seeds, detail, claimed, costs)


def _other_bits(found: Sequence[Again]) -> Iterator[str]:
    """What is told, and is no fault: truths whose last bits this machine computes otherwise."""
    known = [(again, again.here) for again in found if again.here]
    if seeds := [str(again.seed) for again, here in known if again.claimed.truth != here.truth]:
        yield f"the truth has other last bits here (seed {', '.join(seeds)})"


def _costs(pairs: Sequence[tuple[Cell, Cell]], fresh: Sequence[Cell]) -> tuple[float | None, ...]:
    """Mean costs over exact retraining: claimed, here on the same seeds, and on fresh ones."""
    both = [pair for pair in pairs if all(cell.status == "ok" for cell in pair)]
    return *(cost([pair[side] for pair in both]) for side in (0, 1)), cost(fresh)


def cost(cells: Sequence[Cell]) -> float | None:
    """The mean time over that of exact retraining, of the cells that have an answer; None without any."""
    return mean([cell.relative_cost for cell in cells if cell.status == "ok"])


def counted(cells: Sequence[Cell]) -> float | None:
    """The mean of counted gradients and Hessian products over the gradients of exact retraining; None without any."""
    return mean([(cell.gradients + cell.hessian_products) / cell.exact_gradients for cell in cells if cell.status == "ok"])


# ---- shown -----------------------------------------------------------------------------------------------------------
HEADERS = ("task", "estimator", "claimed", "verified", "fresh", "largest difference", "cost claimed/here/fresh", "verdict")
UNSAMPLED = "not sampled"


def lines(report: Report) -> list[list[str]]:
    """The strings of table rows, one for each result."""
    return [_line(one) for one in report.verified]


def _line(one: Verified) -> list[str]:
    figures = [_figure(number) for number in (one.claimed, one.value, one.fresh)]
    largest = "" if one.largest_difference is None else f"{one.largest_difference:.1e}"
    costs = "/".join(f"{cost:.2g}" for cost in one.costs if cost is not None)
    return [one.result.name, one.result.estimator.name, *figures, largest, costs, one.verdict or UNSAMPLED]


def _figure(number: float | None) -> str:
    return "" if number is None else f"{number:.4f}"


def below(report: Report) -> str:
    """What stands below the table on a terminal: the reasons, and the verdict in the last line."""
    told = [f"{one.result.name} {one.result.estimator.name}: {one.detail}" for one in report.verified if _worth(one)]
    parts = ["", *map(printable, told), *([""] if told else [])]
    return "\n".join([*parts, f"nonce {report.nonce}; {report.sampled}", f"verdict: {report.verdict}"])


def _worth(one: Verified) -> bool:
    """Whether its detail says more than its row."""
    return bool(one.detail) and one.verdict is not None


def markdown(report: Report) -> str:
    """All as a Markdown page: verdict, table with the references' rows, reasons, rules. Strangers' text is escaped."""
    rows = [[*map(escaped, line[:2]), *line[2:]] for line in lines(report)]
    sampled = {one.result.name for one in report.verified if one.seeds}
    rows += [_reference(one) for one in report.references if one.task in sampled]
    rows.sort(key=lambda row: row[0])
    told = [
        f"- {escaped(one.result.name)}, {escaped(one.result.estimator.name)}: {escaped(one.detail)}"
        for one in report.verified
        if _worth(one)
    ]
    body = tabulate(rows, HEADERS, tablefmt="pipe", disable_numparse=True)
    return "\n".join([f"## Verdict: {report.verdict}", "", body, "", *told, *([""] if told else []), _rules(report)]) + "\n"


def _reference(one: Beside) -> list[str]:
    return [escaped(one.task), f"{escaped(one.estimator)} (reference)", "", _figure(one.value), _figure(one.fresh), "", "", ""]


def _rules(report: Report) -> str:
    """What was computed by which rules, in Markdown."""
    names = [(f"{one.result.name} {one.result.estimator.name}", one.seeds) for one in report.verified if one.seeds]
    again = ", ".join(f"{escaped(name)} {_numbers(seeds)}" for name, seeds in names)
    fresh = ", ".join(f"{escaped(task)} {_numbers(seeds)}" for task, seeds in report.fresh_seeds.items()) or "none"
    return "\n".join(
        [
            f"Computed again: {report.sampled}. Seeds: {again or 'none'}. Fresh seeds: {fresh}. Nonce: `{report.nonce}`.",
            "",
            f"Tolerance: {MEAN} on the score that ranks, {QUERY} on that of one query; fresh seeds may score {FAR} standard "
            "errors less than claimed ones, beyond what the references lose; cost may be "
            f"{TIME[0]:g} times the claimed one over all tasks, {TIME[1]:g} times on one (docs/verification.md).",
            "",
            f"By {escaped(report.by)}, {escaped(report.when)}, on {escaped(report.environment)}.",
        ]
    )


def _numbers(seeds: Sequence[int]) -> str:
    return f"({', '.join(map(str, seeds))})"
