"""Frozen records to JSON and back, with every field checked on the way in."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from math import isfinite
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from benchmark.base.errors import LoobenchError
from benchmark.base.text import LONGEST, is_line, line, quoted

LARGEST = 2**63  # an integer is below it, so that every program can count with it
PLAIN = {str, int, float, bool}
DEEPEST = 16  # lists and objects in one another, of what has no type


class Mismatch(LoobenchError, ValueError):
    """A JSON value does not have the type of its field; the message says where, what was expected and what came."""


def decode(kind: Any, value: Any, where: str = "file") -> Any:
    """`value` as `kind`: a dataclass, list, dict with string keys, union with None, or str, int, float, bool, Any.

    Every string and every key, at whatever depth, must be one printable line of bounded length.
    """
    return _decoder(kind)(value, where)


@cache
def _decoder(kind: Any) -> Callable[[Any, str], Any]:
    """What decodes a kind of value: found once, for there are many values of few kinds."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return partial(_plain, kind)
    if kind is Any:
        return _untyped
    if is_dataclass(kind):
        return partial(_record, kind)
    if origin is UnionType:
        return partial(_either, _decoder(inner[0]), NoneType in inner)
    if origin is list:
        return _numbers if inner[0] is float else partial(_list, _decoder(inner[0]))
    return partial(_dict, _decoder(inner[1]))


def _either(of: Callable[[Any, str], Any], nothing: bool, value: Any, where: str) -> Any:
    return None if value is None and nothing else of(value, where)


def _numbers(value: Any, where: str) -> list[float]:
    if type(value) is list and all(type(item) is float and isfinite(item) for item in value):
        return [*value]
    return _list(_decoder(float), value, where)


def _list(of: Callable[[Any, str], Any], value: Any, where: str) -> list[Any]:
    return [of(item, f"{where}[{i}]") for i, item in enumerate(_expect(list, value, where))]


def _dict(of: Callable[[Any, str], Any], value: Any, where: str) -> dict[str, Any]:
    return {key: of(item, f"{where}.{key}") for key, item in _keyed(value, where).items()}


def _record(kind: Any, value: Any, where: str) -> Any:
    of, found = _fields(kind), _expect(dict, value, where)
    if problems := list(_differences(kind, set(found))):
        raise Mismatch(f"{where}: {'; '.join(problems)}")
    return kind(**{name: of[name](one, f"{where}.{name}") for name, one in found.items()})


@cache
def _fields(kind: Any) -> dict[str, Callable[[Any, str], Any]]:
    """What decodes each field of a record."""
    hints = get_type_hints(kind)
    return {one.name: _decoder(hints[one.name]) for one in fields(kind)}


def _differences(kind: Any, found: set[str]) -> Iterator[str]:
    names, usual = _fields(kind).keys(), later(kind)
    if missing := names - found - usual.keys():
        yield f"missing {', '.join(sorted(missing))}"
    if extra := found - names:
        yield f"unknown {line(', '.join(sorted(extra)), 100)}"


@cache
def later(kind: Any) -> dict[str, Any]:
    """The fields of a record that came after its schema, with the value that stands for how it was: they have a default."""
    return {field.name: field.default for field in fields(kind) if field.default is not MISSING}


def values(record: Any) -> dict[str, Any]:
    """The fields of a record as they are, without what it remembers beside them."""
    kind: Any = type(record)
    return {name: getattr(record, name) for name in _names(kind)}


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def encode(record: Any) -> dict[str, Any]:
    """A record as a JSON value; fields that came `later` are left out where they have their default, so that digests hold."""
    kind: Any = type(record)
    usual = later(kind)
    kept = {name: one for name, one in values(record).items() if name not in usual or one != usual[name]}
    return {name: encode(one) if is_dataclass(one) else _whole(one) for name, one in kept.items()}


def _whole(value: Any) -> Any:
    """A copy of what is in a record: records in lists and dicts with all of their fields. Faster than dataclasses.asdict."""
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_whole, value))
    return {name: _whole(one) for name, one in values(value).items()} if is_dataclass(value) else value


def _plain(kind: type, value: Any, where: str) -> Any:
    small = not isinstance(value, int) or abs(value) < LARGEST
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and small and isfinite(value):
        return float(value)
    if kind is float or type(value) is not kind or not small:
        raise Mismatch(f"{where}: expected {kind.__name__}, got {quoted(value)}")
    return _line(value, where) if isinstance(value, str) else value


def _untyped(value: Any, where: str, depth: int = 1) -> Any:
    """A JSON value of any type, whose strings and numbers are as those of records."""
    if isinstance(value, dict | list | tuple) and depth > DEEPEST:
        raise Mismatch(f"{where}: expected at most {DEEPEST} lists and objects in one another")
    if isinstance(value, dict):
        return {key: _untyped(item, f"{where}.{key}", depth + 1) for key, item in _keyed(value, where).items()}
    if isinstance(value, list | tuple):
        return [_untyped(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    return value if value is None else _plain(type(value), value, where)


def _keyed(value: Any, where: str) -> dict[str, Any]:
    """A JSON object, whose keys are lines."""
    found: dict[str, Any] = _expect(dict, value, where)
    for key in found:
        _line(key, f"{where}, a key")
    return found


def _line(text: str, where: str) -> str:
    if not is_line(text):
        rule = f"one line of at most {LONGEST} printable characters, none hidden"
        raise Mismatch(f"{where}: expected {rule}, got {quoted(text)}")
    return text


def _expect(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind):
        raise Mismatch(f"{where}: expected {kind.__name__}, got {quoted(value)}")
    return value
