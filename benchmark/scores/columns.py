"""What columns a board has for each kind of truth, and what limits of a truth it shows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmark.scores.numbers import Curve, entry, mean, number
from benchmark.tasks.questions import FurtherTraining, LeaveOneOut, Subsets

USED = "uses"  # the kind of a task whose effects are used for something
UNBOUNDED = "relative_rmse"  # the score that says whether a cell has diverged


@dataclass(frozen=True)
class Scored:
    """What is known of one seed of a task: scores and limits of its truth, name -> H values, and counts."""

    scores: Mapping[str, Curve]
    limits: Mapping[str, Curve]
    counts: Mapping[str, float]


@dataclass(frozen=True)
class Column:
    """A column: its title, its figure of one seed of a task, NaN where not defined, and how it is shown."""

    title: str
    of: Callable[[Scored], float]
    digits: int = 3
    gaps: bool = False  # the mean is over the tasks and seeds that have a figure; else all must have one
    robust: bool = False  # the median over all cells in place of the mean: the figure has no bound


def at(title: str, score: str, horizon: int = -1, *, gaps: bool = False) -> Column:
    """A score at one horizon."""
    return Column(title, lambda one: entry(one.scores, score, horizon), gaps=gaps)


def error(title: str, score: str) -> Column:
    """An error without bound, at the last horizon."""
    return Column(title, lambda one: entry(one.scores, score), robust=True)


def over_horizons(title: str, score: str) -> Column:
    """The mean of a score over horizons."""
    return Column(title, lambda one: mean([number(value) for value in one.scores.get(score, [])]))


def of_ceiling(score: str) -> Column:
    """A score over its ceiling, at the last horizon; not defined where the ceiling is unknown or not above 0."""

    def ratio(one: Scored) -> float:
        ceiling = entry(one.limits, "ceiling")
        return entry(one.scores, score) / ceiling if ceiling > 0 else np.nan

    return Column("of ceiling", ratio, gaps=True)


def counted(title: str) -> Column:
    """A count, over that of the truth."""
    return Column(title, lambda one: one.counts.get(title, np.nan), digits=2)


COUNTED = (counted("cost"), counted("grad"), counted("hvp"), Column("MB", lambda one: one.counts.get("MB", np.nan), digits=0))
COLUMNS = {  # by kind of truth; the first ranks the rows
    LeaveOneOut.kind: (
        at("tau", LeaveOneOut.primary),
        of_ceiling(LeaveOneOut.primary),
        at("rho", "spearman"),
        error("RMSE/sd", UNBOUNDED),
        at("J10", "jaccard_10"),
        *COUNTED,
    ),
    Subsets.kind: (
        at("LDS", Subsets.primary),
        of_ceiling(Subsets.primary),
        at("tau", "kendall"),
        error("RMSE/sd", UNBOUNDED),
        *COUNTED,
    ),
    FurtherTraining.kind: (
        over_horizons("cos", FurtherTraining.primary),
        of_ceiling(FurtherTraining.primary),
        at("cos first", FurtherTraining.primary, 0),
        at("cos last", FurtherTraining.primary),
        at("rho", "spearman"),
        *COUNTED,
    ),
    USED: (
        at("tau", LeaveOneOut.primary),
        of_ceiling(LeaveOneOut.primary),
        at("AUROC", "mislabel_auroc", gaps=True),  # only where labels are wrong
        at("AP", "mislabel_average_precision", gaps=True),
        at("self AUROC", "self_auroc", gaps=True),
        at("cleansed loss", "cleansed_loss"),
        at("cleansed error", "cleansed_error"),
        at("fresh loss", "fresh_loss"),
        at("fresh error", "fresh_error"),
        at("coreset loss", "coreset_loss"),
        at("del random", "deletion_random_spearman"),
        at("del clustered", "deletion_clustered_spearman"),
        *COUNTED,
    ),
}


@dataclass(frozen=True)
class Limit:
    """What limits a truth: its name in the files, what the board calls it, and its decimals, None of what is all but 0."""

    name: str
    title: str
    digits: int | None = 3


LIMITS = (
    Limit("ceiling", "ceiling"),
    Limit("linear_spearman", "its rho"),
    Limit("linear_relative_rmse", "its RMSE/sd"),
    Limit("split_half", "agreement of two halves"),
    Limit("own", "of one repeat with the others"),
    Limit("other_initial", "tau with another start"),
    Limit("other_order", "tau with another order"),
    Limit("kink_pairs", "kinks, share of pairs (sample, step)", 4),
    Limit("kink_triples", "of triples", 4),
    Limit("noise", "noise", None),
    Limit("without_class", "subsets without a class", 1),
)
