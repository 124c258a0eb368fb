"""What an answer for all N samples costs, where only K of them are asked about: measured for K and for two, drawn on to N."""

from dataclasses import replace

from benchmark.core.calculus import Count
from benchmark.core.declaration import Estimator
from benchmark.core.trajectory import Trajectory
from benchmark.running.evaluate import Estimate, estimate

FEW = 2


def share(run: Trajectory) -> float:
    """``N / K``: so many times the retraining of the K samples asked is that of all N."""
    return len(run.problem.train) / len(run.problem.left_out)


def for_all(found: Estimate, estimator: Estimator, run: Trajectory, device: str) -> Estimate:
    """The estimate with time and counts ``c(N) = c(K) + (N - K) (c(K) - c(2)) / (K - 2)``, the slope at least 0.

    c(K) is what `found` cost, c(2) a second call that is asked for the first two samples alone. A backward sweep, which serves
    all samples at once, costs for N what it costs for K; a shift that is carried for each sample N/K times as much. Times are
    never equal, and N/K times their noise may be more than all of c(K): so time is drawn on only where the counts grow with
    the samples asked, or where not all was counted. The effects are those of `found`. Raises Failure where the second fails.
    """
    asked, everyone = len(run.problem.left_out), len(run.problem.train)
    if asked in (FEW, everyone):
        return found
    two = replace(run.problem, left_out=run.problem.left_out[:FEW])
    few = estimate(estimator, replace(run, problem=two), device, judged=False)

    def drawn(whole: float, part: float) -> float:
        return whole + (everyone - asked) * max(0.0, whole - part) / (asked - FEW)

    names = "gradients", "hessian_products"
    counts = {name: round(drawn(getattr(found.count, name), getattr(few.count, name))) for name in names}
    grows = "uncounted" in found.count.notes or any(counts[name] > getattr(found.count, name) for name in names)
    seconds = drawn(found.seconds, few.seconds) if grows else found.seconds
    return replace(found, seconds=seconds, count=Count(**counts, notes=found.count.notes))
