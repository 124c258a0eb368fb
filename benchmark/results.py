"""Result files: one for each task and estimator, checked on write and on read, written whole or not at all."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark import PROTOCOL, machine
from benchmark.errors import DamagedFile
from benchmark.files import json_digest, read, write
from benchmark.machine import Provenance
from benchmark.records import Mismatch, decode, encode
from benchmark.registry import Estimator
from benchmark.tasks import Task, record_digest

SCHEMA = 3
DIGITS = 6  # significant ones of what is measured; further ones differ between machines
FAILURES = (
    *("crashed", "bad-shape", "non-finite", "constant", "mutated-inputs", "out-of-memory", "unsolved"),
    *("timeout", "forbidden-access", "non-deterministic"),
)
VERDICTS = ("verified", "differs", "fresh seeds differ", "failed")
STATUSES = ("ok", "unsupported", *FAILURES)


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
    problem: str  # content digests
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
    """The estimator of a result; `identity` is the digest of source and settings."""

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
class Result:
    """All seeds of one estimator on one task, on one class of device."""

    schema: int
    protocol: str
    harness: str  # digest of the source that decides numbers
    task: dict[str, Any]
    task_digest: str
    device: str
    estimator: Described
    cells: dict[str, Cell] = field(default_factory=dict)  # by seed
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    claimed: Claim | None = None  # None: computed by the maintainers
    verified: Verification | None = None

    @property
    def name(self) -> str:
        """Task name, with the device unless it is the usual CPU."""
        return result_name(self.task, self.device)

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
        """Whether the two may hold seeds of one row: same task, device, harness, estimator source and settings."""
        mine, theirs = ((r.task_digest, r.device, r.harness, r.estimator) for r in (self, other))
        return mine == theirs

    def with_cell(self, seed: int, cell: Cell, provenance: Provenance) -> "Result":
        """The result with the cell of `seed` set, seeds in order, provenance no cell refers to left out."""
        cells = dict(sorted({**self.cells, str(seed): cell}.items(), key=lambda item: int(item[0])))
        known = {**self.provenance, cell.provenance: provenance}
        used = {key: known[key] for key in sorted({cell.provenance for cell in cells.values()})}
        return replace(self, cells=cells, provenance=used)


def result_name(task: dict[str, Any], device: str) -> str:
    """Task name, with the device unless it is the usual CPU."""
    return str(task["name"]) + ("" if device == "cpu" else f"-{device}")


def blank(task: Task, device: str, estimator: Estimator) -> Result:
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
    return Result(SCHEMA, PROTOCOL, machine.harness(), task.record(), task.digest(), device, described)


@dataclass(frozen=True)
class Bounds:
    """Ceilings and floors of one seed's truth: name -> H values."""

    truth: str  # its digest
    values: dict[str, list[float | None]]
    references: dict[str, dict[str, float | None]]  # of uses: what random effects and the true ones ("oracle") score
    points: list[float]  # the effects of the pairs that cells keep as `points`, in the same unit


@dataclass(frozen=True)
class Limits:
    """What is known of the truths of one task on one class of device, whoever estimates them: results/<task>.json."""

    schema: int
    protocol: str
    task: dict[str, Any]
    task_digest: str
    device: str
    seeds: dict[str, Bounds] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Task name, with the device unless it is the usual CPU."""
        return result_name(self.task, self.device)

    def with_seed(self, seed: int, bounds: Bounds) -> "Limits":
        """The limits with those of one more seed, seeds in order."""
        seeds = {**self.seeds, str(seed): bounds}
        return replace(self, seeds=dict(sorted(seeds.items(), key=lambda item: int(item[0]))))


def rounded(curve: Iterable[float | None], digits: int = DIGITS) -> list[float | None]:
    """Values to so many significant digits."""
    return [None if value is None else float(f"{value:.{digits}g}") for value in curve]


def no_limits(task: Task, device: str) -> Limits:
    """Limits with no seed yet."""
    return Limits(SCHEMA, PROTOCOL, task.record(), task.digest(), device)


def limits_path(found: Limits, folder: Path) -> Path:
    """results/<task>.json"""
    return folder / f"{found.name}.json"


def limits(blank: Limits, folder: Path) -> Limits:
    """The limits of a task so far: from its file if that is of the same task, else blank. Raises DamagedFile."""
    at = limits_path(blank, folder)
    found = load_limits(at) if at.exists() else blank
    return found if found.task_digest == blank.task_digest else blank


def save_limits(found: Limits, folder: Path) -> None:
    """Write limits with their digest, unless the file has them already."""
    content = encode(found)
    check_limits(content)
    whole = dump({**content, "digest": json_digest(content)}).encode()
    at = limits_path(found, folder)
    if not at.exists() or read(at) != whole:
        write(at, whole)


def load_limits(at: Path) -> Limits:
    """Read and check the limits of a task. Raises DamagedFile where they were cut or edited."""
    found: Limits = _load(at, check_limits)
    return found


def all_limits(folder: Path) -> dict[str, Limits]:
    """All limits under a folder, by name of task and device; each must lie where its content says."""
    found = [(at, load_limits(at)) for at in sorted(folder.glob("*.json"))]
    for at, one in found:
        if at != limits_path(one, folder):
            raise DamagedFile(f"{at} holds the limits of {one.name}: move it to {limits_path(one, folder)}")
    return {one.name: one for _, one in found}


def path(result: Result, folder: Path) -> Path:
    """results/<task>/<estimator>.json, a slash in the name being two -."""
    return folder / result.name / file_name(result.estimator.name)


def file_name(estimator: str) -> str:
    """The file of an estimator's results; names have no two - side by side, so that no two share one."""
    return f"{estimator.replace('/', '--')}.json"


def save(result: Result, folder: Path) -> Path:
    """Write a result with its digest. Raises LoobenchError where it cannot be written, Mismatch where it is not valid."""
    write(at := path(result, folder), packed(result))
    return at


def packed(result: Result) -> bytes:
    """The content of a result's file, with its digest. Raises Mismatch where it is not valid."""
    content = encode(result)
    check(content)
    return dump({**content, "digest": json_digest(content)}).encode()


def load(at: Path) -> Result:
    """Read and check a result. Raises DamagedFile where it was cut, edited, or is of another schema."""
    found: Result = _load(at, check)
    return found


def _load(at: Path, check: Callable[[Any], Any]) -> Any:
    """The checked content of a file of ours with a digest."""
    advice = "restore it (`git checkout` if committed) or move it away, then repeat `loobench run`"
    try:
        content = json.loads(read(at), parse_constant=lambda name: name)
        stated = content.pop("digest", None) if isinstance(content, dict) else None
        result = check(content)
    except (ValueError, RecursionError, OverflowError) as error:
        raise DamagedFile(f"{at} is not a valid result: {error}; {advice}") from error
    if stated != (found := json_digest(content)):
        raise DamagedFile(f"{at} was edited: its digest says {stated}, its content has {found}; {advice}")
    return result


def load_all(folder: Path) -> list[Result]:
    """All results under a folder, in order of path; each must lie where its content says."""
    found = [(at, load(at)) for at in sorted(folder.glob("*/*.json"))]
    for at, result in found:
        if at != path(result, folder):
            raise DamagedFile(
                f"{at} holds the result of {result.name}/{result.estimator.name}: move it to {path(result, folder)}"
            )
    return [result for _, result in found]


def check(content: Any) -> Result:
    """`content` as a Result. Raises Mismatch that says where it is not one."""
    _check_schema(content)
    result: Result = decode(Result, content, "result")
    horizons = result.task.get("horizons")
    if not isinstance(horizons, list) or not all(isinstance(result.task.get(key), str) for key in ("name", "suite", "dtype")):
        raise Mismatch("result.task: expected a task record with name, suite, dtype and horizons")
    if result.task_digest != (found := record_digest(result.task, result.protocol)):
        raise Mismatch(f"result.task_digest: the task record has {found}, got {result.task_digest}")
    if result.verified and result.verified.verdict not in VERDICTS:
        expected = ", ".join(VERDICTS)
        raise Mismatch(f"result.verified.verdict: expected one of {expected}, got {result.verified.verdict!r}")
    for seed, cell in result.cells.items():
        _check_cell(seed, cell, result, len(horizons))
    return result


def check_limits(content: Any) -> Limits:
    """`content` as Limits. Raises Mismatch that says where it is not one."""
    _check_schema(content)
    found: Limits = decode(Limits, content, "limits")
    return found


def _check_schema(content: Any) -> None:
    """Raise Mismatch where a file is of another schema than ours."""
    found = content.get("schema") if isinstance(content, dict) else SCHEMA
    if found != SCHEMA:
        known = isinstance(found, int) and 0 < found < SCHEMA
        advice = "`loobench migrate` rewrites older results" if known else "a newer loobench may read it"
        raise Mismatch(f"expected schema {SCHEMA}, got {found!r} ({advice})")


def _check_cell(seed: str, cell: Cell, result: Result, horizons: int) -> None:
    where = f"result.cells.{seed}"
    if not (seed.isdigit() and str(int(seed)) == seed):
        raise Mismatch(f"{where}: expected a seed number")
    if cell.status not in STATUSES:
        raise Mismatch(f"{where}.status: expected one of {', '.join(STATUSES)}, got {cell.status!r}")
    if cell.provenance not in result.provenance:
        raise Mismatch(f"{where}.provenance: expected a key of result.provenance, got {cell.provenance!r}")
    if bool(cell.scores) != (cell.status == "ok"):
        raise Mismatch(f"{where}: expected scores where the status is ok, and only there")
    if bad := [name for name, values in cell.scores.items() if len(values) != horizons]:
        raise Mismatch(f"{where}.scores: expected {horizons} horizons, got another number for {', '.join(bad)}")


def dump(value: Any, depth: int = 3) -> str:
    """JSON with one line for each entry of the first `depth` levels: readable, and small differences stay small."""
    return _lines(value, depth, "") + "\n"


def _lines(value: Any, depth: int, indent: str) -> str:
    if not isinstance(value, dict) or not value or not depth:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    deeper = indent + " "
    entries = (f"{deeper}{json.dumps(key)}: {_lines(item, depth - 1, deeper)}" for key, item in value.items())
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
