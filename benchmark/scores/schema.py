"""The canonical form of result files and limits as JSON Schema (draft 2020-12), made from the records themselves."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from benchmark.base.records import later
from benchmark.base.text import LONGEST, UNSEEN
from benchmark.scores.checks import ASKED, TEXTS
from benchmark.scores.metrics import METRICS
from benchmark.scores.results import SCHEMA, STATUSES, VERDICTS, Bounds, Cell, Described, Limits, Result, Verification
from benchmark.tasks.questions import QUESTIONS

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
ABOUT = {
    Result: "what one estimator did on one task, seed by seed: results/<task>/<estimator>.json",
    Limits: "what is known of the truths of one task, whoever estimates them: results/<task>.json",
}
LINE: Schema = {"maxLength": LONGEST, "not": {"type": "string", "pattern": UNSEEN}}  # of a string, if it is one
KEYS: Schema = {"propertyNames": {"$ref": "#/$defs/line"}}
UNTYPED: Schema = {"$ref": "#/$defs/untyped"}
SHARED: Schema = {"line": LINE, "untyped": {**LINE, **KEYS, "additionalProperties": UNTYPED, "items": UNTYPED}}
PLAIN: Mapping[Any, Schema] = {
    str: {"type": "string", "$ref": "#/$defs/line"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Any: UNTYPED,
}
SHORTENED: Schema = {"pattern": "^[0-9a-f]{16}([0-9a-f]{48})?$"}
DIGEST: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}  # SHA-256
SEEDS: Schema = {"pattern": "^(0|[1-9][0-9]*)$"}
COUNT: Schema = {"minimum": 0}


def render() -> dict[str, bytes]:
    """The schemas as files: name relative to docs/ -> content."""
    kinds = {"result": Result, "limits": Limits}
    return {f"schema/{name}-{SCHEMA}.json": dumped(document(name, kind)) for name, kind in kinds.items()}


def dumped(content: Schema) -> bytes:
    """A schema as its file has it."""
    return (json.dumps(content, indent=1) + "\n").encode()


def document(name: str, kind: type) -> Schema:
    """The schema of a file: the record's own, with the file's digest beside its fields."""
    record = of_record(kind)
    whole = {"properties": {**record["properties"], "digest": DIGEST}, "required": [*record["required"], "digest"]}
    return {
        "$schema": DIALECT,
        "title": f"loobench {name}, schema {SCHEMA}",
        "description": ABOUT[kind],
        **record,
        **whole,
        "$defs": SHARED,
    }


def of_record(kind: Any) -> Schema:
    """The schema of a frozen record: all fields but those that came later are required, and there are no others."""
    hints, usual = get_type_hints(kind), later(kind)
    names = [field.name for field in fields(kind)]
    narrower = NARROWER.get(kind, {})
    return {
        "type": "object",
        "properties": {name: {**of(hints[name]), **narrower.get(name, {})} for name in names},
        "required": [name for name in names if name not in usual],
        "additionalProperties": False,
    }


def of(kind: Any) -> Schema:
    """The schema of what `records.decode` takes for a type."""
    if is_dataclass(kind):
        return of_record(kind)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        known = of(inner[0])
        nullable = {**known, "type": [known["type"], "null"]}
        return nullable if NoneType in inner else known
    if origin is list:
        return {"type": "array", "items": of(inner[0])}
    if origin is dict:
        return {"type": "object", **KEYS, "additionalProperties": of(inner[1])}
    return dict(PLAIN[kind])


def scores() -> Schema:
    """The metrics whose range is known, each within it."""
    ends = {name: [end for end in sorted((one.best, one.worst)) if abs(end) < float("inf")] for name, one in METRICS.items()}
    curve = of(list[float | None])
    bounded = {
        name: {**curve, "items": {**curve["items"], "minimum": found[0], **({"maximum": found[1]} if found[1:] else {})}}
        for name, found in ends.items()
    }
    return {"properties": bounded}


def task() -> Schema:
    """What of a task's record is shown, and so must be there; its digest stands for all of it."""
    kinds = {"type": "object", **UNTYPED, "properties": {"kind": {"enum": [*QUESTIONS]}}, "required": ["kind"]}
    known = {
        **dict.fromkeys(TEXTS, PLAIN[str]),
        "queries": {"enum": [*ASKED]},
        "query": PLAIN[int],
        "horizons": {"type": "array", "items": PLAIN[int], "minItems": 1},
    }
    return {"properties": {**known, "truth": kinds}, "required": [*known]}


NARROWER: Mapping[Any, Mapping[str, Schema]] = {  # what of a field its type does not say
    Cell: {
        "status": {"enum": [*STATUSES]},
        "scores": scores(),
        **dict.fromkeys(("seconds", "relative_cost", "gradients", "hessian_products", "memory"), COUNT),
        "exact_seconds": {"exclusiveMinimum": 0},
        "exact_gradients": {"minimum": 1},
        "problem": SHORTENED,
        "trajectory": SHORTENED,
        "truth": DIGEST,
        "estimate": {"pattern": "^([0-9a-f]{64})?$"},  # none where the estimator failed
    },
    Described: {"source": DIGEST, "identity": DIGEST},
    Verification: {"verdict": {"enum": [*VERDICTS]}, "of": DIGEST},
    Result: {
        "schema": {"const": SCHEMA},
        "task": task(),
        "task_digest": DIGEST,
        "cells": {"propertyNames": SEEDS},
    },
    Bounds: {"truth": DIGEST},
    Limits: {"schema": {"const": SCHEMA}, "task": task(), "task_digest": DIGEST, "seeds": {"propertyNames": SEEDS}},
}
