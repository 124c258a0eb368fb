"""How to cite the benchmark, or one row of its board."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from urllib.parse import quote

import numpy as np

from benchmark import __version__
from benchmark.base.errors import LoobenchError
from benchmark.base.places import ROOT
from benchmark.base.text import latex, line
from benchmark.scores.intervals import Interval
from benchmark.scores.numbers import figure
from benchmark.scores.rows import Row, Table

NAME = "loobench"
CITATION = ROOT / "CITATION.cff"
PAGE = "docs/index.html"


@dataclass(frozen=True)
class Software:
    """What is cited: this benchmark."""

    title: str
    authors: tuple[str, ...]
    version: str
    year: str  # of its release; "" where not known


@dataclass(frozen=True)
class Cited:
    """A row as a citation has it."""

    key: str
    about: Software  # with the authors of the row: of what is published the benchmark's, else who computed it
    title: str
    made: str  # by which versions, for which protocol, and where it is shown if it is published
    score: str
    digest: str
    commits: str
    paper: str
    status: str  # what it is, if it is not published


# ---- the two forms ---------------------------------------------------------------------------------------------------
def bibtex(table: Table | None = None, row: Row | None = None) -> str:
    """A BibTeX entry of a row of a table, or of the whole benchmark: `bibtex(*board.find(name))`, `bibtex()`.

    Raises LoobenchError where the row is a reference such as "(oracle)", which no estimator made.
    """
    about = software()
    if table is None or row is None:
        return entry(f"{NAME}-{about.version}", about, about.title, {"version": about.version})
    found = cited(table, row)
    return entry(found.key, found.about, found.title, {"howpublished": found.made, "note": " ".join(sentences(found))})


def text(table: Table | None = None, row: Row | None = None) -> str:
    """The same in plain text, in one paragraph. Raises LoobenchError as `bibtex`."""
    if table is None or row is None:
        about = software()
        return f"{who(about)}. {about.title}. Version {about.version}."
    found = cited(table, row)
    return " ".join([f"{who(found.about)}. {found.title}. {found.made}.", *sentences(found)])


def who(about: Software) -> str:
    """Authors and year."""
    return ", ".join(about.authors) + (f" ({about.year})" if about.year else "")


def entry(name: str, about: Software, title: str, fields: dict[str, str]) -> str:
    """A BibTeX entry whose values are escaped; title and authors keep their letters as they are."""
    authors = " and ".join(f"{{{latex(author)}}}" for author in about.authors)
    known = {"author": authors, "title": f"{{{latex(title)}}}"} | ({"year": about.year} if about.year else {})
    values = known | {field: latex(value) for field, value in fields.items()}
    lines = (f"  {field} = {{{value}}},\n" for field, value in values.items())
    return f"@misc{{{key(name)},\n{''.join(lines)}}}"


def key(name: str) -> str:
    """A key that BibTeX and LaTeX take: a slash becomes a colon, any run of other letters a hyphen."""
    return re.sub(r"[^A-Za-z0-9.:_-]+", "-", name.replace("/", ":")).strip("-")


# ---- a row -----------------------------------------------------------------------------------------------------------
def cited(table: Table, row: Row) -> Cited:
    """What a citation says of a row. Raises LoobenchError where it is a reference."""
    if not row.results:
        raise LoobenchError(f"{row.name} of {table.name} is a reference, not an estimator's row: cite the benchmark instead")
    name, versions, commits = row.results[0].estimator.name, *(provenance(row, name) for name in ("loobench", "commit"))
    protocols = sorted({line(result.protocol) for result in row.results})
    made, place = f"{NAME} {', '.join(versions)}, protocol {', '.join(protocols)}", f"{table.name}/{name}"
    return Cited(
        f"{NAME}-{'local-' * row.own}{table.name}-{name}",
        replace(software(), authors=people(row), year="") if row.own else software(),
        line(f"{name} on {table.name}, " + (f"computed with {NAME}" if row.own else f"a row of {NAME}")),
        made if row.own else f"{made}, {PAGE}#{quote(place)}",
        score(table, row),
        row.digest,
        ", ".join(commits),
        line(row.results[0].estimator.paper),
        f"This is an unpublished local result, computed by {', '.join(people(row))}." if row.own else "",
    )


def sentences(found: Cited) -> list[str]:
    """What it is if it is not published, score, digest, commits and the estimator's own paper."""
    digest = f"Row digest {found.digest[:12]} ({found.digest})."
    commits = f"Computed at commit {found.commits}."
    paper = f"The estimator is that of: {found.paper}." if found.paper else ""
    return [words for words in (found.status, found.score, digest, commits, paper) if words]


def people(row: Row) -> tuple[str, ...]:
    """Who computed what is not published, as its submitter or its provenance says."""
    claimed = {result.claimed.by for result in row.results if result.claimed}
    return tuple(sorted(claimed)) or tuple(provenance(row, "by"))


def provenance(row: Row, name: str) -> list[str]:
    """The different values of a fact of where the cells come from."""
    records = (record for result in row.results for record in result.provenance.values())
    return sorted({line(record.get(name, "unknown")) for record in records})


def score(table: Table, row: Row) -> str:
    """The score that ranks with its interval, and over how much it is a mean."""
    if np.isnan(row.score.mean):
        return f"No score: {row.done} of {row.tasks} tasks are complete."
    seeds = " to ".join(dict.fromkeys(map(str, row.seeds)))
    over = f"{row.done} of {plural(row.tasks, 'task')}, {plural(seeds, 'seed')} each"
    claim = "" if row.trusted else " Claimed by its submitter, not verified."
    return f"{table.columns[0].title} {figure(row.score.mean)}, {ends(row.score)}; {over}.{claim}"


def plural(count: int | str, noun: str) -> str:
    """A count of things."""
    return f"{count} {noun}" + ("" if str(count) == "1" else "s")


def ends(score: Interval) -> str:
    """An interval in words."""
    return "no interval" if np.isnan(score.low) else f"95 % interval {figure(score.low)} to {figure(score.high)}"


# ---- the benchmark ---------------------------------------------------------------------------------------------------
def software(at: Path = CITATION) -> Software:
    """The benchmark as CITATION.cff has it; where that is absent, or another program's, as the installed package does."""
    facts = read_citation(at)
    if not facts.get("title", [""])[0].startswith(NAME):
        return Software(package_title(), (f"The {NAME} authors",), __version__, "")
    year = facts.get("date-released", [""])[0][:4]
    return Software(facts["title"][0], tuple(facts["authors"]), facts["version"][0], year)


def package_title() -> str:
    """The name of the installed package and what it is."""
    try:
        return f"{NAME}: {metadata(NAME)['Summary']}"
    except PackageNotFoundError:
        return NAME


def read_citation(at: Path) -> dict[str, list[str]]:
    """The top-level scalars of a CITATION.cff and its authors' names; nothing where it cannot be read."""
    try:
        lines = at.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    facts = {name: [value] for name, value in scalars(line for line in lines if line[:1].isalpha())}
    return {**facts, "authors": authors(lines)}


def authors(lines: list[str]) -> list[str]:
    """The names in the block `authors`: entities by `name`, persons by given and family names."""
    start = lines.index("authors:") + 1 if "authors:" in lines else len(lines)
    end = next((at for at, line in enumerate(lines) if at >= start and line[:1].isalpha()), len(lines))
    people: list[dict[str, str]] = []
    for words in lines[start:end]:
        people += [{}] if words.lstrip().startswith("- ") else []
        people[-1:] = [{**person, **dict(scalars([words.strip().removeprefix("- ")]))} for person in people[-1:]]
    names = (person.get("name") or f"{person.get('given-names', '')} {person.get('family-names', '')}" for person in people)
    return [line(name) for name in names]


def scalars(lines: Iterable[str]) -> list[tuple[str, str]]:
    """`name: value` of each line that is one, without quotes."""
    found = (re.fullmatch(r"([\w-]+): *(.+?) *", line) for line in lines)
    return [(match[1], match[2].strip("\"'")) for match in found if match]
