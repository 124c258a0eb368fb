"""Models that tasks name, by recipes: inputs and outputs come with the data."""

from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from torch import nn

from benchmark.base.errors import LoobenchError
from benchmark.base.streams import drawn, stream
from benchmark.core.code import code_of
from benchmark.core.layers import Image
from benchmark.core.models import Block, Model, Network, cnn, mlp
from benchmark.core.reference import CausalTransformer, Encoder, ResNet9, UNet
from benchmark.core.wrapped import Module, Shapes


class Recipe(Protocol):
    """What a task calls a model: inputs and outputs come with the data."""

    def build(self, inputs: int, classes: int) -> Model:
        """The classifier of `inputs` features, or with 1 class the regression. Raises LoobenchError where it does not fit."""


# ---- of layers of ours -------------------------------------------------------------------------------------------------
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
        _check_images(self.image, inputs, classes)
        return cnn(self.image, self.blocks, classes)


def _check_images(image: Image, inputs: int, classes: int) -> None:
    if classes < 2:
        raise LoobenchError(f"a network for images needs at least 2 classes, got {classes} (1: real targets); use an mlp")
    if inputs != prod(image):
        raise LoobenchError(f"a network for images {image} needs {prod(image)} inputs, got {inputs}")


# ---- of torch's --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ResNetRecipe:
    """ResNet-9 over images (3, 32, 32) as rows of pixels; one output per class, with the cross-entropy.

    GELU and the mean over pixels are smooth; ReLU and the largest pixel have kinks.
    """

    width: int
    activation: str = "gelu"
    pool: str = "avg"

    def build(self, inputs: int, classes: int) -> Module:
        """The classifier of images. Raises LoobenchError for inputs of another size, or real targets (1 class)."""
        _check_images((3, 32, 32), inputs, classes)
        settings = {"width": self.width, "classes": classes, "activation": self.activation, "pool": self.pool}
        return _module(ResNet9, "cross-entropy", Shapes((inputs,), (classes,)), **settings)


@dataclass(frozen=True)
class DenoiserRecipe:
    """A U-Net over rows of noisy images (28, 28) and their times, several to a row; the mean squared error of the noise."""

    width: int
    draws: int

    def build(self, inputs: int, classes: int) -> Module:
        """The denoiser. Raises LoobenchError for rows of another size, and for classes."""
        if inputs != self.draws * (28 * 28 + 1) or classes != 1:
            raise LoobenchError(
                f"a denoiser needs rows of {self.draws} noisy images of 28 x 28 and their times, and the noise as targets, "
                f"got rows of {inputs}: take the data of so many draws"
            )
        shapes = Shapes((inputs,), (self.draws, 28 * 28))
        return _module(UNet, "mean-squared-error", shapes, width=self.width, side=28, draws=self.draws)


@dataclass(frozen=True)
class TextRecipe:
    """A transformer of texts of `length` tokens."""

    vocabulary: int
    length: int
    depth: int
    width: int
    heads: int = 4

    def _settings(self, inputs: int) -> dict[str, Any]:
        """What both kinds are made of. Raises LoobenchError for texts of another length."""
        if inputs != self.length:
            raise LoobenchError(
                f"a transformer of texts of {self.length} tokens got rows of {inputs}: take the data cut to {self.length}"
            )
        return {name: getattr(self, name) for name in ("vocabulary", "width", "depth", "heads", "length")}


class EncoderRecipe(TextRecipe):
    """It classifies texts, padded by 0; one output per class, with the cross-entropy."""

    def build(self, inputs: int, classes: int) -> Module:
        """The classifier of texts. Raises LoobenchError for texts of another length."""
        shapes, settings = Shapes((inputs,), (classes,)), self._settings(inputs)
        return _module(Encoder, "cross-entropy", shapes, **settings, classes=classes)


class WriterRecipe(TextRecipe):
    """It says the next of `vocabulary` tokens at each of `length` places; the mean loss over them."""

    def build(self, inputs: int, classes: int) -> Module:  # noqa: ARG002
        """The model of texts. Raises LoobenchError for texts of another length."""
        shapes, settings = Shapes((inputs,), (inputs, self.vocabulary)), self._settings(inputs)
        return _module(CausalTransformer, "token-cross-entropy", shapes, **settings)


def _module(kind: type[nn.Module], loss: str, one: Shapes, **settings: Any) -> Module:
    """A module that any process builds again from its class and settings. What it comes with, seeds draw anew."""
    with drawn(stream("structure", 0)):
        return Module(kind(**settings), loss, code=code_of(kind, **settings), one=one)


MODELS: dict[str, Recipe] = {
    "logistic": MlpRecipe(()),
    "mlp-8": MlpRecipe((8,)),
    "mlp-8-8": MlpRecipe((8, 8)),
    "mlp-8-8-softplus": MlpRecipe((8, 8), "softplus"),
    "mlp-16": MlpRecipe((16,)),
    "mlp-32": MlpRecipe((32,)),
    "mlp-128": MlpRecipe((128,)),
    "mlp-128-softplus": MlpRecipe((128,), "softplus"),
    "mlp-128-128": MlpRecipe((128, 128)),
    "mnist-cnn": CnnRecipe((1, 28, 28), (Block(20, 5), Block(20, 5))),  # Hara et al. 2019, section 7.2
    "cifar-cnn": CnnRecipe((3, 32, 32), tuple(Block(filters, 3, padding=1, groups=4) for filters in (16, 32, 32))),
    **{f"resnet9-{width}": ResNetRecipe(width) for width in (8, 16, 64)},
    **{f"resnet9-{width}-relu": ResNetRecipe(width, "relu", "max") for width in (8, 64)},
    "unet-8x1": DenoiserRecipe(8, 1),  # the second number is of draws of noise
    "unet-32x4": DenoiserRecipe(32, 4),
    "encoder-2x64-32": EncoderRecipe(2000, 32, depth=2, width=64),  # the last number is of tokens
    "encoder-2x64-64": EncoderRecipe(8000, 64, depth=2, width=64),
    "encoder-4x256-64": EncoderRecipe(8000, 64, depth=4, width=256, heads=8),
    "writer-2x64-64": WriterRecipe(97, 64, depth=2, width=64),
    "writer-6x384-256": WriterRecipe(97, 256, depth=6, width=384, heads=6),  # nanoGPT's for characters of Shakespeare
}
