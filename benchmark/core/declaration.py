"""What an estimator is, the decorator that declares one, and what may be declared."""

import importlib
import importlib.util
import json
import keyword
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from benchmark.base.errors import LoobenchError, unknown
from benchmark.base.files import json_digest, read
from benchmark.base.records import decode
from benchmark.base.text import is_line
from benchmark.core.losses import name_of
from benchmark.core.models import Model
from benchmark.core.problem import Problem
from benchmark.core.syntax import source_digest
from benchmark.core.trajectory import Trajectory
from benchmark.core.wrapped import Module

FOLDERS = ("baselines", "estimators")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
PART = r"[a-z0-9]+([-._][a-z0-9]+)*"
NAME = re.compile(rf"({PART}/)?{PART}")  # it becomes a file name, - for a library's method with two - in place of the slash
OF_CLASSES = ("binary-cross-entropy", "cross-entropy")  # losses of a sample's one class
MODELS: dict[str, Callable[[Model], bool]] = {  # kinds that an estimator may be bound to
    "any": lambda model: True,
    "linear": lambda model: model.linear,
    "classifier": lambda model: model.loss in OF_CLASSES,
    "dense classifier": lambda model: model.dense and model.loss in OF_CLASSES,
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
UNCALLED = (
    "sees an nn.Linear where it is called, not those of the model's nn.MultiheadAttention, which uses their weights alone"
)
ADAPTERS: tuple[tuple[str, str, Callable[[Problem], bool]], ...] = (  # what libraries whose names begin so cannot answer
    (
        "kronfluence/",
        "draws labels from the model's distribution, which is known for one class or value a sample, not for the task's loss",
        lambda problem: problem.model.loss not in (*OF_CLASSES, "squared-error"),
    ),
    (
        "dattri/",
        "is called with one target for each sample, the task has several",
        lambda problem: problem.train.targets.ndim > 1,
    ),
    ("kronfluence/", UNCALLED, lambda problem: _attends(problem.model)),
    ("dattri/if-ekfac", UNCALLED, lambda problem: _attends(problem.model)),
)
MOST_SETTINGS = 10_000  # characters of an estimator's settings
Function = TypeVar("Function", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Estimator:
    """A function of the reference run with settings, and what it declares of itself.

    The fields are the arguments of `estimator`, which says what they mean; `source` is the digest of what its file computes.
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
            layers = len(problem.model.layers)
            found = f"has {layers} layers and" if layers else "is a torch.nn.Module with"
            return f"{self.name} is for {self.models} models, the task's {found} {name_of(problem.model.loss)}"
        cannot = (reason for name, reason, holds in ADAPTERS if self.name.startswith(name) and holds(problem))
        return next((f"{self.name} {reason}" for reason in cannot), None)

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


def _attends(model: Model) -> bool:
    return isinstance(model, Module) and any(isinstance(layer, nn.MultiheadAttention) for layer in model.net.modules())


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

    Stack several over one function for its variants. Any argument that is not listed is a setting: it is handed to the function
    and recorded with each result.

    - `paper`: where the method is from, in one line.
    - `loss_units`: the estimate is in units of loss, so that its size is scored too, not only its order.
    - `all_horizons`: it is called once with the whole run and returns (H, K, Q); else once for each horizon with the run cut
      there, and returns (K, Q). Its rows are the samples `problem.left_out`. Rows of all N will do: the harness takes those.
    - `optimizers`: those that it supports, of "sgd", "momentum", "adam" and "adamw", and "muon" where it says so. With another
      a task is `unsupported`, which is no failure; so it is outside the next three.
    - `max_parameters`: the most parameters P that a model may have.
    - `max_rank`: the largest curvature, the smaller of P and N C.
    - `models`: "any", "linear", "classifier" or "dense classifier".
    - `tuned_on`: where the settings come from: "nothing" where there are none, "paper" (unless it is said otherwise), "library"
      for a library's defaults, "untuned" for a choice made by no score, "tuning" where `loobench tune` chose them, "speed"
      where the synthetic cases did. A setting that only names a variant, as a readout, counts as the paper's.
    - `library`: what it cannot run without, by the name that it is imported by.
    - `interpretation`: the formula is known only second-hand.
    - `version`: raised by the author where a published score changes; digits, with points between.
    - `exact`: "least-squares" or "one-epoch", where the estimate is the truth itself; `loobench check` holds it to that.
    """
    given = {**locals(), "tuned_on": tuned_on or ("paper" if settings else "nothing"), "exact": tuple(exact)}
    # of the file that declares, not of the function's: another decorator's wrapper may come from another file
    at = Path(sys._getframe(1).f_code.co_filename)
    described = Estimator(**given, function=Tensor.clone, source=source_digest(read(at), str(at)))  # until it has its own
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
        ("optimizers", variant.optimizers, (*OPTIMIZERS, "muon")),
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
