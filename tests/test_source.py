"""SOURCE against dense matrices, and in the limits in which it is another estimator."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem
from torch import Tensor

from baselines.influence_function import influence_function
from benchmark.core import calculus
from benchmark.core.losses import LOSSES
from benchmark.core.models import Network, mlp
from benchmark.core.optimizers import Adam, Optimizer, Sgd
from benchmark.core.problem import Problem, in_precision
from benchmark.core.registry import registered
from benchmark.core.solvers import lanczos
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train
from benchmark.running.evaluate import Failure, estimate
from estimators import source as module
from estimators.sgd_ie import sgd_ie
from estimators.source import flow, source, spread

ENOUGH = 1000  # iterations; the space ends before
SETTINGS = {"segments": 3, "checkpoints": 2, "curvature": "gauss-newton", "iterations": ENOUGH}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def gap(found: Tensor, expected: Tensor) -> float:
    """The relative error of the largest entry."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def dense_gauss_newton(given: Problem, theta: Tensor) -> Tensor:
    """``mean_b J_b^T l''_b J_b + weight_decay I`` of explicit matrices."""
    outputs = given.model.outputs(theta, given.train.inputs)
    slopes = torch.autograd.functional.jacobian(lambda theta: given.model.outputs(theta, given.train.inputs), theta)
    total = given.weight_decay * len(outputs) * torch.eye(len(theta), dtype=theta.dtype)
    for slope, output, target in zip(slopes, outputs, given.train.targets, strict=True):
        loss = lambda f, y=target: LOSSES[given.model.loss](f[None], y[None])[0]  # noqa: E731
        total += slope.T @ torch.autograd.functional.hessian(loss, output) @ slope
    return total / len(outputs)


def dense_source(run: Trajectory, *, segments: int, checkpoints: int, curvature: str) -> Tensor:
    """The formula as it stands: each segment's shift, carried through the later ones by matrix exponentials."""
    given, optimizer, shift = run.problem, run.problem.optimizer, torch.zeros(12, len(run.final), dtype=torch.float64)
    of = {"hessian": Problem.hessian, "gauss-newton": dense_gauss_newton}[curvature]
    for steps in run.segments(segments):
        at = spread(steps, checkpoints)
        scale, decay, time = torch.ones_like(run.final), 0.0, sum(optimizer.rate(t) for t in steps)
        if isinstance(optimizer, Adam):
            seconds = [run.states[t + 1, 2] / (1 - optimizer.beta2 ** (t + 1)) for t in at]
            scale, decay = 1 / ((sum(seconds) / len(at)).sqrt() + optimizer.eps), optimizer.decay
        elif optimizer.momentum:
            time /= 1 - optimizer.momentum
        matrix = scale[:, None] * sum(of(given, run.params(t)) for t in at) / len(at)  # D H, not symmetric
        matrix = matrix + decay * torch.eye(len(matrix), dtype=torch.float64)
        gradients = sum(given.gradients(run.params(t), given.train) for t in at) / len(at)
        carried = torch.linalg.matrix_exp(-time * matrix)
        lost = torch.eye(len(matrix), dtype=torch.float64) - carried
        shift = shift @ carried.T + torch.linalg.solve(matrix, (gradients * scale).T).T @ lost.T / 12
    return shift @ run.query_gradients().T


# ---- the formula ---------------------------------------------------------------------------------------------------
@every_optimizer
@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
@pytest.mark.parametrize(("segments", "checkpoints"), [(1, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("model", ["logistic", "mlp", "classes"])
def test_source_equals_its_formula_with_dense_matrices(
    model: str, optimizer: Optimizer, curvature: str, segments: int, checkpoints: int
) -> None:
    run = train(problem(MODELS[model], optimizer, query_kind="mean"))
    dense = dense_source(run, segments=segments, checkpoints=checkpoints, curvature=curvature)
    settings = SETTINGS | {"segments": segments, "checkpoints": checkpoints, "curvature": curvature}

    assert gap(source(run, **settings), dense) < 1e-9


@every_optimizer
@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
def test_many_queries_share_an_explicit_matrix_to_the_same_effect(optimizer: Optimizer, curvature: str) -> None:
    run = train(problem(optimizer=optimizer))
    shared = SETTINGS | {"curvature": curvature}
    with calculus.counting() as count:
        found = source(run, **shared)

    assert count.hessian_products == 3 * 2 * 12 * 29  # L C N P
    assert gap(found, dense_source(run, segments=3, checkpoints=2, curvature=curvature)) < 1e-9


def test_forty_iterations_are_enough_for_a_wider_model() -> None:
    run = train(problem(mlp((20, 8, 3), "tanh", "cross-entropy"), train=50, batch=10, epochs=10))  # 195 parameters

    errors = [gap(source(run, **SETTINGS | {"iterations": m}), source(run, **SETTINGS)) for m in (5, 10, 40)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 1e-9


def test_checkpoints_lie_evenly_inside_a_segment() -> None:
    assert spread(range(10, 20), 1) == [15]
    assert spread(range(3, 8), 1) == [(3 + 8) // 2]
    assert spread(range(10, 20), 2) == [12, 17]
    assert spread(range(4, 6), 3) == [4, 5]
    assert spread(range(4, 5), 2) == [4]


# ---- limits --------------------------------------------------------------------------------------------------------
def full_batch(model: Network, optimizer: Optimizer, steps: int) -> Trajectory:
    given = problem(model, optimizer, batch=12, epochs=steps, weight_decay=0.05)
    return train(replace(given, horizons=(given.steps,)))


@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
def test_at_one_full_step_source_tends_to_sgd_ie_with_the_rate(curvature: str) -> None:
    def error(rate: float) -> float:
        run = full_batch(MODELS["mlp"], Sgd(rate), 1)
        return gap(source(run, **SETTINGS | {"curvature": curvature}), sgd_ie(run, curvature=True))

    errors = [error(rate) for rate in (0.02, 0.01, 0.005)]
    assert errors[-1] < 0.005
    for wide, narrow in pairwise(errors):
        assert wide / narrow == pytest.approx(2, rel=0.03)


def test_with_a_segment_a_step_source_tends_to_sgd_ie_with_the_square_of_the_rate() -> None:
    def error(rate: float) -> float:
        run = full_batch(MODELS["mlp"], Sgd(rate), 8)
        found = source(run, **SETTINGS | {"segments": 8, "curvature": "hessian"})
        return float((found - sgd_ie(run, curvature=True)).abs().max())

    errors = [error(rate) for rate in (4e-3, 2e-3, 1e-3)]
    for wide, narrow in pairwise(errors):
        assert wide / narrow == pytest.approx(4, rel=0.03)


def discrete(run: Trajectory) -> Tensor:
    """``d <- d - rate (D H d + decay d) + rate/N D g_i`` step by step, with Adam's own D of each step held fixed."""
    given, adam, shift = run.problem, run.problem.optimizer, torch.zeros(12, len(run.final), dtype=torch.float64)
    assert isinstance(adam, Adam)
    for t in range(given.steps):
        theta, rate = run.params(t), adam.rate(t)
        scale = 1 / ((run.states[t + 1, 2] / (1 - adam.beta2 ** (t + 1))).sqrt() + adam.eps)
        pulled = scale * (shift @ given.hessian(theta)) + adam.decay * shift
        shift = shift - rate * pulled + rate / 12 * scale * given.gradients(theta, given.train)
    return shift @ run.query_gradients().T


@pytest.mark.parametrize("decay", [0.0, 2.0])
def test_with_a_segment_a_step_source_tends_to_steps_of_adam_of_fixed_scale(decay: float) -> None:
    def error(rate: float) -> float:
        run = full_batch(MODELS["mlp"], Adam(rate, decay=decay), 8)
        return gap(source(run, **SETTINGS | {"segments": 8, "curvature": "hessian"}), discrete(run))

    errors = [error(rate) for rate in (4e-4, 2e-4, 1e-4)]
    assert errors[-1] < 0.01
    for wide, narrow in pairwise(errors):
        assert wide / narrow == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("optimizer", [Sgd(1.0), Sgd(0.2, momentum=0.8)], ids=["sgd", "momentum"])
def test_of_a_long_converged_run_source_is_the_influence_function(optimizer: Optimizer) -> None:
    run = full_batch(MODELS["logistic"], optimizer, 2000)

    for name in ("source", "source-1", "source-6", "source-hessian"):
        assert gap(registered()[name](run), influence_function(run, solver="direct", matrix="hessian", damping=0.0)) < 1e-9


# ---- Lanczos -------------------------------------------------------------------------------------------------------
def diagonal(values: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda vectors: vectors * values


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def exact(values: Tensor, time: float, starts: Tensor) -> tuple[Tensor, Tensor]:
    passed = torch.where(values == 0, time, -torch.expm1(-time * values) / torch.where(values == 0, 1.0, values))
    return starts * passed, starts * torch.exp(-time * values)


@pytest.mark.parametrize("distinct", [[2.0], [0.0], [0.0, 3.0], [-0.1, 0.0, 0.5, 1e4], [1e-12, 1.0, 5.0, 6.0, 7.0]])
def test_lanczos_is_exact_where_there_are_fewer_eigenvalues_than_iterations(distinct: list[float]) -> None:
    values = torch.tensor(distinct, dtype=torch.float64).repeat(20)
    starts = random(3, len(values))
    starts[1] = 0  # a query of no gradient
    starts[2, 1:] = 0  # an eigenvector

    for found, expected in zip(flow(diagonal(values), 1.5, starts, 15), exact(values, 1.5, starts), strict=True):
        assert gap(found, expected) < 1e-11  # last bits differ between processors
        assert (found[1] == 0).all()


def test_lanczos_needs_no_more_iterations_than_parameters() -> None:
    values = torch.linspace(0.1, 5, 7, dtype=torch.float64)
    starts = random(4, 7)
    assert lanczos(diagonal(values), starts, 100)[0].shape == (4, 7, 7)
    for found, expected in zip(flow(diagonal(values), 0.7, starts, 100), exact(values, 0.7, starts), strict=True):
        assert gap(found, expected) < 1e-13


def test_lanczos_bases_are_orthonormal_and_give_the_matrix_back() -> None:
    values = torch.logspace(-8, 4, 60, dtype=torch.float64)  # outer ones converge early and would come back
    basis, small = lanczos(diagonal(values), random(3, 60), 40)

    assert (basis @ basis.mT - torch.eye(40, dtype=torch.float64)).abs().max() < 1e-13
    assert gap(basis @ (basis * values).mT, small) < 1e-13


@pytest.mark.parametrize("iterations", [5, 15])
def test_columns_do_not_depend_on_how_queries_and_samples_are_chunked(iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(problem(query=10))  # in chunks of 9 and 1, or 8 and 2
    whole = source(run, **SETTINGS | {"iterations": iterations})
    one = replace(run, problem=replace(run.problem, query=run.problem.query[[4]]))  # without an explicit matrix
    single = source(one, **SETTINGS | {"iterations": iterations})
    monkeypatch.setattr(module, "ROWS", 5)

    assert gap(single, whole[:, [4]]) < 1e-11
    assert gap(source(run, **SETTINGS | {"iterations": iterations}), whole) < 1e-11


# ---- what may go wrong ---------------------------------------------------------------------------------------------
def test_growth_beyond_all_numbers_is_reported_and_does_not_hide() -> None:
    run = train(problem(optimizer=Sgd(0.01)))
    long = replace(run, problem=replace(run.problem, optimizer=Sgd(1e5)))  # for this time the negative curvature reigns

    with pytest.raises(Failure) as failure:
        estimate(registered()["source-hessian"], long)
    assert failure.value.status == "non-finite"
    assert estimate(registered()["source"], long).effect.isfinite().all()


@pytest.mark.parametrize("start", [torch.inf, torch.nan])
def test_what_is_not_a_number_stays_in_its_own_column(start: float) -> None:
    values = torch.linspace(0.1, 5, 30, dtype=torch.float64)
    starts = random(2, 30)
    starts[0, 3] = start
    for found, expected in zip(flow(diagonal(values), 0.7, starts, 100), exact(values, 0.7, starts), strict=True):
        assert not found[0].isfinite().any()
        assert gap(found[1], expected[1]) < 1e-12


@pytest.mark.parametrize("size", [1e200, torch.inf, torch.nan])
def test_a_product_that_overflows_shows(size: float) -> None:
    values = torch.linspace(0.1, 5, 30, dtype=torch.float64) * size
    for found in flow(diagonal(values), 0.7, random(2, 30), 20):
        assert found.isnan().all()


@every_optimizer
def test_single_precision_single_samples_and_single_steps_will_do(optimizer: Optimizer) -> None:
    given = problem(optimizer=optimizer)
    for variant in (given, replace(given, batches=given.batches[:1]), problem(optimizer=optimizer, batch=1)):
        run = train(replace(variant, horizons=(variant.steps,)))
        single = train(in_precision(run.problem, torch.float32))
        assert gap(source(single, **SETTINGS).double(), source(run, **SETTINGS)) < 1e-3


def test_rows_are_the_samples_left_out() -> None:
    run = train(problem())
    some = replace(run, problem=replace(run.problem, left_out=torch.tensor([2, 7])))

    assert gap(source(some, **SETTINGS), source(run, **SETTINGS)[[2, 7]]) < 1e-13


def test_cost_does_not_depend_on_the_number_of_epochs() -> None:
    for epochs in (3, 6):
        with calculus.counting() as count:
            source(train(problem(epochs=epochs)), **SETTINGS | {"iterations": 7})
        assert count.hessian_products == 3 * 2 * 7 * 12 * 3  # L C m N Q
        assert count.gradients == epochs * 12 + 3 + 3 * 2 * (12 + 7 * 12)  # the run, Q, L C (K + m N)
