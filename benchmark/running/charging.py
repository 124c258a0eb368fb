"""What an answer for all N samples costs, where only K of them are asked about: measured for some of them, drawn on to N."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from math import ceil

import torch
from torch import Tensor

from benchmark.base.errors import Failure
from benchmark.core.calculus import Count
from benchmark.core.declaration import Estimator
from benchmark.core.trajectory import Trajectory
from benchmark.running.evaluate import Estimate, estimate

FEW = 2
TELLING = 0.5  # of the time for few, how much longer a call must take for the difference of the two not to be noise
MORE = 4  # times as much is to be counted by the next call where it is
NAMES = ("gradients", "hessian_products")


def share(run: Trajectory) -> float:
    """``N / K``: so many times the retraining of the K samples asked is that of all N."""
    return len(run.problem.train) / len(run.problem.left_out)


def for_all(found: Estimate, estimator: Estimator, run: Trajectory, device: str) -> Estimate:
    """The estimate with counts ``c(N) = c(K) + (N - K) (c(K) - c(2)) / (K - 2)``, the slope at least 0, and time likewise.

    c(K) is what `found` cost, c(2) a second call that is asked for the first two samples alone. A backward sweep, which serves
    all samples at once, costs for N what it costs for K; a shift that is carried for each sample N/K times as much. Times are
    never equal, and N/K times their noise may be more than all of c(K): so time is drawn on only where the counts grow with
    the samples asked, or where not all was counted, and from calls that are far apart (`drawn_time`). The effects are those of
    `found`. Raises Failure where the second call fails.
    """
    asked, everyone = len(run.problem.left_out), len(run.problem.train)
    if asked in (FEW, everyone):
        return found

    def about(rows: int) -> Estimate:
        return estimate(estimator, replace(run, problem=replace(run.problem, left_out=some(run, rows))), device, judged=False)

    few, count = about(FEW), found.count
    counts = {name: round(drawn(getattr(few.count, name), getattr(count, name), asked, everyone)) for name in NAMES}
    grows = "uncounted" in count.notes or any(counts[name] > getattr(count, name) for name in NAMES)
    seconds = found.seconds
    if grows:
        work = {FEW: few.count.work, asked: count.work}
        seconds = drawn_time(few.seconds, found.seconds, lambda rows: about(rows).seconds, work, everyone)
    return replace(found, seconds=seconds, count=Count(**counts, notes=count.notes))


def drawn(few: float, more: float, rows: int, everyone: int) -> float:
    """The cost for `everyone`, on the line through that for two samples and that for `rows`, where that does not fall."""
    return more + (everyone - rows) * max(0.0, more - few) / (rows - FEW)


def drawn_time(few: float, more: float, take: Callable[[int], float], work: Mapping[int, int], everyone: int) -> float:
    """The time for `everyone`, from that for two samples and one that is longer by half at least.

    `work` is what is counted for two and for K, of which `more` is the time. Where that is not so much longer, so many are
    asked that `MORE` times as much is counted, and so on up to all. Who cannot answer about more is charged by the last call
    that could be made.
    """
    rows = max(work)
    with suppress(Failure):
        while more - few < TELLING * few and rows < everyone:
            wider = min(everyone, next_rows(work, rows))
            more, rows = take(wider), wider
    return drawn(few, more, rows, everyone)


def next_rows(work: Mapping[int, int], rows: int) -> int:
    """For how many samples `MORE` times as much is counted as for `rows`; `MORE` times as many where nothing is known of it."""
    slope = (work[max(work)] - work[FEW]) / (max(work) - FEW)
    return rows + ceil((MORE - 1) * (work[FEW] / slope + rows - FEW)) if slope > 0 else MORE * rows


def some(run: Trajectory, rows: int) -> Tensor:
    """So many numbers of samples, rising: the first of those left out, or those and the first others."""
    problem = run.problem
    if rows <= len(problem.left_out):
        return problem.left_out[:rows]
    others = torch.ones(len(problem.train), dtype=torch.bool, device=problem.left_out.device)
    others[problem.left_out] = False
    return torch.cat([problem.left_out, others.nonzero()[: rows - len(problem.left_out), 0]]).sort().values
