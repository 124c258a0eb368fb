"""`loobench check`: the rules, before others ask; and whether a task of one's own can be answered."""

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from benchmark.commands import options as o
from benchmark.commands import terminal


@o.command(
    o.ESTIMATOR,
    *o.STRANGERS,
    *o.MEANS,
    examples=("loobench check my_estimator.py", "loobench check sgd-ie", "loobench check my_task.py"),
)
def command(options: o.Options) -> int:
    """Whether an estimator keeps the rules, in under a minute; or a task of yours can be answered.

    A file that declares a task is trained, and compared with a plain loop of torch. How large rounding is beside its
    effects is said, and how long the truth will take. That takes some thirty times as long as to train it once; --memory
    and --threads are of tasks alone.
    """
    from benchmark.submissions import check_task

    return _task(options) if check_task.is_task(options.estimator) else _estimator(options)


def _estimator(options: o.Options) -> int:
    found = checked(options)
    if found is None:
        print("\na rule is broken: docs/submitting.md says what each one asks", file=sys.stderr)
        return o.FAILED
    _print(found)
    _next(["run", "--suite", "core", "--estimator", options.estimator])
    return 0


def _task(options: o.Options) -> int:
    from benchmark.submissions import check, check_task

    found = check_task.check(options.estimator, o.means(options, "cpu"), terminal.bar)
    _print(found)
    if any(map(check.broken, found.values())):
        print("\na rule is broken: docs/own.md says what helps", file=sys.stderr)
        return o.FAILED
    _next(["truth", options.estimator] if len(found) == 1 else ["run", "--suite", options.estimator, "--estimator", "grad-dot"])
    return 0


def _next(words: Sequence[str]) -> None:
    print(f"\nall rules are kept; next: {shlex.join(['loobench', *words])}")


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
