"""A data set of truths: its files, the index of them, and the reference run as checkpoints (docs/truths.md)."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.base.files import json_digest, read, read_sealed, tensor_digest, write, write_sealed
from benchmark.base.records import Mismatch, decode, encode
from benchmark.core.problem import Problem
from benchmark.core.trajectory import Trajectory, between, replayed
from benchmark.retraining.chunks import Means
from benchmark.retraining.train import held
from benchmark.truths.effects import Noise, largest

FORMAT = 1
INDEX, TABLE, CARD = "index.json", "truths.jsonl", "README.md"
SHARD = 4 * 2**30  # bytes of states in a file; the Hub takes 5 GB
CARD_TEXT = """\
---
license: cc-by-4.0
tags: [training-data-attribution, influence-functions, leave-one-out]
configs:
- config_name: truths
  data_files: {table}
---
# Exact effects of training samples

What really happens to the query losses of a model that is trained again without a sample, or without a group of samples,
and the reference run that this is about, as checkpoints. Written by loobench (`loobench truth TASK --push`), and checked and
taken by `loobench truth TASK --from-hub OWNER/NAME@COMMIT`. `{table}` lists the truths:

    import datasets
    print(datasets.load_dataset("OWNER/NAME", revision="COMMIT", split="train").to_pandas())

Effects are in `truths/<task digest>/seed-<seed>-<device>.safetensors`: `effect (H, M, Q)` is the loss of query q without the
m-th sample, or group, minus the loss with it, after each of H horizons. `{index}` has the SHA-256 of each file.

**Licence.** The numbers: CC BY 4.0, unless this card is changed to say another. No row of a data set is in here; the licence
of the data that the models were trained on is in the column `data_licence`.

**Citation.** Cite this data set with its commit, and the benchmark:

    @misc{{loobench, title = {{loobench: reproducible benchmarks of training-data influence against exact leave-one-out
      retraining}}, author = {{{{The loobench authors}}}}, year = {{2026}}}}
"""


# ---- names -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Key:
    """What names a truth in a data set; the digest of the task has its precision and the protocol."""

    task_digest: str
    seed: int
    device: str

    @property
    def file(self) -> str:
        """The file of its effects."""
        return f"{self._stem}.safetensors"

    def shard(self, number: int) -> str:
        """A file of its reference run."""
        return f"{self._stem}/states-{number}.safetensors"

    @property
    def _stem(self) -> str:
        return f"truths/{self.task_digest}/seed-{self.seed}-{self.device}"


# ---- the index ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Entry:
    """What the index says of a truth."""

    task: dict[str, Any]  # its record
    task_digest: str
    seed: int
    device: str  # cpu or cuda
    dtype: str
    protocol: str
    question: str
    train: int  # N
    asked: int  # K left-out samples, or M groups
    queries: int  # Q
    problem: str  # digests of the problem, the states of the reference run, and the effects
    trajectory: str
    truth: str
    noise: Noise | None
    spread: list[float]  # standard deviation of the effects at each horizon
    licence: str  # of the data that the model was trained on
    seconds: dict[str, float]  # that the truth took, by machine
    made: dict[str, Any]  # versions, device and instructions of the machine that published it
    files: dict[str, str]  # SHA-256 of each

    @property
    def key(self) -> Key:
        """What names it."""
        return Key(self.task_digest, self.seed, self.device)

    def row(self) -> dict[str, Any]:
        """A row of the table, of plain values."""
        names = ("name", "suite", "model", "dataset")
        plain = ("seed", "device", "dtype", "protocol", "question", "train", "asked", "queries", "spread")
        return {
            **{("task" if name == "name" else name): str(self.task.get(name, "")) for name in names},
            **{name: getattr(self, name) for name in plain},
            "horizons": self.task.get("horizons"),
            "noise": worst(self.noise),
            "seconds": min(self.seconds.values(), default=None),
            "data_licence": self.licence,
            "file": self.key.file,
            "sha256": self.files.get(self.key.file),
            "task_digest": self.task_digest,
        }


@dataclass(frozen=True)
class Facts:
    """What the file of a truth says of its effects, beside its seal."""

    task: dict[str, Any]
    task_digest: str
    seed: int
    device: str
    dtype: str
    protocol: str
    noise: Noise | None
    limits: dict[str, list[float | None]]
    seconds: float
    runs: int  # trained at once
    made: dict[str, Any]
    problem: str  # digests: of the problem, of each of its parts, of the states of its run
    parts: dict[str, str]
    trajectory: str
    weight_decay: float


def worst(noise: Noise | None) -> float | None:
    """The larger of the stated noise floors, over the spread of the effects; None where there is none."""
    return largest((noise.repeat, noise.float64) if noise else ())


@dataclass(frozen=True)
class Index:
    """What is in a data set of truths."""

    format: int
    truths: list[Entry]
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 of the card and the table

    def with_truth(self, entry: Entry) -> "Index":
        """The index with a truth in the place of one of the same key; seconds of other machines stay."""
        before = [one for one in self.truths if one.key == entry.key]
        same = before and before[0].truth == entry.truth
        entry = replace(entry, seconds={**(before[0].seconds if same else {}), **entry.seconds})
        rest = [one for one in self.truths if one.key != entry.key]
        return replace(self, truths=sorted([*rest, entry], key=lambda one: (one.task_digest, one.seed, one.device)))

    def table(self) -> bytes:
        """The truths as JSON lines."""
        return "".join(json.dumps(one.row()) + "\n" for one in self.truths).encode()


def sha256(at: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    with at.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_index(index: Index, folder: Path) -> None:
    """Write the table, the card where there is none, and then the index of all. A card that a person changed stays."""
    write(folder / TABLE, index.table())
    if not (folder / CARD).exists():
        write(folder / CARD, CARD_TEXT.format(table=TABLE, index=INDEX).encode())
    content = {**encode(index), "files": {name: sha256(folder / name) for name in (CARD, TABLE)}}
    content = json.loads(json.dumps(content))
    write(folder / INDEX, (json.dumps({**content, "digest": json_digest(content)}, indent=1) + "\n").encode())


def read_index(folder: Path) -> Index:
    """The index of a data set. Raises DamagedFile where it is not as it was written, LoobenchError where there is none."""
    at = folder / INDEX
    if not at.is_file():
        raise LoobenchError(f"{folder} is no data set of truths: it has no {INDEX}; write one by `loobench truth TASK --push`")
    try:
        content = json.loads(read(at))
        stated = content.pop("digest", None)
        if stated != (found := json_digest(content)):
            raise DamagedFile(f"{at}: expected digest {stated!a:.80}, got {found}; take the data set anew")
        if content.get("format") != FORMAT:
            raise LoobenchError(f"{at}: expected format {FORMAT}, got {content.get('format')!a:.40}; update loobench")
        index: Index = decode(Index, content, INDEX)
    except (ValueError, AttributeError, RecursionError, Mismatch) as error:
        raise DamagedFile(f"{at} is no index of truths: {error}; take the data set anew") from error
    return index


def checked(folder: Path, files: Mapping[str, str], names: Iterable[str]) -> None:
    """Raise DamagedFile where one of some files is not there, or not what the index says."""
    for name in names:
        found = sha256(folder / name) if (folder / name).is_file() else "no file"
        if found != files.get(name):
            raise DamagedFile(
                f"{name}: the index has SHA-256 {files.get(name, 'none')}, got {found}: it was damaged or changed on its way, "
                "or after it was published; take it again, or ask who published it"
            )


# ---- the reference run -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Checkpoints:
    """Some states of a run: those every so many steps, those at horizons, and the last."""

    steps: tuple[int, ...]  # C numbers of steps, rising from 0
    states: Tensor  # (C, S, P)
    every: int

    def run(self, problem: Problem, means: Means) -> Trajectory:
        """The run they are of, with states between computed again; all held where the memory allows that."""
        grid = torch.tensor([self.steps.index(t) for t in range(0, problem.steps + 1, self.every)])
        kept = self.states[grid].to(problem.initial.device)
        return held(replayed(problem, kept, self.every), means)


def chosen(problem: Problem) -> tuple[int, tuple[int, ...]]:
    """How many steps lie between checkpoints, about sqrt(T), and after which steps there is one."""
    every = between(problem.steps)
    return every, tuple(sorted({*range(0, problem.steps + 1, every), *problem.horizons, problem.steps}))


def write_states(run: Trajectory, place: Callable[[int], Path]) -> int:
    """Write the checkpoints of a run into files, of which ``place(k)`` is the k-th; how many."""
    every, steps = chosen(run.problem)
    most = max(1, SHARD // (run.states[0].nbytes))
    parts = [steps[start : start + most] for start in range(0, len(steps), most)]
    for number, part in enumerate(parts):
        states = torch.stack([run.states[t] for t in part])
        write_sealed(place(number), {"states": states}, {"steps": list(part), "every": every})
    return len(parts)


def read_facts(at: Path, entry: Entry) -> tuple[dict[str, Tensor], Facts]:
    """Tensors and facts of the file of a truth. Raises DamagedFile where it is not whole, or of another truth."""
    names = ("task_digest", "seed", "device", "dtype", "protocol", "problem", "trajectory")
    tensors, facts = read_sealed(at, {name: getattr(entry, name) for name in names})
    try:
        found: Facts = decode(Facts, facts, entry.key.file)
    except Mismatch as error:
        raise DamagedFile(f"{error}; take the data set anew") from error
    if not {"effect", "left_out"} <= tensors.keys():
        raise DamagedFile(f"{entry.key.file} has {', '.join(sorted(tensors))}, expected effect and left_out")
    if tensor_digest([tensors["effect"]]) != entry.truth or found.noise != entry.noise:
        raise DamagedFile(f"{entry.key.file} has other effects, or another noise, than {INDEX} says: take the data set anew")
    return tensors, found


def read_states(files: Iterable[Path], problem: Problem) -> Checkpoints:
    """The checkpoints of a problem's run. Raises DamagedFile where they are not whole, or of another run."""
    found = [read_sealed(at, {"every": chosen(problem)[0]}) for at in files]
    try:
        steps = tuple(step for _, facts in found for step in facts["steps"])
        states = [tensors["states"] for tensors, _ in found]
    except (KeyError, TypeError) as error:
        raise DamagedFile(f"a file of the reference run lacks what it must have ({error}): take the data set anew") from error
    shape = (problem.optimizer.rows, problem.model.parameters)
    if steps != chosen(problem)[1] or sum(map(len, states)) != len(steps):
        raise DamagedFile(f"the reference run has checkpoints at {steps}, expected {chosen(problem)[1]}")
    if any(one.shape[1:] != shape or one.dtype != problem.initial.dtype for one in states):
        came = f"{tuple(states[0].shape[1:])} of {states[0].dtype}"
        raise DamagedFile(f"states of the reference run must be {shape} of {problem.initial.dtype}, got {came}")
    return Checkpoints(steps, torch.cat(states) if len(states) > 1 else states[0], chosen(problem)[0])


def adopted(problem: Problem, truth: Path, means: Means) -> Trajectory | None:
    """The published run that a truth in the cache came with; None where it was computed here, or, said aloud, is damaged."""
    folder = truth.with_suffix(".states")
    if not (truth.exists() and folder.is_dir()):
        return None
    try:
        if not read_sealed(truth, {})[1].get("origin"):
            return None
        return read_states(sorted(folder.glob("states-*"), key=_number), problem).run(problem, means)
    except DamagedFile as error:
        print(f"warning: a published run in the cache is damaged, and its truth is computed anew: {error}", file=sys.stderr)
        return None


def _number(at: Path) -> int:
    return int(at.stem.rpartition("-")[2])
