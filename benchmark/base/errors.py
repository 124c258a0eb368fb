"""Errors that a person can act on."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import PurePath
from traceback import extract_tb, format_exception

from benchmark.base.text import line, printable, without_folders

MOST = 600  # characters of what a failure says
LONGEST = 20_000  # of a traceback
_shown: ContextVar[Callable[[str], object]] = ContextVar("shown", default=lambda text: None)


class LoobenchError(Exception):
    """A rule was broken by the input or the machine; the message says what was expected, what came, what to do."""


class DamagedFile(LoobenchError):
    """A file of ours does not hold what its own digest or format says."""


class Diverged(LoobenchError):
    """A training run left the finite numbers: there is nothing to estimate or to score against."""


class Unsolved(LoobenchError):
    """A linear system is singular or indefinite, or its solver diverged; the message has the residual."""


class Withheld(LoobenchError):
    """An estimator asked for a part of the run that its task does not show."""


class Failure(Exception):
    """An estimator broke a rule; `status` is the kind of failure that its result records, the message one line of it."""

    def __init__(self, status: str, message: str, traceback: str = "") -> None:
        super().__init__(line(message, MOST))
        self.status, self.traceback = status, traceback


def place(error: BaseException, file: str) -> str:
    """The last line of a file that an error went through, as "file.py:12 in function"; nothing where it went through none."""
    frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename == file]
    return f"{PurePath(file).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""


def traced(error: BaseException) -> str:
    """The lines that an error went through, without the folders of this machine."""
    try:
        return printable(without_folders("".join(format_exception(error)))[-LONGEST:])
    except Exception:
        return "its traceback cannot be read"


@contextmanager
def explained(name: object, what: str, file: str) -> Iterator[None]:
    """Run code that is not ours in the block: its errors are LoobenchErrors that say `what`, and where in its file.

    One of ours keeps its words, behind the `name` of what was run.
    """
    try:
        yield
    except LoobenchError as error:
        raise LoobenchError(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:
        tell(traced(error))
        where = f" ({found})" if (found := place(error, file)) else ""
        raise LoobenchError(f"{what}: {type(error).__name__}: {error}{where}") from error


@contextmanager
def telling(show: Callable[[str], object]) -> Iterator[None]:
    """Show the traceback of each failure in the block."""
    token = _shown.set(show)
    try:
        yield
    finally:
        _shown.reset(token)


def tell(traceback: str) -> None:
    """Show a traceback, if there is one and somebody wants it."""
    if traceback:
        _shown.get()(traceback)


def unknown(kind: str, name: str, known: Iterable[str]) -> LoobenchError:
    """The error for a `name` that is not among the `known` ones, with the closest of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
    return LoobenchError(f"unknown {kind} {name!r}: {hint}")
