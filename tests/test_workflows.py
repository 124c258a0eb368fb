"""The robots' descriptions: they parse, and none gives a stranger's code more than it may have."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def parsed(path: Path) -> dict[Any, Any]:
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict)
    return found


def triggers(workflow: dict[Any, Any]) -> dict[str, Any]:
    return dict(workflow[True])  # YAML 1.1 reads `on` as true


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def named(name: str) -> dict[Any, Any]:
    return parsed(ROOT / ".github" / "workflows" / f"{name}.yml")


def test_there_are_the_four_that_the_documentation_names() -> None:
    assert [path.stem for path in WORKFLOWS] == ["monthly", "submission", "tests", "verdict-comment"]


@every_workflow
def test_only_official_actions_are_used_by_major_version(path: Path) -> None:
    used = [step["uses"] for step in steps(parsed(path)) if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in used)


@every_workflow
def test_every_permission_is_declared_and_none_is_for_contents(path: Path) -> None:
    workflow = parsed(path)
    granted = [workflow["permissions"], *(job["permissions"] for job in workflow["jobs"].values() if "permissions" in job)]
    written = {kind for permissions in granted for kind, level in permissions.items() if level != "read"}

    assert written == {"monthly": {"issues"}, "verdict-comment": {"pull-requests"}}.get(path.stem, set())
    assert all(step["with"]["persist-credentials"] is False for step in steps(workflow) if "checkout" in step.get("uses", ""))


@every_workflow
def test_nothing_of_an_event_is_pasted_into_a_script_and_no_secret_is_read(path: Path) -> None:
    assert not [step for step in steps(parsed(path)) if "${{" in step.get("run", "")]
    assert "secrets." not in path.read_text()
    assert "pull_request_target" not in triggers(parsed(path))


def test_a_submission_is_judged_by_the_code_of_the_base() -> None:
    workflow = named("submission")
    first, *_ = steps(workflow)

    assert triggers(workflow) == {"pull_request": {"paths": ["estimators/**", "results/**"]}}
    assert first["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert any('make verify-pr BASE="origin/$BASE_REF" HEAD=refs/proposed' in step.get("run", "") for step in steps(workflow))
    assert "token" not in (ROOT / ".github" / "workflows" / "submission.yml").read_text().partition("jobs:")[2]


def test_what_may_write_a_comment_checks_nothing_out() -> None:
    workflow = named("verdict-comment")

    assert triggers(workflow) == {"workflow_run": {"workflows": [named("submission")["name"]], "types": ["completed"]}}
    assert not [step for step in steps(workflow) if "uses" in step]


def comment(folder: Path, verdict: str, changed: list[str]) -> str:
    """The comment that the workflow makes of a verdict."""
    with zipfile.ZipFile(folder / "verdict.zip", "w") as archive:
        archive.writestr("verdict.md", verdict)
    (folder / "changed").write_text("".join(f"{json.dumps(name)}\n" for name in changed))
    (script,) = (step["run"] for step in steps(named("verdict-comment")) if step.get("shell") == "python")
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    return (folder / "comment.md").read_text()


def test_a_hostile_verdict_stays_inside_its_fence(tmp_path: Path) -> None:
    found = comment(tmp_path, "```\n````\n# Approved! @everyone\n\x1b[0m" + "x" * 10**6, ["estimators/mine.py"])
    head, fence, rest = found.partition("`````text\n")

    assert fence
    assert "Approved" not in head
    assert rest.count("`````") == 1
    assert rest.endswith("\n`````")
    assert len(found) < 51_000
    assert "\x1b" not in found


def test_a_comment_says_where_a_submission_changes_more_than_it_may(tmp_path: Path) -> None:
    proper = ["estimators/mine.py", "results/quick-digits/mine.json"]

    assert "do not trust" not in comment(tmp_path, "fine", proper)
    for other in (".github/workflows/submission.yml", "benchmark/run.py", "results/a\nb/c.json", "Makefile"):
        assert "**1 files that no submission has" in comment(tmp_path, "fine", [*proper, other])


@every_workflow
def test_what_is_piped_fails_where_its_first_part_does(path: Path) -> None:
    workflow = parsed(path)
    usual = workflow.get("defaults", {}).get("run", {}).get("shell")
    piped = [step for step in steps(workflow) if "| tee" in step.get("run", "")]
    assert all(step.get("shell", usual) == "bash" for step in piped)  # GitHub gives pipefail to this shell alone


def test_make_knows_what_the_robots_call() -> None:
    made = {path.stem: re.findall(r"\bmake ([a-z-]+)", path.read_text()) for path in WORKFLOWS}
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert "verify-pr" in made["submission"]
    assert {target for found in made.values() for target in found} <= set(targets)
    assert (ROOT / ".ci" / "run").exists()
