"""`loobench show`: all of one task or estimator."""

import inspect
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmark.base import places
from benchmark.base.errors import unknown
from benchmark.base.text import line, printable
from benchmark.commands import options as o
from benchmark.commands import terminal
from benchmark.commands.declarations import declared

Facts = dict[str, Any]


@o.command(
    o.argument("name", "TASK|ESTIMATOR|FILE.py[:NAME]"),
    *(o.READ, o.JSON, *o.STRANGERS),
    examples=("loobench show quick-digits-mlp-sgd", "loobench show sgd-ie --json", "loobench show my_task.py"),
)
def command(options: o.Options) -> int:
    """All of a task or an estimator: its record, settings, paper, sources and published results.

    A file that declares tasks is run here, as yours; one that declares estimators in the sandbox.
    """
    folder = places.read(options.results)
    known = declared(partial(_declared, options.name))
    found = {options.name: known} if known else _strangers(options)
    facts = {name: {**one, "results": _results(name, folder)} for name, one in found.items()}
    if options.as_json:
        terminal.write_json(facts)
        return 0
    for name, one in facts.items():
        _print(name, one, folder)
    return 0


def _declared(name: str) -> Facts | None:
    """What is declared of a registered task or estimator; None where there is none of the name."""
    from benchmark.core import registry
    from benchmark.tasks import data, suites

    if task := suites.TASKS.get(name):
        source = data.source(task.dataset)
        seeds = suites.suite(task.suite).seeds
        more = {"seeds": seeds, "origin": source.origin, "licence": source.licence, "digest": task.digest()}
        return _of_task(task, more)
    if variant := registry.registered().get(name):
        return _of_estimator(variant, registry.sources()[name])
    return None


def _of_task(task: Any, more: Facts) -> Facts:
    return {"kind": "task", **task.record(), **more}


def _of_estimator(variant: Any, source: str) -> Facts:
    plain = {name: value for name, value in vars(variant).items() if name not in ("function", "source")}
    about = inspect.getdoc(variant.function) or ""
    return {"kind": "estimator", **plain, "missing": variant.missing, "source": source, "about": about}


def _strangers(options: o.Options) -> dict[str, Facts]:
    """What a file declares: its tasks, or its estimators, in the sandbox unless that is not wanted.

    Raises LoobenchError for an unknown name.
    """
    from benchmark.core import registry
    from benchmark.sandbox import client
    from benchmark.submissions import check_task
    from benchmark.tasks import finding, suites

    file, packaged = options.name.partition(":")[0], [*client.packaged(), *finding.packaged()]
    if not file.endswith(".py") and file not in packaged:
        raise unknown("task or estimator", options.name, [*suites.TASKS, *registry.registered(), *packaged])
    if check_task.is_task(options.name):
        tasks = finding.found(options.name).items()
        return {task.name: _of_task(task, {"seeds": seeds, "digest": task.digest()}) for task, seeds in tasks}
    return {one.name: {**_of_estimator(one, file), "about": ""} for one in client.resolve([options.name], o.rules(options))}


def _results(name: str, folder: Path) -> dict[str, Facts]:
    """What a folder's manifest has of a task or estimator, best first: the other's name -> score that ranks, over its seeds."""
    try:
        known = json.loads((folder / places.MANIFEST).read_bytes())["results"]
    except (OSError, ValueError, KeyError):  # nothing that is published can be read
        return {}
    found = {}
    for file, one in known.items():
        pair = file.removesuffix(".json").replace("--", "/").split("/", 1)
        scores = [*one["scores"].values()]
        if name in pair and None not in scores:
            found[pair[pair[0] == name]] = {"score": fmean(scores), "seeds": len(scores)}
    return dict(sorted(found.items(), key=lambda item: -item[1]["score"]))


def _print(name: str, facts: Facts, folder: Path) -> None:
    hidden = ("kind", "name", "about", "results")
    shown = {key: _text(value) for key, value in facts.items() if key not in hidden}
    print(f"{facts['kind']} {line(name)}\n")
    if facts.get("about"):
        print(f"{terminal.wrapped(printable(facts['about']))}\n")
    terminal.table(["field", "value"], [[key, value] for key, value in shown.items() if value])
    if facts["results"]:
        print(f"\nPublished in {folder}: the score that ranks, mean over seeds\n")
        rows = [[other, f"{one['score']:.3f}", str(one["seeds"])] for other, one in facts["results"].items()]
        terminal.table(["estimator" if facts["kind"] == "task" else "task", "score", "seeds"], rows)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return {False: "no", True: "yes", None: ""}[value] if value is None or isinstance(value, bool) else line(value)
