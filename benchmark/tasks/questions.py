"""What is asked of a trained model, as frozen records: which samples go, what is trained again, what the answer is used for."""

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol

from benchmark.base.errors import LoobenchError
from benchmark.core import optimizers
from benchmark.core.optimizers import Adam, Muon, Optimizer, Sgd


class Question(Protocol):
    """Which truth estimates are scored against; `primary` is the metric that ranks them."""

    kind: ClassVar[str]
    primary: ClassVar[str]
    throughout: ClassVar[bool]  # whether its mean over horizons ranks them; else its value at the last
    units: ClassVar[bool]  # whether estimates in units of loss are meant for it, so that their size is scored too

    def check(self, samples: int) -> None:
        """Raise LoobenchError where the question cannot be asked of N samples."""


@dataclass(frozen=True)
class LeaveOneOut:
    """Train again without each sample, one at a time."""

    kind: ClassVar[str] = "leave-one-out"
    primary: ClassVar[str] = "kendall"
    throughout: ClassVar[bool] = False
    units: ClassVar[bool] = True

    def check(self, samples: int) -> None:
        """Nothing to check."""


@dataclass(frozen=True)
class Subsets:
    """Train on `count` random subsets that keep a part of the samples, from `repeats` initial parameters each.

    The effect of what a subset lacks is the loss on the subset minus the loss on all, the mean over the initial parameters, the
    first of which are the run's own. An additive estimate predicts the sum over the samples that are missing: its Spearman
    correlation over subsets is the linear datamodeling score (Park et al. 2023, arXiv:2303.14186, definition 2.3).
    """

    keep: float
    count: int = 100
    repeats: int = 4
    kind: ClassVar[str] = "subsets"
    primary: ClassVar[str] = "spearman"
    throughout: ClassVar[bool] = False
    units: ClassVar[bool] = True

    def check(self, samples: int) -> None:
        """Subsets must lack something and keep something, and halves of the repeats must be there to compare."""
        if not 0 < self.keep < 1 or not 0 < round(self.keep * samples) < samples:
            raise LoobenchError(f"subsets must keep 1 to {samples - 1} of {samples} samples, got a part of {self.keep}")
        if self.count < 3 or self.repeats < 2:
            raise LoobenchError(f"subsets: expected 3 or more, from 2 or more starts, got {self.count} and {self.repeats}")


@dataclass(frozen=True)
class FurtherTraining:
    """Train the final model further, with and without each sample, on the same batches; the mean over `repeats` orders.

    The effect is the loss after training further without a sample minus that after training further with all (Wei et al. 2025,
    arXiv:2412.03906, eq. 17). Estimators see the final model alone. `horizons`, epochs of further training, are the task's.
    """

    optimizer: Optimizer
    horizons: tuple[int, ...]
    repeats: int
    kind: ClassVar[str] = "further-training"
    primary: ClassVar[str] = "cosine"
    throughout: ClassVar[bool] = True
    units: ClassVar[bool] = False

    @property
    def epochs(self) -> int:
        """Epochs of further training."""
        return self.horizons[-1]

    def check(self, samples: int) -> None:  # noqa: ARG002
        """Halves of the repeats must be there to compare."""
        if self.repeats < 2:
            raise LoobenchError(f"further training: expected 2 or more orders, got {self.repeats}")


@dataclass(frozen=True)
class Uses:
    """What the effects on the mean query are put to, each judged on the test split by really training again.

    Cleansing: without the k most harmful, for each k of `drop`. Coreset: with the most helpful part, for each of `keep`.
    Deletion: `groups` of each of the sizes in `delete`, as many random as clustered. `draws`: fresh starts and orders for
    cleansing, and random choices to compare with.
    """

    drop: tuple[int, ...] = (1, 3, 10, 30, 100)
    keep: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    delete: tuple[int, ...] = (2, 5, 10, 20, 50)
    groups: int = 8
    draws: int = 4

    def check(self, samples: int) -> None:
        """No more may be removed than there is, and something must stay."""
        sizes = (*self.drop, *self.delete)
        if bad := [size for size in sizes if not 1 <= size < samples]:
            raise LoobenchError(f"uses: 1 to {samples - 1} of {samples} samples can be removed, got {bad[0]}")
        percents = tuple(round(100 * part) for part in self.keep)
        if (
            any(not grid or len({*grid}) < len(grid) for grid in (self.drop, percents, self.delete))
            or min(self.groups, self.draws) < 1
        ):
            raise LoobenchError(f"uses: expected sizes and percentages that differ, and groups and draws, got {self}")
        if not all(0 < round(part * samples) < samples for part in self.keep):
            raise LoobenchError(f"uses: a coreset keeps 1 to {samples - 1} of {samples} samples, got parts {self.keep}")


def record(asked: Any) -> dict[str, Any]:
    """A question as a JSON value."""
    content = asdict(asked)
    for field in fields(asked):
        value = getattr(asked, field.name)
        if isinstance(value, Sgd | Adam | Muon):
            content[field.name] = optimizers.record(value)
        if isinstance(value, tuple):
            content[field.name] = list(value)
    return {"kind": asked.kind, **content} if hasattr(asked, "kind") else content


QUESTIONS: dict[str, type[Question]] = {asked.kind: asked for asked in (LeaveOneOut, Subsets, FurtherTraining)}


def asked_of(task: dict[str, Any]) -> type[Question]:
    """The kind of question of a task's record."""
    return QUESTIONS[task.get("truth", {}).get("kind", LeaveOneOut.kind)]
