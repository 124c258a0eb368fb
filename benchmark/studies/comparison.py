"""The page of published figures beside ours: a pure function of the scores."""

from collections.abc import Iterable, Mapping, Sequence

from tabulate import tabulate

from benchmark.scores.numbers import mean
from benchmark.studies.extras import FEATURE, L2, acc_tasks
from benchmark.studies.judging import (
    NOT_COMPARABLE,
    NOT_REFUTED,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    RULE,
    TOO_FEW,
    Finding,
    Scores,
    ends_of,
    findings,
    half_width,
    ours,
    shape,
)
from benchmark.studies.published import DECAYS, METHODS, OTHER_DATA, PAPERS, SECOND_ORDER, Published
from benchmark.tasks import suites

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
    found = [ends_of(scores, task, method) for method in METHODS]
    shown = [f"{mean([a for a, _ in ends]):.3f} to {mean([b for _, b in ends]):.3f}" if ends else "" for ends in found]
    return [*shown, str(len(found[0]))]


def _noise_table(scores: Scores) -> str:
    labels = [f"{name}, {view}" for view in ("same noise", "noise again") for name in ("sgd-ie", "acc-sgd-ie")]
    gains = {"ACC's gain, same noise": (labels[1], labels[0]), "ACC's gain, noise again": (labels[3], labels[2])}
    names = [task.name for task in acc_tasks(FEATURE)]
    average = {"average of mlp tasks": tuple(name for name in names if "-mlp-" in name)}
    return _defect_table({**{name: (name,) for name in names}, **average}, labels, gains, scores)


def _l2_table(scores: Scores) -> str:
    sgd, once, twice = labels = ["sgd-ie, L2 once", "acc-sgd-ie, L2 once", "acc-sgd-ie, L2 twice"]
    gains = {"ACC's gain, L2 once": (once, sgd), "ACC's gain, L2 twice": (twice, sgd)}
    return _defect_table({task.name: (task.name,) for task in acc_tasks(L2)}, labels, gains, scores)


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
