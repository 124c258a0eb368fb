"""The training loop: the reference run, and any number of runs with samples left out."""

from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from benchmark.base.errors import LoobenchError
from benchmark.core import calculus
from benchmark.core.problem import Problem
from benchmark.core.trajectory import Replay, Trajectory, replayed
from benchmark.retraining import chunks, engine
from benchmark.retraining.chunks import Means, Stopped
from benchmark.retraining.dense import Gram
from benchmark.retraining.engine import AnyRuns, gram_pays
from benchmark.retraining.generic import blocks

Progress = Callable[[int], object]  # called with the number of sample visits just done


def train(problem: Problem, every: int = 1) -> Trajectory:
    """The reference run, every sample kept, with all of its states or with every so many and a `Replay` of the others."""
    state = problem.start()
    kept = [state]
    for t in range(problem.steps):
        state = problem.step(t, state, problem.weights(t))
        if (t + 1) % every == 0:
            kept.append(state)
    return replayed(problem, torch.stack(kept), every)


def trained(problem: Problem, means: Means) -> Trajectory:
    """The reference run, with as many of its states kept as the memory allows."""
    return train(problem, every=chunks.spacing(problem, means))


def held(run: Trajectory, means: Means) -> Trajectory:
    """A run with all of its states, those between checkpoints computed again, where the memory allows that."""
    whole = isinstance(run.states, Replay) and chunks.spacing(run.problem, means) == 1
    return Trajectory(run.problem, run.whole()) if whole else run


class Ledger(Protocol):
    """Where finished chunks are written down, so that work that was stopped goes on from there, here or elsewhere."""

    def order(self, chunks: int, /) -> Sequence[int]:
        """The numbers of so many chunks, in the order in which they are to be done here."""

    def find(self, rows: Tensor, /) -> Tensor | None:
        """What was read (H, R, ...) from the runs of these numbers, if it was written down."""

    def enter(self, rows: Tensor, reading: Tensor, seconds: float, visits: int, /) -> None:
        """Write down what was read from some runs, the time it took and the sample visits that were trained in it."""


class Clock:
    """A ledger that keeps nothing but the time that all chunks took together, and their sample visits."""

    def __init__(self) -> None:
        self.seconds, self.visits, self.lock = 0.0, 0, Lock()

    def order(self, chunks: int) -> Sequence[int]:
        """As they come."""
        return range(chunks)

    def find(self, _rows: Tensor) -> Tensor | None:
        """None."""
        return None

    def enter(self, _rows: Tensor, _reading: Tensor, seconds: float, visits: int) -> None:
        """Add the time and the visits."""
        with self.lock:
            self.seconds += seconds
            self.visits += visits


def retrain(
    problem: Problem,
    keep: Tensor,
    *,
    states: Tensor | None = None,
    since: int = 0,
    read: Callable[[AnyRuns], Tensor] = engine.parameters,
    gram: bool | None = None,
    runs: int | None = None,
    means: Means | None = None,
    ledger: Ledger | None = None,
    progress: Progress = lambda visits: None,
) -> Tensor:
    """Train R times from the same start on the same batches, run r with the samples of `keep[r]` only. (R, N) -> (H, R, ...)

    A sample not kept has weight 0 in every batch, and the batch keeps its 1/|B| unless the problem's counterfactual is
    `renormalised`; a number other than 0 and 1 in `keep` is that part of a sample's weight. `read` takes what is wanted from
    some runs at each horizon: by default their parameters (R, P); ``lambda some: some.query_losses()`` gives query losses
    (R, Q). With the `states` (T + 1, S, P) of the reference run, no run repeats what it shares with it, and samples can be left
    out of the steps from `since` on only.
    At most `runs` are advanced at once; their number decides the last bit, so that by default it depends on the problem and on
    R alone. `gram` switches the Gram form of the first layer on or off, by default on where it is cheaper. `means` bounds
    memory and sets how many chunks of runs are trained side by side, which changes no bit; by default what the command allows.
    `progress` is told of sample visits done, shared ones included. Raises LoobenchError for no runs, and where memory does not
    suffice for one.
    """
    if since and states is None:
        raise LoobenchError(f"to leave samples out from step {since} on takes the states of the reference run, got none")
    spanned = gram_pays(problem) if gram is None else gram
    shared = Gram.of(problem) if spanned and len(keep) else None
    visits = int((problem.batches[since : problem.horizons[-1]] >= 0).sum())
    calculus.count(gradients=visits * len(keep))  # of the question, whatever is shared

    def begin(start: int, count: int) -> AnyRuns:
        return engine.runs(problem, problem.start() if states is None else states[start], count, shared)

    starts = torch.zeros(len(keep), dtype=torch.int64) if states is None else departures(problem, keep, since)
    return training_loop(
        problem, keep, begin, read, starts=starts, gram=spanned, runs=runs, means=means, ledger=ledger, progress=progress
    )


class Advanced(Protocol):
    """Some runs side by side, or what is carried for each of them."""

    def step(self, t: int, rows: Tensor, weights: Tensor, /) -> None:
        """Take step t on the samples `rows` with weights (R, B)."""


AdvancedRuns = TypeVar("AdvancedRuns", bound=Advanced)


def training_loop(
    problem: Problem,
    keep: Tensor,
    begin: Callable[[int, int], AdvancedRuns],
    read: Callable[[AdvancedRuns], Tensor],
    *,
    starts: Tensor,
    gram: bool = False,
    runs: int | None = None,
    means: Means | None = None,
    ledger: Ledger | None = None,
    progress: Progress = lambda visits: None,
) -> Tensor:
    """Advance R runs, begun by ``begin(step, number)`` before their step `starts` (R,), in chunks. (R, N) -> (H, R, ...)

    The other arguments, and what is raised, are those of `retrain`.
    """
    if not len(keep):
        raise LoobenchError("retrain needs at least one run, got none")
    planned = chunks.plan(problem, len(keep), gram, means or chunks.allowed())
    if planned.short:
        chunks.tell(f"{planned.runs} runs at once, fewer than usual, to stay within the memory: last bits may differ")
    loop = Loop(problem, keep, begin, read, starts, ledger or Clock(), progress)
    parts = together(starts, runs or planned.runs)
    chunks.side_by_side([parts[i] for i in loop.ledger.order(len(parts))], loop.chunk, planned.workers)
    return loop.found


def together(starts: Tensor, most: int) -> tuple[Tensor, ...]:
    """The numbers of runs that begin at the steps `starts` (R,), in chunks of at most so many that begin at about the same."""
    return torch.split(starts.argsort(stable=True), most)


def trained_visits(problem: Problem, start: int, runs: int) -> int:
    """Sample visits of a chunk of so many runs that begins at a step: those that are trained, not those before it."""
    return runs * int((problem.batches[start : problem.horizons[-1]] >= 0).sum())


def departures(problem: Problem, keep: Tensor, since: int = 0) -> Tensor:
    """The step (R,) before which each run is the reference run, at most the last one before the first horizon.

    Samples are missing from step `since` on. Raises LoobenchError where a horizon comes before it.
    """
    if since >= problem.horizons[0]:
        raise LoobenchError(
            f"samples cannot be missing from step {since} on where a horizon is after {problem.horizons[0]} steps"
        )
    first = torch.full((len(problem.train),), problem.steps)
    for t in reversed(range(since, problem.steps)):
        first[problem.batch(t).cpu()] = t
    visits = torch.empty(len(keep), dtype=torch.int64)
    for some in blocks(len(keep), 256):
        visits[some] = torch.where(keep[some].cpu() != 1, first, problem.steps).amin(1)
    return visits.clamp_(max=problem.horizons[0] - 1)


class Loop:
    """What all chunks of one retraining share, and the training of one of them."""

    def __init__(
        self,
        problem: Problem,
        keep: Tensor,
        begin: Callable[[int, int], Any],
        read: Callable[[Any], Tensor],
        starts: Tensor,
        ledger: Ledger,
        progress: Progress,
    ) -> None:
        self.problem, self.keep, self.begin, self.read, self.starts = problem, keep, begin, read, starts
        self.ledger, self.progress, self.lock = ledger, progress, Lock()
        self.found = torch.empty(0)  # (H, R, ...) as soon as the first chunk is done
        self.batches = [problem.batch(t) for t in range(problem.horizons[-1])]

    def chunk(self, rows: Tensor, stop: Event) -> None:
        """Put what is read from the runs `rows` into `found`, from the ledger or by training them. Raises Stopped."""
        found = self.ledger.find(rows)
        if found is None:
            began = chunks.seconds(self.problem.initial.device.type)
            found = self._trained(rows, stop)
            took = chunks.seconds(self.problem.initial.device.type) - began
            self.ledger.enter(rows, found, took, trained_visits(self.problem, int(self.starts[rows].min()), len(rows)))
        else:
            self._done(sum(map(len, self.batches)) * len(rows))
        self._put(rows, found)

    def _put(self, rows: Tensor, reading: Tensor) -> None:
        device = self.problem.initial.device
        with self.lock:
            if not self.found.numel():  # one tensor for all: many small ones among large freed ones would scatter the memory
                horizons, _, *rest = reading.shape
                self.found = torch.empty(horizons, len(self.keep), *rest, dtype=reading.dtype, device=device)
            self.found[:, rows.to(device)] = reading.to(device)

    def _trained(self, rows: Tensor, stop: Event) -> Tensor:
        done = []

        def step_done(visits: int) -> None:
            done.append(visits * len(rows))
            self._done(visits * len(rows))

        try:
            return self._readings(rows, stop, step_done)
        except BaseException:
            self._done(-sum(done))
            raise

    def _readings(self, rows: Tensor, stop: Event, step_done: Progress) -> Tensor:
        problem, start = self.problem, int(self.starts[rows].min())
        runs = self.begin(start, len(rows))
        keep = self.keep[rows.to(self.keep.device)]
        step_done(sum(map(len, self.batches[:start])))
        readings = []
        for t in range(start, len(self.batches)):
            if stop.is_set():
                raise Stopped
            batch = self.batches[t]
            runs.step(t, batch, problem.shares(keep[:, batch].to(problem.initial)))
            step_done(len(batch))
            if t + 1 in problem.horizons:
                readings.append(self.read(runs))
        return torch.stack(readings)

    def _done(self, visits: int) -> None:
        with self.lock:
            self.progress(visits)


def leave_one_out(
    run: Trajectory,
    *,
    since: int = 0,
    gram: bool | None = None,
    runs: int | None = None,
    means: Means | None = None,
    ledger: Ledger | None = None,
    progress: Progress = lambda visits: None,
) -> Tensor:
    """Effect (H, K, Q) of leaving out each of the problem's K samples: query loss without it minus query loss with it.

    The settings are those of `retrain`.
    The run with every sample is trained along with the others, so that rounding common to all of them cancels.
    """
    return against_all(
        run.problem,
        left_out(run.problem),
        states=run.states,
        since=since,
        gram=gram,
        runs=runs,
        means=means,
        ledger=ledger,
        progress=progress,
    )


def against_all(problem: Problem, keep: Tensor, **settings: Any) -> Tensor:
    """Query losses of each run less those of the last, which keeps every sample. (M + 1, N) -> (H, M, Q)

    The settings are those of `retrain`.
    """
    losses = retrain(problem, keep, read=engine.query_losses, **settings)
    return losses[:, :-1] - losses[:, -1:]


def left_out(problem: Problem) -> Tensor:
    """Masks (K + 1, N): each without one of the problem's samples, the last with all."""
    samples = problem.left_out
    keep = torch.ones(len(samples) + 1, len(problem.train), dtype=torch.bool, device=samples.device)
    keep[torch.arange(len(samples), device=samples.device), samples] = False
    return keep
