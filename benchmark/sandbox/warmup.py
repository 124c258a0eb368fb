"""What takes long the first time in a process, done on made-up problems, so that no first call of a method pays for it."""

import importlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from benchmark.base.errors import LoobenchError
from benchmark.base.streams import stream
from benchmark.core import calculus, solvers, sweep
from benchmark.core.models import Block, Model, cnn, mlp
from benchmark.core.optimizers import Adam, Optimizer, Sgd
from benchmark.core.problem import Problem, Samples, map_tensors
from benchmark.core.trajectory import Trajectory
from benchmark.retraining import shifts
from benchmark.retraining.train import leave_one_out, train

SAMPLES = 8
LIBRARIES = ("scipy.optimize", "scipy.sparse.linalg", "sklearn.covariance", "sklearn.ensemble", "sklearn.linear_model")
MODELS = "benchmark.core.reference"  # what modules of tasks are built from; its imports are refused later
NETWORKS = (mlp((3, 2, 1)), mlp((3, 2, 3), "tanh", "cross-entropy"), cnn((1, 6, 6), (Block(2, 3),), 3, "softplus"))
SOLVERS: dict[str, dict[str, float]] = {
    "direct": {},
    "cg": {"iterations": 2},
    "lissa": {"depth": 2, "batch": 4, "scale": 2.0},
    "arnoldi": {"rank": 2, "iterations": 3},
    "nystrom": {"rank": 2},
    "ekfac": {"share": 0.1},
    "datainf": {"share": 0.1},
}
OPTIMIZERS: tuple[Optimizer, ...] = (Sgd(0.1), Sgd(0.1, momentum=0.9), Adam(0.1))


def problem(model: Model, optimizer: Optimizer) -> Problem:
    """One step on a few random samples: nothing of it is any task's."""
    numbers = torch.arange(SAMPLES)
    inputs = torch.from_numpy(stream("warm-up/inputs", 0).normal(size=(SAMPLES, model.inputs)))
    some = Samples(inputs, _targets(model, numbers))
    initial = model.initial(stream("warm-up/initial", 0))
    return Problem(model, optimizer, some, some, some, initial, numbers[None], numbers, (1,), query_kind="each")


def _targets(model: Model, numbers: Tensor) -> Tensor:
    classes = numbers % max(2, model.classes)
    return classes if model.loss == "cross-entropy" else classes.double()


def like(run: Trajectory) -> Trajectory:
    """A made-up run of one step of the network and optimiser of a real one, of which it holds nothing else."""
    own, final = run.problem, run.final
    given = problem(own.model, own.optimizer) if own.model.layers else _blank(own)
    here = map_tensors(given, lambda tensor: tensor.to(final.device, final.dtype if tensor.is_floating_point() else None))
    asked = {name: getattr(own, name) for name in ("weight_decay", "query_kind", "counterfactual", "query_function", "clip")}
    made = train(replace(here, **asked))
    return made.final_only() if run.final_alone else made


def _blank(own: Problem) -> Problem:
    """One step on samples of zeros, of the shapes and kinds that a module takes."""
    numbers = torch.arange(min(SAMPLES, len(own.train)), device=own.initial.device)
    some = Samples(torch.zeros_like(own.train.inputs[numbers]), torch.zeros_like(own.train.targets[numbers]))
    initial = torch.from_numpy(stream("warm-up/initial", 0).normal(scale=0.1, size=own.model.parameters))
    return Problem(own.model, own.optimizer, some, some, some, initial, numbers[None], numbers, (1,), query_kind="each")


def everything() -> None:
    """What methods are made of, on networks and optimisers of each kind."""
    for name in (*LIBRARIES, MODELS):
        importlib.import_module(name)
    for model, optimizer in zip(NETWORKS, OPTIMIZERS, strict=True):
        _use(train(problem(model, optimizer)))


def _use(run: Trajectory) -> None:
    given, theta = run.problem, run.final
    briefly(run)
    leave_one_out(run)
    sweep.backward(run)
    shifts.effects(run, shifts.ACC, "exact")
    given.gauss_newton_products(theta, given.train, theta[None])
    calculus.push(lambda at: given.gradients(at, given.train), (theta,), (theta,))
    torch.linalg.eigh(given.hessian(theta))
    torch.linalg.svd(given.gradients(theta, given.train))
    for system in _systems(run):
        for solver, settings in SOLVERS.items():
            with suppress(LoobenchError):  # a solver that is not for such a matrix or network
                solvers.solve(system, run.query_gradients(), solver, **settings)


def _systems(run: Trajectory) -> Iterator[solvers.System]:
    return (solvers.System(run, matrix, 0.1) for matrix in solvers.MATRICES)


def briefly(run: Trajectory | None = None) -> None:
    """A gradient, a Hessian product and a step pulled back: what a new process has to take into memory of its own."""
    run = run or _smallest()
    given = run.problem
    given.gradients(run.final, given.train)
    given.hessian_products(run.final, given.train, run.final[None])
    given.pull(0, run.states[0], given.weights(0), run.states[1][None])


def _smallest() -> Trajectory:
    return train(problem(NETWORKS[0], OPTIMIZERS[0]))
