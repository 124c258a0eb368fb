"""Everything is computed where its problem is: on a GPU if there is one, and on one that is not there."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import MODELS, OPTIMIZERS, carried_out, here, problem, supported_by
from pretend import pretend as pretend
from torch import Tensor

from benchmark.base import machine
from benchmark.base.errors import LoobenchError
from benchmark.core.optimizers import Sgd
from benchmark.core.problem import Problem, map_tensors
from benchmark.core.registry import registered
from benchmark.retraining import chunks
from benchmark.retraining.train import leave_one_out, train
from benchmark.running.evaluate import estimate
from benchmark.scores import store
from benchmark.tasks import definition, suites
from benchmark.tasks.questions import FurtherTraining, Subsets, Uses
from benchmark.truths import truth

SMALL = replace(
    suites.TASKS["quick-digits-mlp-sgd"], name="small", train=24, query=6, test=20, epochs=2, horizons=(2,), queries="mean"
)
QUESTIONS = {
    "each": replace(SMALL, queries="each", horizons=(1, 2), leave_out=10),
    "subsets": replace(SMALL, truth=Subsets(0.5, 8, 2)),
    "further-training": replace(SMALL, truth=FurtherTraining(Sgd(0.1), (1, 2), 2), horizons=(1, 2)),
    "uses": replace(SMALL, uses=Uses(drop=(1,), keep=(0.5,), delete=(2,), groups=3, draws=1), noise="labels", noise_rate=0.1),
}
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
GPU = Callable[[], Any]


@pytest.fixture(params=["pretended", pytest.param("real", marks=[pytest.mark.gpu, needs_a_gpu])])
def gpu(request: pytest.FixtureRequest) -> GPU:
    """A block in which there is a GPU."""
    block: GPU = nullcontext if request.param == "real" else request.getfixturevalue("pretend")
    return block


def moved(given: Problem) -> Problem:
    there: Problem = map_tensors(given, lambda tensor: tensor.to("cuda"))
    return there


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def test_what_is_on_two_devices_is_refused_also_by_the_gpu_that_is_not_there(gpu: GPU) -> None:
    with gpu():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert (there + 1).device.type == there.new_zeros(2).device.type == torch.zeros_like(there[1:]).device.type == "cuda"
        assert (here + 1).device.type == there.cpu().device.type == "cpu"
        assert torch.equal((there[torch.tensor([0])] + torch.tensor(1.0)).cpu(), torch.full((1,), 2.0))
        for wrong in (
            lambda: there + here,
            lambda: torch.stack([there, here]),
            lambda: torch.func.vmap(lambda row: row * here)(there[None]),
            lambda: torch.func.grad(lambda x: (x * here).sum())(there),
            lambda: there @ torch.arange(3.0),
            lambda: here[there.long()],
            lambda: torch.randn(3, generator=torch.Generator(), device="cuda"),
        ):
            with pytest.raises(RuntimeError, match=r"device"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_a_truth_is_computed_where_its_problem_is(model: str, optimizer: str, gpu: GPU) -> None:
    given = problem(MODELS[model], OPTIMIZERS[optimizer], epochs=1)
    with gpu():
        found = truth.ground_truth(train(moved(given)))

    close(found.effect, leave_one_out(train(given)), 1e-8)
    assert found.noise is not None
    assert found.noise.repeat < 1e-8


@pytest.mark.parametrize("name", [here(name, slow=name == "if-lissa") for name in registered()])
def test_an_estimator_answers_on_a_gpu_what_it_does_on_the_cpu(name: str, gpu: GPU) -> None:
    estimator = registered()[name]
    if "/" in name and gpu is not nullcontext:
        pytest.skip("a library asks torch itself where its tensors are")
    given = supported_by(estimator, epochs=1)
    if not estimator.all_horizons:
        given = replace(given, horizons=(given.steps,))
    expected = estimate(estimator, train(given)).effect
    with gpu():
        found = estimate(estimator, train(moved(given)), "cuda")

    close(found.effect, expected)
    assert found.memory is not None


@pytest.mark.usefixtures("lockable")
@pytest.mark.parametrize(("question", "dtype"), [*((name, "float64") for name in QUESTIONS), ("each", "float32")])
def test_every_question_is_asked_and_scored_on_a_gpu_as_on_the_cpu(question: str, dtype: str, gpu: GPU) -> None:
    task = definition.variant(QUESTIONS[question], dtype)
    carried_out(task, ["grad-dot"])
    with gpu():
        carried_out(task, ["grad-dot"], "cuda")
    name = "small" if dtype == "float64" else f"small-{dtype}"
    known, found = (store.load(Path("my-results") / folder / "grad-dot.json").cells["0"] for folder in (name, f"{name}-cuda"))

    assert found.scores.keys() == known.scores.keys()
    for metric, value in known.scores.items():
        assert found.scores[metric] == pytest.approx(value, abs=1e-4)


def test_a_gpu_that_is_out_of_memory_trains_half_as_many_runs(gpu: GPU, capsys: pytest.CaptureFixture[str]) -> None:
    given = problem()
    with gpu():
        run, asked = train(moved(given)), []

        def act(rows: Tensor, _stop: object) -> None:
            asked.append(len(rows))
            if len(rows) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        chunks.side_by_side([torch.arange(len(run.problem.left_out))], act, 1)

    assert asked == [12, 6, 3, 3, 6, 3, 3]
    assert "out of memory with 12 runs at once" in capsys.readouterr().err


def test_convolutions_on_a_gpu_are_of_whole_numbers(gpu: GPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with gpu():
        assert machine.device("cuda") == "cuda"
    assert not torch.backends.cudnn.allow_tf32


def test_a_gpu_is_asked_for_where_there_is_none_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LoobenchError, match="torch sees no GPU"):
        machine.device("cuda")
