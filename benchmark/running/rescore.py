"""Results whose scores are computed anew from estimates and truths that the cache has kept."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from benchmark.running import estimates
from benchmark.running.scoring import measured
from benchmark.scores.results import Cell, Result
from benchmark.scores.store import Store, load
from benchmark.tasks.questions import asked_of
from benchmark.truths import truth


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
    found = estimates.find(cell.estimate, cache)
    exact = truth.kept(result.task_digest, int(seed), cache, result.device)
    if found is None or exact is None:
        return " and ".join(["no estimate"] * (found is None) + ["no truth"] * (exact is None)) + " in the cache"
    if exact.digest() != cell.truth:
        return "another truth in the cache than the one it was scored against"
    return measured(cell, found, exact, asked_of(result.task), int(seed), loss_units=result.estimator.loss_units)
