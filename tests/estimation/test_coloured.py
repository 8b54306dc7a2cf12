"""Noise of a PET on its own grid, against noise that was made."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medfuse.estimation import coloured_noise

SPACING = (4.0, 4.0, 3.0)
FWHM = 2 * math.sqrt(2 * math.log(2))


def body(shape=(56, 56, 40)):
    """Return a smooth body whose uptake changes slowly by a factor of 4, **[X, Y, Z]**."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.where(np.hypot(x, y) < 0.85, 2.5 + 1.5 * np.sin(2.5 * z + x), 0.0)


def noisy(kernel, level, exponent, seed=0):
    rng = np.random.default_rng(seed)
    clean = body()
    noise = rng.standard_normal(clean.shape)
    noise = gaussian_filter(noise, [k / FWHM / s for k, s in zip(kernel, SPACING, strict=True)], mode="wrap")
    return clean + noise / noise.std() * level * 2.5 * (np.maximum(clean, 0.1) / 2.5) ** exponent * (clean > 0)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
@pytest.mark.parametrize("kernel", [(7.0, 8.0, 4.5), (6.0, 6.0, 6.0)])
def test_level_kernel_and_exponent_are_those_of_the_noise(kernel, exponent):
    found = coloured_noise(noisy(kernel, 0.15, exponent), SPACING)
    assert found.kernel_mm == pytest.approx(kernel, abs=1.0)
    assert found.exponent == pytest.approx(exponent, abs=0.2)
    at_their_uptake = 0.15 * (found.uptake / 2.5) ** (exponent - 1)
    assert found.relative_std == pytest.approx(at_their_uptake, rel=0.15)


def test_a_volume_without_body_or_noise_tells_nothing():
    assert coloured_noise(np.zeros((40, 40, 40)), SPACING) is None
    assert coloured_noise(np.ones((5, 40, 40)), SPACING) is None


def test_where_the_uptake_is_one_no_power_is_told():
    """A cylinder of white noise was said to grow as the uptake to the 4.2."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in (48, 48, 40)), indexing="ij")
    clean = gaussian_filter(np.where(np.hypot(x, y) < 0.75, 5.0, 0.0), 0.64)
    found = coloured_noise(clean + 0.15 * np.random.default_rng(0).standard_normal(clean.shape), (4.0, 4.0, 4.0))
    assert found.exponent is None
    assert found.record["exponent"] is None
    assert found.relative_std == pytest.approx(0.03, rel=0.1)


def test_fine_structure_that_falls_with_the_uptake_is_no_noise():
    """Noise that is the less the more there is, or grows faster than the uptake, is the anatomy itself."""
    assert coloured_noise(noisy((6.0, 6.0, 6.0), 0.15, -1.0), SPACING) is None
    assert coloured_noise(noisy((6.0, 6.0, 6.0), 0.15, 2.0), SPACING) is None
