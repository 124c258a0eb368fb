"""Estimators found by name, by folder or by path, and their files: what these may import, and how they are loaded."""

import ast
import importlib
import importlib.util
import os
import pkgutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import TypeVar

from benchmark.base.errors import LoobenchError, explained, unknown
from benchmark.base.files import read
from benchmark.base.surroundings import NUMBERS, undisturbed
from benchmark.core.declaration import FOLDERS, Estimator

FACE = "benchmark.estimating"  # all of the harness that an estimator may import
MOST_SOURCE = 1 << 20  # bytes of a file that declares
MOST_DECLARED = 64  # estimators of one file
Load = Callable[[str], "dict[str, Estimator] | None"]  # None for a name that it does not know
Result = TypeVar("Result")


def declared(module: ModuleType) -> dict[str, Estimator]:
    """The estimators that a module declares, by name. Raises LoobenchError where two have one name."""
    functions = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    variants = [variant for function in functions for variant in getattr(function, "estimators", ())]
    if twice := {v.name for v in variants if sum(v.name == other.name for other in variants) > 1}:
        raise LoobenchError(f"{module.__file__} declares {', '.join(sorted(twice))} more than once: rename all but one")
    if len(variants) > MOST_DECLARED:
        raise LoobenchError(f"{module.__file__} declares {len(variants)} estimators, {MOST_DECLARED} at most")
    return {variant.name: variant for variant in variants}


@lru_cache(maxsize=1)
def registered() -> dict[str, Estimator]:
    """The estimators of the folders `baselines` and `estimators`, by name, in order of name."""
    found: dict[str, Estimator] = {}
    for folder in FOLDERS:
        for entry in pkgutil.iter_modules(importlib.import_module(folder).__path__):
            module = _imported(f"{folder}/{entry.name}.py", partial(importlib.import_module, f"{folder}.{entry.name}"))
            for name, variant in declared(module).items():
                if name in found:
                    raise LoobenchError(f"estimator {name!r} is declared twice: rename the one in {folder}/{entry.name}.py")
                found[name] = variant
    return dict(sorted(found.items()))


def sources() -> dict[str, str]:
    """The file of each registered estimator, relative to the repository."""
    return {name: f"{variant.function.__module__.replace('.', '/')}.py" for name, variant in registered().items()}


def resolve(names: Iterable[str], load: Load | None = None) -> list[Estimator]:
    """The estimators meant by registered names or by paths ``file.py[:name]``; without any, all registered that can run here.

    `load` gives those of a file, or of another kind of name that it knows; by default the file is imported.
    Raises LoobenchError for an unknown name, for two of one name, and where a named one needs a library that is not installed.
    """
    found: dict[str, Estimator] = {}
    for variant in (variant for name in names for variant in _meant(name, load or _load)):
        if found.setdefault(variant.name, variant).identity() != variant.identity():
            raise LoobenchError(f"two files declare the estimator {variant.name!r}: rename one of them")
    if lacking := [f"{variant.name} needs {variant.missing}" for variant in found.values() if variant.missing]:
        raise LoobenchError("; ".join(lacking))
    return list(found.values()) or [variant for variant in registered().values() if not variant.missing]


def _meant(name: str, load: Load) -> list[Estimator]:
    first, _, wanted = name.partition(":")
    if first in registered():
        return [registered()[first]]
    variants = load(first)
    if variants is None:
        raise unknown("estimator", name, registered())
    if wanted and wanted not in variants:
        raise unknown(f"estimator in {first}", wanted, variants)
    return [variants[wanted]] if wanted else list(variants.values())


def _load(name: str) -> dict[str, Estimator] | None:
    return load(Path(name)) if name.endswith(".py") else None


def load(path: Path) -> dict[str, Estimator]:
    """The estimators that the file at `path` declares. Its code runs here: load only what you would run yourself.

    What it changes in this process while it is imported is put back, and said.

    Raises LoobenchError where it cannot be read or imported, declares none, imports what estimators must not see, or takes
    the name of a registered one.
    """
    with guest(path):
        variants = imported_file(path)
    if taken := variants.keys() & registered().keys():
        raise LoobenchError(f"{path} declares {', '.join(sorted(taken))}, taken by a registered estimator: rename it")
    return variants


@contextmanager
def guest(name: Path | str) -> Iterator[None]:
    """Import a stranger's code in the block: what that changes in this process is put back, and said on stderr."""
    with undisturbed() as changed:
        yield
    if lasting := [one for one in dict.fromkeys(changed) if one != NUMBERS]:
        what = f"{name}, when it is imported, changes {', '.join(lasting)}"
        print(f"note: {what}: that is put back; what it needs it must set inside its function", file=sys.stderr)


def imported_file(path: Path, code: CodeType | None = None) -> dict[str, Estimator]:
    """The estimators of a file, whatever their names. Raises LoobenchError where it cannot be imported, or declares none."""
    code = code or compiled(path)
    spec = importlib.util.spec_from_file_location(f"submitted_{path.stem}", path)
    assert spec
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    _imported(path, partial(exec, code, vars(module)))
    variants = declared(module)
    if not variants:
        raise LoobenchError(f"{path} declares no estimator: put @estimator(...) over a function (see docs/estimating.md)")
    return variants


def _imported(path: Path | str, act: Callable[[], Result]) -> Result:
    with explained(path, f"{path} cannot be imported", os.path.abspath(path)):
        return act()


def source_of(path: Path) -> bytes:
    """The bytes of a file that declares estimators. Raises LoobenchError where there is no such file, or it is too large."""
    try:
        found = path.stat()
    except OSError as error:
        raise LoobenchError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise LoobenchError(f"{path} is not a file")
    if found.st_size > MOST_SOURCE:
        raise LoobenchError(f"{path} has {found.st_size} bytes, {MOST_SOURCE} at most: an estimator is one file of source")
    return read(path)


def compiled(path: Path) -> CodeType:
    """The code of a source file. Raises LoobenchError where it does not parse or imports of the harness other than FACE."""
    try:
        tree = ast.parse(source_of(path), filename=os.path.abspath(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LoobenchError(f"{path} is not valid Python: {error}") from error
    if bad := sorted(name for name in imported(tree) if name.split(".")[0] == "benchmark" and name != FACE):
        allowed = f"of the harness an estimator may import only {FACE}, as in `from {FACE} import NAME`"
        raise LoobenchError(f"{path} imports {', '.join(bad)}: {allowed} (docs/estimating.md)")
    return _compiled(tree, path)


def _compiled(tree: ast.Module, path: Path) -> CodeType:
    try:
        return compile(tree, os.path.abspath(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # as a return outside a function
        raise LoobenchError(f"{path} is not valid Python: {error}") from error


def imported(tree: ast.AST) -> set[str]:
    """Full names of the modules that a syntax tree imports or binds; `from benchmark import x` counts as benchmark.x."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            names |= {alias.name.partition(".")[0] for alias in node.names if not alias.asname}  # what the statement binds
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = node.module == "benchmark"
            names |= {f"benchmark.{alias.name}" for alias in node.names} if inside else {node.module}
    return names
