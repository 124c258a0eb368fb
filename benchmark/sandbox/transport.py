"""A reference run as bytes and back, for another process: safetensors with a JSON description, nothing that runs code."""

from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from benchmark.base.errors import LoobenchError
from benchmark.base.files import pack, unpack
from benchmark.core.code import Code
from benchmark.core.layers import Activation, Conv, Dense, GroupNorm, MaxPool
from benchmark.core.losses import Own
from benchmark.core.models import Network
from benchmark.core.optimizers import Adam, Cosine, FrozenAdam, Muon, OneCycle, Sgd, WarmUp
from benchmark.core.problem import Problem, Samples
from benchmark.core.trajectory import FinalState, Replay, Trajectory
from benchmark.core.wrapped import Module, Shapes

RECORDS = {
    kind.__name__: kind
    for kind in (
        *(Trajectory, Problem, Samples, Replay, FinalState),
        *(Network, Dense, Conv, GroupNorm, MaxPool, Activation),
        *(Sgd, Adam, FrozenAdam, Muon),
        *(WarmUp, Cosine, OneCycle),
    )
}
Place = tuple[int, str, tuple[int, ...], tuple[int, ...]]  # where a tensor lies, and as what


def encode(run: Trajectory) -> bytes:
    """A run as bytes; what it withholds is not in them."""
    tensors: dict[Place, Tensor] = {}
    described = _described(run, tensors)
    return pack({str(number): tensor.clone() for number, tensor in enumerate(tensors.values())}, {"run": described})


def decode(content: bytes) -> Trajectory:
    """The run of `encode`, bit for bit. Raises DamagedFile where `content` is not of it."""
    tensors, facts = unpack(content, "a run")
    run: Trajectory = _built(facts["run"], tensors)
    return run


def largest(run: Trajectory) -> int:
    """Bytes of the largest answer to a run that could be of the right shape, (H, N, Q), with what describes it."""
    problem = run.problem
    return 16 * len(problem.horizons) * len(problem.train) * problem.queries + (1 << 16)


def _described(value: Any, tensors: dict[Place, Tensor]) -> Any:
    """A value as JSON, its tensors put aside, each once: a replayed run has its problem twice."""
    if isinstance(value, Tensor):
        place = value.data_ptr(), str(value.dtype), tuple(value.shape), value.stride()
        tensors.setdefault(place, value)
        return {"tensor": str(list(tensors).index(place))}
    if isinstance(value, Module):
        return _module(value, tensors)
    if isinstance(value, Own):
        return {"function": _code(value.code, f"the function {value.__name__}", "at the top of a file")}
    if is_dataclass(value):
        parts = {part.name: _described(getattr(value, part.name), tensors) for part in fields(value)}
        return {"record": type(value).__name__, "fields": parts}
    if isinstance(value, tuple):
        return {"tuple": [_described(item, tensors) for item in value]}
    return value


def _module(value: Module, tensors: dict[Place, Tensor]) -> dict[str, Any]:
    """How another process builds a module: its code, and its constants."""
    code = _code(value.code, f"the model {value.name}", "by a class or function without arguments, in place of a module")
    constants = [[name, _described(part, tensors)] for name, part in value.constants.items()]
    shapes = [[*value.one.inputs], [*value.one.outputs]]
    return {
        "module": code,
        "loss": _described(value.loss, tensors),
        "constants": constants,
        "one": shapes,
        "mapped": value.mapped,
    }


def _code(code: Code | None, what: str, how: str) -> dict[str, Any]:
    """Code as a JSON value. Raises LoobenchError where there is none that another process could run."""
    if code is None:
        raise LoobenchError(f"the sandbox builds {what} from its source, which is not known: give it {how}")
    return {"name": code.name, "module": code.module, "text": code.text, "settings": [[*pair] for pair in code.settings]}


def _coded(value: dict[str, Any]) -> Code:
    return Code(value["name"], value["module"], value["text"], tuple((name, setting) for name, setting in value["settings"]))


def _rebuilt(value: dict[str, Any], tensors: dict[str, Tensor]) -> Module:
    code = _coded(value["module"])
    found = Module(
        code.built(), _built(value["loss"], tensors), make=code.built, code=code, one=Shapes(*map(tuple, value["one"]))
    )
    found.constants, found.mapped = {name: _built(part, tensors) for name, part in value["constants"]}, value["mapped"]
    return found


def _built(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "module" in value:
        return _rebuilt(value, tensors)
    if "function" in value:
        code = _coded(value["function"])
        return Own(code.object(), code)
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_built(item, tensors) for item in value["tuple"])
    parts = {name: _built(item, tensors) for name, item in value["fields"].items()}
    return RECORDS[value["record"]](**parts)
