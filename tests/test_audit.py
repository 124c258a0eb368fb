"""`loobench audit` finds what a work tree changes of the published results, and who may change what."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_board import TWO, changed, claimed, failed, limits, of_protocol, scored
from test_board import verified as checked
from test_manifest import FOLDER, raised, save

from benchmark.base.errors import LoobenchError
from benchmark.commands.main import main
from benchmark.publishing import audit
from benchmark.scores.results import Result
from benchmark.scores.store import Store

NAME = f"{TWO[0]}/{{}}.json"


def sent(made: Result) -> Result:
    """The result as a stranger sent it, with the claim that its seeds give."""
    return claimed(made, audit.ranked(made))


def verified(made: Result) -> Result:
    """The same, verified."""
    return checked(sent(made))


def git(*arguments: str) -> None:
    """A git command in the folder of the test, as somebody without settings."""
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


@pytest.fixture(autouse=True)
def _published() -> None:
    """A repository with three results, one of them a stranger's, and limits."""
    save(scored("sgd-ie", 0.5, 0.6), scored("loss", 0.1, 0.2), sent(scored("theirs", 0.4, 0.4)))
    Store(FOLDER).keep(limits(TWO[0], {"ceiling": [0.5]})[TWO[0]])
    git("init")
    git("add", ".")
    git("commit", "--message", "published")


def found(*, submission: bool = False) -> dict[str, tuple[str, bool]]:
    """What is found: path -> (what, whether it is allowed)."""
    return {one.path: (one.said, one.allowed) for one in audit.audit(FOLDER, "HEAD", submission=submission)}


def test_nothing_is_found_where_nothing_changed(capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(FOLDER / NAME.format("sgd-ie"), (0, 0))
    (FOLDER / "manifest.json").write_text("{}")  # `report --check` looks after it

    assert found() == {}
    assert main(["audit", "--base", "HEAD"]) == 0
    assert capsys.readouterr().out == "results is as at HEAD\n"


def theirs(*values: float) -> Result:
    """The stranger's result with other scores."""
    return sent(scored("theirs", *values))


def removed(name: str) -> None:
    """Delete a result."""
    (FOLDER / NAME.format(name)).unlink()


def misplaced() -> None:
    """A result in the file of another."""
    at = FOLDER / NAME.format("sgd-ie")
    at.with_name("other.json").write_bytes(at.read_bytes())


def cut() -> None:
    """Half of a result."""
    at = FOLDER / NAME.format("sgd-ie")
    at.write_bytes(at.read_bytes()[:500])


def link() -> None:
    """A link in place of a result."""
    (FOLDER / NAME.format("link")).symlink_to("/etc/passwd")


CASES: dict[str, tuple[Callable[[], object], str, str, bool, bool]] = {  # change, file, what is said, allowed, in a submission
    "claimed": (lambda: save(sent(scored("new", 0.5))), "new", "added by a stranger", True, True),
    "not claimed": (lambda: save(scored("new", 0.5)), "new", "added", True, False),
    "verifies itself": (lambda: save(verified(scored("new", 0.5))), "new", "added by a stranger", True, False),
    "claims more": (lambda: save(claimed(scored("new", 0.5), 0.502)), "new", "added by a stranger", True, False),
    "claims a failure": (lambda: save(claimed(failed("new", "crashed"), 0.5)), "new", "added by a stranger", True, False),
    "failed": (lambda: save(claimed(failed("new", "crashed"), None)), "new", "added by a stranger", True, True),
    "removed": (lambda: removed("loss"), "loss", "removed", True, False),
    "removed own": (lambda: removed("theirs"), "theirs", "removed", True, False),
    "changed": (lambda: save(scored("sgd-ie", 0.9, 0.6)), "sgd-ie", "seed 0 changed from 0.5000 to 0.9000", False, False),
    "a seed gone": (lambda: save(scored("sgd-ie", 0.5)), "sgd-ie", "seed 1 is gone", False, False),
    "new version": (lambda: save(raised(scored("sgd-ie", 0.9, 0.6))), "sgd-ie", "seed 0 changed", True, False),
    "own, changed": (lambda: save(theirs(0.9, 0.4)), "theirs", "seed 0 changed from 0.4000 to 0.9000", False, False),
    "own, new version": (lambda: save(raised(theirs(0.9, 0.4))), "theirs", "seed 0 changed", True, True),
    "own, other protocol": (lambda: save(of_protocol(theirs(0.9, 0.4), "9.9")), "theirs", "seed 0 changed", True, False),
    "own, verified": (lambda: save(verified(theirs(0.4, 0.4))), "theirs", "changed, its scores are as before", True, False),
    "no claim now": (lambda: save(scored("theirs", 0.4, 0.4)), "theirs", "changed, its scores are as before", True, False),
    "provenance": (lambda: save(changed(scored("loss", 0.1, 0.2), 0, message="x")), "loss", "changed, its scores", True, False),
    "misplaced": (misplaced, "other", f"holds the result of {TWO[0]}/sgd-ie.json", False, False),
    "cut": (cut, "sgd-ie", "results/", False, False),
    "a link": (link, "link", "no plain file", False, False),
}


@pytest.mark.parametrize("name", CASES)
def test_each_change_is_found_and_judged(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, file, said, allowed, allowed_in_submission = CASES[name]
    change()

    for submission, expected in ((False, allowed), (True, allowed_in_submission)):
        [(path, (what, judged))] = found(submission=submission).items()
        assert path == NAME.format(file)
        assert what.startswith(said), what
        assert judged is expected, what
        assert main(["audit", "--base", "HEAD", *["--submission"] * submission]) == (0 if expected else 1)
        [_, _, row, *_] = capsys.readouterr().out.splitlines()
        assert row.split("|")[3].strip() == ("yes" if expected else "**no**")


def test_what_may_not_be_in_a_submission_says_why() -> None:
    save(verified(replace(scored("new", 0.5), claimed=None)), replace(verified(scored("own", 0.5)), claimed=None))
    save(replace(verified(theirs(0.4, 0.4)), claimed=None), scored("sgd-ie", 0.5, 0.6, 0.7))
    said = {path.split("/")[1]: what for path, (what, _) in found(submission=True).items()}

    assert said["new.json"] == "added by a stranger; carries a verification, which a submission may not bring"
    assert "carries a verification" in said["own.json"]
    assert "lacks a claim, as if maintainers had computed it" in said["own.json"]
    assert "lacks a claim" in said["theirs.json"]
    assert said["sgd-ie.json"].endswith(
        "version 1 as before; is the maintainers'; lacks a claim, as if maintainers had computed it"
    )


def test_limits_are_the_maintainers_own() -> None:
    Store(FOLDER).keep(limits(TWO[0], {"ceiling": [1.0]})[TWO[0]])
    Store(FOLDER).keep(limits(TWO[1], {"ceiling": [1.0]})[TWO[1]])

    assert found() == {f"{TWO[0]}.json": ("limits changed", True), f"{TWO[1]}.json": ("limits added", True)}
    assert [allowed for _, allowed in found(submission=True).values()] == [False, False]


HOSTILE = (
    "a|b<img src=x>.json",
    "new\nline/x.json",
    "deep/er/x.json",
    "notes.txt",
    "x.json.py",
    os.fsdecode(b"\xff.json"),
    "y/\x1b[31m.json",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_neither_result_nor_limits_is_not_allowed_whatever_its_name(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (FOLDER / name).parent.mkdir(exist_ok=True, parents=True)
    (FOLDER / name).write_text("{}")

    assert [allowed for _, allowed in found().values()] == [False]
    assert main(["audit", "--base", "HEAD"]) == 1
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 5  # a head of two, the row, a line between, the summary
    assert "<img" not in out.replace("\\<img", "")
    assert "\x1b" not in out


@pytest.mark.parametrize("revision", ["-x", "--output=x", "HEAD:results", "a b", "", "HEAD;id", "nowhere", "@{upstream}"])
def test_what_is_no_revision_is_an_error_and_what_looks_like_an_option_does_not_reach_git(revision: str) -> None:
    said = "failed: " if revision in ("nowhere", "@{upstream}") else "--base takes a git revision"
    with pytest.raises(LoobenchError, match=said):
        audit.audit(FOLDER, revision)
    assert main(["audit", f"--base={revision}"]) == 2
    assert not Path("x").exists()


def test_outside_a_repository_and_without_the_folder_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoobenchError, match="there is no folder"):
        audit.audit(tmp_path / "none", "HEAD")
    (outside := tmp_path.parent / f"{tmp_path.name}-outside").mkdir()
    with pytest.raises(LoobenchError, match="not a git repository"):
        audit.audit(outside, "HEAD")
