"""Whether this machine computes the truths that others do: stored effects, bit for bit or within what, and what breaks it."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark import machine, sandbox
from benchmark.chunks import Means
from benchmark.files import read, tensor_digest, write
from benchmark.models import Block, Network, cnn, mlp
from benchmark.optimizers import Adam, Optimizer, Sgd
from benchmark.problem import Problem, Samples, in_precision
from benchmark.streams import stream
from benchmark.tasks import batches
from benchmark.train import leave_one_out, train

STORED = Path(__file__).with_name("doctor.json")
TOLERANCE = 1e-9  # rounding of another processor or library; more is a fault
VARIABLES = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY")


@dataclass(frozen=True)
class Setting:
    """A way to compute the effects; as it stands, the way in which truths are computed."""

    name: str
    threads: int = 1  # of each matrix product
    workers: int = 1  # chunks side by side
    runs: int | None = None  # trained at once
    gram: bool | None = None
    double: bool = True


SETTINGS = (
    Setting("as truths are computed"),
    Setting("products on two threads", threads=2),
    Setting("chunks of 10 runs", runs=10),
    Setting("chunks of 10 runs, two at a time", runs=10, workers=2),
    Setting("one run at a time", runs=1),
    Setting("no Gram form", gram=False),
    Setting("float32", double=False),
)


@dataclass(frozen=True)
class Finding:
    """The effects of one case under one setting, beside the stored ones."""

    case: str
    setting: str
    same: bool  # bit for bit
    difference: float  # the largest, over the standard deviation of the stored effects


def _problem(model: Network, optimizer: Optimizer) -> Problem:
    random = stream("doctor", 0)
    count = 40
    inputs = torch.from_numpy(random.uniform(-1, 1, (2 * count, model.inputs)))
    labels = torch.from_numpy(random.randint(0, max(2, model.classes), 2 * count))
    every = Samples(inputs, labels if model.loss == "cross-entropy" else labels.double())
    order = batches(count, 8, 4, random)
    seen, query = every[:count], every[count:]
    return Problem(model, optimizer, seen, query, query, model.initial(random), order, torch.arange(count), (len(order),), 0.01)


CASES: dict[str, Callable[[], Problem]] = {
    "logistic": lambda: _problem(mlp((50, 1)), Sgd(0.1)),
    "network": lambda: _problem(mlp((50, 16, 16, 3), "tanh", "cross-entropy"), Adam(0.01)),
    "gram": lambda: _problem(mlp((200, 8, 1)), Sgd(0.1, momentum=0.5)),
    "convolution": lambda: _problem(cnn((1, 12, 12), (Block(4, 3), Block(4, 4)), 3), Sgd(0.05)),
}


def effects(problem: Problem, setting: Setting) -> Tensor:
    """Effects (K,) on the mean query loss of leaving out each sample."""
    given = problem if setting.double else in_precision(problem, torch.float32)
    with machine.so_many_threads(setting.threads):
        found = leave_one_out(train(given), gram=setting.gram, runs=setting.runs, means=Means(workers=setting.workers))
    return found[-1, :, 0].double()


def examine() -> Iterator[Finding]:
    """Every case under every setting, against what is stored."""
    stored = json.loads(read(STORED))
    for name, make in CASES.items():
        problem, known = make(), torch.tensor([float.fromhex(value) for value in stored[name]["effects"]], dtype=torch.float64)
        for setting in SETTINGS:
            found = effects(problem, setting)
            same = tensor_digest([found]) == stored[name]["digest"]
            yield Finding(name, setting.name, same, float((found - known).abs().max() / known.std()))


def store() -> None:
    """Write down this machine's effects as those to compare with; for a change that is meant to change bits."""
    found = {name: effects(make(), SETTINGS[0]) for name, make in CASES.items()}
    entries = {
        name: {"digest": tensor_digest([effect]), "effects": [value.hex() for value in effect.tolist()]}
        for name, effect in found.items()
    }
    write(STORED, json.dumps(entries, indent=1).encode() + b"\n")


def set_here() -> list[str]:
    """The variables of the environment that decide the order of sums, as they are set."""
    return [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]


def described() -> dict[str, str]:
    """What this machine is, as far as numbers and speed depend on it."""
    known = torch.__config__.show()
    return {
        "processor": machine.hardware("cpu"),
        "cores": str(machine.cores()),
        "free memory": f"{machine.free_memory('cpu') / 2**30:.1f} GiB",
        "gpu": machine.hardware("cuda") if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "matrix products": "MKL" if "USE_MKL=ON" in known else "not MKL",
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "sandbox": sandbox.kind(),
        "set in the environment": ", ".join(set_here()) or "nothing",
    }


if __name__ == "__main__":
    store()
