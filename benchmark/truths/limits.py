"""What bounds every estimate of a truth: its ceilings and floors, which depend on the task and not on who estimates."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any, Protocol, SupportsFloat

import numpy as np
import torch
from torch import Tensor

from benchmark.base.errors import LoobenchError, unknown
from benchmark.core.layers import Activation
from benchmark.core.problem import Problem
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.chunks import FREE, Means
from benchmark.retraining.dense import Gram
from benchmark.retraining.engine import ActivationRuns, Runs, gram_pays, native
from benchmark.retraining.train import Ledger, departures, leave_one_out, left_out, retrain, trained, training_loop
from benchmark.scores.metrics import METRICS, Values, by_query, over_queries
from benchmark.tasks.definition import AnyTask
from benchmark.truths.counterfactuals import initial, order
from benchmark.truths.effects import GroundTruth

Curve = list[float | None]  # a figure at each of H horizons; None where it is not defined
Makers = Mapping[str, Callable[[], Any]]  # figures by name, JSON values still to be computed

SAMPLES = 50  # left-out samples from which ceilings are taken
LARGE, SOME = 5000, 16  # N from which on fewer are taken, since each of them is a long run
NOISE_SAMPLES = 32  # left-out samples from which a noise floor is taken
READOUT = ("kendall", "spearman", "relative_rmse")  # metrics of a readout
RELIABLE = ("spearman", "pearson", "cosine")  # metrics that independent noise lowers as Spearman and Brown have it


def measured(metric: str, estimate: Tensor, truth: Tensor) -> Curve:
    """One metric of `benchmark.scores.metrics` at each horizon, mean over queries. (H, M, Q), (H, M, Q) -> H values

    None where, on either side, some query's values are constant or not finite. Raises LoobenchError for two shapes.
    """
    if estimate.shape != truth.shape:
        raise LoobenchError(f"effects to compare must have one shape, got {(*estimate.shape,)} and {(*truth.shape,)}")
    return [over_queries(METRICS[metric], *pair) if all(map(_varied, pair)) else None for pair in by_query(estimate, truth)]


def _varied(values: Values) -> bool:
    """Whether (Q, M) values are finite and each query's differ."""
    return bool(np.isfinite(values).all() and np.ptp(values, axis=1).all())


def _finite(value: SupportsFloat) -> float | None:
    return float(value) if isfinite(value) else None


# ---- kinks -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Kinks:
    """How often leave-one-out runs cross a kink of ReLU, at each horizon, counted over all steps before it.

    The pattern of a run on a sample says which values of ReLU layers are positive. `pairs`: the share of pairs (left-out
    sample, step) in which the run without the sample has another pattern than the reference run on some sample of the step's
    batch; `triples`: the share of triples (left-out sample, step, sample of its batch) in which it has another on that one.
    """

    pairs: list[float]
    triples: list[float]


def kinks(run: Trajectory, means: Means = FREE, *, runs: int | None = None, ledger: Ledger | None = None) -> Kinks | None:
    """The kinks that the leave-one-out runs of the problem's K samples cross; None where no layer of our own forms is a ReLU.

    Patterns are those before the step, on its whole batch, the left-out sample included; until that is visited, the two runs
    are one and count as equal. Another choice of a maximum over pixels is a kink too, and is not counted. Cost: that of
    leave-one-out. `means`, `runs` and `ledger` are those of `retrain`. Raises what `retrain` raises.
    """
    problem = run.problem
    relu = any(isinstance(layer, Activation) and layer.function == "relu" for layer in problem.model.layers)
    if not (relu and native(problem)):
        return None
    keep, spanned = left_out(problem)[:-1], gram_pays(problem)
    shared = Gram.of(problem) if spanned else None

    def begin(start: int, count: int) -> Patterns:
        return Patterns(problem, run.states[start], count, shared)

    starts = departures(problem, keep)
    found = training_loop(
        problem, keep, begin, Patterns.parted, starts=starts, gram=spanned, runs=runs, means=means, ledger=ledger
    )
    shares = found.double().mean(1).cpu() / _possible(problem)
    return Kinks(shares[:, 0].tolist(), shares[:, 1].tolist())


def _possible(problem: Problem) -> Tensor:
    """Steps before each horizon, and sample visits in them. (H, 2)"""
    visits = [int((problem.batches[:horizon] >= 0).sum()) for horizon in problem.horizons]
    return torch.tensor([problem.horizons, visits], dtype=torch.float64).T


class Patterns:
    """R runs side by side with the reference run, and how often their patterns parted from its so far.

    The reference is trained along, so that rounding common to all does not count. A run is it until a weight differs.
    """

    def __init__(self, problem: Problem, state: Tensor, runs: int, gram: Gram | None) -> None:
        self.problem, self.runs = problem, Runs(problem, state, runs + 1, gram)
        activations = [layer for layer in self.runs.later if isinstance(layer, ActivationRuns)]
        self.relus = [layer for layer in activations if layer.function == "relu"]
        self.apart = torch.zeros(runs, dtype=torch.bool, device=state.device)
        self.counts = torch.zeros(runs, 2, dtype=torch.int64, device=state.device)  # of steps, and of samples in them

    def step(self, t: int, rows: Tensor, weights: Tensor) -> None:
        """Take step t on the samples `rows` with weights (R, B), and compare the patterns before it."""
        whole = self.problem.weights(t)
        self.runs.step(t, rows, torch.cat([weights, whole[None]]))
        other = self._other() & self.apart[:, None]
        self.counts += torch.stack([other.any(1), other.sum(1)], dim=1)
        self.apart |= (weights != whole).any(1)

    def _other(self) -> Tensor:
        """On which samples a run has another pattern than the last, (R, B)."""
        positive = (layer.value > 0 for layer in self.relus)
        return torch.stack([(some[:-1] != some[-1]).any(1) for some in positive]).any(0)

    def parted(self) -> Tensor:
        """Steps so far with another pattern on some sample, and samples in all steps with another. (R, 2)"""
        return self.counts.clone()


# ---- other runs ------------------------------------------------------------------------------------------------------
def agreement(effect: Tensor, other: Tensor) -> Curve:
    """Kendall tau-b between two truths at each horizon, mean over queries. (H, K, Q), (H, K, Q) -> H values

    None where a query's effects are constant or not finite in either.
    """
    return measured("kendall", effect, other)


def seed_agreement(
    effect: Tensor, others: Mapping[str, Problem], means: Means = FREE, ledger: Ledger | None = None
) -> dict[str, Curve]:
    """Agreement of an effect (H, K, Q) with leave-one-out of the same samples in each other problem: name -> H values

    The others differ in what a seed decides, such as initial parameters or the order of batches: what an estimate of another
    run's effects could reach. None at horizons where a run has diverged. `means` must leave out what the caller holds. A
    `ledger` is that of `retrain`, for one other problem. Raises LoobenchError where another problem has other samples to leave
    out, other queries or horizons, by their numbers.
    """
    return {
        name: agreement(effect, leave_one_out(trained(other, means), means=means, ledger=ledger))
        for name, other in others.items()
    }


# ---- noise -----------------------------------------------------------------------------------------------------------
def noise_floor(run: Trajectory, effect: Tensor, means: Means = FREE, ledger: Ledger | None = None) -> Curve:
    """How far an effect (H, K, Q) is from the same trained anew with the samples of each batch in reverse, at each horizon.

    Sums are taken in another order: the difference is rounding, and what training makes of it. See `deviation`. Taken from
    `NOISE_SAMPLES` of the K samples, evenly spread. A `ledger` is that of `retrain`.
    """
    some, means = evenly(effect.shape[1]), beside(run.states.nbytes, means)
    again = replace(some_of(run, some).problem, batches=run.problem.batches.flip(1))
    return deviation(effect, some, leave_one_out(trained(again, means), means=means, ledger=ledger))


def evenly(samples: int, most: int = NOISE_SAMPLES) -> Tensor:
    """At most so many numbers of so many samples, evenly spread."""
    return torch.linspace(0, samples - 1, min(most, samples)).long()


def some_of(run: Trajectory, chosen: Tensor) -> Trajectory:
    """The run with only some of its samples to be left out."""
    left = run.problem.left_out
    return replace(run, problem=replace(run.problem, left_out=left[chosen.to(left.device)]))


def deviation(effect: Tensor, some: Tensor, again: Tensor) -> Curve:
    """Root mean square of ``effect[:, some] - again`` over the standard deviation of the effects, at each horizon.

    (H, K, Q), (C,), (H, C, Q) -> H values, each the mean over queries on which the K effects differ; None without any, and
    where something is not finite.
    """
    effect, again = effect.double().cpu(), again.double().cpu()
    error, spread = (effect[:, some] - again).square().mean(1).sqrt(), effect.std(1)  # (H, Q)
    return [_finite((e[s > 0] / s[s > 0]).mean()) for e, s in zip(error, spread, strict=True)]  # of none: not a number


def beside(held: int, means: Means) -> Means:
    """The means less the bytes that are held already."""
    return means if means.memory is None else replace(means, memory=means.memory - held)


# ---- readout ---------------------------------------------------------------------------------------------------------
def linear_readout(linear: Tensor, effect: Tensor) -> dict[str, Curve]:
    """How well the exact shift, read off to first order, stands for the effect: name of the metric -> H values

    ``linear[h, i, q] = <grad L_q(theta_h), theta_h(-i) - theta_h>``: a ceiling of what is linear in the shift. (H, K, Q) both.
    """
    return {metric: measured(metric, linear, effect) for metric in READOUT}


# ---- means over repeats ----------------------------------------------------------------------------------------------
def split_half(repeats: Tensor, metric: str) -> dict[str, Curve]:
    """How well a truth that is a mean over R repeats can be met. (R, H, M, Q) -> name -> H values, means over queries

    `split_half`: r, the metric between the means over even- and over odd-numbered repeats, as many of each. `ceiling`: what an
    estimate equal to the expectation would reach, the root of the reliability ``k r / (1 + (k - 1) r)`` of the whole mean, k
    times as long as a half (Spearman 1910, Brown 1910); k = 2 for an even R; None where r <= 0. For ranks it is an
    approximation. `own`: the metric between repeat 0 and the mean of the others.
    Raises LoobenchError for fewer than two repeats, and for a metric that is no correlation or cosine.
    """
    if metric not in RELIABLE:
        raise unknown("metric of a ceiling", metric, RELIABLE)
    if len(repeats) < 2:
        raise LoobenchError(f"halves of the repeats take two or more of them, got {len(repeats)}: ask for more repeats")
    half = len(repeats) // 2
    even, odd = (repeats[start : 2 * half : 2].mean(0) for start in (0, 1))
    found = measured(metric, even, odd)
    ceiling = [_ceiling(r, len(repeats) / half) for r in found]
    return {"split_half": found, "ceiling": ceiling, "own": measured(metric, repeats[0], repeats[1:].mean(0))}


def _ceiling(r: float | None, longer: float) -> float | None:
    """Root of the reliability of a mean `longer` times as long as the one of reliability r."""
    return None if r is None or r <= 0 else float((longer * r / (1 + (longer - 1) * r)) ** 0.5)


# ---- subsets ---------------------------------------------------------------------------------------------------------
def without_class(keep: Tensor, targets: Tensor) -> int | None:
    """How many of M subsets lack a class that the N samples have. (M, N) bool, (N,) -> number; None where targets are real.

    Class numbers are integers, or 0 and 1 in real numbers, as binary cross-entropy has them.
    """
    if targets.is_floating_point() and not ((targets == 0) | (targets == 1)).all():
        return None
    of_class = targets[:, None] == torch.unique(targets)  # (N, C)
    kept = keep.to(targets.device, torch.float64) @ of_class.double()
    return int((kept == 0).any(1).sum())


# ---- figures that take training --------------------------------------------------------------------------------------
class Figured(Protocol):
    """Who computes figures, or knows some already."""

    def __call__(self, makers: Makers, /) -> dict[str, Any]:
        """The figures by name."""

    def ledger(self, name: str, /) -> Ledger | None:
        """Where finished chunks of a figure's training are written down."""


class Each:
    """Figures computed one after another, and kept nowhere."""

    def __call__(self, makers: Makers) -> dict[str, Any]:
        """All of them."""
        return {name: make() for name, make in makers.items()}

    def ledger(self, _name: str) -> None:
        """None."""


EACH = Each()


# ---- all of a task's ---------------------------------------------------------------------------------------------------
def limits(
    task: AnyTask, seed: int, run: Trajectory, truth: GroundTruth, means: Means = FREE, figured: Figured = EACH
) -> dict[str, Curve]:
    """Ceilings and floors of a task's truth, at each horizon: those of leave-one-out, or those of a mean over repeats.

    `ceiling` bounds the primary metric of the task's question. `figured` computes figures that take training.
    """
    if truth.repeats is None:
        return _of_leave_one_out(task, seed, run, truth, means, figured)
    found = split_half(truth.repeats, task.truth.primary)
    lacking = None if truth.removed is None else without_class(~truth.removed, run.problem.train.targets.cpu())
    return found if lacking is None else {**found, "without_class": [float(lacking)] * len(truth.effect)}


def _of_leave_one_out(
    task: AnyTask, seed: int, run: Trajectory, truth: GroundTruth, means: Means, figured: Figured
) -> dict[str, Curve]:
    found = figured(figures(run, truth.effect, task.epochs, seed, means, figured))
    linear, crossed = found.pop("linear"), found.pop("kinks") or {}
    return {
        "ceiling": linear[task.truth.primary],
        **{f"linear_{name}": curve for name, curve in linear.items() if name != task.truth.primary},
        **found,
        **{f"kink_{name}": curve for name, curve in crossed.items()},
    }


def figures(run: Trajectory, effect: Tensor, epochs: int, seed: int, means: Means = FREE, figured: Figured = EACH) -> Makers:
    """What the limits of leave-one-out are made of, by name: each takes training of its own, and no other.

    From `SAMPLES` of the samples left out, evenly spread, or `SOME`: a part of the truth's own cost. The effect is (H, K, Q).
    """
    chosen = evenly(effect.shape[1], SAMPLES if len(run.problem.train) < LARGE else SOME)
    some, part = some_of(run, chosen), effect[:, chosen]
    problem, left = some.problem, beside(run.states.nbytes, means)
    others = {
        "other_initial": replace(problem, initial=initial(problem, "limits/initial", seed)),
        "other_order": replace(problem, batches=order(problem, epochs, "limits/order", seed)),
    }

    def agreed(name: str) -> Callable[[], Curve]:
        return lambda: seed_agreement(part, {name: others[name]}, left, figured.ledger(name))[name]

    return {
        "linear": lambda: linear_readout(shift_effects(some, left), part),  # of all parameters, too many to be written down
        "noise": lambda: noise_floor(run, effect, left, figured.ledger("noise")),
        **{name: agreed(name) for name in others},
        "kinks": lambda: (counted := kinks(some, left, ledger=figured.ledger("kinks"))) and asdict(counted),
    }


def shift_effects(run: Trajectory, means: Means = FREE) -> Tensor:
    """``<grad L_q(theta_h), theta_h(-i) - theta_h>``: the exact shifts, read to first order. (H, K, Q)"""
    problem = run.problem
    found = retrain(problem, left_out(problem), states=run.states, means=means)  # (H, K + 1, P)
    gradients = [problem.query_gradients(run.params(horizon)) for horizon in problem.horizons]
    return torch.stack([(thetas[:-1] - thetas[-1]) @ at.T for thetas, at in zip(found, gradients, strict=True)]).cpu()
