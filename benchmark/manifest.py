"""results/manifest.json: what is published, one line for each file, so that nothing of it changes silently."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmark import board, results
from benchmark.errors import DamagedFile
from benchmark.files import read, sha256, write
from benchmark.records import decode, encode
from benchmark.results import MANIFEST, Result, dump

FORMAT = 1
SHORT = 12  # hexadecimal digits of a digest
DIGITS = 6  # significant ones of a score
CHANGE = 0.001  # by so much a published score may differ between two machines
MOST = 20  # lines that are printed
ADVICE = "raise `version=` in its @estimator where the method has changed, or restore the file (`git checkout`)"


@dataclass(frozen=True)
class Published:
    """A result file as it was published."""

    sha256: str  # of the file
    version: str  # of the estimator
    harness: str  # first digits of what decides numbers
    task: str  # first digits of the task's digest
    scores: dict[str, float | None]  # seed -> mean over queries of the score that ranks; None where there is none


@dataclass(frozen=True)
class File:
    """A file of limits as it was published."""

    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All files under results/, by path relative to it."""

    format: int
    results: dict[str, Published] = field(default_factory=dict)
    limits: dict[str, File] = field(default_factory=dict)

    @property
    def sums(self) -> dict[str, str]:
        """Path -> SHA-256, of results and limits."""
        limits = {name: one.sha256 for name, one in self.limits.items()}
        return {**limits, **{name: one.sha256 for name, one in self.results.items()}}


# ---- what there is ---------------------------------------------------------------------------------------------------
def manifest(folder: Path, found: Sequence[Result]) -> Manifest:
    """The manifest of a folder of files, with the results `found` in it. Raises LoobenchError where one cannot be read."""
    entries = {(at := results.path(one, folder)).relative_to(folder).as_posix(): published(one, read(at)) for one in found}
    limits = {at.name: File(sha256(read(at))) for at in results.limit_files(folder)}
    return Manifest(FORMAT, dict(sorted(entries.items())), limits)


def published(result: Result, content: bytes) -> Published:
    """A result, the bytes of whose file are `content`."""
    scores = {seed: score(result, seed) for seed in result.cells}
    harness, task = result.harness[:SHORT], result.task_digest[:SHORT]
    return Published(sha256(content), result.estimator.version, harness, task, scores)


def score(result: Result, seed: str) -> float | None:
    """The mean over queries of the score that ranks a seed; None where it failed or is not defined."""
    value = float(board.ranking(result, seed).mean()) if result.cells[seed].status == "ok" else np.nan
    return None if np.isnan(value) else float(f"{value:.{DIGITS}g}")


# ---- the file --------------------------------------------------------------------------------------------------------
def load(folder: Path) -> Manifest | None:
    """The manifest of a folder, None where it has none. Raises DamagedFile where it is not whole."""
    at = folder / MANIFEST
    if not at.exists():
        return None
    advice = "restore it (`git checkout`), or delete it and write it anew by `loobench report`"
    try:
        found: Manifest = decode(Manifest, json.loads(read(at)), "manifest")
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{at} is not a valid manifest: {error}; {advice}") from error
    if found.format != FORMAT:
        raise DamagedFile(f"{at}: expected format {FORMAT}, got {found.format}; {advice}")
    return found


def save(found: Manifest, folder: Path) -> None:
    """Write the manifest of a folder."""
    write(folder / MANIFEST, dump(encode(found), 2).encode())


# ---- what changed ----------------------------------------------------------------------------------------------------
def differences(before: Manifest | None, now: Manifest) -> list[str]:
    """What became of files without their folder's manifest, in lines: changed, added, deleted; nothing where it holds."""
    if before is None:
        return [f"{MANIFEST} is missing: run `loobench report`"]
    known, found = before.sums, now.sums
    changes = {
        **dict.fromkeys(known.keys() - found.keys(), "was deleted"),
        **dict.fromkeys(found.keys() - known.keys(), "was added"),
        **{name: "was changed" for name in known.keys() & found.keys() if known[name] != found[name]},
    }
    lines = [
        f"{name} {what} without {MANIFEST}: restore it, or run `loobench report`" for name, what in sorted(changes.items())
    ]
    stale = not lines and before != now
    return [f"{MANIFEST} says of files what they do not: run `loobench report`"] if stale else lines


def silent(before: Manifest | None, now: Manifest) -> list[str]:
    """Published scores that changed while version, harness and task stayed, in lines; nothing where none did."""
    old: Mapping[str, Published] = before.results if before else {}
    both = ((name, old[name], entry) for name, entry in now.results.items() if name in old)
    changed = ((name, [*changes(was, entry)]) for name, was, entry in both if same_version(was, entry))
    return [f"{name}: {'; '.join(said)}, but not the estimator's version: {ADVICE}" for name, said in changed if said]


def same_version(before: Published, now: Published) -> bool:
    """Whether two say that the same estimator answered the same task under the same harness."""
    mine, theirs = ((one.version, one.harness, one.task) for one in (before, now))
    return mine == theirs


def changes(before: Published, now: Published) -> Iterator[str]:
    """The seeds whose score is another by more than `CHANGE`, or is gone."""
    for seed, was in before.scores.items():
        found = now.scores.get(seed)
        if seed not in now.scores:
            yield f"seed {seed} is gone"
        elif differ(was, found):
            yield f"seed {seed} changed from {shown(was)} to {shown(found)}"


def differ(one: float | None, other: float | None) -> bool:
    """Whether two scores of a seed are not the same within `CHANGE`."""
    return one is not other if one is None or other is None else abs(one - other) > CHANGE


def shown(value: float | None) -> str:
    """A score in words."""
    return "no score" if value is None else f"{value:.4f}"


def shortened(lines: Sequence[str]) -> list[str]:
    """At most `MOST` lines, then how many more there are."""
    more = len(lines) - MOST
    return [*lines[:MOST], *([f"and {more} more"] if more > 0 else [])]
