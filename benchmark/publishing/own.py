"""The board of one's own results, beside those that are published of the same suites."""

import os
from pathlib import Path

from benchmark.base.errors import LoobenchError
from benchmark.base.files import write
from benchmark.base.places import MANIFEST, PUBLISHED
from benchmark.core import registry
from benchmark.publishing import cite, manifest, page, report
from benchmark.scores import board, rows, store
from benchmark.scores.rows import Board
from benchmark.tasks import suites

PAGE = Path("docs")  # beside the table


def made(folder: Path) -> Board:
    """The board of the results in a folder beside what is published of their suites, and of `core` once they have all of it.

    Raises LoobenchError where the folder has no result.
    """
    mine = store.load_all(folder)
    if not mine:
        raise LoobenchError(
            f"there are no results of yours in {folder}: compute some, as by `loobench run --suite quick --estimator sgd-ie`, "
            "or name their folder by --results; what is published is in leaderboard.md, which `report --publish` writes"
        )
    found, limits = manifest.of_suites(PUBLISHED, {*map(board.suite_name, mine)})
    own, own_limits = rows.own(mine, store.all_limits(folder))
    choices = [suites.CORE] if {task.name for task in suites.CORE.tasks} <= {one.name for one in mine} else []
    return board.board([*found, *own], {**limits, **own_limits}, choices)


def pages(found: Board, folder: Path, at: Path) -> dict[Path, bytes]:
    """The files of the board of the results in a folder, but for the charting library; the table is to lie at `at`."""
    docs, sources = at.parent / PAGE, registry.sources()
    shown = page.render(found, cite=cite.bibtex, sources=sources, home=str(way(docs, Path())), own=way(docs, folder))
    table = report.beside(found, sources, f"{way(at.parent, Path())}/", way(at.parent, folder)).encode()
    return {at: table, **{docs / name: content for name, content in shown.items()}}


def way(start: Path, end: Path) -> Path:
    """The way from one folder to another, as links have it."""
    return Path(Path(os.path.relpath(end, start)).as_posix())


def save(found: Board, folder: Path, at: Path) -> None:
    """Write the board of the results in a folder, its table at `at`, without what an older one left.

    Raises LoobenchError where the published one lies beside `at`.
    """
    if (at.parent / PUBLISHED / MANIFEST).is_file():
        raise LoobenchError(f"{at} has its place beside what is published: choose another --board, or say --publish for that")
    files, library = pages(found, folder, at), at.parent / PAGE / page.LIBRARY
    for path, content in files.items():
        write(path, content)
    if not library.exists():
        write(library, page.library())
    for path in (at.parent / PAGE / "data").rglob("*.js"):
        if path not in (*files, library):
            path.unlink()
