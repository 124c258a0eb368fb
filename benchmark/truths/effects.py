"""The record of a truth: exact effects, what they took, and how exact they are."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from benchmark.base.files import tensor_digest


def largest(floors: Iterable[float | None]) -> float | None:
    """The largest of those that are defined; None where none is."""
    return max((floor for floor in floors if floor is not None), default=None)


@dataclass(frozen=True)
class Noise:
    """How far a truth in float32 or from a GPU is from the same retrained, over the standard deviation of the effects.

    Root mean square of the difference over `samples` of its samples, mean over queries, at the worst horizon; queries that no
    sample has an effect on are left out, and None says that there is no other.
    """

    repeat: float | None  # on the same device in the same precision, sums taken in another order
    float64: float | None  # on the same device in float64
    samples: int


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Exact effects: ``effect[h, m, q]`` = loss of query q without the m-th sample, or group, minus with it, at horizon h."""

    effect: Tensor  # (H, M, Q)
    seconds: float  # of one thread, or of the GPU, for the retraining
    gradients: int  # per-sample gradients it took
    machine: str = ""  # where it was timed
    noise: Noise | None = None  # None: float64 on a CPU
    removed: Tensor | None = None  # (M, N) bool, the members of each group; None: the samples asked, one at a time
    repeats: Tensor | None = None  # (R, H, M, Q) where the effect is their mean
    limits: dict[str, list[float | None]] = field(default_factory=dict)  # ceilings and floors, at each horizon
    origin: str = ""  # the data set, and its revision, that it was taken from; "": computed here

    def predicted(self, estimate: Tensor) -> Tensor:
        """What an estimate for single samples says of each group: the sum over its members. (H, N, Q) -> (H, M, Q)

        An estimate of one horizon is the same for all.
        """
        single = estimate if self.removed is None else self.removed.to(estimate) @ estimate
        return single.expand(len(self.effect), *single.shape[1:])

    def digest(self) -> str:
        """Content digest of the effects."""
        return tensor_digest([self.effect])
