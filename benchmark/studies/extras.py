"""Figures of estimators that are not registered: a baseline of a paper, and what two defects of released code do."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from benchmark.base import files
from benchmark.base.errors import LoobenchError
from benchmark.base.files import json_digest, read
from benchmark.core.declaration import Estimator
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining import chunks
from benchmark.retraining.readout import reader
from benchmark.retraining.shifts import ACC, Shifts
from benchmark.retraining.train import departures, left_out, training_loop
from benchmark.running.evaluate import estimate
from benchmark.scores import metrics
from benchmark.studies.judging import Figures
from benchmark.studies.published import KOH_LIANG
from benchmark.tasks import suites
from benchmark.tasks.definition import Task, build
from benchmark.truths.effects import GroundTruth


@dataclass(frozen=True)
class Extra:
    """Figures of estimators that are not registered, by name: computed on the cache's truths, kept as JSON beside the page."""

    name: str
    paper: str
    tasks: Callable[[], list[Task]]
    figures: Callable[[Task, int, Trajectory, GroundTruth, Path], dict[str, Figures]]
    built_on: tuple[str, ...]  # registered estimators
    seeds: int | None = None  # by default; None: those of the suite
    version: int = 1  # to be raised where what is computed changes

    def digest(self, task: Task) -> str:
        """Digest of all that decides the figures of a task."""
        used = [registered()[name].identity() for name in self.built_on]
        return json_digest([self.name, self.version, task.digest(), used])


def kept(extra: Extra, task: Task, folder: Path, *, current: bool = True) -> dict[int, dict[str, Figures]]:
    """The figures kept of a task, by seed; none where they are of another task or, `current`, of other code."""
    at = _place(extra, task, folder)
    try:
        content = json.loads(read(at)) if at.exists() else {}
    except ValueError:
        content = {}  # cut short by no one of ours: computed anew
    same = content.get("task") == task.digest() and (not current or content.get("of") == extra.digest(task))
    return {int(seed): found for seed, found in content["seeds"].items()} if same else {}


def keep(extra: Extra, task: Task, folder: Path, seeds: Mapping[int, dict[str, Figures]]) -> None:
    """Keep the figures of a task, by seed, in place of those that were kept."""
    content = {"of": extra.digest(task), "task": task.digest(), "seeds": {str(seed): seeds[seed] for seed in sorted(seeds)}}
    files.write(_place(extra, task, folder), json.dumps(content, indent=1, allow_nan=False).encode() + b"\n")


def _place(extra: Extra, task: Task, folder: Path) -> Path:
    return folder / f"{extra.name}-{task.name}.json"


def _last(run: Trajectory) -> Trajectory:
    return run.until(run.problem.horizons[-1])


def _scored(effect: Tensor, exact: GroundTruth) -> Figures:
    return metrics.scores(effect, exact.effect[-1:], units=True)


def _estimated(estimator: Estimator, run: Trajectory, exact: GroundTruth) -> Figures:
    return _scored(estimate(estimator, _last(run)).effect, exact)


def koh_liang(task: Task) -> Estimator:
    """The baseline of Hara et al.: ``u^T (H + a I)^-1 g_i / N``, a the L2 term's and, for networks, 1 beside it.

    By conjugate gradients in place of their SGD, so that it is the solution, and for any number of parameters.
    """
    settings = {"solver": "cg", "matrix": "hessian", "damping": 0.0 if task.model == "logistic" else 1.0, "iterations": 2000}
    return replace(registered()["if-cg"], name=KOH_LIANG, settings=settings)


def _koh_liang(task: Task, _seed: int, run: Trajectory, exact: GroundTruth, _cache: Path) -> dict[str, Figures]:
    return {KOH_LIANG: _estimated(koh_liang(task), run, exact)}


def misled(task: Task, seed: int, run: Trajectory, cache: Path) -> Trajectory:
    """The run with the feature noise drawn anew: what an estimator sees that fetches unseeded data again.

    Training and query features are other ones, the query's because they are scaled by the training rows'; states, batches and
    weight decay are those of the true run.
    """
    other = build(task, seed, cache, noise="feature-noise/again")
    return replace(run, problem=replace(other, weight_decay=run.problem.weight_decay))


def noise_again(task: Task, seed: int, run: Trajectory, exact: GroundTruth, cache: Path) -> dict[str, Figures]:
    """SGD-IE and ACC-SGD-IE as given the features of the run, and as given features with the noise drawn again."""
    views = {"same noise": run, "noise again": misled(task, seed, run, cache)}
    pairs = [(name, label, view) for name in ("sgd-ie", "acc-sgd-ie") for label, view in views.items()]
    return {f"{name}, {label}": _estimated(registered()[name], view, exact) for name, label, view in pairs}


class TwiceDecayed(Shifts):
    """ACC's shifts with the L2 term as the released code has it: 2 alpha in place of (1 - 1/|B|) alpha where i is in B_t.

    Each shift then shrinks by another ``rate alpha (1 + 1/|B|)`` times itself in the steps that its sample is missing from.
    """

    def step(self, t: int, rows: Tensor, weights: Tensor) -> None:
        """Carry the shifts over step t; see `Shifts.step`."""
        absent = (weights == 0).any(1).nonzero()[:, 0]
        before = [part[absent] for part in self.moved]  # a copy
        super().step(t, rows, weights)
        extra = self.problem.optimizer.rate(t) * self.problem.weight_decay * (1 + 1 / len(rows))
        for part, old in zip(self.moved, before, strict=True):
            part.index_add_(0, absent, old, alpha=-extra)


def twice_decayed(run: Trajectory) -> Tensor:
    """Effects (1, K, Q) at the last horizon by `TwiceDecayed`, linearly read. Raises LoobenchError for momentum and Adam."""
    problem = run.problem
    if problem.optimizer.name != "sgd":
        raise LoobenchError(f"the released code is for plain SGD, the task trains with {problem.optimizer.name}")
    cut = _last(run)
    keep, read_off = left_out(problem)[:-1], reader(cut, "linear")
    return training_loop(
        cut.problem,
        keep,
        lambda _start, count: TwiceDecayed(cut, ACC, count),
        lambda shifts: read_off(shifts.parameters()),
        starts=departures(cut.problem, keep),
        means=replace(chunks.allowed(), workers=1),
    ).cpu()


def l2_twice(_task: Task, _seed: int, run: Trajectory, exact: GroundTruth, _cache: Path) -> dict[str, Figures]:
    """ACC-SGD-IE, and as the released code computes it; and SGD-IE to compare both with."""
    once = {f"{name}, L2 once": _estimated(registered()[name], run, exact) for name in ("sgd-ie", "acc-sgd-ie")}
    return {**once, "acc-sgd-ie, L2 twice": _scored(twice_decayed(run), exact)}


def acc_tasks(ending: str) -> list[Task]:
    """The tasks of the second paper whose names end so."""
    return [task for task in suites.suite("acc2025").tasks if task.name.endswith(ending)]


FEATURE, L2 = "-feature", "-logistic-clean"  # how the names of the tasks end that a defect is computed on
EXTRAS = (
    Extra(KOH_LIANG, "hara2019", lambda: [*suites.suite("hara2019").tasks], _koh_liang, ("if-cg",)),
    Extra("noise-again", "acc2025", lambda: acc_tasks(FEATURE), noise_again, ("sgd-ie", "acc-sgd-ie"), seeds=2),
    Extra("l2-twice", "acc2025", lambda: acc_tasks(L2), l2_twice, ("sgd-ie", "acc-sgd-ie"), seeds=2),
)
