"""Small torch.nn modules as a person would write them, and problems that train them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from cases import OPTIMIZERS, problem
from torch import Tensor, nn

from benchmark.base.streams import drawn, stream
from benchmark.core.models import mlp
from benchmark.core.optimizers import Optimizer
from benchmark.core.problem import Problem, Samples
from benchmark.core.wrapped import Module, Shapes

TOKENS, LENGTH, CLASSES = 7, 6, 3


class Encoder(nn.Module):
    """A transformer over integer tokens (B, L), with positions, to classes (B, C)."""

    def __init__(self, width: int = 8, layers: int = 1) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.positions = nn.Parameter(torch.randn(LENGTH, width) / 2)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, C)"""
        return self.head(self.encoder(self.embed(tokens) + self.positions).mean(1))


class Causal(Encoder):
    """The same, each token seeing those before it, to the next token (B, L, C)."""

    def __init__(self, width: int = 8, layers: int = 1) -> None:
        super().__init__(width, layers)
        self.head = nn.Linear(width, TOKENS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, L, C)"""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=self.positions.dtype)
        return self.head(self.encoder(self.embed(tokens) + self.positions, mask=mask, is_causal=True))


class Tied(Causal):
    """The same, with the table of embeddings for the last layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.embed.weight


class Residual(nn.Module):
    """Convolutions, one with a stride, and a skip connection, on images (B, 3, 8, 8)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(2, width)
        self.inner = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(1, width), nn.Softplus())
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 8, 8) -> (B, C)"""
        values = nn.functional.softplus(self.norm(self.first(images)))
        return self.head((values + self.inner(values)).mean((2, 3)))


class Recurrent(nn.Module):
    """A GRU over tokens (B, L), to classes (B, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 4, padding_idx=0)
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, C)"""
        return self.head(self.gru(self.embed(tokens))[0][:, -1])


class Frozen(Encoder):
    """An encoder whose table of embeddings and biases of the last layer are not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.embed.requires_grad_(False)
        self.head.bias.requires_grad_(False)


class Reused(nn.Module):
    """A layer called twice, a weight used outside of its layer, one table for two, on features (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(5, 5)
        self.mixed = nn.Linear(5, 5)
        self.never = nn.Linear(2, 2)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, values: Tensor) -> Tensor:
        """(B, 5) -> (B, C)"""
        values = self.twice(torch.tanh(self.twice(values)))
        return self.head(torch.tanh(self.mixed(values) + values @ self.mixed.weight))


NETS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "encoder": (Encoder, "cross-entropy"),
    "causal": (Causal, "token-cross-entropy"),
    "tied": (Tied, "token-cross-entropy"),
    "resnet": (Residual, "cross-entropy"),
    "gru": (Recurrent, "cross-entropy"),
    "frozen": (Frozen, "cross-entropy"),
    "reused": (Reused, "cross-entropy"),
}
ONE = {"resnet": (3, 8, 8), "reused": (5,)}  # of a sample's inputs, where they are real numbers


def module(name: str) -> Module:
    """A net as a model."""
    build, loss = NETS[name]
    with drawn(stream("test/net", 0)):
        net = build().double()
    outputs = (LENGTH, TOKENS) if loss == "token-cross-entropy" else (CLASSES,)
    return Module(net, loss, one=Shapes(ONE.get(name, (LENGTH,)), outputs))


def net_problem(name: str, optimizer: str | Optimizer = "sgd", *, train: int = 12, query: int = 3, **changes: Any) -> Problem:
    """A random problem of one of the nets: tokens, images or features, as `problem` has them else."""
    model = module(name)

    def samples(count: int, kind: str) -> Samples:
        random = stream(f"test/{kind}", 0)
        tokens = torch.from_numpy(random.randint(TOKENS, size=(count, LENGTH)))
        real = torch.from_numpy(random.normal(size=(count, *ONE.get(name, ()))))
        targets = torch.from_numpy(random.randint(CLASSES, size=count))
        return Samples(real if name in ONE else tokens, tokens.roll(-1, 1) if model.loss == "token-cross-entropy" else targets)

    chosen = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    clip = changes.pop("clip", None)
    base = problem(mlp((5, 4, 1)), chosen, train=train, query=query, **changes)
    return replace(
        base,
        model=model,
        train=samples(train, "train"),
        query=samples(query, "query"),
        test=samples(query, "test"),
        initial=model.initial(stream("test/initial", 0)),
        clip=clip,
    )
