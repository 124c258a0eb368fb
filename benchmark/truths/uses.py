"""What effects on the mean query are used for, as scores: finding wrong labels, cleansing, coresets, and groups to be deleted.

Each use is judged by really training again (cleansing.py, deletion.py).
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.base.errors import LoobenchError
from benchmark.base.streams import stream
from benchmark.core.problem import Problem
from benchmark.retraining.chunks import FREE, Means
from benchmark.retraining.train import Progress
from benchmark.scores.metrics import METRICS, Values
from benchmark.tasks.questions import Uses, record
from benchmark.truths.cleansing import Curves, curves, judge, starts
from benchmark.truths.deletion import KINDS, deleted, groups

Scores = dict[str, float | None]


# ---- what the scores are ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Use:
    """A score of a use: its name, its meaning, and which way is better, "higher" or "lower"."""

    name: str
    about: str
    better: str


USES = {
    use.name: use
    for use in (
        Use("mislabel_auroc", "area under the ROC curve of wrong labels, lowest effect most suspicious", "higher"),
        Use("mislabel_average_precision", "average precision for wrong labels, lowest effect most suspicious", "higher"),
        Use("self_auroc", "area under the ROC curve of wrong labels, highest self-influence most suspicious", "higher"),
        Use("self_average_precision", "average precision for wrong labels, highest self-influence most suspicious", "higher"),
        Use("cleansed_loss", "change of test loss without the most harmful, same start and order", "lower"),
        Use("cleansed_error", "change of test error without the most harmful, same start and order", "lower"),
        Use("fresh_loss", "change of test loss without the most harmful, mean over fresh starts and orders", "lower"),
        Use("fresh_error", "change of test error without the most harmful, mean over fresh starts and orders", "lower"),
        Use("coreset_loss", "change of test loss with the most helpful alone, same start and order", "lower"),
        Use("coreset_error", "change of test error with the most helpful alone, same start and order", "lower"),
        *(
            Use(f"deletion_{kind}_{metric}", f"deleting {kind} groups, sum of effects against the truth: {text}", better)
            for kind in KINDS
            for metric, text, better in (
                ("spearman", METRICS["spearman"].about, "higher"),
                ("kendall", METRICS["kendall"].about, "higher"),
                ("relative_rmse", METRICS["relative_rmse"].about, "lower"),
            )
        ),
    )
}


def use(name: str) -> Use:
    """What a score is: `cleansed_loss` is a mean over the grid, `cleansed_loss_10` its value for 10 samples.

    For a coreset the number is a percentage of the samples.
    """
    return USES[name.rstrip("_0123456789")]


# ---- what no estimator decides ---------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Prepared:
    """All that the uses of one task and seed need and that does not depend on an estimator; float64 on the CPU."""

    uses: Uses
    seed: int
    flipped: Tensor  # (N,) bool, the samples with a wrong label
    removed: Tensor  # (M, N) bool, the groups to be deleted
    kinds: tuple[str, ...]  # M, of KINDS
    effect: Tensor  # (M,) true effects of deleting them on the mean query loss
    base: Tensor  # (1 + D, 2) test loss and error with all samples, from the own start and from D fresh ones
    random: Curves  # by random effects
    truth: Tensor | None = None  # (N,) true effects, where every sample's is known
    oracle: Curves | None = None  # by them


def prepare(
    problem: Problem,
    uses: Uses,
    flipped: Tensor,
    seed: int,
    truth_effect: Tensor | None = None,
    means: Means = FREE,
    *,
    progress: Progress = lambda visits: None,
) -> Prepared:
    """Train what all estimators are compared with; `truth_effect` (N,) on the mean query, where all N are known.

    Raises LoobenchError where a use asks for more samples than there are, or a tensor is not (N,).
    """
    uses.check(len(problem.train))
    truth = None if truth_effect is None else _checked("the truth", truth_effect, len(problem.train))
    wrong = _checked("the mask of wrong labels", flipped, len(problem.train)).bool()
    removed, kinds = groups(problem.train, uses, seed)
    effect = deleted(problem, removed, means, progress=progress)
    everything = torch.ones(1, len(problem.train), dtype=torch.bool)
    base = torch.cat([judge(start, everything, means, progress) for start in starts(problem, uses, seed)])
    drawn = partial(curves, problem, uses=uses, seed=seed, base=base, means=means, progress=progress)
    random = drawn(random_effects(len(problem.train), uses, seed))
    oracle = None if truth is None else drawn(truth[None])
    return Prepared(uses, seed, wrong, removed, kinds, effect, base, random, truth, oracle)


def random_effects(samples: int, uses: Uses, seed: int) -> Tensor:
    """Effects (D, N) that know nothing, normal, from the stream `random-removal`: as many as there are draws."""
    return torch.from_numpy(stream("random-removal", seed).normal(size=(uses.draws, samples)))


def visits(problem: Problem, uses: Uses) -> int:
    """Sample visits of the retraining that `scores` takes for one estimate."""
    return _visits(problem) * _judged_runs(uses)


def preparation_visits(problem: Problem, uses: Uses, *, oracle: bool) -> int:
    """Sample visits of `prepare`, with the truth or without."""
    groups = 2 * min(uses.groups, len(problem.train)) * len(uses.delete)
    random = uses.draws * (2 * len(uses.drop) + len(uses.keep))
    return _visits(problem) * (groups + 1 + uses.draws + 1 + random + oracle * _judged_runs(uses))


def _judged_runs(uses: Uses) -> int:
    return len(uses.drop) * (1 + uses.draws) + len(uses.keep)


def _visits(problem: Problem) -> int:
    return int((problem.batches[: problem.horizons[-1]] >= 0).sum())


def packed(prepared: Prepared) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name and the rest as JSON values, for one file."""
    content = {field.name: getattr(prepared, field.name) for field in fields(prepared)}
    curves = {name: value for name, value in content.items() if isinstance(value, Curves)}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    tensors |= {f"{name}/{part}": value for name, curve in curves.items() for part, value in vars(curve).items()}
    return tensors, {"uses": record(prepared.uses), "seed": prepared.seed, "kinds": list(prepared.kinds)}


def unpacked(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Prepared:
    """The record again; the inverse of `packed`."""
    uses: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in facts["uses"].items()}

    def curve(name: str) -> Curves:
        return Curves(**{field.name: tensors[f"{name}/{field.name}"] for field in fields(Curves)})

    plain = {name: value for name, value in tensors.items() if "/" not in name}
    oracle = curve("oracle") if "oracle/cleansed" in tensors else None
    kinds = tuple(facts["kinds"])
    return Prepared(uses=Uses(**uses), seed=facts["seed"], kinds=kinds, random=curve("random"), oracle=oracle, **plain)


# ---- scores ----------------------------------------------------------------------------------------------------------
def scores(
    estimate: Tensor,
    prepared: Prepared,
    problem: Problem,
    *,
    units: bool,
    self_influence: tuple[Tensor, Tensor] | None = None,
    means: Means = FREE,
    progress: Progress = lambda visits: None,
) -> Scores:
    """All scores of an estimate (N,) of effects on the mean query, by the names of `USES`; None where one is not defined.

    `units`: the estimate is in units of loss. `self_influence`: numbers (K,) of samples, and the effect (K,) of each on its
    own loss. A curve's name without a number is its mean. Raises LoobenchError for an estimate that is not (N,) or not finite.
    """
    effect = _checked("an estimate for uses", estimate, len(problem.train))
    uses, seed, base = prepared.uses, prepared.seed, prepared.base
    found = curves(problem, effect[None], uses, seed, base, means=means, progress=progress)
    own = _self_scores(prepared.flipped, self_influence)
    return {**_still(effect, prepared, units=units), **_prefixed("self", own), **_points(found, uses)}


def references(prepared: Prepared) -> dict[str, Scores]:
    """The scores of random effects, the mean over the draws, as `random`; and those of the truth, where known, as `oracle`."""
    drawn = random_effects(len(prepared.flipped), prepared.uses, prepared.seed)
    each = [_still(effect, prepared, units=False) for effect in drawn]
    random = {name: _mean([found[name] for found in each]) for name in each[0]}
    found = {"random": {**random, **_points(prepared.random, prepared.uses)}}
    if prepared.truth is None or prepared.oracle is None:
        return found
    best = {**_still(prepared.truth, prepared, units=True), **_points(prepared.oracle, prepared.uses)}
    return {**found, "oracle": best}


def mislabelled(scores: Tensor, flipped: Tensor) -> Scores:
    """How well scores (N,), the highest most suspicious, tell wrong labels, `flipped` (N,) bool, from right ones.

    Area under the ROC curve and average precision, of scikit-learn; None where no label or every label is wrong.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if flipped.all() or not flipped.any():
        return {"auroc": None, "average_precision": None}
    wrong, suspicion = flipped.cpu().numpy(), scores.double().cpu().numpy()
    return {
        "auroc": float(roc_auc_score(wrong, suspicion)),
        "average_precision": float(average_precision_score(wrong, suspicion)),
    }


def deletion(effect: Tensor, prepared: Prepared, *, units: bool) -> Scores:
    """How well sums of effects (N,) over the groups rank, and in units of loss measure, what deleting them does."""
    predicted, truth = (prepared.removed.double() @ effect).numpy(), prepared.effect.numpy()
    rows = {kind: np.array([of == kind for of in prepared.kinds]) for kind in KINDS}
    chosen = ("spearman", "kendall", *(("relative_rmse",) if units else ()))
    return {
        f"deletion_{kind}_{name}": _agreement(name, predicted[some], truth[some])
        for kind, some in rows.items()
        for name in chosen
    }


def _agreement(name: str, estimate: Values, truth: Values) -> float | None:
    metric = METRICS[name]
    flat = not np.ptp(truth) or not (metric.units or np.ptp(estimate))  # there is nothing to rank
    return None if flat or not np.isfinite(truth).all() else _finite(metric.value(estimate, truth))


def _still(effect: Tensor, prepared: Prepared, *, units: bool) -> Scores:
    """The scores that take no training."""
    return {
        **_prefixed("mislabel", mislabelled(-effect, prepared.flipped)),
        **deletion(effect, prepared, units=units),
    }


def _self_scores(flipped: Tensor, self_influence: tuple[Tensor, Tensor] | None) -> Scores:
    if self_influence is None:
        return {"auroc": None, "average_precision": None}
    numbers, values = self_influence
    return mislabelled(_checked("self-influence", values, len(numbers)), flipped[numbers.cpu()])


def _points(curves: Curves, uses: Uses) -> Scores:
    """Each point of each curve by name, and each curve's mean."""
    percents = [round(100 * part) for part in uses.keep]
    grids = {
        "cleansed": (uses.drop, curves.cleansed),
        "fresh": (uses.drop, curves.fresh),
        "coreset": (percents, curves.coreset),
    }
    found: Scores = {}
    for name, (grid, curve) in grids.items():
        for unit, values in zip(("loss", "error"), curve.T.tolist(), strict=True):
            points = map(_finite, values)
            found |= (at := {f"{name}_{unit}_{k}": point for k, point in zip(grid, points, strict=True)})
            found[f"{name}_{unit}"] = _mean(list(at.values()))
    return found


def _prefixed(prefix: str, scores: Scores) -> Scores:
    return {f"{prefix}_{name}": value for name, value in scores.items()}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _checked(what: str, values: Tensor, samples: int) -> Tensor:
    """The values in float64 on the CPU. Raises LoobenchError where they are not (N,) and finite."""
    if values.shape != (samples,):
        raise LoobenchError(f"{what} must be (N,) = ({samples},), got {tuple(values.shape)}")
    if broken := int((~values.isfinite()).sum()):
        raise LoobenchError(f"{what} must be finite, got {broken} values of {samples} that are not")
    return values.double().cpu()
