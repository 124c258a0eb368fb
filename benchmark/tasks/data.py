"""Data sets in one canonical form: rows decoded, sorted by the hash of each, and checked against a pinned digest."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from benchmark.base.errors import DamagedFile, LoobenchError, unknown
from benchmark.base.files import claimed, digest, probe, read_tensors, write_tensors
from benchmark.base.places import ROOT

ROWS, SAID = "rows.safetensors", "said.json"  # what a process that downloads leaves
SLOWEST, LONGEST = 10_000, 30  # bytes a second that must come from the Hub, and times the patience that all may take
Column = np.ndarray | list[str]
Table = dict[str, Column]  # columns of one split
Splits = dict[str, Table]


@dataclass(frozen=True)
class Source:
    """A data set as its origin serves it: `columns` are the ones that make up a row, in order."""

    name: str
    origin: str  # repository on the Hugging Face Hub, or the scikit-learn function that has it embedded
    licence: str
    rows: dict[str, int]  # of each split
    columns: tuple[str, ...]
    digest: str  # of the canonical rows of all splits

    @property
    def embedded(self) -> bool:
        return self.origin.startswith("sklearn")

    @property
    def again(self) -> str:
        """The command that fetches it."""
        return f"loobench prepare {self.name}"


ADULT = (
    "age workclass fnlwgt education education.num marital.status occupation relationship race sex capital.gain "
    "capital.loss hours.per.week native.country income"
)
SOURCES = {
    source.name: source
    for source in (
        Source(
            "digits",
            "sklearn.datasets.load_digits",
            "CC BY 4.0",
            {"train": 1797},
            ("features", "label"),
            "5a67617b50947c6aafbbf6ce67d7464b1efd741e0759476b8fad3c68a3d4544d",
        ),
        Source(
            "breast_cancer",
            "sklearn.datasets.load_breast_cancer",
            "CC BY 4.0",
            {"train": 569},
            ("features", "label"),
            "8ba8dc17f45efc5ee9fbf320ca5d47939e6fc0394e94d95e911cfb4d4fb3ae25",
        ),
        Source(
            "wine",
            "sklearn.datasets.load_wine",
            "CC BY 4.0",
            {"train": 178},
            ("features", "label"),
            "9f9348dd0fafa9413b1b0638b71a6eb6f0033a6ab611ff1aa799dcf4bc25c41a",
        ),
        Source(
            "diabetes",
            "sklearn.datasets.load_diabetes",
            "unknown",
            {"train": 442},
            ("features", "target"),
            "67a67a7447eeabb3783d20281aafbc1e1f854e010c65f0f2e2c6bd9f00191991",
        ),
        Source(
            "mnist",
            "ylecun/mnist",
            "MIT",
            {"train": 60000, "test": 10000},
            ("image", "label"),
            "1bc057ec4645d198fe9e11cfdd1ce8c969efd17c33809a5571bb60b396fc5c23",
        ),
        Source(
            "cifar10",
            "uoft-cs/cifar10",
            "unknown",
            {"train": 50000, "test": 10000},
            ("img", "label"),
            "8d83f829c8887f3545069a26cdcd6dea6f8a40c95894f2e0d082bb23f5a54c67",
        ),
        Source(
            "adult",
            "scikit-learn/adult-census-income",
            "CC BY 4.0",
            {"train": 32561},
            tuple(ADULT.split()),
            "363aeb799e8be8b889c90023785548998ff46dac1a10bc4a540b103cbf4a90a0",
        ),
        Source(
            "20news",
            "SetFit/20_newsgroups",
            "unknown",
            {"train": 11314, "test": 7532},
            ("text", "label_text"),
            "c319f515824159b128ab7a3430bb210765eb43716d6706fd13722a47be6845c2",
        ),
        Source(
            "sst2",
            "stanfordnlp/sst2",
            "unknown",
            {"train": 67349, "validation": 872, "test": 1821},
            ("sentence", "label"),
            "03358c6351084afc636f22a3b8d03a2d1d2c6b384427875bbb665e7eb3f4ad0b",
        ),
    )
}


def source(name: str) -> Source:
    """The data set called `name`. Raises LoobenchError for an unknown one."""
    if name not in SOURCES:
        raise unknown("data set", name, SOURCES)
    return SOURCES[name]


def cached(name: str, cache: Path) -> Path:
    """Where the canonical form of a data set lies, or would lie."""
    return cache / "data" / f"{source(name).name}.safetensors"


@lru_cache(maxsize=2)
def load(name: str, cache: Path) -> Splits:
    """The canonical rows of a data set, from the cache, or else from its origin and then cached.

    Raises LoobenchError where the origin cannot be reached or the rows are not the pinned ones.
    """
    path, wanted = cached(name, cache), source(name)
    if path.exists():
        return checked(read_rows(path), wanted, f"{path} was changed; delete it and run `loobench prepare {name}`")
    with claimed(cache / "locks" / f"data-{name}.lock", f"the data set {name}"):
        if path.exists():  # another process had claimed it
            return load(name, cache)
        _settle_hub(cache / "hub")
        splits = embedded(wanted) if wanted.embedded else download(wanted)
        write_rows(path, splits)
    return splits


# ---- the canonical form and its digest ---------------------------------------------------------------------------
def row_hashes(table: Table) -> list[bytes]:
    """SHA-256 of each row: every column's value in little-endian bytes or UTF-8, preceded by its length."""
    columns = [_encode(column) for column in table.values()]
    return [hashlib.sha256(b"".join(row)).digest() for row in zip(*columns, strict=True)]


def _encode(column: Column) -> Iterable[bytes]:
    values = (text.encode() for text in column) if isinstance(column, list) else (row.tobytes() for row in column)
    return (len(value).to_bytes(8, "little") + value for value in values)


def canonical(splits: Splits) -> tuple[Splits, str]:
    """The splits with rows sorted by their hash, and the digest over names, types and sorted hashes."""
    parts: list[bytes] = []
    ordered: Splits = {}
    for split, table in sorted(splits.items()):
        hashes = row_hashes(table)
        order = sorted(range(len(hashes)), key=hashes.__getitem__)
        ordered[split] = {name: _take(column, order) for name, column in table.items()}
        kinds = ",".join(f"{name}:{_kind(column)}" for name, column in table.items())
        parts += [f"{split} {kinds}".encode(), b"".join(hashes[row] for row in order)]
    return ordered, digest(*parts)


def _take(column: Column, order: list[int]) -> Column:
    return [column[row] for row in order] if isinstance(column, list) else column[order]


def _kind(column: Column) -> str:
    return "text" if isinstance(column, list) else f"{column.dtype}{list(column.shape[1:])}"


def checked(splits: Splits, wanted: Source, advice: str) -> Splits:
    """`splits` in canonical order. Raises DamagedFile that names both digests where they are not the pinned rows."""
    ordered, found = canonical(splits)
    if found == wanted.digest:
        return ordered
    rows = {split: len(next(iter(table.values()))) for split, table in splits.items()}
    raise DamagedFile(
        f"data set {wanted.name}: expected content digest {wanted.digest} ({wanted.rows} rows), "
        f"got {found} ({rows} rows); {advice}"
    )


# ---- the cache: text as bytes and lengths ------------------------------------------------------------------------
def write_rows(path: Path, splits: Splits) -> None:
    """Write splits as one safetensors file."""
    tensors = {}
    for split, table in splits.items():
        for name, column in table.items():
            if isinstance(column, list):
                encoded = [text.encode() for text in column]
                tensors[f"{split}/{name}/bytes"] = torch.frombuffer(bytearray(b"".join(encoded)), dtype=torch.uint8)
                tensors[f"{split}/{name}/lengths"] = torch.tensor([len(text) for text in encoded])
            else:
                tensors[f"{split}/{name}"] = torch.from_numpy(column)
    write_tensors(path, tensors, {"columns": {split: list(table) for split, table in splits.items()}})


def read_rows(path: Path) -> Splits:
    """The splits of such a file. Raises DamagedFile where it is none."""
    tensors, facts = read_tensors(path)
    try:
        return {
            split: {name: _column(tensors, f"{split}/{name}") for name in names} for split, names in facts["columns"].items()
        }
    except (KeyError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} is damaged ({error}); delete it and prepare the data set again") from error


def _column(tensors: dict[str, torch.Tensor], key: str) -> Column:
    if key in tensors:
        return tensors[key].numpy()
    content, ends = tensors[f"{key}/bytes"].numpy().tobytes(), tensors[f"{key}/lengths"].cumsum(0).tolist()
    return [content[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


# ---- origins -----------------------------------------------------------------------------------------------------
RAW = {"diabetes": {"scaled": False}}  # as measured: scaled rows, the default, carry rounding that may differ by machine


def embedded(wanted: Source) -> Splits:
    """The rows of a data set that scikit-learn carries: features float64, labels int64, real targets float64."""
    from sklearn import datasets

    inputs, targets = getattr(datasets, wanted.origin.rpartition(".")[2])(return_X_y=True, **RAW.get(wanted.name, {}))
    kind = "<f8" if targets.dtype.kind == "f" else "<i8"
    table: Table = dict(zip(wanted.columns, (np.asarray(inputs, "<f8"), np.asarray(targets, kind)), strict=True))
    return checked({"train": table}, wanted, "this release of scikit-learn carries other rows; install the locked one")


def download(wanted: Source) -> Splits:
    """The rows of a data set from the Hub; a download that is not the pinned rows is repeated once, past all caches.

    Raises DamagedFile where the Hub serves other rows, LoobenchError where it cannot be reached.
    """
    try:
        return checked(_from_hub(wanted, fresh=False), wanted, "")
    except DamagedFile:  # perhaps a damaged copy in the Hub client's own cache, which it would serve for ever
        return checked(
            _from_hub(wanted, fresh=True), wanted, "the Hub serves other rows than the pinned ones; nothing was kept"
        )


def _from_hub(wanted: Source, *, fresh: bool) -> Splits:
    """What a process of its own fetches (benchmark/tasks/hub.py), which says what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        ask_hub("benchmark.tasks.hub", wanted, Path(folder), *(["fresh"] if fresh else []))
        return read_rows(Path(folder, ROWS))


def ask_hub(program: str, wanted: Source, room: Path, *more: str) -> None:
    """Let a process of its own fetch something into a folder. Raises what that says went wrong."""
    code = _ended(program, [wanted.name, str(room), str(patience()), str(os.getpid()), *more])
    if (told := room / SAID).exists():
        said = json.loads(told.read_text())
        raise (DamagedFile if said["damaged"] else LoobenchError)(said["message"])
    if code:
        raise LoobenchError(
            f"cannot download data set {wanted.name}: the process that does it ended with {code}; see above, "
            f"then run `{wanted.again}` again"
        )


def _ended(program: str, arguments: list[str]) -> int:
    """The exit code of that process, which Ctrl-C reaches through this one alone."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", program, *arguments]
    mine = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, env=mine, start_new_session=True) as child:
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            raise


def patience() -> float:
    """Seconds that too little may come from the Hub for. Raises LoobenchError where LOOBENCH_HUB_PATIENCE is no such number."""
    said = os.environ.get("LOOBENCH_HUB_PATIENCE") or "60"
    try:
        found = float(said)
    except ValueError:
        found = 0.0
    if not 1 <= found <= 1e6:
        raise LoobenchError(f"LOOBENCH_HUB_PATIENCE takes seconds, from 1 on, got {said!a:.40}")
    return found


def _settle_hub(instead: Path) -> None:
    """Name a folder to the Hub client where it would have none: no home, or one that cannot be written."""
    if "HF_HOME" in os.environ:
        return
    try:
        probe(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    except (RuntimeError, LoobenchError):
        os.environ["HF_HOME"] = str(instead)
