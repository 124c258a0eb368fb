"""A reference run as bytes and back, for another process: safetensors with a JSON description, nothing that runs code."""

from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from benchmark.files import pack, unpack
from benchmark.models import Activation, Conv, Dense, GroupNorm, MaxPool, Network
from benchmark.optimizers import Adam, FrozenAdam, Sgd
from benchmark.problem import FinalState, Problem, Replay, Samples, Trajectory

RECORDS = {
    kind.__name__: kind
    for kind in (
        *(Trajectory, Problem, Samples, Replay, FinalState),
        *(Network, Dense, Conv, GroupNorm, MaxPool, Activation),
        *(Sgd, Adam, FrozenAdam),
    )
}


def encode(run: Trajectory) -> bytes:
    """A run as bytes; what it withholds is not in them."""
    tensors: dict[str, Tensor] = {}
    described = _described(run, tensors)
    return pack(tensors, {"run": described})


def decode(content: bytes) -> Trajectory:
    """The run of `encode`, bit for bit. Raises DamagedFile where `content` is not of it."""
    tensors, facts = unpack(content, "a run")
    run: Trajectory = _built(facts["run"], tensors)
    return run


def _described(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON, its tensors put aside under their numbers."""
    if isinstance(value, Tensor):
        tensors[name := str(len(tensors))] = value.detach().clone()  # the format has no two that share memory
        return {"tensor": name}
    if is_dataclass(value):
        parts = {part.name: _described(getattr(value, part.name), tensors) for part in fields(value)}
        return {"record": type(value).__name__, "fields": parts}
    if isinstance(value, tuple):
        return {"tuple": [_described(item, tensors) for item in value]}
    return value


def _built(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_built(item, tensors) for item in value["tuple"])
    parts = {name: _built(item, tensors) for name, item in value["fields"].items()}
    return RECORDS[value["record"]](**parts)
