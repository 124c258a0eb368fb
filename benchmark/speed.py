"""How fast exact retraining is, as ratios within one process: engine, mapped verb, plain loop, matrix product."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import machine, models
from benchmark.errors import LoobenchError
from benchmark.models import mlp
from benchmark.optimizers import Adam, Sgd
from benchmark.problem import Problem, Samples
from benchmark.streams import stream
from benchmark.suites import SUITES
from benchmark.tasks import Task, batches, build
from benchmark.train import retrain, train

MAPPED_RUNS = 32  # mapped runs timed, and scaled to all


@dataclass(frozen=True)
class Speed:
    """Seconds for leaving out every sample of one problem, one way and another.

    `engine` is what computes truths. `columns` is the same without Gram form and shared beginnings, so that `gflops`, its
    operations per second, can be held against the matrix-product peak. `mapped` and `loop` are timed on a few runs and scaled.
    """

    case: str
    samples: int
    parameters: int
    steps: int
    engine: float
    columns: float
    gflops: float
    of_peak: float
    mapped: float
    loop: float


def synthetic(widths: tuple[int, ...], samples: int, batch: int, epochs: int, weight_decay: float = 0.001) -> Problem:
    """A classification problem of normal inputs and random labels, ReLU, constant rate .1."""
    model = mlp(widths, loss="binary-cross-entropy" if widths[-1] == 1 else "cross-entropy")
    random = stream("speed", 0)
    labels = torch.from_numpy(random.randint(0, max(2, widths[-1]), samples))
    train = Samples(torch.from_numpy(random.normal(size=(samples, widths[0]))), labels.double() if widths[-1] == 1 else labels)
    order = batches(samples, batch, epochs, random)
    return Problem(
        model,
        Sgd(0.1),
        train,
        train[:1],
        train[:1],
        model.initial(random),
        order,
        torch.arange(samples),
        (len(order),),
        weight_decay,
    )


SYNTHETIC: dict[str, Callable[[], Problem]] = {
    "mlp 784-8-8-1": lambda: synthetic((784, 8, 8, 1), 200, 20, 10),
    "mlp 784-128-10": lambda: synthetic((784, 128, 10), 1000, 100, 3),
    "logistic 784": lambda: synthetic((784, 1), 200, 5, 5),
}
GROWTH_BASE = {"samples": 100, "inputs": 256, "hidden": 16, "epochs": 4, "runs": 100}


def flops(problem: Problem, runs: int) -> int:
    """Floating-point operations of the products in `runs` training runs: forward, and both parts of backward."""
    products = [_products(layer) for layer in problem.model.layers]
    visits = int((problem.batches >= 0).sum()) * runs
    return visits * (4 * products[0] + 6 * sum(products[1:]))


def _products(layer: models.Layer) -> int:
    """Multiplications of one sample's way through a layer."""
    if isinstance(layer, models.Conv):
        return layer.features * layer.image[0] * layer.kernel**2
    return layer.inputs * layer.outputs if isinstance(layer, models.Dense) else 0


def peak(dtype: torch.dtype, size: int = 1500, repeats: int = 9) -> float:
    """Operations per second of the fastest of some square matrix products."""
    a, b, out = (torch.ones(size, size, dtype=dtype) for _ in range(3))
    return 2 * size**3 / min(_seconds(lambda: torch.mm(a, b, out=out)) for _ in range(repeats))


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def median_seconds(act: Callable[[], object], repeats: int = 3, enough: float = 5.0) -> float:
    """Median wall time of `repeats` calls, or of fewer once they took `enough` seconds together."""
    times: list[float] = []
    while len(times) < repeats and sum(times) < enough:
        times.append(_seconds(act))
    return statistics.median(times)


def leave_out(problem: Problem, runs: int) -> Tensor:
    """Keep masks (R, N) that leave out one sample each, the first R of them."""
    return ~torch.eye(len(problem.train), dtype=torch.bool)[:runs]


def mapped(problem: Problem, keep: Tensor) -> Tensor:
    """The step of the problem mapped over runs by `vmap`, folded over time. (R, N) -> (R, P)"""
    states = problem.start().expand(len(keep), -1, -1)
    for t in range(problem.steps):
        weights = keep[:, problem.batch(t)] * problem.weights(t)
        states = torch.func.vmap(lambda state, weights, t=t: problem.step(t, state, weights))(states, weights)
    return states[:, 0]


def plain_loop(problem: Problem, left_out: int | None = None) -> Tensor:
    """One run as a user would write it, modules, autograd and `torch.optim`. Returns the final parameters (P,)."""
    network = _network(problem)
    optimizer = _torch_optimizer(problem, network)
    loss = TORCH_LOSSES[problem.model.loss]
    for t in range(problem.steps):
        batch = problem.batch(t)
        kept = batch if left_out is None else batch[batch != left_out]
        total = loss(network(problem.train.inputs[kept]), problem.train.targets[kept])
        penalty = problem.weight_decay / 2 * sum((p**2).sum() for p in network.parameters())
        optimizer.zero_grad()
        torch.autograd.backward((total + len(kept) * penalty) / len(batch))
        optimizer.param_groups[0]["lr"] = problem.optimizer.rate(t)
        optimizer.step()
    return nn.utils.parameters_to_vector(network.parameters()).detach()


TORCH_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary-cross-entropy": lambda f, y: nn.functional.binary_cross_entropy_with_logits(f[:, 0], y, reduction="sum"),
    "cross-entropy": lambda f, y: nn.functional.cross_entropy(f, y, reduction="sum"),
    "squared-error": lambda f, y: ((f[:, 0] - y) ** 2).sum() / 2,
}


TORCH_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": lambda: nn.Softplus(beta=5, threshold=40),  # torch's usual threshold is linear from 20, off by 4e-10
}
TORCH_LAYERS: dict[type, Callable[..., nn.Module]] = {
    models.Dense: lambda layer: nn.Sequential(nn.Flatten(), nn.Linear(layer.inputs, layer.outputs)),
    models.Conv: lambda layer: nn.Conv2d(layer.image[0], layer.filters, layer.kernel, padding=layer.padding),
    models.GroupNorm: lambda layer: nn.GroupNorm(layer.groups, layer.image[0]),
    models.MaxPool: lambda layer: nn.MaxPool2d(2),
    models.Activation: lambda layer: TORCH_ACTIVATIONS[layer.function](),
        layer.function
    ],
}


def _network(problem: Problem) -> nn.Sequential:
    layers = problem.model.layers
    image = [nn.Unflatten(1, layers[0].image)] if isinstance(layers[0], models.Conv) else []
    network = nn.Sequential(*image, *(TORCH_LAYERS[type(layer)](layer) for layer in layers)).to(problem.initial)
    nn.utils.vector_to_parameters(problem.initial.clone(), network.parameters())
    return network


def _torch_optimizer(problem: Problem, network: nn.Module) -> torch.optim.Optimizer:
    o = problem.optimizer
    if isinstance(o, Adam):
        betas = (o.beta1, o.beta2)
        return torch.optim.AdamW(network.parameters(), lr=o.lr, betas=betas, eps=o.eps, weight_decay=o.decay)
    return torch.optim.SGD(network.parameters(), lr=o.rate(0), momentum=getattr(o, "momentum", 0.0))


def measure(case: str, problem: Problem, best: float) -> Speed:
    """All ways of leaving out every sample of one problem; `best` is the matrix-product peak in operations per second."""
    everyone = len(problem.train)
    keep, states = leave_out(problem, everyone), train(problem).states
    for warm_up in (None, False):
        retrain(problem, keep[:2], gram=warm_up, states=states)
    mapped(problem, keep[:2])
    plain_loop(problem, 0)
    columns = median_seconds(lambda: retrain(problem, keep, gram=False))
    some = min(MAPPED_RUNS, everyone)
    rate = flops(problem, everyone) / columns
    return Speed(
        case=case,
        samples=everyone,
        parameters=problem.model.parameters,
        steps=problem.steps,
        engine=median_seconds(lambda: retrain(problem, keep, states=states)),
        columns=columns,
        gflops=rate / 1e9,
        of_peak=rate / best,
        mapped=median_seconds(lambda: mapped(problem, keep[:some]), 1) * everyone / some,
        loop=median_seconds(lambda: plain_loop(problem, 0)) * everyone,
    )


def cases(tasks: Sequence[Task], cache: Path) -> Iterator[tuple[str, Problem]]:
    """The synthetic problems and all tasks, or only the named `tasks`, at seed 0; one without its data is left out and said."""
    if not tasks:
        yield from ((name, make()) for name, make in SYNTHETIC.items())
    for task in tasks or [task for name in ("quick", "hara2019") for task in SUITES[name].tasks]:
        try:
            yield task.name, build(task, 0, cache)
        except LoobenchError as error:
            print(f"note: {task.name} is left out: {error}", file=sys.stderr)


def growth() -> dict[str, float]:
    """Exponent e of ``time ~ size^e`` for each size of a problem alone, fitted to three doublings of a common base."""
    return {name: _exponent(name) for name in GROWTH_BASE}


def _exponent(name: str) -> float:
    sizes = [GROWTH_BASE[name] * factor for factor in (1, 2, 4, 8)]
    times = [_time_of({**GROWTH_BASE, name: size}) for size in sizes]
    return float(np.polyfit([log(size) for size in sizes], [log(seconds) for seconds in times], 1)[0])


def _time_of(size: dict[str, int]) -> float:
    problem = synthetic((size["inputs"], size["hidden"], 1), size["samples"], 20, size["epochs"])
    keep = leave_out(problem, 1).expand(size["runs"], -1)
    return median_seconds(lambda: retrain(problem, keep, gram=False))


def report(tasks: Sequence[Task], cache: Path, show: Callable[[str], None] = lambda case: None) -> dict[str, Any]:
    """All measurements, on one CPU thread in float64, as a JSON value; the growth only where no task is named."""
    with machine.one_thread():
        best = peak(torch.float64)
        measured = []
        for name, problem in cases(tasks, cache):
            show(name)
            measured.append(measure(name, problem, best))
        show("growth")
        return {
            "peak_gflops": best / 1e9,
            "cases": [asdict(speed) for speed in measured],
            "growth": {} if tasks else growth(),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # of the whole process
            "provenance": machine.provenance("loobench speed", "cpu", "float64"),
        }


HEADERS = ["case", "N", "P", "engine s", "GFLOP/s", "of peak", "Gram and sharing", "vmap", "plain loop"]


def line(speed: dict[str, Any]) -> list[str]:
    """A measurement as the strings of a table row: seconds and rates, then how many times longer the other ways take."""
    s = Speed(**speed)
    rates = [f"{s.engine:.3f}", f"{s.gflops:.1f}", f"{s.of_peak:.2f}"]
    ratios = [f"{s.columns / s.engine:.1f} x", f"{s.mapped / s.engine:.1f} x", f"{s.loop / s.engine:.0f} x"]
    return [s.case, str(s.samples), str(s.parameters), *rates, *ratios]
