"""What `loobench new` writes: an estimator and its test, or a task, which run as they stand; what is left to its author."""

import keyword
import re
import sys
import unicodedata
from importlib.metadata import packages_distributions
from importlib.resources import files
from pathlib import Path

from benchmark.base.errors import LoobenchError
from benchmark.base.files import write as put
from benchmark.core.declaration import FOLDERS, NAME
from benchmark.core.registry import sources
from benchmark.tasks.suites import TASKS

MODULE = re.compile(r"[a-z][a-z0-9_]*")
PLACEHOLDERS = {  # of the templates
    "summary": "say here in one line what the method does",
    "paper": "say where the method is from, with its arXiv number",
}
EXAMPLE = '"Pruthi et al. 2020, arXiv:2002.08484"'
NOTHING = ("", "todo", "tbd", "fixme", "xxx", "placeholder", "yoursarxivnumber")  # other papers that are none, `plain`


def write(name: str, folder: Path) -> tuple[Path, Path]:
    """Write the file of an estimator called `name` and its test into a folder; returns both.

    Raises LoobenchError for a name that no estimator or no module may have or that is taken, and where a file is there.
    """
    module = module_name(name)
    source, test = folder / f"{module}.py", folder / f"test_{module}.py"
    _put(name, {source: "estimator.py.txt", test: "test.py.txt"}, **PLACEHOLDERS)
    return source, test


def write_task(name: str, folder: Path) -> Path:
    """Write the file of a task called `name`, with a model and data of its own, into a folder; returns it.

    Raises LoobenchError for a name that no task or no module may have or that is taken, and where a file is there.
    """
    if name in TASKS:
        raise LoobenchError(f"{name} is the name of a task of the suites: choose another")
    source = folder / f"{module_name(name, 'task')}.py"
    _put(name, {source: "task.py.txt"})
    return source


def _put(name: str, templates: dict[Path, str], **words: str) -> None:
    """Write files, each from a template, with the names that the first one has. Raises LoobenchError where one is there."""
    for at in templates:
        if at.exists() or at.is_symlink():
            raise LoobenchError(f"{at} is there already, and is left as it is: choose another name or --folder")
    first = next(iter(templates))
    known = {"name": name, "title": name.replace("-", " "), "function": first.stem, "file": first.name, **words}
    for at, template in templates.items():
        put(at, filled(template, known).encode())


def module_name(name: str, kind: str = "estimator") -> str:
    """The module of an estimator or task, - being _. Raises LoobenchError for a name that neither it nor a module may have."""
    module = name.replace("-", "_")
    if not NAME.fullmatch(name) or len(name) > 40 or not MODULE.fullmatch(module) or keyword.iskeyword(module):
        rule = f"small letters and digits, beginning with a letter, single - between them, 40 at most, as my-{kind}"
        raise LoobenchError(f"{name!a:.60} is no name for a new {kind}: expected {rule}")
    if name in sources() or module in {Path(path).stem for path in sources().values()}:
        raise LoobenchError(f"{name} is the name of a registered estimator or of its file: choose another")
    if module in {*sys.stdlib_module_names, *packages_distributions(), "benchmark", *FOLDERS}:
        raise LoobenchError(f"{module}.py would hide the module {module}, which is installed: choose another name")
    return module


def filled(template: str, words: dict[str, str]) -> str:
    """A template with each ``@word@`` replaced."""
    text = (files("benchmark.submissions") / "templates" / template).read_text()
    return re.sub(r"@([a-z]+)@", lambda match: words[match[1]], text)


def unfilled(paper: str, source: bytes) -> list[str]:
    """What an author has still to write before a file is submitted, by its `paper` and its text, in sentences."""
    left = []
    if plain(paper) in NOTHING or plain(PLACEHOLDERS["paper"]) in plain(paper):
        left.append(f"`paper` says {paper!a:.80}: write who described the method, when and where, as in {EXAMPLE}")
    if plain(PLACEHOLDERS["summary"]) in plain(source.decode(errors="replace")):
        left.append(f"its text says {PLACEHOLDERS['summary']!r}: write there, in its first line, what the method does")
    return left


def plain(text: str) -> str:
    """The letters and digits of a text alone: case, space, signs and width do not tell two placeholders apart."""
    return "".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))
