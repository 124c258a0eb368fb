"""The small problems that the tests share: every model and optimiser, short batches, nothing downloaded."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from tqdm import tqdm

from benchmark.base import machine
from benchmark.base.streams import stream
from benchmark.core.declaration import Estimator
from benchmark.core.models import Block, Network, cnn, mlp
from benchmark.core.optimizers import Adam, Optimizer, Sgd
from benchmark.core.problem import Problem, Samples
from benchmark.core.registry import registered
from benchmark.running.cell import Setup
from benchmark.running.plan import Plan
from benchmark.running.run import Outcome, execute
from benchmark.scores.store import Store
from benchmark.tasks.definition import Task, batches

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Sgd(0.2),
    "sgd-decaying": Sgd(0.2, schedule="inverse-sqrt"),
    "momentum": Sgd(0.1, momentum=0.9),
    "adam": Adam(0.05),
    "adamw": Adam(0.05, decay=0.1),
}
MODELS = {
    "logistic": mlp((5, 1)),
    "mlp": mlp((5, 4, 1), "softplus"),
    "classes": mlp((5, 4, 3), "tanh", "cross-entropy"),
    "regression": mlp((5, 1), loss="squared-error"),
    "cnn": cnn((1, 10, 10), (Block(3, 3), Block(2, 3, padding=1)), 3),
    "cnn-norm": cnn((2, 8, 8), (Block(4, 3, padding=1, groups=2), Block(2, 3, padding=1, groups=1)), 3, "softplus"),
}


def problem(
    model: Network = MODELS["mlp"],
    optimizer: Optimizer = OPTIMIZERS["sgd"],
    *,
    train: int = 12,
    query: int = 3,
    batch: int = 5,
    epochs: int = 3,
    weight_decay: float = 0.01,
    query_kind: str = "each",
    counterfactual: str = "zero-weight",
    seed: int = 0,
) -> Problem:
    """A random problem; 12 samples in batches of 5 leave a short batch of 2 in every epoch."""

    def samples(count: int, name: str) -> Samples:
        random = stream(f"test/{name}", seed)
        inputs = torch.from_numpy(random.normal(size=(count, model.inputs)))
        return Samples(inputs, _targets(model, random.normal(size=count)))

    steps = epochs * -(-train // batch)
    return Problem(
        model=model,
        optimizer=optimizer,
        train=samples(train, "train"),
        query=samples(query, "query"),
        test=samples(query, "test"),
        initial=model.initial(stream("test/initial", seed)),
        batches=batches(train, batch, epochs, stream("test/batches", seed)),
        left_out=torch.arange(train),
        horizons=tuple(sorted({1, steps // 2, steps} - {0})),
        weight_decay=weight_decay,
        query_kind=query_kind,
        counterfactual=counterfactual,
    )


def _targets(model: Network, values: object) -> Tensor:
    real = torch.as_tensor(values)
    if model.loss == "squared-error":
        return real
    classes = max(2, model.classes)
    numbers = (real.sigmoid() * classes).long().clamp(max=classes - 1)
    return numbers if model.loss == "cross-entropy" else numbers.double()


def walked(given: Problem, keep: Tensor) -> Tensor:
    """Parameters (H, P) at each horizon of a loop of its own, with weight 0 for each sample that is not kept, of (N,)."""
    state, found = given.start(), []
    for t in range(given.horizons[-1]):
        batch = given.batch(t)
        state = given.step(t, state, keep[batch].double() / len(batch))
        if t + 1 in given.horizons:
            found.append(state[0])
    return torch.stack(found)


def here(name: str, *values: str, slow: bool = False) -> Any:
    """A parameter set of an estimator and more, skipped with its reason where a library that it needs is missing."""
    reason = registered()[name].missing
    marks = [pytest.mark.skipif(bool(reason), reason=f"needs {reason}"), *([pytest.mark.slow] if slow else [])]
    return pytest.param(name, *values, marks=marks)


every_estimator = pytest.mark.parametrize("name", [here(name) for name in registered()])


def supported_by(estimator: Estimator, **changes: Any) -> Problem:
    """A small problem that an estimator supports."""
    fits = (("mlp", "sgd"), ("mlp", "adamw"), ("logistic", "sgd"))
    problems = (problem(MODELS[model], OPTIMIZERS[optimizer], **changes) for model, optimizer in fits)
    return next(given for given in problems if not estimator.unsupported(given))


def main(arguments: Sequence[str]) -> int:
    """The command line, imported where it is used: a box with a GPU may be without the libraries that it is made of."""
    from benchmark.commands.main import main

    return main(arguments)


def carried_out(task: Task, estimators: Iterable[str], device: str = "cpu", seeds: tuple[int, ...] = (0,)) -> None:
    """Run estimators on a task into my-results as `loobench run` does, but for the command line."""
    chosen, where = tuple(registered()[name] for name in estimators), machine.device(device)
    plan = Plan((task,), chosen, (seeds,), Setup(where, Path("cache").absolute(), "a test"), Store(Path("my-results")))
    found = [*execute(plan, lambda total, text, unit: tqdm(total=total, desc=text, unit=unit, disable=True))]
    assert all(isinstance(one, Outcome) and not one.cell.failed for one in found)
