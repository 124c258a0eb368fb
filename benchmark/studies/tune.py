"""What a setting of an estimator does on the tuning tasks, which are never scored: the place to choose it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.base import machine
from benchmark.base.errors import LoobenchError, unknown
from benchmark.core.declaration import Estimator
from benchmark.core.trajectory import Trajectory
from benchmark.running.evaluate import Failure, estimate
from benchmark.scores.metrics import METRICS
from benchmark.tasks.suites import suite
from benchmark.truths import truth
from benchmark.truths.effects import GroundTruth
from benchmark.truths.truth import MakeBar

SUITE = "tuning"


@dataclass(frozen=True)
class Trial:
    """One value of a setting: Kendall's tau on each tuning task, the mean over seeds; NaN where it failed on some task."""

    value: Any
    kendall: dict[str, float]
    failure: str  # its kind, or ""
    message: str = ""

    @property
    def mean(self) -> float:
        """Mean over the tasks that the estimator supports."""
        return float(np.mean(list(self.kendall.values()))) if self.kendall else np.nan


def variants(estimator: Estimator, setting: str, values: Sequence[Any]) -> list[Estimator]:
    """The estimator with each value of a setting. Raises LoobenchError for a setting it has not."""
    if setting not in estimator.settings:
        raise unknown(f"setting of {estimator.name}", setting, estimator.settings)
    return [replace(estimator, settings={**estimator.settings, setting: value}) for value in values]


def trials(
    estimator: Estimator, setting: str, values: Sequence[Any], seeds: Sequence[int], cache: Path, bar: MakeBar
) -> Iterator[Trial]:
    """One trial for each value, on the tuning tasks that the estimator supports. Raises LoobenchError where it has none."""
    changed = variants(estimator, setting, values)
    with machine.one_thread():
        runs = {task.name: [truth.answer(task, seed, cache, "cpu", bar) for seed in seeds] for task in suite(SUITE).tasks}
        runs = {name: found for name, found in runs.items() if not estimator.unsupported(found[0][0].problem)}
        if not runs:
            raise LoobenchError(f"{estimator.name} supports none of the tuning tasks; see `loobench list tasks`")
        for value, variant in zip(values, changed, strict=True):
            yield trial(value, variant, runs)


def trial(value: Any, estimator: Estimator, runs: dict[str, list[tuple[Trajectory, GroundTruth]]]) -> Trial:
    """The trial of one value on runs and truths of each task."""
    try:
        return Trial(value, {name: float(np.mean([tau(estimator, *one) for one in found])) for name, found in runs.items()}, "")
    except Failure as failure:
        return Trial(value, dict.fromkeys(runs, np.nan), failure.status, str(failure))


def tau(estimator: Estimator, run: Trajectory, exact: GroundTruth) -> float:
    """Kendall's tau of an estimate at the last horizon, the mean over queries."""
    found = estimate(estimator, run).effect[-1].numpy()
    expected = exact.effect[-1].numpy()
    return float(np.mean([METRICS["kendall"].value(found[:, q], expected[:, q]) for q in range(found.shape[1])]))


def lines(found: Sequence[Trial], now: Any) -> list[list[str]]:
    """Trials as the strings of table rows; the value that is set now has a star."""
    return [
        [
            f"{trial.value}{' *' if trial.value == now else ''}",
            *(trial.failure or f"{value:.3f}" for value in trial.kendall.values()),
            trial.failure or f"{trial.mean:.3f}",
        ]
        for trial in found
    ]
