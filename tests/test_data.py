"""Data sets: one canonical form, checked on every load; and what a bad Hub does."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.base.files import read_tensors, write_tensors
from benchmark.core.recipes import MODELS
from benchmark.tasks import data
from benchmark.tasks.features import RECIPES, SENTENCES, adult, cifar10, features, mnist, mnist_1_7, news_ibm_mac, sst2_words


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    data.load.cache_clear()
    features.cache_clear()


def table() -> data.Splits:
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (30, 2, 2)).astype(np.uint8)
    return {"train": {"image": images, "text": [f"row {i}" for i in range(30)], "label": np.arange(30) % 3}}


def shuffled(splits: data.Splits) -> data.Splits:
    order = np.random.RandomState(1).permutation(30).tolist()
    return {split: {name: data._take(column, order) for name, column in t.items()} for split, t in splits.items()}


# ---- the canonical form --------------------------------------------------------------------------------------------
def test_the_digest_and_the_canonical_rows_do_not_depend_on_the_order_served() -> None:
    (one, first), (two, second) = data.canonical(table()), data.canonical(shuffled(table()))

    assert first == second
    assert one["train"]["text"] == two["train"]["text"]
    assert np.array_equal(one["train"]["image"], two["train"]["image"])


def test_the_digest_changes_with_any_value_row_name_type_or_split() -> None:
    def change(splits: data.Splits, name: str) -> data.Splits:
        t = dict(splits["train"])
        if name == "pixel":
            t["image"] = t["image"].copy()
            t["image"][3, 1, 1] ^= 1
        if name == "text":
            t["text"] = [*t["text"][:-1], "row 30"]
        if name == "row":
            t = {key: column[:-1] for key, column in t.items()}
        if name == "column":
            t["other"] = t.pop("label")
        if name == "type":
            t["label"] = t["label"].astype(np.int32)
        return {"test" if name == "split" else "train": t}

    digests = {data.canonical(change(table(), name))[1] for name in ("", "pixel", "text", "row", "column", "type", "split")}
    assert len(digests) == 7


def test_the_cache_gives_back_what_was_written(tmp_path: Path) -> None:
    written = {"train": {**table()["train"], "text": ["é", "", *(f"row {i}" for i in range(28))]}}
    data.write_rows(tmp_path / "x.safetensors", written)

    assert data.canonical(data.read_rows(tmp_path / "x.safetensors"))[1] == data.canonical(written)[1]


# ---- loading -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine", "diabetes"])
def test_an_embedded_data_set_has_its_pinned_digest_and_is_cached(name: str, tmp_path: Path) -> None:
    first = data.load(name, tmp_path)
    data.load.cache_clear()
    again = data.load(name, tmp_path)

    assert data.cached(name, tmp_path).exists()
    assert again["train"].keys() == first["train"].keys() == set(data.SOURCES[name].columns)
    assert all(np.array_equal(again["train"][column], first["train"][column]) for column in first["train"])


def test_a_changed_cache_file_is_an_error_that_names_both_digests(tmp_path: Path) -> None:
    data.load("breast_cancer", tmp_path)
    data.load.cache_clear()
    at = data.cached("breast_cancer", tmp_path)
    tensors, facts = read_tensors(at)
    tensors["train/features"][0, 0] += 1e-9
    write_tensors(at, tensors, facts)

    with pytest.raises(
        DamagedFile, match=rf"breast_cancer: expected content digest {data.SOURCES['breast_cancer'].digest}.*got \w{{64}}"
    ):
        data.load("breast_cancer", tmp_path)


@pytest.mark.parametrize("length", [0, 5, 100, 1000])
def test_a_truncated_cache_file_is_an_error(length: int, tmp_path: Path) -> None:
    data.load("breast_cancer", tmp_path)
    data.load.cache_clear()
    at = data.cached("breast_cancer", tmp_path)
    at.write_bytes(at.read_bytes()[:length])

    with pytest.raises(DamagedFile, match="is not a whole safetensors file"):
        data.load("breast_cancer", tmp_path)


def test_reordered_rows_in_the_cache_change_nothing(tmp_path: Path) -> None:
    first = data.load("breast_cancer", tmp_path)
    data.load.cache_clear()
    at = data.cached("breast_cancer", tmp_path)
    tensors, facts = read_tensors(at)
    write_tensors(at, {name: tensor.flip(0) for name, tensor in tensors.items()}, facts)

    assert np.array_equal(data.load("breast_cancer", tmp_path)["train"]["features"], first["train"]["features"])


# ---- preprocessing -------------------------------------------------------------------------------------------------
def test_adult_is_merged_and_one_hot_as_published() -> None:
    names = data.ADULT.split()
    rows = [
        "39 ? 77516 Bachelors 13 Never-married Armed-Forces Husband White Male 2174 0 40 ? <=50K",
        "50 Without-pay 83311 11th 13 Married-AF-spouse Sales Wife White Male 0 0 13 Holand-Netherlands >50K",
        "28 Never-worked 338409 9th 13 Married-civ-spouse ? Wife White Female 0 0 40 Cuba <=50K",
    ]
    columns = dict(zip(names, zip(*(row.split() for row in rows), strict=True), strict=True))
    numeric = {name: np.array([int(v) for v in values]) for name, values in columns.items() if values[0].isdigit()}
    inputs, targets = adult({"train": {name: numeric.get(name, list(values)) for name, values in columns.items()}})

    assert targets.tolist() == [0, 1, 0]
    assert inputs[:, 3] == pytest.approx(np.log1p([77516, 83311, 338409]))
    # age; workclass 0, Never-worked; fnlwgt; education Bachelors, Primary; number; 2 marital; occupation 0, Sales;
    # 2 relationships; 1 race; 2 sexes; gain, loss, hours; country groups 0 and 2
    assert inputs.shape == (3, 1 + 2 + 1 + 2 + 1 + 2 + 2 + 2 + 1 + 2 + 3 + 2)
    assert inputs.sum(1) - inputs[:, [0, 3, 6, 16, 17, 18]].sum(1) == pytest.approx([8, 8, 8])


def test_diabetes_has_measurements_as_they_are_and_a_real_standardised_target(tmp_path: Path) -> None:
    inputs, targets = features("diabetes", "all", tmp_path)
    raw = data.load("diabetes", tmp_path)["train"]["target"]

    assert inputs.shape == (442, 10)
    assert set(inputs[:, 1]) == {1, 2}  # sex: not scaled
    assert 19 <= inputs[:, 0].min() < inputs[:, 0].max() <= 79  # years
    assert targets.dtype == np.float64
    assert (targets.mean(), targets.std()) == pytest.approx((0, 1), abs=1e-14)
    assert np.corrcoef(targets, raw)[0, 1] == pytest.approx(1, abs=1e-14)


def test_a_model_of_one_class_is_a_regression_with_one_output() -> None:
    for name in ("logistic", "mlp-8-8-softplus", "mlp-32", "mlp-128-128"):
        built = {classes: MODELS[name].build(10, classes) for classes in (1, 2, 3)}
        assert {classes: (net.classes, net.loss) for classes, net in built.items()} == {
            1: (1, "squared-error"),
            2: (1, "binary-cross-entropy"),
            3: (3, "cross-entropy"),
        }
    assert MODELS["mlp-128-128"].build(10, 1).parameters == 10 * 128 + 128 + 128 * 128 + 128 + 128 + 1
    with pytest.raises(LoobenchError, match="images needs at least 2 classes, got 1"):
        MODELS["mnist-cnn"].build(784, 1)


def sentences() -> data.Splits:
    """29 sentences of five words, and one that has no token."""
    words = ["not", "a", "the", "good", "bad", "film", "plot", "is", "dull", "fine"]
    random = np.random.RandomState(0)
    texts = [" ".join(words[k] for k in random.randint(0, 10, 5)) for _ in range(29)]
    return {"train": {"sentence": [*texts, "a ! . , ..."], "label": np.arange(30) % 2}}


def test_sentences_are_rows_of_unit_norm_without_stop_words_removed_and_those_without_words_are_zero() -> None:
    inputs, targets = sst2_words(sentences())
    norms = np.linalg.norm(inputs, axis=1)

    assert inputs.shape == (30, 9)  # "a" is no word; "not", "the" and "is" are
    assert norms[:29] == pytest.approx(1, abs=1e-14)
    assert norms[29] == 0
    assert targets.tolist() == [0, 1] * 15


def test_short_texts_are_left_out_and_a_negation_is_a_word() -> None:
    splits: data.Splits = {
        "train": {"sentence": ["it is fine", "it does n't work at all", "it does work at all"], "label": np.arange(3)}
    }
    inputs, targets = sst2_words(splits)

    assert targets.tolist() == [1, 2]
    assert inputs.shape == (2, 6)
    assert (inputs[0] != 0).sum() == (inputs[1] != 0).sum() + 1


def test_sentences_of_a_shuffled_mirror_have_the_same_features() -> None:
    one, two = (sst2_words(data.canonical(splits)[0]) for splits in (sentences(), shuffled(sentences())))

    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])


def test_only_the_first_sentences_are_taken_in_canonical_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.tasks.features.SENTENCES", 7)
    splits = data.canonical(sentences())[0]
    inputs, targets = sst2_words(splits)
    first = sst2_words({"train": {name: data._take(column, list(range(7))) for name, column in splits["train"].items()}})

    assert len(inputs) == 7
    assert np.array_equal(inputs, first[0])  # words, too, are counted in the first only
    assert np.array_equal(targets, splits["train"]["label"][:7])


def test_digits_1_and_7_have_pixels_from_0_to_1_and_7_is_the_second_class() -> None:
    images = np.random.RandomState(0).randint(0, 256, (6, 28, 28)).astype(np.uint8)
    table: data.Splits = {"train": {"image": images, "label": np.array([1, 7, 3, 7, 1, 0])}}
    inputs, targets = mnist_1_7(table)

    assert np.array_equal(inputs, images[[0, 1, 3, 4]].reshape(4, 784) / 255)
    assert targets.tolist() == [0, 1, 1, 0]
    assert np.array_equal(mnist(table)[0], images.reshape(6, 784))
    assert mnist(table)[1].tolist() == [1, 7, 3, 7, 1, 0]


def test_images_in_colour_are_three_planes_row_by_row() -> None:
    images = np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    inputs, targets = cifar10({"train": {"img": images, "label": np.array([3, 9])}})

    assert np.array_equal(inputs[1], np.concatenate([images[1, :, :, plane].ravel() for plane in range(3)]))
    assert targets.tolist() == [3, 9]


def test_news_are_weighed_by_the_words_of_the_train_posts_neither_too_frequent_nor_stop_words() -> None:
    ibm, mac = "comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware"
    words = ["alpha alpha beta", "alpha gamma", "beta delta", "delta delta", "delta", "epsilon the", *["zeta"] * 4]
    groups = [ibm, mac] * 5
    train = {"text": [*words, "omega"], "label_text": [*groups, "rec.autos"]}
    inputs, targets = news_ibm_mac({"train": train, "test": {"text": ["beta kappa alpha zeta"], "label_text": [mac]}})

    rarity = {word: 1 + np.log(11 / (1 + posts)) for word, posts in (("alpha", 2), ("beta", 2), ("epsilon", 1), ("gamma", 1))}
    counts = np.array([[2, 1, 0, 0], [1, 0, 0, 1], [0, 1, 0, 0], *[[0] * 4] * 2, [0, 0, 1, 0], *[[0] * 4] * 4, [1, 1, 0, 0]])
    weighed = counts * np.array([*rarity.values()])  # "delta" is in 3 of 10 posts, "zeta" in 4: more than .20
    assert inputs == pytest.approx(weighed / np.linalg.norm(weighed, axis=1, keepdims=True).clip(1e-9), abs=1e-12)
    assert targets.tolist() == [0, 1] * 5 + [1]


def test_every_data_set_has_a_recipe() -> None:
    assert {dataset for dataset, _ in RECIPES} == data.SOURCES.keys()


# ---- the Hub -------------------------------------------------------------------------------------------------------
ROWS = {"mnist": (13007, 784), "20news": (1945, 4752), "adult": (32561, 62), "sst2": (SENTENCES, 1478)}
SUBSETS = {"mnist": "1-7", "20news": "ibm-mac", "adult": "all", "sst2": "words"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "cifar10", "adult", "20news", "sst2"])
def test_a_data_set_of_the_hub_is_downloaded_checked_and_cached(
    name: str, hub: str, loobench: Callable, tmp_path: Path
) -> None:
    done = loobench("prepare", name, HF_ENDPOINT=hub)
    assert done.returncode == 0, done.stderr

    cache = tmp_path / "cache"
    splits = data.load(name, cache)  # from the cache: this process knows no Hub
    assert {split: len(next(iter(t.values()))) for split, t in splits.items()} == data.SOURCES[name].rows
    if name in ROWS:
        inputs, targets = features(name, SUBSETS[name], cache)
        assert inputs.shape == ROWS[name]
        assert set(targets.tolist()) == {0, 1}
    if name == "sst2":
        norms = np.linalg.norm(inputs, axis=1)
        assert np.isclose(norms, 1, rtol=0, atol=1e-13).sum() == len(norms) - (norms == 0).sum() == 19975
        assert 0.53 < targets.mean() < 0.56  # of all train texts, short ones too, .56
    listed = loobench("list", "datasets").stdout
    assert "yes" in next(line for line in listed.splitlines() if line.startswith(name))


FAULTS = {  # what the Hub does, how it is told to, what the error says
    "answers 503": (["--fail-first", "1000"], "it answers 503: it is in trouble itself"),
    "truncates": (["--truncate"], "cannot download data set sst2"),
    "corrupts": (["--corrupt"], "sst2"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_hub_gives_a_clear_error_and_a_good_one_then_works(
    fault: str, start_hub: Callable, hub: str, loobench: Callable, tmp_path: Path
) -> None:
    options, message = FAULTS[fault]
    done = loobench("prepare", "sst2", HF_ENDPOINT=start_hub(*options))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "cache").rglob("*.safetensors"))

    again = loobench("prepare", "sst2", HF_ENDPOINT=hub)  # with the same Hub client's cache
    assert again.returncode == 0, again.stderr


def test_a_hub_that_fails_twice_is_asked_again(start_hub: Callable, loobench: Callable) -> None:
    done = loobench("prepare", "sst2", HF_ENDPOINT=start_hub("--fail-first", "2"))

    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_hub_that_is_down_gives_a_clear_error(loobench: Callable) -> None:
    done = loobench("prepare", "sst2", HF_ENDPOINT="http://127.0.0.1:9")

    assert done.returncode == 2
    assert "cannot download data set sst2" in done.stderr
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_rows_than_the_pinned_ones_are_refused_with_both_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    served = table()
    monkeypatch.setattr(data, "_from_hub", lambda wanted, fresh: served)
    wanted = replace(data.SOURCES["sst2"], digest="0" * 64)

    with pytest.raises(
        DamagedFile, match=f"expected content digest {'0' * 64}.*got {data.canonical(served)[1]}.*nothing was kept"
    ):
        data.download(wanted)


def test_an_unknown_data_set_or_subset_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(LoobenchError, match="unknown data set 'minst': did you mean mnist"):
        data.load("minst", tmp_path)
    with pytest.raises(LoobenchError, match="unknown subset of mnist '1-8': did you mean 1-7"):
        features("mnist", "1-8", tmp_path)
    with pytest.raises(LoobenchError, match="unknown subset of sst2 'all': known: tokens-32, tokens-64, words"):
        features("sst2", "all", tmp_path)
