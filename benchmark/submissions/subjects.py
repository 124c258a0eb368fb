"""What is to be verified: results in bundles and files, each with the estimator that must reproduce it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark import PROTOCOL
from benchmark.base import machine
from benchmark.base.errors import LoobenchError
from benchmark.base.files import read
from benchmark.base.places import ROOT
from benchmark.base.text import line
from benchmark.core import registry
from benchmark.core.declaration import Estimator
from benchmark.core.syntax import source_digest
from benchmark.sandbox import client
from benchmark.sandbox.client import Rules
from benchmark.scores import results, store
from benchmark.scores.results import Result
from benchmark.scores.store import Store
from benchmark.submissions import scaffold
from benchmark.submissions.bundle import read as read_bundle
from benchmark.tasks import definition, suites
from benchmark.tasks.definition import Task

CONFINED = Rules(everyone=True)  # merged or not: who verifies trusts nobody


@dataclass(frozen=True)
class Subject:
    """A result whose claims are to be computed again, and by what; `folder`: of results, where its file lies, if it does."""

    result: Result
    task: Task
    estimator: Estimator
    folder: Path | None


Known = tuple[Estimator, str]  # with the digest of the file that declares it


def subjects(inputs: Iterable[Path], sources: Sequence[str], rules: Rules = CONFINED) -> list[Subject]:
    """The results in bundles (folders) and result files, each with the estimator that must reproduce it.

    That of a bundle is in its one source file; that of a result file is registered, or in one of the files `sources`.
    Raises LoobenchError where input cannot be read or is of another source, version, setting, protocol or task than
    what is here, and where one result is given twice.
    """
    given = {name: one for source in sources for name, one in _declared(source, rules).items()}
    found = [one for at in inputs for one in (_of_bundle(at, rules) if at.is_dir() else [_of_file(at, given)])]
    names = [(one.result.name, one.result.estimator.name) for one in found]
    if twice := [_called(one.result) for one, name in zip(found, names, strict=True) if names.count(name) > 1]:
        raise LoobenchError(f"each result is verified once, but two are of {twice[0]}: leave one out")
    if len({one.estimator.name for one in found}) < len({one.estimator.identity() for one in found}):
        raise LoobenchError("two estimators of one name cannot be verified together: verify one after the other")
    inside = [replace(one, estimator=client.confined(one.estimator, rules.allowance)) for one in found]
    return inside if rules.everyone else found


def _declared(source: str, rules: Rules) -> dict[str, Known]:
    """The estimators of a file `path.py[:name]`, each with the digest of the file."""
    path = source.partition(":")[0]
    if not path.endswith(".py"):
        raise LoobenchError(f"--estimator takes the file of an estimator that is not registered, FILE.py, got {source!a:.80}")
    content = source_digest(read(Path(path)))
    return {one.name: (one, content) for one in client.resolve([source], rules)}


def _of_bundle(folder: Path, rules: Rules) -> list[Subject]:
    bundle = read_bundle(folder)
    source = source_digest(read(bundle.source))
    names = {result.estimator.name for result in bundle.results}
    known = {name: (one, source) for name, one in registry.registered().items() if name in names and one.source == source}
    declared = known if len(known) == len(names) else _declared(str(bundle.source), rules)  # known: it was merged
    return [_subject(result, declared, None) for result in bundle.results]


def _of_file(at: Path, given: Mapping[str, Known]) -> Subject:
    result, folder = store.load(at), at.absolute().parent.parent
    store.refuse_copies(at.absolute(), result, folder)
    if at.absolute() != Store(folder).at(result):
        raise LoobenchError(f"{at} holds the result of {_called(result)}: verify it in a folder of results, under that name")
    name = result.estimator.name
    if name in given:
        return _subject(result, given, folder)
    if name not in registry.registered():
        raise LoobenchError(f"{at}: the estimator {name!a:.80} is not registered: name its source by --estimator FILE.py")
    one = registry.registered()[name]
    return _subject(result, {name: (one, source_digest(read(ROOT / registry.sources()[name])))}, folder)


def _subject(result: Result, declared: Mapping[str, Known], folder: Path | None) -> Subject:
    """A result with the estimator of its name, which must be the one that it says."""
    name = result.estimator.name
    if name not in declared:
        raise LoobenchError(f"{_called(result)}: the file declares {', '.join(sorted(declared))}, and not that")
    estimator, source = declared[name]
    if result.estimator.source != source:
        raise LoobenchError(
            f"{_called(result)}: the result is of a source with digest {result.estimator.source:.12}, the file here has "
            f"{source[:12]}: run `loobench run` again with this file, or give the one of the result"
        )
    if not result.cells:
        raise LoobenchError(f"{_called(result)}: the result has no seed: there is nothing to verify")
    if estimator.missing:
        raise LoobenchError(f"{_called(result)} needs {estimator.missing}")
    if left := scaffold.unfilled(estimator.paper, client.source(estimator)):
        raise LoobenchError(f"{_called(result)}: {left[0]}; then run it again")
    task = _task(result)
    _expect_declared(result, results.blank(task, machine.device(result.device), estimator))
    return Subject(result, task, estimator, folder)


def _called(result: Result) -> str:
    """A result's task and estimator, for a message: a stranger's file may have anything there."""
    return line(f"{result.name} {result.estimator.name}", 160)


def _task(result: Result) -> Task:
    """The task of a result as it is here. Raises LoobenchError where that or the protocol is another."""
    name, again = (
        _called(result),
        "run `loobench run` again with this loobench, or verify with that one",
    )
    if result.protocol != PROTOCOL:
        raise LoobenchError(
            f"{name}: computed under protocol {result.protocol:.20}, here is {PROTOCOL}, whose numbers differ: {again}"
        )
    dtype = str(result.task["dtype"])
    task = definition.variant(suites.task(str(result.task["name"]).removesuffix(f"-{dtype}")), dtype)
    if (result.task_digest, result.task) != (task.digest(), task.record()):
        raise LoobenchError(
            f"{name}: the task has digest {task.digest()[:12]} here, the result is of {result.task_digest:.12}: {again}"
        )
    return task


def _expect_declared(result: Result, here: Result) -> None:
    """Raise LoobenchError where a result describes its estimator otherwise than its file does."""
    claimed, declared = vars(result.estimator), vars(here.estimator)
    if other := [key for key in declared if claimed[key] != declared[key]]:
        told = "; ".join(f"{key} is {declared[key]!a:.80}, the result says {claimed[key]!a:.80}" for key in other)
        raise LoobenchError(f"{_called(result)}: its file says otherwise: {told}: run `loobench run` again")
