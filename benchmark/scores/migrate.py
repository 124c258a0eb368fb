"""Result files of an older schema, rewritten as files of this one."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmark.base import git
from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.base.files import digest, json_digest, read, unix, write
from benchmark.base.places import ROOT
from benchmark.core import declaration
from benchmark.core.syntax import source_digest
from benchmark.scores.checks import check
from benchmark.scores.results import SCHEMA, SHORT, Limits, Result, rounded
from benchmark.scores.store import Store, dump, limit_files, result_files
from benchmark.tasks.questions import asked_of

Content = dict[str, Any]
Sources = Callable[[str], bytes | None]  # digest of its bytes -> a source file, if it is known
SAID = ("claimed", "verified")  # fields of a result that say something of the others


def migrate(folder: Path, given: Sequence[Path] = ()) -> list[Path]:
    """Rewrite the results and limits under a folder that are of an older schema; returns those that were.

    What was not measured then stays unknown; `loobench score` fills in what kept estimates tell. The source of an estimator is
    looked for among the `given` files, those of this program, and those that its history has. Raises DamagedFile, before
    anything is written, where a file is not what its digest says, is too old, or is of a source that is nowhere.
    """
    sources = known(given)
    old = [(at, _old(at)) for at in sorted([*result_files(folder), *limit_files(folder)])]
    fresh = [at for at, content in old if content and _renewed(at, content, sources)]
    for at in fresh:
        _rewrite(at, folder, sources)
    return fresh


def _rewrite(at: Path, folder: Path, sources: Sources) -> None:
    """Write a file anew as of this schema, as it is by now."""
    with Store(folder).lock(at):
        if old := _old(at):
            content = _renewed(at, old, sources)
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
    if not isinstance(schema, int) or schema not in STEPS:
        raise DamagedFile(
            f"{at} has schema {schema!r}, expected {min(STEPS)} to {SCHEMA}: move it away, then repeat `loobench run`"
        )
    stated = content.pop("digest", None)
    if stated != (found := json_digest(content)):
        raise DamagedFile(f"{at} was edited: its digest says {stated}, its content has {found}; restore it or move it away")
    return dict(content)


def _renewed(at: Path, content: Content, sources: Sources) -> Content:
    """The content as of this schema. Raises DamagedFile where it is not valid then."""
    kind = "cells" in content
    try:
        for schema in range(content["schema"], SCHEMA):
            content = {**STEPS[schema][not kind](content, sources), "schema": schema + 1}
        check(content, Result) if kind else check(content, Limits)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedFile(f"{at} is not a valid result: {error}; restore it or move it away") from error
    except LoobenchError as error:
        raise DamagedFile(f"{at}: {error}") from error
    return content


# ---- from 2 to 3: scores by query, points, memory --------------------------------------------------------------------
def _with_queries(content: Content, _: Sources) -> Content:
    return {**content, "cells": {seed: _cell(cell, content["task"]) for seed, cell in content["cells"].items()}}


def _cell(cell: Content, task: Content) -> Content:
    """A cell whose score by query is known where there is one query."""
    scores, asked = {name: rounded(curve) for name, curve in cell["scores"].items()}, asked_of(task)
    curve = scores.get(asked.primary, []) if task["queries"] == "mean" else []
    ranking = curve if asked.throughout else curve[-1:]
    known = [value for value in ranking if value is not None]
    one = sum(known) / len(known) if known and len(known) == len(ranking) else None
    return {**cell, "scores": scores, "by_query": rounded([one] * bool(ranking)), "points": [], "memory": None}


def _with_points(content: Content, _: Sources) -> Content:
    return {**content, "seeds": {seed: _bounds(found) for seed, found in content["seeds"].items()}}


def _bounds(found: Content) -> Content:
    references = {who: dict(zip(s, rounded(s.values()), strict=True)) for who, s in found["references"].items()}
    return {
        **found,
        "values": {n: rounded(curve) for n, curve in found["values"].items()},
        "references": references,
        "points": [],
    }


# ---- from 3 to 4: what a source computes, not its bytes; the harness is provenance -----------------------------------
def _by_syntax(content: Content, sources: Sources) -> Content:
    rest = {name: value for name, value in content.items() if name != "harness"}
    made = {key: {**facts, "harness": content["harness"][:SHORT]} for key, facts in content["provenance"].items()}
    new = {**rest, "schema": 4, "provenance": made, "estimator": _described(content["estimator"], sources)}
    said = content.get("verified")
    if said and said["of"] == _substance(content):
        new["verified"] = {**said, "of": _substance(new)}
    return new


def _described(estimator: Content, sources: Sources) -> Content:
    """An estimator's description with the digests of what its source computes."""
    text = sources(estimator["source"])
    if text is None:
        which = f"{estimator['name']!a:.80} of a source with digest {estimator['source']:.12}"
        raise LoobenchError(f"{which}, which is not here: name it by --estimator FILE.py, or move the result away")
    named = {"name": estimator["name"], "settings": estimator["settings"], "source": source_digest(text)}
    return {**estimator, **named, "identity": json_digest(named)}


def _substance(content: Content) -> str:
    """Digest of all of a result but what is said of it."""
    return json_digest({name: value for name, value in content.items() if name not in SAID})


def _same(content: Content, _: Sources) -> Content:
    return content


STEPS: Mapping[int, tuple[Callable[[Content, Sources], Content], Callable[[Content, Sources], Content]]] = {
    2: (_with_queries, _with_points),  # of results, of limits
    3: (_by_syntax, _same),
}


# ---- sources by the digest of their bytes ----------------------------------------------------------------------------
def known(given: Sequence[Path]) -> Sources:
    """Finds a source file by the digest of its bytes: among those given, this program's, and its history's."""
    here = {_by_bytes(text): text for text in (read(at) for at in (*given, *_own()))}
    return lambda wanted: here.get(wanted) or _history().get(wanted)


def _by_bytes(text: bytes) -> str:
    return digest(unix(text))


def _own() -> Iterator[Path]:
    return (at for folder in declaration.FOLDERS for at in sorted((ROOT / folder).glob("*.py")))


@lru_cache(maxsize=1)
def _history() -> Mapping[str, bytes]:
    """Every version of this program's estimators that git knows, by the digest of its bytes; none where there is no history."""
    try:
        log = git.ask(ROOT, "log", "--all", "--raw", "--no-abbrev", "--no-renames", "--format=", "--", *declaration.FOLDERS)
        blobs = {line.split()[3] for line in log.decode(errors="replace").splitlines() if line.startswith(":")}
        texts = [git.ask(ROOT, "cat-file", "blob", blob) for blob in sorted(blobs) if blob.strip("0")]
    except LoobenchError:
        return {}
    return {_by_bytes(text): text for text in texts}
