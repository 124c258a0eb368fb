"""The board as records, a pure function of result files and limits: what the tables, the page and the figures show."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, groupby

import numpy as np

from benchmark import PROTOCOL
from benchmark.base.errors import DamagedFile, LoobenchError, unknown
from benchmark.base.files import json_digest
from benchmark.base.records import encode
from benchmark.scores import statistics
from benchmark.scores.metrics import METRICS
from benchmark.scores.results import Bounds, Limits, Result
from benchmark.scores.statistics import Compared, Interval
from benchmark.tasks.questions import FurtherTraining, LeaveOneOut, Subsets, asked_of
from benchmark.tasks.suites import Suite as Choice

Curve = Sequence[float | None]  # H values
Known = Mapping[str, Limits]  # by name of task and device

HEADLINE = ("quick", "hara2019", "acc2025", "adaptive", "final-model")  # suites of the headline, before the others
USED = "uses"  # the kind of a task whose effects are used for something
REFERENCES = ("oracle", "random")  # above and below the estimators
NOTED = {"unconverged": "not converged", "uncounted": "not counted"}  # marks of rows, by the note that cells have
EXACT = 1 - 1e-6  # a score above it is that of the truth itself
CHANCE = 0.0  # what every score that ranks is for an answer that says nothing
DIVERGED = 100  # RMSE/sd above which a cell has diverged; 1 is what predicting the mean would get
WIDEST = 6  # characters of a figure
TWIN = "smooth-"  # before the name of the task with kinks
MAINTAINERS = "maintainers"  # who computed what is published and was sent by nobody
UNBOUNDED = "relative_rmse"  # the score that says whether a cell has diverged
YOURS = " (yours)"  # behind the name of a row that is not published; no name of an estimator ends so


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
    gaps: bool = False  # the mean is over the tasks and seeds that have a figure; else all must have one
    robust: bool = False  # the median over all cells in place of the mean: the figure has no bound


def at(title: str, score: str, horizon: int = -1, *, gaps: bool = False) -> Column:
    """A score at one horizon."""
    return Column(title, lambda one: entry(one.scores, score, horizon), gaps=gaps)


def error(title: str, score: str) -> Column:
    """An error without bound, at the last horizon."""
    return Column(title, lambda one: entry(one.scores, score), robust=True)


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
    return Column(title, lambda one: one.counts.get(title, np.nan), digits=2)


COUNTED = (counted("cost"), counted("grad"), counted("hvp"), Column("MB", lambda one: one.counts.get("MB", np.nan), digits=0))
COLUMNS = {  # by kind of truth; the first ranks the rows
    LeaveOneOut.kind: (
        at("tau", LeaveOneOut.primary),
        of_ceiling(LeaveOneOut.primary),
        at("rho", "spearman"),
        error("RMSE/sd", UNBOUNDED),
        at("J10", "jaccard_10"),
        *COUNTED,
    ),
    Subsets.kind: (
        at("LDS", Subsets.primary),
        of_ceiling(Subsets.primary),
        at("tau", "kendall"),
        error("RMSE/sd", UNBOUNDED),
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
    """What limits a truth: its name in the files, what the board calls it, and its decimals, None of what is all but 0."""

    name: str
    title: str
    digits: int | None = 3


LIMITS = (
    Limit("ceiling", "ceiling"),
    Limit("linear_spearman", "its rho"),
    Limit("linear_relative_rmse", "its RMSE/sd"),
    Limit("split_half", "agreement of two halves"),
    Limit("own", "of one repeat with the others"),
    Limit("other_initial", "tau with another start"),
    Limit("other_order", "tau with another order"),
    Limit("kink_pairs", "kinks, share of pairs (sample, step)", 4),
    Limit("kink_triples", "of triples", 4),
    Limit("noise", "noise", None),
    Limit("without_class", "subsets without a class", 1),
)


# ---- the records -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Own(Result):
    """A result that is not published, of whoever makes the board: it is shown beside what is, and moves nothing of it."""


@dataclass(frozen=True)
class Rival:
    """The best row that has all tasks, on some of them alone: its name and its mean there."""

    name: str
    score: float


@dataclass(frozen=True, eq=False)
class Row:
    """What a table says of one estimator over its complete tasks, or of a reference such as "(oracle)"."""

    name: str
    score: Interval  # of the score that ranks
    means: dict[str, float]  # title of the column -> mean over tasks of means over seeds, or median; NaN where not defined
    compared: Compared | None  # with the best; None where the row does not rank, and where its answer is the truth itself
    front: bool  # told from chance, and no other that ranks, nor the truth itself, is as accurate and cheap, and better in one
    done: int  # tasks with all seeds scored
    tasks: int
    results: tuple[Result, ...]  # by task; none of a reference
    rival: Rival | None = None  # of a row that lacks tasks: the best that has all, on the tasks of this one

    @property
    def complete(self) -> bool:
        """Whether an estimator has all seeds of all tasks scored."""
        return bool(self.results) and self.done == self.tasks

    @property
    def partial(self) -> bool:
        """Whether it is an estimator's and lacks a task, so that its means are not those of other rows."""
        return bool(self.results) and not self.complete

    @property
    def told_from_chance(self) -> bool:
        """Whether the interval of its score is above that of an answer that says nothing; one without an interval is not."""
        return self.score.low > CHANCE

    @cached_property
    def trusted(self) -> bool:
        """Whether the maintainers computed or verified every result; else the row is unverified."""
        return all(result.trusted for result in self.results)

    @property
    def own(self) -> bool:
        """Whether some result of it is not published."""
        return any(isinstance(result, Own) for result in self.results)

    @property
    def sound(self) -> bool:
        """Whether it is complete and trusted."""
        return self.complete and self.trusted

    @property
    def ranks(self) -> bool:
        """Whether the row is held against others: only what is sound and published is."""
        return self.sound and not self.own

    @property
    def by(self) -> str:
        """Who computed it; nothing of a reference."""
        return ", ".join(sorted({name for result in self.results for name in computed_by(result)}))

    @property
    def seeds(self) -> tuple[int, int]:
        """The fewest and the most seeds of its complete tasks."""
        counts = [len(result.cells) for result in self.results if finished(result)] or [0]
        return min(counts), max(counts)

    @property
    def marks(self) -> tuple[str, ...]:
        """What is to be said beside the figures: an old protocol, claims, interpretation, failures, solvers that fell short."""
        cells = [cell for result in self.results for cell in result.cells.values()]
        own = ("interpretation",) if self.results and self.results[0].estimator.interpretation else ()
        short = [word for note, word in NOTED.items() if any(cell.notes.get(note) for cell in cells)]
        errors = defined(entry(cell.scores, UNBOUNDED) for cell in cells)
        lost = sum(error > DIVERGED for error in errors)
        diverged = (f"{lost} of {len(errors)} diverged",) if lost else ()
        exact = ("exact",) if self.results and self.trusted and self.score.mean > EXACT else ()
        old = ("stale",) if any(result.protocol != PROTOCOL for result in self.results) else ()
        return (*old, *claims(self.results), *exact, *own, *sorted({cell.status for cell in cells} - {"ok"}), *diverged, *short)

    @cached_property
    def digest(self) -> str:
        """Digest of the contents of its result files."""
        return json_digest(sorted(json_digest(encode(result)) for result in self.results))


@dataclass(frozen=True, eq=False)
class Table:
    """Rows over one task, or over all tasks of a suite, the best first; then incomplete rows, then unverified ones.

    Only rows that have all tasks are compared, for only they are over the same tasks.
    """

    name: str  # of the task or suite
    columns: tuple[Column, ...]  # those with a figure; the first ranks the rows
    rows: tuple[Row, ...]
    results: tuple[Result, ...]

    @property
    def estimators(self) -> list[Row]:
        """The rows of estimators, without references."""
        return [row for row in self.rows if row.results]


@dataclass(frozen=True, eq=False)
class Suite:
    """A suite's tables: over all its tasks, and of each. A choice of other suites' tasks has a version."""

    name: str  # with precision, device and protocol where these are not the usual ones
    protocol: str
    kind: str
    overall: Table
    tasks: tuple[Table, ...]
    version: str | None = None

    @property
    def title(self) -> str:
        """Its name, with the version of a choice."""
        return self.name if self.version is None else f"{self.name} (version {self.version})"

    @property
    def digest(self) -> str:
        """Digest of its tasks' definitions."""
        return json_digest(sorted({(result.name, result.task_digest) for result in self.overall.results}))


@dataclass(frozen=True, eq=False)
class Board:
    """All suites, and what limits their truths."""

    suites: tuple[Suite, ...]
    limits: Known

    def find(self, row: str) -> tuple[Table, Row]:
        """The row called ``<suite or task>/<estimator>``. Raises LoobenchError where there is none."""
        place, _, name = row.partition("/")
        tables = {table.name: table for suite in self.suites for table in (*suite.tasks * (not suite.version), suite.overall)}
        if place not in tables:
            raise LoobenchError(f"rows are called <suite or task>/<estimator>, as {self.example}; the board has no {place!r}")
        rows = {found.name: found for found in tables[place].rows}
        if name not in rows:
            raise unknown(f"row of {place}", name, rows)
        return tables[place], rows[name]

    @property
    def example(self) -> str:
        """The name of its first row."""
        first = self.suites[0].overall
        return f"{first.name}/{first.rows[0].name}"


# ---- what is one's own -----------------------------------------------------------------------------------------------
def own(results: Iterable[Result], limits: Known) -> tuple[list[Result], dict[str, Limits]]:
    """Results that are not published and what limits their truths, as `board` takes them beside those that are."""
    return [Own(**vars(result)) for result in results], {name + YOURS: found for name, found in limits.items()}


def published(results: Sequence[Result]) -> Sequence[Result]:
    """Those of some results that facts of their table come from: those that are published, or all where none is."""
    return [result for result in results if not isinstance(result, Own)] or results


def unpublished(row: Row) -> Row:
    """The row, of results that are all said not to be published."""
    return replace(row, results=tuple(own(row.results, {})[0]))


def called(result: Result) -> str:
    """What the rows of a result are called: as its estimator, marked where it is not published."""
    return result.estimator.name + mark(result)


def mark(result: Result) -> str:
    """What is behind a name where a result is not published."""
    return YOURS if isinstance(result, Own) else ""


def computed_by(result: Result) -> list[str]:
    """Who computed a result: its submitter, and who verified it; of what is published and nobody sent, the maintainers."""
    if result.claimed:
        verified = f", verified by {result.verified.by}" if result.verified and result.trusted else ""
        return [result.claimed.by + verified]
    if not isinstance(result, Own):
        return [MAINTAINERS]
    return sorted({str(facts.get("by", "unknown")) for facts in result.provenance.values()})


# ---- from results to records -----------------------------------------------------------------------------------------
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


def kind(result: Result) -> str:
    """The kind of truth of a result, or that its effects are used for something."""
    return USED if result.task.get("uses") else asked_of(result.task).kind


def groups(results: Iterable[Result], key: Callable[[Result], str]) -> list[tuple[str, list[Result]]]:
    """Results by `key`, in order of it."""
    ordered = sorted(results, key=lambda result: (key(result), result.name, called(result)))
    return [(name, list(members)) for name, members in groupby(ordered, key)]


def by_task(results: Iterable[Result]) -> list[tuple[str, list[Result]]]:
    """Results by task and device."""
    return groups(results, lambda result: result.name)


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
    estimated = {name: found for name, found in defined.items() if statistics.average(found) <= EXACT}
    compared = statistics.compare(estimated, score_range(results[0])) if estimated else {}
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
    score = statistics.interval(ranking, score_range(results[0])) if ranking and not has_gaps(ranking) else alone()
    return Row(name, score, found, compared, False, len(done), tasks, tuple(results))


def score_range(result: Result) -> statistics.Range:
    """The lowest and the highest that the score which ranks can be."""
    metric = METRICS[asked_of(result.task).primary]
    return min(metric.worst, metric.best), max(metric.worst, metric.best)


def averages(results: Sequence[Result]) -> dict[str, float]:
    """The score that ranks, by task."""
    return {result.name: statistics.average(rankings([result])) for result in results}


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
    front = statistics.pareto([*accuracy, 1.0], [*(row.means["cost"] for row in rows), 1.0])
    return [replace(row, front=on) for row, on in zip(rows, front[:-1], strict=True)]


def claims(results: Sequence[Result]) -> tuple[str, ...]:
    """What a row says of its submitter's claims: that all are verified, or not, and the verdicts on those that are not.

    Values are means over the tasks that have them; nothing of what the maintainers computed.
    """
    claimed = [result for result in results if result.claimed]
    if not claimed:
        return ()
    if all(result.trusted for result in claimed):
        both = [(one.verified.value, one.claimed.value) for one in claimed if one.verified and one.claimed]
        sides = [*zip(*(pair for pair in both if None not in pair), strict=True)]
        return ("verified {} (claimed {})".format(*(figure(mean(side)) for side in sides)) if sides else "verified",)
    known = defined([number(one.claimed.value) for one in claimed if one.claimed])
    return ("unverified" + (f", claimed {figure(mean(known))}" if known else ""), *sorted({*map(verdict, claimed)} - {""}))


def verdict(result: Result) -> str:
    """Why the verification of a result does not hold; nothing where there is none, or it does."""
    if result.verified is None or result.trusted:
        return ""
    return result.verified.verdict if result.verified.verdict != "verified" else "changed since verified"


def finished(result: Result) -> bool:
    """Whether a result has seeds and every one is scored."""
    return bool(result.cells) and all(cell.status == "ok" for cell in result.cells.values())


def rankings(results: Sequence[Result]) -> list[dict[str, statistics.Values]]:
    """Of each task, seed -> (Q,) the score that ranks; one value, the mean, where those of the queries are not known."""
    return [{seed: ranking(result, seed) for seed in result.cells} for result in results]


def ranking(result: Result, seed: str) -> statistics.Values:
    """The score that ranks, of each query of a seed; NaN where not defined."""
    cell = result.cells[seed]
    first = COLUMNS[kind(result)][0].of(Scored(cell.scores, {}, {}))
    return np.array([number(value) for value in cell.by_query] or [first])


def has_gaps(rankings: Sequence[Mapping[str, statistics.Values]]) -> bool:
    """Whether the score that ranks is not defined for some query."""
    return any(np.isnan(values).any() for task in rankings for values in task.values())


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


def scored(result: Result, seed: str, limits: Known) -> Scored:
    """One seed of a result, with the limits of its task and seed."""
    cell, found = result.cells[seed], bound(result, seed, limits)
    counts = {
        "cost": cell.relative_cost,
        "grad": cell.gradients / cell.exact_gradients,
        "hvp": cell.hessian_products / cell.exact_gradients,
        "MB": np.nan if cell.memory is None else cell.memory / 1e6,
    }
    return Scored(cell.scores, found.values if found else {}, counts)


# ---- limits ----------------------------------------------------------------------------------------------------------
def bound(result: Result, seed: str, limits: Known) -> Bounds | None:
    """The limits of a cell's task and seed: those published, else for a result of one's own one's own; None without any.

    They are of one definition of the task. On which machine the truth was computed does not matter: limits are the same to the
    digits that are kept, though last bits of truths are not.
    """
    known = (limits.get(name) for name in dict.fromkeys((result.name, result.name + mark(result))))
    return next((one.seeds[seed] for one in known if one and one.task_digest == result.task_digest and seed in one.seeds), None)


def bounds(results: Sequence[Result], limits: Known) -> dict[str, Bounds]:
    """The limits of the seeds that published results of one task, or all, have: who answered, and where, changes nothing."""
    found = [(seed, bound(result, seed, limits)) for result in published(results) for seed in result.cells]
    return {seed: one for seed, one in found if one}


def limited(limit: Limit, found: Iterable[Bounds]) -> str:
    """A limit at the last horizon, the mean over seeds that have it; nothing where none has."""
    values = last(limit.name, found)
    return figure(mean(values), limit.digits) if values else ""


def last(name: str, found: Iterable[Bounds]) -> list[float]:
    """What is known of a limit at the last horizon."""
    return defined([entry(one.values, name) for one in found])


# ---- curves and pairs ------------------------------------------------------------------------------------------------
def curve(result: Result) -> list[tuple[int, float]]:
    """The score that ranks at each horizon, the mean over seeds: (horizon, score) where it is defined."""
    if not finished(result):
        return []
    name, horizons = asked_of(result.task).primary, result.task["horizons"]
    known = [cell.scores.get(name) or [None] * len(horizons) for cell in result.cells.values()]
    values = np.array([[number(value) for value in curve] for curve in known])
    pairs = zip(horizons, values.mean(0), strict=True)
    return [(int(horizon), float(value)) for horizon, value in pairs if not np.isnan(value)]


def pairs(result: Result, limits: Known) -> Iterator[tuple[int, float, float]]:
    """(seed, true, predicted) of the effects that are kept to be looked at, over the truth's standard deviation."""
    for seed, cell in result.cells.items():
        found = bound(result, seed, limits)
        both = zip(found.points, cell.points, strict=True) if found and len(found.points) == len(cell.points) else ()
        yield from ((int(seed), true, predicted) for true, predicted in both)


# ---- numbers ---------------------------------------------------------------------------------------------------------
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


def median(values: Sequence[float]) -> float:
    """Median, NaN of none and where one is NaN."""
    return float(np.median(values)) if values and not np.isnan(values).any() else np.nan


def figure(value: float, digits: int | None = 3) -> str:
    """A number in at most `WIDEST` characters: so many decimals, fewer where it is too long, else as 2.3e7; "" for NaN.

    With None in place of `digits` it is of the last form, with one digit.
    """
    if np.isnan(value):
        return ""
    forms = [f"{value:.0e}"] if digits is None else [f"{value:.{places}f}" for places in range(digits, -1, -1)]
    forms += [f"{value:.{places}e}".replace("e+0", "e").replace("e+", "e") for places in (1, 0)]
    return next((form for form in forms if len(form) <= WIDEST), forms[-1])
