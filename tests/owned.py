"""A model and data of a person's own, as tests use them: small enough for a second."""

from dataclasses import replace

import torch
from torch import nn

import loobench
from loobench import Adam, Training, task


class Tokens(nn.Module):
    """A mean of embeddings, through one attention layer."""

    def __init__(self, vocabulary: int = 20, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.register_buffer("scale", torch.full((width,), 0.5))
        self.out = nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        values = self.embedding(tokens)
        return self.out((values + self.attention(values, values, values)[0] * self.scale).mean(1))


def data(count: int = 60, length: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and whether the first is small, middle or large."""
    tokens = torch.randint(20, (count, length), generator=torch.Generator().manual_seed(7))
    return tokens, tokens[:, 0] // 7


def confident(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The chance of the right class."""
    return outputs.softmax(-1).gather(1, targets[:, None])[:, 0]


@task("own-tokens", seeds=2)
def tokens() -> Training:
    inputs, targets = data()
    return loobench.Training(
        model=Tokens,
        loss="cross-entropy",
        train=(inputs[:40], targets[:40]),
        query=(inputs[40:], targets[40:]),
        optimizer=Adam(0.01),
        batch=8,
        epochs=2,
        leave_out=6,
    )


@task("own-confidence")
def confidence() -> Training:
    return replace(tokens(), horizons=(1, 2), clip=0.5, query_function=confident, weight_decay=0.01)
