"""results/manifest.json: what is published, one line for each file, so that nothing of it changes silently."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmark import PROTOCOL
from benchmark.base.errors import DamagedFile
from benchmark.base.files import read, sha256, write
from benchmark.base.places import MANIFEST
from benchmark.base.records import decode, encode
from benchmark.scores import board, cells, rows, store
from benchmark.scores.results import Limits, Result
from benchmark.scores.store import dump

FORMAT = 2
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
    task: str  # first digits of the digest of the task, and of the protocol
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
    entries = {one.file: published(one, read(folder / one.file)) for one in found}
    limits = {at.name: File(sha256(read(at))) for at in store.limit_files(folder)}
    return Manifest(FORMAT, dict(sorted(entries.items())), limits)


def published(result: Result, content: bytes) -> Published:
    """A result, the bytes of whose file are `content`."""
    scores = {seed: score(result, seed) for seed in result.cells}
    return Published(sha256(content), result.estimator.version, result.task_digest[:SHORT], scores)


def score(result: Result, seed: str) -> float | None:
    """The mean over queries of the score that ranks a seed; None where it failed or is not defined."""
    value = float(cells.ranking(result, seed).mean()) if result.cells[seed].status == "ok" else np.nan
    return None if np.isnan(value) else float(f"{value:.{DIGITS}g}")


# ---- the file --------------------------------------------------------------------------------------------------------
def load(folder: Path) -> Manifest | None:
    """The manifest of a folder, None where it has none. Raises DamagedFile where it is not whole."""
    at = folder / MANIFEST
    if not at.exists():
        return None
    advice = "restore it (`git checkout`), or delete it and write it anew by `loobench report --publish`"
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


# ---- what is published -----------------------------------------------------------------------------------------------
def holds(folder: Path, found: Sequence[Result]) -> bool:
    """Whether the files of results in a folder, of which seeds may have been left out, are all as its manifest has them."""
    known = load(folder)
    return known is not None and all(intact(folder / one.file, folder, known.sums) for one in found)


def intact(at: Path, folder: Path, sums: Mapping[str, str]) -> bool:
    """Whether a file of a folder is, byte for byte, the one that its manifest has under that name."""
    return at.is_file() and sums.get(at.relative_to(folder).as_posix()) == sha256(read(at))


def of_suites(folder: Path, suites: Collection[str]) -> tuple[list[Result], dict[str, Limits]]:
    """What is published of suites, named as by `board.suite_name`: results, and limits by name of task and device.

    A file that is not as the manifest has it is not published, and left out.
    """
    known = load(folder) or Manifest(FORMAT)
    sums, by_task = known.sums, groupby(sorted(known.results), key=lambda name: name.partition("/")[0])
    tasks = {task: [at for name in some if intact(at := folder / name, folder, sums)] for task, some in by_task}
    wanted = {task: some for task, some in tasks.items() if some and board.suite_name(store.load(some[0])) in suites}
    limits = [at for task in wanted if intact(at := folder / f"{task}.json", folder, sums)]
    return [store.load(at) for some in wanted.values() for at in some], {at.stem: store.load_limits(at) for at in limits}


def best(folder: Path, tasks: Mapping[str, str]) -> tuple[str, float] | None:
    """The published estimator that scores best on tasks, name -> digest, and its mean over seeds, then tasks; or None.

    It scores on every seed of all of them, is trusted, and is not the truth itself. Scores are those of the manifest.
    """
    means: dict[str, list[float]] = {}
    for name, one in (load(folder) or Manifest(FORMAT)).results.items():
        task, _, file = name.partition("/")
        scores = [score for score in one.scores.values() if score is not None]
        if tasks.get(task, "").startswith(one.task) and scores and len(scores) == len(one.scores):
            means.setdefault(file, []).append(fmean(scores))
    complete = [(fmean(some), file) for file, some in means.items() if len(some) == len(tasks)]
    order = [(score, file) for score, file in sorted(complete, reverse=True) if score <= rows.EXACT]
    found = ((score, [store.load(folder / task / file) for task in tasks]) for score, file in order)
    return next(((some[0].estimator.name, score) for score, some in found if all(one.trusted for one in some)), None)


# ---- what changed ----------------------------------------------------------------------------------------------------
def differences(before: Manifest | None, now: Manifest) -> list[str]:
    """What became of files without their folder's manifest, in lines: changed, added, deleted; nothing where it holds."""
    if before is None:
        return [f"{MANIFEST} is missing: run `loobench report --publish`"]
    known, found = before.sums, now.sums
    changes = {
        **dict.fromkeys(known.keys() - found.keys(), "was deleted"),
        **dict.fromkeys(found.keys() - known.keys(), "was added"),
        **{name: "was changed" for name in known.keys() & found.keys() if known[name] != found[name]},
    }
    advice = "restore it, or run `loobench report --publish`"
    lines = [f"{name} {what} without {MANIFEST}: {advice}" for name, what in sorted(changes.items())]
    stale = not lines and before != now
    return [f"{MANIFEST} says of files what they do not: run `loobench report --publish`"] if stale else lines


def silent(before: Manifest | None, now: Manifest) -> list[str]:
    """Published scores that changed while version, protocol and task stayed, in lines; nothing where none did."""
    old: Mapping[str, Published] = before.results if before else {}
    both = ((name, old[name], entry) for name, entry in now.results.items() if name in old)
    changed = ((name, [*changes(was, entry)]) for name, was, entry in both if same_version(was, entry))
    return [f"{name}: {'; '.join(said)}, but not the estimator's version: {ADVICE}" for name, said in changed if said]


def stale(found: Sequence[Result], limits: Iterable[Limits]) -> list[str]:
    """Results and limits of another protocol than this one, in lines: numbers that may not come out again."""
    old = [(f"{one.name} {one.estimator.name}", one.protocol) for one in found if one.protocol != PROTOCOL]
    old += [(f"the file of limits of {one.name}", one.protocol) for one in limits if one.protocol != PROTOCOL]
    return [f"{name} is stale: of protocol {protocol}, here is {PROTOCOL}: compute it again" for name, protocol in old]


def same_version(before: Published, now: Published) -> bool:
    """Whether two say that the same version of an estimator answered the same task under the same protocol."""
    return (before.version, before.task) == (now.version, now.task)


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
