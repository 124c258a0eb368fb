"""Ten small tasks of all kinds: their truths, the estimates of every estimator and the scores, as they are stored.

`python tests/gold.py` computes them and writes them down in tests/golden/. Do so only with a change that raises PROTOCOL.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from cases import MODELS, OPTIMIZERS, problem
from torch import Tensor

from benchmark import PROTOCOL
from benchmark.base import machine
from benchmark.base.errors import Failure
from benchmark.base.files import read_tensors, tensor_digest, write, write_tensors
from benchmark.core.declaration import Estimator
from benchmark.core.optimizers import Adam, Sgd
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.chunks import FREE
from benchmark.retraining.train import train
from benchmark.running.cell import Case, Setup, opened, put_to_use, self_influence
from benchmark.running.evaluate import estimate
from benchmark.running.scoring import scores
from benchmark.scores.store import dump
from benchmark.tasks.definition import Task
from benchmark.tasks.questions import FurtherTraining, LeaveOneOut, Subsets, Uses
from benchmark.truths import truth
from benchmark.truths.effects import GroundTruth

FOLDER = Path(__file__).parent / "golden"
SCORES = FOLDER / "scores.json"
SEED = 3
CONVOLUTION = "convolution"  # not a task: no data set of images comes with the installation
SLOW = ("if-lissa", "source", "source-hessian", "source-1", "source-6", "if-arnoldi")  # on it: seconds for nothing new

USUAL = Task(
    name="golden",
    suite="golden",
    dataset="breast_cancer",
    subset="all",
    train=30,
    query=8,
    test=20,
    model="logistic",
    optimizer=Sgd(0.1),
    weight_decay=0.01,
    batch=8,
    epochs=3,
    horizons=(1, 3),
)
USES = Uses(drop=(1, 3), keep=(0.5,), delete=(2, 5), groups=3, draws=2)
FURTHER = FurtherTraining(Sgd(0.05), (1, 2), 3)
TASKS = {
    "logistic": USUAL,
    "decaying rate, single queries": replace(
        USUAL, dataset="digits", query=3, model="mlp-8-8", optimizer=Sgd(0.2, schedule="inverse-sqrt"), queries="each"
    ),
    "momentum, regression": replace(USUAL, dataset="diabetes", model="mlp-8", optimizer=Sgd(0.02, momentum=0.9)),
    "Adam": replace(USUAL, model="mlp-8-8", optimizer=Adam(0.01), query=3, queries="each"),
    "AdamW, no kinks": replace(
        USUAL, dataset="digits", model="mlp-8-8-softplus", optimizer=Adam(0.02, decay=0.1, schedule="inverse-sqrt")
    ),
    "wrong labels, batches renormalised": replace(
        USUAL, model="mlp-8", noise="labels", noise_rate=0.2, counterfactual="renormalised", weight_decay=None
    ),
    "feature noise, uses": replace(USUAL, model="mlp-8", noise="gaussian", noise_rate=0.2, horizons=(3,), uses=USES),
    "subsets": replace(USUAL, model="mlp-8", truth=Subsets(0.7, 12, 2), horizons=(3,)),
    "further training": replace(USUAL, model="mlp-8", leave_out=12, truth=FURTHER, horizons=(1, 2), optimizer=Adam(0.01)),
}
NAMES = (*TASKS, CONVOLUTION)


class Quiet:
    """No progress bar."""

    def __init__(self, *_: object) -> None: ...
    def update(self, n: int) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Found:
    """What one estimator answered: its status, estimate (H, K, Q) if there is one, and scores."""

    status: str
    estimate: Tensor | None
    scores: dict[str, list[float | None]]


@dataclass(frozen=True)
class Gold:
    """A case computed: its truth (H, M, Q), its limits, and what each estimator answered."""

    effect: Tensor
    limits: dict[str, Any]
    found: dict[str, Found]


def estimators() -> Iterator[Estimator]:
    """Those that a usual installation has; of a library's own code there are other tests."""
    return (one for name, one in registered().items() if "/" not in name)


@cache
def computed(name: str) -> Gold:
    """A case as it comes out here."""
    with machine.one_thread(), tempfile.TemporaryDirectory() as folder:
        return _convolution() if name == CONVOLUTION else _task(TASKS[name], Path(folder))


def _task(task: Task, cache: Path) -> Gold:
    setup = Setup("cpu", cache, "golden")
    case = opened(setup, task, SEED, Quiet)
    found = {one.name: _asked(one, case.run, case.exact, case, setup) for one in estimators()}
    return Gold(case.exact.effect, case.exact.limits, found)


def _convolution() -> Gold:
    shown = train(problem(MODELS["cnn-norm"], OPTIMIZERS["momentum"], epochs=2))
    exact = truth.ground_truth(shown, FREE)
    asked = [one for one in estimators() if one.name not in SLOW]
    return Gold(exact.effect, {}, {one.name: _asked(one, shown, exact) for one in asked})


def _asked(
    one: Estimator, shown: Trajectory, exact: GroundTruth, case: Case | None = None, setup: Setup | None = None
) -> Found:
    try:
        found = estimate(one, shown, "cpu")
    except Failure as failure:
        return Found(failure.status, None, {})
    asked = case.task.truth if case else LeaveOneOut()
    used = {}
    if case and case.prepared and setup:
        used = put_to_use(setup, case, found, self_influence(case.question, one, found, "cpu"), one.loss_units)
    return Found("ok", found.effect, {**scores(found.effect, exact, asked.units and one.loss_units), **used})


# ---- stored ----------------------------------------------------------------------------------------------------------
@cache
def stored() -> dict[str, Any]:
    """Statuses, scores and limits of all cases, and what they were computed on."""
    found: dict[str, Any] = json.loads(SCORES.read_text())
    return found


@cache
def tensors(name: str) -> dict[str, Tensor]:
    """The truth of a case, as "truth", and the estimates by name of the estimator."""
    return read_tensors(_at(name))[0]


def _at(name: str) -> Path:
    return FOLDER / f"{name.replace(', ', '-').replace(' ', '-').lower()}.safetensors"


def digests(gold: Gold) -> dict[str, str]:
    """Digests of truth and estimates."""
    known = {name: found.estimate for name, found in gold.found.items() if found.estimate is not None}
    return {name: tensor_digest([tensor]) for name, tensor in {"truth": gold.effect, **known}.items()}


def record(gold: Gold) -> dict[str, Any]:
    """A case without its tensors, as JSON has it."""
    found = {name: {"status": one.status, "scores": one.scores} for name, one in gold.found.items()}
    content = {"limits": {name: [*curve] for name, curve in gold.limits.items()}, "digests": digests(gold), "estimators": found}
    return dict(json.loads(json.dumps(content)))


def store() -> None:
    """Write all cases down."""
    cases = {}
    for name in NAMES:
        gold = computed(name)
        known = {one: found.estimate for one, found in gold.found.items() if found.estimate is not None}
        write_tensors(_at(name), {"truth": gold.effect.contiguous(), **{n: t.contiguous() for n, t in known.items()}})
        cases[name] = record(gold)
    whole = {"protocol": PROTOCOL, "arithmetic": machine.arithmetic(), "torch": torch.__version__, "cases": cases}
    write(SCORES, dump(whole, 4).encode())


if __name__ == "__main__":
    store()
