"""A model as a `torch.nn` module, for libraries that take nothing else."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.base.errors import LoobenchError
from benchmark.core.layers import NORM_EPS, Activation, Conv, Dense, GroupNorm, Layer, MaxPool
from benchmark.core.models import Model
from benchmark.core.wrapped import Module

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": lambda: nn.Softplus(beta=5, threshold=40),  # beyond which it is a straight line to the last bit
}


def module(model: Model, theta: Tensor) -> nn.Sequential:
    """The model at the parameters `theta` (P,), in evaluation mode: inputs (B, d) to outputs (B, C).

    A model that is a torch.nn.Module takes its own inputs too, and has its own outputs. Parameters are copies, in the order of
    the flat vector. Raises LoobenchError for a layer that `torch.nn` has no form of.
    """
    if isinstance(model, Module):
        return nn.Sequential(Reshaped(model.one.inputs), model.at(theta))
    with torch.random.fork_rng(devices=[]):  # the first parameters are random
        parts = [part for layer in model.layers for part in _modules(layer)]
    whole = nn.Sequential(*parts).to(theta)
    nn.utils.vector_to_parameters(theta.clone(), whole.parameters())
    for parameter in whole.parameters():
        parameter.data = parameter.data.clone()  # not views of one vector
    return whole.eval()


class Reshaped(nn.Module):
    """Inputs (B, d) to inputs (B, *shape) of a torch.nn module; nothing where the shape of a sample is not known."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, ...) -> (B, *shape)"""
        return inputs.reshape(-1, *self.shape) if self.shape else inputs


def flat(whole: nn.Module) -> Tensor:
    """The parameters of a module as one vector (P,)."""
    found: Tensor = nn.utils.parameters_to_vector(whole.parameters())
    return found.detach()


def _modules(layer: Layer) -> list[nn.Module]:
    match layer:
        case Dense(inputs, outputs):
            return [nn.Linear(inputs, outputs)]
        case Activation(function):
            return [ACTIVATIONS[function]()]
        case Conv(image, filters, kernel, padding):
            return [nn.Unflatten(1, image), nn.Conv2d(image[0], filters, kernel, padding=padding), nn.Flatten()]
        case GroupNorm(image, groups):
            return [nn.Unflatten(1, image), nn.GroupNorm(groups, image[0], NORM_EPS), nn.Flatten()]
        case MaxPool(image):
            return [nn.Unflatten(1, image), nn.MaxPool2d(2), nn.Flatten()]
    raise LoobenchError(f"no torch.nn form of the layer {type(layer).__name__}: write it in benchmark/core/modules.py")
