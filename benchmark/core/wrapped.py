"""Any torch.nn.Module as a model: a pure function of the flat vector of the parameters that are trained."""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import prod
from threading import Lock, local
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from benchmark.base.errors import LoobenchError, Unsolved
from benchmark.base.files import json_digest, tensor_digest
from benchmark.base.streams import drawn
from benchmark.core.code import Code, code_of
from benchmark.core.losses import LOSSES, Loss
from benchmark.core.models import Living
from benchmark.core.recurrent import unroll

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Shapes:
    """Of one sample."""

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()


class Module:
    """A torch.nn.Module, and a loss of its outputs (B, ...).

    The flat vector (P,) holds its parameters that are trained, in the order of `named_parameters`; those shared by several
    layers once. Frozen parameters and buffers are constants. The module is never trained in place.
    """

    layers: tuple[Any, ...] = ()  # none of ours
    linear = dense = False

    def __init__(
        self, net: nn.Module, loss: Loss, *, make: Make | None = None, code: Code | None = None, one: Shapes | None = None
    ) -> None:
        self.net, self.loss, self.code = copy.deepcopy(net), loss, code
        self.make = make or (code.built if code else None)
        self.written = code_of(type(net))
        self.one, self.mapped = one or Shapes(), True
        named = dict(self.net.named_parameters())
        self.shapes = {name: part.shape for name, part in named.items() if part.requires_grad}
        self.constants = {name: part.detach() for name, part in named.items() if not part.requires_grad}
        self.constants |= {name: part for name, part in self.net.named_buffers() if part is not None}
        self.own = local()  # of each thread a copy of the module, since a call puts parameters into it, and the constants
        for layer in self.net.modules():
            if _pads(layer) and layer.weight[layer.padding_idx].any():
                raise LoobenchError(
                    "an nn.Embedding's row of its padding_idx must be 0, as torch makes it, got another: zero it"
                )
        if not self.shapes:
            raise LoobenchError(f"{type(net).__name__} has no parameters to train: set requires_grad of some")

    @property
    def name(self) -> str:
        """The name of its class."""
        return type(self.net).__name__

    def __deepcopy__(self, memo: dict[int, Any]) -> "Module":
        return self

    def __repr__(self) -> str:
        """What decides its numbers, for the digest of a problem."""
        return f"Module({self.digest()})"

    def digest(self) -> str:
        """Content digest of code, constants and loss."""
        loss = self.loss if isinstance(self.loss, str) else repr(self.loss)
        structure = self.code.digest if self.code else [repr(self.net), self.written and self.written.digest]
        shapes = [[name, list(shape)] for name, shape in self.shapes.items()]
        return json_digest([structure, shapes, loss, tensor_digest(self.constants.values())])

    @property
    def classes(self) -> int:
        """C, the outputs of a sample, or of each token where there are several."""
        return self.one.outputs[-1] if self.one.outputs else 1

    @property
    def inputs(self) -> int:
        """Numbers that a sample's inputs are."""
        return prod(self.one.inputs)

    @property
    def parameters(self) -> int:
        """P, the number of parameters that are trained."""
        return sum(map(prod, self.shapes.values()))

    def parts(self, theta: Tensor) -> list[list[Tensor]]:
        """The parameters of each layer as parts of the flat vector `theta` (P,), or (R, *shape) each of R vectors (R, P)."""
        named = self.named(theta).items()
        return [[part for _, part in layer] for _, layer in groupby(named, lambda pair: pair[0].rpartition(".")[0])]

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """The parameters by their names, as `parts` has them."""
        parts = torch.split(theta, list(map(prod, self.shapes.values())), dim=-1)
        lead = theta.shape[:-1]
        pairs = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(*lead, *shape) for (name, shape), part in pairs}

    def outputs(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """Outputs of the module. (P,), (B, ...) -> (B, ...)"""
        return self.called(self.named(theta), inputs)

    def called(self, named: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs with the parameters of those names. (B, ...) -> (B, ...)"""
        net, constants = self._here(next(iter(named.values())))
        if self.own.normalises is False:
            return _called(net, {**constants, **named}, inputs)
        with PlainNorms() as norms:
            found = _called(net, {**constants, **named}, inputs)
        self.own.normalises = norms.met
        return found

    def losses(self, theta: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Per-sample losses without L2 term. (P,), (B, ...), (B, ...) -> (B,)"""
        return LOSSES[self.loss](self.outputs(theta, inputs), targets)

    def features(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """What goes into the last nn.Linear that is called, several rows of a sample flattened. (P,), (B, ...) -> (B, F)

        Raises Unsolved where outputs are of tokens, not of samples, and LoobenchError where there is no such layer.
        """
        if self.loss == "token-cross-entropy" or len(self.one.outputs) > 1:
            raise Unsolved(
                "what goes into the last layer must be of a sample, got outputs for each of its parts, as its tokens"
            )
        net, _ = self._here(theta)
        seen: list[Tensor] = []
        hooks = [
            layer.register_forward_pre_hook(lambda _layer, given: seen.append(given[0]))
            for layer in net.modules()
            if isinstance(layer, nn.Linear)
        ]
        try:
            self.outputs(theta, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        if not seen:
            raise LoobenchError(f"{type(self.net).__name__} has no nn.Linear: nothing of it is a hidden feature")
        return seen[-1].reshape(len(inputs), -1)

    def initial(self, random: np.random.RandomState) -> Tensor:
        """Initial parameters (P,): drawn anew where it is known how the module is made, else those that it came with."""
        net = self.net
        if self.make:
            with drawn(random):
                net = self.make()
        return self._flat(net)

    def current(self) -> Tensor:
        """The parameters (P,) that it came with."""
        return self._flat(self.net)

    def _flat(self, net: nn.Module) -> Tensor:
        named = dict(net.named_parameters())
        return torch.cat([named[name].detach().flatten() for name in self.shapes])

    def at(self, theta: Tensor) -> nn.Module:
        """A module of its own with the parameters `theta` (P,), in evaluation mode.

        What is frozen is a buffer of it, so that it has no other parameters. Its tokens may come as real numbers.
        """
        net = copy.deepcopy(self.net).to(theta)
        _prepare(net)
        for layer in net.modules():
            if isinstance(layer, nn.Embedding):
                layer.register_forward_pre_hook(_whole)
        with torch.no_grad():
            for name, part in self.named(theta).items():
                net.get_parameter(name).copy_(part)
        for name, part in [*net.named_parameters(remove_duplicate=False)]:
            if not part.requires_grad:
                owner, own = net.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
                delattr(owner, own)
                owner.register_buffer(own, part.detach())
        net.forward = partial(_plainly, net.forward)
        return net.eval()

    def living(self, theta: Tensor) -> Living:
        """The module itself at parameters that lie in the memory of `theta` (P,), with torch's fastest kernels."""
        net = copy.deepcopy(self.net).to(theta)
        for name, part in self.named(theta).items():
            net.get_parameter(name).data = part
        return Living([net.get_parameter(name) for name in self.shapes], net)

    def _here(self, theta: Tensor) -> tuple[nn.Module, dict[str, Tensor]]:
        """The module of this thread, and its constants in the precision and on the device of the parameters."""
        if not hasattr(self.own, "net"):
            self.own.net, self.own.constants, self.own.normalises = copy.deepcopy(self.net), {}, None
            _prepare(self.own.net)
        place = theta.dtype, theta.device
        if place not in self.own.constants:
            self.own.constants[place] = {
                name: part.to(theta.device, theta.dtype if part.is_floating_point() else None)
                for name, part in self.constants.items()
            }
        return self.own.net, self.own.constants[place]


def _prepare(net: nn.Module) -> None:
    """Put operations that have all derivatives in the place of those that have not."""
    unroll(net)
    for layer in net.modules():
        if _pads(layer):
            layer.forward = partial(_padded, layer)  # type: ignore[method-assign]


def _pads(layer: nn.Module) -> TypeGuard[nn.Embedding]:
    return isinstance(layer, nn.Embedding) and layer.padding_idx is not None and layer.weight.requires_grad


def _padded(layer: nn.Embedding, tokens: Tensor) -> Tensor:
    """Rows of the table, 0 for padding: as torch's own, which withholds the gradient of a row that its values depend on."""
    rows: Tensor = nn.functional.embedding(tokens, layer.weight)
    return rows * tokens.ne(layer.padding_idx or 0)[..., None]


class _PlainKernels:
    """Attention by matrix products while any thread is inside: fused kernels have no second derivative and no forward mode.

    The switches are those of the whole process, so that the first thread in sets them and the last one out puts them back.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.undo = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.undo.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
                torch.backends.mha.set_fastpath_enabled(False)
                self.undo.enter_context(sdpa_kernel(SDPBackend.MATH))
            self.inside += 1

    def __exit__(self, *_error: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.undo.close()


_plain_kernels = _PlainKernels()


def _called(net: nn.Module, named: dict[str, Tensor], inputs: Tensor) -> Tensor:
    with _plain_kernels:
        found: Tensor = functional_call(net, named, (inputs,), tie_weights=True)
    return found


def _plainly(forward: Callable[..., Any], *given: Any) -> Any:
    with _plain_kernels, PlainNorms():
        return forward(*given)


class PlainNorms(TorchFunctionMode):
    """Layer normalisation with its scale and shift after it, as operations of their own, in the block.

    Torch's own has a wrong derivative forward through gradients that are mapped over samples, as in ``jvp(vmap(grad))``.
    """

    met = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch asks here for each function of its own that is called."""
        if function in (nn.functional.layer_norm, torch.layer_norm):
            self.met = True
            return _layer_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,  # noqa: A002  # as torch calls it
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_kernels: Any,
    **_settings: Any,
) -> Tensor:
    found = nn.functional.layer_norm(input, normalized_shape, None, None, eps)
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _whole(_layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tokens.long() for tokens in given)
