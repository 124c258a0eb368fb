"""`loobench plot`: figures for papers."""

from pathlib import Path

from benchmark.base import places
from benchmark.base.places import MINE
from benchmark.commands import options as o


@o.command(
    o.option("--suite", metavar="SUITE", help="Of this suite and its tasks.  [default: of all suites]"),
    o.option("--task", metavar="TASK", help="Of this task."),
    o.repeated(
        "--kind",
        metavar="KIND",
        help="cost, horizons, pairs, heatmap, growth, ranks; may be repeated.  [default: all there are]",
    ),
    o.repeated("--format", metavar="FORMAT", help="svg, pdf or png; may be repeated.  [default: svg]"),
    o.option("--out", type=Path, default=MINE / "figures", metavar="DIR", help="Folder."),
    o.READ,
    examples=("loobench plot --suite hara2019 --kind cost", "loobench plot --task quick-digits-mlp-sgd --format pdf"),
)
def command(options: o.Options) -> int:
    """Figures for papers from the results."""
    from benchmark.publishing import figures

    made = o.board(places.read(options.results))
    for name, figure in figures.figures(made, options.suite, options.task, options.kind or None):
        for at in figures.save(figure, options.out, name, options.format or ["svg"]):
            print(at)
    return 0
