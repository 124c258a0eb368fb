"""The tasks of each suite: ours, and the protocols that papers rest on."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmark.core.optimizers import Adam, OneCycle, Optimizer, Sgd, WarmUp
from benchmark.tasks.definition import Task
from benchmark.tasks.questions import FurtherTraining, Subsets, Uses

Data = tuple[str, str]  # data set, subset
Sizes = tuple[int, int, int]  # N samples to train on, to query, to test on
Fit = tuple[str, Optimizer, float | None]  # model, optimiser, weight decay
Length = tuple[int, int, tuple[int, ...]]  # B, epochs, horizons

MLP, LINEAR = "mlp-8-8", "logistic"
SMALL: dict[str, Fit] = {
    "logistic-sgd": (LINEAR, Sgd(0.1), 0.01),
    "mlp-sgd": ("mlp-8", Sgd(0.1), 0.001),
    "mlp-adam": ("mlp-8", Adam(0.01), 0.001),
}


def task(name: str, data: Data, sizes: Sizes, fit: Fit, length: Length, **more: Any) -> Task:
    """A task of the suite that its name begins with, or that `more` names."""
    dataset, subset = data
    train, query, test = sizes
    model, optimizer, decay = fit
    batch, epochs, horizons = length
    given: dict[str, Any] = {"name": name, "suite": name.partition("-")[0], "dataset": dataset, "subset": subset}
    given |= {"train": train, "query": query, "test": test, "model": model, "optimizer": optimizer, "weight_decay": decay}
    return Task(**given | {"batch": batch, "epochs": epochs, "horizons": horizons} | more)


def quick_tasks() -> Iterator[Task]:
    """Small tasks on embedded data: two data sets x (logistic by SGD, MLP by SGD, MLP by Adam)."""
    for dataset, queries, query in (("digits", "each", 20), ("breast_cancer", "mean", 100)):
        for fit, how in SMALL.items():
            name = f"quick-{dataset.replace('_', '-')}-{fit}"
            yield task(name, (dataset, "all"), (100, query, 100), how, (10, 10, (1, 5, 10)), queries=queries)


def tuning_tasks() -> Iterator[Task]:
    """Small tasks on wine, a data set that no scored task has: three classes, logistic and MLP by SGD, MLP by Adam."""
    for fit, how in SMALL.items():
        yield task(f"tuning-wine-{fit}", ("wine", "all"), (100, 20, 50), how, (10, 10, (10,)), queries="each")


def hara2019_tasks() -> Iterator[Task]:
    """Section 7.1 of Hara, Nitanda and Maehara (2019, arXiv:1906.08473), hyper-parameters from the released code."""
    sets = (("adult", "all", 0.1, 20), ("20news", "ibm-mac", 0.01, 10), ("mnist", "1-7", 0.1, 5))
    for dataset, subset, rate, epochs in sets:
        fits: tuple[tuple[str, Fit, int, int], ...] = (
            ("logistic", (LINEAR, Sgd(rate, schedule="inverse-sqrt"), None), 5, epochs),
            ("mlp", (MLP, Sgd(0.1), 0.001), 20, 10),
        )
        for fit, how, batch, last in fits:
            length = batch, last, (1, (last + 1) // 2, last)
            yield task(f"hara2019-{dataset}-{fit}", (dataset, subset), (200, 200, 200), how, length)


def image_tasks() -> Iterator[Task]:
    """Convolutional networks on 1,000 images, 100 of them left out: MNIST by SGD, CIFAR-10 with GroupNorm by momentum."""
    for dataset, model, optimizer in (
        ("mnist", "mnist-cnn", Sgd(0.05)),
        ("cifar10", "cifar-cnn", Sgd(0.01, momentum=0.9)),
    ):
        name, data, fit = f"images-{dataset}-cnn", (dataset, "all"), (model, optimizer, 0.0)
        yield task(name, data, (1000, 200, 1000), fit, (20, 2, (1, 2)), leave_out=100, scaling="pixels")


def acc2025_tasks() -> Iterator[Task]:
    """The experiments of Shi et al. (2025, arXiv:2510.26185), hyper-parameters from the released code.

    Clean, with feature noise (sigma .05 on raw features; for text that part of each row's features set to 1), and with 10 % of
    the labels flipped. Unlike there, noise is drawn once: the model is trained on the features that estimators see.
    """
    sets = (("adult", "all", "gaussian"), ("20news", "ibm-mac", "ones"), ("mnist", "1-7", "gaussian"))
    fits: dict[str, Fit] = {"logistic": (LINEAR, Sgd(0.1), None), "mlp": (MLP, Sgd(0.1, schedule="inverse-sqrt"), 0.0)}
    length = 100, 38, tuple(range(2, 39, 4))
    for dataset, subset, added in sets:
        for fit, how in fits.items():
            for condition, noise, rate in (("clean", "none", 0.0), ("feature", added, 0.05), ("label", "labels", 0.1)):
                name, noisy = f"acc2025-{dataset}-{fit}-{condition}", {"noise": noise, "noise_rate": rate}
                yield task(name, (dataset, subset), (400, 400, 400), how, length, **noisy)


def adaptive_tasks() -> Iterator[Task]:
    """Momentum, Adam and AdamW, each at a low and a high rate and read off early and late: from easy to hard."""
    sets = (
        ("mnist", "all", "pixels", "mlp-16", "mlp"),
        ("adult", "all", "features", MLP, "mlp"),
        ("sst2", "words", "none", "mlp-8", "mlp"),
        ("sst2", "words", "none", LINEAR, "logistic"),
    )
    for dataset, subset, scaling, model, fit in sets:
        for optimizer, speed in adaptive_optimizers(sparse=scaling == "none"):
            how = model, optimizer, 0.0 if optimizer.name == "adamw" else 0.001
            for queries in ("mean", "each"):
                name, more = f"adaptive-{dataset}-{fit}-{optimizer.name}-{speed}-{queries}", {"queries": queries}
                yield task(name, (dataset, subset), (400, 50, 200), how, (50, 10, (1, 3, 10)), **more, scaling=scaling)


def adaptive_optimizers(*, sparse: bool) -> Iterator[tuple[Optimizer, str]]:
    """Each optimiser at a low and a high rate; rows of unit length are small, and take ten times the rate of momentum."""
    for speed, factor in (("low", 1.0), ("high", 10.0)):
        yield Sgd(factor * (0.05 if sparse else 0.005), momentum=0.9), speed
        yield Adam(factor * 0.001), speed
        yield Adam(factor * 0.001, decay=0.01), speed


def smooth_tasks() -> Iterator[Task]:
    """The MLP tasks of hara2019 and acc2025 with softplus in place of ReLU: same data, initial parameters and batches."""
    for rough in (*hara2019_tasks(), *acc2025_tasks()):
        if rough.model == MLP:
            yield replace(rough, name=f"smooth-{rough.name}", suite="smooth", model=f"{MLP}-softplus")


def subset_tasks() -> Iterator[Task]:
    """Linear datamodeling: 100 random halves, and 100 subsets without a tenth, from four initial parameters each."""
    fits: dict[str, Fit] = {"logistic": (LINEAR, Sgd(0.1), 0.01), "mlp": (MLP, Sgd(0.1), 0.001)}
    for data in (("adult", "all"), ("mnist", "1-7")):
        for fit, how in fits.items():
            for keep in (0.5, 0.9):
                name, more = f"subsets-{data[0]}-{fit}-{round(100 * keep)}", {"queries": "each", "truth": Subsets(keep)}
                yield task(name, data, (200, 50, 200), how, (20, 10, (1, 5, 10)), **more)


def renormalised_tasks() -> Iterator[Task]:
    """The other counterfactual, a batch divided by what is left of it, on one task of each kind of model."""
    twins = {"hara2019-adult-logistic": hara2019_tasks, "hara2019-adult-mlp": hara2019_tasks, "images-mnist-cnn": image_tasks}
    for name, tasks in twins.items():
        twin = next(task for task in tasks() if task.name == name)
        yield replace(twin, name=f"renormalised-{name}", suite="renormalised", counterfactual="renormalised")


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
    lengths = (1, 2, 5, 10, 20)
    for dataset, subset, scaling, model, size, rate, epochs in sets:
        for further, optimizer in (("sgd", Sgd(rate / 10)), ("adam", Adam(1e-5))):
            yield task(
                f"final-model-{dataset}-{further}",
                (dataset, subset),
                (size, 50, 50),
                (model, Sgd(rate), 0.0),
                (50, epochs, lengths),
                suite="final-model",
                queries="each",
                leave_out=40,
                scaling=scaling,
                truth=FurtherTraining(optimizer, lengths, repeats=10),
            )


def cleansing_tasks(*, full: bool = False) -> Iterator[Task]:
    """Cleansing and other uses after Hara et al. (2019, section 7.2): CNNs on MNIST and CIFAR-10, 0 and 10 % of labels flipped.

    `full`: the papers' 50,000 and 40,000 images, 20 epochs of batch 64, and 100 samples left out for the truth.
    """
    length: Length = (64, 20, (20,)) if full else (20, 5, (5,))
    uses = Uses(drop=(1, 3, 10, 30, 100, 300, 1000, 3000, 10_000), draws=2) if full else Uses(drop=(1, 3, 10, 30, 100))
    for dataset, model, small, size in (("mnist", "mnist-cnn", 300, 50_000), ("cifar10", "cifar-cnn", 200, 40_000)):
        sizes = (size, 10_000, 10_000) if full else (small, 300, 1000)
        for rate in (0.0, 0.1):
            yield task(
                f"cleansing-{dataset}-{round(100 * rate)}{'-full' * full}",
                (dataset, "all"),
                sizes,
                (model, Sgd(0.05), 0.0),
                length,
                suite="cleansing-full" if full else "cleansing",
                scaling="pixels",
                uses=uses,
                noise="labels" if rate else "none",
                noise_rate=rate,
                leave_out=100 if full else None,
            )


def scale_tasks() -> Iterator[Task]:
    """What the field trains, for one GPU: K samples left out of up to 65,000, of networks without kinks.

    ReLU networks are asked by subsets, and one of them by leave-one-out, to show that single effects are then kinks. Sources of
    the sizes are in docs/scale.md.
    """
    yield _digits("scale-mnist-logistic", LINEAR, "float64")
    yield _digits("scale-mnist-mlp", "mlp-128-softplus", "float64")
    yield _digits("scale-mnist-mlp-relu", "mlp-128", "float64")
    yield replace(_digits("scale-mnist-mlp-relu-subsets", "mlp-128"), leave_out=None, truth=HALVES, horizons=(5,))
    yield from _images()
    yield from _texts()
    fit: Fit = "unet-32x4", Adam(0.001), 0.0
    yield _sampled("scale-mnist-denoiser", ("mnist", "noised-4"), (5000, 64, 0), fit, (64, 20, (20,)), None, truth=HALVES)


HALVES = Subsets(0.5, count=64, repeats=2)


def _digits(name: str, model: str, dtype: str = "float32") -> Task:
    how, length = (model, Sgd(0.05), 0.001), (100, 5, (1, 2, 3, 4, 5))
    return _sampled(name, ("mnist", "all"), (60_000, 1000, 0), how, length, 200, scaling="pixels", dtype=dtype)


def _images() -> Iterator[Task]:
    """ResNet-9 on two classes and on ten, and a ReLU twin of the first."""
    two, ten = ("cifar10", "cat-dog"), ("cifar10", "all")
    name, fit = "scale-cifar2-resnet9", ("resnet9-64", Sgd(0.01, momentum=0.9), 0.0005)
    smooth = _sampled(name, two, (5000, 500, 0), fit, (64, 10, (5, 10)), 100, scaling="pixels")
    rough = replace(smooth, name=f"{name}-relu-subsets", model="resnet9-64-relu", horizons=(10,), leave_out=None)
    yield smooth
    yield replace(rough, truth=HALVES, optimizer=Sgd(0.003, momentum=0.9))
    fit = "resnet9-64", Sgd(0.05, momentum=0.9, schedule=OneCycle(8 * 391)), 0.0005
    length = 128, 8, tuple(range(1, 9))
    yield _sampled("scale-cifar10-resnet9", ten, (50_000, 1000, 0), fit, length, 50, scaling="pixels")


def _texts() -> Iterator[Task]:
    """Transformers: two that classify, and one that writes."""
    sizes = 65_000, 872, 0
    fit: Fit = "encoder-2x64-32", Adam(0.001), 0.0
    yield _sampled("scale-sst2-transformer", ("sst2", "tokens-32"), sizes, fit, (64, 3, (1, 2, 3)), 200)
    fit = "encoder-4x256-64", Adam(0.0005, decay=0.01, schedule=WarmUp(200)), 0.0
    yield _sampled("scale-sst2-transformer-wide", ("sst2", "tokens-64"), sizes, fit, (64, 2, (1, 2)), 50)
    fit = "writer-6x384-256", Adam(0.001, beta2=0.99, decay=0.1, schedule=WarmUp(100)), 0.0
    news, how = ("20news", "characters-256"), {"queries_from": "train", "clip": 1.0}
    yield _sampled("scale-news-char-gpt", news, (3921, 435, 0), fit, (16, 5, (1, 2, 3, 4, 5)), 50, **how)


def _sampled(name: str, data: Data, sizes: Sizes, fit: Fit, length: Length, some: int | None, **more: Any) -> Task:
    """A task in float32 that leaves out some samples, or groups of them, and asks each of the official test samples.

    All are charged for.
    """
    usual: dict[str, Any] = {"queries": "each", "queries_from": "test", "scaling": "none", "dtype": "float32"}
    usual |= {"leave_out": some, "charged": "all"}
    return task(name, data, sizes, fit, length, **usual | more)


def scale_small_tasks() -> Iterator[Task]:
    """Twins of `scale` by the same code, whose truths two cores finish in minutes: fewer samples, epochs and filters.

    The two on all of MNIST keep their size, and leave out 50 samples.
    """
    for twin in scale_tasks():
        name = twin.name.replace("scale-", "scale-small-", 1)
        yield replace(twin, name=name, suite="scale-small", **SMALLER[twin.name.removeprefix("scale-")])


def growth_tasks() -> Iterator[Task]:
    """The same network on 200 to 60,000 digits, without kinks and with them, 50 of them left out, two epochs."""
    for model, fit in (("mlp-128-softplus", "mlp"), ("mlp-128", "mlp-relu")):
        for size in (200, 1000, 5000, 20_000, 60_000):
            how, more = (model, Sgd(0.05), 0.001), {"scaling": "pixels", "dtype": "float64"}
            yield _sampled(f"growth-mnist-{fit}-{size}", ("mnist", "all"), (size, 5, 0), how, (50, 2, (2,)), 50, **more)


TEN: dict[str, Any] = {"query": 10, "leave_out": 50}
FIVE: dict[str, Any] = {"query": 5, "leave_out": 16}  # a sweep back costs as many Hessian products a step as there are queries
SMALLER: dict[str, dict[str, Any]] = {
    "mnist-logistic": TEN | {"horizons": (1, 5)},
    "mnist-mlp": TEN | {"horizons": (1, 5)},
    "mnist-mlp-relu": TEN | {"epochs": 1, "horizons": (1,)},
    "mnist-mlp-relu-subsets": {"query": 10, "train": 5000, "truth": Subsets(0.5, count=50, repeats=2)},
    "mnist-denoiser": {"query": 5, "train": 200, "truth": Subsets(0.5, count=20, repeats=2), "model": "unet-8x1"}
    | {"subset": "noised-1", "batch": 32, "epochs": 3, "horizons": (3,)},
    "cifar2-resnet9": FIVE | {"model": "resnet9-8", "train": 500, "batch": 32, "epochs": 2, "horizons": (1, 2)},
    "cifar2-resnet9-relu-subsets": {"query": 5, "train": 200, "truth": Subsets(0.5, count=20, repeats=2)}
    | {"model": "resnet9-8-relu", "batch": 32, "epochs": 2, "horizons": (2,)},
    "cifar10-resnet9": FIVE
    | {"model": "resnet9-8", "train": 1000, "batch": 64, "epochs": 1, "horizons": (1,)}
    | {"optimizer": Sgd(0.02, momentum=0.9, schedule=OneCycle(16))},
    "sst2-transformer": FIVE | {"train": 1000, "horizons": (1, 3)},
    "sst2-transformer-wide": FIVE
    | {"model": "encoder-2x64-64", "train": 500, "optimizer": Adam(0.0005, decay=0.01, schedule=WarmUp(4))},
    "news-char-gpt": FIVE
    | {"model": "writer-2x64-64", "subset": "characters-64", "train": 300, "epochs": 2, "horizons": (1, 2)}
    | {"optimizer": Adam(0.001, beta2=0.99, decay=0.1, schedule=WarmUp(5))},
}
