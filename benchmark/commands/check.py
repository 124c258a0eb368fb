"""`loobench check`: the rules, before others ask."""

import shlex
import sys
from typing import Any

from benchmark.commands import options as o
from benchmark.commands import terminal


@o.command(o.ESTIMATOR, *o.STRANGERS, examples=("loobench check my_estimator.py", "loobench check sgd-ie"))
def command(options: o.Options) -> int:
    """Whether an estimator keeps the rules, in under a minute."""
    found = checked(options)
    if found is None:
        print("\na rule is broken: docs/submitting.md says what each one asks", file=sys.stderr)
        return o.FAILED
    _print(found)
    then = shlex.join(["loobench", "run", "--suite", "core", "--estimator", options.estimator])
    print(f"\nall rules are kept; next: {then}")
    return 0


def checked(options: o.Options) -> dict[str, list[Any]] | None:
    """What was found of each estimator; None where one breaks a rule, which is then printed."""
    from benchmark.submissions import check

    found = check.check(options.estimator, o.rules(options))
    if any(map(check.broken, found.values())):
        _print(found)
        return None
    return found


def _print(found: dict[str, list[Any]]) -> None:
    from benchmark.submissions import check

    for name, findings in found.items():
        print(f"\n{name}\n")
        terminal.table(check.HEADERS, check.lines(findings))
