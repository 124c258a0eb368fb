"""One batch at one parameter vector, and what many shifts of the parameters do to its losses and gradients.

The network's own values are computed once for all shifts, and each layer's part of a shift is one wide product: nothing is
repeated for each of R shifts that they share. Dense networks are written out; others go through `torch.func`.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from benchmark.core import calculus
from benchmark.core.layers import ACTIVATION_BENDS, ACTIVATION_PULLS, Activation, Dense
from benchmark.core.losses import LOSS_CURVATURES, LOSS_SLOPES, LOSSES, curvature
from benchmark.core.models import Model

Parts = list[Tensor]  # (R, *shape) for each parameter tensor, in the order of the flat vector


def split(model: Model, flat: Tensor) -> Parts:
    """Flat vectors (R, P) as parts, each on its own in memory."""
    return [part.contiguous() for layer in model.parts(flat) for part in layer]


def join(parts: Sequence[Tensor]) -> Tensor:
    """Parts as flat vectors (R, P)."""
    return torch.cat([part.flatten(1) for part in parts], dim=1)


class Tangents(Protocol):
    """B samples at one theta, their losses taken with L2 term; shifts d_r of theta come as parts."""

    def outputs(self, shift: Parts, /) -> Tensor:
        """``J_b d_r``, how the network's outputs move, (R, B, C)."""

    def slopes(self, shift: Parts, /) -> Tensor:
        """``<g_b, d_r>``, (R, B)."""

    def gradient(self, weights: Tensor, /) -> Parts:
        """``sum_b w_rb g_b`` for weights (R, B)."""

    def add(
        self, out: Parts, shift: Parts, weights: Tensor, sources: Tensor | None, alpha: float, /, *, bent: bool = True
    ) -> None:
        """``out_r += alpha sum_b (w_rb H_b d_r + s_rb g_b)`` for weights (R, B), or (1, B) for all, and sources (R, B).

        The `out` may be the shift itself. Where the outputs are not taken to be `bent` in the parameters, H_b is the
        Gauss-Newton matrix ``J_b^T l''_b J_b``, L2 term included.
        """


def tangents(model: Model, theta: Tensor, inputs: Tensor, targets: Tensor, weight_decay: float) -> Tangents:
    """Samples, inputs (B, d) and targets (B,), at `theta` (P,), for shifts of it as parts (R, *shape), as `split` makes them.

    The methods of what is returned: `outputs(shift)` (R, B, C) and `slopes(shift)` (R, B), how outputs and losses move;
    `gradient(weights)`, the weighted gradients as parts; `add(out, shift, weights, sources, alpha)`, which adds to `out`
    ``alpha sum_b (w_rb H_b d_r + s_rb g_b)`` for weights and sources (R, B).
    """
    written = model.dense and model.loss in LOSS_CURVATURES  # a loss of one's own has none
    return (DenseTangents if written else MappedTangents)(model, theta, inputs, targets, weight_decay)


def decay(out: Parts, shift: Parts, theta: Parts, kept: Tensor, removed: Tensor | None) -> None:
    """The L2 term: ``out_r += kept_r d_r + removed_r theta`` for kept (R,) or (1,), removed (R,)."""
    rows = torch.empty(0) if removed is None else removed.nonzero()[:, 0]
    for target, moved, at in zip(out, shift, theta, strict=True):
        shaped = (-1, *[1] * at.ndim)
        if target is moved:
            target.mul_(1 + kept.view(shaped))
        else:
            target.addcmul_(moved, kept.view(shaped).expand_as(target))
        if len(rows):
            assert removed is not None
            target.index_add_(0, rows, removed[rows].view(shaped) * at)


class DenseTangents:
    """Dense layers and activations: values (B, features), their tangents (B, R, features)."""

    def __init__(self, model: Model, theta: Tensor, inputs: Tensor, targets: Tensor, weight_decay: float) -> None:
        self.model, self.targets, self.weight_decay = model, targets, weight_decay
        self.parameters = model.parts(theta)
        self.flat = [part for layer in self.parameters for part in layer]
        self.values = [inputs]
        for layer, parts in zip(model.layers, self.parameters, strict=True):
            self.values.append(layer.apply(self.values[-1], *parts))
        self.back: list[Tensor] | None = None

    def _backs(self) -> list[Tensor]:
        """Slopes (B, features) of each sample's loss in the values after each layer, from the first layer on."""
        if self.back is None:
            found = [LOSS_SLOPES[self.model.loss](self.values[-1], self.targets)]
            for depth in reversed(range(1, len(self.model.layers))):
                layer = self.model.layers[depth]
                if isinstance(layer, Activation):
                    found.append(ACTIVATION_PULLS[layer.function](found[-1], self.values[depth + 1]))
                else:
                    found.append(found[-1] @ self.parameters[depth][0])
            self.back = found[::-1]
        return self.back

    def _forward(self, shift: Parts) -> list[Tensor | None]:
        """Tangents (B, R, features) of the values before each layer and of the outputs; None: the inputs do not move."""
        moved: list[Tensor | None] = [None]
        parts = iter(shift)
        for depth, layer in enumerate(self.model.layers):
            if isinstance(layer, Activation):
                slope, _ = ACTIVATION_BENDS[layer.function](self.values[depth + 1])
                moved.append(_shaped(moved[-1]) * slope[:, None])
            else:
                moved.append(self._dense(depth, moved[-1], next(parts), next(parts)))
        return moved

    def _dense(self, depth: int, before: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        wide = self.values[depth] @ weight.flatten(0, 1).T  # (B, R out)
        found = wide.view(-1, *bias.shape)
        if before is not None:
            found.flatten(0, 1).addmm_(before.flatten(0, 1), self.parameters[depth][0].T)
        return found.add_(bias)

    def outputs(self, shift: Parts) -> Tensor:
        return _shaped(self._forward(shift)[-1]).transpose(0, 1)

    def slopes(self, shift: Parts) -> Tensor:
        moved = (self.outputs(shift) * self._backs()[-1]).sum(-1)
        if not self.weight_decay:
            return moved
        along = sum(part.flatten(1) @ at.flatten() for part, at in zip(shift, self.flat, strict=True))
        return moved + self.weight_decay * torch.as_tensor(along)[:, None]

    def gradient(self, weights: Tensor) -> Parts:
        total, found = weights.sum(1), []
        backs = self._backs()
        for depth, layer in enumerate(self.model.layers):
            if isinstance(layer, Dense):
                slope = weights.T[:, :, None] * backs[depth][:, None]  # (B, R, out)
                weight = slope.flatten(1).T @ self.values[depth]
                found += [weight.view(len(total), layer.outputs, -1), slope.sum(0)]
        for part, at in zip(found, self.flat, strict=True):
            part.add_(self.weight_decay * total.view(-1, *[1] * at.ndim) * at)
        return found

    def add(
        self, out: Parts, shift: Parts, weights: Tensor, sources: Tensor | None, alpha: float, *, bent: bool = True
    ) -> None:
        moved, backs = self._forward(shift), self._backs()
        kept = weights.T[:, :, None]  # (B, R, 1)
        slope = kept * LOSS_CURVATURES[self.model.loss](self.values[-1], _shaped(moved[-1]))
        if sources is not None:
            slope = slope.addcmul_(sources.T[:, :, None], backs[-1][:, None])
        place = len(shift)
        for depth in reversed(range(len(self.model.layers))):
            layer, value, before, back = self.model.layers[depth], self.values[depth + 1], moved[depth], backs[depth]
            if isinstance(layer, Activation):
                slope = _through(layer, value, slope, kept, _shaped(before), back if bent else None)
                continue
            place -= 2
            weight, given = shift[place], slope
            if before is not None:
                slope = (given.flatten(0, 1) @ self.parameters[depth][0]).view(*given.shape[:2], -1)
                if bent:
                    slope.addcmul_(kept, (back @ weight.transpose(0, 1).flatten(1)).view(slope.shape))
            self._l2(place, out, shift, weights, sources, alpha)
            out[place].flatten(0, 1).addmm_(given.flatten(1).T, self.values[depth], alpha=alpha)
            if before is not None and bent:
                turned = back.T.expand(len(weight), -1, -1)
                out[place].baddbmm_(turned, (kept * before).transpose(0, 1), alpha=alpha)
            out[place + 1].add_(given.sum(0), alpha=alpha)

    def _l2(self, place: int, out: Parts, shift: Parts, weights: Tensor, sources: Tensor | None, alpha: float) -> None:
        if not self.weight_decay:
            return
        both, factor = slice(place, place + 2), alpha * self.weight_decay
        removed = None if sources is None else factor * sources.sum(1)
        decay(out[both], shift[both], self.flat[both], factor * weights.sum(1), removed)


def _shaped(tangent: Tensor | None) -> Tensor:
    assert tangent is not None  # only inputs do not move, and the first layer is dense
    return tangent


def _through(layer: Activation, value: Tensor, slope: Tensor, kept: Tensor, before: Tensor, back: Tensor | None) -> Tensor:
    """The weighted slope's tangent before an activation: ``sigma' c + w sigma'' dz delta``, delta the slope `back`."""
    first, second = ACTIVATION_BENDS[layer.function](value)
    slope = slope * first[:, None]
    return slope if second is None or back is None else slope.addcmul_(kept * before, (second * back)[:, None])


class MappedTangents:
    """Any network, by `torch.func` mapped over the shifts, with values that no shift changes computed once."""

    def __init__(self, model: Model, theta: Tensor, inputs: Tensor, targets: Tensor, weight_decay: float) -> None:
        self.model, self.theta, self.inputs, self.targets = model, theta, inputs, targets
        self.weight_decay = weight_decay

    def _losses(self, theta: Tensor) -> Tensor:
        losses = LOSSES[self.model.loss](self.model.outputs(theta, self.inputs), self.targets)
        return losses + self.weight_decay / 2 * (theta @ theta)

    def outputs(self, shift: Parts) -> Tensor:
        return self._pushed(lambda theta: self.model.outputs(theta, self.inputs), shift)

    def slopes(self, shift: Parts) -> Tensor:
        return self._pushed(self._losses, shift)

    def _pushed(self, function: calculus.Function, shift: Parts) -> Tensor:
        pushed: Tensor = calculus.many(lambda moved: calculus.push(function, (self.theta,), (moved,))[1], over=(0,))(
            join(shift)
        )
        return pushed

    def gradient(self, weights: Tensor) -> Parts:
        return split(self.model, calculus.pull(self._losses, (self.theta,), weights)[0])

    def add(
        self, out: Parts, shift: Parts, weights: Tensor, sources: Tensor | None, alpha: float, *, bent: bool = True
    ) -> None:
        usual = weights.mode(0).values  # those of all runs but a few
        flat, product = join(shift), self._hessian if bent else self._gauss_newton
        found = calculus.many(product, over=(0, None))(flat, usual)
        own = (weights != usual).any(1)
        if own.any():
            found[own] += calculus.many(product, over=(0, 0))(flat[own], weights[own] - usual)
        if sources is not None and (rows := sources.any(1)).any():
            found[rows] += join(self.gradient(sources[rows]))
        for target, part in zip(out, split(self.model, found), strict=True):
            target.add_(part, alpha=alpha)

    def _hessian(self, vector: Tensor, weights: Tensor) -> Tensor:
        gradient = calculus.gradient(lambda theta: weights @ self._losses(theta))
        return calculus.symmetric_push(gradient, self.theta, vector)[1]

    def _gauss_newton(self, vector: Tensor, weights: Tensor) -> Tensor:
        values, back = calculus.linearised(lambda theta: self.model.outputs(theta, self.inputs), self.theta)
        moved = calculus.push(lambda theta: self.model.outputs(theta, self.inputs), (self.theta,), (vector,))[1]
        curved = curvature(self.model.loss, values, self.targets, moved)
        return back(weights.view(-1, *[1] * (curved.ndim - 1)) * curved) + self.weight_decay * weights.sum() * vector
