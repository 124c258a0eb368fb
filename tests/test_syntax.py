"""The digest of a source file is of what it computes: a formatter changes nothing, an operator does."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.base.errors import LoobenchError
from benchmark.core.syntax import source_digest

ROOT = Path(__file__).resolve().parents[1]
METHODS = sorted([*(ROOT / "baselines").glob("*.py"), *(ROOT / "estimators").glob("*.py")])
SOURCE = '''"""A method."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.estimating import PRODUCTS, Trajectory, estimator, solve

SHARE: float = 0.5  # of the samples


@dataclass
class Part:
    """A part."""

    size: int
    rate: float = 0.1


@estimator("mine", paper="me, 2026", damping=0.1)
def mine(run: Trajectory, *, damping: float) -> Tensor:
    """Return something."""
    found: list[Tensor] = []
    for t in range(run.problem.steps):
        found.append(solve(run.params(t), PRODUCTS["hessian"], f"{damping:.3f} at {t}") * SHARE)
    return torch.stack(found).sum(0) + damping
'''
NOTHING = {  # what changes no number: text and what stands in its place
    "a docstring": ('"""Return something."""', '"""Return something else."""'),
    "no docstring": ('"""Return something."""\n    ', ""),
    "a comment": ("# of the samples", "# which of them"),
    "annotations": ("(run: Trajectory, *, damping: float) -> Tensor:", "(run, *, damping):"),
    "the annotation of a name": ("found: list[Tensor] = []", "found = []"),
    "a name that is only annotated": ("found: list", "later: int\n    found: list"),
    "the type of a field": ("size: int", "size: 'int | None'"),
    "the order of imports": (
        "import torch\nfrom torch import Tensor\n",
        "from torch import Tensor\nimport torch\n",
    ),
    "where our module lies": ("from benchmark.estimating", "from benchmark.core.tools"),
    "an import that is not used": ("import torch\n", "import math\nimport torch\n"),
    "quotes and layout": ('PRODUCTS["hessian"]', "(\n            PRODUCTS['hessian']\n        )"),
    "a pass": ("return torch", "pass\n    return torch"),
    "what a declaration says": ('paper="me, 2026"', 'paper="me, 2027", version="2"'),
    "another variant": ('@estimator("mine"', '@estimator("other", paper="me", damping=0.3)\n@estimator("mine"'),
}
SOMETHING = {
    "an operator": ("* SHARE", "/ SHARE"),
    "a constant": ("= 0.5", "= 0.25"),
    "a call": ("solve(run", "abs(run"),
    "a method": (".sum(0)", ".mean(0)"),
    "a sign": ("+ damping", "- damping"),
    "a keyword": ("torch.stack(found)", "torch.stack(found, dim=1)"),
    "a text": ('["hessian"]', '["fisher"]'),
    "the format of a text": (":.3f}", ":.4f}"),
    "what an imported name stands for": ("estimator, solve", "estimator, backward as solve"),
    "the library that a name is from": ("import torch\n", "import numpy as torch\n"),
    "the usual value of a field": ("rate: float = 0.1", "rate: float = 0.2"),
    "the name of a field": ("size: int", "width: int"),
    "a field that is none": ("rate: float = 0.1", "rate = 0.1"),
    "another decorator": ("@dataclass\n", ""),
    "the order of statements": ("    found: list[Tensor] = []\n    for t", "    for t"),
}


IMPORTED = "from benchmark.estimating import estimator\n"
PAIRS = {  # two files that compute different numbers, by what is left out where it does nothing
    "which branch imports": (
        "try:\n from torch import neg as f\nexcept ImportError:\n from torch import abs as f\nf(1)",
        "try:\n from torch import abs as f\nexcept ImportError:\n from torch import neg as f\nf(1)",
    ),
    "which function imports": (
        "def a(x):\n from torch import neg as f\n return f(x)\ndef b(x):\n from torch import abs as f\n return f(x)",
        "def a(x):\n from torch import abs as f\n return f(x)\ndef b(x):\n from torch import neg as f\n return f(x)",
    ),
    "which import is the last": (
        "from torch import neg as f\nfrom torch import abs as f",
        "from torch import abs as f\nfrom torch import neg as f",
    ),
    "what comes after an import": (
        "from torch import neg as f\ndef f(x): return x",
        "def f(x): return x\nfrom torch import neg as f",
    ),
    "an import in a class": ("class A:\n from torch import neg as f\nA.f(1)", "class A:\n from torch import abs as f\nA.f(1)"),
    "an import that is found by its name": (
        "from torch import neg as f\nglobals()['f'](1)",
        "from torch import abs as f\nglobals()['f'](1)",
    ),
    "an import on a condition": ("if A:\n from torch import neg as f\nf(1)", "from torch import neg as f\nif A:\n pass\nf(1)"),
    "a part of a library": ("import scipy.linalg\nscipy.linalg.x", "import scipy.special\nscipy.linalg.x"),
    "stars": ("from benchmark.core.solvers import *\ncg(1)", "from benchmark.retraining.shifts import *\ncg(1)"),
    "the order of decorators": (
        "@estimator('a')\n@twice\ndef f(run): return 1",
        "@twice\n@estimator('a')\ndef f(run): return 1",
    ),
    "which variant another decorator changes": (
        "@estimator('a')\n@twice\n@estimator('b')\ndef f(run): return 1",
        "@estimator('b')\n@twice\n@estimator('a')\ndef f(run): return 1",
    ),
    "what a declaration decides": (
        "@estimator('a', optimizers=('sgd',))\ndef f(run): return 1",
        "@estimator('a')\ndef f(run): return 1",
    ),
    "all horizons": (
        "@estimator('a', all_horizons=True)\ndef f(run): return 1",
        "@estimator('a', all_horizons=False)\ndef f(run): return 1",
    ),
    "what a declaration does": (
        "@estimator('a', k=(S := 2.0))\ndef f(run, k): return S",
        "@estimator('a', k=(S := 3.0))\ndef f(run, k): return S",
    ),
    "a decorator of that name": (
        "def estimator(k): return lambda f: lambda r: k * f(r)\n@estimator(2)\ndef f(run): return 1",
        "def estimator(k): return lambda f: lambda r: k * f(r)\n@estimator(3)\ndef f(run): return 1",
    ),
    "what an annotation does": ("def f(run: (S := 2.0)): return S", "def f(run: (S := 3.0)): return S"),
    "a docstring that is read": (
        "def f(run):\n '2.0'\n return float(f.__doc__)",
        "def f(run):\n '3.0'\n return float(f.__doc__)",
    ),
    "an annotation that is read": ("def f(run: 2): return f.__annotations__", "def f(run: 3): return f.__annotations__"),
    "what is a field": ("class A:\n x: ClassVar[int] = 3\n y: int = 2", "class A:\n x: int = 3\n y: int = 2"),
    "a field on a condition": ("class A:\n if 1:\n  x: int = 3", "class A:\n if 1:\n  x = 3"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_left_out_elsewhere_counts_where_it_decides(name: str) -> None:
    one, other = (source_digest((IMPORTED + text).encode()) for text in PAIRS[name])

    assert one != other


def changed(old: str, new: str) -> bytes:
    assert SOURCE.count(old) == 1
    return SOURCE.replace(old, new).encode()


@pytest.mark.parametrize("name", NOTHING)
def test_what_computes_the_same_has_the_same_digest(name: str) -> None:
    assert source_digest(changed(*NOTHING[name])) == source_digest(SOURCE.encode())


@pytest.mark.parametrize("name", SOMETHING)
def test_what_computes_something_else_has_another_digest(name: str) -> None:
    assert source_digest(changed(*SOMETHING[name])) != source_digest(SOURCE.encode())


def test_an_import_that_moves_into_a_function_changes_nothing() -> None:
    line = "from benchmark.estimating import PRODUCTS, Trajectory, estimator, solve"
    inside = changed("    found: list", "    from benchmark.estimating import PRODUCTS, solve\n    found: list")
    moved = inside.replace(line.encode(), b"from benchmark.estimating import Trajectory, estimator", 1)

    assert moved != inside
    assert source_digest(moved) == source_digest(SOURCE.encode())


def test_line_ends_change_nothing() -> None:
    assert source_digest(SOURCE.replace("\n", "\r\n").encode()) == source_digest(SOURCE.encode())


@pytest.mark.parametrize("source", ["def f(:", "return 1 +", "(" * 10_000, "x = " + "-" * 50_000 + "1", "a\0b"], ids=range(5))
def test_what_is_not_python_is_an_error_with_the_name_of_the_file(source: str) -> None:
    with pytest.raises(LoobenchError, match=r"mine\.py is not valid Python"):
        source_digest(source.encode(), "mine.py")


# ---- our own files ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_formatter_changes_no_digest_of_our_own(path: Path) -> None:
    """Against Python's own printer, which leaves comments out and has a layout and quotes of its own."""
    source = path.read_bytes()

    assert source_digest(ast.unparse(ast.parse(source)).encode()) == source_digest(source)


def test_another_formatter_neither() -> None:
    for path in METHODS:
        narrow = ["format", "--isolated", "--line-length", "60", "--config", "format.quote-style='single'", "-"]
        done = subprocess.run([sys.executable, "-m", "ruff", *narrow], input=path.read_bytes(), capture_output=True, check=True)
        assert done.stdout != path.read_bytes() or len(done.stdout) < 200
        assert source_digest(done.stdout) == source_digest(path.read_bytes())


def breaks(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes whose change must be seen: operators, numbers and calls, but for those in annotations and declarations."""
    left = {id(inner) for node in ast.walk(tree) for part in left_out(node) for inner in ast.walk(part)}
    for node in ast.walk(tree):
        number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        if (isinstance(node, ast.BinOp | ast.Call) or number) and id(node) not in left:
            yield node


def left_out(node: ast.AST) -> Iterator[ast.AST]:
    """Annotations and declarations of a node."""
    if isinstance(node, ast.FunctionDef):
        yield from (one for one in node.decorator_list if isinstance(one, ast.Call) and ast.unparse(one.func) == "estimator")
        yield from filter(None, [node.returns])
    yield from filter(None, [getattr(node, "annotation", None)])


def broken(node: ast.AST) -> None:
    """Change one node."""
    if isinstance(node, ast.BinOp):
        node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
    if isinstance(node, ast.Call):
        node.args = [*node.args, ast.Constant(7)]
    if isinstance(node, ast.Constant):
        node.value = float(node.value) + 0.5 if isinstance(node.value, int | float) else None


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_operators_numbers_and_calls_all_over_our_own_files_are_in_their_digests(path: Path) -> None:
    source = path.read_bytes()
    places = len([*breaks(ast.parse(source))])
    for place in range(0, places, max(1, places // 12)):
        tree = ast.parse(source)
        broken([*breaks(tree)][place])
        assert tree_digest(tree) != source_digest(source)


def tree_digest(tree: ast.Module) -> str:
    """The digest of a changed tree."""
    return source_digest(ast.unparse(ast.fix_missing_locations(tree)).encode())
