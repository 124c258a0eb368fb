"""`loobench check` of a task of one's own: rules are kept where they should be, broken in words where something is wrong."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from owned import Tokens, confident, data
from test_own_task import Small, numbers
from torch import Tensor, nn

import loobench
from benchmark.base.errors import LoobenchError
from benchmark.commands import terminal
from benchmark.commands.main import main
from benchmark.core import calculus
from benchmark.retraining import engine
from benchmark.retraining.chunks import FREE
from benchmark.submissions import check_task, scaffold
from benchmark.submissions.check import Finding, broken
from benchmark.tasks import finding
from benchmark.tasks.own import OwnTask, Training
from benchmark.tasks.questions import Subsets
from benchmark.tasks.suites import TASKS
from benchmark.truths import truth
from loobench import Adam, Sgd

OWNED = Path(__file__).with_name("owned.py")
Told = pytest.CaptureFixture[str]


def training(model: Any = Small, **changes: Any) -> Training:
    x, y = numbers()
    usual = Training(model, "cross-entropy", (x[:20], y[:20]), (x[20:], y[20:]), Sgd(0.3), batch=8, epochs=3, leave_out=5)
    return replace(usual, **changes)


def found(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Training]) -> dict[str, Finding]:
    """What the check finds of a training, by rule."""
    point = SimpleNamespace(name="mine", load=lambda: SimpleNamespace(mine=loobench.task("mine")(make)))
    monkeypatch.setattr(finding, "entry_points", lambda group: [point] if group == finding.GROUP else [])
    (findings,) = check_task.check("mine", FREE, terminal.bar).values()
    return {one.rule: one for one in findings}


# ---- what is kept ------------------------------------------------------------------------------------------------------
TOKENS, LABELS = data()
KEPT: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum and weight decay": {"optimizer": Sgd(0.1, momentum=0.9), "weight_decay": 0.1},
    "adam with a clipped gradient": {"optimizer": Adam(0.02), "clip": 0.05, "weight_decay": 0.1},
    "adamw with a falling rate": {"optimizer": Adam(0.05, decay=0.3, schedule="inverse-sqrt")},
    "batches divided by what is left": {"counterfactual": "renormalised", "batch": 1, "optimizer": Sgd(0.1, momentum=0.5)},
    "longer batches divided by what is left": {"counterfactual": "renormalised", "weight_decay": 0.1},
    "the mean of margins": {"queries": "mean", "query_function": "margin"},
    "single precision": {"dtype": "float32"},
    "two horizons": {"horizons": (1, 3)},
    "groups": {"truth": Subsets(0.5, 4, 2)},
    "a loss of torch.nn": {"loss": nn.CrossEntropyLoss(label_smoothing=0.2)},
    "tokens and a function of one's own": {
        "model": Tokens,
        "train": (TOKENS[:40], LABELS[:40]),
        "query": (TOKENS[40:], LABELS[40:]),
        "query_function": confident,
    },
}


@pytest.mark.parametrize("case", KEPT)
def test_a_task_that_can_be_answered_keeps_all_rules(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = found(monkeypatch, lambda: training(**KEPT[case]))
    if case == "a loss of torch.nn":  # which has no source that the sandbox could run
        assert rules.pop("sandbox and export").passed is None
        rules["sandbox and export"] = Finding("sandbox and export", True, "")

    assert {rule: one.passed for rule, one in rules.items()} == dict.fromkeys(("model and data", *check_task.RULES), True)


LOSSES: dict[str, tuple[nn.Module, Any, Any]] = {
    "mean-squared-error": (nn.Linear(5, 4), numbers()[0][:, :4], "mean-squared-error"),
    "squared-error": (nn.Linear(5, 1), numbers()[0][:, 0], "squared-error"),
    "binary-cross-entropy": (nn.Linear(5, 1), (numbers()[0][:, 0] > 0).long(), "binary-cross-entropy"),
    "token-cross-entropy": (
        nn.Sequential(nn.Linear(5, 12), nn.Unflatten(1, (4, 3))),
        torch.tensor([[0, 1, -100, 2], [2, -100, -100, 1]]).repeat(15, 1),
        "token-cross-entropy",
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_of_ours_is_that_of_torch_of_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, y, loss = LOSSES[name]
    x = numbers()[0]
    rules = found(monkeypatch, lambda: training(net, loss=loss, train=(x[:20], y[:20]), query=(x[20:], y[20:])))

    assert rules["plain loop"].passed
    assert "from a loop by torch.optim" in rules["plain loop"].detail


# ---- what is broken ----------------------------------------------------------------------------------------------------
def test_training_that_is_not_that_of_a_plain_loop_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    read = engine.query_losses
    monkeypatch.setattr(engine, "query_losses", lambda runs: read(runs) * (1 + 1e-6))
    rule = found(monkeypatch, training)["plain loop"]

    assert rule.passed is False
    assert "allowed 1e-09" in rule.detail


class Tired(Small):
    """Gives less once it was called often, which no buffer shows."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        return super().forward(x) * (1 if self.calls[0] < 30 else 0.5)


def test_a_model_that_remembers_its_calls_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert broken([*found(monkeypatch, lambda: training(Tired)).values()])


class Branching(Small):
    """Looks at a value, which no mapped run can."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if float(self.last.bias.detach().sum()) > 1e6 else 1.0)


def test_a_model_that_cannot_be_mapped_is_trained_alone_which_breaks_no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = found(monkeypatch, lambda: training(Branching))

    assert rules.pop("side by side").passed is None
    assert all(one.passed for one in rules.values())


def unseeded() -> Training:
    x = torch.randn(30, 5)
    return training(train=(x[:20], numbers()[1][:20]))


def by_the_process() -> Training:
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(torch.initial_seed() % 1000))
    return training(train=(x[:20], numbers()[1][:20]))


BROKEN: dict[str, tuple[Callable[[], Training], str, str]] = {
    "batch normalisation": (
        lambda: training(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))),
        "model and data",
        "use nn.GroupNorm",
    ),
    "data drawn anew": (unseeded, "deterministic", "the function gives other data"),
    "data by the seed of the process": (by_the_process, "deterministic", "the function gives other data"),
    "a start drawn anew": (lambda: training(Small()), "deterministic", "other initial parameters"),
    "a rate of nothing": (lambda: training(optimizer=Sgd(1e-9)), "trains", "hardly moves: raise rate or epochs"),
    "a rate too high": (lambda: training(optimizer=Sgd(1e3)), "trains", "raises it: lower the rate"),
    "a rate far too high": (
        lambda: training(nn.Linear(5, 1), loss="squared-error", **real(), optimizer=Sgd(1e60), epochs=9),
        "trains",
        "lower the rate",
    ),
    "samples that teach nothing": (
        lambda: training(loss=none, query_function="logit"),
        "noise",
        "all have the same effect",
    ),
}


def real() -> dict[str, Any]:
    x = numbers()[0]
    return {"train": (x[:20], x[:20, 0]), "query": (x[20:], x[20:, 0])}


def none(outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG001
    return (outputs - 1).square().sum(1) * 0


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_breaks_its_rule_and_says_what_helps(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, rule, words = BROKEN[case]
    rules = found(monkeypatch, make)

    assert {*rules} == {"model and data", *check_task.RULES}
    assert rules[rule].passed is False
    assert words in rules[rule].detail


def test_effects_that_drown_in_rounding_are_said_to_and_what_lowers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def kinked() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    rough = training(kinked, dtype="float32", optimizer=Adam(0.3), epochs=100)
    rule = found(monkeypatch, lambda: rough)["noise"]
    exact = found(monkeypatch, lambda: training())["noise"]

    assert rule.passed is False
    for words in ("cannot be told from rounding", 'dtype="float64"', "GELU", "lower rate", "Subsets(keep=0.5)"):
        assert words in rule.detail
    assert exact.passed
    assert "can be told from it" in exact.detail


def test_the_noise_is_that_of_the_truth_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = OwnTask("mine", training(dtype="float32"))
    _, exact = truth.answer(task, 0, tmp_path, "cpu", terminal.bar)
    said = found(monkeypatch, lambda: training(dtype="float32"))["noise"].detail

    assert float(said.partition("rounding is ")[2].split()[0]) == pytest.approx(exact.limits["noise"][0], rel=0.06)
    assert said.startswith("of 5 samples left out")


# ---- the sandbox ---------------------------------------------------------------------------------------------------------
WIDTH = 4


def wide() -> nn.Module:
    """Of a width that only this run of the file knows."""
    return Small(WIDTH)


def test_a_model_that_another_process_cannot_build_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Small()
    for given in (training(made), training(lambda: Small()), training(query_function=lambda f, y: f[:, 0] + y)):
        rule = found(monkeypatch, lambda given=given: given)["sandbox and export"]  # type: ignore[misc]
        assert rule.passed is None
        assert "at the top of a file" in rule.detail

    monkeypatch.setitem(globals(), "WIDTH", 6)
    rule = found(monkeypatch, lambda: training(wide))["sandbox and export"]
    assert rule.passed is False
    assert "has other parameters" in rule.detail


# ---- time ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", ["sgd", "single precision", "groups"])
def test_the_runs_that_are_foreseen_are_those_of_the_truth(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = training(**KEPT[case])
    said = found(monkeypatch, lambda: given)["time and memory"].detail
    with calculus.counting() as count:
        run, _ = truth.answer(OwnTask("mine", given), 0, tmp_path, "cpu", terminal.bar)
    trained = count.gradients / int((run.problem.batches >= 0).sum())

    twice = 6 if case == "single precision" else 0  # runs of the noise in float64 take twice the time, and count twice
    assert int(said.removeprefix("truth of a seed: ").split()[0]) == pytest.approx(
        trained + twice, abs=8
    )  # reference runs, warm-up, query gradients


def test_a_truth_that_takes_long_is_told_how_to_be_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_task, "LONG", 1e-3)

    assert "leave_out=10, fewer than 3 epochs" in found(monkeypatch, lambda: training(leave_out=20))["time and memory"].detail
    assert "fewer subsets" in found(monkeypatch, lambda: training(truth=Subsets(0.5, 4, 2)))["time and memory"].detail


def test_the_time_is_about_what_the_truth_takes(tmp_path: Path) -> None:
    given = training(epochs=10, leave_out=None)
    case = check_task.Case(
        task := OwnTask("mine", given), task, truth.reference(task, 0, tmp_path, "cpu"), 0.1, FREE, terminal.bar
    )
    each = case.some.seconds
    began = time.process_time()
    truth.ground_truth(case.run)

    assert (time.process_time() - began) / 21 / 6 < each < (time.process_time() - began) / 21 * 6


# ---- the command -----------------------------------------------------------------------------------------------------------
SOURCES: dict[str, tuple[str, bool]] = {
    "a task": ("import loobench\n@loobench.task('a')\ndef f(): ...\n", True),
    "a task by name": ("from loobench import task\n@task('a')\ndef f(): ...\n", True),
    "a task by another name": ("import loobench as lb\n@lb.task('a')\ndef f(): ...\n", True),
    "a task by another name still": ("from loobench import task as t\n@t('a', seeds=3)\ndef f(): ...\n", True),
    "what forgot to declare": ("import loobench\ndef f(): return loobench.Training\n", True),
    "an estimator": ("from benchmark.estimating import estimator\n@estimator('a', paper='p')\ndef f(run): ...\n", False),
    "an estimator by its module": (
        "import benchmark.estimating\n@benchmark.estimating.estimator('a')\ndef f(run): ...\n",
        False,
    ),
    "neither": ("def task(x): return x\n@task('a')\ndef f(): ...\n", False),
    "no Python": ("def\n", False),
}


@pytest.mark.parametrize("what", SOURCES)
def test_a_file_is_checked_as_what_it_declares_and_not_run_to_find_out(what: str) -> None:
    text, is_task = SOURCES[what]
    Path("mine.py").write_text(f"{text}raise SystemExit('was run')\n" if "Python" not in what else text)

    assert check_task.is_task("mine.py") is is_task
    assert check_task.is_task("mine.py:a") is is_task


def test_a_file_that_declares_both_is_bad_input(capsys: Told) -> None:
    Path("mine.py").write_text(SOURCES["a task"][0] + SOURCES["an estimator"][0])

    assert main(["check", "mine.py"]) == 2
    assert "put each into its own file" in capsys.readouterr().err


def test_names_of_estimators_are_no_tasks() -> None:
    assert not check_task.is_task("sgd-ie")
    assert not check_task.is_task("no-such-name")


def test_the_command_prints_all_rules_of_each_task_and_what_comes_next(capsys: Told) -> None:
    assert main(["check", str(OWNED), "--threads", "1"]) == 0

    told = capsys.readouterr().out
    assert told.count("\u2713 kept") == 2 * (1 + len(check_task.RULES))
    assert all(name in told for name in ("own-tokens", "own-confidence", *check_task.RULES))
    assert f"next: loobench run --suite {OWNED}" in told
    assert max(map(len, told.splitlines()[:-1])) <= terminal.WIDTH


def test_the_exit_code_is_1_where_a_rule_is_broken_and_2_where_nothing_can_be_examined(capsys: Told) -> None:
    Path("mine.py").write_text(OWNED.read_text().replace("Adam(0.01)", "Adam(1e-12)"))
    assert main(["check", "mine.py:own-tokens"]) == 1
    told = capsys.readouterr()
    assert "\u2717 broken" in told.out
    assert "docs/own.md says what helps" in told.err

    Path("mine.py").write_text("import loobench\n@loobench.task('mine')\ndef f(): return 1 / 0\n")
    assert main(["check", "mine.py"]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert main(["check", "nowhere.py"]) == 2


def test_a_task_is_not_submitted(capsys: Told) -> None:
    assert main(["submit", str(OWNED), "--by", "Ada"]) == 2
    assert "only estimators are submitted" in capsys.readouterr().err


# ---- a new task ------------------------------------------------------------------------------------------------------------
def test_a_new_task_runs_as_it_stands_and_keeps_all_rules(tmp_path: Path, capsys: Told) -> None:
    assert main(["new", "--task", "my-task"]) == 0
    told = capsys.readouterr().out
    assert [at.name for at in tmp_path.iterdir()] == ["my_task.py"]
    for command in ("check my_task.py", "truth my_task.py", "run --task my_task.py --estimator grad-dot"):
        assert f"    loobench {command}\n" in told

    assert main(["check", "my_task.py"]) == 0
    assert "does not apply" not in capsys.readouterr().out
    began = time.process_time()
    assert main(["truth", "my_task.py"]) == 0
    assert time.process_time() - began < 60
    assert "my-task, seed 0: leave-one-out, 36 of 36 left out" in capsys.readouterr().out


def test_the_model_of_a_new_task_looks_at_no_padding(tmp_path: Path) -> None:
    module = finding.loaded(scaffold.write_task("my-task", tmp_path))
    net = module.Encoder(9).double()
    short = torch.tensor([[3, 4, 5, 0, 0, 0, 0, 0]])
    outputs = net(short)
    net.word.weight.data[0] += 1

    assert torch.allclose(net(short), outputs, rtol=0, atol=1e-12)
    net.place.data[0] += 1
    assert not torch.allclose(net(short), outputs)
    assert all(len(module.tokens(text, module.words())) == module.LENGTH for text, _ in module.sentences())
    assert max(len(text.split()) for text, _ in module.sentences()) <= module.LENGTH


@pytest.mark.parametrize("name", ["quick-digits-mlp-sgd", "torch", "My-task", "1st", "loobench"])
def test_a_name_that_is_taken_or_no_module_s_is_refused(name: str, tmp_path: Path) -> None:
    assert name not in TASKS or name == "quick-digits-mlp-sgd"
    with pytest.raises(LoobenchError):
        scaffold.write_task(name, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_task_that_is_there_is_left_as_it_is(tmp_path: Path, capsys: Told) -> None:
    (tmp_path / "mine.py").write_text("precious")

    assert main(["new", "--task", "mine"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "mine.py").read_text() == "precious"
