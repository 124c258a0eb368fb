"""A record lies in one file: what a synchronising program leaves beside it is named, and nothing is to be overwritten."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic
from test_results import result
from test_submitting import finish
from test_tracking import keep

from benchmark.base.errors import DamagedFile
from benchmark.commands.main import main
from benchmark.core.registry import registered, resolve
from benchmark.scores import results, store
from benchmark.scores.results import Bounds
from benchmark.scores.store import Store
from benchmark.submissions import scaffold, submission
from benchmark.tasks.suites import CORE, TASKS

TASK = "quick-breast-cancer-mlp-sgd"
COPIES = [  # what programs call the other version of grad-dot.json
    "{} (conflicted copy)",
    "{} (Ada's conflicted copy 2026-01-31)",
    "{} (conflicted copy 2026-01-31 120000)",
    "{}.sync-conflict-20260131-120000-ABCDEFG",
    "{}_conflict-20260131-120000",
    "{} (1)",
    "{} 2",
    "{}-DESKTOP-1A2B3C",
    "{} - Copy",
    "Copy of {}",
    "{}.json",
    "{}~HEAD",
    "conflict-{}",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keep(tmp_path / "results", tmp_path / "cache")  # sgd-ie with seeds 0 to 2, and limits of two seeds
    return tmp_path / "results"


def advice(message: str) -> None:
    """Nothing that is said tells to put a file over another."""
    assert "move the others out of" in message
    assert not re.search(r"move (it|them|one|both) (in)?to|rename|replace", message)
    assert "overwrite none by another" in message


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_result_is_said_to_be_one_with_the_seeds_of_each(name: str, folder: Path) -> None:
    at = folder / TASK / "sgd-ie.json"
    copy = at.with_name(f"{name.format('sgd-ie')}.json")
    found = store.load(at)
    copy.write_bytes(store.packed(replace(found, cells={seed: found.cells[seed] for seed in ("0", "2")})))
    with pytest.raises(DamagedFile) as told:
        store.load_all(folder)

    for words in (f"2 files hold the record of {at}", f"{at} has seed 0, 1, 2", f"{copy} has seed 0, 2;"):
        assert words in str(told.value)
    assert "they say the same" not in str(told.value)
    advice(str(told.value))


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_limits_is_said_to_be_one_with_the_seeds_of_each(name: str, folder: Path) -> None:
    at = folder / f"{TASK}.json"
    copy = folder / f"{name.format(TASK)}.json"
    known = store.load_limits(at)
    other = folder.parent / "other"
    Store(other).keep(replace(known, seeds={}).with_seed(5, Bounds("t", {}, {}, [])))
    copy.write_bytes((other / at.name).read_bytes())
    with pytest.raises(DamagedFile) as told:
        store.all_limits(folder)

    for words in (f"2 files hold the record of {at}", f"{at} has seed 0, 1", f"{copy} has seed 5"):
        assert words in str(told.value)
    advice(str(told.value))


def test_it_is_said_what_is_not_the_same_in_both(folder: Path) -> None:
    at = folder / TASK / "sgd-ie.json"
    copy, found = at.with_name("sgd-ie 2.json"), store.load(at)

    def told(other: results.Result) -> str:
        copy.write_bytes(store.packed(other))
        with pytest.raises(DamagedFile) as raised:
            store.load_all(folder)
        return str(raised.value)

    assert "they say the same" in told(found)
    slower = replace(found.cells["1"], gradients=99)
    assert "seed 1 is not the same in all" in told(replace(found, cells={**found.cells, "1": slower}))
    assert "they differ in provenance" in told(replace(found, provenance={"here": {"command": "another"}}))
    assert "seed" in told(replace(found, cells={})).partition("sgd-ie 2.json has seed none")[2]


def test_three_files_of_one_result_are_all_named_and_a_missing_original_gets_none_of_two(folder: Path) -> None:
    at = folder / TASK / "sgd-ie.json"
    for name in ("sgd-ie 2.json", "sgd-ie 3.json"):
        at.with_name(name).write_bytes(at.read_bytes())
    with pytest.raises(DamagedFile, match=r"3 files hold .*sgd-ie 2.json has .*sgd-ie 3.json has .*sgd-ie.json has"):
        store.load_all(folder)
    at.unlink()
    with pytest.raises(DamagedFile, match="2 files hold the record"):
        store.load_all(folder)
    at.with_name("sgd-ie 2.json").unlink()
    with pytest.raises(DamagedFile, match=rf"sgd-ie 3.json holds the record of {at}: move it to {at}$"):  # which is free
        store.load_all(folder)


def test_a_place_that_another_record_has_is_no_place_to_move_to(folder: Path) -> None:
    mine, other = Store(folder).keep(result("sgd-ie")), Store(folder).keep(result("grad-dot"))
    mine.rename(folder / "x")
    other.rename(mine)
    (folder / "x").rename(other)
    with pytest.raises(DamagedFile, match=r"another record lies in .*: move both out of the folder"):
        store.load_all(folder)


def test_a_copy_of_a_whole_folder_and_of_the_manifest_are_found(folder: Path) -> None:
    copy = folder / f"{TASK} (1)"
    copy.mkdir()
    (copy / "sgd-ie.json").write_bytes((folder / TASK / "sgd-ie.json").read_bytes())
    with pytest.raises(DamagedFile, match="2 files hold the record"):
        store.load_all(folder)
    (folder / "manifest (conflicted copy).json").write_text("{}")
    with pytest.raises(DamagedFile, match=r"is a copy of manifest.json, .*: move it out of"):
        store.all_limits(folder)


def test_hidden_files_are_a_systems_own_and_no_results(folder: Path) -> None:
    for name in (
        f"{TASK}/._sgd-ie.json",
        "._limits.json",
        f".stversions/{TASK}/sgd-ie.json",
        ".stversions/sgd-ie~20260131.json",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0\5\x16\7")

    assert [found.estimator.name for found in store.load_all(folder)] == ["sgd-ie"]
    assert [*store.all_limits(folder)] == [TASK]


COMMANDS: dict[str, list[str]] = {
    "report": ["report", "--results", "results", "--board", "b/leaderboard.md"],
    "cite": ["cite", "quick/grad-dot"],
    "plot": ["plot"],
    "score": ["score", "--results", "results"],
    "submit": ["submit", "grad-dot", "--by", "A", "--results", "results"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_reads_the_results_names_both_files_ends_with_2_and_changes_nothing(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = CORE.tasks[0]  # the first that `submit` reads
    blank = results.blank(task, "cpu", registered()["grad-dot"])
    found = blank.with_cell(0, synthetic.cell(task, "grad-dot", 0, 0.6, 0.2), synthetic.PROVENANCE)
    at = Store(Path("results")).keep(found)
    copy = at.with_name("grad-dot (conflicted copy).json")
    copy.write_bytes(at.read_bytes())
    before = {found: found.read_bytes() for found in tmp_path.rglob("*.json")}

    assert main(COMMANDS[command]) == 2
    told = capsys.readouterr().err
    assert f"2 files hold the record of {at}" in told
    assert str(copy) in told
    advice(told)
    assert {found: found.read_bytes() for found in tmp_path.rglob("*.json")} == before


@pytest.mark.parametrize("which", ["grad-dot.json", "grad-dot (conflicted copy).json"])
def test_neither_of_two_files_of_one_result_is_verified(which: str, capsys: pytest.CaptureFixture[str]) -> None:
    at = Store(Path("results")).keep(result("grad-dot"))
    at.with_name("grad-dot (conflicted copy).json").write_bytes(at.read_bytes())

    assert main(["verify", str(at.with_name(which))]) == 2
    told = capsys.readouterr().err
    assert "2 files hold the record" in told
    advice(told)


def test_a_copy_that_was_cut_does_not_hide_the_whole_one(folder: Path) -> None:
    at = folder / TASK / "sgd-ie.json"
    at.with_name("sgd-ie 2.json").write_bytes(at.read_bytes()[:100])
    with pytest.raises(DamagedFile, match=r"sgd-ie 2.json is not a valid result: .* or move it away"):
        store.load_all(folder)
    assert json.loads(at.read_text())["cells"]


def test_a_result_on_another_suite_is_submitted_and_a_copy_beside_it_refused(tmp_path: Path) -> None:
    source = synthetic.authored(scaffold.write("my-estimator", tmp_path)[0])
    (estimator,) = resolve([str(source)])
    finish(source, tmp_path / "results")
    others = [task for task in TASKS.values() if task not in CORE.tasks][:3]  # the last of which has no result
    for task in others[:2]:
        found = results.blank(task, "cpu", estimator)
        cell = synthetic.cell(task, estimator.name, 0, 0.6, 0.2)
        Store(tmp_path / "results").keep(found.with_cell(0, cell, synthetic.PROVENANCE))
    bundle = submission.write(["my-estimator"], tmp_path / "results", source, tmp_path / "out", "A")
    at = tmp_path / "results" / others[0].name / "my-estimator.json"
    at.with_name("my-estimator (1).json").write_bytes(at.read_bytes())

    assert len(bundle.results) == len(CORE.tasks) + 2
    with pytest.raises(DamagedFile, match=f"2 files hold the record of {at}"):
        submission.write(["my-estimator"], tmp_path / "results", source, tmp_path / "out", "A")
