"""Every registered estimator on small problems of every model and every optimiser."""

import logging
import random
import re
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from cases import MODELS, OPTIMIZERS, every_estimator, here, problem, supported_by
from nets import net_problem
from torch import Tensor

from benchmark.core.problem import tensors
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train
from benchmark.running.evaluate import Failure, estimate

CALLED = registered()
SMALL = ("encoder", "resnet")  # torch.nn modules
ASKED_ONE = ("logistic", "classes", "cnn-norm", "encoder")  # their runs are asked for one query, the other models' for four
AS_MODULES = "cnn-norm", "adamw"  # runs by the code of modules, as the encoder
TRAINING = {  # in the folder of baselines, but they train
    *("exact-loo", "datamodel", "datamodel-lasso", "amortised", "amortised-dot", "further-train", "further-train-adam"),
}


def fits(name: str) -> list[tuple[str, str]]:
    """Each model and each optimiser in turn; for what follows the run, each model by SGD and by AdamW."""
    follows = CALLED[name].function.__module__.startswith("estimators.") or name in TRAINING
    usual = ("sgd", "adamw") if follows else ("sgd",)
    others = [optimizer for optimizer in OPTIMIZERS if optimizer not in usual]
    of_ours = [(model, optimizer) for model in MODELS for optimizer in usual if (model, optimizer) != AS_MODULES]
    return [*of_ours, *(("mlp", optimizer) for optimizer in others), ("encoder", usual[-1]), ("resnet", usual[0])]


ALL = [(name, *fit) for name in CALLED for fit in fits(name)]
SLOW = re.compile("source|if-lissa|if-arnoldi")  # on convolutions and modules, where a product with their curvature is costly
SLOW_LIBRARY = re.compile("captum/arnoldi|dattri/if-lissa|pydvl/cg")  # on modules


def slow(name: str, model: str) -> bool:
    """Whether an estimator takes more than a few seconds for a model."""
    taken = (model.startswith("cnn") or model in SMALL) and SLOW.match(name)
    return bool(taken or (model in SMALL and SLOW_LIBRARY.match(name)))


every_fit = pytest.mark.parametrize(
    ("name", "model", "optimizer"),
    [here(*one, slow=slow(*one[:2])) for one in ALL],
    ids=["-".join(one) for one in ALL],
)
BLIND_TO_QUERIES = {"chance"}  # drawn in the order of rows and columns
OF_NUMBERS = {"knn-shapley-inputs", "lava", "amortised", "amortised-dot"}  # they look at inputs as numbers
BLIND_TO_STATES = {  # these train again from the start, where the run is finite, or look at the data alone
    *("chance", "exact-loo", "partial-retrain-3"),
    *("datamodel", "datamodel-90", "datamodel-lasso"),
    *("knn-shapley-inputs", "lava"),
}


@cache
def reference(model: str, optimizer: str) -> Trajectory:
    """Two epochs with a short batch each, of a torch.nn module one, one horizon; sample 4 is never visited."""
    chosen = OPTIMIZERS[optimizer]
    given = net_problem(model, chosen, epochs=1) if model in SMALL else problem(MODELS[model], chosen, epochs=2)
    given.batches[given.batches == 4] = -1
    return train(replace(given, horizons=(given.steps,)))


def supported(name: str, run: Trajectory) -> bool:
    """Whether the estimator supports the problem; that one it does not is `unsupported`, with a reason, is asserted here."""
    if CALLED[name].unsupported(run.problem) is None:
        return True
    with pytest.raises(Failure, match=name) as failure:
        estimate(CALLED[name], run)
    assert failure.value.status == "unsupported"
    return False


def sees_tokens(name: str, run: Trajectory) -> bool:
    """Whether it looks at inputs as numbers and these are tokens; that it then says so is asserted here."""
    if name not in OF_NUMBERS or run.problem.train.inputs.is_floating_point():
        return False
    with pytest.raises(Failure, match="inputs must be numbers that have distances, got tokens") as failure:
        estimate(CALLED[name], run)
    assert failure.value.status == "unsolved"
    return True


def answer(name: str, run: Trajectory) -> Tensor:
    return estimate(CALLED[name], run).effect[-1]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@cache
def permuted(model: str, optimizer: str) -> tuple[Trajectory, Tensor]:
    """The reference run with its samples in another order, and the order."""
    given, order = reference(model, optimizer).problem, torch.randperm(12, generator=torch.Generator().manual_seed(1))
    where = order.argsort()
    batches = torch.where(given.batches < 0, -1, where[given.batches])
    return train(replace(given, train=given.train[order], batches=batches)), order


@cache
def least(optimizer: str) -> tuple[Trajectory, Trajectory]:
    """A run of batches of one sample, and a run of one step."""
    step = problem(optimizer=OPTIMIZERS[optimizer], batch=12, epochs=1)
    return train(problem(optimizer=OPTIMIZERS[optimizer], batch=1, epochs=1)), train(replace(step, horizons=(1,)))


@every_fit
def test_an_estimator_keeps_the_rules(name: str, model: str, optimizer: str) -> None:
    """Shape, finite, twice the same bits, inputs untouched; rows follow the samples, columns the queries."""
    run = reference(model, optimizer)
    if not supported(name, run) or sees_tokens(name, run):
        return
    before = [tensor.clone() for tensor in tensors(run)]
    found = answer(name, run)

    assert found.shape == (12, 3)
    assert found.isfinite().all()
    assert torch.equal(found, answer(name, run))
    assert all(map(torch.equal, tensors(run), before))
    if name in BLIND_TO_QUERIES:
        return
    other, order = permuted(model, optimizer)
    columns = [1] if model in ASKED_ONE else [0, 1, 2, 1]  # queries in other chunks, too
    asked = replace(other, problem=replace(other.problem, query=other.problem.query[columns]))
    tolerance = 1e-6 if name.startswith("amortised") and model in SMALL else 1e-8  # a regression on more features than samples
    close(answer(name, asked), found[order][:, columns], tolerance)


def around() -> tuple[Any, ...]:
    """What is global and no business of an estimator: random states, precision, loggers, filters of warnings."""
    kind, keys, *rest = np.random.get_state()
    root = logging.getLogger()
    random_states = torch.get_rng_state().tolist(), kind, keys.tolist(), rest, random.getstate()
    return *random_states, torch.get_default_dtype(), list(root.handlers), root.level, list(warnings.filters)


@every_estimator
def test_an_estimator_leaves_what_is_global_alone(name: str) -> None:
    run = train(supported_by(CALLED[name], query_kind="mean")).until(9)
    CALLED[name](run)  # what importing a library does comes first; and the harness, which puts back, is left out
    before = around()
    CALLED[name](run)

    assert around() == before


@every_estimator
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_batches_of_one_sample_and_a_run_of_one_step_are_no_trouble(name: str, optimizer: str) -> None:
    for run in least(optimizer):
        if supported(name, run):
            assert answer(name, run).isfinite().all()


@every_estimator
def test_rows_for_some_samples_are_those_for_all(name: str) -> None:
    run = train(supported_by(CALLED[name])).until(9)  # with one horizon, where every sample has been seen
    if name in BLIND_TO_QUERIES or not supported(name, run):
        return
    some = torch.tensor([1, 4, 10])
    close(answer(name, replace(run, problem=replace(run.problem, left_out=some))), answer(name, run)[some])


@every_estimator
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_that_diverged_is_a_typed_failure(name: str, optimizer: str) -> None:
    run = reference("mlp", optimizer)
    if not supported(name, run) or name in BLIND_TO_STATES:
        return
    broken = replace(run, states=run.states.clone())
    broken.states[2:] = float("nan")
    with pytest.raises(Failure) as failure:
        estimate(CALLED[name], broken)
    assert failure.value.status in ("non-finite", "crashed")
