"""Tasks: hashed by content, built from separate random streams."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmark import PROTOCOL
from benchmark.base.errors import LoobenchError
from benchmark.base.streams import stream
from benchmark.core.optimizers import Adam, Sgd
from benchmark.core.recipes import MODELS
from benchmark.tasks.definition import SCALINGS, Task, batches, build, cross_validated, record_digest, variant
from benchmark.tasks.features import features
from benchmark.tasks.questions import Subsets, Uses
from benchmark.tasks.suites import SUITES, TASKS, task

QUICK = TASKS["quick-breast-cancer-mlp-sgd"]
OTHER = {
    "dataset": "digits",
    "subset": "some",
    "train": 99,
    "query": 99,
    "test": 99,
    "model": "logistic",
    "optimizer": Sgd(0.1, momentum=0.5),
    "weight_decay": None,
    "batch": 9,
    "epochs": 11,
    "horizons": (1, 9),
    "queries": "each",
    "dtype": "float32",
    "leave_out": 50,
    "scaling": "pixels",
    "queries_from": "test",
    "clip": 1.0,
    "noise": "labels",
    "noise_rate": 0.1,
    "counterfactual": "renormalised",
    "truth": Subsets(0.5),
    "uses": Uses(drop=(1,), delete=(2,)),
    "charged": "all",
}


def test_every_field_but_the_names_changes_the_digest() -> None:
    usual = replace(QUICK, horizons=(10,), noise="gaussian")  # uses take one horizon, a rate takes a noise
    changed = {name: replace(usual, **{name: value}).digest() for name, value in OTHER.items()}

    assert {field.name for field in fields(Task)} - OTHER.keys() == {"name", "suite"}
    assert len({usual.digest(), *changed.values()}) == len(OTHER) + 1
    assert record_digest({**QUICK.record(), "data": "other"}, PROTOCOL) != QUICK.digest()
    assert record_digest(QUICK.record(), "0.9") != QUICK.digest()
    assert replace(QUICK, name="other", suite="other").digest() == QUICK.digest()


def test_optimisers_of_equal_fields_and_different_kind_differ() -> None:
    assert replace(QUICK, optimizer=Adam(0.1)).digest() != replace(QUICK, optimizer=Sgd(0.1)).digest()


def test_no_two_tasks_are_the_same() -> None:
    assert len({t.digest() for t in TASKS.values()}) == len(TASKS)


def test_hara2019_is_the_published_protocol() -> None:
    table = {t.name.removeprefix("hara2019-"): t for t in SUITES["hara2019"].tasks}
    assert {name: (t.optimizer.lr, t.epochs, t.batch) for name, t in table.items()} == {
        "mnist-logistic": (0.1, 5, 5),
        "20news-logistic": (0.01, 10, 5),
        "adult-logistic": (0.1, 20, 5),
        **{f"{name}-mlp": (0.1, 10, 20) for name in ("mnist", "20news", "adult")},
    }
    for name, t in table.items():
        logistic = name.endswith("logistic")
        assert (t.train, t.query, t.test, t.queries) == (200, 200, 200, "mean")
        assert t.optimizer.schedule == ("inverse-sqrt" if logistic else "constant")
        assert t.weight_decay == (None if logistic else 0.001)
        assert t.model == ("logistic" if logistic else "mlp-8-8")
        assert {1, t.epochs} < set(t.horizons)
    assert SUITES["hara2019"].seeds == 10


def test_streams_are_separate_and_repeat() -> None:
    draws = [stream(name, seed).uniform(size=4) for name in ("split", "initial", "batches") for seed in (0, 1)]

    assert len({draw.tobytes() for draw in draws}) == 6
    assert np.array_equal(stream("split", 1).uniform(size=4), draws[1])


def test_a_problem_draws_each_thing_from_the_stream_of_its_name(tmp_path: Path) -> None:
    given = build(QUICK, 7, tmp_path)
    inputs, targets = features("breast_cancer", "all", tmp_path)
    rows = stream("split", 7).permutation(569)[:300]
    mean, deviation = inputs[rows[:100]].mean(0), inputs[rows[:100]].std(0)

    assert np.allclose(given.test.inputs, (inputs[rows[200:]] - mean) / deviation, atol=1e-12)
    assert given.query.targets.tolist() == targets[rows[100:200]].tolist()
    assert torch.equal(given.initial, given.model.initial(stream("initial", 7)))
    assert torch.equal(given.batches, batches(100, 10, 10, stream("batches", 7)))


def test_initial_parameters_are_uniform_within_one_over_the_root_of_what_comes_in() -> None:
    layers = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 20, 5), nn.Linear(320, 10)
    random, expected = np.random.RandomState(3), []
    for layer in layers:
        bound = nn.init._calculate_fan_in_and_fan_out(layer.weight)[0] ** -0.5
        expected += [random.uniform(-bound, bound, tuple(part.shape)).ravel() for part in (layer.weight, layer.bias)]

    found = MODELS["mnist-cnn"].build(784, 10).initial(np.random.RandomState(3))

    assert np.array_equal(found, np.concatenate(expected))


def test_a_horizon_is_after_the_last_batch_of_its_epoch_also_where_that_is_short(tmp_path: Path) -> None:
    given = build(replace(QUICK, batch=30, horizons=(1, 10)), 0, tmp_path)

    assert given.horizons == (4, 40)
    assert {*given.batches[:4].flatten().tolist()} == {-1, *range(100)}


def test_feature_noise_of_a_seed_is_what_the_stream_feature_noise_of_that_seed_draws(tmp_path: Path) -> None:
    given = build(replace(QUICK, scaling="none", noise="gaussian", noise_rate=0.3), 7, tmp_path)
    inputs, _ = features("breast_cancer", "all", tmp_path)
    train, query = (inputs[stream("split", 7).permutation(569)[rows]] for rows in (slice(100), slice(100, 200)))

    assert np.array_equal(given.train.inputs, train + 0.3 * stream("feature-noise", 7).standard_normal(train.shape))
    assert np.array_equal(given.query.inputs, query)


def test_flipped_labels_of_a_seed_are_what_the_streams_label_noise_of_that_seed_draw(tmp_path: Path) -> None:
    task = replace(QUICK, dataset="digits", noise="labels", noise_rate=0.13)
    _, targets = features("digits", "all", tmp_path)
    clean = targets[stream("split", 7).permutation(1797)[:100]]
    wrong, steps = stream("label-noise", 7).permutation(100)[:13], stream("label-noise/classes", 7).randint(1, 10, size=100)
    expected = clean.copy()
    expected[wrong] = (clean + steps)[wrong] % 10

    assert build(task, 7, tmp_path).train.targets.tolist() == expected.tolist()


def test_a_value_that_no_code_stands_behind_is_an_error() -> None:
    wrong = {"queries": "banana", "noise": "salt", "counterfactual": "reordered", "model": "mlp-9", "queries_from": "web"}
    for field, value in wrong.items():
        with pytest.raises(LoobenchError, match=f"unknown {field} of task {QUICK.name} '{value}'"):
            replace(QUICK, **{field: value})
    for horizons in ((0, 5), (5, 1), (1, 1), (1, 11)):
        with pytest.raises(LoobenchError, match="horizons must rise from 1 to at most 10"):
            replace(QUICK, horizons=horizons)


def test_a_seed_changes_split_initial_parameters_and_batch_order(tmp_path: Path) -> None:
    one, same, other = (build(QUICK, seed, tmp_path) for seed in (0, 0, 1))

    assert one.digest() == same.digest() != other.digest()
    assert not torch.equal(one.batches, other.batches)
    assert not torch.equal(one.initial, other.initial)
    assert not torch.equal(one.train.inputs, other.train.inputs)


def test_batches_hold_each_sample_once_an_epoch_and_the_last_may_be_short() -> None:
    found = batches(23, 5, 3, stream("batches", 0))

    assert found.shape == (15, 5)
    for epoch in found.view(3, -1):
        assert sorted(epoch.tolist()) == [-1, -1, *range(23)]
    assert (found[4::5, -2:] == -1).all()
    assert not torch.equal(found[:5], found[5:10])


def test_inputs_are_standardised_by_the_training_samples_and_splits_are_disjoint(tmp_path: Path) -> None:
    given = build(QUICK, 0, tmp_path)
    rows = [tuple(row) for part in (given.train, given.query, given.test) for row in part.inputs.tolist()]

    assert given.train.inputs.mean(0).abs().max() < 1e-12
    assert given.train.inputs.std(0, correction=0) == pytest.approx(1)
    assert given.query.inputs.mean(0).abs().max() > 1e-3
    assert len(set(rows)) == 300


def test_pixels_go_from_minus_one_to_one() -> None:
    assert SCALINGS["pixels"](np.array([0, 51, 255], dtype=np.uint8))[0] == pytest.approx([-1, -0.6, 1], abs=1e-15)


def test_a_constant_feature_keeps_its_scale(tmp_path: Path) -> None:
    given = build(TASKS["quick-digits-logistic-sgd"], 0, tmp_path)

    assert (given.train.inputs.std(0) == 0).any()
    assert given.query.inputs.isfinite().all()


def test_the_weight_decay_of_logistic_tasks_is_one_over_c_n(tmp_path: Path) -> None:
    inputs, targets = features("breast_cancer", "all", tmp_path)
    inputs = (inputs[:200] - inputs[:200].mean(0)) / inputs[:200].std(0)

    strength = 1 / (200 * cross_validated(inputs, targets[:200]))
    assert np.isclose(strength, np.logspace(-4, 4, 10)).sum() == 1


def test_a_task_that_needs_more_rows_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoobenchError, match="needs 700 rows of breast_cancer all, got 569"):
        build(replace(QUICK, train=500), 0, tmp_path)


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(LoobenchError, match="unknown task 'hara2019-mnist-mpl': did you mean hara2019-mnist-mlp"):
        task("hara2019-mnist-mpl")
    with pytest.raises(LoobenchError, match="unknown dtype 'float16': did you mean float64 or float32"):
        variant(QUICK, "float16")
