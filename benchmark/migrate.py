"""Result files of an older schema, rewritten as files of this one."""

import json
from pathlib import Path
from typing import Any

from benchmark import results
from benchmark.errors import DamagedFile
from benchmark.files import json_digest, read, write
from benchmark.questions import asked_of
from benchmark.results import SCHEMA, dump, rounded

Content = dict[str, Any]
OLDEST = 2


def migrate(folder: Path) -> list[Path]:
    """Rewrite the results and limits under a folder that are of an older schema; returns those that were.

    What was not measured then stays unknown; `loobench score` fills in what kept estimates tell. Raises DamagedFile, before
    anything is written, where a file is not what its digest says or is too old.
    """
    known = [(at, _old(at)) for at in sorted([*results.result_files(folder), *results.limit_files(folder)])]
    fresh = [at for at, content in known if content and _renewed(at, content)]
    for at in fresh:
        _rewrite(at, folder)
    return fresh


def _rewrite(at: Path, folder: Path) -> None:
    """Write a file anew as of this schema, as it is by now."""
    with results.changing(at, folder):
        if old := _old(at):
            content = _renewed(at, old)
            write(at, dump({**content, "digest": json_digest(content)}).encode())


def _old(at: Path) -> Content | None:
    """The content of a file of an older schema, its digest checked; None for one of this schema, which its reader checks."""
    try:
        content = json.loads(read(at))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{at} is not a result: {error}; restore it or move it away") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema == SCHEMA:
        return None
    if not isinstance(schema, int) or not OLDEST <= schema < SCHEMA:
        raise DamagedFile(
            f"{at} has schema {schema!r}, expected {OLDEST} to {SCHEMA}: move it away, then repeat `loobench run`"
        )
    stated = content.pop("digest", None)
    if stated != (found := json_digest(content)):
        raise DamagedFile(f"{at} was edited: its digest says {stated}, its content has {found}; restore it or move it away")
    return dict(content)


def _renewed(at: Path, content: Content) -> Content:
    """The content as of this schema. Raises DamagedFile where it is not valid then."""
    try:
        found = (_result if "cells" in content else _limits)({**content, "schema": SCHEMA})
        (results.check if "cells" in content else results.check_limits)(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedFile(f"{at} is not a valid result: {error}; restore it or move it away") from error
    return found


def _result(content: Content) -> Content:
    return {**content, "cells": {seed: _cell(cell, content["task"]) for seed, cell in content["cells"].items()}}


def _cell(cell: Content, task: Content) -> Content:
    """A cell whose score by query is known where there is one query."""
    scores, asked = {name: rounded(curve) for name, curve in cell["scores"].items()}, asked_of(task)
    curve = scores.get(asked.primary, []) if task["queries"] == "mean" else []
    ranking = curve if asked.throughout else curve[-1:]
    known = [value for value in ranking if value is not None]
    one = sum(known) / len(known) if known and len(known) == len(ranking) else None
    return {**cell, "scores": scores, "by_query": rounded([one] * bool(ranking)), "points": [], "memory": None}


def _limits(content: Content) -> Content:
    return {**content, "seeds": {seed: _bounds(found) for seed, found in content["seeds"].items()}}


def _bounds(found: Content) -> Content:
    references = {who: dict(zip(s, rounded(s.values()), strict=True)) for who, s in found["references"].items()}
    return {
        **found,
        "values": {n: rounded(curve) for n, curve in found["values"].items()},
        "references": references,
        "points": [],
    }
