"""`loobench speed`: what exact retraining takes here, and what estimators cost against it."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmark.commands import options as o
from benchmark.commands import terminal


@o.command(
    o.repeated("--task", metavar="TASK", help="Measure only this task; may be repeated."),
    o.flag("--short", help="Measure a few cases that need no download."),
    o.Many(
        ["--estimators"],
        multiple=True,
        metavar="[NAME|FILE.py[:NAME]]...",
        help="What estimators cost against it, all or the named ones.",
    ),
    o.DEVICE,
    o.option("--out", type=Path, default="speed.json", metavar="FILE", help="File of all figures."),
    *(o.CACHE, o.SANDBOX, *o.STRANGERS),
    examples=("loobench speed --short", "loobench speed --estimators sgd-ie if-cg"),
)
def command(options: o.Options) -> int:
    """Measure exact retraining against a plain loop and the matrix-product peak."""
    from benchmark.base import files

    files.probe(options.out.absolute().parent)
    return _costs(options) if options.estimators else _speed(options)


def _speed(options: o.Options) -> int:
    from benchmark.base import machine
    from benchmark.studies import speed
    from benchmark.tasks import suites

    chosen, device = [suites.task(name) for name in options.task], machine.device(options.device)
    found = speed.report(chosen, options.cache, device, _measuring, short=options.short)
    _write(options.out, found)
    terminal.table(speed.HEADERS, map(speed.line, found["cases"]))
    peaks = ", ".join(f"{gflops:.0f} in {dtype}" for dtype, gflops in found["peak_all_cores_gflops"].items())
    where = "the GPU" if device == "cuda" else f"{found['cores']} cores together"
    print(f"\nmatrix-product peak of {where}, in GFLOP/s: {peaks}; all figures in {options.out}")
    for name, exponent in found["growth"].items():
        print(f"time grows with {name} to the power {exponent:.2f}")
    for count, seconds in found["workers"].items():
        print(f"{count} side by side: {seconds:.2f} s")
    for memory in found["memory"]:
        taken = "unknown" if memory["peak"] is None else f"{memory['peak'] / 2**20:.0f} MiB"
        print(f"N = 1000, P = 101770 in {memory['budget'] / 2**20:.0f} MiB: took {taken}, {memory['runs']} runs at once")
    return 0


def _costs(options: o.Options) -> int:
    from benchmark.sandbox import client
    from benchmark.studies import costs

    chosen = client.resolve([*filter(None, options.estimators)], o.rules(options))
    found = costs.report(chosen, _measuring)
    room = costs.sandboxed(chosen) if options.sandbox else None
    _write(options.out, {**found, "sandbox": room})
    terminal.table(costs.HEADERS, costs.lines(found["prices"]))
    print(f"\nall over exact leave-one-out by the engine, on one thread; all figures in {options.out}")
    if room:
        print(f"the sandbox: {room['start']:.2f} s to start once, {room['call']:.3f} s for a call beyond its own work")
    return 0


def _measuring(case: str) -> None:
    print(f"measuring {case}", file=sys.stderr)


def _write(at: Path, found: Any) -> None:
    from benchmark.base import files

    files.write(at, json.dumps(found, indent=1).encode() + b"\n")
