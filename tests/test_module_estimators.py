"""Estimators on torch.nn modules: which answer, which say why not, and that what they are given is right."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from cases import here
from nets import NETS, module, net_problem
from torch import Tensor, nn

from benchmark.base.errors import LoobenchError
from benchmark.core import calculus
from benchmark.core import modules as as_torch
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.core.wrapped import Module, Shapes
from benchmark.retraining.train import train
from benchmark.running.evaluate import Failure, estimate

CALLED = registered()
NO_ROOT = "the loss token-cross-entropy has no root of its curvature written out: use the matrix fisher"
NO_CLASS = "is for classifier models, the task's is a torch.nn.Module with token-cross-entropy"
ON_TOKENS = {  # what cannot answer on a causal transformer, and what it says
    **dict.fromkeys(("if-kfac", "if-ekfac", "if-direct-gauss-newton", "if-direct-exact"), ("unsolved", NO_ROOT)),
    **dict.fromkeys(("newton-loo", "newton-loo-exact", "relatif", "relatif-loss"), ("unsolved", NO_ROOT)),
    **dict.fromkeys(("forgetting", "trak", "trak-5", "knn-shapley", "knn-shapley-inputs"), ("unsupported", NO_CLASS)),
    "lava": ("unsupported", NO_CLASS),
    "amortised": ("unsolved", "inputs must be numbers that have distances, got tokens"),
    "representer": ("unsolved", "what goes into the last layer must be of a sample"),
}


@cache
def reference(name: str) -> Trajectory:
    given = net_problem(name, epochs=1)
    return train(replace(given, horizons=(given.steps,)))


@pytest.mark.parametrize("name", ON_TOKENS)
def test_what_cannot_answer_on_a_loss_over_tokens_says_why(name: str) -> None:
    status, reason = ON_TOKENS[name]
    with pytest.raises(Failure, match=reason) as failure:
        estimate(CALLED[name], reference("causal"))
    assert failure.value.status == status


@pytest.mark.parametrize(
    "name", ["el2n", "grand", "outlier-gradient", "outlier-gradient-l2", "if-datainf", "if-ekfac-fisher", "logra", "if-cg"]
)
def test_what_needs_no_classes_answers_on_a_loss_over_tokens(name: str) -> None:
    assert estimate(CALLED[name], reference("causal")).effect.isfinite().all()


def test_el2n_over_tokens_is_the_norm_of_the_slopes_of_all_of_them() -> None:
    run = reference("causal").until(2)
    train, expected = run.problem.train, []
    for x, y in zip(train.inputs, train.targets, strict=True):
        outputs = run.problem.model.outputs(run.params(1), x[None])[0].requires_grad_()
        loss = torch.nn.functional.cross_entropy(outputs, y)
        expected.append(torch.autograd.grad(loss, outputs)[0].norm())

    found = estimate(CALLED["el2n"], run).effect[0, :, 0]
    assert torch.allclose(found, torch.stack(expected), rtol=1e-12, atol=0)


def test_the_last_layer_s_gradients_are_those_of_the_last_layer() -> None:
    run = reference("encoder")
    own = run.problem.gradients(run.final, run.problem.train) - run.problem.weight_decay * run.final
    size = sum(shape.numel() for name, shape in run.problem.model.shapes.items() if name.startswith("head."))

    found = estimate(CALLED["outlier-gradient-l2"], run).effect[0, :, 0]
    assert torch.allclose(found, -own[:, -size:].norm(dim=1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["knn-shapley-inputs", "lava"])
def test_distances_between_images_are_those_of_their_pixels_in_a_row(name: str) -> None:
    run = reference("resnet")
    model = run.problem.model
    rows = Module(as_torch.module(model, run.final), model.loss, one=Shapes((192,), model.one.outputs))
    flat = {
        part: replace(getattr(run.problem, part), inputs=getattr(run.problem, part).inputs.flatten(1))
        for part in ("train", "query")
    }
    other = replace(run, problem=replace(run.problem, model=rows, **flat))

    assert torch.equal(estimate(CALLED[name], run).effect, estimate(CALLED[name], other).effect)


# ---- derivatives -----------------------------------------------------------------------------------------------------
class Functional(torch.nn.Module):
    """A normalisation called as a function, with and without keywords."""

    def __init__(self, *, keywords: bool) -> None:
        super().__init__()
        self.keywords = keywords
        self.first = torch.nn.Linear(5, 4)
        self.scale = torch.nn.Parameter(torch.linspace(0.5, 2, 4))
        self.shift = torch.nn.Parameter(torch.linspace(-1, 1, 4))

    def forward(self, values: Tensor) -> Tensor:
        """(B, 5) -> (B, 4)"""
        values, norm = torch.tanh(self.first(values)), torch.nn.functional.layer_norm
        if self.keywords:
            return norm(values, (4,), weight=self.scale, bias=self.shift, eps=1e-3)
        return norm(values, (4,), self.scale, self.shift, 1e-3)


@pytest.mark.parametrize("name", [*NETS, "positional", "keywords"])
def test_a_derivative_forward_through_mapped_gradients_is_that_of_gradients_one_by_one(name: str) -> None:
    """Torch's own layer normalisation has a wrong one."""
    if name in NETS:
        model, inputs, targets = module(name), *vars(net_problem(name).train).values()
    else:
        model = Module(Functional(keywords=name == "keywords").double(), "cross-entropy", one=Shapes((5,), (4,)))
        reused = net_problem("reused").train
        inputs, targets = reused.inputs, reused.targets
    random = torch.Generator().manual_seed(0)
    theta, along = torch.randn(2, model.parameters, generator=random, dtype=torch.float64) / 3

    def gradient(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return calculus.gradient(lambda theta: model.losses(theta, x[None], y[None])[0])(theta)

    each = calculus.many(gradient, over=(None, 0, 0))
    found = calculus.push(lambda theta: each(theta, inputs, targets), (theta,), (along,))[1]
    expected = [
        torch.autograd.functional.vhp(lambda theta, x=x, y=y: model.losses(theta, x[None], y[None])[0], theta, along)[1]
        for x, y in zip(inputs, targets, strict=True)
    ]
    assert torch.allclose(found, torch.stack(expected), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["positional", "keywords"])
def test_normalisation_taken_apart_has_torch_s_own_outputs(name: str) -> None:
    net = Functional(keywords=name == "keywords").double()
    model = Module(net, "cross-entropy")
    inputs = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta = torch.cat([part.detach().flatten() for part in net.parameters()])

    for _ in range(2):  # the first call is when it is seen whether there is any
        assert torch.allclose(model.outputs(theta, inputs), net(inputs), rtol=1e-12, atol=1e-12)


def test_a_padding_row_that_is_not_0_is_refused() -> None:
    net = torch.nn.Sequential(torch.nn.Embedding(3, 2, padding_idx=1), torch.nn.Flatten())
    assert Module(net, "cross-entropy").parameters == 6
    with torch.no_grad():
        net[0].weight[1] = 1.0

    with pytest.raises(LoobenchError, match="row of its padding_idx must be 0"):
        Module(net, "cross-entropy")


# ---- other libraries -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "net", "reason"),
    [
        (
            "kronfluence/ekfac",
            "encoder",
            "sees an nn.Linear where it is called, not those of the model's nn.MultiheadAttention",
        ),
        ("dattri/if-ekfac", "encoder", "sees an nn.Linear where it is called"),
        ("kronfluence/kfac", "causal", "draws labels from the model's distribution, which is known for one class or value"),
        ("dattri/if-cg", "causal", "is called with one target for each sample, the task has several"),
        ("dattri/trak", "causal", NO_CLASS),
        ("pydvl/ekfac", "encoder", "is for dense classifier models"),
    ],
)
def test_an_adapter_that_cannot_take_a_module_says_why(name: str, net: str, reason: str) -> None:
    assert reason in str(CALLED[name].unsupported(reference(net).problem))


@pytest.mark.parametrize("net", ["encoder", "frozen", "tied", "resnet", "gru"])
def test_the_module_that_a_library_gets_has_the_trained_parameters_alone_and_takes_rows_of_real_numbers(net: str) -> None:
    run = reference(net)
    whole, train = as_torch.module(run.problem.model, run.final), run.problem.train
    rows = train.inputs.flatten(1).double()

    assert torch.equal(as_torch.flat(whole), run.final)
    assert torch.equal(whole(rows), whole(train.inputs))
    assert torch.allclose(whole(rows), run.problem.model.outputs(run.final, train.inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("net", ["encoder", "frozen", "resnet"])
@pytest.mark.parametrize("name", [here("dattri/if-explicit"), here("pydvl/direct")])
def test_a_library_s_influence_functions_on_a_module_are_ours(name: str, net: str) -> None:
    run = reference(net)
    ours = CALLED["if-direct-damped"].function(run, solver="direct", matrix="hessian", damping=1.0)
    found = CALLED[name].function(run, damping=1.0)

    assert float((found - ours).abs().max()) <= 1e-10 * float(ours.abs().max())


@pytest.mark.parametrize("net", ["encoder", "frozen", "gru"])
@pytest.mark.parametrize("name", [here("dattri/dvemb")])
def test_a_library_s_dvemb_on_a_module_is_ours(name: str, net: str) -> None:
    run = reference(net)
    found, ours = CALLED[name](run), CALLED["dvemb"](run)

    assert float((found - ours).abs().max()) <= 1e-10 * float(ours.abs().max())


def test_representer_points_of_a_loss_of_ones_own_are_those_of_the_same_loss_by_name() -> None:
    named = net_problem("encoder", epochs=1)
    written = Module(named.model.net, nn.CrossEntropyLoss(reduction="none"), one=named.model.one)
    answers = [
        estimate(CALLED["representer"], train(replace(named, model=model, horizons=(named.steps,)))).effect
        for model in (named.model, written)
    ]

    assert torch.allclose(*answers, rtol=1e-6, atol=1e-9 * float(answers[0].abs().max()))
