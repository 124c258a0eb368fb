"""Ceilings and floors: against plain loops, closed forms and simulations whose answer is known."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem, walked
from scipy import stats
from torch import Tensor

from benchmark.base.errors import LoobenchError
from benchmark.base.streams import stream
from benchmark.core.layers import Activation
from benchmark.core.models import mlp
from benchmark.core.optimizers import Sgd
from benchmark.core.problem import Problem, in_precision
from benchmark.core.trajectory import Trajectory
from benchmark.retraining import chunks
from benchmark.retraining.chunks import Means
from benchmark.retraining.readout import readout
from benchmark.retraining.train import departures, leave_one_out, left_out, retrain, train
from benchmark.scores.metrics import METRICS, scores
from benchmark.tasks.suites import task
from benchmark.truths import limits as file
from benchmark.truths.effects import GroundTruth
from benchmark.truths.limits import (
    Kinks,
    Patterns,
    agreement,
    deviation,
    evenly,
    kinks,
    limits,
    linear_readout,
    measured,
    noise_floor,
    seed_agreement,
    shift_effects,
    split_half,
    without_class,
)

RELU = mlp((5, 4, 3, 1), "relu")
MANY = 40_000  # points of a simulation
NEAR = 4 / MANY**0.5  # four standard errors of a correlation over them


# ---- kinks ---------------------------------------------------------------------------------------------------------
def patterns(given: Problem, theta: Tensor, t: int) -> Tensor:
    """Which values of ReLU layers are positive for the samples of a batch, (B, units)."""
    values, found = given.train.inputs[given.batch(t)], []
    for layer, parameters in zip(given.model.layers, given.model.parts(theta), strict=True):
        values = layer.apply(values, *parameters)
        found += [values > 0] if layer == Activation("relu", layer.features) else []
    return torch.cat(found, dim=1)


def plain_kinks(given: Problem) -> Kinks:
    """A loop of its own over left-out samples and steps."""
    pairs, triples = np.zeros(given.steps), np.zeros(given.steps)
    for i in given.left_out.tolist():
        state = other = given.start()
        for t in range(given.steps):
            batch = given.batch(t)
            parted = [bool(some) for some in (patterns(given, state[0], t) != patterns(given, other[0], t)).any(1)]
            pairs[t] += any(parted)
            triples[t] += sum(parted)
            kept = (batch != i).double()
            whole = float(kept.sum()) if given.counterfactual == "renormalised" and kept.any() else len(batch)
            state, other = given.step(t, state, given.weights(t)), given.step(t, other, kept / whole)
    sizes, samples = np.cumsum([len(given.batch(t)) for t in range(given.steps)]), len(given.left_out)
    at = [horizon - 1 for horizon in given.horizons]
    shares = np.cumsum(pairs) / np.arange(1, given.steps + 1), np.cumsum(triples) / sizes
    return Kinks(*((share[at] / samples).tolist() for share in shares))


def close(found: Kinks | None, expected: Kinks, *, some: bool = True) -> None:
    assert found is not None
    assert found.pairs == pytest.approx(expected.pairs, rel=1e-12)
    assert found.triples == pytest.approx(expected.triples, rel=1e-12)
    assert (0 < found.triples[-1] < found.pairs[-1] < 1) is some


@pytest.mark.parametrize(
    ("model", "optimizer", "counterfactual"),
    [
        (RELU, "sgd", "zero-weight"),
        (RELU, "sgd-decaying", "renormalised"),
        (RELU, "momentum", "zero-weight"),
        (RELU, "adamw", "zero-weight"),
        (mlp((30, 4, 3), "relu", "cross-entropy"), "sgd", "zero-weight"),  # held as a Gram matrix
        (MODELS["cnn"], "sgd", "zero-weight"),
    ],
    ids=["sgd", "renormalised", "momentum", "adamw", "gram", "cnn"],
)
def test_kinks_are_those_that_a_plain_loop_counts(model: object, optimizer: str, counterfactual: str) -> None:
    given = problem(model, OPTIMIZERS[optimizer], counterfactual=counterfactual, epochs=4)

    close(kinks(train(given)), plain_kinks(given))


def test_kinks_of_some_samples_are_counted_over_them_alone() -> None:
    given = replace(problem(RELU, epochs=4), left_out=torch.tensor([2, 7, 8]))

    close(kinks(train(given)), plain_kinks(given))
    assert plain_kinks(given) != plain_kinks(problem(RELU, epochs=4))


@pytest.mark.parametrize("name", ["mlp", "classes", "logistic", "cnn-norm"])
def test_a_network_without_relu_has_no_kinks_to_count(name: str) -> None:
    assert kinks(train(problem(MODELS[name], epochs=1))) is None


def test_runs_that_begin_late_are_the_reference_run_before() -> None:
    given = problem(RELU, epochs=4)
    late = replace(given, horizons=(9, 12))  # so that a run may begin at the first visit of its sample, in steps 0 to 2

    close(kinks(train(late), runs=1), plain_kinks(late))
    assert len(set(departures(late, left_out(late)[:-1]).tolist())) == 3


def test_without_a_sample_that_is_never_visited_no_kink_is_crossed() -> None:
    given = problem(RELU, epochs=4)
    without = replace(given, batches=torch.where(given.batches == 0, -1, given.batches))

    assert kinks(train(replace(without, left_out=torch.tensor([0])))) == Kinks([0.0] * 3, [0.0] * 3)
    close(kinks(train(without)), plain_kinks(without))


def test_a_run_is_the_reference_run_until_a_weight_differs_whatever_rounding_does() -> None:
    given = problem(RELU)
    other = given.start().neg()  # rounding made large
    found = Patterns(given, torch.stack([other, other, given.start()]), 2, None)
    whole = given.weights(0)
    found.step(0, given.batch(0), torch.stack([whole, whole * torch.tensor([0, 1, 1, 1, 1])]))
    assert found.parted().tolist() == [[0, 0], [0, 0]]  # patterns before the step

    found.step(1, given.batch(1), whole.expand(2, -1))
    assert found.parted()[0].tolist() == [0, 0]
    assert found.parted()[1].tolist() == [1, 5]


@pytest.mark.parametrize(("means", "runs"), [(Means(), 1), (Means(), 5), (Means(workers=2), None), (Means(2**30, 2), None)])
def test_kinks_do_not_depend_on_how_many_runs_are_trained_at_once(
    means: Means, runs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(problem(RELU, epochs=4))
    usual = kinks(run)
    monkeypatch.setattr(chunks, "at_once", lambda problem, gram: 3)

    assert kinks(run, means, runs=runs) == usual


# ---- other runs ----------------------------------------------------------------------------------------------------
def test_an_effect_agrees_with_itself_and_not_with_its_negative() -> None:
    effect = leave_one_out(train(problem()))

    assert agreement(effect, effect) == pytest.approx([1.0] * 3, abs=1e-15)
    assert agreement(effect, -effect) == pytest.approx([-1.0] * 3, abs=1e-15)


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf")])
def test_agreement_is_none_where_a_query_is_constant_or_not_finite_on_either_side(value: float) -> None:
    effect = leave_one_out(train(problem()))
    changed = effect.clone()
    changed[1, :, 2] = value

    for compared in (agreement, lambda one, other: measured("relative_rmse", one, other)):
        assert [found is None for found in compared(effect, changed)] == [False, True, False]
        assert [found is None for found in compared(changed, effect)] == [False, True, False]


def test_every_metric_is_measured_as_estimates_are_scored() -> None:
    one, other = (torch.from_numpy(stream(f"test/{name}", 0).normal(size=(3, 12, 2))) for name in ("one", "other"))

    assert {name: measured(name, one, other) for name in METRICS} == scores(one, other, units=True)


def test_agreement_with_other_seeds_is_the_rank_correlation_with_their_leave_one_out() -> None:
    given = replace(problem(), left_out=torch.tensor([1, 4, 5, 9]))
    start = given.model.initial(stream("test/other", 0))
    others = {"same": given, "initial": replace(given, initial=start)}
    effect = leave_one_out(train(given))

    found = seed_agreement(effect, others)

    assert found["same"] == pytest.approx([1.0] * 3, abs=1e-15)
    everyone = leave_one_out(train(replace(others["initial"], left_out=torch.arange(12))))
    assert found["initial"] == scores(everyone[:, given.left_out], effect, units=False)["kendall"]
    assert found["initial"][-1] != found["same"][-1]


def test_agreement_with_a_run_that_diverged_is_none() -> None:
    given = problem(MODELS["regression"], epochs=30)

    found = seed_agreement(leave_one_out(train(given)), {"diverged": replace(given, optimizer=Sgd(1e12))})

    assert found["diverged"][0] is not None  # after one step it is large, and finite
    assert found["diverged"][1:] == [None, None]


def test_effects_of_other_samples_cannot_be_compared() -> None:
    with pytest.raises(LoobenchError, match=r"one shape, got \(3, 4, 1\) and \(3, 5, 1\)"):
        agreement(torch.ones(3, 4, 1), torch.ones(3, 5, 1))


# ---- noise ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("dtype", "least", "most"), [(torch.float64, 1e-17, 1e-12), (torch.float32, 1e-8, 1e-4)])
def test_the_noise_floor_is_the_rounding_of_the_precision(dtype: torch.dtype, least: float, most: float) -> None:
    run = train(in_precision(problem(RELU, epochs=4), dtype))

    floor = noise_floor(run, leave_one_out(run))

    assert len(floor) == 3
    assert all(found is not None and 0 <= found < most for found in floor)  # one step may round alike
    assert least < max(found or 0 for found in floor)


def test_the_noise_floor_compares_each_sample_with_itself() -> None:
    run = train(problem(train=40, batch=10, epochs=1))
    effect = leave_one_out(run)

    assert [found == pytest.approx(0, abs=1e-12) for found in noise_floor(run, effect)] == [True] * 3
    assert [found == pytest.approx(0, abs=0.1) for found in noise_floor(run, effect.roll(1, 1))] == [False] * 3


def test_a_deviation_is_the_root_mean_square_over_the_spread_of_queries_that_have_any() -> None:
    effect = torch.from_numpy(stream("test/effect", 0).normal(size=(2, 6, 3)))
    effect[0, :, 1], effect[1] = 0.5, 0.25
    some = torch.tensor([0, 3, 5])
    moved = effect[:, some] + torch.tensor([3.0, -4.0, 5.0])[:, None]

    first, second = deviation(effect, some, moved)

    spread = effect[0].numpy().std(0, ddof=1)
    assert first == pytest.approx(float(np.sqrt(50 / 3) * np.mean(1 / spread[[0, 2]])), rel=1e-12)
    assert second is None
    assert deviation(effect, some, moved * float("nan")) == [None, None]


def test_samples_for_the_noise_floor_are_spread_evenly_and_few() -> None:
    assert evenly(12).tolist() == list(range(12))
    assert len(evenly(500)) == 32
    assert evenly(500)[[0, -1]].tolist() == [0, 499]
    assert set(evenly(500).diff().tolist()) == {16, 17}


# ---- readout -------------------------------------------------------------------------------------------------------
def first_order(run: Trajectory) -> Tensor:
    """The exact shifts of the parameters, read off to first order, (H, K, Q)."""
    thetas = retrain(run.problem, left_out(run.problem), states=run.states)
    shifts = thetas[:, :-1] - thetas[:, -1:]
    return torch.stack([shift @ cut.query_gradients().T for shift, cut in zip(shifts, run.at_horizons(), strict=True)])


def test_tiny_exact_shifts_of_a_linear_regression_are_read_off_to_first_order() -> None:
    run = train(problem(MODELS["regression"], Sgd(1e-6)))
    effect = leave_one_out(run)

    found = linear_readout(first_order(run), effect)

    assert found["kendall"] == pytest.approx([1.0] * 3, abs=1e-15)
    assert found["spearman"] == pytest.approx([1.0] * 3, abs=1e-15)
    assert max(error or 1 for error in found["relative_rmse"]) < 1e-5


def test_a_linear_readout_is_scored_like_the_estimate_that_it_is() -> None:
    run = train(problem(RELU))
    effect = leave_one_out(run)
    thetas = retrain(run.problem, left_out(run.problem))[-1]
    last = readout(run, thetas[:-1] - run.final, "linear")[None]

    found = linear_readout(first_order(run), effect)

    expected = scores(last, effect[-1:], units=True)
    assert {name: values[-1] for name, values in found.items()} == pytest.approx({name: expected[name][0] for name in found})
    assert 0.01 < found["relative_rmse"][-1] < 1


def test_linear_ceilings_read_the_distance_to_the_run_with_all_samples() -> None:
    given = problem(RELU)
    everyone = walked(given, torch.ones(12))
    slopes = [torch.autograd.functional.jacobian(given.query_losses, theta) for theta in everyone]  # (Q, P)
    without = torch.stack([walked(given, torch.arange(12) != i) for i in range(12)], dim=1)  # (H, K, P)
    expected = torch.stack([(some - all_of) @ at.T for some, all_of, at in zip(without, everyone, slopes, strict=True)])

    assert torch.allclose(shift_effects(train(given)), expected, rtol=1e-9, atol=1e-13)


def shifts_and_losses(given: Problem, samples: list[int]) -> tuple[Tensor, Tensor]:
    """What leaving out each of the samples does to parameters (K, P) and query losses (K, Q) at the end, by loops."""
    thetas = [walked(given, torch.arange(len(given.train)) != i)[-1] for i in (*samples, -1)]
    losses = torch.stack([given.query_losses(theta) for theta in thetas])
    return torch.stack(thetas[:-1]) - thetas[-1], losses[:-1] - losses[-1]


def test_the_limits_of_a_seed_are_of_samples_evenly_spread_and_the_streams_of_that_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = replace(problem(RELU, train=20, batch=5, epochs=3), horizons=(12,))
    run = train(given)
    chosen, random = [0, 3, 6, 9, 12, 15, 19], stream("limits/order", 6)
    rows = np.concatenate([random.permutation(20).reshape(4, 5) for _ in range(3)])
    start = given.model.initial(stream("limits/initial", 6))
    others = {"other_order": replace(given, batches=torch.from_numpy(rows)), "other_initial": replace(given, initial=start)}
    shifts, effect = shifts_and_losses(given, chosen)
    slopes = torch.autograd.functional.jacobian(given.query_losses, run.final)
    monkeypatch.setattr(file, "SAMPLES", 7)

    found = limits(
        replace(task("quick-breast-cancer-mlp-sgd"), epochs=3, horizons=(3,)), 6, run, GroundTruth(leave_one_out(run), 1.0, 1)
    )

    def mean(metric: Callable[..., Any], estimate: Tensor) -> list[object]:
        return [pytest.approx(np.mean([metric(estimate[:, q], effect[:, q]).statistic for q in range(3)]), abs=1e-12)]

    assert found["ceiling"] == mean(stats.kendalltau, shifts @ slopes.T)
    assert found["linear_spearman"] == mean(stats.spearmanr, shifts @ slopes.T)
    for name, other in others.items():
        assert found[name] == mean(stats.kendalltau, shifts_and_losses(other, chosen)[1])


# ---- means over repeats ---------------------------------------------------------------------------------------------
def noisy(repeats: int, signal: Tensor, deviation: float) -> Tensor:
    """Repeats (R, H, M, Q) of a signal (H, M, Q) with independent normal noise."""
    noise = stream("test/noise", 0).normal(size=(repeats, *signal.shape))
    return signal + deviation * torch.from_numpy(noise)


def signal(points: int = MANY) -> Tensor:
    return torch.from_numpy(stream("test/signal", 0).normal(0.5, 1.0, size=(1, points, 1)))


@pytest.mark.parametrize("metric", ["spearman", "pearson", "cosine"])
@pytest.mark.parametrize("repeats", [2, 3, 4])
def test_repeats_without_noise_have_the_ceiling_one(metric: str, repeats: int) -> None:
    same = signal(50).reshape(1, 2, 5, 5).expand(repeats, -1, -1, -1)

    for found in split_half(same, metric).values():
        assert found == pytest.approx([1.0, 1.0], abs=1e-12)


@pytest.mark.parametrize("metric", ["spearman", "pearson", "cosine"])
@pytest.mark.parametrize("repeats", [2, 4, 5])
def test_the_ceiling_is_what_the_expectation_itself_reaches(metric: str, repeats: int) -> None:
    true = signal()
    some = noisy(repeats, true, 2.0)

    (found,) = split_half(some, metric)["ceiling"]

    (reached,) = measured(metric, true, some.mean(0))
    assert found is not None
    assert found == pytest.approx(reached, abs=NEAR)
    assert reached < 0.85


def test_split_halves_and_the_own_repeat_correlate_as_their_noise_says() -> None:
    found = split_half(noisy(4, signal(), 2.0), "pearson")  # variance 1 of the signal, 4 of the noise

    assert found["split_half"] == pytest.approx([1 / (1 + 4 / 2)], abs=NEAR)
    assert found["own"] == pytest.approx([1 / ((1 + 4) * (1 + 4 / 3)) ** 0.5], abs=NEAR)


def test_repeats_of_pure_noise_have_no_ceiling() -> None:
    found = split_half(noisy(4, torch.zeros(1, MANY, 1), 1.0), "spearman")
    against = torch.stack([signal(50), -signal(50)])

    assert abs(found["split_half"][0] or 0) < NEAR
    assert (found["ceiling"][0] or 0) < (2 * NEAR) ** 0.5
    assert abs(found["own"][0] or 0) < NEAR
    assert split_half(against, "spearman") == {"split_half": [pytest.approx(-1)], "ceiling": [None], "own": [pytest.approx(-1)]}


def test_halves_are_taken_of_each_query_by_itself_at_each_horizon() -> None:
    some = torch.from_numpy(stream("test/repeats", 0).normal(size=(4, 2, 30, 3)))
    even, odd = (some[0] + some[2]) / 2, (some[1] + some[3]) / 2

    found = split_half(some, "spearman")

    assert found["split_half"] == pytest.approx(scores(even, odd, units=False)["spearman"], abs=1e-12)
    assert found["own"] == pytest.approx(scores(some[0], some[1:].mean(0), units=False)["spearman"], abs=1e-12)


def test_a_ceiling_takes_repeats_and_a_correlation() -> None:
    with pytest.raises(LoobenchError, match="two or more of them, got 1"):
        split_half(torch.ones(1, 1, 5, 1), "cosine")
    with pytest.raises(LoobenchError, match="unknown metric of a ceiling 'kendall'"):
        split_half(torch.ones(2, 1, 5, 1), "kendall")


# ---- subsets -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("real", [torch.int64, torch.float64])
def test_subsets_that_lack_a_class_are_counted(real: torch.dtype) -> None:
    targets = torch.tensor([0, 1, 1, 0, 1], dtype=real)
    keep = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 1, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()

    assert without_class(keep, targets) == 3


def test_a_class_of_many_may_be_lacking() -> None:
    targets = torch.from_numpy(stream("test/classes", 0).choice([2, 3, 5, 7], size=20, p=[0.1, 0.2, 0.3, 0.4]))
    keep = torch.from_numpy(stream("test/keep", 0).random_sample((100, 20)) < 0.3)

    lacking = sum({*targets[row].tolist()} != {2, 3, 5, 7} for row in keep)

    assert without_class(keep, targets) == lacking
    assert 0 < lacking < 100


def test_real_targets_have_no_classes() -> None:
    assert without_class(torch.ones(3, 4).bool(), torch.tensor([0.0, 1.0, 2.0, 0.5])) is None
