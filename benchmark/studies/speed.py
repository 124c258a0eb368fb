"""How fast exact retraining is, as ratios within one process: engine, mapped step, plain loop, matrix product."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import log
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.base import machine
from benchmark.base.errors import LoobenchError
from benchmark.base.streams import drawn, stream
from benchmark.core import suitable
from benchmark.core.layers import Conv, Dense, Layer
from benchmark.core.models import mlp
from benchmark.core.optimizers import Sgd
from benchmark.core.problem import Problem, Samples, map_tensors
from benchmark.core.recipes import MODELS
from benchmark.core.reference import Encoder, ResNet9
from benchmark.retraining import chunks
from benchmark.retraining.chunks import MIB, Means
from benchmark.retraining.engine import gram_pays, native, query_losses
from benchmark.retraining.generic import work
from benchmark.retraining.train import leave_one_out, left_out, retrain, train, trained
from benchmark.studies.plain import mapped, plain_loop
from benchmark.tasks.definition import DTYPES, Task, batches, build, variant
from benchmark.tasks.suites import SUITES, TASKS

MAPPED_RUNS, MAPPED_CONVOLUTIONS = 32, 4  # mapped runs timed, and scaled to all
ENOUGH, ENOUGH_IN_SHORT = 4.0, 0.5  # seconds after which a way has been timed often enough
BUDGETS = (96 * MIB, 384 * MIB)  # for the case of N = 1,000 and P = 100,000


@dataclass(frozen=True)
class Speed:
    """Seconds for leaving out the K samples of one problem, one way and another.

    `engine` is what computes truths, on all cores; `one` the same on one thread. `plain` is one thread without Gram form and
    shared beginnings, so that `gflops`, its operations per second, can be held against the matrix-product peak of one thread;
    `without_gram` keeps the shared beginnings. `mapped` and `loop` are timed on a few runs and scaled, `loop` on one thread
    and on all, and the faster taken.
    """

    case: str
    dtype: str
    samples: int
    left_out: int
    parameters: int
    steps: int
    engine: float
    one: float
    plain: float
    without_gram: float
    gflops: float
    peak_gflops: float
    mapped: float
    loop: float
    loop_one: float  # on one thread
    memory: int | None  # bytes that the reference run and the engine on all cores took at their peak

    @property
    def of_peak(self) -> float:
        """Share of the matrix-product peak."""
        return self.gflops / self.peak_gflops


@dataclass(frozen=True)
class Memory:
    """Bytes that leaving out N = 1,000 samples of a network with P = 100,000 parameters took, training included."""

    budget: int
    peak: int | None
    runs: int  # at once
    workers: int


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


def of_module(make: Callable[[], nn.Module], inputs: Tensor, classes: int, batch: int, left_out: int) -> Problem:
    """One epoch of a torch.nn.Module on random labels in float32, with a few samples left out."""
    random, count = stream("speed", 0), len(inputs)
    with drawn(stream("speed/initial", 0)):
        net = make()
    labels = torch.from_numpy(random.randint(0, classes, count))
    some = Samples(inputs.float() if inputs.is_floating_point() else inputs, labels)
    model, order = suitable.module(net, "cross-entropy", some), batches(count, batch, 1, random)
    chosen = torch.arange(left_out)
    return Problem(model, Sgd(0.01), some, some[:1], some[:0], model.current(), order, chosen, (len(order),))


def tokens(count: int, length: int) -> Tensor:
    """Texts of random tokens, none of which is padding. (count, length)"""
    return torch.from_numpy(stream("speed/tokens", 0).randint(1, 2000, (count, length)))


def images(count: int) -> Tensor:
    """Normal pixels. (count, 3, 32, 32)"""
    return torch.from_numpy(stream("speed/images", 0).normal(size=(count, 3, 32, 32)))


def _cifar() -> Problem:
    """The network of cleansing-cifar10 on random images."""
    inputs = images(400).flatten(1).float()
    labels = torch.from_numpy(stream("speed", 0).randint(0, 10, 400))
    model, some = MODELS["cifar-cnn"].build(3072, 10), Samples(inputs, labels)
    order = batches(400, 100, 1, stream("speed/batches", 0))
    initial = model.initial(stream("speed/initial", 0)).float()
    return Problem(model, Sgd(0.01), some, some[:1], some[:0], initial, order, torch.arange(8), (4,))


SYNTHETIC |= {
    "cifar-cnn, 400 images": _cifar,
    "resnet-9, width 16": lambda: of_module(partial(ResNet9, width=16), images(128), 10, 32, 4),
    "encoder 2 x 64, 32 tokens": lambda: of_module(partial(Encoder, 2000, 2), tokens(256, 32), 2, 32, 8),
    "encoder 2 x 32, 32 tokens": lambda: of_module(partial(Encoder, 2000, 2, width=32), tokens(128, 32), 2, 8, 16),
    "encoder 1 x 16, 16 tokens": lambda: of_module(
        partial(Encoder, 2000, 2, width=16, depth=1, length=16), tokens(128, 16), 2, 8, 32
    ),
}
SHORT = ("mlp 784-8-8-1", "logistic 784", "quick-digits-mlp-adam")
GROWTH_BASE = {"samples": 100, "inputs": 256, "hidden": 16, "epochs": 4, "runs": 100, "queries": 200}


def flops(problem: Problem, runs: int) -> int:
    """Floating-point operations of the products in `runs` training runs: forward, and both parts of backward."""
    visits = int((problem.batches >= 0).sum()) * runs
    if not native(problem):
        return round(work(problem).flops / len(problem.batch(0)) * visits)
    products = [_products(layer) for layer in problem.model.layers]
    return visits * (4 * products[0] + 6 * sum(products[1:]))


def _products(layer: Layer) -> int:
    """Multiplications of one sample's way through a layer."""
    if isinstance(layer, Conv):
        return layer.features * layer.image[0] * layer.kernel**2
    return layer.inputs * layer.outputs if isinstance(layer, Dense) else 0


def peak(dtype: torch.dtype, device: str = "cpu", size: int = 1500, repeats: int = 9) -> float:
    """Operations per second of the fastest of some square matrix products."""
    size *= 4 if device == "cuda" else 1
    a, b, out = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(3))
    return 2 * size**3 / min(_seconds(lambda: torch.mm(a, b, out=out), device) for _ in range(repeats))


def _seconds(act: Callable[[], object], device: str) -> float:
    machine.synchronize(device)
    start = time.perf_counter()
    act()
    machine.synchronize(device)
    return time.perf_counter() - start


def median_seconds(act: Callable[[], object], device: str = "cpu", repeats: int = 15, enough: float = ENOUGH) -> float:
    """Median wall time of `repeats` calls, or of fewer once they took `enough` seconds together."""
    times: list[float] = []
    while len(times) < repeats and sum(times) < enough:
        times.append(_seconds(act, device))
    return statistics.median(times)


def measure(case: str, problem: Problem, enough: float = ENOUGH) -> Speed:
    """All ways of leaving out the K samples of one problem, each for about `enough` seconds. Call it on one thread."""
    device, states, keep = problem.initial.device.type, train(problem).states, left_out(problem)
    wanted, cores = len(keep) - 1, machine.cores() if device == "cpu" else 1
    ours, median = partial(_retraining, problem, keep), partial(median_seconds, device=device, enough=enough)
    _warm_up(problem, keep[-2:], states)
    best = peak(problem.initial.dtype, device)
    plain = median(ours(gram=False))
    one = median(ours(states=states))
    engine = median(ours(states=states, workers=cores)) if cores > 1 else one
    some = min(MAPPED_CONVOLUTIONS if not problem.model.dense else MAPPED_RUNS, wanted)
    loops = [_loop(problem, threads, enough) * wanted for threads in sorted({1, cores})]
    return Speed(
        case=case,
        **_sizes(problem),
        engine=engine,
        one=one,
        plain=plain,
        without_gram=median(ours(gram=False, states=states)) if gram_pays(problem) else one,
        gflops=flops(problem, wanted + 1) / plain / 1e9,
        peak_gflops=best / 1e9,
        mapped=median(lambda: mapped(problem, keep[:some]), repeats=1) * wanted / some,
        loop=min(loops),
        loop_one=loops[0],
        memory=memory_taken(problem, Means(workers=cores)),
    )


def _retraining(
    problem: Problem, keep: Tensor, *, gram: bool | None = None, states: Tensor | None = None, workers: int = 1
) -> Callable[[], object]:
    means = Means(workers=workers)
    return lambda: retrain(problem, keep, gram=gram, states=states, read=query_losses, means=means)


def _warm_up(problem: Problem, two: Tensor, states: Tensor) -> None:
    """Let each way take what a first call takes."""
    for gram in (None, False):
        _retraining(problem, two, gram=gram, states=states)()
    mapped(problem, two)
    plain_loop(problem, 0)


def _sizes(problem: Problem) -> dict[str, Any]:
    return {
        "dtype": str(problem.initial.dtype).removeprefix("torch."),
        "samples": len(problem.train),
        "left_out": len(problem.left_out),
        "parameters": problem.model.parameters,
        "steps": problem.steps,
    }


def memory_taken(problem: Problem, means: Means) -> int | None:
    """Bytes that the reference run and leaving out the samples take at their peak; on a CPU in a process of its own, or None.

    Memory that this process has freed and not given back would hide what is taken again.
    """
    device = problem.initial.device.type
    if not problem.model.layers:
        return None  # a module does not travel to another process
    if device == "cuda":
        return machine.peak_growth(lambda: leave_one_out(trained(problem, means), means=means), device)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_memory_taken_here, problem, means).result()


def _memory_taken_here(problem: Problem, means: Means) -> int | None:
    torch.set_num_threads(1)
    leave_one_out(train(replace(problem, left_out=problem.left_out[:2])).until(1))  # what libraries take on their first call
    return machine.peak_growth(lambda: leave_one_out(trained(problem, means), means=means), "cpu")


def _loop(problem: Problem, threads: int, enough: float) -> float:
    """Seconds of one plain run on so many threads."""
    with machine.so_many_threads(threads):
        return median_seconds(lambda: plain_loop(problem, 0), problem.initial.device.type, enough=enough)


def cases(tasks: Sequence[Task], cache: Path, device: str, *, short: bool = False) -> Iterator[tuple[str, Problem]]:
    """The synthetic problems and all tasks, or only the named `tasks`, at seed 0; of all, one without its data is left out.

    With `short` a few of both whose data is embedded, `SHORT`, beside the named tasks.
    """
    if short or not tasks:
        yield from ((name, on(make(), device)) for name, make in SYNTHETIC.items() if name in SHORT or not short)
    if short:
        tasks = [*(TASKS[name] for name in SHORT if name in TASKS), *tasks]
    for task in tasks or [CONVOLUTIONAL, *(task for name in ("quick", "hara2019") for task in SUITES[name].tasks)]:
        try:
            yield task.name, build(task, 0, cache, device)
        except LoobenchError as error:
            if tasks:
                raise
            print(f"note: {task.name} is left out: {error}", file=sys.stderr)


CONVOLUTIONAL = replace(variant(TASKS["images-mnist-cnn"], "float32"), name="mnist-cnn, one epoch", epochs=1, horizons=(1,))


def on(problem: Problem, device: str) -> Problem:
    """The problem with its tensors on a device."""
    moved: Problem = map_tensors(problem, lambda tensor: tensor.to(device))
    return moved


def budgets() -> list[Memory]:
    """What leaving out every sample takes where the memory is bounded, from the reference run on."""
    problem = synthetic((784, 128, 10), 1000, 100, 1)
    found = []
    for budget in BUDGETS:
        means = Means(budget, machine.cores())
        planned = chunks.plan(problem, 1001, gram_pays(problem), means)
        found.append(Memory(budget, memory_taken(problem, means), planned.runs, planned.workers))
    return found


def growth(device: str) -> dict[str, float]:
    """Exponent e of ``time ~ size^e`` for each size of a problem alone, fitted to three doublings of a common base."""
    return {name: _exponent(name, device) for name in GROWTH_BASE}


def workers() -> dict[int, float]:
    """Seconds of one truth by 1, 2 and 4 threads, each with chunks of its own."""
    problem = synthetic((784, 32, 10), 400, 20, 3)
    keep, states = left_out(problem), train(problem).states
    return {count: median_seconds(_retraining(problem, keep, states=states, workers=count), repeats=3) for count in (1, 2, 4)}


def _exponent(name: str, device: str) -> float:
    sizes = [GROWTH_BASE[name] * factor for factor in (1, 2, 4, 8)]
    times = [_time_of({**GROWTH_BASE, name: size}, device) for size in sizes]
    return float(np.polyfit([log(size) for size in sizes], [log(seconds) for seconds in times], 1)[0])


def _time_of(size: dict[str, int], device: str) -> float:
    problem = on(synthetic((size["inputs"], size["hidden"], 1), size["samples"], 20, size["epochs"]), device)
    rows = torch.arange(size["queries"], device=problem.initial.device) % size["samples"]
    problem = replace(problem, query=problem.train[rows], query_kind="each")
    keep = left_out(problem)[:1].expand(size["runs"], -1)
    return median_seconds(lambda: retrain(problem, keep, gram=False, read=query_losses), device)


def report(
    tasks: Sequence[Task],
    cache: Path,
    device: str,
    show: Callable[[str], None] = lambda case: None,
    *,
    short: bool = False,
) -> dict[str, Any]:
    """All measurements as a JSON value; the growth and the memory under a budget only where all cases are measured."""
    with machine.one_thread():
        measured, some = [], bool(tasks or short)
        for name, problem in cases(tasks, cache, device, short=short):
            show(name)
            measured.append(measure(name, problem, ENOUGH_IN_SHORT if short else ENOUGH))
        if not some:
            show("growth and memory")
        return {
            "cores": machine.cores(),
            "peak_all_cores_gflops": _peak_of_all(device),
            "cases": [{**asdict(speed), "of_peak": speed.of_peak} for speed in measured],
            "growth": {} if some else growth(device),
            "workers": {} if some or device != "cpu" else workers(),
            "memory": [] if some or device != "cpu" else [asdict(memory) for memory in budgets()],
            "provenance": machine.provenance("loobench speed", device, "as each case says"),
        }


def _peak_of_all(device: str) -> dict[str, float]:
    with machine.so_many_threads(machine.cores()):
        return {name: peak(dtype, device) / 1e9 for name, dtype in DTYPES.items()}


HEADERS = ["case", "K of N", "P", "engine s", "of peak", "Gram", "vmap", "plain loop", "MiB"]


def line(speed: dict[str, Any]) -> list[str]:
    """A measurement as the strings of a table row: seconds, share of the peak, how many times longer the other ways take."""
    s = Speed(**{name: value for name, value in speed.items() if name != "of_peak"})
    rates = [f"{s.engine:.3f}", f"{s.of_peak:.2f}"]
    gram = f"{s.without_gram / s.one:.1f} x" if s.without_gram != s.one else ""
    ratios = [gram, f"{s.mapped / s.one:.1f} x", f"{s.loop / s.engine:.1f} x"]
    memory = "" if s.memory is None else f"{s.memory / MIB:.0f}"
    return [s.case, f"{s.left_out} of {s.samples}", str(s.parameters), *rates, *ratios, memory]
