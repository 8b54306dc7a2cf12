"""Noise of a PET on its own grid: shared by neighbours, and growing with the uptake.

Reconstruction and its filter smooth the noise. Of noise with the autocorrelation `exp(-h^2 / 4 k^2)`, which white noise
has after a Gaussian of std k, second differences at the distance h have the variance
`s^2 (6 - 8 exp(-h^2 / 4 k^2) + 2 exp(-h^2 / k^2))`. Three distances along an axis give s and k there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.optimize import least_squares

from medfuse.estimation.differences import MAD

_FWHM = 2 * math.sqrt(2 * math.log(2))
_LAGS = (1, 2, 3)  # voxels
_BODY, _FLAT = 0.08, 0.4  # of the highest mean: what is body; share of the body whose mean changes least
_FEWEST, _LEVELS = 2000, 8  # voxels that are flat, and groups of them by their mean
_SPAN, _POWERS = 1.6, (-0.3, 1.3)  # highest over lowest group, from which the power is known; powers that noise has


@dataclass(frozen=True)
class ColouredNoise:
    """Noise of a volume.

    Attributes:
        relative_std: Std of the noise over the uptake, at the uptake of the middle of the flat voxels.
        exponent: Power of the uptake with which the std grows: 0.5 for counts, 1 for noise in proportion; None where
            the uptake of flat voxels hardly differs.
        kernel_mm: FWHM of the Gaussian that would give white noise its correlation, along each axis.
        uptake: The uptake at which `relative_std` is meant, in the unit of the volume.
    """

    relative_std: float
    exponent: float | None
    kernel_mm: tuple[float, float, float]
    uptake: float

    @property
    def record(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self) | {"kernel_mm": list(self.kernel_mm)}


def coloured_noise(volume: np.ndarray, spacing: Sequence[float]) -> ColouredNoise | None:
    """Estimate the noise of a volume on the grid on which it was reconstructed.

    Second differences are taken where the local mean changes least; what anatomy is left in them makes level and widths
    too large: by 5 to 15 % in simulations on a smoothed whole body, and twice and more where all is fine structure, as
    in a head. Where they fall with the uptake, or grow faster than it, they are no noise.

    Args:
        volume: **[X, Y, Z]**, not negative but for noise.
        spacing: Voxel size, mm.

    Returns:
        The noise, its std at most that; None where too few voxels are flat, or the volume has no noise.
    """
    volume = np.asarray(volume, np.float64)
    if min(volume.shape) < 2 * _LAGS[-1] + 3:
        return None
    mean = gaussian_filter(volume, 2.0)
    body = binary_erosion(mean > _BODY * np.percentile(mean, 99.5), iterations=2)
    if body.sum() * _FLAT < _FEWEST:
        return None
    mean = np.maximum(mean, 1e-9 * mean.max())
    smooth = gaussian_filter(volume, 2.5)
    slope = np.sqrt(sum(np.square(part) for part in np.gradient(smooth))) / mean
    flat = body & (slope < np.quantile(slope[body], _FLAT))
    kernels, stds = zip(*(_kernel(volume / mean, flat, axis, spacing[axis]) for axis in range(3)), strict=True)
    level, deviation = _by_level(volume, mean, flat)
    if not min(deviation) > 0 or not min(stds) > 0:
        return None
    exponent = None
    if level.max() > _SPAN * level.min():
        exponent = float(np.polyfit(np.log(level), np.log(deviation), 1)[0])
        if not _POWERS[0] <= exponent <= _POWERS[1]:
            return None
    return ColouredNoise(float(np.median(stds)), exponent, kernels, float(np.median(level)))


def _kernel(relative: np.ndarray, flat: np.ndarray, axis: int, spacing: float) -> tuple[float, float]:
    """Return FWHM of the kernel along an axis, mm, and std of the noise, from second differences at three distances."""
    variances = np.array([_variance(relative, flat, axis, lag) for lag in _LAGS])
    if not variances.min() > 0:
        return 0.0, 0.0
    squares = np.square(np.array(_LAGS) * spacing)

    def misfit(p: np.ndarray) -> np.ndarray:
        decay = -squares / np.exp(2 * p[1])
        missed: np.ndarray = p[0] + np.log(6 - 8 * np.exp(decay / 4) + 2 * np.exp(decay)) - np.log(variances)
        return missed

    bounds = ([-60, math.log(0.1 * spacing)], [60, math.log(6 * spacing)])
    found = least_squares(misfit, [math.log(variances[-1] / 6), math.log(spacing / 2)], bounds=bounds).x
    return float(_FWHM * math.exp(found[1])), math.exp(found[0] / 2)


def _second(volume: np.ndarray, axis: int, lag: int) -> np.ndarray:
    volume = np.moveaxis(volume, axis, 0)
    difference: np.ndarray = volume[: -2 * lag] - 2 * volume[lag:-lag] + volume[2 * lag :]
    return difference


def _inner(volume: np.ndarray, axis: int, lag: int) -> np.ndarray:
    inner: np.ndarray = np.moveaxis(volume, axis, 0)[lag:-lag]
    return inner


def _variance(volume: np.ndarray, flat: np.ndarray, axis: int, lag: int) -> float:
    values = _second(volume, axis, lag)[_inner(flat, axis, lag)]
    return float((MAD * np.median(np.abs(values))) ** 2) if values.size else 0.0


def _by_level(volume: np.ndarray, mean: np.ndarray, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return uptake and std of second differences, each of groups of flat voxels by their mean."""
    lag = 2
    difference = np.concatenate([_second(volume, axis, lag)[_inner(flat, axis, lag)] for axis in (0, 1)])
    level = np.concatenate([_inner(mean, axis, lag)[_inner(flat, axis, lag)] for axis in (0, 1)])
    groups = np.array_split(np.argsort(level, kind="stable"), _LEVELS)
    middle = np.array([np.median(level[group]) for group in groups])
    return middle, np.array([MAD * np.median(np.abs(difference[group])) for group in groups])
