"""Noise on training data: exact counts, repeated by a seed, and nothing where there is none."""

from collections.abc import Callable

import numpy as np
import pytest

from benchmark.base.errors import LoobenchError
from benchmark.base.streams import stream
from benchmark.tasks.noise import FEATURE_NOISE, flipped, flips, gaussian, ones

INPUTS = stream("inputs", 0).normal(size=(40, 30))
TARGETS = stream("targets", 0).randint(0, 5, 200)


def bits(values: np.ndarray) -> tuple[bytes, str, tuple[int, ...]]:
    return values.tobytes(), str(values.dtype), values.shape


def flipped_labels(targets: np.ndarray, rate: float, seed: int, classes: int = 5) -> np.ndarray:
    return flipped(targets, flips(len(targets), rate, stream("flips", seed)), classes, stream("classes", seed))


# ---- features ------------------------------------------------------------------------------------------------------
def test_gaussian_noise_has_mean_0_and_the_rate_as_its_deviation_and_is_independent_of_the_features() -> None:
    inputs = stream("inputs", 1).normal(size=(400, 500))
    moved = gaussian(inputs, 0.05, stream("noise", 0)) - inputs  # of 200,000 draws: standard errors 1.1e-4 and 0.8e-4

    assert abs(moved.mean()) < 4.5e-4
    assert abs(moved.std() - 0.05) < 3.2e-4
    assert abs(np.corrcoef(moved.ravel(), inputs.ravel())[0, 1]) < 0.01
    assert np.abs((moved**3).mean() / 0.05**3) < 0.03
    assert abs((moved**4).mean() / 0.05**4 - 3) < 0.1


@pytest.mark.parametrize(("rate", "some"), [(0, 0), (0.05, 2), (0.1, 3), (0.49, 15), (0.51, 15), (0.99, 30), (1, 30)])
def test_ones_sets_exactly_that_many_features_of_each_row(rate: float, some: int) -> None:
    found = ones(INPUTS, rate, stream("noise", 0))
    changed = found != INPUTS

    assert changed.sum(1).tolist() == [some] * 40
    assert (found[changed] == 1).all()


def test_ones_chooses_all_features_alike_and_each_row_anew() -> None:
    chosen = ones(np.zeros((4000, 10)), 0.3, stream("noise", 0))
    pairs = chosen.T @ chosen / 4000 - np.eye(10) * 0.3  # both of a pair: .3 * 2 / 9, with a deviation of .004

    assert chosen.mean(0) == pytest.approx(0.3, abs=0.03)
    assert pairs[~np.eye(10, dtype=bool)] == pytest.approx(0.3 * 2 / 9, abs=0.02)
    assert len(np.unique(chosen, axis=0)) == 120  # all sets of 3 of 10


# ---- labels --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("count", "rate", "some"), [(200, 0.1, 20), (400, 0.29, 116), (100, 0.29, 29), (7, 0.5, 4), (9, 1, 9)])
@pytest.mark.parametrize("classes", [2, 5])
def test_flipped_labels_are_exactly_the_stated_number(count: int, rate: float, some: int, classes: int) -> None:
    targets = TARGETS[np.arange(count) % 200] % classes
    mask = flips(count, rate, stream("flips", 0))
    changed = flipped(targets, mask, classes, stream("classes", 0)) != targets

    assert mask.dtype == bool
    assert mask.sum() == changed.sum() == some
    assert np.array_equal(mask, changed)


def test_every_label_is_flipped_as_often_as_another() -> None:
    often = np.mean([flips(50, 0.2, stream("flips", seed)) for seed in range(2000)], axis=0)

    assert often == pytest.approx(0.2, abs=0.04)  # 4.5 deviations of .009


def test_a_flipped_label_is_another_class_uniformly_among_the_others() -> None:
    targets = np.arange(40_000) % 4
    found = flipped(targets, np.ones(40_000, dtype=bool), 4, stream("classes", 0))
    table = np.bincount(4 * targets + found, minlength=16).reshape(4, 4) / 10_000

    assert np.diag(table).tolist() == [0] * 4
    assert table[~np.eye(4, dtype=bool)] == pytest.approx(1 / 3, abs=0.02)  # 4 deviations of .0047


def test_of_two_classes_a_flipped_label_is_the_other() -> None:
    targets, mask = TARGETS % 2, flips(200, 0.4, stream("flips", 0))

    assert np.array_equal(flipped(targets, mask, 2, stream("classes", 0)), np.where(mask, 1 - targets, targets))


def test_real_targets_have_no_labels_to_flip() -> None:
    with pytest.raises(LoobenchError, match="label noise needs at least 2 classes, got 1"):
        flipped(INPUTS[:, 0], np.ones(40, dtype=bool), 1, stream("classes", 0))


# ---- all noise -----------------------------------------------------------------------------------------------------
def test_with_zero_noise_nothing_changes_bit_for_bit() -> None:
    inputs = np.where(np.abs(INPUTS) < 0.3, -0.0, INPUTS)  # -0 + 0 is 0
    for add in FEATURE_NOISE.values():
        assert bits(add(inputs, 0, stream("noise", 0))) == bits(inputs)
    for kind in (np.int64, np.int32, np.uint8):
        targets = TARGETS.astype(kind)
        assert bits(flipped_labels(targets, 0, 0)) == bits(targets)
    assert not flips(200, 0, stream("flips", 0)).any()


@pytest.mark.parametrize("add", FEATURE_NOISE.values())
def test_bytes_with_zero_noise_scale_to_the_same_bits(add: Callable[..., np.ndarray]) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(2, 128)

    assert bits(add(pixels, 0, stream("noise", 0)) / 127.5) == bits(pixels / 127.5)


def test_bytes_get_fractions_from_gaussian_noise_and_stay_bytes_where_ones_are_set() -> None:
    pixels = np.zeros((4, 50), dtype=np.uint8)

    assert gaussian(pixels, 0.05, stream("noise", 0)).std() == pytest.approx(0.05, rel=0.2)
    assert ones(pixels, 0.5, stream("noise", 0)).dtype == np.uint8


def test_noise_of_one_seed_repeats_and_of_another_differs() -> None:
    for add in FEATURE_NOISE.values():
        one, again, other = (bits(add(INPUTS, 0.2, stream("noise", seed))) for seed in (0, 0, 1))
        assert one == again != other
    one, again, other = (bits(flips(200, 0.2, stream("flips", seed))) for seed in (0, 0, 1))
    assert one == again != other
    everyone = np.ones(200, dtype=bool)
    one, again, other = (bits(flipped(TARGETS, everyone, 5, stream("classes", seed))) for seed in (0, 0, 1))
    assert one == again != other


def test_the_new_class_of_a_label_does_not_depend_on_what_else_is_flipped() -> None:
    few, all_ = (flipped_labels(TARGETS, rate, 0) for rate in (0.2, 1.0))
    changed = few != TARGETS

    assert np.array_equal(few[changed], all_[changed])


def test_noise_does_not_change_what_it_is_given() -> None:
    inputs, targets, mask = INPUTS.copy(), TARGETS.copy(), flips(200, 0.5, stream("flips", 0))
    kept = mask.copy()
    for rate in (0, 0.5, 1):
        for add in FEATURE_NOISE.values():
            add(inputs, rate, stream("noise", 0))[:] = 7  # nor is what comes back a view of it
        flipped(targets, mask, 5, stream("classes", 0))[:] = 7

    assert np.array_equal(inputs, INPUTS)
    assert np.array_equal(targets, TARGETS)
    assert np.array_equal(mask, kept)


@pytest.mark.parametrize("rate", [-1e-9, 1 + 1e-9, 50, float("nan"), float("inf"), -float("inf")])
def test_rates_outside_0_to_1_are_refused(rate: float) -> None:
    for add in FEATURE_NOISE.values():
        with pytest.raises(LoobenchError, match=r"noise rate \S+, expected 0 to 1"):
            add(INPUTS, rate, stream("noise", 0))
    with pytest.raises(LoobenchError, match=r"noise rate \S+, expected 0 to 1"):
        flips(200, rate, stream("flips", 0))
