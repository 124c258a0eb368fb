"""One truth by many workers: whose turn each chunk is, the files that they share, who is at it, and the run they start from."""

import json
import os
import secrets
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Event, Thread
from typing import Any

from torch import Tensor

import benchmark
from benchmark.base import machine
from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.base.files import SILENCE, json_digest, read_sealed, write, write_sealed
from benchmark.base.streams import stream
from benchmark.core.problem import Problem
from benchmark.core.trajectory import Replay, Trajectory, between, replayed
from benchmark.retraining import chunks
from benchmark.retraining.chunks import MIB, Means
from benchmark.retraining.train import Clock, held

FEW = 256 * MIB  # of states of a reference run, which are all written where they take no more; else checkpoints
Sealed = tuple[dict[str, Tensor], dict[str, Any]]  # tensors and facts of a file of the cache


# ---- parts -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Part:
    """The `number`-th of so many workers, counted from 1."""

    number: int = 1
    of: int = 1

    def order(self, count: int) -> list[int]:
        """Numbers from 0 to `count`: its own first, each `of`-th, then all others in an order that no other worker has."""
        mine, others = range(self.number - 1, count, self.of), [i for i in range(count) if i % self.of != self.number - 1]
        return [*mine, *(others[i] for i in stream("workers", self.number).permutation(len(others)))]

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


ALONE = Part()
LAUNCHERS = (  # variables that tell a worker its number and how many there are; and the first number
    ("RANK", "WORLD_SIZE", "0"),  # torchrun
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("SLURM_PROCID", "SLURM_NTASKS", "0"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "0"),
)


def part(text: str, environment: Mapping[str, str]) -> Part:
    """The part that ``NUMBER/OF`` names, or the variables of a launcher for ``auto``. Raises LoobenchError for all else."""
    if text == "auto":
        return _launched(environment)
    number, _, of = text.partition("/")
    if not (_count(number) and _count(of) and 1 <= int(number) <= int(of)):
        raise LoobenchError(f"--part takes NUMBER/OF, as in 3/16, from 1/16 to 16/16, or auto; got {text!r:.60}")
    return Part(int(number), int(of))


def _count(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def _launched(environment: Mapping[str, str]) -> Part:
    for number, of, first in LAUNCHERS:
        if number in environment and of in environment:
            begins = first if first == "0" else environment.get(first, "0")
            step = environment.get("SLURM_ARRAY_TASK_STEP", "1") if number.endswith("_TASK_ID") else "1"
            return _numbered(environment[number], begins, step, environment[of])
    known = ", ".join(f"{number} and {of}" for number, of, _ in LAUNCHERS)
    raise LoobenchError(f"--part auto needs the variables of a launcher ({known}), and none is set: write --part NUMBER/OF")


def _numbered(number: str, first: str, step: str, of: str) -> Part:
    """The part of a launcher's number. Raises LoobenchError where that is out of range."""
    if all(map(_count, (number, first, step, of))):
        place = (int(number) - int(first)) / max(1, int(step))
        if place.is_integer() and 0 <= place < int(of):
            return Part(int(place) + 1, int(of))
    raise LoobenchError(f"--part auto: the launcher says number {number!r} from {first!r} on of {of!r}: write --part NUMBER/OF")


# ---- files that all workers see --------------------------------------------------------------------------------------
def known(at: Path, expected: dict[str, Any], what: str) -> Sealed | None:
    """Tensors and facts of a sealed file; None where it is absent or, said aloud, damaged or without the `expected` facts."""
    try:
        return read_sealed(at, expected) if at.exists() else None
    except DamagedFile as error:
        print(f"warning: a kept {what} is damaged and is computed anew: {error}", file=sys.stderr)
    except LoobenchError:
        if at.exists():  # another worker has not removed it just now
            raise
    return None


class ChunkFiles(Clock):
    """A ledger of finished chunks in a folder, one sealed file each, for one trajectory.

    `of` names all that decides their numbers. The machine that trained a chunk and its time are facts in the file. The clock's
    `seconds` and `visits` are those of this machine's chunks, whichever process trained them; those of others are apart.
    """

    def __init__(self, folder: Path, of: str, here: str, part: Part = ALONE) -> None:
        super().__init__()
        self.folder, self.of, self.here, self.part = folder, of, here, part
        self.others: dict[str, tuple[float, int]] = {}  # by machine: seconds and visits
        self.trained = self.found = 0  # chunks

    def order(self, chunks: int) -> Sequence[int]:
        """The worker's own chunks first."""
        return self.part.order(chunks)

    def find(self, rows: Tensor) -> Tensor | None:
        """What was read from the runs `rows`; None where it was not kept or, said aloud, its file is damaged."""
        found = known(self._at(rows), {"of": self.of, "rows": rows.tolist()}, "chunk of a truth")
        if not found:
            return None
        tensors, facts = found
        self._note(facts["machine"], facts["seconds"], facts["visits"])
        self.found += 1
        return tensors["effect"]

    def enter(self, rows: Tensor, reading: Tensor, seconds: float, visits: int) -> None:
        """Keep what was read from the runs `rows`, trained here."""
        self.put(rows, reading, self.here, seconds, visits)

    def put(self, rows: Tensor, reading: Tensor, where: str, seconds: float, visits: int) -> None:
        """Keep what was read from the runs `rows`, trained on some machine."""
        spent = {"machine": where, "seconds": seconds, "visits": visits}
        write_sealed(self._at(rows), {"effect": reading}, {"of": self.of, "rows": rows.tolist(), **spent})
        self._note(where, seconds, visits)
        self.trained += 1

    def _note(self, where: str, seconds: float, visits: int) -> None:
        with self.lock:
            if where == self.here:
                self.seconds, self.visits = self.seconds + seconds, self.visits + visits
            else:
                before = self.others.get(where, (0.0, 0))
                self.others[where] = before[0] + seconds, before[1] + visits

    def _at(self, rows: Tensor) -> Path:
        return self.folder / f"{json_digest([self.of, rows.tolist()])}.safetensors"


class Figures:
    """Figures of a truth in a folder, a sealed file each: JSON values by name, each computed where no worker has yet."""

    def __init__(self, folder: Path, of: str, here: str, part: Part = ALONE) -> None:
        self.folder, self.of, self.here, self.part = folder, of, here, part

    def __call__(self, makers: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        """The value of each name, computed by its function where it is not kept: the worker's own first."""
        names = [*makers]
        found = {names[i]: self._kept(names[i], makers[names[i]]) for i in self.part.order(len(names))}
        return {name: found[name] for name in names}

    def ledger(self, name: str) -> ChunkFiles:
        """The finished chunks of a figure's training, which workers share too."""
        return ChunkFiles(self.folder, json_digest([self.of, name, "chunks"]), self.here, self.part)

    def has(self, name: str) -> bool:
        """Whether a figure is kept."""
        return self._at(name).exists()

    def put(self, name: str, value: Any) -> None:
        """Keep a figure."""
        write_sealed(self._at(name), {}, {"of": self.of, "figure": name, "value": value})

    def _kept(self, name: str, make: Callable[[], Any]) -> Any:
        if found := known(self._at(name), {"of": self.of, "figure": name}, "figure of a truth"):
            return found[1]["value"]
        self.put(name, value := make())
        return value

    def _at(self, name: str) -> Path:
        return self.folder / f"{json_digest([self.of, name])}.safetensors"


def clear(folder: Path) -> None:
    """Remove a folder of finished chunks, once what they were for is kept."""
    with suppress(OSError):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


# ---- who is at it ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Peer:
    """A worker at a truth, as its file says; `trajectory` is the digest of the reference run that it starts from."""

    host: str
    process: int
    part: str
    loobench: str
    protocol: str
    harness: str
    trajectory: str = ""

    def __str__(self) -> str:
        return f"part {self.part}, process {self.process} on {self.host!a}"


class Presence:
    """A file that says that this process is at a truth, touched as long as it is; and those of the others."""

    def __init__(self, folder: Path, part: Part, me: Peer) -> None:
        self.at, self.part, self.me = folder / f"{secrets.token_hex(8)}.worker", part, me

    def tell(self, trajectory: str) -> None:
        """Say which reference run this worker starts from."""
        self.me = replace(self.me, trajectory=trajectory)
        self.sign()

    def sign(self) -> None:
        """Write the file."""
        write(self.at, json.dumps(asdict(self.me)).encode())

    def touch(self) -> None:
        """A sign of life."""
        with suppress(OSError):
            os.utime(self.at)

    def others(self) -> list[Peer]:
        """All others that gave a sign of life of late, by the clock of the disk."""
        self.touch()
        with suppress(OSError):
            now = self.at.stat().st_mtime
            found = (_peer(file, now) for file in sorted(self.at.parent.glob("*.worker")) if file != self.at)
            return [peer for peer in found if peer]
        return []


def _peer(file: Path, now: float) -> Peer | None:
    """Who wrote a file; None where they were silent for long, and the file is then removed once they are long gone."""
    with suppress(OSError, ValueError, TypeError):
        silent = now - file.stat().st_mtime
        if silent < SILENCE:
            return Peer(**json.loads(file.read_bytes()))
        if silent > 100 * SILENCE:
            file.unlink(missing_ok=True)
    return None


@contextmanager
def present(folder: Path, part: Part) -> Iterator[Presence]:
    """Say in a folder, as long as the block lasts, that this process is at the truth that the folder is for."""
    host, process = socket.gethostname(), os.getpid()
    me = Peer(host, process, str(part), benchmark.__version__, benchmark.PROTOCOL, machine.harness())
    presence, ended = Presence(folder, part, me), Event()
    presence.sign()
    thread = Thread(target=_living, args=(presence, ended), daemon=True)
    thread.start()
    try:
        yield presence
    finally:
        ended.set()
        thread.join()
        presence.at.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()  # the last one leaves


def _living(presence: Presence, ended: Event) -> None:
    while not ended.wait(SILENCE / 3):
        presence.touch()


def agreed(presence: Presence, what: str, at: Path) -> None:
    """Look at who else is at a truth, and say where some are of another version.

    Raises LoobenchError where another worker, or the file `at` of the reference run, has another run than this one starts from.
    """
    for peer in presence.others():
        if peer.protocol != presence.me.protocol:
            _tell_once(
                f"{peer} is at {what} too, by protocol {peer.protocol} (loobench {peer.loobench}), this one by "
                f"{presence.me.protocol}: that is another truth, and none of its chunks are taken"
            )
        elif peer.trajectory not in ("", presence.me.trajectory):
            raise _differ(what, presence.me.trajectory, peer.trajectory, str(peer), at)
        elif peer.harness != presence.me.harness:
            _tell_once(
                f"{peer} is at {what} too, by other sources of this protocol (harness {peer.harness}): chunks are shared"
            )
    if (stated := stated_digest(at)) not in (None, presence.me.trajectory):
        raise _differ(what, presence.me.trajectory, str(stated), str(at), at)


_told: set[str] = set()


def _tell_once(text: str) -> None:
    if text not in _told:
        _told.add(text)
        chunks.tell(text)


def _differ(what: str, mine: str, other: str, whose: str, at: Path) -> LoobenchError:
    return LoobenchError(
        f"two reference runs of {what} differ: digest {mine[:12]} here, {other[:12]} of {whose}; their chunks do not belong "
        f"together: end all workers, delete {at} and {at.with_suffix('.chunks')}, and start them again"
    )


# ---- the reference run -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Reference:
    """A reference run, and the digest of its states where it was trained.

    On another processor, states that are computed again between checkpoints may have other last bits.
    """

    run: Trajectory
    digest: str

    @cached_property
    def problem(self) -> str:
        """The digest of its problem, which is read whole for it."""
        return self.run.problem.digest()


def checkpoints(run: Trajectory) -> Trajectory:
    """A run with all of its states where they are few, else with every so many, about as many as there are between two."""
    problem, states = run.problem, run.states
    if isinstance(states, Replay) or states.nbytes <= FEW:
        return run
    every = between(problem.steps)
    return replace(run, states=replayed(problem, states[::every].clone(), every).states)


def keep_reference(at: Path, reference: Reference) -> None:
    """Write a reference run, as checkpoints where its states are many."""
    states = checkpoints(reference.run).states
    kept, every = (states.kept, states.every) if isinstance(states, Replay) else (states, 1)
    facts = {"problem": reference.problem, "trajectory": reference.digest, "every": every}
    write_sealed(at, {"states": kept}, facts)


def kept_reference(at: Path, problem: Problem, means: Means) -> Reference | None:
    """A reference run that was written; None where it is absent or, said aloud, damaged.

    Raises LoobenchError where it is of another problem.
    """
    found = known(at, {}, "reference run")
    if not found:
        return None
    tensors, facts = found
    if facts["problem"] != (mine := problem.digest()):
        raise LoobenchError(
            f"the reference run in {at} is of another problem (digest {facts['problem'][:12]}) than this worker has "
            f"({mine[:12]}): all workers need the same versions of loobench and its libraries; else delete the file and repeat"
        )
    return Reference(_read(problem, tensors["states"].to(problem.initial.device), facts["every"], means), facts["trajectory"])


def _read(problem: Problem, kept: Tensor, every: int, means: Means) -> Trajectory:
    """The run of states that were kept, with as many of them held as the memory allows."""
    step = chunks.spacing(problem, means) if every == 1 else every
    return held(replayed(problem, kept if step == every else kept[::step].clone(), step), means)


def stated_digest(at: Path) -> str | None:
    """The digest of the run that a file holds, as it says itself; None where there is none, or it cannot be read."""
    with suppress(OSError, ValueError, KeyError, struct.error), at.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return str(json.loads(json.loads(file.read(size))["__metadata__"]["trajectory"]))
    return None
