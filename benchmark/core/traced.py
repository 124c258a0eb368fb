"""A torch.nn.Module as products of weights and inputs, wherever its code calls them: a linear map, a convolution, a table.

They are found one sample at a time, so that all other axes of a call are places that share the weights, whatever their order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from types import FunctionType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from benchmark.core import calculus
from benchmark.core.wrapped import Module

Kind = Literal["linear", "convolution", "table", "whole"]
Named = dict[str, Tensor]


@dataclass(frozen=True)
class Block:
    """Parameters of one layer of a module, as one matrix (outputs, inputs + 1), the bias last, where it has one.

    Of a table of embeddings (V, d) the matrix is (d, V); of what is no product of a weight and inputs, such as the scales of a
    normalisation, it is one row (1, P).
    """

    kind: Kind
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @property
    def biased(self) -> bool:
        """Whether the last column is a bias."""
        return self.kind in ("linear", "convolution") and len(self.shapes) == 2

    def matrix(self, parts: Sequence[Tensor]) -> Tensor:
        """Its parameters (K, *shape) as matrices (K, outputs, inputs + 1)."""
        if self.kind == "whole":
            return torch.cat([part.flatten(1) for part in parts], dim=1)[:, None]
        weight = parts[0].mT if self.kind == "table" else parts[0].flatten(2)
        return torch.cat([weight, parts[1][..., None]], dim=2) if self.biased else weight

    def flat(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`: (K, P)."""
        if self.biased:
            return torch.cat([matrix[..., :-1].flatten(1), matrix[..., -1]], dim=1)
        return (matrix.mT if self.kind == "table" else matrix).flatten(1)


def blocks(model: Module) -> list[Block]:
    """The parameters that are trained, layer by layer, in the order of the flat vector."""
    layers = groupby(model.shapes, lambda name: name.rpartition(".")[0])
    return [_block(model, model.net.get_submodule(owner), tuple(names)) for owner, names in layers]


def _block(model: Module, layer: nn.Module, names: tuple[str, ...]) -> Block:
    kind = _kind(layer, tuple(name.rpartition(".")[2] for name in names))
    return Block(kind, names, tuple(model.shapes[name] for name in names))


def _kind(layer: nn.Module, own: tuple[str, ...]) -> Kind:
    match layer, own:
        case nn.Linear(), ("weight",) | ("weight", "bias"):
            return "linear"
        case nn.MultiheadAttention(), ("in_proj_weight",) | ("in_proj_weight", "in_proj_bias"):
            return "linear"
        case nn.Embedding(max_norm=None, scale_grad_by_freq=False), ("weight",):
            return "table"
        case nn.Conv2d(groups=1, padding_mode="zeros"), ("weight",) | ("weight", "bias"):
            return "whole" if isinstance(layer.padding, str) else "convolution"
    return "whole"


def layered(model: Module, vectors: Tensor) -> list[Tensor]:
    """Flat vectors (K, P) as one matrix (K, outputs, inputs + 1) for each block."""
    named = model.named(vectors)
    return [block.matrix([named[name] for name in block.names]) for block in blocks(model)]


# ---- what is called --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Call:
    """A function of torch called on a weight, as one product."""

    kind: Kind
    inputs: Tensor  # (L, inputs)
    weight: Tensor


# their arguments have torch's names
def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call:  # noqa: A002, ARG001
    return Call("linear", input.reshape(-1, input.shape[-1]), weight)


def _convolution(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,  # noqa: ARG001
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,  # noqa: ARG001  # 1 in all blocks that are convolutions
) -> Call:
    images = input.reshape(-1, *input.shape[-3:])
    patches = functional.unfold(images, weight.shape[2:], dilation, padding, stride)
    return Call("convolution", patches.mT.flatten(0, 1), weight)


def _table(input: Tensor, weight: Tensor, padding_idx: int | None = None, *_others: Any, **_settings: Any) -> Call:  # noqa: A002
    rows = torch.arange(len(weight), device=input.device)
    chosen = input.reshape(-1, 1) == rows
    return Call("table", (chosen if padding_idx is None else chosen & (rows != padding_idx)).to(weight), weight)


CALLS: dict[Any, Callable[..., Call]] = {
    functional.linear: _linear,
    functional.conv2d: _convolution,
    functional.embedding: _table,
}


@lru_cache(maxsize=1)
def _attention() -> Any:
    """Torch's function for attention, but for that it does not ask whether somebody watches."""
    whole = functional.multi_head_attention_forward
    return FunctionType(
        whole.__code__, {**vars(functional), "has_torch_function": lambda _given: False}, argdefs=whole.__defaults__
    )


class Watch(TorchFunctionMode):
    """Notes the calls whose weight is that of a block, and adds to the output of each its probe, where there are probes."""

    def __init__(self, products: dict[int, Block], named: Named, probes: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.products, self.probes = products, probes
        self.numbers = {id(named[block.names[0]]): number for number, block in products.items()}
        self.calls: list[int] = []  # of each the number of its block
        self.inputs: list[Tensor] = []  # (L, inputs + 1)
        self.outputs: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch asks here for each function of its own that is called."""
        settings = kwargs or {}
        if function is functional.multi_head_attention_forward:  # of what it calls itself torch would tell nothing
            with self:
                return _attention()(*args, **settings)
        found = function(*args, **settings)
        return self._noted(CALLS[function](*args, **settings), found) if function in CALLS else found

    def _noted(self, call: Call, found: Tensor) -> Tensor:
        number = self.numbers.get(id(call.weight), -1)
        block = self.products.get(number)
        if block is None or block.kind != call.kind:
            return found
        ones = call.inputs.new_ones(len(call.inputs), 1)
        self.calls.append(number)
        self.inputs.append(torch.cat([call.inputs, ones], dim=1) if block.biased else call.inputs)
        self.outputs.append(found)
        return found if self.probes is None else found + self.probes[len(self.calls) - 1]


# ---- all samples -----------------------------------------------------------------------------------------------------
class Traced:
    """A module at `theta` (P,), tried out on one sample: which of its blocks are the products that are seen of them.

    A block whose weight is also used in another way, as one that a last layer shares with a table of embeddings, or in none,
    counts as the product of its gradient and a unit matrix.
    """

    def __init__(self, model: Module, theta: Tensor, sample: Tensor) -> None:
        self.model, self.blocks = model, blocks(model)
        self.products = {number: block for number, block in enumerate(self.blocks) if block.kind != "whole"}
        with torch.enable_grad():
            self.named = {name: part.detach().requires_grad_() for name, part in model.named(theta).items()}
            self.products = self._sound(sample)
        self.named = {name: part.detach() for name, part in self.named.items()}
        _, watch = self._watched(sample, {}, None)
        self.calls, self.probes = watch.calls, [torch.zeros_like(one) for one in watch.outputs]
        whole = [block for number, block in enumerate(self.blocks) if number not in self.products]
        self.whole = {name: self.named[name] for block in whole for name in block.names}
        self.size = sum(one.numel() for one in [*watch.inputs, *self.probes, *self.whole.values()])  # that a sample takes

    def _watched(self, sample: Tensor, whole: Named, probes: Sequence[Tensor] | None) -> tuple[Tensor, Watch]:
        """The outputs for one sample, and its calls."""
        watch = Watch(self.products, self.named, probes)
        with watch:
            outputs = self.model.called({**self.named, **whole}, sample[None])[0]
        return outputs, watch

    def _sound(self, sample: Tensor) -> dict[int, Block]:
        """The blocks whose gradient, in some direction of the outputs, is the sum of the products that are seen."""
        outputs, watch = self._watched(sample, {}, None)
        direction = torch.arange(1, 1 + outputs.numel()).to(outputs).cos().view(outputs.shape)
        names = [name for block in self.products.values() for name in block.names]
        asked = [*watch.outputs, *(self.named[name] for name in names)]
        found = torch.autograd.grad(outputs, asked, direction, allow_unused=True, materialize_grads=True)
        own = dict(zip(names, found[len(watch.outputs) :], strict=True))
        slopes = [_rows(self.blocks[n].kind, one[None, None]) for n, one in zip(watch.calls, found, strict=False)]
        sound = {}
        for number, block in self.products.items():
            seen = [k for k, call in enumerate(watch.calls) if call == number]
            expected = block.matrix([own[name][None] for name in block.names])[0]
            total = sum((slopes[k][0, 0].mT @ watch.inputs[k] for k in seen), torch.zeros_like(expected))
            if seen and (total - expected).abs().max() <= torch.finfo(total.dtype).eps ** 0.5 * expected.abs().max():
                sound[number] = block
        return sound

    def passed(self, inputs: Tensor, directions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each block inputs (B, L, inputs + 1) and slopes (B, D, L, outputs), for directions (B, ..., D) of the outputs."""

        def one(sample: Tensor, columns: Tensor) -> tuple[list[Tensor], list[Tensor], Named]:
            def outputs(probes: list[Tensor], whole: Named) -> tuple[Tensor, list[Tensor]]:
                value, watch = self._watched(sample, whole, probes)
                return value, watch.inputs

            given, (slopes, own) = calculus.pull_noting(outputs, (self.probes, self.whole), columns)
            return given, slopes, own

        given, slopes, own = calculus.many(one, over=(0, 0), chunk=None)(inputs, directions.movedim(-1, 1))
        return [self._block(number, given, slopes, own) for number in range(len(self.blocks))]

    def _block(self, number: int, given: list[Tensor], slopes: list[Tensor], own: Named) -> tuple[Tensor, Tensor]:
        block = self.blocks[number]
        if number in self.products:
            seen = [k for k, call in enumerate(self.calls) if call == number]
            rows = [_rows(block.kind, slopes[k]) for k in seen]
            return torch.cat([given[k] for k in seen], dim=1), torch.cat(rows, dim=2)
        parts = [own[name] for name in block.names]  # (B, D, *shape)
        samples, directions = parts[0].shape[:2]
        each = block.matrix([part.flatten(0, 1) for part in parts])
        gradients = each.view(samples, directions, *each.shape[1:])
        if block.kind == "whole":  # D places, each with its own gradient for input
            unit = torch.eye(directions).to(gradients)[:, :, None]
            return gradients[:, :, 0], unit.expand(samples, -1, -1, -1)
        unit = torch.eye(gradients.shape[-1]).to(gradients)
        return unit.expand(samples, -1, -1), gradients.mT


def _rows(kind: Kind, slopes: Tensor) -> Tensor:
    """Slopes (B, D, *shape of a call's output) as (B, D, L, outputs)."""
    rows = slopes.flatten(-2).mT if kind == "convolution" else slopes
    return rows.reshape(*rows.shape[:2], -1, rows.shape[-1])
