"""`loobench tune`, names of libraries' methods, and libraries that are not there."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import MODELS, problem

from benchmark.base.errors import LoobenchError
from benchmark.commands.main import main
from benchmark.core import declaration
from benchmark.core.declaration import importable
from benchmark.core.registry import load, registered, resolve
from benchmark.retraining.train import train
from benchmark.running.evaluate import Failure, estimate
from benchmark.scores import results, store
from benchmark.studies.tune import lines, tau, trials
from benchmark.tasks.suites import SUITES, TASKS
from benchmark.truths.truth import answer

Loobench = Callable[..., subprocess.CompletedProcess[str]]
SUBMISSION = """
from benchmark.estimating import estimator

@estimator("mine/way", paper="none", library="{library}", factor=1.0)
def way(run, *, factor):
    import {library}
    return factor * run.problem.gradients(run.final, run.problem.train) @ run.query_gradients().T
"""


class Silent:
    """A progress bar that shows nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def update(self, _: int) -> None:
        pass

    def close(self) -> None:
        pass


# ---- tuning --------------------------------------------------------------------------------------------------------
def test_a_trial_is_the_mean_tau_on_each_tuning_task_with_that_value(tmp_path: Path) -> None:
    variant = registered()["if-direct"]
    (found,) = trials(variant, "damping", [0.3], (0, 1), tmp_path, Silent)

    assert list(found.kendall) == [task.name for task in SUITES["tuning"].tasks]
    changed = declaration.Estimator("if-direct", variant.function, {**variant.settings, "damping": 0.3}, "none", "none")
    name = "tuning-wine-mlp-sgd"
    both = [tau(changed, *answer(TASKS[name], seed, tmp_path, "cpu", Silent)) for seed in (0, 1)]
    assert found.kendall[name] == pytest.approx(sum(both) / 2, abs=1e-12)
    assert found.mean == pytest.approx(sum(found.kendall.values()) / 3, abs=1e-12)
    assert lines([found], 0.3)[0][0] == "0.3 *"


def test_a_value_that_fails_is_shown_as_its_failure(tmp_path: Path) -> None:
    good, bad = trials(registered()["if-direct"], "damping", [0.1, -1.0], (0,), tmp_path, Silent)

    assert good.failure == ""
    assert bad.failure == "crashed"
    assert lines([bad], None)[0][1:] == ["crashed"] * 4


def test_tuning_tasks_that_an_estimator_does_not_support_are_left_out(tmp_path: Path) -> None:
    (found,) = trials(registered()["less"], "checkpoints", [4], (0,), tmp_path, Silent)

    assert list(found.kendall) == ["tuning-wine-mlp-adam"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["if-direct", "dampening", "1"], "unknown setting of if-direct 'dampening': did you mean damping"),
        (["if-drect", "damping", "1"], "unknown estimator 'if-drect': did you mean if-direct"),
        (["chance", "damping", "1"], "unknown setting of chance 'damping'"),
        (["if-direct", "damping", "1", "--seeds", "x"], "--seeds takes a number N"),
    ],
)
def test_bad_input_to_tune_is_a_clear_error(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_command_prints_a_row_for_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "if-direct", "damping", "0.01", "0.1", "--seeds", "1"]) == 0
    shown = capsys.readouterr().out.splitlines()

    assert "mean Kendall tau over 1 seed" in shown[0]
    assert [row.split()[0] for row in shown[-2:]] == ["0.01", "0.1"]


def test_a_tuning_task_is_not_run_for_scores(loobench: Loobench) -> None:
    for arguments in (["--suite", "tuning"], ["--task", "tuning-wine-mlp-sgd"]):
        done = loobench("run", *arguments)
        assert done.returncode == 2
        assert "never scored; use `loobench tune`" in done.stderr


# ---- names and libraries --------------------------------------------------------------------------------------------
def test_a_librarys_method_is_scored_under_its_name_in_a_file_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (at := tmp_path / "mine.py").write_text(SUBMISSION.format(library="ot"))
    command = ["run", "--task", "quick-breast-cancer-logistic-sgd", "--seeds", "1", "--estimator", str(at)]

    assert main(command) == 0
    assert "mine/way" in capsys.readouterr().out
    written = tmp_path / "my-results" / "quick-breast-cancer-logistic-sgd" / "mine--way.json"
    assert store.load(written).estimator.name == "mine/way"
    assert store.load_all(tmp_path / "my-results")
    assert main(command) == 0
    assert "0 cells computed, 1 were already there" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a//b", "/a", "a/", "a/b/c", "../a", "a/../b", "a--b"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(LoobenchError, match="after one / if it is of a library"):
        declaration.estimator(name, paper="none")


def test_no_two_estimators_share_a_file() -> None:
    assert len({results.file_name(name) for name in registered()}) == len(registered())


def test_a_library_that_is_not_installed_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("dattri", "ot") else spec(name))
    message = "dattri/if-cg needs the library dattri, which is not installed: pip install 'loobench[peers]'"

    with pytest.raises(LoobenchError) as error:
        resolve(["dattri/if-cg"])
    assert str(error.value) == message
    (at := tmp_path / "mine.py").write_text(SUBMISSION.format(library="ot"))
    with pytest.raises(LoobenchError, match=r"mine/way needs the library ot, .* pip install POT"):
        resolve([str(at)])
    names = {variant.name for variant in resolve([])}
    assert "if-cg" in names
    assert not {"dattri/if-cg", "lava"} & names
    assert main(["run", "--task", "quick-breast-cancer-logistic-sgd", "--estimator", "dattri/if-cg"]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_kind_of_model_is_refused(tmp_path: Path) -> None:
    (at := tmp_path / "mine.py").write_text(SUBMISSION.format(library="ot").replace('library="ot"', 'models="linaer"'))
    with pytest.raises(LoobenchError, match="unknown models of estimator mine/way 'linaer': did you mean"):
        load(at)


def declaring(folder: Path, library: object) -> Path:
    """A file that declares a library, and whose function imports nothing."""
    (at := folder / "mine.py").write_text(SUBMISSION.replace('"{library}"', repr(library)).format(library="torch"))
    return at


@pytest.mark.parametrize("library", ["sklearn", "sklearn.linear_model", "torch", "safetensors", "scipy.stats", "_pytest"])
def test_any_library_that_is_there_may_be_declared(tmp_path: Path, library: str) -> None:
    (found,) = resolve([str(declaring(tmp_path, library))])

    assert (found.library, found.missing) == (library, None)


INSTALLS = {
    "skimage": "scikit-image",
    "otter": "otter",
    "otter.parts": "otter",
    "torch.nowhere": "torch",
    "cv2": "opencv-python",
}


@pytest.mark.parametrize("library", INSTALLS)
def test_one_that_is_not_there_may_be_declared_and_says_what_installs_it(tmp_path: Path, library: str) -> None:
    at = declaring(tmp_path, library)

    assert load(at)["mine/way"].library == library
    with pytest.raises(LoobenchError, match=f"mine/way needs the library {library}, .*: pip install {INSTALLS[library]}$"):
        resolve([str(at)])


def test_a_declared_library_is_not_imported_to_see_whether_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_one" / "inner").mkdir(parents=True)
    for at in ("bad_one/__init__.py", "bad_one/inner/__init__.py", "bad_one/inner/leaf.py"):
        (tmp_path / at).write_text("raise SystemExit")
    (tmp_path / "bare_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    assert [importable(name) for name in ("bad_one", "bad_one.inner", "bad_one.inner.leaf")] == [True] * 3
    assert [importable(name) for name in ("bad_one.leaf", "bad_one.inner.leaf.x", "bare_folder")] == [False] * 3
    assert "bad_one" not in sys.modules


@pytest.mark.parametrize(
    ("library", "message"),
    [
        *((name, "expected the name that it is imported by, as sklearn") for name in ("scikit-learn", "", "a..b", ".a", "a b")),
        *(
            (name, "expected the name that it is imported by")
            for name in ("lambda", "1a", "a;b", "é", 5, True, "a" * 101, ["ot"])
        ),
        *((name, "comes with Python, so that everyone has it: leave library out") for name in ("json", "os.path", "__main__")),
        *(
            (name, "is this program")
            for name in ("benchmark", "benchmark.truths.truth", "estimators.sgd_ie", "baselines", "loobench")
        ),
    ],
)
def test_what_is_no_library_is_refused_in_words(tmp_path: Path, library: object, message: str) -> None:
    with pytest.raises(LoobenchError, match=f"library of estimator mine/way: .*{message}"):
        load(declaring(tmp_path, library))


def test_what_is_for_classifiers_says_so_of_a_regression() -> None:
    run = train(problem(MODELS["regression"])).until(9)
    with pytest.raises(Failure, match="trak is for classifier models, the task's has 1 layers and squared-error") as failure:
        estimate(registered()["trak"], run)
    assert failure.value.status == "unsupported"


# ---- order of content ------------------------------------------------------------------------------------------------
def test_the_order_of_content_follows_the_samples() -> None:
    train_set = problem().train
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(0))

    before, after = train_set[train_set.by_content()], train_set[shuffled]
    after = after[after.by_content()]
    assert torch.equal(before.inputs, after.inputs)
    assert torch.equal(before.targets, after.targets)
