"""Published figures beside ours, and which of them come out; and what two defects of published code do to figures."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats
from tabulate import tabulate
from torch import Tensor

from benchmark.base import files, machine
from benchmark.base.errors import Diverged, LoobenchError
from benchmark.base.files import json_digest, read
from benchmark.core.problem import GroundTruth, Trajectory
from benchmark.core.registry import Estimator, registered
from benchmark.retraining import chunks
from benchmark.retraining.chunks import FREE, Means
from benchmark.retraining.readout import reader
from benchmark.retraining.shifts import ACC, Shifts
from benchmark.retraining.train import departures, fold, left_out
from benchmark.running.evaluate import Failure, estimate
from benchmark.running.run import Outcome, Plan, Trouble, execute, superseded
from benchmark.scores import metrics, results
from benchmark.scores.numbers import mean
from benchmark.studies.published import DECAYS, KOH_LIANG, METHODS, OTHER_DATA, PAPERS, PUBLISHED, SECOND_ORDER, Published
from benchmark.tasks import suites
from benchmark.tasks.definition import Task, build
from benchmark.truths import truth
from benchmark.truths.truth import MakeBar

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


# ---- the rule --------------------------------------------------------------------------------------------------------
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


# ---- what is there, and what is not ----------------------------------------------------------------------------------
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


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean by Student's t; NaN for fewer than two values."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else np.nan


def _result_file(task: Task, estimator: str, folder: Path) -> results.Result | None:
    at = folder / task.name / results.file_name(estimator)
    found = results.load(at) if at.exists() else None
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
            device="cpu",
            cache=study.cache,
            results=study.results,
            command=study.command,
            means=study.means,
            by=study.by,
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
            _keep(extra, task, study.figures, {**kept(extra, task, study.figures), seed: found})


# ---- figures that no result file has ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Extra:
    """Figures of estimators that are not registered, by name: computed on the cache's truths, kept as JSON beside the page."""

    name: str
    paper: str
    tasks: Callable[[], list[Task]]
    figures: Callable[[Task, int, Trajectory, GroundTruth, Path], dict[str, Figures]]
    built_on: tuple[str, ...]  # registered estimators
    seeds: int | None = None  # by default; None: those of the suite
    version: int = 1  # to be raised where what is computed changes

    def digest(self, task: Task) -> str:
        """Digest of all that decides the figures of a task."""
        used = [registered()[name].identity() for name in self.built_on]
        return json_digest([self.name, self.version, task.digest(), used])


def kept(extra: Extra, task: Task, folder: Path, *, current: bool = True) -> dict[int, dict[str, Figures]]:
    """The figures kept of a task, by seed; none where they are of another task or, `current`, of other code."""
    at = _place(extra, task, folder)
    try:
        content = json.loads(read(at)) if at.exists() else {}
    except ValueError:
        content = {}  # cut short by no one of ours: computed anew
    same = content.get("task") == task.digest() and (not current or content.get("of") == extra.digest(task))
    return {int(seed): found for seed, found in content["seeds"].items()} if same else {}


def _keep(extra: Extra, task: Task, folder: Path, seeds: Mapping[int, dict[str, Figures]]) -> None:
    content = {"of": extra.digest(task), "task": task.digest(), "seeds": {str(seed): seeds[seed] for seed in sorted(seeds)}}
    files.write(_place(extra, task, folder), json.dumps(content, indent=1, allow_nan=False).encode() + b"\n")


def _place(extra: Extra, task: Task, folder: Path) -> Path:
    return folder / f"{extra.name}-{task.name}.json"


def _last(run: Trajectory) -> Trajectory:
    return run.until(run.problem.horizons[-1])


def _scored(effect: Tensor, exact: GroundTruth) -> Figures:
    return metrics.scores(effect, exact.effect[-1:], units=True)


def _estimated(estimator: Estimator, run: Trajectory, exact: GroundTruth) -> Figures:
    return _scored(estimate(estimator, _last(run)).effect, exact)


def koh_liang(task: Task) -> Estimator:
    """The baseline of Hara et al.: ``u^T (H + a I)^-1 g_i / N``, a the L2 term's and, for networks, 1 beside it.

    By conjugate gradients in place of their SGD, so that it is the solution, and for any number of parameters.
    """
    settings = {"solver": "cg", "matrix": "hessian", "damping": 0.0 if task.model == "logistic" else 1.0, "iterations": 2000}
    return replace(registered()["if-cg"], name=KOH_LIANG, settings=settings)


def _koh_liang(task: Task, _seed: int, run: Trajectory, exact: GroundTruth, _cache: Path) -> dict[str, Figures]:
    return {KOH_LIANG: _estimated(koh_liang(task), run, exact)}


def misled(task: Task, seed: int, run: Trajectory, cache: Path) -> Trajectory:
    """The run with the feature noise drawn anew: what an estimator sees that fetches unseeded data again.

    Training and query features are other ones, the query's because they are scaled by the training rows'; states, batches and
    weight decay are those of the true run.
    """
    other = build(task, seed, cache, noise="feature-noise/again")
    return replace(run, problem=replace(other, weight_decay=run.problem.weight_decay))


def noise_again(task: Task, seed: int, run: Trajectory, exact: GroundTruth, cache: Path) -> dict[str, Figures]:
    """SGD-IE and ACC-SGD-IE as given the features of the run, and as given features with the noise drawn again."""
    views = {"same noise": run, "noise again": misled(task, seed, run, cache)}
    pairs = [(name, label, view) for name in ("sgd-ie", "acc-sgd-ie") for label, view in views.items()]
    return {f"{name}, {label}": _estimated(registered()[name], view, exact) for name, label, view in pairs}


class TwiceDecayed(Shifts):
    """ACC's shifts with the L2 term as the released code has it: 2 alpha in place of (1 - 1/|B|) alpha where i is in B_t.

    Each shift then shrinks by another ``rate alpha (1 + 1/|B|)`` times itself in the steps that its sample is missing from.
    """

    def step(self, t: int, rows: Tensor, weights: Tensor) -> None:
        """Carry the shifts over step t; see `Shifts.step`."""
        absent = (weights == 0).any(1).nonzero()[:, 0]
        before = [part[absent] for part in self.moved]  # a copy
        super().step(t, rows, weights)
        extra = self.problem.optimizer.rate(t) * self.problem.weight_decay * (1 + 1 / len(rows))
        for part, old in zip(self.moved, before, strict=True):
            part.index_add_(0, absent, old, alpha=-extra)


def twice_decayed(run: Trajectory) -> Tensor:
    """Effects (1, K, Q) at the last horizon by `TwiceDecayed`, linearly read. Raises LoobenchError for momentum and Adam."""
    problem = run.problem
    if problem.optimizer.name != "sgd":
        raise LoobenchError(f"the released code is for plain SGD, the task trains with {problem.optimizer.name}")
    cut = _last(run)
    keep, read_off = left_out(problem)[:-1], reader(cut, "linear")
    return fold(
        cut.problem,
        keep,
        lambda _start, count: TwiceDecayed(cut, ACC, count),
        lambda shifts: read_off(shifts.parameters()),
        starts=departures(cut.problem, keep),
        means=replace(chunks.allowed(), workers=1),
    ).cpu()


def l2_twice(_task: Task, _seed: int, run: Trajectory, exact: GroundTruth, _cache: Path) -> dict[str, Figures]:
    """ACC-SGD-IE, and as the released code computes it; and SGD-IE to compare both with."""
    once = {f"{name}, L2 once": _estimated(registered()[name], run, exact) for name in ("sgd-ie", "acc-sgd-ie")}
    return {**once, "acc-sgd-ie, L2 twice": _scored(twice_decayed(run), exact)}


def _acc_tasks(ending: str) -> list[Task]:
    return [task for task in suites.suite("acc2025").tasks if task.name.endswith(ending)]


FEATURE, L2 = "-feature", "-logistic-clean"  # how the names of the tasks end that a defect is computed on
EXTRAS = (
    Extra(KOH_LIANG, "hara2019", lambda: [*suites.suite("hara2019").tasks], _koh_liang, ("if-cg",)),
    Extra("noise-again", "acc2025", lambda: _acc_tasks(FEATURE), noise_again, ("sgd-ie", "acc-sgd-ie"), seeds=2),
    Extra("l2-twice", "acc2025", lambda: _acc_tasks(L2), l2_twice, ("sgd-ie", "acc-sgd-ie"), seeds=2),
)


# ---- the page --------------------------------------------------------------------------------------------------------
HEAD = f"""# Which published figures come out

What three papers say of their estimators, beside what loobench computes on its own version of their tasks. Written by
`loobench reproduce` from the result files and the figures kept in `docs/reproduction/`; do not edit. Published ones are from
the papers' slides, texts, stored notebooks and released code as known to us; those of the second paper from summaries alone.

## The rule

{RULE}

"""
ON_HARA = """\
koh-liang solves its linear system to the end, by conjugate gradients; the published figures took 100 epochs of SGD for it.
sgd-ie-no-hessian is by inference: the notebook prints three values, the first SGD-IE's and the last koh-liang's.
Cleansing is judged by the sign of the change of test error alone, because sizes differ: 300 and 200 images here, 50,000
and 40,000 there. The published models are trained again from the start and in the order that the effects were computed for; the
control, which the papers lack, trains again from fresh starts in fresh orders.
"""
ON_ACC = """\
What the published gains are averages over, and at which epochs, is not said: here they are the relative change, for each seed,
of the average over the three MLP tasks, once at the last horizon and once as the mean over all horizons. Overlaps of 20news are
read at the last horizon. Of cleansing see above.
"""
ON_DEFECTS = """\
## What two defects of released code do

Both are read in the code released with ACC-SGD-IE, and each is computed here on its own: all else is as in our tasks, and the
truth is the true one. Figures are means over seeds at the last horizon. A third is known and not computed here: the released
cleansing code of SGD-IE divides the Hessian product by the batch size a second time.

### Feature noise without a seed

Training and each estimator draw the noise anew, so that an estimator sees other features than the model was trained on.
"""
ON_L2 = """\
### L2 term counted twice

Where the left-out sample is in the batch its curvature has an L2 term of 2 alpha in place of (1 - 1/B) alpha.
"""
ON_WEI = """\
The published cosines, first and last length of further training:
"""
ON_SHAPE = f"""\
{OTHER_DATA}. Their shape is judged on our tasks: it is reproduced where, in the mean over two or more seeds, the cosine of
grad-dot falls from the first length to the last, and where at the last some second-order method ({", ".join(SECOND_ORDER)}) is
above it or has lost less. Ours, first to last:
"""
NOTES = {"hara2019": ON_HARA, "acc2025": ON_ACC}
METRIC_NAMES = {"kendall": "tau", "jaccard_10": "J10", "jaccard_10_10": "J of 10 + 10", "rmse": "RMSE"}


def page(scores: Scores) -> str:
    """The whole page: a pure function of the scores."""
    parts = [HEAD, _count(scores)]
    for paper, title in PAPERS.items():
        parts += [f"## {title}\n", _wei(scores) if paper == "wei2025" else _figures(findings(paper, scores))]
        parts += [NOTES[paper]] if paper in NOTES else []
    return "\n".join([*parts, ON_DEFECTS, _noise_table(scores), ON_L2, _l2_table(scores)])


def _count(scores: Scores) -> str:
    verdicts = [found.verdict for paper in PAPERS for found in findings(paper, scores)]
    verdicts += [shape(scores, task.name)[0] for task in suites.suite("final-model").tasks]
    kinds = (REPRODUCED, NOT_REFUTED, NOT_REPRODUCED, NOT_COMPARABLE, TOO_FEW, NOT_RUN)
    return (
        f"Of {len(verdicts)} figures, shapes and controls: "
        + ", ".join(f"{verdicts.count(kind)} {kind}" for kind in kinds)
        + ".\n"
    )


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return str(tabulate(rows, headers, tablefmt="github", disable_numparse=True)) + "\n"


def _figures(found: Sequence[Finding]) -> str:
    headers = ("published in", "what", "estimator", "metric", "published", "ours", "n", "verdict", "why")
    return _table(headers, map(_line, found))


def _line(finding: Finding) -> list[str]:
    one = finding.published
    metric = METRIC_NAMES.get(one.metric, one.metric) + (f", {one.horizon} horizon" if one.kind == "gain" else "")
    metric = metric.replace("mean horizon", "mean over horizons")
    versus = f"{one.estimator} against {one.against}" if one.against else one.estimator
    cells = [one.place, one.row, versus, metric, _published(one), _interval(finding.ours, one.kind)]
    return [*cells, str(len(finding.ours)), finding.verdict, finding.reason]


def _published(one: Published) -> str:
    if one.value is None:
        return "none"
    before = f"{one.kind} " if one.kind in ("at least", "at most") else ""
    return before + _number(one.value, one.kind) + (f" (sd {one.deviation:.2f})" if one.deviation else "")


def _number(value: float, kind: str) -> str:
    if kind in ("direction", "control"):
        return f"{value:+.4f}"
    return f"{100 * value:+.1f} %" if kind == "gain" else f"{value:.3f}"


def _interval(values: Sequence[float], kind: str = "figure") -> str:
    """Mean and half 95 % interval, as far as there are."""
    if not values:
        return ""
    return _number(mean(values), kind) + (f" ± {_number(half_width(values), kind).lstrip('+')}" if len(values) > 1 else "")


def shape(scores: Scores, task: str) -> tuple[str, str]:
    """The verdict on the decay of first-order methods on a final-model task, and its reason."""
    found = {name: _ends(scores, task, name) for name in METHODS}
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


def _ends(scores: Scores, task: str, estimator: str) -> list[tuple[float, float]]:
    """Cosine at the first and last horizon, of each seed."""
    curves = [cell.get("cosine", []) for _, cell in sorted(scores.get((task, estimator), {}).items())]
    return [(v[0], v[-1]) for v in curves if v and v[0] is not None and v[-1] is not None]


def _wei(scores: Scores) -> str:
    data = dict.fromkeys(one.data for one in DECAYS)
    told = {(one.data, one.estimator): f"{one.first:.3f} to {one.last:.3f}" for one in DECAYS}
    published = [[name, *(told.get((name, method), "") for method in METHODS)] for name in data]
    mine = [[task.name, *_decays(scores, task.name), *shape(scores, task.name)] for task in suites.suite("final-model").tasks]
    return "\n".join(
        [
            ON_WEI,
            _table(("data", *METHODS), published),
            ON_SHAPE,
            _table(("task", *METHODS, "n", "verdict on the shape", "why"), mine),
        ]
    )


def _decays(scores: Scores, task: str) -> list[str]:
    found = [_ends(scores, task, method) for method in METHODS]
    shown = [f"{mean([a for a, _ in ends]):.3f} to {mean([b for _, b in ends]):.3f}" if ends else "" for ends in found]
    return [*shown, str(len(found[0]))]


def _noise_table(scores: Scores) -> str:
    labels = [f"{name}, {view}" for view in ("same noise", "noise again") for name in ("sgd-ie", "acc-sgd-ie")]
    gains = {"ACC's gain, same noise": (labels[1], labels[0]), "ACC's gain, noise again": (labels[3], labels[2])}
    names = [task.name for task in _acc_tasks(FEATURE)]
    average = {"average of mlp tasks": tuple(name for name in names if "-mlp-" in name)}
    return _defect_table({**{name: (name,) for name in names}, **average}, labels, gains, scores)


def _l2_table(scores: Scores) -> str:
    sgd, once, twice = labels = ["sgd-ie, L2 once", "acc-sgd-ie, L2 once", "acc-sgd-ie, L2 twice"]
    gains = {"ACC's gain, L2 once": (once, sgd), "ACC's gain, L2 twice": (twice, sgd)}
    return _defect_table({task.name: (task.name,) for task in _acc_tasks(L2)}, labels, gains, scores)


def _defect_table(
    rows: Mapping[str, tuple[str, ...]], labels: Sequence[str], gains: Mapping[str, tuple[str, str]], scores: Scores
) -> str:
    """A row for each metric of each task, or average of tasks; `not run` where nothing is kept."""
    lines = []
    for row, tasks in rows.items():
        for metric in ("kendall", "rmse", "jaccard_10"):
            asked = [Published("acc2025", "", row, tasks, label, metric, None) for label in labels]
            compared = [
                Published("acc2025", "", row, tasks, a, metric, None, kind="gain", against=b) for a, b in gains.values()
            ]
            found = [ours(one, scores) for one in asked]
            cells = [_digits(mean(values)) for values in found] + [_interval(ours(one, scores), "gain") for one in compared]
            lines.append([row, METRIC_NAMES[metric], *(cells if found[0] else [NOT_RUN] * len(cells)), str(len(found[0]))])
    missing = "" if any(int(line[-1]) for line in lines) else f"\n{NOT_RUN}: `loobench reproduce acc2025`\n"
    return _table(("task", "metric", *labels, *gains, "n"), lines) + missing


def _digits(value: float) -> str:
    return f"{value:.4g}"
