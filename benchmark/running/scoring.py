"""Scores of an estimate (H, K, Q) against a truth, as result files have them."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from benchmark.base.streams import stream
from benchmark.scores import metrics
from benchmark.scores.results import POINT_DIGITS, Cell, rounded
from benchmark.tasks.questions import Question
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
