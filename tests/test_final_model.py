"""Baselines that see the final model: each against its own definition, written out small."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem
from test_identities import converged
from torch import Tensor

from baselines.trak import chances, margins
from benchmark.base.errors import LoobenchError, Unsolved
from benchmark.core.declaration import Estimator
from benchmark.core.losses import LOSSES
from benchmark.core.problem import Problem
from benchmark.core.projections import gaussian, projection
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.shifts import ACC, carry
from benchmark.retraining.train import leave_one_out, train
from benchmark.running.evaluate import Failure, estimate
from benchmark.tasks.suites import SUITES, TASKS

every_model = pytest.mark.parametrize("model", MODELS)
every_classifier = pytest.mark.parametrize("model", sorted(set(MODELS) - {"regression"}))


def reference(model: str = "mlp", **changes: Any) -> Trajectory:
    return train(problem(MODELS[model], **changes))


def answer(name: str, run: Trajectory, **settings: Any) -> Tensor:
    variant = registered()[name]
    return variant.function(run, **{**variant.settings, **settings})


def gap(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def ridge(samples: int = 20, decay: float = 0.1) -> Trajectory:
    """A run of no step that stands at the minimum of a ridge regression."""
    given = problem(MODELS["regression"], train=samples, weight_decay=decay)
    best = ridge_minimum(given, torch.ones(samples, dtype=torch.bool))
    given = replace(given, initial=best, batches=given.batches[:0], horizons=(0,))
    return Trajectory(given, best[None, None])


def ridge_minimum(given: Problem, keep: Tensor) -> Tensor:
    """The minimum of ``sum_{i kept} (f_i - y_i)^2/2 + decay/2 |theta|^2`` in closed form."""
    rows = torch.cat([given.train.inputs, torch.ones(len(given.train), 1, dtype=torch.float64)], dim=1)[keep]
    gram = rows.T @ rows + len(rows) * given.weight_decay * torch.eye(rows.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, rows.T @ given.train.targets[keep])


# ---- the Newton step without a sample ------------------------------------------------------------------------------
def test_newton_loo_is_the_closed_form_leave_one_out_of_ridge_regression() -> None:
    run = ridge()
    given = run.problem
    keeps = ~torch.eye(20, dtype=torch.bool)
    expected = torch.stack([given.query_losses(ridge_minimum(given, keep)) for keep in keeps]) - given.query_losses(run.final)

    found = answer("newton-loo-exact", run, damping=0.0)
    assert gap(found, expected) < 1e-9
    assert gap(answer("if-direct-exact", run, damping=0.0), expected) > 1e-2


def test_at_a_converged_logistic_optimum_newton_loo_is_accs_limit() -> None:
    run = converged()
    shift = carry(run, ~torch.eye(12, dtype=torch.bool), ACC)[-1]

    assert gap(answer("newton-loo", run, damping=0.0), shift @ run.query_gradients().T) < 1e-9
    assert gap(answer("if-direct", run, damping=0.0), shift @ run.query_gradients().T) > 1e-2


@every_model
@pytest.mark.parametrize("matrix", ["gauss-newton", "hessian"])
def test_newton_loo_solves_with_the_curvature_of_the_others(model: str, matrix: str) -> None:
    run = reference(model)
    given, damping = run.problem, 2.0

    def curvature(rows: list[int]) -> Tensor:
        part = replace(given, train=given.train[rows])
        products = part.gauss_newton_products if matrix == "gauss-newton" or len(rows) == 1 else part.hessian_products
        return products(run.final, part.train, torch.eye(len(run.final), dtype=torch.float64))

    gradients = given.gradients(run.final, given.train)
    whole = 12 * (curvature(list(range(12))) + damping * torch.eye(len(run.final), dtype=torch.float64))
    shift = torch.stack([torch.linalg.solve(whole - curvature([i]), gradients[i]) for i in (0, 7)])
    run = replace(run, problem=replace(given, left_out=torch.tensor([0, 7])))
    assert gap(answer("newton-loo", run, damping=damping, matrix=matrix), shift @ run.query_gradients().T) < 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_newton_loo_refuses_a_curvature_that_is_gone_without_a_sample(seed: int) -> None:
    """Six samples for six parameters: each is the only one that sees some direction."""
    given = problem(MODELS["regression"], train=6, batch=6, weight_decay=0.0, seed=seed)
    run = train(given)

    with pytest.raises(Unsolved, match="without a sample the curvature is not positive"):
        answer("newton-loo", run, damping=0.0)


def test_newton_loo_refuses_a_singular_curvature() -> None:
    with pytest.raises(Unsolved, match="singular"):
        answer("newton-loo", train(problem(MODELS["regression"], train=4, batch=4, weight_decay=0.0)), damping=0.0)


# ---- influence functions --------------------------------------------------------------------------------------------
@every_model
def test_the_exact_readout_of_a_tiny_influence_is_the_linear_one(model: str) -> None:
    run = reference(model)
    exact = answer("if-direct-exact", run, damping=1e6)

    assert gap(exact, answer("if-direct", run, damping=1e6)) < 1e-3


@every_model
def test_relative_influence_is_influence_over_the_size_of_the_change(model: str) -> None:
    run = reference(model)
    given = run.problem
    matrix = given.gauss_newton_products(run.final, given.train, torch.eye(len(run.final), dtype=torch.float64))
    matrix.diagonal().add_(0.1)
    gradients = given.gradients(run.final, given.train)
    change = torch.linalg.solve(matrix, gradients.T).T
    plain = change @ run.query_gradients().T

    assert gap(answer("relatif", run), plain / change.norm(dim=1, keepdim=True)) < 1e-9
    own = (gradients * change).sum(1, keepdim=True).sqrt()
    assert gap(answer("relatif-loss", run), plain / own) < 1e-9


@every_model
@pytest.mark.parametrize("name", ["if-dropout", "if-projected"])
def test_with_all_coordinates_compressed_influence_is_that_of_the_fisher_matrix(model: str, name: str) -> None:
    run = reference(model)
    given = run.problem
    gradients = given.gradients(run.final, given.train) - given.weight_decay * run.final
    fisher = gradients.T @ gradients / 12 + (0.01 + given.weight_decay) * torch.eye(len(run.final), dtype=torch.float64)
    expected = gradients @ torch.linalg.solve(fisher, run.query_gradients().T)

    assert gap(answer(name, run, dimension=10**6), expected) < 1e-9
    if len(run.final) > 8:
        assert gap(answer(name, run, dimension=8), expected) > 1e-3


def test_dropout_keeps_coordinates_and_projection_mixes_them() -> None:
    run = reference(weight_decay=0.0)
    given = run.problem
    kept = torch.randperm(len(run.final), generator=run.random())[:5]
    gradients, asked = given.gradients(run.final, given.train), run.query_gradients()

    def influence(train: Tensor, query: Tensor) -> Tensor:
        fisher = train.T @ train / 12 + 0.01 * torch.eye(5, dtype=torch.float64)
        return train @ torch.linalg.solve(fisher, query.T)

    assert gap(answer("if-dropout", run, dimension=5), influence(gradients[:, kept], asked[:, kept])) < 1e-10
    matrix = gaussian(run.random(), run.final, len(run.final), 5)
    assert gap(answer("if-projected", run, dimension=5), influence(gradients @ matrix, asked @ matrix)) < 1e-10


def test_more_dimensions_than_parameters_are_refused() -> None:
    run = reference()
    size = len(run.final)

    assert torch.equal(projection(run, size), torch.eye(size, dtype=torch.float64))
    for dimension in (size + 1, 0):
        with pytest.raises(
            LoobenchError, match=f"takes 1 to {size} dimensions, as many as parameters at most, got {dimension}"
        ):
            projection(run, dimension)
    greedy = Estimator("mine", lambda run: projection(run, 10**6), {}, "none", "none")
    with pytest.raises(Failure, match="as many as parameters at most, got 1000000"):
        estimate(greedy, run.until(9))


def test_a_projection_keeps_inner_products_in_the_mean() -> None:
    run = reference()
    one, other = run.problem.gradients(run.final, run.problem.train)[:2]
    random = torch.Generator().manual_seed(0)
    draws = [gaussian(random, run.final, len(run.final), 64) for _ in range(200)]
    found = torch.stack([(one @ matrix) @ (other @ matrix) for matrix in draws])

    error = found.std() / 200**0.5
    assert abs(float(found.mean() - one @ other)) < 4 * float(error)


# ---- LoGra ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", ["logistic", "mlp", "classes", "regression"])
def test_logra_with_wide_projections_is_the_layerwise_influence_of_the_fisher_matrix(model: str) -> None:
    run = reference(model)
    given = run.problem
    gradients = given.gradients(run.final, given.train) - given.weight_decay * run.final
    expected, start = torch.zeros(12, 3, dtype=torch.float64), 0
    for layer in given.model.layers:
        size = sum(torch.Size(shape).numel() for shape in layer.shapes)
        own, asked = (rows[:, start : start + size] for rows in (gradients, run.query_gradients()))
        start += size
        fisher = own.T @ own / 12
        if size:
            fisher.diagonal().add_(given.weight_decay + 1.0 * fisher.diagonal().mean())
            expected += own @ torch.linalg.solve(fisher, asked.T) / 12
    assert gap(answer("logra", run, side=100), expected) < 1e-9


def test_logras_mean_query_is_the_mean_of_its_queries_whether_projected_or_not() -> None:
    run = reference("cnn-norm")
    mean = replace(run, problem=replace(run.problem, query_kind="mean"))
    for side in (3, 100):
        assert gap(answer("logra", mean, side=side), answer("logra", run, side=side).mean(1, keepdim=True)) < 1e-9
    assert gap(answer("logra", run, side=3), answer("logra", run, side=100)) > 1e-3


# ---- TRAK -----------------------------------------------------------------------------------------------------------
@every_classifier
def test_margins_are_log_odds_of_the_own_label(model: str) -> None:
    run = reference(model)
    network, some = run.problem.model, run.problem.train
    chance = torch.exp(-LOSSES[network.loss](network.outputs(run.final, some.inputs), some.targets))

    assert gap(chances(network, run.final, some), chance) < 1e-12
    assert gap(margins(network, run.final, some), torch.log(chance / (1 - chance))) < 1e-9


@every_classifier
@pytest.mark.parametrize("name", ["trak", "trak-5"])
def test_trak_is_its_formula(model: str, name: str) -> None:
    run = reference(model, optimizer=OPTIMIZERS["adam"])
    network, given = run.problem.model, run.problem
    scores, misses = [], []
    for t in {"trak": [9], "trak-5": [1, 3, 5, 7, 9]}[name]:
        theta = run.params(t)
        jacobian = torch.autograd.functional.jacobian
        train, query = (
            jacobian(lambda at, some=some: margins(network, at, some), theta) for some in (given.train, given.query)
        )
        matrix = projection(run, min(10, len(theta)))
        train, query = train @ matrix, query @ matrix
        gram = train.T @ train
        gram += 1.0 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
        scores.append(train @ torch.linalg.inv(gram) @ query.T * (1 - chances(network, theta, given.query)))
        misses.append(1 - chances(network, theta, given.train))
    expected = torch.stack(scores).mean(0) * torch.stack(misses).mean(0)[:, None]

    assert gap(answer(name, run, dimension=10), expected) < 1e-8
    mean = replace(run, problem=replace(given, query_kind="mean"))
    assert gap(answer(name, mean, dimension=10), expected.mean(1, keepdim=True)) < 1e-8


def test_trak_ranks_like_exact_retraining_on_a_long_logistic_run() -> None:
    run = reference("logistic", train=60, epochs=60, batch=20, weight_decay=0.01)
    run = run.until(run.problem.steps)
    found, exact = answer("trak", run), leave_one_out(run)[-1]

    assert torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1] > 0.5


# ---- representer points ----------------------------------------------------------------------------------------------
@every_model
def test_the_last_layers_weights_are_the_sum_of_representer_points(model: str) -> None:
    """At the optimum the outputs are ``sum_i a_i <x_i, x_q>``; effects are what the points take away, to first order."""
    run = reference(model)
    given, network = run.problem, run.problem.model
    penalty = 0.05
    train, query = (
        torch.cat([network.features(run.final, some.inputs), torch.ones(len(some), 1)], 1)
        for some in (given.train, given.query)
    )
    weights = torch.zeros(network.classes, train.shape[1], dtype=torch.float64, requires_grad=True)

    def objective() -> Tensor:
        return LOSSES[network.loss](train @ weights.T, given.train.targets).mean() + penalty / 2 * (weights**2).sum()

    search = torch.optim.LBFGS(
        [weights], max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    search.step(lambda: (search.zero_grad(), (value := objective()).backward(), value)[-1])
    outputs = (train @ weights.T).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(LOSSES[network.loss](outputs, given.train.targets).sum(), outputs)
    points = -slopes / (penalty * 12)
    assert gap(points.T @ train, weights.detach()) < 1e-5
    asked = (query @ weights.T).detach().requires_grad_()
    (query_slopes,) = torch.autograd.grad(LOSSES[network.loss](asked, given.query.targets).sum(), asked)
    expected = -torch.einsum("ic,iq,qc->iq", points, train @ query.T, query_slopes)

    assert gap(answer("representer", run, penalty=penalty), expected) < 1e-5


# ---- declarations ----------------------------------------------------------------------------------------------------
def test_every_row_says_what_its_settings_were_tuned_on_and_it_is_no_scored_task() -> None:
    assert not SUITES["tuning"].scored
    assert not {task.dataset for task in TASKS.values() if task.suite == "tuning"} & {
        task.dataset for task in TASKS.values() if SUITES[task.suite].scored
    }
    for variant in registered().values():
        assert (variant.tuned_on == "nothing") == (not variant.settings), variant.name
