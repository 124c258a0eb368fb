"""Whether the tests find what they are there for: each listed break is made in a copy of the tree, and its tests must fail.

`python tests/mutants.py` (or `make mutants`) makes all breaks of tests/mutants.toml, `python tests/mutants.py 3 7` two of them.
It prints a table, and exits with 1 where a break is not found. The tree itself is never changed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("mutants.toml")
LEFT_BEHIND = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", "*.egg-info", "my-results")
PATIENCE = 300  # seconds; what takes longer has not been found


@dataclass(frozen=True)
class Mutant:
    """A break: `find`, once in `file`, becomes `put`; `moves` says what would be wrong, `tests` (below tests/) must fail."""

    file: str
    find: str
    put: str
    moves: str
    tests: tuple[str, ...]

    def applied(self, text: str) -> str:
        """The text of the file with the break in it. Raises ValueError where there is not exactly one place for it."""
        if (places := text.count(self.find)) != 1:
            raise ValueError(f"{self.file}: expected one place with {self.find!r}, got {places}: mend tests/mutants.toml")
        return text.replace(self.find, self.put)


@dataclass(frozen=True)
class Tried:
    """What became of a break: the test that found it, or why none did, and the time it took."""

    found_by: str
    trouble: str
    seconds: float


def listed() -> list[Mutant]:
    """All breaks of the list, in order."""
    content = tomllib.loads(LIST.read_text())["mutant"]
    return [Mutant(**{**one, "tests": tuple(one["tests"])}) for one in content]


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """The exit code of pytest on some tests of a tree, and what it said."""
    ids = [f"tests/{one}" for one in tests]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *ids]
    mine = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=tree, env=mine, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return -1, f"no end within {PATIENCE} seconds"
    return done.returncode, done.stdout + done.stderr


def rewrite(at: Path, text: str) -> None:
    """Write a source file anew, and forget its compiled form: two versions within a second may pass for one."""
    at.write_text(text)
    for compiled in (at.parent / "__pycache__").glob(f"{at.stem}.*"):
        compiled.unlink()


def attempt(tree: Path, mutant: Mutant) -> Tried:
    """Make a break in a tree, run its tests, and take it back."""
    at, began = tree / mutant.file, time.monotonic()
    whole = at.read_text()
    rewrite(at, mutant.applied(whole))
    try:
        code, said = run_tests(tree, mutant.tests)
    finally:
        rewrite(at, whole)
    found = re.search(r"^FAILED tests/(.+?)(?: - .*)?$", said, re.MULTILINE)
    lines = said.strip().splitlines() or [""]
    return Tried(found[1] if code == 1 and found else "", lines[-1], time.monotonic() - began)


@contextmanager
def copies(count: int) -> Iterator["Queue[Path]"]:
    """So many copies of the tree, to be taken and given back."""
    with tempfile.TemporaryDirectory() as folder:
        trees: Queue[Path] = Queue()
        for number in range(count):
            trees.put(Path(shutil.copytree(ROOT, Path(folder, str(number), "tree"), ignore=LEFT_BEHIND)))
        yield trees


def whole_passes(trees: "Queue[Path]", chosen: Sequence[Mutant]) -> bool:
    """Whether the tests of all breaks pass on the tree as it is; what fails is told."""
    tree = trees.get()
    code, said = run_tests(tree, sorted({test for mutant in chosen for test in mutant.tests}))
    trees.put(tree)
    if code:
        print(f"tests fail on the tree as it is, so that they would find nothing:\n{said}", file=sys.stderr)
    return not code


def try_all(trees: "Queue[Path]", chosen: Sequence[Mutant], jobs: int) -> list[Tried]:
    """What became of each break, so many at a time; each is told of as it is done."""

    def one(mutant: Mutant) -> Tried:
        tree = trees.get()
        try:
            tried = attempt(tree, mutant)
        finally:
            trees.put(tree)
        print(f"{'found' if tried.found_by else 'NOT FOUND'}: {mutant.file}: {mutant.moves}", file=sys.stderr, flush=True)
        return tried

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, chosen))


def table(numbers: Sequence[int], chosen: Sequence[Mutant], tried: Sequence[Tried]) -> str:
    """One line for each break."""
    lines = [
        (number, mutant.file, mutant.moves, one.found_by.partition("::")[2] or f"NOT FOUND ({one.trouble})", round(one.seconds))
        for number, mutant, one in zip(numbers, chosen, tried, strict=True)
    ]
    return tabulate(lines, headers=("", "where", "what it would move", "found by", "s"), tablefmt="github")


def main(arguments: Sequence[str]) -> int:
    """Run the breaks; 0 where each is found."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("numbers", nargs="*", type=int, help="of the breaks to try, from 1 on (default: all)")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="breaks tried at a time (default: the cores)")
    asked = options.parse_args(arguments)
    everyone, began = listed(), time.monotonic()
    numbers = asked.numbers or [*range(1, len(everyone) + 1)]
    chosen = [everyone[number - 1] for number in numbers]
    with copies(asked.jobs) as trees:
        if not whole_passes(trees, chosen):
            return 1
        tried = try_all(trees, chosen, asked.jobs)
    print(table(numbers, chosen, tried))
    found = sum(bool(one.found_by) for one in tried)
    print(f"\n{found} of {len(chosen)} breaks found in {(time.monotonic() - began) / 60:.1f} minutes")
    return int(found < len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
