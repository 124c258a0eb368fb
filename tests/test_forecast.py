"""What a truth is said to take is counted, by others, when it is trained."""

from dataclasses import replace

import pytest
import torch
from cases import OPTIMIZERS, problem
from nets import net_problem
from torch.utils.flop_counter import FlopCounterMode

from benchmark.core.problem import Problem
from benchmark.retraining import chunks
from benchmark.retraining.chunks import Means
from benchmark.retraining.train import leave_one_out, train
from benchmark.studies.forecast import Forecast, forecast
from benchmark.tasks.questions import Subsets
from benchmark.truths.counterfactuals import Design, each_sample, subsets


def of(given: Problem) -> Forecast:
    run = train(given)
    return forecast(each_sample(run), Means())


@pytest.mark.parametrize("kind", ["encoder", "resnet"])
def test_the_operations_are_those_that_torch_counts_while_the_runs_are_trained(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "resnet":  # torch counts convolutions that are mapped several times, and of the encoder alone no attention
        monkeypatch.setattr(chunks, "MAPPED", ())
    given = net_problem(kind, OPTIMIZERS["sgd"], epochs=2)
    run = train(given)
    found = forecast(each_sample(run), Means())
    with FlopCounterMode(display=False) as counter:
        leave_one_out(run)
    with FlopCounterMode(display=False) as reading:  # which the forecast of operations is without
        for _ in range(len(given.left_out) + 1):
            given.model.losses(run.final, given.query.inputs, given.query.targets)

    assert found.flops == pytest.approx(counter.get_total_flops() - len(given.horizons) * reading.get_total_flops(), rel=0.03)


def test_steps_that_runs_share_with_the_reference_run_are_not_counted() -> None:
    given = problem(epochs=2)
    late = replace(given, left_out=given.batches[3][:1])  # first visited in the fourth step of its epoch

    run = train(late)
    alone = forecast(replace(each_sample(run), keep=each_sample(run).keep[:1]), Means())
    first = next(t for t in range(late.steps) if int(late.left_out) in late.batch(t))
    assert alone.steps == late.horizons[-1] - min(first, late.horizons[0] - 1)


def test_sizes_are_those_of_what_is_kept_and_sent() -> None:
    given = problem(optimizer=OPTIMIZERS["adam"], epochs=1)
    found = of(given)

    assert found.runs == len(given.left_out) + 1
    assert found.state == given.start().nbytes
    assert found.message == torch.zeros(len(given.horizons), found.at_once, given.queries, dtype=torch.float64).nbytes
    assert found.seconds > 0


def test_a_mean_over_starts_takes_as_many_times_the_work() -> None:
    run = train(problem(epochs=1))
    keep = subsets(run, Subsets(0.5, 5, 2), 0).keep
    one, four = (forecast(Design((run.problem,) * n, keep, None), Means()) for n in (1, 4))

    assert (four.runs, four.chunks, four.steps, four.flops) == (4 * one.runs, 4 * one.chunks, 4 * one.steps, 4 * one.flops)


def test_workers_take_whole_chunks() -> None:
    found = Forecast(31, 1, 30, 300, 6e9, 1, 1, 1, 30.0)

    assert [found.alone(workers) for workers in (1, 2, 4, 64)] == [30.0, 15.0, 8.0, 1.0]
    assert found.on(1e9, 3) == pytest.approx(2.0)
