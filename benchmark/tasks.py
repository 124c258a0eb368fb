"""Tasks: what is trained on what, as frozen records named by their content; and from a task to a problem."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark import PROTOCOL, data
from benchmark.errors import LoobenchError, unknown
from benchmark.features import features
from benchmark.files import json_digest
from benchmark.models import MODELS
from benchmark.optimizers import Optimizer
from benchmark.problem import Problem, Samples
from benchmark.streams import stream

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class Task:
    """A family of problems, one per seed. Two tasks with equal fields, names aside, have the same digest."""

    name: str
    suite: str
    dataset: str
    subset: str
    train: int  # N, sizes of the three splits
    query: int
    test: int
    model: str
    optimizer: Optimizer
    weight_decay: float | None  # None: 1/(C N) with C by five-fold cross-validation of logistic regression
    batch: int  # B
    epochs: int
    horizons: tuple[int, ...]  # epochs after which effects are read off
    queries: str = "mean"  # or "each"
    noise: str = "none"
    counterfactual: str = "zero-weight"
    dtype: str = "float64"
    leave_out: int | None = None  # K: so many samples are left out, one at a time; None: every one
    scaling: str = "features"  # each feature by its mean and deviation over the N; or "pixels", bytes to -1 ... 1

    def record(self) -> dict[str, Any]:
        """All fields as a JSON value, with the kind of optimiser and the digest of the data set."""
        optimizer = {"kind": self.optimizer.name, **asdict(self)["optimizer"]}
        return asdict(self) | {
            "optimizer": optimizer,
            "horizons": list(self.horizons),
            "data": data.source(self.dataset).digest,
        }

    def digest(self) -> str:
        """Content digest of all that decides a number, the protocol version included."""
        return record_digest(self.record(), PROTOCOL)

    def __post_init__(self) -> None:
        """Raise LoobenchError for a value that no code stands behind."""
        known = {
            "queries": ("mean", "each"),
            "noise": ("none",),
            "counterfactual": ("zero-weight",),
            "scaling": tuple(SCALINGS),
        }
        for field, values in {**known, "dtype": tuple(DTYPES), "model": tuple(MODELS)}.items():
            if getattr(self, field) not in values:
                raise unknown(f"{field} of task {self.name}", str(getattr(self, field)), values)
        if self.leave_out is not None and not 1 < self.leave_out <= self.train:
            raise LoobenchError(f"task {self.name}: leave_out must be 2 to {self.train}, got {self.leave_out}")
        if list(self.horizons) != sorted({*self.horizons}) or not 1 <= self.horizons[0] <= self.horizons[-1] <= self.epochs:
            raise LoobenchError(f"task {self.name}: horizons must rise from 1 to at most {self.epochs}, got {self.horizons}")


def record_digest(record: dict[str, Any], protocol: str) -> str:
    """Digest of a task's record under a protocol version, names aside."""
    return json_digest({**record, "name": None, "suite": None, "protocol": protocol})


def variant(task: Task, dtype: str) -> Task:
    """The same task in another precision, with the precision in its name unless it is the usual float64."""
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    return task if dtype == task.dtype else replace(task, dtype=dtype, name=f"{task.name}-{dtype}")


# ---- from a task to a problem ------------------------------------------------------------------------------------
def build(task: Task, seed: int, cache: Path, device: str = "cpu") -> Problem:
    """The problem of `seed`: split, scaling, initial parameters and batch order, each from its own random stream."""
    inputs, targets = features(task.dataset, task.subset, cache)
    train, query, test = split(task, len(targets), seed)
    scaled = SCALINGS[task.scaling](inputs, train, query, test)
    model = MODELS[task.model].build(inputs.shape[1], len(np.unique(targets)))
    decay = task.weight_decay
    real = DTYPES[task.dtype]

    def samples(values: np.ndarray, rows: np.ndarray) -> Samples:
        kind = real if model.loss == "binary-cross-entropy" else torch.int64
        return Samples(torch.from_numpy(values).to(device, real), torch.from_numpy(targets[rows]).to(device, kind))

    return Problem(
        model=model,
        optimizer=task.optimizer,
        train=samples(scaled[0], train),
        query=samples(scaled[1], query),
        test=samples(scaled[2], test),
        initial=model.initial(stream("initial", seed)).to(device, real),
        batches=batches(task.train, task.batch, task.epochs, stream("batches", seed)).to(device),
        left_out=left_out(task.train, task.leave_out or task.train, stream("left-out", seed)).to(device),
        horizons=tuple(epoch * -(-task.train // task.batch) for epoch in task.horizons),
        weight_decay=cross_validated(scaled[0], targets[train]) if decay is None else decay,
        query_kind=task.queries,
    )


def split(task: Task, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disjoint row numbers of the train, query and test samples. Raises LoobenchError where there are too few rows."""
    sizes = (task.train, task.query, task.test)
    if sum(sizes) > rows:
        raise LoobenchError(f"task {task.name} needs {sum(sizes)} rows of {task.dataset} {task.subset}, got {rows}")
    order = stream("split", seed).permutation(rows)
    train, query, test, _ = np.split(order, np.cumsum(sizes))
    return train, query, test


def scale(inputs: np.ndarray, *rows: np.ndarray) -> list[np.ndarray]:
    """The rows standardised by mean and deviation of the first set of them; a constant feature keeps its scale."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(inputs[rows[0]])
    return [scaler.transform(inputs[part]) for part in rows]


def pixels(inputs: np.ndarray, *rows: np.ndarray) -> list[np.ndarray]:
    """The rows of bytes as numbers from -1 to 1."""
    return [inputs[part] / 127.5 - 1 for part in rows]


SCALINGS: dict[str, Callable[..., list[np.ndarray]]] = {"features": scale, "pixels": pixels}


def left_out(samples: int, some: int, random: np.random.RandomState) -> Tensor:
    """Numbers (K,) of `some` samples drawn without replacement, rising."""
    return torch.from_numpy(np.sort(random.permutation(samples)[:some]))


def batches(samples: int, size: int, epochs: int, random: np.random.RandomState) -> Tensor:
    """Batches (T, B) of `epochs` random permutations, each cut in order; the last of an epoch may be short, padded by -1."""
    short = -samples % size
    rows = [np.append(random.permutation(samples), [-1] * short).reshape(-1, size) for _ in range(epochs)]
    return torch.from_numpy(np.concatenate(rows).astype(np.int64))


def cross_validated(inputs: np.ndarray, targets: np.ndarray) -> float:
    """Hara et al.'s weight decay 1/(C N): C of logistic regression without intercept by five-fold cross-validation."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegressionCV

    search = LogisticRegressionCV(
        Cs=10, cv=5, fit_intercept=False, l1_ratios=(0.0,), scoring="accuracy", use_legacy_attributes=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the published search stops at 100 iterations too
        return float(1 / (search.fit(inputs, targets).C_ * len(targets)))
