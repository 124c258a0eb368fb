"""leaderboard.md: the board as tables, a pure function of the result files and of the limits of their truths."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmark.base.places import PUBLISHED
from benchmark.base.text import markdown
from benchmark.publishing.legends import (
    ABOUT,
    CHOICE,
    CITE,
    HEAD,
    HEADLINE_TEXT,
    LEGEND,
    LEGENDS,
    LIMITED,
    OWN_HEAD,
    RENORMALISED,
    SUBMIT,
)
from benchmark.publishing.tables import Link, align, group_of, interval, lacking, linked, matrices, table, twins
from benchmark.scores.board import HEADLINE
from benchmark.scores.cells import bounds
from benchmark.scores.numbers import figure, mean
from benchmark.scores.rows import Board, Row, Suite, published

OPENING, CLOSING = "<!-- headline: `loobench report --publish` writes this table -->", "<!-- end of headline -->"
BEST = 5  # rows of each suite in the headline
VERSION = 40  # characters of a version of loobench


# ---- the page --------------------------------------------------------------------------------------------------------
def leaderboard(made: Board, sources: Mapping[str, str]) -> str:
    """The whole page, the names of estimators linked to their `sources`."""
    named = partial(linked, sources)
    parts = [HEAD, *headline(made, named)]
    for suite in made.suites:
        beside = [] if suite.version else [*twins(suite, made), *matrices(suite, made.limits)]
        parts += [*section(suite, named), *beside]
    return "\n".join([*parts, "## How to read\n", *legends(made), CITE, SUBMIT])


def beside(made: Board, sources: Mapping[str, str], home: str, own: Path) -> str:
    """The page of one's own results beside the published ones.

    `home`, as "../", leads from it to the repository, and `own` to the results of one's own.
    """
    named = partial(linked, {name: f"{home}{source}" for name, source in sources.items()})
    parts, places = [OWN_HEAD.format(home=home)], (Path(home) / PUBLISHED, own)
    for suite in made.suites:
        parts += [*section(suite, named), *([] if suite.version else matrices(suite, made.limits, places))]
    return "\n".join([*parts, "## How to read\n", *legends(made, home)])


def quoted(page: str, made: Board, sources: Mapping[str, str]) -> str:
    """A page with the headline's table between its marks, or as it is where it has none."""
    found = headline(made, partial(linked, sources))
    before, opening, rest = page.partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    return f"{before}{opening}\n\n{found[-1]}\n{closing}{after}" if found and closing else page


def section(suite: Suite, named: Link) -> list[str]:
    """A suite's heading, what it asks where that is not plain leave-one-out, its table and its version."""
    renormalised = suite.overall.results[0].task.get("counterfactual") == "renormalised"
    about = [text for text in (choice(suite), ABOUT[suite.kind], RENORMALISED * renormalised) if text]
    tables = [f"{shown}\n" for shown in (table(suite.overall, named), lacking(suite.overall, named)) if shown]
    return [f"## Suite {markdown(suite.title)}\n", *about, *tables, f"{version(suite)}\n"]


def choice(suite: Suite) -> str:
    """What a choice of other suites' tasks is; nothing of other suites."""
    table = suite.overall
    return CHOICE.format(table.rows[0].tasks, len(table.results[0].cells) - 1) if suite.version else ""


def version(suite: Suite) -> str:
    """What a suite's figures are of: protocol, version of a choice, digest of its tasks, what computed its rows."""
    facts = [facts for result in published(suite.overall.results) for facts in result.provenance.values()]
    made = sorted({markdown(one["loobench"], VERSION) for one in facts if "loobench" in one})
    by = f"; computed by loobench {', '.join(made)}" if made else ""
    chosen = f"version {suite.version}, " if suite.version else ""
    return f"Protocol {markdown(suite.protocol)}; {chosen}{len(suite.tasks)} tasks, digest `{suite.digest[:12]}`{by}."


def legends(made: Board, home: str = "") -> list[str]:
    """How to read the kinds of tables that there are."""
    kinds = {suite.kind for suite in made.suites}
    found = any(one.values for suite in made.suites for one in bounds(suite.overall.results, made.limits).values())
    return [LEGEND.format(home=home), *(text for name, text in LEGENDS.items() if name in kinds), *[LIMITED] * found]


# ---- the headline ----------------------------------------------------------------------------------------------------
def headline(made: Board, named: Link) -> list[str]:
    """The scores of the main suites side by side, of what is trusted; nothing where fewer than two of them are there."""
    suites = [suite for name in HEADLINE for suite in made.suites if suite.name == name]
    if len(suites) < 2:
        return []
    rows = [
        {row.name: row for row in suite.overall.estimators if row.sound and not np.isnan(row.score.mean)} for suite in suites
    ]
    names = {row.name for suite in suites for row in [row for row in suite.overall.rows if row.compared][:BEST]}
    found = {name: [table.get(name) for table in rows] for name in names}
    order = sorted(names, key=lambda name: (*_answered(found[name]), name))
    headers = ["estimator", *(suite.name for suite in suites), "cost"]
    lines = [[named(name), *_headline_row(found[name])] for name in order]
    body = tabulate(lines, headers, tablefmt="github", disable_numparse=True, colalign=align(headers))
    return [HEADLINE_TEXT.format(BEST), f"{body}\n"]


def _answered(rows: Sequence[Row | None]) -> tuple[int, list[bool], float]:
    """Where a row of the headline stands: how many suites it lacks, which, and its mean over the others, to sort by."""
    without = [row is None for row in rows]
    return sum(without), without, -mean([row.score.mean for row in rows if row])


def _headline_row(rows: Sequence[Row | None]) -> list[str]:
    costs = [row.means["cost"] for row in rows if row]
    return [
        *(f"{interval(row.score)} {group_of(row)}".strip() if row else "" for row in rows),
        figure(float(np.median(costs)), 2),
    ]
