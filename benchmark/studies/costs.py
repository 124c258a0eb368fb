"""What estimators cost against exact retraining, and how near they come to it, on synthetic problems in one process."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import nan
from statistics import median
from typing import Any

from torch import Tensor

from benchmark.base import machine
from benchmark.core import calculus
from benchmark.core.declaration import Estimator
from benchmark.core.problem import Problem
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import leave_one_out, train
from benchmark.running.evaluate import Failure, estimate
from benchmark.sandbox import client
from benchmark.sandbox.process import Allowance, server
from benchmark.scores.metrics import METRICS
from benchmark.studies.speed import median_seconds, synthetic

QUERIES = 200  # samples behind the one mean query


@dataclass(frozen=True)
class Price:
    """One estimator on one problem, over exact leave-one-out by the fast engine, both on one thread."""

    case: str
    estimator: str
    failure: str | None  # its kind; the figures are then 0
    time: float
    gradients: float
    hessian_products: float
    kendall: float  # of the estimate with the exact effects


def problem(widths: tuple[int, ...], samples: int, batch: int, epochs: int) -> Problem:
    """A synthetic problem as `loobench speed` has it, and the mean loss of other samples as its query."""
    whole = synthetic(widths, samples + QUERIES, batch, epochs)
    own = synthetic(widths, samples, batch, epochs)
    return replace(own, train=whole.train[:samples], query=whole.train[samples:], query_kind="mean")


CASES: dict[str, Callable[[], Problem]] = {
    "mlp 784-8-8-1, N = 200, 10 epochs": lambda: problem((784, 8, 8, 1), 200, 20, 10),
    "logistic 784, N = 2,000, 10 epochs": lambda: problem((784, 1), 2000, 100, 10),
    "mlp 784-128-10, N = 1,000, 3 epochs": lambda: problem((784, 128, 10), 1000, 100, 3),
}


def prices(estimators: Sequence[Estimator], show: Callable[[str], None] = lambda case: None) -> Iterator[Price]:
    """The prices of estimators on all cases that they support."""
    for case, make in CASES.items():
        with machine.one_thread():
            run = train(make())
            leave_one_out(warm(run))
            exact = exactly(run)
            for variant in estimators:
                if not variant.unsupported(run.problem):
                    show(f"{case}: {variant.name}")
                    yield price(case, variant, run, exact)


def exactly(run: Trajectory) -> tuple[float, int, Tensor]:
    """Seconds, counted gradients and effects (K,) of exact leave-one-out."""
    with calculus.counting() as count:
        truth = leave_one_out(run)[-1, :, 0]
    counted = count.gradients
    return median_seconds(lambda: leave_one_out(run), repeats=5), counted, truth


def warm(run: Trajectory) -> Trajectory:
    """The same in small, two steps and two samples left out, on which libraries take what they take on a first call."""
    cut = run.until(min(2, run.problem.steps))
    return replace(cut, problem=replace(cut.problem, left_out=cut.problem.left_out[:2]))


def price(case: str, variant: Estimator, run: Trajectory, exact: tuple[float, int, Tensor]) -> Price:
    """The price of one estimator that has been called before on little."""
    with suppress(Failure):
        estimate(variant, warm(run))
    seconds, gradients, truth = exact
    try:
        found = estimate(variant, run)
    except Failure as failure:
        return Price(case, variant.name, failure.status, 0.0, 0.0, 0.0, 0.0)
    kendall = METRICS["kendall"].value(found.effect[-1, :, 0].numpy(), truth.numpy())
    counted = found.count.gradients / gradients, found.count.hessian_products / gradients
    return Price(case, variant.name, None, found.seconds / seconds, *counted, kendall)


def report(estimators: Sequence[Estimator], show: Callable[[str], None] = lambda case: None) -> dict[str, Any]:
    """All prices as a JSON value."""
    found = [asdict(price) for price in prices(estimators, show)]
    return {"prices": found, "provenance": machine.provenance("loobench speed --estimators", "cpu", "float64")}


def sandboxed(estimators: Sequence[Estimator], repeats: int = 5) -> dict[str, float]:
    """What the sandbox costs in seconds on the wall: to start it once, and each call of it beyond the call's own work.

    The median over repeats and estimators, on the smallest case; nan where none answers.
    """
    server().close()
    server.cache_clear()
    start = time.perf_counter()
    server()
    started = time.perf_counter() - start
    run = train(next(iter(CASES.values()))())
    beyond = [found for one in estimators for _ in range(repeats) if (found := _beyond(one, run)) is not None]
    return {"start": started, "call": median(beyond) if beyond else nan}


def _beyond(estimator: Estimator, run: Trajectory) -> float | None:
    start = time.perf_counter()
    try:
        found = estimate(client.confined(estimator, Allowance()), run)
    except Failure:
        return None
    return time.perf_counter() - start - found.seconds


HEADERS = ["case", "estimator", "time", "gradients", "products", "kendall"]


def lines(prices: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Prices as the strings of table rows, a case named once, cheapest first."""
    rows: list[list[str]] = []
    for case in dict.fromkeys(price["case"] for price in prices):
        ordered = sorted((price for price in prices if price["case"] == case), key=lambda price: float(price["time"]))
        for place, price in enumerate(ordered):
            figures = [f"{price[name]:.3f}" for name in ("time", "gradients", "hessian_products", "kendall")]
            rows.append(["" if place else case, price["estimator"], *([price["failure"]] if price["failure"] else figures)])
    return rows
