"""`loobench migrate`: results of an older schema, as the present one has them."""

from pathlib import Path

from benchmark.commands import options as o


@o.command(
    o.repeated(
        "--estimator",
        type=Path,
        metavar="FILE.py",
        help="A source file of results, where this program's history does not have it; may be repeated.",
    ),
    *(o.WRITTEN, o.PUBLISH),
    examples=("loobench migrate", "loobench migrate --results theirs --estimator theirs.py"),
)
def command(options: o.Options) -> int:
    """Rewrite results of an older schema."""
    from benchmark.scores.migrate import migrate

    folder = o.written(options)
    print(f"{len(migrate(folder, [*options.estimator]))} files in {folder} were of an older schema and are rewritten")
    return 0
