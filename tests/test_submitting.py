"""`loobench submit`: a bundle from results that are there, and the pull request for it."""

import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from benchmark.commands.main import COMMANDS, asked, main
from benchmark.commands.submit import pull_request
from benchmark.core import declaration, registry
from benchmark.scores import results, store
from benchmark.scores.store import Store
from benchmark.submissions import bundle, check, scaffold, submission
from benchmark.tasks import suites

Told = pytest.CaptureFixture[str]


KNOWN: dict[str, list[check.Finding]] = {}  # source -> what `check` finds of it: asked once, for it takes seconds


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with my_estimator.py and its results on all of suite core, which is the current one."""
    usual = check.findings

    def once(estimator: declaration.Estimator) -> list[check.Finding]:
        if estimator.source not in KNOWN:
            KNOWN[estimator.source] = usual(estimator)
        return KNOWN[estimator.source]

    monkeypatch.setattr(check, "findings", once)
    source = synthetic.authored(scaffold.write("my-estimator", tmp_path)[0])
    finish(source, tmp_path / "my-results")
    return tmp_path


def finish(source: Path, folder: Path) -> None:
    """Results of a file on suite core, as a run might have left them."""
    (estimator,) = registry.resolve([str(source)])
    for task in suites.CORE.tasks:
        found = results.blank(task, "cpu", estimator)
        for seed in range(suites.CORE.seeds):
            found = found.with_cell(seed, synthetic.cell(task, estimator.name, seed, 0.6, 0.2), synthetic.PROVENANCE)
        Store(folder).keep(found)


def test_a_submission_is_written_and_the_commands_for_it_are_printed(ready: Path, capsys: Told) -> None:
    assert main(["submit", "my_estimator.py", "--by", "A. Newcomer"]) == 0
    told = capsys.readouterr().out
    found = bundle.read(ready / "submission" / "my-estimator")

    assert len(found.results) == len(suites.CORE.tasks)
    assert all(result.claimed and result.claimed.by == "A. Newcomer" for result in found.results)
    for result in found.results:
        assert result.name in told
    for line in ("git switch --create submit-my-estimator", "gh pr create --title 'Submission: my-estimator'"):
        assert f"\n    {line}" in told


def test_the_name_is_that_which_git_knows(ready: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(ready / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    assert main(["submit", "my_estimator.py"]) == 2
    assert "say --by 'Your Name'" in capsys.readouterr().err
    (ready / "gitconfig").write_text("[user]\n\tname = Ada\n")
    assert main(["submit", "my_estimator.py"]) == 0
    found = bundle.read(ready / "submission" / "my-estimator")
    assert {result.claimed.by for result in found.results if result.claimed} == {"Ada"}


def test_an_estimator_that_breaks_a_rule_is_not_submitted(ready: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "RULES", {"sign": check.RULES["sign"]})
    source = ready / "my_estimator.py"
    source.write_text(source.read_text().replace("return effect", "return -effect"))

    assert main(["submit", "my_estimator.py", "--by", "A"]) == 1
    told = capsys.readouterr()
    assert "✗ broken" in told.out
    assert "nothing is submitted" in told.err
    assert not (ready / "submission").exists()


def test_what_is_missing_is_said_in_a_line(ready: Path, capsys: Told) -> None:
    for folder in (ready / "my-results").iterdir():
        (folder / "my-estimator.json").unlink()
    assert main(["submit", "my_estimator.py", "--by", "A"]) == 2
    told = capsys.readouterr().err
    assert "needs all tasks of suite core" in told
    assert told.count("\n") == 1


def test_cells_that_failed_are_submitted_and_shown(ready: Path, capsys: Told) -> None:
    at = ready / "my-results" / suites.CORE.tasks[0].name / "my-estimator.json"
    found = store.load(at)
    broken = replace(found.cells["1"], status="crashed", message="it broke", scores={}, by_query=[], points=[])
    Store(ready / "my-results").keep(found.with_cell(1, broken, synthetic.PROVENANCE))

    assert main(["submit", "my_estimator.py", "--by", "A"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(at.parent.name))
    assert line.endswith(", crashed")


# ---- the pull request ------------------------------------------------------------------------------------------------
@pytest.fixture
def clone(ready: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of a repository like this one, with a remote that can be pushed to, as the current folder."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "ada@example.org")
    git("init", "--quiet", "--bare", "remote")
    git("clone", "--quiet", "remote", "clone")
    for folder, name in (("estimators", "sgd_ie.py"), ("results", "task.json")):
        (ready / "clone" / folder).mkdir()
        (ready / "clone" / folder / name).write_text("old")
    monkeypatch.chdir(ready / "clone")
    git("add", ".")
    git("commit", "--quiet", "--message", "Before")
    return ready / "clone"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


SUBMIT = ["submit", "../my_estimator.py", "--results", "../my-results", "--out", "../out", "--by", "Ada"]


def program(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (at := folder / name).write_text(f"#!/bin/sh\n{body}\n")
    at.chmod(0o755)


def test_the_printed_commands_make_a_branch_with_just_the_submission(clone: Path, capsys: Told) -> None:
    (clone / "unrelated").write_text("mine")
    (clone / "results" / "task.json").write_text("mine")
    assert main(SUBMIT) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    for line in printed[:-1]:  # all but gh
        subprocess.run(shlex.split(line), check=True, capture_output=True)

    assert git("log", "--format=%s", "-1", "origin/submit-my-estimator").strip() == "Submission: my-estimator"
    added = git("show", "--name-status", "--format=", "HEAD").split()
    assert set(added[::2]) == {"A"}
    expected = {f"results/{task.name}/my-estimator.json" for task in suites.CORE.tasks} | {"estimators/my_estimator.py"}
    assert set(added[1::2]) == expected
    assert (clone / "results" / "task.json").read_text() == "mine"
    assert not git("diff", "--cached", "--name-only")


def test_with_open_they_are_run_and_gh_opens_the_pull_request(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(clone.parent / "bin", "gh", f'printf "%s\\n" "$@" > {shlex.quote(str(clone.parent / "told"))}')
    monkeypatch.setenv("PATH", str(clone.parent / "bin"), prepend=os.pathsep)
    git("init", "--quiet", "../other")
    with monkeypatch.context() as hook:  # of another repository, which starts us
        hook.setenv("GIT_DIR", str(clone.parent / "other" / ".git"))
        assert main([*SUBMIT, "--open"]) == 0

    assert (clone.parent / "told").read_text().splitlines()[:4] == ["pr", "create", "--title", "Submission: my-estimator"]
    assert "submit-my-estimator" in git("branch", "--remotes")


def test_without_gh_open_says_what_to_do_and_changes_nothing(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    (clone.parent / "bin").mkdir()
    (clone.parent / "bin" / "git").symlink_to(subprocess.run(["which", "git"], capture_output=True, text=True).stdout.strip())
    monkeypatch.setenv("PATH", str(clone.parent / "bin"))

    assert main([*SUBMIT, "--open"]) == 2
    assert "needs the program gh" in capsys.readouterr().err
    assert "submit-my-estimator" not in git("branch", "--all")


def test_a_command_that_fails_stops_the_rest(clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told) -> None:
    program(clone.parent / "bin", "gh", "touch opened")
    monkeypatch.setenv("PATH", str(clone.parent / "bin"), prepend=os.pathsep)
    git("remote", "set-url", "origin", "/nowhere")

    assert main([*SUBMIT, "--open"]) == 2
    assert "`git push --set-upstream origin submit-my-estimator` failed with" in capsys.readouterr().err
    assert not (clone / "opened").exists()


def test_outside_a_clone_open_is_refused(ready: Path, capsys: Told) -> None:
    assert main(["submit", "my_estimator.py", "--by", "A", "--open"]) == 2
    assert "works in a clone of the repository" in capsys.readouterr().err
    assert (ready / "submission" / "my-estimator").is_dir()


def test_no_command_goes_through_a_shell(ready: Path, write_named: Callable[[str], bundle.Bundle]) -> None:
    found = write_named("a; touch hacked")
    assert all(isinstance(part, str) for command in pull_request(found) for part in command)
    assert not (ready / "hacked").exists()


@pytest.fixture
def write_named(ready: Path) -> Callable[[str], bundle.Bundle]:
    return lambda out: submission.write(["my-estimator"], ready / "my-results", ready / "my_estimator.py", ready / out, "A")


# ---- the documentation -----------------------------------------------------------------------------------------------
ROOT = Path(__file__).resolve().parents[1]


def documented(page: str) -> list[list[str]]:
    """The commands in the indented lines of a page, without what follows a #."""
    lines = (ROOT / page).read_text().splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("    loobench ")]


@pytest.mark.parametrize("page", ["docs/submitting.md", "README.md", "docs/tuning.md", "docs/own.md"])
def test_every_documented_command_is_one_that_there_is(page: str) -> None:
    commands = documented(page)
    assert len(commands) > 1
    for command in commands:
        if command[0] in COMMANDS:
            asked(command)
        else:
            assert command[0] in ("verify", "audit")


def test_readme_and_the_page_of_submissions_show_the_same_path() -> None:
    path = documented("docs/submitting.md")[:5]

    assert [command[0] for command in path] == ["new", "check", "run", "submit", "verify"]
    assert all(command in documented("README.md") for command in path)


def test_every_rule_and_failure_is_on_the_page_of_submissions(ready: Path) -> None:
    text = (ROOT / "docs" / "submitting.md").read_text()
    (found,) = check.check(str(ready / "my_estimator.py")).values()

    rules = {finding.rule for finding in found if not finding.rule.startswith("exact on")}
    assert not [rule for rule in {*rules, "exact on ..."} if rule not in text]
    assert not [status for status in (*results.FAILURES, *results.VERDICTS, *declaration.EXACT) if f"`{status}`" not in text]
