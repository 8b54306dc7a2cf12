"""Width of a blur, against one that was made."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medfuse.estimation.blur import Spectrum, band_power, width_of_blur

POWER_LAW = Spectrum(4.0, 0.4, 0.96, (0.0,) * 20)
ROUNDING = (1 / 255) ** 2 / 12


@pytest.mark.parametrize("noise", [0.0, 8 / 255])
@pytest.mark.parametrize("width", [1.5, 2.0, 3.0])
def test_the_interval_of_an_image_that_falls_as_the_prior_says_holds_the_width(scene, stored, width, noise):
    held = []
    for seed in range(5):
        blurred = gaussian_filter(scene(seed), width, truncate=6)
        image = stored(blurred + noise * np.random.default_rng(seed).standard_normal(blurred.shape))
        found = width_of_blur(band_power(image), POWER_LAW, ROUNDING)
        assert found.middle == pytest.approx(width, rel=0.08 if noise == 0 else 0.35)
        held.append(found.low <= width <= found.high)
    assert sum(held) >= 4


def test_a_sharp_image_shows_hardly_a_blur(scene, stored):
    for seed in range(3):
        assert width_of_blur(band_power(stored(scene(seed))), POWER_LAW, ROUNDING).middle < 0.6


def test_power_is_that_of_white_noise_in_all_bands():
    """Orthonormal waves of white noise have its variance each."""
    bands = band_power(3.0 * np.random.default_rng(0).standard_normal((128, 160)))
    assert bands.power[1:20] == pytest.approx(9.0, rel=0.15)
    assert bands.waves.sum() == pytest.approx((1 - 1 / 32) ** 2 * 128 * 160, rel=0.05)


def test_an_empty_image_is_no_error():
    found = width_of_blur(band_power(np.zeros((64, 64))), POWER_LAW, 0.0)
    assert all(map(math.isfinite, found))
