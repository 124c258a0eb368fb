"""Layers as Kronecker products: what goes into each, what comes back to it, and gradients as one matrix for each layer."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import group_norm, unfold

from benchmark.base.errors import Unsolved
from benchmark.core import calculus, traced
from benchmark.core.layers import NORM_EPS, Conv, Dense, GroupNorm, Layer
from benchmark.core.losses import LOSS_ROOTS, LOSS_SLOPES, Loss
from benchmark.core.models import Model
from benchmark.core.problem import Problem, Samples
from benchmark.core.wrapped import Module

SAMPLES = 256  # samples whose layers are held at once: bounds memory
PARTS = 16  # of whose moments so many are held before they are summed
NUMBERS = 2**26  # of a module's layers held at once
WIDEST = 10_000  # inputs of a layer whose moments are made a matrix of
Matrices = list[Tensor]  # of each layer with parameters: (K, outputs, inputs + 1), the bias last


def curvature_roots(problem: Problem, theta: Tensor, samples: Samples) -> Tensor:
    """B_b (B, D, P) with ``B_b^T B_b`` the sample's Gauss-Newton matrix without L2 term."""
    model = problem.model
    outputs = model.outputs(theta, samples.inputs)
    roots = LOSS_ROOTS[model.loss](outputs)  # (B, C, D)
    calculus.count(gradients=outputs.numel())

    def along(theta: Tensor, inputs: Tensor, root: Tensor) -> Tensor:
        return model.outputs(theta, inputs[None])[0] @ root  # (D,)

    def rows(inputs: Tensor, root: Tensor) -> Tensor:
        return calculus.pull(lambda theta: along(theta, inputs, root), (theta,), torch.eye(root.shape[1]).to(theta))[0]

    found: Tensor = calculus.many(rows, over=(0, 0))(samples.inputs, roots)
    return found


@dataclass(frozen=True, eq=False)
class Passed:
    """One layer on B samples, seen along D directions of the outputs: the gradient of each is ``G_bd = sum_l s_bdl a_bl^T``.

    L places share the layer's weights: the pixels of a convolution, else one. The few parameters of a layer that is no such
    product, GroupNorm's, have the input 1, and their own gradient for the slope. Of a torch.nn.Module the places are all that a
    weight is multiplied with for one sample, such as the tokens of a sequence; what is no product there is one row of
    parameters, whose gradients are the inputs, one place for each direction, where the slope is 1.
    """

    inputs: Tensor  # (B, L, inputs + 1) a, the last entry 1 for the bias
    slopes: Tensor  # (B, D, L, outputs) s

    def gradients(self) -> Tensor:
        """G (B, D, outputs, inputs + 1)."""
        return torch.einsum("bdlo,bli->bdoi", self.slopes, self.inputs)

    def turned(self, axes: "Axes") -> "Passed":
        """The same along other axes of slopes and inputs."""
        return Passed(self.inputs @ axes.inputs, self.slopes @ axes.slopes)

    def squares(self) -> Tensor:
        """``sum_bd G_bd^2`` (outputs, inputs + 1), of no more samples at once than needed where places share the weights."""
        if self.inputs.shape[1] == 1:
            return (self.slopes[:, :, 0] ** 2).sum(1).T @ self.inputs[:, 0] ** 2
        each = zip(torch.split(self.inputs, 1), torch.split(self.slopes, 1), strict=True)
        return torch.stack([Passed(*one).gradients().square().sum((0, 1)) for one in each]).sum(0)


def passes(problem: Problem, theta: Tensor, samples: Samples, matrix: str) -> Iterator[list[Passed]]:
    """The layers with parameters, `SAMPLES` samples at a time.

    The directions are the roots of the loss's second derivative in the outputs for "gauss-newton", so that
    ``sum_d G_bd (x) G_bd`` is the sample's Gauss-Newton matrix, and the loss's slope for "fisher". L2 terms are left out.
    """
    model = problem.model
    if isinstance(model, Module):
        yield from _module_passes(model, theta, samples, matrix)
        return
    for rows in torch.split(torch.arange(len(samples), device=theta.device), SAMPLES):
        yield _passed(model, theta, samples[rows], matrix)


def _module_passes(model: Module, theta: Tensor, samples: Samples, matrix: str) -> Iterator[list[Passed]]:
    seen = traced.Traced(model, theta, samples.inputs[0])
    for some in torch.split(torch.arange(len(samples), device=theta.device), max(1, min(SAMPLES, NUMBERS // seen.size))):
        inputs, targets = samples.inputs[some], samples.targets[some]
        directions = _directions(model.loss, matrix, model.outputs(theta, inputs), targets)  # (B, ..., D)
        calculus.count(gradients=len(some) * directions.shape[-1])
        yield [Passed(*block) for block in seen.passed(inputs, directions)]


def _passed(model: Model, theta: Tensor, samples: Samples, matrix: str) -> list[Passed]:
    with torch.enable_grad():
        places, outputs = _traced(model, theta, samples.inputs)
        directions = _directions(model.loss, matrix, outputs.detach(), samples.targets)  # (B, C, D)
        calculus.count(gradients=len(samples) * directions.shape[-1])
        after = [values for _, _, values in places]
        slopes = [torch.autograd.grad(outputs, after, column, retain_graph=True) for column in directions.unbind(-1)]
    columns = [torch.stack(each, dim=1) for each in zip(*slopes, strict=True)]  # (B, D, features)
    return [_layer(layer, before, column) for (layer, before, _), column in zip(places, columns, strict=True)]


def _directions(loss: Loss, matrix: str, outputs: Tensor, targets: Tensor) -> Tensor:
    return LOSS_ROOTS[loss](outputs) if matrix == "gauss-newton" else LOSS_SLOPES[loss](outputs, targets)[..., None]


def _traced(model: Model, theta: Tensor, inputs: Tensor) -> tuple[list[tuple[Layer, Tensor, Tensor]], Tensor]:
    """Each layer with parameters, the values before it and those after it, which autograd follows; and the outputs."""
    values, places = inputs.detach(), []
    for layer, parameters in zip(model.layers, model.parts(theta.detach()), strict=True):
        before, values = values, layer.apply(values, *parameters)
        if parameters:
            values = values if values.requires_grad else values.requires_grad_()
            places.append((layer, before.detach(), values))
    return places, values


def _layer(layer: Layer, before: Tensor, slopes: Tensor) -> Passed:
    """Values (B, features) before a layer and slopes (B, D, features) after it."""
    match layer:
        case Dense():
            return Passed(_with_one(before)[:, None], slopes[:, :, None])
        case Conv(image, filters, kernel, padding):
            patches = unfold(before.reshape(-1, *image), kernel, padding=padding).mT  # (B, L, channels kernel^2)
            return Passed(_with_one(patches), slopes.reshape(*slopes.shape[:2], filters, -1).mT)
        case GroupNorm(image, groups):
            normal = group_norm(before.reshape(-1, *image), groups, eps=NORM_EPS).flatten(2)  # (B, channels, pixels)
            along = slopes.reshape(*slopes.shape[:2], image[0], -1)  # (B, D, channels, pixels)
            own = torch.cat([(along * normal[:, None]).sum(-1), along.sum(-1)], dim=-1)  # (B, D, 2 channels)
            return Passed(torch.ones_like(before[:, :1, None]), own[:, :, None])
    raise NotImplementedError(f"no Kronecker form of the layer {type(layer).__name__}")


def _with_one(values: Tensor) -> Tensor:
    return torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)


# ---- flat vectors as matrices, and back ------------------------------------------------------------------------------
def matrices(model: Model, vectors: Tensor) -> Matrices:
    """Flat vectors (K, P) as one matrix for each layer with parameters."""
    if isinstance(model, Module):
        return traced.layered(model, vectors)
    return [_matrix(layer, parts) for layer, parts in zip(model.layers, model.parts(vectors), strict=True) if parts]


def _matrix(layer: Layer, parts: list[Tensor]) -> Tensor:
    if isinstance(layer, GroupNorm):
        return torch.cat(parts, dim=1)[..., None]
    weight, bias = parts
    return torch.cat([weight.flatten(2), bias[..., None]], dim=2)


def vectors(model: Model, found: Matrices) -> Tensor:
    """The inverse of `matrices`: (K, P)."""
    if isinstance(model, Module):
        return torch.cat([block.flat(part) for block, part in zip(traced.blocks(model), found, strict=True)], dim=1)
    layers = [layer for layer in model.layers if layer.shapes]
    parts = [_parts(layer, matrix) for layer, matrix in zip(layers, found, strict=True)]
    return torch.cat([part.flatten(1) for layer in parts for part in layer], dim=1)


def _parts(layer: Layer, matrix: Tensor) -> list[Tensor]:
    return [matrix] if isinstance(layer, GroupNorm) else [matrix[..., :-1], matrix[..., -1]]


# ---- curvatures ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Axes:
    """One layer's curvature ``sum_kl c_kl (q_k q_k^T) (x) (p_l p_l^T)``: axes q of slopes and p of inputs, in columns.

    Where the inputs of all samples span fewer dimensions than they have, p are R axes of their span; across it there is no
    curvature.
    """

    slopes: Tensor  # (outputs, outputs)
    inputs: Tensor  # (inputs + 1, R)
    curvatures: Tensor  # (outputs, R)

    def solved(self, matrix: Tensor, shift: float, share: float) -> Tensor:
        """``(curvature + shift + share * mean curvature)^-1`` applied to matrices (K, outputs, inputs + 1)."""
        damping = shift + share * float(self.curvatures.sum()) / (len(self.slopes) * len(self.inputs))
        if float((self.curvatures + damping).min()) <= 0 or (damping <= 0 and self.inputs.shape[1] < len(self.inputs)):
            raise Unsolved("a layer has directions without curvature and no damping: add damping")
        turned = self.slopes.T @ matrix @ self.inputs
        found = self.slopes @ (turned / (self.curvatures + damping)) @ self.inputs.T
        if self.inputs.shape[1] == len(self.inputs):
            return found
        return found + (matrix - matrix @ self.inputs @ self.inputs.T) / damping


def kfac(problem: Problem, theta: Tensor, matrix: str) -> list[Axes]:
    """K-FAC: each layer's curvature as ``A (x) S``, ``A = E[1/L sum_l a a^T]``, ``S = E[sum_dl s s^T]``, without L2 term.

    Martens and Grosse 2015, arXiv:1503.05671; for convolutions Grosse and Martens 2016, arXiv:1602.01573. The expectation is
    over the N training samples, and over labels by the exact root instead of sampled ones.
    """
    count = len(problem.train)
    parts: list[list[Factors]] = []
    for layers in passes(problem, theta, problem.train, matrix):
        parts.append([_factors(layer, count) for layer in layers])
        if len(parts) == PARTS:
            parts = [[_summed(list(layer)) for layer in zip(*parts, strict=True)]]
    return [_axes(list(layer), count) for layer in zip(*parts, strict=True)]


@dataclass(frozen=True, eq=False)
class Factors:
    """Of one layer and some samples: inputs (B L, inputs + 1), or where they are many their moments; moments of slopes."""

    inputs: Tensor
    slopes: Tensor  # sum_bdl s s^T (outputs, outputs)
    places: int  # L
    thin: bool  # whether there are fewer inputs of all samples than the inputs have features


def _factors(layer: Passed, samples: int) -> Factors:
    rows, places = layer.inputs.flatten(0, 1), layer.inputs.shape[1]
    thin = samples * places < rows.shape[1]
    if rows.shape[1] > WIDEST and not thin:
        most = f"K-FAC takes layers of at most {WIDEST} inputs, or as many as all samples have"
        raise Unsolved(f"{most}, got {rows.shape[1]}: take another solver, as cg")
    slopes = torch.einsum("bdlo,bdlp->op", layer.slopes, layer.slopes)
    return Factors(rows if thin else rows.T @ rows, slopes, places, thin)


def _summed(parts: list[Factors]) -> Factors:
    inputs, slopes = ([getattr(part, name) for part in parts] for name in ("inputs", "slopes"))
    joined = torch.cat(inputs) if parts[0].thin else torch.stack(inputs).sum(0)
    return replace(parts[0], inputs=joined, slopes=torch.stack(slopes).sum(0))


def _axes(parts: list[Factors], samples: int) -> Axes:
    widths, q = torch.linalg.eigh(torch.stack([part.slopes for part in parts]).sum(0) / samples)
    lengths, p = _principal(parts, samples * parts[0].places)
    return Axes(q, p, torch.outer(widths.clamp(min=0), lengths))


def _principal(parts: list[Factors], rows: int) -> tuple[Tensor, Tensor]:
    """Second moments (R,) of so many inputs along their principal axes (inputs + 1, R)."""
    if parts[0].thin:
        _, sizes, axes = torch.linalg.svd(torch.cat([part.inputs for part in parts]), full_matrices=False)
        return sizes**2 / rows, axes.T.contiguous()
    values, axes = torch.linalg.eigh(torch.stack([part.inputs for part in parts]).sum(0) / rows)
    return values.clamp(min=0), axes


def ekfac(problem: Problem, theta: Tensor, matrix: str) -> list[Axes]:
    """EK-FAC: K-FAC's axes with the curvatures ``E[sum_d (Q_S^T G_d Q_A)^2]`` found along them.

    George et al. 2018, arXiv:1806.03884; for influence Grosse et al. 2023, arXiv:2308.03296.
    """
    axes = kfac(problem, theta, matrix)
    sums = [torch.zeros_like(layer.curvatures) for layer in axes]
    for layers in passes(problem, theta, problem.train, matrix):
        for total, layer, own in zip(sums, layers, axes, strict=True):
            total += layer.turned(own).squares()
    return [Axes(own.slopes, own.inputs, total / len(problem.train)) for own, total in zip(axes, sums, strict=True)]
