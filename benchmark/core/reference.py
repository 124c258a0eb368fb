"""Models as a person would write them in torch: residual network, denoiser, a transformer that classifies and one that writes.

None has dropout or buffers that training changes, so that a left-out sample leaves no trace.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.base.errors import LoobenchError, unknown

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
FASTEST = 1000.0  # radians in the unit of time of its fastest wave; the slowest has 1
POOLS: dict[str, Callable[[int], nn.Module]] = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}
WHOLE: dict[str, Callable[[int], nn.Module]] = {"avg": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}
PADDING = 0  # the token that fills up a short text


def chosen(kind: str, name: str, known: dict[str, Callable[..., nn.Module]]) -> Callable[..., nn.Module]:
    """What is known by a name. Raises LoobenchError for another."""
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]


# ---- images ------------------------------------------------------------------------------------------------------------
class ResNet9(nn.Module):
    """ResNet-9 for images (B, channels, 32, 32) or as rows of pixels (B, channels 1024); outputs (B, classes).

    Convolutions of 3 x 3 with `width`, 2, 4 and 8 times as many filters, each followed by GroupNorm and the activation, and
    two residual blocks of two of them. The sides are halved three times, then what is left is pooled to one number a filter.
    GroupNorm takes the place of BatchNorm, in whose statistics a left-out sample would stay. Raises LoobenchError for a
    width that `groups` do not divide, and for names unknown.
    Source: Page 2018, https://github.com/davidcpage/cifar10-fast, whose layers and widths these are.
    """

    def __init__(
        self,
        width: int = 64,
        classes: int = 10,
        groups: int = 4,
        activation: str = "gelu",
        pool: str = "avg",
        channels: int = 3,
        side: int = 32,
    ) -> None:
        super().__init__()
        if width % groups:
            raise LoobenchError(f"ResNet9 has {width} filters, which {groups} groups do not divide: take another width")
        self.image = channels, side, side
        act, half = chosen("activation", activation, ACTIVATIONS), chosen("pool", pool, POOLS)

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(groups, outputs), act())

        def twice(filters: int) -> "Residual":
            return Residual(nn.Sequential(block(filters, filters), block(filters, filters)))

        self.layers = nn.Sequential(
            block(channels, width),
            nn.Sequential(block(width, 2 * width), half(2), twice(2 * width)),
            nn.Sequential(block(2 * width, 4 * width), half(2)),
            nn.Sequential(block(4 * width, 8 * width), half(2), twice(8 * width)),
            chosen("pool", pool, WHOLE)(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(8 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, side, side) or (B, channels side side) -> (B, classes)"""
        outputs: Tensor = self.head(self.layers(images.reshape(-1, *self.image)))
        return outputs


class Residual(nn.Module):
    """``x + f(x)``"""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, values: Tensor) -> Tensor:
        """Of any shape that `inside` keeps."""
        moved: Tensor = self.inside(values)
        return values + moved


class UNet(nn.Module):
    """A U-Net that says the noise in images (1, side, side): of rows (B, draws (side side + 1)) outputs (B, draws, side side).

    A row has several draws of noise: each the pixels of the noisy image, and then its time in [0, 1]. Blocks of `width`, 2 and
    4 times as many filters are told the time by a shift of each filter; the sides are halved twice and doubled twice, and
    what was on the way down is put beside what comes up. All is smooth. Raises LoobenchError for a width that `groups` do
    not divide, and for a side that 4 does not divide.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, appendix B, smaller and without attention and dropout.
    """

    def __init__(self, width: int = 32, side: int = 28, draws: int = 1, groups: int = 4) -> None:
        super().__init__()
        if width % groups or side % 4:
            raise LoobenchError(
                f"UNet needs a width that {groups} groups divide and a side that 4 divides, got {width} and {side}: take others"
            )
        self.side, self.draws, self.waves = side, draws, width // 2
        self.time = nn.Sequential(nn.Linear(2 * self.waves, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU())

        def block(inputs: int, outputs: int) -> Timed:
            return Timed(inputs, outputs, 4 * width, groups)

        def half(filters: int) -> nn.Conv2d:
            return nn.Conv2d(filters, filters, 3, stride=2, padding=1)

        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.ModuleList([block(width, width), block(width, 2 * width), block(2 * width, 4 * width)])
        self.halves = nn.ModuleList([half(width), half(2 * width)])
        self.middle = block(4 * width, 4 * width)
        self.up = nn.ModuleList([block(6 * width, 2 * width), block(3 * width, width)])
        self.last = nn.Sequential(nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, rows: Tensor) -> Tensor:
        """(B, draws (side side + 1)) -> (B, draws, side side)"""
        each = rows.reshape(-1, self.side**2 + 1)
        time = self.time(self.of_time(each[:, -1:]))
        wide = self.down[0](self.first(each[:, :-1].reshape(-1, 1, self.side, self.side)), time)
        half = self.down[1](self.halves[0](wide), time)
        values = self.middle(self.down[2](self.halves[1](half), time), time)
        for block, beside in zip(self.up, (half, wide), strict=True):
            values = block(torch.cat([_doubled(values), beside], dim=1), time)
        outputs: Tensor = self.last(values).reshape(-1, self.draws, self.side**2)
        return outputs

    def of_time(self, time: Tensor) -> Tensor:
        """Sines and cosines of the time, from slow to fast. (B, 1) -> (B, waves 2)"""
        angles = time * FASTEST ** torch.linspace(0, 1, self.waves, dtype=time.dtype, device=time.device)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Timed(nn.Module):
    """Two convolutions of 3 x 3, each after GroupNorm and SiLU, with a shift by the time between, added to what came in."""

    def __init__(self, inputs: int, outputs: int, times: int, groups: int) -> None:
        super().__init__()

        def conv(inputs: int) -> nn.Sequential:
            return nn.Sequential(nn.GroupNorm(groups, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))

        self.before, self.after, self.shift = conv(inputs), conv(outputs), nn.Linear(times, outputs)
        self.past = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, values: Tensor, time: Tensor) -> Tensor:
        """(B, inputs, side, side), (B, times) -> (B, outputs, side, side)"""
        moved: Tensor = self.after(self.before(values) + self.shift(time)[:, :, None, None])
        past: Tensor = self.past(values)
        return past + moved


def _doubled(images: Tensor) -> Tensor:
    """Each pixel four times. (B, C, side, side) -> (B, C, 2 side, 2 side)"""
    return images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


# ---- sequences of tokens -------------------------------------------------------------------------------------------------
class Attention(nn.Module):
    """Attention of several heads, ``softmax(q k^T / sqrt(d) + mask) v``, of a sequence to itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise LoobenchError(f"a width of {width} cannot be divided among {heads} heads: take another width")
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, values: Tensor, seen: Tensor) -> Tensor:
        """Each position sees those that are true in `seen`, (B, 1, 1, L) or (L, L). (B, L, width) -> (B, L, width)"""
        query, key, value = self.qkv(values).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, d)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        outputs: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return outputs


class Block(nn.Module):
    """Attention and a layer of four times the width with GELU, each added to what came in, which is normalised before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.before = Attention(width, heads), nn.LayerNorm(width)
        self.wide = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, values: Tensor, seen: Tensor) -> Tensor:
        """As `Attention`."""
        values = values + self.attention(self.before(values), seen)
        outputs: Tensor = values + self.wide(values)
        return outputs


class Transformer(nn.Module):
    """Token and position embeddings, blocks, and a last normalisation: what the two below share."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, length: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def values(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """(B, L) -> (B, L, width). Raises LoobenchError for a longer text than there are positions."""
        if tokens.shape[1] > self.positions.num_embeddings:
            raise LoobenchError(f"texts of {tokens.shape[1]} tokens, the model has {self.positions.num_embeddings} positions")
        found = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            found = block(found, seen)
        outputs: Tensor = self.norm(found)
        return outputs


class Encoder(Transformer):
    """A small transformer that classifies texts (B, L), L up to `length`; outputs (B, classes), one logit where classes are 1.

    Token 0 is padding, which no token sees and which is not in the mean over tokens that the outputs are read off. A text of
    padding alone has the outputs of a mean of 0.
    """

    def __init__(
        self, vocabulary: int, classes: int, width: int = 64, depth: int = 2, heads: int = 4, length: int = 32
    ) -> None:
        super().__init__(vocabulary, width, depth, heads, length)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, classes)"""
        real = tokens != PADDING
        seen = real | ~real.any(1, keepdim=True)  # all of a text without tokens: a softmax over nothing is no number
        values = self.values(tokens, seen[:, None, None])
        counted = real[..., None].to(values.dtype)
        outputs: Tensor = self.head((values * counted).sum(1) / counted.sum(1).clamp(min=1))
        return outputs


class CausalTransformer(Transformer):
    """A small transformer that says the next token of texts (B, L), L up to `length`; outputs (B, L, vocabulary).

    A position sees itself and those before. For the loss "token-cross-entropy", with the text moved on by one as targets.
    """

    def __init__(self, vocabulary: int, width: int = 64, depth: int = 2, heads: int = 4, length: int = 64) -> None:
        super().__init__(vocabulary, width, depth, heads, length)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, L, vocabulary)"""
        length = tokens.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        outputs: Tensor = self.head(self.values(tokens, seen))
        return outputs
