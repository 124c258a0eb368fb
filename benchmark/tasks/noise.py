"""Noise on training data: Gaussian or blanket features and flipped labels, each from the random stream it is given."""

from collections.abc import Callable

import numpy as np

from benchmark.base.errors import LoobenchError

FeatureNoise = Callable[[np.ndarray, float, np.random.RandomState], np.ndarray]


def gaussian(inputs: np.ndarray, rate: float, random: np.random.RandomState) -> np.ndarray:
    """``x + rate z`` with z standard normal, on features before any scaling. (N, d) -> (N, d) float64, bytes too

    `rate` is in units of the features (Shi et al. 2025, arXiv:2510.26185). Raises LoobenchError for one outside [0, 1].
    """
    moved = checked(rate) * random.standard_normal(inputs.shape)
    return inputs + moved if rate else inputs.astype(np.float64)  # adding 0 would turn -0 into 0


def ones(inputs: np.ndarray, rate: float, random: np.random.RandomState) -> np.ndarray:
    """In every row ``round(rate d)`` features, drawn without replacement, are 1. (N, d) -> (N, d) of the same type

    Halves round to even. The feature noise of text in Shi et al. 2025. Raises LoobenchError for a rate outside [0, 1].
    """
    found, some = inputs.copy(), round(checked(rate) * inputs.shape[1])
    order = random.uniform(size=inputs.shape).argsort(axis=1, kind="stable")
    np.put_along_axis(found, order[:, :some], 1, axis=1)
    return found


FEATURE_NOISE: dict[str, FeatureNoise] = {"gaussian": gaussian, "ones": ones}


def flips(count: int, rate: float, random: np.random.RandomState) -> np.ndarray:
    """Which of `count` labels to flip: exactly ``round(rate count)``, drawn without replacement. -> (N,) bool

    Halves round to even; the published code of Shi et al. 2025 cuts the fraction off instead, so that 0.29 of 100 are 28
    (0.29 * 100 is below 29 in floating point). Raises LoobenchError for a rate outside [0, 1].
    """
    mask = np.zeros(count, dtype=bool)
    mask[random.permutation(count)[: round(checked(rate) * count)]] = True
    return mask


def flipped(targets: np.ndarray, mask: np.ndarray, classes: int, random: np.random.RandomState) -> np.ndarray:
    """``(y + s) mod C`` where the mask says so, s uniform in 1 ... C - 1: another class. (N,), (N,) bool -> (N,)

    Labels are 0 ... C - 1. Raises LoobenchError for fewer than two classes: real targets have no labels to flip.
    """
    if classes < 2:
        raise LoobenchError(f"label noise needs at least 2 classes, got {classes} (1: real targets); use noise on features")
    steps = random.randint(1, classes, size=targets.shape, dtype=np.int64)  # of all, so that no draw depends on the mask
    return np.where(mask, (targets + steps) % classes, targets).astype(targets.dtype)


def checked(rate: float) -> float:
    """The rate. Raises LoobenchError for one outside [0, 1], or not a number."""
    if not 0 <= rate <= 1:
        raise LoobenchError(f"noise rate {rate}, expected 0 to 1")
    return rate
