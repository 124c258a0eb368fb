"""Baselines of the data: outlying gradients, nearest neighbours, transport, and how hard a sample is along the run."""

from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from cases import MODELS, problem
from scipy.optimize import linprog
from torch import Tensor

from benchmark.base.errors import Diverged, Unsolved
from benchmark.core.losses import LOSSES
from benchmark.core.models import mlp
from benchmark.core.optimizers import Sgd
from benchmark.core.problem import Problem, Samples
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import train

KINDS = pytest.mark.parametrize("kind", ["each", "mean"])


def called(name: str, run: Trajectory) -> Tensor:
    return registered()[name](run)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


def hidden(given: Problem, theta: Tensor, inputs: Tensor) -> Tensor:
    """Activations of the one hidden layer of width 4, written out."""
    weight, bias = theta[:20].reshape(4, 5), theta[20:24]
    return torch.tanh(inputs @ weight.T + bias) if given.model == MODELS["classes"] else torch.relu(inputs @ weight.T + bias)


# ---- outlying gradients ----------------------------------------------------------------------------------------------
def test_the_norms_are_of_the_last_layers_gradients_of_the_losses_without_l2_term() -> None:
    run = train(problem(MODELS["classes"], weight_decay=0.3))
    given = run.problem
    at = torch.cat([hidden(given, run.final, given.train.inputs), torch.ones(12, 1, dtype=torch.float64)], dim=1)
    error = given.model.outputs(run.final, given.train.inputs).softmax(1)
    error[torch.arange(12), given.train.targets] -= 1

    for name, order in (("outlier-gradient-l1", 1), ("outlier-gradient-l2", 2)):
        expected = -torch.linalg.vector_norm(torch.einsum("nc,nh->nch", error, at).flatten(1), ord=order, dim=1)
        close(called(name, run), expected[:, None].expand(-1, 3))


@pytest.mark.parametrize("name", ["outlier-gradient", "outlier-gradient-l1", "outlier-gradient-l2"])
def test_a_far_out_gradient_gets_the_lowest_number(name: str) -> None:
    run = train(problem(MODELS["logistic"], train=40, weight_decay=0.0))
    sample = run.problem.train[7]
    logit = run.problem.model.outputs(run.final, sample.inputs[None])[0, 0]
    run.problem.train.inputs[7] *= 30
    run.problem.train.targets[7] = float(logit < 0)

    assert int(called(name, run)[:, 0].argmin()) == 7


def test_the_forest_is_that_of_scikit_learn_and_leaves_the_global_state_alone() -> None:
    from sklearn.ensemble import IsolationForest

    run = train(problem(MODELS["logistic"]))
    order = run.problem.train.by_content()
    loss_alone = run.problem.gradients(run.final, run.problem.train[order]) - run.problem.weight_decay * run.final
    seed = int(torch.randint(2**31, (), generator=run.random()))
    expected = torch.empty(12, dtype=torch.float64)
    expected[order] = torch.from_numpy(
        IsolationForest(random_state=seed).fit(loss_alone.numpy()).score_samples(loss_alone.numpy())
    )
    before = torch.get_rng_state(), np.random.get_state()[1].copy()

    close(called("outlier-gradient", run), expected[:, None].expand(-1, 3))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


# ---- nearest neighbours ----------------------------------------------------------------------------------------------
def utilities(places: Tensor, labels: Tensor, place: Tensor, label: Tensor, neighbours: int) -> dict[frozenset[int], float]:
    """Utility of every subset, by its definition."""
    order = torch.linalg.vector_norm(places - place, dim=1).argsort().tolist()
    subsets = [frozenset(some) for size in range(len(order) + 1) for some in combinations(range(len(order)), size)]
    return {
        some: sum(float(labels[i] == label) for i in [i for i in order if i in some][:neighbours]) / neighbours
        for some in subsets
    }


def shapley(utility: dict[frozenset[int], float], count: int) -> Tensor:
    values = [
        sum((utility[some | {i}] - utility[some]) / comb(count - 1, len(some)) for some in utility if i not in some) / count
        for i in range(count)
    ]
    return torch.tensor(values, dtype=torch.float64)


@KINDS
@pytest.mark.parametrize("neighbours", [1, 2, 5, 7, 9])
@pytest.mark.parametrize("model", ["classes", "mlp", "logistic"])
def test_knn_shapley_is_the_shapley_value_over_all_subsets(model: str, neighbours: int, kind: str) -> None:
    run = train(problem(MODELS[model], train=7, query=4, query_kind=kind))
    given, function = run.problem, registered()["knn-shapley"].function
    for inside in (True, False):
        deep = inside and model != "logistic"
        at = [hidden_of(given, run.final, samples.inputs) if deep else samples.inputs for samples in (given.train, given.query)]
        games = [
            utilities(at[0], given.train.targets, place, label, neighbours)
            for place, label in zip(at[1], given.query.targets, strict=True)
        ]
        expected = torch.stack([shapley(game, 7) for game in games], dim=1)
        totals = torch.tensor([game[frozenset(range(7))] - game[frozenset()] for game in games], dtype=torch.float64)
        if kind == "mean":
            expected, totals = expected.mean(1, keepdim=True), totals.mean(0, keepdim=True)
        found = function(run, neighbours=neighbours, hidden=inside)

        close(found, expected)
        close(found.sum(0), totals)


def hidden_of(given: Problem, theta: Tensor, inputs: Tensor) -> Tensor:
    """Activations of the one hidden layer, by the library's own module."""
    from benchmark.core.modules import module

    with torch.no_grad():
        return module(given.model, theta)[:-1](inputs)


def test_samples_equally_far_stand_in_the_order_of_their_content() -> None:
    run = train(problem(MODELS["logistic"]))
    run.problem.train.inputs[:6] = run.problem.train.inputs[0]
    run.problem.train.targets[:6] = torch.tensor([0, 1, 0, 1, 1, 0])
    found = called("knn-shapley-inputs", run)
    for seed in range(5):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        other = replace(run, problem=replace(run.problem, train=run.problem.train[order]))
        moved = called("knn-shapley-inputs", other)

        for label in (0, 1):  # twins are told apart by nothing, so that their values are equal as sets
            twins = (order < 6) & (run.problem.train.targets[order] == label)
            own = (torch.arange(12) < 6) & (run.problem.train.targets == label)
            close(moved[twins].sort(0).values, found[own].sort(0).values)
        close(moved[order >= 6], found[order[order >= 6]])


# ---- transport -------------------------------------------------------------------------------------------------------
def transport(left: Tensor, right: Tensor) -> float:
    """Squared 2-Wasserstein distance of two sets of points, as the linear programme it is."""
    costs = ((left[:, None] - right) ** 2).sum(2)
    rows, columns = costs.shape
    marginals = np.concatenate([np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))])
    masses = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    return float(linprog(costs.numpy().ravel(), A_eq=marginals, b_eq=masses, method="highs").fun)


def costs(given: Problem, classes: Samples) -> Tensor:
    train, query = given.train, given.query
    found = ((train.inputs[:, None] - query.inputs) ** 2).sum(2)
    for i, one in enumerate(train.targets):
        for q, other in enumerate(query.targets):
            inside = classes.inputs[classes.targets == other]
            found[i, q] += transport(train.inputs[train.targets == one], inside) if len(inside) else 0.0
    return found / 2


def regularised_cost(matrix: Tensor, masses: Tensor, strength: float) -> float:
    """``min <P, C> + strength sum P log P`` over plans P from `masses` to uniform ones."""
    kernel = torch.exp(-matrix / strength)
    columns = torch.full((matrix.shape[1],), 1 / matrix.shape[1], dtype=torch.float64)
    left = torch.ones_like(masses)
    for _ in range(3000):
        right = columns / (kernel.T @ left)
        left = masses / (kernel @ right)
    plan = left[:, None] * kernel * right
    return float((plan * matrix).sum() + strength * torch.xlogy(plan, plan).sum())


def small(kind: str = "mean", **changes: object) -> Trajectory:
    given = problem(MODELS["classes"], train=9, query=6, query_kind=kind, seed=3)
    return train(replace(given, **changes))


def test_lava_is_minus_the_slope_of_the_transport_cost_in_a_samples_mass() -> None:
    pytest.importorskip("ot")
    run = small()
    matrix = costs(run.problem, run.problem.query)
    strength, step, masses = 0.1 * float(matrix.mean()), 1e-4, torch.full((9,), 1 / 9, dtype=torch.float64)
    expected = torch.empty(9, 1, dtype=torch.float64)
    for i in range(9):
        toward = torch.full((9,), -1 / 8, dtype=torch.float64)
        toward[i] = 1.0
        ends = [regularised_cost(matrix, masses + sign * step * toward, strength) for sign in (1, -1)]
        expected[i] = -(ends[0] - ends[1]) / (2 * step)

    found = called("lava", run)
    assert float(found.std()) > 0.1
    close(found, expected, 1e-6)


def test_a_query_of_its_own_is_a_set_of_one_with_the_train_sets_classes() -> None:
    pytest.importorskip("ot")
    for absent in (False, True):
        run = small("each")
        if absent:
            run.problem.train.targets.clamp_(max=1)
            run.problem.query.targets[0] = 2
        matrix = costs(run.problem, run.problem.train)
        others = (matrix.sum(0) - matrix) / 8

        close(called("lava", run), -(matrix - others))


def test_lava_of_a_mean_query_is_the_same_for_the_query_set_taken_twice_and_scales_with_squared_inputs() -> None:
    pytest.importorskip("ot")
    run = small()
    query = run.problem.query
    twice = Samples(torch.cat([query.inputs] * 2), torch.cat([query.targets] * 2))
    larger = [replace(some, inputs=3 * some.inputs) for some in (run.problem.train, query)]

    close(called("lava", replace(run, problem=replace(run.problem, query=twice))), called("lava", run), 1e-7)
    scaled = replace(run, problem=replace(run.problem, train=larger[0], query=larger[1]))
    close(called("lava", scaled), 9 * called("lava", run), 1e-7)


def test_lava_finds_the_flipped_labels_of_two_clusters_of_equal_shares() -> None:
    pytest.importorskip("ot")
    given = problem(MODELS["logistic"], train=40, query=20, query_kind="mean")
    for samples in (given.train, given.query):
        samples.targets[:] = torch.arange(len(samples)) % 2
        samples.inputs.add_(6 * samples.targets[:, None])
    flipped = [3, 8, 17, 30]  # as many of each class: a class with a larger share than in the query set is harmful as a whole
    given.train.targets[flipped] = 1 - given.train.targets[flipped]

    assert sorted(called("lava", train(given))[:, 0].argsort()[:4].tolist()) == flipped


def test_a_transport_that_is_not_solved_says_so() -> None:
    pytest.importorskip("ot")
    with pytest.raises(Unsolved, match="marginals must come within"):
        registered()["lava"].function(small(), regularisation=1e-6)


# ---- along the run ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", ["logistic", "mlp", "classes", "regression", "cnn"])
def test_el2n_and_grand_are_means_of_norms_over_the_first_tenth_of_the_steps(model: str) -> None:
    run = train(problem(MODELS[model], epochs=10, weight_decay=0.3))  # 30 steps
    given = run.problem
    errors, norms = torch.zeros(2, 12, dtype=torch.float64)
    for theta in (run.params(1), run.params(2), run.params(3)):
        for i in range(12):
            at = theta.clone().requires_grad_()
            outputs = given.model.outputs(at, given.train.inputs[i : i + 1])
            loss = LOSSES[given.model.loss](outputs, given.train.targets[i : i + 1])
            slopes = torch.autograd.grad(loss, (outputs, at))
            errors[i] += slopes[0].norm() / 3
            norms[i] += slopes[1].norm() / 3

    close(called("el2n", run), errors[:, None].expand(-1, 3))
    close(called("grand", run), norms[:, None].expand(-1, 3))


def alternating(steps: int = 5) -> Trajectory:
    """One input, one weight and no bias, of alternating sign: +1, -1, +1 ... by hand. Sample 5 is never visited."""
    inputs = torch.tensor([[1.0], [2.0], [-1.0], [0.1], [-3.0], [1.0]], dtype=torch.float64)
    targets = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    batches = torch.tensor([[0, 1, 2, 4]] * steps)
    batches[0] = torch.tensor([3, 0, 1, 4])
    batches[1] = torch.tensor([2, -1, -1, -1])
    given = replace(problem(mlp((1, 1)), Sgd(0.1)), train=Samples(inputs, targets), batches=batches, horizons=(steps,))
    states = torch.zeros(steps + 1, 1, 2, dtype=torch.float64)
    states[::2, 0, 0], states[1::2, 0, 0] = 1.0, -1.0
    return Trajectory(given, states)


def test_forgetting_counts_turns_from_right_to_wrong_between_visits() -> None:
    # steps 0 .. 4 have weights + - + - +: samples 0, 1, 4 are visited at 0, 2, 3, 4, sample 2 at 1, 2, 3, 4, sample 3 at 0
    found = called("forgetting", alternating())[:, 0]

    assert found.floor().tolist() == [1, 1, 2, 0, 1, 0]
    assert found[5] == 0


def test_what_was_visited_but_never_right_is_the_most_forgotten() -> None:
    run = alternating()
    run.problem.batches[0, 0] = -1
    run.problem.batches[1, 0] = 3  # 3 is seen once, under the wrong sign
    found = called("forgetting", run)[:, 0]

    assert int(found.argmax()) == 3
    assert float(found[3].floor()) == 5


def test_equal_counts_are_ordered_by_mean_loss_and_unequal_ones_are_not() -> None:
    run = alternating()
    signs = torch.tensor([1.0, 1.0, -1.0, 1.0], dtype=torch.float64)  # at the visits of samples 0, 1 and 4
    losses = [torch.nn.functional.softplus(-signs * margin).mean() for margin in (1.0, 2.0, 3.0)]
    found = called("forgetting", run)[:, 0]

    close(found[[0, 1, 4]] - 1, torch.stack([one / (2 + 2 * one) for one in losses]))
    run.problem.train.inputs[0] = 1e9  # a loss without bound does not reach the next count
    assert called("forgetting", run)[0, 0] < found[2]


def test_forgetting_of_several_classes_goes_by_the_largest_output() -> None:
    run = train(problem(MODELS["classes"], batch=12, epochs=8))
    given = run.problem
    right = torch.stack(
        [given.model.outputs(run.params(t), given.train.inputs).argmax(1) == given.train.targets for t in range(8)]
    )
    expected = (right[:-1] & ~right[1:]).sum(0)
    expected[~right.any(0)] = 8

    assert called("forgetting", run)[:, 0].floor().tolist() == expected.tolist()
    assert len(expected.unique()) > 1


@pytest.mark.parametrize("name", ["el2n", "grand", "forgetting", "outlier-gradient"])
def test_a_run_that_ends_in_nan_gets_no_score(name: str) -> None:
    run = train(problem(MODELS["mlp"]))
    run.states[-1] = torch.nan

    with pytest.raises(Diverged):
        called(name, run)


NAMES = (
    *("outlier-gradient", "outlier-gradient-l1", "outlier-gradient-l2", "knn-shapley", "knn-shapley-inputs", "lava"),
    *("el2n", "grand", "forgetting"),
)


@KINDS
@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_float32_gives_nearly_the_same_in_float32(name: str, kind: str) -> None:
    from benchmark.core.problem import in_precision

    if registered()[name].missing:
        pytest.skip(str(registered()[name].missing))
    run = train(problem(MODELS["mlp"], query_kind=kind))
    lower = Trajectory(in_precision(run.problem, torch.float32), run.states.float())
    found = called(name, lower)

    assert found.dtype == torch.float32
    if name != "outlier-gradient":  # seeded by the bits of the initial parameters
        close(found.double(), called(name, run), 1e-4)
