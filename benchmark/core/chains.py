"""A torch.nn.Module that is a chain of layers of ours, found by tracing: as a `Network` it is trained many times faster."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from benchmark.core.layers import Activation, Dense, Layer
from benchmark.core.losses import LOSS_CURVATURES
from benchmark.core.models import Network
from benchmark.core.wrapped import Module

NEAR = 1e-12  # of outputs in float64
SAME: dict[str, tuple[Any, ...]] = {  # what computes each activation
    "relu": (torch.relu, nn.functional.relu, "relu", nn.ReLU),
    "tanh": (torch.tanh, nn.functional.tanh, "tanh", nn.Tanh),
}
FLAT: tuple[Any, ...] = (torch.flatten, "flatten", nn.Flatten, nn.Identity)  # which change nothing of inputs (B, d)


def network(model: Module, inputs: Tensor) -> Network | None:
    """The same function of the same flat vector as a network, for inputs (B, d); None where it is no chain of our layers."""
    if inputs.ndim != 2 or not inputs.is_floating_point() or model.loss not in LOSS_CURVATURES or model.constants:
        return None
    try:
        layers = _layers(model, fx.symbolic_trace(nn.Sequential(model.net)), inputs.shape[1])
    except (fx.proxy.TraceError, RuntimeError, TypeError, AttributeError, NotImplementedError):
        return None
    if not layers or not isinstance(layers[0], Dense) or not isinstance(layers[-1], Dense):
        return None
    found, theta = Network(tuple(layers), model.loss), model.current().double()
    few = inputs[:4].double()
    if found.parameters != model.parameters or found.classes != model.classes:
        return None
    return found if torch.allclose(found.outputs(theta, few), model.outputs(theta, few), rtol=NEAR, atol=NEAR) else None


def _layers(model: Module, traced: fx.GraphModule, width: int) -> list[Layer] | None:
    """The layers of a traced module; None where a step is none of ours, or takes more than what came out of the one before."""
    layers: list[Layer] = []
    named: list[str] = []
    before: fx.Node | None = None
    for node in traced.graph.nodes:
        if before is not None and node.all_input_nodes != [before]:
            return None
        layer = traced.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            layers.append(Dense(width, layer.out_features))
            named += [f"{node.target}.weight", f"{node.target}.bias"]
            width = layer.out_features
        elif kind := next((name for name, same in SAME.items() if _is(node, layer, same)), None):
            layers.append(Activation(kind, width))
        elif node.op not in ("placeholder", "output") and not _is(node, layer, FLAT):
            return None
        before = node
    return layers if named == [f"0.{name}" for name in model.shapes] else None


def _is(node: fx.Node, layer: nn.Module | None, same: tuple[Any, ...]) -> bool:
    """Whether a step is one of the functions, methods or kinds of layers named."""
    if layer is not None:
        return type(layer) in same
    return node.op in ("call_function", "call_method") and node.target in same
