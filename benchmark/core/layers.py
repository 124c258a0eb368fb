"""What a network is put together from: activations with their derivatives, and layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.base.errors import LoobenchError


def softplus(values: Tensor) -> Tensor:
    """``log(1 + exp(5 x)) / 5``: a smooth twin of ReLU."""
    return torch.logaddexp(values.new_zeros(()), 5 * values) / 5


def where_positive(slope: Tensor, values: Tensor) -> Tensor:
    """The slope where a value is positive, else 0."""
    found: Tensor = torch.ops.aten.threshold_backward(slope, values, 0)
    return found


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh, "softplus": softplus}
ACTIVATION_PULLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # slope of the activated value -> slope before it
    "relu": where_positive,
    "tanh": torch.ops.aten.tanh_backward,
    "softplus": lambda slope, value: slope * -torch.expm1(-5 * value),
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
