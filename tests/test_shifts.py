"""Shifts of many runs from one reference state, and exact retraining from the middle of a run, against the step itself."""

import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem
from torch import Tensor

from benchmark.base.errors import LoobenchError
from benchmark.core import calculus
from benchmark.core.sweep import backward
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.chunks import Means, allowing, at_once
from benchmark.retraining.readout import losses_at, readout
from benchmark.retraining.shifts import ACC, Rule, carry, effects
from benchmark.retraining.train import leave_one_out, left_out, retrain, train
from estimators.partial_retrain import partial_retrain

draw = torch.Generator().manual_seed(0)
MASKS = {
    "one": ~torch.eye(12, dtype=torch.bool)[:4],
    "halves": torch.rand(4, 12, generator=draw) > 0.5,
    "parts": torch.rand(4, 12, generator=draw, dtype=torch.float64),
}


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def pushed(run: Trajectory, keep: Tensor) -> Tensor:
    """``d <- Phi(s, w_r) + dPhi(s, w_r)/ds d - s_next`` mapped over runs, by automatic differentiation. (R, P)"""
    given = run.problem
    shifts = torch.zeros(len(keep), *run.states[0].shape, dtype=torch.float64)
    for t in range(given.steps):

        def shifted(shift: Tensor, weights: Tensor, t: int = t) -> Tensor:
            value, moved = calculus.push(lambda state: given.step(t, state, weights), (run.states[t],), (shift,))
            return value + moved - run.states[t + 1]

        shifts = torch.func.vmap(shifted)(shifts, keep[:, given.batch(t)] * given.weights(t))
    return shifts[:, 0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mask", MASKS)
def test_a_shift_is_the_linearised_step_for_masks_of_any_kind(model: str, optimizer: str, mask: str) -> None:
    if model.startswith("cnn") and optimizer not in ("momentum", "adam"):
        return
    run = train(problem(MODELS[model], OPTIMIZERS[optimizer], epochs=2, weight_decay=0.1))

    close(carry(run, MASKS[mask], ACC, runs=3)[-1], pushed(run, MASKS[mask]), 1e-10)


@pytest.mark.parametrize("model", ["classes", "cnn-norm"])
def test_every_readout_is_what_its_name_says(model: str) -> None:
    run = train(problem(MODELS[model], query_kind="mean"))
    shift = 0.1 * torch.randn(70, len(run.final), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given, base = run.problem, run.problem.query_losses(run.final)
    exact = torch.stack([given.query_losses(run.final + one) - base for one in shift])
    outputs = lambda theta: given.model.outputs(theta, given.query.inputs)  # noqa: E731
    moved = [outputs(run.final) + calculus.push(outputs, (run.final,), (one,))[1] for one in shift]
    loss = torch.nn.functional.cross_entropy
    logit = torch.stack([loss(one, given.query.targets)[None] - base for one in moved])

    close(readout(run, shift, "exact"), exact, 1e-12)
    close(readout(run, shift, "logit"), logit, 1e-12)
    close(readout(run, shift, "linear"), shift @ run.query_gradients().T, 1e-12)
    close(losses_at(given, run.final + shift), exact + base, 1e-12)
    with pytest.raises(LoobenchError, match="unknown readout 'exakt': did you mean exact"):
        readout(run, shift, "exakt")


def test_shifts_are_carried_on_one_thread_whatever_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.retraining.chunks.at_once", lambda problem, gram: min(5, at_once(problem, gram)))
    run = train(problem(MODELS["cnn"], epochs=1))
    with allowing(Means(workers=4)):
        found = effects(run, Rule("exact", exact_map=True), "logit")

    assert torch.equal(found, effects(run, Rule("exact", exact_map=True), "logit"))


# ---- from the middle of a run --------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_samples_can_be_missing_from_some_step_on(optimizer: str) -> None:
    run = train(problem(optimizer=OPTIMIZERS[optimizer]))
    run = run.until(9)
    given, keep = run.problem, left_out(run.problem)
    expected = []
    for mask in keep:
        state = given.start()
        for t in range(9):
            state = given.step(t, state, given.weights(t) * (mask[given.batch(t)] if t >= 5 else 1))
        expected.append(state[0])

    close(retrain(given, keep, states=run.states, since=5, runs=4)[-1], torch.stack(expected), 1e-12)


def test_what_cannot_be_is_said() -> None:
    run = train(problem())
    with pytest.raises(LoobenchError, match="takes the states of the reference run"):
        retrain(run.problem, left_out(run.problem), since=2)
    with pytest.raises(LoobenchError, match="missing from step 1 on where a horizon is after 1 steps"):
        leave_one_out(run, since=1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_partial_retraining_is_exact_for_the_last_epochs_and_first_order_before(optimizer: str) -> None:
    run = train(problem(optimizer=OPTIMIZERS[optimizer], epochs=4)).until(12)  # 3 steps an epoch
    late = leave_one_out(run, since=9)[0]

    assert torch.equal(partial_retrain(run, epochs=1, linear=False), late)
    close(partial_retrain(run, epochs=1, linear=True) - late, backward(run) - last_visits(run), 1e-9)
    assert torch.equal(partial_retrain(run, epochs=4, linear=True), leave_one_out(run)[0])
    assert torch.equal(partial_retrain(run, epochs=9, linear=False), leave_one_out(run)[0])


def last_visits(run: Trajectory) -> Tensor:
    """SGD-IE of the last epoch's visits alone: of a run that begins there. (N, Q)"""
    problem = run.problem
    cotangents = run.final.new_zeros(problem.queries, *run.states.shape[1:])
    cotangents[:, 0] = run.query_gradients()
    effect = run.final.new_zeros(len(problem.train), problem.queries)
    for t in (11, 10, 9):
        cotangents, slope = problem.pull(t, run.states[t], problem.weights(t), cotangents)
        effect.index_add_(0, problem.batch(t), -(problem.weights(t) * slope).T)
    return effect


def test_partial_retraining_comes_nearer_the_more_epochs_it_retrains() -> None:
    run = train(problem(epochs=6)).until(18)
    truth = leave_one_out(run)[0]
    errors = [float((partial_retrain(run, epochs=k, linear=False) - truth).norm()) for k in (1, 3, 5)]

    assert errors == sorted(errors, reverse=True)
    assert float((partial_retrain(run, epochs=3, linear=True) - truth).norm()) < errors[1]
