"""Models as pure functions of one flat parameter vector: parameters in, per-sample losses out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.base.errors import LoobenchError


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """``log(1 + exp(f)) - y f`` of one logit f per sample. (B, 1), (B,) -> (B,)"""
    logits = outputs.squeeze(-1)
    return torch.logaddexp(logits.new_zeros(()), logits) - targets * logits


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """``log sum_c exp(f_c) - f_y``. (B, C), (B,) -> (B,)"""
    chosen = outputs.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
    return torch.logsumexp(outputs, -1) - chosen


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """``(f - y)^2 / 2`` of one output f per sample. (B, 1), (B,) -> (B,)"""
    return (outputs.squeeze(-1) - targets) ** 2 / 2


def softplus(values: Tensor) -> Tensor:
    """``log(1 + exp(5 x)) / 5``: a smooth twin of ReLU."""
    return torch.logaddexp(values.new_zeros(()), 5 * values) / 5


def where_positive(slope: Tensor, values: Tensor) -> Tensor:
    """The slope where a value is positive, else 0."""
    found: Tensor = torch.ops.aten.threshold_backward(slope, values, 0)
    return found


def _times(factors: Tensor, moved: Tensor) -> Tensor:
    return factors[:, None] * moved


def _covariance(chances: Tensor, moved: Tensor) -> Tensor:
    """``(diag p - p p^T) moved``"""
    weighted = chances * moved
    return weighted - chances * weighted.sum(-1, keepdim=True)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary-cross-entropy": binary_cross_entropy,
    "cross-entropy": cross_entropy,
    "squared-error": squared_error,
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh, "softplus": softplus}
LOSS_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of the loss in the outputs; (R, B, C), (B,)
    "binary-cross-entropy": lambda outputs, targets: outputs.sigmoid() - targets[:, None],
    "cross-entropy": lambda outputs, targets: outputs.softmax(-1) - torch.nn.functional.one_hot(targets, outputs.shape[-1]),
    "squared-error": lambda outputs, targets: outputs - targets[:, None],
}
ACTIVATION_PULLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # slope of the activated value -> slope before it
    "relu": where_positive,
    "tanh": torch.ops.aten.tanh_backward,
    "softplus": lambda slope, value: slope * -torch.expm1(-5 * value),
}
LOSS_CURVATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of the loss twice in the outputs; (B, C), (B, R, C)
    "binary-cross-entropy": lambda outputs, moved: _times(outputs.sigmoid() * outputs.neg().sigmoid(), moved),
    "cross-entropy": lambda outputs, moved: _covariance(outputs.softmax(-1)[:, None], moved),
    "squared-error": lambda outputs, moved: moved,
}
ACTIVATION_BENDS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor | None]]] = {  # first and second derivative, of the value
    "relu": lambda value: ((value > 0).to(value), None),
    "tanh": lambda value: (1 - value**2, -2 * value * (1 - value**2)),
    "softplus": lambda value: (-torch.expm1(-5 * value), -5 * torch.expm1(-5 * value) * torch.exp(-5 * value)),
}
NORM_EPS = 1e-5

Shape = tuple[int, ...]
Image = tuple[int, int, int]  # channels, height, width


class Layer(Protocol):
    """One step from values (B, ...) to values (B, features): a pure function of its parameters."""

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of its parameters, in the order of the flat vector."""

    @property
    def features(self) -> int:
        """Values that come out for one sample."""

    def apply(self, values: Tensor, *parameters: Tensor) -> Tensor:
        """(B, features before) -> (B, features)"""

    def initial(self, random: np.random.RandomState) -> list[np.ndarray]:
        """Initial parameters, one array for each shape."""


@dataclass(frozen=True)
class Dense:
    """``x W^T + b`` with weight (outputs, inputs) and bias (outputs,)."""

    inputs: int
    outputs: int

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return (self.outputs, self.inputs), (self.outputs,)

    @property
    def features(self) -> int:
        return self.outputs

    def apply(self, values: Tensor, *parameters: Tensor) -> Tensor:
        weight, bias = parameters
        return values @ weight.T + bias

    def initial(self, random: np.random.RandomState) -> list[np.ndarray]:
        return _uniform(self.shapes, self.inputs, random)


@dataclass(frozen=True)
class Conv:
    """Cross-correlation with square kernels, stride 1: weight (filters, channels, kernel, kernel) and bias (filters,)."""

    image: Image
    filters: int
    kernel: int
    padding: int = 0

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return (self.filters, self.image[0], self.kernel, self.kernel), (self.filters,)

    @property
    def padded(self) -> Image:
        """The image with its border of zeros."""
        channels, height, width = self.image
        return channels, height + 2 * self.padding, width + 2 * self.padding

    @property
    def out(self) -> Image:
        """The image that comes out."""
        _, height, width = self.padded
        return self.filters, height - self.kernel + 1, width - self.kernel + 1

    @property
    def features(self) -> int:
        return prod(self.out)

    def apply(self, values: Tensor, *parameters: Tensor) -> Tensor:
        weight, bias = parameters
        return nn.functional.conv2d(values.reshape(-1, *self.image), weight, bias, padding=self.padding).flatten(1)

    def initial(self, random: np.random.RandomState) -> list[np.ndarray]:
        return _uniform(self.shapes, self.image[0] * self.kernel**2, random)


@dataclass(frozen=True)
class GroupNorm:
    """``gamma (x - mean) / sqrt(var + 1e-5) + beta`` over the channels and pixels of a group; gamma, beta (channels,)."""

    image: Image
    groups: int

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return (self.image[0],), (self.image[0],)

    @property
    def features(self) -> int:
        return prod(self.image)

    def apply(self, values: Tensor, *parameters: Tensor) -> Tensor:
        gamma, beta = parameters
        return nn.functional.group_norm(values.reshape(-1, *self.image), self.groups, gamma, beta, NORM_EPS).flatten(1)

    def initial(self, random: np.random.RandomState) -> list[np.ndarray]:  # noqa: ARG002
        return [np.ones(self.image[0]), np.zeros(self.image[0])]


@dataclass(frozen=True)
class MaxPool:
    """The largest of each 2 x 2 pixels; of equal ones the first, row by row, has the slope.

    Raises LoobenchError for an image of odd height or width, of which a row would be left out.
    """

    image: Image

    def __post_init__(self) -> None:
        if self.image[1] % 2 or self.image[2] % 2:
            raise LoobenchError(f"2 x 2 maxima need an even image, got {self.image}: change kernel or padding before")

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return ()

    @property
    def out(self) -> Image:
        """The image that comes out."""
        channels, height, width = self.image
        return channels, height // 2, width // 2

    @property
    def features(self) -> int:
        return prod(self.out)

    def apply(self, values: Tensor, *parameters: Tensor) -> Tensor:  # noqa: ARG002
        return nn.functional.max_pool2d(values.reshape(-1, *self.image), 2).flatten(1)

    def initial(self, random: np.random.RandomState) -> list[np.ndarray]:  # noqa: ARG002
        return []


@dataclass(frozen=True)
class Activation:
    """relu, tanh or softplus of every value."""

    function: str
    features: int

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return ()

    def apply(self, values: Tensor, *parameters: Tensor) -> Tensor:  # noqa: ARG002
        return ACTIVATIONS[self.function](values)

    def initial(self, random: np.random.RandomState) -> list[np.ndarray]:  # noqa: ARG002
        return []


def _uniform(shapes: Sequence[Shape], fan_in: int, random: np.random.RandomState) -> list[np.ndarray]:
    """Parameters uniform in ``+-1/sqrt(fan_in)``, as `torch.nn.Linear` and `torch.nn.Conv2d` have them."""
    return [random.uniform(-(fan_in**-0.5), fan_in**-0.5, shape) for shape in shapes]


@dataclass(frozen=True)
class Network:
    """Layers one after another, and a loss of their outputs (B, C).

    The flat vector (P,) holds the parameters of each layer, from the input on, each row by row.
    """

    layers: tuple[Layer, ...]
    loss: str

    @property
    def inputs(self) -> int:
        """Features d of a sample."""
        first = self.layers[0]
        return first.inputs if isinstance(first, Dense) else prod(first.image) if isinstance(first, Conv) else first.features

    @property
    def classes(self) -> int:
        """Outputs C."""
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
    def parameters(self) -> int:
        """P."""
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
        values = inputs
        for layer, parameters in zip(self.layers, self.parts(theta), strict=True):
            values = layer.apply(values, *parameters)
        return values

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


class Recipe(Protocol):
    """What a task calls a model: inputs and outputs come with the data."""

    def build(self, inputs: int, classes: int) -> Network:
        """The classifier of `inputs` features, or with 1 class the regression. Raises LoobenchError where it does not fit."""


@dataclass(frozen=True)
class MlpRecipe:
    """Hidden widths; one logit for two classes, else one per class; "1 class" stands for a regression, with one output."""

    hidden: tuple[int, ...]
    activation: str = "relu"

    def build(self, inputs: int, classes: int) -> Network:
        """The classifier of `inputs` features, or the regression."""
        few = {1: "squared-error", 2: "binary-cross-entropy"}
        outputs, loss = (1, few[classes]) if classes in few else (classes, "cross-entropy")
        return mlp((inputs, *self.hidden, outputs), self.activation, loss)


@dataclass(frozen=True)
class CnnRecipe:
    """Blocks over images of one size; one output per class."""

    image: Image
    blocks: tuple[Block, ...]

    def build(self, inputs: int, classes: int) -> Network:
        """The classifier of images. Raises LoobenchError for inputs of another size, or real targets (1 class)."""
        if classes < 2:
            raise LoobenchError(f"a network for images needs at least 2 classes, got {classes} (1: real targets); use an mlp")
        if inputs != prod(self.image):
            raise LoobenchError(f"a network for images {self.image} needs {prod(self.image)} inputs, got {inputs}")
        return cnn(self.image, self.blocks, classes)


MODELS: dict[str, Recipe] = {
    "logistic": MlpRecipe(()),
    "mlp-8": MlpRecipe((8,)),
    "mlp-8-8": MlpRecipe((8, 8)),
    "mlp-8-8-softplus": MlpRecipe((8, 8), "softplus"),
    "mlp-16": MlpRecipe((16,)),
    "mlp-32": MlpRecipe((32,)),
    "mlp-128-128": MlpRecipe((128, 128)),
    "mnist-cnn": CnnRecipe((1, 28, 28), (Block(20, 5), Block(20, 5))),  # Hara et al. 2019, section 7.2
    "cifar-cnn": CnnRecipe((3, 32, 32), tuple(Block(filters, 3, padding=1, groups=4) for filters in (16, 32, 32))),
}
