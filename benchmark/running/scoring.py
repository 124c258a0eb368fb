"""Scores of estimates (H, K, Q) against a truth, as result files have them; fresh ones, and those that the cache has kept."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmark.base.errors import DamagedFile
from benchmark.base.files import read_tensors, tensor_digest, write_tensors
from benchmark.base.streams import stream
from benchmark.scores import metrics
from benchmark.scores.results import POINT_DIGITS, Cell, Result, rounded
from benchmark.scores.store import Store, load
from benchmark.tasks.questions import Question, asked_of
from benchmark.truths import truth
from benchmark.truths.effects import GroundTruth

Scores = dict[str, list[float | None]]  # name -> H values
POINTS = 50  # pairs (sample, query) whose estimate and effect are kept to be looked at


def measured(cell: Cell, effect: Tensor, exact: GroundTruth, asked: type[Question], seed: int, *, loss_units: bool) -> Cell:
    """The cell with what an estimate scores; scores of other names stay."""
    return replace(
        cell,
        scores=cell.scores | scores(effect, exact, asked.units and loss_units),
        by_query=ranking(effect, exact, asked),
        points=points(exact.predicted(effect), exact, seed),
    )


def scores(effect: Tensor, exact: GroundTruth, units: bool) -> Scores:
    """The metrics of an estimate."""
    found = metrics.scores(exact.predicted(effect), exact.effect, units=units)
    return {name: rounded(curve) for name, curve in found.items()}


def ranking(effect: Tensor, exact: GroundTruth, asked: type[Question]) -> list[float | None]:
    """Of each query, the score of an estimate that ranks it."""
    metric = metrics.METRICS[asked.primary]
    return rounded(metrics.ranking(exact.predicted(effect), exact.effect, metric, throughout=asked.throughout))


def points(effect: Tensor, exact: GroundTruth, seed: int) -> list[float]:
    """Some of the effects (H, M, Q) at the last horizon, over the standard deviation of the true ones; the same for all."""
    spread = exact.effect[-1].std(correction=0).item()
    chosen = stream("points", seed).permutation(exact.effect[-1].numel())[:POINTS]
    values = effect[-1].flatten()[np.sort(chosen)] / spread
    return [value for value in rounded(values.tolist(), POINT_DIGITS) if value is not None] if spread else []


# ---- estimates in the cache, and scores anew -------------------------------------------------------------------------
def estimate_path(digest: str, cache: Path) -> Path:
    """Where a raw estimate is kept, named by its content."""
    return cache / "estimates" / f"{digest}.safetensors"


def keep(effect: Tensor, cache: Path) -> str:
    """Keep a raw estimate; returns its digest."""
    digest = tensor_digest([effect])
    write_tensors(estimate_path(digest, cache), {"effect": effect})
    return digest


def kept(digest: str, cache: Path) -> Tensor | None:
    """The raw estimate of that digest; None where it is not there, or not what its name says."""
    at = estimate_path(digest, cache)
    try:
        tensor = read_tensors(at)[0]["effect"] if at.exists() else None
    except (DamagedFile, KeyError):
        return None
    return tensor if tensor is not None and tensor_digest([tensor]) == digest else None


def rescore(result: Result, store: Store, cache: Path, seeds: Iterable[str] | None = None) -> tuple[Result, dict[str, str]]:
    """Compute the metrics of a result of a store, or of some of its seeds, anew.

    Returns the result as its file now has it, and the seeds that are left as they are, each with what the cache lacks for it.
    """
    chosen = result.cells if seeds is None else {seed: result.cells[seed] for seed in seeds}
    fresh = {seed: _rescored(result, seed, cell, cache) for seed, cell in chosen.items() if cell.status == "ok"}
    changed = {seed: cell for seed, cell in fresh.items() if isinstance(cell, Cell) and cell != result.cells[seed]}
    updated = _exchanged(store, result, changed) if changed else result
    return updated, {seed: lacking for seed, lacking in fresh.items() if isinstance(lacking, str)}


def _exchanged(store: Store, before: Result, changed: Mapping[str, Cell]) -> Result:
    """Put cells into a result file in the place of those of `before`; what others have changed since stays."""
    with store.lock(at := store.at(before)):
        now = load(at)
        mine = {seed: cell for seed, cell in changed.items() if now.cells.get(seed) == before.cells[seed]}
        store.keep(updated := replace(now, cells={**now.cells, **mine}))
    return updated


def _rescored(result: Result, seed: str, cell: Cell, cache: Path) -> Cell | str:
    """The cell with its scores computed anew, but those of uses, which took training; or what the cache lacks for that."""
    found = kept(cell.estimate, cache)
    exact = truth.kept(result.task_digest, int(seed), cache, result.device)
    if found is None or exact is None:
        return " and ".join(["no estimate"] * (found is None) + ["no truth"] * (exact is None)) + " in the cache"
    if exact.digest() != cell.truth:
        return "another truth in the cache than the one it was scored against"
    return measured(cell, found, exact, asked_of(result.task), int(seed), loss_units=result.estimator.loss_units)
