"""The robots' descriptions: they parse, and none gives a stranger's code more than it may have."""

import json
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.commands.main import asked
from benchmark.commands.options import Options

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


PINNED = re.compile(r"actions/[a-z-]+@[0-9a-f]{40}")


@every_workflow
def test_only_official_actions_are_used_by_full_commit_with_the_version_beside_it(path: Path) -> None:
    written = re.findall(r"^ +(?:- )?uses: *(.*)$", path.read_text(), re.MULTILINE)
    used = [step["uses"] for step in steps(parsed(path)) if "uses" in step]

    assert all(PINNED.fullmatch(action) for action in used)
    assert [line.partition("  # ")[0] for line in written] == used
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", line.partition("  # ")[2]) for line in written)


def test_an_action_is_pinned_to_one_commit_in_all_workflows() -> None:
    lines = {line for path in WORKFLOWS for line in re.findall(r"uses: *(actions/.*)$", path.read_text(), re.MULTILINE)}

    assert len(lines) == len({line.partition("@")[0] for line in lines})


PROGRAMS, MODULES = {"gh", "head", "test"}, {"json", "re", "zipfile"}  # all that a job that may write runs
WRITES = {"monthly": {"report": {"issues"}}, "verdict-comment": {"comment": {"pull-requests"}}}  # workflow -> job -> what


@every_workflow
def test_every_permission_is_declared_and_only_a_job_that_reports_may_write(path: Path) -> None:
    workflow = parsed(path)
    jobs = {name: job.get("permissions", workflow["permissions"]) for name, job in workflow["jobs"].items()}
    written = {name: {kind for kind, level in granted.items() if level != "read"} for name, granted in jobs.items()}

    assert {name: kinds for name, kinds in written.items() if kinds} == WRITES.get(path.stem, {})
    assert set(workflow["permissions"].values()) <= {"read"}
    assert all(step["with"]["persist-credentials"] is False for step in steps(workflow) if "checkout" in step.get("uses", ""))


def tokens(part: Any) -> bool:
    """Whether a part of a workflow names the token anywhere."""
    return bool(re.search(r"github\.token|GITHUB_TOKEN|GH_TOKEN|github-token|toJSON\(\s*github\s*\)", json.dumps(part)))


@every_workflow
def test_the_token_is_given_to_steps_that_only_report_in_jobs_that_check_nothing_out_and_install_nothing(path: Path) -> None:
    workflow = parsed(path)
    outside = {key: value for key, value in workflow.items() if key != "jobs"}
    assert not tokens({str(key): value for key, value in outside.items()})
    for name, job in workflow["jobs"].items():
        assert not tokens({key: value for key, value in job.items() if key != "steps"})
        reports = name in WRITES.get(path.stem, {})
        assert reports or not tokens(job["steps"])
        for step in job["steps"] if reports else []:
            python, code = step.get("shell") == "python", re.sub(r"'[^']*'|\"[^\"]*\"", "", step.get("run", ""))
            used = re.findall(r"^ *import (.*)$" if python else r"(?:^|[|;&]) *([a-z][a-z-]*)", code, re.MULTILINE)
            assert step.get("uses", "actions/download-artifact@").startswith("actions/download-artifact@")
            assert {name for line in used for name in line.split(", ")} <= (MODULES if python else PROGRAMS)
            assert not tokens(step) or "gh" in used


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


def issue(folder: Path, report: str) -> str:
    """The issue that the monthly workflow makes of a report."""
    (folder / "artifact").mkdir()
    (folder / "artifact" / "report.txt").write_text(report)
    (script,) = (step["run"] for step in steps(named("monthly")) if step.get("shell") == "python")
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    return (folder / "issue.md").read_text()


def test_a_hostile_report_stays_inside_its_fence(tmp_path: Path) -> None:
    found = issue(tmp_path, "```\n````\n# Safe! @everyone\n\x1b[0m" + "x" * 10**6)
    head, _, rest = found.partition("`````text\n")

    assert "Safe" not in head
    assert (rest.count("`````"), rest.endswith("\n`````")) == (1, True)
    assert len(found) < 65_000  # GitHub's limit is 65536
    assert "\x1b" not in found


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
    for other in (".github/workflows/submission.yml", "benchmark/running/run.py", "results/a\nb/c.json", "Makefile"):
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


def made(*arguments: str) -> list[Options]:
    """The options of the commands that make would run."""
    done = subprocess.run(["make", "-n", "READY=", "BIN=bin", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    found = re.findall(r"^bin/loobench (.*)$", done.stdout.replace("\\\n", " "), re.M)
    return [asked(shlex.split(line)).options for line in found]


def test_make_publishes_where_its_name_says_so_and_nowhere_else() -> None:
    run, report = made("run")
    (everything, _), (again,), (published,) = made("run", "ALL=1"), made("report"), made("publish")

    assert (len(run.estimator), everything.estimator) == (15, ())
    for mine in (run, report, everything, again):
        assert (mine.results, mine.publish) == (Path("my-results"), False)
    assert published.publish
    assert {figure.out for figure in made("figures")} == {Path("docs/figures")}


def test_the_monthly_run_is_over_the_published_results() -> None:
    (command,) = (step["run"] for step in steps(named("monthly")) if step.get("id") == "run")
    options = asked(command.split("loobench ")[1].split(" 2>")[0].split()).options

    assert (options.suite, options.publish, options.replace) == (("quick",), True, False)
