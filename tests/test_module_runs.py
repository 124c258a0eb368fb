"""The derivative of a whole run in a sample's weight, for torch.nn modules: against the run itself, forward and backward."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from nets import net_problem
from torch import Tensor

from benchmark.core.optimizers import Adam, Optimizer, Sgd
from benchmark.core.problem import Problem, clipping
from benchmark.core.registry import registered
from benchmark.core.sweep import backward
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.shifts import ACC, SGD_IE, Rule, carry, effects
from benchmark.retraining.train import left_out, train

ADAM = Adam(0.02, eps=0.01)  # smooth near a gradient of 0
NETS = ("encoder", "causal", "resnet", "gru", "tied", "frozen")
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Sgd(0.2),
    "momentum": Sgd(0.1, momentum=0.9),
    "adam": ADAM,
    "adamw": replace(ADAM, decay=0.1),
}
CLIPS = {"encoder": 0.6, "resnet": 1.8, "tied": 2.6}  # norms that some gradients of a run are above, and some are not


@cache
def reference(name: str, optimizer: str, *, clip: bool = False) -> Trajectory:
    """Two epochs of three steps, the last of them short, and one horizon."""
    given = net_problem(name, OPTIMIZERS[optimizer], epochs=2, clip=CLIPS[name] if clip else None)
    return train(replace(given, horizons=(given.steps,)))


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def by_torch(given: Problem, keep: Tensor) -> Tensor:
    """Query losses (Q,) after a loop of its own over a module of torch, with parts (N,) of the samples' weights."""
    net = given.model.at(given.initial)
    optimizer = _optimizer(given, net)
    for t in range(given.steps):
        rows = given.batch(t)
        outputs = net(given.train.inputs[rows])
        penalty = given.weight_decay / 2 * sum((part**2).sum() for part in net.parameters())
        losses = _losses(outputs, given.train.targets[rows]) + penalty
        optimizer.zero_grad()
        torch.autograd.backward((losses * keep[rows] / len(rows)).sum())
        if given.clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), given.clip)
        optimizer.step()
    with torch.no_grad():
        return _losses(net(given.query.inputs), given.query.targets)


def _optimizer(given: Problem, net: torch.nn.Module) -> torch.optim.Optimizer:
    match given.optimizer:
        case Sgd(lr, momentum):
            return torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
        case Adam(lr, beta1, beta2, eps, decay):
            return torch.optim.AdamW(net.parameters(), lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay)
    raise NotImplementedError


def _losses(outputs: Tensor, targets: Tensor) -> Tensor:
    each = torch.nn.functional.cross_entropy(outputs.movedim(-1, 1), targets, reduction="none")
    return each if each.ndim == 1 else each.mean(1)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_estimator_is_the_finite_difference_of_a_plain_loop_in_a_sample_s_weight(name: str, optimizer: str) -> None:
    run = reference(name, optimizer)
    estimator = registered()["sgd-ie" if optimizer == "sgd" else "adam-ie"]
    for sample in (0, 7):
        close(estimator(run)[sample], differences(run.problem, sample), 1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_is_so_for_clipped_gradients_too(optimizer: str) -> None:
    run = reference("encoder", optimizer, clip=True)
    assert 0 < clipped_steps(run) < run.problem.steps

    close(backward(run)[3], differences(run.problem, 3), 1e-6)


def differences(given: Problem, sample: int, step: float = 2e-4) -> Tensor:
    """Minus the derivative (Q,) of the query losses in a part of a sample's weight, by differences of sixth order."""
    one = torch.zeros(len(given.train), dtype=torch.float64)
    one[sample] = step
    weights = ((1, 45), (2, -9), (3, 1))
    return -sum(factor * (by_torch(given, 1 + k * one) - by_torch(given, 1 - k * one)) for k, factor in weights) / (60 * step)


def clipped_steps(run: Trajectory) -> int:
    """Steps whose gradient is above the norm."""
    problem, found = run.problem, 0
    for t in range(problem.steps):
        gradient = problem.gradients(run.params(t), problem.train[problem.batch(t)]).mean(0)
        found += bool(clipping(gradient, problem.clip) < 1)
    return found


@pytest.mark.parametrize("clip", [False, True], ids=["plain", "clipped"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", CLIPS)
def test_forward_is_backward(name: str, optimizer: str, clip: bool) -> None:
    run = reference(name, optimizer, clip=clip)
    assert not clip or 0 < clipped_steps(run) < run.problem.steps
    close(effects(run, SGD_IE, "linear")[-1], backward(run), 1e-10)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("own", ["curvature", "exact"])
def test_a_shift_under_clipping_is_the_step_itself_to_first_order(optimizer: str, own: str) -> None:
    """Of a sample whose weight is lessened a little all rules give the same shift, half as far from it where half as much."""
    run = reference("encoder", optimizer, clip=True)
    sizes = (1e-3, 5e-4)
    for exact_map in (False, True):
        gaps = []
        for size in sizes:
            keep = torch.ones(1, 12, dtype=torch.float64)
            keep[0, 3] -= size
            truth = walked(run.problem, keep[0]) - run.final
            gaps.append(float((carry(run, keep, Rule(own, exact_map))[-1, 0] - truth).norm() / truth.norm()))
        assert gaps[0] < 2e-2
        assert gaps[1] < 0.6 * gaps[0]


def walked(given: Problem, keep: Tensor) -> Tensor:
    """Parameters (P,) after a loop of the problem's own step."""
    state = given.start()
    for t in range(given.steps):
        state = given.step(t, state, keep[given.batch(t)] * given.weights(t))
    return state[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_first_step_without_a_sample_is_exact_where_the_clipped_map_is(optimizer: str) -> None:
    """There nothing has moved yet, so that its gradient is known; both maps, clipping included, are the step's own."""
    given = net_problem("encoder", OPTIMIZERS[optimizer], epochs=1, clip=0.6)
    run = train(replace(given, horizons=(1,), batches=given.batches[:1]))
    keep = left_out(run.problem)[:-1]
    expected = torch.stack([walked(run.problem, mask.double()) - run.final for mask in keep])
    for rule in (ACC, Rule("curvature", exact_map=True), Rule("exact"), Rule("exact", exact_map=True)):
        close(carry(run, keep, rule)[-1], expected, 1e-10)
