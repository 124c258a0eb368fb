"""The suites of many samples: their data, their models, and that small twins are trained as by a plain torch loop."""

import re
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain import loop, masks
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmark.base.errors import LoobenchError
from benchmark.base.places import ROOT
from benchmark.base.streams import stream
from benchmark.commands.main import main
from benchmark.core.code import Code
from benchmark.core.optimizers import Adam, OneCycle, Sgd, WarmUp
from benchmark.core.problem import Problem
from benchmark.core.recipes import MODELS
from benchmark.core.reference import CausalTransformer, Encoder, ResNet9, UNet
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.core.wrapped import Module
from benchmark.retraining.train import leave_one_out, retrain, train
from benchmark.running.evaluate import estimate
from benchmark.sandbox import client, transport
from benchmark.sandbox.process import Allowance, server
from benchmark.tasks import data
from benchmark.tasks.definition import Task, build, pixels
from benchmark.tasks.features import CHARACTERS, DRAWS, WORDS, features, with_test
from benchmark.tasks.questions import LeaveOneOut, Subsets
from benchmark.tasks.suites import SUITES, TASKS

LARGE, SMALL = SUITES["scale"].tasks, SUITES["scale-small"].tasks
every_large = pytest.mark.parametrize("task", LARGE, ids=lambda task: task.name)
every_small = pytest.mark.parametrize("task", SMALL, ids=lambda task: task.name)
N, QUERY, BATCH = 7, 3, 3  # the last batch of an epoch has one sample


# ---- data --------------------------------------------------------------------------------------------------------------
def images(count: int, shape: tuple[int, ...], name: str) -> data.Table:
    random = np.random.RandomState(0)
    found = random.randint(0, 256, (count, *shape)).astype(np.uint8)
    return {name: found, "label": np.arange(count) % 10}


def texts(count: int, words: str, column: str, labels: str) -> data.Table:
    """Texts of 1 to 150 words, some of them rare."""
    random = np.random.RandomState(1)
    known = [f"{letter}{number}" for number in range(30) for letter in words]
    lengths = random.randint(1, 150, count)
    found = [" ".join(random.choice(known, length)) for length in lengths]
    return {column: found, labels: np.arange(count) % 2}


SETS: dict[str, data.Splits] = {
    "mnist": {name: images(40, (28, 28), "image") for name in ("train", "test")},
    "cifar10": {name: images(100, (32, 32, 3), "img") for name in ("train", "test")},
    "sst2": {name: texts(40, "abc", "sentence", "label") for name in ("train", "validation")},
    "20news": {name: texts(40, "xyz\n\t\u00e9", "text", "label_text") for name in ("train", "test")},
}


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small data sets of the same form in the place of those of the Hub."""
    for function in (features, with_test):
        function.cache_clear()
    monkeypatch.setattr(data, "load", lambda name, cache: SETS[name])


def test_words_are_numbered_by_how_often_the_train_texts_have_them(tmp_path: Path) -> None:
    sentences = list(map(str, SETS["sst2"]["train"]["sentence"]))
    counts = Counter(" ".join(sentences).split())
    order = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    number = {word: place + 2 for place, (word, _) in enumerate(order)}

    for length in WORDS:
        tokens, labels, own = with_test("sst2", f"tokens-{length}", tmp_path)
        assert (own, tokens.shape, tokens.dtype) == (40, (80, length), np.int32)
        assert labels[:own].tolist() == SETS["sst2"]["train"]["label"].tolist()
        for row, text in zip(tokens[:own], sentences, strict=True):
            expected = [number[word] for word in text.split()][:length]
            assert row.tolist() == expected + [0] * (length - len(expected))
        assert np.array_equal(features("sst2", f"tokens-{length}", tmp_path)[0], tokens[:own])


def test_a_word_that_the_vocabulary_lacks_is_unknown_also_where_validation_texts_have_it_often(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(WORDS, 32, 5)  # padding, unknown, and three words
    splits: data.Splits = {
        "train": {"sentence": ["b b b a a", "c d d a", "a"], "label": np.array([0, 1, 0])},
        "validation": {"sentence": ["c c c a", "new d"], "label": np.array([1, 1])},
    }
    monkeypatch.setattr(data, "load", lambda name, cache: splits)
    tokens, labels, own = with_test("sst2", "tokens-32", tmp_path)

    known = {"a": 2, "b": 3, "d": 4}  # a four times, b three, d two, c once
    for row, text in zip(tokens, [*splits["train"]["sentence"], *splits["validation"]["sentence"]], strict=True):
        expected = [known.get(word, 1) for word in str(text).split()]
        assert row.tolist() == expected + [0] * (32 - len(expected))
    assert (own, labels.tolist()) == (3, [0, 1, 0, 1, 1])


@pytest.mark.parametrize("length", [64, 256])
def test_characters_of_posts_long_enough_are_read_and_the_next_ones_asked(length: int, tmp_path: Path) -> None:
    posts = [str(text) for text in SETS["20news"]["train"]["text"] if len(text) >= length + 1]
    inputs, targets = features("20news", f"characters-{length}", tmp_path)

    assert 0 < len(posts) < 40
    assert inputs.shape == targets.shape == (len(posts), length)
    for row, after, text in zip(inputs, targets, posts, strict=True):
        expected = [1 if c == "\n" else ord(c) - 30 if " " <= c <= "~" else 0 for c in text[: length + 1]]
        assert row.tolist() == expected[:-1]
        assert after.tolist() == expected[1:]
    assert {0, 1} <= {*inputs.flatten().tolist()}


@pytest.mark.parametrize("draws", DRAWS)
def test_a_noised_digit_is_the_digit_and_the_noise_that_is_asked_by_the_cosine_and_sine_of_its_time(
    draws: int, tmp_path: Path
) -> None:
    inputs, targets, own = with_test("mnist", f"noised-{draws}", tmp_path)
    each, noise = inputs.reshape(-1, draws, 785).astype(float), targets.reshape(-1, draws, 784).astype(float)
    time = each[:, :, 784:]
    digits = [np.asarray(SETS["mnist"][split]["image"]).reshape(40, 1, 784) / 255 * 2 - 1 for split in ("train", "test")]

    assert (own, inputs.dtype, targets.dtype) == (40, np.float32, np.float32)
    assert np.allclose(
        each[:, :, :784] - np.sin(np.pi / 2 * time) * noise, np.cos(np.pi / 2 * time) * np.concatenate(digits), atol=1e-5
    )
    assert 0 <= time.min() < 0.1 < 0.9 < time.max() <= 1
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert len(np.unique(noise)) > 0.99 * noise.size  # no two draws, digits or splits have the same
    assert np.array_equal(features("mnist", f"noised-{draws}", tmp_path)[1], targets[:own])


def test_cifar_2_is_cats_as_class_0_and_dogs_as_class_1(tmp_path: Path) -> None:
    rows, labels, own = with_test("cifar10", "cat-dog", tmp_path)
    table = SETS["cifar10"]["train"]
    chosen = [row for row in range(100) if row % 10 in (3, 5)]

    assert (own, len(labels)) == (20, 40)
    assert labels[:own].tolist() == [int(row % 10 == 5) for row in chosen]
    planes = np.asarray(table["img"])[chosen].transpose(0, 3, 1, 2)
    assert rows.dtype == np.uint8
    assert np.array_equal(rows[:own], planes.reshape(20, -1))


def test_every_token_is_below_the_vocabulary_of_each_model_that_reads_it() -> None:
    for task in (*LARGE, *SMALL):
        recipe: Any = MODELS[task.model]
        if task.dataset == "sst2":
            assert recipe.vocabulary == WORDS[recipe.length]
        if task.dataset == "20news":
            assert recipe.vocabulary == len(CHARACTERS) + 1


def test_pixels_in_float32_are_those_of_float64_rounded_and_never_held_in_float64() -> None:
    given = np.random.RandomState(0).randint(0, 256, (20_000, 100)).astype(np.uint8)
    exact = given / 127.5 - 1
    tracemalloc.start()
    found = pixels(given, given[:0], dtype="float32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert np.array_equal(found[0], exact.astype(np.float32))
    assert found[1].shape == (0, 100)
    assert np.array_equal(pixels(given)[0], exact)
    assert peak < 8e6 + 8e6  # the answer, and 4,096 rows in float64, twice


# ---- tasks -------------------------------------------------------------------------------------------------------------
def tiny(task: Task, **changes: Any) -> Task:
    """The task on a few samples, in float64."""
    usual = {"train": N, "query": QUERY, "batch": BATCH, "leave_out": None, "dtype": "float64"}
    return replace(task, **usual | {"epochs": 1, "horizons": (1,)} | changes)


def twin(given: Problem) -> nn.Module:
    """The same model as a person would write it, with the problem's initial parameters."""
    if isinstance(given.model, Module):
        code = given.model.code
        assert isinstance(code, Code)
        kinds: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (ResNet9, UNet, Encoder, CausalTransformer)}
        net = kinds[code.name](**dict(code.settings))
    else:
        widths = [(layer.inputs, layer.outputs) for layer in given.model.layers if hasattr(layer, "outputs")]
        names = [layer.function for layer in given.model.layers if hasattr(layer, "function")]
        between = {"softplus": nn.Softplus(5, threshold=1000), "relu": nn.ReLU()}
        linear = [nn.Linear(*pair) for pair in widths]
        net = nn.Sequential(linear[0], *(part for name in names for part in (between[name], linear[1])))
    net = net.double()
    nn.utils.vector_to_parameters(given.initial.clone(), net.parameters())
    return net


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Torch's cross-entropy of each sample, the mean over its tokens; of noise torch's squared error."""
    if targets.is_floating_point():
        return nn.functional.mse_loss(outputs, targets.view_as(outputs), reduction="none").flatten(1).mean(1)
    found = nn.functional.cross_entropy(outputs.movedim(-1, 1), targets, reduction="none")
    return found.flatten(1).mean(1) if found.ndim > 1 else found


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max()) <= tolerance * float(expected.detach().abs().max())


@every_small
def test_runs_of_a_small_twin_are_those_of_a_plain_torch_loop(task: Task, tmp_path: Path) -> None:
    given = build(tiny(task), 0, tmp_path)
    net, keep = twin(given), masks(N, 2)

    close(retrain(given, keep)[-1], torch.stack([loop(given, net, losses, row) for row in keep]), 1e-9)


@every_small
def test_the_truth_of_a_small_twin_is_what_a_plain_torch_loop_without_a_sample_does_to_its_queries(
    task: Task, tmp_path: Path
) -> None:
    given = build(tiny(task, leave_out=2), 0, tmp_path) if task.leave_out else build(tiny(task), 0, tmp_path)
    given = replace(given, left_out=given.left_out[:2])
    net, asked = twin(given), given.query

    def after(keep: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(loop(given, net, losses, keep), ended.parameters())
        return losses(ended(asked.inputs), asked.targets).detach()

    ended = twin(given)
    whole = torch.ones(N, dtype=torch.float64)
    expected = torch.stack([after(whole.index_fill(0, one, 0)) - after(whole) for one in given.left_out])

    close(leave_one_out(train(given))[-1], expected, 1e-7)


@every_large
def test_a_large_task_is_built_of_the_samples_and_model_that_it_names(task: Task, tmp_path: Path) -> None:
    given = build(tiny(task, dtype="float32"), 0, tmp_path)
    last = task.subset.rpartition("-")[2]
    noised = 785 * int(last) if task.subset.startswith("noised") else 784
    width = {"cifar10": 3072, "mnist": noised}.get(task.dataset) or int(last)

    assert given.train.inputs.shape == (N, width)
    assert given.train.inputs.dtype == (torch.int64 if task.dataset in ("sst2", "20news") else torch.float32)
    assert given.initial.dtype == torch.float32
    assert given.initial.shape == (sum(part.numel() for part in twin(given).parameters()),)
    assert given.clip == task.clip
    assert not torch.equal(given.initial, build(tiny(task, dtype="float32"), 1, tmp_path).initial)


def transformer(vocabulary: int, length: int, depth: int, width: int, outputs: int) -> int:
    """Embeddings, in each block attention, two layers of four times the width and two normalisations, one more, and a head."""
    attention, wide = 4 * (width + 1) * width, (width + 1) * 4 * width + (4 * width + 1) * width
    return (vocabulary + length) * width + depth * (attention + wide + 4 * width) + 2 * width + (width + 1) * outputs


SIZES = {
    "logistic": 785 * 10,
    "mlp-128": 785 * 128 + 129 * 10,
    "mlp-128-softplus": 785 * 128 + 129 * 10,
    "encoder-2x64-32": transformer(2000, 32, 2, 64, 2),
    "encoder-4x256-64": transformer(8000, 64, 4, 256, 2),
    "writer-6x384-256": transformer(97, 256, 6, 384, 97),
}


@pytest.mark.parametrize("name", SIZES)
def test_models_have_the_number_of_parameters_that_their_widths_give(name: str) -> None:
    inputs, classes = {"encoder-2x64-32": (32, 2), "encoder-4x256-64": (64, 2), "writer-6x384-256": (256, 97)}.get(
        name, (784, 10)
    )
    assert MODELS[name].build(inputs, classes).parameters == SIZES[name]


def test_data_that_do_not_fit_a_model_are_errors() -> None:
    for name, inputs, classes, message in (
        ("resnet9-8", 784, 10, r"images \(3, 32, 32\) needs 3072 inputs, got 784"),
        ("resnet9-8", 3072, 1, "at least 2 classes, got 1"),
        ("unet-32x4", 785, 1, "rows of 4 noisy images of 28 x 28 and their times, and the noise as targets, got rows of 785"),
        ("unet-8x1", 785, 10, "the noise as targets"),
        ("encoder-2x64-32", 64, 2, "texts of 32 tokens got rows of 64"),
        ("writer-2x64-64", 256, 97, "texts of 64 tokens got rows of 256"),
    ):
        with pytest.raises(LoobenchError, match=message):
            MODELS[name].build(inputs, classes)


# ---- suites ------------------------------------------------------------------------------------------------------------
def test_each_large_task_has_a_small_twin_of_the_same_data_and_kind_of_model_and_optimiser() -> None:
    assert [task.name.replace("scale-", "scale-small-", 1) for task in LARGE] == [task.name for task in SMALL]
    for large, small in zip(LARGE, SMALL, strict=True):
        assert type(MODELS[large.model]) is type(MODELS[small.model])
        assert (large.dataset, large.truth.kind) == (small.dataset, small.truth.kind)
        assert (large.optimizer.name, large.queries_from, large.clip) == (small.optimizer.name, small.queries_from, small.clip)
        assert type(large.optimizer.schedule) is type(small.optimizer.schedule)


def test_samples_are_left_out_one_at_a_time_of_networks_without_kinks_but_for_one_that_shows_them() -> None:
    for tasks in (LARGE, SMALL):
        rough = {task.name for task in tasks if MODELS[task.model] in ROUGH and task.truth == LeaveOneOut()}
        assert len(rough) == 1
        assert {name.rpartition("mnist-")[2] for name in rough} == {"mlp-relu"}
        assert {task.model.partition("-")[0] for task in tasks if isinstance(task.truth, Subsets)} == {"mlp", "resnet9", "unet"}


ROUGH = [recipe for recipe in MODELS.values() if getattr(recipe, "activation", None) == "relu" and recipe != MODELS["logistic"]]


def test_schedules_end_with_their_runs() -> None:
    for task in (*LARGE, *SMALL):
        steps = task.epochs * -(-task.train // task.batch)
        if isinstance(task.optimizer, Sgd) and isinstance(task.optimizer.schedule, OneCycle):
            assert task.optimizer.schedule.total == steps
        if isinstance(task.optimizer, Adam) and isinstance(task.optimizer.schedule, WarmUp):
            assert task.optimizer.schedule.steps <= steps / 4


def test_both_suites_train_on_all_of_mnist_and_ask_the_official_test_images() -> None:
    for tasks in (LARGE, SMALL):
        whole = {task.name.rpartition("mnist-")[2] for task in tasks if task.train == 60_000 and task.queries_from == "test"}
        assert {"logistic", "mlp", "mlp-relu"} <= whole


def test_clipping_is_in_the_record_where_there_is_some_alone() -> None:
    clipped = {name for name, task in TASKS.items() if "clip" in task.record()}

    assert clipped == {"scale-news-char-gpt", "scale-small-news-char-gpt"}
    assert TASKS["scale-news-char-gpt"].record()["clip"] == 1.0
    for norm in (0.0, -1.0):
        with pytest.raises(LoobenchError, match="clip must be a norm above 0, or None"):
            replace(LARGE[0], clip=norm)


def rows(page: str, names: set[str]) -> dict[str, list[str]]:
    """Rows of the page's tables that begin with one of the names."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in cells if row[0].strip("`") in names}


def described(task: Task) -> list[str]:
    """What the table says of a task."""
    asked = task.truth
    left = f"{asked.count} halves x {asked.repeats}" if isinstance(asked, Subsets) else f"{task.leave_out}"
    sizes = f"{task.dataset} {task.subset}, {task.train:,} / {task.query:,}"
    schedule = getattr(task.optimizer.schedule, "kind", "")
    kind = ", ".join(filter(None, (f"{task.optimizer.name} {task.optimizer.lr:g}", schedule)))
    return [f"`{task.model}`", sizes, left, f"{len(task.horizons)}", f"{task.epochs}, {task.batch}", kind, task.dtype]


def test_the_page_has_each_task_as_it_is() -> None:
    page = (ROOT / "docs" / "scale.md").read_text()
    found = rows(page, {task.name for task in (*LARGE, *SMALL)})

    assert {name: row[:7] for name, row in found.items()} == {task.name: described(task) for task in (*LARGE, *SMALL)}
    assert re.search(r"Krizhevsky|dattri", page)


# ---- on their way to others ----------------------------------------------------------------------------------------------
def trained(name: str, cache: Path) -> Trajectory:
    return train(build(two_left_out(name), 0, cache))


def two_left_out(name: str) -> Task:
    return tiny(TASKS[f"scale-small-{name}"], leave_out=2, truth=LeaveOneOut())


MODULES = ["cifar2-resnet9", "mnist-denoiser", "sst2-transformer", "news-char-gpt"]
QUICK = "sst2-transformer"


@pytest.mark.parametrize("name", MODULES)
def test_a_run_of_a_module_arrives_with_its_code_and_the_same_bits(name: str, tmp_path: Path) -> None:
    run = trained(name, tmp_path)
    found = transport.decode(transport.encode(run))

    assert found.problem.digest() == run.problem.digest()
    assert torch.equal(found.final, run.final)
    assert torch.equal(leave_one_out(found), leave_one_out(run))


@pytest.fixture
def confined() -> Callable[[str], Any]:
    """An estimator in the sandbox."""
    try:
        server()
    except LoobenchError as error:
        pytest.skip(str(error))
    return lambda name: client.confined(registered()[name], Allowance())


@pytest.mark.parametrize("name", MODULES)
def test_an_answer_to_a_module_in_the_sandbox_is_that_of_this_process_bit_for_bit(
    name: str, confined: Callable[[str], Any], tmp_path: Path
) -> None:
    run = trained(name, tmp_path)

    assert torch.equal(estimate(confined("grad-dot"), run).effect, estimate(registered()["grad-dot"], run).effect)


def test_initial_parameters_of_a_module_are_what_torch_draws_from_the_stream_of_the_seed(tmp_path: Path) -> None:
    task = tiny(TASKS["scale-small-cifar2-resnet9"])
    given = build(task, 3, tmp_path)
    seeds = stream("initial", 3).randint(2**31, size=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seeds[2]))
        net = ResNet9(8, 2)

    assert torch.equal(given.initial, nn.utils.parameters_to_vector(net.parameters()).detach().double())


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != QUICK)) for name in MODULES])
def test_an_export_of_a_module_of_a_suite_is_redone_by_a_program_that_does_not_know_us(
    name: str, redone: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = two_left_out(name)
    monkeypatch.setitem(TASKS, task.name, task)
    assert main(["truth", task.name, "--export", "out"]) == 0
    sample = str(int(load_file("out/problem.safetensors")["left_out"][1]))

    assert redone(sample) == 0
    program = Path("out/redo.py")
    program.write_text(program.read_text().replace("/ size).backward", "/ (size + 1)).backward"))
    assert redone(sample) == 1
