"""Truths for other readers, who have only NumPy, or for a person's own model only torch: described in docs/export.md."""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import torch

import benchmark
from benchmark.base import machine
from benchmark.base.errors import LoobenchError
from benchmark.base.files import tensor_digest, write, write_tensors
from benchmark.core.code import Code
from benchmark.core.losses import Own, name_of
from benchmark.core.problem import Problem
from benchmark.core.trajectory import Trajectory
from benchmark.core.wrapped import Module
from benchmark.tasks.definition import AnyTask
from benchmark.tasks.questions import LeaveOneOut
from benchmark.truths.effects import GroundTruth

SIGN = "query loss without sample i minus query loss with it: positive where the sample helped"
NORMALISERS = {
    "zero-weight": "in a step each sample weighs 1 over the size of its batch, the left-out one counted",
    "renormalised": "in a step each sample weighs 1 over the size of its batch, the left-out one not counted",
}


REDO = Path(__file__).with_name("redo.py.txt")  # the program that redoes a run of a person's own model


def check(task: AnyTask) -> None:
    """Raise LoobenchError where a task's truth is not leave-one-out."""
    if task.truth != LeaveOneOut():
        raise LoobenchError(f"only leave-one-out truths are exported, the truth of {task.name} is {task.truth.kind}")


def export(task: AnyTask, seed: int, run: Trajectory, truth: GroundTruth, folder: Path) -> list[Path]:
    """Write problem, trajectory, truth and task.json into `folder`, all that an independent reader needs.

    Raises LoobenchError where the truth is not leave-one-out, and where no source is known of a model or loss of one's own.
    """
    check(task)
    problem = run.problem
    program = _program(problem, problem.model) if isinstance(problem.model, Module) else {}
    samples = {"train": problem.train, "query": problem.query, "test": problem.test}
    content = {
        **{f"{name}_{part}": getattr(split, part) for name, split in samples.items() for part in ("inputs", "targets")},
        **{f"constant.{name}": part for name, part in getattr(problem.model, "constants", {}).items()},
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
    for name, text in {"task.json": described + "\n", **program}.items():
        write(folder / name, text.encode())
    return [folder / name for name in ("task.json", *program, *(f"{name}.safetensors" for name in parts))]


def _program(problem: Problem, model: Module) -> dict[str, str]:
    """The files that redo a run of a module, by name. Raises LoobenchError where it is not known what makes it, or its loss."""
    if model.code is None:
        raise LoobenchError(f"{model.name} is exported by the source that makes it: give a class or function, not a module")
    for own in (problem.model.loss, problem.query_function):
        if isinstance(own, Own) and (own.code is None or own.code.text != model.code.text):
            raise LoobenchError(
                f"{name_of(own)} is exported by its source: write it as a function at the top of {model.code.module}, "
                "where the model is"
            )
    return {"model.py": model.code.text or _text(model.code), "redo.py": REDO.read_text()}


def _text(code: Code) -> str:
    """The file of a model of ours; of an installed package its import."""
    if code.module.partition(".")[0] == benchmark.__name__:
        return inspect.getsource(sys.modules[code.module])
    return f"from {code.module} import {code.name}\n"


def _module(model: Module) -> dict[str, Any]:
    """What a module is made by, and how its parameters lie in the flat vector."""
    code = model.code
    assert code
    parameters = [[name, [*shape]] for name, shape in model.shapes.items()]
    return {"name": code.name, "module": code.module, "settings": dict(code.settings), "parameters": parameters}


def describe(task: AnyTask, seed: int, problem: Problem, digests: dict[str, str]) -> dict[str, Any]:
    """What the tensors of an export mean, as a JSON value."""
    model = problem.model
    return {
        "format": 1,
        "task": task.record(),
        "task_digest": task.digest(),
        "seed": seed,
        "layers": [{"kind": type(layer).__name__, **vars(layer), "shapes": layer.shapes} for layer in model.layers],
        **({"module": _module(model)} if isinstance(model, Module) else {}),
        "loss": name_of(model.loss),
        "weight_decay": problem.weight_decay,
        "optimizer": task.record()["optimizer"],
        "normaliser": NORMALISERS[task.counterfactual],
        "query": problem.query_kind,
        "query_function": name_of(problem.query_function),
        "clip": problem.clip,
        "sign": SIGN,
        "horizons": {"epochs": list(task.horizons), "steps": list(problem.horizons)},
        "digests": digests,
        "versions": machine.provenance("loobench truth --export", problem.initial.device.type, task.dtype),
    }
