"""A board's tables in Markdown and for the terminal: of a suite, of tasks side by side, of tasks and their smooth twins."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

import numpy as np
from tabulate import tabulate

from benchmark.base.places import PUBLISHED
from benchmark.base.text import line as plain
from benchmark.base.text import markdown
from benchmark.publishing.legends import LACKING, TWINS
from benchmark.scores import cells, numbers
from benchmark.scores.board import TWIN
from benchmark.scores.cells import bounds, by_task, last, limited
from benchmark.scores.columns import COLUMNS, LIMITS, Column
from benchmark.scores.intervals import Interval
from benchmark.scores.numbers import figure, mean
from benchmark.scores.results import Result
from benchmark.scores.rows import Board, Known, Own, Row, Suite, Table, called

Link = Callable[[str], str]  # from the name of an estimator to the cell that shows it
Places = tuple[Path, Path]  # of results that are published and of one's own, from where a page lies
PARTIAL = ("best there", "of", "tasks", "n")  # titles of the table of rows that lack tasks, behind name and mean
PLACES = PUBLISHED, Path()
MOST_COLUMNS = 8  # tasks side by side in one table
WIDEST = 30  # letters of who computed a row


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


def brief(made: Table) -> list[tuple[list[str], list[list[str]]]]:
    """A table of the board for a terminal, and one of the rows that lack tasks: headers and rows of those that have any."""
    first = made.columns[0]
    shown = [column for column in made.columns if column.title in ("of ceiling", "cost")]
    headers = ["estimator", first.title, *(column.title for column in shown), "n", "tie", ""]
    whole = [row for row in made.rows if not row.partial]
    rows = [
        [plain(row.name), interval(row.score), *_means(row, shown), _seeds(row), group_of(row), _marks(row)] for row in whole
    ]
    others = [[*in_part(row, plain), _marks(row)] for row in made.rows if row.partial]
    return [pair for pair in ((headers, rows), (["lacks tasks", first.title, *PARTIAL, ""], others)) if pair[1]]


def _tabulated(rows: Sequence[Sequence[str]], headers: Sequence[str], style: str) -> str:
    """A table as text; nothing without rows."""
    return tabulate(rows, headers, tablefmt=style, disable_numparse=True, colalign=align(headers)) if rows else ""


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
    return [group_of(row), named(row.name)]


def group_of(row: Row) -> str:
    """The letter of a row's group, nothing where it is not compared."""
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


def align(headers: Sequence[str]) -> list[str]:
    """How columns stand: words to the left, figures to the right."""
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
    return str(tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=align(headers)))


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
    body = tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=align(headers))
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
