"""docs/own.md and the README: what a person with a model of their own is shown is what happens."""

import os
import re
import subprocess
import sys
import time
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from test_submitting import documented

import loobench
from benchmark.commands.main import asked, main
from benchmark.core.losses import LOSSES, QUERIES
from benchmark.submissions.check_task import RULES
from benchmark.tasks import finding

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "own.md").read_text()
SLOWEST = 60  # seconds of processor time


def blocks(text: str) -> list[str]:
    """The programs of a page."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def rows(title: str) -> list[list[str]]:
    """The rows of the first table under a heading."""
    table = PAGE.partition(f"\n{title}\n")[2].partition("\n|")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:]]


def test_the_ten_lines_of_page_and_readme_run_word_for_word_from_an_empty_folder_in_under_a_minute(tmp_path: Path) -> None:
    program = blocks(PAGE)[0]
    assert blocks((ROOT / "README.md").read_text())[0] == program
    (folder := tmp_path / "empty").mkdir()
    (folder / "mine.py").write_text(program)
    places = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "benchmark"))), "LOOBENCH_CACHE": str(tmp_path / "fresh")}
    before = os.times()
    done = subprocess.run(
        [sys.executable, "mine.py"], cwd=folder, env={**os.environ, **places}, capture_output=True, text=True, check=False
    )
    after = os.times()

    assert done.returncode == 0, done.stderr
    assert len([line for line in program.splitlines() if line.strip()]) <= 10
    assert after.children_user - before.children_user < SLOWEST
    assert "exact effects (H, K, Q) = (1, 40, 40)" in done.stdout
    taus = {name: float(tau) for name, tau in re.findall(r"^([a-z-]+) +(0\.\d+) \[", done.stdout, re.M)}
    assert {*taus} == {"adam-ie", "if-cg", "grad-dot"}
    assert taus["adam-ie"] > 0.6
    assert [at.name for at in folder.iterdir()] == ["mine.py"]  # nothing is left beside it


def test_the_task_of_the_page_can_be_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_task.py").write_text(blocks(PAGE)[1])
    began = time.process_time()

    assert main(["check", "my_task.py"]) == 0
    assert time.process_time() - began < SLOWEST
    assert "does not apply" not in capsys.readouterr().out
    ((task, seeds),) = finding.found("my_task.py").items()
    assert (task.name, seeds) == ("my-task", 2)


def test_both_pages_show_the_same_lines_and_commands_that_there_are() -> None:
    assert blocks((ROOT / "README.md").read_text())[0] == blocks(PAGE)[0]
    shown = documented("docs/own.md")
    assert [command[0] for command in shown[:5]] == ["new", "check", "truth", "run", "report"]
    for command in shown:
        asked(command)


def test_the_table_of_settings_is_that_of_training() -> None:
    told = [(name.strip("`"), usual.strip("`")) for name, usual, _ in rows("## What `Training` can say")]
    made = loobench.Training(*[None] * 5)

    assert told == [
        (one.name, "" if one.default is MISSING and one.default_factory is MISSING else repr(getattr(made, one.name)))
        for one in fields(made)
    ]


def test_every_rule_of_the_check_is_in_its_table() -> None:
    assert [row[0] for row in rows("## What `check` asks")] == ["model and data", *RULES]


def test_every_loss_and_query_function_is_named() -> None:
    assert not [name for name in (*LOSSES, *QUERIES) if f"`{name}`" not in PAGE]
    assert f"`{finding.GROUP}`" in PAGE
    assert f'entry-points."{finding.GROUP}"' in PAGE
