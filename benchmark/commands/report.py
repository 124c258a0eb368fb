"""`loobench report`: the board of one's own results, and what is published."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.base import places
from benchmark.base.errors import LoobenchError
from benchmark.base.places import MINE, PUBLISHED
from benchmark.base.text import line
from benchmark.commands import options as o
from benchmark.commands import terminal

BOARD = Path("leaderboard.md")


@o.command(
    o.flag("--check", help="Write nothing; fail where what is published is not what its results give."),
    o.flag("--release", help="With --check: fail where a row is stale, of another protocol."),
    o.option(
        "--board",
        type=Path,
        metavar="FILE",
        help=f"The page goes to docs/ beside it.  [default: {MINE / BOARD}; with --publish: {BOARD}]",
    ),
    o.WRITTEN,
    o.flag("--publish", help="Write the published board, page and manifest, and the README's table."),
    o.flag("--json", "as_json", help="Write nothing; print the board as JSON."),
    examples=("loobench report", "loobench report --json --results results", "loobench report --check"),
)
def command(options: o.Options) -> int:
    """Write the board of your results beside the published ones; or that of these."""
    from benchmark.publishing import own
    from benchmark.scores.store import Store

    if options.release and not options.check:
        raise LoobenchError("--release goes with --check: say `loobench report --check --release`")
    if options.as_json:
        return _print(options)
    if options.check:
        return _publication(options)
    if options.publish:
        with Store(options.results or PUBLISHED).lock((options.results or PUBLISHED) / places.MANIFEST):
            return _publication(options)
    folder = o.written(options)
    board = options.board or folder / BOARD
    own.save(own.made(folder), folder, board)
    print(f"wrote {board} and {board.parent / own.PAGE / 'index.html'}")
    return 0


def _print(options: o.Options) -> int:
    from benchmark.publishing import details, own

    if options.check or options.publish or options.board:
        raise LoobenchError("--json only prints: leave --check, --publish and --board out")
    folder = options.results or MINE
    made = o.board(folder) if places.publication(folder) else own.made(folder)
    terminal.write_json({suite.name: details.table_record(suite.overall, made.limits) for suite in made.suites})
    return 0


def _publication(options: o.Options) -> int:
    """`loobench report --publish` and `--check`."""
    from benchmark.base import files
    from benchmark.core import registry
    from benchmark.publishing import cite, manifest, page, report
    from benchmark.scores import schema, store

    at, board = options.results or PUBLISHED, options.board or BOARD
    found = store.load_all(at)
    made, sources, folder = o.board(at, found), registry.sources(), board.parent / "docs"
    before, now = manifest.load(at), manifest.manifest(at, found)
    pages = {**page.render(made, cite=cite.bibtex, sources=sources), **schema.render()}
    expected = {folder / name: content for name, content in pages.items()}
    library = folder / page.LIBRARY  # of whichever version is installed
    expected[board] = report.leaderboard(made, sources).encode()
    if (readme := board.parent / "README.md").exists():
        expected[readme] = report.quoted(files.unix(files.read(readme)).decode(), made, sources).encode()
    left = [old for old in (folder / "data").rglob("*.js") if old not in (*expected, library)]
    silent = manifest.silent(before, now)
    _tell(silent)
    if options.check:
        old = manifest.stale(found, store.all_limits(at).values()) if options.release else []
        said = [*manifest.differences(before, now), *old]
        _tell(said)
        return o.FAILED if _differ(at, expected, library, left) or said or silent else 0
    if silent:
        return o.FAILED
    for one, content in [*expected.items(), (library, page.library())]:
        files.write(one, content)
    for one in left:
        one.unlink()
    manifest.save(now, at)
    print(f"wrote {board} and {folder / 'index.html'}")
    return 0


def _differ(at: Path, expected: Mapping[Path, bytes], library: Path, left: Sequence[Path]) -> bool:
    """Whether files are not what results give, each of which is told; `left`: those that results no longer give."""
    from benchmark.base import files
    from benchmark.publishing import page

    wrong = [one for one, content in expected.items() if not one.exists() or not page.same(files.read(one), content)]
    lacking = [library] * (not library.exists())
    for one in [*wrong, *lacking, *left]:
        terminal.tell("error", f"{line(one)} is not what {at} gives: run `loobench report --publish`")
    print(f"{len(expected) - len(wrong) - len(lacking)} of {len(expected)} files are what {at} gives")
    return bool(wrong or lacking or left)


def _tell(lines: Sequence[Any]) -> None:
    """Print errors, not more of them than a reader takes in."""
    from benchmark.publishing.manifest import shortened

    for one in shortened(lines):
        terminal.tell("error", line(one))
