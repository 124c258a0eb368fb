"""Call an estimator on a reference run, blind and timed, and judge the shape of what it returns."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark import calculus, machine, sandbox
from benchmark.chunks import out_of_memory
from benchmark.errors import Failure as Failure
from benchmark.errors import Unsolved, Withheld
from benchmark.problem import Trajectory, map_tensors, tensors
from benchmark.registry import Estimator
from benchmark.sandbox import Answer, Confined

MOST = 1e100  # the square of a larger number would not be one


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
    cuts = [run] if estimator.all_horizons else list(run.at_horizons())
    with typed(estimator.name):
        confined = isinstance(estimator.function, Confined)
        answers = sandbox.answers(estimator, cuts) if confined else here(estimator, run, device)
        effect = torch.cat([of_shape(one.effect, cut, estimator) for one, cut in zip(answers, cuts, strict=True)])
    _judge(effect, estimator)
    last = answers[-1]
    return Estimate(effect, last.seconds, last.count, last.memory)


@contextmanager
def typed(name: str) -> Iterator[None]:
    """Turn whatever a stranger's code raises in the block into a Failure; the run goes on."""
    try:
        yield
    except (Failure, KeyboardInterrupt):
        raise
    except Withheld as error:
        raise Failure("unsupported", f"{name}: {error}") from error
    except Unsolved as error:
        raise Failure("unsolved", f"{name}: {error}") from error
    except PermissionError as error:
        raise Failure("forbidden-access", f"{name} did what it may not: {_brief(error)}") from error
    except BaseException as error:
        if out_of_memory(error, _brief(error)):
            raise Failure("out-of-memory", f"{name} ran out of memory: {_brief(error)}") from error
        raise Failure("crashed", f"{name} raised {_brief(error)}") from error


def here(estimator: Estimator, run: Trajectory, device: str) -> list[Answer]:
    """What the estimator answers in this process: for each horizon, or for all in one."""
    with machine.undisturbed():
        given = map_tensors(run, torch.clone)
        cuts = [given] if estimator.all_horizons else list(given.at_horizons())
        answers = [_call(estimator, cut, device) for cut in cuts]
    if not all(map(same_bits, tensors(given), tensors(run))):
        raise Failure("mutated-inputs", f"{estimator.name} changed the run it was given: work on clones")
    return answers


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN included, as a run that diverged may have it."""
    return one.shape == other.shape and torch.equal(*(tensor.contiguous().view(torch.uint8) for tensor in (one, other)))


def _call(estimator: Estimator, run: Trajectory, device: str) -> Answer:
    with calculus.counting() as count, machine.peak_memory(device) as peak:
        machine.synchronize(device)
        clock = machine.clock(device)
        start = clock()
        effect = estimator(run)
        machine.synchronize(device)
        return Answer(effect, clock() - start, count, peak())


def _brief(error: BaseException) -> str:
    """Kind and message of an error, without the folders of this machine."""
    try:
        text = str(error)
    except Exception:
        text = "its message cannot be read"
    return without_folders(f"{type(error).__name__}: {text}")[:300]


def without_folders(text: str) -> str:
    """A text whose paths are cut to their last part."""
    return re.sub(r"(/[^\s/'\":,]+)+/", "", text)


def of_shape(effect: Any, run: Trajectory, estimator: Estimator) -> Tensor:
    """The answer as (H, K, Q), or (1, K, Q) of one horizon, on the CPU in the task's precision.

    Where K of N samples are left out, rows for all N will do: the harness takes those asked.
    """
    problem = run.problem
    horizons = (len(problem.horizons),) if estimator.all_horizons else ()
    shapes = [(*horizons, rows, problem.queries) for rows in (len(problem.left_out), len(problem.train))]
    letters = "(H, K, Q)" if estimator.all_horizons else "(K, Q)"
    expected = " or of all N ".join(map(str, dict.fromkeys(shapes)))
    if not isinstance(effect, Tensor) or not dense_and_real(effect):
        came = f"{letters} = {expected}, got {kind_of(effect)}"
        raise Failure("bad-shape", f"{estimator.name} must return a dense real tensor {came}")
    if tuple(effect.shape) not in shapes:
        raise Failure("bad-shape", f"{estimator.name} must return {letters} = {expected}, got {tuple(effect.shape)}")
    rows = effect.detach().to("cpu", run.final.dtype).reshape(-1, *effect.shape[-2:])
    return rows if rows.shape[1] == len(problem.left_out) else rows[:, problem.left_out.cpu()]


def kind_of(effect: Any) -> str:
    """What an answer is, for an error."""
    return f"{effect.dtype} {effect.layout} tensor" if isinstance(effect, Tensor) else type(effect).__name__


def dense_and_real(effect: Tensor) -> bool:
    """Whether an answer is a tensor of the usual layout with real entries."""
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
