"""Noise of an image from the image alone: its level by three estimators, its kind, and how sure both are.

Every estimator looks at the foreground: where values below 0 were cut, or magnitudes taken, the dark background has
less noise than the image, and estimators that look everywhere read 25 to 40 % too little.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr
from torch import Tensor

from medfuse.estimation.differences import MAD, noise_profile, of_five, second_difference, slopes, smoothed

_FEWEST = 200  # pixels, or patches, of which an estimate is made
_ROUNDS = 6
_SETTLED = 5e-3  # change of an estimate at which its rounds end
_CLEAR = 3.0  # std above 0, and below the top, from which a pixel's noise is not cut
_PATCH = 5  # px, side of a patch; what is cut off in all of one is black, or burnt
_MOST_PIXELS, _MOST_PATCHES = 32_000, 5000  # that are looked at
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
        waves: Median power of the cosine waves of both highest rates, corrected for noise that was cut. NaN where it
            is more than the differences and values were cut at the top: such edges, of bone in CT, are fast waves.
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


def read_noise(image: np.ndarray, top: float = 1.0, mean: np.ndarray | None = None) -> Readings:
    """Estimate the std of white noise of a slice **[H, W]** by three estimators.

    Args:
        image: The slice, from 0 up.
        top: Full range, at which values were cut; infinity where none was.
        mean: What `medfuse.estimation.differences.smoothed` makes of the slice, where that is known.
    """
    image = np.asarray(image, np.float32)
    mean = smoothed(image) if mean is None else mean
    whole = ~_patch_wide(image <= 0, beyond=True)
    if math.isfinite(top):
        whole &= ~_patch_wide(image >= top, beyond=True)
    at, lowest = _thinned(np.flatnonzero(whole), _MOST_PIXELS), 0.016 * _range(image, top)
    means = mean.ravel()[at]
    steep = slopes(gaussian_filter(image, 1.5, truncate=3)).ravel()[at]
    differences = np.abs(np.pad(second_difference(image, 1, 1), 1, mode="reflect")).ravel()[at]
    std = _mad(differences)
    flat: np.ndarray | None = None
    for _ in range(_ROUNDS):
        inside = (means > max(_CLEAR * std, lowest)) & (means < top - _CLEAR * std)
        if inside.sum() < _FEWEST:
            return Readings(math.nan, math.nan, _waves(image, mean, top, math.inf))
        flat = steep <= np.median(steep[inside]) if flat is None else flat
        before, std = std, _mad(differences[inside & flat])
        if abs(std - before) <= _SETTLED * before:
            break
    return Readings(std, _patches(image, mean, whole, (lowest, top), std), _waves(image, mean, top, std))


def _thinned(values: np.ndarray, most: int) -> np.ndarray:
    return values[:: max(1, -(-len(values) // most))]


def _range(image: np.ndarray, top: float) -> float:
    return top if math.isfinite(top) else float(np.percentile(image, 99.5))


def _mad(values: np.ndarray) -> float:
    return float(MAD * np.median(np.abs(values))) if values.size else math.nan


def _patch_wide(mask: np.ndarray, *, beyond: bool) -> np.ndarray:
    """Return where a mask holds in a whole patch around a pixel: its erosion."""
    return _of_patches(np.pad(mask, _PATCH // 2, constant_values=beyond), np.logical_and)


def _of_patches(image: np.ndarray, of: np.ufunc) -> np.ndarray:
    """Return what a function such as the least makes of each patch, without a border: one axis after the other."""
    for _ in (0, 1):
        image = of_five(image, of).T
    return image


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


def _patches(image: np.ndarray, mean: np.ndarray, whole: np.ndarray, ends: tuple[float, float], std: float) -> float:
    """Return the std by the least eigenvalues of patches whose texture is what noise of a std shows.

    Args:
        image: **[H, W]**.
        mean: The same, smoothed.
        whole: Where nothing around was cut.
        ends: Between which the mean of the foreground lies.
        std: What is expected, from which the search begins.
    """
    width = image.shape[1] - _PATCH + 1
    at = np.flatnonzero(_of_patches(whole, np.logical_and))
    texture, lowest, highest = (
        v.ravel()[at] for v in (_textures(image), _of_patches(mean, np.minimum), _of_patches(mean, np.maximum))
    )
    chosen = np.flatnonzero((lowest > max(_CLEAR * std, ends[0])) & (highest < ends[1] - _CLEAR * std))
    if len(chosen) < _FEWEST:
        return math.nan
    chosen = _thinned(chosen, _MOST_PATCHES)
    windows = np.lib.stride_tricks.sliding_window_view(image, (_PATCH, _PATCH))
    rows = windows[np.divmod(at[chosen], width)].reshape(-1, _PATCH**2)
    patches, shown, count = torch.from_numpy(rows - rows.mean(0)), texture[chosen], 2 * _PATCH * (_PATCH - 1)
    tenth, lowest, highest = np.quantile(shown, 0.1), lowest[chosen], highest[chosen]
    for _ in range(_ROUNDS):
        inside = (lowest > _CLEAR * std) & (highest < ends[1] - _CLEAR * std)
        if inside.sum() < _FEWEST:
            return math.nan
        inside &= shown <= max(2 * std**2 * count * (1 + 3 * math.sqrt(3 / count)), tenth)
        before, std = std, _least_deviation(patches[torch.from_numpy(inside)])
        if not abs(std - before) > _SETTLED * before:
            break
    return std


def _least_deviation(patches: Tensor) -> float:
    """Return the std of what is alike along most axes of patches, a row each; their mean is taken off.

    The product is torch's: threads of numpy's, once used, keep all cores busy for a while, a third of what the network
    takes for a slice.
    """
    mean = patches.mean(0)
    covariance = (patches.mT @ patches - len(patches) * torch.outer(mean, mean)) / (len(patches) - 1)
    values = np.linalg.eigvalsh(covariance.numpy()).clip(0)
    count = np.arange(1, len(values) + 1)
    means, medians = np.cumsum(values) / count, (values[(count - 1) // 2] + values[count // 2]) / 2
    return math.sqrt(means[np.flatnonzero(means <= medians)[-1]])


def _waves(image: np.ndarray, mean: np.ndarray, top: float, differences: float) -> float:
    """Return the std by the highest cosine waves; what was cut at 0 or at the top has less noise, by its mean.

    NaN where values were cut at the top and it is more than that by differences.
    """
    corner = dctn(image, norm="ortho")[tuple(slice(int(_CORNER * n), None) for n in image.shape)]
    power = float(np.median(np.square(corner))) / _MEDIAN_CHI2
    std, cut = math.sqrt(power), image.min() >= 0 and (image <= 0).mean() > 0.01  # what is negative was not cut
    burnt = image.max() <= top and (image >= top).mean() > 0.01
    mean = mean[::_THINNED, ::_THINNED]
    for _ in range(_ROUNDS if std > 0 and (cut or burnt) else 0):
        share = np.ones(())
        if cut:
            share = _at(_BY_MEAN, mean / std).mean()
        if burnt:
            share = share - (1 - _at(_VARIANCES, (top - mean) / std)).mean()
        before, std = std, math.sqrt(power / max(float(share), 0.1))
        if abs(std - before) <= _SETTLED * before:
            break
    return math.nan if burnt and std > differences else std


def _cut_moments(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the variance of `max(t + n, 0)` for normal `n`."""
    density, share = np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi), ndtr(t)
    mean = t * share + density
    return mean, np.maximum((t**2 + 1) * share + t * density - mean**2, 0)


def _at(table: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return what a table of `_DISTANCES` has at the nearest of them."""
    found: np.ndarray = table[((distances.clip(_NEAREST, _FARTHEST) - _NEAREST) * _PER_STD + 0.5).astype(np.intp)]
    return found


_NEAREST, _FARTHEST, _PER_STD = -6, 8, 400
_DISTANCES = np.linspace(_NEAREST, _FARTHEST, (_FARTHEST - _NEAREST) * _PER_STD + 1)  # of a mean from a cut, std
_MEANS, _VARIANCES = _cut_moments(_DISTANCES)
_BY_MEAN = np.interp(_DISTANCES, _MEANS[_DISTANCES >= -1], _VARIANCES[_DISTANCES >= -1])  # less is of no signal


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


def kind_of_noise(image: np.ndarray, std: float, mean: np.ndarray | None = None) -> Kind:
    """Tell the kind of the noise of a slice **[H, W]** of a known std; `mean` as of `read_noise`.

    Counts of nothing are nothing: their dark background is zeros. Half of Gaussian noise around 0 that was cut is
    zeros, and of magnitudes hardly any are. The variance of counts grows with the signal, that of others does not.
    """
    mean = smoothed(image) if mean is None else mean
    dark = mean < 1.5 * std
    zeros = float((image[dark] <= 0).mean()) if dark.sum() >= _FEWEST else math.nan
    cut, negative = bool(image.min() == 0), bool(image.min() < 0)
    level, deviation, _ = noise_profile(image, lags=(1,), mean=mean)
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
