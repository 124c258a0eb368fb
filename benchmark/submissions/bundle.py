"""The bundle of a submission, read: one source file, its results with what is claimed of them, and a manifest of SHA-256.

    NAME/estimators/<file>.py
    NAME/results/<task>/<estimator>.json
    NAME/manifest.json      {"format": 1, "estimator file": "estimators/<file>.py", "files": {"<path>": "<SHA-256>", ...}}

A bundle may come from anyone: reading one runs none of its code, follows no link, and refuses all that is not of this layout.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from math import isclose
from pathlib import Path
from typing import Any

from benchmark.base.errors import LoobenchError
from benchmark.base.files import json_digest, sha256
from benchmark.base.files import read as contents
from benchmark.base.text import is_line, line, quoted
from benchmark.core.declaration import NAME
from benchmark.core.syntax import source_digest
from benchmark.scores import results, store
from benchmark.scores.results import Result
from benchmark.submissions import scaffold
from benchmark.tasks import suites

FORMAT = 1
MANIFEST = "manifest.json"
KEYS = {"format", "estimator file", "files"}
MOST_BYTES, MOST_FILES, MOST_SEEDS, MOST_DEPTH = 1_000_000, 2_000, 100, 20
SOURCE = re.compile(r"estimators/[a-z][a-z0-9_]{0,63}\.py")
PART = r"[a-z0-9][a-z0-9._-]{0,127}"
RESULT = re.compile(rf"results/{PART}/{PART}\.json")
FOLDER = re.compile(rf"estimators|results|results/{PART}")
LONGEST = {"claimed.by": 100, "claimed.when": 40, "claimed.environment": 300, "estimator.paper": 300}  # characters


@dataclass(frozen=True)
class Bundle:
    """A submission that was read: its folder, the one source file, and the results in order of path."""

    folder: Path
    source: Path
    results: tuple[Result, ...]

    @property
    def names(self) -> list[str]:
        """The estimators that it has results of."""
        return sorted({result.estimator.name for result in self.results})


def value(result: Result) -> float | None:
    """What a result claims: the mean over seeds and queries of the score that ranks, of the cells that have one."""
    cells = [cell for cell in result.cells.values() if cell.status == "ok"]
    known = [score for cell in cells for score in cell.by_query if score is not None]
    return results.rounded([sum(known) / len(known)])[0] if known else None


def read(folder: Path) -> Bundle:
    """The bundle in a folder, which may be a stranger's. Raises LoobenchError for all that is not as this module says."""
    found = _walked(folder)
    if MANIFEST not in found:
        raise LoobenchError(f"{folder} has no {MANIFEST}: a bundle is what `loobench submit` writes")
    manifest = _manifest(folder / MANIFEST)
    listed = manifest["files"]
    _expect_same(set(listed), found - {MANIFEST})
    for name in sorted(listed):
        _expect_hash(folder / name, name, listed[name])
    source = _source(manifest["estimator file"], set(listed))
    text = contents(folder / source)
    read_results = tuple(_result(folder, name, source_digest(text)) for name in sorted(listed) if name != source)
    if left := [one for result in read_results for one in scaffold.unfilled(result.estimator.paper, text)]:
        raise LoobenchError(f"{source}: {left[0]}; then run it, and submit it again")
    if not read_results:
        raise LoobenchError(f"{folder} has no results: run `loobench run --suite core`, then `loobench submit`")
    return Bundle(folder, folder / source, read_results)


def _walked(folder: Path) -> set[str]:
    """Relative paths of all files in a folder; no link, nothing outside the layout, no large file, not too many."""
    if folder.is_symlink() or not folder.is_dir():
        raise LoobenchError(f"{folder} is no folder: give the one that `loobench submit` wrote")
    found: set[str] = set()
    todo = [""]
    while todo:
        for name, is_folder in _entries(folder, todo.pop()):
            found.add(name)
            todo += [name] * is_folder
            if len(found) > MOST_FILES:
                raise LoobenchError(f"{folder} has more than {MOST_FILES} files: a bundle has one for each task and estimator")
    return {name for name in found if not FOLDER.fullmatch(name)}


def _entries(folder: Path, inside: str) -> Iterator[tuple[str, bool]]:
    """Relative path of each entry of a folder of the bundle, and whether it is a folder."""
    try:
        entries = sorted(os.listdir(folder / inside))
        for entry in entries:
            name = f"{inside}/{entry}" if inside else entry
            facts = os.lstat(folder / name)
            _expect_plain(name, facts)
            yield name, stat.S_ISDIR(facts.st_mode)
    except OSError as error:
        raise LoobenchError(f"cannot read {folder}: {error.strerror}") from error


def _expect_plain(name: str, facts: os.stat_result) -> None:
    """Raise LoobenchError for what is neither a plain file of the layout, of at most 1 MB, nor one of its folders."""
    if stat.S_ISDIR(facts.st_mode):
        if not FOLDER.fullmatch(name):
            raise LoobenchError(f"{quoted(name)}: a bundle has the folders estimators and results/<task>; remove it")
        return
    if not stat.S_ISREG(facts.st_mode):
        raise LoobenchError(f"{quoted(name)}: a bundle has plain files, no links, pipes or devices; remove it")
    if name != MANIFEST:
        expect_layout(name)
    if facts.st_size > MOST_BYTES:
        raise LoobenchError(f"{quoted(name)} has {facts.st_size} bytes: a file of a bundle has at most {MOST_BYTES}")


def expect_layout(name: str) -> None:
    """Raise LoobenchError for a path that a bundle does not have."""
    if not (SOURCE.fullmatch(name) or RESULT.fullmatch(name)):
        raise LoobenchError(
            f"{quoted(name)}: a bundle has estimators/<file>.py, results/<task>/<estimator>.json and {MANIFEST}, "
            "in small letters; remove or rename it"
        )


def _manifest(at: Path) -> dict[str, Any]:
    again = "write the bundle again by `loobench submit`"
    try:
        found = json.loads(contents(at), object_pairs_hook=_once, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise LoobenchError(f"{at} is not JSON of a manifest: {str(error)[:200]}; {again}") from error
    if not isinstance(found, dict) or found.keys() != KEYS:
        raise LoobenchError(f"{at}: expected an object with exactly {', '.join(sorted(KEYS))}; {again}")
    if type(found["format"]) is not int or found["format"] != FORMAT:
        raise LoobenchError(f"{at}: expected format {FORMAT}, got {found['format']!a:.40}; a newer loobench may read it")
    files = found["files"]
    if not isinstance(files, dict) or not all(isinstance(one, str) for one in files.values()):
        raise LoobenchError(f"{at}: expected under files an object, path -> SHA-256; {again}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _expect_same(listed: set[str], found: set[str]) -> None:
    for name in listed:
        expect_layout(name)
    for names, text in ((listed - found, "in the manifest, but not there"), (found - listed, "there, but not in the manifest")):
        if names:
            raise LoobenchError(f"{quoted(min(names))} is {text}: write the bundle again by `loobench submit`")


def _expect_hash(at: Path, name: str, stated: str) -> None:
    if (found := sha256(contents(at))) != stated:
        raise LoobenchError(
            f"{name} was changed after the manifest: that says {stated!a:.70}, its SHA-256 is {found}; "
            "write the bundle again by `loobench submit`"
        )


def _source(stated: Any, listed: set[str]) -> str:
    there = sorted(name for name in listed if SOURCE.fullmatch(name))
    if len(there) != 1 or stated != there[0]:
        raise LoobenchError(
            f"a bundle has one source file, the `estimator file` of its manifest: that says {stated!a:.80}, "
            f"there are {', '.join(there) or 'none'}"
        )
    return there[0]


def _result(folder: Path, name: str, source: str) -> Result:
    """The result in a file of a bundle, which must be one that the source file may have and nobody has verified."""
    if (depth := _depth(contents(folder / name))) > MOST_DEPTH:
        raise LoobenchError(f"{name} is nested {depth} deep: a result is at most {MOST_DEPTH}")
    try:
        found = store.load(folder / name)
    except LoobenchError as error:  # it may quote a key, which may hold anything
        raise LoobenchError(line(error, 600)) from error
    for problem in _problems(found, name, source):
        raise LoobenchError(f"{name}: {problem}; write the bundle again by `loobench submit`")
    return found


def _depth(content: bytes) -> int:
    """How deep the lists and objects of a JSON text are nested."""
    deepest = depth = 0
    for bracket in re.findall(rb"[\[{\]}]", re.sub(rb'"(?:[^"\\]|\\.)*"', b"", content)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _problems(found: Result, name: str, source: str) -> Iterator[str]:
    """What keeps a result of a bundle from being read."""
    described = found.estimator
    if not NAME.fullmatch(described.name) or len(described.name) > 64:
        yield f"{quoted(described.name)} is no name of an estimator"
    if not isinstance(found.task["name"], str) or found.task["name"] not in suites.TASKS:
        yield f"this loobench has no task {quoted(str(found.task['name']))}"
    task = suites.TASKS[found.task["name"]]
    if (found.task_digest, found.task["suite"]) != (task.digest(), task.suite):
        yield f"expected digest {task.digest()} of the task {task.name}, got {quoted(found.task_digest)}: of another loobench"
    if found.device != "cpu":
        yield f"expected results of the CPU, got {quoted(found.device)}"
    if name != (expected := f"results/{found.file}"):
        yield f"it holds the result {expected}"
    if described.source != source:
        yield "its source digest is not that of the estimator file"
    stated = {"name": described.name, "settings": described.settings, "source": described.source}
    if described.identity != json_digest(stated):
        yield "its identity is not the digest of name, settings and source"
    if len(found.cells) > MOST_SEEDS or any(int(seed) >= MOST_SEEDS for seed in found.cells):
        yield f"seeds are 0 to {MOST_SEEDS - 1}"
    yield from _claim_problems(found)


def _claim_problems(found: Result) -> Iterator[str]:
    if found.verified is not None:
        yield "it carries a verification, which only who verifies may write"
    if found.claimed is None:
        yield "it claims nothing: expected `claimed` with value, by, when and environment"
        return
    texts = {**{f"claimed.{key}": text for key, text in vars(found.claimed).items()}, "estimator.paper": found.estimator.paper}
    for where, most in LONGEST.items():
        if not is_line(text := texts[where], most) or set("<>") & set(text) or not text.strip():
            yield f"{where}: expected one line of 1 to {most} printable characters without < and >, got {quoted(text)}"
    if not _is_time(found.claimed.when):
        yield f"claimed.when: expected a time as 2026-01-31T12:00:00+00:00, got {quoted(found.claimed.when)}"
    if not _same(found.claimed.value, value(found)):
        yield f"claimed.value: its cells give {value(found)}, got {found.claimed.value}"


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _same(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and isclose(one, other, rel_tol=1e-5, abs_tol=1e-6))


def paths(bundle: Bundle) -> list[str]:
    """Paths of a bundle's files in the repository, the source file first."""
    own = bundle.source.relative_to(bundle.folder).as_posix()
    return [own, *(f"results/{result.file}" for result in bundle.results)]
