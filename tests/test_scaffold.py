"""`loobench new`: what it writes runs as it stands, and it overwrites nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark import results, scaffold
from benchmark.check import broken, check
from benchmark.cli import main
from benchmark.errors import LoobenchError
from benchmark.registry import resolve

TASK = "quick-breast-cancer-logistic-sgd"


def test_a_new_estimator_passes_its_check_and_runs_on_a_task_as_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "my-estimator"]) == 0
    told = capsys.readouterr().out
    for command in ("check my_estimator.py", "run --suite quick --estimator my_estimator.py"):
        assert f"    loobench {command}\n" in told
    assert main(["check", "my_estimator.py"]) == 0
    assert main(["run", "--task", TASK, "--seeds", "1", "--estimator", "my_estimator.py"]) == 0

    (cell,) = results.load(Path("results") / TASK / "my-estimator.json").cells.values()
    assert cell.status == "ok"
    assert cell.scores["kendall"][-1] is not None
    assert cell.scores["kendall"][-1] > 0.5
    assert sorted(at.name for at in tmp_path.iterdir() if at.suffix == ".py") == ["my_estimator.py", "test_my_estimator.py"]


def test_the_test_it_writes_passes_and_fails_where_a_rule_is_broken(tmp_path: Path) -> None:
    source, test = scaffold.write("my-estimator", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    good = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    source.write_text(source.read_text().replace("return effect", "return -effect"))
    bad = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert good.returncode == 0, good.stdout
    assert "passed, 2 skipped" in good.stdout
    assert bad.returncode == 1
    assert "1 failed" in bad.stdout
    assert "must be above the second" in bad.stdout


def test_what_it_declares_is_what_was_asked_for(tmp_path: Path) -> None:
    source, _ = scaffold.write("a2-b-3", tmp_path / "deep" / "folder")
    (found,) = resolve([str(source)])

    assert (source.name, found.name, found.version, found.settings) == ("a2_b_3.py", "a2-b-3", "1", {"checkpoints": 5})
    assert "@" not in source.read_text().replace("@estimator", "").replace(" @ ", "")
    assert not any(map(broken, check(str(source)).values()))


BAD = [
    "",
    "My-estimator",
    "my estimator",
    "-x",
    "x-",
    "x--y",
    "../x",
    "a/b",
    "1st",
    "lambda",
    "a\nb",
    "x" * 41,
    "é",
]


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_no_estimator_or_module_may_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoobenchError, match="is no name for a new estimator") as refused:
        scaffold.write(name, tmp_path)
    assert str(refused.value).isprintable()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sgd-ie", "grad-dot", "final-gradient", "acc-sgd-ie-exact"])
def test_the_name_of_a_registered_estimator_or_of_its_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoobenchError, match="registered estimator"):
        scaffold.write(name, tmp_path)


@pytest.mark.parametrize("name", ["torch", "json", "random", "benchmark", "estimators"])
def test_the_name_of_an_installed_module_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoobenchError, match="would hide the module"):
        scaffold.write(name, tmp_path)


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py"])
def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path, there: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / there).write_text("precious")

    assert main(["new", "mine"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / there).read_text() == "precious"
    assert [at.name for at in tmp_path.iterdir()] == [there]


def test_a_folder_that_cannot_be_written_is_said_without_a_traceback(tmp_path: Path, loobench: Callable[..., object]) -> None:
    (tmp_path / "file").touch()
    done = loobench("new", "mine", "--folder", "file/inside")

    assert isinstance(done, subprocess.CompletedProcess)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot write" in done.stderr


def test_the_templates_are_packed_with_the_program() -> None:
    root = Path(scaffold.__file__).parents[1]
    text = (root / "pyproject.toml").read_text()
    assert "templates/*" in json.loads(text.partition("package-data]\nbenchmark = ")[2].partition("\n")[0])
