"""How well an estimate (N,) ranks and measures the true effects (N,) of one query."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """`value(estimate, truth)`, its best and worst value, and whether it needs an estimate in units of loss."""

    name: str
    value: Callable[[Values, Values], float]
    best: float
    worst: float
    about: str
    units: bool = False


def rmse(estimate: Values, truth: Values) -> float:
    """Root of the mean squared difference."""
    return float(np.sqrt(np.mean((estimate - truth) ** 2)))


def relative_rmse(estimate: Values, truth: Values) -> float:
    """RMSE over the standard deviation of the truth: 1 is what predicting the mean would get."""
    return rmse(estimate, truth) / float(np.std(truth))


def cosine(estimate: Values, truth: Values) -> float:
    """``<estimate, truth> / (|estimate| |truth|)``."""
    one, other = (values / np.abs(values).max() for values in (estimate, truth))  # their squares must not vanish
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def sign_agreement(estimate: Values, truth: Values) -> float:
    """Share of samples whose estimate has the sign of the truth."""
    return float(np.mean(np.sign(estimate) == np.sign(truth)))


def jaccard(low_and_high: Callable[[int], int]) -> Callable[[Values, Values], float]:
    """Jaccard index of the k lowest and k highest of estimate and truth united, k = low_and_high(N)."""

    def value(estimate: Values, truth: Values) -> float:
        ours, theirs = (extremes(values, low_and_high(len(truth))) for values in (estimate, truth))
        return len(ours & theirs) / len(ours | theirs)

    return value


def extremes(values: Values, k: int) -> set[int]:
    """The numbers of the k lowest and the k highest values; ties go by sample number."""
    order = np.argsort(values, kind="stable")
    return {*order[:k].tolist(), *order[len(order) - k :].tolist()}


def half(percent: int) -> Callable[[int], int]:
    """Half of `percent` of N samples, at least 1: as in the code of ACC-SGD-IE."""
    return lambda samples: max(1, round(samples * percent / 200))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("kendall", lambda e, t: float(stats.kendalltau(e, t).statistic), 1, -1, "Kendall tau-b"),
        Metric("spearman", lambda e, t: float(stats.spearmanr(e, t).statistic), 1, -1, "Spearman rank correlation"),
        Metric("pearson", lambda e, t: float(stats.pearsonr(e, t).statistic), 1, -1, "Pearson correlation"),
        Metric("cosine", cosine, 1, -1, "cosine of the angle between estimate and truth"),
        Metric("sign_agreement", sign_agreement, 1, 0, "share of samples with the right sign"),
        Metric("jaccard_10", jaccard(half(10)), 1, 0, "overlap of the lowest 5 % and highest 5 %"),
        Metric("jaccard_30", jaccard(half(30)), 1, 0, "overlap of the lowest 15 % and highest 15 %"),
        Metric("jaccard_50", jaccard(half(50)), 1, 0, "overlap of the lowest 25 % and highest 25 %"),
        Metric("jaccard_70", jaccard(half(70)), 1, 0, "overlap of the lowest 35 % and highest 35 %"),
        Metric(
            "jaccard_10_10", jaccard(lambda n: min(10, n // 2)), 1, 0, "overlap of the 10 lowest and 10 highest (Hara et al.)"
        ),
        Metric("rmse", rmse, 0, np.inf, "root mean squared error, units of loss", units=True),
        Metric("relative_rmse", relative_rmse, 0, np.inf, "RMSE over the truth's standard deviation", units=True),
    )
}


def scores(estimate: Tensor, truth: Tensor, *, units: bool) -> dict[str, list[float | None]]:
    """Each metric at each horizon, as the mean over queries. (H, N, Q), (H, N, Q) -> name -> H values

    Those in units of loss only where the estimate is, `units`. None where a query's truth is constant, so that a metric is
    not defined; a constant or non-finite estimate is the caller's to reject.
    """
    pairs = by_query(estimate, truth)
    chosen = [metric for metric in METRICS.values() if units or not metric.units]
    return {metric.name: [over_queries(metric, *pair) for pair in pairs] for metric in chosen}


def ranking(estimate: Tensor, truth: Tensor, metric: Metric, *, throughout: bool) -> list[float | None]:
    """A metric of each query at the last horizon, or its mean over horizons. (H, N, Q), (H, N, Q) -> Q values

    None where it is not defined at one of the horizons.
    """
    pairs = by_query(estimate, truth)[0 if throughout else -1 :]
    found = [[over_queries(metric, *(values[None] for values in rows)) for rows in zip(*pair, strict=True)] for pair in pairs]
    return [_mean(values) for values in zip(*found, strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean; None where one is not known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def by_query(estimate: Tensor, truth: Tensor) -> list[tuple[Values, Values]]:
    """Estimate and truth at each horizon, a row for each query. (H, N, Q), (H, N, Q) -> H pairs of (Q, N)"""
    return [(e.T.double().cpu().numpy(), t.T.double().cpu().numpy()) for e, t in zip(estimate, truth, strict=True)]


def over_queries(metric: Metric, estimate: Values, truth: Values) -> float | None:
    """A metric's mean over queries; None where it is not finite or some query's truth is constant. (Q, N), (Q, N)"""
    if not np.ptp(truth, axis=1).all():
        return None
    found = float(np.mean([metric.value(e, t) for e, t in zip(estimate, truth, strict=True)]))
    return found if np.isfinite(found) else None
