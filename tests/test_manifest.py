"""Nothing that is published changes silently: results/manifest.json and `loobench audit`."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_board import TWO, answers, changed, limits, of_protocol, scored, taus

from benchmark import PROTOCOL
from benchmark.base.errors import DamagedFile
from benchmark.commands.main import main
from benchmark.publishing import manifest, page
from benchmark.scores import store
from benchmark.scores.results import Result
from benchmark.scores.store import Store
from benchmark.tasks.definition import record_digest

FOLDER = Path("results")


@pytest.fixture(autouse=True)
def _without_the_charting_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than all else."""
    monkeypatch.setattr(page, "library", lambda: b"")


def save(*made: Result) -> list[Path]:
    """Write results into the folder of the test."""
    return [Store(FOLDER).keep(one) for one in made]


def now() -> manifest.Manifest:
    """The manifest of what is in the folder."""
    return manifest.manifest(FOLDER, store.load_all(FOLDER))


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that were printed as errors."""
    return [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


# ---- what it says ----------------------------------------------------------------------------------------------------
def test_it_has_a_line_for_each_file_with_its_sum_version_task_and_scores() -> None:
    [at] = save(answers("sgd-ie", TWO[0], *taus(0.5, 0.123456789, 0.25)))
    Store(FOLDER).keep(limits(TWO[0], {"ceiling": [0.5]})[TWO[0]])
    made = store.load(at)
    assert main(["report", "--publish"]) == 0
    content = json.loads((FOLDER / "manifest.json").read_text())
    sums = {str(path): subprocess.check_output(["sha256sum", path], text=True).split()[0] for path in FOLDER.rglob("*.json")}

    name = f"{TWO[0]}/sgd-ie.json"
    assert content["results"] == {
        name: {
            "sha256": sums[f"results/{name}"],
            "version": "1",
            "task": made.task_digest[:12],
            "scores": {"0": 0.5, "1": 0.123457, "2": 0.25},
        }
    }
    assert content["limits"] == {f"{TWO[0]}.json": {"sha256": sums[f"results/{TWO[0]}.json"]}}
    assert sum(name in line for line in (FOLDER / "manifest.json").read_text().splitlines()) == 1
    assert manifest.load(FOLDER) == now()


def test_a_failed_seed_has_no_score() -> None:
    save(changed(scored("sgd-ie", 0.5, 0.6), 1, status="crashed", scores={}, by_query=[]))

    assert now().results[f"{TWO[0]}/sgd-ie.json"].scores == {"0": 0.5, "1": None}


def test_the_manifest_of_the_published_results_is_below_a_megabyte() -> None:
    at = Path(__file__).resolve().parents[1] / "results" / "manifest.json"

    assert at.stat().st_size < 1_000_000
    assert len(json.loads(at.read_text())["results"]) > 1000


# ---- files that change without it ------------------------------------------------------------------------------------
CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "changed": (lambda: save(changed(scored("sgd-ie", 0.5, 0.6), 0, estimate="other")), f"{TWO[0]}/sgd-ie.json was changed"),
    "spaces": (lambda: spaced(FOLDER / TWO[0] / "sgd-ie.json"), f"{TWO[0]}/sgd-ie.json was changed"),
    "added": (lambda: save(scored("theirs", 0.9)), f"{TWO[0]}/theirs.json was added"),
    "deleted": (lambda: (FOLDER / TWO[0] / "loss.json").unlink(), f"{TWO[0]}/loss.json was deleted"),
    "limits": (lambda: Store(FOLDER).keep(limits(TWO[0], {"ceiling": [1.0]})[TWO[0]]), f"{TWO[0]}.json was changed"),
    "no limits": (lambda: (FOLDER / f"{TWO[0]}.json").unlink(), f"{TWO[0]}.json was deleted"),
    "no manifest": (lambda: (FOLDER / "manifest.json").unlink(), "manifest.json is missing"),
    "a score in the manifest": (lambda: edited("0.5", "0.4999"), "manifest.json says of files what they do not"),
}


def spaced(at: Path) -> None:
    """Give a file a space more, which changes nothing of its content."""
    at.write_bytes(at.read_bytes().replace(b": ", b":  ", 1))


def edited(before: str, after: str) -> None:
    """Change the manifest."""
    at = FOLDER / "manifest.json"
    assert before in at.read_text()
    at.write_text(at.read_text().replace(before, after, 1))


def published() -> None:
    """Two results and limits, with their board and manifest."""
    save(scored("sgd-ie", 0.5, 0.6), scored("loss", 0.1, 0.2))
    Store(FOLDER).keep(limits(TWO[0], {"ceiling": [0.5]})[TWO[0]])
    assert main(["report", "--publish"]) == 0
    assert main(["report", "--check"]) == 0


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_changes_without_the_manifest_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    published()
    change, said = CHANGES[name]
    change()

    assert main(["report", "--check"]) == 1
    assert sum(line.startswith(said) for line in errors(capsys)) == 1
    assert main(["report", "--publish"]) == 0
    assert main(["report", "--check"]) == 0


def test_no_more_than_twenty_lines_are_printed_and_then_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    published()
    save(*(scored(f"e{at}", 0.3) for at in range(27)))

    assert main(["report", "--check"]) == 1
    lines = errors(capsys)
    assert sum("was added without manifest.json" in line for line in lines) == 20
    assert "and 7 more" in lines


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"format":9,"results":{},"limits":{}}', b'{"format":1}', b"\xff"])
def test_a_damaged_manifest_is_an_error_that_names_it(content: bytes) -> None:
    published()
    (FOLDER / "manifest.json").write_bytes(content)

    with pytest.raises(DamagedFile, match=r"results/manifest.json.*restore it"):
        manifest.load(FOLDER)
    assert main(["report", "--publish"]) == main(["report", "--check"]) == 2


# ---- scores ----------------------------------------------------------------------------------------------------------
def raised(made: Result, version: str = "2") -> Result:
    """The result of a later version of its estimator."""
    return replace(made, estimator=replace(made.estimator, version=version))


SILENT = {
    "better": (scored("sgd-ie", 0.5, 0.6011), "seed 1 changed from 0.6000 to 0.6011"),
    "worse": (scored("sgd-ie", 0.3, 0.6), "seed 0 changed from 0.5000 to 0.3000"),
    "gone": (scored("sgd-ie", 0.5), "seed 1 is gone"),
    "failed": (changed(scored("sgd-ie", 0.5, 0.6), 1, status="crashed", scores={}), "seed 1 changed from 0.6000 to no score"),
}
LOUD = {
    "rounding": scored("sgd-ie", 0.5, 0.6009),
    "a version": raised(scored("sgd-ie", 0.7, 0.8)),
    "another protocol": of_protocol(scored("sgd-ie", 0.7, 0.8), "9.9"),
    "a seed more": scored("sgd-ie", 0.5, 0.6, 0.9),
}


@pytest.mark.parametrize("name", SILENT)
def test_a_published_score_that_changes_without_a_new_version_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    published()
    before = {at: at.read_bytes() for at in (FOLDER / "manifest.json", Path("leaderboard.md"))}
    other, said = SILENT[name]
    save(other)

    for arguments in (["report", "--publish"], ["report", "--check"]):
        assert main(arguments) == 1
        [line] = [line for line in errors(capsys) if "not the estimator's version" in line]
        assert line.startswith(f"{TWO[0]}/sgd-ie.json: {said}, but")
        assert "raise `version=` in its @estimator" in line
    assert {at: at.read_bytes() for at in before} == before


@pytest.mark.parametrize("name", LOUD)
def test_a_score_may_change_with_the_version_or_the_protocol_and_by_rounding(name: str) -> None:
    published()
    save(LOUD[name])

    assert main(["report", "--publish"]) == 0
    assert main(["report", "--check"]) == 0


# ---- what another protocol computed ----------------------------------------------------------------------------------
def test_a_row_of_another_protocol_is_stale_on_the_board_and_refused_for_a_release(capsys: pytest.CaptureFixture[str]) -> None:
    save(scored("sgd-ie", 0.5, 0.6), of_protocol(scored("loss", 0.5, 0.6, task=TWO[1]), "1.0"))
    assert main(["report", "--publish"]) == 0
    marked = [line for line in Path("leaderboard.md").read_text().splitlines() if line.startswith("| ") and "stale" in line]

    assert any("loss" in line for line in marked)
    assert not any("sgd-ie" in line for line in marked)
    assert main(["report", "--check"]) == 0
    assert main(["report", "--check", "--release"]) == 1
    assert errors(capsys)[-1] == f"{TWO[1]} loss is stale: of protocol 1.0, here is {PROTOCOL}: compute it again"


def test_limits_of_another_protocol_are_stale_too(capsys: pytest.CaptureFixture[str]) -> None:
    save(scored("sgd-ie", 0.5, 0.6))
    known = limits(TWO[1], {"ceiling": [0.5]})[TWO[1]]
    Store(FOLDER).keep(replace(known, protocol="1.0", task_digest=record_digest(known.task, "1.0")))
    assert main(["report", "--publish"]) == 0

    assert main(["report", "--check", "--release"]) == 1
    assert f"the file of limits of {TWO[1]} is stale" in errors(capsys)[-1]


def test_a_release_is_no_other_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--release"]) == 2
    assert "--release goes with --check" in capsys.readouterr().err
