"""The adapter to dattri against the formulas of the papers, and what the library gets wrong, in the smallest examples."""

from dataclasses import replace

import pytest
import torch
from cases import MODELS, problem
from torch import Tensor

from baselines import peer_dattri
from benchmark.core.models import mlp
from benchmark.core.problem import Problem
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train

pytest.importorskip("dattri", reason="needs the extra peers")
DAMPING = 0.01


def call(name: str, run: Trajectory, **settings: object) -> Tensor:
    variant = registered()[f"dattri/{name}"]
    damping = {"damping": DAMPING} if "damping" in variant.settings else {}
    return variant.function(run, **{**variant.settings, **damping, **settings})


def converged(**changes: object) -> Trajectory:
    """A logistic task at its minimum, by Newton's method, as a run of one step."""
    given = problem(MODELS["logistic"], train=40, query=4, weight_decay=0.05, **changes)  # type: ignore[arg-type]
    theta = given.initial
    for _ in range(20):
        theta = theta - torch.linalg.solve(given.hessian(theta), given.gradients(theta, given.train).mean(0))
    assert float(given.gradients(theta, given.train).mean(0).norm()) < 1e-10
    step = replace(given, batches=torch.arange(40)[None], horizons=(1,))
    return Trajectory(step, torch.stack([given.start(), theta[None]]))


def by_matrix(run: Trajectory, matrix: Tensor, shift: float) -> Tensor:
    """``G (M + shift I)^-1 U^T / N``"""
    given = run.problem
    solved = torch.linalg.solve(matrix + shift * torch.eye(len(matrix), dtype=matrix.dtype), run.query_gradients().T)
    return given.gradients(run.final, given.train) @ solved / len(given.train)


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", ["each", "mean"])
@pytest.mark.parametrize(
    ("name", "tolerance"), [("if-explicit", 1e-6), ("if-cg", 1e-6), ("if-arnoldi", 1e-6), ("if-lissa", 1e-3)]
)
def test_at_a_minimum_the_solvers_are_the_influence_function(name: str, tolerance: float, kind: str) -> None:
    run = converged(query_kind=kind)

    assert apart(call(name, run), by_matrix(run, run.problem.hessian(run.final), DAMPING)) < tolerance


def test_explicit_influence_off_a_minimum_is_by_the_hessian_with_its_l2_term() -> None:
    run = train(problem())

    assert apart(call("if-explicit", run), by_matrix(run, run.problem.hessian(run.final), DAMPING)) < 1e-6


def test_cg_off_a_minimum_is_by_the_gauss_newton_matrix() -> None:
    run = train(problem())
    given, theta = run.problem, run.final
    matrix = given.gauss_newton_products(theta, given.train, torch.eye(len(theta), dtype=theta.dtype))

    expected = by_matrix(run, matrix, DAMPING)

    assert apart(call("if-cg", run, iterations=60), expected) < 1e-6


def test_datainf_is_the_mean_of_inverses_of_each_layer() -> None:
    run = train(problem())
    given = run.problem
    gradients, queries, effect = given.gradients(run.final, given.train), run.query_gradients(), 0.0
    for layer in (slice(0, 24), slice(24, 29)):
        mine, asked = gradients[:, layer], queries[:, layer]
        eye = torch.eye(mine.shape[1], dtype=mine.dtype)
        inverse = torch.stack([torch.linalg.inv(torch.outer(one, one) + 0.1 * eye) for one in mine]).mean(0)
        effect = effect + mine @ inverse @ asked.T / len(mine)

    assert apart(call("if-datainf", run, damping=0.1), effect) < 1e-6


def kronecker(given: Problem, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs with a one (N, d + 1) and slopes of the loss in the outputs (N, C), of a model of one layer."""
    inputs = torch.cat([given.train.inputs, torch.ones(len(given.train), 1, dtype=theta.dtype)], 1)
    outputs = given.model.outputs(theta, given.train.inputs)
    targets = given.train.targets
    if given.model.loss == "cross-entropy":
        return inputs, outputs.softmax(1) - torch.nn.functional.one_hot(targets, outputs.shape[1])
    return inputs, outputs.sigmoid() - targets[:, None]


def ekfac(run: Trajectory, *, turned: bool) -> Tensor:
    """EK-FAC of a layer of one output; `turned`: with Q for Q^T."""
    given = run.problem
    inputs, slopes = kronecker(given, run.final)
    axes = torch.linalg.eigh(inputs.T @ inputs / len(inputs), UPLO="U").eigenvectors
    axes = axes.T if turned else axes
    values = (((inputs * slopes) @ axes) ** 2).mean(0)
    return by_matrix(run, axes @ values.diag() @ axes.T, DAMPING + given.weight_decay)


def test_ekfac_of_the_library_turns_by_the_eigenvectors_the_wrong_way() -> None:
    """One output: the layer is one matrix, in whose eigenbasis EK-FAC has its diagonal; the library has rows for columns.

    So its answer depends on the arbitrary signs of eigenvectors.
    """
    run = converged()

    found = call("if-ekfac", run)

    assert apart(found, ekfac(run, turned=True)) < 1e-6
    assert apart(found, ekfac(run, turned=False)) > 0.01


def test_ekfac_of_the_library_misplaces_weights_beside_a_bias() -> None:
    """Three outputs and two inputs: the bias is put behind all weights, and the sequence cut into rows of d + 1."""
    run = train(problem(mlp((2, 3), loss="cross-entropy")))
    given, queries = run.problem, run.query_gradients()
    inputs, slopes = kronecker(given, run.final)
    across, along = (torch.linalg.eigh(side.T @ side / len(side), UPLO="U").eigenvectors for side in (inputs, slopes))
    values = ((along @ (slopes[:, :, None] * inputs[:, None]) @ across.T) ** 2).mean(0) + DAMPING + given.weight_decay

    def solved(blocks: Tensor) -> Tensor:
        return along.T @ (along @ blocks @ across.T / values) @ across

    beside = torch.cat([queries[:, :6].reshape(-1, 3, 2), queries[:, 6:, None]], 2)
    right = solved(beside)
    right = torch.cat([right[:, :, :2].flatten(1), right[:, :, 2]], 1)
    gradients = given.gradients(run.final, given.train)
    found = call("if-ekfac", run)

    assert apart(found, gradients @ solved(queries.reshape(-1, 3, 3)).flatten(1).T / len(gradients)) < 1e-6
    assert apart(found, gradients @ right.T / len(gradients)) > 0.01


def test_tracin_is_the_sum_of_rates_times_grad_dot_at_the_ends_of_segments() -> None:
    run = train(problem(optimizer=problem().optimizer))
    given, effect = run.problem, 0.0
    for segment in run.segments(4):
        theta = run.params(segment.stop)
        rate = sum(map(given.optimizer.rate, segment)) / 12
        effect = effect + rate * given.gradients(theta, given.train) @ given.query_gradients(theta).T

    assert apart(call("tracin", run, checkpoints=4), effect) < 1e-12


def test_tracin_of_the_library_projects_even_where_it_is_told_not_to() -> None:
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    shell = torch.nn.Linear(1, 1)
    given = AttributionTask(lambda parameters, data: data[0].sum(), shell, shell.state_dict())

    assert TracInAttributor(given, [1.0], normalized_grad=False, projector_kwargs=None).projector_kwargs["proj_dim"] == 512


@pytest.mark.parametrize("dimension", [3, 40])
def test_trak_is_its_formula_in_the_projected_margins(dimension: int) -> None:
    from dattri.func.projection import random_project

    run = train(problem(MODELS["logistic"], train=30))
    given, theta = run.problem, run.final
    logits = given.model.outputs(theta, given.train.inputs)[:, 0]
    signs = 2 * given.train.targets - 1
    inputs = torch.cat([given.train.inputs, torch.ones(30, 1, dtype=theta.dtype)], 1)
    features = signs[:, None] * inputs
    eye = torch.eye(6, dtype=theta.dtype)
    drawn = {"proj_max_batch_size": 32, "proj_seed": peer_dattri.seed(run), "proj_type": "normal", "device": "cpu"}
    projected = random_project(eye, 6, proj_dim=dimension, **drawn)(eye, ensemble_id=0)  # (P, k)
    phi = features @ projected
    matrix = phi.T @ phi + 30 * DAMPING * torch.eye(dimension, dtype=theta.dtype)
    chances = torch.sigmoid(signs * logits)
    solved = torch.linalg.solve(matrix, (run.query_gradients() @ projected).T)

    assert apart(call("trak", run, dimension=dimension), -(phi * (1 - chances)[:, None]) @ solved) < 1e-10


def test_lissa_does_not_diverge_where_all_curvature_is_below_the_damping() -> None:
    run = train(problem(MODELS["logistic"], train=30, epochs=1))
    states = run.states.clone()
    states[-1] *= 100
    flat = replace(run, states=states)
    given = flat.problem
    eye = torch.eye(6, dtype=states.dtype)
    curvature = given.gauss_newton_products(flat.final, given.train, eye)
    assert float(torch.linalg.eigvalsh(curvature)[-1]) < 0.1

    expected = (
        given.gradients(flat.final, given.train) @ torch.linalg.solve(curvature + 0.2 * eye, flat.query_gradients().T) / 30
    )
    assert apart(call("if-lissa", flat, damping=0.2), expected) < 1e-4


def test_dvemb_is_ours() -> None:
    run = train(problem())

    assert apart(call("dvemb", run), registered()["dvemb"](run)) < 1e-10


def test_without_regularisation_datainf_of_the_library_divides_by_zero() -> None:
    assert not call("if-datainf", train(problem()), damping=0.0).isfinite().any()


@pytest.mark.parametrize(
    "name", ["if-explicit", "if-cg", "if-arnoldi", "if-lissa", "if-datainf", "if-ekfac", "tracin", "trak", "dvemb"]
)
def test_a_mean_query_is_the_mean_of_its_samples_and_leaves_global_state_alone(name: str) -> None:
    run = train(problem(MODELS["logistic"]))
    mean = replace(run, problem=replace(run.problem, query_kind="mean"))
    before = torch.get_rng_state()

    assert apart(call(name, mean), call(name, run).mean(1, keepdim=True)) < 1e-6
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    "name", ["if-explicit", "if-cg", "if-arnoldi", "if-lissa", "if-datainf", "if-ekfac", "tracin", "trak", "dvemb"]
)
def test_float32_is_answered_in_float32(name: str) -> None:
    from benchmark.core.problem import in_precision

    run = train(problem(MODELS["logistic"]))
    single = train(in_precision(problem(MODELS["logistic"]), torch.float32))

    found = call(name, single)

    assert found.dtype == torch.float32
    if name != "trak":  # another precision, another projection
        assert apart(found.double(), call(name, run)) < 1e-3
