"""Truths other than leave-one-out: against closed forms on ridge regression, and against plain loops elsewhere."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem
from scipy import stats
from torch import Tensor

from benchmark.base.errors import LoobenchError, Withheld
from benchmark.base.streams import stream
from benchmark.core.optimizers import Adam, Sgd
from benchmark.core.problem import Problem, map_tensors
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import leave_one_out, train
from benchmark.running.evaluate import Failure, estimate
from benchmark.sandbox import client
from benchmark.scores.metrics import scores
from benchmark.tasks.definition import batches
from benchmark.tasks.questions import FurtherTraining, LeaveOneOut, Subsets, Uses, asked_of, record
from benchmark.tasks.suites import TASKS, task
from benchmark.truths import counterfactuals
from benchmark.truths.counterfactuals import Design
from benchmark.truths.effects import GroundTruth
from benchmark.truths.truth import cached_truth, ground_truth


def answered(run: Trajectory, design: Design) -> GroundTruth:
    return ground_truth(run, asked=design)


def plainly(given: Problem, keep: Sequence[bool], *, normalised: bool = False) -> Problem:
    """A loop of its own: query losses after each horizon, training only on what is kept."""
    state, losses = given.start(), []
    for t in range(given.steps):
        batch = given.batch(t)
        kept = torch.tensor([keep[int(i)] for i in batch], dtype=torch.float64)
        weights = kept / (kept.sum() if normalised and kept.any() else len(batch))
        state = given.step(t, state, weights)
        if t + 1 in given.horizons:
            losses.append(given.query_losses(state[0]))
    return torch.stack(losses)


def without(i: int, samples: int = 12) -> list[bool]:
    return [j != i for j in range(samples)]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def ridge(given: Problem, keep: Sequence[bool]) -> Tensor:
    """Parameters of the ridge regression on what is kept, ``(X'X + a K)^-1 X'y``."""
    rows = torch.tensor(keep)
    inputs = torch.cat([given.train.inputs, torch.ones(12, 1, dtype=torch.float64)], dim=1)[rows]
    penalty = given.weight_decay * len(inputs) * torch.eye(6, dtype=torch.float64)
    return torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ given.train.targets[rows])


def converged(**changes: object) -> Problem:
    given = problem(MODELS["regression"], Sgd(0.5), batch=12, epochs=800, weight_decay=0.1)
    return replace(given, horizons=(given.steps,), **changes)


def change(given: Problem, keeps: Sequence[Sequence[bool]]) -> Tensor:
    whole = given.query_losses(ridge(given, [True] * 12))
    return torch.stack([given.query_losses(ridge(given, keep)) - whole for keep in keeps])


# ---- closed forms on ridge regression -----------------------------------------------------------------------------
@pytest.mark.parametrize("counterfactual", ["zero-weight", "renormalised"])
def test_both_counterfactuals_converge_to_the_closed_form_leave_one_out(counterfactual: str) -> None:
    run = train(converged(counterfactual=counterfactual))

    close(leave_one_out(run)[0], change(run.problem, [without(i) for i in range(12)]), 1e-9)


def test_subset_effects_converge_to_the_closed_form() -> None:
    run = train(converged())
    design = counterfactuals.subsets(run, Subsets(0.75, count=4, repeats=2), seed=0)
    truth = answered(run, design)

    assert truth.removed is not None
    assert truth.removed.sum(1).tolist() == [3] * 4
    close(truth.effect[0], change(run.problem, (~truth.removed).tolist()), 1e-9)
    assert truth.repeats is not None
    close(truth.repeats[1], truth.repeats[0], 1e-9)  # a convex problem forgets where it began


def test_further_training_of_a_ridge_regression_converges_to_the_closed_form() -> None:
    given = replace(converged(), batches=converged().batches[:40], horizons=(40,))
    run = train(given)
    truth = answered(run, counterfactuals.further_training(run, FurtherTraining(Sgd(0.5), (10, 800), repeats=2), seed=0))

    assert truth.effect.shape == (2, 12, 3)
    close(truth.effect[1], change(given, [without(i) for i in range(12)]), 1e-9)
    assert (truth.effect[0] - truth.effect[1]).abs().max() > 1e-6


# ---- plain loops --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("model", ["mlp", "classes", "cnn"])
def test_renormalised_leave_one_out_divides_by_what_is_left_of_the_batch(model: str, optimizer: str) -> None:
    run = train(problem(MODELS[model], OPTIMIZERS[optimizer], counterfactual="renormalised"))
    whole = plainly(run.problem, [True] * 12)
    expected = torch.stack([plainly(run.problem, without(i), normalised=True) for i in range(12)], dim=1) - whole[:, None]

    close(leave_one_out(run), expected, 1e-10)
    assert (leave_one_out(run) - leave_one_out(train(replace(run.problem, counterfactual="zero-weight")))).abs().max() > 1e-4


def test_a_batch_of_which_nothing_is_left_moves_nothing() -> None:
    run = train(problem(batch=1, epochs=1, counterfactual="renormalised"))
    expected = torch.stack([plainly(run.problem, without(i), normalised=True) for i in range(12)], dim=1)

    close(leave_one_out(run), expected - plainly(run.problem, [True] * 12)[:, None], 1e-10)
    assert leave_one_out(run).isfinite().all()


def test_the_reference_run_is_the_same_under_either_counterfactual() -> None:
    given = problem()

    assert torch.equal(train(given).states, train(replace(given, counterfactual="renormalised")).states)


ASKED = Subsets(0.5, count=4, repeats=3)


def from_each_start(run: Trajectory) -> tuple[Tensor, Tensor]:
    """Effects (R, H, M, Q) of subsets by loops, from the run's own start and those of the streams `subsets/initial/1, 2`."""
    random, groups = stream("subsets", 3), []
    for _ in range(ASKED.count):
        kept = {*random.permutation(12)[:6].tolist()}
        groups.append([i in kept for i in range(12)])
    starts = [run.problem.model.initial(stream(f"subsets/initial/{r}", 3)) for r in (1, 2)]
    givens = [run.problem, *(replace(run.problem, initial=start) for start in starts)]
    effects = [torch.stack([plainly(given, keep) - plainly(given, [True] * 12) for keep in groups], 1) for given in givens]
    return torch.stack(effects), ~torch.tensor(groups)


def test_subset_effects_are_those_of_a_loop_from_each_start() -> None:
    run = train(problem(MODELS["mlp"]))
    truth = answered(run, counterfactuals.subsets(run, ASKED, seed=3))
    expected, removed = from_each_start(run)

    assert truth.repeats is not None
    assert truth.removed is not None
    assert torch.equal(truth.removed, removed)
    close(truth.repeats, expected, 1e-10)
    close(truth.effect, expected.mean(0), 1e-10)


def test_the_chunks_that_are_kept_of_one_repeat_are_not_taken_for_those_of_another(tmp_path: Path) -> None:
    run = train(problem(MODELS["mlp"]))
    asked = replace(task("quick-breast-cancer-mlp-sgd"), truth=ASKED)

    close(cached_truth(asked, 3, run, tmp_path, "cpu").repeats, from_each_start(run)[0], 1e-10)


@pytest.mark.parametrize(("part", "kept"), [(0.29, 29), (0.57, 57), (0.5, 50)])  # 0.29 * 100 is below 29 in floating point
def test_a_subset_keeps_its_part_of_the_samples_rounded_and_not_cut(part: float, kept: int) -> None:
    run = train(problem(train=100, batch=50, epochs=1))
    design = counterfactuals.subsets(run, Subsets(part, count=3, repeats=2), seed=0)

    assert design.keep.sum(1).tolist() == [kept] * 3 + [100]


@pytest.mark.parametrize("optimizer", [Sgd(0.02), Adam(0.003)], ids=["sgd", "adam"])
def test_further_training_is_that_of_a_loop_from_the_final_parameters(optimizer: Sgd | Adam) -> None:
    run = train(problem(MODELS["mlp"], OPTIMIZERS["adam"]))
    truth = answered(run, counterfactuals.further_training(run, FurtherTraining(optimizer, (1, 3), repeats=2), seed=5))
    expected = []
    for r in range(2):
        rows = batches(12, 5, 3, stream(f"further/{r}", 5))
        further = replace(run.problem, optimizer=optimizer, initial=run.final, batches=rows, horizons=(3, 9))
        whole = plainly(further, [True] * 12)
        expected.append(torch.stack([plainly(further, without(i)) for i in range(12)], dim=1) - whole[:, None])

    close(truth.effect, torch.stack(expected).mean(0), 1e-10)


# ---- what estimates say of groups ---------------------------------------------------------------------------------
def test_the_prediction_for_a_group_is_the_sum_over_its_members() -> None:
    removed = torch.tensor([[True, False, True], [False, True, False]])
    truth = GroundTruth(torch.zeros(1, 2, 2), 1.0, 1, removed=removed)
    estimate = torch.arange(6.0).reshape(1, 3, 2)

    assert truth.predicted(estimate).tolist() == [[[4.0, 6.0], [2.0, 3.0]]]


def test_true_effects_have_a_datamodeling_score_near_one_on_a_linear_model() -> None:
    """A model linear in its parameters under a few small steps answers to groups almost as to the sum of their members."""
    run = train(problem(MODELS["logistic"], Sgd(0.02), train=40, batch=10, epochs=4))
    truth = answered(run, counterfactuals.subsets(run, Subsets(0.9, count=40, repeats=2), seed=0))
    own = replace(truth, effect=truth.repeats[0]) if truth.repeats is not None else truth

    assert scores(own.predicted(leave_one_out(run)), own.effect, units=True)["spearman"][-1] > 0.999
    assert scores(own.predicted(-leave_one_out(run)), own.effect, units=True)["spearman"][-1] < -0.999


def test_scores_of_subsets_are_the_mean_spearman_over_queries() -> None:
    run = train(problem(train=30, batch=10))
    truth = answered(run, counterfactuals.subsets(run, Subsets(0.5, count=20, repeats=2), seed=0))
    guess = torch.from_numpy(stream("test", 0).normal(size=(1, 30, 3)))
    predicted = guess[0].numpy().T @ truth.removed.numpy().T.astype(float) if truth.removed is not None else None
    expected = np.mean([stats.spearmanr(predicted[q], truth.effect[-1, :, q]).statistic for q in range(3)])

    assert scores(truth.predicted(guess), truth.effect, units=False)["spearman"][-1] == pytest.approx(expected, abs=1e-12)


# ---- the final model alone ----------------------------------------------------------------------------------------
def test_an_estimator_that_follows_the_run_is_unsupported_where_only_its_end_is_shown() -> None:
    run = train(problem(query_kind="mean")).until(9)
    for name in ("sgd-ie", "acc-sgd-ie", "tracin", "exact-loo", "dvemb", "forgetting"):
        with pytest.raises(Failure) as failure:
            estimate(registered()[name], run.final_only())
        assert failure.value.status == "unsupported", name


def test_a_refusal_is_noted_by_the_run_that_was_asked_and_by_no_other() -> None:
    run = train(problem()).final_only()
    other = map_tensors(run, torch.clone)
    assert run.until(run.problem.steps).params(run.problem.steps) is not None
    assert (run.final_alone, run.refused) == (True, False)
    with pytest.raises(Withheld):
        run.until(run.problem.steps).params(0)

    assert run.refused
    assert not other.refused
    assert not map_tensors(run, torch.clone).refused
    assert (train(problem()).final_alone, train(problem()).refused) == (False, False)


HEAD = """
from benchmark.estimating import Withheld, estimator

Failure = next(one for one in Exception.__subclasses__() if one.__name__ == "Failure")

@estimator("mine", paper="none")
def mine(run):
"""
WORDS_OF_ITS_OWN = {  # on a task that shows all, and on one that shows the final model alone
    "raises it": ("raise Withheld('I would rather not')",) * 2,
    "raises it of a cut run": ("run.until(3).params(3); raise Withheld('not shown')", "run.final; raise Withheld('not shown')"),
    "raises another after it": ("raise ValueError('no')", "try:\n        run.params(0)\n    except Withheld:\n        1 / 0"),
    "raises the failure": ("raise Failure('unsupported', 'I would rather not')",) * 2,
}


@pytest.mark.parametrize("confined", [False, True], ids=["here", "in the sandbox"])
@pytest.mark.parametrize("alone", [False, True], ids=["all is shown", "the end is shown"])
@pytest.mark.parametrize("way", WORDS_OF_ITS_OWN)
def test_who_says_itself_that_a_task_is_unsupported_has_crashed(way: str, alone: bool, confined: bool, tmp_path: Path) -> None:
    whole = train(problem()).until(9)
    at = tmp_path / "mine.py"
    at.write_text(f"{HEAD}    {WORDS_OF_ITS_OWN[way][alone]}\n")
    (mine,) = client.resolve([str(at)], client.Rules(strangers=confined))
    with pytest.raises(Failure, match="mine") as failure:
        estimate(mine, whole.final_only() if alone else whole)

    assert failure.value.status == "crashed"


def test_an_estimator_of_the_final_model_answers_as_if_all_was_shown() -> None:
    run = train(problem()).until(9)
    for name in ("grad-dot", "grad-cos", "if-direct", "if-ekfac", "representer"):
        shown, whole = (estimate(registered()[name], given).effect for given in (run.final_only(), run))
        assert torch.equal(shown, whole), name


def test_random_numbers_for_a_final_model_are_those_of_the_run_whatever_its_last_bits() -> None:
    """On another processor the final parameters have other last bits, and published estimates must come out there."""
    run = train(problem(MODELS["classes"], OPTIMIZERS["adam"]))
    elsewhere = replace(run, states=run.whole() * (1 + 1e-15))
    shown = [one.final_only() for one in (run, elsewhere)]

    assert not torch.equal(*(one.final for one in shown))
    assert {one.random().initial_seed() for one in (run, *shown)} == {run.random().initial_seed()}


def test_the_run_cannot_be_trained_again_where_only_its_end_is_shown() -> None:
    run = train(problem())
    hidden = run.final_only().problem

    assert torch.equal(hidden.initial, run.final)
    assert not any(torch.equal(one, other) for one, other in zip(hidden.batches, run.problem.batches, strict=True))
    assert hidden.batches[:3].tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, -1, -1, -1]]
    assert hidden.steps == run.problem.steps


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize("size", [1, 5])
def test_sgd_ie_swept_backward_is_the_forward_one_where_batches_are_renormalised_too(optimizer: str, size: int) -> None:
    run = train(problem(optimizer=OPTIMIZERS[optimizer], batch=size, counterfactual="renormalised"))
    forward, swept = (estimate(registered()[name], run).effect[-1] for name in ("sgd-ie-forward", "sgd-ie"))

    close(swept, forward, 1e-9)


def test_states_before_the_last_are_withheld() -> None:
    run = train(problem())
    hidden = run.final_only()

    assert torch.equal(hidden.final, run.final)
    assert torch.equal(hidden.states[-1], run.states[-1])
    assert hidden.states.shape == run.states.shape
    for ask in (
        lambda: hidden.params(0),
        lambda: hidden.states[:3],
        lambda: hidden.until(4),
        hidden.whole,
        lambda: hidden.states[3, 0],
    ):
        with pytest.raises(Withheld, match="final model alone"):
            ask()


# ---- questions as records, and bad input --------------------------------------------------------------------------
def test_questions_are_told_apart_by_their_records() -> None:
    asked = [LeaveOneOut(), Subsets(0.5), Subsets(0.9), Subsets(0.5, repeats=5)]
    asked += [FurtherTraining(Sgd(0.1), (1,), 2), FurtherTraining(Adam(0.1), (1,), 2), FurtherTraining(Sgd(0.1), (2,), 2)]

    assert len({str(record(one)) for one in asked}) == len(asked)
    for one in asked:
        assert asked_of({"truth": record(one)}) is type(one)
    assert asked_of({}) is LeaveOneOut


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"truth": Subsets(1.0)}, "keep 1 to 199 of 200"),
        ({"truth": Subsets(0.001)}, "keep 1 to 199 of 200"),
        ({"truth": Subsets(0.5, count=2)}, "3 or more"),
        ({"truth": Subsets(0.5, repeats=1)}, "2 or more"),
        ({"truth": Subsets(0.5), "leave_out": 5}, "leave_out must be None"),
        ({"truth": FurtherTraining(Sgd(0.1), (1, 5), 2)}, "horizons are those of the further training"),
        ({"truth": FurtherTraining(Sgd(0.1), (1,), 1), "horizons": (1,)}, "2 or more orders"),
        ({"uses": Uses(drop=(200,)), "horizons": (10,)}, "1 to 199 of 200 samples can be removed, got 200"),
        ({"uses": Uses(delete=(2, 500)), "horizons": (10,)}, "1 to 199 of 200 samples can be removed, got 500"),
        ({"uses": Uses(drop=(0,)), "horizons": (10,)}, "1 to 199"),
        ({"uses": Uses(keep=(1.0,)), "horizons": (10,)}, "coreset keeps 1 to 199"),
        ({"uses": Uses()}, "one horizon"),
        ({"uses": Uses(), "horizons": (10,), "queries": "each"}, "one mean query"),
        ({"noise": "labels", "noise_rate": 1.1}, "from 0 to 1, got 1.1"),
        ({"noise": "gaussian", "noise_rate": -0.1}, "from 0 to 1, got -0.1"),
        ({"noise": "salt"}, "unknown noise"),
        ({"counterfactual": "reordered"}, "unknown counterfactual"),
        ({"leave_out": 201}, "leave_out must be 2 to 200, got 201"),
        ({"horizons": (1, 11)}, "at most 10"),
        ({"horizons": ()}, "got none"),
        ({"truth": Subsets(float("nan"))}, "got a part of nan"),
        ({"noise_rate": 0.3}, "needs a noise"),
        ({"uses": Uses(drop=(3, 3)), "horizons": (10,)}, "that differ"),
    ],
)
def test_bad_tasks_say_what_was_expected(changes: dict[str, object], words: str) -> None:
    with pytest.raises(LoobenchError, match=words):
        replace(task("hara2019-adult-mlp"), **changes)


def test_a_subset_that_lacks_a_class_is_allowed() -> None:
    run = train(problem(MODELS["classes"], train=9, batch=3))
    truth = answered(run, counterfactuals.subsets(run, Subsets(1 / 9, count=3, repeats=2), seed=0))

    assert truth.effect.isfinite().all()


def test_every_task_that_asks_something_else_says_so_in_its_digest() -> None:
    given = TASKS["subsets-adult-mlp-50"]

    assert "truth" in given.record()
    assert replace(given, truth=LeaveOneOut()).digest() != given.digest()
    assert "truth" not in TASKS["hara2019-adult-mlp"].record()
