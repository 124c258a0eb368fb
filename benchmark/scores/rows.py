"""The records of a board: rows, tables, suites, and who computed what."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from benchmark import PROTOCOL
from benchmark.base.errors import LoobenchError, unknown
from benchmark.base.files import json_digest
from benchmark.base.records import values
from benchmark.scores.columns import UNBOUNDED, Column
from benchmark.scores.intervals import Interval
from benchmark.scores.numbers import defined, entry, figure, mean, number
from benchmark.scores.results import Limits, Result
from benchmark.scores.ties import Compared

Known = Mapping[str, Limits]  # by name of task and device
NOTED = {"unconverged": "not converged", "uncounted": "not counted"}  # marks of rows, by the note that cells have
EXACT = 1 - 1e-6  # a score above it is that of the truth itself
CHANCE = 0.0  # what every score that ranks is for an answer that says nothing
DIVERGED = 100  # RMSE/sd above which a cell has diverged; 1 is what predicting the mean would get
MAINTAINERS = "maintainers"  # who computed what is published and was sent by nobody
YOURS = " (yours)"  # behind the name of a row that is not published; no name of an estimator ends so


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
        return json_digest(sorted(result.digest for result in self.results))


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
    return [Own(**values(result)) for result in results], {name + YOURS: found for name, found in limits.items()}


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
