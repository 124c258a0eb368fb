"""Tasks: what is trained on what, as frozen records named by their content; and from a task to a problem."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from benchmark import PROTOCOL
from benchmark.base.errors import LoobenchError, unknown
from benchmark.base.files import json_digest
from benchmark.base.streams import stream
from benchmark.core import optimizers
from benchmark.core.losses import REAL_TARGETS
from benchmark.core.optimizers import Optimizer
from benchmark.core.problem import Problem, Samples
from benchmark.core.recipes import MODELS
from benchmark.core.trajectory import Trajectory
from benchmark.tasks import data, questions
from benchmark.tasks.features import features, with_test
from benchmark.tasks.noise import FEATURE_NOISE, flips
from benchmark.tasks.noise import flipped as flip
from benchmark.tasks.questions import FurtherTraining, LeaveOneOut, Question, Subsets, Uses

ROWS = 4096  # of pixels that are in float64 at a time
DTYPES = {"float64": torch.float64, "float32": torch.float32}


class AnyTask(Protocol):
    """What a run needs of a task, of the suites or of a person's own."""

    @property
    def name(self) -> str: ...
    @property
    def suite(self) -> str: ...
    @property
    def horizons(self) -> tuple[int, ...]: ...
    @property
    def epochs(self) -> int: ...
    @property
    def truth(self) -> Question: ...
    @property
    def uses(self) -> Uses | None: ...
    @property
    def leave_out(self) -> int | None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def counterfactual(self) -> str: ...
    @property
    def charged(self) -> str: ...

    def record(self) -> dict[str, Any]:
        """All that decides a number, as a JSON value."""

    def digest(self) -> str:
        """Content digest of all that decides a number, the protocol version included."""

    def problem(self, seed: int, cache: Path, device: str, noise: str) -> Problem:
        """The problem of a seed; `noise` names the stream of the noise on features."""

    def in_dtype(self, dtype: str) -> Self:
        """The same task in another precision, with that in its name."""


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
    noise: str = "none"  # or what the training rows suffer: "gaussian", "ones", "labels" (benchmark/tasks/noise.py)
    counterfactual: str = "zero-weight"
    dtype: str = "float64"
    leave_out: int | None = None  # K: so many samples are left out, one at a time; None: every one
    scaling: str = "features"  # each feature by its mean and deviation over the N; "pixels", bytes to -1 ... 1; or "none"
    noise_rate: float = 0.0
    truth: Question = field(default_factory=LeaveOneOut)
    uses: Uses | None = None
    charged: str = "asked"  # an estimator for answering about the samples left out; or about "all" N, over retraining all N
    queries_from: str = "train"  # query and test samples: other rows of the train split, or "test", of the official test split
    clip: float | None = None  # norm to which longer gradients are scaled down

    def record(self) -> dict[str, Any]:
        """All fields as a JSON value, with the kind of optimiser and the digest of the data set.

        Fields that came after protocol 1.1 are left out where they have the value that stands for how it was, so that digests
        of older tasks hold.
        """
        later = {
            "noise_rate": self.noise_rate,
            "truth": None if self.truth == LeaveOneOut() else questions.record(self.truth),
            "uses": self.uses and questions.record(self.uses),
            "charged": None if self.charged == "asked" else self.charged,
            "queries_from": None if self.queries_from == "train" else self.queries_from,
            "clip": self.clip,
        }
        kept = {name: value for name, value in asdict(self).items() if name not in later}
        return {
            **kept,
            "optimizer": optimizers.record(self.optimizer),
            "horizons": list(self.horizons),
            "data": data.source(self.dataset).digest,
            **{name: value for name, value in later.items() if value},
        }

    def digest(self) -> str:
        """Content digest of all that decides a number, the protocol version included."""
        return record_digest(self.record(), PROTOCOL)

    def problem(self, seed: int, cache: Path, device: str, noise: str) -> Problem:
        """The problem of a seed; `noise` names the stream of the noise on features."""
        return _problem(self, seed, cache, device, noise)

    def in_dtype(self, dtype: str) -> Self:
        """The same task in another precision, with that in its name."""
        return replace(self, dtype=dtype, name=f"{self.name}-{dtype}")

    def __post_init__(self) -> None:
        """Raise LoobenchError for a value that no code stands behind."""
        known = {
            "queries": ("mean", "each"),
            "noise": ("none", *FEATURE_NOISE, "labels"),
            "counterfactual": ("zero-weight", "renormalised"),
            "scaling": tuple(SCALINGS),
            "charged": ("asked", "all"),
            "queries_from": ("train", "test"),
        }
        for name, values in {**known, "dtype": tuple(DTYPES), "model": tuple(MODELS)}.items():
            if getattr(self, name) not in values:
                raise unknown(f"{name} of task {self.name}", str(getattr(self, name)), values)
        if self.leave_out is not None and not 1 < self.leave_out <= self.train:
            raise LoobenchError(f"task {self.name}: leave_out must be 2 to {self.train}, got {self.leave_out}")
        if self.clip is not None and not self.clip > 0:
            raise LoobenchError(f"task {self.name}: clip must be a norm above 0, or None for no clipping, got {self.clip}")
        if not 0 <= self.noise_rate <= 1:
            raise LoobenchError(f"task {self.name}: a noise rate is from 0 to 1, got {self.noise_rate}")
        if self.noise_rate and self.noise == "none":
            raise LoobenchError(
                f"task {self.name}: a noise rate of {self.noise_rate} needs a noise: {', '.join(FEATURE_NOISE)}, labels"
            )
        self._check_horizons()
        self._check_questions()

    def _check_horizons(self) -> None:
        further = self.truth.horizons if isinstance(self.truth, FurtherTraining) else None
        if further is not None and self.horizons != further:
            raise LoobenchError(
                f"task {self.name}: its horizons are those of the further training, {further}, got {self.horizons}"
            )
        last = further[-1] if further else self.epochs
        if not self.horizons:
            raise LoobenchError(f"task {self.name}: horizons must rise from 1 to at most {last}, got none")
        if list(self.horizons) != sorted({*self.horizons}) or not 1 <= self.horizons[0] <= self.horizons[-1] <= last:
            raise LoobenchError(f"task {self.name}: horizons must rise from 1 to at most {last}, got {self.horizons}")

    def _check_questions(self) -> None:
        """Groups may have any sample, so that the effect of each is asked; uses are of the effects on one mean query."""
        self.truth.check(self.train)
        if isinstance(self.truth, Subsets) and self.leave_out is not None:
            raise LoobenchError(f"task {self.name}: subsets need the effects of all samples, leave_out must be None")
        if self.uses:
            self.uses.check(self.train)
            if self.queries != "mean" or self.truth != LeaveOneOut() or self.horizons != (self.epochs,):
                raise LoobenchError(
                    f"task {self.name}: uses need leave-one-out, one mean query and one horizon, the last epoch"
                )


def record_digest(record: dict[str, Any], protocol: str) -> str:
    """Digest of a task's record under a protocol version, names aside."""
    return json_digest({**record, "name": None, "suite": None, "protocol": protocol})


AnyOf = TypeVar("AnyOf", bound=AnyTask)


def variant(task: AnyOf, dtype: str | None) -> AnyOf:
    """The same task in another precision, which its name says; None: in its own."""
    if dtype is not None and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    return task if dtype in (None, task.dtype) else task.in_dtype(dtype)


# ---- from a task to a problem ------------------------------------------------------------------------------------
def build(task: AnyTask, seed: int, cache: Path, device: str = "cpu", *, noise: str = "feature-noise") -> Problem:
    """The problem of `seed`: split, noise, scaling, initial parameters and batch order, each from its own random stream.

    `noise` names the stream of the noise on features: with another name the same problem has it drawn anew.
    """
    return task.problem(seed, cache, device, noise)


def _problem(task: Task, seed: int, cache: Path, device: str, noise: str) -> Problem:
    inputs, targets, own = rows_of(task, cache)
    rows = split(task, len(targets), seed, own)
    scaled = in_scale(task, noisy(task, inputs[rows[0]], seed, noise), *(inputs[some] for some in rows[1:]))
    labels = [relabelled(task, targets, rows[0], seed), *(targets[some] for some in rows[1:])]
    model = MODELS[task.model].build(inputs.shape[1], classes(targets))
    decay = task.weight_decay
    real = DTYPES[task.dtype]

    def samples(values: np.ndarray, labels: np.ndarray) -> Samples:
        whole = labels.dtype.kind in "iu" and model.loss not in REAL_TARGETS
        kinds = torch.int64 if values.dtype.kind == "i" else real, torch.int64 if whole else real
        return Samples(_tensor(values).to(device, kinds[0]), _tensor(labels).to(device, kinds[1]))

    return Problem(
        model=model,
        optimizer=task.optimizer,
        train=samples(scaled[0], labels[0]),
        query=samples(scaled[1], labels[1]),
        test=samples(scaled[2], labels[2]),
        initial=model.initial(stream("initial", seed)).to(device, real),
        batches=batches(task.train, task.batch, task.epochs, stream("batches", seed)).to(device),
        left_out=left_out(task.train, task.leave_out or task.train, stream("left-out", seed)).to(device),
        horizons=tuple(epoch * -(-task.train // task.batch) for epoch in trained_until(task)),
        weight_decay=cross_validated(scaled[0], labels[0]) if decay is None else decay,
        query_kind=task.queries,
        counterfactual=task.counterfactual,
        clip=task.clip,
    )


def _tensor(values: np.ndarray) -> Tensor:
    found = torch.from_numpy(values)
    return found if values.size else found.new_empty(values.shape)  # of nothing NumPy's strides are 0, which no view takes


def trained_until(task: AnyTask) -> tuple[int, ...]:
    """Epochs of the run after which something is read off it."""
    return (task.epochs,) if isinstance(task.truth, FurtherTraining) else task.horizons


def shown(task: AnyTask, run: Trajectory) -> Trajectory:
    """What the task lets an estimator see of a run, and asks of it.

    For uses the effects of all samples, without the test split that they are judged on.
    """
    if isinstance(task.truth, FurtherTraining):
        return run.final_only()
    if not task.uses:
        return run
    everyone = torch.arange(len(run.problem.train), device=run.problem.left_out.device)
    return replace(run, problem=replace(run.problem, left_out=everyone, test=run.problem.test[:0]))


# ---- noise: drawn once, from streams of its own, so that training and estimating see the same ------------------------
def noisy(task: Task, inputs: np.ndarray, seed: int, name: str = "feature-noise") -> np.ndarray:
    """The training inputs with the task's feature noise, if it has any, drawn from the stream `name`."""
    add = FEATURE_NOISE.get(task.noise)
    if add and inputs.dtype.kind == "i":
        raise LoobenchError(f"task {task.name}: feature noise is of real features, those of {task.dataset} are tokens")
    return add(inputs, task.noise_rate, stream(name, seed)) if add else inputs


def relabelled(task: Task, targets: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """The targets of the training rows, those of flipped labels changed to another class."""
    changed = stream("label-noise/classes", seed)
    return flip(targets[rows], flipped(task, seed), classes(targets), changed) if task.noise == "labels" else targets[rows]


def flipped(task: Task, seed: int) -> np.ndarray:
    """Which of the N training samples have a flipped label. (N,) bool; no estimator sees it."""
    rate = task.noise_rate if task.noise == "labels" else 0.0
    return flips(task.train, rate, stream("label-noise", seed))


def classes(targets: np.ndarray) -> int:
    """The number of classes; 1 where targets are real."""
    return 1 if targets.dtype.kind == "f" else len(np.unique(targets))


def rows_of(task: Task, cache: Path) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Inputs (M, d) and targets (M,) that the task draws from, and the number of rows of the train split where it matters."""
    if task.queries_from == "test":
        return with_test(task.dataset, task.subset, cache)
    return *features(task.dataset, task.subset, cache), None


def split(task: Task, rows: int, seed: int, own: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disjoint row numbers of the train, query and test samples. Raises LoobenchError where there are too few rows.

    Where the first `own` rows are those of the train split, train samples are of these, and the others of the rows after them.
    """
    asked = task.query, task.test
    if own is None:
        train, query, test = _drawn(task, rows, "split", seed, (task.train, *asked))
        return train, query, test
    (train,) = _drawn(task, own, "split", seed, (task.train,), " in the train split")
    query, test = (own + some for some in _drawn(task, rows - own, "split/test", seed, asked, " in the test split"))
    return train, query, test


def _drawn(task: Task, rows: int, name: str, seed: int, sizes: tuple[int, ...], where: str = "") -> list[np.ndarray]:
    """So many of `rows` row numbers for each of some sets of samples."""
    if sum(sizes) > rows:
        raise LoobenchError(f"task {task.name} needs {sum(sizes)} rows of {task.dataset} {task.subset}{where}, got {rows}")
    return np.split(stream(name, seed).permutation(rows), np.cumsum(sizes))[:-1]


def in_scale(task: Task, *parts: np.ndarray) -> list[np.ndarray]:
    """The parts as the task scales them; pixels, of which there may be many, in its precision from the start."""
    return pixels(*parts, dtype=task.dtype) if task.scaling == "pixels" else SCALINGS[task.scaling](*parts)


def scale(*parts: np.ndarray) -> list[np.ndarray]:
    """The parts standardised by mean and deviation of the first; a constant feature keeps its scale."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(parts[0])
    return [scaler.transform(part) for part in parts]


def pixels(*parts: np.ndarray, dtype: str = "float64") -> list[np.ndarray]:
    """Bytes as numbers from -1 to 1, ``x / 127.5 - 1`` in float64, rounded to `dtype`."""
    found = [np.empty(part.shape, dtype) for part in parts]
    for whole, part in zip(found, parts, strict=True):
        for start in range(0, len(part), ROWS):
            whole[start : start + ROWS] = part[start : start + ROWS] / 127.5 - 1
    return found


def unscaled(*parts: np.ndarray) -> list[np.ndarray]:
    """The parts as they are: tokens, which are signed integers, stay so; bytes and all else become float64."""
    return [np.asarray(part, dtype=np.int64 if part.dtype.kind == "i" else np.float64) for part in parts]


SCALINGS: dict[str, Callable[..., list[np.ndarray]]] = {"features": scale, "pixels": pixels, "none": unscaled}


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
