"""Further training, datamodels and amortisation: what each is, in cases where that is known by another way."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem
from torch import Tensor

from baselines import datamodel as file
from baselines import further_train as further_file
from baselines.datamodel import amortise, amortised, datamodel, lasso, noisy, retrained, ridge
from baselines.final_gradient import grad_dot
from baselines.further_train import further_train
from benchmark.core.models import mlp
from benchmark.core.optimizers import Adam, Sgd
from benchmark.core.problem import Problem, Samples
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import leave_one_out, train


def error(found: Tensor, expected: Tensor) -> float:
    """Largest error over the largest entry."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def correlation(found: Tensor, expected: Tensor) -> float:
    """Of the effects of all samples, averaged over queries."""
    pairs = zip(found.T, expected.T, strict=True)
    return float(np.mean([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]))


# ---- further training ------------------------------------------------------------------------------------------------
def test_further_training_at_a_vanishing_rate_is_grad_dot() -> None:
    run = train(problem(optimizer=Sgd(1.0), batch=12, epochs=4))
    errors = []
    for share in (1e-4, 1e-5):
        found = further_train(run, adam=False, share=share, length=0.5, orders=1)  # two steps on all samples
        errors.append(error(found, share * 2 / 12 * grad_dot(run, cosine=False)))

    assert errors[1] < 2e-5
    assert errors[0] / errors[1] == pytest.approx(10, rel=1e-2)


def test_further_training_of_a_ridge_regression_for_long_is_leave_one_out_in_closed_form() -> None:
    given = problem(MODELS["regression"], Sgd(0.3), batch=12, epochs=1, weight_decay=0.05)
    inputs = torch.cat([given.train.inputs, torch.ones(12, 1, dtype=torch.float64)], dim=1)

    def solved(kept: Tensor) -> Tensor:
        decay = 0.05 * kept.sum() * torch.eye(6, dtype=torch.float64)
        return torch.linalg.solve(inputs.T @ (kept[:, None] * inputs) + decay, inputs.T @ (kept * given.train.targets))

    everyone = torch.ones(12, dtype=torch.float64)
    least = solved(everyone)
    run = train(replace(given, initial=least, horizons=(1,)))
    without = [given.query_losses(solved(everyone - one)) for one in torch.eye(12, dtype=torch.float64)]

    found = further_train(run, adam=False, share=0.5, length=1500.0, orders=1)
    assert error(run.final, least) < 1e-14
    assert error(found, torch.stack(without) - given.query_losses(least)) < 1e-9


@pytest.mark.parametrize("optimizer", ["sgd-decaying", "momentum", "adam", "adamw"])
@pytest.mark.parametrize("adam", [False, True], ids=["by-sgd", "by-adam"])
def test_further_training_is_the_mean_over_orders_of_the_plain_loop(optimizer: str, adam: bool) -> None:
    given = problem(optimizer=OPTIMIZERS[optimizer], epochs=3)
    run, own = train(given), given.optimizer
    rate = 0.1 * own.rate(8)
    wanted = replace(own, lr=rate) if adam and isinstance(own, Adam) else Sgd(rate)
    random, expected = run.random(), torch.zeros(12, 3, dtype=torch.float64)
    for _ in range(2):
        further = further_file._from(run, wanted, 2, random)
        assert sorted(further.batches[:3].flatten().tolist()) == sorted(further.batches[3:].flatten().tolist())
        assert sorted(further.batches[:3].flatten().tolist()) == [-1, -1, -1, *range(12)]
        whole = plain_loop(further, run.final, None)
        expected += torch.stack([plain_loop(further, run.final, i) - whole for i in range(12)]) / 2

    found = further_train(run, adam=adam, share=0.1, length=0.6, orders=2)
    assert error(found, expected) < 1e-9


def plain_loop(given: Problem, theta: Tensor, without: int | None) -> Tensor:
    state = theta.new_zeros(given.optimizer.rows, len(theta))
    state[0] = theta
    for t in range(given.steps):
        state = given.step(t, state, given.weights(t) * (given.batch(t) != (-1 if without is None else without)))
    return given.query_losses(state[0])


# ---- datamodels ------------------------------------------------------------------------------------------------------
def apart(query_kind: str, optimizer: str = "sgd") -> Trajectory:
    """A linear model of six samples with orthogonal inputs, bias included, asked about themselves under other labels.

    A step on one sample leaves the outputs for the others alone, so that a query's loss depends on its own sample only, and
    the mean of them is linear in what was kept.
    """
    given = problem(mlp((5, 1)), OPTIMIZERS[optimizer], train=6, batch=4, query_kind=query_kind, weight_decay=0.0)
    rows = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    inputs = (rows / rows[:, 5:])[:, :5]  # the sixth, the bias, is 1
    targets = torch.tensor([0.0, 1, 1, 0, 1, 0], dtype=torch.float64)
    train_, query = Samples(inputs, targets), Samples(inputs, targets.flip(0))
    return train(replace(given, train=train_, query=query, test=query, left_out=torch.arange(6)))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize("query_kind", ["each", "mean"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_datamodel_of_losses_linear_in_what_is_kept_is_exact_as_its_penalty_vanishes(
    keep: float, query_kind: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = apart(query_kind, optimizer)
    errors = []
    for penalty in (1e-5, 1e-6, 1e-12):
        monkeypatch.setattr(file, "RIDGE", np.array([penalty]))
        errors.append(error(datamodel(run, runs=60, keep=keep, by_lasso=False), leave_one_out(run)))

    assert errors[0] / errors[1] == pytest.approx(10, rel=1e-3)
    assert errors[2] < 1e-9


def test_a_datamodel_by_lasso_finds_the_one_sample_that_a_loss_depends_on() -> None:
    run = apart("each")
    found, exact = datamodel(run, runs=60, keep=0.5, by_lasso=True), leave_one_out(run)

    assert torch.equal(found[-1] != 0, torch.eye(6, dtype=torch.bool))
    assert torch.equal(found[-1].sign(), torch.where(torch.eye(6) > 0, exact[-1].sign(), 0.0))


def test_more_runs_bring_a_datamodel_nearer_to_the_exact_effects_and_so_does_keeping_more() -> None:
    run = train(problem(train=30, epochs=4, batch=6))
    exact = leave_one_out(run)[-1]
    few, some, many = (correlation(datamodel(run, runs=runs, keep=0.5, by_lasso=False)[-1], exact) for runs in (10, 40, 1000))
    more = correlation(datamodel(run, runs=1000, keep=0.9, by_lasso=False)[-1], exact)

    assert few < 0.6
    assert 1 - some < (1 - few) / 10
    assert 1 - many < (1 - some) / 2
    assert 1 - more < (1 - many) / 10


def test_the_penalty_of_ridge_is_the_one_by_which_rows_left_out_are_predicted_best() -> None:
    random = torch.Generator().manual_seed(0)
    columns, noise = (torch.randn(25, width, generator=random, dtype=torch.float64) for width in (10, 3))
    values = 3 + columns[:, :3] * torch.tensor([2.0, 0.7, 0.01]) + noise
    every = file.RIDGE.copy()
    errors = torch.zeros(len(every), 3, dtype=torch.float64)
    alone = []
    for k, penalty in enumerate(every):
        scale = float(penalty * (columns - columns.mean(0)).square().sum() / 10)
        alone.append(plain_ridge(columns, values, scale)[0])
        for row in range(25):
            rest = torch.arange(25) != row
            slope, start = plain_ridge(columns[rest], values[rest], scale)
            errors[k] += (values[row] - start - columns[row] @ slope) ** 2
    expected = torch.stack([alone[int(k)][:, q] for q, k in enumerate(errors.argmin(0))], dim=1)

    assert len(set(errors.argmin(0).tolist())) == 3
    assert error(ridge(columns, values), expected) < 1e-9


def plain_ridge(columns: Tensor, values: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Slopes and intercepts by the normal equations, the intercept without penalty."""
    given = torch.cat([columns, torch.ones(len(columns), 1, dtype=torch.float64)], dim=1)
    penalties = torch.tensor([penalty] * columns.shape[1] + [0.0], dtype=torch.float64)
    solved = torch.linalg.solve(given.T @ given + penalties.diag(), given.T @ values)
    return solved[:-1], solved[-1]


def test_lasso_leaves_something_to_rank_where_there_is_nothing_to_find_and_0_where_values_are_the_same() -> None:
    random = torch.Generator().manual_seed(0)
    masks = (torch.rand(60, 12, generator=random) < 0.5).double()
    values = torch.randn(60, 20, generator=random, dtype=torch.float64)
    found = lasso(masks, torch.cat([values, torch.full((60, 1), 3.0)], dim=1))

    assert ((found != 0).sum(0)[:20] > 0).all()
    assert (found != 0).sum(0)[:20].min() == 1
    assert (found[:, 20] == 0).all()


def test_subsets_keep_the_share_asked_of_each_sample_and_differ() -> None:
    masks, losses, order = retrained(train(problem()), 2000, 0.9)

    assert losses.shape == (3, 2000, 3)
    assert sorted(order.tolist()) == list(range(12))
    assert float((masks.double().mean(0) - 0.9).abs().max()) < 0.03
    assert float(torch.corrcoef(masks.T.double()).fill_diagonal_(0).abs().max()) < 0.08


# ---- amortisation ----------------------------------------------------------------------------------------------------
def test_noisy_effects_over_all_subsets_are_the_effects_averaged_over_them() -> None:
    masks = torch.tensor(list(product([False, True], repeat=6)))
    values = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    number = {tuple(mask.tolist()): m for m, mask in enumerate(masks)}
    expected = torch.zeros(6, 2, dtype=torch.float64)
    for i in range(6):
        for mask in masks[~masks[:, i]]:
            fuller = mask.clone()
            fuller[i] = True
            expected[i] += (values[number[tuple(mask.tolist())]] - values[number[tuple(fuller.tolist())]]) / 32

    assert error(noisy(masks, values), expected) < 1e-14
    some, few = masks[:23], values[:23]  # a sample is in more of them or in fewer than it is not
    means = [few[~kept].mean(0) - few[kept].mean(0) for kept in some[:, 1:].T]
    assert error(noisy(some[:, 1:], few), torch.stack(means)) < 1e-14


@pytest.mark.parametrize("dot", [False, True], ids=["inputs", "dot"])
def test_amortised_effects_that_are_linear_in_the_features_are_predicted_as_the_penalty_vanishes(
    dot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(problem(MODELS["classes"], train=30))
    given = run.problem
    norms = given.gradients(run.final, given.train).norm(dim=1)
    common = 2 * given.losses(run.final, given.train) - norms + (given.train.targets == 1)
    slope = torch.linspace(-1, 2, 15, dtype=torch.float64).view(5, 3)
    labels = common[:, None] + (5 * grad_dot(run, cosine=False) if dot else given.train.inputs @ slope)
    monkeypatch.setattr(file, "RIDGE", np.array([1e-13]))

    assert error(amortise(run, labels, dot=dot), labels) < 1e-9


def test_amortised_effects_are_nearer_to_the_exact_ones_than_the_noisy_effects_they_were_learnt_from() -> None:
    given = problem(MODELS["logistic"], train=60, batch=10, epochs=4)
    run = train(replace(given, horizons=(6, 24)))  # after one epoch and four
    exact = leave_one_out(run)
    masks, losses, _ = retrained(run, 50, 0.5)
    labels = torch.stack([noisy(masks, each) for each in losses])
    found = amortised(run, runs=50, dot=True)

    for h in range(2):
        assert correlation(labels[h], exact[h]) + 0.2 < correlation(found[h], exact[h])
