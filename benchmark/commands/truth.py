"""`loobench truth`: the exact effects of one task and seed, by one process or by many workers."""

import os
import sys
from pathlib import Path
from typing import Any

from benchmark.base.errors import LoobenchError
from benchmark.commands import options as o
from benchmark.commands import terminal


@o.command(
    o.argument("task", "TASK|FILE.py[:NAME]"),
    o.option("--seed", type=int, default=0, metavar="N", help="From 0 to 99."),
    o.option("--push", metavar="REPO|FOLDER", help="Add it to a data set of truths (docs/truths.md)."),
    o.option("--from-hub", metavar="REPO@REVISION|FOLDER", help="Take it from such a data set, after checks."),
    o.option("--spot", type=int, default=3, metavar="N", help="With --from-hub: samples whose effect is really trained again."),
    o.flag("--plan", help="Say what it takes, from some steps that are tried, and stop."),
    o.option("--export", type=Path, metavar="DIR", help="Write problem, trajectory, truth, task.json (docs/export.md)."),
    o.option(
        "--part", metavar="N/OF|auto", help="Be one of many workers that share --cache: its N-th part first, then the rest."
    ),
    o.option("--slurm", type=int, metavar="OF", help="Submit so many workers as a SLURM array, by submitit."),
    o.repeated("--slurm-set", metavar="NAME=VALUE", help="A setting of the jobs, as slurm_partition=gpu.  May be repeated."),
    o.RAY,
    *(o.DEVICE, o.DTYPE, *o.MEANS, o.CACHE),
    examples=(
        "loobench truth quick-digits-mlp-sgd",
        "loobench truth quick-digits-mlp-sgd --plan",
        "loobench truth quick-digits-mlp-sgd --seed 1 --export exported",
        "loobench truth quick-digits-mlp-sgd --part 3/16 --cache /shared/loobench",
        "loobench truth quick-digits-mlp-sgd --push ./truths",
        "loobench truth quick-digits-mlp-sgd --from-hub OWNER/NAME@COMMIT",
    ),
)
def command(options: o.Options) -> int:
    """The exact leave-one-out effects of one task and seed; their export; and truths as data, to publish and to take."""
    from benchmark.base import machine
    from benchmark.base.files import probe
    from benchmark.truths import export

    task, part = _task(options), _part(options)
    if options.push and options.from_hub:
        raise LoobenchError("--push and --from-hub say opposite things: leave one out")
    if options.slurm is not None:
        return _submit(options)
    device = machine.device(options.device)
    probe(options.cache)
    if options.export:
        export.check(task)
        probe(options.export)
    with machine.one_thread():
        if options.plan:
            return _plan(options, task, device)
        run, exact, said = _answer(options, task, device, part)
        paths = export.export(task, options.seed, run, exact, options.export) if options.export else []
    asked, everyone = len(run.problem.left_out), len(run.problem.train)
    what = f"{asked} of {everyone} left out" if exact.removed is None else f"{len(exact.removed)} groups of {everyone} samples"
    print(f"{task.name}, seed {options.seed}: {task.truth.kind}, {what}, in {exact.seconds:.2f} s of one thread or GPU")
    _print(task, exact)
    for line in (*said, *(f"wrote {path}" for path in paths)):
        print(line)
    return 0


def _task(options: o.Options) -> Any:
    """The one task that is meant. Raises LoobenchError for several, and for a seed that there is not."""
    from benchmark.tasks import definition, finding

    tasks = [*finding.found(options.task)]
    if len(tasks) > 1:
        raise LoobenchError(f"{options.task} declares {len(tasks)} tasks: name one, as {options.task}:{tasks[0].name}")
    if not 0 <= options.seed < o.MOST_SEEDS:
        raise LoobenchError(f"--seed must be 0 to {o.MOST_SEEDS - 1}, got {options.seed}")
    return definition.variant(tasks[0], options.dtype)


def _answer(options: o.Options, task: Any, device: str, part: Any) -> tuple[Any, Any, list[str]]:
    """Reference run and truth, by whatever way was asked for, and what is to be said of that."""
    from benchmark.truths import published, truth

    means, cell = o.means(options, device), (task, options.seed)
    if options.from_hub:
        taken = published.take(*cell, options.from_hub, options.cache, device, terminal.bar, means, spots=options.spot)
        return taken.run, taken.truth, taken.said
    if options.ray:
        from benchmark.running import cluster

        with cluster.connected(options.ray, device) as found:
            cluster.train(found, *cell, options.cache, terminal.bar, means)
    run, exact = truth.answer(*cell, options.cache, device, terminal.bar, means, part)
    return run, exact, published.push(*cell, run, exact, options.push, device) if options.push else []


def _plan(options: o.Options, task: Any, device: str) -> int:
    """Say what the truth takes; nothing is kept."""
    from benchmark.studies import forecast

    found = forecast.of_task(task, options.seed, options.cache, device, o.means(options, device))
    terminal.table(["what it takes", ""], forecast.lines(found))
    return 0


def _part(options: o.Options) -> Any:
    """The part of this worker; None where it is the only one. Raises LoobenchError for options that do not go together."""
    from benchmark.truths import workers

    chosen = [name for name in ("part", "slurm", "ray") if getattr(options, name) is not None]
    if len(chosen) > 1:
        raise LoobenchError(f"--{' and --'.join(chosen)} are ways to do the same: choose one")
    if options.slurm_set and options.slurm is None:
        raise LoobenchError("--slurm-set is for jobs that --slurm submits: add it, with a number of workers")
    if options.export and chosen and chosen != ["ray"]:
        raise LoobenchError(f"--export is for one process: repeat the command without --{chosen[0]} once the truth is there")
    return None if options.part is None else workers.part(options.part, os.environ)


def _submit(options: o.Options) -> int:
    """Submit one job for each worker, and say what is to be known of them."""
    from benchmark.base.files import probe
    from benchmark.running import slurm

    probe(options.cache)
    logs = options.cache / "slurm"
    named = {"--seed": options.seed, "--device": options.device, "--dtype": options.dtype, "--memory": options.memory}
    named |= {"--threads": options.threads, "--cache": options.cache}
    given = [part for name, value in named.items() if value is not None for part in (name, str(value))]
    command = [sys.executable, "-m", "benchmark", "truth", options.task, *given]
    jobs = slurm.submitted(command, options.slurm, logs, options.slurm_set)
    print(f"submitted {len(jobs)} workers: {jobs[0]} to {jobs[-1]}; their logs are in {logs}")
    print(f"once they are done: loobench truth {options.task} --seed {options.seed} --cache {options.cache}")
    return 0


def _print(task: Any, exact: Any) -> None:
    if exact.origin:
        print(f"origin: {exact.origin}; seconds are those of a few runs here, scaled to all")
    print(f"effect (H, M, Q) = {tuple(exact.effect.shape)}, digest {exact.digest()}")
    for epoch, effect in zip(task.horizons, exact.effect, strict=True):
        spread = f"standard deviation {effect.std():.3e}, lowest {effect.min():+.3e}, highest {effect.max():+.3e}"
        print(f"  epoch {epoch}: {spread}")
    if exact.noise:
        n = exact.noise
        floors = f"trained anew {_defined(n.repeat, '.1e')}, in float64 {_defined(n.float64, '.1e')}"
        print(f"noise of {n.samples} samples over the standard deviation of the effects: {floors}")
    for name, curve in exact.limits.items():
        print(f"  {name}: {', '.join(_defined(value, '.3g') for value in curve)}")


def _defined(value: float | None, digits: str) -> str:
    return "not defined" if value is None else format(value, digits)
