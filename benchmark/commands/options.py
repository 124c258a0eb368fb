"""What commands are made of: a help with examples, the options that they share, each written once, and what those mean."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from benchmark.base import places
from benchmark.base.errors import LoobenchError
from benchmark.base.places import MINE, PUBLISHED
from benchmark.base.text import is_line, line

FAILED = 1  # exit code where an estimator failed, or a check did not hold
MOST_SEEDS = 100


class Options(SimpleNamespace):
    """The options of a command; where the cache is, is asked only by those that need one."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{name: value for name, value in given.items() if (name, value) != ("cache", None)})

    @cached_property
    def cache(self) -> Path:
        """The cache that no option names. Raises LoobenchError where the system tells no place for one."""
        return places.cache()


@dataclass(frozen=True)
class Call:
    """What a command line asks for: a function, still to be called, and its options."""

    function: Callable[[Options], int]
    options: Options

    def __call__(self) -> int:
        """Do it; the exit code."""
        return self.function(self.options)


# ---- a command -------------------------------------------------------------------------------------------------------
class Command(click.Command):
    """A command whose help ends in examples, and whose options of many values take all words that follow."""

    examples: tuple[str, ...] = ()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line."""
        many = {name for one in self.params if isinstance(one, Many) for name in one.opts}
        try:
            return super().parse_args(ctx, [*_one_by_one(args, many)])
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # so that the help of this command is named
            raise

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the examples."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class Many(click.Option):
    """An option of many values: ``--tags a b`` as well as ``--tags a --tags b``."""


def _one_by_one(words: Iterable[str], many: set[str]) -> Iterator[str]:
    """``--tags a b`` as ``--tags=a --tags=b``, which click reads; without a value, as ``--tags=``."""
    name, empty = "", False
    for word in words:
        if name and not word.startswith("-"):
            yield f"{name}={word}"
            empty = False
            continue
        if empty:
            yield f"{name}="
        name, empty = (word, True) if word in many else ("", False)
        if not name:
            yield word
    if empty:
        yield f"{name}="


def command(*parameters: click.Parameter, examples: tuple[str, ...]) -> Callable[[Callable[[Options], int]], Command]:
    """Make a function of options that returns an exit code a command, whose help is the function's.

    The command itself only reads its options: it returns a `Call`.
    """

    def made(function: Callable[[Options], int]) -> Command:
        found = Command(
            None,
            help=function.__doc__,
            params=[*parameters],
            callback=lambda **given: Call(function, Options(**given)),
        )
        found.examples = examples
        return found

    return made


def option(*names: str, **more: Any) -> click.Option:
    """An option with one value; its help shows the default."""
    return click.Option(names, show_default=True, **more)


def flag(*names: str, **more: Any) -> click.Option:
    """An option without a value."""
    return click.Option(names, is_flag=True, **more)


def repeated(*names: str, **more: Any) -> click.Option:
    """An option that may be given more than once."""
    return click.Option(names, multiple=True, **more)


def argument(name: str, metavar: str, **more: Any) -> click.Argument:
    """What is named without an option."""
    return click.Argument([name], metavar=metavar, **more)


# ---- where things lie ------------------------------------------------------------------------------------------------
def written(options: Options) -> Path:
    """The folder that results are written into. Raises LoobenchError where it is published, and that was not asked for."""
    if getattr(options, "replace", False) and not options.publish:
        raise LoobenchError("--replace is for what is published: add --publish; your own files start afresh where they must")
    return places.written(options.results, publish=options.publish)


CACHE = option("--cache", type=places.folder, metavar="DIR", help="Data, truths, raw estimates (or LOOBENCH_CACHE).")
READ = option("--results", type=Path, metavar="DIR", help=f"Of these results, as {MINE}.  [default: {PUBLISHED}]")
WRITTEN = option("--results", type=Path, metavar="DIR", help=f"Folder.  [default: {MINE}; with --publish: {PUBLISHED}]")
PUBLISH = flag("--publish", help="Change published results, which stay as they are else.")
REPLACE = flag("--replace", help="With --publish: start published files afresh that are of another version.")


# ---- what is run, and on what ----------------------------------------------------------------------------------------
def seeds(text: str | None, usual: int) -> tuple[int, ...]:
    """The seeds that ``N`` or ``A-B`` names. Raises LoobenchError for anything else."""
    first, dash, last = (text if text is not None else str(usual)).partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise LoobenchError(f"--seeds takes a number N or a range A-B, got {text!r}")
    found = range(int(first), int(last) + 1) if dash else range(int(first))
    if not found or found[-1] >= MOST_SEEDS:
        raise LoobenchError(f"--seeds takes 1 to {MOST_SEEDS} seeds, numbered from 0, got {text!r}")
    return tuple(found)


def means(options: Options, device: str) -> Any:
    """The memory and threads that retraining may use. Raises LoobenchError for what is no size or no number of threads."""
    from benchmark.base.means import usual

    if options.threads is not None and options.threads < 1:
        raise LoobenchError(f"--threads must be 1 or more, got {options.threads}")
    return usual(device, None if options.memory is None else in_bytes(options.memory), options.threads)


def in_bytes(text: str) -> int:
    """A size of memory as people write it. Raises LoobenchError for what is none."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number, unit = text.upper().removesuffix("IB").removesuffix("B"), 1
    if number and number[-1] in units:
        number, unit = number[:-1], units[number[-1]]
    if not number.replace(".", "", 1).isdecimal() or not 0 < float(number) < 1e15:
        raise LoobenchError(f"--memory takes a size like 500M or 2G, got {text!r}")
    return int(float(number) * unit)


ESTIMATOR = argument("estimator", "NAME|FILE.py[:NAME]")
CHOICE = (
    repeated("--suite", metavar="SUITE|FILE.py", help="May be repeated."),
    repeated("--task", metavar="TASK|FILE.py[:NAME]", help="May be repeated."),
    repeated("--estimator", metavar="NAME|FILE.py[:NAME]", help="May be repeated.  [default: all]"),
)
DEVICE = option("--device", default="cpu", metavar="NAME", help="cpu or cuda.")
DTYPE = option("--dtype", metavar="NAME", help="float64 or float32.  [default: the task's]")
MEANS = (
    option("--memory", metavar="SIZE", help="Most that retraining may take, as in 500M or 2G.  [default: half of the free]"),
    option("--threads", type=int, metavar="N", help="Chunks of runs retrained side by side.  [default: one per core]"),
)
RAY = option("--ray", metavar="auto|ADDRESS", help="Spread the work over a Ray cluster.")
JSON = flag("--json", "as_json", help="Print it as JSON.")


# ---- the sandbox -----------------------------------------------------------------------------------------------------
SANDBOX = flag("--sandbox", help="Run all estimators in the sandbox, not strangers' only.")
STRANGERS = (
    flag("--no-sandbox", help="Run strangers' files as you, with your files and network."),
    option("--time-limit", type=float, default=600.0, metavar="SECONDS", help="Of the sandbox, for one seed of a task."),
    flag("--traceback", help="Show all lines that a failing estimator went through."),
)


def rules(options: Options, memory: str | None = None) -> Any:
    """Who is run in the sandbox, and with what, its memory included. Raises LoobenchError for a limit that is none."""
    from benchmark.base import machine
    from benchmark.sandbox.client import Rules
    from benchmark.sandbox.process import Allowance

    everyone = getattr(options, "sandbox", False)
    if everyone and options.no_sandbox:
        raise LoobenchError("--sandbox and --no-sandbox say opposite things: leave one out")
    if not 0 < options.time_limit < 1e7:
        raise LoobenchError(f"--time-limit takes seconds, more than 0, got {options.time_limit:g}")
    held = in_bytes(memory) if memory else min(4 << 30, machine.free_memory("cpu") // 2)
    return Rules(not options.no_sandbox, everyone, Allowance(options.time_limit, held))


# ---- who -------------------------------------------------------------------------------------------------------------
def by(who: str) -> click.Option:
    """The option --by: who does what."""
    return option("--by", metavar="NAME", help=f"Who {who}.  [default: `git config user.name`]")


def computed_by(options: Any) -> str:
    """Who uses this program: as --by says, else as git knows, else "unknown". Raises LoobenchError for what is no name."""
    from benchmark.base import git

    asked = getattr(options, "by", None)
    name = line(git.user() or "unknown", 100) if asked is None else str(asked)
    if not (name.strip() and is_line(name, 100)):
        raise LoobenchError(f"--by takes 1 to 100 printable characters, got {name!a:.120}")
    return name


# ---- the board -------------------------------------------------------------------------------------------------------
def board(folder: Path, found: Any = None) -> Any:
    """The board of the results in a folder, or of those `found` in it."""
    from benchmark.scores import board, store
    from benchmark.tasks import suites

    known = store.load_all(folder) if found is None else found
    return board.board(known, store.all_limits(folder), [suites.CORE])
