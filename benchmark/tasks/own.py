"""A person's own model and data as a task, and its problems."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import PROTOCOL
from benchmark.base.errors import LoobenchError, unknown
from benchmark.base.files import tensor_digest
from benchmark.base.streams import drawn, stream
from benchmark.core import chains, optimizers, suitable
from benchmark.core.code import Code, code_of
from benchmark.core.losses import REAL_TARGETS, meant, name_of
from benchmark.core.models import Model
from benchmark.core.optimizers import Optimizer
from benchmark.core.problem import Problem, Samples, map_tensors
from benchmark.core.wrapped import Module
from benchmark.tasks import questions
from benchmark.tasks.definition import DTYPES, batches, left_out, record_digest
from benchmark.tasks.questions import LeaveOneOut, Question

SUITE = "own"


@dataclass(frozen=True, eq=False)
class Training:
    """How a model of one's own is trained, on what, and what is asked.

    `train` and `query` are (inputs, targets), as arrays, tensors or lists; or a torch Dataset of such pairs; or a `datasets`
    data set of two columns. Integers stay integers, as tokens; of each sample they have one shape.
    """

    model: nn.Module | Callable[[], nn.Module]  # which starts as it is; or what makes it, drawn anew for each seed
    loss: Any  # a name in `benchmark.core.losses.LOSSES`, torch's, or a function (B, C), (B,) -> (B,)
    train: Any
    query: Any
    optimizer: Optimizer
    batch: int = 64
    epochs: int = 1
    horizons: tuple[int, ...] = ()  # epochs after which effects are read off; by default the last alone
    weight_decay: float = 0.0  # of an L2 term ``weight_decay/2 |theta|^2`` in the loss
    clip: float | None = None  # norm to which longer gradients are scaled down
    queries: str = "each"  # or "mean": one query, the mean over all
    query_function: Any = "loss"  # or "logit", "margin", or (B, C), (B,) -> (B,)
    leave_out: int | None = None  # so many samples, drawn by the seed; None: every one
    truth: Question = field(default_factory=LeaveOneOut)
    counterfactual: str = "zero-weight"
    dtype: str = "float64"


@dataclass(frozen=True, eq=False)
class OwnTask:
    """A training of one's own under a name; with the same face as a task of the suites."""

    name: str
    training: Training
    suite: str = SUITE
    uses: None = None

    def __post_init__(self) -> None:
        """Raise LoobenchError for a value that no code stands behind."""
        t = self.training
        known = {"queries": ("mean", "each"), "counterfactual": ("zero-weight", "renormalised"), "dtype": tuple(DTYPES)}
        for name, values in known.items():
            if getattr(t, name) not in values:
                raise unknown(name, str(getattr(t, name)), values)
        if t.batch < 1 or t.epochs < 1:
            raise LoobenchError(f"batch and epochs must be at least 1, got {t.batch} and {t.epochs}")
        if [*self.horizons] != sorted({*self.horizons}) or not 1 <= self.horizons[0] <= self.horizons[-1] <= t.epochs:
            raise LoobenchError(f"horizons must rise from 1 to at most {t.epochs} epochs, got {self.horizons}")

    # ---- what tasks of the suites have too ---------------------------------------------------------------------------
    @property
    def horizons(self) -> tuple[int, ...]:
        return self.training.horizons or (self.training.epochs,)

    @property
    def epochs(self) -> int:
        return self.training.epochs

    @property
    def truth(self) -> Question:
        return self.training.truth

    @property
    def leave_out(self) -> int | None:
        return self.training.leave_out

    @property
    def dtype(self) -> str:
        return self.training.dtype

    @property
    def counterfactual(self) -> str:
        return self.training.counterfactual

    @property
    def charged(self) -> str:
        """What an answer about all N costs, where not all are left out, since that is what is retrained to know as much."""
        return "asked" if self.leave_out is None else "all"

    def digest(self) -> str:
        """Content digest of all that decides a number, the protocol version included."""
        return record_digest(self.record(), PROTOCOL)

    def record(self) -> dict[str, Any]:
        """All that decides a number, as a JSON value: data and model by their digests."""
        t = self.training
        plain = ("batch", "epochs", "weight_decay", "clip", "queries", "leave_out", "counterfactual", "dtype")
        return {
            **{name: getattr(t, name) for name in plain},
            "charged": self.charged,
            "name": self.name,
            "suite": self.suite,
            "dataset": "own",
            "subset": self.name,
            "noise": "none",
            "train": len(self.train),
            "query": len(self.query),
            "test": 0,
            "model": self.module.name,
            "horizons": [*self.horizons],
            "optimizer": optimizers.record(t.optimizer),
            "loss": name_of(self.module.loss),
            "truth": questions.record(t.truth),
            "query_function": str(meant(t.query_function)),
            "data": tensor_digest([part for some in (self.train, self.query) for part in (some.inputs, some.targets)]),
            "module": self.module.digest(),
            "start": tensor_digest([self.module.current()]) if self.module.make is None else "drawn",
        }

    # ---- problems ----------------------------------------------------------------------------------------------------
    @cached_property
    def train(self) -> Samples:
        """The training samples, in float64 where they are real."""
        return samples(self.training.train, "train", real_targets=self.real_targets)

    @cached_property
    def query(self) -> Samples:
        """The query samples."""
        found = samples(self.training.query, "query", real_targets=self.real_targets)
        if found.inputs.shape[1:] != self.train.inputs.shape[1:] or found.inputs.dtype != self.train.inputs.dtype:
            raise LoobenchError(
                f"train and query have other inputs, {_kind(self.train.inputs)} and {_kind(found.inputs)} of a sample: "
                "prepare both alike"
            )
        return found

    @property
    def real_targets(self) -> bool:
        """Whether targets are real numbers, also where they are written as whole ones."""
        return meant(self.training.loss) in REAL_TARGETS

    @cached_property
    def model(self) -> Model:
        """The model: as a network of ours where it is one, which trains faster."""
        return chains.network(self.module, self.train.inputs) or self.module

    @cached_property
    def module(self) -> Module:
        """The module, tried on some samples."""
        given, make, code = self.training.model, None, None
        if not isinstance(given, nn.Module):
            if not callable(given):
                raise LoobenchError(
                    f"model must be a torch.nn.Module, or a function that makes one, got {type(given).__name__}"
                )
            make, code = given, made_by(given)
            with drawn(stream("structure", 0)):
                given = given()
            if not isinstance(given, nn.Module):
                raise LoobenchError(f"the function for the model must return a torch.nn.Module, got {type(given).__name__}")
        found = suitable.module(given, meant(self.training.loss), self.train, make, code)
        for what, some in (("train", self.train), ("query", self.query)):
            suitable.check_all(found, found.current().double(), some, what, max(64, self.training.batch))
        return found

    def problem(self, seed: int, cache: Path, device: str, noise: str) -> Problem:  # noqa: ARG002
        """The problem of a seed: initial parameters, batch order and left-out samples from streams of their own."""
        t, real, count = self.training, DTYPES[self.training.dtype], len(self.train)
        if t.leave_out is not None and not 1 <= t.leave_out <= count:
            raise LoobenchError(f"leave_out must be 1 to {count}, the training samples, got {t.leave_out}")

        def here(some: Samples) -> Samples:
            moved: Samples = map_tensors(some, lambda part: part.to(device, real if part.is_floating_point() else None))
            return moved

        query = here(self.query)
        return Problem(
            model=self.model,
            optimizer=t.optimizer,
            train=here(self.train),
            query=query,
            test=query[:0],
            initial=self.module.initial(stream("initial", seed)).to(device, real),
            batches=batches(count, t.batch, t.epochs, stream("batches", seed)).to(device),
            left_out=left_out(count, t.leave_out or count, stream("left-out", seed)).to(device),
            horizons=tuple(epoch * -(-count // t.batch) for epoch in self.horizons),
            weight_decay=t.weight_decay,
            query_kind=t.queries,
            counterfactual=t.counterfactual,
            query_function=meant(t.query_function),
            clip=t.clip,
        )

    def in_dtype(self, dtype: str) -> Self:
        """The same task in another precision, with that in its name."""
        return replace(self, name=f"{self.name}-{dtype}", training=replace(self.training, dtype=dtype))


def made_by(builder: Callable[[], nn.Module]) -> Code | None:
    """The code of what makes a model; of a class with settings given by functools.partial, these too."""
    settings = dict(getattr(builder, "keywords", {}))
    return code_of(getattr(builder, "func", builder), **settings)


# ---- data --------------------------------------------------------------------------------------------------------------
def samples(data: Any, what: str, *, real_targets: bool) -> Samples:
    """Samples of a pair, a torch Dataset or a `datasets` data set. Raises LoobenchError for what cannot be stacked."""
    inputs, targets = _pair(data, what)
    found = Samples(_stacked(inputs, f"{what} inputs"), _stacked(targets, f"{what} targets"))
    if len(found.inputs) != len(found.targets) or not len(found.targets):
        raise LoobenchError(
            f"{what} needs as many inputs as targets, and one at least: got {len(found.inputs)} and {len(found)}"
        )
    return Samples(found.inputs, found.targets.double() if real_targets else found.targets)


def _pair(data: Any, what: str) -> tuple[Any, Any]:
    if hasattr(data, "column_names"):
        return _columns(data, what)
    if isinstance(data, tuple | list) and len(data) == 2 and not isinstance(data[0], tuple):
        return data[0], data[1]
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        pairs = [data[number] for number in range(len(data))]
        if all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
            return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    raise LoobenchError(
        f"{what} must be (inputs, targets), a torch Dataset of such pairs, or a data set of `datasets` with two columns, "
        f"got {type(data).__name__}"
    )


def _columns(data: Any, what: str) -> tuple[Any, Any]:
    names = [*data.column_names]
    targets = [name for name in names if name in ("label", "labels", "target", "targets")]
    if len(names) != 2 or len(targets) != 1:
        raise LoobenchError(
            f"{what} has the columns {', '.join(names)}: keep two, one called label (data.select_columns), "
            "or give (data['x'], data['y'])"
        )
    (inputs,) = {*names} - {*targets}
    return data[inputs], data[targets[0]]


def _stacked(values: Any, what: str) -> Tensor:
    """Values as one tensor: real ones in float64, whole ones in int64."""
    try:
        found = values if isinstance(values, Tensor) else _tensor(values)
    except (ValueError, TypeError, RuntimeError) as error:
        shapes = _shapes(values)
        if len(shapes) > 1:
            raise LoobenchError(
                f"{what} are of differing shapes, as {shapes[0]} and {shapes[1]}: pad or cut them to one"
            ) from error
        raise LoobenchError(f"{what} are no numbers: {error}; tokenise text first") from error
    found = found.detach().cpu()
    if found.dtype == torch.uint8:
        raise LoobenchError(f"{what} are bytes: as pixels divide them by 255, as tokens make them int64")
    if found.is_complex():
        raise LoobenchError(f"{what} are complex, which no task is: give real numbers")
    if found.is_floating_point() or found.dtype == torch.bool:
        if not found.isfinite().all():
            raise LoobenchError(f"{what} hold numbers that are not finite: remove or replace them")
        return found.double()
    return found.long()


def _tensor(values: Any) -> Tensor:
    if isinstance(values, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(values))
    items = [*values]
    if items and isinstance(items[0], Tensor):
        return torch.stack(items)
    return torch.from_numpy(np.asarray(items if items else values))


def _shapes(values: Iterable[Any]) -> list[tuple[int, ...]]:
    """The first two shapes that differ."""
    found = [tuple(np.shape(value)) for value in values]
    return [*dict.fromkeys(found)][:2]


def _kind(inputs: Tensor) -> str:
    return f"{tuple(inputs.shape[1:])} of {str(inputs.dtype).removeprefix('torch.')}"
