"""Whether a torch.nn.Module can be asked what it would be without a sample: what would make that wrong is refused in words."""

import copy
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from benchmark.base.errors import LoobenchError
from benchmark.core.calculus import many
from benchmark.core.code import Code
from benchmark.core.losses import LOSSES, OF_MANY, Loss, name_of
from benchmark.core.problem import Samples, map_tensors
from benchmark.core.wrapped import Make, Module, Shapes

TRIED = 4  # samples that a module is tried on
NEAR = 1e-6  # of a loss, by which it may differ where a sample is alone, in float64
NORMS = "use nn.GroupNorm or nn.LayerNorm, or put it into evaluation mode (.eval()), where its statistics are fixed"


def module(net: nn.Module, loss: Loss, some: Samples, make: Make | None = None, code: Code | None = None) -> Module:
    """A module with a loss, tried on samples in float64. Raises LoobenchError where answers would be wrong, with what helps."""
    for refusal in _layers(net):
        raise LoobenchError(f"{type(net).__name__}: {refusal}")
    tried = some[: min(TRIED, len(some))]
    real: Samples = map_tensors(tried, lambda part: part.double() if part.is_floating_point() else part)
    found = Module(net, loss, make=make, code=code)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using a target size")  # torch's losses warn, where here an error says more
        outputs = _tried(found, real)
    found.one = Shapes(tuple(real.inputs.shape[1:]), tuple(outputs.shape[1:]))
    found.mapped = _maps(found, found.current().double(), real)
    return found


def _tried(found: Module, real: Samples) -> Tensor:
    """The outputs (B, ...) for some samples, of a model and a loss whose answers are right."""
    theta = found.current().double()
    outputs = _outputs(found, theta, real)
    losses = _losses(found, outputs, real)
    again = _outputs(found, theta, real)
    if not (torch.equal(outputs, again) and torch.equal(losses, _losses(found, again, real))):
        raise LoobenchError(f"{found.name} gives other outputs each time: take what is random out of it (dropout: p = 0)")
    if _changes(found.net, real.inputs):
        raise LoobenchError(f"{found.name} changes its buffers when it is called, as batch statistics do: {NORMS}")
    _each_alone(found, theta, real, outputs, losses)
    _all_used(found, theta, real)
    return outputs


def _layers(net: nn.Module) -> Iterator[str]:
    """What is wrong with layers, by their types."""
    for name, layer in net.named_modules():
        kind = f"{name or 'it'} ({type(layer).__name__})"
        if isinstance(layer, _BatchNorm | nn.SyncBatchNorm) and (layer.training or layer.running_mean is None):
            yield f"{kind} mixes the samples of a batch: one left out would stay in the statistics of the others; {NORMS}"
        if isinstance(layer, _DropoutNd) and layer.training and layer.p:
            yield f"{kind} drops values at random, so that no two runs are the same: set p = 0, or call .eval()"
        if isinstance(layer, nn.MultiheadAttention | nn.RNNBase) and layer.training and layer.dropout:
            yield f"{kind} drops values at random, so that no two runs are the same: set dropout = 0, or call .eval()"


def _outputs(found: Module, theta: Tensor, some: Samples) -> Tensor:
    try:
        outputs = found.outputs(theta, some.inputs)
    except (RuntimeError, IndexError, ValueError, TypeError, AttributeError) as error:
        what = f"inputs {tuple(some.inputs.shape)} of {some.inputs.dtype}"
        raise LoobenchError(f"{found.name} cannot be called on {what}: {type(error).__name__}: {error}") from error
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or len(outputs) != len(some):
        came = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise LoobenchError(
            f"{found.name} must return one tensor (B, C), or (B, L, C) of tokens; for {len(some)} samples came {came}"
        )
    return outputs


def _changes(net: nn.Module, inputs: Tensor) -> bool:
    """Whether a call leaves other buffers behind."""
    whole = copy.deepcopy(net).double()
    before = [part.clone() for part in whole.buffers()]
    with torch.no_grad():
        whole(inputs)
    after = [*whole.buffers()]
    return len(after) != len(before) or not all(map(torch.equal, before, after))


def _losses(found: Module, outputs: Tensor, some: Samples) -> Tensor:
    named = name_of(found.loss)
    if isinstance(found.loss, str) and found.loss not in OF_MANY and some.targets.shape == (len(some), 1):
        raise LoobenchError(f"{named} takes targets (N,), got (N, 1): squeeze them, as targets[:, 0]")
    try:
        losses = LOSSES[found.loss](outputs, some.targets)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        what = f"outputs {tuple(outputs.shape)} and targets {tuple(some.targets.shape)} of {some.targets.dtype}"
        raise LoobenchError(f"the loss {named} cannot take {what}: {type(error).__name__}: {error}") from error
    if tuple(losses.shape) != (len(some),):
        raise LoobenchError(
            f"the loss {named} must give one number for each sample, ({len(some)},), got {tuple(losses.shape)}: in torch.nn's "
            "losses say reduction='none', and take the mean over what is within a sample"
        )
    return losses


def _each_alone(found: Module, theta: Tensor, some: Samples, outputs: Tensor, losses: Tensor) -> None:
    """Refuse a module or loss in which a sample's loss depends on the others of its batch."""
    each = [some[k : k + 1] for k in range(len(some))]
    alone = torch.cat([found.losses(theta, one.inputs, one.targets) for one in each])
    if torch.allclose(alone, losses, rtol=NEAR, atol=NEAR, equal_nan=True):
        return
    apart = torch.cat([found.outputs(theta, one.inputs) for one in each])
    mixing = not torch.allclose(apart, outputs, rtol=NEAR, atol=NEAR, equal_nan=True)
    raise LoobenchError(
        f"a sample's loss depends on the other samples of its batch ({float(losses[0]):.6g} with them, "
        f"{float(alone[0]):.6g} alone), so that leaving one out has no meaning of its own: "
        f"{NORMS if mixing else _unmixed(found.loss, outputs, some.targets)}"
    )


def _unmixed(loss: Loss, outputs: Tensor, targets: Tensor) -> str:
    """What helps where a loss mixes samples."""
    if outputs.numel() == targets.numel() and outputs.shape != targets.shape:
        shapes = f"targets ({len(targets)},) and outputs {tuple(outputs.shape)}"
        return f'{name_of(loss)} spreads {shapes} against each other: give targets of shape (N, 1), or say "squared-error"'
    return f"{name_of(loss)} mixes them, the model does not: let it give one number for each sample"


def _all_used(found: Module, theta: Tensor, some: Samples) -> None:
    at = theta.detach().requires_grad_()
    parts = found.named(at)
    with torch.enable_grad():
        total = LOSSES[found.loss](found.called(parts, some.inputs), some.targets).sum()
    if not total.requires_grad:
        raise LoobenchError(
            f"the loss of {found.name} does not depend on its parameters by autograd: is there a no_grad or detach?"
        )
    slopes = torch.autograd.grad(total, [*parts.values()], allow_unused=True)
    if unused := [name for name, slope in zip(parts, slopes, strict=True) if slope is None]:
        raise LoobenchError(
            f"the loss of {found.name} does not depend on {', '.join(unused[:5])}: remove them, or set requires_grad = False"
        )


def _maps(found: Module, theta: Tensor, some: Samples) -> bool:
    """Whether torch can map the module over runs, to the same losses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns where it would only loop
            mapped = many(found.losses, over=(0, None, None))(theta.repeat(2, 1), some.inputs, some.targets)
    except (RuntimeError, UserWarning):
        return False
    return torch.allclose(mapped[0], found.losses(theta, some.inputs, some.targets), rtol=NEAR, atol=NEAR)


def check_all(found: Module, theta: Tensor, samples: Samples, what: str, block: int) -> None:
    """Refuse samples that the module cannot take, as tokens out of its range, or whose loss is not finite from the start."""
    for start in range(0, len(samples), block):
        some = samples[start : start + block]
        losses = _losses(found, _outputs(found, theta, some), some)
        if not losses.isfinite().all():
            bad = start + int((~losses.isfinite()).nonzero()[0])
            raise LoobenchError(f"the loss of {what} sample {bad} is {float(losses[bad - start])} before the first step")
