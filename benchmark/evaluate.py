"""Call an estimator on a reference run, blind and timed, and judge the shape of what it returns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark import calculus, machine, sandbox
from benchmark.chunks import out_of_memory
from benchmark.errors import Failure as Failure
from benchmark.errors import Unsolved, Withheld, place, tell, traced
from benchmark.problem import Trajectory, map_tensors, tensors
from benchmark.registry import Estimator
from benchmark.sandbox import Answer, Confined
from benchmark.text import line, without_folders

MOST = 1e100  # the square of a larger number would not be one


@dataclass(frozen=True, eq=False)
class Estimate:
    """Effects (H, K, Q) as estimated; time, memory and counts are those of the dearest call, of the last horizon as a rule."""

    effect: Tensor
    seconds: float
    count: calculus.Count
    memory: int | None  # most bytes at once beyond what was there before; None where not measured


def estimate(estimator: Estimator, run: Trajectory, device: str = "cpu") -> Estimate:
    """What the estimator says of a run, of which it gets a copy. Raises Failure where it breaks a rule."""
    if reason := estimator.unsupported(run.problem):
        raise Failure("unsupported", reason)
    try:
        return _estimated(estimator, run, device)
    except Failure as failure:
        tell(failure.traceback)
        raise


def _estimated(estimator: Estimator, run: Trajectory, device: str) -> Estimate:
    with typed(estimator.name, estimator.file):
        answers = _answers(estimator, run, device)
        effect = torch.cat([of_shape(one.effect, run, estimator) for one in answers])
    _judge(effect, estimator)
    return _dearest(effect, answers)


def _answers(estimator: Estimator, run: Trajectory, device: str) -> list[Answer]:
    """What it answers at each horizon, or at all in one. The last is asked first: no call has seen a part of the run before."""
    cuts = [run] if estimator.all_horizons else map(run.until, reversed(run.problem.horizons))
    if isinstance(estimator.function, Confined):
        return sandbox.answers(estimator, cuts)[::-1]
    with machine.undisturbed():
        return [_here(estimator, cut, device) for cut in cuts][::-1]


def _dearest(effect: Tensor, answers: Sequence[Answer]) -> Estimate:
    """An estimate with the most that any of its calls took, so that none can do the work of another for nothing."""
    memory = [one.memory for one in answers if one.memory is not None]
    seconds, count = max(one.seconds for one in answers), calculus.largest([one.count for one in answers])
    return Estimate(effect, seconds, count, max(memory, default=None))


@contextmanager
def typed(name: str, file: str) -> Iterator[None]:
    """Turn whatever a stranger's code raises in the block into a Failure that names the line of its file; the run goes on."""
    try:
        yield
    except (Failure, KeyboardInterrupt):
        raise
    except BaseException as error:
        found = "" if isinstance(error, Unsolved) else place(error, file)
        where = f"{name} ({found})" if found else name
        raise Failure(*_kind(where, error), traced(error)) from error


def _kind(name: str, error: BaseException) -> tuple[str, str]:
    """The kind of failure that an error is, and what to say of it and of who and where."""
    if isinstance(error, Unsolved):
        return "unsolved", f"{name}: {error}"
    said = _brief(error)
    if isinstance(error, PermissionError):
        return "forbidden-access", f"{name} did what it may not: {said}"
    if out_of_memory(error, said):
        return "out-of-memory", f"{name} ran out of memory: {said}"
    return "crashed", f"{name} raised {said}"


def _here(estimator: Estimator, run: Trajectory, device: str) -> Answer:
    """What the estimator answers to a copy of a run in this process."""
    given = map_tensors(run, torch.clone)
    answer = _call(estimator, given, device)
    if not all(map(same_bits, tensors(given), tensors(run))):
        raise Failure("mutated-inputs", f"{estimator.name} changed the run it was given: work on clones")
    return answer


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN included, as a run that diverged may have it."""
    return one.shape == other.shape and torch.equal(*(tensor.contiguous().view(torch.uint8) for tensor in (one, other)))


def _call(estimator: Estimator, run: Trajectory, device: str) -> Answer:
    with calculus.counting() as count, machine.peak_memory(device) as peak:
        machine.synchronize(device)
        clock = machine.clock(device)
        start = clock()
        effect = answer(estimator, run)
        machine.synchronize(device)
        return Answer(effect, clock() - start, count, peak())


def answer(estimator: Estimator, run: Trajectory) -> Any:
    """What the estimator returns of a run; Failure "unsupported" where it ends with what the run refused it.

    The run notes what it refuses: a stranger can raise Withheld or a Failure too, and that is a crash like any other.
    """
    try:
        return estimator(run)
    except Withheld as error:
        if not run.refused:
            raise
        raise Failure("unsupported", f"{estimator.name}: {error}", traced(error)) from error
    except Failure as error:
        raise Failure("crashed", f"{estimator.name} raised {_brief(error)}", traced(error)) from error


def _brief(error: BaseException) -> str:
    """Kind and message of an error in a line, without the folders of this machine."""
    try:
        text = str(error)
    except Exception:
        text = "its message cannot be read"
    return line(without_folders(f"{type(error).__name__}: {text}"), 300)


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
