"""Result files: whole, checked, and honest about edits."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.base.files import json_digest, read_tensors, write, write_tensors
from benchmark.base.records import Mismatch
from benchmark.core.registry import registered
from benchmark.scores import results, store
from benchmark.scores.results import Cell, Result
from benchmark.scores.store import Store
from benchmark.tasks.suites import TASKS

CELL = Cell(
    status="ok",
    message="",
    scores={"kendall": [0.1, 0.2, 0.3], "rmse": [1.0, None, 2.0]},
    by_query=[0.3],
    points=[0.5, -1.0],
    seconds=0.5,
    exact_seconds=2.0,
    relative_cost=0.25,
    gradients=10,
    hessian_products=0,
    memory=4096,
    exact_gradients=100,
    notes={"residual": 1e-12, "iterations": 7.0},
    problem="p",
    trajectory="t",
    truth="u",
    estimate="e",
    weight_decay=0.01,
    provenance="here",
)


def result(name: str = "sgd-ie", task: str = "quick-breast-cancer-mlp-sgd") -> Result:
    blank = results.blank(TASKS[task], "cpu", registered()[name])
    return blank.with_cell(0, CELL, {"command": "loobench run"}).with_cell(1, CELL, {"command": "loobench run"})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return Store(tmp_path / "results").keep(result())


def edit(at: Path, change: Callable[[dict[str, Any]], Any], *, fresh_digest: bool) -> None:
    content = json.loads(at.read_text())
    change(content)
    if fresh_digest:
        content.pop("digest", None)
        content["digest"] = json_digest(content)
    at.write_text(json.dumps(content))


def test_what_is_saved_is_what_is_loaded(saved: Path, tmp_path: Path) -> None:
    assert saved == tmp_path / "results" / "quick-breast-cancer-mlp-sgd" / "sgd-ie.json"
    assert store.load(saved) == result()
    assert store.load_all(tmp_path / "results") == [result()]


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_an_error_that_names_it_and_says_what_to_do(share: float, saved: Path) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(DamagedFile, match=r"sgd-ie.json is not a valid result: .*restore it"):
        store.load(saved)


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a score": lambda c: c["cells"]["0"]["scores"]["kendall"].__setitem__(2, 0.99),
    "a cost": lambda c: c["cells"]["1"].update(relative_cost=0.01),
    "a seed": lambda c: c["cells"].pop("1"),
    "a setting": lambda c: c["estimator"]["settings"].update(curvature=False),
    "the protocol": lambda c: c.update(protocol="0"),
    "the commit": lambda c: c["provenance"]["here"].update(command="another"),
    "the digest": lambda c: c.update(digest="0" * 64),
    "no digest": lambda c: c.pop("digest"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_by_hand_is_found(name: str, saved: Path) -> None:
    edit(saved, EDITS[name], fresh_digest=False)

    with pytest.raises(DamagedFile, match="was edited: its digest says"):
        store.load(saved)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "schema": (lambda c: c.update(schema=5), "expected schema 4, got 5 .a newer"),
    "older schema": (lambda c: c.update(schema=2), "expected schema 4, got 2 .`loobench migrate` rewrites"),
    "missing": (lambda c: c["cells"]["0"].pop("truth"), r"result.cells.0: missing truth"),
    "unknown": (lambda c: c.update(extra=1), "result: unknown extra"),
    "type": (lambda c: c["cells"]["0"].update(seconds="fast"), "result.cells.0.seconds: expected float, got 'fast'"),
    "bool": (lambda c: c["cells"]["0"].update(gradients=True), "result.cells.0.gradients: expected int, got True"),
    "infinite": (lambda c: c["cells"]["0"].update(seconds="Infinity"), "seconds: expected float"),
    "status": (lambda c: c["cells"]["0"].update(status="fine"), "status: expected one of ok, unsupported"),
    "horizons": (
        lambda c: c["cells"]["0"]["scores"].update(kendall=[1.0]),
        "expected 3 horizons, got another number for kendall",
    ),
    "scores": (lambda c: c["cells"]["0"].update(scores={}), "expected scores where the status is ok"),
    "seed": (lambda c: c["cells"].update({"01": c["cells"]["0"]}), "result.cells.01: expected a seed number"),
    "provenance": (lambda c: c["cells"]["0"].update(provenance="x"), "expected a key of result.provenance, got 'x'"),
    "task": (lambda c: c["task"].pop("suite"), "expected a task record"),
    "another task": (lambda c: c["task"].update(epochs=11), "result.task_digest: the task record has"),
    "a list": (lambda c: c.update(cells=[]), "result.cells: expected dict"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_an_error_that_says_where_even_with_a_fresh_digest(name: str, saved: Path) -> None:
    change, message = WRONG[name]
    edit(saved, change, fresh_digest=True)

    with pytest.raises(DamagedFile, match=message):
        store.load(saved)


def test_what_is_not_valid_is_not_written(tmp_path: Path) -> None:
    bad = result().with_cell(0, replace(CELL, seconds=float("nan")), {})

    with pytest.raises(Mismatch, match="seconds"):
        Store(tmp_path).keep(bad)
    assert not list(tmp_path.rglob("*.json"))


def test_random_damage_is_found_or_harmless_and_never_a_crash(saved: Path) -> None:
    content = saved.read_bytes()
    random = np.random.RandomState(4)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[random.randint(len(damaged))] ^= 1 << random.randint(8)
        saved.write_bytes(damaged)
        with suppress(DamagedFile):
            assert store.load(saved) == result()  # a changed blank


def test_a_file_in_the_wrong_place_is_an_error(saved: Path, tmp_path: Path) -> None:
    saved.rename(saved.with_name("grad-dot.json"))

    with pytest.raises(DamagedFile, match="move it to"):
        store.load_all(tmp_path / "results")


def test_seeds_are_pooled_only_under_the_same_question() -> None:
    one = result()
    other = replace(one, estimator=replace(one.estimator, source="changed"))

    assert one.same_question(result())
    assert not one.same_question(other)
    assert not one.same_question(replace(one, device="cuda"))
    assert not one.same_question(replace(one, task_digest="changed"))
    assert not one.same_question(replace(one, protocol="0.9"))
    assert one.same_question(replace(one, provenance={"other": {"harness": "changed"}}))  # what guards numbers is the protocol
    assert replace(one, device="cuda").name == "quick-breast-cancer-mlp-sgd-cuda"


def test_a_full_disk_leaves_the_old_file_and_no_rest(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr("benchmark.base.files.os.fsync", full)
    with pytest.raises(LoobenchError, match=r"cannot write .*No space left on device"):
        write(saved, b"new")

    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_tensors_and_facts_come_back_and_other_files_are_refused(tmp_path: Path) -> None:
    import torch

    write_tensors(tmp_path / "a", {"x": torch.arange(3.0).flip(0)}, {"n": 1, "s": "é"})
    tensors, facts = read_tensors(tmp_path / "a")
    assert (tensors["x"].tolist(), facts) == ([2.0, 1.0, 0.0], {"n": 1, "s": "é"})
    for content in (b"", b"\x80\x04N.", b"\xff" * 64, (tmp_path / "a").read_bytes()[:-1]):
        (tmp_path / "b").write_bytes(content)
        with pytest.raises(DamagedFile, match="not a whole safetensors file"):
            read_tensors(tmp_path / "b")
