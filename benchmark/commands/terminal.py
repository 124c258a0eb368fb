"""What all commands write: tables no wider than the terminal, or than 80 columns in a pipe; JSON, notes and progress."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from shutil import get_terminal_size
from textwrap import fill
from typing import Any

from benchmark.base.text import line

WIDTH = 80  # columns where no terminal says otherwise
GAP = 2  # columns between two of a table
LEAST = 8  # columns of the others beside a first one that is not wrapped
LONGEST = 10_000  # characters of a cell


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, cut: str | None = None) -> None:
    """Print a table; see `table_text`."""
    print(table_text(headers, rows, cut=cut))


def table_text(headers: Sequence[str], rows: Iterable[Sequence[str]], *, cut: str | None = None) -> str:
    """A table that fits: wide columns are wrapped, the first if it must be; or each row is one line, `cut` in that column.

    Where words would have to be broken, each row is a list of its own, of a header and what it has there in each line.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    console = Console(width=_width(), force_terminal=sys.stdout.isatty())
    held = [[line(cell, LONGEST) for cell in row] for row in rows]
    if cut is not None:
        held = _cut(headers, held, list(headers).index(cut), console.width)
    columned = zip_longest([""] * len(headers), *held, fillvalue="")
    least = [max(len(word) for cell in column for word in ("", *cell.split())) for column in columned]
    if cut is None and sum(least) + GAP * (len(least) - 1) > console.width:
        return "\n\n".join(_upright(headers, row, console.width) for row in held)
    whole = max((len(row[0]) for row in held), default=0) <= console.width - LEAST * len(headers[1:])
    columns = [
        Column(Text(name), overflow="fold", no_wrap=whole and not at, min_width=width)
        for at, (name, width) in enumerate(zip(headers, least, strict=True))
    ]
    made = Table(*columns, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for row in held:
        made.add_row(*map(Text, row))  # which reads no markup
    with console.capture() as drawn:
        console.print(made)
    return "\n".join(one.rstrip() for one in drawn.get().splitlines())


def _upright(headers: Sequence[str], row: Sequence[str], width: int) -> str:
    """A row as a list: its headers, and beside each what it has there. What it does not have is left out."""
    room = max(map(len, headers)) + GAP
    pairs = [(header, cell) for header, cell in zip(headers, row, strict=False) if cell]
    return "\n".join(fill(cell, width, initial_indent=f"{name:<{room}}", subsequent_indent=" " * room) for name, cell in pairs)


def _cut(headers: Sequence[str], rows: list[list[str]], at: int, width: int) -> list[list[str]]:
    widths = [max(len(row[column]) for row in [headers, *rows]) for column in range(len(headers))]
    room = max(len(headers[at]), width - sum(widths) + widths[at] - GAP * len(headers))
    return [[*row[:at], line(row[at], room), *row[at + 1 :]] for row in rows]


def wrapped(text: str) -> str:
    """Paragraphs, no wider than a table."""
    return "\n\n".join(fill(paragraph, _width(), break_on_hyphens=False) for paragraph in text.split("\n\n"))


def _width() -> int:
    return get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def write_json(value: Any) -> None:
    """Print a JSON value."""
    print(json.dumps(value, indent=1, allow_nan=False))


def tell(kind: str, text: str) -> None:
    """Say on stderr, behind its kind: error, failed, warning or note."""
    print(f"{kind}: {text}", file=sys.stderr)


def bar(total: int, text: str, unit: str) -> Any:
    """A bar of progress, where stderr is a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc=text, unit=unit, unit_scale=total > 9999, disable=None, leave=False)


@contextmanager
def patient_reader() -> Iterator[None]:
    """Print inside the block; a reader that has seen enough, say `head`, is no error and hides none."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
