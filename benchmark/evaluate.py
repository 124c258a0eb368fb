"""Call an estimator on a reference run, blind and timed, and judge the shape of what it returns."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark import calculus, machine
from benchmark.problem import Trajectory, map_tensors, tensors
from benchmark.registry import Estimator


class Failure(Exception):
    """An estimator broke a rule; `status` is the kind of failure that its result records."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, eq=False)
class Estimate:
    """Effects (H, N, Q) as estimated; time and counts are those of the last horizon's estimate."""

    effect: Tensor
    seconds: float
    count: calculus.Count


def estimate(estimator: Estimator, run: Trajectory, device: str = "cpu") -> Estimate:
    """What the estimator says of a run, of which it gets a copy. Raises Failure where it breaks a rule."""
    if reason := estimator.unsupported(run.problem):
        raise Failure("unsupported", reason)
    given = map_tensors(run, torch.clone)
    cuts = [given] if estimator.all_horizons else list(given.at_horizons())
    calls = [_call(estimator, cut, device) for cut in cuts]
    if not all(map(torch.equal, tensors(given), tensors(run))):
        raise Failure("mutated-inputs", f"{estimator.name} changed the run it was given: work on clones")
    expected = (len(run.problem.train), run.problem.queries)
    horizons = len(run.problem.horizons)
    answers = [
        _of_shape(call.effect, (horizons, *expected) if estimator.all_horizons else expected, estimator) for call in calls
    ]
    effect = (answers[0] if estimator.all_horizons else torch.stack(answers)).detach().to("cpu", run.final.dtype)
    _judge(effect, estimator)
    return Estimate(effect, calls[-1].seconds, calls[-1].count)


def _call(estimator: Estimator, run: Trajectory, device: str) -> Estimate:
    with calculus.counting() as count:
        machine.synchronize(device)
        start = time.perf_counter()
        effect = _guarded(estimator, run)
        machine.synchronize(device)
        return Estimate(effect, time.perf_counter() - start, count)


def _guarded(estimator: Estimator, run: Trajectory) -> Any:
    try:
        return estimator(run)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise Failure("out-of-memory", f"{estimator.name} ran out of memory: {_brief(error)}") from error
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything; the run goes on
        raise Failure("crashed", f"{estimator.name} raised {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _of_shape(effect: Any, expected: tuple[int, ...], estimator: Estimator) -> Tensor:
    letters = "(H, N, Q)" if len(expected) == 3 else "(N, Q)"
    if not isinstance(effect, Tensor):
        raise Failure("bad-shape", f"{estimator.name} must return a tensor {letters} = {expected}, got {type(effect).__name__}")
    if tuple(effect.shape) != expected:
        raise Failure("bad-shape", f"{estimator.name} must return {letters} = {expected}, got {tuple(effect.shape)}")
    return effect


def _judge(effect: Tensor, estimator: Estimator) -> None:
    """Raise Failure where an estimate (H, N, Q) cannot be ranked."""
    if broken := int((~effect.isfinite()).sum()):
        raise Failure("non-finite", f"{estimator.name} returned NaN or infinity in {broken} of {effect.numel()} places")
    spread = effect.amax(1) - effect.amin(1)  # (H, Q)
    if not spread.all():
        h, q = (int(i) for i in (spread == 0).nonzero()[0])
        raise Failure("constant", f"{estimator.name} returned one number for all samples at horizon {h}, query {q}")
