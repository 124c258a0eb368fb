"""`loobench run`: a plan is made of the options, carried out, and summed up."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.base.errors import LoobenchError
from benchmark.base.places import PUBLISHED
from benchmark.commands import options as o
from benchmark.commands import terminal

WANDB = (
    o.flag("--wandb", help="Track in Weights & Biases, which never stops or slows the run."),
    o.option("--wandb-project", default="loobench", metavar="NAME", help="Project."),
    o.option("--wandb-entity", metavar="NAME", help="User or team.  [default: the login's own]"),
    o.option("--wandb-group", metavar="NAME", help="Group.  [default: the suite]"),
    o.Many(["--wandb-tags"], multiple=True, metavar="TAG...", help="Beside suite, model and optimiser."),
    o.option(
        "--wandb-mode", metavar="MODE", help="online, offline or disabled.  [default: WANDB_MODE, or W&B's settings, or online]"
    ),
)


@o.command(
    *o.CHOICE,
    o.option("--seeds", metavar="N|A-B", help="The first N seeds, or A to B, from 0 to 99.  [default: the suite's]"),
    o.flag("--full", help="The papers' full sizes, of suites that have them; for a GPU."),
    *(o.DEVICE, o.DTYPE, *o.MEANS, o.CACHE, o.WRITTEN, o.PUBLISH, o.REPLACE, o.by("computes, as results say")),
    *(o.RAY, o.SANDBOX, *o.STRANGERS, *WANDB),
    examples=(
        "loobench run --suite quick",
        "loobench run --suite hara2019 --seeds 2 --estimator sgd-ie --estimator if-cg",
        "loobench run --suite core --estimator my_estimator.py",
    ),
)
def command(options: o.Options) -> int:
    """Train, retrain without each sample, run estimators, score them, write results."""
    from benchmark.base import machine
    from benchmark.running import tracking
    from benchmark.running.plan import superseded
    from benchmark.running.run import Outcome, Trouble, execute

    plan, asked = _plan(options), _wandb(options)
    if why := machine.no_commit():
        terminal.tell("warning", f"these results will name no commit: {why}")
    if not options.estimator:
        _tell_missing()
    old, found = superseded(plan), []
    with tracking.tracker(asked, plan.store.folder, plan.setup.cache) as track, ExitStack() as held:
        answers = held.enter_context(_spread(options.ray, plan, track.bar(terminal.bar))) if options.ray else None
        for one in execute(plan, track.bar(terminal.bar), answers):
            found.append(one)
            if isinstance(one, Outcome):
                track.result(one.result, one.estimator)
                old = _told_afresh(old, plan.setup.cache) if one.fresh else old
    outcomes = [outcome for outcome in found if isinstance(outcome, Outcome)]
    failures = [f"{one.result} seed {one.seed}: {one.cell.status}: {one.cell.message}" for one in outcomes if one.cell.failed]
    failures += [f"{t.result} seed {t.seed}: {t.message}" for t in found if isinstance(t, Trouble)]
    for failure in failures:
        terminal.tell("failed", failure)
    with terminal.patient_reader():
        _print_summary(plan.store.folder, {(outcome.result, outcome.estimator) for outcome in outcomes})
        fresh = sum(outcome.fresh for outcome in outcomes)
        print(f"\n{fresh} cells computed, {len(outcomes) - fresh} were already there; results in {plan.store.folder}")
    return o.FAILED if failures else 0


@contextmanager
def _spread(address: str, plan: Any, bar: Any) -> Iterator[Any]:
    """Train the truths of a plan on a Ray cluster, which then answers what estimators are asked inside the block."""
    from benchmark.base import machine
    from benchmark.running import answers, cluster

    with cluster.connected(address, plan.setup.device) as found:
        with machine.one_thread():
            cluster.train_all(found, plan, bar)
        yield answers.spread(found, plan.setup)


def _told_afresh(old: Sequence[Path], cache: Path) -> list[Path]:
    """Say of files of other versions that they start afresh, now that something has; none is left to be told."""
    if old:
        where = cache / "superseded"
        terminal.tell("note", f"{len(old)} results of other versions start afresh; the old ones go to {where}")
    return []


def _tell_missing() -> None:
    from benchmark.core.registry import registered

    lacking: dict[str, list[str]] = {}
    for variant in registered().values():
        if variant.missing:
            lacking.setdefault(variant.missing, []).append(variant.name)
    for need, names in lacking.items():
        terminal.tell("note", f"left out {len(names)} ({names[0]} ...), which need {need}")


# ---- the plan --------------------------------------------------------------------------------------------------------
def _plan(options: o.Options) -> Any:
    from benchmark.base import machine
    from benchmark.running.cell import Setup
    from benchmark.running.plan import Plan
    from benchmark.sandbox import client, session
    from benchmark.scores.store import Store
    from benchmark.tasks import definition, suites

    folder = o.written(options)
    chosen = tasks(options) or dict.fromkeys(suites.suite("quick").tasks, suites.suite("quick").seeds)
    seeds = tuple(o.seeds(options.seeds, usual) for usual in chosen.values())
    estimators = tuple(client.resolve(options.estimator, o.rules(options, options.memory)))
    if options.device != "cpu" and (inside := [one.name for one in estimators if isinstance(one.function, session.Confined)]):
        raise LoobenchError(f"{', '.join(inside)}: the sandbox is for the CPU; leave --device out, or see --no-sandbox")
    return Plan(
        tasks=tuple(definition.variant(task, options.dtype) for task in chosen),
        estimators=estimators,
        seeds=seeds,
        setup=Setup(
            device=machine.device(options.device),
            cache=options.cache,
            command=_told(options),
            means=o.means(options, options.device),
            by=o.computed_by(options),
        ),
        store=Store(folder),
        afresh=options.replace or not options.publish,
    )


def tasks(options: o.Options) -> dict[Any, int]:
    """The tasks that the options name, and how many seeds of each are usual."""
    from benchmark.tasks import finding, suites

    if options.full and (options.task or not options.suite):
        raise LoobenchError("--full is for whole suites: name them by --suite, and no --task")
    files = [name for name in options.suite if name.endswith(".py")]
    named = [_suite(name, full=options.full) for name in options.suite if name not in files]
    chosen: dict[Any, int] = {task: suite.seeds for suite in named for task in suite.tasks}
    for name in (*files, *options.task):
        chosen |= finding.found(name)
    if unscored := [task.name for task in chosen if task.suite in suites.SUITES and not suites.SUITES[task.suite].scored]:
        raise LoobenchError(f"{', '.join(unscored)}: for choosing settings, never scored; use `loobench tune`")
    if options.publish and (own := [task.name for task in chosen if task.suite not in suites.SUITES]):
        raise LoobenchError(f"{', '.join(own)}: tasks of your own are never published; leave --publish out")
    return chosen


def _suite(name: str, *, full: bool) -> Any:
    from benchmark.tasks import suites

    found = suites.suite(name)
    if not full:
        return found
    if f"{name}-full" not in suites.SUITES:
        sizes = [other.removesuffix("-full") for other in suites.SUITES if other.endswith("-full")]
        raise LoobenchError(f"suite {name} has one size; --full is for {', '.join(sizes)}")
    return suites.suite(f"{name}-full")


def _told(options: o.Options) -> str:
    """The command as provenance records it: no folder of this machine in it."""
    chosen = [("--suite", options.suite), ("--task", options.task), ("--estimator", options.estimator)]
    parts = [f"{flag} {_file_name(value)}" for flag, values in chosen for value in values]
    parts += [f"--seeds {options.seeds}"] if options.seeds else []
    parts += ["--full"] if options.full else []
    return " ".join(["loobench run", *parts, f"--device {options.device} --dtype {options.dtype or 'float64'}"])


def _file_name(named: str) -> str:
    """The name of an estimator, task or suite, or of the file that was given without its folder."""
    return named.rpartition("/")[2] if named.partition(":")[0].endswith(".py") else named


def _wandb(options: o.Options) -> Any:
    """How to track a run; None where that is not asked. Raises LoobenchError for bad options, also for some without --wandb."""
    from benchmark.running import tracking

    if "" in (tags := tuple(options.wandb_tags)):
        raise LoobenchError("--wandb-tags takes one tag or more: name them, or leave it out")
    mode = options.wandb_mode and tracking.meant(options.wandb_mode, "--wandb-mode")
    asked = tracking.Options(options.wandb_project, options.wandb_entity, options.wandb_group, tags)
    if options.wandb:
        return replace(asked, mode=mode or tracking.usual_mode(os.environ, Path.cwd()))
    if mode or asked != tracking.Options():
        raise LoobenchError("--wandb-project and its like are for runs that are tracked: add --wandb")
    return None


# ---- the summary -----------------------------------------------------------------------------------------------------
def _print_summary(folder: Path, rows: set[tuple[str, str]]) -> None:
    from benchmark.publishing import manifest, tables
    from benchmark.scores import board, results, store

    found = [store.load(folder / task / results.file_name(estimator)) for task, estimator in sorted(rows)]
    files = [at for task in sorted({task for task, _ in rows}) if (at := folder / f"{task}.json").exists()]
    limits = {one.name: one for one in map(store.load_limits, files)}
    for suite in board.board(found, limits).suites if found else ():
        print(f"\nSuite {suite.name}: the score that ranks, with its 95 % interval")
        for headers, lines in tables.brief(suite.overall):
            print()
            terminal.table(headers, lines)
        with suppress(LoobenchError):  # a publication that cannot be read is no failure of this run
            if best := manifest.best(PUBLISHED, {result.name: result.task_digest for result in suite.overall.results}):
                print(f"\nbest published on these tasks: {best[0]}, {best[1]:.3f}")
