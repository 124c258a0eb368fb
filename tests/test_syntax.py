"""The digest of a source file is of what it computes: a formatter changes nothing, an operator does."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.errors import LoobenchError
from benchmark.syntax import source_digest

ROOT = Path(__file__).resolve().parents[1]
METHODS = sorted([*(ROOT / "baselines").glob("*.py"), *(ROOT / "estimators").glob("*.py")])
SOURCE = '''"""A method."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.problem import Trajectory
from benchmark.registry import estimator
from benchmark.solvers import PRODUCTS, solve

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
    "where our module lies": ("from benchmark.solvers", "from benchmark.core.tools.solvers"),
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
    "what an imported name stands for": ("import PRODUCTS, solve", "import PRODUCTS, direct as solve"),
    "the library that a name is from": ("import torch\n", "import numpy as torch\n"),
    "the usual value of a field": ("rate: float = 0.1", "rate: float = 0.2"),
    "the name of a field": ("size: int", "width: int"),
    "a field that is none": ("rate: float = 0.1", "rate = 0.1"),
    "another decorator": ("@dataclass\n", ""),
    "the order of statements": ("    found: list[Tensor] = []\n    for t", "    for t"),
}


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
    inside = changed("    found: list", "    from benchmark.solvers import PRODUCTS, solve\n    found: list")
    moved = inside.replace(b"from benchmark.solvers import PRODUCTS, solve\n\nSHARE", b"SHARE")

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
    """Nodes whose change must be seen: operators, numbers and calls outside what is declared and annotated."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for inner in (found for statement in node.body for found in ast.walk(statement)):
                number = isinstance(inner, ast.Constant) and type(inner.value) in (int, float)
                if isinstance(inner, ast.BinOp | ast.Call) or number:
                    yield inner


def broken(node: ast.AST) -> None:
    """Change one node."""
    if isinstance(node, ast.BinOp):
        node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
    if isinstance(node, ast.Call):
        node.args = [*node.args, ast.Constant(7)]
    if isinstance(node, ast.Constant):
        node.value = float(node.value) + 0.5 if isinstance(node.value, int | float) else None


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_every_operator_number_and_call_of_our_own_is_in_its_digest(path: Path) -> None:
    source = path.read_bytes()
    places = len([*breaks(ast.parse(source))])
    for place in range(0, places, max(1, places // 8)):
        tree = ast.parse(source)
        broken([*breaks(tree)][place])
        assert source_digest(ast.unparse(ast.fix_missing_locations(tree)).encode()) != source_digest(source)
