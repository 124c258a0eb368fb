"""What a source file computes, as a digest of its syntax tree: layout, comments, docstrings and annotations do not count."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from benchmark.base.errors import LoobenchError
from benchmark.base.files import json_digest
from benchmark.base.places import HOUSE

DECLARATION = "estimator"
DECIDING = ("optimizers", "all_horizons", "max_parameters", "max_rank", "models")  # of what it declares; the rest is recorded
# names by which a file reads its own text: nothing of it is left out then
LOOKING = {"__doc__", "__annotations__", "get_type_hints", "globals", "locals", "eval", "exec"}
UNSEEN = {"ctx", "kind", "type_comment", "type_ignores", "type_params"}  # fields of nodes
PLAIN = (  # what an annotation or an argument of a declaration may be made of to be left out: it does nothing
    *(ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Tuple, ast.List, ast.BinOp, ast.BitOr, ast.UnaryOp, ast.USub),
    *(ast.Load, ast.Dict, ast.keyword),
)
IMPORTS = (ast.Import, ast.ImportFrom)
SCOPES = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef)
FIELDS = ("ClassVar", "InitVar", "KW_ONLY")  # annotations that decide what a dataclass is


def source_digest(source: bytes, name: str = "the file") -> str:
    """Digest of what a source file computes: of its syntax tree, and of what each imported name that it uses stands for.

    Left out are comments, docstrings, other statements without effect, annotations, what ``@estimator(...)`` only describes,
    where plain imports stand, and where our own modules lie. A file that reads its own text is taken as it is written.
    Raises LoobenchError, with the name of the file, where it is not Python.
    """
    try:
        return _digest(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LoobenchError(f"{name} is not valid Python: {error}") from error


@lru_cache(maxsize=128)
def _digest(source: bytes) -> str:
    tree = ast.parse(source)
    if {*names(tree)} & LOOKING:
        return json_digest([plain(tree)])
    moving = plain_imports(tree)
    bare = Bare(moving).visit(tree)
    used = {*names(bare)}
    return json_digest([plain(bare), sorted([name, whole] for name, whole in moving.items() if name in used)])


def names(tree: ast.AST) -> Iterator[str]:
    """All names that a tree speaks of: of variables, of attributes, of what it imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        if isinstance(node, ast.Attribute):
            yield node.attr
        if isinstance(node, IMPORTS):
            yield from (part for one in node.names for part in one.name.split("."))


# ---- imports ---------------------------------------------------------------------------------------------------------
def plain_imports(tree: ast.Module) -> dict[str, str]:
    """Names that stand for one thing in all of a file, and what for: imports bind them, nothing else, on no condition."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, IMPORTS):
            for one in node.names:
                found.setdefault(bound(one), set()).add(origin(node, one))
    conditional = {bound(one) for node in elsewhere(tree) for one in node.names}
    others = {*stored(tree)} | conditional | {"*"}
    return {name: whole for name, (whole, *more) in found.items() if not more and name not in others}


def elsewhere(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that do not stand by themselves in a module or a function: in a class, behind a condition, dotted."""
    plainly = {id(one) for node in ast.walk(tree) if isinstance(node, SCOPES) for one in node.body if isinstance(one, IMPORTS)}
    for node in ast.walk(tree):
        if isinstance(node, IMPORTS):
            dotted = isinstance(node, ast.Import) and any("." in one.name and not one.asname for one in node.names)
            if id(node) not in plainly or dotted:
                yield node


def stored(tree: ast.AST) -> Iterator[str]:
    """Names that something else than an import binds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.arg):
            yield node.arg
        if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name
        if isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest


def bound(name: ast.alias) -> str:
    """The name that an import binds."""
    return name.asname or name.name.partition(".")[0]


def origin(node: ast.Import | ast.ImportFrom, name: ast.alias) -> str:
    """What an imported name stands for; of our own modules the last part."""
    module = "" if isinstance(node, ast.Import) else f"{'.' * node.level}{node.module or ''}."
    whole = module + name.name
    if whole.split(".")[0] not in ("", *HOUSE):
        return whole
    return whole.rpartition(".")[2]


# ---- what is left out ------------------------------------------------------------------------------------------------
class Bare(ast.NodeTransformer):
    """Takes from a syntax tree what changes no number; imports of the names `moving`."""

    def __init__(self, moving: Mapping[str, str]) -> None:
        self.moving = moving

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> ast.AST | None:
        pairs = [[bound(one), origin(node, one) if one.name != "*" else ast.unparse(node)] for one in node.names]
        left: list[ast.expr] = [ast.Constant(f"{name} from {whole}") for name, whole in pairs if name not in self.moving]
        return ast.List(left, ast.Load()) if left else None

    visit_ImportFrom = visit_Import  # noqa: N815 - nodes have such names

    def visit_Pass(self, node: ast.Pass) -> None: ...

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg, without_effect(node.annotation))

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for one in (inner for statement in node.body for inner in ast.walk(statement)):
            if isinstance(one, ast.AnnAssign) and does_nothing(one.annotation):
                kinds = sorted({*names(one.annotation)} & {*FIELDS})
                one.annotation = ast.Constant(f"a field {kinds}")  # without an annotation it is none
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if isinstance(node.annotation, ast.Constant) or not does_nothing(node.annotation):
            return self.generic_visit(node)
        return self.visit(ast.Assign([node.target], node.value)) if node.value else None

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        node.values = merged(node.values)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.returns = without_effect(node.returns)
        if self.moving.get(DECLARATION) == DECLARATION:
            alone = all(map(declares, node.decorator_list))
            brief = (deciding(one, named=not alone) if declares(one) else one for one in node.decorator_list)
            node.decorator_list = [one for one in brief if one]
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815


def does_nothing(node: ast.AST) -> bool:
    """Whether an expression can have no effect: it is made of names, constants, and what puts them together."""
    return all(isinstance(one, PLAIN) for one in ast.walk(node))


def without_effect(annotation: ast.expr | None) -> ast.expr | None:
    """Nothing, unless an annotation may do something."""
    return None if annotation is None or does_nothing(annotation) else annotation


def declares(decorator: ast.expr) -> bool:
    """Whether a decorator is ``@estimator(...)`` whose arguments have no effect, all named but the first."""
    if not (isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == DECLARATION):
        return False
    named = len(decorator.args) <= 1 and all(one.arg for one in decorator.keywords)
    return named and all(map(does_nothing, [*decorator.args, *(one.value for one in decorator.keywords)]))


def deciding(call: ast.expr, *, named: bool) -> ast.expr | None:
    """A declaration without what only describes; its name too where its place among other decorators matters."""
    assert isinstance(call, ast.Call)
    kept = [one for one in call.keywords if one.arg in DECIDING]
    return ast.Call(call.func, call.args * named, kept) if kept or named else None


# ---- as a value ------------------------------------------------------------------------------------------------------
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
