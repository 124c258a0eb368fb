"""What the engine is held against: the training step mapped over runs, and the loop that a user would write."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.core.layers import Activation, Conv, Dense, GroupNorm, MaxPool
from benchmark.core.optimizers import Adam
from benchmark.core.problem import Problem
from benchmark.core.wrapped import Module


def mapped(problem: Problem, keep: Tensor) -> Tensor:
    """The step of the problem mapped over runs by `vmap`, one step after another. (R, N) -> (R, P)"""
    states = problem.start().expand(len(keep), -1, -1)
    for t in range(problem.steps):
        weights = keep[:, problem.batch(t)] * problem.weights(t)
        states = torch.func.vmap(lambda state, weights, t=t: problem.step(t, state, weights))(states, weights)
    return states[:, 0]


def plain_loop(problem: Problem, left_out: int | None = None) -> tuple[Tensor, Tensor]:
    """One run as a user would write it, modules, autograd and `torch.optim`: final parameters (P,) and mean query loss."""
    network = _network(problem)
    optimizer = _torch_optimizer(problem, network)
    loss = TORCH_LOSSES[problem.model.loss]
    for t in range(problem.steps):
        batch = problem.batch(t)
        kept = batch if left_out is None else batch[batch != left_out]
        total = loss(network(problem.train.inputs[kept]), problem.train.targets[kept])
        penalty = problem.weight_decay / 2 * sum((p**2).sum() for p in network.parameters())
        optimizer.zero_grad()
        torch.autograd.backward((total + len(kept) * penalty) / len(batch))
        optimizer.param_groups[0]["lr"] = problem.optimizer.rate(t)
        optimizer.step()
    with torch.no_grad():
        query = loss(network(problem.query.inputs), problem.query.targets) / len(problem.query)
    return nn.utils.parameters_to_vector(network.parameters()).detach(), query


TORCH_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary-cross-entropy": lambda f, y: nn.functional.binary_cross_entropy_with_logits(f[:, 0], y, reduction="sum"),
    "cross-entropy": lambda f, y: nn.functional.cross_entropy(f, y, reduction="sum"),
    "squared-error": lambda f, y: ((f[:, 0] - y) ** 2).sum() / 2,
}
TORCH_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": lambda: nn.Softplus(beta=5, threshold=40),  # torch's usual threshold is linear from 20, off by 4e-10
}
TORCH_LAYERS: dict[type, Callable[..., nn.Module]] = {
    Dense: lambda layer: nn.Sequential(nn.Flatten(), nn.Linear(layer.inputs, layer.outputs)),
    Conv: lambda layer: nn.Conv2d(layer.image[0], layer.filters, layer.kernel, padding=layer.padding),
    GroupNorm: lambda layer: nn.GroupNorm(layer.groups, layer.image[0]),
    MaxPool: lambda layer: nn.MaxPool2d(2),
    Activation: lambda layer: TORCH_ACTIVATIONS[layer.function](),
}


def _network(problem: Problem) -> nn.Module:
    if isinstance(problem.model, Module):
        return problem.model.at(problem.initial)
    layers = problem.model.layers
    image = [nn.Unflatten(1, layers[0].image)] if isinstance(layers[0], Conv) else []
    network = nn.Sequential(*image, *(TORCH_LAYERS[type(layer)](layer) for layer in layers)).to(problem.initial)
    nn.utils.vector_to_parameters(problem.initial.clone(), network.parameters())
    return network


def _torch_optimizer(problem: Problem, network: nn.Module) -> torch.optim.Optimizer:
    o = problem.optimizer
    if isinstance(o, Adam):
        betas = (o.beta1, o.beta2)
        return torch.optim.AdamW(network.parameters(), lr=o.lr, betas=betas, eps=o.eps, weight_decay=o.decay)
    return torch.optim.SGD(network.parameters(), lr=o.rate(0), momentum=getattr(o, "momentum", 0.0))
