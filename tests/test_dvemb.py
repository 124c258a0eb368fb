"""DVEmb against the paper's own recursion, and where it is another estimator."""

from dataclasses import replace

import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem
from torch import Tensor

from benchmark.core import calculus
from benchmark.core.models import Network, mlp
from benchmark.core.optimizers import Optimizer, Sgd
from benchmark.core.problem import in_precision
from benchmark.core.projections import gaussian
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train
from estimators import dvemb as module
from estimators.dvemb import acc_dvemb, dvemb, dvemb_projected, projected
from estimators.sgd_ie import sgd_ie

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
FISHER = {"curvature": "fisher", "last": False}


def gap(found: Tensor, expected: Tensor) -> float:
    """The relative error of the largest entry."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


# ---- the recursion -------------------------------------------------------------------------------------------------
def embeddings(run: Trajectory) -> Tensor:
    """Theorem 2 for a mean loss: ``E(z) = rate/|B| (g_z - M g_z)``, then ``M <- M + sum_z E(z) g_z^T``; summed over visits."""
    given = run.problem
    carried = torch.zeros(len(run.final), len(run.final), dtype=torch.float64)
    total = torch.zeros(len(given.train), len(run.final), dtype=torch.float64)
    for t in reversed(range(given.steps)):
        visits = []
        for i in given.batch(t):
            gradient = given.gradients(run.params(t), given.train[[int(i)]])[0]
            embedding = given.optimizer.rate(t) / len(given.batch(t)) * (gradient - carried @ gradient)
            total[i] += embedding
            visits.append(torch.outer(embedding, gradient))
        carried = carried + sum(visits)
    return total


@every_optimizer
@every_model
def test_the_sweep_equals_the_papers_recursion_of_embeddings(model: Network, optimizer: Optimizer) -> None:
    run = train(problem(model, optimizer))

    assert gap(dvemb(run, **FISHER), embeddings(run) @ run.query_gradients().T) < 1e-10


@every_model
@pytest.mark.parametrize("optimizer", [OPTIMIZERS["sgd"], OPTIMIZERS["sgd-decaying"]], ids=["sgd", "sgd-decaying"])
def test_with_the_hessian_dvemb_is_sgd_ie(model: Network, optimizer: Optimizer) -> None:
    run = train(problem(model, optimizer))

    assert gap(dvemb(run, curvature="hessian", last=False), sgd_ie(run, curvature=True)) < 1e-10
    assert gap(dvemb(run, **FISHER), sgd_ie(run, curvature=True)) > 1e-3


@pytest.mark.parametrize("model", ["logistic", "regression"])
def test_the_gauss_newton_matrix_of_a_linear_model_is_its_hessian(model: str) -> None:
    run = train(problem(MODELS[model]))

    assert gap(dvemb(run, curvature="gauss-newton", last=False), dvemb(run, curvature="hessian", last=False)) < 1e-12


def with_unit_residuals(model: Network) -> Trajectory:
    """One epoch in which each batch has residuals 1 and -1 when its turn comes."""
    given = problem(model, epochs=1, weight_decay=0.0)
    for t in range(given.steps):
        batch = given.batch(t)
        outputs = model.outputs(train(given).params(t), given.train.inputs[batch])[:, 0]
        given.train.targets[batch] = outputs + (-1.0) ** torch.arange(len(batch))
    return train(given)


def test_at_unit_residuals_the_fisher_matrix_is_the_gauss_newton_matrix_and_not_the_hessian() -> None:
    run = with_unit_residuals(mlp((5, 4, 1), "tanh", "squared-error"))
    fisher = dvemb(run, **FISHER)

    assert gap(dvemb(run, curvature="gauss-newton", last=False), fisher) < 1e-12
    assert gap(dvemb(run, curvature="hessian", last=False), fisher) > 1e-3


# ---- last visits ---------------------------------------------------------------------------------------------------
def test_in_one_epoch_every_visit_is_the_last() -> None:
    run = train(problem(epochs=1))

    assert torch.equal(dvemb(run, curvature="fisher", last=True), dvemb(run, **FISHER))


def test_the_last_visits_are_those_of_the_last_epoch() -> None:
    run = train(problem())  # 3 epochs of 3 steps
    last = replace(run, problem=replace(run.problem, batches=run.problem.batches[6:], horizons=(3,)), states=run.states[6:])

    assert gap(dvemb(run, curvature="fisher", last=True), dvemb(last, **FISHER)) < 1e-13
    assert gap(dvemb(run, **FISHER), dvemb(last, **FISHER)) > 0.1


def test_a_last_visit_may_lie_in_an_earlier_epoch() -> None:
    given = problem()
    given.batches[3:][given.batches[3:] == 4] = -1
    run = train(given)
    first = dvemb(run, curvature="fisher", last=True)

    assert first[4].abs().min() > 1e-6
    assert gap(first[4], dvemb(run, **FISHER)[4]) < 1e-12


# ---- projection ----------------------------------------------------------------------------------------------------
def test_the_error_of_projection_falls_with_the_root_of_the_dimension() -> None:
    run = train(problem(optimizer=Sgd(0.05)))
    whole, random = dvemb(run, **FISHER), torch.Generator().manual_seed(0)

    def error(dimension: int) -> float:
        draws = [projected(run, gaussian(random, run.final, len(run.final), dimension)) - whole for _ in range(50)]
        return float(torch.stack(draws).square().mean().sqrt())

    errors = [error(dimension) for dimension in (64, 1024)]
    assert 3 < errors[0] / errors[1] < 5


def test_the_projection_is_drawn_from_the_runs_own_random_numbers() -> None:
    run, other = train(problem()), train(problem(seed=1))
    found = dvemb_projected(run, dimension=8)

    assert torch.equal(found, projected(run, gaussian(run.random(), run.final, len(run.final), 8)))
    assert gap(found, projected(run, gaussian(other.random(), run.final, len(run.final), 8))) > 0.1


def test_an_orthogonal_projection_changes_nothing() -> None:
    run = train(problem())
    square = torch.linalg.qr(gaussian(torch.Generator().manual_seed(0), run.final, len(run.final), len(run.final))).Q

    assert gap(projected(run, square), dvemb(run, **FISHER)) < 1e-12


def test_a_projection_is_standard_normal_over_the_root_of_its_dimension_and_the_same_in_both_precisions() -> None:
    theta = torch.zeros(9000, dtype=torch.float64)  # three blocks
    matrix, single = (
        gaussian(torch.Generator().manual_seed(0), theta.to(kind), len(theta), 16) for kind in (theta.dtype, torch.float32)
    )

    assert matrix.mean().abs() < 5 * (1 / 16 / matrix.numel()) ** 0.5
    assert float(matrix.square().sum(1).mean()) == pytest.approx(1, abs=0.02)
    assert len(matrix.unique()) == matrix.numel()
    assert torch.equal(matrix.float(), single)


# ---- acc-dvemb -----------------------------------------------------------------------------------------------------
def dense_acc(run: Trajectory, i: int) -> Tensor:
    """The shift (P,) of one sample left out, with an explicit matrix for each step."""
    given, shift = run.problem, torch.zeros(len(run.final), dtype=torch.float64)
    for t in range(given.steps):
        share = given.optimizer.rate(t) / len(given.batch(t))
        moved = shift.clone()
        for b, gradient in zip(given.batch(t), given.gradients(run.params(t), given.train[given.batch(t)]), strict=True):
            moved += share * gradient if int(b) == i else -share * torch.outer(gradient, gradient) @ shift
        shift = moved
    return shift


@every_optimizer
@pytest.mark.parametrize("model", ["logistic", "mlp", "classes"])
def test_acc_dvemb_equals_a_loop_over_samples_at_each_horizon(model: str, optimizer: Optimizer) -> None:
    run = train(problem(MODELS[model], optimizer))
    found = acc_dvemb(run)

    assert len(found) == 3
    for effect, cut in zip(found, run.at_horizons(), strict=True):
        dense = torch.stack([dense_acc(cut, i) for i in range(12)])
        assert gap(effect, dense @ cut.query_gradients().T) < 1e-12


def test_acc_dvemb_equals_dvemb_when_each_sample_is_seen_once() -> None:
    once, thrice = train(problem(epochs=1)), train(problem())

    assert gap(acc_dvemb(once)[-1], dvemb(once, **FISHER)) < 1e-10
    assert gap(acc_dvemb(thrice)[-1], dvemb(thrice, **FISHER)) > 1e-3


def test_acc_dvemb_does_not_depend_on_how_samples_are_chunked_or_which_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(problem())
    whole = acc_dvemb(run)
    monkeypatch.setattr(module, "ROWS", 2)
    some = replace(run, problem=replace(run.problem, left_out=torch.tensor([1, 2, 5, 8, 11])))

    assert gap(acc_dvemb(some), whole[:, [1, 2, 5, 8, 11]]) < 1e-13


# ---- all -----------------------------------------------------------------------------------------------------------
ALL = {
    "dvemb": lambda run: dvemb(run, **FISHER),
    "last": lambda run: dvemb(run, curvature="fisher", last=True),
    "hessian": lambda run: dvemb(run, curvature="hessian", last=False),
    "gauss-newton": lambda run: dvemb(run, curvature="gauss-newton", last=False),
    "projected": lambda run: projected(run, gaussian(torch.Generator().manual_seed(0), run.final, len(run.final), 64)),
    "acc": lambda run: acc_dvemb(run)[-1],
}
every_variant = pytest.mark.parametrize("variant", ALL.values(), ids=ALL)


@every_variant
def test_a_sample_never_visited_has_effect_0(variant: object) -> None:
    assert callable(variant)
    given = problem()
    given.batches[given.batches == 4] = -1
    effect = variant(train(given))

    assert (effect[4] == 0).all()
    assert (effect[5].abs() > 1e-9).all()


@every_variant
def test_single_precision_single_samples_and_single_steps_will_do(variant: object) -> None:
    assert callable(variant)
    given = problem()
    for other in (given, replace(given, batches=given.batches[:1]), problem(batch=1)):
        run = train(replace(other, horizons=(other.steps,)))
        single = train(in_precision(run.problem, torch.float32))
        assert gap(variant(single).double(), variant(run)) < 1e-3


def test_costs_are_counted_as_the_docstrings_say() -> None:
    run = train(problem())  # E = 3, N = K = 12, Q = 3, H = 3

    def counts(name: str) -> tuple[int, int]:
        with calculus.counting() as count:
            ALL[name](run)
        return count.gradients, count.hessian_products

    assert counts("dvemb") == counts("projected") == (3 * 12 + 3, 3 * 12 * 3)
    assert counts("last") == (12 + 3, 12 * 3 - 3 * len(run.problem.batch(6)))  # the first of the steps needs no product
    assert counts("hessian")[1] == counts("gauss-newton")[1] == 3 * 12 * 3
    assert counts("acc") == (3 * 12 + 3 * 3, 3 * 12 * 12)
