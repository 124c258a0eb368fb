"""Call an estimator on a reference run, blind and timed, and judge the shape of what it returns."""

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmark import calculus, machine
from benchmark.chunks import out_of_memory
from benchmark.errors import Unsolved, Withheld
from benchmark.problem import Trajectory, map_tensors, tensors
from benchmark.registry import Estimator

MOST = 1e100  # the square of a larger number would not be one


class Failure(Exception):
    """An estimator broke a rule; `status` is the kind of failure that its result records."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, eq=False)
class Estimate:
    """Effects (H, K, Q) as estimated; time, memory and counts are those of the last horizon's estimate."""

    effect: Tensor
    seconds: float
    count: calculus.Count
    memory: int | None  # most bytes at once beyond what was there before; None where not measured


def estimate(estimator: Estimator, run: Trajectory, device: str = "cpu") -> Estimate:
    """What the estimator says of a run, of which it gets a copy. Raises Failure where it breaks a rule."""
    if reason := estimator.unsupported(run.problem):
        raise Failure("unsupported", reason)
    try:
        with machine.undisturbed():
            return _answer(estimator, run, device)
    except (Failure, KeyboardInterrupt):
        raise
    except Withheld as error:
        raise Failure("unsupported", f"{estimator.name}: {error}") from error
    except Unsolved as error:
        raise Failure("unsolved", f"{estimator.name}: {error}") from error
    except BaseException as error:  # a stranger's code may raise anything; the run goes on
        if out_of_memory(error, _brief(error)):
            raise Failure("out-of-memory", f"{estimator.name} ran out of memory: {_brief(error)}") from error
        raise Failure("crashed", f"{estimator.name} raised {_brief(error)}") from error


def _answer(estimator: Estimator, run: Trajectory, device: str) -> Estimate:
    given = map_tensors(run, torch.clone)
    cuts = [given] if estimator.all_horizons else list(given.at_horizons())
    calls = [_call(estimator, cut, device) for cut in cuts]
    if not all(map(_same_bits, tensors(given), tensors(run))):
        raise Failure("mutated-inputs", f"{estimator.name} changed the run it was given: work on clones")
    effect = torch.cat([_of_shape(call.effect, cut, estimator) for call, cut in zip(calls, cuts, strict=True)])
    _judge(effect, estimator)
    return replace(calls[-1], effect=effect)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN included, as a run that diverged may have it."""
    return one.shape == other.shape and torch.equal(*(tensor.contiguous().view(torch.uint8) for tensor in (one, other)))


def _call(estimator: Estimator, run: Trajectory, device: str) -> Estimate:
    with calculus.counting() as count, machine.peak_memory(device) as peak:
        machine.synchronize(device)
        clock = machine.clock(device)
        start = clock()
        effect = estimator(run)
        machine.synchronize(device)
        return Estimate(effect, clock() - start, count, peak())


def _brief(error: BaseException) -> str:
    """Kind and message of an error, without the folders of this machine."""
    try:
        text = str(error)
    except Exception:
        text = "its message cannot be read"
    return re.sub(r"(/[^\s/'\":,]+)+/", "", f"{type(error).__name__}: {text}")[:300]


def _of_shape(effect: Any, run: Trajectory, estimator: Estimator) -> Tensor:
    """The answer as (H, K, Q), or (1, K, Q) of one horizon, on the CPU in the task's precision.

    Where K of N samples are left out, rows for all N will do: the harness takes those asked.
    """
    problem = run.problem
    horizons = (len(problem.horizons),) if estimator.all_horizons else ()
    shapes = [(*horizons, rows, problem.queries) for rows in (len(problem.left_out), len(problem.train))]
    letters = "(H, K, Q)" if estimator.all_horizons else "(K, Q)"
    expected = " or of all N ".join(map(str, dict.fromkeys(shapes)))
    if not isinstance(effect, Tensor) or not _dense_and_real(effect):
        kind = f"{effect.dtype} {effect.layout} tensor" if isinstance(effect, Tensor) else type(effect).__name__
        raise Failure("bad-shape", f"{estimator.name} must return a dense real tensor {letters} = {expected}, got {kind}")
    if tuple(effect.shape) not in shapes:
        raise Failure("bad-shape", f"{estimator.name} must return {letters} = {expected}, got {tuple(effect.shape)}")
    rows = effect.detach().to("cpu", run.final.dtype).reshape(-1, *effect.shape[-2:])
    return rows if rows.shape[1] == len(problem.left_out) else rows[:, problem.left_out.cpu()]


def _dense_and_real(effect: Tensor) -> bool:
    usual = effect.layout == torch.strided and not (effect.is_nested or effect.is_meta or effect.is_quantized)
    return usual and not effect.is_complex()


def _judge(effect: Tensor, estimator: Estimator) -> None:
    """Raise Failure where an estimate (H, K, Q) cannot be ranked."""
    if broken := int((~(effect.abs() < MOST)).sum()):
        places = f"{broken} of {effect.numel()} places"
        raise Failure("non-finite", f"{estimator.name} returned NaN, infinity or more than {MOST:.0e} in {places}")
    flat = (effect == effect[:, :1]).all(dim=1)  # (H, Q)
    if flat.any():
        h, q = (int(i) for i in flat.nonzero()[0])
        raise Failure("constant", f"{estimator.name} returned one number for all samples at horizon {h}, query {q}")
