"""An estimator's answer: asked for, its errors given a kind and a line of its file, and its shape judged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmark.base.errors import Failure, Unsolved, Withheld, place, traced
from benchmark.base.text import line, without_folders
from benchmark.core.declaration import Estimator
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.chunks import out_of_memory


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


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN included, as a run that diverged may have it."""
    return one.shape == other.shape and torch.equal(*(tensor.contiguous().view(torch.uint8) for tensor in (one, other)))
