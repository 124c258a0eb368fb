"""The commands of a submitter: new, check, submit. Imports of what is slow happen inside them, as in cli.py."""

import argparse
import sys
from typing import Any

FAILED = 1  # exit code
WIDTH = 88  # characters of what was found, in a line


def check_options(command: argparse.ArgumentParser) -> None:
    """The options of `loobench check`."""
    command.add_argument("estimator", metavar="NAME|FILE.py[:NAME]")


def check_command(options: argparse.Namespace) -> int:
    """`loobench check`."""
    from benchmark import check

    found = check.check(options.estimator)
    _print_findings(found)
    if any(map(check.broken, found.values())):
        print("\na rule is broken: docs/submitting.md says what each one asks", file=sys.stderr)
        return FAILED
    print(f"\nall rules are kept; next: loobench run --suite core --estimator {options.estimator}")
    return 0


def _print_findings(found: dict[str, list[Any]]) -> None:
    from tabulate import tabulate

    from benchmark import check

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # where a terminal lacks the marks
    for name, findings in found.items():
        print(f"\n{name}\n")
        print(tabulate(check.lines(findings), check.HEADERS, disable_numparse=True, maxcolwidths=[None, None, WIDTH]))
