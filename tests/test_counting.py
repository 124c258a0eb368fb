"""What passes through autograd is counted, or is said not to be."""

import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import every_estimator, problem, supported_by
from torch import Tensor

from benchmark.core import calculus, registry
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train
from benchmark.running.evaluate import estimate

HEAD = """
import threading
import torch
from benchmark.estimating import calculus, estimator

def losses(theta, p):
    return p.losses(theta, p.train)

@estimator("mine", paper="made up for a test")
def mine(run):
    p, theta = run.problem, run.final
    answer = torch.arange(float(len(p.train)), dtype=theta.dtype)[:, None].expand(-1, p.queries)
"""
PAST = {  # derivatives that nobody announces
    "backward": "at = theta.clone().requires_grad_(); losses(at, p).mean().backward()",
    "autograd.grad": "at = theta.clone().requires_grad_(); torch.autograd.grad(losses(at, p).sum(), at)",
    "autograd.backward": "at = theta.clone().requires_grad_(); torch.autograd.backward(losses(at, p).sum())",
    "autograd.functional": "torch.autograd.functional.jacobian(lambda at: losses(at, p), theta)",
    "func.grad": "torch.func.grad(lambda at: losses(at, p).mean())(theta)",
    "func.vmap of grad": "torch.func.vmap(torch.func.grad(lambda at: losses(at, p).mean()))(theta.expand(3, -1))",
    "func.vjp": "torch.func.vjp(lambda at: losses(at, p), theta)[1](torch.ones(len(p.train), dtype=theta.dtype))",
    "func.jvp": "torch.func.jvp(lambda at: losses(at, p), (theta,), (theta,))",
    "func.jacrev": "torch.func.jacrev(lambda at: losses(at, p))(theta)",
    "func.jacfwd": "torch.func.jacfwd(lambda at: losses(at, p))(theta)",
    "func.hessian": "torch.func.hessian(lambda at: losses(at, p).mean())(theta)",
    "forward_ad": "import torch.autograd.forward_ad as f\nwith f.dual_level():\n    losses(f.make_dual(theta, theta), p)",
    "our own calculus": "calculus.gradient(lambda at: losses(at, p).mean())(theta)",
    "another thread": (
        "at = theta.clone().requires_grad_()\nt = threading.Thread(target=losses(at, p).sum().backward); t.start(); t.join()"
    ),
    "an optimiser's closure": (
        "at = theta.clone().requires_grad_()\n"
        "def closure():\n    loss = losses(at, p).mean(); loss.backward(); return loss\n"
        "torch.optim.LBFGS([at], max_iter=2).step(closure)"
    ),
}
HONEST = {
    "problem.gradients": ("p.gradients(theta, p.train)", 12, 0),
    "gradients in another thread": (
        "t = threading.Thread(target=p.gradients, args=(theta, p.train)); t.start(); t.join()",
        12,
        0,
    ),
    "problem.step": ("p.step(0, run.states[0], p.weights(0))", 5, 0),
    "a derivative that is announced": (
        "calculus.count(gradients=len(p.train)); calculus.gradient(lambda at: losses(at, p).mean())(theta)",
        12,
        0,
    ),
    "a product of counted gradients": (
        "torch.func.vmap(lambda v: p.gradients(theta, p.train) @ v)(theta.expand(2, -1))",
        12,
        0,
    ),
}


@pytest.fixture(scope="module")
def run() -> Trajectory:
    whole = train(problem())
    return whole.until(whole.problem.steps)


def counted(body: str, run: Trajectory, folder: Path) -> calculus.Count:
    at = folder / "mine.py"
    lines = "\n".join(body.replace("\n", "\n").splitlines())
    at.write_text(HEAD + textwrap.indent(lines, "    ") + "\n    return answer\n")
    return estimate(registry.load(at)["mine"], run).count


@pytest.mark.parametrize("door", PAST)
def test_a_derivative_that_nobody_announces_is_noted(door: str, run: Trajectory, tmp_path: Path) -> None:
    found = counted(PAST[door], run, tmp_path)

    assert found.gradients == found.hessian_products == 0
    assert found.notes["uncounted"] >= 1


@pytest.mark.parametrize("door", HONEST)
def test_what_is_announced_is_counted_and_not_noted(door: str, run: Trajectory, tmp_path: Path) -> None:
    body, gradients, products = HONEST[door]
    found = counted(body, run, tmp_path)

    assert (found.gradients, found.hessian_products, found.notes) == (gradients, products, {})


@every_estimator
def test_what_the_repository_s_own_estimators_do_is_announced(name: str) -> None:
    if "/" in name:
        pytest.skip("another library's code does not count")
    variant = registered()[name]

    assert "uncounted" not in estimate(variant, train(supported_by(variant))).count.notes


def test_torch_is_as_it_was_after_the_count() -> None:
    def doors() -> tuple[object, object]:
        return torch.autograd.Variable._execution_engine, torch.autograd.forward_ad.make_dual  # type: ignore[attr-defined]

    before = doors()
    with calculus.counting(), calculus.counting():
        inside = doors()

    assert doors() == before
    assert not {*map(id, inside)} & {*map(id, before)}


def test_every_count_under_way_sees_all_of_it() -> None:
    def act(function: Callable[[], object]) -> Tensor:
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()
        return torch.ones(1)

    with calculus.counting() as outer:
        calculus.count(gradients=1)
        with calculus.counting() as inner:
            act(lambda: calculus.count(gradients=2, hessian_products=3))

    assert (outer.gradients, outer.hessian_products) == (3, 3)
    assert (inner.gradients, inner.hessian_products) == (2, 3)
