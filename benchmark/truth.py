"""Exact leave-one-out truths: computed by retraining, kept in the cache, and exported for other readers."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmark import calculus, machine
from benchmark.errors import DamagedFile, Diverged
from benchmark.files import json_digest, read_tensors, tensor_digest, write, write_tensors
from benchmark.problem import GroundTruth, Problem, Trajectory
from benchmark.tasks import Task, build
from benchmark.train import Progress, leave_one_out, train

SIGN = "query loss without sample i minus query loss with it: positive where the sample helped"


class Bar(Protocol):
    """What a progress bar must do."""

    def update(self, n: int) -> object: ...
    def close(self) -> object: ...


MakeBar = Callable[[int, str, str], Bar]  # from total, text and unit


def answer(task: Task, seed: int, cache: Path, device: str, bar: MakeBar) -> tuple[Trajectory, GroundTruth]:
    """The reference run of a task and seed, and the truth about it, with a progress bar."""
    run = reference(task, seed, cache, device)
    visits = int((run.problem.batches >= 0).sum()) * len(run.problem.train)
    with closing(bar(visits, f"truth {task.name} seed {seed}", "visit")) as shown:
        return run, cached_truth(task, seed, run, cache, device, progress=shown.update)


def reference(task: Task, seed: int, cache: Path, device: str) -> Trajectory:
    """The reference run of a task and seed. Raises Diverged."""
    run = train(build(task, seed, cache, device))
    if not run.states.isfinite().all():
        raise Diverged(f"training of {task.name}, seed {seed}, diverged: its parameters are not finite; lower the rate")
    return run


def ground_truth(run: Trajectory, device: str = "cpu", *, progress: Progress = lambda visits: None) -> GroundTruth:
    """Leave out each sample, retrain, read off the query losses at each horizon; timed after a warm-up."""
    leave_one_out(run.until(1))
    with calculus.counting() as count:
        machine.synchronize(device)
        start = time.perf_counter()
        effect = leave_one_out(run, progress=progress).cpu()
        seconds = time.perf_counter() - start
    if broken := int((~effect.isfinite()).any(dim=0).any(dim=1).sum()):
        raise Diverged(f"retraining diverged without {broken} of {effect.shape[1]} samples: there is no truth to score against")
    return GroundTruth(effect, seconds, count.gradients, machine.timed_on(device))


def path(task_digest: str, seed: int, cache: Path, device: str) -> Path:
    """Where a truth is kept, named by all that decides it."""
    key = json_digest({"task": task_digest, "seed": seed, "device": device, "harness": machine.harness()})
    return cache / "truth" / f"{key}.safetensors"


def cached_truth(
    task: Task, seed: int, run: Trajectory, cache: Path, device: str, *, progress: Progress = lambda visits: None
) -> GroundTruth:
    """The truth from the cache, if it is whole, of this very trajectory and timed on this machine; else computed and kept."""
    found = kept(task.digest(), seed, cache, device)
    if found and found[1] == _of(run) and found[0].machine == machine.timed_on(device):
        return found[0]
    truth = ground_truth(run, device, progress=progress)
    facts = {"seconds": truth.seconds, "gradients": truth.gradients, "machine": truth.machine, "of": _of(run)}
    sealed = {**facts, "digest": _seal(truth, facts)}
    write_tensors(path(task.digest(), seed, cache, device), {"effect": truth.effect}, sealed)
    return truth


def kept(task_digest: str, seed: int, cache: Path, device: str) -> tuple[GroundTruth, str] | None:
    """A truth in the cache and the digest of what it is of; None where it is absent or, said aloud, damaged."""
    at = path(task_digest, seed, cache, device)
    if not at.exists():
        return None
    try:
        tensors, facts = read_tensors(at)
        truth = GroundTruth(tensors["effect"], facts["seconds"], facts["gradients"], facts["machine"])
        stated = facts.pop("digest")
        if stated != (found := _seal(truth, facts)):
            raise DamagedFile(f"{at}: expected digest {stated}, got {found}")
        return truth, facts["of"]
    except (DamagedFile, KeyError) as error:
        print(f"warning: a kept truth is damaged and is computed anew: {error}", file=sys.stderr)
        return None


def _of(run: Trajectory) -> str:
    return json_digest([run.problem.digest(), run.digest()])


def _seal(truth: GroundTruth, facts: dict[str, Any]) -> str:
    return json_digest({**facts, "effect": truth.digest()})


# ---- export, described in docs/export.md --------------------------------------------------------------------------
def export(task: Task, seed: int, run: Trajectory, truth: GroundTruth, folder: Path) -> list[Path]:
    """Write problem, trajectory, truth and task.json into `folder`, all that an independent reader needs."""
    problem = run.problem
    samples = {"train": problem.train, "query": problem.query, "test": problem.test}
    content = {
        **{f"{name}_{part}": getattr(split, part) for name, split in samples.items() for part in ("inputs", "targets")},
        "initial": problem.initial,
        "batches": problem.batches,
        "rates": torch.tensor([problem.optimizer.rate(t) for t in range(problem.steps)], dtype=torch.float64),
    }
    parts = {"problem": content, "trajectory": {"states": run.states}, "truth": {"effect": truth.effect}}
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
        "layers": list(_layers(model.shapes)),
        "activation": model.activation,
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


def _layers(shapes: list[tuple[int, ...]]) -> Iterable[dict[str, Any]]:
    return ({"weight": list(weight), "bias": list(bias)} for weight, bias in zip(shapes[::2], shapes[1::2], strict=True))
