"""What a file of results or of limits must hold."""

from collections.abc import Iterable
from math import inf
from statistics import fmean
from typing import Any, TypeVar

from benchmark.base.records import Mismatch, decode
from benchmark.scores.metrics import METRICS
from benchmark.scores.results import SCHEMA, STATUSES, VERDICTS, Cell, Limits, Result
from benchmark.tasks.definition import record_digest
from benchmark.tasks.questions import QUESTIONS, LeaveOneOut, asked_of

Record = TypeVar("Record", Result, Limits)
ROUNDING = 1e-5  # how far a mean may be from that of its rounded parts
TEXTS = ("name", "suite", "dataset", "model", "dtype", "queries")  # of a task's record, which tables and pages show
ASKED = ("each", "mean")  # queries


def check(content: Any, kind: type[Record]) -> Record:
    """`content` as a Result or Limits. Raises Mismatch that says where it is not one."""
    _check_schema(content)
    name = kind.__name__.lower()
    found: Record = decode(kind, content, name)
    horizons = _checked_task(found, name)
    if isinstance(found, Result):
        _check_result(found, horizons)
    else:
        for seed in found.seeds:
            _check_seed(f"limits.seeds.{seed}", seed)
    return found


def _check_result(result: Result, horizons: int) -> None:
    if result.verified and result.verified.verdict not in VERDICTS:
        expected = ", ".join(VERDICTS)
        raise Mismatch(f"result.verified.verdict: expected one of {expected}, got {result.verified.verdict!r}")
    for seed, cell in result.cells.items():
        _check_cell(seed, cell, result, horizons)


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
