"""The adapters to captum, kronfluence, pyDVL and TRAK against explicit formulas, and where a library departs from them."""

from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem
from scipy.stats import spearmanr
from torch import Tensor

from baselines import peer_captum, peer_kronfluence, peer_pydvl, peer_trak
from benchmark.core.declaration import LIBRARIES
from benchmark.core.losses import LOSSES
from benchmark.core.models import Network, mlp
from benchmark.core.modules import module
from benchmark.core.problem import Samples
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train

DAMPING = 0.02
CLASSES = mlp((4, 3), loss="cross-entropy")
EXTRA = "needs the extra peers"


def library(name: str) -> None:
    assert name in LIBRARIES
    if name == "pydvl":
        pytest.importorskip("distributed", reason=EXTRA)
    pytest.importorskip(name, reason=EXTRA)


@cache
def converged(model: Network = MODELS["logistic"], weight_decay: float = 0.05) -> Trajectory:
    """One step of 40 samples that ends where Newton's method does: the gradient of the mean loss is 0 to rounding."""
    given = problem(model, train=40, query=4, batch=40, epochs=1, weight_decay=weight_decay)
    theta = given.initial
    for _ in range(30):
        gradient = given.gradients(theta, given.train).mean(0)
        theta = theta - torch.linalg.lstsq(given.hessian(theta), gradient, driver="gelsd").solution
    assert float(given.gradients(theta, given.train).mean(0).norm()) < 1e-10
    return Trajectory(given, torch.stack([given.initial, theta])[:, None])


def reference(run: Trajectory, damping: float) -> Tensor:
    given = run.problem
    solved = torch.linalg.solve(given.hessian(run.final) + damping * torch.eye(len(run.final)), run.query_gradients().T)
    return given.gradients(run.final, given.train) @ solved / len(given.train)


def far(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def mean_of(run: Trajectory) -> Trajectory:
    return replace(run, problem=replace(run.problem, query_kind="mean"))


INFLUENCE: dict[str, Any] = {
    "captum-naive": lambda run: peer_captum.naive(run, projection=99, regularisation=40 * DAMPING, smallest=0.0),
    "captum-arnoldi": lambda run: peer_captum.arnoldi(
        run, dimension=7, tolerance=0.0, projection=99, regularisation=40 * DAMPING, smallest=0.0
    ),
    "pydvl-direct": lambda run: peer_pydvl.direct(run, damping=DAMPING),
    "pydvl-cg": lambda run: peer_pydvl.cg(run, damping=DAMPING, iterations=100),
    "pydvl-nystrom": lambda run: peer_pydvl.nystrom(run, damping=DAMPING, rank=99),
}


@pytest.mark.parametrize("weight_decay", [0.05, 0.0])
@pytest.mark.parametrize("name", INFLUENCE)
def test_at_full_rank_an_influence_function_is_the_explicit_one_in_sign_and_scale(name: str, weight_decay: float) -> None:
    library(name.split("-")[0])
    run = converged(weight_decay=weight_decay)
    expected = reference(run, DAMPING)

    assert far(INFLUENCE[name](run), expected) < 1e-6
    assert far(INFLUENCE[name](mean_of(run)), expected.mean(1, keepdim=True)) < 1e-6


@pytest.mark.parametrize("optimizer", ["sgd-decaying", "momentum"])
def test_tracincp_is_the_sum_of_rate_times_product_of_gradients(optimizer: str) -> None:
    library("captum")
    run = train(problem(MODELS["classes"], OPTIMIZERS[optimizer]))
    given, ends = run.problem, [segment.stop for segment in run.segments(4)]
    expected = torch.zeros(12, 3, dtype=torch.float64)
    for t in ends:
        at = run.params(t)
        expected += given.optimizer.rate(t - 1) * given.gradients(at, given.train) @ given.query_gradients(at).T

    assert far(peer_captum.tracincp(run, checkpoints=4), expected) < 1e-12
    assert far(peer_captum.tracincp(mean_of(run), checkpoints=4), expected.mean(1, keepdim=True)) < 1e-12


def kronecker(run: Trajectory, strategy: str, damping: float) -> Tensor:
    """Of one dense layer, from its inputs a_i and slopes s_i: kfac, ekfac, diagonal and their influence (N, Q)."""
    given = run.problem
    outputs, inputs = given.model.classes, given.model.inputs

    def layer(gradients: Tensor) -> Tensor:
        weight, bias = gradients.split([outputs * inputs, outputs], dim=1)
        return torch.cat([weight.reshape(-1, outputs, inputs), bias[:, :, None]], dim=2)

    data = layer(given.gradients(run.final, given.train) - given.weight_decay * run.final)  # (N, C, d + 1)
    query, slopes = layer(run.query_gradients()), data[:, :, -1]
    padded = torch.cat([given.train.inputs, torch.ones(len(data), 1)], dim=1)
    (a, left), (s, right) = (torch.linalg.eigh(m.T @ m / len(data)) for m in (padded, slopes))
    if strategy == "diagonal":
        return torch.einsum("nij,qij->nq", data, query / ((data**2).mean(0) + damping)) / len(data)
    data, query = (right.T @ gradients @ left for gradients in (data, query))
    values = torch.outer(s, a) if strategy == "kfac" else (data**2).mean(0)
    return torch.einsum("nij,qij->nq", data, query / (values + damping)) / len(data)


@pytest.mark.parametrize("model", [MODELS["logistic"], CLASSES], ids=["logistic", "classes"])
@pytest.mark.parametrize("strategy", ["kfac", "ekfac", "diagonal"])
def test_kronfluence_with_true_labels_is_the_explicit_formula_but_for_the_gradient_of_the_l2_term(
    model: Network, strategy: str
) -> None:
    library("kronfluence")
    run = converged(model)
    expected = kronecker(run, strategy, DAMPING + 0.05)
    found = peer_kronfluence.kronfluence(run, strategy=strategy, damping=DAMPING, empirical=True)

    assert far(found, expected) < 1e-9
    assert all(spearmanr(*columns).statistic >= 0.99 for columns in zip(found.T, expected.T, strict=True))
    mean = peer_kronfluence.kronfluence(mean_of(run), strategy=strategy, damping=DAMPING, empirical=True)
    assert far(mean, expected.mean(1, keepdim=True)) < 1e-9


@pytest.mark.parametrize("name", ["logistic", "mlp", "classes", "cnn"])
@pytest.mark.parametrize("damping", [1e-8, 0.01])
def test_our_ekfac_is_kronfluences_but_for_the_gradient_of_the_l2_term(name: str, damping: float) -> None:
    library("kronfluence")
    run = train(problem(MODELS[name])).until(9)
    ours = registered()["if-ekfac-fisher"].function(run, solver="ekfac", matrix="fisher", damping=damping, share=0.0)
    theirs = registered()["kronfluence/ekfac"].function(run, strategy="ekfac", damping=damping, empirical=True)

    centred = [effect - effect.mean(0) for effect in (ours, theirs)]
    assert far(*centred) < 1e-6
    for q in range(3):
        assert spearmanr(ours[:, q], theirs[:, q]).statistic >= 0.99


def test_kronfluence_draws_its_labels_from_the_run_and_leaves_the_global_generator_alone() -> None:
    library("kronfluence")
    run = converged()
    settings: dict[str, Any] = {"strategy": "ekfac", "damping": DAMPING}
    before = torch.get_rng_state()
    found = peer_kronfluence.kronfluence(run, empirical=False, **settings)

    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(peer_kronfluence.kronfluence(run, empirical=False, **settings), found)
    assert far(peer_kronfluence.kronfluence(run, empirical=True, **settings), found) > 1e-3
    other = replace(run, problem=replace(run.problem, initial=run.problem.initial + 1))
    assert far(peer_kronfluence.kronfluence(other, empirical=False, **settings), found) > 1e-3


def test_trak_in_as_many_directions_as_parameters_is_the_explicit_formula_but_for_a_factor() -> None:
    """A projection that loses nothing cancels: ``g_i (G^T G)^-1 g_q (1 - p_i)`` of the gradients of the margins."""
    library("trak")
    run = converged()
    given, theta = run.problem, run.final

    def margins(samples: Samples) -> tuple[Tensor, Tensor]:
        padded = torch.cat([samples.inputs, torch.ones(len(samples), 1)], dim=1) * (2 * samples.targets - 1)[:, None]
        return padded, (padded @ theta).sigmoid()

    (gradients, chances), (query, _) = margins(given.train), margins(given.query)
    expected = gradients @ torch.linalg.solve(gradients.T @ gradients, query.T) * (1 - chances)[:, None]
    found = peer_trak.trak(run, dimension=99, regularisation=0.0)

    factor = float((found * expected).sum() / (expected * expected).sum())
    assert factor > 0
    assert far(found, factor * expected) < 1e-3
    assert far(peer_trak.trak(mean_of(run), dimension=99, regularisation=0.0), found.mean(1, keepdim=True)) < 1e-6


# ---- where a library departs from its formula ------------------------------------------------------------------------


def test_captums_arnoldi_drops_a_direction_of_a_krylov_space_that_is_complete() -> None:
    """Two parameters: the iteration ends after two directions, by its tolerance, and one is thrown away."""
    library("captum")
    run = converged(mlp((1, 1)))
    settings: dict[str, Any] = {"projection": 99, "regularisation": 40 * DAMPING, "smallest": 0.0}

    ended = peer_captum.arnoldi(run, dimension=9, tolerance=1e-6, **settings)
    assert torch.linalg.matrix_rank(ended) == 1
    assert far(ended, reference(run, DAMPING)) > 0.1
    assert far(peer_captum.arnoldi(run, dimension=3, tolerance=0.0, **settings), reference(run, DAMPING)) < 1e-6


def given_to_pydvl(run: Trajectory) -> tuple[Any, Any, list[tuple[Tensor, Tensor]]]:
    given = run.problem
    loss = LOSSES[given.model.loss]
    data = [(given.train.inputs, given.train.targets)]
    return module(given.model, run.final), lambda outputs, targets: loss(outputs, targets).mean(), data


def test_pydvls_cg_returns_zeros_for_all_but_as_many_queries_as_there_are_parameters() -> None:
    library("pydvl")
    run = converged(mlp((1, 1)))
    whole, loss, data = given_to_pydvl(run)
    method = peer_pydvl._library().CgInfluence(whole, loss, regularization=DAMPING).fit(data)
    factors = method.influence_factors(run.problem.query.inputs, run.problem.query.targets)  # 4 queries, 2 parameters

    assert (factors[:2] != 0).all()
    assert (factors[2:] == 0).all()
    assert (peer_pydvl.cg(run, damping=DAMPING, iterations=100) != 0).all()


def test_pydvls_gauss_newton_matrix_of_one_batch_is_divided_by_zero() -> None:
    library("pydvl")
    peer_pydvl._library()
    whole, loss, data = given_to_pydvl(converged(mlp((1, 1))))

    assert import_module("pydvl.influence.torch.functional").gauss_newton(whole, loss, data).isinf().all()


def test_pydvls_ekfac_sees_no_curvature_where_the_classes_are_equally_likely() -> None:
    library("pydvl")
    run = converged(CLASSES, weight_decay=0.0)
    run = replace(run, states=torch.zeros_like(run.states))
    plain = run.problem.gradients(run.final, run.problem.train) @ run.query_gradients().T / 40

    assert far(peer_pydvl.ekfac(run, damping=DAMPING), plain / DAMPING) < 1e-5


def test_pydvls_ekfac_is_that_of_its_own_loss_for_one_logit_as_for_two_classes() -> None:
    library("pydvl")
    run = converged()
    given, theta = run.problem, run.final
    padded = torch.cat([given.train.inputs, torch.ones(40, 1)], dim=1)
    p = (padded @ theta).sigmoid()
    slope = (1 - p).sqrt() * -p + p.sqrt() * (1 - p)  # of sum_c sqrt(p_c) log p_c, sqrt held constant
    _, basis = torch.linalg.eigh(padded.T @ padded / 40)
    level = ((slope[:, None] * (padded @ basis)) ** 2).mean(0) + DAMPING + 0.05
    expected = given.gradients(theta, given.train) @ basis / level @ (run.query_gradients() @ basis).T / 40

    assert far(peer_pydvl.ekfac(run, damping=DAMPING), expected) < 1e-4


def test_trakers_projector_of_one_block_forgets_its_matrix_before_the_queries_come() -> None:
    library("trak")
    projectors = import_module("trak.projectors")
    one, two = (projectors.BasicProjector(6, 4, 0, "normal", torch.device("cpu"), block_size=size) for size in (4, 2))
    for projector in (one, two):
        projector.free_memory()  # as TRAKer.finalize_features does

    assert two.project(torch.ones(1, 6), model_id=0).shape == (1, 4)
    with pytest.raises(AttributeError, match="proj_matrix"):
        one.project(torch.ones(1, 6), model_id=0)
