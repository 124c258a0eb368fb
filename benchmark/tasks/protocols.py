"""The tasks of each suite: ours, and the protocols that papers rest on."""

from collections.abc import Iterator
from dataclasses import replace

from benchmark.core.optimizers import Adam, Optimizer, Sgd
from benchmark.tasks.definition import Task
from benchmark.tasks.questions import FurtherTraining, Subsets, Uses


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


def acc2025_tasks() -> Iterator[Task]:
    """The experiments of Shi et al. (2025, arXiv:2510.26185), hyper-parameters from the released code.

    Clean, with feature noise (sigma .05 on raw features; for text that part of each row's features set to 1), and with 10 % of
    the labels flipped. Unlike there, noise is drawn once: the model is trained on the features that estimators see.
    """
    sets = (("adult", "all", "gaussian"), ("20news", "ibm-mac", "ones"), ("mnist", "1-7", "gaussian"))
    fits: tuple[tuple[str, str, Optimizer, float | None], ...] = (
        ("logistic", "logistic", Sgd(0.1), None),
        ("mlp", "mlp-8-8", Sgd(0.1, schedule="inverse-sqrt"), 0.0),
    )
    for dataset, subset, added in sets:
        for fit, model, optimizer, decay in fits:
            for condition, noise, rate in (("clean", "none", 0.0), ("feature", added, 0.05), ("label", "labels", 0.1)):
                yield Task(
                    name=f"acc2025-{dataset}-{fit}-{condition}",
                    suite="acc2025",
                    dataset=dataset,
                    subset=subset,
                    train=400,
                    query=400,
                    test=400,
                    model=model,
                    optimizer=optimizer,
                    weight_decay=decay,
                    batch=100,
                    epochs=38,
                    horizons=tuple(range(2, 39, 4)),
                    noise=noise,
                    noise_rate=rate,
                )


def adaptive_tasks() -> Iterator[Task]:
    """Momentum, Adam and AdamW, each at a low and a high rate and read off early and late: from easy to hard."""
    sets = (
        ("mnist", "all", "pixels", "mlp-16", "mlp"),
        ("adult", "all", "features", "mlp-8-8", "mlp"),
        ("sst2", "words", "none", "mlp-8", "mlp"),
        ("sst2", "words", "none", "logistic", "logistic"),
    )
    for dataset, subset, scaling, model, fit in sets:
        for optimizer, speed in adaptive_optimizers(sparse=scaling == "none"):
            for queries in ("mean", "each"):
                yield Task(
                    name=f"adaptive-{dataset}-{fit}-{optimizer.name}-{speed}-{queries}",
                    suite="adaptive",
                    dataset=dataset,
                    subset=subset,
                    train=400,
                    query=50,
                    test=200,
                    model=model,
                    optimizer=optimizer,
                    weight_decay=0.0 if optimizer.name == "adamw" else 0.001,
                    batch=50,
                    epochs=10,
                    horizons=(1, 3, 10),
                    queries=queries,
                    scaling=scaling,
                )


def adaptive_optimizers(*, sparse: bool) -> Iterator[tuple[Optimizer, str]]:
    """Each optimiser at a low and a high rate; rows of unit length are small, and take ten times the rate of momentum."""
    for speed, factor in (("low", 1.0), ("high", 10.0)):
        yield Sgd(factor * (0.05 if sparse else 0.005), momentum=0.9), speed
        yield Adam(factor * 0.001), speed
        yield Adam(factor * 0.001, decay=0.01), speed


def smooth_tasks() -> Iterator[Task]:
    """The MLP tasks of hara2019 and acc2025 with softplus in place of ReLU: same data, initial parameters and batches."""
    for task in (*hara2019_tasks(), *acc2025_tasks()):
        if task.model == "mlp-8-8":
            yield replace(task, name=f"smooth-{task.name}", suite="smooth", model="mlp-8-8-softplus")


def subset_tasks() -> Iterator[Task]:
    """Linear datamodeling: 100 random halves, and 100 subsets without a tenth, from four initial parameters each."""
    for dataset, subset in (("adult", "all"), ("mnist", "1-7")):
        for fit, model, optimizer, decay in (
            ("logistic", "logistic", Sgd(0.1), 0.01),
            ("mlp", "mlp-8-8", Sgd(0.1), 0.001),
        ):
            for keep in (0.5, 0.9):
                yield Task(
                    name=f"subsets-{dataset}-{fit}-{round(100 * keep)}",
                    suite="subsets",
                    dataset=dataset,
                    subset=subset,
                    train=200,
                    query=50,
                    test=200,
                    model=model,
                    optimizer=optimizer,
                    weight_decay=decay,
                    batch=20,
                    epochs=10,
                    horizons=(1, 5, 10),
                    queries="each",
                    truth=Subsets(keep),
                )


def renormalised_tasks() -> Iterator[Task]:
    """The other counterfactual, a batch divided by what is left of it, on one task of each kind of model."""
    twins = {"hara2019-adult-logistic": hara2019_tasks, "hara2019-adult-mlp": hara2019_tasks, "images-mnist-cnn": image_tasks}
    for name, tasks in twins.items():
        task = next(task for task in tasks() if task.name == name)
        yield replace(task, name=f"renormalised-{name}", suite="renormalised", counterfactual="renormalised")


def final_model_tasks() -> Iterator[Task]:
    """Further training as the truth, after Wei et al. (2025, arXiv:2412.03906): the final model is all that is known.

    Adult and diabetes, a regression, with the paper's two hidden layers of 128, MNIST and SST-2 as words with one of 32;
    40 samples left out.
    """
    sets: tuple[tuple[str, str, str, str, int, float, int], ...] = (
        ("adult", "all", "features", "mlp-128-128", 1000, 0.05, 20),
        ("mnist", "all", "pixels", "mlp-32", 500, 0.05, 20),
        ("sst2", "words", "none", "mlp-32", 500, 0.5, 20),
        ("diabetes", "all", "features", "mlp-128-128", 300, 0.05, 40),
    )
    for dataset, subset, scaling, model, size, rate, epochs in sets:
        for further, optimizer in (("sgd", Sgd(rate / 10)), ("adam", Adam(1e-5))):
            lengths = (1, 2, 5, 10, 20)
            yield Task(
                name=f"final-model-{dataset}-{further}",
                suite="final-model",
                dataset=dataset,
                subset=subset,
                train=size,
                query=50,
                test=50,
                model=model,
                optimizer=Sgd(rate),
                weight_decay=0.0,
                batch=50,
                epochs=epochs,
                horizons=lengths,
                queries="each",
                leave_out=40,
                scaling=scaling,
                truth=FurtherTraining(optimizer, lengths, repeats=10),
            )


def cleansing_tasks(*, full: bool = False) -> Iterator[Task]:
    """Cleansing and other uses after Hara et al. (2019, section 7.2): CNNs on MNIST and CIFAR-10, 0 and 10 % of labels flipped.

    `full`: the papers' 50,000 and 40,000 images, 20 epochs of batch 64, and 100 samples left out for the truth.
    """
    for dataset, model, small, size in (("mnist", "mnist-cnn", 300, 50_000), ("cifar10", "cifar-cnn", 200, 40_000)):
        for rate in (0.0, 0.1):
            uses = Uses(drop=(1, 3, 10, 30, 100, 300, 1000, 3000, 10_000), draws=2) if full else Uses(drop=(1, 3, 10, 30, 100))
            yield Task(
                name=f"cleansing-{dataset}-{round(100 * rate)}{'-full' * full}",
                suite="cleansing-full" if full else "cleansing",
                dataset=dataset,
                subset="all",
                train=size if full else small,
                query=10_000 if full else 300,
                test=10_000 if full else 1000,
                model=model,
                optimizer=Sgd(0.05),
                weight_decay=0.0,
                batch=64 if full else 20,
                epochs=20 if full else 5,
                horizons=(20 if full else 5,),
                leave_out=100 if full else None,
                scaling="pixels",
                noise="labels" if rate else "none",
                noise_rate=rate,
                uses=uses,
            )
