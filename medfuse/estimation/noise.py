"""Noise of an image from the image alone: its level by three estimators, its kind, and how sure both are.

Every estimator looks at the foreground: where values below 0 were cut, or magnitudes taken, the dark background has
less noise than the image, and estimators that look everywhere read 25 to 40 % too little.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude
from scipy.special import ndtr

from medfuse.estimation.differences import MAD, noise_profile, second_difference

_FEWEST = 200  # pixels, or patches, of which an estimate is made
_ROUNDS = 6
_SETTLED = 5e-3  # change of an estimate at which its rounds end
_CLEAR = 3.0  # std above 0, and below the top, from which a pixel's noise is not cut
_PATCH = 5  # px, side of a patch; what is cut off in all of one is black, or burnt
_MOST_PATCHES = 4000
_CORNER = 0.75  # of the Nyquist frequency along both axes, above which hardly any image is left
_LEAST_LEVELS, _LEAST_SPAN = 4, 1.6  # levels, and highest over lowest, from which the exponent is known
_COUNTS, _COUNTS_OF_NOTHING = 0.7, 0.4  # exponent of the variance from which noise is of counts; with a dark of zeros
_COUNTED, _CUT, _MAGNITUDES = 0.75, (0.3, 0.7), 0.03  # shares of zeros in the dark: of counts, normal, of magnitudes
_THINNED = 4  # px between which a smoothed image is looked at
_MEDIAN_CHI2 = 0.4549  # of one degree of freedom


class Readings(NamedTuple):
    """Std of the noise by three estimators, in the unit of the image; NaN where one cannot tell.

    Attributes:
        differences: Median absolute mixed second difference, in the flat half of the foreground (Immerkaer 1996).
        patches: Least eigenvalues of the covariance of weakly textured patches (Liu 2013; Chen 2015).
        waves: Median power of the cosine waves of both highest rates, corrected for noise that was cut at 0.
    """

    differences: float
    patches: float
    waves: float

    @property
    def level(self) -> float:
        """The median of those that can tell."""
        return float(np.nanmedian(self)) if np.isfinite(self).any() else math.nan

    @property
    def least(self) -> float:
        """The least of those that can tell."""
        return float(np.nanmin(self)) if np.isfinite(self).any() else math.nan


def read_noise(image: np.ndarray, top: float = 1.0) -> Readings:
    """Estimate the std of white noise of a slice **[H, W]** by three estimators.

    Args:
        image: The slice, from 0 up.
        top: Full range, at which values were cut; infinity where none was.
    """
    image = np.asarray(image, np.float64)
    difference = np.pad(second_difference(image, 1, 1), 1, mode="reflect")
    mean = gaussian_filter(image, 2.0)
    whole = ~_patch_wide(image <= 0, beyond=True)
    if math.isfinite(top):
        whole &= ~_patch_wide(image >= top, beyond=True)
    slope = gaussian_gradient_magnitude(image, 1.5, truncate=3)

    def foreground(std: float) -> np.ndarray:
        chosen: np.ndarray = (
            whole & (mean > max(_CLEAR * std, 0.016 * _range(image, top))) & (mean < top - _CLEAR * std)
        )
        return chosen

    std = _mad(difference[whole])
    for _ in range(_ROUNDS):
        chosen = foreground(std)
        if chosen.sum() < _FEWEST:
            return Readings(math.nan, math.nan, _waves(image, mean, top))
        before, std = std, _mad(difference[chosen & (slope <= np.median(slope[chosen]))])
        if abs(std - before) <= _SETTLED * before:
            break
    patches, textures = std, _textures(image)
    for _ in range(_ROUNDS):
        before, patches = patches, _patches(image, textures, foreground(patches), patches)
        if not abs(patches - before) > _SETTLED * before:
            break
    return Readings(std, patches, _waves(image, mean, top))


def _range(image: np.ndarray, top: float) -> float:
    return top if math.isfinite(top) else float(np.percentile(image, 99.5))


def _mad(values: np.ndarray) -> float:
    return float(MAD * np.median(np.abs(values))) if values.size else math.nan


def _patch_wide(mask: np.ndarray, *, beyond: bool) -> np.ndarray:
    """Return where a mask holds in a whole patch around a pixel: its erosion, along one axis after the other."""
    mask = np.pad(mask, _PATCH // 2, constant_values=beyond)
    for _ in (0, 1):
        size = len(mask) - _PATCH + 1
        mask = np.logical_and.reduce([mask[k : k + size] for k in range(_PATCH)]).T
    return mask


def _textures(image: np.ndarray) -> np.ndarray:
    """Return the sum of the squared differences of neighbours in the patch around each pixel, without a border."""
    found = 0.0
    for turned in (image, image.T):
        squares = np.square(turned[1:] - turned[:-1])
        for width in (_PATCH - 1, _PATCH):
            size = len(squares) - width + 1
            squares = sum(squares[k : k + size] for k in range(width)).T
        found = found + (squares if turned is image else squares.T)
    return np.asarray(found)


def _patches(image: np.ndarray, textures: np.ndarray, chosen: np.ndarray, std: float) -> float:
    """Return the std by the least eigenvalues of patches whose texture is what noise of a std shows."""
    half = _PATCH // 2
    rows, columns = np.nonzero(_patch_wide(chosen, beyond=False)[half:-half, half:-half])
    step = max(1, len(rows) // _MOST_PATCHES)
    rows, columns = rows[::step], columns[::step]
    if len(rows) < _FEWEST:
        return math.nan
    texture, count = textures[rows, columns], 2 * _PATCH * (_PATCH - 1)
    weak = texture <= max(2 * std**2 * count * (1 + 3 * math.sqrt(3 / count)), np.quantile(texture, 0.1))
    windows = np.lib.stride_tricks.sliding_window_view(image, (_PATCH, _PATCH))[rows[weak], columns[weak]]
    values = np.linalg.eigvalsh(np.cov(windows.reshape(-1, _PATCH**2).T)).clip(0)
    kept = next(n for n in range(len(values), 0, -1) if n == 1 or values[:n].mean() <= np.median(values[:n]))
    return math.sqrt(values[:kept].mean())


def _waves(image: np.ndarray, mean: np.ndarray, top: float) -> float:
    """Return the std by the highest cosine waves; what was cut at 0 or at the top has less noise, by its mean."""
    corner = dctn(image, norm="ortho")[tuple(slice(int(_CORNER * n), None) for n in image.shape)]
    power = float(np.median(np.square(corner))) / _MEDIAN_CHI2
    std, cut = math.sqrt(power), image.min() >= 0 and (image <= 0).mean() > 0.01  # what is negative was not cut
    burnt = image.max() <= top and (image >= top).mean() > 0.01
    mean = mean[::_THINNED, ::_THINNED]
    for _ in range(_ROUNDS if std > 0 and (cut or burnt) else 0):
        share = np.ones(())
        if cut:
            share = _cut_variance(_uncut_mean(mean / std)).mean()
        if burnt:
            share = share - (1 - _cut_variance((top - mean) / std)).mean()
        std = math.sqrt(power / max(float(share), 0.1))
    return std


def _cut_variance(t: np.ndarray) -> np.ndarray:
    """Return the variance of `max(t + n, 0)` for normal `n`."""
    t = np.clip(t, -6, 8)
    density, share = np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi), ndtr(t)
    mean = t * share + density
    variance: np.ndarray = np.maximum((t**2 + 1) * share + t * density - mean**2, 0)
    return variance


def _uncut_mean(mean: np.ndarray) -> np.ndarray:
    """Return t whose `max(t + n, 0)` has a mean."""
    t = np.linspace(-1, 8, 400)
    found: np.ndarray = np.interp(mean, t * ndtr(t) + np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi), t)
    return found


class Kind(NamedTuple):
    """Of which kind noise is, and by what that is known.

    Attributes:
        name: `gaussian`, `rician` or `poisson`.
        cut: Whether values below 0 were set to 0.
        exponent: With which power of the signal its variance grows; NaN where the image has too few levels.
        zeros: Share of zeros in the dark background; NaN where there is none.
    """

    name: str
    cut: bool = False
    exponent: float = math.nan
    zeros: float = math.nan

    @property
    def told(self) -> str:
        """What the kind is known by, in words."""
        parts = [] if math.isnan(self.exponent) else [f"its variance grows as the signal to the {self.exponent:.1f}"]
        parts += [] if math.isnan(self.zeros) else [f"{self.zeros:.0%} of the dark background are zeros"]
        return ", ".join(parts) or "no level and no background that would tell its kind"


def kind_of_noise(image: np.ndarray, std: float) -> Kind:
    """Tell the kind of the noise of a slice **[H, W]** of a known std.

    Counts of nothing are nothing: their dark background is zeros. Half of Gaussian noise around 0 that was cut is
    zeros, and of magnitudes hardly any are. The variance of counts grows with the signal, that of others does not.
    """
    image = np.asarray(image, np.float64)
    dark = gaussian_filter(image, 2.0) < 1.5 * std
    zeros = float((image[dark] <= 0).mean()) if dark.sum() >= _FEWEST else math.nan
    cut, negative = bool(image.min() == 0), bool(image.min() < 0)
    level, deviation, _ = noise_profile(image, lags=(1,))
    seen = (level > 0) & (deviation > 0)
    exponent = math.nan
    if seen.sum() >= _LEAST_LEVELS and level[seen].max() > _LEAST_SPAN * level[seen].min():
        exponent = float(np.polyfit(np.log(level[seen]), 2 * np.log(deviation[seen]), 1)[0])
    least = _COUNTS_OF_NOTHING if zeros > _COUNTED else _COUNTS
    if exponent > least and not negative and not _CUT[0] < zeros < _CUT[1]:
        return Kind("poisson", cut, exponent, zeros)
    if zeros < _MAGNITUDES and not negative:
        return Kind("rician", False, exponent, zeros)
    return Kind("gaussian", cut and not negative, exponent, zeros)


def counts_of(image: np.ndarray) -> float:
    """Return the expected events of 1 of a slice **[H, W]** of counts, the median over its levels."""
    level, deviation, _ = noise_profile(np.asarray(image), lags=(1,))
    seen = (level > 0) & (deviation > 0)
    return float(np.median(level[seen] / np.square(deviation[seen]))) if seen.any() else math.nan
