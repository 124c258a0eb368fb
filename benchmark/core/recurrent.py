"""Recurrent layers of torch.nn step by step: their own kernels can neither be mapped over runs nor differentiated twice."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmark.base.errors import LoobenchError

State = tuple[Tensor, ...]  # of one layer and direction: (B, hidden), for an LSTM with its cell
Cell = Callable[[Tensor, Tensor, State], State]  # gates of input and of state before the nonlinearity (B, G hidden), the state


def unroll(net: nn.Module) -> None:
    """Let the recurrent layers of a module be computed step by step. Raises LoobenchError for those that cannot be."""
    for layer in net.modules():
        if isinstance(layer, nn.RNNBase):
            if layer.proj_size or (layer.dropout and layer.training and layer.num_layers > 1):
                raise LoobenchError("recurrent layers with a projection or dropout are not supported: set both to 0")
            layer.forward = partial(_forward, layer)


def _forward(layer: nn.RNNBase, inputs: Tensor, start: Tensor | State | None = None) -> tuple[Tensor, Tensor | State]:
    """What `layer.forward` returns, of a whole batch. (B, L, features) or (L, B, features)"""
    if not isinstance(inputs, Tensor) or inputs.ndim != 3:
        raise LoobenchError("recurrent layers take a batch of equal lengths (B, L, features): pad sequences, do not pack them")
    steps = inputs.transpose(0, 1) if layer.batch_first else inputs
    first = (start,) if isinstance(start, Tensor) else start
    last: list[State] = []
    for depth in range(layer.num_layers):
        found = []
        for way in range(1 + layer.bidirectional):
            place = len(last)
            state = tuple(one[place] for one in first) if first else _zeros(layer, steps)
            outputs, state = _one_way(layer, f"_l{depth}" + "_reverse" * way, steps.flip(0) if way else steps, state)
            found.append(outputs.flip(0) if way else outputs)
            last.append(state)
        steps = torch.cat(found, -1)
    ends = tuple(torch.stack(each) for each in zip(*last, strict=True))
    return steps.transpose(0, 1) if layer.batch_first else steps, ends if len(ends) > 1 else ends[0]


def _zeros(layer: nn.RNNBase, steps: Tensor) -> State:
    zeros = steps.new_zeros(steps.shape[1], layer.hidden_size)
    return (zeros, zeros) if isinstance(layer, nn.LSTM) else (zeros,)


def _one_way(layer: nn.RNNBase, suffix: str, steps: Tensor, state: State) -> tuple[Tensor, State]:
    """Outputs (L, B, hidden) of one layer in one direction, and its last state."""
    of_input, of_state = (getattr(layer, f"weight_{kind}{suffix}") for kind in ("ih", "hh"))
    biases = [getattr(layer, f"bias_{kind}{suffix}") if layer.bias else None for kind in ("ih", "hh")]
    cell, outputs = CELLS[layer.mode], []
    for gates in nn.functional.linear(steps, of_input, biases[0]):
        state = cell(gates, nn.functional.linear(state[0], of_state, biases[1]), state)
        outputs.append(state[0])
    return torch.stack(outputs), state


def _gru(given: Tensor, held: Tensor, state: State) -> State:
    reset, update, new = given.chunk(3, -1)
    own_reset, own_update, own_new = held.chunk(3, -1)
    kept = torch.sigmoid(update + own_update)
    fresh = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
    return (fresh + kept * (state[0] - fresh),)


def _lstm(given: Tensor, held: Tensor, state: State) -> State:
    enter, forget, new, out = (given + held).chunk(4, -1)
    cell = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(cell), cell


CELLS: dict[str, Cell] = {
    "GRU": _gru,
    "LSTM": _lstm,
    "RNN_TANH": lambda given, held, state: (torch.tanh(given + held),),
    "RNN_RELU": lambda given, held, state: (torch.relu(given + held),),
}
