"""Exact leave-one-out truths: computed by retraining, kept in the cache, and exported for other readers."""

import json
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmark import calculus, chunks, machine
from benchmark.chunks import FREE, Means
from benchmark.engine import gram_pays
from benchmark.errors import DamagedFile, Diverged
from benchmark.files import json_digest, read_tensors, tensor_digest, write, write_tensors
from benchmark.problem import GroundTruth, Noise, Problem, Trajectory, in_precision
from benchmark.tasks import Task, build
from benchmark.train import Clock, Progress, leave_one_out, trained

NOISE_SAMPLES = 32  # left-out samples from which the noise of a truth is taken
SIGN = "query loss without sample i minus query loss with it: positive where the sample helped"


class Bar(Protocol):
    """What a progress bar must do."""

    def update(self, n: int) -> object: ...
    def close(self) -> object: ...


MakeBar = Callable[[int, str, str], Bar]  # from total, text and unit


def answer(
    task: Task, seed: int, cache: Path, device: str, bar: MakeBar, means: Means = FREE
) -> tuple[Trajectory, GroundTruth]:
    """The reference run of a task and seed, and the truth about it, with a progress bar."""
    run = reference(task, seed, cache, device, means)
    visits = int((run.problem.batches >= 0).sum()) * (len(run.problem.left_out) + 1)
    with closing(bar(visits, f"truth {task.name} seed {seed}", "visit")) as shown:
        return run, cached_truth(task, seed, run, cache, device, means, progress=shown.update)


def reference(task: Task, seed: int, cache: Path, device: str, means: Means = FREE) -> Trajectory:
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


def planned(problem: Problem, means: Means) -> chunks.Plan:
    """How the problem's samples will be left out."""
    return chunks.plan(problem, len(problem.left_out) + 1, gram_pays(problem), means)


def beside(held: int, means: Means) -> Means:
    """The means less the bytes that are held already."""
    return means if means.memory is None else replace(means, memory=means.memory - held)


class ChunkFiles(Clock):
    """A ledger of finished chunks in a folder, one sealed file each, for one trajectory."""

    def __init__(self, folder: Path, of: str) -> None:
        super().__init__()
        self.folder, self.of = folder, of

    def find(self, rows: Tensor) -> Tensor | None:
        """What was read from the runs `rows`; None where it was not kept or, said aloud, its file is damaged."""
        at = self._at(rows)
        found = unsealed(at, {"of": self.of, "rows": rows.tolist()}, "chunk of a truth") if at.exists() else None
        if not found:
            return None
        reading, facts = found
        super().enter(rows, reading, facts["seconds"])
        return reading

    def enter(self, rows: Tensor, reading: Tensor, seconds: float) -> None:
        """Keep what was read from the runs `rows`."""
        facts = {"of": self.of, "rows": rows.tolist(), "seconds": seconds}
        write_tensors(self._at(rows), {"effect": reading}, sealed(reading, facts))
        super().enter(rows, reading, seconds)

    def _at(self, rows: Tensor) -> Path:
        return self.folder / f"{json_digest([self.of, rows.tolist()])}.safetensors"

    def clear(self) -> None:
        """Remove the files, once what they were for is kept."""
        with suppress(OSError):
            for file in self.folder.iterdir():
                file.unlink()
            self.folder.rmdir()


def ground_truth(
    run: Trajectory,
    means: Means = FREE,
    ledger: Clock | None = None,
    *,
    progress: Progress = lambda visits: None,
) -> GroundTruth:
    """Leave out each sample asked, retrain, read off the query losses at each horizon; timed after a warm-up.

    In float32 or on a GPU, with the noise of the answer. Raises Diverged.
    """
    device, ledger = run.final.device.type, ledger or Clock()
    leave_one_out(some_of(run.until(1), torch.tensor([0])), means=means)
    with calculus.counting() as count:
        effect = leave_one_out(run, means=means, ledger=ledger, progress=progress).cpu()
    if broken := int((~effect.isfinite()).any(dim=0).any(dim=1).sum()):
        raise Diverged(f"retraining diverged without {broken} of {effect.shape[1]} samples: there is no truth to score against")
    exact = run.final.dtype == torch.float64 and device == "cpu"
    found = None if exact else noise(run, effect, means)
    return GroundTruth(effect, ledger.seconds, count.gradients, machine.timed_on(device), found)


def noise(run: Trajectory, effect: Tensor, means: Means) -> Noise:
    """The noise floor of an effect (H, K, Q), from some of its samples, evenly spread: trained anew, and in float64.

    Both on the same device. Anew means with the samples of each batch in reverse, so that sums are taken in another order.
    """
    chosen = torch.linspace(0, effect.shape[1] - 1, min(NOISE_SAMPLES, effect.shape[1])).long()
    problem, means = some_of(run, chosen).problem, beside(run.states.nbytes, means)
    again = leave_one_out(trained(replace(problem, batches=problem.batches.flip(1)), means), means=means).cpu()
    double = leave_one_out(trained(in_precision(problem, torch.float64), means), means=means).cpu()
    spread = effect.double().std(dim=1)  # (H, Q)

    def floor(other: Tensor) -> float | None:
        error = (effect[:, chosen].double() - other).square().mean(dim=1).sqrt()
        known = [(e[s > 0] / s[s > 0]).mean() for e, s in zip(error, spread, strict=True) if (s > 0).any()]
        return float(max(known)) if known else None

    return Noise(floor(again), floor(double), len(chosen))


def some_of(run: Trajectory, chosen: Tensor) -> Trajectory:
    """The run with only some of its samples to be left out."""
    left_out = run.problem.left_out
    return replace(run, problem=replace(run.problem, left_out=left_out[chosen.to(left_out.device)]))


def path(task_digest: str, seed: int, cache: Path, device: str) -> Path:
    """Where a truth is kept, named by all that decides it."""
    key = json_digest({"task": task_digest, "seed": seed, "device": device, "harness": machine.harness()})
    return cache / "truth" / f"{key}.safetensors"


def cached_truth(
    task: Task,
    seed: int,
    run: Trajectory,
    cache: Path,
    device: str,
    means: Means = FREE,
    *,
    progress: Progress = lambda visits: None,
) -> GroundTruth:
    """The truth from the cache, if it is whole, of this very trajectory and timed on this machine; else computed and kept.

    Chunks of runs are kept as they are done, so that a run that was stopped goes on from there.
    """
    found = kept(task.digest(), seed, cache, device)
    # the last bits of a small chunk will do only where memory is short
    usual, mine = (_of(run, planned(run.problem, m).runs) for m in (FREE, means))
    if found and found[1] in (usual, mine) and found[0].machine == machine.timed_on(device):
        return found[0]
    at = path(task.digest(), seed, cache, device)
    ledger = ChunkFiles(at.with_suffix(".chunks"), json_digest([mine, machine.timed_on(device)]))
    truth = ground_truth(run, means, ledger, progress=progress)
    facts = {"seconds": truth.seconds, "gradients": truth.gradients, "machine": truth.machine, "of": mine}
    facts["noise"] = asdict(truth.noise) if truth.noise else None
    write_tensors(at, {"effect": truth.effect}, sealed(truth.effect, facts))
    ledger.clear()
    return truth


def kept(task_digest: str, seed: int, cache: Path, device: str) -> tuple[GroundTruth, str] | None:
    """A truth in the cache and the digest of what it is of; None where it is absent or, said aloud, damaged."""
    at = path(task_digest, seed, cache, device)
    found = unsealed(at, {}, "truth") if at.exists() else None
    if not found:
        return None
    effect, facts = found
    floor = Noise(**facts["noise"]) if facts["noise"] else None
    return GroundTruth(effect, facts["seconds"], facts["gradients"], facts["machine"], floor), facts["of"]


def _of(run: Trajectory, runs: int) -> str:
    """Digest of what a truth is of: problem, trajectory, and how many runs were trained at once."""
    return json_digest([run.problem.digest(), run.digest(), runs])


def sealed(effect: Tensor, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts with a digest of them and of the tensor they are kept with."""
    return {**facts, "digest": json_digest({**facts, "effect": tensor_digest([effect])})}


def unsealed(at: Path, expected: dict[str, Any], what: str) -> tuple[Tensor, dict[str, Any]] | None:
    """Tensor and facts of a sealed file; None where, said aloud, it is damaged or lacks the `expected` facts."""
    try:
        tensors, facts = read_tensors(at)
        stated = facts.pop("digest")
        if stated != (found := sealed(tensors["effect"], facts)["digest"]):
            raise DamagedFile(f"{at}: expected digest {stated}, got {found}")
        if any(facts[key] != value for key, value in expected.items()):
            raise DamagedFile(f"{at}: expected {expected}")
        return tensors["effect"], facts
    except (DamagedFile, KeyError) as error:
        print(f"warning: a kept {what} is damaged and is computed anew: {error}", file=sys.stderr)
        return None


# ---- export, described in docs/export.md --------------------------------------------------------------------------
def export(task: Task, seed: int, run: Trajectory, truth: GroundTruth, folder: Path) -> list[Path]:
    """Write problem, trajectory, truth and task.json into `folder`, all that an independent reader needs."""
    problem = run.problem
    samples = {"train": problem.train, "query": problem.query, "test": problem.test}
    content = {
        **{f"{name}_{part}": getattr(split, part) for name, split in samples.items() for part in ("inputs", "targets")},
        "initial": problem.initial,
        "batches": problem.batches,
        "left_out": problem.left_out,
        "rates": torch.tensor([problem.optimizer.rate(t) for t in range(problem.steps)], dtype=torch.float64),
    }
    parts = {"problem": content, "trajectory": {"states": run.whole()}, "truth": {"effect": truth.effect}}
    for name, tensors in parts.items():
        write_tensors(folder / f"{name}.safetensors", tensors)
    digests = {name: tensor_digest(tensors.values()) for name, tensors in parts.items()}
    described = json.dumps(describe(task, seed, problem, digests), indent=2)
    write(folder / "task.json", described.encode() + b"\n")
    return [folder / name for name in ("task.json", *(f"{name}.safetensors" for name in parts))]


def describe(task: Task, seed: int, problem: Problem, digests: dict[str, str]) -> dict[str, Any]:
    """What the tensors of an export mean, as a JSON value."""
    model = problem.model
    return {
        "format": 1,
        "task": task.record(),
        "task_digest": task.digest(),
        "seed": seed,
        "layers": [{"kind": type(layer).__name__, **vars(layer), "shapes": layer.shapes} for layer in model.layers],
        "loss": model.loss,
        "weight_decay": problem.weight_decay,
        "optimizer": task.record()["optimizer"],
        "normaliser": "in a step each sample weighs 1 over the size of its batch, the left-out one counted",
        "query": problem.query_kind,
        "sign": SIGN,
        "horizons": {"epochs": list(task.horizons), "steps": list(problem.horizons)},
        "digests": digests,
        "versions": machine.provenance("loobench truth --export", problem.initial.device.type, task.dtype),
    }
