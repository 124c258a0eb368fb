"""Schedules are those of torch, step by step and over whole runs; Muon is torch's, but for the precision inside."""

from dataclasses import replace

import pytest
import torch
from cases import MODELS, problem
from plain import loop, masks, scheduled
from torch import Tensor, nn

from benchmark.base.errors import LoobenchError
from benchmark.base.files import tensor_digest
from benchmark.core import calculus
from benchmark.core.losses import LOSSES
from benchmark.core.modules import module
from benchmark.core.optimizers import Adam, Cosine, Muon, OneCycle, Optimizer, Schedule, Sgd, WarmUp, orthogonal, record
from benchmark.core.problem import Problem
from benchmark.core.sweep import backward
from benchmark.core.wrapped import Module
from benchmark.retraining import engine
from benchmark.retraining.generic import GenericRuns
from benchmark.retraining.train import retrain, train
from benchmark.sandbox import transport
from benchmark.studies.plain import mapped
from benchmark.tasks.definition import Task
from benchmark.tasks.questions import FurtherTraining
from benchmark.tasks.suites import TASKS

STEPS = 9  # of a problem of tests/cases.py
SCHEDULES: dict[str, Schedule] = {
    "warm-up": WarmUp(4),
    "cosine": Cosine(STEPS),
    "cosine-warmed-up": Cosine(STEPS, warmup=3),
    "one-cycle": OneCycle(STEPS),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Assert a relative error of at most `tolerance` in the largest entry."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


# ---- the rate ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 10, 100, 1001])
def test_each_schedule_is_torch_s_scheduler_step_by_step(total: int) -> None:
    warm = [1, total // 3, total - 1]
    cosines = [Cosine(total, some) for some in warm if 0 < some < total]
    for schedule in (WarmUp(max(1, total // 2)), Cosine(total), *cosines, OneCycle(total), "inverse-sqrt", "constant"):
        twin = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
        theirs = scheduled(schedule, twin)
        for t in range(total):
            assert Sgd(0.3, schedule=schedule).rate(t) == pytest.approx(twin.param_groups[0]["lr"], rel=1e-12, abs=1e-12)
            assert Adam(0.3, schedule=schedule).rate(t) == Sgd(0.3, schedule=schedule).rate(t)
            twin.step()
            if t + 1 < total:
                theirs.step()


def test_a_warm_up_stays_at_1_and_a_cosine_at_0_and_a_cycle_has_an_end() -> None:
    assert [WarmUp(4)(t) for t in (0, 3, 4, 99)] == [0.25, 1, 1, 1]
    assert [Cosine(4)(t) for t in (4, 5, 8)] == [0, 0, 0]
    with pytest.raises(LoobenchError, match="one-cycle schedule of 4 steps has no step 5: give it the steps of the run"):
        OneCycle(4)(4)


def test_a_schedule_that_cannot_be_is_an_error() -> None:
    for wrong in (WarmUp, Cosine, OneCycle):
        with pytest.raises(LoobenchError, match="number of steps from 1 on, got 0"):
            wrong(0)
    for warmup in (-1, 5):
        with pytest.raises(LoobenchError, match=f"warms up for 0 to 4 of them, got {warmup}"):
            Cosine(5, warmup)
    with pytest.raises(LoobenchError, match="unknown schedule 'cosin'"):
        Sgd(0.1, schedule="cosin").rate(0)


# ---- whole runs ----------------------------------------------------------------------------------------------------
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Sgd(0.5),
    "momentum": Sgd(0.2, momentum=0.9),
    "adam": Adam(0.05),
    "adamw": Adam(0.05, decay=0.1),
}
CLIP = 0.3  # below the norm of most gradients here


def both(given: Problem) -> tuple[tuple[Problem, nn.Module], ...]:
    """The problem with our own network, and with the same as a module; each with the module that a plain loop trains."""
    net = module(given.model, given.initial)
    wrapped = Module(net, given.model.loss)
    return (given, net), (replace(given, model=wrapped, initial=nn.utils.parameters_to_vector(net.parameters()).detach()), net)


@every_schedule
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("clip", [None, CLIP], ids=["", "clipped"])
def test_runs_are_those_of_a_plain_loop_with_torch_s_optimiser_scheduler_and_clipping(
    schedule: Schedule, optimizer: Optimizer, clip: float | None
) -> None:
    given = replace(problem(optimizer=replace(optimizer, schedule=schedule)), clip=clip)
    keep = masks(12, 3)
    for one, net in both(given):
        expected = torch.stack([loop(one, net, LOSSES[given.model.loss], row) for row in keep])
        assert engine.native(one) == (one is given and clip is None)
        close(retrain(one, keep)[-1], expected, 1e-10)
        close(train(one).final, loop(one, net, LOSSES[given.model.loss], torch.ones(12)), 1e-10)
        close(retrain(one, keep[:1], states=train(one).states)[-1], expected[:1], 1e-10)


def test_clipping_and_schedule_do_something_in_these_runs() -> None:
    usual = problem(optimizer=Sgd(0.5, schedule=OneCycle(STEPS)))
    assert not torch.allclose(train(usual).final, train(replace(usual, clip=CLIP)).final, rtol=0.01)
    assert not torch.allclose(train(usual).final, train(replace(usual, optimizer=Sgd(0.5))).final, rtol=0.01)


def slopes(given: Problem) -> Tensor:
    """Central differences of the whole run's query losses in the weight of each sample, (N, Q)."""
    each, small = torch.eye(len(given.train), dtype=torch.float64), 1e-5
    ends = retrain(given, torch.cat([1 + small * each, 1 - small * each]), read=engine.query_losses)[-1]
    up, down = ends.chunk(2)
    return (up - down) / (2 * small)


@every_schedule
@pytest.mark.parametrize("optimizer", [OPTIMIZERS["momentum"], OPTIMIZERS["adamw"]], ids=["momentum", "adamw"])
def test_the_backward_sweep_is_the_slope_of_a_scheduled_and_clipped_run_in_each_weight(
    schedule: Schedule, optimizer: Optimizer
) -> None:
    given = replace(problem(optimizer=replace(optimizer, schedule=schedule)), clip=CLIP, horizons=(STEPS,))
    run = train(given)

    close(backward(run), -slopes(given), 1e-6)


# ---- names and copies ------------------------------------------------------------------------------------------------
QUICK = TASKS["quick-breast-cancer-mlp-sgd"]


def test_optimisers_with_a_schedule_by_name_are_recorded_as_before() -> None:
    assert record(Sgd(0.1, schedule="inverse-sqrt")) == {"kind": "sgd", "lr": 0.1, "momentum": 0.0, "schedule": "inverse-sqrt"}
    assert repr(Sgd(0.1)) == "Sgd(lr=0.1, momentum=0.0, schedule='constant')"
    assert QUICK.record()["optimizer"] == {"kind": "sgd", "lr": QUICK.optimizer.lr, "momentum": 0.0, "schedule": "constant"}


def test_each_schedule_has_a_digest_of_its_own_in_tasks_problems_and_questions() -> None:
    schedules: list[Schedule] = [WarmUp(9), Cosine(9), OneCycle(9), OneCycle(10), Cosine(9, 1), "constant"]
    optimizers = [Sgd(0.1, schedule=schedule) for schedule in schedules]
    tasks = [replace(QUICK, optimizer=one) for one in optimizers]
    asked = [further(QUICK, one) for one in optimizers]

    for found in (tasks, asked, [problem(optimizer=one) for one in optimizers]):
        assert len({one.digest() for one in found}) == len(schedules)
    assert tasks[1].record()["optimizer"]["schedule"] == {"kind": "cosine", "total": 9, "warmup": 0}


def further(task: Task, optimizer: Optimizer) -> Task:
    return replace(task, truth=FurtherTraining(optimizer, (1, 2), repeats=2), horizons=(1, 2))


MUON = Muon(0.05, ((4, 5), (4,), (1, 4), (1,)), other=Adam(0.02, decay=0.01, schedule=Cosine(STEPS)), schedule=WarmUp(3))


@pytest.mark.parametrize("optimizer", [*(Adam(0.1, schedule=one) for one in SCHEDULES.values()), MUON])
def test_a_run_with_a_schedule_arrives_in_the_sandbox_as_it_was_sent(optimizer: Optimizer) -> None:
    run = train(problem(optimizer=optimizer))
    found = transport.decode(transport.encode(run))

    assert found.problem.optimizer == optimizer
    assert found.problem.digest() == run.problem.digest()


# ---- Muon --------------------------------------------------------------------------------------------------------------
def muon_loop(given: Problem, net: nn.Module, keep: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Final parameters by torch.optim.Muon, which is made to iterate in float64, and AdamW for all that is no matrix."""
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)
    o, parameters = given.optimizer, [*net.parameters()]
    twins = (
        torch.optim.Muon([p for p in parameters if p.ndim == 2], lr=o.lr, weight_decay=o.decay, momentum=o.momentum),
        torch.optim.AdamW([p for p in parameters if p.ndim != 2], lr=o.other.lr, weight_decay=o.other.decay),
    )
    schedulers = [scheduled(one, twin) for one, twin in zip((o.schedule, o.other.schedule), twins, strict=True)]
    for t in range(given.steps):
        batch = given.batch(t)
        net.zero_grad()
        total = keep[batch] / len(batch) @ LOSSES[given.model.loss](net(given.train.inputs[batch]), given.train.targets[batch])
        total = total + given.weight_decay / 2 * keep[batch].sum() / len(batch) * sum((p**2).sum() for p in parameters)
        torch.autograd.backward(total)
        for each in (*twins, *schedulers):
            each.step()
    return nn.utils.parameters_to_vector(parameters).detach()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_is_torch_s_but_for_the_precision_in_its_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    given, keep = problem(MODELS["mlp"], MUON), masks(12, 3)
    for one, _ in both(given):
        assert not engine.native(one)
        expected = [muon_loop(one, module(given.model, given.initial), row, monkeypatch) for row in keep]
        close(retrain(one, keep)[-1], torch.stack(expected), 1e-10)
        close(mapped(one, keep), torch.stack(expected), 1e-10)


def test_muon_leaves_the_singular_vectors_and_brings_the_values_near_1() -> None:
    matrix = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.mT @ orthogonal(matrix) @ right.mT
    values = inside.diagonal(dim1=-2, dim2=-1)

    close(inside, torch.diag_embed(values), 1e-12)
    assert ((values > 0.6) & (values < 1.3)).all()
    assert orthogonal(0 * matrix).abs().max() == 0


def test_the_derivative_of_muon_is_that_of_its_step_also_where_a_matrix_saw_no_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    state, shift = (torch.randn(3, 2, 29, generator=draw, dtype=torch.float64) for _ in range(2))
    gradient, change = (torch.randn(2, 29, generator=draw, dtype=torch.float64) for _ in range(2))
    state[2].abs_()
    small = 1e-6
    ends = [MUON.step(state + by * shift, gradient + by * change, 3) for by in (small, -small)]

    close(MUON.push(state, gradient, shift, change, 3), (ends[0] - ends[1]) / (2 * small), 1e-7)
    state[:, :, :20], gradient[:, :20] = 0, 0
    assert MUON.push(state, gradient, shift, change, 3).isfinite().all()
    pulled, _ = calculus.pull(lambda s, g: MUON.step(s, g, 3), (state, gradient), torch.ones(1, 3, 2, 29, dtype=torch.float64))
    assert pulled.isfinite().all()


def test_the_backward_sweep_is_the_slope_of_a_run_by_muon_in_each_weight() -> None:
    given = replace(problem(optimizer=MUON), horizons=(STEPS,))
    run = train(given)

    close(backward(run), -slopes(given), 1e-6)


def test_muon_with_the_shapes_of_another_model_is_an_error() -> None:
    with pytest.raises(LoobenchError, match="muon has shapes of 29 parameters, the state 6: give the model's"):
        train(problem(MODELS["logistic"], MUON))


def test_runs_of_muon_leave_their_start_alone() -> None:
    given = problem(optimizer=MUON)
    state = given.start()
    before = tensor_digest([state])
    runs = GenericRuns(given, state, 1)
    runs.step(0, given.batch(0), given.weights(0)[None])

    assert tensor_digest([state]) == before
