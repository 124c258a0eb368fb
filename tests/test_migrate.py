"""Results of an older schema are rewritten without losing or inventing anything."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.base import git
from benchmark.base.errors import DamagedFile
from benchmark.base.files import digest, json_digest
from benchmark.base.records import encode
from benchmark.commands.main import main
from benchmark.core import registry
from benchmark.core.registry import registered
from benchmark.core.syntax import source_digest
from benchmark.scores import migrate as module
from benchmark.scores import results, store
from benchmark.scores.migrate import migrate
from benchmark.scores.results import Bounds, Cell, Claim, Verification
from benchmark.scores.store import Store
from benchmark.tasks.suites import TASKS

ROOT = Path(__file__).resolve().parents[1]
AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@example.org")
TASK = "quick-breast-cancer-mlp-sgd"
SCORES = {"kendall": [0.1, 0.2, 1 / 3], "rmse": [1.0, None, 2.0]}


def cell(status: str = "ok") -> Cell:
    scores: Any = SCORES if status == "ok" else {}
    return Cell(status, "", scores, [0.333333], [0.1], 0.5, 2.0, 0.25, 10, 0, 99, 100, {}, "p", "t", "u", "e", 0.01, "here")


def as_before(at: Path, change: Any, schema: int = 2) -> None:
    """Make a file one of an older schema."""
    content = json.loads(at.read_text())
    del content["digest"]
    change(content)
    content["schema"] = schema
    at.write_text(json.dumps({**content, "digest": json_digest(content)}))


def older_cells(content: dict[str, Any]) -> None:
    of_bytes(content)
    for found in content["cells"].values():
        del found["by_query"], found["points"], found["memory"]


def of_bytes(content: dict[str, Any]) -> None:
    """A result as schema 3 has it: its source is known by its bytes, and the harness is beside it."""
    content["harness"] = "f" * 64
    for made in content["provenance"].values():
        made.pop("harness", None)
    told = content["estimator"]
    told["source"] = digest((ROOT / registry.sources()[told["name"]]).read_bytes())
    told["identity"] = json_digest({name: told[name] for name in ("name", "settings", "source")})


def older_bounds(content: dict[str, Any]) -> None:
    for found in content["seeds"].values():
        del found["points"]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    blank = results.blank(TASKS[TASK], "cpu", registered()["sgd-ie"])
    made = blank.with_cell(0, cell(), {"command": "c"}).with_cell(1, cell("crashed"), {"command": "c"})
    as_before(Store(tmp_path).keep(made), older_cells)
    limits = results.no_limits(TASKS[TASK], "cpu").with_seed(0, Bounds("u", {"ceiling": [1 / 3] * 3}, {}, [1.0]))
    Store(tmp_path).keep(limits)
    as_before(Store(tmp_path).at(limits), older_bounds)
    return tmp_path


def test_an_older_result_is_refused_with_the_command_that_rewrites_it(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--results", str(old)]) == 2
    assert "expected schema 4, got 2 (`loobench migrate` rewrites older results)" in capsys.readouterr().err


def test_what_was_measured_stays_and_what_was_not_is_unknown(old: Path) -> None:
    assert len(migrate(old)) == 2

    found = store.load_all(old)[0]
    assert found.cells["0"].scores == {"kendall": [0.1, 0.2, 0.333333], "rmse": [1.0, None, 2.0]}
    assert (found.cells["0"].by_query, found.cells["0"].points, found.cells["0"].memory) == ([0.333333], [], None)
    assert (found.cells["1"].status, found.cells["1"].by_query) == ("crashed", [])
    assert store.all_limits(old)[TASK].seeds["0"] == Bounds("u", {"ceiling": [0.333333] * 3}, {}, [])


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


# ---- from schema 3 ---------------------------------------------------------------------------------------------------
def of_schema_3(folder: Path, name: str = "sgd-ie", **fields: Any) -> Path:
    made = replace(results.blank(TASKS[TASK], "cpu", registered()[name]).with_cell(0, cell(), {"command": "c"}), **fields)
    at = Store(folder).keep(made)
    as_before(at, of_bytes, 3)
    return at


def edited(at: Path, **changes: str) -> None:
    """Change what a file says of its estimator, digest and all."""
    content = json.loads(at.read_text())
    del content["digest"]
    content["estimator"].update(changes)
    at.write_text(json.dumps({**content, "digest": json_digest(content)}))


def test_a_source_is_then_known_by_what_it_computes_and_the_harness_is_provenance(tmp_path: Path) -> None:
    at = of_schema_3(tmp_path)
    before = json.loads(at.read_text())
    assert migrate(tmp_path) == [at]

    found = store.load(at)
    assert (found.estimator.source, found.estimator.identity) == (
        registered()["sgd-ie"].source,
        registered()["sgd-ie"].identity(),
    )
    assert found.same_question(results.blank(TASKS[TASK], "cpu", registered()["sgd-ie"]))
    assert [made["harness"] for made in found.provenance.values()] == ["f" * 16]
    assert json.loads(at.read_text())["cells"] == before["cells"]


@pytest.mark.parametrize("holds", [True, False])
def test_a_verification_holds_after_it_if_it_did_before(holds: bool, tmp_path: Path) -> None:
    claim = Claim(0.333333, "ada", "2026-01-01T00:00:00+00:00", "Linux")
    at = of_schema_3(tmp_path, claimed=claim)
    content = json.loads(at.read_text())
    rest = {name: value for name, value in content.items() if name not in ("digest", "claimed", "verified")}
    of = json_digest(rest) if holds else "0" * 64
    told = Verification("verified", 0.3, 0.3, 0.0, ["0"], "ab", "bob", "2026-01-02T00:00:00+00:00", "Linux", of)
    content = {**rest, "claimed": encode(claim), "verified": encode(told)}
    at.write_text(json.dumps({**content, "digest": json_digest(content)}))
    migrate(tmp_path)

    assert store.load(at).trusted == holds


def test_a_source_that_is_nowhere_stops_migration_and_a_file_that_is_given_lets_it_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "mine.py"
    source.write_text("x = 1\n")
    at = of_schema_3(tmp_path / "results")
    edited(at, source=digest(source.read_bytes()))
    before = at.read_bytes()

    assert main(["migrate", "--results", str(tmp_path / "results")]) == 2
    assert "name it by --estimator FILE.py" in capsys.readouterr().err
    assert at.read_bytes() == before
    assert main(["migrate", "--results", str(tmp_path / "results"), "--estimator", str(source)]) == 0
    assert store.load(at).estimator.source == source_digest(b"x = 1\n")


def test_an_older_version_of_a_source_is_found_in_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = b"x = 1  # as it was\n"
    (checkout := tmp_path / "checkout" / "estimators").mkdir(parents=True)
    for text in (old, b"x = 2\n"):
        (checkout / "mine.py").write_bytes(text)
        for command in (["init", "--quiet"], ["add", "."], [*AUTHOR, "commit", "--quiet", "--message", "x"]):
            git.run(checkout.parent, *command)
    monkeypatch.setattr(module, "ROOT", checkout.parent)
    module._history.cache_clear()
    at = of_schema_3(tmp_path / "results")
    edited(at, source=digest(old))
    migrate(tmp_path / "results")
    module._history.cache_clear()

    assert store.load(at).estimator.source == source_digest(b"x = 1\n")
