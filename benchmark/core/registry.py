"""Estimators: declared by a decorator, found by folder or by path, and called the same way."""

import ast
import importlib
import importlib.util
import json
import keyword
import os
import pkgutil
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from importlib.machinery import PathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

from torch import Tensor

from benchmark.base.errors import LoobenchError, place, tell, traced, unknown
from benchmark.base.files import json_digest, read
from benchmark.base.records import decode
from benchmark.base.surroundings import NUMBERS, undisturbed
from benchmark.base.text import is_line
from benchmark.core.models import Network
from benchmark.core.problem import Problem, Trajectory
from benchmark.core.syntax import source_digest

FOLDERS = ("baselines", "estimators")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
FACE = "benchmark.estimating"  # all of the harness that an estimator may import
PART = r"[a-z0-9]+([-._][a-z0-9]+)*"
NAME = re.compile(rf"({PART}/)?{PART}")  # it becomes a file name, - for a library's method with two - in place of the slash
MODELS: dict[str, Callable[[Network], bool]] = {  # kinds that an estimator may be bound to
    "any": lambda model: True,
    "linear": lambda model: model.linear,
    "classifier": lambda model: model.loss != "squared-error",
    "dense classifier": lambda model: model.dense and model.loss != "squared-error",
}
EXACT = ("least-squares", "one-epoch")  # cases an estimator may claim to be exact in (benchmark/submissions/check.py)
TUNED_ON = ("nothing", "paper", "library", "untuned", "tuning", "speed")  # docs/tuning.md
LIBRARIES = {  # as they are imported: what pip installs them by, where that is not the same name
    "ot": "POT",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "PIL": "pillow",
    "cv2": "opencv-python",
    "yaml": "PyYAML",
    "faiss": "faiss-cpu",
    **dict.fromkeys(("captum", "dattri", "kronfluence", "pydvl", "trak"), "'loobench[peers]'"),
}
MOST_SOURCE = 1 << 20  # bytes of a file that declares
MOST_SETTINGS = 10_000  # characters of an estimator's settings
MOST_DECLARED = 64  # estimators of one file
Load = Callable[[str], "dict[str, Estimator] | None"]  # None for a name that it does not know
Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Estimator:
    """A function of the reference run with settings, and what it declares of itself.

    `loss_units`: the estimate is in units of loss, so that its size is scored too, not only its order.
    `all_horizons`: it is called once with the whole run and returns (H, K, Q); else once for each horizon with the run cut
    there, and returns (K, Q). Its rows are the samples `problem.left_out`; rows of all N will do, and the harness takes those.
    `optimizers`, `max_parameters`, `max_rank` (of a curvature: the smaller of P and N C) and `models` ("any" or another of
    MODELS) bound what it supports; outside them a task is `unsupported`, which is no failure.
    `tuned_on`: where its settings come from: "nothing" where it has none, "paper", "library" for a library's defaults,
    "untuned" for a choice made by no score, else the suite whose scores chose them, or "speed", the synthetic cases.
    Variants of one method that a setting only names, as a readout, count as the paper's.
    `library`: without which it cannot run, by the name that it is imported by.
    `interpretation`: the formula is known only second-hand.
    `version`: raised by the author where a published score changes; digits, with points between.
    `exact`: of EXACT, where the estimate is the truth itself; `loobench check` holds it to that.
    """

    name: str
    function: Callable[..., Tensor]
    settings: dict[str, Any]
    paper: str
    source: str  # digest of what the file that defines it computes (benchmark/core/syntax.py)
    loss_units: bool = False
    all_horizons: bool = False
    optimizers: tuple[str, ...] = OPTIMIZERS
    max_parameters: int | None = None
    max_rank: int | None = None
    models: str = "any"
    tuned_on: str = "nothing"
    library: str | None = None
    interpretation: bool = False
    version: str = "1"
    exact: tuple[str, ...] = ()

    def __call__(self, run: Trajectory) -> Tensor:
        """The estimate of one call: (K, Q), or (H, K, Q) with `all_horizons`."""
        return self.function(run, **self.settings)

    def identity(self) -> str:
        """Digest of source and settings: results of equal identity may be pooled."""
        return json_digest({"name": self.name, "settings": self.settings, "source": self.source})

    def unsupported(self, problem: Problem) -> str | None:
        """Why this estimator does not apply to a problem, or None where it does."""
        if problem.optimizer.name not in self.optimizers:
            return f"{self.name} is for {', '.join(self.optimizers)}, the task trains with {problem.optimizer.name}"
        if self.max_parameters and problem.model.parameters > self.max_parameters:
            return f"{self.name} is for at most {self.max_parameters} parameters, the model has {problem.model.parameters}"
        rank = min(problem.model.parameters, len(problem.train) * problem.model.classes)
        if self.max_rank and rank > self.max_rank:
            return f"{self.name} is for curvatures of rank {self.max_rank} at most, here it may be {rank}"
        if not MODELS[self.models](problem.model):
            found = f"{len(problem.model.layers)} layers and {problem.model.loss}"
            return f"{self.name} is for {self.models} models, the task's has {found}"
        return None

    @property
    def file(self) -> str:
        """The file whose code it is, as the lines of a traceback name it."""
        module = sys.modules.get(str(getattr(self.function, "__module__", None)))
        return str(getattr(module, "__file__", None))

    @property
    def missing(self) -> str | None:
        """The library that it needs and this machine lacks, with what installs it, or None."""
        if self.library is None or importable(self.library):
            return None
        first = self.library.partition(".")[0]
        return f"the library {self.library}, which is not installed: pip install {LIBRARIES.get(first, first)}"


def estimator(
    name: str,
    *,
    paper: str,
    loss_units: bool = False,
    all_horizons: bool = False,
    optimizers: tuple[str, ...] = OPTIMIZERS,
    max_parameters: int | None = None,
    max_rank: int | None = None,
    models: str = "any",
    tuned_on: str | None = None,
    library: str | None = None,
    interpretation: bool = False,
    version: str = "1",
    exact: tuple[str, ...] = (),
    **settings: Any,
) -> Callable[[Function], Function]:
    """Declare a function ``(run: Trajectory, **settings) -> effect`` as the estimator `name`.

    Stack several over one function for its variants. The other arguments are those of `Estimator`; settings are taken to be
    tuned on the "paper" unless it is said otherwise.
    """
    # of the file that declares, not of the function's: another decorator's wrapper may come from another file
    source = source_digest(read(at := Path(sys._getframe(1).f_code.co_filename)), str(at))
    described = Estimator(
        name,
        Tensor.clone,  # until there is one
        settings,
        paper,
        source,
        loss_units,
        all_horizons,
        optimizers,
        max_parameters,
        max_rank,
        models,
        tuned_on or ("paper" if settings else "nothing"),
        library,
        interpretation,
        version,
        tuple(exact),
    )
    check_declaration(described)

    def declare(function: Function) -> Function:
        vars(function).setdefault("estimators", []).append(replace(described, function=function))
        return function

    return declare


def check_declaration(variant: Estimator) -> None:
    """Raise LoobenchError where an estimator declares what is not known, or not of its type."""
    name = variant.name
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > 64:
        rule = "a name is up to 64 small letters and digits, single - . _ between them, after one / if it is of a library"
        raise LoobenchError(f"estimator name {name!r:.80}: {rule}")
    if not isinstance(variant.paper, str) or not variant.paper or not is_line(variant.paper, 300):
        rule = "paper must say where the method is from, in one line of up to 300 characters"
        raise LoobenchError(f"estimator {name!r}: {rule}, got {variant.paper!r:.80}")
    if not isinstance(variant.version, str) or not re.fullmatch(r"\d{1,4}(\.\d{1,4}){0,2}", variant.version):
        raise LoobenchError(f"version of estimator {name}: digits with points between, as 1.2, got {variant.version!r:.80}")
    try:
        size = len(content := json.dumps(variant.settings, allow_nan=False))
        decode(dict[str, Any], json.loads(content), "settings")
    except (TypeError, ValueError, RecursionError) as error:
        rule = "settings must be JSON values, each text one printable line"
        raise LoobenchError(f"the settings of estimator {name!r}: {rule}: {error}") from error
    if size > MOST_SETTINGS:
        raise LoobenchError(f"the settings of estimator {name!r} take {size} characters, {MOST_SETTINGS} at most")
    _check_kinds(variant)


def _check_kinds(variant: Estimator) -> None:
    kinds: tuple[tuple[str, Iterable[str], Iterable[str]], ...] = (
        ("models", [variant.models], MODELS),
        ("tuned_on", [variant.tuned_on], TUNED_ON),
        ("optimizers", variant.optimizers, OPTIMIZERS),
        ("exact", variant.exact, EXACT),
    )
    for kind, values, known in kinds:
        for value in values:
            if value not in known:
                raise unknown(f"{kind} of estimator {variant.name}", str(value), known)
    if variant.library is not None:
        _check_library(variant)
    for kind, number in (("max_parameters", variant.max_parameters), ("max_rank", variant.max_rank)):
        if number is not None and (type(number) is not int or number < 1):
            raise LoobenchError(f"{kind} of estimator {variant.name}: expected a whole number from 1 on, got {number!r:.80}")
    for kind, flag in (("loss_units", variant.loss_units), ("all_horizons", variant.all_horizons)):
        if type(flag) is not bool:
            raise LoobenchError(f"{kind} of estimator {variant.name}: expected True or False, got {flag!r:.80}")


def _check_library(variant: Estimator) -> None:
    library = variant.library
    parts = library.split(".") if isinstance(library, str) else []
    which = f"library of estimator {variant.name}"
    sound = all(part.isascii() and part.isidentifier() and not keyword.iskeyword(part) for part in parts)
    if not (parts and sound and len(str(library)) <= 100):
        raise LoobenchError(f"{which}: expected the name that it is imported by, as sklearn, got {library!r:.80}")
    if parts[0] in {*sys.stdlib_module_names, "__main__"}:
        raise LoobenchError(f"{which}: {library} comes with Python, so that everyone has it: leave library out")
    if parts[0] in {"benchmark", "loobench", *FOLDERS}:
        raise LoobenchError(f"{which}: {library} is this program, so that everyone has it: leave library out")


def importable(module: str) -> bool:
    """Whether this machine has a module of that full name; nothing is imported to see it, and a bare folder is none."""
    first, *others = module.split(".")
    try:
        found = importlib.util.find_spec(first)
    except ValueError:  # it is there without a description of where it came from
        return not others
    for part in others:
        places = found.submodule_search_locations if found else None
        found = PathFinder.find_spec(part, list(places)) if places else None
    return found is not None and found.origin is not None


def rebuilt(content: Any, function: Callable[..., Tensor], source: str) -> Estimator:
    """An estimator from what a process that is not believed says it declares. Raises LoobenchError where that is not sound."""
    names = {part.name for part in fields(Estimator)} - {"function"}
    if not isinstance(content, dict) or content.keys() != names or not _of_kinds(content):
        raise LoobenchError("a declaration that is none came from the sandbox")
    lists = {name: content[name] for name in ("optimizers", "exact")}
    plain = {name: tuple(found) for name, found in lists.items()}
    variant = Estimator(**{**content, **plain, "function": function, "source": source})
    check_declaration(variant)
    return variant


def _of_kinds(content: dict[str, Any]) -> bool:
    """Whether what was said of an estimator is of the right types, as far as `check_declaration` takes that for granted."""
    kinds = {"settings": dict, "models": str, "tuned_on": str, "library": str | None, "interpretation": bool}
    lists = [content[name] for name in ("optimizers", "exact")]
    texts = all(isinstance(found, list) and all(isinstance(one, str) for one in found) for found in lists)
    return texts and all(isinstance(content[name], kind) for name, kind in kinds.items())


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
        raise LoobenchError(f"{path} declares no estimator: put @estimator(...) over a function (see CONTRIBUTING.md)")
    return variants


def _imported(path: Path | str, act: Callable[[], Result]) -> Result:
    try:
        return act()
    except LoobenchError as error:
        raise LoobenchError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        tell(traced(error))
        where = f" ({found})" if (found := place(error, os.path.abspath(path))) else ""
        raise LoobenchError(f"{path} cannot be imported: {type(error).__name__}: {error}{where}") from error


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
        raise LoobenchError(f"{path} imports {', '.join(bad)}: of the harness an estimator may import only {FACE}")
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
