"""`loobench new`: what it writes runs as it stands, and it overwrites nothing."""

import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic
from test_submitting import finish

from benchmark.base.errors import LoobenchError
from benchmark.commands.main import main
from benchmark.core.registry import registered, resolve, sources
from benchmark.scores import store
from benchmark.submissions import check as rules
from benchmark.submissions import scaffold, submission
from benchmark.submissions.check import broken, check

TASK = "quick-breast-cancer-logistic-sgd"


def test_a_new_estimator_runs_on_a_task_as_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "my-estimator"]) == 0
    told = capsys.readouterr().out
    assert "Before it can be submitted, say in its first line what the method does" in told
    for command in ("check my_estimator.py", "run --suite quick --estimator my_estimator.py"):
        assert f"    loobench {command}\n" in told
    assert main(["run", "--task", TASK, "--seeds", "1", "--estimator", "my_estimator.py"]) == 0

    (cell,) = store.load(Path("my-results") / TASK / "my-estimator.json").cells.values()
    assert cell.status == "ok"
    assert cell.scores["kendall"][-1] is not None
    assert cell.scores["kendall"][-1] > 0.5
    assert sorted(at.name for at in tmp_path.iterdir() if at.suffix == ".py") == ["my_estimator.py", "test_my_estimator.py"]


def test_the_test_it_writes_passes_and_fails_where_a_rule_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a pytest inside this one, which has the imports and the sandbox."""
    for folder in ("good", "bad"):
        source, test = scaffold.write("my-estimator", tmp_path / folder)
        synthetic.authored(source)
    source.write_text(source.read_text().replace("return effect", "return -effect"))
    usual = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA", "--import-mode=importlib"]
    code = pytest.main([*usual, "--rootdir", str(tmp_path), "good", "bad"])
    text = capsys.readouterr().out
    told = {folder: re.findall(rf"^(\w+) {folder}/{test.name}::", text, re.MULTILINE) for folder in ("good", "bad")}

    assert code == 1, text
    assert {*told["good"]} == {"PASSED"}, text
    assert sorted(told["bad"]) == ["FAILED", *["PASSED"] * (len(told["good"]) - 1)]
    assert "1 failed" in text
    assert "4 skipped" in text
    assert "must be above the second" in text


def test_what_it_declares_is_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "RULES", {})  # which what it writes keeps, as a test above sees
    source, _ = scaffold.write("a2-b-3", tmp_path / "deep" / "folder")
    (found,) = resolve([str(source)])

    assert (source.name, found.name, found.version, found.settings) == ("a2_b_3.py", "a2-b-3", "1", {"checkpoints": 5})
    assert "@" not in source.read_text().replace("@estimator", "").replace(" @ ", "")
    assert not any(map(broken, check(str(synthetic.authored(source))).values()))


# ---- what is left to its author --------------------------------------------------------------------------------------
SUMMARY, PAPER = "say here in one line what the method does", "say where the method is from, with its arXiv number"


def left(text: str, folder: Path) -> str:
    """What `check` finds of the declaration of a file with that text, the empty string where nothing."""
    (at := folder / "my_estimator.py").write_text(text)
    ((first, *others),) = check(str(at)).values()
    assert not broken(others)
    return "" if first.passed else first.detail


def test_the_templates_ask_for_no_more_than_is_refused(tmp_path: Path) -> None:
    source, test = scaffold.write("my-estimator", tmp_path)
    asked = re.findall(r"\bsay \w+[^\n\".;]*", source.read_text() + test.read_text())

    assert [one for one in asked if not one.startswith("say (")] == [SUMMARY, PAPER]
    assert [*scaffold.PLACEHOLDERS.values()] == [SUMMARY, PAPER]


def test_check_names_each_placeholder_and_what_to_write_there_and_nothing_once_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "RULES", {})  # which what it writes keeps, as a test above sees
    source, _ = scaffold.write("my-estimator", tmp_path)
    fresh = source.read_text()
    both, only_paper = left(fresh, tmp_path), left(fresh.replace(SUMMARY, "gradients"), tmp_path)

    assert SUMMARY in both
    assert f"`paper` says '{PAPER}': write who described the method, when and where" in both
    assert (SUMMARY in only_paper, PAPER in only_paper) == (False, True)
    assert "what the method does" in left(fresh.replace(PAPER, "Ada 2026"), tmp_path)
    assert left(fresh.replace(PAPER, "Ada 2026").replace(SUMMARY, "gradients"), tmp_path) == ""


VARIANTS = [
    PAPER.upper(),
    PAPER.replace(" ", "  "),
    f"  {PAPER}.  ",
    PAPER.replace(" ", "-").title(),
    f"{PAPER}: 1234.5678",
    PAPER.replace(",", ""),
    "".join(chr(ord(letter) + 0xFEE0) if letter.isalpha() else letter for letter in PAPER),  # of full width
    "yours, arXiv number",
    "TODO",
    "tbd.",
    "...",
    " ",
]


@pytest.mark.parametrize("paper", VARIANTS)
def test_a_paper_that_is_a_placeholder_in_another_dress_is_refused(paper: str) -> None:
    assert [said for said in scaffold.unfilled(paper, b"") if said.startswith("`paper` says")]


@pytest.mark.parametrize(
    "line", [SUMMARY.upper(), SUMMARY.replace(" what", "\n\n   what"), f"# {SUMMARY}", SUMMARY.replace(" ", "")]
)
def test_a_summary_that_is_a_placeholder_in_another_dress_is_refused(line: str) -> None:
    assert scaffold.unfilled("Ada 2026", f'"""Mine: {line}."""\n'.encode())


def test_no_registered_estimator_is_refused() -> None:
    root = Path(__file__).resolve().parents[1]
    assert not [
        name for name, one in registered().items() if scaffold.unfilled(one.paper, (root / sources()[name]).read_bytes())
    ]


def test_an_unedited_scaffold_runs_but_is_neither_submitted_nor_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "RULES", {})  # which it keeps, as a test above sees
    source, _ = scaffold.write("my-estimator", tmp_path)
    assert main(["check", "my_estimator.py"]) == 1
    assert "✗ broken" in capsys.readouterr().out
    assert main(["run", "--task", TASK, "--seeds", "1", "--estimator", "my_estimator.py"]) == 0
    assert main(["submit", "my_estimator.py", "--by", "A"]) == 1
    assert "nothing is submitted" in capsys.readouterr().err
    assert not (tmp_path / "submission").exists()
    assert main(["verify", f"my-results/{TASK}/my-estimator.json", "--estimator", "my_estimator.py"]) == 2
    assert f"`paper` says '{PAPER}'" in capsys.readouterr().err
    finish(source, tmp_path / "results")
    with monkeypatch.context() as older:  # as an older loobench, or one's own, would have packed it
        older.setattr(scaffold, "unfilled", lambda *_: [])
        submission.write(["my-estimator"], tmp_path / "results", source, tmp_path / "out", "A")
    assert main(["verify", "out/my-estimator"]) == 2
    told = capsys.readouterr().err
    assert f"estimators/my_estimator.py: `paper` says '{PAPER}'" in told


# ---- names -----------------------------------------------------------------------------------------------------------
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
    root = Path(__file__).resolve().parents[1]
    packed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]

    for package, patterns in packed.items():
        assert all(list((root / package.replace(".", "/")).glob(pattern)) for pattern in patterns)
    assert packed["benchmark.submissions"] == ["templates/*"]
