"""Our git calls are about the folder that is named, whatever surrounds them."""

import os
import subprocess
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

import benchmark
from benchmark.base import git, machine
from benchmark.base.errors import LoobenchError
from benchmark.commands.options import computed_by
from benchmark.publishing import audit

WHO = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main")


def plain(folder: Path, *arguments: str) -> str:
    """What git prints in a folder, by the program and a clean environment alone."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", *WHO, *arguments], cwd=folder, env=clean, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path) -> Path:
    """A repository with one commit, of a folder `results` with a file."""
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "note.txt").write_text(folder.name)
    for command in (["init"], ["add", "."], ["commit", "--message", folder.name]):
        plain(folder, *command)
    return folder


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return repository(tmp_path / "mine")


def exported() -> list[str]:
    """What git itself says that points to a repository."""
    return plain(Path(), "rev-parse", "--local-env-vars").split()


ELSEWHERE: dict[str, Callable[[Path], dict[str, str]]] = {
    "another repository": lambda other: {"GIT_DIR": str(other / ".git")},
    "and its files": lambda other: {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)},
    "another common folder": lambda other: {"GIT_COMMON_DIR": str(other / ".git")},
    "another index": lambda other: {"GIT_INDEX_FILE": str(other / ".git" / "index")},
    "other objects": lambda other: {"GIT_OBJECT_DIRECTORY": str(other / ".git" / "objects")},
    "another namespace": lambda _: {"GIT_NAMESPACE": "elsewhere"},
    "an end of the search": lambda other: {"GIT_CEILING_DIRECTORIES": str(other.parent / "mine")},
    "settings": lambda other: {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.worktree", "GIT_CONFIG_VALUE_0": str(other)},
    "settings of -c": lambda other: {"GIT_CONFIG_PARAMETERS": f"'core.worktree={other}'"},
    "literal paths": lambda _: {"GIT_ICASE_PATHSPECS": "1", "GIT_LITERAL_PATHSPECS": "1"},
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_no_variable_of_the_environment_changes_which_repository_is_meant(
    name: str, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, tree = plain(mine, "rev-parse", "HEAD"), plain(mine, "ls-tree", "-r", "HEAD")
    for variable, value in ELSEWHERE[name](repository(tmp_path / "other")).items():
        monkeypatch.setenv(variable, value)
    inside = mine / "results"

    assert git.ask(inside, "rev-parse", "HEAD").decode().strip() == right
    assert git.ask(inside, "rev-parse", "--show-toplevel").decode().strip() == str(mine)
    assert git.ask(mine, "ls-tree", "-r", "HEAD").decode().strip() == tree
    assert git.ask(mine, "status", "--porcelain", "--", "results").decode() == ""
    assert audit.audit(inside, "HEAD") == []


def test_all_that_git_calls_local_to_a_repository_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    names = exported()
    for name in names:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -i key")

    assert len(names) > 10
    assert not git.environment().keys() & {*names}
    assert git.environment()["GIT_SSH_COMMAND"] == "ssh -i key"


def test_a_checkout_of_another_user_is_asked_too(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = plain(mine, "rev-parse", "HEAD")
    plain(mine, "worktree", "add", "--quiet", str(mine.parent / "tree"))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("HOME", str(mine))  # whose settings trust no folder
    with pytest.raises(LoobenchError, match="dubious ownership"):
        git.run(mine, "rev-parse", "HEAD")

    for folder in (mine, mine / "results", mine.parent / "tree"):
        assert git.ask(folder, "rev-parse", "HEAD").decode().strip() == right


def test_a_question_runs_no_program_that_the_repository_names(mine: Path) -> None:
    ran = mine.parent / "ran"
    (script := mine.parent / "script").write_text(f"#!/bin/sh\ntouch {ran}\n")
    script.chmod(0o755)
    (hook := mine / ".git" / "hooks" / "post-index-change").write_text(script.read_text())
    hook.chmod(0o755)
    plain(mine, "config", "core.fsmonitor", str(script))
    os.utime(mine / "results" / "note.txt", (0, 0))  # so that git would write its index anew

    assert git.ask(mine, "status", "--porcelain") == b""
    assert not ran.exists()
    git.run(mine, "status", "--porcelain")
    assert ran.exists()


@pytest.mark.parametrize("broken", ["no commit", "no repository", "a file .git", "no git"])
def test_where_git_does_not_tell_there_is_no_commit_and_a_reason_in_a_line(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (at := tmp_path / "code" / "benchmark").mkdir(parents=True)
    if broken == "no commit":
        plain(at.parent, "init")
    if broken == "a file .git":
        (at.parent / ".git").write_text("nonsense")
    if broken == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(benchmark, "__file__", str(at / "__init__.py"))
    machine.commit.cache_clear()
    try:
        assert machine.commit() == "unknown"
        assert (why := machine.no_commit())
        assert "git" in why
        assert "\n" not in why
    finally:
        machine.commit.cache_clear()


def test_a_run_without_a_commit_says_why_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmark.commands.main import main

    monkeypatch.setattr(machine, "no_commit", lambda: "git cannot be run: No such file or directory")
    assert main(["run", "--task", "quick-breast-cancer-logistic-sgd", "--seeds", "2", "--estimator", "loss"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "commit" in line]
    assert told == ["warning: these results will name no commit: git cannot be run: No such file or directory"]


def test_the_name_of_who_sits_here_is_not_that_of_another_repository(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain(repository(tmp_path / "other"), "config", "user.name", "Eve")
    plain(mine, "config", "user.name", "Ada")
    monkeypatch.chdir(mine)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert git.user() == computed_by(Namespace()) == "Ada"

    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.user() is None
    assert computed_by(Namespace()) == "unknown"
