"""docs/index.html: the board as a page to look around in, a pure function of the board; opens from disk without a network."""

import json
import math
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.base.files import unix
from benchmark.publishing.details import Cite, Place, Record, headline, suite_details, suite_file, task_details, task_file
from benchmark.scores.rows import Board, Known, Table

LIBRARY = "data/vega.js"
LIMIT = 1_000_000  # bytes of a file
PACKED = rb'(?<=")[A-Za-z0-9+/]{16,}={0,2}(?="\);\n\Z)|(?<=text/plain">)[A-Za-z0-9+/]{16,}={0,2}(?=</script>)'


def render(
    made: Board, *, cite: Cite, sources: Mapping[str, str], home: str = "..", own: Path = Path("..")
) -> dict[str, bytes]:
    """The page as files: name relative to its folder -> content, index.html among them; the same board gives the same bytes.

    `cite` gives the BibTeX of a row; `sources` the path, relative to the repository, of an estimator's source; `home` and `own`
    are the ways from the page's folder to the repository and to results of one's own. index.html has all code and the first
    table of each suite. data/ has the rest by suite and by task, and the charting library (`LIBRARY`, from `library`): script
    elements load these when they are asked for, because a page that is opened from disk may not fetch. Each is below `LIMIT`
    bytes: a task's file that would not be goes without its pairs.
    """
    place = Place(cite, sources, home, own)
    found = {"index.html": index(made, home)}
    for one in made.suites:
        found[suite_file(one.name)] = call("suite", one.name, suite_details(one, place))
        for table in one.tasks * (not one.version):  # tasks of a choice are in the files of their own suites
            found[task_file(table.name)] = task_script(table, made.limits, place)
    return found


def index(made: Board, home: str = "..") -> bytes:
    """The page itself."""
    parts = {"home": quote(home), "style": asset("page.css"), "charts": asset("charts.js"), "script": asset("page.js")}
    parts["records"] = packed(dump({"suites": [headline(one, made.limits) for one in made.suites]}))
    return re.sub(r"/\*\{\{(\w+)\}\}\*/", lambda found: parts[found[1]], asset("page.html")).encode()


def library() -> bytes:
    """The charting library with its licences, as the installed version has it. Raises LoobenchError where it is missing."""
    try:
        import vl_convert
    except ImportError as error:
        raise LoobenchError(
            "the page needs vl-convert-python, which is not installed: pip install vl-convert-python"
        ) from error
    code = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return f'/*\n{asset("vega-licences.txt")}*/\npage.library("{packed(code)}");\n'.encode()


def asset(name: str) -> str:
    """A file of benchmark/publishing/web."""
    return (files("benchmark.publishing") / "web" / name).read_text(encoding="utf-8")


def task_script(table: Table, limits: Known, place: Place) -> bytes:
    """The file of a task, without pairs where it would be too large with them."""
    whole = call("task", table.name, task_details(table, limits, place))
    return whole if len(whole) < LIMIT else call("task", table.name, task_details(table, {}, place))


def call(what: str, name: str, record: Record) -> bytes:
    """A script that hands a record to the page."""
    return f'page.take({dump(what)}, {dump(name)}, "{packed(dump(record))}");\n'.encode()


def packed(text: str) -> str:
    """Base64 of a deflated text: a third of the bytes in a repository."""
    return b64encode(zlib.compress(text.encode(), 9)).decode()


def unpacked(content: bytes) -> tuple[bytes, Record]:
    """A file of the page without its packed record, and the record. Raises DamagedFile where it has none that is whole."""
    found = re.search(PACKED, content)
    try:
        record = json.loads(zlib.decompress(b64decode(found[0] if found else b"", validate=True)))
    except (ValueError, zlib.error, RecursionError) as error:
        raise DamagedFile(f"not a whole file of the page: {error}; write it anew by `loobench report`") from error
    return re.sub(PACKED, b"", content), record


def same(one: bytes, other: bytes) -> bool:
    """Whether two files say the same: ends of lines may differ, and the version of zlib that packed what the page has."""
    one, other = unix(one), unix(other)
    if one == other:
        return True
    try:
        return unpacked(one) == unpacked(other)
    except DamagedFile:
        return False


def dump(value: Any) -> str:
    """JSON that cannot end a script element: ASCII, < escaped, null for what is not finite."""
    return json.dumps(finite(value), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def finite(value: Any) -> Any:
    """`value` with None for numbers that are not finite, however deep."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
