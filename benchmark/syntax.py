"""What a source file computes, as a digest of its syntax tree: layout, comments, docstrings and annotations do not count."""

import ast
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, TypeVar

from benchmark.errors import LoobenchError
from benchmark.files import json_digest

HOUSE = ("benchmark", "baselines", "estimators")  # whose modules may move
DECLARATION = "estimator"  # its name and settings are part of an estimator's identity, and the rest is recorded as it is
UNSEEN = {"ctx", "kind", "type_comment", "type_ignores", "type_params"}  # fields of nodes
FIELD = ast.Constant("a field")  # what stands for the annotation of one: without it a dataclass has none
Function = TypeVar("Function", ast.FunctionDef, ast.AsyncFunctionDef)


def source_digest(source: bytes, name: str = "the file") -> str:
    """Digest of what a source file computes: of its syntax tree, and of what each imported name that it uses stands for.

    Left out are comments, docstrings, other statements without effect, annotations, what ``@estimator(...)`` declares, where
    imports stand, and where our own modules lie. Raises LoobenchError, with the name of the file, where it is not Python.
    """
    try:
        return _digest(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LoobenchError(f"{name} is not valid Python: {error}") from error


@lru_cache(maxsize=128)
def _digest(source: bytes) -> str:
    tree, bare = ast.parse(source), Bare().visit(ast.parse(source))
    return json_digest([plain(bare), sorted(origins(tree, bare))])


class Bare(ast.NodeTransformer):
    """Takes from a syntax tree what changes no number."""

    def visit_Import(self, node: ast.Import) -> None: ...
    def visit_ImportFrom(self, node: ast.ImportFrom) -> None: ...
    def visit_Pass(self, node: ast.Pass) -> None: ...

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(node.arg)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for one in node.body:
            if isinstance(one, ast.AnnAssign):
                one.annotation = FIELD
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.annotation is FIELD:
            return self.generic_visit(node)
        return self.visit(ast.Assign([node.target], node.value)) if node.value else None

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        node.values = merged(node.values)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self.generic_visit(undeclared(node))

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self.generic_visit(undeclared(node))


def undeclared(node: Function) -> Function:
    """A function without the type of its result, and without its declarations as an estimator."""
    node.returns = None
    node.decorator_list = [one for one in node.decorator_list if not declares(one)]
    return node


def declares(decorator: ast.expr) -> bool:
    """Whether a decorator is ``@estimator(...)``."""
    return isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == DECLARATION


def merged(values: Sequence[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string, texts side by side put together: Python 3.12 leaves some apart."""
    found: list[ast.expr] = []
    for texts, group in groupby(values, lambda one: isinstance(one, ast.Constant)):
        some = [*group]
        whole = "".join(one.value for one in some if isinstance(one, ast.Constant) and isinstance(one.value, str))
        found += ([ast.Constant(whole)] if whole else []) if texts else some
    return found


def plain(node: Any) -> Any:
    """A part of a syntax tree as a JSON value, the same in every version of Python."""
    if isinstance(node, list):
        return [plain(one) for one in node]
    if isinstance(node, ast.Constant):
        return [type(node.value).__name__, repr(node.value)]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: plain(value) for name, value in ast.iter_fields(node) if name not in UNSEEN and value not in (None, [])}
    return [type(node).__name__, fields]


def origins(tree: ast.AST, bare: ast.AST) -> Iterator[tuple[str, str]]:
    """Of each imported name of a tree that is used in it without annotations: the name, and what it stands for."""
    used = {node.id for node in ast.walk(bare) if isinstance(node, ast.Name)} | {"*"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (pair for one in node.names if (pair := (bound(one), origin(node, one)))[0] in used)


def bound(name: ast.alias) -> str:
    """The name that an import binds."""
    return name.asname or name.name.partition(".")[0]


def origin(node: ast.Import | ast.ImportFrom, name: ast.alias) -> str:
    """What an imported name stands for; of our own modules the last part."""
    module = "" if isinstance(node, ast.Import) else f"{'.' * node.level}{node.module or ''}."
    whole = module + (name.name if name.asname or module else bound(name))
    return whole.rpartition(".")[2] if whole.split(".")[0] in ("", *HOUSE) else whole
