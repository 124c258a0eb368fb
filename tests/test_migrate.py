"""Results of an older schema are rewritten without losing or inventing anything."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark import results
from benchmark.cli import main
from benchmark.errors import DamagedFile
from benchmark.files import json_digest
from benchmark.migrate import migrate
from benchmark.registry import registered
from benchmark.results import Bounds, Cell
from benchmark.suites import TASKS

TASK = "quick-breast-cancer-mlp-sgd"
SCORES = {"kendall": [0.1, 0.2, 1 / 3], "rmse": [1.0, None, 2.0]}


def cell(status: str = "ok") -> Cell:
    scores: Any = SCORES if status == "ok" else {}
    return Cell(status, "", scores, [0.333333], [0.1], 0.5, 2.0, 0.25, 10, 0, 99, 100, {}, "p", "t", "u", "e", 0.01, "here")


def as_before(at: Path, change: Any) -> None:
    """Make a file one of schema 2."""
    content = json.loads(at.read_text())
    del content["digest"]
    change(content)
    content["schema"] = 2
    at.write_text(json.dumps({**content, "digest": json_digest(content)}))


def older_cells(content: dict[str, Any]) -> None:
    for found in content["cells"].values():
        del found["by_query"], found["points"], found["memory"]


def older_bounds(content: dict[str, Any]) -> None:
    for found in content["seeds"].values():
        del found["points"]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    blank = results.blank(TASKS[TASK], "cpu", registered()["sgd-ie"])
    made = blank.with_cell(0, cell(), {"command": "c"}).with_cell(1, cell("crashed"), {"command": "c"})
    as_before(results.save(made, tmp_path), older_cells)
    limits = results.no_limits(TASKS[TASK], "cpu").with_seed(0, Bounds("u", {"ceiling": [1 / 3] * 3}, {}, [1.0]))
    results.save_limits(limits, tmp_path)
    as_before(results.limits_path(limits, tmp_path), older_bounds)
    return tmp_path


def test_an_older_result_is_refused_with_the_command_that_rewrites_it(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--results", str(old)]) == 2
    assert "expected schema 3, got 2 (`loobench migrate` rewrites older results)" in capsys.readouterr().err


def test_what_was_measured_stays_and_what_was_not_is_unknown(old: Path) -> None:
    assert len(migrate(old)) == 2

    found = results.load_all(old)[0]
    assert found.cells["0"].scores == {"kendall": [0.1, 0.2, 0.333333], "rmse": [1.0, None, 2.0]}
    assert (found.cells["0"].by_query, found.cells["0"].points, found.cells["0"].memory) == ([0.333333], [], None)
    assert (found.cells["1"].status, found.cells["1"].by_query) == ("crashed", [])
    assert results.all_limits(old)[TASK].seeds["0"] == Bounds("u", {"ceiling": [0.333333] * 3}, {}, [])


def test_migrating_twice_changes_nothing(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--results", str(old)]) == 0
    before = {at: at.read_bytes() for at in old.rglob("*.json")}

    assert main(["migrate", "--results", str(old)]) == 0
    assert "0 files" in capsys.readouterr().out.splitlines()[-1]
    assert {at: at.read_bytes() for at in old.rglob("*.json")} == before


@pytest.mark.parametrize("change", ["edited", "too old", "not JSON", "lacks a field"])
def test_a_damaged_result_stops_migration_before_anything_is_written(change: str, old: Path) -> None:
    at = next(old.glob("*/*.json"))
    if change == "not JSON":
        at.write_text(at.read_text()[:100])
    else:
        content = json.loads(at.read_text())
        if change == "lacks a field":
            del content["cells"]["0"]["scores"]
        content.update({"edited": {"protocol": "9.9"}, "too old": {"schema": 1}}.get(change, {}))
        if change != "edited":
            del content["digest"]
            content["digest"] = json_digest(content)
        at.write_text(json.dumps(content))
    before = {path: path.read_bytes() for path in old.rglob("*.json")}

    with pytest.raises(DamagedFile, match=at.name):
        migrate(old)
    assert {path: path.read_bytes() for path in old.rglob("*.json")} == before
