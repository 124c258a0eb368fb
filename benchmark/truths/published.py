"""Truths as data: written into a data set, in a folder or on the Hub; and taken from one, after checks (docs/truths.md)."""

import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark import PROTOCOL
from benchmark.base import machine, places
from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.base.files import LOCKS, locked, write_sealed
from benchmark.base.records import encode
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.chunks import FREE, Means
from benchmark.tasks import data, hub
from benchmark.tasks.definition import AnyTask, record_digest
from benchmark.truths import layout, truth, vetting, workers
from benchmark.truths.counterfactuals import design
from benchmark.truths.download import fetch
from benchmark.truths.effects import GroundTruth
from benchmark.truths.layout import Entry, Facts, Index, Key
from benchmark.truths.truth import Bar, MakeBar

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Place:
    """Where a data set lies: a folder, or a repository of the Hub at a revision."""

    folder: Path | None
    repository: str = ""
    revision: str = ""


def place(named: str, *, taken: bool) -> Place:
    """What ``FOLDER``, or ``OWNER/NAME@REVISION`` of what is to be taken, ``OWNER/NAME`` of what is written, names."""
    if named.startswith((".", "/", "~")) or Path(named).is_dir():
        return Place(places.folder(named))
    name, _, revision = named.partition("@")
    if not REPOSITORY.fullmatch(name):
        raise LoobenchError(f"expected a data set of the Hub, OWNER/NAME, or a folder, as ./truths, got {named!a:.100}")
    if taken and not revision:
        raise LoobenchError(
            f"{name} needs a revision, as in {name}@COMMIT: what lies on the Hub can be exchanged, so that the same command "
            "would take another truth tomorrow; its history there has the commits"
        )
    if revision and not taken:
        raise LoobenchError(f"truths are added to the newest revision: write {name}, without @{revision}")
    return Place(None, name, revision)


# ---- to publish ------------------------------------------------------------------------------------------------------
def push(task: AnyTask, seed: int, run: Trajectory, exact: GroundTruth, named: str, device: str) -> list[str]:
    """Add a truth to a data set, with its reference run as checkpoints; what to say of it.

    Raises LoobenchError for a truth that was itself taken, one that nobody could check, and where nothing can be written.
    """
    where, what = place(named, taken=False), f"{task.name}, seed {seed}, {device}"
    if exact.origin:
        raise LoobenchError(f"the truth of {what} was taken from {exact.origin}, and is published there")
    vetting.check_noise(exact, f"the truth of {what}")

    def fill(folder: Path) -> None:
        _write(folder, task, seed, run, exact, device)

    if where.folder:
        with locked(where.folder / LOCKS / "index.lock"):
            fill(where.folder)
        return [f"wrote {where.folder / Key(task.digest(), seed, device).file}"]
    commit = _upload(where.repository, what, fill)
    return [f"pushed to {where.repository}; it is taken by --from-hub {where.repository}@{commit}"]


def _write(folder: Path, task: AnyTask, seed: int, run: Trajectory, exact: GroundTruth, device: str) -> None:
    """Write the files of a truth, and then the index that has them, once the run was found to repeat here."""
    index = layout.read_index(folder) if (folder / layout.INDEX).exists() else Index(layout.FORMAT, [])
    key, facts = Key(task.digest(), seed, device), _facts(task, seed, run, exact, device)
    shards = [folder / key.shard(k) for k in range(layout.write_states(run, lambda k: folder / key.shard(k)))]
    vetting.replay(run.problem, layout.read_states(shards, run.problem), exactly=device == "cpu")
    tensors = {name: getattr(exact, name) for name in truth.PARTS if getattr(exact, name) is not None}
    write_sealed(folder / key.file, {**tensors, "left_out": run.problem.left_out}, json.loads(json.dumps(encode(facts))))
    files = {at.relative_to(folder).as_posix(): layout.sha256(at) for at in (folder / key.file, *shards)}
    layout.write_index(index.with_truth(_entry(task, run, exact, facts, files)), folder)


def _facts(task: AnyTask, seed: int, run: Trajectory, exact: GroundTruth, device: str) -> Facts:
    return Facts(
        task=task.record(),
        task_digest=task.digest(),
        seed=seed,
        device=device,
        dtype=task.dtype,
        protocol=PROTOCOL,
        noise=exact.noise,
        limits=exact.limits,
        seconds=exact.seconds,
        runs=truth.planned(run.problem, FREE, exact.effect.shape[1] + 1).runs,
        made=machine.provenance("loobench truth --push", device, task.dtype),
        problem=run.problem.digest(),
        parts=vetting.parts(run.problem),
        trajectory=run.digest(),
        weight_decay=run.problem.weight_decay,
    )


def _entry(task: AnyTask, run: Trajectory, exact: GroundTruth, facts: Facts, files: dict[str, str]) -> Entry:
    """What the index says of a truth."""
    source = data.SOURCES.get(str(facts.task["dataset"]))
    names = ("task", "task_digest", "seed", "device", "dtype", "protocol", "noise", "made", "problem", "trajectory")
    return Entry(
        **{name: getattr(facts, name) for name in names},
        truth=exact.digest(),
        question=task.truth.kind,
        train=len(run.problem.train),
        asked=exact.effect.shape[1],
        queries=run.problem.queries,
        spread=[float(one.std()) for one in exact.effect],
        licence=source.licence if source else "unknown",
        seconds={f"{facts.made['device']} ({exact.machine})": exact.seconds},
        files=files,
    )


def _upload(repository: str, what: str, fill: Callable[[Path], None]) -> str:
    """Let `fill` add to the index, card and table of a data set of the Hub, and commit what is new; the commit.

    Refused by the Hub where somebody else has pushed meanwhile.
    """
    client = hub.client()
    api = client.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    with tempfile.TemporaryDirectory() as folder:
        try:
            api.create_repo(repository, repo_type="dataset", exist_ok=True)
            info = api.dataset_info(repository)
            there = {one.rfilename for one in info.siblings or ()}
            for name in sorted({layout.INDEX, layout.CARD, layout.TABLE} & there):
                api.hf_hub_download(repository, name, repo_type="dataset", revision=info.sha, local_dir=folder)
            fill(Path(folder))
            how = {"repo_type": "dataset", "commit_message": what, "parent_commit": info.sha, "ignore_patterns": [".cache/*"]}
            return str(api.upload_folder(repo_id=repository, folder_path=folder, **how).oid)
        except LoobenchError:
            raise
        except Exception as error:  # the client raises whatever its transport raises
            raise LoobenchError(
                f"cannot push to {repository}: {hub.brief(error)}; nothing was changed there. `hf auth login` gives a token "
                "that may write; --push ./FOLDER needs none"
            ) from error


# ---- to take ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Taken:
    """A published truth that was checked, with its run, and what to say of it."""

    run: Trajectory
    truth: GroundTruth
    said: list[str]


def take(
    task: AnyTask,
    seed: int,
    named: str,
    cache: Path,
    device: str,
    bar: MakeBar,
    means: Means = FREE,
    *,
    spots: int = 3,
    nonce: int | None = None,
) -> Taken:
    """Take a published truth into the cache, so that `truth.answer` gives it, and its run.

    Which samples are trained without here, the `nonce` decides, by default a random one. Times are from these, scaled to all.
    Raises LoobenchError where anything does not hold; nothing is then kept.
    """
    where, nonce = place(named, taken=True), secrets.randbits(64) if nonce is None else nonce
    if spots < 1:
        raise LoobenchError(f"--spot takes 1 or more samples to train without, got {spots}: effects are not taken unseen")
    problem = truth.fitted(task, seed, cache, device, means)
    with _at_hand(where, task, seed, device, cache) as files:
        tensors, facts = layout.read_facts(files.folder / files.entry.key.file, files.entry)
        exactly = vetting.same_bits(facts.made, device)
        vetting.check_problem(problem, facts, exactly=exactly)
        states = layout.read_states(files.shards, problem)
        off = vetting.replay(problem, states, exactly=exactly, floor=layout.worst(facts.noise) or 0.0)
        run, found = states.run(problem, means), _truth(tensors, facts, files.origin)
        asked = design(task, run, seed)
        vetting.check_effects(found, tensors["left_out"], run, asked)
        vetting.check_noise(found, files.origin)
        seen = vetting.check_spots(found, run, asked, means, _shown(bar, task, seed), spots=spots, nonce=nonce)
        found = vetting.timed(found, seen, asked, run, device)
        stored = _keep(task, seed, run, found, files.shards, cache, device)
    bits = "bit for bit" if exactly else f"within {off:.1e} of their norm"
    whole = f"checked: {len(files.entry.files)} files, the problem, and {len(states.steps)} states replayed {bits}"
    note = [] if stored else ["the cache has this truth computed here: that one stays in use"]
    return Taken(run, found, [whole, f"checked: {seen}", *note])


def _shown(bar: MakeBar, task: AnyTask, seed: int) -> Callable[[int], Bar]:
    return lambda visits: bar(visits, f"spot check {task.name} seed {seed}", "visit")


def _truth(tensors: dict[str, Tensor], facts: Facts, origin: str) -> GroundTruth:
    """A truth as it was published, not timed."""
    effects: dict[str, Any] = {name: tensors[name] for name in truth.PARTS if name in tensors}
    return GroundTruth(**effects, seconds=0.0, gradients=0, noise=facts.noise, limits=facts.limits, origin=origin)


@dataclass(frozen=True)
class Files:
    """The files of a truth, each as the index says; what that says of it; and where it is from."""

    folder: Path
    entry: Entry
    origin: str

    @property
    def shards(self) -> list[Path]:
        """Those of its reference run."""
        return [self.folder / name for name in _shards(self.entry)]


@contextmanager
def _at_hand(where: Place, task: AnyTask, seed: int, device: str, cache: Path) -> Iterator[Files]:
    """The files of a truth, fetched where they are on the Hub. Raises DamagedFile where one is not as the index says."""
    if where.folder:
        index = layout.read_index(where.folder)
        entry = found_in(index, where.folder, task, seed, device)
        layout.checked(where.folder, {**index.files, **entry.files}, _names(entry))
        yield Files(where.folder, entry, f"folder@{layout.sha256(where.folder / layout.INDEX)[:16]}")
        return
    (downloads := cache / "downloads").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=downloads) as name:
        first, rest = Path(name, "index"), Path(name, "files")
        commit = fetch(where.repository, where.revision, [layout.INDEX], first)
        index = layout.read_index(first)
        entry = found_in(index, where.repository, task, seed, device)
        fetch(where.repository, commit, _names(entry), rest)
        layout.checked(rest, {**index.files, **entry.files}, _names(entry))
        yield Files(rest, entry, f"{where.repository}@{commit}")


def _shards(entry: Entry) -> list[str]:
    return [entry.key.shard(k) for k in range(len(entry.files) - 1)]


def _names(entry: Entry) -> list[str]:
    """The files of a truth, card and table included. Raises DamagedFile where the index names others."""
    expected = [entry.key.file, *_shards(entry)]
    if {*expected} != entry.files.keys():
        raise DamagedFile(f"{layout.INDEX} names other files than {entry.key.file} and its states: take the data set anew")
    return [layout.CARD, layout.TABLE, *expected]


def found_in(index: Index, where: object, task: AnyTask, seed: int, device: str) -> Entry:
    """What an index says of a truth. Raises LoobenchError where it has none, with what there is instead."""
    wanted, what = Key(task.digest(), seed, device), f"the truth of {task.name}, seed {seed}, {device}, {task.dtype}"
    entry = next((one for one in index.truths if one.key == wanted), None)
    if entry is None:
        raise LoobenchError(f"{where} lacks {what}, protocol {PROTOCOL}: {_instead(index, task)}")
    if record_digest(entry.task, entry.protocol) != entry.task_digest or entry.dtype != task.dtype:
        raise DamagedFile(f"{where}: the record of {what} is not that of its digest: take the data set anew")
    return entry


def _instead(index: Index, task: AnyTask) -> str:
    """What an index has of the same task; else of which tasks it has something."""
    record = _nameless(json.loads(json.dumps(task.record())))
    same = [one for one in index.truths if _nameless(one.task) == record]
    if same:
        listed = [f"seed {one.seed}, {one.device}, {one.dtype}, protocol {one.protocol}" for one in same]
        return f"of this task it has {'; '.join(listed)} (--seed, --device and --dtype choose)"
    names = sorted({str(one.task.get("name")) for one in index.truths})
    return f"it has {', '.join(names)}" if names else "it has none at all"


def _nameless(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a task without its name and precision; that of a person's own task has its name as the subset, too."""
    own = {"subset"} if record.get("dataset") == "own" else set()
    return {name: value for name, value in record.items() if name not in {"name", "suite", "dtype", *own}}


def _keep(task: AnyTask, seed: int, run: Trajectory, found: GroundTruth, shards: list[Path], cache: Path, device: str) -> bool:
    """Put a truth and its run into the cache; whether it is there now: one that was computed here stays."""
    at = truth.path(task.digest(), seed, cache, device)
    with truth.computing(task, seed, cache, device):
        before = workers.known(at, {}, "truth")
        if before and not before[1].get("origin"):
            return False
        at.unlink(missing_ok=True)  # first: a truth is never beside the run of another
        workers.clear(folder := at.with_suffix(".states"))
        folder.mkdir(parents=True)
        for number, shard in enumerate(shards):
            shutil.copyfile(shard, folder / f"states-{number}.safetensors")
        truth.adopt(task, seed, run, found, cache, device)
    return True
