"""The board, a pure function of result files and limits, as the tables, the page and the figures show it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from benchmark import PROTOCOL
from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.scores import intervals, ties
from benchmark.scores.cells import bounds, by_task, groups, has_gaps, kind, rankings, scored
from benchmark.scores.columns import COLUMNS, Column, Scored
from benchmark.scores.intervals import Interval
from benchmark.scores.metrics import METRICS
from benchmark.scores.numbers import defined, mean, median
from benchmark.scores.results import Bounds, Result
from benchmark.scores.rows import EXACT, Board, Known, Own, Rival, Row, Suite, Table, called, finished, published
from benchmark.scores.ties import Compared
from benchmark.tasks.questions import asked_of
from benchmark.tasks.suites import Suite as Choice

HEADLINE = ("quick", "hara2019", "acc2025", "adaptive", "final-model")  # suites of the headline, before the others
REFERENCES = ("oracle", "random")  # above and below the estimators
TWIN = "smooth-"  # before the name of the task with kinks


def board(results: Sequence[Result], limits: Known, choices: Sequence[Choice] = ()) -> Board:
    """The whole board: first the `choices` of other suites' tasks that have results, then the suites.

    Raises LoobenchError without results, DamagedFile where rows of one table answer different tasks.
    """
    if not results:
        raise LoobenchError("no results to report: run `loobench run --suite quick` first, or name their folder by --results")
    found = [suite(name, members, limits) for name, members in groups(results, suite_name)]
    found.sort(key=lambda one: HEADLINE.index(one.name) if one.name in HEADLINE else len(HEADLINE))
    chosen = (choice(one, results, limits) for one in choices)
    return Board((*(one for one in chosen if one), *found), limits)


def suite(name: str, results: Sequence[Result], limits: Known) -> Suite:
    """A suite's tables. Raises DamagedFile where rows of one table answer different tasks."""
    refuse_mixed(results)
    tasks = tuple(table(task, members, limits) for task, members in by_task(results))
    shared = {result.name for result in published(results)}  # a row of one's own is over the tasks that the others are over
    overall = table(name, [result for result in results if result.name in shared], limits)
    return Suite(name, published(results)[0].protocol, kind(results[0]), overall, tasks)


def choice(of: Choice, results: Sequence[Result], limits: Known) -> Suite | None:
    """The tables of a choice of tasks at the usual precision, device and protocol; None without results for it.

    Of each result the first seeds, as many as the choice has; one that lacks some is no answer to it.
    """
    names = {task.name for task in of.tasks}
    members = [one for one in results if one.task["name"] in names and suite_name(one) == one.task["suite"]]
    found = [short for one in members if (short := first_seeds(one, of.seeds))]
    if not found:
        return None
    refuse_mixed(found)
    tasks = tuple(table(task, some, limits) for task, some in by_task(found))
    overall = table(of.name, found, limits, len(names))
    return Suite(of.name, published(found)[0].protocol, kind(found[0]), overall, tasks, of.version)


def first_seeds(result: Result, seeds: int) -> Result | None:
    """The result with seeds 0, ..., seeds - 1 alone, trusted if it was; None where it lacks one."""
    wanted = [str(seed) for seed in range(seeds)]
    if not {*wanted} <= {*result.cells}:
        return None
    cells = {seed: result.cells[seed] for seed in wanted}
    used = {cell.provenance: result.provenance[cell.provenance] for cell in cells.values()}
    short = replace(result, cells=cells, provenance=used)
    if result.verified is None:
        return short
    return replace(short, verified=replace(result.verified, of=short.substance if result.trusted else ""))


def suite_name(result: Result) -> str:
    """The suite of a result, with precision, device and protocol (major.minor) where they are not the usual ones."""
    protocol = ".".join(result.protocol.split(".")[:2])
    usual = ((result.task["dtype"], "float64"), (result.device, "cpu"), (f"protocol {protocol}", f"protocol {PROTOCOL}"))
    variants = [name for name, expected in usual if name != expected]
    return str(result.task["suite"]) + (f" ({', '.join(variants)})" if variants else "")


def refuse_mixed(results: Iterable[Result]) -> None:
    """Raise DamagedFile where results of one task were made for different definitions of it, or two are of one estimator."""
    for task, members in by_task(results):
        digests = {result.task_digest: called(result) for result in members}
        if len(digests) > 1:
            made = ", ".join(f"{name} for {digest[:12]}" for digest, name in sorted(digests.items()))
            raise DamagedFile(f"results of {task} answer different definitions of it ({made}): repeat `loobench run` for it")
        names = [called(result) for result in members]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DamagedFile(f"{task} has two results of {', '.join(twice)}: move all but one away")


def table(name: str, results: Sequence[Result], limits: Known, tasks: int | None = None) -> Table:
    """One row for each estimator over the given results, and for what their uses are compared with.

    A row is complete with so many `tasks`, by default those of the results. Columns without a figure are left out, but for
    the first.
    """
    columns = COLUMNS[kind(results[0])]
    above, below = ([*references(who, results, limits)] for who in REFERENCES)
    rows = (*above, *ranked(results, limits, tasks or len(by_task(results))), *below)
    judged = {called(result) for result in published(results)}
    standing = [row for row in rows if row.name in judged or not row.results]
    filled = [column for column in columns if any(not np.isnan(row.means[column.title]) for row in standing)]
    return Table(name, tuple(filled) if columns[0] in filled else (columns[0], *filled), rows, tuple(results))


def ranked(results: Sequence[Result], limits: Known, tasks: int) -> list[Row]:
    """Estimators: those with all tasks by falling score, then the others, then those not verified; then by name.

    What is not verified, or not published, is compared with nothing, so that it moves nobody else's row. Who was run on less
    than a quarter of the tasks that another was run on has no row, unless it is one's own.
    """
    known = groups(results, called)
    most = max(len(some) for _, some in groups(published(results), called))
    members = [(name, some) for name, some in known if 4 * len(some) >= most or isinstance(some[0], Own)]
    complete = {name: rankings(some) for name, some in members if len(some) == tasks and all(map(may_rank, some))}
    defined = {name: found for name, found in complete.items() if not has_gaps(found)}
    estimated = {name: found for name, found in defined.items() if intervals.average(found) <= EXACT}
    compared = ties.compare(estimated, score_range(results[0])) if estimated else {}
    rivals = {name: averages(some) for name, some in members if name in estimated}
    rows = [row(name, some, tasks, limits, compared.get(name)) for name, some in members]
    rows = [replace(row, rival=rival(row, rivals)) if row.partial else row for row in rows]
    rows.sort(key=lambda row: (not row.trusted, row.tasks - row.done, -np.nan_to_num(row.score.mean, nan=-np.inf)))
    return on_front(rows)


def may_rank(result: Result) -> bool:
    """Whether a result may be held against others: every seed is scored, and it is trusted and published."""
    return finished(result) and result.trusted and not isinstance(result, Own)


def row(name: str, results: Sequence[Result], tasks: int, limits: Known, compared: Compared | None) -> Row:
    """One estimator's row, over its complete tasks."""
    done = [result for result in results if finished(result)]
    columns = COLUMNS[kind(results[0])]
    found = means([[scored(result, seed, limits) for seed in result.cells] for result in done], columns)
    ranking = rankings(done)
    score = intervals.interval(ranking, score_range(results[0])) if ranking and not has_gaps(ranking) else alone()
    return Row(name, score, found, compared, False, len(done), tasks, tuple(results))


def score_range(result: Result) -> intervals.Range:
    """The lowest and the highest that the score which ranks can be."""
    metric = METRICS[asked_of(result.task).primary]
    return min(metric.worst, metric.best), max(metric.worst, metric.best)


def averages(results: Sequence[Result]) -> dict[str, float]:
    """The score that ranks, by task."""
    return {result.name: intervals.average(rankings([result])) for result in results}


def rival(row: Row, others: Mapping[str, Mapping[str, float]]) -> Rival | None:
    """The best of rows that have all tasks, name -> task -> score, on the tasks that a row has; None without any."""
    done = [result.name for result in row.results if finished(result)]
    found = [Rival(name, mean([scores[task] for task in done])) for name, scores in others.items()]
    return max(found, key=lambda one: one.score, default=None) if done else None


def on_front(rows: Sequence[Row]) -> list[Row]:
    """The rows, marked where no other that ranks, nor the truth itself, is as accurate and as cheap, and better in one.

    What may be chance is not on the front, and keeps nobody off it.
    """
    accuracy = [row.score.mean if row.ranks and row.told_from_chance else np.nan for row in rows]
    front = ties.pareto([*accuracy, 1.0], [*(row.means["cost"] for row in rows), 1.0])
    return [replace(row, front=on) for row, on in zip(rows, front[:-1], strict=True)]


def alone(mean: float = np.nan) -> Interval:
    """A mean without an interval."""
    return Interval(mean, np.nan, np.nan, 0)


def references(name: str, results: Sequence[Result], limits: Known) -> list[Row]:
    """The row of what uses are compared with, over the tasks that have it; none where no task has."""
    seeds = [bounds(members, limits).values() for _, members in by_task(results)]
    tasks = [[reference(one, name) for one in found if name in one.references] for found in seeds]
    known = [found for found in tasks if found]
    columns = COLUMNS[kind(results[0])]
    found = means(known, columns)
    score = alone(found[columns[0].title])
    return [Row(f"({name})", score, found, None, False, len(known), len(tasks), ())] if known else []


def reference(found: Bounds, name: str) -> Scored:
    """Scores of a reference, which are of one horizon."""
    return Scored({score: [value] for score, value in found.references[name].items()}, {}, {})


def means(tasks: Sequence[Sequence[Scored]], columns: Sequence[Column]) -> dict[str, float]:
    """For each column the mean over tasks of means over seeds; with gaps, over what is known; or the median over cells."""
    found = {column: [[column.of(one) for one in seeds] for seeds in tasks] for column in columns}
    return {
        column.title: median([*chain(*values)]) if column.robust else nested(values, gaps=column.gaps)
        for column, values in found.items()
    }


def nested(values: Sequence[Sequence[float]], *, gaps: bool) -> float:
    """The mean of means; with gaps of what is known, else NaN where something is not."""
    chosen = [some for task in values if (some := defined(task))] if gaps else values
    return mean([mean(task) for task in chosen])
