"""Exact leave-one-out truths: computed by retraining, kept in the cache, and exported for other readers."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import asdict, replace
from functools import cache as once
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmark.base import machine
from benchmark.base.errors import DamagedFile, Diverged
from benchmark.base.files import claimed, json_digest, read_sealed, write_sealed
from benchmark.core import calculus
from benchmark.core.problem import Problem, in_precision
from benchmark.core.trajectory import Trajectory
from benchmark.retraining import chunks
from benchmark.retraining.chunks import FREE, Means
from benchmark.retraining.engine import gram_pays
from benchmark.retraining.train import Clock, Progress, against_all, leave_one_out, trained
from benchmark.tasks.definition import AnyTask, Task, build, flipped
from benchmark.truths.counterfactuals import Design, design, each_sample
from benchmark.truths.effects import GroundTruth, Noise
from benchmark.truths.limits import NOISE_SAMPLES, Curve, beside, deviation, evenly, limits, noise_floor, some_of
from benchmark.truths.uses import Prepared, packed, preparation_visits, prepare, unpacked

PARTS = ("effect", "removed", "repeats")  # tensors of a truth


class Bar(Protocol):
    """What a progress bar must do."""

    def update(self, n: int) -> object: ...
    def close(self) -> object: ...


MakeBar = Callable[[int, str, str], Bar]  # from total, text and unit
Sealed = tuple[dict[str, Tensor], dict[str, Any]]  # tensors and facts of a file of the cache
Book = Callable[[int], Clock]  # the ledger of the r-th of the problems that a truth is the mean over


def answer(
    task: AnyTask, seed: int, cache: Path, device: str, bar: MakeBar, means: Means = FREE
) -> tuple[Trajectory, GroundTruth]:
    """The reference run of a task and seed, and the truth about it, with a progress bar."""
    run = reference(task, seed, cache, device, means)
    visits = design(task, run, seed).visits
    with closing(bar(visits, f"truth {task.name} seed {seed}", "visit")) as shown:
        return run, cached_truth(task, seed, run, cache, device, means, progress=shown.update)


def reference(task: AnyTask, seed: int, cache: Path, device: str, means: Means = FREE) -> Trajectory:
    """The reference run of a task and seed. Raises Diverged, and LoobenchError where retraining will not fit the memory."""
    problem = build(task, seed, cache, device)
    check_memory(problem, means)
    run = trained(problem, means)
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


class ChunkFiles(Clock):
    """A ledger of finished chunks in a folder, one sealed file each, for one trajectory."""

    def __init__(self, folder: Path, of: str) -> None:
        super().__init__()
        self.folder, self.of = folder, of

    def find(self, rows: Tensor) -> Tensor | None:
        """What was read from the runs `rows`; None where it was not kept or, said aloud, its file is damaged."""
        at = self._at(rows)
        found = known(at, {"of": self.of, "rows": rows.tolist()}, "chunk of a truth")
        if not found:
            return None
        reading = found[0]["effect"]
        super().enter(rows, reading, found[1]["seconds"])
        return reading

    def enter(self, rows: Tensor, reading: Tensor, seconds: float) -> None:
        """Keep what was read from the runs `rows`."""
        facts = {"of": self.of, "rows": rows.tolist(), "seconds": seconds}
        write_sealed(self._at(rows), {"effect": reading}, facts)
        super().enter(rows, reading, seconds)

    def _at(self, rows: Tensor) -> Path:
        return self.folder / f"{json_digest([self.of, rows.tolist()])}.safetensors"


def clear(folder: Path) -> None:
    """Remove a folder of finished chunks, once what they were for is kept."""
    with suppress(OSError):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def ground_truth(
    run: Trajectory,
    means: Means = FREE,
    book: Book | None = None,
    *,
    asked: Design | None = None,
    progress: Progress = lambda visits: None,
) -> GroundTruth:
    """Train what a design says, by default without each sample asked, and read off the query losses at each horizon.

    Timed after a warm-up. In float32 or on a GPU, with the noise of the answer, of leave-one-out. Raises Diverged.
    """
    device, asked = run.final.device.type, asked or each_sample(run)
    leave_one_out(some_of(run.until(1), torch.tensor([0])), means=means)
    ledgers = [book(r) if book else Clock() for r in range(len(asked.problems))]
    with calculus.counting() as count:
        found = [_effects(run, asked, *one, means, progress).cpu() for one in zip(asked.problems, ledgers, strict=True)]
    repeats = torch.stack(found) if len(found) > 1 else None  # (R, H, M, Q)
    effect = found[0] if repeats is None else repeats.mean(0)
    if broken := int((~effect.isfinite()).any(dim=0).any(dim=1).sum()):
        what = "samples" if asked.removed is None else "groups"
        raise Diverged(f"retraining diverged without {broken} of {effect.shape[1]} {what}: there is no truth to score against")
    exact = run.final.dtype == torch.float64 and device == "cpu"
    floor = None if exact or asked.problems[0] is not run.problem or asked.removed is not None else noise(run, effect, means)
    seconds = sum(ledger.seconds for ledger in ledgers)
    removed = None if asked.removed is None else asked.removed.cpu()
    return GroundTruth(effect, seconds, count.gradients, machine.timed_on(device), floor, removed, repeats)


def _effects(run: Trajectory, asked: Design, problem: Problem, ledger: Clock, means: Means, progress: Progress) -> Tensor:
    """Effects (H, M, Q) of a design's groups in one of its problems."""
    states = (run if problem is run.problem else trained(problem, means)).states
    return against_all(problem, asked.keep, states=states, means=means, ledger=ledger, progress=progress)


def noise(run: Trajectory, effect: Tensor, means: Means) -> Noise:
    """The noise floor of an effect (H, K, Q), from some of its samples, evenly spread: trained anew, and in float64.

    Both on the same device. Anew means with the samples of each batch in reverse, so that sums are taken in another order.
    """
    some, left = evenly(effect.shape[1]), beside(run.states.nbytes, means)
    double = in_precision(some_of(run, some).problem, torch.float64)
    again = leave_one_out(trained(double, left), means=left)
    return Noise(_worst(noise_floor(run, effect, means)), _worst(deviation(effect, some, again)), len(some))


def _worst(floor: Curve) -> float | None:
    """The largest of a curve; None where it has none."""
    return max((value for value in floor if value is not None), default=None)


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
    progress: Progress = lambda visits: None,
) -> GroundTruth:
    """The truth from the cache, if it is whole, of this very trajectory and timed on this machine; else computed and kept.

    Chunks of runs are kept as they are done, so that a run that was stopped goes on from there. A truth that another process
    computes into this cache is waited for.
    """
    at, here, asked = path(task.digest(), seed, cache, device), machine.timed_on(device), design(task, run, seed)
    # the last bits of a small chunk will do only where memory is short
    usual, mine = (_of(run, planned(run.problem, m, len(asked.keep)).runs) for m in (FREE, means))
    folder = at.with_suffix(".chunks")

    def made() -> Sealed:
        def book(r: int) -> Clock:
            return ChunkFiles(folder, json_digest([mine, here, r]))

        truth = ground_truth(run, means, book, asked=asked, progress=progress)
        return _packed(replace(truth, limits=limits(task, seed, run, truth, means)), mine)

    with computing(task, seed, cache, device):
        found = _kept_or_made(at, "truth", lambda facts: facts["of"] in (usual, mine) and facts["machine"] == here, made)
        clear(folder)
    return _unpacked(at, *found)


def computing(task: AnyTask, seed: int, cache: Path, device: str, *, wait: bool = True) -> AbstractContextManager[bool]:
    """Claim the truth of a task and seed, or the preparation of its uses, in this cache; whether it may be computed now."""
    at = path(task.digest(), seed, cache, device)
    return claimed(cache / "locks" / f"{at.stem}.lock", f"the truth of {task.name}, seed {seed}, in this cache", wait=wait)


def kept(task_digest: str, seed: int, cache: Path, device: str) -> GroundTruth | None:
    """A truth in the cache; None where it is absent or, said aloud, damaged."""
    found = known(at := path(task_digest, seed, cache, device), {}, "truth")
    return _unpacked(at, *found) if found else None


def _packed(truth: GroundTruth, of: str) -> Sealed:
    """The tensors of a truth, and the facts: among them a digest of what it is of, and of the sources that computed it."""
    tensors = {name: getattr(truth, name) for name in PARTS if getattr(truth, name) is not None}
    facts = {name: getattr(truth, name) for name in ("seconds", "gradients", "machine", "limits")}
    made = {"of": of, "harness": machine.harness(), "noise": asdict(truth.noise) if truth.noise else None}
    return tensors, {**facts, **made}


def _unpacked(at: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> GroundTruth:
    """The truth again. That other sources computed it is said: whoever changes the engine must not take it for new."""
    rest = {name: value for name, value in facts.items() if name not in ("of", "harness", "noise")}
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
        return unpacked(*_kept_or_made(at, "preparation of uses", lambda facts: facts["of"] == of, made))


def _kept_or_made(at: Path, what: str, fits: Callable[[dict[str, Any]], bool], make: Callable[[], Sealed]) -> Sealed:
    """The content of a file of the cache where its facts fit; else what is made, which it then holds."""
    found = known(at, {}, what)
    if found and fits(found[1]):
        return found
    made = make()
    write_sealed(at, *made)
    return made


def _of(run: Trajectory, runs: int) -> str:
    """Digest of what a truth is of: problem, trajectory, and how many runs were trained at once."""
    return json_digest([run.problem.digest(), run.digest(), runs])


def known(at: Path, expected: dict[str, Any], what: str) -> Sealed | None:
    """Tensors and facts of a sealed file; None where it is absent or, said aloud, damaged or without the `expected` facts."""
    try:
        return read_sealed(at, expected) if at.exists() else None
    except DamagedFile as error:
        print(f"warning: a kept {what} is damaged and is computed anew: {error}", file=sys.stderr)
        return None
