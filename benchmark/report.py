"""leaderboard.md: a pure function of the result files."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from scipy import stats
from tabulate import tabulate

from benchmark.errors import DamagedFile, LoobenchError
from benchmark.results import Result

PRIMARY = "kendall"
HEAD = """# Leaderboard

What a model's query loss would be without one training sample: each method's estimate against really retraining without
every sample (same start, same batches, weight 0 for the sample left out). Computed by loobench from `results/`; do not edit.
"""
LEGEND = """\
Mean over seeds and 95 % interval (Student's t over seeds; none for one seed), at the last horizon. tau: Kendall's tau-b
against the exact effects, averaged over queries, the order of rows. rho: Spearman. RMSE/sd: root mean squared error over the
standard deviation of the exact effects, for methods in units of loss. J10: overlap of the 5 % most harmful and 5 % most
helpful samples. cost: wall time over that of exact leave-one-out on the same machine and thread. grad, hvp: counted per-sample
gradients and Hessian products over the gradients of exact leave-one-out. n: seeds. A row marked (i) is our interpretation of
a method whose formula is known only second-hand; not converged: a solver's residual is above what it promises.
docs/protocol.md has the definitions.
"""


@dataclass(frozen=True)
class Row:
    """What a table says of one estimator: each figure as one value per seed, and marks for what is missing."""

    estimator: str
    figures: dict[str, list[float]]  # column -> a value per seed
    done: int  # tasks with all seeds scored
    tasks: int
    marks: str


COLUMNS = {
    "kendall": "tau",
    "spearman": "rho",
    "relative_rmse": "RMSE/sd",
    "jaccard_10": "J10",
    "cost": "cost",
    "gradients": "grad",
    "products": "hvp",
}
COUNTED = ("cost", "gradients", "products")


def leaderboard(results: Sequence[Result]) -> str:
    """The whole page. Raises LoobenchError without results, DamagedFile where two rows of one table answer different tasks."""
    if not results:
        raise LoobenchError("no results to report: run `loobench run --suite quick` first, or name their folder by --results")
    refuse_mixed(results)
    parts = [HEAD]
    for suite, members in groups(results, suite_name):
        parts.append(f"## Suite {suite}\n\n{table(members)}\n")
        parts += [f"### {task}\n\n{table(rows)}\n" for task, rows in groups(members, lambda result: result.name)]
    return "\n".join([*parts, "## How to read\n", LEGEND])


def suite_name(result: Result) -> str:
    """The suite of a result, with precision and device where they are not the usual ones."""
    variants = [name for name, usual in ((result.task["dtype"], "float64"), (result.device, "cpu")) if name != usual]
    return str(result.task["suite"]) + (f" ({', '.join(variants)})" if variants else "")


def groups(results: Iterable[Result], key: Callable[[Result], str]) -> list[tuple[str, list[Result]]]:
    """Results by `key`, in order of it."""
    ordered = sorted(results, key=key)
    return [(name, list(members)) for name, members in groupby(ordered, key)]


def refuse_mixed(results: Iterable[Result]) -> None:
    """Raise DamagedFile where results of one task were made for different definitions of it."""
    for task, members in groups(results, lambda result: result.name):
        digests = {result.task_digest: result.estimator.name for result in members}
        if len(digests) > 1:
            made = ", ".join(f"{name} for {digest[:12]}" for digest, name in sorted(digests.items()))
            raise DamagedFile(f"results of {task} answer different definitions of it ({made}): repeat `loobench run` for it")


def table(results: Sequence[Result], *, style: str = "github") -> str:
    """One row for each estimator over the given results: complete ones by falling tau, then the others, then by name."""
    tasks = len({result.name for result in results})
    rows = [row(name, members, tasks) for name, members in groups(results, lambda result: result.estimator.name)]
    rows.sort(key=lambda row: (row.tasks - row.done, -np.nan_to_num(mean(row.figures[PRIMARY]), nan=-np.inf), row.estimator))
    headers = ["estimator", *COLUMNS.values(), "tasks", "n", ""]
    align = ["left", *["right"] * (len(headers) - 2), "left"]
    return str(tabulate(map(line, rows), headers, tablefmt=style, disable_numparse=True, colalign=align))


def line(row: Row) -> list[str]:
    """A row as the strings of its table cells."""
    figures = [shown(column, row.figures[column]) for column in COLUMNS]
    return [escaped(row.estimator), *figures, f"{row.done}/{row.tasks}", str(len(row.figures[PRIMARY])), row.marks]


def row(name: str, results: Sequence[Result], tasks: int) -> Row:
    """One estimator's row: for each seed scored on all its complete tasks, the mean over those tasks."""
    complete = [result for result in results if all(cell.status == "ok" for cell in result.cells.values())]
    seeds = sorted(set.intersection(*({*result.cells} for result in complete)), key=int) if complete else []
    figures = {column: [mean([value(result, seed, column) for result in complete]) for seed in seeds] for column in COLUMNS}
    described = sorted({cell.status for result in results for cell in result.cells.values()} - {"ok"})
    interpretation = ["(i)"] if results[0].estimator.interpretation else []
    short = any(cell.notes.get("unconverged") for result in results for cell in result.cells.values())
    return Row(name, figures, len(complete), tasks, " ".join([*interpretation, *described, *["not converged"] * short]))


def value(result: Result, seed: str, column: str) -> float:
    """One figure of one seed, NaN where it is not defined."""
    cell = result.cells[seed]
    counts = {
        "cost": cell.relative_cost,
        "gradients": cell.gradients / cell.exact_gradients,
        "products": cell.hessian_products / cell.exact_gradients,
    }
    found = counts[column] if column in counts else cell.scores.get(column, [None])[-1]
    return np.nan if found is None else found


def mean(values: Sequence[float]) -> float:
    """Mean, NaN of none."""
    return float(np.mean(values)) if values else np.nan


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean by Student's t; NaN for fewer than two values."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else np.nan


def shown(column: str, values: Sequence[float]) -> str:
    """A figure as the table shows it: its mean over seeds, with an interval where it has one."""
    if np.isnan(mean(values)):
        return ""
    digits = 2 if column in COUNTED else 3
    width = np.nan if column in COUNTED else half_width(values)
    return f"{mean(values):.{digits}f}" + ("" if np.isnan(width) else f" ± {width:.{digits}f}")


def escaped(name: str) -> str:
    """A name that cannot break out of its table cell."""
    return name.translate({ord(char): f"\\{char}" for char in r"\`*_|<>[]"}).replace("\n", " ")
