"""The twelve identities that hold exactly: whatever changes in the suite, these must not."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem
from scipy import stats
from torch import Tensor, nn

from baselines.influence_function import influence_function
from benchmark.base.errors import LoobenchError
from benchmark.core import calculus
from benchmark.core.losses import LOSSES
from benchmark.core.models import Network, mlp
from benchmark.core.optimizers import Adam, FrozenAdam, Optimizer, Sgd
from benchmark.core.problem import in_precision, map_tensors
from benchmark.core.sweep import backward
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.engine import gram_applies, gram_pays, query_losses
from benchmark.retraining.readout import readout
from benchmark.retraining.shifts import ACC, SGD_IE, Rule, carry, effects
from benchmark.retraining.train import departures, leave_one_out, retrain, train
from benchmark.scores.metrics import METRICS, ranking, scores
from benchmark.studies.plain import mapped, plain_loop
from estimators.adam_ie import adam_ie

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
plain_and_momentum = pytest.mark.parametrize("optimizer", [OPTIMIZERS["sgd"], OPTIMIZERS["momentum"]], ids=["sgd", "momentum"])


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Assert a relative error of at most `tolerance` in the largest entry."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def torch_twin(optimizer: Optimizer, parameters: list[Tensor]) -> torch.optim.Optimizer:
    settings = {"lr": optimizer.rate(0)}
    if isinstance(optimizer, Sgd):
        return torch.optim.SGD(parameters, momentum=optimizer.momentum, **settings)
    return torch.optim.AdamW(parameters, weight_decay=optimizer.decay, **settings)


# ---- 1, 2, 3: the optimisers and the training loop --------------------------------------------------------------------------
FALLING = Adam(0.05, decay=0.1, schedule="inverse-sqrt")  # whose decay falls with its rate


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.values(), FALLING], ids=[*OPTIMIZERS, "adamw-decaying"])
def test_1_an_optimizer_equals_that_of_torch(optimizer: Optimizer) -> None:
    gradients = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients[:, 0] = 0  # a weight that never sees a gradient
    theta = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64))
    state = torch.zeros(optimizer.rows, 6, dtype=torch.float64)
    state[0] = theta.detach()
    twin = torch_twin(optimizer, [theta])
    for t, gradient in enumerate(gradients):
        twin.param_groups[0]["lr"] = optimizer.rate(t)
        theta.grad = gradient.clone()
        twin.step()
        state = optimizer.step(state, gradient, t)
    close(state[0], theta.detach(), 1e-13)


def test_1_the_rate_falls_as_one_over_the_root_of_the_number_of_the_step() -> None:
    assert [Sgd(0.6, schedule="inverse-sqrt").rate(t) for t in (0, 3, 8)] == pytest.approx([0.6, 0.3, 0.2], rel=1e-15)
    assert [Adam(0.6, schedule="inverse-sqrt").rate(t) for t in (0, 3, 8)] == pytest.approx([0.6, 0.3, 0.2], rel=1e-15)
    assert {Sgd(0.6).rate(t) for t in (0, 3, 8)} == {Adam(0.6).rate(t) for t in (0, 3, 8)} == {0.6}


@pytest.mark.parametrize("kind", [*OPTIMIZERS, "frozen", "adamw-decaying"])
def test_1_the_derivative_of_a_step_is_that_of_automatic_differentiation(kind: str) -> None:
    optimizer = {**OPTIMIZERS, "frozen": FrozenAdam(0.05), "adamw-decaying": FALLING}[kind]
    draw = torch.Generator().manual_seed(0)
    state, shift = (torch.randn(optimizer.rows, 4, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    gradient, change = (torch.randn(4, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    state[-1].abs_()
    state[:, :, 0], gradient[:, 0] = 0, 0  # a weight that never saw a gradient
    value, moved = calculus.push(lambda s, g: optimizer.step(s, g, 3), (state, gradient), (shift, change))

    close(optimizer.step(state, gradient, 3), value, 1e-15)
    close(optimizer.push(state, gradient, shift, change, 3), moved, 1e-13)


@every_optimizer
@every_model
def test_2_many_runs_at_once_equal_one_at_a_time_equal_a_plain_loop(model: Network, optimizer: Optimizer) -> None:
    given = problem(model, optimizer)
    keep = ~torch.eye(12, dtype=torch.bool)
    at_once = retrain(given, keep, runs=5)[-1]
    one_by_one = torch.cat([retrain(given, row[None])[-1] for row in keep])
    some = [0, 4, 6, 11]  # of each chunk at least one
    loops = torch.stack([plain_loop(given, i)[0] for i in some])

    close(at_once, one_by_one, 1e-13)
    close(at_once[some], loops, 1e-12)


def test_2_the_decay_of_adamw_falls_with_its_rate_in_the_engine_as_in_torch() -> None:
    given = problem(optimizer=FALLING, weight_decay=0.0)
    theta = nn.Parameter(given.initial.clone())
    twin = torch.optim.AdamW([theta], lr=0.05, weight_decay=0.1)
    falling = torch.optim.lr_scheduler.LambdaLR(twin, lambda t: (t + 1) ** -0.5)
    for t in range(given.steps):
        twin.zero_grad()
        given.model.losses(theta, *vars(given.train[given.batch(t)]).values()).mean().backward()
        twin.step()
        falling.step()

    close(retrain(given, torch.ones(2, 12))[-1], theta.detach().expand(2, -1), 1e-12)


FORMS = [
    pytest.param(m, o, gram, id=f"{m_name}-{o_name}-{'gram' if gram else 'plain'}")
    for m_name, m in MODELS.items()
    for o_name, o in OPTIMIZERS.items()
    for gram in ((False, True) if gram_applies(problem(m, o)) else (False,))
]


@pytest.mark.parametrize(("model", "optimizer", "gram"), FORMS)
def test_2_the_engine_equals_the_verb_for_masks_of_any_kind(model: Network, optimizer: Optimizer, gram: bool) -> None:
    given = problem(model, optimizer, weight_decay=0.1)
    draw = torch.Generator().manual_seed(0)
    halves = torch.rand(9, 12, generator=draw, dtype=torch.float64) > 0.5
    parts = torch.rand(4, 12, generator=draw, dtype=torch.float64)
    masks = (~torch.eye(12, dtype=torch.bool), halves, parts)
    states = train(given).states

    for keep, expected in zip(masks, mapped(given, torch.cat(masks)).split([12, 9, 4]), strict=True):
        close(retrain(given, keep, gram=gram)[-1], expected, 1e-13)
        late = replace(given, horizons=(given.steps,))  # no horizon holds the runs to an early start
        close(retrain(late, keep, gram=gram, states=states, runs=3)[-1], expected, 1e-13)
        losses = torch.func.vmap(given.query_losses)(expected)
        close(retrain(given, keep, gram=gram, read=query_losses)[-1], losses, 1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize(("model", "optimizer", "gram"), FORMS)
def test_2_the_engine_on_a_gpu_equals_the_verb_on_the_cpu(model: Network, optimizer: Optimizer, gram: bool) -> None:
    given = problem(model, optimizer, weight_decay=0.1)
    keep = ~torch.eye(12, dtype=torch.bool)
    there = map_tensors(given, lambda tensor: tensor.cuda())
    run = train(there)

    close(run.states.cpu(), train(given).states, 1e-10)
    close(retrain(there, keep.cuda(), gram=gram, states=run.states, runs=5)[-1].cpu(), mapped(given, keep), 1e-10)
    close(leave_one_out(run).cpu(), leave_one_out(train(given)), 1e-8)


def test_2_the_engine_stands_an_l2_step_that_takes_all_of_a_weight() -> None:
    given = problem(MODELS["regression"], Sgd(0.5), weight_decay=2.0)
    keep = ~torch.eye(12, dtype=torch.bool)

    close(retrain(given, keep)[-1], mapped(given, keep), 1e-13)


def test_2_masks_of_another_type_will_do_and_none_at_all_will_not() -> None:
    given = problem()
    keep = ~torch.eye(12, dtype=torch.bool)

    assert torch.equal(retrain(given, keep.int()), retrain(given, keep))
    assert torch.equal(retrain(given, keep.float()), retrain(given, keep))
    with pytest.raises(LoobenchError, match="at least one run"):
        retrain(given, keep[:0])


def test_2_a_run_starts_where_it_leaves_the_reference_run() -> None:
    given = problem(epochs=2)  # 6 steps
    keep = torch.ones(3, 12)
    keep[0, given.batch(0)[0]] = 0
    keep[1, given.batch(2)[1]] = 0
    given = replace(given, horizons=(3, 6))

    assert departures(given, keep).tolist() == [0, 2, 2]  # the third never does, and starts before the first horizon
    assert departures(replace(given, horizons=(2, 6)), keep).tolist() == [0, 1, 1]
    states = train(given).states
    states[:2] = float("nan")  # what the last two runs may not look at
    assert retrain(given, keep, states=states, runs=1)[:, 1:].isfinite().all()


def test_2_the_gram_form_is_chosen_where_inputs_are_many_and_agrees_with_columns() -> None:
    given = problem(mlp((300, 6, 1)), Sgd(0.1, schedule="inverse-sqrt"), weight_decay=0.2, epochs=8)
    keep = ~torch.eye(12, dtype=torch.bool)

    assert gram_pays(given)
    assert not gram_pays(problem())
    close(retrain(given, keep), retrain(given, keep, gram=False), 1e-12)


@every_optimizer
@every_model
def test_3_keeping_every_sample_is_the_reference_run(model: Network, optimizer: Optimizer) -> None:
    given = problem(model, optimizer)
    run = train(given)
    kept = retrain(given, torch.ones(3, 12, dtype=torch.bool))

    for found, cut in zip(kept, run.at_horizons(), strict=True):
        close(found, cut.final.expand(3, -1), 1e-14)
    final, loss = plain_loop(given)
    close(run.final, final, 1e-12)
    close(given.query_losses(final).mean(), loss, 1e-12)


# ---- 4 to 8: the estimators ----------------------------------------------------------------------------------------
@every_optimizer
@pytest.mark.parametrize("model", [MODELS["logistic"], MODELS["mlp"], MODELS["classes"]], ids=["logistic", "mlp", "classes"])
def test_4_sgd_ie_is_the_derivative_of_the_run_in_the_samples_weight(model: Network, optimizer: Optimizer) -> None:
    given = problem(model, optimizer)
    step = 1e-5
    less, more = (
        retrain(given, 1 + sign * step * torch.eye(12, dtype=torch.float64), read=query_losses)[-1] for sign in (-1, 1)
    )

    close(backward(train(given)), (less - more) / (2 * step), 1e-6)


def pushed(run: Trajectory, *, curvature: bool = True) -> Tensor:
    """SGD-IE carried forward, mapped over samples: ``d <- dPhi/ds d - 1/|B| dPhi/dw_i``, then read out."""
    given = run.problem

    def phi(state: Tensor, weights: Tensor, t: int) -> Tensor:
        theta, batch = state[0] if curvature else state[0].detach(), given.train[given.batch(t)]
        return given.optimizer.step(state, calculus.gradient(lambda at: weights @ given.losses(at, batch))(theta), t)

    carried = run.states.new_zeros(len(given.train), *run.states.shape[1:])
    for t in range(given.steps):
        weights = given.weights(t)
        removed = -weights * (given.batch(t) == torch.arange(len(given.train))[:, None])
        push = partial(calculus.push, partial(phi, t=t), (run.states[t], weights))
        carried = torch.func.vmap(lambda *moved, push=push: push(moved)[1])(carried, removed)
    return readout(run, carried[:, 0], "linear")


@every_optimizer
@pytest.mark.parametrize("curvature", [True, False])
def test_5_the_backward_sweep_equals_one_pushed_forward_for_each_sample(optimizer: Optimizer, curvature: bool) -> None:
    run = train(problem(optimizer=optimizer))

    close(backward(run, curvature=curvature), pushed(run, curvature=curvature), 1e-10)


@every_optimizer
@every_model
def test_5_the_backward_sweep_equals_the_shifts_carried_forward(model: Network, optimizer: Optimizer) -> None:
    run = train(problem(model, optimizer))

    close(backward(run), effects(run, SGD_IE, "linear")[-1], 1e-10)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_5_with_a_frozen_second_moment_backward_equals_forward_too(optimizer: str) -> None:
    run = train(problem(optimizer=OPTIMIZERS[optimizer]))
    frozen = replace(run, problem=replace(run.problem, optimizer=FrozenAdam(**vars(run.problem.optimizer))))

    close(adam_ie(run, frozen=True), effects(frozen, SGD_IE, "linear")[-1], 1e-10)
    assert (adam_ie(run, frozen=True) - adam_ie(run, frozen=False)).abs().max() > 1e-3


@plain_and_momentum
def test_6_acc_sgd_ie_is_exact_on_least_squares(optimizer: Optimizer) -> None:
    given = problem(MODELS["regression"], optimizer, epochs=6)
    run = train(given)
    keep = ~torch.eye(12, dtype=torch.bool)

    for shift, cut, without in zip(carry(run, keep, ACC), run.at_horizons(), retrain(given, keep), strict=True):
        close(shift, without - cut.final, 1e-9)
    close(effects(run, ACC, "exact"), leave_one_out(run), 1e-9)
    close(effects(run, ACC, "logit"), leave_one_out(run), 1e-9)  # outputs are linear in the parameters
    assert (effects(run, ACC, "linear")[-1] - backward(run)).abs().max() > 1e-3  # SGD-IE is not exact


@every_optimizer
def test_6_with_the_optimisers_map_kept_exact_acc_is_exact_on_least_squares_for_all(optimizer: Optimizer) -> None:
    run = train(problem(MODELS["regression"], optimizer, epochs=6))

    for rule in (Rule("curvature", exact_map=True), Rule("exact", exact_map=True)):
        close(effects(run, rule, "exact"), leave_one_out(run), 1e-9)


@pytest.mark.parametrize("model", ["classes", "mlp", "cnn"])
def test_6_in_single_precision_a_batch_without_a_sample_left_moves_adam_nowhere(model: str) -> None:
    given = problem(MODELS[model], Adam(0.01), batch=1)
    double, one = train(given), train(in_precision(given, torch.float32))
    for rule in (SGD_IE, ACC, Rule("curvature", exact_map=True), Rule("exact", exact_map=True)):
        expected = effects(double, rule, "linear")[-1]
        close(effects(one, rule, "linear")[-1].double(), expected, 2e-2 if rule.own == "exact" else 1e-3)


def test_6_acc_is_exact_on_least_squares_for_any_samples_left_out() -> None:
    given = problem(MODELS["regression"], epochs=6)
    keep = torch.rand(7, 12, generator=torch.Generator().manual_seed(0)) > 0.4
    run = train(given)

    close(carry(run, keep, ACC), retrain(given, keep) - torch.stack([cut.final for cut in run.at_horizons()])[:, None], 1e-9)


@plain_and_momentum
def test_7_acc_equals_sgd_ie_when_each_sample_is_seen_once(optimizer: Optimizer) -> None:
    run = train(problem(optimizer=optimizer, epochs=1))

    close(effects(run, ACC, "linear")[-1], backward(run), 1e-10)


def converged() -> Trajectory:
    given = problem(MODELS["logistic"], Sgd(1.0), batch=12, epochs=800, weight_decay=0.05)
    return train(replace(given, horizons=(given.steps,)))


def test_8_at_a_full_batch_optimum_sgd_ie_is_the_influence_function_and_acc_the_newton_step() -> None:
    run = converged()
    gradients = run.problem.gradients(run.final, run.problem.train)
    sample = [replace(run.problem, train=run.problem.train[[i]]).hessian(run.final) for i in range(12)]
    newton = torch.stack([torch.linalg.solve(sum(sample) - sample[i], gradients[i]) for i in range(12)])

    assert gradients.mean(0).abs().max() < 1e-12
    close(backward(run), influence_function(run, solver="direct", matrix="hessian", damping=0.0), 1e-9)
    close(carry(run, ~torch.eye(12, dtype=torch.bool), ACC)[-1], newton, 1e-9)


# ---- 9: solvers ----------------------------------------------------------------------------------------------------
@every_model
def test_9_the_direct_solver_equals_a_solve_with_the_hessian_of_autograd(model: Network) -> None:
    run = train(problem(model))
    given = run.problem

    def mean_loss(theta: Tensor) -> Tensor:
        losses = LOSSES[model.loss](model.outputs(theta, given.train.inputs), given.train.targets)
        return losses.mean() + given.weight_decay / 2 * theta @ theta

    hessian = torch.autograd.functional.hessian(mean_loss, run.final)
    close(given.hessian(run.final), hessian, 1e-12)
    damped = hessian + 0.1 * torch.eye(len(hessian), dtype=torch.float64)
    expected = given.gradients(run.final, given.train) @ torch.linalg.solve(damped, run.query_gradients().T) / 12
    close(influence_function(run, solver="direct", matrix="hessian", damping=0.1), expected, 1e-10)


# 10, the symmetries of every estimator, is tests/test_conformance.py


# ---- 11: metrics ---------------------------------------------------------------------------------------------------
def test_11_the_truth_scored_against_itself_is_perfect() -> None:
    truth = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for name, values in scores(truth, truth, units=True).items():
        assert values == pytest.approx([METRICS[name].best] * 2, abs=1e-12), name


def test_11_the_negated_truth_is_worst_but_for_jaccard_which_is_blind_to_sign() -> None:
    truth = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for name, values in scores(-truth, truth, units=False).items():
        expected = METRICS[name].best if name.startswith("jaccard") else METRICS[name].worst
        assert values == pytest.approx([expected] * 2, abs=1e-12), name


def test_11_metrics_agree_with_scipy_ties_included() -> None:
    random = np.random.RandomState(3)
    estimate, truth = random.randint(0, 6, 50) * 1.0, random.randint(0, 9, 50) * 1.0
    found = scores(torch.tensor(estimate)[None, :, None], torch.tensor(truth)[None, :, None], units=True)

    pairs = [
        (a, b) for i, a in enumerate(zip(estimate, truth, strict=True)) for b in list(zip(estimate, truth, strict=True))[:i]
    ]
    signs = [(np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in pairs]
    tau_b = sum(x * y for x, y in signs) / np.sqrt(sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs))
    assert found["kendall"][0] == pytest.approx(tau_b, abs=1e-12)
    assert found["kendall"][0] == pytest.approx(stats.kendalltau(estimate, truth).statistic, abs=1e-12)
    ranks = [stats.rankdata(values) for values in (estimate, truth)]
    assert found["spearman"][0] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    assert found["pearson"][0] == pytest.approx(np.corrcoef(estimate, truth)[0, 1], abs=1e-12)
    assert found["relative_rmse"][0] == pytest.approx(np.sqrt(np.mean((estimate - truth) ** 2)) / truth.std(), abs=1e-12)


def test_11_jaccard_and_cosine_of_a_hand_computed_case() -> None:
    truth = np.arange(40.0)
    estimate = truth.copy()
    estimate[[0, 20]] = estimate[[20, 0]]  # the lowest and a middle one change places
    found = {name: metric.value(estimate, truth) for name, metric in METRICS.items()}

    # of {lowest k} and {highest k} united, one of 2 k is wrong: (2 k - 1) / (2 k + 1) with k = 2, 6, 10; at k = 14 both
    # are in the sets' reach but for 20, which is in neither: again one is wrong
    assert found["jaccard_10"] == pytest.approx(3 / 5)
    assert found["jaccard_30"] == pytest.approx(11 / 13)
    assert found["jaccard_50"] == pytest.approx(19 / 21)
    assert found["jaccard_70"] == pytest.approx(27 / 29)
    assert found["jaccard_10_10"] == pytest.approx(19 / 21)
    assert found["cosine"] == pytest.approx((20540 - 400) / 20540)
    assert METRICS["cosine"].value(estimate * 1e-300, truth) == pytest.approx(found["cosine"])


def test_11_a_score_throughout_is_the_mean_over_horizons_and_else_that_of_the_last() -> None:
    estimate, truth = torch.randn(2, 3, 40, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cosines = ((estimate * truth).sum(1) / (estimate.norm(dim=1) * truth.norm(dim=1))).numpy()  # (H, Q)

    assert ranking(estimate, truth, METRICS["cosine"], throughout=True) == pytest.approx(cosines.mean(0), abs=1e-12)
    assert ranking(estimate, truth, METRICS["cosine"], throughout=False) == pytest.approx(cosines[-1], abs=1e-12)
    assert scores(estimate, truth, units=False)["cosine"] == pytest.approx(cosines.mean(1), abs=1e-12)


def test_11_a_metric_that_is_not_defined_is_none() -> None:
    estimate = torch.randn(1, 40, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    truth = estimate.clone()
    truth[0, :, 1] = 0.25

    assert all(values == [None] for values in scores(estimate, truth, units=True).values())


# ---- 12: the harness itself ----------------------------------------------------------------------------------------
def test_12_full_batch_training_reproduces_the_closed_form_leave_one_out_of_ridge_regression() -> None:
    given = problem(MODELS["regression"], Sgd(0.5), batch=12, epochs=800, weight_decay=0.1)
    given = replace(given, horizons=(given.steps,))
    inputs = torch.cat([given.train.inputs, torch.ones(12, 1, dtype=torch.float64)], dim=1)

    def fitted(keep: list[int]) -> Tensor:
        x, y = inputs[keep], given.train.targets[keep]
        return torch.linalg.solve(x.T @ x + 0.1 * len(keep) * torch.eye(6, dtype=torch.float64), x.T @ y)

    whole = fitted(list(range(12)))
    without = torch.stack([fitted([j for j in range(12) if j != i]) for i in range(12)])
    expected = torch.stack([given.query_losses(theta) for theta in without]) - given.query_losses(whole)
    close(train(given).final, whole, 1e-9)
    close(leave_one_out(train(given))[0], expected, 1e-9)
