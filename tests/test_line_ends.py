"""A checkout with CR LF at the ends of lines (core.autocrlf=true) is the same publication and the same code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_audit import git
from test_board import TWO, scored
from test_estimators import GOOD, declare
from test_run import SMALL, TASK

from benchmark.base import machine
from benchmark.commands.main import main
from benchmark.core import registry
from benchmark.publishing import audit, page
from benchmark.sandbox import client
from benchmark.sandbox.client import Rules
from benchmark.sandbox.process import Allowance
from benchmark.scores import store
from benchmark.scores.store import Store
from benchmark.submissions import subjects, submission
from benchmark.submissions.bundle import read

ROOT = Path(__file__).resolve().parents[1]


def windows(*folders: Path) -> None:
    """Every text file of some folders with the line ends of such a checkout."""
    for at in (at for folder in folders for at in folder.rglob("*") if at.is_file() and ".git" not in at.parts):
        if b"\0" not in (content := at.read_bytes()):
            at.write_bytes(content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Our code as such a checkout has it."""
    for folder in ("benchmark", "baselines", "estimators"):
        shutil.copytree(ROOT / folder, tmp_path / "checkout" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    windows(tmp_path / "checkout")
    return tmp_path / "checkout"


def there(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A Python command by the code of another checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


def test_its_code_has_the_same_digests(checkout: Path) -> None:
    asked = "{name: one.source for name, one in registry.registered().items()}"
    code = "import json; from benchmark.base import machine; from benchmark.core import registry; "
    code += f"print(json.dumps([machine.harness(), {asked}]))"
    done = there(checkout, "-c", code)

    assert b"\r\n" in (checkout / "benchmark" / "truths" / "truth.py").read_bytes()
    assert json.loads(done.stdout) == [machine.harness(), {name: one.source for name, one in registry.registered().items()}]


def test_digests_are_those_that_published_results_have() -> None:
    here = registry.registered()
    published = [store.load(at).estimator for at in (ROOT / "results" / TASK).glob("*.json")]

    assert len(published) > 50
    assert {one.name: one.identity for one in published} == {one.name: here[one.name].identity() for one in published}


def test_a_run_there_goes_on_with_the_rows_of_here(checkout: Path) -> None:
    assert main(SMALL) == 0
    windows(Path("my-results"))
    done = there(checkout, "-m", "benchmark", *SMALL)

    assert done.returncode == 0, done.stderr
    assert "0 cells computed, 4 were already there" in done.stdout
    assert "afresh" not in done.stderr


def test_report_and_audit_find_there_what_is_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(page, "library", lambda: b"")
    for quality, name in enumerate(("sgd-ie", "loss")):
        Store(Path("results")).keep(scored(name, 0.5, quality / 2, task=TWO[0]))
    Path("README.md").write_text("<!-- headline: `loobench report --publish` writes this table -->\n<!-- end of headline -->\n")
    assert main(["report", "--publish"]) == 0
    for command in (["init"], ["add", "."], ["commit", "--message", "published"]):
        git(*command)
    windows(Path())

    assert b"\r\n" in Path("README.md").read_bytes()
    assert main(["report", "--check"]) == 0, capsys.readouterr().err
    assert audit.audit(Path("results"), "HEAD") == []
    Store(Path("results")).keep(scored("loss", 0.5, 0.9, task=TWO[0]))
    windows(Path("results"))
    assert [one.path for one in audit.audit(Path("results"), "HEAD")] == [f"{TWO[0]}/loss.json"]
    assert main(["report", "--check"]) == 1


def test_a_file_of_estimators_has_one_digest_wherever_that_is_taken(tmp_path: Path) -> None:
    at = declare(tmp_path, GOOD)
    rules = Rules(strangers=False)
    (here,) = registry.resolve([str(at)])
    windows(tmp_path)
    (loaded,) = registry.resolve([str(at)])
    (inside,) = client.resolve([str(at)], Rules(allowance=Allowance(60.0, 2**30)))
    _, said = subjects._declared(str(at), rules)["twice"]

    assert b"\r\n" in at.read_bytes()
    assert {loaded.source, inside.source, said} == {here.source}
    assert loaded.identity() == inside.identity() == here.identity()


def test_a_bundle_is_whole_there_too(tmp_path: Path) -> None:
    from test_submitting import finish

    at = declare(tmp_path, GOOD)
    finish(at, tmp_path / "results")
    windows(tmp_path)
    bundle = submission.write(["twice"], tmp_path / "results", at, tmp_path / "out", "Ada")
    assert b"\r" not in bundle.source.read_bytes()
    windows(bundle.folder)

    assert read(bundle.folder).results == bundle.results


def test_such_a_checkout_of_ours_has_the_bytes_of_the_repository(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    (tmp_path / "a.py").write_bytes(b"one\ntwo\n")
    (tmp_path / "b.bin").write_bytes(b"\0\r\n\n")
    for command in (["init"], ["add", "."], ["commit", "--message", "x"], ["clone", "-c", "core.autocrlf=true", ".", "crlf"]):
        git(*command)

    assert (tmp_path / "crlf" / "a.py").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "crlf" / "b.bin").read_bytes() == b"\0\r\n\n"


@pytest.mark.slow
def test_all_that_is_published_is_as_it_should_be_there(checkout: Path) -> None:
    (publication := checkout / "publication").mkdir()
    for name in ("results", "docs"):
        shutil.copytree(ROOT / name, publication / name)
    for name in ("README.md", "leaderboard.md", "CITATION.cff"):
        shutil.copy(ROOT / name, publication)
    windows(publication)
    for at in publication.iterdir():
        at.rename(checkout / at.name)
    options = ["--results", str(checkout / "results"), "--board", str(checkout / "leaderboard.md")]
    done = there(checkout, "-m", "benchmark", "report", "--check", *options)

    assert done.returncode == 0, done.stderr
    found, _, expected = done.stdout.split()[:3]
    assert found == expected
