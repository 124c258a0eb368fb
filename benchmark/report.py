"""leaderboard.md: a pure function of the result files and of the limits of their truths."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from scipy import stats
from tabulate import tabulate

from benchmark.errors import DamagedFile, LoobenchError
from benchmark.questions import FurtherTraining, LeaveOneOut, Subsets, asked_of
from benchmark.results import Bounds, Limits, Result

Curve = Sequence[float | None]  # H values
Known = Mapping[str, Limits]  # by name of task and device

USED = "uses"  # the kind of a task whose effects are used for something
REFERENCES = ("oracle", "random")  # above and below the estimators
TWIN = "smooth-"  # before the name of the task with kinks
MOST_TABLES = 12  # tasks of a suite that get a table each

HEAD = """# Leaderboard

What a model's query loss would be without one training sample: each method's estimate against really retraining without
every sample (same start, same batches, weight 0 for the sample left out). Computed by loobench from `results/`; do not edit.
"""
ABOUT = {
    LeaveOneOut.kind: "",
    Subsets.kind: """\
Truth: training on random subsets, the mean over initial parameters. What an estimate says of a subset is its sum over the
samples that the subset lacks.
""",
    FurtherTraining.kind: """\
Truth: the final model trained further with and without a sample, the mean over orders of batches. Estimators see the final
model alone.
""",
    USED: """\
What effects are used for, each judged by really training again. (oracle): the true effects; (random): random ones.
""",
}
TWINS = """\
Each ReLU task beside its twin with softplus: same data, initial parameters and batches. Means over the seeds that both have,
then over pairs. Ceiling: the exact shift, read off to first order.
"""
RENORMALISED = "Counterfactual: a batch is divided by what is left of it, not by its size.\n"
LEGEND = """\
Mean over seeds and 95 % interval (Student's t over seeds; none for one seed), at the last horizon. tau: Kendall's tau-b
against the exact effects, averaged over queries, the order of rows. rho: Spearman. RMSE/sd: root mean squared error over the
standard deviation of the exact effects, for methods in units of loss. J10: overlap of the 5 % most harmful and 5 % most
helpful samples. cost: wall time over that of exact leave-one-out on the same machine and thread. grad, hvp: counted per-sample
gradients and Hessian products over the gradients of exact leave-one-out. n: seeds. A row marked (i) is our interpretation of
a method whose formula is known only second-hand; not converged: a solver's residual is above what it promises.
docs/protocol.md has the definitions.
"""
LEGENDS = {
    Subsets.kind: """\
Subsets: LDS, the linear datamodeling score, is Spearman's rho over subsets, averaged over queries, and the order of rows. cost,
grad and hvp are over the training of all subsets.
""",
    FurtherTraining.kind: """\
Further training: cos, the cosine between estimate and effects averaged over queries, is the mean over all lengths and the order
of rows; cos first and cos last are at the shortest and the longest. cost, grad and hvp are over the further training.
""",
    USED: """\
Uses: AUROC and AP for finding wrong labels by the lowest effects. cleansed: change on the test split without the most harmful
samples, mean over how many; fresh: the same from other starts in other orders; coreset: with the most helpful alone. Lower is
better in these. del: Spearman between sums of effects and the truth of deleting groups, random or clustered. Rows are in the
order of tau.
""",
}
LIMITED = """\
of ceiling: the score that ranks the rows over the ceiling of the same truth, both at the last horizon, from the seeds where
the ceiling is known and above 0. For leave-one-out the ceiling is the score of the exact shift of the parameters read off to
first order, from at most 50 of the samples: a method that reads its shift off exactly can be above 1. For subsets and further
training it is what the expectation of the truth would score, from two halves of its repeats. Limits are means over seeds at
the last horizon: tau with another start or order says how well the effects in another run agree with these; kinks, how often
runs without a sample cross a kink of ReLU; noise, the error of training anew over the standard deviation of the effects.
"""


# ---- what columns there are ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scored:
    """What is known of one seed of a task: scores and limits of its truth, name -> H values, and counts."""

    scores: Mapping[str, Curve]
    limits: Mapping[str, Curve]
    counts: Mapping[str, float]


@dataclass(frozen=True)
class Column:
    """A column: its title, its figure of one seed of a task, NaN where not defined, and how it is shown."""

    title: str
    of: Callable[[Scored], float]
    digits: int = 3
    interval: bool = True
    gaps: bool = False  # means are over the tasks and seeds that have a figure; else all must have one


def at(title: str, score: str, horizon: int = -1, *, gaps: bool = False) -> Column:
    """A score at one horizon."""
    return Column(title, lambda one: entry(one.scores, score, horizon), gaps=gaps)


def over_horizons(title: str, score: str) -> Column:
    """The mean of a score over horizons."""
    return Column(title, lambda one: mean([number(value) for value in one.scores.get(score, [])]))


def of_ceiling(score: str) -> Column:
    """A score over its ceiling, at the last horizon; not defined where the ceiling is unknown or not above 0."""

    def ratio(one: Scored) -> float:
        ceiling = entry(one.limits, "ceiling")
        return entry(one.scores, score) / ceiling if ceiling > 0 else np.nan

    return Column("of ceiling", ratio, gaps=True)


def counted(title: str) -> Column:
    """A count, over that of the truth."""
    return Column(title, lambda one: one.counts.get(title, np.nan), digits=2, interval=False)


COUNTED = (counted("cost"), counted("grad"), counted("hvp"))
COLUMNS = {  # by kind of truth; the first ranks the rows
    LeaveOneOut.kind: (
        at("tau", LeaveOneOut.primary),
        of_ceiling(LeaveOneOut.primary),
        at("rho", "spearman"),
        at("RMSE/sd", "relative_rmse"),
        at("J10", "jaccard_10"),
        *COUNTED,
    ),
    Subsets.kind: (
        at("LDS", Subsets.primary),
        of_ceiling(Subsets.primary),
        at("tau", "kendall"),
        at("RMSE/sd", "relative_rmse"),
        *COUNTED,
    ),
    FurtherTraining.kind: (
        over_horizons("cos", FurtherTraining.primary),
        of_ceiling(FurtherTraining.primary),
        at("cos first", FurtherTraining.primary, 0),
        at("cos last", FurtherTraining.primary),
        at("rho", "spearman"),
        *COUNTED,
    ),
    USED: (
        at("tau", LeaveOneOut.primary),
        of_ceiling(LeaveOneOut.primary),
        at("AUROC", "mislabel_auroc", gaps=True),  # only where labels are wrong
        at("AP", "mislabel_average_precision", gaps=True),
        at("self AUROC", "self_auroc", gaps=True),
        at("cleansed loss", "cleansed_loss"),
        at("cleansed error", "cleansed_error"),
        at("fresh loss", "fresh_loss"),
        at("fresh error", "fresh_error"),
        at("coreset loss", "coreset_loss"),
        at("del random", "deletion_random_spearman"),
        at("del clustered", "deletion_clustered_spearman"),
        *COUNTED,
    ),
}


@dataclass(frozen=True)
class Limit:
    """What limits a truth: its name in the files, what the board calls it, and its format."""

    name: str
    title: str
    form: str = "{:.3f}"


LIMITS = (
    Limit("ceiling", "ceiling"),
    Limit("linear_spearman", "its rho"),
    Limit("linear_relative_rmse", "its RMSE/sd"),
    Limit("split_half", "agreement of two halves"),
    Limit("own", "of one repeat with the others"),
    Limit("other_initial", "tau with another start"),
    Limit("other_order", "tau with another order"),
    Limit("kink_pairs", "kinks, share of pairs (sample, step)", "{:.4f}"),
    Limit("kink_triples", "of triples", "{:.4f}"),
    Limit("noise", "noise", "{:.0e}"),
    Limit("without_class", "subsets without a class", "{:.1f}"),
)


def kind(result: Result) -> str:
    """The kind of truth of a result, or that its effects are used for something."""
    return USED if result.task.get("uses") else asked_of(result.task).kind


# ---- the page --------------------------------------------------------------------------------------------------------
def leaderboard(results: Sequence[Result], limits: Known) -> str:
    """The whole page. Raises LoobenchError without results, DamagedFile where two rows of one table answer different tasks."""
    if not results:
        raise LoobenchError("no results to report: run `loobench run --suite quick` first, or name their folder by --results")
    refuse_mixed(results)
    parts = [HEAD]
    for suite, members in groups(results, suite_name):
        parts += [f"## Suite {suite}\n", *about(members), f"{table(members, limits)}\n"]
        parts += [*twins(members, results, limits), *(matrices if wide(members) else tables)(members, limits)]
    return "\n".join([*parts, "## How to read\n", *legends(results, limits)])


def suite_name(result: Result) -> str:
    """The suite of a result, with precision and device where they are not the usual ones."""
    variants = [name for name, usual in ((result.task["dtype"], "float64"), (result.device, "cpu")) if name != usual]
    return str(result.task["suite"]) + (f" ({', '.join(variants)})" if variants else "")


def groups(results: Iterable[Result], key: Callable[[Result], str]) -> list[tuple[str, list[Result]]]:
    """Results by `key`, in order of it."""
    ordered = sorted(results, key=key)
    return [(name, list(members)) for name, members in groupby(ordered, key)]


def by_task(results: Iterable[Result]) -> list[tuple[str, list[Result]]]:
    """Results by task and device."""
    return groups(results, lambda result: result.name)


def refuse_mixed(results: Iterable[Result]) -> None:
    """Raise DamagedFile where results of one task were made for different definitions of it."""
    for task, members in by_task(results):
        digests = {result.task_digest: result.estimator.name for result in members}
        if len(digests) > 1:
            made = ", ".join(f"{name} for {digest[:12]}" for digest, name in sorted(digests.items()))
            raise DamagedFile(f"results of {task} answer different definitions of it ({made}): repeat `loobench run` for it")


def about(members: Sequence[Result]) -> list[str]:
    """What a suite asks, where it is not plain leave-one-out."""
    renormalised = members[0].task.get("counterfactual") == "renormalised"
    return [text for text in (ABOUT[kind(members[0])], RENORMALISED * renormalised) if text]


def legends(results: Sequence[Result], limits: Known) -> list[str]:
    """How to read the kinds of tables that there are."""
    kinds = {kind(result) for result in results}
    known = any(found.values for _, members in by_task(results) for found in bounds(members, limits).values())
    return [LEGEND, *(text for name, text in LEGENDS.items() if name in kinds), *[LIMITED] * known]


# ---- tables ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Row:
    """What a table says of one estimator: each figure as one value per seed, and marks for what is missing."""

    estimator: str
    figures: dict[str, list[float]]  # title of the column -> a value per seed
    done: int  # tasks with all seeds scored
    tasks: int
    marks: str


def table(results: Sequence[Result], limits: Known, *, style: str = "github") -> str:
    """One row for each estimator over the given results, and for what their uses are compared with.

    Columns without a figure are left out, but for the first.
    """
    columns = COLUMNS[kind(results[0])]
    above, below = ([*references(name, results, limits)] for name in REFERENCES)
    rows = [*above, *ranked(results, limits), *below]
    filled = [column for column in columns if column is columns[0] or any(shown(column, row) for row in rows)]
    headers = ["estimator", *(column.title for column in filled), "tasks", "n", ""]
    align = ["left", *["right"] * (len(headers) - 2), "left"]
    lines = [line(row, filled) for row in rows]
    return str(tabulate(lines, headers, tablefmt=style, disable_numparse=True, colalign=align))


def line(row: Row, columns: Sequence[Column]) -> list[str]:
    """A row as the strings of its table cells."""
    figures = [shown(column, row) for column in columns]
    return [escaped(row.estimator), *figures, f"{row.done}/{row.tasks}", str(len(row.figures[columns[0].title])), row.marks]


def ranked(results: Sequence[Result], limits: Known) -> list[Row]:
    """Estimators: those with all tasks by falling first column, then the others, then by name."""
    tasks, first = len(by_task(results)), COLUMNS[kind(results[0])][0].title
    rows = [row(name, members, tasks, limits) for name, members in groups(results, lambda result: result.estimator.name)]
    return sorted(rows, key=lambda row: (row.tasks - row.done, -np.nan_to_num(mean(row.figures[first]), nan=-np.inf)))


def row(name: str, results: Sequence[Result], tasks: int, limits: Known) -> Row:
    """One estimator's row, over its complete tasks."""
    complete = [result for result in results if all(cell.status == "ok" for cell in result.cells.values())]
    known = [{seed: scored(result, seed, limits) for seed in result.cells} for result in complete]
    return Row(name, figures(known, COLUMNS[kind(results[0])]), len(complete), tasks, marks(results))


def marks(results: Sequence[Result]) -> str:
    """What is to be said of an estimator's results beside their figures."""
    cells = [cell for result in results for cell in result.cells.values()]
    interpretation = ["(i)"] if results[0].estimator.interpretation else []
    short = any(cell.notes.get("unconverged") for cell in cells)
    return " ".join([*interpretation, *sorted({cell.status for cell in cells} - {"ok"}), *["not converged"] * short])


def references(name: str, results: Sequence[Result], limits: Known) -> list[Row]:
    """The row of what uses are compared with, over the tasks that have it; none where no task has."""
    found = [bounds(members, limits) for _, members in by_task(results)]
    tasks = [{seed: reference(one, name) for seed, one in seeds.items() if name in one.references} for seeds in found]
    known = [seeds for seeds in tasks if seeds]
    return [Row(f"({name})", figures(known, COLUMNS[kind(results[0])]), len(known), len(tasks), "")] if known else []


def reference(found: Bounds, name: str) -> Scored:
    """Scores of a reference, which are of one horizon."""
    return Scored({score: [value] for score, value in found.references[name].items()}, {}, {})


def figures(tasks: Sequence[Mapping[str, Scored]], columns: Sequence[Column]) -> dict[str, list[float]]:
    """For each column, a value for each seed that all tasks have: the mean over tasks."""
    seeds = sorted(set.intersection(*({*task} for task in tasks)), key=int) if tasks else []
    found = {column.title: [[column.of(task[seed]) for task in tasks] for seed in seeds] for column in columns}
    return {column.title: means(found[column.title], gaps=column.gaps) for column in columns}


def means(values: Sequence[Sequence[float]], *, gaps: bool) -> list[float]:
    """The mean of each group; with gaps that of what is known, groups of nothing left out."""
    return [mean(some) for group in values if (some := defined(group))] if gaps else [mean(group) for group in values]


def scored(result: Result, seed: str, limits: Known) -> Scored:
    """One seed of a result, with the limits of the truth it was scored against."""
    cell, found = result.cells[seed], bound(result, seed, limits)
    counts = {
        "cost": cell.relative_cost,
        "grad": cell.gradients / cell.exact_gradients,
        "hvp": cell.hessian_products / cell.exact_gradients,
    }
    return Scored(cell.scores, found.values if found else {}, counts)


def bound(result: Result, seed: str, limits: Known) -> Bounds | None:
    """The limits of the truth that a cell was scored against; None where those are unknown, or of another truth."""
    found = limits[result.name].seeds.get(seed) if result.name in limits else None
    return found if found and found.truth == result.cells[seed].truth else None


def bounds(results: Sequence[Result], limits: Known) -> dict[str, Bounds]:
    """The limits of the truths that results of one task were scored against, by seed."""
    found = [(seed, bound(result, seed, limits)) for result in results for seed in result.cells]
    return {seed: one for seed, one in found if one}


# ---- tables of one task ----------------------------------------------------------------------------------------------
def wide(members: Sequence[Result]) -> bool:
    """Whether a suite has too many tasks for a table each."""
    return len(by_task(members)) > MOST_TABLES


def tables(members: Sequence[Result], limits: Known) -> list[str]:
    """A table for each task, and what limits its truth."""
    return [
        f"### {task}\n\n{table(rows, limits)}\n" + "".join(f"\n{text}\n" for text in limit_lines(rows, limits))
        for task, rows in by_task(members)
    ]


def limit_lines(results: Sequence[Result], limits: Known) -> list[str]:
    """What limits the truth of one task, on one line; none where nothing is known."""
    found = bounds(results, limits)
    said = [f"{limit.title} {text}" for limit in LIMITS if (text := limited(limit, found.values()))]
    return [f"Limits: {'; '.join(said)}."] if said else []


def limited(limit: Limit, found: Iterable[Bounds]) -> str:
    """A limit at the last horizon, the mean over seeds that have it; nothing where none has."""
    values = last(limit.name, found)
    return limit.form.format(mean(values)) if values else ""


def last(name: str, found: Iterable[Bounds]) -> list[float]:
    """What is known of a limit at the last horizon."""
    return defined([entry(one.values, name) for one in found])


def matrices(members: Sequence[Result], limits: Known) -> list[str]:
    """A table for each data set and model: the first column's figure of each estimator, row, on each task, column."""
    title, order = COLUMNS[kind(members[0])][0].title, [row.estimator for row in ranked(members, limits)]
    parts = groups(members, lambda result: f"{result.task['dataset']}, {result.task['model']}")
    return [f"### {name}: {title}\n\n{matrix(some, limits, order)}\n" for name, some in parts]


def matrix(members: Sequence[Result], limits: Known, order: Sequence[str]) -> str:
    """Means over seeds by estimator and task, and below them what limits each task's truth."""
    tasks = by_task(members)
    answers = {(task, result.estimator.name): answer(result, limits) for task, rows in tasks for result in rows}
    lines = [[escaped(name), *(answers.get((task, name), "") for task, _ in tasks)] for name in order]
    found = [bounds(rows, limits).values() for _, rows in tasks]
    floors = [[f"({limit.title})", *(limited(limit, one) for one in found)] for limit in LIMITS]
    headers = ["estimator", *short_names([task for task, _ in tasks])]
    align = ["left", *["right"] * len(tasks)]
    rows = [line for line in [*lines, *floors] if any(line[1:])]
    return str(tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=align))


def answer(result: Result, limits: Known) -> str:
    """The first column's mean over seeds; what failed, where something did; nothing where the task is not supported."""
    if statuses := {cell.status for cell in result.cells.values()} - {"ok"}:
        return " ".join(sorted(statuses - {"unsupported"}))
    first = COLUMNS[kind(result)][0]
    value = mean([first.of(scored(result, seed, limits)) for seed in result.cells])
    return "" if np.isnan(value) else f"{value:.{first.digits}f}"


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the words that all begin with."""
    words = [name.split("-") for name in names]
    shared = next((i for i, same in enumerate(zip(*words, strict=False)) if len({*same}) > 1), 0)
    return ["-".join(rest[shared:]) for rest in words]


# ---- twins -----------------------------------------------------------------------------------------------------------
CEILING = Column("ceiling", lambda one: entry(one.limits, "ceiling"))
Pair = tuple[Result, Result]  # an estimator on a task with kinks and on its twin


def twins(members: Sequence[Result], results: Sequence[Result], limits: Known) -> list[str]:
    """Tasks with kinks beside their twins without, by estimator; nothing where no result has a twin."""
    others = {(TWIN + result.name, result.estimator.name): result for result in results}
    pairs = [(others[key], twin) for twin in members if (key := (twin.name, twin.estimator.name)) in others]
    named = groupby(sorted(pairs, key=estimator_of), estimator_of)
    rows = [line for name, some in named if (line := twin_line(name, [*some], limits))]
    if not rows:
        return []
    title = COLUMNS[kind(members[0])][0].title
    headers = ["estimator", f"{title}, ReLU", f"{title}, twin", "ceiling, ReLU", "ceiling, twin", "pairs"]
    rows.sort(key=lambda row: (-int(row[-1]), -float(row[1])))
    body = tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=["left", *["right"] * 5])
    return [f"### Twins\n\n{TWINS}\n{body}\n", *kinks([rough for rough, _ in pairs], limits)]


def estimator_of(pair: Pair) -> str:
    """The estimator of a pair."""
    return pair[0].estimator.name


def twin_line(name: str, pairs: Sequence[Pair], limits: Known) -> list[str]:
    """An estimator's row of the table of twins; empty where no seed was scored on both of a pair."""
    first = COLUMNS[kind(pairs[0][0])][0]
    scores, ceilings = ([found for pair in pairs if (found := side_by_side(c, pair, limits))] for c in (first, CEILING))
    if not scores:
        return []
    shown = [f"{value:.3f}" for value in np.mean(scores, axis=0)]
    above = [f"{value:.3f}" for value in np.mean(ceilings, axis=0)] if ceilings else ["", ""]
    return [escaped(name), *shown, *above, str(len(scores))]


def side_by_side(column: Column, pair: Pair, limits: Known) -> list[float]:
    """The column's mean on either side, over the seeds that both were scored on and that have it on both; or nothing."""
    rough, smooth = ({seed for seed, cell in result.cells.items() if cell.status == "ok"} for result in pair)
    seeds = sorted(rough & smooth, key=int)
    found = [[column.of(scored(result, seed, limits)) for result in pair] for seed in seeds]
    both = [values for values in found if not np.isnan(values).any()]
    return [mean(side) for side in zip(*both, strict=True)]


def kinks(results: Sequence[Result], limits: Known) -> list[str]:
    """How often runs of the tasks with kinks cross one, the mean over tasks; nothing where that is not known."""
    tasks = [last("kink_pairs", bounds(members, limits).values()) for _, members in by_task(results)]
    shares = [mean(values) for values in tasks if values]
    crossed = f"Kinks: a run without a sample crosses one in {100 * mean(shares):.2f} % of pairs (left-out sample, step)"
    return [f"{crossed}, mean over {len(shares)} ReLU tasks.\n"] if shares else []


# ---- figures ---------------------------------------------------------------------------------------------------------
def number(value: float | None) -> float:
    """NaN for None."""
    return np.nan if value is None else value


def entry(curves: Mapping[str, Curve], name: str, horizon: int = -1) -> float:
    """A curve's value at one horizon; NaN where there is no such curve or no value."""
    return number((curves.get(name) or [None])[horizon])


def defined(values: Iterable[float]) -> list[float]:
    """Those that are not NaN."""
    return [value for value in values if not np.isnan(value)]


def mean(values: Sequence[float]) -> float:
    """Mean, NaN of none."""
    return float(np.mean(values)) if values else np.nan


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean by Student's t; NaN for fewer than two values."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else np.nan


def shown(column: Column, row: Row) -> str:
    """A figure as the table shows it: its mean over seeds, with an interval where it has one."""
    values = row.figures[column.title]
    if np.isnan(mean(values)):
        return ""
    width = half_width(values) if column.interval else np.nan
    return f"{mean(values):.{column.digits}f}" + ("" if np.isnan(width) else f" ± {width:.{column.digits}f}")


def escaped(name: str) -> str:
    """A name that cannot break out of its table cell."""
    return name.translate({ord(char): f"\\{char}" for char in r"\`*_|<>[]"}).replace("\n", " ")
