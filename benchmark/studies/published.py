"""What papers say of their estimators: the figures that `loobench reproduce` puts beside ours, as frozen records."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["figure", "at least", "at most", "gain", "direction", "control"]

PAPERS = {
    "hara2019": "Hara, Nitanda and Maehara 2019, arXiv:1906.08473: SGD-IE",
    "acc2025": "Shi, Yang, Su, Zhang and Xu 2025, arXiv:2510.26185: ACC-SGD-IE",
    "wei2025": "Wei et al. 2025, arXiv:2412.03906: further training as the truth",
}
KOH_LIANG = "koh-liang"  # the baseline of Hara et al., which is no registered estimator


@dataclass(frozen=True)
class Published:
    """One published figure, and what of ours is put beside it.

    `kind` says what the value is: a "figure", one that is read as "at least" or "at most" so much, a "gain", the relative
    change against another estimator, a "direction", a change of which only the sign is judged, or a "control", which the paper
    lacks. Ours, for each seed: the estimator's metric at a `horizon`, "first" or "last", or the "mean" over all, averaged over
    the tasks, of a gain its relative change against `against`.
    """

    paper: str
    place: str
    row: str  # as the page names it
    tasks: tuple[str, ...]
    estimator: str
    metric: str
    value: float | None  # None for a control
    deviation: float | None = None  # standard deviation over runs
    kind: Kind = "figure"
    against: str = ""
    horizon: Literal["first", "last", "mean"] = "last"
    comparable: str = ""  # why it is not, if it is not


@dataclass(frozen=True)
class Decay:
    """A published cosine with the truth at the first and the last length of further training."""

    data: str
    estimator: str
    first: float
    last: float


# ---- Hara et al. -----------------------------------------------------------------------------------------------------
TAUS_AND_JACCARDS = {  # data, model: SGD-IE's tau, K&L's tau, SGD-IE's Jaccard, K&L's Jaccard, each mean and deviation
    ("adult", "logistic"): ((0.93, 0.02), (0.85, 0.07), (0.80, 0.10), (0.60, 0.17)),
    ("20news", "logistic"): ((0.94, 0.05), (0.82, 0.15), (0.79, 0.15), (0.52, 0.19)),
    ("mnist", "logistic"): ((0.95, 0.02), (0.70, 0.15), (0.83, 0.10), (0.41, 0.16)),
    ("adult", "mlp"): ((0.75, 0.10), (0.54, 0.12), (0.59, 0.16), (0.32, 0.11)),
    ("20news", "mlp"): ((0.45, 0.12), (0.37, 0.12), (0.25, 0.08), (0.11, 0.07)),
    ("mnist", "mlp"): ((0.45, 0.12), (0.27, 0.16), (0.37, 0.15), (0.27, 0.12)),
}
LAST_EPOCH = "no estimator here stops after the last epoch"
OTHER_SIGN = "the k are beyond ours, and the published code removes the most helpful of this baseline, not the most harmful"


def hara2019() -> Iterator[Published]:
    """The table of section 7.1 (30 runs), one printed output of the released notebook, and the figure of section 7.2."""
    for (data, model), figures in TAUS_AND_JACCARDS.items():
        pairs = (("sgd-ie", "kendall"), (KOH_LIANG, "kendall"), ("sgd-ie", "jaccard_10_10"), (KOH_LIANG, "jaccard_10_10"))
        for (estimator, metric), figure in zip(pairs, figures, strict=True):
            name = f"hara2019-{data}-{model}"
            yield Published("hara2019", "section 7.1", f"{data} {model}", (name,), estimator, metric, *figure)
    for metric, value in (("kendall", 0.598), ("jaccard_10_10", 0.404)):
        yield Published(
            "hara2019",
            "notebook, the middle of three",
            "adult mlp",
            ("hara2019-adult-mlp",),
            "sgd-ie-no-hessian",
            metric,
            value,
        )
    yield from _cleansing("hara2019", "section 7.2", "mnist", "sgd-ie", ((1, -0.0005), (30, -0.0011)))
    yield from _cleansing("hara2019", "section 7.2", "cifar10", "sgd-ie", ((100, -0.012),), " (published for 300 to 600)")
    for data, last, koh_liang in (("mnist", -0.0011, -0.0009), ("cifar10", -0.012, -0.0065)):
        tasks = (f"cleansing-{data}-0",)
        for estimator, value, reason in (("sgd-ie", last, LAST_EPOCH), (KOH_LIANG, koh_liang, OTHER_SIGN)):
            row = f"cleansing {data}" + ", last epoch" * (reason is LAST_EPOCH)
            yield Published(
                "hara2019", "section 7.2", row, tasks, estimator, "cleansed_error", value, kind="direction", comparable=reason
            )


def _cleansing(
    paper: str, place: str, data: str, estimator: str, changes: tuple[tuple[int, float], ...], more: str = ""
) -> Iterator[Published]:
    """The change of test error without the k most harmful; and the same from fresh starts, which the papers lack."""
    for k, value in changes:
        tasks, row = (f"cleansing-{data}-0",), f"cleansing {data}, {k} removed"
        yield Published(paper, place, row + more, tasks, estimator, f"cleansed_error_{k}", value, kind="direction")
        yield Published(paper, "control", row, tasks, estimator, f"fresh_error_{k}", None, kind="control")


# ---- Shi et al. ------------------------------------------------------------------------------------------------------
GAINS = {  # condition: RMSE, tau, Jaccard of ACC-SGD-IE against SGD-IE
    "clean": {"rmse": -0.1724, "kendall": 0.0738, "jaccard_10": 0.0766},
    "feature": {"rmse": -0.1722, "kendall": 0.3846, "jaccard_10": 0.1910},
    "label": {"jaccard_10": 0.158},
}
NO_GROWTH = "how growth is measured is not said"


def acc2025() -> Iterator[Published]:
    """Relative gains on the non-convex tasks, 20 Newsgroups over epochs, cleansing; 20 seeds, no deviations published."""
    for condition, gains in GAINS.items():
        tasks = tuple(f"acc2025-{data}-mlp-{condition}" for data in ("adult", "20news", "mnist"))
        for metric, value in gains.items():
            for horizon in ("last", "mean"):
                yield _acc(f"average of mlp tasks, {condition}", tasks, metric, value, "gain", horizon)
    convex, mlp = ("acc2025-20news-logistic-clean",), ("acc2025-20news-mlp-clean",)
    yield _acc("20news logistic, epoch 2", convex, "rmse", -0.01, "gain", "first")
    yield _acc("20news logistic, epoch 38", convex, "rmse", -0.86, "gain", "last")
    yield _acc("20news logistic", convex, "jaccard_10", 0.6, "at least")
    yield _acc("20news logistic", convex, "jaccard_10", 0.4, estimator="sgd-ie")
    yield _acc("20news mlp", mlp, "jaccard_10", 0.8, "at least")
    yield _acc("20news mlp", mlp, "jaccard_10", 0.7, "at most", estimator="sgd-ie")
    yield _acc("20news mlp, growth over epochs", mlp, "rmse", -0.5, "gain", comparable=NO_GROWTH)
    yield from _cleansing("acc2025", "cleansing", "mnist", "acc-sgd-ie", ((10, -0.00155),))
    yield from _cleansing("acc2025", "cleansing", "cifar10", "acc-sgd-ie", ((100, -0.003),))


def _acc(
    row: str,
    tasks: tuple[str, ...],
    metric: str,
    value: float,
    kind: Kind = "figure",
    horizon: Literal["first", "last", "mean"] = "last",
    estimator: str = "acc-sgd-ie",
    comparable: str = "",
) -> Published:
    against = "sgd-ie" if kind == "gain" else ""
    return Published("acc2025", "text", row, tasks, estimator, metric, value, None, kind, against, horizon, comparable)


# ---- Wei et al. ------------------------------------------------------------------------------------------------------
OTHER_DATA = "Not comparable as figures: loobench has neither these data sets nor a fine-tuned transformer"
FIRST_ORDER = ("grad-dot", "grad-cos", "if-datainf")
SECOND_ORDER = ("if-cg", "if-lissa", "if-ekfac")
METHODS = (*FIRST_ORDER, *SECOND_ORDER, "trak")
DECAYS = tuple(
    Decay(data, estimator, *ends)
    for data, rows in {
        "Folktables, epoch 1 to 25": {
            "grad-dot": (0.949, 0.540),
            "grad-cos": (0.592, 0.355),
            "if-datainf": (0.960, 0.660),
            "if-cg": (0.380, 0.720),
            "if-lissa": (0.161, 0.300),
            "if-ekfac": (0.184, 0.277),
            "trak": (0.036, 0.102),
        },
        "Energy, epoch 1 to 500": {
            "grad-dot": (0.705, 0.163),
            "grad-cos": (0.503, 0.106),
            "if-datainf": (0.702, 0.204),
            "if-cg": (0.141, 0.356),
            "if-lissa": (0.155, 0.378),
            "if-ekfac": (0.253, 0.288),
            "trak": (0.000, 0.007),
        },
        "SST-2, step 6 to 1053": {
            "grad-dot": (0.300, -0.066),
            "grad-cos": (0.037, 0.017),
            "if-datainf": (0.269, -0.037),
            "if-lissa": (0.070, -0.056),
            "if-ekfac": (0.015, 0.011),
            "trak": (0.001, 0.000),
        },
    }.items()
    for estimator, ends in rows.items()
)
PUBLISHED = (*hara2019(), *acc2025())
