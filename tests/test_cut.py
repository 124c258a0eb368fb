"""A run that is cut holds nothing of what comes after the cut: not in its records, nor in memory, nor as bytes."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from cases import OPTIMIZERS, problem
from torch import Tensor

from benchmark.base.errors import Withheld
from benchmark.core.problem import map_tensors, tensors
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train
from benchmark.sandbox import transport

EPOCHS, STEPS = 4, 12  # of 3 steps
KINDS: dict[str, Callable[..., Trajectory]] = {
    "all states": train,
    "every third state": lambda given: train(given, 3),
    "every fifth state": lambda given: train(given, 5),
}


def changed_after(run: Trajectory, steps: int) -> Trajectory:
    """The run with another schedule, other states and other horizons after so many steps, and a step more."""
    given = run.problem
    later = torch.flip(given.batches[steps:], (0, 1)) if steps < len(given.batches) else given.batches[:0]
    batches = torch.cat([given.batches[:steps], later, given.batches[:1]])
    other = replace(given, batches=batches, horizons=(*(h for h in given.horizons if h <= steps), len(batches)))
    return replace(run, problem=other, states=_changed(run.states, steps, other))


def _changed(states: Any, steps: int, other: Any) -> Any:
    if isinstance(states, Tensor):
        return torch.cat([states[: steps + 1], states[steps + 1 :] + 1, states[:1]])
    begun = states.kept[: steps // states.every + 1]
    return replace(
        states, problem=other, kept=torch.cat([begun, states.kept[len(begun) :] + 1, begun[:1]]), steps=states.steps + 1
    )


def plain(value: Any) -> Any:
    """All that a record of ours holds but tensors."""
    if is_dataclass(value):
        return [plain(getattr(value, part.name)) for part in fields(value)]
    return None if isinstance(value, Tensor) else value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9, 11, STEPS])
def test_what_a_cut_run_holds_depends_on_its_first_steps_alone(kind: str, optimizer: str, steps: int) -> None:
    run = KINDS[kind](replace(problem(optimizer=OPTIMIZERS[optimizer], epochs=EPOCHS), horizons=(3, 9, STEPS)))
    cut, other = run.until(steps), changed_after(run, steps).until(steps)

    assert transport.encode(cut) == transport.encode(other)
    assert plain(cut) == plain(other)
    assert stored(cut) == stored(other)
    assert torch.equal(cut.whole(), run.whole()[: steps + 1])


def stored(run: Trajectory) -> list[bytes]:
    """The whole memory behind each tensor, which a view shows a part of."""
    return [bytes(tensor.untyped_storage().tolist()) for tensor in tensors(run)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_final_model_holds_nothing_of_the_states_before_it(kind: str) -> None:
    run = KINDS[kind](problem(epochs=EPOCHS))
    hidden, seen = run.final_only(), [bytes(state.contiguous().numpy().tobytes()) for state in run.whole()[:-1, 0]]

    for memory in (*stored(hidden), transport.encode(hidden)):
        assert not any(state in memory for state in seen)
    assert transport.encode(hidden.until(STEPS)) == transport.encode(replace(hidden, problem=hidden.problem.until(STEPS)))
    with pytest.raises(Withheld):
        hidden.until(STEPS - 1)


def test_segments_are_nearly_equal_and_the_later_ones_the_longer() -> None:
    run = train(problem(batch=12, epochs=10))

    assert [(part.start, part.stop) for part in run.segments(4)] == [(0, 2), (2, 5), (5, 7), (7, 10)]
    assert [(part.start, part.stop) for part in run.segments(20)] == [(t, t + 1) for t in range(10)]


def test_an_estimator_is_given_memory_that_shows_no_later_step() -> None:
    """It walks from the views it has to what they are views of."""
    from benchmark.core.declaration import Estimator
    from benchmark.running.evaluate import estimate

    run, longest = train(replace(problem(epochs=EPOCHS), horizons=(3, STEPS))), []

    def look(given: Trajectory) -> Tensor:
        longest.append((given.problem.steps, max(map(len, stored(given)))))
        return torch.arange(float(len(given.problem.train)))[:, None].expand(-1, given.problem.queries).to(given.final)

    estimate(Estimator("look", look, {}, "a test", ""), run)
    bytes_of = {steps: map_tensors(run, torch.clone).states[: steps + 1].numel() * 8 for steps in (3, STEPS)}

    assert sorted(longest) == [(3, max(bytes_of[3], 12 * 5 * 8)), (STEPS, bytes_of[STEPS])]
