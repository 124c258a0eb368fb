"""Models as pure functions of one flat parameter vector: parameters in, per-sample losses out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmark.core.layers import Activation, Conv, Dense, GroupNorm, Image, Layer, MaxPool
from benchmark.core.losses import LOSSES, Loss


class Model(Protocol):
    """What a problem needs of a model: its parameters as one vector, and the losses of samples as a function of it."""

    @property
    def loss(self) -> Loss:
        """A loss of ours by its name, or a function of outputs and targets."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers of ours, one after another, that it is made of; none for any other model."""

    @property
    def parameters(self) -> int:
        """P, the number of parameters."""

    @property
    def inputs(self) -> int:
        """Numbers that a sample's inputs are."""

    @property
    def classes(self) -> int:
        """C, the outputs of a sample, or of each token."""

    @property
    def linear(self) -> bool:
        """Whether the outputs are linear in the parameters."""

    @property
    def dense(self) -> bool:
        """Whether it has fully connected layers of ours only."""

    @property
    def mapped(self) -> bool:
        """Whether torch can map it over runs and samples."""

    def parts(self, theta: Tensor) -> list[list[Tensor]]:
        """The parameters of each layer as parts of the flat vector `theta` (P,), or (R, *shape) each of R vectors (R, P)."""

    def outputs(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """(P,), (B, ...) -> (B, ...)"""

    def features(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """What goes into the last layer. (P,), (B, ...) -> (B, F)"""

    def losses(self, theta: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Per-sample losses without L2 term. (P,), (B, ...), (B, ...) -> (B,)"""

    def initial(self, random: np.random.RandomState) -> Tensor:
        """Initial parameters (P,)."""

    def living(self, theta: Tensor) -> "Living":
        """The model at parameters that lie in the memory of `theta` (P,), and so follow it where that is changed in place."""


@dataclass(frozen=True, eq=False)
class Living:
    """A model at parameters of its own: what gradients are taken in, and the outputs of inputs."""

    leaves: list[Tensor]  # in the order of the flat vector
    outputs: Callable[[Tensor], Tensor]  # (B, ...) -> (B, ...)


@dataclass(frozen=True)
class Network:
    """Layers one after another, and a loss of their outputs (B, C).

    The flat vector (P,) holds the parameters of each layer, from the input on, each row by row.
    """

    layers: tuple[Layer, ...]  # from the inputs to the outputs
    loss: Loss  # "binary-cross-entropy" (C = 1), "cross-entropy" (C classes) or "squared-error" (C = 1)

    @property
    def inputs(self) -> int:
        """Features d of a sample."""
        first = self.layers[0]
        return first.inputs if isinstance(first, Dense) else prod(first.image) if isinstance(first, Conv) else first.features

    @property
    def classes(self) -> int:
        """C, the number of outputs: 1 for two classes and for real values, else one for each class."""
        return self.layers[-1].features

    @property
    def linear(self) -> bool:
        """Whether the outputs are linear in the parameters."""
        return len(self.layers) == 1 and isinstance(self.layers[0], Dense)

    @property
    def dense(self) -> bool:
        """Whether it has fully connected layers only."""
        return all(isinstance(layer, Dense | Activation) for layer in self.layers)

    @property
    def mapped(self) -> bool:
        """Whether torch can map it over runs and samples: always."""
        return True

    @property
    def parameters(self) -> int:
        """P, the number of parameters."""
        return sum(prod(shape) for layer in self.layers for shape in layer.shapes)

    def parts(self, theta: Tensor) -> list[list[Tensor]]:
        """The parameters of each layer as parts of the flat vector `theta` (P,), or (R, *shape) each of R vectors (R, P)."""
        shapes = [shape for layer in self.layers for shape in layer.shapes]
        parts = torch.split(theta, list(map(prod, shapes)), dim=-1)  # one split: its backward writes the vector once
        lead = theta.shape[:-1]
        shaped = iter([part.reshape(*lead, *shape) for part, shape in zip(parts, shapes, strict=True)])
        return [[next(shaped) for _ in layer.shapes] for layer in self.layers]

    def outputs(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """Network outputs. (P,), (B, d) -> (B, C)"""
        return self._through(self.parts(theta), inputs)

    def _through(self, parts: list[list[Tensor]], inputs: Tensor) -> Tensor:
        values = inputs
        for layer, parameters in zip(self.layers, parts, strict=True):
            values = layer.apply(values, *parameters)
        return values

    def living(self, theta: Tensor) -> Living:
        """The network at parameters that lie in the memory of `theta` (P,)."""
        parts = [[part.detach().requires_grad_() for part in layer] for layer in self.parts(theta)]
        return Living([part for layer in parts for part in layer], partial(self._through, parts))

    def features(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """What goes into the last layer; into a model of one layer, the inputs themselves. (P,), (B, d) -> (B, F)"""
        values = inputs
        for layer, parameters in zip(self.layers[:-1], self.parts(theta)[:-1], strict=True):
            values = layer.apply(values, *parameters)
        return values

    def losses(self, theta: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Per-sample losses without L2 term. (P,), (B, d), (B,) -> (B,)"""
        return LOSSES[self.loss](self.outputs(theta, inputs), targets)

    def initial(self, random: np.random.RandomState) -> Tensor:
        """Initial parameters (P,)."""
        return torch.from_numpy(np.concatenate([part.ravel() for layer in self.layers for part in layer.initial(random)]))


def mlp(widths: Sequence[int], activation: str = "relu", loss: str = "binary-cross-entropy") -> Network:
    """Fully connected layers of widths d, ..., C with biases; without a hidden one it is a linear model."""
    layers: list[Layer] = []
    for inputs, outputs in pairwise(widths):
        layers += [Dense(inputs, outputs), Activation(activation, outputs)]
    return Network(tuple(layers[:-1]), loss)


@dataclass(frozen=True)
class Block:
    """Convolution, normalisation in so many groups (0: none), 2 x 2 maximum, activation."""

    filters: int
    kernel: int
    padding: int = 0
    groups: int = 0

    def layers(self, image: Image, activation: str) -> list[Layer]:
        """The layers for one size of image."""
        conv = Conv(image, self.filters, self.kernel, self.padding)
        norm: list[Layer] = [GroupNorm(conv.out, self.groups)] if self.groups else []
        pool = MaxPool(conv.out)
        return [conv, *norm, pool, Activation(activation, pool.features)]


def cnn(image: Image, blocks: Sequence[Block], classes: int, activation: str = "relu") -> Network:
    """Convolutional blocks, and a dense layer with one output per class."""
    layers: list[Layer] = []
    at = image
    for block in blocks:
        layers += block.layers(at, activation)
        at = next(layer.out for layer in reversed(layers) if isinstance(layer, MaxPool))
    return Network((*layers, Dense(prod(at), classes)), "cross-entropy")
