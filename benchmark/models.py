"""Models as pure functions of one flat parameter vector: parameters in, per-sample losses out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import torch
from torch import Tensor


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
ACTIVATION_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {  # as functions of the activated value
    "relu": lambda value: (value > 0).to(value.dtype),
    "tanh": lambda value: 1 - value**2,
    "softplus": lambda value: -torch.expm1(-5 * value),
}


@dataclass(frozen=True)
class Mlp:
    """Fully connected layers with biases; without a hidden one it is a linear model.

    The flat vector (P,) holds weight (out, in) and bias (out,) of each layer, from the input on, row by row.
    """

    widths: tuple[int, ...]  # inputs, hidden ones, outputs
    activation: str = "relu"
    loss: str = "binary-cross-entropy"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of weight and bias of each layer, in the order of the flat vector."""
        return [shape for inputs, outputs in pairwise(self.widths) for shape in ((outputs, inputs), (outputs,))]

    @property
    def parameters(self) -> int:
        """P."""
        return sum(map(prod, self.shapes))

    def layers(self, theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Weight and bias of each layer as parts of the flat vector `theta` (P,)."""
        parts = torch.split(theta, [prod(shape) for shape in self.shapes])  # one split: its backward writes the vector once
        tensors = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return zip(tensors[::2], tensors[1::2], strict=True)

    def outputs(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """Network outputs. (P,), (B, d) -> (B, C)"""
        values = inputs
        for depth, (weight, bias) in enumerate(self.layers(theta)):
            values = values if depth == 0 else ACTIVATIONS[self.activation](values)
            values = values @ weight.T + bias
        return values

    def losses(self, theta: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Per-sample losses without L2 term. (P,), (B, d), (B,) -> (B,)"""
        return LOSSES[self.loss](self.outputs(theta, inputs), targets)

    def initial(self, random: np.random.RandomState) -> Tensor:
        """Initial parameters (P,), each uniform in ``+-1/sqrt(inputs of its layer)``, as `torch.nn.Linear` has them."""
        bounds = [inputs**-0.5 for inputs in self.widths[:-1] for _ in ("weight", "bias")]
        parts = [random.uniform(-b, b, prod(shape)) for b, shape in zip(bounds, self.shapes, strict=True)]
        return torch.from_numpy(np.concatenate(parts))


@dataclass(frozen=True)
class Recipe:
    """What a task calls a model: hidden widths and activation; inputs and outputs come with the data."""

    hidden: tuple[int, ...]
    activation: str = "relu"

    def build(self, inputs: int, classes: int) -> Mlp:
        """The classifier of `inputs` features: one logit for two classes, else one per class."""
        outputs, loss = (1, "binary-cross-entropy") if classes == 2 else (classes, "cross-entropy")
        return Mlp((inputs, *self.hidden, outputs), self.activation, loss)


MODELS = {
    "logistic": Recipe(()),
    "mlp-8": Recipe((8,)),
    "mlp-8-8": Recipe((8, 8)),
}
