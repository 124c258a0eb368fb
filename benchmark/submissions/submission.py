"""A submission written: the results of a file, what is claimed of them, and the bundle that both are sent in (bundle.py)."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark import PROTOCOL
from benchmark.base import machine
from benchmark.base.errors import LoobenchError
from benchmark.base.files import read as contents
from benchmark.base.files import sha256, unix
from benchmark.base.files import write as put
from benchmark.base.places import ROOT
from benchmark.core.registry import sources
from benchmark.core.syntax import source_digest
from benchmark.scores import results, store
from benchmark.scores.results import Claim, Result
from benchmark.submissions.bundle import FORMAT, MANIFEST, SOURCE, Bundle, expect_layout, read, value
from benchmark.tasks import suites


def write(names: Sequence[str], folder: Path, source: Path, out: Path, by: str) -> Bundle:
    """The bundle of some estimators of one file, from their results in `folder`, as `out`/<name of the file>.

    All of suite `core` must be there; what else there is of this file and this loobench comes along. Each result
    gets its claim: `value`, by whom, when and where. Cells that failed are allowed and shown.
    Raises LoobenchError where a task or seed of the suite is missing, where results are of another source than the file or of
    another version of loobench, where no cell is scored, and for a file name that is taken.
    """
    content = unix(contents(source))
    _check_source(source)
    found = [_own(name, task, folder, source_digest(content)) for name in names for task in suites.CORE.tasks]
    found += [result for name in names for result in _others(name, folder, source_digest(content))]
    claimed = [claim(result, by) for result in found]
    files = {f"results/{one.file}": store.packed(one) for one in claimed}
    bundle = pack(f"estimators/{source.name}", content, files, out)
    refuse_incomplete(bundle)
    return bundle


def claim(result: Result, by: str) -> Result:
    """The result with the claim that `by` makes now on this machine, and without any verification."""
    facts = machine.provenance("", "cpu", "float64")
    environment = f"{facts['system']}, {facts['device']}, Python {facts['python']}, torch {facts['torch']}"
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(result, claimed=Claim(value(result), by, when, environment), verified=None)


def pack(name: str, source: bytes, files: Mapping[str, bytes], out: Path) -> Bundle:
    """Write a bundle from the contents of its files, read it back as a stranger's, and put it in place of an older one.

    `name` is that of the source file in the bundle, whose own name the bundle gets. Raises LoobenchError as `read` does, and
    where something else lies in its place; nothing is left then.
    """
    folder = out / Path(name).stem.replace("_", "-")
    if folder.is_symlink() or (folder.exists() and not (folder / MANIFEST).is_file()):
        raise LoobenchError(f"{folder} is there and is no bundle: move it away, or choose another folder by --out")
    beside = out / f".{folder.name}-{os.getpid()}"
    try:
        _write_files(beside, name, {name: source, **files})
        read(beside)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    except OSError as error:
        raise LoobenchError(f"cannot write {folder}: {error.strerror or error}; choose another folder by --out") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return read(folder)


def _write_files(folder: Path, name: str, files: Mapping[str, bytes]) -> None:
    hashes = {path: sha256(content) for path, content in sorted(files.items())}
    manifest = {"format": FORMAT, "estimator file": name, "files": hashes}
    for path, content in files.items():
        expect_layout(path)
        put(folder / path, content)
    put(folder / MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")


def _check_source(source: Path) -> None:
    """Raise LoobenchError where a file cannot go into the folder `estimators` under its name."""
    name = f"estimators/{source.name}"
    if not SOURCE.fullmatch(name):
        raise LoobenchError(f"{source.name!a}: a submitted file is named as a module, as my_estimator.py: rename it")
    known = {path for path in sources().values() if path.startswith("estimators/")}
    registered = ROOT / name
    if name in known and source.resolve() != registered:
        raise LoobenchError(f"{name} is another estimator's file: rename {source.name}")


def _own(name: str, task: Any, folder: Path, source: str) -> Result:
    """The result of one's own estimator on a task of the suite `core`, complete and of this source and loobench."""
    again = f"`loobench run --suite core --estimator` {name} computes what is missing"
    at = folder / task.name / results.file_name(name)
    if not at.exists():
        raise LoobenchError(f"a submission needs all tasks of suite core; {at} is not there: {again}")
    found = store.load(at)
    store.refuse_copies(at, found, folder)
    if found.estimator.source != source:
        raise LoobenchError(f"{at} was computed by another version of the file: {again}")
    if (found.task_digest, found.protocol) != (task.digest(), PROTOCOL):
        raise LoobenchError(f"{at} was computed by another version of loobench: {again}")
    if lacking := [str(seed) for seed in range(suites.CORE.seeds) if str(seed) not in found.cells]:
        raise LoobenchError(
            f"a submission needs seeds 0 to {suites.CORE.seeds - 1}; {at} lacks seed {', '.join(lacking)}: {again}"
        )
    return found


def _others(name: str, folder: Path, source: str) -> Iterator[Result]:
    """One's own results on tasks of other suites, of this source and loobench."""
    others = [task for task in suites.TASKS.values() if task not in suites.CORE.tasks]
    places = [(task, folder / task.name / results.file_name(name)) for task in others]
    for task, at, found in ((task, at, store.load(at)) for task, at in places if at.exists()):
        if (found.estimator.source, found.task_digest, found.protocol) == (source, task.digest(), PROTOCOL):
            store.refuse_copies(at, found, folder)
            yield found


def refuse_incomplete(bundle: Bundle) -> None:
    """Raise LoobenchError where an estimator lacks a task or seed of suite `core`, or has no scored cell at all."""
    for name in bundle.names:
        mine = [result for result in bundle.results if result.estimator.name == name]
        cells = {(result.name, seed): cell for result in mine for seed, cell in result.cells.items()}
        wanted = [(task.name, str(seed)) for task in suites.CORE.tasks for seed in range(suites.CORE.seeds)]
        if lacking := [f"{task} seed {seed}" for task, seed in wanted if (task, seed) not in cells]:
            some = ", ".join(lacking[:3])
            raise LoobenchError(
                f"{name} lacks {len(lacking)} of {len(wanted)} cells of suite core, as {some}: "
                "a submission has all; run `loobench run --suite core`"
            )
        if not any(cell.status == "ok" for cell in cells.values()):
            raise LoobenchError(f"{name} has no scored cell: a submission needs one task at least that it answers")
