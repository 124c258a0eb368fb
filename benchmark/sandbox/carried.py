"""An estimator as bytes and back, for another machine: by name where it is registered, else with the text of its file."""

import importlib
from collections.abc import Iterable
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmark.base.errors import LoobenchError
from benchmark.base.files import digest, pack, unpack, write
from benchmark.core import declaration, registry
from benchmark.core.declaration import Estimator
from benchmark.core.syntax import source_digest
from benchmark.sandbox import client
from benchmark.sandbox.process import Allowance, server
from benchmark.sandbox.session import Confined

OF_FILES = "submitted_"  # how the names of modules begin that `registry.load` makes of files


def encode(estimator: Estimator) -> bytes:
    """An estimator as bytes."""
    return pack({}, {"name": estimator.name, "identity": estimator.identity(), **_where(estimator)})


def _where(estimator: Estimator) -> dict[str, Any]:
    """Where the other machine finds it."""
    function = estimator.function
    if isinstance(function, Confined):
        declared = {part.name: getattr(estimator, part.name) for part in fields(Estimator) if part.name != "function"}
        plain = {name: value for name, value in vars(function).items() if name not in ("source", "allowance")}
        return {"confined": {**plain, **_text(function.source), **asdict(function.allowance)}, "declared": declared}
    if estimator.name in registry.registered():
        return {}
    module = str(function.__module__)
    if not module.startswith(OF_FILES):
        return {"package": module}
    return {"file": Path(estimator.file).name, **_text(client.source(estimator))}


def _text(source: bytes) -> dict[str, str]:
    return {"source": source.decode("latin-1")}


def decode(content: bytes) -> Estimator:
    """The estimator of `encode`, confined if it was, with the same allowance; the code of a file that was not runs here.

    Raises LoobenchError where this machine lacks it, a library that it needs, or a sandbox for it.
    """
    facts = unpack(content, "an estimator")[1]
    found = {one.name: one for one in _declared(facts, digest(content))}.get(facts["name"])
    if found is None or found.identity() != facts["identity"]:
        raise LoobenchError(f"the estimator {facts['name']} is another or absent here: install the same on all machines")
    if found.missing:
        raise LoobenchError(f"{found.name} needs {found.missing}")
    return found


def _declared(facts: dict[str, Any], name: str) -> Iterable[Estimator]:
    """The estimators of where one is; `name` is that of a folder for its file."""
    if "confined" in facts:
        return [_confined(facts["declared"], **facts["confined"])]
    if "package" in facts:
        return _of_package(facts["package"])
    if "file" in facts:
        at = Path(_folder().name) / name / facts["file"]
        at.parent.mkdir(exist_ok=True)
        write(at, facts["source"].encode("latin-1"))
        return registry.load(at).values()
    return registry.registered().values()


def _confined(
    declared: dict[str, Any], *, file: str, source: str, module: str | None, library: str | None, seconds: float, memory: int
) -> Estimator:
    if module and not declaration.importable(module):
        raise LoobenchError(f"{declared['name']} is of a package with {module}, which is not installed")
    server()  # where there is none that is an error of this machine, not of the estimator
    content = source.encode("latin-1")
    function = Confined(file, content, module, Allowance(seconds, memory), library)
    return declaration.rebuilt(declared, function, source_digest(content))


def _of_package(module: str) -> Iterable[Estimator]:
    if not declaration.importable(module):
        raise LoobenchError(f"the package with {module} is not installed")
    with registry.guest(f"package {module}"):
        return registry.declared(importlib.import_module(module)).values()


@lru_cache(maxsize=1)
def _folder() -> "TemporaryDirectory[str]":
    """Where the files of this process lie until it ends: what reads its own source then finds it."""
    return TemporaryDirectory(prefix="loobench-")
