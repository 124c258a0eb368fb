"""`make verify-pr`: what a branch proposes is taken out of git, and judged by the base's code alone."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from benchmark.core import registry
from benchmark.core.syntax import source_digest
from benchmark.scores import results, store
from benchmark.scores.results import Result
from benchmark.scores.store import Store
from benchmark.submissions import proposal, scaffold, submission
from benchmark.submissions.bundle import paths
from benchmark.submissions.proposal import Change
from benchmark.tasks import suites

FAKE = """
import json, pathlib, sys
from estimators import names
files = list(pathlib.Path("results").glob("*/*"))
told = {"command": sys.argv[1:], "harness": "base", "estimators": names, "results": len(files)}
with open(LOG, "a") as log:
    log.write(json.dumps(told) + "\\n")
if sys.argv[1] == "verify":
    pathlib.Path(sys.argv[-1]).write_text("| estimator | verdict |")
print("said by " + sys.argv[1] + " ```")
sys.exit(sys.argv[1] == FAILING)
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose commit `base` has a harness that writes down how it was called, and one estimator."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "ada@example.org")
    root = tmp_path / "repository"
    write(root / "benchmark" / "__init__.py", "")
    write(root / "benchmark" / "__main__.py", f"LOG = {str(tmp_path / 'log')!r}\nFAILING = 'none'\n{FAKE}")
    listing = "import pathlib\nnames = sorted(at.name for at in pathlib.Path(__file__).parent.glob('*.py'))\n"
    write(root / "estimators" / "__init__.py", listing)
    write(root / "estimators" / "old.py", "old")
    write(root / "results" / "task" / "old.json", "{}")
    monkeypatch.chdir(root)
    git("init", "--quiet")
    commit("Base")
    git("branch", "base")
    return root


def write(at: Path, text: str) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_text(text)


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def commit(message: str) -> None:
    git("add", "--all")
    git("commit", "--quiet", "--message", message)


def told(tmp_path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def propose(root: Path, name: str = "my-estimator") -> Path:
    """Commit a submission as the printed commands would; returns its bundle."""
    source = synthetic.authored(scaffold.write(name, root.parent)[0])
    (estimator,) = registry.resolve([str(source)])
    for task in suites.CORE.tasks:
        found = results.blank(task, "cpu", estimator)
        for seed in range(suites.CORE.seeds):
            found = found.with_cell(seed, synthetic.cell(task, name, seed, 0.6, 0.2), synthetic.PROVENANCE)
        Store(root.parent / "own").keep(found)
    bundle = submission.write([name], root.parent / "own", source, root.parent / "out", "Ada")
    for path in paths(bundle):
        write(root / path, (bundle.folder / path).read_text())
    commit("Submission")
    return bundle.folder


def judge(*arguments: str) -> int:
    return proposal.main(["--base", "base", "--markdown", "../verdict.md", *arguments])


def test_a_branch_with_a_submission_is_checked_audited_and_verified_by_the_code_of_the_base(
    repository: Path, tmp_path: Path
) -> None:
    propose(repository)
    mine = repository / "benchmark" / "__main__.py"
    mine.write_text(mine.read_text().replace('"base"', '"mine"'))  # not committed
    assert judge() == 0
    check, audit, verify = told(tmp_path)

    assert check["command"][0] == "check"  # type: ignore[index]
    assert audit["command"] == ["audit", "--base", git("rev-parse", "base").strip(), "--submission"]
    assert verify["command"][2:3] == ["--markdown"]  # type: ignore[index]  # and nothing that would make it milder
    for one in (check, audit, verify):
        assert one["harness"] == "base"
        assert one["estimators"] == ["__init__.py", "old.py"]  # the proposed one is a file beside, not one of the base
        assert one["results"] == 1 + len(suites.CORE.tasks)
    verdict = (tmp_path / "verdict.md").read_text()
    assert "## my-estimator: every check holds" in verdict
    assert "| estimator | verdict |" in verdict
    assert git("worktree", "list").count("\n") == 1
    assert git("status", "--porcelain").split() == ["M", "benchmark/__main__.py"]


def test_a_branch_is_judged_in_its_own_repository_whatever_a_hook_of_another_exports(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose(repository)
    git("init", "--quiet", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / ".git" / "index"))

    assert judge() == 0
    assert [one["harness"] for one in told(tmp_path)] == ["base"] * 3


@pytest.mark.parametrize("failing", ["check", "audit", "verify"])
def test_a_step_that_does_not_hold_fails_the_whole_and_the_others_run_all_the_same(
    repository: Path, tmp_path: Path, failing: str
) -> None:
    at = repository / "benchmark" / "__main__.py"
    at.write_text(at.read_text().replace("'none'", f"'{failing}'"))
    commit("Fail")
    git("branch", "--force", "base")
    propose(repository)

    assert judge() == 1
    assert len(told(tmp_path)) == 3
    verdict = (tmp_path / "verdict.md").read_text()
    assert "a check does not hold" in verdict
    assert f"| loobench {failing} | does not hold (1) |" in verdict


def test_a_bundle_is_judged_beside_the_commit(repository: Path, tmp_path: Path) -> None:
    bundle = propose(repository)
    git("reset", "--quiet", "--hard", "base")

    assert judge("--bundle", str(bundle)) == 0
    assert [one["command"][0] for one in told(tmp_path)] == ["check", "audit", "verify"]  # type: ignore[index]
    assert told(tmp_path)[2]["command"][1] == str(bundle)  # type: ignore[index]


def test_a_new_version_of_a_file_takes_the_place_of_the_old_one(repository: Path, tmp_path: Path) -> None:
    propose(repository)
    git("branch", "--force", "base")
    (tmp_path / "my_estimator.py").unlink()
    (tmp_path / "test_my_estimator.py").unlink()
    at = repository / "estimators" / "my_estimator.py"
    at.write_text(at.read_text() + "changed = 1\n")
    commit("A new version without its results")
    assert judge() == 2
    assert "adds no result" in (tmp_path / "verdict.md").read_text()

    for result in (repository / "results").glob("*/my-estimator.json"):
        found = store.load(result)
        Store(repository / "results").keep(of_source(found, at.read_bytes()))
    commit("And its results")
    assert judge() == 0
    assert all(one["estimators"] == ["__init__.py", "old.py"] for one in told(tmp_path))


def of_source(found: Result, content: bytes) -> Result:
    estimator = replace(found.estimator, source=source_digest(content))
    stated = {"name": estimator.name, "settings": estimator.settings, "source": estimator.source}
    return replace(found, estimator=replace(estimator, identity=results.json_digest(stated)))


def test_more_results_of_a_file_that_is_there_need_not_be_complete(repository: Path, tmp_path: Path) -> None:
    propose(repository)
    git("branch", "--force", "base")
    at = min((repository / "results").glob("*/my-estimator.json"))
    found = store.load(at)
    assert found.claimed
    Store(repository / "results").keep(replace(found, claimed=replace(found.claimed, by="Another")))
    commit("Again")

    assert judge() == 0
    assert told(tmp_path)[0]["results"] == 1 + len(suites.CORE.tasks)


# ---- what is no submission -------------------------------------------------------------------------------------------
CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "the harness": (lambda root: write(root / "benchmark" / "scores" / "mine.py", "x"), "changes 'benchmark/scores/mine.py'"),
    "a workflow": (lambda root: write(root / ".github" / "workflows" / "x.yml", "x"), "changes '.github/workflows/x.yml'"),
    "the board": (lambda root: write(root / "leaderboard.md", "x"), "changes 'leaderboard.md'"),
    "a deletion": (lambda root: (root / "estimators" / "old.py").unlink(), "deletes 'estimators/old.py'"),
    "a program": (lambda root: (root / "estimators" / "my_estimator.py").chmod(0o755), "changes 'estimators/my_estimator.py'"),
    "a link": (lambda root: (root / "results" / "link").symlink_to("/etc"), "changes 'results/link'"),
    "a name of two lines": (lambda root: write(root / "results" / "a\nb" / "x.json", "{}"), r"changes 'results/a\nb/x.json'"),
    "a result of no file": (
        lambda root: write(root / "results" / "task" / "x.json", '{"estimator": {"source": "0"}}'),
        "is of no file in estimators/",
    ),
    "no JSON": (lambda root: write(root / "results" / "task" / "x.json", "{"), "is no result"),
    "another shape": (lambda root: write(root / "results" / "task" / "x.json", "[1]"), "is no result"),
    "a task less": (lambda root: min((root / "results").glob("*/my-estimator.json")).unlink(), "lacks 2 of 28 cells"),
    "a large file": (lambda root: write(root / "results" / "task" / "x.json", "1" * 2_000_000), "has 2000000 bytes"),
    "an edited result": (
        lambda root: edit(min((root / "results").glob("*/my-estimator.json"))),
        "was edited",
    ),
}


def edit(at: Path) -> None:
    at.write_text(at.read_text().replace('"Ada"', '"Bob"'))


@pytest.mark.parametrize("name", CHANGES)
def test_a_branch_that_does_anything_else_is_refused_before_any_code_runs(repository: Path, tmp_path: Path, name: str) -> None:
    how, message = CHANGES[name]
    propose(repository)
    how(repository)
    commit("More")

    assert judge() == 2
    assert message in (tmp_path / "verdict.md").read_text()
    assert not (tmp_path / "log").exists()


def test_a_commit_that_git_does_not_know_is_said(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert repository.exists()
    for name in ("nowhere", "--output=x", ""):
        assert proposal.main([f"--base={name}"]) == 2
        assert "git knows no commit" in capsys.readouterr().err
    assert not list(repository.glob("x*"))


def test_outside_a_repository_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert proposal.main([]) == 2
    assert "git rev-parse failed" in capsys.readouterr().err


def test_changes_are_read_whatever_the_names(repository: Path) -> None:
    write(repository / "results" / 'a "quoted"\tname', "x")
    commit("Odd")
    assert proposal.changes(repository, "base", "HEAD") == [Change('results/a "quoted"\tname', "100644", "A")]


def test_make_hands_the_branch_and_the_bundle_over() -> None:
    root = Path(__file__).resolve().parents[1]
    command = ["make", "--dry-run", "--silent", "verify-pr", "BASE=main", "BUNDLE=some folder"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)

    assert (
        '-m benchmark.submissions.proposal --base "main" --head "HEAD" --bundle "some folder" --markdown "verdict.md"'
        in done.stdout
    )
