"""A person's own model and data: exact effects, the same as a plain loop gives, and words where there can be none."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from owned import Tokens, confident, data, tokens
from safetensors.torch import load_file
from torch import Tensor, nn

import loobench
from benchmark.base.errors import LoobenchError
from benchmark.base.streams import stream
from benchmark.commands.main import main
from benchmark.retraining.train import leave_one_out, train
from benchmark.scores.store import load_all
from benchmark.tasks import finding
from benchmark.tasks.definition import batches, build
from benchmark.tasks.own import OwnTask, Training
from loobench import Adam, Sgd

OWNED = Path(__file__).with_name("owned.py")


class Small(nn.Module):
    """Of five features, three classes."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def numbers(count: int = 30) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 5, generator=torch.Generator().manual_seed(3))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def training(model: Any = Small, **changes: Any) -> Training:
    x, y = numbers()
    usual = Training(model, "cross-entropy", (x[:20], y[:20]), (x[20:], y[20:]), Sgd(0.1), batch=8, epochs=2)
    return replace(usual, **changes)


def own(model: Any = Small, **changes: Any) -> OwnTask:
    return OwnTask("own", training(model, **changes))


def as_a_person_would(net: nn.Module, given: Training, seed: int, without: int, optimizer: torch.optim.Optimizer) -> Tensor:
    """Query losses of a plain loop over the same batches, whose loss leaves the sample out and divides by the whole batch."""
    (x, y), (qx, qy) = given.train, given.query
    for row in batches(len(y), given.batch, given.epochs, stream("batches", seed)):
        batch = row[row >= 0]
        kept = torch.tensor([one for one in batch.tolist() if one != without])
        optimizer.zero_grad()
        (nn.functional.cross_entropy(net(x[kept]), y[kept], reduction="sum") / len(batch)).backward()
        optimizer.step()
    with torch.no_grad():
        return nn.functional.cross_entropy(net(qx), qy, reduction="none")


def test_exact_effects_are_those_of_a_loop_that_a_person_would_write() -> None:
    x, y = numbers()
    start = Small().double()
    given = training(train=(x[:20].double(), y[:20]), query=(x[20:].double(), y[20:]))

    def losses(without: int) -> Tensor:
        net = Small().double()
        net.load_state_dict(start.state_dict())
        return as_a_person_would(net, given, 4, without, torch.optim.SGD(net.parameters(), 0.1))

    found = loobench.exact_effects(
        start, nn.CrossEntropyLoss(), given.train, given.query, optimizer=Sgd(0.1), batch=8, epochs=2, seed=4, leave_out=5
    )

    assert found.samples.tolist() == sorted({*found.samples.tolist()})
    assert found.effect.shape == (1, 5, 10)
    for place, sample in enumerate(found.samples.tolist()):
        assert torch.allclose(found.last[place], losses(sample) - losses(-2), rtol=0, atol=1e-12)
    assert found.noise is not None
    assert found.noise < 1e-10
    assert str(int(found.samples[int(found.last.mean(1).argmax())])) in str(found).split("\n")[3]


def test_tokens_stay_whole_numbers_and_a_function_of_ones_own_is_asked() -> None:
    inputs, targets = data()
    found = loobench.exact_effects(
        Tokens,
        "cross-entropy",
        (inputs[:40], targets[:40]),
        (inputs[40:], targets[40:]),
        optimizer=Sgd(0.5),
        batch=8,
        leave_out=3,
        query_function=confident,
    )

    assert (found.last.abs().amax(1) > 0).all()
    assert found.last.abs().max() < 1  # chances, not losses


def test_a_model_that_is_made_starts_anew_with_each_seed_and_one_that_is_given_does_not(tmp_path: Path) -> None:
    starts = [build(own(made), seed, tmp_path).initial for made in (Small, Small()) for seed in (0, 0, 1)]

    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert torch.equal(starts[3], starts[5])


def test_settings_of_what_makes_a_model_are_part_of_it(tmp_path: Path) -> None:
    narrow, wide = (own(partial(Small, width=width)) for width in (4, 6))

    assert build(wide, 0, tmp_path).model.parameters > build(narrow, 0, tmp_path).model.parameters
    assert narrow.digest() != wide.digest()


CHANGED: dict[str, Callable[[], OwnTask]] = {
    "the data": lambda: own(train=(numbers()[0][:20] + 1, numbers()[1][:20])),
    "the batch": lambda: own(batch=4),
    "the learning rate": lambda: own(optimizer=Sgd(0.2)),
    "clipping": lambda: own(clip=1.0),
    "what is asked": lambda: own(query_function="margin"),
    "the function that is asked": lambda: own(query_function=confident),
    "the loss": lambda: own(loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
    "the start": lambda: own(Small()),
}


@pytest.mark.parametrize("change", CHANGED)
def test_whatever_decides_a_number_is_in_the_digest(change: str) -> None:
    assert own().digest() == own().digest()
    assert CHANGED[change]().digest() != own().digest()


def test_the_digest_of_a_problem_is_the_same_in_another_process(tmp_path: Path, python: Callable[..., Any]) -> None:
    code = f"""
from pathlib import Path
from benchmark.tasks import finding
from benchmark.tasks.definition import build
print(*(build(one, 0, Path()).digest() for one in finding.found({str(OWNED)!r})))
"""
    elsewhere = python(code)

    assert elsewhere.returncode == 0, elsewhere.stderr
    assert elsewhere.stdout.split() == [build(one, 0, tmp_path).digest() for one in finding.found(str(OWNED))]


# ---- what is refused -------------------------------------------------------------------------------------------------
class Changing(Small):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Random(Small):
    """Adds noise."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(1)


class Mixing(Small):
    """Takes the mean of its batch away."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Idle(Small):
    """Has a layer that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(2, 2)


class Cut(Small):
    """Forgets its derivatives."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


X, Y = numbers()
ODD = [torch.zeros(5), torch.zeros(4)]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "batch normalisation": ({"model": nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))}, "use nn.GroupNorm"),
    "dropout": ({"model": nn.Sequential(nn.Dropout(0.1), nn.Linear(5, 3))}, "set p = 0"),
    "dropout in attention": (
        {"model": nn.Sequential(nn.TransformerEncoderLayer(5, 1, 4, 0.1), nn.Linear(5, 3))},
        "dropout = 0",
    ),
    "a changed buffer": ({"model": Changing()}, "changes its buffers"),
    "random numbers": ({"model": Random()}, "other outputs each time"),
    "a mean over the batch": ({"model": Mixing()}, "depends on the other samples of its batch"),
    "a layer that is not used": ({"model": Idle()}, "spare.weight"),
    "no derivatives": ({"model": Cut()}, "no_grad or detach"),
    "nothing to train": ({"model": nn.Identity()}, "no parameters to train"),
    "no module": ({"model": 3}, "must be a torch.nn.Module"),
    "a function that makes none": ({"model": lambda: 3}, "must return a torch.nn.Module"),
    "a loss of the whole batch": ({"loss": lambda f, y: nn.functional.cross_entropy(f, y)}, "reduction='none'"),
    "a loss that mixes samples": ({"loss": lambda f, y: f[:, 0] - y.double().mean()}, "mixes them, the model does not"),
    "an unknown loss": ({"loss": "hinge"}, "hinge"),
    "a loss of torch that spreads targets": (
        {"model": nn.Linear(5, 1), "loss": nn.MSELoss(), "train": (X[:20], X[:20, 0]), "query": (X[20:], X[20:, 0])},
        'give targets of shape (N, 1), or say "squared-error"',
    ),
    "targets in a column": (
        {"model": nn.Linear(5, 1), "loss": "squared-error", "train": (X[:20], X[:20, :1]), "query": (X[20:], X[20:, :1])},
        "takes targets (N,), got (N, 1): squeeze them",
    ),
    "inputs of another width": (
        {"train": (X[:20, :4], Y[:20]), "query": (X[20:, :4], Y[20:])},
        "cannot be called on inputs (4, 4)",
    ),
    "queries of another width": ({"query": (X[20:, :4], Y[20:])}, "prepare both alike"),
    "differing lengths": ({"train": (ODD, [0, 1])}, "(5,) and (4,): pad or cut"),
    "text": ({"train": (["a", "b"], [0, 1])}, "tokenise"),
    "bytes": ({"train": (torch.zeros(20, 5, dtype=torch.uint8), Y[:20])}, "divide them by 255"),
    "infinite inputs": ({"train": (X[:20] / 0, Y[:20])}, "not finite"),
    "fewer targets": ({"train": (X[:20], Y[:19])}, "20 and 19"),
    "no pair": ({"train": X}, "must be (inputs, targets)"),
    "a class too many": ({"train": (X[:20], Y[:20] + 3)}, "the loss cross-entropy cannot take"),
    "no epochs": ({"epochs": 0}, "at least 1"),
    "a horizon after the end": ({"horizons": (1, 3)}, "at most 2"),
    "more samples than there are": ({"leave_out": 21}, "1 to 20"),
    "an unknown kind of query": ({"queries": "all"}, "mean"),
    "an unknown precision": ({"dtype": "float16"}, "float32"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_make_the_answer_wrong_is_refused_with_what_helps(what: str, tmp_path: Path) -> None:
    changes, words = REFUSED[what]
    with pytest.raises(LoobenchError) as refused:
        build(own(**changes), 0, tmp_path)

    assert words in str(refused.value)


def test_a_token_out_of_range_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    inputs, targets = data()
    inputs[33, 2] = 20
    with pytest.raises(LoobenchError, match="cannot be called"):
        build(own(Tokens, train=(inputs[:40], targets[:40]), query=(inputs[40:], targets[40:])), 0, tmp_path)


def test_batch_normalisation_with_fixed_statistics_is_a_constant(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()

    assert build(own(net), 0, tmp_path).model.parameters == 5 * 4 + 4 + 4 + 4 + 4 * 3 + 3


def test_training_that_leaves_the_finite_numbers_is_said_and_nothing_is_kept(tmp_path: Path) -> None:
    real = ((X[:20], X[:20, 0]), (X[20:], X[20:, 0]))
    with pytest.raises(loobench.Diverged, match="lower the rate"):
        loobench.exact_effects(nn.Linear(5, 1), "squared-error", *real, optimizer=Sgd(1e9), batch=8, epochs=20)

    assert not list((tmp_path / "cache").rglob("*.safetensors"))


# ---- data ------------------------------------------------------------------------------------------------------------
def test_the_same_data_in_any_form_is_the_same_task() -> None:
    import datasets

    x, y = X[:20].double(), Y[:20]
    forms = {
        "arrays": (x.numpy(), y.numpy()),
        "lists": (x.tolist(), y.tolist()),
        "a torch Dataset": torch.utils.data.TensorDataset(x, y),
        "a list of pairs": [*zip(x, y.tolist(), strict=True)],
        "a data set": datasets.Dataset.from_dict({"x": x.tolist(), "label": y.tolist()}),
    }

    assert {own(train=form).digest() for form in forms.values()} == {own(train=(x, y)).digest()}


# ---- files -----------------------------------------------------------------------------------------------------------
def test_a_file_of_tasks_is_a_suite_and_its_results_are_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--suite", str(OWNED), "--estimator", "grad-dot", "--seeds", "1"]) == 0
    assert {result.name for result in load_all(Path("my-results"))} == {"own-tokens", "own-confidence"}

    assert main(["run", "--task", f"{OWNED}:own-tokens", "--estimator", "grad-dot"]) == 0
    assert "1 cells computed, 1 were already there" in capsys.readouterr().out
    assert main(["run", "--task", str(OWNED), "--estimator", "grad-dot", "--publish"]) == 2
    assert "never published" in capsys.readouterr().err


def test_an_estimator_in_the_sandbox_is_given_the_module_and_answers_alike() -> None:
    where = [["--results", "inside", "--sandbox"], ["--results", "outside"]]
    for options in where:
        assert main(["run", "--task", f"{OWNED}:own-tokens", "--estimator", "sgd-ie", "--estimator", "grad-dot", *options]) == 0
    inside, outside = ({r.estimator.name: r for r in load_all(Path(folder))} for folder in ("inside", "outside"))

    assert inside["grad-dot"].cells["1"].estimate == outside["grad-dot"].cells["1"].estimate
    assert inside["grad-dot"].cells["1"].status == "ok"


def test_an_export_is_redone_by_a_program_that_does_not_know_us(redone: Callable[[str], int]) -> None:
    assert main(["truth", f"{OWNED}:own-confidence", "--export", "out"]) == 0
    sample = str(int(load_file("out/problem.safetensors")["left_out"][2]))

    assert redone(sample) == 0
    program = Path("out/redo.py")
    program.write_text(program.read_text().replace("/ size).backward", "/ (size + 1)).backward"))
    assert redone(sample) == 1


@pytest.mark.parametrize("query", ["margin", pytest.param("logit", marks=pytest.mark.slow)])
def test_a_program_redoes_what_else_is_asked_of_a_query(query: str, redone: Callable[[str], int]) -> None:
    Path("mine.py").write_text(OWNED.read_text().replace("query_function=confident", f'query_function="{query}"'))
    assert main(["truth", "mine.py:own-confidence", "--export", "out"]) == 0
    sample = str(int(load_file("out/problem.safetensors")["left_out"][2]))

    assert redone(sample) == 0


@pytest.mark.parametrize("loss", ["torch.nn.CrossEntropyLoss(label_smoothing=0.1)", "lambda f, y: f[:, 0]"])
def test_a_loss_whose_source_is_not_beside_the_model_is_not_exported(loss: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(OWNED.read_text().replace('loss="cross-entropy"', f"loss={loss}"))

    assert main(["truth", "mine.py:own-confidence", "--export", "out"]) == 2
    assert "write it as a function at the top of mine.py" in capsys.readouterr().err
    assert not list(Path().glob("out/*.safetensors"))


FILES = {
    "no task": ("x = 1\n", "declares no task"),
    "a bad name": ('import loobench\n@loobench.task("My task")\ndef f(): pass\n', "got 'My task'"),
    "no training": ('import loobench\n@loobench.task("mine")\ndef f(): return 3\n', "must return a loobench.Training, got int"),
    "an error": ('import loobench\n@loobench.task("mine")\ndef f(): return 1 / 0\n', "ZeroDivisionError"),
    "no Python": ("def\n", "SyntaxError"),
    "a suite's name": ('import loobench\n@loobench.task("quick-digits-mlp-sgd")\ndef f(): return 3\n', "rename yours"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_declares_nothing_usable_is_an_error_in_words(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, words = FILES[what]
    Path("odd.py").write_text(text)

    assert main(["truth", "odd.py"]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told


def test_a_file_that_takes_long_is_said_to(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "SLOW", 0.05)
    Path("slow.py").write_text(f"import time\ntime.sleep(0.5)\n{OWNED.read_text()}")
    begun = time.monotonic()
    finding.found("slow.py")

    assert time.monotonic() - begun < 60
    assert "belongs into the function" in capsys.readouterr().err


def test_an_installed_package_offers_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(name="own-tokens", load=lambda: SimpleNamespace(tokens=tokens))
    monkeypatch.setattr(finding, "entry_points", lambda group: [point] if group == "loobench.tasks" else [])

    assert [one.name for one in finding.found("own-tokens")] == ["own-tokens"]
    assert EntryPoint("a", "b", finding.GROUP).group == "loobench.tasks"


def test_a_task_of_one_s_own_is_shown_and_those_of_packages_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show", f"{OWNED}:own-tokens", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["own-tokens"]
    assert (shown["kind"], shown["suite"], shown["model"], shown["results"]) == ("task", "own", "Tokens", {})
    assert shown["digest"] == next(iter(finding.found(f"{OWNED}:own-tokens"))).digest()

    point = EntryPoint("their-task", "their_tasks", finding.GROUP)  # nothing of which is imported to list it
    monkeypatch.setattr(finding, "entry_points", lambda group: [point] if group == finding.GROUP else [])
    assert main(["list", "tasks", "--match", "their-task", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "their-task", "package": "their_tasks"}]


# ---- comparison --------------------------------------------------------------------------------------------------------
def test_a_comparison_scores_estimators_and_says_why_one_does_not_answer() -> None:
    found = loobench.compare(
        Small,
        "cross-entropy",
        (X[:20], Y[:20]),
        (X[20:], Y[20:]),
        optimizer=Adam(0.02),
        batch=8,
        epochs=2,
        estimators=["exact-loo", "grad-dot", "sgd-ie"],
        seeds=1,
    )

    assert found.scores["exact-loo"]["kendall"] == 1
    assert abs(found.scores["grad-dot"]["kendall"] or 0) < 1
    assert "sgd-ie is for sgd, momentum" in str(found)
    assert "exact-loo" in str(found)


# ---- a chain of layers of ours ---------------------------------------------------------------------------------------
CHAINS: dict[str, tuple[Any, bool]] = {
    "layers called in turn": (Small, True),
    "a sequence": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), True),
    "a single layer": (lambda: nn.Linear(5, 3), True),
    "another activation": (lambda: nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3)), False),
    "no bias": (lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)), False),
    "a layer used twice": (lambda: nn.Sequential(*[nn.Linear(5, 5)] * 2, nn.Linear(5, 3)), False),
    "a way around": (lambda: Around(), False),
    "a frozen layer": (lambda: frozen(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))), False),
}


class Around(Small):
    """Adds its inputs to its hidden values."""

    def __init__(self) -> None:
        super().__init__(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)) + x)


def frozen(net: nn.Sequential) -> nn.Module:
    net[0].requires_grad_(False)
    return net


@pytest.mark.parametrize("what", CHAINS)
def test_a_chain_of_layers_of_ours_is_trained_as_a_network_to_the_same_effects(what: str, tmp_path: Path) -> None:
    make, ours = CHAINS[what]
    task = own(make, leave_out=4)
    problem = build(task, 1, tmp_path)
    as_module = replace(problem, model=task.module)

    assert bool(problem.model.layers) == ours
    found, plain = (leave_one_out(train(given)) for given in (problem, as_module))
    assert torch.allclose(found, plain, rtol=0, atol=1e-12)
    assert found.abs().max() > 1e-6
