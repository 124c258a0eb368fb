"""Classes and functions of a user's own, as the text of their file, their name in it and settings: others can build them."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark.base.errors import LoobenchError
from benchmark.base.files import json_digest, read, sha256


@dataclass(frozen=True)
class Code:
    """A class or function, and the settings that it is called with.

    Of an installed package it is known by the module's name, else by the whole text of its file.
    """

    name: str  # in its module, as "Tiny" or "Outer.Tiny"
    module: str  # of a package, or the name of the file
    text: str = field(default="", repr=False)  # of the file; "" for a package's
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def digest(self) -> str:
        """Of all that decides what is built."""
        return json_digest([self.name, self.module, sha256(self.text.encode()), [list(pair) for pair in self.settings]])

    def object(self) -> Any:
        """The class or function. Raises LoobenchError where its file cannot be run, or has no such name."""
        found: Any = _module(self.module, self.text) if self.text else _imported(self.module)
        for part in self.name.split("."):
            if not hasattr(found, part):
                raise LoobenchError(f"{self.module} has no {self.name} at its top: define it outside of functions")
            found = getattr(found, part)
        return found

    def built(self) -> Any:
        """What it makes of the settings; a function without settings is itself what is meant."""
        return self.object()(**dict(self.settings))


def code_of(thing: Callable[..., Any], **settings: Any) -> Code | None:
    """The code of a class or function; None where no file has it, as for a lambda or in a notebook."""
    name, module = getattr(thing, "__qualname__", ""), sys.modules.get(getattr(thing, "__module__", "") or "")
    if not name or "<" in name or module is None:
        return None
    values = tuple(sorted(settings.items()))
    if _installed(module):
        return Code(name, module.__name__, settings=values)
    try:
        file = Path(inspect.getsourcefile(thing) or "")
        return Code(name, file.name, read(file).decode(), values) if file.suffix == ".py" else None
    except (TypeError, OSError, UnicodeDecodeError):
        return None


def _installed(module: ModuleType) -> bool:
    """Whether a module is of an installed package or of ours, so that its name says all."""
    at = str(getattr(module, "__file__", ""))
    return "-packages" in at or module.__name__.partition(".")[0] in ("benchmark", "torch")


def _imported(module: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LoobenchError(f"cannot import {module}: {error}") from error


@lru_cache(maxsize=64)
def _module(name: str, text: str) -> ModuleType:
    """A module made of the text of a file."""
    made = ModuleType(f"loobench_own_{sha256(text.encode())[:16]}")
    sys.modules[made.__name__] = made  # where dataclasses look their module up
    made.__file__ = name
    try:
        exec(compile(text, name, "exec", dont_inherit=True), vars(made))
    except Exception as error:
        raise LoobenchError(f"{name} cannot be run to build a model: {type(error).__name__}: {error}") from error
    return made
