"""A folder of results: a file for each task and estimator, and one of a task's limits, each written whole or not at all."""

import json
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.base.files import LOCKS, claimed, digest, json_digest, locked, read, sweep, write
from benchmark.base.places import MANIFEST
from benchmark.base.records import encode, values
from benchmark.scores.checks import Record, check
from benchmark.scores.placement import Held, expect_one_each, expect_places, json_files
from benchmark.scores.results import Limits, Result


@dataclass(frozen=True)
class Store:
    """A folder of results, in which each record has its place: results/<task>/<estimator>.json, limits results/<task>.json."""

    folder: Path

    def at(self, record: Result | Limits) -> Path:
        """The place of a record."""
        return self.folder / record.file

    def find(self, blank: Record) -> Record:
        """What is kept of a question: what its file has if that answers the same one, else `blank`. Raises DamagedFile."""
        found = parse(read(at), str(at), type(blank)) if (at := self.at(blank)).exists() else blank
        return found if found.same_question(blank) else blank

    def other(self, blank: Record) -> Path | None:
        """The file in a record's place where it answers another question. Raises DamagedFile."""
        return at if (at := self.at(blank)).exists() and self.find(blank) is blank else None

    def keep(self, record: Record) -> Path:
        """Write a record to its place, unless it is there. Raises LoobenchError, and Mismatch where it is not valid."""
        at, content = self.at(record), packed(record)
        if not at.exists() or read(at) != content:
            write(at, content)
        return at

    @contextmanager
    def lock(self, at: Path) -> Iterator[None]:
        """Hold the lock of a file of this folder: whatever reads, changes and writes it does so inside."""
        with locked(self.folder / LOCKS / f"{'--'.join(at.relative_to(self.folder).parts)}.lock"):
            sweep(at)
            yield

    def change(self, blank: Record, how: Callable[[Record], Record], aside: Callable[[Path], object]) -> Record:
        """Change what is kept of a question, under its lock; a file of another one is first set `aside`, which may raise."""
        with self.lock(self.at(blank)):
            known = self.find(blank)
            if (new := how(known)) != known:
                if at := self.other(blank):
                    aside(at)
                self.keep(new)
        return new

    def claim(self, blank: Result, seed: int, *, wait: bool) -> AbstractContextManager[bool]:
        """Claim a cell, so that no other run into this folder computes it too; whether it is ours."""
        name, what = blank.file.removesuffix(".json").replace("/", "--"), f"{blank.estimator.name} on {blank.task['name']}"
        return claimed(self.folder / LOCKS / f"{name}--{seed}.claim", f"{what}, seed {seed},", wait=wait)


def set_aside(at: Path, folder: Path, known: Container[str]) -> None:
    """Keep a file that is about to be written over in a folder. Raises LoobenchError where its digest is not a `known` one."""
    content = read(at)
    if digest(content) not in known:
        raise LoobenchError(
            f"{at} is of another version of its estimator or loobench by now: another run writes into the same results; give "
            "one of the two its own --results, then repeat"
        )
    write(folder / at.parent.name / f"{at.stem}-{digest(content)[:12]}.json", content)


# ---- one file --------------------------------------------------------------------------------------------------------
def packed(record: Record) -> bytes:
    """The content of a record's file, with its digest. Raises Mismatch where it is not valid."""
    content = encode(record)
    check(content, type(record))
    return dump({**content, "digest": json_digest(content)}).encode()


def load(at: Path) -> Result:
    """Read and check a result. Raises DamagedFile where it was cut, edited, or is of another schema."""
    return parse(read(at), str(at), Result)


def load_limits(at: Path) -> Limits:
    """Read and check the limits of a task, as `load` does a result."""
    return parse(read(at), str(at), Limits)


def parse(whole: bytes, name: str, kind: type[Record]) -> Record:
    """The bytes of a file as a record. Raises DamagedFile, which calls it `name`, as `load` does."""
    advice = "restore it (`git checkout` if committed) or move it away, then repeat `loobench run`"
    try:
        content = json.loads(whole, parse_constant=lambda name: name)
        stated = content.pop("digest", None) if isinstance(content, dict) else None
        found = json_digest(content)
        if isinstance(content, dict) and stated != found:
            raise DamagedFile(f"{name} was edited: its digest says {stated!s:.100}, its content has {found}; {advice}")
        json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair is no text, and no page could have it
        return check(content, kind)
    except (ValueError, RecursionError, OverflowError) as error:
        raise DamagedFile(f"{name} is not a valid result: {error!s:.500}; {advice}") from error


def dump(value: Any, depth: int = 3) -> str:
    """JSON with one line for each entry of the first `depth` levels: readable, and small differences stay small."""
    return _lines(value, depth, "") + "\n"


def _lines(value: Any, depth: int, indent: str) -> str:
    if not isinstance(value, dict) or not value or not depth:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    deeper = indent + " "
    entries = (f"{deeper}{json.dumps(key)}: {_lines(item, depth - 1, deeper)}" for key, item in value.items())
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


# ---- a whole folder --------------------------------------------------------------------------------------------------
def result_files(folder: Path) -> list[Path]:
    """The files of results under a folder, in order."""
    return json_files(folder, "*/*.json")


def limit_files(folder: Path) -> list[Path]:
    """The files of limits in a folder, in order."""
    return [at for at in json_files(folder, "*.json") if at.name != MANIFEST]


def load_all(folder: Path) -> list[Result]:
    """All results under a folder, in order of path; each must lie where its content says."""
    return _in_place(folder, result_files(folder), Result)


def all_limits(folder: Path) -> dict[str, Limits]:
    """All limits under a folder, by name of task and device; each must lie where its content says."""
    files = limit_files(folder)
    if copies := [at for at in files if at.name.startswith(Path(MANIFEST).stem)]:
        raise DamagedFile(f"{copies[0]} is a copy of {MANIFEST}, which `loobench report` writes: move it out of {folder}")
    return {one.name: one for one in _in_place(folder, files, Limits)}


def _in_place(folder: Path, files: list[Path], kind: type[Record]) -> list[Record]:
    found = [(at, parse(read(at), str(at), kind)) for at in files]
    expect_places([_held(at, one, folder) for at, one in found])
    return [one for _, one in found]


def refuse_copies(at: Path, result: Result, folder: Path) -> None:
    """Raise DamagedFile where other files of the folder's task hold the result, too, as a synchronising program leaves them."""
    found = [(at, result)]
    for other in json_files(folder / result.name, "*.json"):
        with suppress(DamagedFile):  # who reads that one will be told
            found += [(other, load(other))] * (other != at)
    expect_one_each(_held(at, one, folder) for at, one in found if one.file == result.file)


def _held(at: Path, one: Result | Limits, folder: Path) -> Held:
    seeds = "cells" if isinstance(one, Result) else "seeds"
    rest = {name: value for name, value in values(one).items() if name != seeds}
    return Held(at, folder / one.file, getattr(one, seeds), rest)
