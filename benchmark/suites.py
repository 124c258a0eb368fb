"""The tasks there are, in suites that are run and ranked together."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmark.errors import unknown
from benchmark.optimizers import Adam, Optimizer, Sgd
from benchmark.tasks import Task


@dataclass(frozen=True)
class Suite:
    """Tasks that are run and ranked together."""

    name: str
    about: str
    tasks: tuple[Task, ...]
    seeds: int  # by default seeds 0, 1, ..., seeds - 1
    scored: bool = True  # or a place to choose settings, which no table shows


def quick_tasks() -> Iterator[Task]:
    """Small tasks on embedded data: two data sets x (logistic by SGD, MLP by SGD, MLP by Adam)."""
    fits: dict[str, tuple[str, Optimizer, float]] = {
        "logistic-sgd": ("logistic", Sgd(0.1), 0.01),
        "mlp-sgd": ("mlp-8", Sgd(0.1), 0.001),
        "mlp-adam": ("mlp-8", Adam(0.01), 0.001),
    }
    for dataset, queries, query in (("digits", "each", 20), ("breast_cancer", "mean", 100)):
        for fit, (model, optimizer, decay) in fits.items():
            yield Task(
                name=f"quick-{dataset.replace('_', '-')}-{fit}",
                suite="quick",
                dataset=dataset,
                subset="all",
                train=100,
                query=query,
                test=100,
                model=model,
                optimizer=optimizer,
                weight_decay=decay,
                batch=10,
                epochs=10,
                horizons=(1, 5, 10),
                queries=queries,
            )


def tuning_tasks() -> Iterator[Task]:
    """Small tasks on wine, a data set that no scored task has: three classes, logistic and MLP by SGD, MLP by Adam."""
    fits: tuple[tuple[str, str, Optimizer, float], ...] = (
        ("logistic-sgd", "logistic", Sgd(0.1), 0.01),
        ("mlp-sgd", "mlp-8", Sgd(0.1), 0.001),
        ("mlp-adam", "mlp-8", Adam(0.01), 0.001),
    )
    for fit, model, optimizer, decay in fits:
        yield Task(
            name=f"tuning-wine-{fit}",
            suite="tuning",
            dataset="wine",
            subset="all",
            train=100,
            query=20,
            test=50,
            model=model,
            optimizer=optimizer,
            weight_decay=decay,
            batch=10,
            epochs=10,
            horizons=(10,),
            queries="each",
        )


def hara2019_tasks() -> Iterator[Task]:
    """Section 7.1 of Hara, Nitanda and Maehara (2019, arXiv:1906.08473), hyper-parameters from the released code."""
    sets = (("adult", "all", 0.1, 20), ("20news", "ibm-mac", 0.01, 10), ("mnist", "1-7", 0.1, 5))
    for dataset, subset, rate, epochs in sets:
        fits: tuple[tuple[str, str, Optimizer, float | None, int, int], ...] = (
            ("logistic", "logistic", Sgd(rate, schedule="inverse-sqrt"), None, 5, epochs),
            ("mlp", "mlp-8-8", Sgd(0.1), 0.001, 20, 10),
        )
        for fit, model, optimizer, decay, batch, length in fits:
            yield Task(
                name=f"hara2019-{dataset}-{fit}",
                suite="hara2019",
                dataset=dataset,
                subset=subset,
                train=200,
                query=200,
                test=200,
                model=model,
                optimizer=optimizer,
                weight_decay=decay,
                batch=batch,
                epochs=length,
                horizons=(1, (length + 1) // 2, length),
            )


def image_tasks() -> Iterator[Task]:
    """Convolutional networks on 1,000 images, 100 of them left out: MNIST by SGD, CIFAR-10 with GroupNorm by momentum."""
    for dataset, model, optimizer in (
        ("mnist", "mnist-cnn", Sgd(0.05)),
        ("cifar10", "cifar-cnn", Sgd(0.01, momentum=0.9)),
    ):
        yield Task(
            name=f"images-{dataset}-cnn",
            suite="images",
            dataset=dataset,
            subset="all",
            train=1000,
            query=200,
            test=1000,
            model=model,
            optimizer=optimizer,
            weight_decay=0.0,
            batch=20,
            epochs=2,
            horizons=(1, 2),
            leave_out=100,
            scaling="pixels",
        )


SUITES = {
    suite.name: suite
    for suite in (
        Suite("quick", "small tasks on embedded data, minutes on a laptop", tuple(quick_tasks()), 2),
        Suite(
            "images",
            "small convolutional networks on MNIST and CIFAR-10, 100 of 1,000 samples left out",
            tuple(image_tasks()),
            1,
        ),
        Suite("tuning", "wine: for choosing settings by `loobench tune`, never scored", tuple(tuning_tasks()), 5, scored=False),
        Suite("hara2019", "SGD-IE's tasks: Adult, 20 Newsgroups, MNIST; convex and not", tuple(hara2019_tasks()), 10),
    )
}
TASKS = {task.name: task for suite in SUITES.values() for task in suite.tasks}


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
