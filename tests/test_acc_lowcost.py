"""The estimator that is ACC with exact readout at less than the cost of exact retraining."""

from dataclasses import replace

import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem

from benchmark.core import calculus
from benchmark.core.losses import LOSSES
from benchmark.core.models import Network, mlp
from benchmark.core.optimizers import Sgd
from benchmark.core.problem import map_tensors
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.shifts import ACC, SGD_IE, effects
from benchmark.retraining.train import leave_one_out, train
from benchmark.running.evaluate import estimate
from estimators.acc_lowcost import acc_lowcost, extended, longest

LINEAR = {
    "logistic": MODELS["logistic"],
    "classes": mlp((5, 3), loss="cross-entropy"),
    "regression": MODELS["regression"],
    "wide": mlp((30, 1)),
}
every_linear_model = pytest.mark.parametrize("model", LINEAR.values(), ids=LINEAR)


def trained(model: Network, **changes: object) -> Trajectory:
    given = problem(model, OPTIMIZERS["sgd-decaying"], **{"epochs": 5, "weight_decay": 0.0, **changes})  # type: ignore[arg-type]
    return train(replace(given, horizons=(given.steps,)))


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@every_linear_model
@pytest.mark.parametrize("kind", ["each", "mean"])
def test_with_all_directions_it_is_acc_with_exact_readout(model: Network, kind: str) -> None:
    run = trained(model, query_kind=kind)

    assert error(acc_lowcost(run, rank=40, share=1, nodes=2, most=1.0), effects(run, ACC, "exact")[-1]) < 1e-12


@every_linear_model
def test_with_an_l2_term_it_is_so_too(model: Network) -> None:
    run = trained(model, weight_decay=0.3)
    expected = effects(run, ACC, "exact")[-1]

    assert error(acc_lowcost(run, rank=40, share=1, nodes=2, most=1.0), expected) < 1e-12
    assert error(effects(run, SGD_IE, "exact")[-1], expected) > 1e-2


@pytest.mark.parametrize("model", ["logistic", "wide"])
def test_an_l2_step_that_takes_all_of_a_weight_on_the_way_does_no_harm(model: str) -> None:
    given = problem(LINEAR[model], Sgd(0.1, schedule="inverse-sqrt"), epochs=40, weight_decay=50.0)  # 1 at step 24 of 120
    run = train(replace(given, horizons=(given.steps,)))
    expected = effects(run, ACC, "exact")[-1]

    assert run.problem.optimizer.rate(24) * 50 == pytest.approx(1, abs=1e-12)
    assert error(acc_lowcost(run, rank=40, share=1, nodes=2, most=1.0), expected) < 1e-6


def test_a_large_l2_term_is_no_trouble_to_few_directions() -> None:
    given = problem(LINEAR["wide"], Sgd(0.1, schedule="inverse-sqrt"), train=60, epochs=40, weight_decay=50.0)
    run = train(replace(given, horizons=(given.steps,)))

    assert error(acc_lowcost(run, rank=10, share=100, nodes=2, most=1.0), effects(run, ACC, "exact")[-1]) < 1e-3


def test_on_least_squares_it_is_the_truth() -> None:
    run = trained(MODELS["regression"])

    assert error(acc_lowcost(run, rank=6, share=1, nodes=2, most=1.0), leave_one_out(run)[-1]) < 1e-10


def test_few_directions_are_nearer_to_acc_than_sgd_ie_is() -> None:
    run = trained(LINEAR["wide"], train=40, batch=10)
    run.problem.train.inputs[:, 4:] *= 0.2
    run = train(run.problem)
    expected = effects(run, ACC, "exact")[-1]
    few, fewer, none = (error(acc_lowcost(run, rank=rank, share=1000, nodes=2, most=1.0), expected) for rank in (8, 4, 1))

    assert few < fewer < none
    assert few < 0.1 * error(effects(run, SGD_IE, "exact")[-1], expected)


def matrix(model: Network, flat: torch.Tensor) -> torch.Tensor:
    """Flat vectors (R, P) of a linear model as (R, C, D), the bias last."""
    ((weight, bias),) = model.parts(flat)
    return torch.cat([weight, bias[..., None]], dim=2)


def swept(run: Trajectory) -> list[torch.Tensor]:
    """``u_{t+1}`` (Q, C, D) of every step, by dense Hessians of autograd."""
    given, found = run.problem, []
    u = torch.autograd.functional.jacobian(given.query_losses, run.final)
    for t in reversed(range(given.steps)):
        found.append(matrix(given.model, u))
        batch = given.train[given.batch(t)]
        hessian = torch.autograd.functional.hessian(lambda at, batch=batch: given.losses(at, batch).mean(), run.params(t))
        u = u - given.optimizer.rate(t) * u @ hessian
    return found[::-1]


class Densely:
    """The definition of acc-lowcost with shifts (C, D) held whole: V by singular vectors, outside it the Gram matrix itself."""

    def __init__(self, run: Trajectory, rank: int) -> None:
        self.run, self.problem, self.swept = run, run.problem, swept(run)
        self.phi, self.asked = extended(run.problem.train), extended(run.problem.query)
        axes = torch.linalg.svd(self.phi).Vh[:rank]
        self.inside = axes.T @ axes  # (D, D), onto V
        self.outside = torch.eye(len(self.inside), dtype=torch.float64) - self.inside
        self.weights = matrix(run.problem.model, run.states[:, 0])

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return LOSSES[self.problem.model.loss](output[None], target[None])[0]

    def effects(self) -> torch.Tensor:
        return torch.stack([self.effect(i) for i in range(len(self.phi))])

    def effect(self, i: int) -> torch.Tensor:
        given, phi, slope = self.problem, self.phi, torch.func.grad(self.loss)
        low, rest = torch.zeros_like(self.weights[0]), torch.zeros_like(self.weights[0])
        others = (phi.T @ phi - torch.outer(phi[i], phi[i])) / len(phi)
        effect = torch.zeros(given.queries, dtype=torch.float64)
        for t in range(given.steps):
            rate, batch, weights = given.optimizer.rate(t), given.batch(t).tolist(), self.weights[t]
            bent = {b: torch.func.hessian(self.loss)(weights @ phi[b], given.train.targets[b]) for b in batch}
            felt = sum(torch.outer(bent[b] @ low @ phi[b], self.inside @ phi[b]) for b in batch if b != i)
            mean, shift = torch.stack([*bent.values()]).mean(0), low + rest
            low = low - rate * (felt / len(batch) + mean @ rest @ others @ self.inside)
            rest = rest - rate * mean @ shift @ others @ self.outside
            if i in batch:
                own = slope(weights @ phi[i], given.train.targets[i])
                pulled = torch.outer(own + bent[i] @ shift @ phi[i], phi[i])
                effect += rate / len(batch) * (self.swept[t] * pulled).sum((1, 2))
                low = low + rate / len(batch) * torch.outer(own, self.inside @ phi[i])
                rest = rest + rate / len(batch) * torch.outer(own, self.outside @ phi[i])
        return effect + torch.stack([self.bend(low + rest, q) for q in range(given.queries)])

    def bend(self, shift: torch.Tensor, q: int) -> torch.Tensor:
        before, moved, target = self.weights[-1] @ self.asked[q], shift @ self.asked[q], self.problem.query.targets[q]
        linear = torch.func.grad(self.loss)(before, target) @ moved
        return self.loss(before + moved, target) - self.loss(before, target) - linear


@pytest.mark.parametrize("model", ["logistic", "classes"])
def test_outside_the_directions_it_moves_by_the_mean_curvature_of_all_other_samples(model: str) -> None:
    run = trained(LINEAR[model], epochs=2)
    found = acc_lowcost(run, rank=3, share=1000, nodes=3, most=1.0)

    assert error(found, Densely(run, 3).effects()) < 1e-9


def test_the_directions_are_orthonormal_and_no_more_than_the_features_span() -> None:
    for rows, columns in ((40, 5), (5, 40)):
        features = extended(problem(mlp((columns, 1)), train=rows).train)
        axes = longest(features, 100)

        assert axes.shape == (columns + 1, min(rows, columns + 1))
        assert torch.allclose(axes.T @ axes, torch.eye(axes.shape[1], dtype=torch.float64), atol=1e-10)
        assert torch.allclose(features @ axes @ axes.T, features, atol=1e-10)


def test_it_counts_fewer_gradients_than_exact_retraining() -> None:
    run = trained(mlp((63, 1)), train=40, batch=10, query_kind="mean")
    with calculus.counting() as ours:
        acc_lowcost(run, rank=8, share=8, nodes=2, most=1.0)
    with calculus.counting() as exact:
        leave_one_out(run)

    outside = 2 * 40 * 32  # two products of each sample with the Gram matrix of half the width
    assert ours == calculus.Count(2 * 5 * 40 + 3, 5 * 40 + 5 * 40 * 40 * 8 // 64 + outside)
    assert ours.gradients + 2 * ours.hessian_products < exact.gradients == 5 * 40 * 41


def test_where_v_spans_the_features_nothing_is_spent_outside_it() -> None:
    given = problem(mlp((30, 1)), train=12, query_kind="mean")
    given.train.inputs[3] = given.train.inputs[5]  # features of rank 11
    run = train(replace(given, optimizer=OPTIMIZERS["sgd"], horizons=(given.steps,)))
    with calculus.counting() as count:
        acc_lowcost(run, rank=32, share=8, nodes=2, most=1.0)

    assert count.hessian_products == 3 * 12 + round(3 * 12 * 12 * 11 / 31)


def test_it_leaves_out_some_of_the_samples() -> None:
    run = trained(LINEAR["classes"], weight_decay=0.1)
    some = torch.tensor([0, 7, 11])
    asked = replace(run, problem=replace(run.problem, left_out=some))

    assert (
        error(
            acc_lowcost(asked, rank=3, share=8, nodes=2, most=1.0), acc_lowcost(run, rank=3, share=8, nodes=2, most=1.0)[some]
        )
        < 1e-12
    )


def test_it_declares_what_it_is_not_for() -> None:
    lowcost = registered()["acc-lowcost"]

    assert "is for linear models" in str(lowcost.unsupported(problem(MODELS["mlp"])))
    assert "is for sgd" in str(lowcost.unsupported(problem(MODELS["logistic"], OPTIMIZERS["momentum"])))
    assert estimate(lowcost, train(problem(MODELS["logistic"]))).effect.isfinite().all()


@every_linear_model
@pytest.mark.parametrize("rank", [2, 40])
def test_in_single_precision_it_says_the_same(model: Network, rank: int) -> None:
    run = trained(model, weight_decay=0.1)
    run.problem.train.inputs[:, 1] = run.problem.train.inputs[:, 0]  # features of less than full rank
    run = train(run.problem)
    single = map_tensors(run, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
    expected = acc_lowcost(run, rank=rank, share=1000, nodes=2, most=1.0)

    assert error(acc_lowcost(single, rank=rank, share=1000, nodes=2, most=1.0).double(), expected) < 2e-5
