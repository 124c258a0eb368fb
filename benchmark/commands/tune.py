"""`loobench tune`: one setting, tried on tasks that are never scored."""

import json
import re
from typing import Any

import click

from benchmark.base.errors import LoobenchError
from benchmark.commands import options as o
from benchmark.commands import terminal


class Value(click.ParamType[str]):
    """A value that may begin with a minus sign, where it is a number; no misspelt option is one."""

    name = "value"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """The value itself."""
        if value.startswith("-") and not re.match(r"-[\d.]", value):
            raise click.NoSuchOption(value, possibilities=[name for one in command.params for name in one.opts], ctx=ctx)
        return value


@o.command(
    o.argument("estimator", "NAME|FILE.py:NAME"),
    o.argument("setting", "SETTING"),
    o.argument("values", "VALUE...", nargs=-1, required=True, type=Value()),
    o.option("--seeds", metavar="N|A-B", help="The first N seeds, or A to B.  [default: 5]"),
    *(o.CACHE, o.SANDBOX, *o.STRANGERS),
    examples=("loobench tune if-cg damping 0.01 0.1 1", "loobench tune my_estimator.py:my-estimator damping 0.01 0.1"),
)
def command(options: o.Options) -> int:
    """What a setting of an estimator does on the tuning tasks, which are never scored.

    A VALUE is JSON, or a word.
    """
    from benchmark.base.files import probe
    from benchmark.sandbox import client
    from benchmark.studies import tune
    from benchmark.tasks import suites

    chosen = client.resolve([options.estimator], o.rules(options))
    if len(chosen) > 1:
        raise LoobenchError(f"{options.estimator} declares {len(chosen)} estimators: name one, as in FILE.py:{chosen[0].name}")
    probe(options.cache)
    seeds = o.seeds(options.seeds, suites.suite(tune.SUITE).seeds)
    values = [_value(text) for text in options.values]
    found = list(tune.trials(chosen[0], options.setting, values, seeds, options.cache, terminal.bar))
    many = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"
    print(f"{chosen[0].name}: mean Kendall tau over {many} at the last horizon; * is set now\n")
    headers = [options.setting, *found[0].kendall, "mean"]
    terminal.table(headers, tune.lines(found, chosen[0].settings[options.setting]))
    for trial in found:
        if trial.failure:
            terminal.tell("failed", f"{options.setting} {trial.value}: {trial.failure}: {trial.message}")
    return o.FAILED if any(trial.failure for trial in found) else 0


command.ignore_unknown_options = True  # a negative number looks like one


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
