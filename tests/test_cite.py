"""A citation says which row, how sure, from which code, and parses."""

import re
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import synthetic

from benchmark.base.errors import LoobenchError
from benchmark.publishing import cite
from benchmark.scores.board import board
from benchmark.scores.results import Claim, Result
from benchmark.scores.rows import Board, Row, Table
from benchmark.tasks.suites import SUITES

TASKS = {task.name: task for task in SUITES["quick"].tasks[:2]}
NASTY = r"50% & <b>$x_1^2$</b> #{a} ~\frac} **c**"


@cache
def results() -> tuple[list[Result], dict[str, synthetic.Limits]]:
    return synthetic.everything(TASKS, {"sgd-ie": (0.9, 2.0), "grad-dot": (0.6, 0.01)}, 3)


@cache
def known() -> Board:
    return board(*results())


def parsed(entry: str) -> tuple[str, dict[str, str]]:
    """Key and fields of the only BibTeX entry of a text, as BibTeX reads it: every brace counts."""
    depth = [0]
    for letter in entry:
        depth.append(depth[-1] + (letter == "{") - (letter == "}"))
    assert depth[-1] == 0
    assert all(inside > 0 for inside in depth[6 : len(entry)])  # after "@misc{" nothing is outside
    head, *lines = entry.splitlines()
    fields = [re.fullmatch(r"  ([a-z]+) = \{(.*)\},", line) for line in lines[:-1]]
    assert all(fields)
    assert all(balanced(field[2]) for field in fields if field)
    return head.removeprefix("@misc{").removesuffix(","), {field[1]: field[2] for field in fields if field}


def balanced(value: str) -> bool:
    """Whether no brace of a field closes before it opens."""
    depth = 0
    for letter in value:
        depth += (letter == "{") - (letter == "}")
        if depth < 0:
            return False
    return depth == 0


def printed(value: str) -> str:
    """What LaTeX prints of an escaped field."""
    words = {"textbackslash": "\\", "textbraceleft": "{", "textbraceright": "}", "textasciitilde": "~", "textasciicircum": "^"}
    words |= {"textless": "<", "textgreater": ">", "textbar": "|"}
    return re.sub(r"\\([a-z]+)\{\}|\\(.)", lambda found: words[found[1]] if found[1] else found[2], value)


def changed(result: Result, **parts: object) -> Result:
    return replace(result, estimator=replace(result.estimator, **parts))  # type: ignore[arg-type]


def nasty() -> tuple[Table, Row]:
    """A row whose name and paper hold all that LaTeX, Markdown and HTML mind."""
    return board([changed(result, name=NASTY, paper=f"{NASTY}\n\n{NASTY}") for result in results()[0][::2]], {}).find(
        f"quick/{NASTY}"
    )


@pytest.mark.parametrize("name", ["quick/sgd-ie", f"{next(iter(TASKS))}/grad-dot"])
def test_a_row_says_versions_protocol_score_interval_seeds_digest_commit_address_and_paper(name: str) -> None:
    table, row = known().find(name)
    key, fields = parsed(cite.bibtex(table, row))
    plain = cite.text(table, row)

    assert key == f"loobench-{table.name}-{row.name}"
    assert fields["title"] == f"{{{row.name} on {table.name}, a row of loobench}}"
    tasks = "2 of 2 tasks" if table.name == "quick" else "1 of 1 task"
    for said in (
        "loobench 0.0.0",
        f"protocol {row.results[0].protocol}",
        f"docs/index.html#{name}",
        f"tau {row.score.mean:.3f}, 95 % interval {row.score.low:.3f} to {row.score.high:.3f}; {tasks}, 3 seeds each",
        f"Row digest {row.digest[:12]} ({row.digest})",
        "0" * 40,
        row.results[0].estimator.paper,
    ):
        assert said in plain
        assert said in printed(fields["howpublished"] + fields["note"])


def test_authors_version_and_year_are_those_of_the_citation_file() -> None:
    words = cite.CITATION.read_text()
    [version] = re.findall(r"^version: (.*)$", words, re.MULTILINE)
    [year] = re.findall(r"^date-released: (\d+)-", words, re.MULTILINE)
    key, fields = parsed(cite.bibtex())

    assert (key, fields["version"], fields["year"]) == (f"loobench-{version}", version, year)
    assert fields["author"] == "{The loobench authors}"
    assert parsed(cite.bibtex(*known().find("quick/sgd-ie")))[1]["year"] == year
    assert cite.text().startswith(f"The loobench authors ({year}). loobench: ")
    assert cite.text().endswith(f"Version {version}.")


def test_persons_and_entities_are_read_and_other_blocks_are_not(tmp_path: Path) -> None:
    file = tmp_path / "CITATION.cff"
    file.write_text(
        "title: 'loobench: a: title'\nversion: 1.2\ndate-released: \"2031-01-02\"\nauthors:\n"
        '  - family-names: Doe\n    given-names: Jane\n    orcid: https://x\n  - name: "A group"\n'
        "references:\n  - title: other\n    name: nobody\n"
    )

    assert cite.software(file) == cite.Software("loobench: a: title", ("Jane Doe", "A group"), "1.2", "2031")


@pytest.mark.parametrize("content", [None, "title: another program\nversion: 9\n", "\xff"])
def test_without_its_citation_file_the_installed_package_is_cited(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "CITATION.cff"
    if content:
        file.write_bytes(content.encode("latin-1"))
    monkeypatch.setattr(cite, "metadata", lambda name: {"Summary": f"about {name}"})

    assert cite.software(file) == cite.Software("loobench: about loobench", ("The loobench authors",), cite.__version__, "")


def test_without_file_and_package_the_name_is_cited_without_a_year(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cite, "metadata", absent)
    monkeypatch.setattr(cite.software, "__defaults__", (tmp_path / "none",))

    assert parsed(cite.bibtex())[1] == {"author": "{The loobench authors}", "title": "{loobench}", "version": cite.__version__}


def test_bibtex_with_every_special_letter_parses_and_prints_as_written() -> None:
    table, row = nasty()
    key, fields = parsed(cite.bibtex(table, row))

    assert re.fullmatch(r"[A-Za-z0-9.:_-]+", key)
    assert printed(fields["title"][1:-1]) == f"{NASTY} on quick, a row of loobench"
    assert f"{NASTY} {NASTY}" in printed(fields["note"])
    assert not re.search(r"(?<!\\)[%&$#_~^]", "".join(fields.values()))


def test_plain_text_is_one_line_and_its_address_has_no_space() -> None:
    plain = cite.text(*nasty())

    assert "\n" not in plain
    assert f"{NASTY} on quick" in plain
    assert re.search(r"docs/index\.html#quick/50%25%20[^ {}<>]+\.", plain)


def test_the_digest_changes_with_any_result_of_the_row_and_with_no_other() -> None:
    found, limits = results()
    other = [replace(found[0], provenance={**found[0].provenance, "other": {"commit": "f"}}), *found[1:]]
    names = ("quick/sgd-ie", "quick/grad-dot")
    before, after = ([cite.bibtex(*board(some, limits).find(name)) for name in names] for some in (found, other))

    assert found[0].estimator.name == "sgd-ie"
    assert before[0] != after[0]
    assert before[1] == after[1]
    assert [cite.bibtex(*board(found, limits).find(name)) for name in names] == before


def test_a_row_without_a_score_says_so_and_one_seed_has_no_interval() -> None:
    task = next(iter(TASKS.values()))
    found = board([synthetic.result(task, "grad-dot", 1, 0.5), synthetic.failed(task, "sgd-ie", "crashed")], {})

    assert "No score: 0 of 1 tasks are complete." in cite.text(*found.find("quick/sgd-ie"))
    assert re.search(r"tau 0\.\d+, no interval; 1 of 1 task, 1 seed each\.", cite.text(*found.find("quick/grad-dot")))


def test_several_commits_and_versions_are_all_named() -> None:
    [first, *others], limits = results()
    record = {"commit": "1" * 40, "loobench": "0.0.1"}
    mixed = replace(first, provenance={**first.provenance, "there": record})
    plain = cite.text(*board([mixed, *others], limits).find("quick/sgd-ie"))

    assert f"Computed at commit {'0' * 40}, {'1' * 40}." in plain
    assert "loobench 0.0.0, 0.0.1, protocol" in plain


@pytest.mark.parametrize(("row", "unknown"), [("quik/sgd-ie", "quik"), ("quick/sgd", "sgd")])
def test_an_unknown_row_is_an_error(row: str, unknown: str) -> None:
    with pytest.raises(LoobenchError, match=f"'{unknown}'"):
        cite.bibtex(*known().find(row))


def test_a_reference_is_no_row_to_cite() -> None:
    table, row = known().find("quick/sgd-ie")

    with pytest.raises(LoobenchError, match="is a reference"):
        cite.text(table, replace(row, name="(oracle)", results=()))


def test_a_citation_of_a_row_that_is_not_verified_says_so() -> None:
    made, limits = results()
    sent = [replace(one, claimed=Claim(0.9, "a stranger", "2026-11-01", "Linux")) for one in made]

    assert "Claimed by its submitter, not verified." in cite.text(*board(sent, limits).find("quick/sgd-ie"))
    assert "verified" not in cite.text(*known().find("quick/sgd-ie"))
