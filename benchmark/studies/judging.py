"""Which published figures come out: the rule that judges each by ours, and shapes of curves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmark.scores.numbers import mean
from benchmark.studies.published import METHODS, PUBLISHED, SECOND_ORDER, Published

Figures = dict[str, list[float | None]]  # metric -> H values
Scores = Mapping[tuple[str, str], Mapping[int, Figures]]  # of a task and an estimator, by seed
SLACK, WIDEST, RUNS, ENOUGH = 0.03, 0.1, 30, 5
REPRODUCED, NOT_REFUTED, NOT_REPRODUCED = "reproduced", "not refuted", "not reproduced"
NOT_COMPARABLE, TOO_FEW, NOT_RUN = "not comparable", "too few seeds", "not run"
RULE = f"""\
Ours is the mean over seeds with its 95 % interval (Student's t over seeds). A figure is *reproduced* where it lies in our
interval as measured and the interval reaches no more than {WIDEST} to either side. It is *not refuted* where that interval is
wider and holds it, so that it cannot tell; or where only a widened interval holds it: one that reaches {SLACK} at least, or as
far as ours and twice the published standard error (the published standard deviation, where there is one, over the root of
{RUNS} runs), but no more than {WIDEST}. A relative gain whose interval holds both the figure and 0 is not refuted either; for
gains {WIDEST} are {100 * WIDEST:.0f} percentage points. A figure read as "at least" or "at most" is met by all on its side of
it, and reproduced where the whole interval is there. A direction is reproduced where our mean has its sign and our interval
does not hold 0, and not refuted where it holds 0. All else is *not reproduced*. One seed decides nothing; fewer than
{ENOUGH} can reproduce a figure, else there are *too few seeds*. A figure is *not comparable* where it is of other data or of
another protocol, and *not run* where results are missing."""


@dataclass(frozen=True)
class Finding:
    """A published figure, ours for each seed, and the verdict with its reason."""

    published: Published
    ours: list[float]
    verdict: str
    reason: str


def judge(published: Published, ours: Sequence[float]) -> Finding:
    """The verdict on a published value v by our values (n,), one for each seed, of mean m and half 95 % interval h.

    With ``a = |m - v|``, for "at least" ``v - m``, for "at most" ``m - v``: reproduced where ``a <= h <= .1``, of a gain also
    ``|m| > h``, or where all of the interval is on the side of a bound, ``a <= -h``. Not refuted where ``a <= h`` otherwise, or
    ``a <= max(.03, min(.1, h + 2 s / sqrt(30)))``, s the published deviation. A direction or its control: reproduced where
    ``|m| > h`` with the sign of v, a control's being negative; not refuted where ``|m| <= h``. Else not reproduced. Below n = 5
    what is not reproduced has too few seeds; without a value it is not run.
    """
    if published.comparable:
        return Finding(published, [*ours], NOT_COMPARABLE, published.comparable)
    if not ours:
        return Finding(published, [], NOT_RUN, f"`loobench reproduce {published.paper}`")
    rule = _alone if len(ours) == 1 else _sign if published.kind in ("direction", "control") else _nearness
    verdict, reason = rule(published, ours)
    if verdict == REPRODUCED or len(ours) >= ENOUGH:
        return Finding(published, [*ours], verdict, reason)
    return Finding(published, [*ours], TOO_FEW, f"{reason}: `loobench reproduce {published.paper} --seeds {ENOUGH}`")


def _alone(_published: Published, _ours: Sequence[float]) -> tuple[str, str]:
    return NOT_REFUTED, "one seed has no interval"


def _nearness(published: Published, ours: Sequence[float]) -> tuple[str, str]:
    found, half = mean(ours), half_width(ours)
    beyond = _beyond(published, found)
    widened = max(SLACK, min(WIDEST, half + 2 * (published.deviation or 0) / RUNS**0.5))
    if published.kind.startswith("at ") and beyond <= -half:
        return REPRODUCED, "our whole interval is on its side"
    if beyond > max(half, widened):
        return NOT_REPRODUCED, f"off by {beyond:.3f}, our interval reaches {half:.3f}, the widened one {widened:.3f}"
    if beyond > half:
        return NOT_REFUTED, f"within the widened interval alone: off by {beyond:.3f}, ours reaches {half:.3f}"
    if half > WIDEST:
        return NOT_REFUTED, f"our interval is too wide to tell: it reaches {half:.3f}"
    if published.kind == "gain" and abs(found) <= half:
        return NOT_REFUTED, "our interval holds 0 too"
    if published.kind.startswith("at "):
        return NOT_REFUTED, "our interval reaches to both sides of it"
    return REPRODUCED, "within our interval"


def _beyond(published: Published, found: float) -> float:
    """How far ours is from a figure, or beyond a bound: below 0 on its side."""
    value = published.value or 0.0
    return {"at least": value - found, "at most": found - value}.get(published.kind, abs(found - value))


def _sign(published: Published, ours: Sequence[float]) -> tuple[str, str]:
    found, half = mean(ours), half_width(ours)
    if abs(found) <= half:
        return NOT_REFUTED, "our interval holds 0"
    same = found * (-1.0 if published.value is None else published.value) > 0
    return (REPRODUCED, "the sign alone is judged") if same else (NOT_REPRODUCED, "our interval is on the other side of 0")


def ours(published: Published, scores: Scores) -> list[float]:
    """Our values, one for each seed with all that it needs: a metric, or of a gain ``(a - b) / |b|`` of two estimators."""
    found = _averaged(published, published.estimator, scores)
    if not published.against:
        return [found[seed] for seed in sorted(found)]
    other = _averaged(published, published.against, scores)
    return [(found[s] - other[s]) / abs(other[s]) for s in sorted(found.keys() & other.keys()) if other[s]]


def _averaged(published: Published, estimator: str, scores: Scores) -> dict[int, float]:
    """The mean over the tasks, of each seed that has all."""
    each = [_at_horizon(scores.get((task, estimator), {}), published) for task in published.tasks]
    seeds = set.intersection(*({*found} for found in each))
    return {seed: mean([found[seed] for found in each]) for seed in seeds}


def _at_horizon(cells: Mapping[int, Figures], published: Published) -> dict[int, float]:
    pick: dict[str, Callable[[list[float]], float]] = {"first": lambda v: v[0], "last": lambda v: v[-1], "mean": mean}
    known = {seed: figures.get(published.metric, []) for seed, figures in cells.items()}
    whole = {seed: [v for v in values if v is not None] for seed, values in known.items()}
    return {
        seed: pick[published.horizon](values) for seed, values in whole.items() if values and len(values) == len(known[seed])
    }


def findings(paper: str, scores: Scores) -> list[Finding]:
    """All published figures of a paper, judged."""
    return [judge(published, ours(published, scores)) for published in PUBLISHED if published.paper == paper]


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean by Student's t; NaN for fewer than two values."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else np.nan


def shape(scores: Scores, task: str) -> tuple[str, str]:
    """The verdict on the decay of first-order methods on a final-model task, and its reason."""
    found = {name: ends_of(scores, task, name) for name in METHODS}
    means = {name: (mean([a for a, _ in ends]), mean([b for _, b in ends])) for name, ends in found.items() if len(ends) > 1}
    second = {name: ends for name, ends in means.items() if name in SECOND_ORDER}
    if "grad-dot" not in means or not second:
        few = bool(found["grad-dot"])
        return (TOO_FEW, "one seed decides nothing") if few else (NOT_RUN, "`loobench reproduce wei2025`")
    first, last = means["grad-dot"]
    if last >= first:
        return NOT_REPRODUCED, "grad-dot does not fall"
    better = [name for name, (start, end) in second.items() if end > last or end - start > last - first]
    best = max(second, key=lambda name: second[name][1])
    told = f"grad-dot {last - first:+.3f}; {best} ends at {second[best][1]:.3f} against its {last:.3f}"
    return (REPRODUCED if better else NOT_REPRODUCED), told


def ends_of(scores: Scores, task: str, estimator: str) -> list[tuple[float, float]]:
    """Cosine at the first and last horizon, of each seed."""
    curves = [cell.get("cosine", []) for _, cell in sorted(scores.get((task, estimator), {}).items())]
    return [(v[0], v[-1]) for v in curves if v and v[0] is not None and v[-1] is not None]
