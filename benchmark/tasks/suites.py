"""The tasks there are, in suites that are run and ranked together; and the choice of them that submissions are scored on."""

from dataclasses import dataclass

from benchmark.base.errors import unknown
from benchmark.tasks import protocols
from benchmark.tasks.definition import Task


@dataclass(frozen=True)
class Suite:
    """Tasks that are run and ranked together."""

    name: str
    about: str
    tasks: tuple[Task, ...]
    seeds: int  # by default seeds 0, 1, ..., seeds - 1
    scored: bool = True  # or a place to choose settings, which no table shows
    version: str | None = None  # of a choice of other suites' tasks, which rises with any change of it


HOMES = {
    suite.name: suite
    for suite in (
        Suite("quick", "small tasks on embedded data, minutes on a laptop", tuple(protocols.quick_tasks()), 2),
        Suite(
            "images",
            "small convolutional networks on MNIST and CIFAR-10, 100 of 1,000 samples left out",
            tuple(protocols.image_tasks()),
            1,
        ),
        Suite(
            "tuning",
            "wine: for choosing settings by `loobench tune`, never scored",
            tuple(protocols.tuning_tasks()),
            5,
            scored=False,
        ),
        Suite("hara2019", "SGD-IE's tasks: Adult, 20 Newsgroups, MNIST; convex and not", tuple(protocols.hara2019_tasks()), 10),
        Suite(
            "acc2025",
            "ACC-SGD-IE's tasks: the same data, clean, with feature noise, with label noise",
            tuple(protocols.acc2025_tasks()),
            20,
        ),
        Suite("adaptive", "momentum, Adam and AdamW, from easy to hard", tuple(protocols.adaptive_tasks()), 3),
        Suite("smooth", "the MLP tasks of hara2019 and acc2025 without kinks", tuple(protocols.smooth_tasks()), 10),
        Suite("subsets", "random subsets, for the linear datamodeling score", tuple(protocols.subset_tasks()), 3),
        Suite(
            "renormalised",
            "the counterfactual that divides by what is left of a batch",
            tuple(protocols.renormalised_tasks()),
            3,
        ),
        Suite(
            "final-model", "further training from the final model, all that is known", tuple(protocols.final_model_tasks()), 3
        ),
        Suite(
            "cleansing",
            "what effects are used for: images, clean and with flipped labels",
            tuple(protocols.cleansing_tasks()),
            1,
        ),
        Suite(
            "cleansing-full",
            "cleansing at the papers' sizes, for a GPU: `loobench run --suite cleansing --full`",
            tuple(protocols.cleansing_tasks(full=True)),
            1,
        ),
        Suite(
            "scale",
            "what the field trains, for a GPU: up to 65,000 samples; ResNet-9 and transformers without kinks, ReLU by subsets",
            tuple(protocols.scale_tasks()),
            1,
        ),
        Suite(
            "scale-small",
            "twins of the tasks of scale for two cores, MNIST at its full 60,000",
            tuple(protocols.scale_small_tasks()),
            3,
        ),
        Suite(
            "growth",
            "one network on 200 to 60,000 digits, without kinks and with them: from which size an estimator pays",
            tuple(protocols.growth_tasks()),
            3,
        ),
    )
}
TASKS = {task.name: task for suite in HOMES.values() for task in suite.tasks}
CORE = Suite(
    "core",
    "what a submission is scored on: tasks of four suites, ten minutes on two cores for a cheap estimator",
    tuple(
        TASKS[name]
        for name in (
            *(task.name for task in HOMES["quick"].tasks),
            *("hara2019-adult-logistic", "hara2019-adult-mlp", "hara2019-20news-mlp"),
            *("acc2025-adult-logistic-feature", "acc2025-adult-mlp-label"),
            *("adaptive-adult-mlp-momentum-high-mean", "adaptive-adult-mlp-adam-low-each"),
            "adaptive-sst2-logistic-adamw-high-mean",
        )
    ),
    2,
    version="1",
)
SUITES = {**HOMES, CORE.name: CORE}


def suite(name: str) -> Suite:
    """The suite called `name`. Raises LoobenchError for an unknown one."""
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    return SUITES[name]


def task(name: str) -> Task:
    """The task called `name`. Raises LoobenchError for an unknown one."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]
