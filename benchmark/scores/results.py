"""Result files: one for each task and estimator, checked on write and on read, written whole or not at all."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import floor, inf, log10
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmark import PROTOCOL
from benchmark.base.errors import DamagedFile
from benchmark.base.files import LOCKS, json_digest, locked, read, sweep, write
from benchmark.base.machine import Provenance
from benchmark.base.places import MANIFEST
from benchmark.base.records import Mismatch, decode, encode
from benchmark.core.declaration import Estimator
from benchmark.scores.metrics import METRICS
from benchmark.scores.placement import Held, expect_one_each, expect_places, json_files
from benchmark.tasks.definition import Task, record_digest
from benchmark.tasks.questions import QUESTIONS, LeaveOneOut, asked_of

SCHEMA = 4
SHORT = 16
DIGITS = 6  # significant ones of what is measured; further ones differ between machines
POINT_DIGITS = 3  # of the effects that are kept to be looked at
NEAR_ZERO = 1e-6  # a difference that is rounding, of what is itself near 0, as noise is
FAILURES = (
    *("crashed", "bad-shape", "non-finite", "constant", "mutated-inputs", "out-of-memory", "unsolved"),
    *("timeout", "forbidden-access", "non-deterministic"),
)
ROUNDING = 1e-5  # how far a mean may be from that of its rounded parts
TEXTS = ("name", "suite", "dataset", "model", "dtype", "queries")  # of a task's record, which tables and pages show
ASKED = ("each", "mean")  # queries
VERDICTS = ("verified", "differs", "fresh seeds differ", "failed", "cost differs")
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
class Result:
    """All seeds of one estimator on one task, on one class of device."""

    schema: int
    protocol: str
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
        """Whether the two may hold seeds of one row: same task, device, protocol, estimator source and settings."""
        mine, theirs = ((r.task_digest, r.device, r.protocol, r.estimator) for r in (self, other))
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
    files = limit_files(folder)
    if copies := [at for at in files if at.name.startswith(Path(MANIFEST).stem)]:
        raise DamagedFile(f"{copies[0]} is a copy of {MANIFEST}, which `loobench report` writes: move it out of {folder}")
    found = [(at, load_limits(at)) for at in files]
    expect_places([_held(at, one, folder) for at, one in found])
    return {one.name: one for _, one in found}


def limit_files(folder: Path) -> list[Path]:
    """The files of limits in a folder, in order."""
    return [at for at in json_files(folder, "*.json") if at.name != MANIFEST]


def result_files(folder: Path) -> list[Path]:
    """The files of results under a folder, in order."""
    return json_files(folder, "*/*.json")


def path(result: Result, folder: Path) -> Path:
    """results/<task>/<estimator>.json, a slash in the name being two -."""
    return folder / result.name / file_name(result.estimator.name)


def file_name(estimator: str) -> str:
    """The file of an estimator's results; names have no two - side by side, so that no two share one."""
    return f"{estimator.replace('/', '--')}.json"


@contextmanager
def changing(at: Path, folder: Path) -> Iterator[None]:
    """Hold the lock of a file in a folder of results: whatever reads, changes and writes it does so inside."""
    with locked(folder / LOCKS / f"{'--'.join(at.relative_to(folder).parts)}.lock"):
        sweep(at)
        yield


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
    return parse(read(at), str(at))


def parse(content: bytes, name: str) -> Result:
    """The bytes of a result file as a Result. Raises DamagedFile, which calls it `name`, as `load` does."""
    found: Result = _parse(content, name, check)
    return found


def _load(at: Path, check: Callable[[Any], Any]) -> Any:
    """The checked content of a file of ours with a digest."""
    return _parse(read(at), str(at), check)


def _parse(whole: bytes, name: str, check: Callable[[Any], Any]) -> Any:
    """The checked content of a file of ours with a digest."""
    advice = "restore it (`git checkout` if committed) or move it away, then repeat `loobench run`"
    try:
        content = json.loads(whole, parse_constant=lambda name: name)
        stated = content.pop("digest", None) if isinstance(content, dict) else None
        found = json_digest(content)
        if isinstance(content, dict) and stated != found:
            raise DamagedFile(f"{name} was edited: its digest says {stated!s:.100}, its content has {found}; {advice}")
        json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair is no text, and no page could have it
        return check(content)
    except (ValueError, RecursionError, OverflowError) as error:
        raise DamagedFile(f"{name} is not a valid result: {error!s:.500}; {advice}") from error


def load_all(folder: Path) -> list[Result]:
    """All results under a folder, in order of path; each must lie where its content says."""
    found = [(at, load(at)) for at in result_files(folder)]
    expect_places([_held(at, one, folder) for at, one in found])
    return [result for _, result in found]


def refuse_copies(at: Path, result: Result, folder: Path) -> None:
    """Raise DamagedFile where other files of the folder's task hold the result, too, as a synchronising program leaves them."""
    meant, found = path(result, folder), [(at, result)]
    for other in json_files(folder / result.name, "*.json"):
        with suppress(DamagedFile):  # who reads that one will be told
            found += [(other, load(other))] * (other != at)
    expect_one_each(_held(at, one, folder) for at, one in found if path(one, folder) == meant)


def _held(at: Path, one: Result | Limits, folder: Path) -> Held:
    meant, seeds = (path(one, folder), "cells") if isinstance(one, Result) else (limits_path(one, folder), "seeds")
    rest = {name: value for name, value in vars(one).items() if name != seeds}
    return Held(at, meant, getattr(one, seeds), rest)


def check(content: Any) -> Result:
    """`content` as a Result. Raises Mismatch that says where it is not one."""
    _check_schema(content)
    result: Result = decode(Result, content, "result")
    horizons = _checked_task(result, "result")
    if result.verified and result.verified.verdict not in VERDICTS:
        expected = ", ".join(VERDICTS)
        raise Mismatch(f"result.verified.verdict: expected one of {expected}, got {result.verified.verdict!r}")
    for seed, cell in result.cells.items():
        _check_cell(seed, cell, result, horizons)
    return result


def _checked_task(of: Result | Limits, name: str) -> int:
    """The number of horizons of a task's record. Raises Mismatch where it lacks what is shown of it, or has another digest."""
    task, where = of.task, f"{name}.task"
    horizons, truth = task.get("horizons"), task.get("truth", {"kind": LeaveOneOut.kind})
    whole = isinstance(horizons, list) and horizons and all(type(one) is int for one in horizons)
    known = isinstance(truth, dict) and truth.get("kind") in [*QUESTIONS] and task.get("queries") in ASKED
    texts = all(isinstance(task.get(key), str) for key in TEXTS) and isinstance(task.get("query"), int)
    if not (whole and known and texts):
        fields = f"{', '.join(TEXTS)}, query, horizons, queries {' or '.join(ASKED)}, and a known kind of truth"
        raise Mismatch(f"{where}: expected a task record with {fields}")
    if of.task_digest != (found := record_digest(task, of.protocol)):
        raise Mismatch(f"{name}.task_digest: the task record has {found}, got {of.task_digest}")
    return len(horizons)  # type: ignore[arg-type]


def check_limits(content: Any) -> Limits:
    """`content` as Limits. Raises Mismatch that says where it is not one."""
    _check_schema(content)
    found: Limits = decode(Limits, content, "limits")
    _checked_task(found, "limits")
    for seed in found.seeds:
        _check_seed(f"limits.seeds.{seed}", seed)
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
    _check_seed(where, seed)
    if cell.status not in STATUSES:
        raise Mismatch(f"{where}.status: expected one of {', '.join(STATUSES)}, got {cell.status!r}")
    if cell.provenance not in result.provenance:
        raise Mismatch(f"{where}.provenance: expected a key of result.provenance, got {cell.provenance!r}")
    if bool(cell.scores) != (cell.status == "ok"):
        raise Mismatch(f"{where}: expected scores where the status is ok, and only there")
    if bad := [name for name, values in cell.scores.items() if len(values) != horizons]:
        raise Mismatch(f"{where}.scores: expected {horizons} horizons, got another number for {', '.join(bad)}")
    _check_numbers(where, cell)
    _check_ranking(where, cell, result.task)


def _check_seed(where: str, seed: str) -> None:
    if not (seed.isdecimal() and str(int(seed)) == seed):
        raise Mismatch(f"{where}: expected a seed number")


def _check_numbers(where: str, cell: Cell) -> None:
    """Raise Mismatch for counts that cannot be, a cost that is not its parts', and scores outside their metric's range."""
    counts = ("seconds", "exact_seconds", "relative_cost", "gradients", "hessian_products", "memory")
    if bad := [name for name in counts if (getattr(cell, name) or 0) < 0]:
        raise Mismatch(f"{where}.{bad[0]}: expected 0 or more, got {getattr(cell, bad[0])}")
    if cell.exact_gradients < 1 or cell.exact_seconds <= 0:
        raise Mismatch(f"{where}: expected exact_gradients and exact_seconds above 0")
    off, cost = abs(cell.seconds / cell.exact_seconds - cell.relative_cost), cell.relative_cost
    if off > 1e-6 + 1e-6 / cell.exact_seconds + 1e-4 * cost:  # seconds and costs may have six decimals only
        raise Mismatch(f"{where}.relative_cost: expected seconds / exact_seconds, got {cost}")
    for name, curve in cell.scores.items():
        _check_range(f"{where}.scores.{name}", name, curve)


def _check_range(where: str, metric: str, values: Iterable[float | None]) -> None:
    """Raise Mismatch where a value of a metric lies outside its range."""
    known = METRICS.get(metric)
    ends = sorted((known.best, known.worst)) if known else (-inf, inf)
    if bad := [value for value in values if value is not None and not ends[0] <= value <= ends[1]]:
        raise Mismatch(f"{where}: expected {ends[0]} to {ends[1]}, got {bad[0]}")


def _check_ranking(where: str, cell: Cell, task: dict[str, Any]) -> None:
    """Raise Mismatch where the scores by query are not those whose mean over queries the curve of the same metric has."""
    asked, known = asked_of(task), [value for value in cell.by_query if value is not None]
    queries = 1 if task["queries"] == "mean" else task["query"]
    if cell.by_query and len(cell.by_query) != queries:
        raise Mismatch(f"{where}.by_query: expected {queries} queries, got {len(cell.by_query)}")
    _check_range(f"{where}.by_query", asked.primary, known)
    curve = cell.scores.get(asked.primary, [None])[0 if asked.throughout else -1 :]
    found = [value for value in curve if value is not None]
    if not known or len(known) < len(cell.by_query) or len(found) < len(curve):
        return
    if abs(fmean(known) - fmean(found)) > ROUNDING:
        raise Mismatch(f"{where}.by_query: expected the mean {fmean(found):.6g} of {asked.primary}, got {fmean(known):.6g}")


def dump(value: Any, depth: int = 3) -> str:
    """JSON with one line for each entry of the first `depth` levels: readable, and small differences stay small."""
    return _lines(value, depth, "") + "\n"


def _lines(value: Any, depth: int, indent: str) -> str:
    if not isinstance(value, dict) or not value or not depth:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    deeper = indent + " "
    entries = (f"{deeper}{json.dumps(key)}: {_lines(item, depth - 1, deeper)}" for key, item in value.items())
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
