"""`loobench reproduce`: what papers report, and what comes of it here."""

from pathlib import Path

from benchmark.base.places import MINE
from benchmark.commands import options as o
from benchmark.commands import terminal

PAGE = Path("docs/reproduction.md")


@o.command(
    o.argument("paper", "[PAPER]", required=False),
    o.option("--seeds", metavar="N|A-B", help="The first N seeds, or A to B.  [default: the suites', 2 for defects]"),
    o.flag("--no-run", help="Train nothing; only read what is there."),
    o.option("--out", type=Path, metavar="FILE", help=f"The page.  [default: {MINE / PAGE}; with --publish: {PAGE}]"),
    *(*o.MEANS, o.CACHE, o.WRITTEN, o.PUBLISH, o.REPLACE),
    examples=("loobench reproduce hara2019 --seeds 2", "loobench reproduce --no-run"),
)
def command(options: o.Options) -> int:
    """Published figures beside ours, with a verdict on each.

    PAPER is hara2019, acc2025 or wei2025; all, without one.
    """
    from benchmark.base import files
    from benchmark.studies import comparison, reproduce

    chosen = reproduce.papers(options.paper)
    seeds = o.seeds(options.seeds, 1) if options.seeds is not None else None
    told = [*([options.paper] if options.paper else []), *([f"--seeds {options.seeds}"] if seeds else [])]
    said = " ".join(["loobench reproduce", *told])
    folder = options.results or MINE if options.no_run and not options.publish else o.written(options)
    out = options.out or (PAGE if options.publish else MINE / PAGE)
    figures, means = out.with_suffix(""), o.means(options, "cpu")  # the former in a folder beside the page
    by, afresh = o.computed_by(options), options.replace or not options.publish
    study = reproduce.Study(chosen, seeds, options.cache, folder, figures, means, said, by, afresh)
    files.probe(out.absolute().parent)
    failures = [] if options.no_run else list(reproduce.fill(study, terminal.bar))
    for failure in failures:
        terminal.tell("failed", failure)
    files.write(out, comparison.page(reproduce.gather(study)).encode())
    print(f"wrote {out}")
    return o.FAILED if failures else 0
