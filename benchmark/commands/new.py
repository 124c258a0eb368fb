"""`loobench new`: where an estimator begins."""

import shlex
from pathlib import Path

from benchmark.commands import options as o


@o.command(
    o.argument("name", "NAME"),
    o.option("--folder", type=Path, default=Path(), metavar="DIR", help="Where to write."),
    examples=("loobench new my-estimator", "loobench new my-estimator --folder methods"),
)
def command(options: o.Options) -> int:
    """A new estimator that runs as it stands, and its test.

    NAME is that of the estimator, as my-estimator.
    """
    from benchmark.submissions import scaffold

    source, test = scaffold.write(options.name, options.folder)
    print(f"wrote {source}, which runs as it stands, and {test}\n")
    print("Before it can be submitted, say in its first line what the method does, and in `paper` where it is from.\n\nNext:\n")
    for words in (["run", "--suite", "quick", "--estimator", str(source)], ["check", str(source)]):
        print(f"    {shlex.join(['loobench', *words])}")
    print(f"    {shlex.join(['python', '-m', 'pytest', str(test)])}")
    return 0
