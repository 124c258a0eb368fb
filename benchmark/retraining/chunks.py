"""How many runs are trained at once: by cache and memory, on several threads, in halves where memory runs out."""

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from math import prod
from threading import Event

import torch
from torch import Tensor

from benchmark.base import machine
from benchmark.base.errors import LoobenchError
from benchmark.base.means import FREE as FREE
from benchmark.base.means import Means as Means
from benchmark.base.means import allowed as allowed
from benchmark.base.means import allowing as allowing
from benchmark.core import layers
from benchmark.core.optimizers import Adam, Muon
from benchmark.core.problem import Problem
from benchmark.core.trajectory import between
from benchmark.retraining.engine import native
from benchmark.retraining.generic import query_block, work

MIB = 2**20
CACHE = 4 * MIB  # first layers of runs side by side stay within it on a CPU
ACTIVATIONS = 24 * MIB  # and so do the values of a convolutional network's layers
MAPPED = ((25e6, 16), (100e6, 8))  # of other models, so many runs at once where a run's step takes fewer operations; else one
SLACK = 1.25  # temporaries, and what the allocator keeps back
SPARE = 24 * MIB  # for each thread: freed blocks that the allocator does not give back at once


@dataclass(frozen=True)
class Plan:
    """Runs trained at once, and how many such chunks side by side."""

    runs: int
    workers: int
    short: bool = False  # of memory: fewer runs than usual


class Stopped(Exception):
    """Another chunk failed, or the user has had enough: this one need not go on."""


def plan(problem: Problem, runs: int, gram: bool, means: Means) -> Plan:
    """The usual chunk, or one that fits the memory. Raises LoobenchError where not even one run fits.

    The usual chunk depends on the problem and on the number of `runs` alone, because the last bit of a result depends on it.
    A smaller one is a half, a quarter ... of it, so that it is the same again when a little more or less memory is free.
    """
    usual = _even(runs, at_once(problem, gram))
    workers = max(1, min(means.workers, -(-runs // usual)))
    if means.memory is None:
        return Plan(usual, workers)
    shared = shared_bytes(problem, runs, gram, means)
    while workers > 1 and workers * chunk_bytes(problem, usual, gram) > means.memory - shared:
        workers -= 1
    fitting = usual
    while fitting > 1 and chunk_bytes(problem, fitting, gram) > means.memory - shared:
        fitting = -(-fitting // 2)
    needed = chunk_bytes(problem, 1, gram) + shared
    if needed > means.memory:
        raise LoobenchError(
            f"retraining one run at a time needs about {needed / MIB:.0f} MiB, the budget is {means.memory / MIB:.0f} MiB: "
            "give more by --memory, or take a smaller task"
        )
    return Plan(fitting, workers, short=fitting < usual)


def _even(runs: int, most: int) -> int:
    """The size of chunks of at most so many runs: nearly equal, and an even number of them where one is not enough."""
    parts = -(-runs // most)
    return -(-runs // (parts + parts % 2 if parts > 1 else 1))


def at_once(problem: Problem, gram: bool) -> int:
    """Runs to train side by side so that what each step passes over stays in cache; 32 to 256, 4 to 64 with convolutions.

    Of models that have no form of ours 16 or 8, or 1 where a run's step is work enough for a core.
    """
    if not native(problem):
        return next((runs for flops, runs in MAPPED if problem.model.mapped and work(problem).flops < flops), 1)
    item, first = problem.initial.element_size(), problem.model.layers[0]
    if isinstance(first, layers.Dense):
        inside = len(problem.train) if gram else first.inputs
        return _between(32, CACHE // (item * inside * first.outputs), 256)
    return _between(4, ACTIVATIONS // (item * _values(problem) * problem.batches.shape[1]), 64)


def _between(least: int, value: int, most: int) -> int:
    return min(most, max(least, value))


# ---- memory ----------------------------------------------------------------------------------------------------------
def shared_bytes(problem: Problem, runs: int, gram: bool, means: Means = FREE) -> int:
    """Memory that all chunks share: reference run, masks, what is read of all runs and, in Gram space, the inner products."""
    everyone = len(problem.train)
    kernel = (everyone + len(problem.query)) * everyone if gram else 0
    readings = 3 * len(problem.horizons) * runs * problem.queries
    masks = runs * everyone + 24 * min(runs, 256) * everyone  # a byte each, and the search for each run's first step
    states = 2 * states_bytes(problem, means)  # a list and a tensor
    return SPARE + states + problem.initial.element_size() * (kernel + readings) + masks


def spacing(problem: Problem, means: Means) -> int:
    """Steps from one kept state of the reference run to the next: 1, or sqrt(T) where all would take half of the memory."""
    scarce = means.memory is not None and 4 * (problem.steps + 1) * _state_bytes(problem) > means.memory  # a list and a tensor
    return between(problem.steps) if scarce else 1


def states_bytes(problem: Problem, means: Means) -> int:
    """Bytes of the states that are kept of the reference run, and of those that each worker computes again at a time."""
    every = spacing(problem, means)
    return (problem.steps // every + 1 + (every * means.workers if every > 1 else 0)) * _state_bytes(problem)


def _state_bytes(problem: Problem) -> int:
    return problem.optimizer.rows * problem.model.parameters * problem.initial.element_size()


def chunk_bytes(problem: Problem, runs: int, gram: bool) -> int:
    """Memory that one chunk of `runs` runs takes."""
    if not native(problem):
        copies = (
            _copies(problem) + 3
        )  # the gradient, and what it is put together from; and thrice what is kept for the way back
        return SPARE + int(
            SLACK * runs * (copies * problem.model.parameters * problem.initial.element_size() + 3 * work(problem).kept)
        )
    batch, query = problem.batches.shape[1], min(len(problem.query), query_block(problem))
    fixed = max(batch, query) * _shared_values(problem) + 2 * problem.optimizer.rows * problem.model.parameters
    if gram:
        fixed += 2 * (len(problem.train) + len(problem.query)) * _outputs_at_start(problem)
    values = max(batch, query / 2) * _values(problem)  # on the way forward alone about half are held
    own = values + len(problem.train) + 2 * batch + 4 * len(problem.query) * (problem.query_kind == "each")
    return SPARE + int(SLACK * problem.initial.element_size() * (fixed + runs * (_state(problem, gram) + own)))


def _outputs_at_start(problem: Problem) -> int:
    rows = problem.optimizer.rows  # of the state: outputs of each, once for the weights and once for the velocity
    return rows**2 * problem.model.layers[0].features


def _state(problem: Problem, gram: bool) -> int:
    """Numbers of one run's parameters and moments, in the form in which they are held."""
    first, total = problem.model.layers[0], problem.model.parameters
    if gram and isinstance(first, layers.Dense):
        total += (len(problem.train) - first.inputs) * first.outputs
    return _copies(problem) * total


def _copies(problem: Problem) -> int:
    more = 4 if isinstance(problem.optimizer, Muon) else isinstance(problem.optimizer, Adam)  # a new state; Adam's buffer
    return problem.optimizer.rows + more


def _values(problem: Problem) -> int:
    """Numbers that the layers hold for one sample of one run, forward and back."""
    return sum(_held(layer, depth == 0) for depth, layer in enumerate(problem.model.layers))


def _held(layer: layers.Layer, first: bool) -> int:
    if isinstance(layer, layers.Conv) and not first:
        columns = layer.kernel * layer.image[0] * layer.padded[1] * layer.out[2]
        return 3 * layer.features + 2 * columns + 2 * prod(layer.padded)
    return (8 if isinstance(layer, layers.MaxPool) else 4) * layer.features


def _shared_values(problem: Problem) -> int:
    """Numbers held for one sample by all runs of a chunk together: its inputs, and all windows of its image."""
    first = problem.model.layers[0]
    windows = (prod(first.shapes[0][1:]) + 1) * prod(first.out[1:]) if isinstance(first, layers.Conv) else 0
    return 4 * problem.model.inputs + windows


# ---- execution -------------------------------------------------------------------------------------------------------
def tell(text: str) -> None:
    """A note to the person who waits."""
    print(f"note: {text}", file=sys.stderr)


def seconds(device: str) -> float:
    """A clock: the thread's own time on a CPU, where threads may wait for one another; the wall's elsewhere."""
    if device == "cpu":
        return time.thread_time()
    machine.synchronize(device)
    return time.perf_counter()


Act = Callable[[Tensor, Event], None]  # what is done with the numbers of some runs, until the event says to stop


def side_by_side(chunks: Sequence[Tensor], act: Act, workers: int) -> None:
    """`act` on each chunk, `workers` of them at a time, each on one thread; in halves where memory runs out."""
    stop = Event()
    if workers == 1:
        for chunk in chunks:
            halving(chunk, act, stop)
        return
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(halving, chunk, act, stop) for chunk in chunks]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # where all are done it stops none
            for future in futures:
                future.cancel()
    for future in done:
        future.result()


def halving(rows: Tensor, act: Act, stop: Event) -> None:
    """`act` on the runs `rows`, or on its halves where it runs out of memory. Raises LoobenchError where one run does."""
    try:
        act(rows, stop)
        return
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error, str(error)):
            raise
    if len(rows) == 1:
        raise LoobenchError("one run alone does not fit into the memory of the device: take a smaller batch or task")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    tell(f"out of memory with {len(rows)} runs at once: going on with half as many; last bits may differ")
    for half in rows.tensor_split(2):
        halving(half, act, stop)


SIGNS = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")  # of short memory, in messages


def out_of_memory(error: BaseException, message: str) -> bool:
    """Whether an error, by its kind or its message, says that memory is short, on a GPU or on the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in message for sign in SIGNS)
