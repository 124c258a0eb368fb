"""What a GPU does, in one go and within a budget of time: `make gpu`, or `python -m benchmark.studies.card` in a checkout.

Each part (device.py) is a process of its own with a limit of its own, so that one that fails or hangs costs the others nothing.
A part leaves what it found as JSON; all together, with what failed and what was left out, are in `card.json` after every part.
Nothing is needed but torch, numpy, scipy, scikit-learn, tabulate, safetensors, tqdm and pytest; the data is embedded.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from tabulate import tabulate

from benchmark.base import machine
from benchmark.base.errors import LoobenchError, unknown
from benchmark.base.files import probe, write
from benchmark.base.places import ROOT
from benchmark.studies.device import ACTS, Act
from benchmark.tasks.definition import DTYPES

MINUTES = 8.0
LEAST = 10.0  # seconds: with fewer left, a part is not begun
TOLERANCE = 1e-6  # of the spread of the effects, between two devices in float64
WIDTH = 80


@dataclass(frozen=True)
class Part:
    """A program that leaves `NAME.json` in a folder within so many seconds."""

    name: str
    command: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Finding:
    """How a part came out: done, failed, out of time, or left out."""

    part: str
    status: str
    seconds: float = 0.0
    error: str = ""
    found: dict[str, Any] | None = None


def parts(device: str, folder: Path) -> list[Part]:
    """The machine first, then what matters most: the tests, a truth of each kind, the speed."""

    def own(name: str, limit: float) -> Part:
        here = (sys.executable, "-m", "benchmark.studies.card", "--part", name, "--device", device, "--out", str(folder))
        return Part(name, here, limit)

    truths = [own(name, 60) for name in ACTS if name.startswith("truth-")]
    return [own("machine", 60), own("tests", 200), *truths, own("speed", 120)]


def carry_out(given: Sequence[Part], folder: Path, seconds: float) -> Iterator[Finding]:
    """Each part in turn, as long as the time lasts; without the first, the machine, none of the others."""
    end = time.monotonic() + seconds
    for number, part in enumerate(given):
        left = end - time.monotonic()
        if left < min(LEAST, part.limit):
            yield Finding(part.name, "left out", error=f"{max(0, left):.0f} s of {seconds:.0f} were left")
            continue
        yield (finding := _carried_out(part, folder, min(part.limit, left)))
        if not number and finding.status != "done":
            return


def _carried_out(part: Part, folder: Path, limit: float) -> Finding:
    at, log, began = folder / f"{part.name}.json", folder / f"{part.name}.log", time.monotonic()
    at.unlink(missing_ok=True)
    status = _ended(part.command, log, folder, limit)
    took = time.monotonic() - began
    found = json.loads(at.read_text()) if at.exists() else None
    if status is None:
        return Finding(part.name, "out of time", took, f"not done after {limit:.0f} s; last: {_last(log)}", found)
    return (
        Finding(part.name, "failed", took, _last(log), found)
        if status or not found
        else Finding(part.name, "done", took, "", found)
    )


def _ended(command: Sequence[str], log: Path, folder: Path, limit: float) -> int | None:
    """Exit status of a program, or None where it and all that it started had to be killed."""
    # the checkout need not be installed, and no folder of this user is needed
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, "LOOBENCH_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=env, start_new_session=True)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _last(log: Path) -> str:
    """The last line that a program said."""
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return said[-1][:1000] if said else "it said nothing"


# ---- the table -------------------------------------------------------------------------------------------------------
def table(findings: Sequence[Finding]) -> list[str]:
    """All findings in lines of at most `WIDTH` characters."""
    done = {finding.part: finding.found for finding in findings if finding.status == "done" and finding.found}
    rows = [row for name, found in done.items() if name.startswith("truth-") for row in _rows(name, found)]
    headers = ["truth", "dtype", "differs by", "floor", "CPU s", "device s", "of peak"]
    sections = [
        wrap(_machine(done["machine"]), WIDTH) if "machine" in done else [],
        tabulate(rows, headers, disable_numparse=True).splitlines() if rows else [],
        [_tests(done["tests"])] if "tests" in done else [],
        [_case(case) for case in done["speed"]["cases"]] if "speed" in done else [],
        [f"{finding.part}: {finding.status}: {finding.error}" for finding in findings if finding.status != "done"],
    ]
    return [line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..." for section in sections for line in section]


def _machine(found: dict[str, Any]) -> str:
    peaks = ", ".join(f"{gflops:.0f} in {dtype}" for dtype, gflops in found["peak_gflops"].items())
    driver = f", driver {found['driver']}" if found["driver"] else ""
    where = f"{found['device']}{driver}; torch {found['torch']}; {found['processor']}, {found['instruction_set']}"
    return f"{where}, {found['cores']} cores; commit {found['commit'][:12]}; matrix products of the device, in GFLOP/s: {peaks}"


def _rows(name: str, found: dict[str, Any]) -> Iterator[list[str]]:
    for dtype in DTYPES:
        one = found[dtype]
        floor = one["noise"] and one["noise"]["repeat"]
        figures = [f"{one['difference']:.1e}", "" if floor is None else f"{floor:.1e}"]
        times = [f"{found['cpu_wall']:.2f}", f"{one['seconds']:.2f}", f"{one['of_peak']:.3f}"]
        yield [name.removeprefix("truth-"), dtype, *figures, *times]


def _tests(found: dict[str, Any]) -> str:
    counts = f"tests: {found['passed']} passed, {found['skipped']} skipped, {len(found['failed'])} failed"
    return ": ".join([counts, *found["failed"][:1]])


def _case(case: dict[str, Any]) -> str:
    faster = case["loop"] / case["engine"]
    return f"speed: {case['case']}: {case['engine']:.3f} s, {case['of_peak']:.2f} of peak, {faster:.1f} x the plain loop"


def faults(findings: Sequence[Finding], device: str) -> list[str]:
    """What is not as it should be, in words."""
    wrong = [f"{finding.part} is {finding.status}" for finding in findings if finding.status != "done"]
    for finding in findings:
        found = finding.found or {}
        if finding.part == "tests" and found:
            wrong += [f"{name} failed" for name in found["failed"]]
            wrong += ["no test ran on the GPU"] if device == "cuda" and not found["passed"] else []
            wrong += [f"pytest ended with status {found['status']}"] if found["status"] and not found["failed"] else []
        if "float64" in found and found["float64"]["difference"] > TOLERANCE:
            wrong.append(f"{finding.part} in float64 differs by more than {TOLERANCE} of the spread of the effects")
    return wrong


# ---- the command -----------------------------------------------------------------------------------------------------
def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked on the command line."""
    command = argparse.ArgumentParser(prog="python -m benchmark.studies.card", description=(__doc__ or "").splitlines()[0])
    command.add_argument("--device", default="cuda", help="cuda, or cpu for a dry run (default: %(default)s)")
    command.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT") or "card"),
        help="folder for JSON and logs (default: $OUT, or card)",
    )
    command.add_argument("--minutes", type=float, default=MINUTES, help="that all may take together (default: %(default)s)")
    command.add_argument("--part", help=argparse.SUPPRESS)
    return command.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """All parts, or one of them in this process."""
    asked = options(arguments)
    try:
        folder, device = asked.out.absolute(), machine.device(asked.device)
        probe(folder)
        if not asked.part:
            return _all(device, folder, asked.minutes * 60)
        with machine.one_thread():
            found = _act(asked.part)(device)
        write(folder / f"{asked.part}.json", json.dumps(found, indent=1).encode() + b"\n")
    except LoobenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _act(name: str) -> Act:
    if name not in ACTS:
        raise unknown("part", name, ACTS)
    return ACTS[name]


def _all(device: str, folder: Path, seconds: float) -> int:
    findings: list[Finding] = []
    for finding in carry_out(parts(device, folder), folder, seconds):
        findings.append(finding)
        print(f"{finding.part}: {finding.status}, {finding.seconds:.0f} s", file=sys.stderr, flush=True)
        told = {"device": device, "budget": seconds, "findings": [asdict(one) for one in findings]}
        write(folder / "card.json", json.dumps(told, indent=1).encode() + b"\n")
    wrong = faults(findings, device)
    print("\n".join(["", *table(findings), *(f"! {fault}" for fault in wrong), f"all figures in {folder / 'card.json'}"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
