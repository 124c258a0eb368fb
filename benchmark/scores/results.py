"""The records of results: what one estimator did on one task, and what is known of a task's truths."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import floor, log10
from typing import Any, TypeVar

from benchmark import PROTOCOL
from benchmark.base.files import json_digest
from benchmark.base.machine import Provenance
from benchmark.base.records import encode
from benchmark.core.declaration import Estimator
from benchmark.tasks.definition import AnyTask

SCHEMA = 4
SHORT = 16
DIGITS = 6  # significant ones of what is measured; further ones differ between machines
POINT_DIGITS = 3  # of the effects that are kept to be looked at
NEAR_ZERO = 1e-6  # a difference that is rounding, of what is itself near 0, as noise is
FAILURES = (
    *("crashed", "bad-shape", "non-finite", "constant", "mutated-inputs", "out-of-memory", "unsolved"),
    *("timeout", "forbidden-access", "non-deterministic"),
)
VERDICTS = ("verified", "differs", "fresh seeds differ", "failed", "cost differs")
STATUSES = ("ok", "unsupported", *FAILURES)

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """What one estimator did on one seed of a task; `seconds`, `memory` and counts are for the last horizon's estimate."""

    status: str
    message: str
    scores: dict[str, list[float | None]]  # metric -> H values, each the mean over queries
    by_query: list[float | None]  # (Q,) the score that ranks, whose mean over seeds and queries the board shows; or not known
    points: list[float]  # the estimate of some pairs (sample, query) over the truth's standard deviation; or not known
    seconds: float
    exact_seconds: float  # of exact leave-one-out, same machine and threads
    relative_cost: float  # seconds / exact_seconds
    gradients: int
    hessian_products: int
    memory: int | None  # most bytes at once beyond what was there before; None where not measured
    exact_gradients: int
    notes: dict[str, float]  # of solvers: the largest residual, most iterations, share not converged
    problem: str  # content digests; of what a task and seed give anyhow, the first SHORT digits, older results all
    trajectory: str
    truth: str
    estimate: str
    weight_decay: float  # of the problem, which may have chosen it by cross-validation
    provenance: str  # key of Result.provenance

    @property
    def failed(self) -> bool:
        return self.status in FAILURES


@dataclass(frozen=True)
class Described:
    """The estimator of a result; `source`: digest of what its file computes; `identity`: of name, settings and source."""

    name: str
    settings: dict[str, Any]
    paper: str
    source: str
    identity: str
    loss_units: bool
    tuned_on: str
    interpretation: bool
    version: str = "1"  # of the estimator, which rises where a published score changes


@dataclass(frozen=True)
class Claim:
    """What the submitter of a result says of it."""

    value: float | None  # mean over seeds and queries of the score that ranks
    by: str
    when: str  # UTC, ISO 8601
    environment: str  # system, processor, Python and torch


@dataclass(frozen=True)
class Verification:
    """What computing a result again gave, by somebody who need not trust its submitter (docs/submitting.md)."""

    verdict: str  # one of VERDICTS
    value: float | None  # mean over the seeds computed again of the score that ranks
    fresh: float | None  # the same over seeds drawn from the nonce, which the submitter cannot have seen
    largest_difference: float | None  # between a claimed score of a query and the one computed again
    seeds: list[str]  # those computed again
    nonce: str
    by: str
    when: str  # UTC, ISO 8601
    environment: str
    of: str  # digest of what was verified: `Result.substance`


@dataclass(frozen=True)
class OfTask:
    """What begins each file of results: the task that it is of, on one class of device."""

    schema: int
    protocol: str
    task: dict[str, Any]
    task_digest: str
    device: str

    @property
    def name(self) -> str:
        """Task name, with the device unless it is the usual CPU."""
        return result_name(self.task, self.device)


@dataclass(frozen=True)
class Result(OfTask):
    """All seeds of one estimator on one task, on one class of device."""

    estimator: Described
    cells: dict[str, Cell] = field(default_factory=dict)  # by seed
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    claimed: Claim | None = None  # None: computed by the maintainers
    verified: Verification | None = None

    @property
    def file(self) -> str:
        """Where it lies in a folder of results."""
        return f"{self.name}/{file_name(self.estimator.name)}"

    @cached_property
    def digest(self) -> str:
        """Digest of its content."""
        return json_digest(encode(self))

    @property
    def substance(self) -> str:
        """Digest of all but what is said of it: claims and verifications."""
        return json_digest(encode(replace(self, claimed=None, verified=None)))

    @property
    def trusted(self) -> bool:
        """Whether the maintainers computed it, or verified it as it is now."""
        found = self.verified
        return self.claimed is None or (found is not None and found.verdict == "verified" and found.of == self.substance)

    def same_question(self, other: "Result") -> bool:
        """Whether the two may hold seeds of one row: same task, device, protocol, estimator source and settings."""
        mine, theirs = ((r.task_digest, r.device, r.protocol, r.estimator) for r in (self, other))
        return mine == theirs

    def with_cell(self, seed: int, cell: Cell, provenance: Provenance) -> "Result":
        """The result with the cell of `seed` set, seeds in order, provenance no cell refers to left out."""
        cells = _in_order({**self.cells, str(seed): cell})
        known = {**self.provenance, cell.provenance: provenance}
        used = {key: known[key] for key in sorted({cell.provenance for cell in cells.values()})}
        return replace(self, cells=cells, provenance=used)


def result_name(task: dict[str, Any], device: str) -> str:
    """Task name, with the device unless it is the usual CPU."""
    return str(task["name"]) + ("" if device == "cpu" else f"-{device}")


def blank(task: AnyTask, device: str, estimator: Estimator) -> Result:
    """The result with no seed yet."""
    described = Described(
        estimator.name,
        json.loads(json.dumps(estimator.settings)),
        estimator.paper,
        estimator.source,
        estimator.identity(),
        estimator.loss_units,
        estimator.tuned_on,
        estimator.interpretation,
        estimator.version,
    )
    return Result(SCHEMA, PROTOCOL, task.record(), task.digest(), device, described)


@dataclass(frozen=True)
class Bounds:
    """Ceilings and floors of one seed's truth: name -> H values."""

    truth: str  # its digest
    values: dict[str, list[float | None]]
    references: dict[str, dict[str, float | None]]  # of uses: what random effects and the true ones ("oracle") score
    points: list[float]  # the effects of the pairs that cells keep as `points`, in the same unit

    def agrees(self, other: "Bounds") -> bool:
        """Whether the other has the same figures, each within one of its last digit or 1e-6, whatever the bits of its truth.

        Points that one of them does not have, as older files, are no difference.
        """
        mine, theirs = ((one.values, one.references) for one in (self, other))
        known = self.points and other.points
        return _agree([*mine], [*theirs], DIGITS) and (not known or _agree(self.points, other.points, POINT_DIGITS))


def _agree(one: Any, other: Any, digits: int) -> bool:
    """Whether two figures of so many digits, or all in two lists or dictionaries, differ by no more than one of the last."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_agree(one[key], other[key], digits) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(_agree(a, b, digits) for a, b in zip(one, other, strict=True))
    if one is None or other is None:
        return one is other
    return bool(abs(one - other) <= max(NEAR_ZERO, 1.01 * last_digit(max(abs(one), abs(other)), digits)))


def last_digit(value: float, digits: int) -> float:
    """What one unit of the last of so many significant digits is worth; 0 of 0."""
    return 10.0 ** (floor(log10(value)) + 1 - digits) if value else 0.0


@dataclass(frozen=True)
class Limits(OfTask):
    """What is known of the truths of one task on one class of device, whoever estimates them: results/<task>.json."""

    seeds: dict[str, Bounds] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Where they lie in a folder of results."""
        return f"{self.name}.json"

    def same_question(self, other: "Limits") -> bool:
        """Whether the two may hold seeds of one task."""
        return self.task_digest == other.task_digest

    def with_seed(self, seed: int, bounds: Bounds) -> "Limits":
        """The limits with those of one more seed, seeds in order."""
        return replace(self, seeds=_in_order({**self.seeds, str(seed): bounds}))


def _in_order(seeds: dict[str, T]) -> dict[str, T]:
    """What is known of each seed, by its number."""
    return dict(sorted(seeds.items(), key=lambda item: int(item[0])))


def rounded(curve: Iterable[float | None], digits: int = DIGITS) -> list[float | None]:
    """Values to so many significant digits."""
    return [None if value is None else float(f"{value:.{digits}g}") for value in curve]


def no_limits(task: AnyTask, device: str) -> Limits:
    """Limits with no seed yet."""
    return Limits(SCHEMA, PROTOCOL, task.record(), task.digest(), device)


def file_name(estimator: str) -> str:
    """The file of an estimator's results; names have no two - side by side, so that no two share one."""
    return f"{estimator.replace('/', '--')}.json"
