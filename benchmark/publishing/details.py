"""What the page shows, as records that become JSON: tables, and what each row opens."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmark.base.files import json_digest
from benchmark.base.places import PUBLISHED
from benchmark.publishing.legends import ABOUT, RENORMALISED
from benchmark.publishing.report import choice
from benchmark.publishing.tables import interval, letters, short_names
from benchmark.scores.board import alone
from benchmark.scores.cells import bounds, curve, kind, limited, pairs
from benchmark.scores.columns import COLUMNS, LIMITS, Scored
from benchmark.scores.intervals import Interval
from benchmark.scores.numbers import figure, mean
from benchmark.scores.results import Cell, Result
from benchmark.scores.rows import Known, Own, Row, Suite, Table, verdict
from benchmark.tasks.questions import asked_of

Cite = Callable[[Table, Row], str]
Record = dict[str, Any]  # what becomes JSON
DIGITS = 6  # significant ones, as results have
POINTS = 4  # of what is only drawn
DIGESTS = ("problem", "trajectory", "truth", "estimate")  # of a cell
PLAIN = "Truth: training again without each sample, one at a time."  # what report.ABOUT leaves unsaid


@dataclass(frozen=True)
class Place:
    """Where the page lies: how it reaches the repository, and what it says of each row."""

    cite: Cite
    sources: Mapping[str, str]  # name of an estimator -> path of its source, relative to the repository
    home: str = ".."  # from the page to the repository
    own: Path = Path("..")  # from the page to the results of one's own

    def result(self, one: Result) -> str:
        """The address of a result file."""
        return quote(((self.own if isinstance(one, Own) else Path(self.home) / PUBLISHED) / one.file).as_posix())

    def source(self, name: str) -> str | None:
        """The address of an estimator's source, None where it is not known."""
        return quote(f"{self.home}/{self.sources[name]}") if name in self.sources else None


@dataclass(frozen=True)
class Shared:
    """What many rows of a file have in common, each written once and then called by its number."""

    values: list[Any] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)

    def number(self, value: Any) -> int:
        """The number of a value, new where it was not there."""
        key = json.dumps(value, sort_keys=True)
        if key not in self.known:
            self.known[key] = len(self.values)
            self.values.append(value)
        return self.known[key]


def suite_file(name: str) -> str:
    """The file of a suite's details."""
    return f"data/suites/{slug(name)}.js"


def task_file(name: str) -> str:
    """The file of a task's table and details."""
    return f"data/tasks/{slug(name)}.js"


def slug(name: str) -> str:
    """A name as a file may have it: itself, or what is safe of it with its digest."""
    safe = re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip(".-")[:80]
    return safe if safe == name != "" else f"{safe}-{json_digest(name)[:12]}"


# ---- tables ----------------------------------------------------------------------------------------------------------
def headline(one: Suite, limits: Known) -> Record:
    """A suite as the page shows it at once: its table, and the score of each estimator on each task."""
    short = short_names([table.name for table in one.tasks])
    return {
        "name": one.name,
        "title": one.title,
        "chosen": one.version is not None,
        "file": suite_file(one.name),
        "about": about(one),
        "protocol": one.protocol,
        "digest": one.digest,
        "tasks": [task_head(table, name, limits) for table, name in zip(one.tasks, short, strict=True)],
        "table": table_record(one.overall, limits),
    }


def about(one: Suite) -> str:
    """What a suite asks."""
    other = one.overall.results[0].task.get("counterfactual") == "renormalised"
    return " ".join(f"{choice(one)} {ABOUT[one.kind] or PLAIN} {RENORMALISED if other else ''}".split())


def task_head(table: Table, short: str, limits: Known) -> Record:
    """A task as its suite shows it: scores by estimator, a word where there is none, and the ceiling."""
    scores = {row.name: round_to(row.score.mean) if row.sound else " ".join(row.marks) for row in table.estimators}
    return {
        "name": table.name,
        "short": short or table.name,
        "file": task_file(table.name),
        "scores": scores,
        "ceiling": ceiling(table, limits),
        "limits": limit_texts(table, limits),
    }


def table_record(table: Table, limits: Known) -> Record:
    """A table: columns, rows, and the ceiling of the score that ranks."""
    columns = [{"title": column.title, "digits": column.digits} for column in table.columns]
    return {
        "name": table.name,
        "columns": columns,
        "rows": [row_record(row, table) for row in table.rows],
        "ceiling": ceiling(table, limits),
    }


def row_record(row: Row, table: Table) -> Record:
    """A row: figures as leaderboard.md has them, and as numbers to sort and draw by."""
    behind = row.compared.difference if row.compared else None
    score = alone() if row.partial else row.score  # means over other tasks than the others' are not shown as theirs
    values = [math.nan if row.partial else row.means[column.title] for column in table.columns[1:]]
    return {
        "name": row.name,
        "estimator": bool(row.results),
        "group": letters(row.compared.group) if row.compared else "",
        "number": row.compared.group if row.compared else None,
        "p": round_to(row.compared.p, 3) if row.compared else None,
        "score": numbers(score),
        "shown": interval(score),
        "partly": partly(row),
        "behind": numbers(behind) if behind else None,
        "behind_shown": interval(behind) if behind else "",
        "values": [round_to(value) for value in values],
        "texts": [figure(value, column.digits) for value, column in zip(values, table.columns[1:], strict=True)],
        "cost": None if row.partial else round_to(row.means["cost"]),
        "front": row.front,
        "complete": row.complete,
        "trusted": row.trusted,
        "own": row.own,
        "by": row.by,
        "done": row.done,
        "tasks": row.tasks,
        "seeds": list(row.seeds),
        "marks": list(row.marks),
    }


def partly(row: Row) -> str:
    """What is said of the score of a row that lacks tasks, beside that of the best which has all; nothing of others."""
    if not row.partial or math.isnan(row.score.mean):
        return ""
    there = f", where {row.rival.name} has {figure(row.rival.score)}" if row.rival else ""
    return f"{figure(row.score.mean)} on {row.done} of {row.tasks} tasks{there}"


def ceiling(table: Table, limits: Known) -> float | None:
    """The ceiling of the score that ranks, the mean over seeds, then tasks; None where a task has none."""
    by_name: dict[str, list[Result]] = {}
    for result in table.results:
        by_name.setdefault(result.name, []).append(result)
    return round_to(mean([task_ceiling(members, table, limits) for members in by_name.values()]))


def task_ceiling(members: Sequence[Result], table: Table, limits: Known) -> float:
    """What the ceiling's curve would rank as, the mean over seeds that have one; NaN where none has."""
    primary = asked_of(members[0].task).primary
    curves = [found.values["ceiling"] for found in bounds(members, limits).values() if "ceiling" in found.values]
    values = [table.columns[0].of(Scored({primary: one}, {}, {})) for one in curves]
    return mean([value for value in values if not math.isnan(value)])


def limit_texts(table: Table, limits: Known) -> list[tuple[str, str]]:
    """What limits a task's truth: (title, figure)."""
    found = bounds(table.results, limits).values()
    return [(limit.title, shown) for limit in LIMITS if (shown := limited(limit, found))]


# ---- details ---------------------------------------------------------------------------------------------------------
def suite_details(one: Suite, place: Place) -> Record:
    """What a suite's rows open: the name of each task, and its seeds that failed."""
    shared = Shared()
    details = {
        row.name: {
            **row_details(row, one.overall, shared, place),
            "tasks": [(result.name, failures(result)) for result in row.results],
        }
        for row in one.overall.estimators
    }
    return {"details": details, "shared": shared.values}


def failures(result: Result) -> list[tuple[str, str, str]]:
    """(seed, status, message) of the seeds that were not scored."""
    return [(seed, cell.status, cell.message) for seed, cell in result.cells.items() if cell.status != "ok"]


def task_details(table: Table, limits: Known, place: Place) -> Record:
    """A task's table, what its rows open, and what its charts draw."""
    shared = Shared()
    details = {row.name: task_row(row, table, shared, limits, place) for row in table.estimators}
    return {
        "table": table_record(table, limits),
        "ceiling": ceiling_curve(table, limits),
        "task": dict(table.results[0].task),
        "details": details,
        "shared": shared.values,
    }


def ceiling_curve(table: Table, limits: Known) -> list[tuple[int, float | None]]:
    """The ceiling at each horizon, the mean over seeds that have one there: (horizon, ceiling)."""
    horizons = table.results[0].task["horizons"]
    curves = [one.values.get("ceiling", []) for one in bounds(table.results, limits).values()]
    known = [[one[at] for one in curves if at < len(one) and one[at] is not None] for at in range(len(horizons))]
    return [(at, round_to(mean(values))) for at, values in zip(horizons, known, strict=True)]  # type: ignore[arg-type]


def task_row(row: Row, table: Table, shared: Shared, limits: Known, place: Place) -> Record:
    """What a task's row opens."""
    (result,) = row.results
    return {
        **row_details(row, table, shared, place),
        "task_digest": brief(result.task_digest),
        "link": place.result(result),
        "failures": failures(result),
        "seeds": [cell_record(seed, cell, result, shared) for seed, cell in result.cells.items()],
        "curve": [(at, round_to(value)) for at, value in curve(result)],
        "pairs": pair_record(result, limits, shared),
    }


def row_details(row: Row, table: Table, shared: Shared, place: Place) -> Record:
    """What every row opens: what the estimator is, who computed it and how, its digests and its citation."""
    result = row.results[0]
    made = zip(*((one.estimator.identity, one.estimator.source) for one in row.results), strict=True)
    return {
        "settings": distinct(one.estimator.settings for one in row.results),
        "paper": shared.number(result.estimator.paper),
        "loss_units": result.estimator.loss_units,
        "tuned_on": result.estimator.tuned_on,
        "digests": [distinct(shared.number(brief(one)) for one in found) for found in made],
        "digest": row.digest,
        "source": place.source(result.estimator.name),
        "claims": [claim_record(one) for one in row.results if one.claimed],
        "provenance": [shared.number(one) for one in distinct(facts for r in row.results for facts in r.provenance.values())],
        "cite": [shared.number(piece) for piece in pieces(place.cite(table, row), row, table)],
    }


def claim_record(result: Result) -> Record:
    """What was claimed of a result, what computing it again gave, and whether that holds."""
    claimed, verified = (asdict(one) if one else None for one in (result.claimed, result.verified))
    return {
        "task": result.name,
        "trusted": result.trusted,
        "verdict": verdict(result),
        "claimed": claimed,
        "verified": verified,
    }


def pieces(text: str, row: Row, table: Table) -> list[str]:
    """A citation in pieces that rows share: what is the row's own (digest, brief digest, name, table) is a mark."""
    for mark, own in enumerate((row.digest, row.digest[:12], row.name, table.name), 1):
        text = text.replace(own, chr(mark))
    return re.split(r"(?<=\n)|(?<=\. )", text)


def brief(digest: str) -> str:
    """The beginning of a digest, which the result file has whole."""
    return digest[:16]


def distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once, in order of appearance."""
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())


def cell_record(seed: str, cell: Cell, result: Result, shared: Shared) -> list[Any]:
    """A seed: its number, how it ended, what ranks it, relative cost, megabytes, and digests by number."""
    ranking = round_to(COLUMNS[kind(result)][0].of(Scored(cell.scores, {}, {})), POINTS)
    memory = None if cell.memory is None else round_to(cell.memory / 1e6, POINTS)
    digests = [shared.number(brief(getattr(cell, name))) for name in DIGESTS]
    return [int(seed), cell.status, ranking, round_to(cell.relative_cost, POINTS), memory, *digests]


def pair_record(result: Result, limits: Known, shared: Shared) -> list[tuple[int, int, list[float | None]]]:
    """The effects to look at, by seed: (seed, number of the true ones, predicted)."""
    by_seed: dict[int, tuple[list[float | None], list[float | None]]] = {}
    for seed, true, predicted in pairs(result, limits):
        both = by_seed.setdefault(seed, ([], []))
        both[0].append(round_to(true, POINTS))
        both[1].append(round_to(predicted, POINTS))
    return [(seed, shared.number(true), predicted) for seed, (true, predicted) in by_seed.items()]


# ---- numbers ---------------------------------------------------------------------------------------------------------
def numbers(found: Interval) -> list[float | None]:
    """Mean, low end, high end."""
    return [round_to(value) for value in (found.mean, found.low, found.high)]


def round_to(value: float | None, digits: int = DIGITS) -> float | None:
    """A number to so many significant digits, None where it is not finite."""
    return float(f"{value:.{digits}g}") if value is not None and math.isfinite(value) else None
