"""From canonical rows to numbers: the published preprocessing of each data set a task uses."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from benchmark.base.errors import LoobenchError, unknown
from benchmark.base.streams import stream
from benchmark.tasks import data
from benchmark.tasks.data import Splits, Table

Features = tuple[
    np.ndarray, np.ndarray
]  # (M, d) inputs of all M rows, float64, float32, bytes or tokens; targets (M,), or (M, L)


def embedded(splits: Splits) -> Features:
    """The embedded data sets as they come."""
    return np.asarray(splits["train"]["features"]), np.asarray(splits["train"]["label"])


def diabetes(splits: Splits) -> Features:
    """The ten measurements as they are; the progression of the disease standardised by the mean and deviation of all rows.

    Of all rows, so that a target does not depend on the split; one unit is 77 points of the original scale.
    """
    progression = np.asarray(splits["train"]["target"])
    return np.asarray(splits["train"]["features"]), (progression - progression.mean()) / progression.std()


def mnist_1_7(splits: Splits) -> Features:
    """Train digits 1 (class 0) and 7 (class 1), pixels in [0, 1] (Hara et al. 2019, section 7.1)."""
    images, labels = np.asarray(splits["train"]["image"]), np.asarray(splits["train"]["label"])
    rows = (labels == 1) | (labels == 7)
    return images[rows].reshape(rows.sum(), -1) / 255, (labels[rows] == 7).astype(np.int64)


def mnist(splits: Splits) -> Features:
    """Train digits, ten classes, pixels as bytes."""
    table = splits["train"]
    return np.asarray(table["image"]).reshape(len(table["label"]), -1), np.asarray(table["label"])


DRAWS, NOISED = (1, 4), 6000  # of noise for each digit; digits that have it


def noised_digits(splits: Splits, draws: int, of: str = "train") -> Features:
    """Digits in noise, as rows of so many draws of pixels and a time; as targets the noise. (M, draws 785), (M, draws 784)

    ``x = cos(pi t / 2) x_0 + sin(pi t / 2) e`` of pixels x_0 in [-1, 1], t uniform in [0, 1] and e standard normal (Ho et al.
    2020, arXiv:2006.11239, eq. 4, with the cosine of Nichol and Dhariwal 2021, arXiv:2102.09672). Of the first 6,000 digits
    of the split, float32. What is drawn is part of the data: the same at each visit, whatever the seed of a run.
    """
    images, random = np.asarray(splits[of]["image"])[:NOISED], stream(f"noise on {of} digits, {draws} draws", 0)
    clean = images.reshape(len(images), 1, -1) / np.float32(127.5) - 1
    time = random.uniform(size=(len(images), draws, 1)).astype(np.float32)
    noise = random.normal(size=(len(images), draws, clean.shape[2])).astype(np.float32)
    angle = np.pi / 2 * time
    noisy = np.cos(angle) * clean + np.sin(angle) * noise
    return np.concatenate([noisy, time], axis=2).reshape(len(images), -1), noise.reshape(len(images), -1)


def cifar10(splits: Splits) -> Features:
    """Train images, ten classes, pixels as bytes: the red plane first, then green, then blue."""
    table = splits["train"]
    planes = np.asarray(table["img"]).transpose(0, 3, 1, 2)
    return planes.reshape(len(planes), -1), np.asarray(table["label"])


CAT, DOG = 3, 5


def cifar2(splits: Splits) -> Features:
    """Train images of cats (class 0) and dogs (class 1), pixels as bytes: the CIFAR-2 of Park et al. (2023, arXiv:2303.14186).

    The two classes are those of the library dattri, in dattri/benchmark/datasets/cifar2.
    """
    images, labels = cifar10(splits)
    rows = (labels == CAT) | (labels == DOG)
    return images[rows], (labels[rows] == DOG).astype(np.int64)


def news_ibm_mac(splits: Splits) -> Features:
    """IBM (class 0) and Mac (class 1) hardware posts, train and test pooled, as TF-IDF fitted on the train split.

    English stop words, document frequency from .001 to .20 (Hara et al. 2019, section 7.1).
    """
    train, test = _news(splits)
    return np.concatenate([train[0], test[0]]), np.concatenate([train[1], test[1]])


def _news(splits: Splits) -> tuple[Features, Features]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    groups = ("comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware")
    train, test = (_posts(splits[split], groups) for split in ("train", "test"))
    vectors = TfidfVectorizer(stop_words="english", min_df=0.001, max_df=0.20).fit(train[0])
    return (vectors.transform(train[0]).toarray(), train[1]), (vectors.transform(test[0]).toarray(), test[1])


def _posts(table: Table, groups: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    kept = [(text, groups.index(g)) for text, g in zip(table["text"], table["label_text"], strict=True) if g in groups]
    return [text for text, _ in kept], np.array([label for _, label in kept])


SENTENCES = 20_000  # of 67,349, whose TF-IDF would be 0.6 GB; in the order of their hashes the first are a random sample


def sst2_words(splits: Splits) -> Features:
    """TF-IDF of the first 20,000 train texts of five words or more, negative (class 0) or positive (1), with L2 norm 1 each.

    Words are those of two letters or more found in .1 % of the texts or more. Stop words stay, and "n't", which the data set
    sets apart, is a word, since negation decides a sentiment. A text without any of the words is all zeros.
    """
    return _sst2(splits, "train")[0]


def _sst2(splits: Splits, *names: str) -> tuple[Features, ...]:
    """Of each split the texts of five words or more, with the words of the train texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts, labels = zip(*(_sentences(splits[name]) for name in names), strict=True)
    vectors = TfidfVectorizer(min_df=0.001, token_pattern=r"(?u)\b\w\w+\b|n't")
    first = vectors.fit_transform(texts[0]).toarray()
    inputs = [first, *(vectors.transform(some).toarray() for some in texts[1:])]
    return tuple(zip(inputs, labels, strict=True))


def _sentences(table: Table) -> tuple[list[str], np.ndarray]:
    rows = [row for row, text in enumerate(table["sentence"]) if len(text.split()) >= 5][:SENTENCES]
    return [table["sentence"][row] for row in rows], np.asarray(table["label"])[rows]


# ---- texts as tokens ---------------------------------------------------------------------------------------------------
UNKNOWN = 1  # the token of a word that the vocabulary lacks; 0 is padding
WORDS = {32: 2000, 64: 8000}  # length of a text -> tokens of its vocabulary
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))  # tokens 1 to 96; any other is 0


def sst2_tokens(splits: Splits, length: int) -> Features:
    """The first `length` words of each train text as tokens, negative (class 0) or positive (1). (M, length), int32

    Words are what white space separates. The vocabulary is padding (0), unknown (1), and the words that the train texts have
    most often, of equally frequent ones the first by alphabet, as many as `WORDS` has of that length in all.
    """
    return _tokens(splits["train"], _vocabulary(splits["train"]["sentence"], WORDS[length]), length)


def _sst2_tokens_with_validation(splits: Splits, length: int) -> tuple[Features, Features]:
    known = _vocabulary(splits["train"]["sentence"], WORDS[length])
    return _tokens(splits["train"], known, length), _tokens(splits["validation"], known, length)


def _vocabulary(texts: Iterable[str], size: int) -> dict[str, int]:
    """Tokens of the most frequent words, from 2 on."""
    counts = Counter(word for text in texts for word in text.split())
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(ranked[: size - 2], start=2)}


def _tokens(table: Table, known: dict[str, int], length: int) -> Features:
    found = np.zeros((len(table["label"]), length), dtype=np.int32)
    for row, text in enumerate(table["sentence"]):
        words = text.split()[:length]
        found[row, : len(words)] = [known.get(word, UNKNOWN) for word in words]
    return found, np.asarray(table["label"])


def news_characters(splits: Splits, length: int) -> Features:
    """The first `length` characters of each train post as tokens, and as targets the one after each. (M, length) both, int32

    Of posts with more characters than that. Tokens are those of `CHARACTERS`, a new line and printable ASCII; others are 0.
    """
    tokens = {character: number for number, character in enumerate(CHARACTERS, start=1)}
    texts = [text[: length + 1] for text in splits["train"]["text"] if len(text) > length]
    found = np.array([[tokens.get(character, 0) for character in text] for text in texts], dtype=np.int32)
    return found[:, :-1], found[:, 1:]


# Countries of birth in the five groups of Hara et al.'s preprocessing; a missing one ("0") counts as the first group.
COUNTRIES = (
    "United-States Cuba 0",
    "England Germany Canada Italy France Greece Philippines",
    "Mexico Puerto-Rico Honduras Jamaica Columbia Laos Portugal Haiti Dominican-Republic El-Salvador Guatemala Peru "
    "Trinadad&Tobago Outlying-US(Guam-USVI-etc) Nicaragua Vietnam Holand-Netherlands",
    "India Iran Cambodia Taiwan Japan Yugoslavia China Hong",
    "South Poland Ireland Hungary Scotland Thailand Ecuador",
)
ADULT_MERGED = {
    "workclass": {"?": "0", "Without-pay": "Never-worked"},
    "education": dict.fromkeys(("1st-4th", "5th-6th", "7th-8th", "9th", "10th", "11th", "12th"), "Primary"),
    "marital.status": {"Married-AF-spouse": "Married-civ-spouse"},
    "occupation": {"?": "0", "Armed-Forces": "0"},
    "native.country": {"?": "group-0"} | {c: f"group-{g}" for g, group in enumerate(COUNTRIES) for c in group.split()},
}


def adult(splits: Splits) -> Features:
    """Numbers as they are (fnlwgt as log(1 + x)), categories merged as published and one-hot; class 1 earns over 50K."""
    table = splits["train"]
    columns = [_adult_column(name, column) for name, column in table.items() if name != "income"]
    return np.concatenate(columns, axis=1), np.array([income == ">50K" for income in table["income"]], dtype=np.int64)


def _adult_column(name: str, column: data.Column) -> np.ndarray:
    if not isinstance(column, list):
        return (np.log1p(column) if name == "fnlwgt" else column.astype(np.float64))[:, None]
    merged = np.array([ADULT_MERGED.get(name, {}).get(value, value) for value in column])
    return np.asarray(merged[:, None] == np.unique(merged), dtype=np.float64)


RECIPES: dict[tuple[str, str], Callable[[Splits], Features]] = {
    ("digits", "all"): embedded,
    ("breast_cancer", "all"): embedded,
    ("wine", "all"): embedded,
    ("diabetes", "all"): diabetes,
    ("mnist", "1-7"): mnist_1_7,
    ("mnist", "all"): mnist,
    **{("mnist", f"noised-{draws}"): partial(noised_digits, draws=draws) for draws in DRAWS},
    ("cifar10", "all"): cifar10,
    ("cifar10", "cat-dog"): cifar2,
    ("20news", "ibm-mac"): news_ibm_mac,
    **{("20news", f"characters-{length}"): partial(news_characters, length=length) for length in (64, 256)},
    ("adult", "all"): adult,
    ("sst2", "words"): sst2_words,
    **{("sst2", f"tokens-{length}"): partial(sst2_tokens, length=length) for length in WORDS},
}


def _alike(recipe: Callable[[Splits], Features]) -> Callable[[Splits], tuple[Features, Features]]:
    """Both splits by a recipe that takes each row by itself."""
    return lambda splits: (recipe(splits), recipe({"train": splits["test"]}))


def _sst2_with_validation(splits: Splits) -> tuple[Features, Features]:
    """Train and validation texts: the labels of the test split are not public."""
    train, validation = _sst2(splits, "train", "validation")
    return train, validation


def _noised_with_test(splits: Splits, draws: int) -> tuple[Features, Features]:
    return noised_digits(splits, draws), noised_digits(splits, draws, "test")


WITH_TEST: dict[tuple[str, str], Callable[[Splits], tuple[Features, Features]]] = {  # train and test rows, apart
    ("mnist", "1-7"): _alike(mnist_1_7),
    ("mnist", "all"): _alike(mnist),
    **{("mnist", f"noised-{draws}"): partial(_noised_with_test, draws=draws) for draws in DRAWS},
    ("cifar10", "all"): _alike(cifar10),
    ("cifar10", "cat-dog"): _alike(cifar2),
    ("20news", "ibm-mac"): _news,
    **{("20news", f"characters-{length}"): _alike(partial(news_characters, length=length)) for length in (64, 256)},
    ("sst2", "words"): _sst2_with_validation,
    **{("sst2", f"tokens-{length}"): partial(_sst2_tokens_with_validation, length=length) for length in WORDS},
}


@lru_cache(maxsize=2)
def features(name: str, subset: str, cache: Path) -> Features:
    """Inputs (M, d) and targets (M,) of all rows of a `subset` of a data set. Raises LoobenchError for an unknown one."""
    return _recipe(name, subset)(data.load(name, cache))


@lru_cache(maxsize=2)
def with_test(name: str, subset: str, cache: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Inputs (M, d) and targets (M,) of the rows of the train split, then of the official test split; how many are the first.

    Both by the same preprocessing, fitted on the train split. Of SST-2 it is the validation split, as its test labels are
    not public. Raises LoobenchError where a data set has no such split, or is unknown.
    """
    _recipe(name, subset)
    if (name, subset) not in WITH_TEST:
        known = ", ".join(" ".join(pair) for pair in WITH_TEST)
        raise LoobenchError(f"{name} {subset} has no official test split, those that do: {known}; take queries_from='train'")
    train, test = WITH_TEST[name, subset](data.load(name, cache))
    return np.concatenate([train[0], test[0]]), np.concatenate([train[1], test[1]]), len(train[1])


def _recipe(name: str, subset: str) -> Callable[[Splits], Features]:
    data.source(name)
    if (name, subset) not in RECIPES:
        raise unknown(f"subset of {name}", subset, [known for dataset, known in RECIPES if dataset == name])
    return RECIPES[name, subset]
