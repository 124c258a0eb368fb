"""Exact leave-one-out truths: computed by retraining, kept in the cache, and exported for other readers."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict, replace
from functools import cache as once
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmark import PROTOCOL
from benchmark.base import machine
from benchmark.base.errors import Diverged
from benchmark.base.files import claimed, json_digest, write_sealed
from benchmark.core import calculus
from benchmark.core.problem import Problem, in_precision
from benchmark.core.trajectory import Trajectory
from benchmark.retraining import chunks
from benchmark.retraining.chunks import FREE, Means
from benchmark.retraining.engine import gram_pays, query_losses
from benchmark.retraining.train import (
    Clock,
    Progress,
    against_all,
    departures,
    leave_one_out,
    retrain,
    together,
    trained,
    trained_visits,
)
from benchmark.tasks.definition import AnyTask, Task, build, flipped
from benchmark.truths.counterfactuals import Design, design, each_sample
from benchmark.truths.effects import GroundTruth, Noise, largest
from benchmark.truths.layout import adopted
from benchmark.truths.limits import (
    EACH,
    NOISE_SAMPLES,
    Curve,
    Figured,
    beside,
    deviation,
    evenly,
    limits,
    noise_floor,
    some_of,
)
from benchmark.truths.uses import Prepared, packed, preparation_visits, prepare, unpacked
from benchmark.truths.workers import (
    ALONE,
    ChunkFiles,
    Figures,
    Part,
    Presence,
    Reference,
    Sealed,
    agreed,
    clear,
    keep_reference,
    kept_reference,
    known,
    present,
)

PARTS = ("effect", "removed", "repeats")  # tensors of a truth
TIMED, ENOUGH = 4, 2.0  # chunks that are trained anew for their time, and the seconds after which fewer will do


class Bar(Protocol):
    """What a progress bar must do."""

    def update(self, n: int) -> object: ...
    def close(self) -> object: ...


MakeBar = Callable[[int, str, str], Bar]  # from total, text and unit
Book = Callable[[int], Clock]  # the ledger of the r-th of the problems that a truth is the mean over


def answer(
    task: AnyTask, seed: int, cache: Path, device: str, bar: MakeBar, means: Means = FREE, part: Part | None = None
) -> tuple[Trajectory, GroundTruth]:
    """The reference run of a task and seed, and the truth about it, with a progress bar.

    With a `part`, as one of many workers that share the cache: they start from the reference run of the first of them, train
    each chunk once but for the last ones, and have the same answer. Raises LoobenchError where their reference runs differ.
    """
    with ExitStack() as held:
        worker = held.enter_context(present(_meeting(task, seed, cache, device), part)) if part else None
        start = begun(task, seed, cache, device, means, shared=worker is not None)
        if worker:
            worker.tell(start.digest)
            agreed(worker, f"the truth of {task.name}, seed {seed}", _run_file(task, seed, cache, device))
        shown = held.enter_context(closing(_bar(bar, task, seed, start.run)))
        return start.run, cached_truth(
            task, seed, start.run, cache, device, means, start=start, worker=worker, progress=shown.update
        )


def _bar(bar: MakeBar, task: AnyTask, seed: int, run: Trajectory) -> Bar:
    return bar(design(task, run, seed).visits, f"truth {task.name} seed {seed}", "visit")


def _meeting(task: AnyTask, seed: int, cache: Path, device: str) -> Path:
    """The folder where workers at a truth, of whatever protocol, see one another."""
    return cache / "locks" / f"workers-{json_digest([{**task.record(), 'name': None, 'suite': None}, seed, device])[:32]}"


def _run_file(task: AnyTask, seed: int, cache: Path, device: str) -> Path:
    """Where the reference run is kept that workers share."""
    return path(task.digest(), seed, cache, device).with_suffix(".run")


def begun(task: AnyTask, seed: int, cache: Path, device: str, means: Means, *, shared: bool) -> Reference:
    """The reference run that workers share, if there is one; else one's own, which is kept for others where it is `shared`."""
    at = _run_file(task, seed, cache, device)
    if not shared and not at.exists():
        run = reference(task, seed, cache, device, means)
        return Reference(run, run.digest())
    problem = fitted(task, seed, cache, device, means)
    lock = claimed(cache / "locks" / f"{at.stem}-run.lock", f"the reference run of {task.name}, seed {seed}")
    with lock if shared else nullcontext():
        if found := kept_reference(at, problem, means):
            return found
        run = _trained(task, seed, problem, cache, device, means)
        made = Reference(run, run.digest())
        if shared:
            keep_reference(at, made)
        return made


def reference(task: AnyTask, seed: int, cache: Path, device: str, means: Means = FREE) -> Trajectory:
    """The reference run of a task and seed, or the published one that a truth in the cache came with (published.py).

    Raises Diverged, and LoobenchError where retraining will not fit the memory.
    """
    return _trained(task, seed, fitted(task, seed, cache, device, means), cache, device, means)


def fitted(task: AnyTask, seed: int, cache: Path, device: str, means: Means) -> Problem:
    """The problem of a task and seed. Raises LoobenchError where retraining will not fit the memory."""
    problem = build(task, seed, cache, device)
    check_memory(problem, means)
    return problem


def _trained(task: AnyTask, seed: int, problem: Problem, cache: Path, device: str, means: Means) -> Trajectory:
    run = adopted(problem, path(task.digest(), seed, cache, device), means) or trained(problem, means)
    if not run.states[problem.steps].isfinite().all():  # what is not finite does not become so again
        raise Diverged(f"training of {task.name}, seed {seed}, diverged: its parameters are not finite; lower the rate")
    return run


def check_memory(problem: Problem, means: Means) -> None:
    """Raise LoobenchError where retraining, or the float64 part of its noise floor, would not fit the memory."""
    planned(problem, means)
    if problem.initial.dtype != torch.float64:
        left = beside(chunks.states_bytes(problem, means), means)
        chunks.plan(in_precision(problem, torch.float64), NOISE_SAMPLES + 1, gram_pays(problem), left)


def planned(problem: Problem, means: Means, runs: int | None = None) -> chunks.Plan:
    """How so many runs will be trained, by default one without each of the problem's samples, and one with all."""
    return chunks.plan(problem, runs or len(problem.left_out) + 1, gram_pays(problem), means)


def ground_truth(
    run: Trajectory,
    means: Means = FREE,
    book: Book | None = None,
    *,
    asked: Design | None = None,
    figured: Figured = EACH,
    progress: Progress = lambda visits: None,
) -> GroundTruth:
    """Train what a design says, by default without each sample asked, and read off the query losses at each horizon.

    Timed after a warm-up. In float32 or on a GPU, with the noise of the answer, of leave-one-out; `figured` computes its
    figures. Where other machines trained some chunks, the time is that of this one's, scaled to all by sample visits; without
    any, some are trained for it. Raises Diverged.
    """
    device, asked = run.final.device.type, asked or each_sample(run)
    warm_up(run, means)
    ledgers = [book(r) if book else Clock() for r in range(len(asked.problems))]
    with calculus.counting() as count:
        found = [effects(run, asked, *one, means, progress).cpu() for one in zip(asked.problems, ledgers, strict=True)]
    repeats = torch.stack(found) if len(found) > 1 else None  # (R, H, M, Q)
    effect = found[0] if repeats is None else repeats.mean(0)
    if broken := int((~effect.isfinite()).any(dim=0).any(dim=1).sum()):
        what = "samples" if asked.removed is None else "groups"
        raise Diverged(f"retraining diverged without {broken} of {effect.shape[1]} {what}: there is no truth to score against")
    exact = run.final.dtype == torch.float64 and device == "cpu"
    plain = asked.problems[0] is run.problem and asked.removed is None
    floor = noise(run, effect, means, figured) if plain and not exact else None
    seconds = _seconds(run, asked, ledgers, means)
    removed = None if asked.removed is None else asked.removed.cpu()
    return GroundTruth(effect, seconds, count.gradients, machine.timed_on(device), floor, removed, repeats)


def warm_up(run: Trajectory, means: Means) -> None:
    """One step: what takes long the first time is not to be timed."""
    leave_one_out(some_of(run.until(1), torch.tensor([0])), means=means)


def _seconds(run: Trajectory, asked: Design, ledgers: Sequence[Clock], means: Means) -> float:
    """The time of a design on this machine."""
    seconds, here = sum(ledger.seconds for ledger in ledgers), sum(ledger.visits for ledger in ledgers)
    elsewhere = sum(visits for ledger in ledgers if isinstance(ledger, ChunkFiles) for _, visits in ledger.others.values())
    if not elsewhere:
        return seconds
    return seconds / here * (here + elsewhere) if here else timed(run, asked, means)


def timed(run: Trajectory, asked: Design, means: Means) -> float:
    """Seconds that a design takes on this machine: those of some chunks, evenly spread, scaled to all by sample visits."""
    problem, clock = asked.problems[0], Clock()
    states = run_of(problem, run, means).states
    _, parts = parted(problem, asked.keep, means)
    for i in evenly(len(parts), TIMED).tolist():
        rows = parts[i]
        keep = asked.keep[rows.to(asked.keep.device)]
        retrain(problem, keep, states=states, read=query_losses, runs=len(rows), means=Means(means.memory), ledger=clock)
        if clock.seconds > ENOUGH:
            break
    return clock.seconds / clock.visits * trained_in(asked, means)


def trained_in(asked: Design, means: Means) -> int:
    """Sample visits that are trained for a design: each chunk begins where the first of its runs departs."""
    problem = asked.problems[0]
    starts, parts = parted(problem, asked.keep, means)
    return sum(trained_visits(problem, int(starts[rows].min()), len(rows)) for rows in parts) * len(asked.problems)


def run_of(problem: Problem, run: Trajectory, means: Means) -> Trajectory:
    """The run with every sample of one of a design's problems: the reference run where it is that one's, else trained."""
    return run if problem is run.problem else trained(problem, means)


def parted(problem: Problem, keep: Tensor, means: Means) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The steps (R,) before which runs with the masks (R, N) begin, and their numbers in chunks as they are trained."""
    starts = departures(problem, keep)
    return starts, together(starts, planned(problem, means, len(keep)).runs)


def effects(
    run: Trajectory, asked: Design, problem: Problem, ledger: Clock, means: Means, progress: Progress = lambda visits: None
) -> Tensor:
    """Effects (H, M, Q) of a design's groups in one of its problems."""
    states = run_of(problem, run, means).states
    return against_all(problem, asked.keep, states=states, means=means, ledger=ledger, progress=progress)


def noise(run: Trajectory, effect: Tensor, means: Means, figured: Figured = EACH) -> Noise:
    """The noise floor of an effect (H, K, Q), from some of its samples, evenly spread: trained anew, and in float64.

    Both on the same device. Anew means with the samples of each batch in reverse, so that sums are taken in another order.
    """
    some = evenly(effect.shape[1])

    def double() -> Curve:
        left = beside(run.states.nbytes, means)
        again = trained(in_precision(some_of(run, some).problem, torch.float64), left)
        return deviation(effect, some, leave_one_out(again, means=left, ledger=figured.ledger("float64")))

    found = figured({"noise": lambda: noise_floor(run, effect, means, figured.ledger("noise")), "float64": double})
    return Noise(largest(found["noise"]), largest(found["float64"]), len(some))


def path(task_digest: str, seed: int, cache: Path, device: str) -> Path:
    """Where a truth is kept, named by all that decides it; the digest of a task has the protocol."""
    key = json_digest({"task": task_digest, "seed": seed, "device": device})
    return cache / "truth" / f"{key}.safetensors"


def cached_truth(
    task: AnyTask,
    seed: int,
    run: Trajectory,
    cache: Path,
    device: str,
    means: Means = FREE,
    *,
    start: Reference | None = None,
    worker: Presence | None = None,
    progress: Progress = lambda visits: None,
) -> GroundTruth:
    """The truth from the cache, if it is whole and of this very trajectory; else computed and kept. Timed on this machine.

    Chunks of runs are kept as they are done, so that a run that was stopped goes on from there. A truth that another process
    computes into this cache is waited for; as a `worker`, it is computed together with others. `start` has the digest of the
    run where it was trained, by default as it is here.
    """
    at, asked, meeting = path(task.digest(), seed, cache, device), design(task, run, seed), _meeting(task, seed, cache, device)
    start = start or Reference(run, run.digest())

    def made() -> Sealed:
        with present(meeting, ALONE) if worker is None else nullcontext(worker) as here:
            content = _made(task, seed, start, asked, at, means, here.part, progress)
        if worker:
            agreed(worker, f"the truth of {task.name}, seed {seed}", at.with_suffix(".run"))
            return fitting(at, start, asked, means) or content  # another may have been the last one, too
        return content

    with nullcontext() if worker else computing(task, seed, cache, device):
        if not (found := fitting(at, start, asked, means)):
            write_sealed(at, *(found := made()))
        _tidy(at.with_suffix(".chunks"), meeting, worker)
    return _timed_here(at, found, run, asked, means)


def fitting(at: Path, start: Reference, asked: Design, means: Means) -> Sealed | None:
    """A kept truth that is whole and of this very trajectory; the last bits of a small chunk will do where memory is short."""
    found = known(at, {}, "truth")
    return found if found and found[1]["of"] in [_of(start, asked, m) for m in (FREE, means)] else None


def _made(
    task: AnyTask, seed: int, start: Reference, asked: Design, at: Path, means: Means, part: Part, progress: Progress
) -> Sealed:
    """A truth as its file has it, from chunks and figures in the folder beside it and from those that are trained now."""
    run, files = start.run, [ledger(task, start, asked, at, means, r, part) for r in range(len(asked.problems))]
    kept = figures(task, start, asked, at, means, part)
    truth = ground_truth(run, means, files.__getitem__, asked=asked, figured=kept, progress=progress)
    if part.of > 1:
        trained, found = (sum(getattr(one, name) for one in files) for name in ("trained", "found"))
        chunks.tell(f"part {part} trained {trained} of {trained + found} chunks")
    tensors, facts = _packed(replace(truth, limits=limits(task, seed, run, truth, means, kept)), _of(start, asked, means))
    return tensors, {**facts, **_elsewhere(files)}


def ledger(
    task: AnyTask, start: Reference, asked: Design, at: Path, means: Means, r: int = 0, part: Part = ALONE
) -> ChunkFiles:
    """The finished chunks of the r-th problem of a truth that is kept `at`, by whatever worker, machine or process."""
    of = json_digest([*_key(task, start, asked, means), r])
    return ChunkFiles(at.with_suffix(".chunks"), of, machine.timed_on(start.run.final.device.type), part)


def figures(task: AnyTask, start: Reference, asked: Design, at: Path, means: Means, part: Part = ALONE) -> Figures:
    """The finished figures of a truth that is kept `at`."""
    of = json_digest([*_key(task, start, asked, means), "figures"])
    return Figures(at.with_suffix(".chunks"), of, machine.timed_on(start.run.final.device.type), part)


def _key(task: AnyTask, start: Reference, asked: Design, means: Means) -> list[str]:
    """All that decides the numbers of a chunk, but for its rows: what it is of, protocol, kind of device, precision."""
    return [_of(start, asked, means), PROTOCOL, start.run.final.device.type, task.dtype]


def _elsewhere(ledgers: Sequence[ChunkFiles]) -> dict[str, Any]:
    """The seconds that other machines took for their chunks of a truth, as a fact; none where all are of this machine."""
    found: dict[str, float] = {}
    for where, (seconds, _) in (one for ledger in ledgers for one in ledger.others.items()):
        found[where] = found.get(where, 0.0) + seconds
    return {"elsewhere": found} if found else {}


def _tidy(folder: Path, meeting: Path, worker: Presence | None) -> None:
    """Remove the chunks of a truth that is kept, unless others are at it still: then the next who asks for it does."""
    if folder.exists():
        with present(meeting, ALONE) if worker is None else nullcontext(worker) as present_here:
            if not present_here.others():
                clear(folder)


def _timed_here(at: Path, found: Sealed, run: Trajectory, asked: Design, means: Means) -> GroundTruth:
    """A kept truth with its time on this machine; where it has none, some chunks are trained for it, and it is noted."""
    (tensors, facts), here = found, machine.timed_on(run.final.device.type)
    truth, times = _unpacked(at, tensors, facts), facts.get("times", {})
    if truth.machine == here:
        return truth
    if here not in times:
        warm_up(run, means)
        times = {**times, here: timed(run, asked, means)}
        write_sealed(at, tensors, {**facts, "times": times})
    return replace(truth, seconds=times[here], machine=here)


def computing(task: AnyTask, seed: int, cache: Path, device: str, *, wait: bool = True) -> AbstractContextManager[bool]:
    """Claim the truth of a task and seed, or the preparation of its uses, in this cache; whether it may be computed now."""
    at = path(task.digest(), seed, cache, device)
    return claimed(cache / "locks" / f"{at.stem}.lock", f"the truth of {task.name}, seed {seed}, in this cache", wait=wait)


def adopt(task: AnyTask, seed: int, run: Trajectory, truth: GroundTruth, cache: Path, device: str) -> None:
    """Keep a truth from elsewhere in the cache, as that of a run which `reference` gives from now on."""
    of = _of(Reference(run, run.digest()), design(task, run, seed), FREE)
    write_sealed(path(task.digest(), seed, cache, device), *_packed(truth, of))


def kept(task_digest: str, seed: int, cache: Path, device: str) -> GroundTruth | None:
    """A truth in the cache; None where it is absent or, said aloud, damaged."""
    found = known(at := path(task_digest, seed, cache, device), {}, "truth")
    return _unpacked(at, *found) if found else None


def _packed(truth: GroundTruth, of: str) -> Sealed:
    """The tensors of a truth, and the facts: among them a digest of what it is of, and of the sources that computed it."""
    tensors = {name: getattr(truth, name) for name in PARTS if getattr(truth, name) is not None}
    facts = {name: getattr(truth, name) for name in ("seconds", "gradients", "machine", "limits")}
    made = {"of": of, "harness": machine.harness(), "noise": asdict(truth.noise) if truth.noise else None}
    return tensors, {**facts, **made, **({"origin": truth.origin} if truth.origin else {})}


def _unpacked(at: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> GroundTruth:
    """The truth again. That other sources computed it is said: whoever changes the engine must not take it for new."""
    rest = {name: value for name, value in facts.items() if name not in ("of", "harness", "noise", "elsewhere", "times")}
    if (made := facts.get("harness")) != machine.harness():
        _tell_sources(str(at), str(made))
    return GroundTruth(**dict[str, Any](tensors), **rest, noise=Noise(**facts["noise"]) if facts["noise"] else None)


@once
def _tell_sources(at: str, made: str) -> None:
    """Say once that a kept truth is of other sources."""
    chunks.tell(f"a truth kept by other sources of this protocol (harness {made}) is taken: {at}; remove it to have it anew")


def cached_uses(
    task: AnyTask, seed: int, run: Trajectory, exact: GroundTruth, cache: Path, device: str, bar: MakeBar, means: Means = FREE
) -> Prepared:
    """What the uses of a task and seed are judged by, from the cache or trained and kept, with a progress bar."""
    assert isinstance(task, Task)  # only those of the suites have uses
    assert task.uses
    uses, of = task.uses, exact.digest()
    everyone = exact.effect[-1, :, 0] if exact.removed is None else None

    def made() -> Sealed:
        visits = preparation_visits(run.problem, uses, oracle=everyone is not None)
        wrong = torch.from_numpy(flipped(task, seed))
        with closing(bar(visits, f"uses {task.name} seed {seed}", "visit")) as shown:
            tensors, facts = packed(prepare(run.problem, uses, wrong, seed, everyone, means, progress=shown.update))
        return tensors, {**facts, "of": of}

    at = path(task.digest(), seed, cache, device).with_suffix(".uses")
    with computing(task, seed, cache, device):
        found = known(at, {}, "preparation of uses")
        if not (found and found[1]["of"] == of):
            write_sealed(at, *(found := made()))
    return unpacked(*found)


def _of(start: Reference, asked: Design, means: Means) -> str:
    """Digest of what a truth is of: problem, trajectory, and how many runs are trained at once."""
    return json_digest([start.problem, start.digest, planned(start.run.problem, means, len(asked.keep)).runs])
