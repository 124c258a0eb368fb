"""A reference run of which few states are kept is the same run, in less memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import OPTIMIZERS, every_estimator, problem, supported_by

from benchmark.base import machine
from benchmark.base.errors import LoobenchError
from benchmark.core.problem import map_tensors
from benchmark.core.registry import registered
from benchmark.core.sweep import backward
from benchmark.retraining import chunks
from benchmark.retraining.chunks import MIB, Means, spacing
from benchmark.retraining.train import leave_one_out, train
from benchmark.running.evaluate import estimate
from benchmark.studies.speed import synthetic
from benchmark.tasks.suites import TASKS
from benchmark.truths.effects import GroundTruth
from benchmark.truths.export import export
from benchmark.truths.truth import reference


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("every", [2, 4, 12, 50])
def test_its_states_are_those_of_the_whole_run_bit_for_bit(optimizer: str, every: int) -> None:
    given = problem(optimizer=OPTIMIZERS[optimizer], epochs=4)
    whole, replayed = train(given), train(given, every)

    assert replayed.states.shape == whole.states.shape
    for t in (12, 11, 3, 4, 5, 0, -1):
        assert torch.equal(replayed.states[t], whole.states[t])
    assert torch.equal(replayed.states[7, 0], whole.params(7))
    assert replayed.digest() == whole.digest()
    assert replayed.until(5).digest() == whole.until(5).digest()
    assert torch.equal(map_tensors(replayed, torch.clone).whole(), whole.states)


@every_estimator
def test_an_estimator_says_the_same_of_it(name: str) -> None:
    variant = registered()[name]
    given = supported_by(variant)
    if not variant.all_horizons:
        given = replace(given, horizons=(given.steps,))
    whole, replayed = (estimate(variant, train(given, every)).effect for every in (1, 3))

    assert torch.allclose(replayed, whole, rtol=1e-8, atol=1e-10 * float(whole.abs().max()))


def test_chunks_side_by_side_may_replay_it_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "at_once", lambda problem, gram: 5)
    given = problem(train=40, batch=5)
    whole, replayed = (leave_one_out(train(given, every), means=Means(workers=3)) for every in (1, 4))

    assert chunks.plan(given, 41, False, Means(workers=3)).workers == 3
    assert torch.equal(whole, replayed)


def test_only_a_beginning_is_cut_out_of_it() -> None:
    replayed = train(problem(), 4).states

    assert len(replayed) == 10
    for cut in (slice(3, None), slice(None, None, 2), slice(-2, None)):
        with pytest.raises(LoobenchError, match=r"take run.params\(t\) or run.whole\(\)"):
            replayed[cut]


def test_what_is_done_to_a_state_that_was_given_out_changes_no_other() -> None:
    run = train(problem(), 4)
    before = run.states[5]
    run.states[5].zero_()

    assert torch.equal(run.states[5], before)


def test_few_states_are_kept_where_all_would_take_half_of_the_memory(tmp_path: Path) -> None:
    task = replace(TASKS["quick-digits-mlp-adam"], train=60, query=20, batch=5, epochs=60, horizons=(60,), model="mlp-32")
    short = Means(memory=75 * MIB)
    whole, replayed = (reference(task, 0, tmp_path, "cpu", means) for means in (Means(), short))

    assert spacing(whole.problem, short) == 27  # sqrt(720) steps
    assert replayed.states.nbytes < 0.1 * whole.states.nbytes
    assert replayed.digest() == whole.digest()
    for run, name in ((whole, "whole"), (replayed, "replayed")):
        (tmp_path / name).mkdir()
        export(task, 0, run, GroundTruth(torch.zeros(1, 60, 1), 0.0, 0), tmp_path / name)
    one, other = (tmp_path / name / "trajectory.safetensors" for name in ("whole", "replayed"))
    assert one.read_bytes() == other.read_bytes()


def test_the_backward_sweep_of_a_replay_takes_a_fraction_of_the_memory() -> None:
    given = synthetic((200, 64, 1), 100, 5, 20)  # 400 steps of 103 kB
    backward(train(given).until(2))
    taken = machine.peak_growth(lambda: backward(train(given, 20)), "cpu")
    if taken is None:
        pytest.skip("this system does not tell the peak memory of a process")

    assert taken < 0.5 * 401 * given.initial.nbytes
