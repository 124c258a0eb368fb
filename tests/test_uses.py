"""What effects are used for: against plain loops, closed forms of ridge regression, and planted wrong labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import MODELS, OPTIMIZERS, problem
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from benchmark.base.errors import LoobenchError
from benchmark.base.files import read_tensors, write_tensors
from benchmark.base.streams import stream
from benchmark.core.losses import LOSSES
from benchmark.core.optimizers import Sgd
from benchmark.core.problem import Problem, Samples
from benchmark.retraining.chunks import Means
from benchmark.retraining.train import leave_one_out, train
from benchmark.scores.metrics import relative_rmse
from benchmark.tasks.questions import Uses
from benchmark.truths import cleansing, deletion, uses
from benchmark.truths.uses import Prepared, prepare, scores

SMALL = Uses(drop=(1, 2), keep=(0.25, 0.5), delete=(2, 3), groups=3, draws=2)
WRONG = 7  # the sample whose label is wrong


def planted(model: str = "logistic", size: int = 20) -> Problem:
    """Two classes told apart by the first feature; one sample, far from the border, has the other's label."""

    def samples(count: int, name: str, *wrong: int) -> Samples:
        inputs = torch.from_numpy(stream(f"test/planted-{name}", 0).normal(size=(count, 5)))
        inputs[list(wrong), 0] = 4.0
        targets = inputs[:, 0] > 0
        targets[list(wrong)] = False
        return Samples(inputs, targets.double())

    given = problem(MODELS[model], Sgd(0.5), train=size, epochs=10, query_kind="mean")
    return replace(
        given,
        train=samples(size, "train", WRONG),
        query=samples(30, "query"),
        test=samples(30, "test"),
        horizons=(given.steps,),
    )


def true_effects(given: Problem) -> Tensor:
    mean = replace(given, query_kind="mean", horizons=given.horizons[-1:])
    return leave_one_out(train(mean))[0, :, 0]


def flips(size: int = 20, *wrong: int) -> Tensor:
    found = torch.zeros(size, dtype=torch.bool)
    found[list(wrong)] = True
    return found


@pytest.fixture(scope="module")
def given() -> Problem:
    return planted()


@pytest.fixture(scope="module")
def ready(given: Problem) -> Prepared:
    return prepare(given, SMALL, flips(20, WRONG), 0, true_effects(given))


def final(given: Problem, keep: Tensor, *, until: int | None = None, left: bool = False) -> Tensor:
    """Parameters after a loop of its own over the batches, with 1/|B| for what is kept, or, `left`, 1 over its number."""
    state = given.start()
    for t in range(until or given.horizons[-1]):
        batch = given.batch(t)
        size = max(1, int(keep[batch].sum())) if left else len(batch)
        state = given.step(t, state, keep[batch].double() / size)
    return state[0]


def loss_and_error(given: Problem, theta: Tensor) -> tuple[float, float]:
    """Over the test split, one sample at a time."""
    lost, wrong = [], []
    for inputs, target in zip(given.test.inputs, given.test.targets, strict=True):
        outputs = given.model.outputs(theta, inputs[None])
        lost.append(float(LOSSES[given.model.loss](outputs, target[None])))
        chosen = int(outputs[0].argmax()) if given.model.classes > 1 else int(outputs[0, 0].sigmoid() > 0.5)
        wrong.append(float(chosen != int(target)))
    return float(np.mean(lost)), float(np.mean(wrong))


# ---- judged ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["mean", "each"])
@pytest.mark.parametrize(
    ("model", "optimizer"), [("logistic", "momentum"), ("mlp", "sgd"), ("classes", "adamw"), ("cnn", "sgd")]
)
def test_judged_is_a_plain_loop_over_each_subset_read_on_the_test_split(model: str, optimizer: str, kind: str) -> None:
    given = problem(MODELS[model], OPTIMIZERS[optimizer], query=7, query_kind=kind)
    keep = torch.from_numpy(stream("test/keep", 0).uniform(size=(4, 12)) > 0.4)
    expected = [loss_and_error(given, final(given, row)) for row in keep]

    found = cleansing.judge(given, keep)

    assert found.tolist() == [pytest.approx(both, abs=1e-12) for both in expected]
    assert 0 < float(found[:, 1].sum()) < 4  # both right and wrong answers were counted


def test_judged_is_read_at_the_last_horizon() -> None:
    given = replace(problem(query=7), horizons=(2, 5))
    keep = ~torch.eye(12, dtype=torch.bool)
    expected = [loss_and_error(given, final(given, row, until=5))[0] for row in keep]

    assert given.steps > 5
    assert cleansing.judge(given, keep)[:, 0].tolist() == pytest.approx(expected, abs=1e-12)


def test_many_test_samples_are_read_in_blocks() -> None:
    given = problem(query=300)
    keep = torch.ones(2, 12, dtype=torch.bool)

    expected = loss_and_error(given, final(given, keep[0]))

    assert cleansing.judge(given, keep).tolist() == [pytest.approx(expected, abs=1e-12)] * 2


def test_a_model_of_real_values_has_a_loss_but_no_error() -> None:
    given = problem(MODELS["regression"], query=7)
    theta = final(given, torch.ones(12))
    expected = LOSSES["squared-error"](given.model.outputs(theta, given.test.inputs), given.test.targets).mean()

    [[loss, error]] = cleansing.judge(given, torch.ones(1, 12, dtype=torch.bool)).tolist()

    assert loss == pytest.approx(float(expected), abs=1e-12)
    assert np.isnan(error)


def test_errors_are_counted_right_where_parameters_are_known() -> None:
    given = problem(MODELS["logistic"], Sgd(0.0), query=4)
    by_first = torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64)  # the logit is the first feature
    inputs = torch.zeros(4, 5, dtype=torch.float64)
    inputs[:, 0] = torch.tensor([1.0, 2.0, -1.0, -2.0])
    test = Samples(inputs, torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64))
    still = replace(given, initial=by_first, test=test)

    assert cleansing.judge(still, torch.ones(2, 12))[:, 1].tolist() == [0.25, 0.25]


# ---- cleansing and coresets ------------------------------------------------------------------------------------------
def test_the_lowest_effects_go_first_and_the_highest_stay_ties_by_sample_number() -> None:
    effect = torch.tensor([0.0, -1.0, 2.0, -1.0, 1.0, 2.0, 2.0, 0.5])

    assert [(~row).nonzero().flatten().tolist() for row in cleansing.cleansed(effect, (1, 2, 3))] == [[1], [1, 3], [0, 1, 3]]
    assert [row.nonzero().flatten().tolist() for row in cleansing.coreset(effect, (0.125, 0.25, 0.5))] == [
        [2],
        [2, 5],
        [2, 4, 5, 6],
    ]


def test_a_coreset_keeps_its_part_of_the_samples_rounded_and_not_cut() -> None:
    effect = torch.arange(100.0)

    assert cleansing.coreset(effect, (0.29, 0.57, 0.5)).sum(1).tolist() == [29, 57, 50]  # 0.29 * 100 is below 29


def test_a_planted_wrong_label_is_the_first_to_go_and_the_test_loss_falls_without_it_same_and_fresh(
    given: Problem, ready: Prepared
) -> None:
    effect = true_effects(given)
    found = scores(effect, ready, given, units=True)

    assert int(effect.argmin()) == WRONG
    assert found["mislabel_auroc"] == found["mislabel_average_precision"] == 1
    assert found["cleansed_loss_1"] < -0.01
    assert found["fresh_loss_1"] < -0.01


def test_curves_are_those_of_plain_loops_same_and_fresh(given: Problem, ready: Prepared) -> None:
    estimate = torch.from_numpy(stream("test/estimate", 0).normal(size=20))
    order = estimate.argsort().tolist()
    steps = given.steps // 10
    fresh = []
    for d in range(2):
        drawn = stream(f"fresh-batches/{d}", 5)
        rows = torch.tensor(np.concatenate([drawn.permutation(20).reshape(steps, 5) for _ in range(10)]))
        start = given.model.initial(stream(f"fresh-initial/{d}", 5))
        fresh.append(replace(given, initial=start, batches=rows))
    found = scores(estimate, prepare(given, SMALL, ready.flipped, 5), given, units=False)

    def change(start: Problem, keep: list[int], *, left: bool = False) -> np.ndarray:
        some, whole = (final(start, flips(20, *kept), left=left) for kept in (keep, list(range(20))))
        return np.subtract(loss_and_error(start, some), loss_and_error(start, whole))

    for k in SMALL.drop:
        same, anew = change(given, order[k:]), np.mean([change(start, order[k:]) for start in fresh], axis=0)
        assert [found[f"cleansed_loss_{k}"], found[f"cleansed_error_{k}"]] == pytest.approx(same.tolist(), abs=1e-12)
        assert [found[f"fresh_loss_{k}"], found[f"fresh_error_{k}"]] == pytest.approx(anew.tolist(), abs=1e-12)
    for percent, kept in ((25, 5), (50, 10)):
        core = change(given, order[-kept:], left=True)
        assert [found[f"coreset_loss_{percent}"], found[f"coreset_error_{percent}"]] == pytest.approx(core.tolist(), abs=1e-12)
    for name in ("cleansed_loss", "fresh_error"):
        assert found[name] == pytest.approx((found[f"{name}_1"] + found[f"{name}_2"]) / 2, abs=1e-15)
    assert found["coreset_loss"] == pytest.approx((found["coreset_loss_25"] + found["coreset_loss_50"]) / 2, abs=1e-15)


def test_an_estimate_equal_to_the_true_effects_gets_the_oracle_s_scores_to_the_bit(given: Problem, ready: Prepared) -> None:
    oracle = uses.references(ready)["oracle"]
    found = scores(true_effects(given), ready, given, units=True)

    assert found == {**oracle, "self_auroc": None, "self_average_precision": None}


def test_the_random_reference_is_the_mean_over_the_draws(given: Problem, ready: Prepared) -> None:
    drawn = uses.random_effects(20, SMALL, 0)
    each = [scores(effect, ready, given, units=False) for effect in drawn]
    anew = []
    for d, start in enumerate(cleansing.starts(given, SMALL, 0)[1:]):
        keep = torch.cat([torch.ones(1, 20, dtype=torch.bool), cleansing.cleansed(drawn[d], SMALL.drop)])
        losses = cleansing.judge(start, keep)[:, 0]
        anew.append(losses[1:] - losses[0])

    found = uses.references(ready)["random"]

    for name in ("cleansed_loss_2", "cleansed_error", "coreset_loss_25", "coreset_error", "mislabel_auroc"):
        assert found[name] == pytest.approx(np.mean([one[name] for one in each]), abs=1e-12)
    expected = torch.stack(anew).mean(0).tolist()
    assert [found["fresh_loss_1"], found["fresh_loss_2"]] == pytest.approx(expected, abs=1e-12)


# ---- deletion --------------------------------------------------------------------------------------------------------
def test_groups_have_the_sizes_asked_and_clusters_are_a_sample_and_its_nearest(given: Problem) -> None:
    asked = replace(SMALL, delete=(1, 2, 5), groups=4)
    removed, kinds = deletion.groups(given.train, asked, 0)
    inputs = given.train.inputs.numpy()

    def is_cluster(members: list[int]) -> bool:
        near = [sorted(range(20), key=lambda j: ((inputs[j] - inputs[centre]) ** 2).sum()) for centre in range(20)]
        return any(sorted(row[: len(members)]) == members for row in near)

    sizes = [size for size in (1, 2, 5) for _ in range(8)]
    members = [row.nonzero().flatten().tolist() for row in removed]
    assert removed.dtype == torch.bool
    assert [len({*row}) for row in members] == sizes
    assert kinds == (("random",) * 4 + ("clustered",) * 4) * 3
    assert all(is_cluster(row) for row, kind in zip(members, kinds, strict=True) if kind == "clustered")
    assert not all(is_cluster(row) for row, kind in zip(members, kinds, strict=True) if kind == "random")
    assert all(len({*map(tuple, members[start : start + 4])}) == 4 for start in (0, 4, 20))


def test_groups_and_random_effects_come_from_the_streams_of_their_names(given: Problem) -> None:
    draw = stream("deletion", 5)
    drawn = [draw.permutation(20) < 2 for _ in range(3)]
    centres = draw.permutation(20)[:3]
    removed, _ = deletion.groups(given.train, SMALL, 5)

    assert removed[:3].tolist() == np.array(drawn).tolist()
    assert removed[3:6][range(3), centres].all()
    assert np.array_equal(uses.random_effects(20, SMALL, 5), stream("random-removal", 5).normal(size=(2, 20)))


def test_a_sample_is_in_its_own_cluster_even_where_others_have_its_inputs() -> None:
    inputs = torch.zeros(6, 2, dtype=torch.float64)

    assert deletion.nearest(inputs, 4, 1).nonzero().flatten().tolist() == [4]
    assert deletion.nearest(inputs, 4, 3).nonzero().flatten().tolist() == [0, 1, 4]


def test_deleting_a_group_from_a_ridge_regression_has_its_closed_form() -> None:
    given = problem(MODELS["regression"], Sgd(0.5), batch=12, epochs=800, weight_decay=0.1, query_kind="each")
    given = replace(given, horizons=(1, given.steps))
    removed, _ = deletion.groups(given.train, SMALL, 0)
    columns = torch.cat([given.train.inputs, torch.ones(12, 1, dtype=torch.float64)], dim=1)

    def fitted(keep: Tensor) -> Tensor:
        x, y = columns[keep], given.train.targets[keep]
        return torch.linalg.solve(x.T @ x + 0.1 * len(x) * torch.eye(6, dtype=torch.float64), x.T @ y)

    whole = given.query_losses(fitted(torch.ones(12, dtype=torch.bool))).mean()
    expected = torch.stack([given.query_losses(fitted(~row)).mean() for row in removed]) - whole

    assert float((deletion.deleted(given, removed) - expected).abs().max()) < 1e-9


def test_what_deletion_does_is_known_from_single_effects_where_they_nearly_add_up() -> None:
    given = replace(planted(size=60), optimizer=Sgd(0.002))
    asked = Uses(drop=(1,), keep=(0.5,), delete=(2, 3, 4), groups=8, draws=1)
    effect = true_effects(given)
    found = uses.references(prepare(given, asked, flips(60), 0, effect))["oracle"]

    assert min(found[f"deletion_{kind}_{name}"] for kind in deletion.KINDS for name in ("spearman", "kendall")) > 0.99
    assert max(found[f"deletion_{kind}_relative_rmse"] for kind in deletion.KINDS) < 0.02


def test_deletion_is_scored_by_kind_over_all_sizes_and_measured_only_in_units_of_loss(ready: Prepared) -> None:
    estimate = torch.from_numpy(stream("test/estimate", 0).normal(size=20))
    with_units = uses.deletion(estimate, ready, units=True)
    predicted = np.array([sum(float(estimate[i]) for i in row.nonzero()) for row in ready.removed])

    for kind in deletion.KINDS:
        some = np.array(ready.kinds) == kind
        truth, guess = ready.effect.numpy()[some], predicted[some]
        assert some.sum() == 6
        assert with_units[f"deletion_{kind}_spearman"] == pytest.approx(stats.spearmanr(guess, truth).statistic, abs=1e-12)
        assert with_units[f"deletion_{kind}_kendall"] == pytest.approx(stats.kendalltau(guess, truth).statistic, abs=1e-12)
        assert with_units[f"deletion_{kind}_relative_rmse"] == pytest.approx(relative_rmse(guess, truth), abs=1e-12)
    without = uses.deletion(estimate, ready, units=False)
    assert without == {name: value for name, value in with_units.items() if "rmse" not in name}


def test_a_score_that_is_not_defined_is_none(ready: Prepared) -> None:
    flat = replace(ready, effect=torch.zeros_like(ready.effect))
    broken = replace(ready, effect=torch.full_like(ready.effect, torch.nan))
    estimate = torch.arange(20, dtype=torch.float64)

    assert {*uses.deletion(estimate, flat, units=True).values()} == {None}
    assert {*uses.deletion(estimate, broken, units=True).values()} == {None}
    nothing = uses.deletion(torch.zeros(20, dtype=torch.float64), ready, units=True)
    assert [name for name, value in nothing.items() if value is not None] == [
        "deletion_random_relative_rmse",
        "deletion_clustered_relative_rmse",
    ]


def test_scores_of_real_values_have_no_errors() -> None:
    given = problem(MODELS["regression"], query=7, query_kind="mean")
    found = scores(torch.arange(12.0), prepare(given, SMALL, flips(12), 0), given, units=False)

    assert {value for name, value in found.items() if "error" in name} == {None}
    assert all(isinstance(value, float) for name, value in found.items() if "loss" in name)


# ---- wrong labels ----------------------------------------------------------------------------------------------------
def test_wrong_labels_are_found_by_perfect_scores_not_by_constant_ones_and_none_is_none() -> None:
    flipped = flips(20, 3, 4, 11)

    assert uses.mislabelled(flipped.double(), flipped) == {"auroc": 1.0, "average_precision": 1.0}
    assert uses.mislabelled(-flipped.double(), flipped)["auroc"] == 0
    assert uses.mislabelled(torch.ones(20), flipped) == {"auroc": 0.5, "average_precision": pytest.approx(3 / 20)}
    for none in (flips(20), ~flips(20)):
        assert uses.mislabelled(torch.arange(20.0), none) == {"auroc": None, "average_precision": None}


def test_low_effects_and_high_self_influence_are_suspicious_the_latter_among_the_samples_given(
    given: Problem, ready: Prepared
) -> None:
    estimate = torch.from_numpy(stream("test/estimate", 0).normal(size=20))
    numbers, values = torch.tensor([2, 7, 9, 15]), torch.tensor([0.1, 0.3, 0.2, 0.4])
    found = scores(estimate, ready, given, units=False, self_influence=(numbers, values))
    wrong = ready.flipped.numpy()

    assert found["mislabel_auroc"] == pytest.approx(roc_auc_score(wrong, -estimate.numpy()))
    assert found["mislabel_average_precision"] == pytest.approx(average_precision_score(wrong, -estimate.numpy()))
    assert found["self_auroc"] == pytest.approx(2 / 3)
    assert found["self_average_precision"] == pytest.approx(1 / 2)
    without = torch.tensor([2, 9]), torch.tensor([0.1, 0.2])
    assert scores(estimate, ready, given, units=False, self_influence=without)["self_auroc"] is None


# ---- records ---------------------------------------------------------------------------------------------------------
def equal(one: Prepared, other: Prepared) -> bool:
    (tensors, facts), (others, their_facts) = uses.packed(one), uses.packed(other)
    same = tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)
    return same and facts == their_facts


def test_what_is_prepared_comes_back_from_a_file(ready: Prepared, tmp_path: Path) -> None:
    for name, record in {"with": ready, "without": replace(ready, truth=None, oracle=None)}.items():
        write_tensors(tmp_path / name, *uses.packed(record))
        found = uses.unpacked(*read_tensors(tmp_path / name))
        assert equal(found, record)
        assert found.uses == SMALL
        assert found.kinds == record.kinds
        assert uses.references(found) == uses.references(record)


def test_a_seed_repeats_to_the_bit_and_another_draws_other_groups_and_starts(given: Problem, ready: Prepared) -> None:
    assert equal(prepare(given, SMALL, ready.flipped, 0, true_effects(given)), ready)
    assert not torch.equal(deletion.groups(given.train, SMALL, 1)[0], ready.removed)
    assert not torch.equal(uses.random_effects(20, SMALL, 1), uses.random_effects(20, SMALL, 0))
    first, again = (cleansing.starts(given, SMALL, seed)[1] for seed in (0, 1))
    assert not torch.equal(first.initial, again.initial)
    assert not torch.equal(first.batches, again.batches)


def test_progress_is_told_of_all_visits(given: Problem, ready: Prepared) -> None:
    prepared, scored, bare = [], [], []
    prepare(given, SMALL, ready.flipped, 0, ready.truth, Means(), progress=prepared.append)
    prepare(given, SMALL, ready.flipped, 0, progress=bare.append)
    scores(ready.truth, ready, given, units=True, progress=scored.append)

    assert sum(prepared) == uses.preparation_visits(given, SMALL, oracle=True)
    assert sum(bare) == uses.preparation_visits(given, SMALL, oracle=False)
    assert sum(scored) == uses.visits(given, SMALL) == (4 + 2 * 2) * 20 * 10


def test_every_score_says_what_it_is_and_which_way_is_better(given: Problem, ready: Prepared) -> None:
    found = scores(ready.truth, ready, given, units=True)

    assert {uses.use(name).name for name in found} == {*uses.USES}
    assert {use.better for use in uses.USES.values()} == {"higher", "lower"}
    assert uses.use("coreset_error_25") is uses.USES["coreset_error"]


def test_more_removals_than_samples_and_what_is_not_one_finite_number_for_each_sample_are_refused(
    given: Problem, ready: Prepared
) -> None:
    for asked in (replace(SMALL, drop=(1, 20)), replace(SMALL, delete=(20,))):
        with pytest.raises(LoobenchError, match="1 to 19 of 20 samples can be removed, got 20"):
            prepare(given, asked, ready.flipped, 0)
    with pytest.raises(LoobenchError, match=r"\(N,\) = \(20,\), got \(19,\)"):
        scores(torch.zeros(19), ready, given, units=True)
    with pytest.raises(LoobenchError, match="must be finite, got 1 values of 20"):
        scores(torch.arange(20.0).log(), ready, given, units=True)
    with pytest.raises(LoobenchError, match="wrong labels must be"):
        prepare(given, SMALL, flips(12), 0)
