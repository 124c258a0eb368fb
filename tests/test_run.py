"""The whole chain, as a person runs it: done once, resumed, interrupted, fed with nonsense."""

import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import carried_out, main, problem, walked
from test_estimators import BROKEN, GOOD, declare

from benchmark.base import machine
from benchmark.base.errors import Diverged, LoobenchError
from benchmark.base.files import read_tensors, write_tensors
from benchmark.base.streams import stream
from benchmark.core.optimizers import Sgd
from benchmark.core.registry import registered
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.chunks import Means
from benchmark.retraining.train import train
from benchmark.running import cell as cells
from benchmark.running import evaluate, scoring
from benchmark.scores import metrics, results, store
from benchmark.scores.results import Bounds
from benchmark.scores.store import Store
from benchmark.tasks import definition, suites
from benchmark.truths import truth
from benchmark.truths.limits import Curve

TASK = "quick-breast-cancer-logistic-sgd"
SMALL = ["run", "--task", TASK, "--seeds", "2", "--estimator", "grad-dot", "--estimator", "sgd-ie"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs it leaves what `SMALL` made."""
    return tmp_path_factory.mktemp("kept") / "small"


@pytest.fixture
def small(kept: Path, tmp_path: Path) -> None:
    """`SMALL` was run in the folder of the test."""
    if kept.exists():
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
        return
    assert main(SMALL) == 0
    shutil.copytree(tmp_path, kept)


def load(name: str, task: str = TASK) -> results.Result:
    return store.load(Path("my-results") / task / f"{name}.json")


def scores(name: str) -> dict[str, object]:
    return {seed: cell.scores for seed, cell in load(name).cells.items()}


def test_a_run_writes_results_whose_scores_follow_from_what_is_in_the_cache(tmp_path: Path) -> None:
    assert main(SMALL) == 0
    found = load("sgd-ie")

    assert list(found.cells) == ["0", "1"]
    for seed, cell in found.cells.items():
        estimate = scoring.kept(cell.estimate, tmp_path / "cache")
        exact = truth.kept(found.task_digest, int(seed), tmp_path / "cache", "cpu")
        assert estimate is not None
        assert exact
        assert exact.digest() == cell.truth
        exactly = metrics.scores(estimate, exact.effect, units=True)
        assert cell.scores == {name: pytest.approx(curve, rel=5e-6) for name, curve in exactly.items()}
        assert cell.by_query == [cell.scores["kendall"][-1]]
        true = store.load_limits(Path("my-results") / f"{TASK}.json").seeds[seed].points
        units = exact.effect[-1].std(correction=0).item()
        assert {round(value * units, 4) for value in true} <= {round(value, 4) for value in exact.effect[-1].flatten().tolist()}
        assert len(cell.points) == len(true) == scoring.POINTS
        assert cell.memory is None or 0 <= cell.memory < 2**32
        assert cell.relative_cost == pytest.approx(cell.seconds / cell.exact_seconds, rel=1e-3)
        assert cell.exact_gradients == 10 * 100 * 101  # and the run with every sample
        assert cell.problem == definition.build(suites.task(TASK), int(seed), tmp_path / "cache").digest()[:16]
    facts = found.provenance[found.cells["0"].provenance]
    assert facts["threads"] == 1
    assert facts["command"].startswith(f"loobench run --task {TASK}")
    assert str(tmp_path) not in (Path("my-results") / TASK / "sgd-ie.json").read_text()


def test_a_second_run_computes_nothing_and_a_lost_estimate_is_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(SMALL) == 0
    assert "4 cells computed, 0 were already there" in capsys.readouterr().out
    before = scores("grad-dot")
    assert main(SMALL) == 0
    assert "0 cells computed, 4 were already there" in capsys.readouterr().out

    scoring.estimate_path(load("grad-dot").cells["1"].estimate, tmp_path / "cache").unlink()
    assert main(SMALL) == 0
    assert "1 cells computed, 3 were already there" in capsys.readouterr().out
    assert scores("grad-dot") == before


def test_a_fresh_cache_has_every_cell_computed_also_where_two_tasks_have_one_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks_of_one_start = ["--task", "quick-breast-cancer-mlp-sgd", "--task", "quick-breast-cancer-mlp-adam"]
    command = ["run", *tasks_of_one_start, "--seeds", "1", "--estimator", "chance"]
    assert main(command) == 0
    first, second = (load("chance", name).cells["0"].estimate for name in tasks_of_one_start[1::2])
    assert first == second  # chance draws from the initial parameters, which the two tasks share
    assert main([*command, "--cache", str(tmp_path / "other")]) == 0

    assert "2 cells computed, 0 were already there" in capsys.readouterr().out.splitlines()[-1]


def moved(values: dict[str, Curve], by: float) -> dict[str, Curve]:
    """Limits whose ceiling is moved by a share of it, and whose noise is another's."""
    changes = {"ceiling": 1 + by, "noise": 3.0}
    return values | {name: [factor * (value or 0.0) for value in values[name]] for name, factor in changes.items()}


STANDING: dict[str, Callable[[dict[str, Curve]], dict[str, Curve]]] = {
    "the same to the last digit": lambda values: moved(values, 9e-7),
    "others": lambda values: moved(values, 1e-3),
    "more of them": lambda values: values | {"more": [1.0]},
}


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("what", STANDING)
def test_limits_that_stand_give_way_only_to_others_and_never_where_they_are_published(
    what: str, published: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--seeds", "1"]) == 0
    at = Path("my-results") / f"{TASK}.json"
    usual = (made := store.load_limits(at)).seeds["0"]
    standing = replace(usual, truth="of another machine", values=STANDING[what](usual.values))
    Store(at.parent).keep(made.with_seed(0, standing))
    if published:
        (at.parent / "manifest.json").write_text('{"format": 1, "results": {}, "limits": {}}')
    capsys.readouterr()

    into = ["--publish", "--results", str(at.parent)] if published else []
    assert main([*SMALL, "--seeds", "1", "--estimator", "loss", *into]) == 0
    said, same = capsys.readouterr().err, what == "the same to the last digit"
    assert store.load_limits(at).seeds["0"] == (standing if same or published else usual)
    assert ("differ by more than rounding" in said) == (not same)
    assert ("move my-results" in said) == (published and not same)


def test_limits_agree_within_one_of_their_last_digit_and_only_with_the_same_figures() -> None:
    usual = Bounds(
        "t", {"ceiling": [0.912345, None]}, {"random": {"kendall": 1.23456e6, "self_auroc": None}}, [1.04, 0.0, -2.31]
    )
    others = {
        "bits": replace(usual, truth="u"),
        "last digits": replace(usual, values={"ceiling": [0.912346, None]}, points=[1.05, 1e-9, -2.32]),
        "ceiling": replace(usual, values={"ceiling": [0.912347, None]}),
        "gap": replace(usual, values={"ceiling": [0.912345, 0.5]}),
        "name": replace(usual, values={"noise": [0.912345, None]}),
        "horizons": replace(usual, values={"ceiling": [0.912345]}),
        "reference": replace(usual, references={"random": {"kendall": 1.23458e6, "self_auroc": None}}),
        "points": replace(usual, points=[1.04, 0.0, -2.33]),
        "no points": replace(usual, points=[]),
        "fewer points": replace(usual, points=[1.04]),
    }

    alike = [what for what, other in others.items() if usual.agrees(other) and other.agrees(usual)]

    assert alike == ["bits", "last digits", "no points"]


@pytest.mark.usefixtures("small")
def test_more_seeds_are_added_to_those_that_are_there() -> None:
    before = scores("sgd-ie")
    assert main([*SMALL[:3], "--seeds", "1-2", "--estimator", "sgd-ie"]) == 0

    assert list(load("sgd-ie").cells) == ["0", "1", "2"]
    assert {seed: scores("sgd-ie")[seed] for seed in before} == before


def test_results_of_a_changed_estimator_start_afresh_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = declare(tmp_path, GOOD)
    command = ["run", "--task", TASK, "--estimator", str(at), "--seeds"]
    assert main([*command, "2"]) == 0
    assert "starts afresh" not in capsys.readouterr().err
    declare(tmp_path, GOOD.replace("2.0", "3.0"))
    assert main([*command, "1"]) == 0

    assert "1 results of other versions start afresh" in capsys.readouterr().err
    assert list(load("twice").cells) == ["0"]
    (aside,) = (tmp_path / "cache" / "superseded").rglob("twice-*.json")
    assert list(json.loads(aside.read_text())["cells"]) == ["0", "1"]


def test_a_failure_does_not_replace_a_good_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fickle = GOOD.replace("return", "assert not __import__('os').path.exists('fail'), 'not today'; return")
    command = ["run", "--task", TASK, "--estimator", str(declare(tmp_path, fickle)), "--seeds", "1", "--no-sandbox"]
    assert main(command) == 0
    before = load("twice")
    (tmp_path / "fail").touch()
    assert main([*command, "--cache", str(tmp_path / "other")]) == 1

    assert "not today" in capsys.readouterr().err
    assert load("twice") == before


def test_a_truth_of_another_trajectory_problem_machine_or_protocol_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, task = tmp_path / "cache", suites.task(TASK)
    reference = truth.reference(task, 0, cache, "cpu")
    first = truth.cached_truth(task, 0, reference, cache, "cpu")
    assert truth.cached_truth(task, 0, reference, cache, "cpu").seconds == first.seconds  # taken from the cache

    nudged = replace(reference, states=reference.states + 1e-12)
    assert truth.cached_truth(task, 0, nudged, cache, "cpu").seconds != first.seconds
    truth.cached_truth(task, 0, reference, cache, "cpu")
    other = replace(reference, problem=replace(reference.problem, query=reference.problem.query[:50]))
    assert truth.cached_truth(task, 0, other, cache, "cpu").digest() != first.digest()
    second = truth.cached_truth(task, 0, reference, cache, "cpu")
    monkeypatch.setattr(machine, "timed_on", lambda device: "another machine")
    assert truth.cached_truth(task, 0, reference, cache, "cpu").seconds != second.seconds
    assert truth.kept(task.digest(), 0, cache, "cpu")
    monkeypatch.setattr(definition, "PROTOCOL", "9.9")
    assert truth.kept(task.digest(), 0, cache, "cpu") is None


def test_a_truth_that_other_sources_computed_is_taken_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, task = tmp_path / "cache", suites.task(TASK)
    reference = truth.reference(task, 0, cache, "cpu")
    first = truth.cached_truth(task, 0, reference, cache, "cpu")
    truth.cached_truth(task, 0, reference, cache, "cpu")
    assert "other sources" not in capsys.readouterr().err

    monkeypatch.setattr(machine, "harness", lambda: "0" * 64)
    assert truth.cached_truth(task, 0, reference, cache, "cpu").seconds == first.seconds
    truth.cached_truth(task, 0, reference, cache, "cpu")
    assert capsys.readouterr().err.count("a truth kept by other sources of this protocol") == 1


def test_a_run_that_diverges_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wild = replace(suites.task(TASK), optimizer=Sgd(1e200), name="quick-wild")
    with pytest.raises(LoobenchError, match="training of quick-wild, seed 0, diverged"):
        truth.reference(wild, 0, tmp_path, "cpu")

    reference = truth.reference(suites.task(TASK), 0, tmp_path, "cpu")
    monkeypatch.setattr(truth, "against_all", lambda *_, **__: torch.full((3, 100, 1), float("nan")))
    with pytest.raises(LoobenchError, match="retraining diverged without 100 of 100 samples"):
        truth.ground_truth(reference)


def test_a_seed_that_diverges_fails_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = truth.reference

    def diverging(task: definition.Task, seed: int, cache: Path, device: str, _means: Means) -> Trajectory:
        if seed == 0:
            raise Diverged("too fast")
        return usual(task, seed, cache, device)

    monkeypatch.setattr(truth, "reference", diverging)
    assert main(SMALL) == 1
    assert f"failed: {TASK} seed 0: too fast" in capsys.readouterr().err
    assert list(load("sgd-ie").cells) == ["1"]


@pytest.mark.usefixtures("small")
def test_a_run_over_done_cells_brings_their_scores_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    right = load("sgd-ie")
    wrong = replace(right.cells["0"], scores={name: [0.0] * 3 for name in right.cells["0"].scores}, by_query=[0.0])
    Store(Path("my-results")).keep(replace(right, cells={**right.cells, "0": wrong}))
    assert main(SMALL) == 0

    assert "0 cells computed" in capsys.readouterr().out.splitlines()[-1]
    assert load("sgd-ie") == right


def test_the_work_is_done_on_one_thread_and_the_setting_is_put_back() -> None:
    torch.set_num_threads(2)
    try:
        with machine.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_truth_is_the_same_bit_for_bit_from_run_to_run(tmp_path: Path) -> None:
    digests = []
    for folder in ("a", "b"):
        with machine.one_thread():
            reference = truth.reference(suites.task(TASK), 0, tmp_path / folder, "cpu")
            digests.append(truth.cached_truth(suites.task(TASK), 0, reference, tmp_path / folder, "cpu").digest())
    assert digests[0] == digests[1]


@pytest.mark.usefixtures("small")
def test_a_damaged_truth_is_computed_again_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = scores("sgd-ie")
    for at in (tmp_path / "cache" / "truth").iterdir():
        tensors, facts = read_tensors(at)
        write_tensors(at, {"effect": tensors["effect"] * 1.001}, facts)
    assert main([*SMALL, "--estimator", "loss"]) == 0

    assert "a kept truth is damaged" in capsys.readouterr().err
    assert load("loss").cells["0"].truth == load("sgd-ie").cells["0"].truth
    assert scores("sgd-ie") == before


def test_self_influence_is_the_effect_of_each_sample_on_its_own_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(query_kind="mean", query=5)
    given = replace(given, horizons=(given.steps,))
    question = cells.Question(train(given), 4, everyone=False, gradients=10**9)
    monkeypatch.setattr(cells, "SELF", 5)
    estimator = registered()["exact-loo"]

    found = cells.self_influence(question, estimator, evaluate.estimate(estimator, question.run), "cpu")

    numbers = sorted(stream("self-influence", 4).permutation(12)[:5].tolist())
    models = [walked(given, torch.ones(12))[0], *(walked(given, torch.arange(12) != i)[0] for i in numbers)]
    losses = torch.stack([given.model.losses(theta, *vars(given.train[numbers]).values()) for theta in models])
    assert found is not None
    assert found[0].tolist() == numbers
    assert torch.allclose(found[1], (losses[1:] - losses[0]).diagonal(), rtol=1e-9, atol=1e-14)


def test_float32_has_its_own_task_and_row() -> None:
    assert main([*SMALL[:3], "--seeds", "1", "--estimator", "sgd-ie", "--dtype", "float32"]) == 0

    found = load("sgd-ie", f"{TASK}-float32")
    assert found.task["dtype"] == "float32"
    assert found.cells["0"].scores["kendall"][-1] > 0.9


@pytest.mark.usefixtures("small")
def test_score_recomputes_what_the_cache_has_and_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = load("sgd-ie")
    wrong = replace(right.cells["0"], scores={name: [0.0] * 3 for name in right.cells["0"].scores}, by_query=[0.0])
    Store(Path("my-results")).keep(replace(right, cells={**right.cells, "0": wrong}))
    assert main(["score"]) == 0
    assert scored(capsys)[0] == [
        f"{TASK} grad-dot: seed 0, 1 computed anew, scores as before",
        f"{TASK} sgd-ie: seed 0, 1 computed anew, seed 0 changed",
    ]
    assert load("sgd-ie") == right

    scoring.estimate_path(right.cells["1"].estimate, tmp_path / "cache").unlink()
    assert main(["score", "--estimator", "sgd-ie"]) == 1
    assert scored(capsys) == (
        [f"{TASK} sgd-ie: seed 0 computed anew, scores as before"],
        ["  seed 1: not computed anew, left as before: no estimate in the cache"],
    )
    assert load("sgd-ie") == right


def scored(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    """The lines of a `score`: what was done, and what was not."""
    told = capsys.readouterr()
    return [line for line in told.out.splitlines() if line.startswith(TASK)], told.err.splitlines()


@pytest.mark.usefixtures("small")
def test_score_that_recomputes_nothing_says_so_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = load("sgd-ie")
    crashed = replace(right.cells["0"], status="crashed", scores={}, by_query=[], points=[], message="boom")
    others = {"other": replace(right.cells["1"], truth="1" * 64), "crashed": crashed}
    for at in (tmp_path / "cache" / "truth").glob("*.safetensors"):
        at.rename(at.with_suffix(".away"))
    capsys.readouterr()
    assert main(["score", "--estimator", "sgd-ie", "--cache", str(tmp_path / "elsewhere")]) == 1
    assert scored(capsys) == (
        [f"{TASK} sgd-ie: nothing computed anew"],
        ["  seed 0, 1: not computed anew, left as before: no estimate and no truth in the cache"],
    )
    assert main(["score", "--estimator", "sgd-ie"]) == 1
    assert scored(capsys)[1] == ["  seed 0, 1: not computed anew, left as before: no truth in the cache"]
    for at in (tmp_path / "cache" / "truth").glob("*.away"):
        at.rename(at.with_suffix(".safetensors"))
    Store(Path("my-results")).keep(replace(right, cells={"0": others["crashed"], "1": others["other"]}))
    assert main(["score", "--estimator", "sgd-ie"]) == 1
    assert scored(capsys) == (
        [f"{TASK} sgd-ie: nothing computed anew; seed 0 crashed, without scores"],
        ["  seed 1: not computed anew, left as before: another truth in the cache than the one it was scored against"],
    )
    Store(Path("my-results")).keep(replace(right, cells={"0": others["crashed"]}))
    assert main(["score", "--estimator", "sgd-ie"]) == 0
    assert scored(capsys) == ([f"{TASK} sgd-ie: nothing computed anew; seed 0 crashed, without scores"], [])


@pytest.mark.usefixtures("small")
def test_score_says_that_scores_of_uses_stay(capsys: pytest.CaptureFixture[str]) -> None:
    right = load("sgd-ie")
    used = {seed: replace(cell, scores={**cell.scores, "lowest_auc": [0.5] * 3}) for seed, cell in right.cells.items()}
    Store(Path("my-results")).keep(replace(right, cells=used))
    capsys.readouterr()
    assert main(["score", "--estimator", "sgd-ie"]) == 0
    line = f"{TASK} sgd-ie: seed 0, 1 computed anew, scores as before; scores of uses stay, which take training"
    assert scored(capsys) == ([line], [])
    assert load("sgd-ie").cells == used


def test_a_broken_estimator_is_shown_as_such_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sized(line: str) -> str:  # for 100 samples and one query
        return line.replace("12", "100").replace("[:, :3]", "[:, :1]").replace("100, 3)", "100, 1)")

    bodies = "".join(
        f'@estimator("bad-{i}", paper="none")\ndef bad_{i}(run):\n    {sized(line)}\n'
        for i, (line, _) in enumerate(BROKEN.values())
    )
    at = declare(tmp_path, GOOD + bodies)
    assert main(["run", "--task", TASK, "--seeds", "1", "--estimator", str(at), "--estimator", "grad-dot"]) == 1

    printed = capsys.readouterr()
    for i, (kind, (line, _)) in enumerate(BROKEN.items()):
        cell = load(f"bad-{i}").cells["0"]
        assert cell.status == ("forbidden-access" if "open(" in line else kind.split()[0]), cell.message
        assert f"failed: {TASK} seed 0: {cell.status}: bad-{i}" in printed.err
    assert load("twice").cells["0"].scores["kendall"] == load("grad-dot").cells["0"].scores["kendall"]
    assert "mutated-inputs" in printed.out
    assert main(["report"]) == 0
    assert "out-of-memory" in Path("my-results/leaderboard.md").read_text()


def test_an_interrupt_keeps_what_is_done_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = declare(tmp_path, GOOD.replace("twice", "slow").replace("return", "import time; time.sleep(60); return"))
    command = ["run", "--task", TASK, "--estimator", "grad-dot", "--estimator", str(at)]
    over = threading.Event()

    def interrupt() -> None:
        while not list(Path("my-results").glob("*/grad-dot.json")) and not over.is_set():
            time.sleep(0.1)
        if not over.wait(2):  # until it is in the slow one: an interrupt between two bytecodes of a finaliser would be lost
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    (other := threading.Thread(target=interrupt)).start()
    began = time.monotonic()
    try:
        code = main(command)
    finally:
        over.set()
        other.join()
    errors = capsys.readouterr().err

    assert code == 130, errors
    assert time.monotonic() - began < 40
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert load("grad-dot").cells
    at.write_text(at.read_text().replace("sleep(60)", "sleep(0)"))
    assert main(command) == 0
    assert list(load("slow").cells) == ["0", "1"]


# ---- nonsense ------------------------------------------------------------------------------------------------------
NONSENSE = {
    "unknown task 'quick-breast-cancer-logistic': did you mean": ["run", "--task", "quick-breast-cancer-logistic"],
    "unknown suite 'hara': did you mean hara2019": ["run", "--suite", "hara"],
    "unknown suite 'xyzzy': known: acc2025, adaptive, cleansing": ["run", "--suite", "xyzzy"],
    "unknown estimator 'sgd-i': did you mean sgd-ie": ["run", "--estimator", "sgd-i"],
    "unknown data set 'adlut': did you mean adult": ["prepare", "adlut"],
    "unknown device 'gpu'": ["run", "--device", "gpu"],
    "unknown dtype 'bfloat16'": ["run", "--dtype", "bfloat16"],
    "--seeds takes a number N or a range A-B, got 'two'": ["run", "--seeds", "two"],
    "--seeds takes 1 to 100 seeds, numbered from 0, got '0'": ["run", "--seeds", "0"],
    "--seeds takes 1 to 100 seeds, numbered from 0, got '5-3'": ["run", "--seeds", "5-3"],
    "--seeds takes 1 to 100 seeds, numbered from 0, got '101'": ["run", "--seeds", "101"],
    "--seeds takes 1 to 100 seeds, numbered from 0, got '99-100'": ["run", "--seeds", "99-100"],
    "--seeds takes a number N or a range A-B, got '²'": ["run", "--seeds", "²"],
    "nothing to prepare": ["prepare"],
    "cannot read nowhere.py": ["run", "--estimator", "nowhere.py"],
    "unknown task 'quick'": ["truth", "quick"],
    "no result in my-results has that suite, task and estimator": ["score", "--estimator", "nosuch"],
    "--seed must be 0 to 99": ["truth", TASK, "--seed", "-1"],
}


@pytest.mark.parametrize("message", NONSENSE)
def test_nonsense_is_an_error_of_one_line(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(NONSENSE[message]) == 2

    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) == 1
    assert not Path("my-results").exists()


def test_no_gpu_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert main(["run", "--device", "cuda"]) == 2
    assert "torch sees no GPU here" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--cache", "--results"])
def test_a_folder_that_cannot_be_written_is_an_error_before_any_work(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")

    assert main([*SMALL, option, str(tmp_path / "file" / "folder")]) == 2
    assert "error: cannot write" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("damage", ["cut", "edited"])
@pytest.mark.usefixtures("small")
def test_a_damaged_result_stops_a_run_before_any_work_and_is_not_touched(
    damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Path("my-results") / TASK / "sgd-ie.json"
    content = at.read_text()
    at.write_text(content[: len(content) // 2] if damage == "cut" else content.replace('"status": "ok"', '"status": "crashed"'))
    broken = at.read_text()
    capsys.readouterr()

    for command in (SMALL, ["report"], ["score"]):
        assert main(command) == 2
        assert "sgd-ie.json" in capsys.readouterr().err
    assert at.read_text() == broken


def test_python_m_benchmark_is_the_command(loobench: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert "training-data influence" in loobench("--help").stdout.lower()
    assert loobench("--version").stdout.startswith("loobench ")
    assert loobench("dance").returncode == 2
    for what, expected in {
        "suites": "hara2019",
        "estimators": "exact-loo",
        "metrics": "tau-b",
        "tasks": "quick-digits-mlp-adam",
    }.items():
        assert expected in loobench("list", what).stdout


# ---- the real thing ------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_published_task_on_real_data_end_to_end(hub: str, loobench: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Adult, logistic: Hara et al. report a Kendall tau of .93 (standard deviation .02) for SGD-IE."""
    task = "hara2019-adult-logistic"
    done = loobench(
        "run", "--task", task, "--seeds", "2", "--estimator", "sgd-ie", "--estimator", "acc-sgd-ie-exact", HF_ENDPOINT=hub
    )
    assert done.returncode == 0, done.stderr

    taus = {
        name: [cell.scores["kendall"][-1] for cell in load(name, task).cells.values()]
        for name in ("sgd-ie", "acc-sgd-ie-exact")
    }
    assert sum(taus["sgd-ie"]) / 2 == pytest.approx(0.93, abs=0.04)
    assert min(taus["acc-sgd-ie-exact"]) > max(taus["sgd-ie"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.usefixtures("lockable")
def test_a_gpu_gives_the_numbers_of_the_cpu() -> None:
    names = ("grad-dot", "sgd-ie", "acc-sgd-ie-exact")
    for device in ("cuda", "cpu"):
        carried_out(suites.task(TASK), names, device, (0, 1))
    for name in names:
        on_gpu, on_cpu = load(name, f"{TASK}-cuda"), load(name)
        for seed, cell in on_cpu.cells.items():
            assert on_gpu.cells[seed].scores["pearson"] == pytest.approx(cell.scores["pearson"], abs=1e-9)
