"""`loobench truth`: the exact effects of one task and seed."""

from pathlib import Path
from typing import Any

from benchmark.base.errors import LoobenchError
from benchmark.commands import options as o
from benchmark.commands import terminal


@o.command(
    o.argument("task", "TASK|FILE.py[:NAME]"),
    o.option("--seed", type=int, default=0, metavar="N", help="From 0 to 99."),
    o.option("--export", type=Path, metavar="DIR", help="Write problem, trajectory, truth, task.json (docs/export.md)."),
    *(o.DEVICE, o.DTYPE, *o.MEANS, o.CACHE),
    examples=("loobench truth quick-digits-mlp-sgd", "loobench truth quick-digits-mlp-sgd --seed 1 --export exported"),
)
def command(options: o.Options) -> int:
    """The exact leave-one-out effects of one task and seed; and their export."""
    from benchmark.base import machine
    from benchmark.base.files import probe
    from benchmark.tasks import definition, finding
    from benchmark.truths import export, truth

    tasks = [*finding.found(options.task)]
    if len(tasks) > 1:
        raise LoobenchError(f"{options.task} declares {len(tasks)} tasks: name one, as {options.task}:{tasks[0].name}")
    task = definition.variant(tasks[0], options.dtype)
    if not 0 <= options.seed < o.MOST_SEEDS:
        raise LoobenchError(f"--seed must be 0 to {o.MOST_SEEDS - 1}, got {options.seed}")
    device = machine.device(options.device)
    probe(options.cache)
    if options.export:
        export.check(task)
        probe(options.export)
    with machine.one_thread():
        run, exact = truth.answer(task, options.seed, options.cache, device, terminal.bar, o.means(options, device))
        paths = export.export(task, options.seed, run, exact, options.export) if options.export else []
    asked, everyone = len(run.problem.left_out), len(run.problem.train)
    what = f"{asked} of {everyone} left out" if exact.removed is None else f"{len(exact.removed)} groups of {everyone} samples"
    print(f"{task.name}, seed {options.seed}: {task.truth.kind}, {what}, in {exact.seconds:.2f} s of one thread or GPU")
    _print(task, exact)
    for path in paths:
        print(f"wrote {path}")
    return 0


def _print(task: Any, exact: Any) -> None:
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
