"""What seeds that nobody had seen say of claims: whether scores and costs there are those on the claimed seeds.

*Scores.* A task's scores are taken less those of the reference that follows them best on its seeds, claimed and fresh alike, so
that hard seeds are no fault. Its drop is their mean on claimed seeds less that on fresh ones. Were the claimed seeds as good as
any others, a drop d_t would have the variance ``v_t = s_t^2 (1/n + 1/m)`` of splitting its n + m scores by chance, s_t their
deviation. Over tasks ``d = sum_t w_t d_t``, w_t falling with v_t, and ``e^2 = sum_t w_t^2 v_t``. Fresh seeds differ where d is
above `FAR` e and `SLIGHT`; where the plain mean of drops is above `MARGIN` and twice its standard error, or that of one task
above `TASK_MARGIN` and three times its own, from the spread within claimed and within fresh seeds.

*Answers.* The same with 1 for a seed that has an answer and 0 for one that has none, all tasks alike: fresh seeds differ where
the sum of drops is above `SILENT` times the root of the sum of their variances.

*Costs.* On claimed seeds computed here, and on fresh ones, time over exact retraining and counts over those of exact retraining
may exceed the claimed ones by the factors `TIME` and `COUNTS`: the first over all tasks, a geometric mean, where there are
`FEW` or more; the second on one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt

import numpy as np

FAR, SILENT = 2.5, 2.8  # standard errors
SLIGHT, MARGIN, TASK_MARGIN = 0.01, 0.1, 0.3
EVEN = 0.1  # of the median variance of drops, that no task is taken to be surer than
TIME, COUNTS = (2.0, 4.0), (1.25, 4.0)
FEW = 3  # tasks over which a mean is surer than one of them
LITTLE = {"cost": 0.05, "counted work": 0.02}  # added to what is compared: of less than that nothing is said
Scores = Mapping[int, float]  # seed -> score


# ---- scores ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Excess:
    """One task's scores, less those of a reference on the same seed: of claimed seeds, and of fresh ones."""

    task: str
    claimed: tuple[float, ...]
    fresh: tuple[float, ...]

    @property
    def drop(self) -> float:
        """Mean on claimed seeds less mean on fresh ones."""
        return float(np.mean(self.claimed) - np.mean(self.fresh))

    @property
    def share(self) -> float:
        """Variance of the drop over that of one seed."""
        return 1 / len(self.claimed) + 1 / len(self.fresh)

    @property
    def variance(self) -> float:
        """Variance of the drop, were it the work of chance which of the seeds are claimed."""
        return float(np.var([*self.claimed, *self.fresh], ddof=1)) * self.share


def excess(task: str, own: Scores, references: Sequence[Scores], claimed: Sequence[int], fresh: Sequence[int]) -> Excess | None:
    """A task's scores less those of the reference that follows them best, none included, of those that have all these seeds.

    None where claimed or fresh seeds have no score.
    """
    scored = [[seed for seed in seeds if seed in own] for seeds in (claimed, fresh)]
    if not all(scored):
        return None
    seeds = [seed for some in scored for seed in some]
    known = [{}, *(one for one in references if all(seed in one for seed in seeds))]
    beside = min(known, key=lambda one: float(np.var([own[seed] - one.get(seed, 0.0) for seed in seeds])))
    return Excess(task, *(tuple(own[seed] - beside.get(seed, 0.0) for seed in some) for some in scored))


def fresh_seeds_differ(tasks: Sequence[Excess]) -> str | None:
    """Why scores on claimed seeds are too good for what fresh seeds give; None where they are not, or nothing is known."""
    if not tasks:
        return None
    drop, error = weighted_drop(tasks)
    if drop > max(FAR * error, SLIGHT) and error > 0:
        return f"scores drop by {drop:.3f} on fresh seeds beyond the references' (standard error {error:.3f})"
    drop, error = plain_drop(tasks)
    if drop > MARGIN + 2 * error:
        return f"scores drop by {drop:.3f} on fresh seeds beyond the references' (standard error {error:.3f})"
    return next(_of_one_task(tasks), None)


def weighted_drop(tasks: Sequence[Excess]) -> tuple[float, float]:
    """The mean of drops over tasks, those that chance moves least weighing most, and its standard error."""
    variances = np.array([task.variance for task in tasks])
    weights = 1 / (variances + EVEN * np.median(variances) + 1e-12)
    weights /= weights.sum()
    return float(weights @ [task.drop for task in tasks]), sqrt(float(weights**2 @ variances))


def plain_drop(tasks: Sequence[Excess]) -> tuple[float, float]:
    """The mean of drops over tasks, and its standard error from the spread within claimed and within fresh seeds."""
    error = _spread(tasks) * sqrt(sum(task.share for task in tasks)) / len(tasks)
    return float(np.mean([task.drop for task in tasks])), error


def _of_one_task(tasks: Sequence[Excess]) -> Iterator[str]:
    spread = _spread(tasks)
    for task in tasks:
        if task.drop > TASK_MARGIN + 3 * (own := spread * sqrt(task.share)):
            yield f"on {task.task} the score drops by {task.drop:.3f} on fresh seeds (standard error {own:.3f})"


def _spread(tasks: Sequence[Excess]) -> float:
    """Standard deviation over seeds, from all groups of seeds of one task together; without bound where no group has two."""
    groups = [group for task in tasks for group in (task.claimed, task.fresh)]
    free = sum(len(group) - 1 for group in groups)
    squares = sum(float(np.var(group)) * len(group) for group in groups)
    return sqrt(squares / free) if free else inf


def answers_differ(tasks: Sequence[Excess], why: str = "") -> str | None:
    """Why too few fresh seeds have an answer (1, else 0), for how many claimed ones have one; None where they have."""
    drop, error = sum(task.drop for task in tasks), sqrt(sum(task.variance for task in tasks))
    if not drop > SILENT * error > 0:
        return None
    worst, seeds = max(tasks, key=lambda task: task.drop), [one for task in tasks for one in task.fresh]
    told = f"on {worst.task} {worst.fresh.count(0.0)} of {len(worst.fresh)}: {why}"
    return f"{seeds.count(0.0)} of {len(seeds)} fresh seeds have no answer, more than chance explains ({told})"


# ---- costs -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Spent:
    """What one task took, over exact retraining: on claimed seeds as claimed, and as seen here, on the same seeds or others."""

    task: str
    claimed: float
    here: float

    def factor(self, little: float) -> float:
        """What it took here over what is claimed."""
        return (self.here + little) / (self.claimed + little)


def costs_differ(what: str, where: str, tasks: Sequence[Spent]) -> str | None:
    """Why what was spent here is more than what is claimed: `what` is a key of LITTLE; None where it is not."""
    if not tasks:
        return None
    (overall, single), little = TIME if what == "cost" else COUNTS, LITTLE[what]
    mean = exp(float(np.mean([log(task.factor(little)) for task in tasks])))
    worst = max(tasks, key=lambda task: task.factor(little))
    if (mean <= overall or len(tasks) < FEW) and worst.factor(little) <= single:
        return None
    return f"the {what} {where} is {mean:.1f} times the claimed one over {len(tasks)} tasks; {_told(worst)}"


def _told(one: Spent) -> str:
    return f"on {one.task} {one.claimed:.3g} of exact retraining is claimed, {one.here:.3g} was seen"
