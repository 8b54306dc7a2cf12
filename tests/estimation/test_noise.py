"""Level and kind of noise, against noise that was added."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medfuse.estimation import kind_of_noise, read_noise
from medfuse.estimation.differences import of_five


def observed(image, kind, level, seed=1):
    rng = np.random.default_rng(seed)
    if kind == "poisson":
        return rng.poisson(image.clip(0) * level) / level
    first = image + level * rng.standard_normal(image.shape)
    return np.hypot(first, level * rng.standard_normal(image.shape)) if kind == "rician" else first


@pytest.mark.parametrize("grey", [5, 10, 25])
def test_level_of_noise_that_was_cut_at_0_and_rounded_is_within_5_percent(scene, stored, grey):
    """Half of the image is black: estimators that look there read 25 to 40 % too little."""
    for seed in range(3):
        readings = read_noise(stored(observed(scene(seed), "gaussian", grey / 255, seed)))
        assert readings.level == pytest.approx(grey / 255, rel=0.05)


@pytest.mark.parametrize("kind", ["gaussian", "rician"])
def test_level_of_a_volume_that_is_cut_nowhere(scene, kind):
    noise = 40.0
    readings = read_noise(observed(1000 * scene(), kind, noise), math.inf)
    assert readings.level == pytest.approx(noise, rel=0.06)


def test_a_clean_image_shows_no_more_than_its_rounding(scene, stored):
    assert read_noise(stored(scene())).least < 1 / 255


@pytest.mark.parametrize("of", [np.minimum, np.maximum])
def test_least_and_largest_of_five_neighbours_are_those_of_all_five(of):
    image = np.random.default_rng(0).standard_normal((17, 6))
    expected = np.stack([of.reduce(image[k : k + 5]) for k in range(13)])
    np.testing.assert_array_equal(of_five(image, of), expected)


def test_an_image_without_foreground_tells_nothing():
    readings = read_noise(np.zeros((64, 64)))
    assert math.isnan(readings.differences)
    assert not readings.least > 0


@pytest.mark.parametrize(
    ("kind", "level", "cut"),
    [("gaussian", 0.05, True), ("gaussian", 0.05, False), ("rician", 0.05, False), ("poisson", 100.0, True)],
)
def test_the_kind_is_that_of_the_noise(scene, stored, kind, level, cut):
    for seed in range(3):
        image = observed(scene(seed), kind, level, seed)
        image = stored(image) if cut or kind == "rician" else image
        found = kind_of_noise(image, read_noise(image).level)
        assert found.name == kind
        assert found.cut == cut


def test_half_of_cut_noise_around_nothing_is_zeros_and_counts_of_nothing_are_nothing(scene, stored):
    shares = {
        kind: kind_of_noise(stored(observed(scene(), kind, level)), 0.05).zeros
        for kind, level in (("gaussian", 0.05), ("rician", 0.05), ("poisson", 100.0))
    }
    assert shares["gaussian"] == pytest.approx(0.5, abs=0.06)
    assert shares["rician"] < 0.03
    assert shares["poisson"] > 0.8
