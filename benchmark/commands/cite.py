"""`loobench cite`: how a paper names a row, or the benchmark."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark.base import places
from benchmark.base.errors import LoobenchError
from benchmark.base.places import MINE, PUBLISHED
from benchmark.commands import options as o


@o.command(o.argument("row", "[ROW]", required=False), o.READ, examples=("loobench cite", "loobench cite hara2019/sgd-ie"))
def command(options: o.Options) -> int:
    """BibTeX and text to cite a row, or the benchmark.

    ROW is SUITE/ESTIMATOR or TASK/ESTIMATOR; the benchmark, without one.
    """
    from benchmark.publishing import cite

    found = _cited(options.row, options.results) if options.row else ()
    print(f"{cite.bibtex(*found)}\n{cite.text(*found)}")
    return 0


def _cited(name: str, named: Path | None) -> tuple[Any, Any]:
    """The table and row of a name: of the folder that is named; else published, or where that has none, one's own."""
    from benchmark.publishing import manifest
    from benchmark.scores import board, store
    from benchmark.scores.rows import YOURS, unpublished

    folder, place = named or (MINE if name.endswith(YOURS) else places.read(None)), name.partition("/")[0]
    known = store.load_all(folder)
    members = [one for one in known if place in (board.suite_name(one), one.name)]  # quicker than the whole board
    try:
        table, row = o.board(folder, members or known).find(name.removesuffix(YOURS))
    except LoobenchError:
        with suppress(LoobenchError):
            if folder != MINE and not named:
                return _cited(name, MINE)
        raise
    if folder.resolve() == PUBLISHED.resolve() and manifest.holds(folder, row.results):
        return table, row
    return table, unpublished(row)
