"""What is found out about a device: truths of every kind of network beside those of the CPU, tests, the machine itself."""

import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.base import machine
from benchmark.base.errors import LoobenchError
from benchmark.base.places import ROOT
from benchmark.base.streams import stream
from benchmark.core.models import Block, Network, cnn, mlp
from benchmark.core.optimizers import Adam, Optimizer, Sgd
from benchmark.core.problem import Problem, in_precision
from benchmark.core.reference import Encoder, ResNet9
from benchmark.retraining.chunks import Means
from benchmark.retraining.engine import query_losses
from benchmark.retraining.train import left_out, retrain, train
from benchmark.studies import speed
from benchmark.tasks.definition import DTYPES, build
from benchmark.tasks.suites import TASKS
from benchmark.truths import truth
from benchmark.truths.limits import some_of

SAMPLES = {"cuda": 1000, "cpu": 60}  # N of a truth; on a CPU it is the way that is tried, not the machine


# ---- truths of every kind of network ---------------------------------------------------------------------------------
def digits(model: Network, optimizer: Optimizer, samples: int) -> Problem:
    """A network trained for three epochs on handwritten digits (1, 8, 8) of ten classes, asked for each of 20 queries."""
    task = replace(TASKS["quick-digits-mlp-sgd"], train=samples, batch=20, epochs=3, horizons=(3,))
    with tempfile.TemporaryDirectory() as cache:
        problem = build(task, 0, Path(cache))
    return replace(problem, model=model, optimizer=optimizer, initial=model.initial(stream("initial", 0)))


def of_module(make: Callable[[], nn.Module], inputs: Tensor) -> Problem:
    """A torch.nn.Module trained for an epoch, batches of 32, with 20 samples left out and 20 others asked about."""
    problem = in_precision(speed.of_module(make, inputs, 2, 32, 20), torch.float64)
    return replace(problem, query=problem.train[-20:])


MLP = mlp((64, 32, 32, 10), "tanh", "cross-entropy")
KINDS: dict[str, Callable[[int], Problem]] = {
    "logistic": lambda samples: digits(mlp((64, 10), loss="cross-entropy"), Sgd(0.1), samples),
    "mlp": lambda samples: digits(MLP, Sgd(0.1), samples),
    "momentum": lambda samples: digits(MLP, Sgd(0.02, momentum=0.9), samples),
    "adam": lambda samples: digits(MLP, Adam(0.003), samples),
    "cnn": lambda samples: digits(cnn((1, 8, 8), (Block(8, 3, 1), Block(16, 3, 1)), 10, "softplus"), Sgd(0.1), samples),
    "cnn-norm": lambda samples: digits(cnn((1, 8, 8), (Block(8, 3, 1, 2), Block(16, 3, 1, 2)), 10), Sgd(0.1), samples),
    "gram": lambda samples: speed.synthetic((4 * samples, 32, 1), samples, 20, 3),
    "wide": lambda samples: speed.synthetic((784, 128, 10), samples, 100, 3),
    "transformer": lambda samples: of_module(partial(Encoder, 2000, 2), speed.tokens(samples, 32)),
    "resnet-9": lambda samples: of_module(
        partial(ResNet9, width=32 if samples >= SAMPLES["cuda"] else 8, classes=2), speed.images(max(32, samples // 4))
    ),
}


def compared(make: Callable[[int], Problem], device: str) -> dict[str, Any]:
    """A truth on the CPU in float64, and the same on the device in both precisions. Call it on one thread."""
    problem, means = make(SAMPLES[device]), Means(workers=machine.cores())
    run = train(problem)
    truth.ground_truth(some_of(run.until(1), torch.arange(2)))  # what takes long the first time
    began = time.perf_counter()
    exact = truth.ground_truth(run, means)
    wall = time.perf_counter() - began
    return {
        "samples": len(problem.train),
        "parameters": problem.model.parameters,
        "steps": problem.steps,
        "cpu_seconds": exact.seconds,
        "cpu_wall": wall,
        **{dtype: _on(in_precision(problem, DTYPES[dtype]), device, exact.effect) for dtype in DTYPES},
    }


def _on(problem: Problem, device: str, exact: Tensor) -> dict[str, Any]:
    """Beside the exact effects: the largest difference, floors, seconds, and the share of the peak just before."""
    there = speed.on(problem, device)
    best = speed.peak(there.initial.dtype, device)
    found = truth.ground_truth(train(there))
    keep = left_out(there)
    plain = speed.median_seconds(lambda: retrain(there, keep, gram=False, read=query_losses), device, repeats=1)
    return {
        "difference": difference(found.effect, exact),
        "noise": asdict(found.noise) if found.noise else None,
        "seconds": found.seconds,
        "plain_seconds": plain,
        "peak_gflops": best / 1e9,
        "of_peak": speed.flops(there, len(keep)) / plain / best,
    }


def difference(effect: Tensor, exact: Tensor) -> float:
    """``max |effect - exact| / sd(exact)``, the deviation over samples at each horizon and query. (H, K, Q) both.

    Queries that no sample has an effect on are left out. Raises LoobenchError for what is not finite, or where none is left.
    """
    spread = exact.std(1, keepdim=True).expand_as(exact)
    apart = ((effect.double().cpu() - exact).abs() / spread)[spread > 0]
    if not apart.numel() or not apart.isfinite().all():
        raise LoobenchError("the effects are not finite, or those on the CPU are all equal: there is nothing to compare with")
    return float(apart.max())


# ---- tests, and the machine ------------------------------------------------------------------------------------------
def tested(_device: str) -> dict[str, Any]:
    """How the tests that are marked `gpu` came out, those of files that cannot be imported too."""
    import pytest

    counts = Counts()
    files = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if "mark.gpu" in path.read_text()]
    forgiving = ["-o", "filterwarnings=", "--continue-on-collection-errors"]  # a warning fails nothing here
    asked = ["-v", "-m", "gpu", "--rootdir", str(ROOT), "-p", "no:cacheprovider", *forgiving]
    status = pytest.main([*asked, *files], plugins=[counts])
    return {"status": int(status), **asdict(counts)}


@dataclass(eq=False)
class Counts:
    """A plugin of pytest that counts."""

    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be imported."""
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A stage of a test."""
        if report.failed:
            self.failed.append(report.nodeid)
        self.skipped += report.skipped
        self.passed += report.passed and report.when == "call"


def examined(device: str) -> dict[str, Any]:
    """What the figures hang on, and the peaks of matrix products."""
    return {
        "device": machine.hardware(device),
        "driver": _driver() if device == "cuda" else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "processor": machine.hardware("cpu"),
        "instruction_set": machine.instructions(),
        "cores": machine.cores(),
        "commit": machine.commit(),
        "peak_gflops": {name: speed.peak(dtype, device) / 1e9 for name, dtype in DTYPES.items()},
    }


def _driver() -> str | None:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    return None


def quick_speed(device: str) -> dict[str, Any]:
    """What `loobench speed --short` measures."""
    with tempfile.TemporaryDirectory() as cache:
        return speed.report([], Path(cache), device, lambda case: print(f"measuring {case}", file=sys.stderr), short=True)


# ---- parts -----------------------------------------------------------------------------------------------------------
Act = Callable[[str], dict[str, Any]]  # from a device to what was found
ACTS: dict[str, Act] = {
    "machine": examined,
    "tests": tested,
    **{f"truth-{name}": partial(compared, make) for name, make in KINDS.items()},
    "speed": quick_speed,
}
