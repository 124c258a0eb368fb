"""What strangers write is one printable line when it is read, and stays text wherever it is written."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, reduce
from html.parser import HTMLParser
from pathlib import Path
from shutil import which
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints
from xml.etree import ElementTree

import pytest
import synthetic
from test_board import claimed, verified
from test_cite import parsed, printed

from benchmark.base import machine, records, text
from benchmark.base.errors import DamagedFile, Failure, LoobenchError
from benchmark.base.files import json_digest
from benchmark.commands import terminal
from benchmark.commands.main import main
from benchmark.core.declaration import estimator
from benchmark.publishing import audit, cite, figures, manifest, page, report, tables
from benchmark.running import logged, tracking
from benchmark.scores import board, checks, results, rows, store
from benchmark.scores.results import Limits, Result
from benchmark.submissions import bundle, verdicts
from benchmark.submissions.verdicts import Again, Beside, Report
from benchmark.tasks.definition import record_digest
from benchmark.tasks.questions import LeaveOneOut
from benchmark.tasks.suites import CORE, TASKS

UNSEEN = {
    "a line break": "a\nb",
    "a return": "a\rb",
    "a tab": "a\tb",
    "an escape": "a\x1b[31mb",
    "a bell": "\x07",
    "a nul": "\x00",
    "a C1 control": "a\x9b31mb",
    "a separator": "a\u2028b",
    "a next line": "a\x85b",
    "a wide space": "a\u3000b",
    "an override": "a\u202eb",
    "an isolate": "a\u2067b",
    "a mark of direction": "a\u200fb",
    "a soft hyphen": "a\xadb",
    "no width": "a\u200bb",
    "a joiner": "a\u2060b",
    "a byte order mark": "\ufeffa",
    "a tag": "a\U000e0041b",
    "a filler": "a\u3164b",
    "a blank": "a\u2800b",
    "a variant": "a\ufe0fb",
    "a grapheme joiner": "a\u034fb",
    "for private use": "a\ue000b",
    "half of a letter": "a\ud800b",
    "marks in a pile": "a" + "\u0301" * 9,
    "a mark alone": "\u0301a",
    "without end": "x" * (text.LONGEST + 1),
}
TEXT = (
    "$\\frac$|a\\|b](http://evil.example/x) <img src=x onerror=alert(1)> </script><script>alert(1)</script> --> `c` "
    "}{ @everyone #1 www.evil.example **b** __u__ ~~s~~ &lt; %d ${1} {{x}} {% x %} \"'"
)
PLAIN = "x"  # in its place, what nothing minds
SUITES = ("quick-breast-cancer-mlp-sgd", "quick-digits-mlp-sgd", "hara2019-adult-mlp", "smooth-hara2019-adult-mlp")
APART = {"task.suite", "task.dtype", "protocol", "device"}  # what puts a result into a suite of its own


# ---- every string of a file, by the records ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Place:
    """Where a string is in a JSON value, or an object whose keys are free; `name` is the field's, whatever key or number."""

    at: tuple[str | int, ...]
    name: str
    keys: bool = False
    of: Any = None  # what such an object has


def made(kind: Any) -> Any:
    """Some JSON value of a type, with everything in it that there can be."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: made(hints[field.name]) for field in fields(kind)}
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return made(next(one for one in inner if one is not NoneType))
    if origin in (list, dict):
        return [made(inner[0])] if origin is list else {"key": made(inner[1])}
    return {str: "words", int: 1, float: 0.5, bool: True, Any: {"key": ["words", {"deep": "words"}]}}[kind]


def places(kind: Any, value: Any, at: tuple[str | int, ...] = (), name: str = "") -> Iterator[Place]:
    """All strings, and objects with free keys, of a JSON value of a type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        yield from places(inner[0], value, at, name) if value is not None else ()
    elif isinstance(value, str):
        yield Place(at, name)
    elif isinstance(value, list):
        of = inner[0] if inner else Any
        for number, item in enumerate(value):
            yield from places(of, item, (*at, number), f"{name}[]")
    elif isinstance(value, dict):
        hints = get_type_hints(kind) if is_dataclass(kind) else {}
        yield from () if hints else (Place(at, f"{name}{{}}", keys=True, of=inner[1] if inner else Any),)
        for key, item in value.items():
            step = f"{name}.*" if origin is dict and inner[1] is not Any else f"{name}.{key}".lstrip(".")
            yield from places(hints.get(key, inner[1] if inner else Any), item, (*at, key), step)


def put(content: Any, place: Place, words: Callable[[str], str]) -> Any:
    """A JSON value with other words in a place; a key comes beside those that are there."""
    content = deepcopy(content)
    *way, last = ("whole", *place.at)
    where: Any = {"whole": content}
    for step in way:
        where = where[step]
    if place.keys:
        known = where[last]
        known[words("")] = next(iter(known.values()), made(place.of))
    else:
        where[last] = words(where[last])
    return content


def sealed(content: Any) -> bytes:
    """A file with a digest that fits it."""
    return json.dumps({**content, "digest": json_digest(content)}).encode()


def read_limits(content: bytes) -> Limits:
    Path("limits.json").write_bytes(content)
    return store.load_limits(Path("limits.json"))


def read_manifest(content: bytes) -> manifest.Manifest | None:
    Path("manifest.json").write_bytes(content)
    return manifest.load(Path())


KINDS: dict[str, tuple[Any, Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "result": (Result, lambda content: store.parse(content, "sent.json", Result), sealed),
    "limits": (Limits, read_limits, sealed),
    "manifest": (manifest.Manifest, read_manifest, lambda content: json.dumps(content).encode()),
}


FIELDS = {  # some of those that must be among them
    "result": {
        "protocol",
        "cells{}",
        "cells.*.message",
        "provenance.*.key.key[]",
        "estimator.settings{}",
        "verified.seeds[]",
        "claimed.by",
    },
    "limits": {"task{}", "task.key.key[].deep", "seeds.*.truth", "seeds.*.references.*{}", "seeds.*.values{}"},
    "manifest": {"results{}", "results.*.version", "results.*.scores{}", "limits.*.sha256"},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_string_and_key_of_every_file_must_be_one_printable_line(name: str) -> None:
    kind, read, whole = KINDS[name]
    content = {**made(kind), **({"schema": results.SCHEMA} if name != "manifest" else {})}
    found = list(places(kind, content))

    assert {one.name for one in found} >= FIELDS[name]
    for one in found:
        for words in UNSEEN.values():
            with pytest.raises(DamagedFile) as refused:
                read(whole(put(content, one, lambda _, words=words: words)))  # type: ignore[misc]
            assert "printable characters" in str(refused.value) or "surrogates" in str(refused.value), (one, words)
            assert text.is_line(str(refused.value)), (one, words)


def test_what_has_no_type_is_bounded_in_depth_and_numbers_too() -> None:
    deep: Any = "words"
    for _ in range(records.DEEPEST + 1):
        deep = [deep]

    assert records.decode(Any, deep[0]) == deep[0]
    for wrong in (deep, [2**63], [{"a": 10**30}]):
        with pytest.raises(records.Mismatch):
            records.decode(Any, wrong)


@pytest.mark.parametrize("key", ["a\nb", "\x1b[31m", "\u202e"])
def test_a_field_that_there_is_not_is_named_in_one_printable_line(key: str, tmp_path: Path, capsys: Any) -> None:
    content = sealed({**made(Result), "schema": results.SCHEMA, key: 1})
    folder = tmp_path / "results" / "task"
    folder.mkdir(parents=True)
    (folder / "a.json").write_bytes(content)

    with pytest.raises(DamagedFile) as refused:
        store.parse(content, "sent.json", Result)
    assert text.is_line(str(refused.value))
    assert main(["report", "--results", "results"]) == 2
    said = capsys.readouterr().err
    assert text.is_line(said.rstrip("\n"), 2000)
    assert "result: unknown" in said


@pytest.mark.parametrize("name", ["a\x1b[31m.json", "a\u202e.json", "a\n.json", "\udcff.json"])
def test_a_file_s_own_name_does_not_reach_the_terminal_as_it_is(name: str, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "results" / "task"
    folder.mkdir(parents=True)
    (folder / name).write_text("{}")

    assert main(["report", "--results", "results"]) == 2
    assert text.is_line(capsys.readouterr().err.rstrip("\n"), 2000)


@pytest.mark.parametrize("words", UNSEEN.values(), ids=UNSEEN)
def test_the_manifest_of_a_bundle_is_quoted_and_never_shown(words: str, tmp_path: Path) -> None:
    for content in (
        {"format": words, "estimator file": "estimators/a.py", "files": {}},
        {"format": 1, "estimator file": words, "files": {}},
        {"format": 1, "estimator file": "estimators/a.py", "files": {words: "0" * 64}},
        {"format": 1, "estimator file": "estimators/a.py", "files": {"estimators/a.py": words}},
        {"format": 1, "estimator file": "estimators/a.py", "files": {}, words: 1},
    ):
        (tmp_path / "estimators").mkdir(exist_ok=True)
        (tmp_path / "estimators" / "a.py").write_text("")
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(LoobenchError) as refused:
            bundle.read(tmp_path)
        assert text.is_line(str(refused.value).replace(str(tmp_path), ""), 500)


def test_the_schema_refuses_hidden_text_and_long_text_too() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    from benchmark.scores.schema import document

    for name, kind in (("result", Result), ("limits", Limits)):
        check = jsonschema.Draft202012Validator(document(name, kind))
        content = {**made(kind), "schema": results.SCHEMA}
        for one in places(kind, content):
            for words in ("a\nb", "a\x1bb", "a\u202eb", "a\u200bb", "x" * (text.LONGEST + 1)):
                spoilt = put(content, one, lambda _, words=words: words)  # type: ignore[misc]
                assert any(
                    error.absolute_path and [*error.absolute_path] == [*one.at] for error in check.iter_errors(spoilt)
                ), one


# ---- what we write ourselves -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("words", UNSEEN.values(), ids=UNSEEN)
def test_any_text_can_be_made_a_line_and_a_line_stays_as_it_is(words: str) -> None:
    for most in (10, text.LONGEST):
        assert text.is_line(text.line(words, most), most)
        assert text.line(text.line(words, most), most) == text.line(words, most)
    assert not text.is_line(words)
    assert all(map(text.is_line, re.split("[\n\t]", text.printable(words)[:100])))


@pytest.mark.parametrize("words", ["Müller & 王 2026", "naïve, ≤ 3 °C", "e\u0301", "Nguyễn", "שלום", TEXT])
def test_letters_of_any_script_are_printable(words: str) -> None:
    assert text.is_line(words)
    assert text.line(words) == words


def test_what_a_run_records_is_always_a_line() -> None:
    assert text.is_line(str(Failure("crashed", "one\ntwo\x1b[31m" + "x" * 10**5)))
    facts = machine.provenance("loobench run --estimator a\nb" + "x" * 10**5, "cpu", "float64")
    assert records.decode(dict[str, Any], facts) == facts


@pytest.mark.parametrize("settings", [{"a": "b\nc"}, {"a": ["\x1b"]}, {"a": {"b\u202e": 1}}, {"a": "x" * 1001}])
def test_settings_and_papers_that_no_file_could_hold_are_refused_where_they_are_declared(settings: dict[str, Any]) -> None:
    with pytest.raises(LoobenchError, match="each text one printable line"):
        estimator("mine", paper="mine", **settings)
    with pytest.raises(LoobenchError, match="in one line"):
        estimator("mine", paper="mine\u200b")


def test_names_in_wandb_are_no_longer_than_it_takes() -> None:
    content = results.encode(synthetic.result(TASKS[SUITES[0]], "sgd-ie", 1, 0.5))
    content["task"].update(name="n" * 900, suite="s" * 900, model="m" * 900)
    content["task_digest"] = record_digest(content["task"], content["protocol"])
    said = logged.about(checks.check(content, Result), tracking.Options())

    assert max(len(said["name"]), len(said["group"])) <= 128
    assert max(map(len, said["tags"])) <= 64


# ---- where it is written -----------------------------------------------------------------------------------------------
@cache
def sent() -> tuple[list[Any], list[Any]]:
    """Results and limits as JSON: two estimators on four tasks, one verified, one that failed."""
    tasks = {name: TASKS[name] for name in SUITES}
    found, known = synthetic.everything(tasks, {"sgd-ie": (0.9, 2.0), "grad-dot": (0.6, 0.1)}, 2)
    found += [verified(claimed(synthetic.result(task, "theirs", 2, 0.5))) for task in tasks.values()]
    found += [synthetic.failed(task, "broken", "crashed") for task in list(tasks.values())[:2]]
    return [results.encode(one) for one in found], [results.encode(one) for one in known.values()]


def refitted(content: Any) -> Any:
    """A result or limits whose digest of the task fits its record."""
    return {**content, "task_digest": record_digest(content["task"], content["protocol"])}


@cache
def accepted(kind: Any) -> list[list[Place]]:
    """Of each result or each of the limits, the places where any printable line is read; all of a task must be of one task."""
    found = [{one: takes(kind, content, one) for one in places(kind, content)} for content in sent()[kind is Limits]]
    task = {one.name for known in found for one, read in known.items() if not read and one.name.startswith("task.")}
    return [[one for one, read in known.items() if read and one.name not in task] for known in found]


def takes(kind: Any, content: Any, place: Place) -> bool:
    """Whether a file is read with hostile words in a place."""
    with suppress(records.Mismatch):
        return bool(checked(kind, put(content, place, lambda old: old + TEXT)))
    return False


def checked(kind: Any, content: Any) -> Any:
    """A result or limits as read from a file, once its digest of the task fits its record."""
    fitting = {**content, "task_digest": record_digest(content["task"], content["protocol"])}
    return checks.check(fitting, kind)


@cache
def spoilt(kind: Any, words: str, but: frozenset[str]) -> list[Any]:
    """All results or limits with words behind every string that takes them, and as a key wherever keys are free."""
    return [
        checked(
            kind,
            reduce(
                lambda whole, one: put(whole, one, lambda old: old + words), [p for p in known if p.name not in but], content
            ),
        )
        for content, known in zip(sent()[kind is Limits], accepted(kind), strict=True)
    ]


@cache
def boards(words: str, but: frozenset[str]) -> rows.Board:
    return board.board(spoilt(Result, words, but), {one.name: one for one in spoilt(Limits, words, but)}, [CORE])


def both(but: frozenset[str] = frozenset()) -> tuple[rows.Board, rows.Board]:
    """The board with plain words and the one with hostile words in the same places."""
    return boards(PLAIN, but), boards(TEXT, but)


EVERYWHERE = pytest.mark.parametrize("but", [frozenset(APART), frozenset()], ids=["in usual suites", "everywhere"])


def test_what_takes_any_line_is_not_little() -> None:
    of_results, of_limits = ({one.name for some in accepted(kind) for one in some} for kind in (Result, Limits))

    assert of_results >= {"task.name", "task.model", "estimator.name", "estimator.paper", "provenance.*.loobench"} | APART
    assert of_results >= {"estimator.settings{}", "provenance{}", "cells.*.message", "cells.*.scores{}", "cells.*.notes{}"}
    assert of_results >= {"claimed.by", "verified.by", "verified.seeds[]"}
    assert of_limits >= {"task.name", "seeds.*.truth", "seeds.*.values{}", "seeds.*.references{}", "device"}


def skeleton(page: str) -> list[str]:
    """Of each line of Markdown what could be markup, in order: whatever else it says is text."""
    inert = re.sub(r"&#\d+;", "", LINK.sub("]()", page))
    return [
        re.sub(r"[^\W_]|[ .,;:()'\"/=+?%^-]", "", line) + "".join(re.findall(ADDRESSES, line)) for line in inert.splitlines()
    ]


ADDRESSES = r"(?i)://|www\.|mailto:"
LINK = re.compile(r"\]\([A-Za-z0-9%._~/#-]+\)")  # to a place in the repository


def cells(page: str) -> list[int]:
    """How many cells each row of Markdown's tables has."""
    return [len(re.split(r"(?<!\\)\|", line)) for line in page.splitlines() if line.startswith("|")]


def same_markdown(plain: str, hostile: str) -> None:
    """Both have the same headings, rows, cells, links, tags and emphasis; and no address leads out."""
    assert skeleton(hostile) == skeleton(plain)
    assert cells(hostile) == cells(plain)
    assert not re.search(r"evil\.|@everyone|<img|<script", LINK.sub("", hostile))


@EVERYWHERE
def test_the_leaderboard_has_the_same_rows_cells_links_and_tags_whatever_strangers_write(but: frozenset[str]) -> None:
    plain, hostile = (report.leaderboard(one, {}) for one in both(but))

    same_markdown(plain, hostile)
    assert "onerror" in hostile


def test_the_headline_of_the_readme_has_so_too_with_links_to_sources() -> None:
    frame = f"{report.OPENING}\n{report.CLOSING}\n"
    shown = [
        report.quoted(frame, one, {f"sgd-ie{words}": "estimators/sgd_ie.py"})
        for one, words in zip(both(frozenset(APART)), (PLAIN, TEXT), strict=True)
    ]

    same_markdown(*shown)
    assert len(cells(shown[0])) >= 4
    assert "(estimators/sgd_ie.py)" in shown[1]


class Tags(HTMLParser):
    """The elements and attributes of a page, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", ()))


@EVERYWHERE
def test_the_page_has_the_same_elements_and_its_data_are_json_that_says_what_was_written(but: frozenset[str]) -> None:
    plain, hostile = (page.render(one, cite=cite.bibtex, sources={}) for one in both(but))

    assert Tags(hostile["index.html"].decode()).found == Tags(plain["index.html"].decode()).found
    assert len(hostile) == len(plain)
    said = ""
    for name, content in hostile.items():
        said += json.dumps(page.unpacked(content)[1])
        if name.endswith(".js"):
            assert re.fullmatch(r"data/(suites|tasks)/[a-z0-9.-]+\.js", name)
            inside = re.fullmatch(rb"page\.take\((.*)\);\n", content)
            assert inside
            assert len(json.loads(b"[" + inside[1] + b"]")) == 3
            assert b"<" not in content
            assert content.isascii()
    for one in (f"sgd-ie{TEXT}", f"it broke{TEXT}", f"a stranger{TEXT}", f"loobench run{TEXT}"):
        assert json.dumps(one)[1:-1] in said, one


def test_the_page_s_scripts_make_no_element_of_a_text() -> None:
    code = page.asset("page.js") + page.asset("charts.js")

    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|createContextualFragment", code
    )
    assert not re.search(r"\beval\(|new Function", code)


@pytest.mark.skipif(not which("node"), reason="needs node")
def test_a_name_that_every_object_has_is_in_the_page_s_records_only_where_it_was_written() -> None:
    [code] = re.findall(r"^  function parsed\(.*?^  }$", page.asset("page.js"), re.M | re.S)
    asked = """const found = parsed('{"scores": {"sgd-ie": 1, "__proto__": 2}, "list": [{"a": 3}]}');
    console.log(JSON.stringify(["constructor" in found.scores, found.scores.toString ?? null, found.scores.__proto__,
      found.scores["sgd-ie"], found.list[0].a, found.list.length, "valueOf" in found.list[0]]));"""
    done = subprocess.run(["node", "-e", f"{code}\n{asked}"], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == [False, None, 2, 1, 3, 1, False]


@EVERYWHERE
def test_a_citation_is_one_entry_with_braces_in_balance_and_prints_what_was_written(but: frozenset[str]) -> None:
    _, hostile = both(but)
    for table in (hostile.suites[-1].overall, hostile.suites[-1].tasks[0]):
        for row in table.estimators:
            key, fields = parsed(cite.bibtex(table, row))
            assert re.fullmatch(r"[A-Za-z0-9.:_-]+", key)
            assert printed(fields["title"][1:-1]) == f"{row.name} on {table.name}, a row of loobench"
            assert TEXT in printed(fields["howpublished"])
            assert TEXT in printed(fields["note"])
            assert not re.search(r"(?<!\\)[%&$#_~^<>|]", "".join(fields.values()))
            assert text.is_line(cite.text(table, row), 10**5)


@pytest.mark.parametrize("kind", ["cost", "horizons", "pairs", "heatmap", "ranks"])
def test_a_figure_draws_names_as_they_are(kind: str) -> None:
    pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib")
    tags = []
    for one in both(frozenset(APART)):
        [suite] = [found for found in one.suites if found.name == "quick"]
        task = suite.tasks[0].name if kind in ("horizons", "pairs") else None
        [(name, figure)] = figures.figures(one, None if task else suite.name, task, [kind])
        root = ElementTree.fromstring(figures.content(figure, "svg"))
        tags.append({element.tag.rpartition("}")[2] for element in root.iter()})
        links = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
        assert all(re.match(r"#|data:image/png;base64,", value) for value in links)
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
        assert figures.content(figure, "pdf").startswith(b"%PDF-")

    assert tags[0] == tags[1]
    assert not tags[1] & {"script", "a", "img", "foreignObject"}


def verdict(words: str) -> Report:
    """What verifying a result says that has some words wherever a stranger can write."""
    result = spoilt(Result, words, frozenset())[-3]
    claim = result.cells["0"]
    crash = replace(claim, status="crashed", scores={}, by_query=[], message=f"no {words}")
    again = [Again(0, claim, crash), Again(1, result.cells["1"], None, f"diverged {words}")]
    reference = Beside(result.name, f"sgd-ie{words}", 0.5, 0.4)
    facts = {"nonce": "0" * 16, "sampled": "all", "by": f"me{words}", "when": f"now{words}", "environment": f"here{words}"}
    found = verdicts.decide(result, again, LeaveOneOut, suspicions=[(verdicts.FRESH, f"less {words}")])
    return Report((found,), (reference,), {result.name: (100,)}, **facts)


def test_a_verdict_is_the_same_page_and_the_same_lines_on_a_terminal() -> None:
    plain, hostile = verdict(PLAIN), verdict(TEXT)

    same_markdown(verdicts.markdown(plain), verdicts.markdown(hostile))
    shown = [verdicts.below(one).splitlines() for one in (plain, hostile)]
    assert len(shown[0]) == len(shown[1])
    table = terminal.table_text(verdicts.HEADERS, verdicts.lines(hostile)).splitlines()
    assert all(text.is_line(line, 10**5) for line in [*shown[1], *table])
    assert max(map(len, table)) <= terminal.WIDTH
    assert shown[0][-1] == shown[1][-1] == "verdict: failed"


def test_an_audit_is_the_same_table() -> None:
    shown = [
        audit.table([audit.Finding(f"a{words}", f"added by {words}"), audit.Finding(words, words, False)])
        for words in (PLAIN, TEXT)
    ]

    same_markdown(*shown)
    assert cells(shown[1]) == [5] * 4


@EVERYWHERE
def test_tables_on_a_terminal_have_the_same_lines(but: frozenset[str]) -> None:
    for plain, hostile in zip(*(one.suites for one in both(but)), strict=True):
        shown = [tables.brief(one.overall) for one in (plain, hostile)]
        assert [len(rows) for _, rows in shown[0]] == [len(rows) for _, rows in shown[1]]
        lines = [line for made in shown[1] for line in terminal.table_text(*made).splitlines()]
        assert all(text.is_line(line, terminal.WIDTH) for line in lines)


# ---- Markdown ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("acc-sgd-ie-exact (float32, cuda)", "acc-sgd-ie-exact (float32, cuda)"),
        ("kronfluence/kfac, 0.6.0: mlp-8-8 of breast_cancer", "kronfluence/kfac, 0.6.0: mlp-8-8 of breast_cancer"),
        ("task/a.json at 1.5", "task/a.json at 1.5"),
        ("- x", "&#45; x"),
        ("---", "&#45;--"),
        ("1) x", "1&#41; x"),
        ("12. x", "12&#46; x"),
        ("www.a.org", "www&#46;a&#46;org"),
        ("http://a", "http&#58;&#47;&#47;a"),
        ("a@b", "a(at)b"),
        ("_a_ a_b", "&#95;a&#95; a_b"),
        ("a\n\n# b", "a &#35; b"),
    ],
)
def test_only_what_markdown_minds_is_escaped(words: str, shown: str) -> None:
    assert text.markdown(words) == shown


@pytest.mark.parametrize("words", ["```\n# up", "````` x", "a\x1b[31mred", "plain"])
def test_nothing_in_a_fence_closes_it(words: str) -> None:
    lines = text.fenced(words).splitlines()

    assert lines[0] == lines[-1] + "text"
    assert not any(line.startswith(lines[-1]) for line in lines[1:-1])
    assert "\x1b" not in text.fenced(words)
    assert len(text.fenced("x" * 10**6)) < 21_000
