"""The committed JSON Schema is that of the records: it takes every published file, and refuses what our reader refuses."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.base.files import json_digest
from benchmark.base.records import Mismatch
from benchmark.scores import checks, results, schema, store
from benchmark.scores.results import Limits, Result

ROOT = Path(__file__).resolve().parents[1]
RESULTS, LIMITS = store.result_files(ROOT / "results"), store.limit_files(ROOT / "results")
EVERY = 5  # of the results is validated where time is short


def validator(name: str) -> Any:
    """The validator of a committed schema."""
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    content = json.loads((ROOT / "docs" / "schema" / f"{name}-{results.SCHEMA}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


def wrong(name: str, files: list[Path]) -> list[str]:
    """What the files of a kind have against their schema."""
    check = validator(name)
    return [f"{at.name}: {one.message}" for at in files for one in check.iter_errors(json.loads(at.read_text()))]


def test_the_committed_schemas_are_those_of_the_records() -> None:
    for name, content in schema.render().items():
        assert (ROOT / "docs" / name).read_bytes() == content, f"run `loobench report`: {name}"


def test_published_results_and_limits_are_as_the_schema_says() -> None:
    assert wrong("result", RESULTS[::EVERY]) == []
    assert wrong("limits", LIMITS) == []
    assert len(RESULTS) > 1000


@pytest.mark.slow
def test_every_published_result_is_as_the_schema_says() -> None:
    assert wrong("result", RESULTS) == []


def changed(at: Path, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The content of a file with a change, and a digest that fits it."""
    content = json.loads(at.read_text())
    change(content)
    content.pop("digest", None)
    return {**content, "digest": json_digest(content)}


def cell(content: dict[str, Any]) -> dict[str, Any]:
    """The first cell."""
    found: dict[str, Any] = content["cells"]["0"]
    return found


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another schema": lambda c: c.update(schema=2),
    "a field less": lambda c: c.pop("device"),
    "a field more": lambda c: c.update(extra=1),
    "a field less in a cell": lambda c: cell(c).pop("truth"),
    "a field more in a cell": lambda c: cell(c).update(rank=1),
    "a word for a number": lambda c: cell(c).update(seconds="fast"),
    "a bool for a count": lambda c: cell(c).update(gradients=True),
    "a part of a count": lambda c: cell(c).update(gradients=1.5),
    "an unknown status": lambda c: cell(c).update(status="fine"),
    "a seed that is no number": lambda c: c["cells"].update({"01": cell(c)}),
    "cells in a list": lambda c: c.update(cells=[]),
    "no number of seconds": lambda c: cell(c).update(seconds=None),
    "a score that is a word": lambda c: cell(c)["by_query"].append("good"),
    "a score that is out of range": lambda c: cell(c)["scores"].update(kendall=[1.01] * 10),
    "a cost below zero": lambda c: cell(c).update(relative_cost=-0.5),
    "no exact gradients": lambda c: cell(c).update(exact_gradients=0),
    "a task without its suite": lambda c: c["task"].pop("suite"),
    "a task with horizons in words": lambda c: c["task"].update(horizons=["ten"]),
    "a task with an unknown truth": lambda c: c["task"].update(truth={"kind": "guess"}),
    "an estimator without a name": lambda c: c["estimator"].pop("name"),
    "a version in numbers": lambda c: c["estimator"].update(version=2),
    "settings in a list": lambda c: c["estimator"].update(settings=[]),
    "a claim without its author": lambda c: c.update(claimed={"value": 0.5, "when": "now", "environment": "Linux"}),
    "an unknown verdict": lambda c: c.update(verified={**VERIFIED, "verdict": "good"}),
    "a verification without a nonce": lambda c: c.update(verified={k: v for k, v in VERIFIED.items() if k != "nonce"}),
}
VERIFIED = {
    "verdict": "verified",
    "value": 0.5,
    "fresh": None,
    "largest_difference": 0.0,
    "seeds": ["0"],
    "nonce": "n",
    "by": "us",
    "when": "2026-11-01T00:00:00Z",
    "environment": "Linux",
    "of": "0" * 64,
}
CLAIMED = {"value": None, "by": "a stranger", "when": "2026-11-01T00:00:00Z", "environment": "Linux"}


@pytest.mark.parametrize("name", WRONG)
def test_what_our_reader_refuses_for_its_form_the_schema_refuses_too(name: str) -> None:
    at = RESULTS[0]
    content = changed(at, WRONG[name])

    assert not validator("result").is_valid(content)
    with pytest.raises(Mismatch):
        checks.check({key: value for key, value in copy.deepcopy(content).items() if key != "digest"}, Result)


def test_claims_and_verifications_and_versions_are_allowed_and_not_required() -> None:
    check = validator("result")
    whole = changed(RESULTS[0], lambda c: (c.update(claimed=CLAIMED, verified=VERIFIED), c["estimator"].update(version="2")))

    assert check.is_valid(whole)
    assert checks.check({key: value for key, value in whole.items() if key != "digest"}, Result).verified
    assert not check.is_valid({key: value for key, value in whole.items() if key != "digest"})


LIMITS_WRONG: list[Callable[[dict[str, Any]], Any]] = [
    lambda c: c.pop("seeds"),
    lambda c: c.update(extra=1),
    lambda c: c.update(seeds={"0": {}}),
    lambda c: c["seeds"].update(first=c["seeds"]["0"]),
]


@pytest.mark.parametrize("change", LIMITS_WRONG)
def test_limits_of_another_form_are_refused_by_both(change: Callable[[dict[str, Any]], Any]) -> None:
    content = changed(LIMITS[0], change)

    assert not validator("limits").is_valid(content)
    with pytest.raises(Mismatch):
        checks.check({key: value for key, value in content.items() if key != "digest"}, Limits)
