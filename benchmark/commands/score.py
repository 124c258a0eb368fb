"""`loobench score`: scores anew, without estimating or retraining."""

import sys
from collections.abc import Collection, Mapping
from typing import Any

from benchmark.base.errors import LoobenchError
from benchmark.commands import options as o


@o.command(*o.CHOICE, o.CACHE, o.WRITTEN, o.PUBLISH, examples=("loobench score", "loobench score --suite quick"))
def command(options: o.Options) -> int:
    """Compute the scores of existing results anew from kept estimates and truths."""
    from benchmark.running.scoring import rescore
    from benchmark.scores.store import Store, load_all

    folder = o.written(options)
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
    return o.FAILED if incomplete else 0


def _chosen(result: Any, options: o.Options) -> bool:
    """Whether the options mean this result."""
    task = result.task["suite"] in options.suite or result.name in options.task
    return (task or not (options.suite or options.task)) and (
        not options.estimator or result.estimator.name in options.estimator
    )


def _rescored(before: Any, now: Any, lacking: Collection[str]) -> str:
    """What was done with a result, in words."""
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
