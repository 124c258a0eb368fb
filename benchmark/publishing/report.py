"""leaderboard.md: the board as tables, a pure function of the result files and of the limits of their truths."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

import numpy as np
from tabulate import tabulate

from benchmark.base.places import PUBLISHED
from benchmark.base.text import line as plain
from benchmark.base.text import markdown
from benchmark.scores import cells, numbers
from benchmark.scores.board import HEADLINE, TWIN
from benchmark.scores.cells import bounds, by_task, last, limited
from benchmark.scores.columns import COLUMNS, LIMITS, USED, Column
from benchmark.scores.intervals import Interval
from benchmark.scores.numbers import figure, mean
from benchmark.scores.results import Result
from benchmark.scores.rows import Board, Known, Own, Row, Suite, Table, called, published
from benchmark.tasks.questions import FurtherTraining, LeaveOneOut, Subsets

Link = Callable[[str], str]  # from the name of an estimator to the cell that shows it
Places = tuple[Path, Path]  # of results that are published and of one's own, from where a page lies

OPENING, CLOSING = "<!-- headline: `loobench report --publish` writes this table -->", "<!-- end of headline -->"
PARTIAL = ("best there", "of", "tasks", "n")  # titles of the table of rows that lack tasks, behind name and mean
BEST = 5  # rows of each suite in the headline
PLACES = PUBLISHED, Path()
MOST_COLUMNS = 8  # tasks side by side in one table
VERSION = 40  # characters of a version of loobench
WIDEST = 30  # letters of who computed a row

HEAD = """# Leaderboard

What would a model's query loss be without one training sample? Each row is an estimator's answer, scored against the truth:
the model is really trained again without every sample, from the same initial parameters on the same batches, the sample's
weight 0. Scores are rank correlations with that truth (1 best); cost is time over that of all this retraining.
Computed by loobench from [results/](results); do not edit. To look closer, open [docs/index.html](docs/index.html).
"""
OWN_HEAD = """# Your results beside the published ones

Rows whose name ends in *(yours)* are your results, which nobody has published. They stand where their scores are, in the table
of rows that lack tasks where they lack one. They have no letter, are never on the front, and move no other row: all others are
as in [leaderboard.md]({home}leaderboard.md). Costs were measured on the machine of who computed a row. Written by `loobench
report`; do not edit. To look closer, open [docs/index.html](docs/index.html).
"""
HEADLINE_TEXT = """## Headline

The {} best estimators of each main suite, and what they score in each whose tasks they all answer, with the letter of their tie
group: rows of one letter cannot be told apart in that suite. Rows of the same suites stand together, by their mean over these,
those of the most suites first; the order of rows of different suites says nothing. cost: the median over the suites shown; 1 is
the price of exact retraining. What is not verified is left out.
"""
CHOICE = """\
What a submission is scored on: a fixed choice of {} tasks of other suites, seeds 0 to {} of each, the same for everybody; its
version rises with any change. The scores by task stand with the suites that the tasks are of.
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
LACKING = """\
Rows that lack tasks, which are compared with no other. {score}: over the tasks that a row has. best there: the highest {score}
over just these, and of which row: among those that have all tasks and are not the truth itself.
"""
LEGEND = """\
**The score.** tau: Kendall's tau-b against the exact effects at the last horizon, the mean over queries, seeds and tasks, with
its 95 % interval by hierarchical bootstrap over seeds, then queries, on the arcsine's scale, so that it ends within the range
of the score; tasks are not drawn. One seed has no interval.

**Groups.** Rows of one letter are a tie: none is told from the best of them by both a Wilcoxon signed-rank test over seeds and
tasks (Holm's correction, .05) and the paired difference. *behind*: that difference, the best row minus this one. Rows are
compared over the same tasks only. Those that lack a task have no letter, are not on the front and stand in a table of their own
(a method for SGD lacks the tasks of Adam: the scores by task, and the tables of single tasks on the page, compare it where it
answers). What is the truth itself (*exact*) has no letter either.

**Claims.** by: who computed the row. *verified*: sent by its submitter and computed again by the maintainers, whose value comes
first. *unverified*: nobody has computed it again, or the word behind it says how that went; such a row stands below all others,
has no letter, is never the best nor on the front, and moves no other row.

**Cost.** cost: processor time over that of exact leave-one-out on the same machine and thread (rows of loobench before 0.6:
wall time); grad, hvp: counted per-sample gradients and Hessian products over the gradients of exact leave-one-out; MB: most
memory at once beyond what was there before, where measured. *Pareto*: the row is told from chance (the interval of its score is
above 0), and no other row, nor exact retraining (score 1, cost 1), is as accurate and as cheap, and better in one.

**Other columns.** Means over seeds, then tasks. rho: Spearman. RMSE/sd: root mean squared error over the standard deviation of
the exact effects, for methods in units of loss; it has no bound, and so it is the median over cells (a seed of a task each).
J10: overlap of the 5 % most harmful and 5 % most helpful samples. n: seeds. Figures have up to six characters: 2.3e7 is 23
million.

**Marks.** *interpretation*: our reading of a method whose formula is known only second-hand; *unsupported*: the method declares
that it does not answer such a task, or asks for states that a task of the final model does not show; *2 of 28 diverged*: in two
of its 28 cells RMSE/sd is above 100 (to predict the mean gets 1); *not converged*: a solver's residual is above what it
promises; *not counted*: it takes derivatives that its counts leave out; *stale*: computed under another protocol, so that its
numbers may not come out again; other words are failures.
[docs/protocol.md]({home}docs/protocol.md) has all definitions.
"""
LEGENDS = {
    Subsets.kind: """\
**Subsets.** LDS, the linear datamodeling score, is Spearman's rho over subsets, the mean over queries. cost, grad and hvp are
over the training of all subsets.
""",
    FurtherTraining.kind: """\
**Further training.** cos, the cosine between estimate and effects averaged over queries, is the mean over all lengths;
cos first and cos last are at the shortest and the longest. cost, grad and hvp are over the further training.
""",
    USED: """\
**Uses.** AUROC and AP for finding wrong labels by the lowest effects. cleansed: change on the test split without the most
harmful samples, mean over how many; fresh: the same from other starts in other orders; coreset: with the most helpful alone.
Lower is better in these. del: Spearman between sums of effects and the truth of deleting groups, random or clustered.
""",
}
LIMITED = """\
**Limits.** of ceiling: the score that ranks the rows over the ceiling of the same task and seed, both at the last
horizon, from the seeds where the ceiling is known and above 0. For leave-one-out the ceiling is the score of the exact
shift of the parameters read off to first order, from at most 50 of the samples: a method that reads its shift off exactly
can be above 1. For subsets and further training it is what the expectation of the truth would score, from two halves of
its repeats. Limits, in brackets below the tasks' scores, are means over seeds at the last horizon: tau with another start
or order says how well the effects in another run agree with these; kinks, how often runs without a sample cross a kink of
ReLU; noise, the error of training anew over the standard deviation of the effects.
"""
CITE = """\
## How to cite

`loobench cite` gives the entry of the benchmark, `loobench cite SUITE/ESTIMATOR` that of a row, with protocol, digest and
commit, so that readers can tell whether the row has changed since. A row's address is `docs/index.html#SUITE/ESTIMATOR`.
"""
SUBMIT = """## How to submit

One file with one function: [CONTRIBUTING.md](CONTRIBUTING.md).
"""


# ---- the page --------------------------------------------------------------------------------------------------------
def leaderboard(made: Board, sources: Mapping[str, str]) -> str:
    """The whole page, the names of estimators linked to their `sources`."""
    named = partial(linked, sources)
    parts = [HEAD, *headline(made, named)]
    for suite in made.suites:
        beside = [] if suite.version else [*twins(suite, made), *matrices(suite, made.limits)]
        parts += [*section(suite, named), *beside]
    return "\n".join([*parts, "## How to read\n", *legends(made), CITE, SUBMIT])


def beside(made: Board, sources: Mapping[str, str], home: str, own: Path) -> str:
    """The page of one's own results beside the published ones.

    `home`, as "../", leads from it to the repository, and `own` to the results of one's own.
    """
    named = partial(linked, {name: f"{home}{source}" for name, source in sources.items()})
    parts, places = [OWN_HEAD.format(home=home)], (Path(home) / PUBLISHED, own)
    for suite in made.suites:
        parts += [*section(suite, named), *([] if suite.version else matrices(suite, made.limits, places))]
    return "\n".join([*parts, "## How to read\n", *legends(made, home)])


def quoted(page: str, made: Board, sources: Mapping[str, str]) -> str:
    """A page with the headline's table between its marks, or as it is where it has none."""
    found = headline(made, partial(linked, sources))
    before, opening, rest = page.partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    return f"{before}{opening}\n\n{found[-1]}\n{closing}{after}" if found and closing else page


def section(suite: Suite, named: Link) -> list[str]:
    """A suite's heading, what it asks where that is not plain leave-one-out, its table and its version."""
    renormalised = suite.overall.results[0].task.get("counterfactual") == "renormalised"
    about = [text for text in (choice(suite), ABOUT[suite.kind], RENORMALISED * renormalised) if text]
    tables = [f"{shown}\n" for shown in (table(suite.overall, named), lacking(suite.overall, named)) if shown]
    return [f"## Suite {markdown(suite.title)}\n", *about, *tables, f"{version(suite)}\n"]


def choice(suite: Suite) -> str:
    """What a choice of other suites' tasks is; nothing of other suites."""
    table = suite.overall
    return CHOICE.format(table.rows[0].tasks, len(table.results[0].cells) - 1) if suite.version else ""


def version(suite: Suite) -> str:
    """What a suite's figures are of: protocol, version of a choice, digest of its tasks, what computed its rows."""
    facts = [facts for result in published(suite.overall.results) for facts in result.provenance.values()]
    made = sorted({markdown(one["loobench"], VERSION) for one in facts if "loobench" in one})
    by = f"; computed by loobench {', '.join(made)}" if made else ""
    chosen = f"version {suite.version}, " if suite.version else ""
    return f"Protocol {markdown(suite.protocol)}; {chosen}{len(suite.tasks)} tasks, digest `{suite.digest[:12]}`{by}."


def legends(made: Board, home: str = "") -> list[str]:
    """How to read the kinds of tables that there are."""
    kinds = {suite.kind for suite in made.suites}
    found = any(one.values for suite in made.suites for one in bounds(suite.overall.results, made.limits).values())
    return [LEGEND.format(home=home), *(text for name, text in LEGENDS.items() if name in kinds), *[LIMITED] * found]


# ---- the headline ----------------------------------------------------------------------------------------------------
def headline(made: Board, named: Link) -> list[str]:
    """The scores of the main suites side by side, of what is trusted; nothing where fewer than two of them are there."""
    suites = [suite for name in HEADLINE for suite in made.suites if suite.name == name]
    if len(suites) < 2:
        return []
    rows = [
        {row.name: row for row in suite.overall.estimators if row.sound and not np.isnan(row.score.mean)} for suite in suites
    ]
    names = {row.name for suite in suites for row in [row for row in suite.overall.rows if row.compared][:BEST]}
    found = {name: [table.get(name) for table in rows] for name in names}
    order = sorted(names, key=lambda name: (*_answered(found[name]), name))
    headers = ["estimator", *(suite.name for suite in suites), "cost"]
    lines = [[named(name), *_headline_row(found[name])] for name in order]
    body = tabulate(lines, headers, tablefmt="github", disable_numparse=True, colalign=_align(headers))
    return [HEADLINE_TEXT.format(BEST), f"{body}\n"]


def _answered(rows: Sequence[Row | None]) -> tuple[int, list[bool], float]:
    """Where a row of the headline stands: how many suites it lacks, which, and its mean over the others, to sort by."""
    without = [row is None for row in rows]
    return sum(without), without, -mean([row.score.mean for row in rows if row])


def _headline_row(rows: Sequence[Row | None]) -> list[str]:
    costs = [row.means["cost"] for row in rows if row]
    return [
        *(f"{interval(row.score)} {_group(row)}".strip() if row else "" for row in rows),
        figure(float(np.median(costs)), 2),
    ]


# ---- tables ----------------------------------------------------------------------------------------------------------
def table(made: Table, named: Link, *, style: str = "github") -> str:
    """A table of the board, of the rows that have all tasks; nothing without any."""
    first, *others = made.columns
    headers = ["", "estimator", first.title, "behind", *(column.title for column in others), "tasks", "n", "by", ""]
    return _tabulated([line(row, made.columns, named) for row in made.rows if not row.partial], headers, style)


def lacking(made: Table, named: Link) -> str:
    """What is said of the rows that lack tasks, and their table; nothing without any."""
    title = made.columns[0].title
    rows = [[*in_part(row, named), markdown(shorten(row.by)), markdown(_marks(row))] for row in made.rows if row.partial]
    shown = _tabulated(rows, ["estimator", title, *PARTIAL, "by", ""], "github")
    return shown and f"{LACKING.format(score=title)}\n{shown}"


def in_part(row: Row, named: Link) -> list[str]:
    """A row that lacks tasks: its name, its mean, the best there and of which row, its tasks and seeds."""
    best = (figure(row.rival.score), named(row.rival.name)) if row.rival else ("", "")
    return [named(row.name), figure(row.score.mean), *best, f"{row.done}/{row.tasks}", _seeds(row)]


def brief(made: Table) -> str:
    """A table of the board that fits a terminal, and below it one of the rows that lack tasks."""
    first = made.columns[0]
    shown = [column for column in made.columns if column.title in ("of ceiling", "cost")]
    headers = ["", "estimator", first.title, *(column.title for column in shown), "n", ""]
    whole = [row for row in made.rows if not row.partial]
    rows = [[*_named(row, plain), interval(row.score), *_means(row, shown), _seeds(row), _marks(row)] for row in whole]
    others = [[*in_part(row, plain), _marks(row)] for row in made.rows if row.partial]
    below = _tabulated(others, ["lacks tasks", first.title, *PARTIAL, ""], "simple")
    return "\n\n".join(found for found in (_tabulated(rows, headers, "simple"), below) if found)


def _tabulated(rows: Sequence[Sequence[str]], headers: Sequence[str], style: str) -> str:
    """A table as text; nothing without rows."""
    return tabulate(rows, headers, tablefmt=style, disable_numparse=True, colalign=_align(headers)) if rows else ""


def line(row: Row, columns: Sequence[Column], named: Link) -> list[str]:
    """A row as the strings of its table cells."""
    behind = interval(row.compared.difference) if row.compared and row.compared.difference.mean else ""
    return [
        *_named(row, named),
        interval(row.score),
        behind,
        *_means(row, columns[1:]),
        f"{row.done}/{row.tasks}",
        _seeds(row),
        markdown(shorten(row.by)),
        markdown(_marks(row)),
    ]


def interval(found: Interval) -> str:
    """A mean and its interval, where it has one; nothing where it is not defined."""
    if np.isnan(found.mean):
        return ""
    return figure(found.mean) + ("" if np.isnan(found.low) else f" [{figure(found.low)}, {figure(found.high)}]")


def _named(row: Row, named: Link) -> list[str]:
    return [_group(row), named(row.name)]


def _group(row: Row) -> str:
    return letters(row.compared.group) if row.compared else ""


def letters(number: int) -> str:
    """1 -> A, 26 -> Z, 27 -> AA."""
    above, own = divmod(number - 1, 26)
    return (letters(above) if above else "") + chr(ord("A") + own)


def _means(row: Row, columns: Sequence[Column]) -> list[str]:
    return [figure(row.means[column.title], column.digits) for column in columns]


def _seeds(row: Row) -> str:
    least, most = row.seeds
    return "" if not most else str(most) if least == most else f"{least} to {most}"


def _marks(row: Row) -> str:
    return plain(", ".join([*["Pareto"] * row.front, *row.marks]))


def shorten(name: str) -> str:
    """A name that does not widen a whole table; the page and the file have all of it."""
    return name if len(name) <= WIDEST else f"{name[: WIDEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _align(headers: Sequence[str]) -> list[str]:
    return ["left" if name in ("", "estimator", "lacks tasks", "of", "by") else "right" for name in headers]


# ---- tasks side by side ----------------------------------------------------------------------------------------------
def matrices(suite: Suite, limits: Known, places: Places = PLACES) -> Iterator[str]:
    """The score that ranks by estimator, row, and task, column; one table for each data set and model where tasks are many."""
    members = [result for one in suite.tasks for result in one.results]
    key = _data_and_model if len(suite.tasks) > MOST_COLUMNS else (lambda result: "by task")
    title, rows = suite.overall.columns[0].title, [row.name for row in suite.overall.estimators]
    order = [*rows, *sorted({*map(called, members)} - {*rows})]
    for name, some in cells.groups(members, key):
        yield f"### {markdown(f'{suite.name}, {name}')}: {title}\n\n{matrix(some, limits, order, places)}\n"


def _data_and_model(result: Result) -> str:
    return f"{result.task['dataset']}, {result.task['model']}"


def matrix(members: Sequence[Result], limits: Known, order: Sequence[str], places: Places = PLACES) -> str:
    """Means over seeds by estimator and task, each linked to its file, and below them what limits each task's truth."""
    tasks = by_task(members)
    answers = {(task, called(result)): answer(result, places) for task, rows in tasks for result in rows}
    lines = [[markdown(name), *(answers.get((task, name), "") for task, _ in tasks)] for name in order]
    found = [bounds(rows, limits).values() for _, rows in tasks]
    floors = [[f"({limit.title})", *(limited(limit, one) for one in found)] for limit in LIMITS]
    headers = ["estimator", *map(markdown, short_names([task for task, _ in tasks]))]
    rows = [line for line in [*lines, *floors] if any(line[1:])]
    return str(tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=_align(headers)))


def answer(result: Result, places: Places = PLACES) -> str:
    """The mean over seeds of the score that ranks, or what failed, linked to the result; nothing of an unsupported task.

    A score that is not trusted says so.
    """
    if statuses := {cell.status for cell in result.cells.values()} - {"ok"}:
        said = " ".join(sorted(statuses - {"unsupported"}))
    else:
        value = mean([float(cells.ranking(result, seed).mean()) for seed in result.cells])
        shown, doubt = figure(value, COLUMNS[cells.kind(result)][0].digits), " unverified" * (not result.trusted)
        said = shown and shown + doubt
    return said and f"[{said}]({quote((places[isinstance(result, Own)] / result.file).as_posix())})"


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the words that all begin with."""
    words = [name.split("-") for name in names]
    shared = next((i for i, same in enumerate(zip(*words, strict=False)) if len({*same}) > 1), 0)
    return ["-".join(rest[shared:]) for rest in words]


# ---- twins -----------------------------------------------------------------------------------------------------------
CEILING = Column("ceiling", lambda one: numbers.entry(one.limits, "ceiling"))
Pair = tuple[Result, Result]  # an estimator on a task with kinks and on its twin


def twins(suite: Suite, made: Board) -> list[str]:
    """Tasks with kinks beside their twins without, by estimator, of trusted results; nothing where none has a twin."""
    known = [result for one in made.suites if not one.version for result in one.overall.results if result.trusted]
    others = {(TWIN + result.name, result.estimator.name): result for result in known}
    members = [result for result in suite.overall.results if result.trusted]
    pairs = [(others[key], twin) for twin in members if (key := (twin.name, twin.estimator.name)) in others]
    named = groupby(sorted(pairs, key=estimator_of), estimator_of)
    rows = [line for name, some in named if (line := twin_line(name, [*some], made.limits))]
    if not rows:
        return []
    title = suite.overall.columns[0].title
    headers = ["estimator", f"{title}, ReLU", f"{title}, twin", "ceiling, ReLU", "ceiling, twin", "pairs"]
    rows.sort(key=lambda row: (-int(row[-1]), -float(row[1])))
    body = tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=_align(headers))
    return [f"### Twins\n\n{TWINS}\n{body}\n", *kinks([rough for rough, _ in pairs], made.limits)]


def estimator_of(pair: Pair) -> str:
    """The estimator of a pair."""
    return pair[0].estimator.name


def twin_line(name: str, pairs: Sequence[Pair], limits: Known) -> list[str]:
    """An estimator's row of the table of twins; empty where no seed was scored on both of a pair."""
    first = COLUMNS[cells.kind(pairs[0][0])][0]
    scores, ceilings = ([found for pair in pairs if (found := side_by_side(c, pair, limits))] for c in (first, CEILING))
    if not scores:
        return []
    shown = [figure(float(value)) for value in np.mean(scores, axis=0)]
    above = [figure(float(value)) for value in np.mean(ceilings, axis=0)] if ceilings else ["", ""]
    return [markdown(name), *shown, *above, str(len(scores))]


def side_by_side(column: Column, pair: Pair, limits: Known) -> list[float]:
    """The column's mean on either side, over the seeds that both were scored on and that have it on both; or nothing."""
    rough, smooth = ({seed for seed, cell in result.cells.items() if cell.status == "ok"} for result in pair)
    seeds = sorted(rough & smooth, key=int)
    found = [[column.of(cells.scored(result, seed, limits)) for result in pair] for seed in seeds]
    both = [values for values in found if not np.isnan(values).any()]
    return [mean(side) for side in zip(*both, strict=True)]


def kinks(results: Sequence[Result], limits: Known) -> list[str]:
    """How often runs of the tasks with kinks cross one, the mean over tasks; nothing where that is not known."""
    tasks = [last("kink_pairs", bounds(members, limits).values()) for _, members in by_task(results)]
    shares = [mean(values) for values in tasks if values]
    crossed = f"Kinks: a run without a sample crosses one in {100 * mean(shares):.2f} % of pairs (left-out sample, step)"
    return [f"{crossed}, mean over {len(shares)} ReLU tasks.\n"] if shares else []


# ---- names -----------------------------------------------------------------------------------------------------------
def linked(sources: Mapping[str, str], name: str) -> str:
    """An estimator's name as a link to its source, where that is known."""
    return f"[{markdown(name)}]({sources[name]})" if name in sources else markdown(name)
