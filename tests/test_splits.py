"""Query and test samples from the official test split, so that training may take every row of the train split; and tokens."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.base.errors import LoobenchError
from benchmark.base.places import ROOT
from benchmark.base.streams import drawn, stream
from benchmark.core.optimizers import Sgd
from benchmark.core.recipes import MODELS
from benchmark.core.wrapped import Module, Shapes
from benchmark.retraining.train import train
from benchmark.tasks import data
from benchmark.tasks.definition import Task, build
from benchmark.tasks.features import RECIPES, WITH_TEST, features, sst2_words, with_test
from benchmark.tasks.suites import TASKS

IMAGES = replace(TASKS["images-mnist-cnn"], model="mlp-8", train=60, query=12, test=8, leave_out=None, queries_from="test")


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    data.load.cache_clear()
    features.cache_clear()
    with_test.cache_clear()


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> data.Splits:
    """60 train and 20 test images that are all different, in the place of MNIST."""
    random = np.random.RandomState(0)
    splits: data.Splits = {
        name: {"image": random.randint(0, 256, (count, 28, 28)).astype(np.uint8), "label": np.arange(count) % 10}
        for name, count in (("train", 60), ("test", 20))
    }
    monkeypatch.setattr(data, "load", lambda name, cache: splits)
    return splits


def rows(images: Tensor | np.ndarray) -> list[tuple[float, ...]]:
    return [tuple(row) for row in torch.as_tensor(images).reshape(len(images), -1).tolist()]


def pixels(splits: data.Splits, name: str) -> Tensor:
    return torch.from_numpy(np.asarray(splits[name]["image"])).double().flatten(1) / 127.5 - 1


# ---- the official test split ---------------------------------------------------------------------------------------
def test_training_takes_every_row_of_the_train_split_and_no_query_is_one_of_them(digits: data.Splits, tmp_path: Path) -> None:
    given = build(IMAGES, 3, tmp_path)

    assert (len(given.train), len(given.query), len(given.test)) == (60, 12, 8)
    assert {*rows(given.train.inputs)} == {*rows(pixels(digits, "train"))}
    assert {*rows(given.query.inputs), *rows(given.test.inputs)} == {*rows(pixels(digits, "test"))}
    assert not {*rows(given.query.inputs)} & {*rows(given.test.inputs)}


def test_rows_are_drawn_from_the_streams_of_their_splits_each_with_its_label(digits: data.Splits, tmp_path: Path) -> None:
    given = build(replace(IMAGES, train=40), 7, tmp_path)
    own, others = stream("split", 7).permutation(60)[:40], stream("split/test", 7).permutation(20)

    assert torch.equal(given.train.inputs, pixels(digits, "train")[own])
    assert given.train.targets.tolist() == (own % 10).tolist()
    assert torch.equal(given.query.inputs, pixels(digits, "test")[others[:12]])
    assert given.query.targets.tolist() == (others[:12] % 10).tolist()
    assert torch.equal(given.test.inputs, pixels(digits, "test")[others[12:]])
    assert not torch.equal(given.query.inputs, build(replace(IMAGES, train=40), 8, tmp_path).query.inputs)


@pytest.mark.usefixtures("digits")
def test_features_of_both_splits_are_scaled_by_the_training_samples(tmp_path: Path) -> None:
    task = replace(IMAGES, scaling="features", train=40)
    raw, scaled = build(replace(task, scaling="none"), 0, tmp_path), build(task, 0, tmp_path)
    mean, deviation = raw.train.inputs.mean(0), raw.train.inputs.std(0, correction=0)

    for name in ("train", "query", "test"):
        expected = (getattr(raw, name).inputs - mean) / deviation
        assert torch.allclose(getattr(scaled, name).inputs, expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("digits")
def test_a_split_with_too_few_rows_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(LoobenchError, match="needs 61 rows of mnist all in the train split, got 60"):
        build(replace(IMAGES, train=61), 0, tmp_path)
    with pytest.raises(LoobenchError, match="needs 21 rows of mnist all in the test split, got 20"):
        build(replace(IMAGES, test=9), 0, tmp_path)


@pytest.mark.parametrize("name", ["breast_cancer", "adult"])
def test_a_data_set_without_a_test_split_is_an_error_that_lists_those_with_one(name: str, tmp_path: Path) -> None:
    task = replace(TASKS["quick-breast-cancer-mlp-sgd"], dataset=name, queries_from="test")
    with pytest.raises(LoobenchError, match=rf"{name} all has no official test split.*mnist all.*queries_from='train'"):
        build(task, 0, tmp_path)


def test_the_texts_of_the_validation_split_are_weighed_by_the_words_of_the_train_split(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["it is a good film", "it is a bad film", "no film is as dull", "too short"]
    splits: data.Splits = {
        "train": {"sentence": words, "label": np.array([1, 0, 0, 0])},
        "validation": {"sentence": ["a good good plot twist it", "short"], "label": np.array([1, 0])},
    }
    monkeypatch.setattr(data, "load", lambda name, cache: splits)
    inputs, targets, own = with_test("sst2", "words", Path("cache"))
    first, labels = sst2_words(splits)

    vocabulary = sorted({word for text in words[:3] for word in text.split() if len(word) > 1})
    rarity = {"good": np.log(4 / 2) + 1, "it": np.log(4 / 3) + 1}
    weighed = np.array([{"good": 2 * rarity["good"], "it": rarity["it"]}.get(word, 0.0) for word in vocabulary])
    assert own == 3
    assert np.array_equal(inputs[:3], first)
    assert targets.tolist() == [*labels, 1]
    assert inputs[3:] == pytest.approx(weighed[None] / np.linalg.norm(weighed), abs=1e-14)


def test_news_have_the_rows_of_the_pooled_recipe_with_the_test_posts_last(monkeypatch: pytest.MonkeyPatch) -> None:
    mac, ibm = "comp.sys.mac.hardware", "comp.sys.ibm.pc.hardware"
    posts = [
        f"{word} apple" if row % 2 else f"{word} clone" for row, word in enumerate(("alpha", "beta", "gamma", "xi", "eps"))
    ]
    train: data.Table = {"text": [*posts, *["zeta"] * 9], "label_text": [mac, ibm] * 7}
    splits: data.Splits = {"train": train, "test": {"text": ["alpha beta", "cars"], "label_text": [mac, "rec.autos"]}}
    monkeypatch.setattr(data, "load", lambda name, cache: splits)

    inputs, targets, own = with_test("20news", "ibm-mac", Path("cache"))
    pooled = features("20news", "ibm-mac", Path("cache"))
    assert (own, len(targets)) == (14, 15)
    assert np.array_equal(inputs, pooled[0])
    assert np.array_equal(targets, pooled[1])


def test_every_data_set_with_a_test_split_has_a_recipe_for_it() -> None:
    held = {name for name, source in data.SOURCES.items() if {"test", "validation"} & source.rows.keys()}
    assert WITH_TEST.keys() == {(name, subset) for name, subset in RECIPES if name in held}


SIZES = {  # rows of the train split and of the other
    ("mnist", "all"): (60_000, 10_000),
    ("mnist", "1-7"): (13_007, 2163),
    ("cifar10", "all"): (50_000, 10_000),
    ("cifar10", "cat-dog"): (10_000, 2000),
    ("20news", "ibm-mac"): (1168, 777),
    ("20news", "characters-64"): (0, 0),
    ("20news", "characters-256"): (0, 0),
    ("sst2", "words"): (20_000, 864),
    ("sst2", "tokens-32"): (67_349, 872),
    ("sst2", "tokens-64"): (67_349, 872),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "cifar10", "20news", "sst2"])
def test_whole_train_splits_of_the_hub_can_be_trained_on(name: str, hub: str, loobench: Callable, tmp_path: Path) -> None:
    done = loobench("prepare", name, HF_ENDPOINT=hub)
    assert done.returncode == 0, done.stderr
    for (dataset, subset), (own, others) in SIZES.items():
        if dataset == name:
            inputs, targets, found = with_test(dataset, subset, tmp_path / "cache")
            assert (found, len(targets) - found) == (own, others)
            task = replace(IMAGES, dataset=dataset, subset=subset, train=own, query=200, test=others - 200)
            given = build(replace(task, scaling="none", dtype="float32"), 0, tmp_path / "cache")
            assert (len(given.train), len(given.query), len(given.test)) == (own, 200, others - 200)
            train_rows = {row.tobytes() for row in inputs[:own]}
            seen = sum(row.tobytes() in train_rows for row in inputs[own:])
            assert seen == 0 or dataset in ("20news", "sst2")  # where texts may have the same words


# ---- records -------------------------------------------------------------------------------------------------------
def test_the_field_is_in_the_record_where_it_is_not_the_usual_alone() -> None:
    assert "queries_from" not in TASKS["images-mnist-cnn"].record()
    assert replace(TASKS["images-mnist-cnn"], queries_from="train").digest() == TASKS["images-mnist-cnn"].digest()
    assert IMAGES.record()["queries_from"] == "test"


def test_published_results_name_the_digests_that_their_tasks_have_today() -> None:
    published = [
        json.loads(found[0].read_text()) for folder in (ROOT / "results").iterdir() if (found := [*folder.glob("*.json")])
    ]
    wrong = [one["task"]["name"] for one in published if TASKS[one["task"]["name"]].digest() != one["task_digest"]]

    assert len(published) > 50
    assert wrong == []


# ---- tokens ----------------------------------------------------------------------------------------------------------
class Bag(nn.Module):
    """The mean of two-dimensional embeddings, one logit for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 2), nn.Linear(2, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).mean(1))


class BagRecipe:
    """What a task calls the model."""

    def build(self, inputs: int, classes: int) -> Module:
        with drawn(stream("test/bag", 0)):
            return Module(Bag(), "cross-entropy", one=Shapes((inputs,), (classes,)))


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task on 30 rows of four tokens, in the place of the digits."""
    random = np.random.RandomState(0)
    rows = random.randint(0, 5, (30, 4)).astype(np.int32), np.arange(30) % 3
    monkeypatch.setitem(RECIPES, ("digits", "all"), lambda splits: rows)
    monkeypatch.setitem(MODELS, "bag", BagRecipe())
    usual = TASKS["quick-digits-logistic-sgd"]
    return replace(usual, train=20, query=5, test=5, model="bag", optimizer=Sgd(0.1), weight_decay=0.0, scaling="none")


def test_tokens_stay_integers_and_are_trained_on(tokens: Task, tmp_path: Path) -> None:
    given = build(tokens, 0, tmp_path)

    assert {part.inputs.dtype for part in (given.train, given.query, given.test)} == {torch.int64}
    assert given.train.targets.dtype == torch.int64
    assert given.initial.dtype == torch.float64
    assert train(given).final.isfinite().all()
    assert build(replace(tokens, dtype="float32"), 0, tmp_path).train.inputs.dtype == torch.int64


def test_noise_on_tokens_is_an_error(tokens: Task, tmp_path: Path) -> None:
    with pytest.raises(LoobenchError, match="feature noise is of real features, those of digits are tokens"):
        build(replace(tokens, noise="gaussian", noise_rate=0.1), 0, tmp_path)
