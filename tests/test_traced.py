"""Layers of torch.nn modules as products, against autograd and against our own networks."""

from dataclasses import replace

import pytest
import torch
from cases import MODELS, problem
from nets import NETS, net_problem
from torch import Tensor

from benchmark.base.errors import Unsolved
from benchmark.core import kronecker, traced
from benchmark.core.modules import module
from benchmark.core.problem import Problem
from benchmark.core.solvers import System, solve
from benchmark.core.trajectory import Trajectory
from benchmark.core.wrapped import Module, Shapes
from benchmark.retraining.train import train

every_net = pytest.mark.parametrize("name", NETS)


def gap(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def at_start(given: Problem) -> Trajectory:
    """The last state of a run of no steps."""
    return Trajectory(replace(given, batches=given.batches[:0]), given.start()[None])


def wrapped(given: Problem) -> Problem:
    """The problem of the same network as a torch.nn module."""
    model = Module(
        module(given.model, given.initial), given.model.loss, one=Shapes((given.model.inputs,), (given.model.classes,))
    )
    return replace(given, model=model)


def by_torch(given: Problem, theta: Tensor) -> Tensor:
    """Gradients (N, P) of each sample's loss without L2 term, by a module of torch and one backward pass for each."""
    net, rows = given.model.at(theta), []
    for x, y in zip(given.train.inputs, given.train.targets, strict=True):
        outputs = net(x[None])[0]
        loss = torch.nn.functional.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), y.reshape(-1))
        parts = [part for part in net.parameters() if part.requires_grad]
        found = torch.autograd.grad(loss, parts, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in found]))
    return torch.stack(rows)


@every_net
def test_layers_of_a_module_give_the_gradients_that_autograd_gives(name: str) -> None:
    run = at_start(net_problem(name))
    passes = kronecker.passes(run.problem, run.final, run.problem.train, "fisher")
    found = [kronecker.vectors(run.problem.model, [layer.gradients()[:, 0] for layer in layers]) for layers in passes]

    assert gap(torch.cat(found), by_torch(run.problem, run.final)) < 1e-10


@pytest.mark.parametrize("name", [name for name in NETS if NETS[name][1] == "cross-entropy"])
def test_layers_of_a_module_give_its_gauss_newton_matrix(name: str) -> None:
    run = at_start(net_problem(name))
    model, inputs = run.problem.model, run.problem.train.inputs
    (layers,) = kronecker.passes(run.problem, run.final, run.problem.train, "gauss-newton")
    columns = [
        kronecker.vectors(model, [layer.gradients()[:, d] for layer in layers]) for d in range(layers[0].slopes.shape[1])
    ]
    jacobian = torch.autograd.functional.jacobian(lambda theta: model.outputs(theta, inputs), run.final)  # (N, C, P)
    chances = model.outputs(run.final, inputs).softmax(-1)
    bend = torch.diag_embed(chances) - chances[:, :, None] * chances[:, None]

    rows = torch.cat(columns)
    assert gap(rows.T @ rows, torch.einsum("ncp,nce,neq->pq", jacobian, bend, jacobian)) < 1e-10


def test_what_is_a_product_is_found_wherever_it_is_called() -> None:
    kinds = {}
    for name in ("encoder", "resnet", "tied", "gru", "frozen", "reused"):
        given = net_problem(name)
        seen = traced.Traced(given.model, given.initial, given.train.inputs[0])
        kinds[name] = {block.names[0]: number in seen.products for number, block in enumerate(seen.blocks)}
        assert [part for block in seen.blocks for part in block.names] == list(given.model.shapes)

    attention = "encoder.layers.0.self_attn."
    assert all(kinds["encoder"][f"{attention}{part}.weight"] for part in ("out_proj",))
    assert kinds["encoder"][f"{attention}in_proj_weight"]
    assert kinds["encoder"]["embed.weight"]
    assert not kinds["encoder"]["positions"]
    assert not kinds["encoder"]["encoder.layers.0.norm1.weight"]
    assert [name for name, product in kinds["resnet"].items() if product] == ["first.weight", "inner.0.weight", "head.weight"]
    assert not kinds["tied"]["embed.weight"]  # of two layers
    assert not kinds["gru"]["gru.weight_ih_l0"]
    assert kinds["gru"]["embed.weight"]
    assert not net_problem("gru").train.inputs[0].all()  # the token whose row is not trained is among those tried
    assert kinds["frozen"]["head.weight"]
    assert kinds["reused"] == {"twice.weight": True, "mixed.weight": False, "never.weight": False, "head.weight": True}


@every_net
def test_matrices_of_a_module_s_layers_and_flat_vectors_are_inverses(name: str) -> None:
    model = net_problem(name).model
    asked = torch.randn(3, model.parameters, generator=torch.Generator().manual_seed(0))

    assert torch.equal(kronecker.vectors(model, kronecker.matrices(model, asked)), asked)


@pytest.mark.parametrize("matrix", ["gauss-newton", "fisher"])
@pytest.mark.parametrize("solver", ["kfac", "ekfac"])
@pytest.mark.parametrize("samples", [12, 3])
@pytest.mark.parametrize("name", ["mlp", "classes", "regression", "cnn", "cnn-norm"])
def test_kronecker_solvers_on_a_module_equal_those_on_the_same_network(
    name: str, samples: int, solver: str, matrix: str
) -> None:
    run = train(problem(MODELS[name], train=samples, batch=3))
    asked = torch.randn(3, len(run.final), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, expected = (
        solve(System(one, matrix, 0.05), asked, solver, share=0.1) for one in (replace(run, problem=wrapped(run.problem)), run)
    )

    assert gap(found, expected) < 1e-10


@pytest.mark.parametrize("name", ["reused", "causal"])
def test_kfac_sums_over_places_and_directions_and_takes_the_mean_of_inputs(name: str) -> None:
    """A layer called twice, and tokens, as if they were places; a layer that is no product has the unit matrix for inputs."""
    run = at_start(net_problem(name))
    gradients = by_torch(run.problem, run.final)
    where = kronecker.matrices(run.problem.model, torch.arange(len(run.final))[None].double())
    seen = traced.Traced(run.problem.model, run.final, run.problem.train.inputs[0])
    axes = kronecker.kfac(run.problem, run.final, "fisher")
    for number, (block, layer, place) in enumerate(zip(seen.blocks, axes, where, strict=True)):
        own = gradients[:, place[0].long()]  # (N, outputs, inputs + 1)
        total = torch.kron(layer.slopes.contiguous(), layer.inputs.contiguous())
        total = total @ torch.diag(layer.curvatures.flatten()) @ total.T
        if block.kind == "whole":
            assert gap(total, torch.einsum("nop,noq->pq", own, own) / len(own)) < 1e-10
        elif number not in seen.products and own.any():
            slopes = torch.einsum("noi,npi->op", own, own) / len(own)
            assert gap(total, torch.kron(slopes, torch.eye(own.shape[2]).double() / own.shape[2])) < 1e-10
        elif block.names[0] == "head.weight" and name == "causal":
            assert gap(total, _head(run)) < 1e-10


def _head(run: Trajectory) -> Tensor:
    """``S (x) A`` of a last layer without bias over tokens, from its inputs and the slopes of the mean of token losses."""
    model, train = run.problem.model, run.problem.train
    net, seen = model.at(run.final), []
    net.head.register_forward_pre_hook(lambda _layer, given: seen.append(given[0].detach()))
    net(train.inputs)
    (inputs,) = seen
    outputs = model.outputs(run.final, train.inputs)
    slopes = (outputs.softmax(-1) - torch.nn.functional.one_hot(train.targets, outputs.shape[-1])) / train.inputs.shape[1]
    moments = torch.einsum("bli,blj->ij", inputs, inputs) / inputs.shape[:2].numel()
    return torch.kron(torch.einsum("blo,blp->op", slopes, slopes) / len(train), moments)


@pytest.mark.parametrize("blocks", [1, 5, 256])
def test_so_many_samples_at_once_as_memory_allows_change_nothing(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = at_start(net_problem("encoder"))
    asked = torch.randn(2, len(run.final), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = solve(System(run, "gauss-newton", 0.05), asked, "ekfac", share=0.1)
    monkeypatch.setattr(kronecker, "SAMPLES", blocks)

    assert gap(solve(System(run, "gauss-newton", 0.05), asked, "ekfac", share=0.1), expected) < 1e-10


def test_a_loss_over_tokens_has_no_root_and_says_so_and_its_fisher_matrix_is_there() -> None:
    run = at_start(net_problem("causal"))
    asked = torch.ones(1, len(run.final), dtype=torch.float64)
    for solver in ("kfac", "ekfac"):
        with pytest.raises(Unsolved, match=r"token-cross-entropy has no root .*: use the matrix fisher"):
            solve(System(run, "gauss-newton", 0.1), asked, solver, share=0.1)
        assert solve(System(run, "fisher", 0.1), asked, solver, share=0.1).isfinite().all()


def test_a_layer_too_wide_for_a_matrix_of_its_inputs_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kronecker, "WIDEST", 100)
    run = at_start(net_problem("gru", train=400))
    with pytest.raises(Unsolved, match=r"K-FAC takes layers of at most 100 inputs.*, got 165: take another solver"):
        kronecker.kfac(run.problem, run.final, "fisher")
