"""What is declared, tasks and estimators, read without the libraries that compute, which take seconds to import."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from benchmark.base.places import HOUSE

LIBRARIES = ("torch", "scipy", "sklearn", "safetensors")
Found = TypeVar("Found")


class StandIn(ModuleType):
    """Stands for a library while declarations are read: whatever is asked of it is another one."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn(name)

    def __call__(self, *given: Any, **_: Any) -> Any:
        function = given[0] if len(given) == 1 and isinstance(given[0], FunctionType) else None
        return function or StandIn("called")  # of a decorator what it decorates

    def __or__(self, other: Any) -> Any:
        return other

    __ror__ = __getitem__ = __or__

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in LIBRARIES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


@contextmanager
def _standing_in() -> Iterator[None]:
    """Import in the block without the libraries; what was imported with stand-ins is forgotten behind it."""
    before, finder = {*sys.modules}, _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in {*sys.modules} - before:
            if name.partition(".")[0] in (*LIBRARIES, *HOUSE):
                del sys.modules[name]


def declared(read: Callable[[], Found]) -> Found:
    """What a function reads that imports declarations and computes nothing; it returns plain values.

    Where a process has imported torch anyway, nothing stands in for it; nor where a file does more with it than to name it.
    """
    if LIBRARIES[0] not in sys.modules:
        with suppress(Exception), _standing_in():
            return read()
    return read()
