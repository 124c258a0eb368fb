"""A Ray cluster, and the chunks and figures of a truth over it: as bytes there and back, for there may be no shared disk."""

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import benchmark
from benchmark.base import machine
from benchmark.base.errors import Diverged, LoobenchError
from benchmark.base.files import digest, pack, unpack
from benchmark.core.problem import map_tensors
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.chunks import FREE, Means
from benchmark.retraining.engine import query_losses
from benchmark.retraining.train import Clock, retrain, trained_visits
from benchmark.running.plan import Plan
from benchmark.sandbox import transport
from benchmark.tasks.definition import AnyTask
from benchmark.truths import limits, truth, workers
from benchmark.truths.counterfactuals import Design, design
from benchmark.truths.truth import MakeBar
from benchmark.truths.workers import Reference

PATIENCE = 4.0  # seconds that an address has to answer, and that Ray then has to connect: after 5 it begins to complain
RETRIES = 10  # of a piece whose node died
PREFACE, SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # how HTTP/2 begins (RFC 9113)
Here = tuple[str, str]  # protocol and version of loobench
Given = tuple[list[Any], str]  # a run that is held for all nodes, and its digest


# ---- the cluster -----------------------------------------------------------------------------------------------------
class Cluster:
    """A Ray cluster that this process is connected to; a piece of work takes a core, or on a GPU a GPU."""

    def __init__(self, ray: Any, device: str) -> None:
        self.ray, self.device = ray, device
        self.last: tuple[Trajectory, bool, Given] | None = None

    def given(self, run: Trajectory, *, whole: bool = False) -> Given:
        """A run as bytes that all nodes can have, sent once; in a list, so that a piece of work gets them when it asks.

        It goes as checkpoints where its states are many, unless it is to be `whole`, as it is held here.
        """
        if self.last is None or self.last[0] is not run or self.last[1] is not whole:
            content = transport.encode(run if whole else workers.checkpoints(run))
            self.last = run, whole, ([self.ray.put(content)], digest(content))
        return self.last[2]

    def on(self, node: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives on one node. Raises LoobenchError as `done`, also where that node is gone."""
        there = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        return self._got(self._remote(function, scheduling_strategy=there).remote(*arguments))

    def done(self, function: Callable[..., Any], given: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """What a function gives for each of the arguments, with their number, as it comes.

        Raises LoobenchError where a piece of work fails, or has lost its node too often.
        """
        remote = self._remote(function)
        waiting = {remote.remote(*arguments): number for number, arguments in enumerate(given)}
        while waiting:
            (first, *_), _ = self.ray.wait([*waiting], num_returns=1)
            yield waiting.pop(first), self._got(first)

    def _remote(self, function: Callable[..., Any], **more: Any) -> Any:
        gpu = {"num_gpus": 1} if self.device == "cuda" else {}
        return self.ray.remote(function).options(num_cpus=1, max_retries=RETRIES, **gpu, **more)

    def _got(self, answer: Any) -> Any:
        try:
            return self.ray.get(answer)
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            what = str(cause) if isinstance(cause, LoobenchError) else f"{type(cause).__name__}: {cause}".splitlines()[0]
            raise LoobenchError(
                f"a piece of work failed on the Ray cluster: {what}; what was done is kept, mend that and repeat the command"
            ) from error


@contextmanager
def connected(address: str, device: str) -> Iterator[Cluster]:
    """The cluster at ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``. Raises LoobenchError where none answers, or no Ray is."""
    _answers(address)
    ray = _ray()
    _connect(ray, address)
    try:
        yield Cluster(ray, device)
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Connect Ray, in a thread of its own: it may wait for minutes, which nothing ends."""
    failed: list[str] = [f"nobody within {PATIENCE:g} seconds"]

    def connect() -> None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
            failed.clear()
        except Exception as error:  # Ray raises whatever kind
            failed[0] = f"{type(error).__name__}: {error}".splitlines()[0]

    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if failed:
        raise _silent(address, failed[0])


def _answers(address: str) -> None:
    """Knock at an address: Ray itself waits for minutes where nobody answers, or something else does."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"
    if address == "auto":
        return  # it looks on this machine, at once
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise LoobenchError(f"--ray takes auto, HOST:PORT or ray://HOST:PORT, got {address!r:.80}")
    try:
        answer = _greeted(host.strip("[]"), int(port))
    except OSError as error:
        raise _silent(address, error.strerror or str(error)) from error
    if answer != SETTINGS[3:4] and os.environ.get("RAY_USE_TLS", "0") != "1":
        raise _silent(address, "what is there speaks another language than Ray's")


def _greeted(host: str, port: int) -> bytes:
    """The kind of the first frame that comes back when HTTP/2, which Ray's servers speak, is begun."""
    with socket.create_connection((host, port), timeout=PATIENCE) as line:
        line.settimeout(PATIENCE)
        line.sendall(PREFACE + SETTINGS)
        return line.recv(9)[3:4]


def _silent(address: str, why: str) -> LoobenchError:
    return LoobenchError(
        f"no Ray cluster answers at {address}: {why}; start one by `ray start --head`, or name another address"
    )


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise LoobenchError(
            "--ray needs Ray, which is not installed here: pip install 'loobench[ray]', or start workers by --part "
            "(docs/workers.md)"
        ) from error
    return ray


# ---- a truth ---------------------------------------------------------------------------------------------------------
def train(cluster: Cluster, task: AnyTask, seed: int, cache: Path, bar: MakeBar, means: Means = FREE) -> None:
    """Train what is missing of a truth on a cluster; all that it takes is then in the cache.

    Raises what `Cluster.done` raises; what was done by then is kept.
    """
    device = cluster.device
    start = truth.begun(task, seed, cache, device, means, shared=True)
    asked, at = design(task, start.run, seed), truth.path(task.digest(), seed, cache, device)
    if truth.fitting(at, start, asked, means):
        return
    with closing(bar(asked.visits, f"truth {task.name} seed {seed} on the cluster", "visit")) as shown:
        for r in range(len(asked.problems)):
            _chunks(cluster, task, start, asked, at, means, r, shown.update)
    if asked.removed is None:
        _figures(cluster, task, seed, start, asked, at, means)


def train_all(cluster: Cluster, plan: Plan, bar: MakeBar) -> None:
    """Train the truths of a plan's cells that are not done yet; those that diverge are left to the run, which says so."""
    for work in plan.work():
        found = [plan.store.find(one.result).cells.get(str(work.seed)) for one in work.asked]
        if all(cell and not cell.failed for cell in found):
            continue
        with suppress(Diverged):
            train(cluster, work.task, work.seed, plan.setup.cache, bar, plan.setup.means)


def _chunks(
    cluster: Cluster, task: AnyTask, start: Reference, asked: Design, at: Path, means: Means, r: int, progress: Any
) -> None:
    """Train the missing chunks of the r-th problem of a design."""
    problem, files = asked.problems[r], truth.ledger(task, start, asked, at, means, r)
    _, parts = truth.parted(problem, asked.keep, means)
    missing = [rows for rows in parts if files.find(rows) is None]
    progress(trained_visits(problem, 0, len(asked.keep) - sum(map(len, missing))))
    held, name = cluster.given(truth.run_of(problem, start.run, means))
    masks = (pack({"keep": asked.keep[rows.to(asked.keep.device)]}, {}) for rows in missing)
    for number, answer in cluster.done(chunk, ((here(), held, name, mask, cluster.device) for mask in masks)):
        tensors, facts = unpack(answer, "a chunk from the cluster")
        rows = missing[number]
        files.put(rows, tensors["effect"], facts["machine"], facts["seconds"], facts["visits"])
        progress(trained_visits(problem, 0, len(rows)))


def _figures(cluster: Cluster, task: AnyTask, seed: int, start: Reference, asked: Design, at: Path, means: Means) -> None:
    """Compute the missing figures of a truth of leave-one-out, whose chunks are all there."""
    run, kept = start.run, truth.figures(task, start, asked, at, means)
    effect = truth.effects(run, asked, run.problem, truth.ledger(task, start, asked, at, means), means).cpu()
    (held, name), packed = cluster.given(run), pack({"effect": effect}, {})
    missing = [one for one in limits.figures(run, effect, task.epochs, seed) if not kept.has(one)]
    given = ((here(), held, name, packed, one, task.epochs, seed, cluster.device) for one in missing)
    for number, answer in cluster.done(figure, given):
        kept.put(missing[number], answer)


def here() -> Here:
    """What a node must have in common with who asks it."""
    return benchmark.PROTOCOL, benchmark.__version__


# ---- on a node -------------------------------------------------------------------------------------------------------
_last: dict[str, Trajectory] = {}  # the run that this process of the cluster was last given


def chunk(driver: Here, held: list[Any], name: str, mask: bytes, device: str) -> bytes:
    """Query losses (H, R, Q) of the runs of one chunk, with the samples of a mask (R, N), as bytes with time and machine."""
    run, keep, clock = run_of(driver, held, name, device), unpack(mask, "a mask")[0]["keep"].to(device), Clock()
    with machine.one_thread():
        found = retrain(run.problem, keep, states=run.states, read=query_losses, runs=len(keep), means=FREE, ledger=clock)
        facts = {"machine": machine.timed_on(device), "seconds": clock.seconds, "visits": clock.visits}
    return pack({"effect": found}, facts)


def figure(driver: Here, held: list[Any], name: str, effect: bytes, which: str, epochs: int, seed: int, device: str) -> Any:
    """A figure of the limits of a truth, by its name, as a JSON value."""
    run, known = run_of(driver, held, name, device), unpack(effect, "an effect")[0]["effect"]
    with machine.one_thread():
        return limits.figures(run, known, epochs, seed)[which]()


def run_of(driver: Here, held: list[Any], name: str, device: str) -> Trajectory:
    """The run that is held under a name. Raises LoobenchError where this node has another version than who asks."""
    if here() != driver:
        mine, theirs = (f"{version} (protocol {protocol})" for protocol, version in (here(), driver))
        raise LoobenchError(f"node {socket.gethostname()} has loobench {mine}, this process {theirs}: install the same on all")
    if name not in _last:
        _last.clear()
        run = transport.decode(_ray().get(held[0]))
        _last[name] = map_tensors(run, lambda tensor: tensor.to(machine.device(device)))
    return _last[name]


def node() -> str:
    """Ray's name of the node that this process is on."""
    return str(_ray().get_runtime_context().get_node_id())
