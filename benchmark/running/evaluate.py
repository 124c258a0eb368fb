"""Call an estimator on a reference run, blind and timed, and judge the shape of what it returns."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.base import machine
from benchmark.base.errors import Failure as Failure
from benchmark.base.errors import tell
from benchmark.core import calculus
from benchmark.core.declaration import Estimator
from benchmark.core.problem import map_tensors, tensors
from benchmark.core.trajectory import Trajectory
from benchmark.sandbox import client
from benchmark.sandbox.answers import answer, of_shape, same_bits, typed
from benchmark.sandbox.session import Answer, Confined

MOST = 1e100  # the square of a larger number would not be one


@dataclass(frozen=True, eq=False)
class Estimate:
    """Effects (H, K, Q) as estimated; time, memory and counts of the costliest call, of the last horizon as a rule."""

    effect: Tensor
    seconds: float
    count: calculus.Count
    memory: int | None  # most bytes at once beyond what was there before; None where not measured


def estimate(estimator: Estimator, run: Trajectory, device: str = "cpu", *, judged: bool = True) -> Estimate:
    """What the estimator says of a run, of which it gets a copy. Raises Failure where it breaks a rule.

    An answer that is not `judged`, as one whose cost alone is asked, need not be one that can be ranked.
    """
    if reason := estimator.unsupported(run.problem):
        raise Failure("unsupported", reason)
    try:
        return _estimated(estimator, run, device, judged)
    except Failure as failure:
        tell(failure.traceback)
        raise


def _estimated(estimator: Estimator, run: Trajectory, device: str, judged: bool) -> Estimate:
    with typed(estimator.name, estimator.file):
        answers = _answers(estimator, run, device)
        effect = torch.cat([of_shape(one.effect, run, estimator) for one in answers])
    if judged:
        _judge(effect, estimator)
    return _costliest(effect, answers)


def _answers(estimator: Estimator, run: Trajectory, device: str) -> list[Answer]:
    """What it answers at each horizon, or at all in one. The last is asked first: no call has seen a part of the run before."""
    cuts = [run] if estimator.all_horizons else map(run.until, reversed(run.problem.horizons))
    if isinstance(estimator.function, Confined):
        return client.answers(estimator, cuts)[::-1]
    with machine.undisturbed():
        return [_here(estimator, cut, device) for cut in cuts][::-1]


def _costliest(effect: Tensor, answers: Sequence[Answer]) -> Estimate:
    """An estimate with the most that any of its calls took, so that none can do the work of another for nothing."""
    memory = [one.memory for one in answers if one.memory is not None]
    seconds, count = max(one.seconds for one in answers), calculus.largest([one.count for one in answers])
    return Estimate(effect, seconds, count, max(memory, default=None))


def _here(estimator: Estimator, run: Trajectory, device: str) -> Answer:
    """What the estimator answers to a copy of a run in this process."""
    given = map_tensors(run, torch.clone)
    answer = _call(estimator, given, device)
    if not all(map(same_bits, tensors(given), tensors(run))):
        raise Failure("mutated-inputs", f"{estimator.name} changed the run it was given: work on clones")
    return answer


def _call(estimator: Estimator, run: Trajectory, device: str) -> Answer:
    with calculus.counting() as count, machine.peak_memory(device) as peak:
        machine.synchronize(device)
        clock = machine.clock(device)
        start = clock()
        effect = answer(estimator, run)
        machine.synchronize(device)
        return Answer(effect, clock() - start, count, peak())


def _judge(effect: Tensor, estimator: Estimator) -> None:
    """Raise Failure where an estimate (H, K, Q) cannot be ranked."""
    if broken := int((~(effect.abs() < MOST)).sum()):
        places = f"{broken} of {effect.numel()} places"
        raise Failure("non-finite", f"{estimator.name} returned NaN, infinity or more than {MOST:.0e} in {places}")
    flat = (effect == effect[:, :1]).all(dim=1)  # (H, Q)
    if flat.any():
        h, q = (int(i) for i in flat.nonzero()[0])
        raise Failure("constant", f"{estimator.name} returned one number for all samples at horizon {h}, query {q}")
