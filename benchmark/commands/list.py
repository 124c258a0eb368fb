"""`loobench list`: what there is."""

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import click

from benchmark.base.text import line
from benchmark.commands import options as o
from benchmark.commands import terminal
from benchmark.commands.declarations import declared


class Listing(NamedTuple):
    """Rows under headers, the column that is cut to fit, none where lines are wrapped, and each row as a JSON value."""

    headers: list[str]
    rows: list[list[str]]
    cut: str | None
    records: list[dict[str, Any]]


@o.command(
    o.argument("what", "WHAT", type=click.Choice(["tasks", "suites", "estimators", "datasets", "metrics"])),
    o.option("--suite", metavar="SUITE", help="Only its tasks, their data sets, or estimators for their optimisers."),
    o.repeated("--match", metavar="TEXT", help="Only what has this text in its row or record; may be repeated."),
    *(o.JSON, o.CACHE),
    examples=("loobench list tasks --suite quick", "loobench list estimators --match Koh", "loobench list datasets --json"),
)
def command(options: o.Options) -> int:
    """Show what there is.

    WHAT is tasks, suites, estimators, datasets or metrics; `loobench show` says all of one.
    """
    found = declared(partial(LISTINGS[options.what], options))
    texts = [f"{' '.join(row)} {json.dumps(record)}".lower() for row, record in zip(found.rows, found.records, strict=True)]
    kept = [at for at, row in enumerate(texts) if all(text.lower() in row for text in options.match)]
    if options.as_json:
        terminal.write_json([found.records[at] for at in kept])
    else:
        terminal.table(found.headers, [found.rows[at] for at in kept], cut=found.cut)
    return 0


def _tasks(options: o.Options) -> Listing:
    from benchmark.tasks.finding import packaged

    chosen = _chosen(options.suite)
    rows = [[t.name, t.model, t.optimizer.name, str(t.train), str(t.epochs)] for t in chosen]
    records = [{**task.record(), "digest": task.digest()} for task in chosen]
    theirs = {} if options.suite else {line(name): line(point.module) for name, point in packaged().items()}
    rows += [[name, f"package {module}", "?", "?", "?"] for name, module in theirs.items()]
    records += [{"name": name, "package": module} for name, module in theirs.items()]
    return Listing(["task", "model", "optimizer", "N", "epochs"], rows, "model", records)


def _chosen(suite: str | None) -> Iterable[Any]:
    """The tasks of a suite, or all."""
    from benchmark.tasks import suites

    return suites.suite(suite).tasks if suite else suites.TASKS.values()


def _suites(options: o.Options) -> Listing:
    from benchmark.tasks.suites import SUITES, suite

    chosen = [suite(options.suite)] if options.suite else [*SUITES.values()]
    rows = [[s.name, str(len(s.tasks)), str(s.seeds), s.about] for s in chosen]
    records = [{**vars(s), "tasks": [task.name for task in s.tasks]} for s in chosen]
    return Listing(["suite", "tasks", "seeds", "about"], rows, None, records)


def _estimators(options: o.Options) -> Listing:
    from benchmark.core.registry import registered
    from benchmark.sandbox.client import packaged

    optimizers = {task.optimizer.name for task in _chosen(options.suite)} if options.suite else set()
    chosen = [one for one in registered().values() if optimizers <= {*one.optimizers}]
    rows = [[e.name, "loss" if e.loss_units else "score", e.tuned_on, e.paper] for e in chosen]
    records = [{name: value for name, value in vars(e).items() if name != "function"} for e in chosen]
    strangers = {name: point.module for name, point in packaged().items() if name not in registered()}
    rows += [[line(cell) for cell in (name, "?", "?", f"package {module}")] for name, module in strangers.items()]
    records += [{"name": line(name), "package": line(module)} for name, module in strangers.items()]  # nothing is imported
    return Listing(["estimator", "units", "tuned on", "source"], rows, "source", records)


def _datasets(options: o.Options) -> Listing:
    from benchmark.tasks import data

    names = {task.dataset for task in _chosen(options.suite)} if options.suite else data.SOURCES
    chosen = [source for source in data.SOURCES.values() if source.name in names]
    cached = [data.cached(s.name, options.cache).exists() for s in chosen]
    rows = [
        [s.name, str(sum(s.rows.values())), s.licence, s.digest[:12], "yes" if here else "no", s.origin]
        for s, here in zip(chosen, cached, strict=True)
    ]
    records = [{**vars(s), "cached": here} for s, here in zip(chosen, cached, strict=True)]
    return Listing(["name", "rows", "licence", "digest", "cached", "source"], rows, "source", records)


def _metrics(_options: o.Options) -> Listing:
    from benchmark.scores.metrics import METRICS

    records = [{"name": m.name, "best": str(m.best), "worst": str(m.worst), "about": m.about} for m in METRICS.values()]
    return Listing(["metric", "best", "worst", "about"], [[*record.values()] for record in records], None, records)


LISTINGS: dict[str, Callable[[o.Options], Listing]] = {
    "tasks": _tasks,
    "suites": _suites,
    "estimators": _estimators,
    "datasets": _datasets,
    "metrics": _metrics,
}
