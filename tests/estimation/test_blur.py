"""Width of a blur, against one that was made."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medfuse.estimation import blur
from medfuse.estimation.blur import Spectrum, band_power, widest_blur, width_of_blur

POWER_LAW = Spectrum(4.0, 0.4, 0.96, 0.0, (0.0,) * 20)
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


def lights(width):
    """Return dots and lines on black, blurred by a width, as bright as 8 bit hold."""
    image = np.zeros((160, 160))
    image[40:140:30, 30] = 0.8 * 2 * math.pi * width**2
    image[20:140, [70, 100, 130]] = 0.8 * math.sqrt(2 * math.pi) * width
    return gaussian_filter(image, width, truncate=6)


@pytest.mark.parametrize("width", [1.5, 2.0, 3.0])
def test_the_log_of_lines_and_dots_bends_as_their_blur_and_no_further(scene, stored, width):
    """The log of a mixture of Gaussians of width s bends by at most 1 / s^2, that of a lone line by just that."""
    assert widest_blur(stored(lights(width)), width, ROUNDING) == pytest.approx(width, rel=0.1)  # rounding bends, too
    smooth = widest_blur(stored(gaussian_filter(scene(), width, truncate=6)), width, ROUNDING)
    assert width * 0.97 < smooth < 1.25 * width


def test_without_black_nothing_bounds_a_blur(scene, stored):
    assert widest_blur(stored(0.3 + 0.5 * scene()), 2.0, ROUNDING) is None
    assert widest_blur(np.zeros((64, 64)), 2.0, ROUNDING) is None


def test_the_width_does_not_change_with_more_scorings(scene, stored, monkeypatch):
    """They begin where the floor does not count, and so near the likeliest amplitude that five are enough."""
    noisy = scene(0) + 0.05 * np.random.default_rng(0).standard_normal(scene(0).shape)
    for image in (scene(0), noisy):
        bands = band_power(stored(image))
        found = width_of_blur(bands, POWER_LAW, ROUNDING)
        monkeypatch.setattr(blur, "_SCORINGS", 40)
        assert width_of_blur(bands, POWER_LAW, ROUNDING) == pytest.approx(found, abs=1e-6)
        monkeypatch.undo()
