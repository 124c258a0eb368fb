"""What a Python program asks: exact effects of its own model and data, and estimators scored against them.

In: a torch.nn.Module, a loss, data, an optimiser. Out: `Effects`, or a `Comparison` of estimators. `import loobench` has both.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tabulate import tabulate
from torch import Tensor

from benchmark.base import machine
from benchmark.base.errors import LoobenchError
from benchmark.base.means import usual
from benchmark.base.places import cache
from benchmark.publishing import tables
from benchmark.running import run
from benchmark.running.cell import Setup
from benchmark.running.plan import Plan
from benchmark.sandbox import client
from benchmark.scores import board
from benchmark.scores.results import Limits, Result
from benchmark.scores.store import Store, load_all
from benchmark.tasks.own import OwnTask, Training
from benchmark.truths import truth

NAME = "own"  # of a task that has no other
SHOWN = 5  # samples at each end of a table


@dataclass(frozen=True, eq=False)
class Effects:
    """What really happens to each query without each sample: ``effect[h, k, q]`` = with it gone, minus with it.

    A positive effect on a loss says that the sample helps: without it the loss is higher.
    """

    effect: Tensor  # (H, K, Q), after each horizon; of what the query function reads off, by default the loss
    samples: Tensor  # (K,) numbers of the training samples that were left out, one at a time
    noise: float | None  # rounding: the difference to the same trained in another order of sums, over the effects' deviation
    seconds: float  # of one thread, or of the GPU, for the retraining

    @property
    def last(self) -> Tensor:
        """(K, Q) after the last horizon."""
        return self.effect[-1]

    def __str__(self) -> str:
        """The samples whose absence raises the queries' mean most, and lowers it most."""
        mean = self.last.mean(1)
        order = mean.argsort(descending=True).tolist()
        chosen = order if len(order) <= 2 * SHOWN else [*order[:SHOWN], *order[-SHOWN:]]
        rows = [(int(self.samples[place]), f"{float(mean[place]):+.3e}") for place in chosen]
        noise = "unknown" if self.noise is None else f"{self.noise:.1e}"
        head = f"exact effects (H, K, Q) = {tuple(self.effect.shape)} in {self.seconds:.1f} s; noise over deviation {noise}"
        table = tabulate(rows, ("sample", "mean effect of leaving it out"), disable_numparse=[1], colalign=("right", "right"))
        return f"{head}\n{table}"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Estimators on one task: scores against exact retraining, with intervals, and cost over that of exact retraining."""

    results: list[Result]
    limits: dict[str, Limits]
    failures: list[str]  # in words

    @property
    def scores(self) -> dict[str, dict[str, float | None]]:
        """Estimator -> metric -> mean over seeds at the last horizon; "cost" is the median of time over exact retraining's."""
        return {one.estimator.name: _means(one) for one in self.results}

    def __str__(self) -> str:
        found = board.board(self.results, self.limits).suites
        parts = [tabulate(lines, headers) for suite in found for headers, lines in tables.brief(suite.overall)]
        return "\n\n".join([*parts, *self.failures])


def _means(result: Result) -> dict[str, float | None]:
    cells = [cell for cell in result.cells.values() if cell.status == "ok"]
    names = dict.fromkeys(name for cell in cells for name in cell.scores)
    found = {name: _mean(cell.scores.get(name, [None])[-1] for cell in cells) for name in names}
    costs = sorted(cell.relative_cost for cell in cells)
    return {**found, "cost": costs[len(costs) // 2] if costs else None}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def exact_effects(
    model: Any,
    loss: Any,
    train: Any,
    query: Any,
    *,
    optimizer: Any,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    memory: int | None = None,
    progress: bool = True,
    **training: Any,
) -> Effects:
    """Train a model once with all samples and once without each of them; how far the queries' losses are apart.

    `model` is a torch.nn.Module, which starts as it is, or a function without arguments that makes one. `loss`, `train`,
    `query`, `optimizer` and the other settings (batch, epochs, leave_out, clip, queries, dtype ...) are those of `Training`.
    `seed` decides the order of batches and which samples are left out. Finished work is kept in the cache (LOOBENCH_CACHE):
    a call that was stopped goes on from there, one that was answered answers at once. `memory` is in bytes.
    Raises LoobenchError for a model whose answer would be wrong, as one with batch normalisation; Diverged where training does.
    """
    task = OwnTask(NAME, Training(model, loss, train, query, optimizer, **training))
    here = machine.device(device)
    with machine.one_thread():
        reference, exact = truth.answer(task, seed, cache(), here, _bar(progress), usual(here, memory, threads))
    noise = exact.limits.get("noise", [None])[-1]
    return Effects(exact.effect, reference.problem.left_out.cpu(), noise, exact.seconds)


def compare(
    model: Any,
    loss: Any,
    train: Any,
    query: Any,
    *,
    optimizer: Any,
    estimators: Iterable[str],
    seeds: int = 2,
    device: str = "cpu",
    threads: int | None = None,
    memory: int | None = None,
    results: str | Path | None = None,
    progress: bool = True,
    **training: Any,
) -> Comparison:
    """Score estimators against exact retraining on a model and data of one's own, for seeds 0, 1 ...

    `estimators` are registered names (`loobench list estimators`) or files, which run in the sandbox. Results are written into
    the folder `results` where one is named. The other arguments, and what is raised, are those of `exact_effects`.
    """
    if seeds < 1:
        raise LoobenchError(f"seeds must be 1 or more, got {seeds}")
    here, task = machine.device(device), OwnTask(NAME, Training(model, loss, train, query, optimizer, **training))
    with ExitStack() as stack:
        folder = Path(results) if results else Path(stack.enter_context(TemporaryDirectory()))
        setup = Setup(here, cache(), "loobench.compare", usual(here, memory, threads))
        chosen = tuple(client.resolve(estimators))
        plan = Plan((task,), chosen, (tuple(range(seeds)),), setup, Store(folder))
        found = [*run.execute(plan, _bar(progress))]
        cells = [f"{one.estimator}: {one.cell.message}" for one in found if isinstance(one, run.Outcome) and one.cell.message]
        troubles = [f"seed {one.seed}: {one.message}" for one in found if isinstance(one, run.Trouble)]
        kept = [one for one in load_all(folder) if one.task_digest == task.digest()]
        limits = {one.name: one for one in (plan.store.find(work.limits) for work in plan.work())}
        return Comparison(kept, limits, [*dict.fromkeys([*cells, *troubles])])


def _bar(shown: bool) -> truth.MakeBar:
    """A bar of progress, where stderr is a terminal or a notebook."""
    from tqdm.auto import tqdm

    def bar(total: int, text: str, unit: str) -> Any:
        return partial(tqdm, disable=None if shown else True)(total=total, desc=text, unit=unit, leave=False)

    return bar
