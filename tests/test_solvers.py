"""Inverse-curvature products: every solver against a dense solve, and what it says of itself."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from cases import MODELS, problem
from torch import Tensor
from torch.nn.functional import unfold

from benchmark.base.errors import LoobenchError, Unsolved
from benchmark.core import calculus, kronecker
from benchmark.core.declaration import Estimator
from benchmark.core.layers import Conv, GroupNorm
from benchmark.core.losses import LOSS_CURVATURES, LOSSES
from benchmark.core.models import mlp
from benchmark.core.problem import map_tensors
from benchmark.core.registry import registered
from benchmark.core.solvers import MATRICES, SOLVERS, System, lanczos, refuse_singular, solve
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train
from benchmark.running.evaluate import Failure, estimate

WHOLE: dict[str, tuple[dict[str, Any], float]] = {  # settings with which a solver finds the solution, and how near
    "direct": ({}, 1e-12),
    "cg": ({"iterations": 500}, 1e-9),
    "lissa": ({"depth": 1000, "batch": 12, "scale": 1.0}, 1e-9),
    "arnoldi": ({"rank": 1000, "iterations": 1000}, 1e-9),
    "nystrom": ({"rank": 1000}, 1e-9),
}
every_model = pytest.mark.parametrize("model", MODELS)
every_matrix = pytest.mark.parametrize("matrix", MATRICES)


@cache
def reference(model: str = "mlp", **changes: Any) -> Trajectory:
    return train(problem(MODELS[model], **changes))


def vectors(run: Trajectory, count: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, len(run.final), generator=random, dtype=torch.float64)


def gap(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@cache
def curvature(run: Trajectory, matrix: str) -> Tensor:
    """A (P, P) by autograd, without L2 term."""
    given, theta = run.problem, run.final
    model, (inputs, targets) = given.model, (given.train.inputs, given.train.targets)

    def losses(theta: Tensor) -> Tensor:
        return LOSSES[model.loss](model.outputs(theta, inputs), targets)

    if matrix == "hessian":
        return torch.autograd.functional.hessian(lambda theta: losses(theta).mean(), theta)
    if matrix == "fisher":
        each = torch.autograd.functional.jacobian(losses, theta)
        return each.T @ each / len(inputs)
    jacobian = torch.autograd.functional.jacobian(lambda theta: model.outputs(theta, inputs), theta)  # (N, C, P)
    moved = LOSS_CURVATURES[model.loss](model.outputs(theta, inputs), jacobian.mT).mT  # (N, C, P)
    return torch.einsum("ncp,ncq->pq", jacobian, moved) / len(inputs)


def damped(run: Trajectory, matrix: str, damping: float) -> Tensor:
    return curvature(run, matrix) + (damping + run.problem.weight_decay) * torch.eye(len(run.final), dtype=torch.float64)


@every_model
@every_matrix
def test_products_are_those_of_the_curvature_by_autograd(model: str, matrix: str) -> None:
    run = reference(model)
    system, asked = System(run, matrix, 0.1), vectors(run)

    assert gap(system.products(asked), asked @ curvature(run, matrix)) < 1e-10
    assert gap(system.explicit(), damped(run, matrix, 0.1)) < 1e-10
    some = torch.tensor([3, 5, 11])
    part = replace(run, problem=replace(run.problem, train=run.problem.train[some]))
    assert gap(system.products(asked, some), asked @ curvature(part, matrix)) < 1e-10


@every_model
@every_matrix
@pytest.mark.parametrize("solver", WHOLE)
def test_a_solver_equals_a_dense_solve(solver: str, matrix: str, model: str) -> None:
    settings, tolerance = WHOLE[solver]
    if (solver == "lissa" or (solver, matrix) == ("nystrom", "hessian")) and "cnn" in model:
        pytest.skip("its products take seconds here; the same code is tested on the other models")
    run = reference(model)
    lowest = float(torch.linalg.eigvalsh(damped(run, matrix, 0.0))[0])
    damping = 0.1 + max(0.0, -lowest)
    if (solver, matrix) == ("nystrom", "hessian") and lowest < run.problem.weight_decay:
        with pytest.raises(Unsolved, match="indefinite"):
            solve(System(run, matrix, damping), vectors(run), solver, **settings)
        return
    asked = vectors(run)
    if solver == "arnoldi":
        asked = asked @ curvature(run, matrix)  # its space holds one direction of all that have no curvature
    with calculus.counting() as count:
        found = solve(System(run, matrix, damping), asked, solver, **settings)

    expected = torch.linalg.solve(damped(run, matrix, damping), asked.T).T
    assert gap(found, expected) < tolerance
    assert count.notes["iterations"] >= 1
    if SOLVERS[solver].promise:
        assert count.notes["residual"] <= tolerance * 100
        assert count.notes["unconverged"] == 0


def layers_by_autograd(run: Trajectory, matrix: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each layer the moments of inputs and slopes that K-FAC multiplies, and gradients (N, D, outputs, inputs + 1)."""
    given, model = run.problem, run.problem.model
    parts, values = model.parts(run.final), given.train.inputs
    targets, outputs = given.train.targets, model.outputs(run.final, given.train.inputs)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return LOSSES[model.loss](output[None], target[None])[0]

    bend = torch.func.vmap(torch.func.hessian(loss))(outputs, targets)  # (N, C, C)
    sizes, axes = torch.linalg.eigh(bend)
    root = axes * sizes.clamp(min=0).sqrt()[:, None]
    along = root if matrix == "gauss-newton" else torch.func.vmap(torch.func.grad(loss))(outputs, targets)[..., None]
    jacobian = torch.autograd.functional.jacobian(lambda theta: model.outputs(theta, given.train.inputs), run.final)
    flat = along.mT @ jacobian  # (N, D, P)
    for depth, (layer, own) in enumerate(zip(model.layers, model.parts(flat), strict=True)):
        before, values = values, layer.apply(values, *parts[depth])
        if isinstance(layer, GroupNorm):
            gradients = torch.cat(own, dim=2)[..., None]
            yield torch.ones(1, 1).double(), torch.einsum("ndoi,ndpi->op", gradients, gradients) / len(targets), gradients
        elif own:
            gradients = torch.cat([own[0].flatten(3), own[1][..., None]], dim=3)
            places = before[:, None]
            if isinstance(layer, Conv):
                places = unfold(before.reshape(-1, *layer.image), layer.kernel, padding=layer.padding).mT
            places = torch.cat([places, torch.ones_like(places[..., :1])], dim=2)  # (N, L, inputs + 1)

            def rest(value: Tensor, depth: int = depth) -> Tensor:
                value = value[None]
                for after, parameters in zip(model.layers[depth + 1 :], parts[depth + 1 :], strict=True):
                    value = after.apply(value, *parameters)
                return value[0]

            slopes = along.mT @ torch.stack([torch.func.jacrev(rest)(value) for value in values])  # (N, D, features)
            slopes = slopes.view(*slopes.shape[:2], -1, places.shape[1])  # (N, D, outputs, L)
            moments = (
                torch.einsum("nli,nlj->ij", places, places) / places.shape[1],
                torch.einsum("ndol,ndpl->op", slopes, slopes),
            )
            yield moments[0] / len(targets), moments[1] / len(targets), gradients


def along_axes(inputs: Tensor, slopes: Tensor, gradients: Tensor) -> Tensor:
    """EK-FAC's matrix: mean squares of the gradients along the axes of K-FAC's."""
    p, q = torch.linalg.eigh(inputs)[1], torch.linalg.eigh(slopes)[1]
    squares = torch.einsum("ok,ndoi,il->ndkl", q, gradients, p).square().sum(1).mean(0)
    turns = torch.kron(q, p)
    return turns @ torch.diag(squares.flatten()) @ turns.T


@pytest.mark.parametrize("matrix", ["gauss-newton", "fisher"])
@pytest.mark.parametrize("solver", ["kfac", "ekfac"])
@pytest.mark.parametrize("samples", [12, 3])  # 3 are fewer than the features of a dense layer
@every_model
def test_kronecker_solvers_equal_dense_solves_of_the_matrix_they_stand_for(
    model: str, samples: int, solver: str, matrix: str
) -> None:
    run = reference(model, train=samples, batch=min(samples, 5))
    asked = vectors(run)
    found = solve(System(run, matrix, 0.05), asked, solver, share=0.1)

    parts = [kronecker.matrices(run.problem.model, rows) for rows in (asked, found)]
    for (inputs, slopes, gradients), v, x in zip(layers_by_autograd(run, matrix), *parts, strict=True):
        dense = torch.kron(slopes, inputs) if solver == "kfac" else along_axes(inputs, slopes, gradients)
        shift = 0.05 + run.problem.weight_decay + 0.1 * dense.diagonal().mean()
        expected = torch.linalg.solve(dense + shift * torch.eye(len(dense), dtype=torch.float64), v.flatten(1).T).T
        assert gap(x.flatten(1), expected) < 1e-9


@pytest.mark.parametrize("matrix", ["gauss-newton", "fisher"])
@every_model
def test_layers_seen_as_products_give_the_gradients_and_the_curvature(model: str, matrix: str) -> None:
    run = reference(model)
    (layers,) = kronecker.passes(run.problem, run.final, run.problem.train, matrix)
    flat = [layer.gradients() for layer in layers]  # of each layer (N, D, outputs, inputs + 1)
    rows = torch.stack([kronecker.vectors(run.problem.model, [part[:, d] for part in flat]) for d in range(flat[0].shape[1])])

    assert gap(torch.einsum("dnp,dnq->pq", rows, rows) / 12, curvature(run, matrix)) < 1e-12
    if matrix == "fisher":
        own = run.problem.gradients(run.final, run.problem.train) - run.problem.weight_decay * run.final
        assert gap(rows[0], own) < 1e-12


@every_model
def test_matrices_of_layers_and_flat_vectors_are_inverses(model: str) -> None:
    run = reference(model)
    asked = vectors(run)

    assert torch.equal(kronecker.vectors(run.problem.model, kronecker.matrices(run.problem.model, asked)), asked)


@pytest.mark.parametrize("model", ["mlp", "classes", "cnn-norm"])
def test_curvatures_along_ekfacs_axes_are_those_of_the_matrix_and_no_others_are_nearer(model: str) -> None:
    run = reference(model)
    rows = curvature(run, "gauss-newton")
    start = 0
    for plain, axes in zip(
        *(getattr(kronecker, name)(run.problem, run.final, "gauss-newton") for name in ("kfac", "ekfac")), strict=True
    ):
        size = axes.curvatures.numel()
        places = kronecker.matrices(run.problem.model, torch.arange(len(run.final))[None].double())
        block = next(part for part in places if part.min() == start).flatten().long()
        turns = torch.kron(axes.slopes.contiguous(), axes.inputs.contiguous())
        along = turns.T @ rows[block][:, block] @ turns
        assert gap(axes.curvatures.flatten(), along.diagonal()) < 1e-12
        off = [(torch.diag(one.curvatures.flatten()) - along).norm() for one in (plain, axes)]
        assert off[1] <= off[0] * (1 + 1e-12)
        start += size


@every_model
def test_kfac_is_the_product_of_the_mean_moments_of_inputs_and_those_of_slopes_summed_over_places(model: str) -> None:
    run = reference(model)
    (layers,) = kronecker.passes(run.problem, run.final, run.problem.train, "gauss-newton")
    for layer, axes in zip(layers, kronecker.kfac(run.problem, run.final, "gauss-newton"), strict=True):
        inputs = torch.einsum("bli,blj->ij", layer.inputs, layer.inputs) / (12 * layer.inputs.shape[1])
        slopes = torch.einsum("bdlo,bdlp->op", layer.slopes, layer.slopes) / 12
        turns = torch.kron(axes.slopes.contiguous(), axes.inputs.contiguous())
        assert gap(turns @ torch.diag(axes.curvatures.flatten()) @ turns.T, torch.kron(slopes, inputs)) < 1e-10


def test_kfac_is_exact_for_one_sample() -> None:
    """The Fisher matrix of one sample is one product, in each layer."""
    run = reference("mlp", train=1, batch=1)
    dense = curvature(run, "fisher")
    places = kronecker.matrices(run.problem.model, torch.arange(len(run.final))[None].double())
    for layer, place in zip(kronecker.kfac(run.problem, run.final, "fisher"), places, strict=True):
        block, turns = place.flatten().long(), torch.kron(layer.slopes.contiguous(), layer.inputs.contiguous())
        found = turns @ torch.diag(layer.curvatures.flatten()) @ turns.T
        assert gap(found, dense[block][:, block]) < 1e-12


@every_model
def test_datainf_is_the_mean_of_the_samples_inverses(model: str) -> None:
    run = reference(model)
    system, asked = System(run, "fisher", 0.05), vectors(reference(model))
    found = solve(system, asked, "datainf", share=0.1)

    parts = [kronecker.matrices(run.problem.model, rows) for rows in (system.gradients, asked, found)]
    for own, v, x in zip(*parts, strict=True):
        g = own.flatten(1)
        c = 0.05 + run.problem.weight_decay + 0.1 * (g**2).mean()
        inverses = torch.linalg.inv(g[:, :, None] * g[:, None] + c * torch.eye(g.shape[1], dtype=torch.float64))
        assert gap(x.flatten(1), v.flatten(1) @ inverses.mean(0)) < 1e-9


def test_lissa_with_batches_comes_near_and_says_how_near() -> None:
    run = reference("logistic", train=40)
    with calculus.counting() as count:
        found = solve(System(run, "gauss-newton", 0.5), vectors(run), "lissa", depth=400, batch=8, scale=4.0)
    expected = torch.linalg.solve(damped(run, "gauss-newton", 0.5), vectors(run).T).T

    assert 1e-6 < gap(found, expected) < 0.2
    residual = torch.linalg.vector_norm(found @ damped(run, "gauss-newton", 0.5) - vectors(run), dim=1)
    assert count.notes["residual"] == pytest.approx(float((residual / vectors(run).norm(dim=1)).max()), rel=1e-9)


def test_a_solver_that_stops_at_its_limit_says_so() -> None:
    run = reference()
    with calculus.counting() as count:
        solve(System(run, "gauss-newton", 1e-4), vectors(run), "cg", iterations=3)

    assert count.notes["unconverged"] == 1
    assert count.notes["iterations"] == 3
    assert count.notes["residual"] > 1e-9


# ---- what is refused -------------------------------------------------------------------------------------------------
def test_a_singular_matrix_without_damping_is_refused() -> None:
    run = reference("mlp", weight_decay=0.0)

    with pytest.raises(Unsolved, match=r"singular, eigenvalues .* add damping"):
        solve(System(run, "gauss-newton", 0.0), vectors(run), "direct")
    with pytest.raises(Unsolved, match="singular: add damping"):
        solve(System(run, "gauss-newton", 0.0), vectors(run), "nystrom", rank=5)


def test_an_indefinite_matrix_is_refused_without_damping_and_by_conjugate_gradients() -> None:
    with pytest.raises(Unsolved, match="indefinite"):
        refuse_singular(torch.diag(torch.tensor([-1.0, 1.0, 2.0])))
    run = reference("mlp", weight_decay=0.0)
    assert float(torch.linalg.eigvalsh(curvature(run, "hessian"))[0]) < -1e-3

    with pytest.raises(Unsolved, match="indefinite"):
        solve(System(run, "hessian", 0.0), vectors(run), "direct")
    with pytest.raises(Unsolved, match=r"indefinite, .* raise damping or take gauss-newton"):
        solve(System(run, "hessian", 1e-6), vectors(run), "cg", iterations=500)


def test_a_solver_that_diverges_says_its_residual() -> None:
    run = reference()

    with pytest.raises(Unsolved, match=r"lissa diverged: residual \d.*e\+\d+"):
        solve(System(run, "gauss-newton", 0.1), vectors(run), "lissa", depth=20, batch=12, scale=0.1)


def test_an_estimator_that_is_not_solved_is_a_typed_failure_with_the_residual() -> None:
    function = registered()["if-lissa"].function
    settings = {**registered()["if-lissa"].settings, "scale": 0.1}
    broken = Estimator("mine", function, settings, "none", "none")

    with pytest.raises(Failure, match=r"mine: lissa diverged: residual") as failure:
        estimate(broken, reference().until(9))
    assert failure.value.status == "unsolved"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "ekfak"}, "unknown solver 'ekfak': did you mean ekfac"),
        ({"matrix": "fischer"}, "unknown curvature 'fischer': did you mean fisher"),
        ({"damping": -1.0}, "damping must be 0 or more, got -1.0"),
        ({"damping": float("nan")}, "damping must be 0 or more, got nan"),
        ({"solver": "kfac", "matrix": "hessian", "share": 0.1}, "solver kfac is for gauss-newton and fisher, got hessian"),
    ],
)
def test_what_there_is_not_is_refused(change: dict[str, Any], message: str) -> None:
    asked = {"solver": "direct", "matrix": "gauss-newton", "damping": 0.1, **change}
    with pytest.raises(LoobenchError, match=message):
        registered()["if-direct"].function(reference(), **asked)


def test_lanczos_in_no_more_steps_than_parameters() -> None:
    assert lanczos(lambda rows: rows * torch.arange(1.0, 8).double(), torch.ones(2, 7).double(), 100)[0].shape == (2, 7, 7)


def test_vectors_of_any_size_are_solved_alike() -> None:
    run = reference("mlp")
    single = map_tensors(run, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
    asked = vectors(run).float()
    sizes = torch.tensor([1.0, 1e-22, 0.0])[:, None]
    for solver, settings in (("cg", {"iterations": 500}), ("direct", {})):
        system = System(single, "gauss-newton", 0.03)
        found, plain = solve(system, sizes * asked, solver, **settings), solve(system, asked, solver, **settings)
        assert gap(found[0], plain[0]) < 1e-5
        assert gap(found[1] / 1e-22, plain[1]) < 1e-3
        assert not found[2].any()


@pytest.mark.parametrize(
    ("solver", "setting"), [("lissa", "batch"), ("lissa", "depth"), ("cg", "iterations"), ("nystrom", "rank")]
)
def test_a_count_below_one_is_refused(solver: str, setting: str) -> None:
    settings = {**WHOLE[solver][0], setting: 0}
    with pytest.raises(LoobenchError, match=f"{setting} of solver {solver} must be 1 or more, got 0"):
        solve(System(reference(), "gauss-newton", 0.1), vectors(reference()), solver, **settings)


def test_a_pole_of_the_krylov_space_is_refused() -> None:
    run = reference("mlp", weight_decay=0.0)
    low = float(torch.linalg.eigvalsh(curvature(run, "hessian"))[0])
    with pytest.raises(Unsolved, match=r"singular, .* left in a direction"):
        solve(System(run, "hessian", -low), vectors(run), "arnoldi", rank=1000, iterations=1000)


@pytest.mark.parametrize("solver", ["kfac", "ekfac", "datainf"])
def test_a_layer_without_gradients_or_damping_is_refused(solver: str) -> None:
    run = train(problem(mlp((5, 4, 1), "relu"), weight_decay=0.0))
    dead = run.states.clone()
    dead[-1, 0, 20:24] = -1e3  # biases of the hidden layer
    with pytest.raises(Unsolved, match="add damping"):
        solve(System(replace(run, states=dead), "fisher", 0.0), vectors(run), solver, share=0.1)
