"""Whether this machine computes the truths that others do: stored effects, bit for bit or within what, and what breaks it."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmark.base import machine
from benchmark.base.files import read, tensor_digest, write
from benchmark.base.streams import stream
from benchmark.core.models import Block, Network, cnn, mlp
from benchmark.core.optimizers import Adam, Optimizer, Sgd
from benchmark.core.problem import Problem, Samples, in_precision
from benchmark.retraining.chunks import Means
from benchmark.retraining.train import leave_one_out, train
from benchmark.sandbox.process import kind
from benchmark.tasks import suites
from benchmark.tasks.definition import batches
from benchmark.truths.truth import ground_truth, reference

STORED = Path(__file__).with_name("doctor.json")
TOLERANCE = 1e-9  # rounding of another processor or library; more is a fault
ROUNDING = "Bits repeat on one make of processor with one instruction set; elsewhere scores repeat, to six digits."
FAULT = f"That is more than rounding ({TOLERANCE:.0e}): something is wrong here, and scores are not to be trusted."


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


def truths() -> dict[str, str]:
    """By task of the suite `quick`, whose data are embedded: the digest of the truth of its seed 0, computed here."""
    with TemporaryDirectory() as cache, machine.one_thread():
        runs = {task.name: reference(task, 0, Path(cache), "cpu") for task in suites.suite("quick").tasks}
        return {name: ground_truth(run).digest() for name, run in runs.items()}


def examine() -> Iterator[Finding]:
    """Every case under every setting, against what is stored."""
    known = stored()["cases"]
    for name, make in CASES.items():
        problem, expected = make(), torch.tensor([*map(float.fromhex, known[name]["effects"])], dtype=torch.float64)
        for setting in SETTINGS:
            found = effects(problem, setting)
            same = tensor_digest([found]) == known[name]["digest"]
            yield Finding(name, setting.name, same, float((found - expected).abs().max() / expected.std()))


def differing() -> list[str]:
    """The tasks of the suite `quick` whose published truth of seed 0 does not come out bit for bit here."""
    known = stored()["truths"]
    return [name for name, found in truths().items() if found != known[name]]


def verdict(found: Iterable[Finding], other: Sequence[str]) -> str:
    """What the findings and the truths that differ mean for whoever computes here."""
    if not other and all(finding.same for finding in _usual(found)):
        return "This machine computes the stored truths bit for bit."
    far = worst(found)
    told = [
        f"This machine computes the stored truths with other last bits, effects within {far:.0e}: digests will differ here.",
        ROUNDING if far < TOLERANCE else FAULT,
    ]
    if set_here := _settings(machine.variables()):
        told += [f"Settings that decide the last bits are set here; unset them and look again: {set_here}"]
    return "\n".join(told)


def worst(found: Iterable[Finding]) -> float:
    """The largest difference of a case computed as truths are; NaN is larger than any number."""
    return max((finding.difference for finding in _usual(found)), key=lambda value: (value != value, value))


def _usual(found: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.setting == SETTINGS[0].name]


def stored() -> dict[str, Any]:
    """What was computed where the published truths were: `made`, facts of that machine; `cases`; `truths`, digests by task."""
    known: dict[str, Any] = json.loads(read(STORED))
    return known


def store() -> None:
    """Write down this machine's effects and truths as those to compare with; for a change that is meant to change bits."""
    found = {name: effects(make(), SETTINGS[0]) for name, make in CASES.items()}
    entries = {
        name: {"digest": tensor_digest([effect]), "effects": [value.hex() for value in effect.tolist()]}
        for name, effect in found.items()
    }
    write(STORED, json.dumps({"made": here(), "cases": entries, "truths": truths()}, indent=1).encode() + b"\n")


def here() -> dict[str, str]:
    """What decides the last bits on this machine."""
    facts = {"processor": machine.hardware("cpu"), "instructions": machine.instructions(), "torch": torch.__version__}
    return {**facts, **machine.variables()}


def of_machine(facts: dict[str, str]) -> str:
    """A machine in words, by what decides its last bits."""
    others = {name: value for name, value in facts.items() if name in machine.VARIABLES}
    said = f"{facts['processor']} with {facts['instructions']}, torch {facts['torch']}"
    return f"{said}, {_settings(others)}" if others else said


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
        "vector instructions": machine.instructions(),
        "sandbox": kind(),
        "set in the environment": _settings(machine.variables()) or "nothing",
    }


def _settings(variables: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in variables.items())


if __name__ == "__main__":
    store()
