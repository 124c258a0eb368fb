"""`loobench new`: where an estimator begins, or a task of one's own model and data."""

import shlex
from pathlib import Path

from benchmark.commands import options as o


@o.command(
    o.argument("name", "NAME"),
    o.flag("--task", help="A task, for a model and data of your own; else an estimator."),
    o.option("--folder", type=Path, default=Path(), metavar="DIR", help="Where to write."),
    examples=(
        "loobench new my-estimator",
        "loobench new my-estimator --folder methods",
        "loobench new --task my-task",
    ),
)
def command(options: o.Options) -> int:
    """A new estimator that runs as it stands, and its test; or a new task.

    NAME is that of the estimator, as my-estimator, or of the task.
    """
    return _task(options) if options.task else _estimator(options)


def _estimator(options: o.Options) -> int:
    from benchmark.submissions import scaffold

    source, test = scaffold.write(options.name, options.folder)
    print(f"wrote {source}, which runs as it stands, and {test}\n")
    print("Before it can be submitted, say in its first line what the method does, and in `paper` where it is from.\n\nNext:\n")
    for words in (["run", "--suite", "quick", "--estimator", str(source)], ["check", str(source)]):
        print(f"    {shlex.join(['loobench', *words])}")
    print(f"    {shlex.join(['python', '-m', 'pytest', str(test)])}")
    return 0


def _task(options: o.Options) -> int:
    from benchmark.submissions import scaffold

    source = scaffold.write_task(options.name, options.folder)
    print(f"wrote {source}, which runs as it stands: put your own model and data into it\n\nNext:\n")
    for words in (["check", str(source)], ["truth", str(source)], ["run", "--task", str(source), "--estimator", "grad-dot"]):
        print(f"    {shlex.join(['loobench', *words])}")
    return 0
