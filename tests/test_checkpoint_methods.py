"""TracIn, mirrored influence, LESS, Z0-Inf and Diff-In: what each is, in cases where that is known by another way."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem
from torch import Tensor, nn

from baselines.final_gradient import grad_dot
from benchmark.core import calculus
from benchmark.core.models import Network
from benchmark.core.optimizers import Adam, Optimizer, Sgd
from benchmark.core.problem import Problem, Samples, in_precision
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train
from estimators import diff_in as diff_in_file
from estimators.diff_in import bends, diff_in, diff_in_derived
from estimators.less import directions, less
from estimators.mirrored import mirrored
from estimators.tracin import tracin
from estimators.z0_inf import z0_inf

ADAMS = pytest.mark.parametrize("optimizer", [OPTIMIZERS["adam"], OPTIMIZERS["adamw"]], ids=["adam", "adamw"])
NAMES = ("tracin", "tracin-ideal", "mirrored", "less", "z0-inf", "diff-in", "diff-in-derived")


def error(found: Tensor, expected: Tensor) -> float:
    """Largest error over the largest entry."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def full_batches(rate: float, epochs: int = 4, **settings: object) -> Trajectory:
    return train(problem(optimizer=Sgd(rate), batch=12, epochs=epochs, **settings))


def sample_gradient(given: Problem, theta: Tensor, i: int) -> Tensor:
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(given.losses(theta, given.train[[i]])[0], theta)[0]


def query_gradient(given: Problem, theta: Tensor, q: int) -> Tensor:
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(given.query_losses(theta)[q], theta)[0]


# ---- TracIn --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", ["sgd-decaying", "momentum", "adam"])
def test_tracin_ideal_is_the_double_loop_over_steps_and_their_samples(optimizer: str) -> None:
    given = problem(optimizer=OPTIMIZERS[optimizer])
    run = train(given)
    expected = torch.zeros(12, 3, dtype=torch.float64)
    for t in range(given.steps):
        members = [int(i) for i in given.batches[t] if i >= 0]
        for i in members:
            for q in range(3):
                product = sample_gradient(given, run.params(t), i) @ query_gradient(given, run.params(t), q)
                expected[i, q] += given.optimizer.rate(t) / len(members) * product

    assert error(tracin(run, checkpoints=None), expected) < 1e-13


def test_tracin_with_a_checkpoint_at_every_full_batch_step_is_tracin_ideal() -> None:
    run = train(problem(optimizer=OPTIMIZERS["sgd-decaying"], batch=12, epochs=6))

    assert error(tracin(run, checkpoints=6), tracin(run, checkpoints=None)) < 1e-12
    assert error(tracin(run, checkpoints=5), tracin(run, checkpoints=None)) > 1e-4


def test_tracin_weighs_the_middle_of_a_segment_with_the_sum_of_its_rates() -> None:
    given = problem(optimizer=OPTIMIZERS["sgd-decaying"])  # 9 steps
    run, rate = train(given), given.optimizer.rate
    expected = sum(
        sum(map(rate, steps)) / 12 * given.gradients(run.params(c), given.train) @ given.query_gradients(run.params(c)).T
        for steps, c in ((range(4), 2), (range(4, 9), 6))
    )

    assert error(tracin(run, checkpoints=2), expected) < 1e-13


def test_after_one_step_tracin_ideal_is_sgd_ie_up_to_a_relative_difference_linear_in_the_rate() -> None:
    runs = [full_batches(rate, epochs=1) for rate in (1e-2, 1e-3, 1e-4)]
    large, small, tiny = (error(tracin(run, checkpoints=None), registered()["sgd-ie"](run)) for run in runs)

    assert large / small == pytest.approx(10, rel=0.05)
    assert small / tiny == pytest.approx(10, rel=0.01)
    assert tiny < 1e-3


# ---- mirrored influence --------------------------------------------------------------------------------------------
def test_mirrored_tends_to_grad_dot_linearly_in_the_step() -> None:
    run = train(problem())
    expected = grad_dot(run, cosine=False)
    large, small, tiny = (error(mirrored(run, step=step), expected) for step in (1e-2, 1e-3, 1e-4))

    assert large / small == pytest.approx(10, rel=0.05)
    assert small / tiny == pytest.approx(10, rel=0.01)
    assert error(mirrored(run, step=1e-6), expected) < 1e-5


def test_mirrored_is_the_rise_of_each_training_loss_when_the_model_climbs_a_query() -> None:
    run = train(problem(query_kind="mean", weight_decay=0.3))
    climbed = run.final + 0.5 * query_gradient(run.problem, run.final, 0)
    losses = [run.problem.losses(theta, run.problem.train) for theta in (run.final, climbed)]

    assert error(mirrored(run, step=0.5), (losses[1] - losses[0])[:, None] / 0.5) < 1e-13
    with calculus.counting() as count:
        mirrored(run, step=0.5)
    assert (count.gradients, count.hessian_products) == (3, 0)  # of the mean over 3 queries


# ---- LESS ----------------------------------------------------------------------------------------------------------
@ADAMS
@pytest.mark.parametrize("t", [0, 1, 8])
def test_gamma_is_what_torchs_next_adam_step_on_one_sample_would_move(optimizer: Adam, t: int) -> None:
    given = problem(optimizer=optimizer)
    run = train(given)
    found = directions(run, t, torch.arange(12))
    for i in range(12):
        theta = nn.Parameter(torch.zeros_like(run.final))  # from 0 the move has no rounding
        theta.grad = sample_gradient(given, run.params(t), i)
        twin = torch.optim.Adam([theta], lr=optimizer.lr, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps)
        moments = {"step": torch.tensor(float(t)), "exp_avg": run.states[t, 1], "exp_avg_sq": run.states[t, 2]}
        twin.state[theta] = {name: value.clone() for name, value in moments.items()}
        twin.step()
        assert error(found[i], theta.detach() / -optimizer.lr) < 1e-13


def test_without_memory_and_with_a_large_eps_less_is_the_cosine_of_raw_gradients_at_the_last_step_times_the_rate() -> None:
    run = train(problem(optimizer=Adam(2e8, beta1=0.0, beta2=0.0, eps=1e9)))  # moves by 0.2 g, to nine digits
    before_last = run.until(run.problem.steps - 1)

    assert error(less(run, checkpoints=1), 2e8 * grad_dot(before_last, cosine=True)) < 1e-8
    assert error(less(run, checkpoints=1), 2e8 * grad_dot(run, cosine=True)) > 1e-3


@ADAMS
def test_less_weighs_the_last_step_of_a_segment_with_the_mean_of_its_rates(optimizer: Adam) -> None:
    given = problem(optimizer=replace(optimizer, schedule="inverse-sqrt"))  # 9 steps
    run, rate = train(given), given.optimizer.rate
    expected = torch.zeros(12, 3, dtype=torch.float64)
    for steps in (range(4), range(4, 9)):
        gamma = directions(run, steps[-1], torch.arange(12))
        for q in range(3):
            query = query_gradient(given, run.params(steps[-1]), q)
            expected[:, q] += sum(map(rate, steps)) / len(steps) * nn.functional.cosine_similarity(gamma, query[None])

    assert error(less(run, checkpoints=2), expected) < 1e-12


def test_a_weight_that_never_saw_a_gradient_has_gamma_0_and_less_is_finite() -> None:
    given = problem(optimizer=OPTIMIZERS["adam"], weight_decay=0.0)
    given.train.inputs[:, 2] = 0
    run = train(given)
    dead = run.states[-1, 2] == 0

    assert int(dead.sum()) == 4  # one input's weights to 4 hidden units
    for t in (0, 8):
        assert (directions(run, t, torch.arange(12))[:, dead] == 0).all()
    assert less(run, checkpoints=4).isfinite().all()


# ---- Z0-Inf --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("checkpoints", "rank"), [(1, 1), (3, 3), (9, 7)])  # 3 epochs have one sum of steps, to first order
def test_on_a_tiny_path_z0_inf_is_the_product_of_gradients_projected_on_its_displacements(checkpoints: int, rank: int) -> None:
    given = problem(optimizer=Sgd(1e-6))  # 9 steps
    run = train(given)
    thetas = torch.stack([run.params(9 * k // checkpoints) for k in range(checkpoints + 1)])
    basis, sizes, _ = torch.linalg.svd(thetas.diff(dim=0).T, full_matrices=False)  # (P, C)
    basis = basis[:, sizes > 1e-4 * sizes[0]]
    expected = 9e-6 / 12 * (given.gradients(run.final, given.train) @ basis) @ (run.query_gradients() @ basis).T

    assert basis.shape[1] == rank
    assert error(z0_inf(run, checkpoints=checkpoints, cutoff=1e-8), expected) < 1e-5


def test_z0_inf_drops_directions_shorter_than_its_cutoff_and_none_is_left_where_nothing_moves() -> None:
    given = problem(optimizer=Sgd(1e-6))
    run = train(given)
    basis, sizes, _ = torch.linalg.svd(run.states[:, 0].diff(dim=0).T, full_matrices=False)
    between = float((sizes[2] * sizes[3]) / sizes[0] ** 2)  # of squares, as eigenvalues of the Gram matrix are
    basis = basis[:, :3]
    expected = 9e-6 / 12 * (given.gradients(run.final, given.train) @ basis) @ (run.query_gradients() @ basis).T

    assert error(z0_inf(run, checkpoints=9, cutoff=between), expected) < 1e-5
    still = replace(run, states=run.states[:1].expand(10, -1, -1))
    assert (z0_inf(still, checkpoints=9, cutoff=1e-2) == 0).all()


def test_z0_inf_takes_forward_passes_only() -> None:
    run = train(problem())
    with calculus.counting() as count:
        registered()["z0-inf"](run)

    assert (count.gradients, count.hessian_products) == (0, 0)


# ---- Diff-In -------------------------------------------------------------------------------------------------------
def explicit_bends(given: Problem, theta: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """``<u_q, H g_i>`` and ``<u_q, H_i g>`` with Hessians written out, (N, Q) each."""

    def loss(theta: Tensor, samples: Samples) -> Tensor:
        return given.losses(theta, samples).mean()

    each = torch.stack([sample_gradient(given, theta, i) for i in range(12)])
    own = [torch.autograd.functional.hessian(partial(loss, samples=given.train[[i]]), theta) for i in range(12)]
    whole = torch.autograd.functional.hessian(partial(loss, samples=given.train), theta)
    return each @ whole @ query.T, torch.stack([hessian @ each.mean(0) for hessian in own]) @ query.T


@pytest.mark.parametrize(
    "model", [MODELS["mlp"], MODELS["classes"], MODELS["regression"]], ids=["mlp", "classes", "regression"]
)
@pytest.mark.parametrize("block", [256, 5])
def test_both_products_of_diff_in_are_those_with_explicit_hessians(
    model: Network, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff_in_file, "BLOCK", block)
    given = problem(model)
    query = given.query_gradients(given.initial)
    shared, own = explicit_bends(given, given.initial, query)

    assert error(shared, own) > 1e-3
    with calculus.counting() as count:
        assert error(bends(given, given.initial, query), shared + own) < 1e-10
    assert (count.gradients, count.hessian_products) == (3 * 12, 3 * 12 + 12)


def test_diff_in_is_equation_9_of_the_released_code() -> None:
    given = problem(optimizer=OPTIMIZERS["sgd-decaying"])  # 9 steps
    run, rate = train(given), given.optimizer.rate
    expected = torch.zeros(12, 3, dtype=torch.float64)
    for t in (4, 9):
        shared, own = explicit_bends(given, run.params(t), given.query_gradients(run.params(t)))
        expected -= t * rate(t) ** 2 / (12 * 2) * (shared + own)

    assert error(diff_in(run, checkpoints=2), expected) < 1e-10


@pytest.mark.parametrize("schedule", ["constant", "inverse-sqrt"])
@pytest.mark.parametrize("model", [MODELS["mlp"], MODELS["classes"]], ids=["softplus", "tanh"])
def test_diff_in_derived_at_every_full_batch_step_is_sgd_ie_up_to_the_third_order_of_the_rate(
    model: Network, schedule: str
) -> None:
    def gap(rate: float) -> float:
        run = train(problem(model, Sgd(rate, schedule=schedule), batch=12, epochs=5))
        return float((diff_in_derived(run, checkpoints=5) - registered()["sgd-ie"](run)).norm())

    gaps = [gap(rate) for rate in (4e-3, 2e-3, 1e-3)]
    assert gaps[0] / gaps[1] == pytest.approx(8, rel=0.05)
    assert gaps[1] / gaps[2] == pytest.approx(8, rel=0.03)


def test_diff_in_derived_for_checkpoints_sums_the_weights_of_a_segment_at_its_middle() -> None:
    given = problem(optimizer=OPTIMIZERS["sgd"])  # 9 steps of rate 0.2
    run, query = train(given), train(given).query_gradients()
    expected = 9 * 0.2 / 12 * given.gradients(run.params(0), given.train) @ query.T
    for steps, middle in ((range(1, 4), 2), (range(4, 9), 6)):
        shared, own = explicit_bends(given, run.params(middle), query)
        expected = expected - sum((9 - s) * 0.2**2 for s in steps) / 12 * (shared + own)

    assert error(diff_in_derived(run, checkpoints=2), expected) < 1e-10


def test_diff_in_is_second_order_in_the_rate_so_that_the_first_order_term_is_missing() -> None:
    sizes = [float(diff_in(full_batches(rate), checkpoints=4).norm()) for rate in (2e-3, 1e-3)]
    whole = [float(diff_in_derived(full_batches(rate), checkpoints=4).norm()) for rate in (2e-3, 1e-3)]

    assert sizes[0] / sizes[1] == pytest.approx(4, rel=0.02)
    assert whole[0] / whole[1] == pytest.approx(2, rel=0.02)


# ---- all of them ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("optimizer", [OPTIMIZERS["sgd"], OPTIMIZERS["adam"]], ids=["sgd", "adam"])
def test_batches_of_one_runs_of_one_step_and_samples_never_visited_are_no_trouble(name: str, optimizer: Optimizer) -> None:
    variant = registered()[name]
    given = problem(optimizer=optimizer, batch=1, epochs=1)
    if variant.unsupported(given):
        return
    for run in (train(given), train(given).until(1)):
        effect = variant(run)
        assert effect.isfinite().all()
        assert effect.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_rows_for_some_samples_are_those_of_all(name: str) -> None:
    given = problem(optimizer=OPTIMIZERS["adam"])
    asked = torch.tensor([1, 4, 7, 11])
    whole, some = registered()[name](train(given)), registered()[name](train(replace(given, left_out=asked)))

    assert error(some if len(some) == 4 else some[asked], whole[asked]) < 1e-13


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_gives_the_same_to_its_digits(name: str) -> None:
    given = problem(optimizer=OPTIMIZERS["adam"])
    single = in_precision(given, torch.float32)
    found = registered()[name](train(single))

    assert found.dtype == torch.float32
    assert error(found.double(), registered()[name](train(given))) < 2e-3
