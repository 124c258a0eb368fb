"""What effects on the mean query are used for: finding wrong labels, cleansing, coresets, and groups to be deleted.

Each use is judged by really training again: cleansed models and coresets on the test split, groups on the query split. A curve
is a tensor (K, 2), of test loss and test error, as changes against training on all samples from the same start.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.base.errors import LoobenchError
from benchmark.base.streams import stream
from benchmark.core.layers import LOSSES
from benchmark.core.problem import Problem, Samples
from benchmark.retraining.chunks import FREE, Means
from benchmark.retraining.engine import Runs
from benchmark.retraining.train import Progress, retrain
from benchmark.scores.metrics import METRICS, Values
from benchmark.tasks.questions import Uses, record
from benchmark.truths.counterfactuals import initial, order

Scores = dict[str, float | None]
KINDS = ("random", "clustered")  # of groups to be deleted
WRONG: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of a loss; (R, B, C), (B,) -> (R, B)
    "binary-cross-entropy": lambda outputs, targets: (outputs[..., 0] > 0) != (targets > 0.5),
    "cross-entropy": lambda outputs, targets: outputs.argmax(-1) != targets,
    "squared-error": lambda outputs, _: torch.full_like(outputs[..., 0], torch.nan),  # no class, no error
}


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


# ---- judged by training again ----------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Judged:
    """Mean test loss (R,), without L2 term, and share of test samples misclassified (R,) of R models, in float64 on the CPU."""

    losses: Tensor
    errors: Tensor  # NaN for a model of real values


def judged(
    problem: Problem,
    keep: Tensor,
    means: Means = FREE,
    states: Tensor | None = None,
    *,
    progress: Progress = lambda visits: None,
) -> Judged:
    """Test loss and error, at the last horizon, of R runs that keep the samples of their mask. (R, N) -> R each

    `states` (T + 1, S, P) of the reference run save what all runs share with it. One logit says the second class where it is
    positive; of several the largest does. Raises what `retrain` does.
    """
    losses, errors = _judge(problem, keep, means, states, progress).unbind(1)
    return Judged(losses, errors)


def _judge(problem: Problem, keep: Tensor, means: Means, states: Tensor | None, progress: Progress) -> Tensor:
    """Test loss and error (R, 2)."""
    seen = replace(problem, query=problem.test, query_kind="each", horizons=problem.horizons[-1:])
    masks = keep.to(problem.initial.device)
    found = retrain(seen, masks, states=states, read=_loss_and_error, means=means, progress=progress)
    return found[-1].double().cpu()


def _loss_and_error(runs: Runs) -> Tensor:
    outputs, targets, loss = runs.outputs_of_query(), runs.problem.query.targets, runs.model.loss
    losses = LOSSES[loss](outputs, targets.expand(runs.runs, -1))
    wrong = WRONG[loss](outputs, targets).to(losses)
    return torch.stack([losses.mean(1), wrong.mean(1)], dim=1)


def starts(problem: Problem, uses: Uses, seed: int) -> list[Problem]:
    """The problem, and the problem from as many fresh initial parameters in as many fresh orders as there are draws.

    From the streams `fresh-initial/{d}` and `fresh-batches/{d}`.
    """
    epochs = -(-problem.steps // -(-len(problem.train) // problem.batches.shape[1]))

    def fresh(d: int) -> Problem:
        rows = order(problem, epochs, f"fresh-batches/{d}", seed)[: problem.steps]
        return replace(problem, initial=initial(problem, f"fresh-initial/{d}", seed), batches=rows)

    return [problem, *map(fresh, range(uses.draws))]


# ---- cleansing and coresets ------------------------------------------------------------------------------------------
def cleansed(effect: Tensor, drop: tuple[int, ...]) -> Tensor:
    """Masks without the k most harmful, those of lowest effect, for each k; ties go by sample number. (N,) -> (K, N)"""
    rank = effect.argsort(stable=True).argsort()
    return torch.stack([rank >= k for k in drop])


def coreset(effect: Tensor, keep: tuple[float, ...]) -> Tensor:
    """Masks with the ``round(part N)`` most helpful, for each part; ties go by sample number. (N,) -> (K, N)"""
    rank = (-effect).argsort(stable=True).argsort()
    return torch.stack([rank < round(part * len(effect)) for part in keep])


@dataclass(frozen=True, eq=False)
class Curves:
    """Changes of test loss and error, against training on all: cleansed (K, 2), as cleansed from fresh starts, coresets."""

    cleansed: Tensor  # (K, 2), a row for each of `drop`
    fresh: Tensor  # (K, 2), mean over the draws
    coreset: Tensor  # (C, 2), a row for each of `keep`


def curves(
    problem: Problem,
    effects: Tensor,
    uses: Uses,
    seed: int,
    base: Tensor,
    *,
    means: Means = FREE,
    progress: Progress = lambda visits: None,
) -> Curves:
    """What cleansing and coresets by E effects (E, N) do, the mean over the E; `base` (1 + D, 2) is what all samples get.

    The first of `base` is from the problem's own start, the others are from the fresh ones; there the d-th of the effects is
    used, in turn. All runs of one start are one retraining. A coreset's batches are divided by what is kept of them: it is
    what somebody would train on, who has nothing else.
    """

    def change(d: int, start: Problem, keep: Tensor) -> Tensor:
        return _judge(start, keep, means, None, progress) - base[d]

    def own(start: Problem, keep: list[Tensor]) -> Tensor:
        return change(0, start, torch.cat(keep)).view(len(effects), -1, 2).mean(0)

    first, *fresh = starts(problem, uses, seed)
    same = own(first, [cleansed(effect, uses.drop) for effect in effects])
    core = own(replace(first, counterfactual="renormalised"), [coreset(effect, uses.keep) for effect in effects])
    anew = [change(d, start, cleansed(effects[(d - 1) % len(effects)], uses.drop)) for d, start in enumerate(fresh, 1)]
    return Curves(same, torch.stack(anew).mean(0), core)


# ---- deletion --------------------------------------------------------------------------------------------------------
def groups(train: Samples, uses: Uses, seed: int) -> tuple[Tensor, tuple[str, ...]]:
    """Groups (M, N) bool and the kind of each: for each size as many random as clustered, from the stream `deletion`."""
    draw, samples = stream("deletion", seed), len(train)
    each, found = min(uses.groups, samples), []
    for size in uses.delete:
        found += [torch.from_numpy(draw.permutation(samples) < size) for _ in range(each)]
        found += [nearest(train.inputs, int(centre), size) for centre in draw.permutation(samples)[:each]]
    kinds = tuple(kind for _ in uses.delete for kind in KINDS for _ in range(each))
    return torch.stack(found), kinds


def nearest(inputs: Tensor, centre: int, size: int) -> Tensor:
    """A sample and its ``size - 1`` nearest in Euclidean distance; ties go by sample number. (N, d) -> (N,) bool"""
    rows = inputs.flatten(1)
    distance = torch.cdist(rows[[centre]], rows, compute_mode="donot_use_mm_for_euclid_dist")[0].cpu()
    distance[centre] = -1  # before others with equal inputs
    return distance.argsort(stable=True).argsort() < size


def deleted(problem: Problem, removed: Tensor, means: Means = FREE, *, progress: Progress = lambda visits: None) -> Tensor:
    """True effects of deleting groups: mean query loss without the group minus that with all. (M, N) bool -> (M,)

    At the last horizon; the run with all samples is trained along.
    """
    asked = replace(problem, query_kind="mean", horizons=problem.horizons[-1:])
    keep = torch.cat([~removed, torch.ones_like(removed[:1])]).to(problem.initial.device)
    losses = retrain(asked, keep, read=Runs.query_losses, means=means, progress=progress)[-1, :, 0].double().cpu()
    return losses[:-1] - losses[-1]


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

    @property
    def sizes(self) -> Tensor:
        """(M,) samples of each group."""
        return self.removed.sum(1)


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
    base = torch.cat([_judge(start, everything, means, None, progress) for start in starts(problem, uses, seed)])
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
