"""What docs/estimating.md takes from the code: each name an estimator may import, with its signature and its docstring.

The page is prose with marks: what stands between ``<!-- from the code: NAME NAME ... -->`` and ``<!-- end -->`` is written here
from the sources, whose code is not run. `python -m benchmark.publishing.guide` writes the page anew.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmark.base.errors import LoobenchError
from benchmark.base.files import read, write
from benchmark.base.places import ROOT

PAGE = ROOT / "docs" / "estimating.md"
FACE = ROOT / "benchmark" / "estimating.py"
MARK = re.compile(r"(<!-- from the code: ([\w.\s]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Row = tuple[str, str, str]  # a member of a class, its type, and what it means


@dataclass(frozen=True)
class Definition:
    """The statement that defines a name, and the lines of its file."""

    name: str
    node: ast.stmt
    lines: list[str]

    def source(self, node: ast.FunctionDef) -> str:
        """The lines of a function from `def` to the colon."""
        return textwrap.dedent("\n".join(self.lines[node.lineno - 1 : node.body[0].lineno - 1])).rstrip(":\n")

    def comment(self, node: ast.stmt) -> str:
        """The comment at the end of a statement's first line."""
        return self.lines[node.lineno - 1].partition("  # ")[2]


def filled(page: str) -> str:
    """The page with all that stands between its marks written anew. Raises LoobenchError for a name that the face lacks."""
    return MARK.sub(lambda found: "\n\n".join([found[1].rstrip(), *map(entry, found[2].split()), found[3]]), page)


def named(page: str) -> list[str]:
    """The names that a page's marks ask for."""
    return [name for found in MARK.finditer(page) for name in found[2].split()]


@cache
def exported() -> dict[str, str]:
    """Each name of the face, and the module that it comes from."""
    imports = [node for node in _parsed(FACE).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(read(path))


def definition(name: str) -> Definition:
    """Where a name is defined, as ``solve`` or ``calculus.count``. Raises LoobenchError for one that the face lacks."""
    first, _, inside = name.partition(".")
    if first not in exported():
        raise LoobenchError(f"{PAGE.name} names {name}, which benchmark.estimating does not export: correct the mark")
    module = f"{exported()[first]}.{first}" if inside else exported()[first]
    path = ROOT / f"{module.replace('.', '/')}.py"
    wanted = inside or first
    for node in _parsed(path).body:
        if wanted in _bound(node):
            return Definition(name, node, read(path).decode().splitlines())
    raise LoobenchError(f"{PAGE.name} names {name}, which {module} does not define: correct the mark")


def _bound(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Assign(targets=[ast.Name(id=name)]):
            return {name}
    return set()


def entry(name: str) -> str:
    """What the page says of one name."""
    found = definition(name)
    match found.node:
        case ast.FunctionDef() as node:
            parts = [fenced(found.source(node)), _docstring(node)]
        case ast.ClassDef() as node:
            parts = [_docstring(node), *table(members(found, node))]
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value) as node:
            parts = [fenced(_value(name, value)), found.comment(node)]
        case _:
            raise LoobenchError(f"{PAGE.name} names {name}, which is neither function, class nor constant: correct the mark")
    return "\n\n".join([f"#### `{name}`", *filter(None, parts)])


def fenced(code: str) -> str:
    """Code as a block."""
    return f"```python\n{code}\n```"


def _docstring(node: ast.FunctionDef | ast.ClassDef) -> str:
    return inspect.cleandoc(ast.get_docstring(node) or "")


def _value(name: str, value: ast.expr) -> str:
    """A constant as code; of a table its keys alone."""
    if isinstance(value, ast.Call) and value.args and isinstance(value.args[0], ast.Dict):
        value = value.args[0]  # a table with more to it
    if isinstance(value, ast.Dict):
        return "\n".join(f"{name}[{ast.unparse(key)}]" for key in value.keys if key).replace("'", '"')
    return f"{name} = {ast.unparse(value)}".replace("'", '"')


def members(found: Definition, node: ast.ClassDef) -> Iterator[Row]:
    """Fields, properties and methods of a class that are public and say what they are; fields always."""
    for part in node.body:
        match part:
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield f".{name}", _kind(part), found.comment(part)
            case ast.FunctionDef(name=name, returns=kind) if not name.startswith("_") and _docstring(part):
                given = ast.unparse(kind).replace("'", "") if kind else ""
                yield f".{name}{_arguments(part)}", given, " ".join(_docstring(part).split())


def _kind(field: ast.AnnAssign) -> str:
    """Its type, and its default if it has one."""
    kind = ast.unparse(field.annotation)
    return f"{kind} = {ast.unparse(field.value)}" if field.value else kind


def _arguments(node: ast.FunctionDef) -> str:
    """Names and defaults of a method's arguments, in brackets; nothing for a property."""
    if any(ast.unparse(one) in ("property", "cached_property") for one in node.decorator_list):
        return ""
    taken = deepcopy(node.args)
    for argument in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs):
        argument.annotation = None
    taken.args = taken.args[1:]
    return f"({ast.unparse(taken)})"


def table(rows: Iterator[Row]) -> list[str]:
    """Members of a class as a table; nothing where there are none."""
    lines = [f"| `{name}` | `{kind}` | {meaning} |" for name, kind, meaning in map(_cells, rows)]
    return ["\n".join(["| | type | what it is |", "|---|---|---|", *lines])] if lines else []


def _cells(row: Row) -> Row:
    name, kind, meaning = (cell.replace("|", r"\|") for cell in row)
    return name, kind.replace("'", '"'), meaning


def main() -> None:
    """Write the page anew."""
    write(PAGE, filled(read(PAGE).decode()).encode())


if __name__ == "__main__":
    main()
