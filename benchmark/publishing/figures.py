"""Figures for papers, from the same board as the leaderboard; the same board gives the same bytes."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.base.errors import LoobenchError, unknown
from benchmark.base.files import write
from benchmark.scores.rows import Board, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from benchmark.publishing.drawing import settle, styled
from benchmark.publishing.overviews import diagram, heatmap, lacks_heatmap, lacks_ranks
from benchmark.publishing.plots import cost, horizons, lacks_cost, lacks_horizons, lacks_pairs, scatter
from benchmark.publishing.sizes import growth, lacks_growth

FORMATS = {  # what would tell one day or version from another is left out
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Kind:
    """A kind of figure: what is drawn of a table, what a table lacks for it ("" for nothing), and of which tables it is."""

    draw: "Callable[[Board, Table], Figure]"
    lacks: Callable[[Board, Table], str]
    suites: bool
    tasks: bool
    by_default: bool = True  # whether of every task of a suite too, where no task is named


# ---- which figures ---------------------------------------------------------------------------------------------------
def figures(
    board: Board, suite: str | None = None, task: str | None = None, kinds: Sequence[str] | None = None
) -> "Iterator[tuple[str, Figure]]":
    """Figures of a task; of a suite and its tasks; or of all suites: (name, figure), the name being ``<table>-<kind>``.

    Of all kinds, those are left out for which a table lacks something. Raises LoobenchError at once for an unknown suite, task
    or kind, where a kind that is named can be drawn of nothing that is asked for, and without matplotlib.
    """
    need_matplotlib()
    for name in kinds or ():
        if name not in KINDS:
            raise unknown("kind of figure", name, KINDS)
    suites, tasks = places(board, suite, task)
    found = [(name, drawn(board, KINDS[name], suites, tasks, named=task is not None)) for name in dict.fromkeys(kinds or KINDS)]
    for name, tables in found if kinds else ():
        refuse_none(board, KINDS[name], name, tables, [*suites, *tasks])
    return ((file_name(table.name, name), draw(board, name, table)) for name, tables in found for table in tables)


def draw(board: Board, kind: str, table: Table) -> "Figure":
    """One figure, its layout settled, so that all formats show the same."""
    with styled():
        figure = KINDS[kind].draw(board, table)
        settle(figure)
    return figure


def places(board: Board, suite: str | None, task: str | None) -> tuple[list[Table], list[Table]]:
    """The tables of suites and of tasks that are asked for. Raises LoobenchError for unknown ones."""
    suites = {found.name: found for found in board.suites}
    if suite is not None and suite not in suites:
        raise unknown("suite", suite, suites)
    chosen = list(suites.values()) if suite is None else [suites[suite]]
    tasks = {table.name: table for found in chosen for table in found.tasks}
    if task is not None and task not in tasks:
        raise unknown("task", task, tasks)
    return ([found.overall for found in chosen], list(tasks.values())) if task is None else ([], [tasks[task]])


def drawn(board: Board, kind: Kind, suites: Sequence[Table], tasks: Sequence[Table], *, named: bool) -> list[Table]:
    """The tables that a kind of figure is drawn of."""
    chosen = [*(suites if kind.suites else ()), *(tasks if kind.tasks and (named or kind.by_default) else ())]
    return [table for table in chosen if not kind.lacks(board, table)]


def refuse_none(board: Board, kind: Kind, name: str, found: Sequence[Table], asked: Sequence[Table]) -> None:
    """Raise LoobenchError where a named kind can be drawn of nothing that is asked for."""
    if found:
        return
    if len(asked) == 1 and not kind.tasks:
        raise LoobenchError(f"{name} is a figure of a suite, not of a task: name a suite by --suite, and no task")
    reasons = list(dict.fromkeys(kind.lacks(board, table) for table in asked))
    raise LoobenchError(f"no figure {name} of {asked[0].name}: {next(filter(None, reasons))}; see --kind for others")


def file_name(table: str, kind: str) -> str:
    """``<table>-<kind>``, in letters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", f"{table}-{kind}").strip("-.")


# ---- files -----------------------------------------------------------------------------------------------------------
def save(figure: "Figure", folder: Path, name: str, formats: Sequence[str] = ("svg",)) -> list[Path]:
    """Write ``folder/name.<format>`` for each format, at once each, and give their paths.

    Raises LoobenchError for an unknown format, before anything is written, and where the folder cannot be written.
    """
    for form in formats:
        if form not in FORMATS:
            raise unknown("format", form, FORMATS)
    paths = [folder / f"{name}.{form}" for form in dict.fromkeys(formats)]
    for path in paths:
        write(path, content(figure, path.suffix[1:]))
    return paths


def content(figure: "Figure", form: str) -> bytes:
    """The bytes of a figure's file, the same for the same figure."""
    whole = BytesIO()
    with styled():
        figure.savefig(whole, format=form, metadata=FORMATS[form])
    return whole.getvalue()


def need_matplotlib() -> None:
    """Raise LoobenchError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise LoobenchError("figures are drawn by matplotlib, which is not installed: `pip install matplotlib`") from error


KINDS = {
    "cost": Kind(cost, lacks_cost, suites=True, tasks=True, by_default=False),
    "horizons": Kind(horizons, lacks_horizons, suites=False, tasks=True),
    "pairs": Kind(scatter, lacks_pairs, suites=False, tasks=True),
    "heatmap": Kind(heatmap, lacks_heatmap, suites=True, tasks=False),
    "growth": Kind(growth, lacks_growth, suites=True, tasks=False),
    "ranks": Kind(diagram, lacks_ranks, suites=True, tasks=False),
}
