"""The command line. Imports of what is slow happen inside the commands, so that help is there at once."""

import argparse
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from benchmark import __version__
from benchmark.base import places
from benchmark.base.errors import LoobenchError, telling
from benchmark.base.places import MINE, PUBLISHED
from benchmark.base.text import line
from benchmark.commands import submitters

MOST_SEEDS = 100
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit codes
BOARD, REPRODUCTION = Path("leaderboard.md"), Path("docs/reproduction.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, or 1 where an estimator failed or a check did, 2 for bad input, 130 for Ctrl-C."""
    code: int = 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # where a terminal lacks a letter
    try:
        options = parser().parse_args(arguments, Options())
        with _patient_reader(), telling(_show if getattr(options, "traceback", False) else lambda text: None):
            code = options.command(options)
    except LoobenchError as error:
        print(f"error: {line(error, 10_000)}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:  # of a folder or a disk, wherever it was met
        print(
            f"error: {error.filename or 'the system'}: {error.strerror or error}; mend that, or choose another place",
            file=sys.stderr,
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\ninterrupted: what was done is kept, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    return code


def _show(traceback: str) -> None:
    print(traceback, file=sys.stderr)


class Options(argparse.Namespace):
    """The options of a command; where the cache is, is asked only by those that need one."""

    @cached_property
    def cache(self) -> Path:
        """The cache that no option names. Raises LoobenchError where the system tells no place for one."""
        return _folder(os.environ["LOOBENCH_CACHE"]) if os.environ.get("LOOBENCH_CACHE") else _usual_cache()


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser("loobench", description="Training-data influence against exact leave-one-out retraining.")
    top.add_argument("--version", action="version", version=f"loobench {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (function, add_options, text) in COMMANDS.items():
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        add_options(added)
    return top


def _run_options(command: argparse.ArgumentParser) -> None:
    _add_choice(command)
    command.add_argument("--seeds", metavar="N|A-B", help="the first N seeds, or A to B, from 0 to 99 (default: the suite's)")
    command.add_argument("--full", action="store_true", help="the papers' full sizes, of suites that have them; for a GPU")
    _add_device(command)
    _add_cache(command)
    _add_written(command)
    _add_replace(command)
    command.add_argument("--by", metavar="NAME", help="who computes, as results say (default: `git config user.name`)")
    submitters.sandbox_options(command)
    _wandb_options(command)


def _wandb_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--wandb", action="store_true", help="track in Weights & Biases, which never stops or slows the run")
    command.add_argument("--wandb-project", default="loobench", metavar="NAME", help="default: %(default)s")
    command.add_argument("--wandb-entity", metavar="NAME", help="user or team (default: the login's own)")
    command.add_argument("--wandb-group", metavar="NAME", help="default: the suite")
    command.add_argument("--wandb-tags", nargs="+", default=[], metavar="TAG", help="beside suite, model and optimiser")
    command.add_argument(
        "--wandb-mode", metavar="MODE", help="online, offline or disabled (default: WANDB_MODE, or W&B's settings, or online)"
    )


def _wandb(options: argparse.Namespace) -> Any:
    """How to track a run; None where that is not asked. Raises LoobenchError for bad options, also for some without --wandb."""
    from benchmark.running import tracking

    tags, mode = tuple(options.wandb_tags), options.wandb_mode and tracking.meant(options.wandb_mode, "--wandb-mode")
    asked = tracking.Options(options.wandb_project, options.wandb_entity, options.wandb_group, tags)
    if options.wandb:
        return replace(asked, mode=mode or tracking.usual_mode(os.environ, Path.cwd()))
    if mode or asked != tracking.Options():
        raise LoobenchError("--wandb-project and its like are for runs that are tracked: add --wandb")
    return None


def _prepare_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("datasets", nargs="*", metavar="NAME", help="data sets; see `loobench list datasets`")
    command.add_argument("--suite", action="append", default=[], help="those of a suite's tasks")
    _add_cache(command)


def _list_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", choices=("datasets", "tasks", "suites", "estimators", "metrics"))
    _add_cache(command)


def _truth_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("task", metavar="TASK")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--export", type=Path, metavar="DIR", help="write problem, trajectory, truth, task.json (docs/export.md)"
    )
    _add_device(command)
    _add_cache(command)


def _score_options(command: argparse.ArgumentParser) -> None:
    _add_choice(command)
    _add_cache(command)
    _add_written(command)


def _migrate_options(command: argparse.ArgumentParser) -> None:
    more = "a source file of results, where this program's history does not have it; may be repeated"
    command.add_argument("--estimator", action="append", default=[], type=Path, metavar="FILE.py", help=more)
    _add_written(command)


def _speed_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--task", action="append", default=[], help="measure only this task; may be repeated")
    command.add_argument("--short", action="store_true", help="measure a few cases that need no download")
    command.add_argument(
        "--estimators", nargs="*", metavar="NAME|FILE.py[:NAME]", help="what estimators cost against it, all or the named ones"
    )
    command.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    command.add_argument("--out", type=Path, default=Path("speed.json"), help="file of all figures (default: %(default)s)")
    _add_cache(command)
    submitters.sandbox_options(command)


def _tune_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("estimator", metavar="NAME|FILE.py:NAME")
    command.add_argument("setting", metavar="SETTING")
    command.add_argument("values", nargs="+", metavar="VALUE", help="as JSON, or a word")
    command.add_argument("--seeds", metavar="N|A-B", help="the first N seeds, or A to B (default: 5)")
    _add_cache(command)
    submitters.sandbox_options(command)


def _report_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--check", action="store_true", help="write nothing; fail where what is published is not what its results give"
    )
    command.add_argument("--release", action="store_true", help="with --check: fail where a row is stale, of another protocol")
    command.add_argument(
        "--board",
        type=Path,
        metavar="FILE",
        help=f"the page goes to docs/ beside it (default: {MINE / BOARD}; with --publish: {BOARD})",
    )
    _add_written(command, "write the published board, page and manifest, and the README's table")


def _audit_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--base", required=True, metavar="REV", help="git revision to compare with, as origin/main")
    command.add_argument(
        "--submission", action="store_true", help="judge it as a stranger's: claimed, not verified, nothing of others changed"
    )
    command.add_argument("--results", type=Path, default=PUBLISHED, metavar="DIR", help="default: %(default)s")


def _plot_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--suite", help="of this suite and its tasks (default: of all suites)")
    command.add_argument("--task", help="of this task")
    command.add_argument(
        "--kind", action="append", help="cost, horizons, pairs, heatmap or ranks; may be repeated (default: all there are)"
    )
    command.add_argument("--format", action="append", help="svg, pdf or png; may be repeated (default: svg)")
    command.add_argument("--out", type=Path, default=MINE / "figures", help="folder (default: %(default)s)")
    _add_read(command)


def _cite_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("row", nargs="?", metavar="ROW", help="SUITE/ESTIMATOR or TASK/ESTIMATOR (default: the benchmark)")
    _add_read(command)


def _reproduce_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("paper", nargs="?", metavar="PAPER", help="hara2019, acc2025 or wei2025 (default: all)")
    command.add_argument("--seeds", metavar="N|A-B", help="the first N seeds, or A to B (default: the suites', 2 for defects)")
    command.add_argument("--no-run", action="store_true", help="train nothing; only read what is there")
    command.add_argument(
        "--out", type=Path, metavar="FILE", help=f"the page (default: {MINE / REPRODUCTION}; with --publish: {REPRODUCTION})"
    )
    _add_means(command)
    _add_cache(command)
    _add_written(command)
    _add_replace(command)


def _verify_options(command: argparse.ArgumentParser) -> None:
    submitters.verify_options(command)
    _add_means(command)
    _add_cache(command)


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    command.add_argument("--dtype", default="float64", help="float64 or float32 (default: %(default)s)")
    _add_means(command)


def _add_means(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--memory", metavar="SIZE", help="most that retraining may take, as in 500M or 2G (default: half of the free)"
    )
    command.add_argument(
        "--threads", type=int, metavar="N", help="chunks of runs retrained side by side (default: one per core)"
    )


def _add_choice(command: argparse.ArgumentParser) -> None:
    command.add_argument("--suite", action="append", default=[], help="may be repeated")
    command.add_argument("--task", action="append", default=[], help="may be repeated")
    command.add_argument(
        "--estimator", action="append", default=[], metavar="NAME|FILE.py[:NAME]", help="may be repeated; default: all"
    )


def _add_cache(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--cache", type=_folder, default=argparse.SUPPRESS, help="data, truths, raw estimates (or LOOBENCH_CACHE)"
    )


def _folder(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise LoobenchError(f"the folder {text!r} cannot be found: {str(error).rstrip('.')}; write its whole path") from error


def _usual_cache() -> Path:
    """The folder that the system has for it. Raises LoobenchError where it has none, or that cannot be made."""
    from platformdirs import user_cache_path

    advice = "name a folder by --cache or LOOBENCH_CACHE"
    try:
        (usual := user_cache_path("loobench")).mkdir(parents=True, exist_ok=True)
    except RuntimeError as error:
        raise LoobenchError(f"there is no home for a cache: {error}; or {advice}") from error
    except OSError as error:
        raise LoobenchError(f"the cache {usual} cannot be made: {error.strerror}; {advice}") from error
    return usual


def _add_read(command: argparse.ArgumentParser) -> None:
    command.add_argument("--results", type=Path, metavar="DIR", help=f"of these results, as {MINE} (default: {PUBLISHED})")


def _add_written(command: argparse.ArgumentParser, what: str = "change published results, which stay as they are else") -> None:
    command.add_argument("--results", type=Path, metavar="DIR", help=f"folder (default: {MINE}; with --publish: {PUBLISHED})")
    command.add_argument("--publish", action="store_true", help=what)


def _add_replace(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--replace", action="store_true", help="with --publish: start published files afresh that are of another version"
    )


def _written(options: argparse.Namespace) -> Path:
    """The folder that results are written into. Raises LoobenchError where it is published, and that was not asked for."""
    if getattr(options, "replace", False) and not options.publish:
        raise LoobenchError("--replace is for what is published: add --publish; your own files start afresh where they must")
    return places.written(options.results, publish=options.publish)


# ---- commands ----------------------------------------------------------------------------------------------------
def run_command(options: argparse.Namespace) -> int:
    """`loobench run`."""
    from benchmark.base import machine
    from benchmark.running import tracking
    from benchmark.running.plan import superseded
    from benchmark.running.run import Outcome, Trouble, execute

    plan, asked = _plan(options), _wandb(options)
    if why := machine.no_commit():
        print(f"warning: these results will name no commit: {why}", file=sys.stderr)
    if not options.estimator:
        _tell_missing()
    old, found = superseded(plan), []
    with tracking.tracker(asked, plan.store.folder, plan.setup.cache) as track:
        for one in execute(plan, track.bar(_bar)):
            found.append(one)
            if isinstance(one, Outcome):
                track.result(one.result, one.estimator)
                old = _told_afresh(old, plan.setup.cache) if one.fresh else old
    outcomes = [outcome for outcome in found if isinstance(outcome, Outcome)]
    failures = [f"{o.result} seed {o.seed}: {o.cell.status}: {o.cell.message}" for o in outcomes if o.cell.failed]
    failures += [f"{t.result} seed {t.seed}: {t.message}" for t in found if isinstance(t, Trouble)]
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    with _patient_reader():
        _print_summary(plan.store.folder, {(outcome.result, outcome.estimator) for outcome in outcomes})
        fresh = sum(outcome.fresh for outcome in outcomes)
        print(f"\n{fresh} cells computed, {len(outcomes) - fresh} were already there; results in {plan.store.folder}")
    return FAILED if failures else 0


def _told_afresh(old: Sequence[Path], cache: Path) -> list[Path]:
    """Say of files of other versions that they start afresh, now that something has; none is left to be told."""
    if old:
        folder = cache / "superseded"
        print(f"note: {len(old)} results of other versions start afresh; the old ones go to {folder}", file=sys.stderr)
    return []


def _tell_missing() -> None:
    from benchmark.core.registry import registered

    lacking: dict[str, list[str]] = {}
    for variant in registered().values():
        if variant.missing:
            lacking.setdefault(variant.missing, []).append(variant.name)
    for need, names in lacking.items():
        print(f"note: left out {len(names)} ({names[0]} ...), which need {need}", file=sys.stderr)


@contextmanager
def _patient_reader() -> Iterator[None]:
    """Print inside the block; a reader that has seen enough, say `head`, is no error and hides none."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plan(options: argparse.Namespace) -> Any:
    from benchmark.base import machine
    from benchmark.running.cell import Setup
    from benchmark.running.plan import Plan
    from benchmark.sandbox import client, session
    from benchmark.scores.store import Store
    from benchmark.tasks import definition, suites

    folder = _written(options)
    chosen = _tasks(options) or dict.fromkeys(suites.suite("quick").tasks, suites.suite("quick").seeds)
    seeds = tuple(_seeds(options.seeds, usual) for usual in chosen.values())
    estimators = tuple(client.resolve(options.estimator, submitters.rules(options, _asked_memory(options))))
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
            means=_means(options, options.device),
            by=submitters.computed_by(options),
        ),
        store=Store(folder),
        afresh=options.replace or not options.publish,
    )


def _means(options: argparse.Namespace, device: str) -> Any:
    """The memory and threads that retraining may use. Raises LoobenchError for what is no size or no number of threads."""
    from benchmark.base import machine
    from benchmark.retraining.chunks import Means

    threads = machine.cores() if options.threads is None else options.threads
    if threads < 1:
        raise LoobenchError(f"--threads must be 1 or more, got {threads}")
    memory = machine.free_memory(device) // 2 if options.memory is None else _bytes(options.memory)
    return Means(memory, threads if device == "cpu" else 1)


def _asked_memory(options: argparse.Namespace) -> int | None:
    asked = getattr(options, "memory", None)
    return _bytes(asked) if asked else None


def _bytes(text: str) -> int:
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number, unit = text.upper().removesuffix("IB").removesuffix("B"), 1
    if number and number[-1] in units:
        number, unit = number[:-1], units[number[-1]]
    if not number.replace(".", "", 1).isdecimal() or not 0 < float(number) < 1e15:
        raise LoobenchError(f"--memory takes a size like 500M or 2G, got {text!r}")
    return int(float(number) * unit)


def _tasks(options: argparse.Namespace) -> dict[Any, int]:
    """The tasks that the options name, and how many seeds of each are usual."""
    from benchmark.tasks import suites

    if options.full and (options.task or not options.suite):
        raise LoobenchError("--full is for whole suites: name them by --suite, and no --task")
    named = [_suite(name, full=options.full) for name in options.suite]
    chosen = {task: suite.seeds for suite in named for task in suite.tasks}
    chosen |= {task: suites.suite(task.suite).seeds for task in map(suites.task, options.task)}
    if unscored := [task.name for task in chosen if not suites.suite(task.suite).scored]:
        raise LoobenchError(f"{', '.join(unscored)}: for choosing settings, never scored; use `loobench tune`")
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


def _seeds(text: str | None, usual: int) -> tuple[int, ...]:
    first, dash, last = (text if text is not None else str(usual)).partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise LoobenchError(f"--seeds takes a number N or a range A-B, got {text!r}")
    seeds = range(int(first), int(last) + 1) if dash else range(int(first))
    if not seeds or seeds[-1] >= MOST_SEEDS:
        raise LoobenchError(f"--seeds takes 1 to {MOST_SEEDS} seeds, numbered from 0, got {text!r}")
    return tuple(seeds)


def _told(options: argparse.Namespace) -> str:
    """The command as provenance records it: no folder of this machine in it."""
    chosen = [("--suite", options.suite), ("--task", options.task), ("--estimator", map(_file_name, options.estimator))]
    parts = [f"{flag} {value}" for flag, values in chosen for value in values]
    parts += [f"--seeds {options.seeds}"] if options.seeds else []
    parts += ["--full"] if options.full else []
    return " ".join(["loobench run", *parts, f"--device {options.device} --dtype {options.dtype}"])


def _file_name(estimator: str) -> str:
    """The name of an estimator, or of the file that was given without its folder."""
    return estimator.rpartition("/")[2] if estimator.partition(":")[0].endswith(".py") else estimator


def _print_summary(folder: Path, rows: set[tuple[str, str]]) -> None:
    from benchmark.publishing import manifest, tables
    from benchmark.scores import board, results, store

    found = [store.load(folder / task / results.file_name(estimator)) for task, estimator in sorted(rows)]
    files = [at for task in sorted({task for task, _ in rows}) if (at := folder / f"{task}.json").exists()]
    limits = {one.name: one for one in map(store.load_limits, files)}
    for suite in board.board(found, limits).suites if found else ():
        print(f"\nSuite {suite.name}: the score that ranks, with its 95 % interval\n")
        print(tables.brief(suite.overall))
        with suppress(LoobenchError):  # a publication that cannot be read is no failure of this run
            if best := manifest.best(PUBLISHED, {result.name: result.task_digest for result in suite.overall.results}):
                print(f"\nbest published on these tasks: {best[0]}, {best[1]:.3f}")


def prepare_command(options: argparse.Namespace) -> int:
    """`loobench prepare`."""
    from benchmark.base.files import probe
    from benchmark.tasks import data, suites

    names = [*options.datasets, *(task.dataset for name in options.suite for task in suites.suite(name).tasks)]
    if not names:
        raise LoobenchError("nothing to prepare: name data sets, or a suite by --suite; see `loobench list datasets`")
    for name in names:
        data.source(name)
    probe(options.cache)
    for name in dict.fromkeys(names):
        data.load(name, options.cache)
        print(f"{name}: ready, content digest {data.source(name).digest}")
    return 0


def list_command(options: argparse.Namespace) -> int:
    """`loobench list`."""
    from tabulate import tabulate

    headers, rows = LISTINGS[options.what](options)
    print(tabulate(rows, headers, disable_numparse=True))
    return 0


def _list_datasets(options: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    from benchmark.tasks import data

    rows = [
        [
            s.name,
            str(sum(s.rows.values())),
            s.origin,
            s.licence,
            s.digest[:12],
            "yes" if data.cached(s.name, options.cache).exists() else "no",
        ]
        for s in data.SOURCES.values()
    ]
    return ["name", "rows", "source", "licence", "digest", "cached"], rows


def _list_tasks(_options: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    from benchmark.tasks.suites import TASKS

    rows = [
        [t.name, t.model, t.optimizer.name, str(t.train), str(t.epochs), t.queries, t.noise, t.truth.kind, t.digest()[:12]]
        for t in TASKS.values()
    ]
    return ["task", "model", "optimizer", "N", "epochs", "queries", "noise", "truth", "digest"], rows


def _list_suites(_options: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    from benchmark.tasks.suites import SUITES

    return ["suite", "tasks", "seeds", "about"], [[s.name, str(len(s.tasks)), str(s.seeds), s.about] for s in SUITES.values()]


def _list_estimators(_options: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    from benchmark.core.registry import registered
    from benchmark.sandbox.client import packaged

    rows = [[e.name, "loss" if e.loss_units else "score", e.tuned_on, e.paper[:70]] for e in registered().values()]
    strangers = [[name, "?", "?", f"package {point.module}"] for name, point in packaged().items() if name not in registered()]
    rows += [[line(cell) for cell in row] for row in strangers]  # nothing of theirs is imported
    return ["estimator", "units", "tuned on", "source"], rows


def _list_metrics(_options: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    from benchmark.scores.metrics import METRICS

    return ["metric", "best", "worst", "about"], [[m.name, str(m.best), str(m.worst), m.about] for m in METRICS.values()]


LISTINGS = {
    "datasets": _list_datasets,
    "tasks": _list_tasks,
    "suites": _list_suites,
    "estimators": _list_estimators,
    "metrics": _list_metrics,
}


def truth_command(options: argparse.Namespace) -> int:
    """`loobench truth`."""
    from benchmark.base import machine
    from benchmark.base.files import probe
    from benchmark.tasks import definition, suites
    from benchmark.truths import export, truth

    task = definition.variant(suites.task(options.task), options.dtype)
    if not 0 <= options.seed < MOST_SEEDS:
        raise LoobenchError(f"--seed must be 0 to {MOST_SEEDS - 1}, got {options.seed}")
    device = machine.device(options.device)
    probe(options.cache)
    if options.export:
        export.check(task)
        probe(options.export)
    with machine.one_thread():
        run, exact = truth.answer(task, options.seed, options.cache, device, _bar, _means(options, device))
        written = export.export(task, options.seed, run, exact, options.export) if options.export else []
    asked, everyone = len(run.problem.left_out), len(run.problem.train)
    what = f"{asked} of {everyone} left out" if exact.removed is None else f"{len(exact.removed)} groups of {everyone} samples"
    print(f"{task.name}, seed {options.seed}: {task.truth.kind}, {what}, in {exact.seconds:.2f} s of one thread or GPU")
    print(f"effect (H, M, Q) = {tuple(exact.effect.shape)}, digest {exact.digest()}")
    for epoch, effect in zip(task.horizons, exact.effect, strict=True):
        spread = f"standard deviation {effect.std():.3e}, lowest {effect.min():+.3e}, highest {effect.max():+.3e}"
        print(f"  epoch {epoch}: {spread}")
    if exact.noise:
        n = exact.noise
        floors = ", ".join(
            f"{how} {'not defined' if value is None else format(value, '.1e')}"
            for how, value in (("trained anew", n.repeat), ("in float64", n.float64))
        )
        print(f"noise of {n.samples} samples over the standard deviation of the effects: {floors}")
    for name, curve in exact.limits.items():
        print(f"  {name}: {', '.join('not defined' if value is None else format(value, '.3g') for value in curve)}")
    for path in written:
        print(f"wrote {path}")
    return 0


def score_command(options: argparse.Namespace) -> int:
    """`loobench score`."""
    from benchmark.running.scoring import rescore
    from benchmark.scores.store import Store, load_all

    folder = _written(options)
    chosen = [result for result in load_all(folder) if _chosen(result, options)]
    if not chosen:
        raise LoobenchError(f"no result in {folder} has that suite, task and estimator; see what lies there")
    incomplete = False
    for result in chosen:
        updated, lacking = rescore(result, Store(folder), options.cache)
        incomplete |= bool(lacking)
        print(f"{result.name} {result.estimator.name}: {_rescored(result, updated, lacking)}")
        for why, seeds in _by_value(lacking).items():
            print(f"  seed {', '.join(seeds)}: not computed anew, left as before: {why}", file=sys.stderr)
    return FAILED if incomplete else 0


def _rescored(before: Any, now: Any, lacking: Collection[str]) -> str:
    """What `loobench score` did with a result, in words."""
    from benchmark.scores.metrics import METRICS

    anew = [seed for seed, cell in now.cells.items() if cell.status == "ok" and seed not in lacking]
    changed = [seed for seed in anew if now.cells[seed] != before.cells[seed]]
    kept = {name for seed in anew for name in now.cells[seed].scores} - METRICS.keys()
    without = _by_value({seed: cell.status for seed, cell in now.cells.items() if cell.status != "ok"})
    done = f"seed {', '.join(anew)} computed anew, " + (f"seed {', '.join(changed)} changed" if changed else "scores as before")
    return "; ".join(
        [
            done if anew else "nothing computed anew",
            *(f"seed {', '.join(seeds)} {status}, without scores" for status, seeds in without.items()),
            *(["scores of uses stay, which take training"] if kept else []),
        ]
    )


def _by_value(said: Mapping[str, str]) -> dict[str, list[str]]:
    return {value: [key for key in said if said[key] == value] for value in dict.fromkeys(said.values())}


def migrate_command(options: argparse.Namespace) -> int:
    """`loobench migrate`."""
    from benchmark.scores.migrate import migrate

    folder = _written(options)
    print(f"{len(migrate(folder, options.estimator))} files in {folder} were of an older schema and are rewritten")
    return 0


def _chosen(result: Any, options: argparse.Namespace) -> bool:
    """Whether the options of `loobench score` mean this result."""
    task = result.task["suite"] in options.suite or result.name in options.task
    return (task or not (options.suite or options.task)) and (
        not options.estimator or result.estimator.name in options.estimator
    )


def _prices(options: argparse.Namespace) -> int:
    """`loobench speed --estimators`."""
    import json

    from tabulate import tabulate

    from benchmark.base import files
    from benchmark.sandbox import client
    from benchmark.studies import costs

    chosen = client.resolve(options.estimators, submitters.rules(options))
    found = costs.report(chosen, lambda case: print(f"measuring {case}", file=sys.stderr))
    room = costs.sandboxed(chosen) if options.sandbox else None
    files.write(options.out, json.dumps({**found, "sandbox": room}, indent=1).encode() + b"\n")
    print(tabulate(costs.lines(found["prices"]), costs.HEADERS, disable_numparse=True))
    print(f"\nall over exact leave-one-out by the engine, on one thread; all figures in {options.out}")
    if room:
        print(f"the sandbox: {room['start']:.2f} s to start once, {room['call']:.3f} s for a call beyond its own work")
    return 0


def tune_command(options: argparse.Namespace) -> int:
    """`loobench tune`."""
    from tabulate import tabulate

    from benchmark.base.files import probe
    from benchmark.sandbox import client
    from benchmark.studies import tune
    from benchmark.tasks import suites

    chosen = client.resolve([options.estimator], submitters.rules(options, _asked_memory(options)))
    if len(chosen) > 1:
        raise LoobenchError(f"{options.estimator} declares {len(chosen)} estimators: name one, as in FILE.py:{chosen[0].name}")
    probe(options.cache)
    seeds = _seeds(options.seeds, suites.suite(tune.SUITE).seeds)
    values = [_value(text) for text in options.values]
    found = list(tune.trials(chosen[0], options.setting, values, seeds, options.cache, _bar))
    rows = tune.lines(found, chosen[0].settings[options.setting])
    print(
        f"{chosen[0].name}: mean Kendall tau over {len(seeds)} seed{'s' * (len(seeds) > 1)} at the last horizon; * is set now\n"
    )
    print(tabulate(rows, [options.setting, *found[0].kendall, "mean"], disable_numparse=True))
    for trial in found:
        if trial.failure:
            print(f"failed: {options.setting} {trial.value}: {trial.failure}: {trial.message}", file=sys.stderr)
    return FAILED if any(trial.failure for trial in found) else 0


def _value(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text


def speed_command(options: argparse.Namespace) -> int:
    """`loobench speed`."""
    import json

    from tabulate import tabulate

    from benchmark.base import files, machine
    from benchmark.studies import speed
    from benchmark.tasks import suites

    files.probe(options.out.absolute().parent)
    if options.estimators is not None:
        return _prices(options)
    definition, device = [suites.task(name) for name in options.task], machine.device(options.device)
    show = partial(print, "measuring", file=sys.stderr)
    found = speed.report(definition, options.cache, device, show, short=options.short)
    files.write(options.out, json.dumps(found, indent=1).encode() + b"\n")
    print(tabulate(map(speed.line, found["cases"]), speed.HEADERS, disable_numparse=True))
    peaks = ", ".join(f"{gflops:.0f} in {dtype}" for dtype, gflops in found["peak_all_cores_gflops"].items())
    where = "the GPU" if device == "cuda" else f"{found['cores']} cores together"
    print(f"\nmatrix-product peak of {where}, in GFLOP/s: {peaks}; all figures in {options.out}")
    for name, exponent in found["growth"].items():
        print(f"time grows with {name} to the power {exponent:.2f}")
    for memory in found["memory"]:
        taken = "unknown" if memory["peak"] is None else f"{memory['peak'] / 2**20:.0f} MiB"
        print(f"N = 1000, P = 101770 in {memory['budget'] / 2**20:.0f} MiB: took {taken}, {memory['runs']} runs at once")
    return 0


def doctor_command(_options: argparse.Namespace) -> int:
    """`loobench doctor`."""
    from tabulate import tabulate

    from benchmark.studies import doctor

    for name, value in doctor.described().items():
        print(f"{name}: {value}")
    found, other = list(doctor.examine()), doctor.differing()
    rows = [[f.setting, f.case, "same bits" if f.same else f"within {f.difference:.0e}"] for f in found]
    table = {setting.name: [row[2] for row in rows if row[0] == setting.name] for setting in doctor.SETTINGS}
    print("\nExact effects beside the stored ones; differences in standard deviations of the effects\n")
    print(tabulate([[name, *cells] for name, cells in table.items()], ["setting", *doctor.CASES]))
    print(f"\nPublished truths of the suite quick, seed 0, with other bits here: {', '.join(other) or 'none'}")
    print(f"Stored bits are of: {doctor.of_machine(doctor.stored()['made'])}")
    print(f"This machine is: {doctor.of_machine(doctor.here())}")
    print(f"\n{doctor.verdict(found, other)}")
    return 0 if doctor.worst(found) < doctor.TOLERANCE else FAILED


def report_command(options: argparse.Namespace) -> int:
    """`loobench report`: the board of one's own results, unless it is about what is published."""
    from benchmark.publishing import own
    from benchmark.scores.store import Store

    if options.release and not options.check:
        raise LoobenchError("--release goes with --check: say `loobench report --check --release`")
    if options.check:
        return _publication(options)
    if options.publish:
        with Store(options.results or PUBLISHED).lock((options.results or PUBLISHED) / places.MANIFEST):
            return _publication(options)
    folder = _written(options)
    board = options.board or folder / BOARD
    own.save(own.made(folder), folder, board)
    print(f"wrote {board} and {board.parent / own.PAGE / 'index.html'}")
    return 0


def _publication(options: argparse.Namespace) -> int:
    """`loobench report --publish` and `--check`."""
    from benchmark.base import files
    from benchmark.core import registry
    from benchmark.publishing import cite, manifest, page, report
    from benchmark.scores import schema, store

    at, board = options.results or PUBLISHED, options.board or BOARD
    found = store.load_all(at)
    made, sources, folder = _board(at, found), registry.sources(), board.parent / "docs"
    before, now = manifest.load(at), manifest.manifest(at, found)
    pages = {**page.render(made, cite=cite.bibtex, sources=sources), **schema.render()}
    expected = {folder / name: content for name, content in pages.items()}
    library = folder / page.LIBRARY  # of whichever version is installed
    expected[board] = report.leaderboard(made, sources).encode()
    if (readme := board.parent / "README.md").exists():
        expected[readme] = report.quoted(files.unix(files.read(readme)).decode(), made, sources).encode()
    left = [old for old in (folder / "data").rglob("*.js") if old not in (*expected, library)]
    silent = manifest.silent(before, now)
    _tell(silent)
    if options.check:
        old = manifest.stale(found, store.all_limits(at).values()) if options.release else []
        said = [*manifest.differences(before, now), *old]
        _tell(said)
        return FAILED if _differ(at, expected, library, left) or said or silent else 0
    if silent:
        return FAILED
    for one, content in [*expected.items(), (library, page.library())]:
        files.write(one, content)
    for one in left:
        one.unlink()
    manifest.save(now, at)
    print(f"wrote {board} and {folder / 'index.html'}")
    return 0


def _differ(at: Path, expected: Mapping[Path, bytes], library: Path, left: Sequence[Path]) -> bool:
    """Whether files are not what results give, each of which is told; `left`: those that results no longer give."""
    from benchmark.base import files
    from benchmark.publishing import page

    wrong = [one for one, content in expected.items() if not one.exists() or not page.same(files.read(one), content)]
    lacking = [library] * (not library.exists())
    for one in [*wrong, *lacking, *left]:
        print(f"error: {line(one)} is not what {at} gives: run `loobench report --publish`", file=sys.stderr)
    print(f"{len(expected) - len(wrong) - len(lacking)} of {len(expected)} files are what {at} gives")
    return bool(wrong or lacking or left)


def _tell(lines: Sequence[str]) -> None:
    """Print errors, not more of them than a reader takes in."""
    from benchmark.publishing.manifest import shortened

    for one in shortened(lines):
        print(f"error: {line(one)}", file=sys.stderr)


def audit_command(options: argparse.Namespace) -> int:
    """`loobench audit`."""
    from benchmark.publishing import audit

    found = audit.audit(options.results, options.base, submission=options.submission)
    bad = sum(not one.allowed for one in found)
    if not found:
        print(f"{options.results} is as at {options.base}")
        return 0
    print(audit.table(found))
    print(f"\n{len(found)} files differ from {options.base}, {bad} in a way that is not allowed")
    return FAILED if bad else 0


def plot_command(options: argparse.Namespace) -> int:
    """`loobench plot`."""
    from benchmark.publishing import figures

    found = figures.figures(_board(places.read(options.results)), options.suite, options.task, options.kind)
    for name, figure in found:
        for at in figures.save(figure, options.out, name, options.format or ["svg"]):
            print(at)
    return 0


def cite_command(options: argparse.Namespace) -> int:
    """`loobench cite`."""
    from benchmark.publishing import cite

    found = _cited(options.row, options.results) if options.row else ()
    print(f"{cite.bibtex(*found)}\n{cite.text(*found)}")
    return 0


def _cited(name: str, named: Path | None) -> tuple[Any, Any]:
    """The table and row of a name: of the folder that is named; else published, or where that has none, one's own."""
    from benchmark.publishing import manifest
    from benchmark.scores import board, store
    from benchmark.scores.rows import YOURS, unpublished

    folder, place = named or (MINE if name.endswith(YOURS) else places.read(None)), name.partition("/")[0]
    known = store.load_all(folder)
    members = [one for one in known if place in (board.suite_name(one), one.name)]  # quicker than the whole board
    try:
        table, row = _board(folder, members or known).find(name.removesuffix(YOURS))
    except LoobenchError:
        with suppress(LoobenchError):
            if folder != MINE and not named:
                return _cited(name, MINE)
        raise
    if folder.resolve() == PUBLISHED.resolve() and manifest.holds(folder, row.results):
        return table, row
    return table, unpublished(row)


def verify_command(options: argparse.Namespace) -> int:
    """`loobench verify`."""
    return submitters.verify_command(options, partial(_means, options), _bar)


def _board(folder: Path, found: Any = None) -> Any:
    from benchmark.scores import board, store
    from benchmark.tasks import suites

    known = store.load_all(folder) if found is None else found
    return board.board(known, store.all_limits(folder), [suites.CORE])


def reproduce_command(options: argparse.Namespace) -> int:
    """`loobench reproduce`."""
    from benchmark.base import files
    from benchmark.studies import comparison, reproduce

    chosen = reproduce.papers(options.paper)
    seeds = _seeds(options.seeds, 1) if options.seeds is not None else None
    told = [*([options.paper] if options.paper else []), *([f"--seeds {options.seeds}"] if seeds else [])]
    command = " ".join(["loobench reproduce", *told])
    folder = options.results or MINE if options.no_run and not options.publish else _written(options)
    out = options.out or (REPRODUCTION if options.publish else MINE / REPRODUCTION)
    figures, means = out.with_suffix(""), _means(options, "cpu")  # the former in a folder beside the page
    by, afresh = submitters.computed_by(options), options.replace or not options.publish
    study = reproduce.Study(chosen, seeds, options.cache, folder, figures, means, command, by, afresh)
    files.probe(out.absolute().parent)
    failures = [] if options.no_run else list(reproduce.fill(study, _bar))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    files.write(out, comparison.page(reproduce.gather(study)).encode())
    print(f"wrote {out}")
    return FAILED if failures else 0


def _bar(total: int, text: str, unit: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=text, unit=unit, unit_scale=total > 9999, disable=None, leave=False)


COMMANDS = {
    "run": (run_command, _run_options, "train, retrain without each sample, run estimators, score them, write results"),
    "prepare": (prepare_command, _prepare_options, "download data sets ahead"),
    "list": (list_command, _list_options, "show what there is"),
    "truth": (truth_command, _truth_options, "the exact leave-one-out effects of one task and seed; and their export"),
    "score": (score_command, _score_options, "compute the scores of existing results anew from kept estimates and truths"),
    "migrate": (migrate_command, _migrate_options, "rewrite results of an older schema"),
    "new": (submitters.new_command, submitters.new_options, "a new estimator that runs as it stands, and its test"),
    "check": (submitters.check_command, submitters.check_options, "whether an estimator keeps the rules, in under a minute"),
    "submit": (submitters.submit_command, submitters.submit_options, "write the bundle of a submission; propose it"),
    "verify": (verify_command, _verify_options, "compute claims again here, on their seeds and on fresh ones, and judge them"),
    "tune": (tune_command, _tune_options, "what a setting of an estimator does on the tuning tasks, which are never scored"),
    "speed": (speed_command, _speed_options, "measure exact retraining against a plain loop and the matrix-product peak"),
    "doctor": (
        doctor_command,
        lambda command: None,
        "what this machine is, and whether it reproduces stored truths bit for bit",
    ),
    "reproduce": (reproduce_command, _reproduce_options, "published figures beside ours, with a verdict on each"),
    "report": (report_command, _report_options, "write the board of your results beside the published ones; or that of these"),
    "audit": (audit_command, _audit_options, "what results/ changes of a git revision, and whether it may"),
    "plot": (plot_command, _plot_options, "figures for papers from the results"),
    "cite": (cite_command, _cite_options, "BibTeX and text to cite a row, or the benchmark"),
}
