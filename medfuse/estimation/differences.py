"""How much noise is in an image, from the image alone, on its own grid: before anything interpolates it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter

_LAGS = (1, 2, 3)  # pixels between the values whose differences are taken
_LEAST_SIDE = 12  # pixels of a slice
_SMOOTH = 2.0  # px, std
_REACH_MM = 12.0  # beyond which the noise of a PET is no longer shared; from the second pixel on, no further
_PARTS, _SIDE, _PER_PART = 32, 512, 1 << 14  # slices, or parts of large ones, that are looked at; pixels of each
_ROUNDS = 8
_ALIKE = 0.25  # by which the noise of foreground and background may differ and count as one
_CLEAR = 3.0  # std, above which a pixel is foreground: below, magnitudes and values cut off at 0 have other noise
_FEWEST, _LEVELS = 100, 8  # pixels of a level, and levels
MAD = 1.4826
"""Std of a normal distribution in median absolute values."""


def noise_profile(
    image: np.ndarray,
    spacing: Sequence[float] | None = None,
    *,
    lags: Sequence[int] = _LAGS,
    mean: np.ndarray | None = None,
) -> np.ndarray:
    """Estimate the noise of an image from second differences along two axes, in its foreground, where it is flat.

    Of white noise of std s the mixed difference `D_k D_k' y / 6` with `D_k y = y(i - k) - 2 y(i) + y(i + k)` has the
    std s; planes, and edges along an axis, leave nothing. With noise of correlation rho along each axis the std is
    `s (3 - 4 rho(k) + rho(2 k)) / 3`, which tends to s with the distance k. Stds are by the median of absolute values.

    Args:
        image: **[H, W]**, or **[X, Y, Z]**, of which at most 32 slices are looked at, across an axis that is short, or
            else the coarsest.
        spacing: Voxel size along each axis; without it the last axis counts as the coarsest.
        lags: Pixels between the values whose differences are taken.
        mean: Of an image **[H, W]** what `smoothed` makes of it, where that is known.

    Returns:
        **[3, n]**, a column for each level, ascending, all in the unit of the image: the mean of its pixels; the std of
        differences of neighbours, which noise that neighbours share is not in; and the largest std of differences of
        pixels up to three apart, which it is in, and so is the structure of the image. The std of the noise lies
        between both. n is 0 where too few pixels are foreground, or a slice is too small.

    Reference:
        Immerkaer, Fast noise variance estimation (Computer Vision and Image Understanding 1996).
    """
    if image.ndim == 2:
        slices = image[None]
    else:
        coarseness = [0.0, 0.0, 1.0] if spacing is None else [float(f"{s:.3g}") for s in spacing]
        across = max(range(3), key=lambda axis: (image.shape[axis] < _LEAST_SIDE, coarseness[axis], axis))
        slices = np.moveaxis(image, across, 0)
    slices = slices[:: -(-len(slices) // _PARTS)]
    if min(slices.shape[1:]) < _LEAST_SIDE:
        return np.empty((3, 0))
    finest = 0.0 if spacing is None else min(spacing)
    lags = [k for k in lags if k <= 2 or k * finest <= _REACH_MM]
    low, high = float(slices.min()), float(slices.max())
    parts = [part for one in slices for part in _parts(one, _PARTS // len(slices))]
    means = [None] * len(parts) if mean is None else _parts(mean, _PARTS)
    level, slope, whole, *differences = np.concatenate(
        [_samples(part.astype(np.float32), mean, high, lags) for part, mean in zip(parts, means, strict=True)], 1
    )
    chosen = _foreground(level, differences[0], whole > 0, unclipped=low < 0)
    if chosen.sum() < 2 * _FEWEST:
        return np.empty((3, 0))
    chosen &= slope <= np.median(slope[chosen])
    order = np.flatnonzero(chosen)[np.argsort(level[chosen], kind="stable")]
    groups = np.array_split(order, max(1, min(_LEVELS, len(order) // _FEWEST)))
    stds = [[_std(difference[group]) for difference in differences] for group in groups]
    return np.array([[level[group].mean() for group in groups], [s[0] for s in stds], [max(s) for s in stds]])


def _parts(image: np.ndarray, count: int) -> list[np.ndarray]:
    """Return an image, or of one that is large at most so many parts of it, evenly spread."""
    rows, columns = (
        [slice(k * size // n, (k + 1) * size // n) for k in range(n)]
        for size, n in ((size, -(-size // _SIDE)) for size in image.shape)
    )
    parts = [image[row, column] for row in rows for column in columns]
    return parts[:: -(-len(parts) // max(count, 1))]


def smoothed(image: np.ndarray) -> np.ndarray:
    """Return an image smoothed so far that it hardly depends on the noise of a pixel."""
    found: np.ndarray = gaussian_filter(np.asarray(image, np.float32), _SMOOTH)
    return found


def _samples(image: np.ndarray, mean: np.ndarray | None, high: float, lags: Sequence[int]) -> np.ndarray:
    """Return local mean, slope, whether nothing around was cut off at 0 or at the top, and the differences, a row each.

    The slope is that of the smoothed image.
    """
    margin = _LAGS[-1]
    inner = (slice(margin, -margin),) * 2
    whole = (_around(image, np.minimum) != 0) & (_around(image, np.maximum) < high)
    rows = [uniform_filter(image, 5)[inner], slopes(smoothed(image) if mean is None else mean)[inner], whole]
    rows += [second_difference(image, k, margin) for k in lags]
    return np.stack([row.ravel()[:: -(-row.size // _PER_PART)] for row in rows])


def slopes(mean: np.ndarray) -> np.ndarray:
    """Return the squared gradient of a smoothed image, 4 times; along a border, that along it alone."""
    found = np.zeros_like(mean)
    found[1:-1] = np.square(mean[2:] - mean[:-2])
    found[:, 1:-1] += np.square(mean[:, 2:] - mean[:, :-2])
    return found


def _around(image: np.ndarray, of: np.ufunc) -> np.ndarray:
    """Return the least or the largest of the 5 x 5 pixels around each, without a margin of 3."""
    for _ in (0, 1):
        image = of_five(image[1:-1], of).T
    return image


def of_five(image: np.ndarray, of: np.ufunc) -> np.ndarray:
    """Return what a function such as the least makes of each five neighbours along the first axis, without borders."""
    two = of(image[:-1], image[1:])
    found: np.ndarray = of(of(two[:-3], two[2:-1]), image[4:])
    return found


def second_difference(image: np.ndarray, lag: int, margin: int) -> np.ndarray:
    """Return the mixed second difference `D_k D_k' y / 6` of lag k, of unit gain for white noise, without a margin."""
    for _ in (0, 1):  # along the first axis, twice, of what is turned in between
        size = image.shape[0] - 2 * margin
        before, here, after = (image[margin + shift : margin + shift + size] for shift in (-lag, 0, lag))
        image = (before - 2 * here + after).T
    return image / 6


def _foreground(level: np.ndarray, difference: np.ndarray, whole: np.ndarray, *, unclipped: bool) -> np.ndarray:
    """Return which pixels are well above the noise; or all, where values below 0 were kept and all have one noise."""
    chosen: np.ndarray = whole & (level > 0.25 * np.percentile(level, 99))
    for _ in range(_ROUNDS):
        before = chosen
        if before.sum() < 2 * _FEWEST:
            break
        chosen = whole & (level > _CLEAR * _std(difference[before]))
        if np.array_equal(chosen, before):
            break
    around = ~chosen & (difference != 0)
    if unclipped and around.sum() >= 2 * _FEWEST:
        one = chosen.sum() < 2 * _FEWEST or abs(_std(difference[around]) / _std(difference[chosen]) - 1) < _ALIKE
        return chosen | around if one else chosen
    return chosen


def _std(values: np.ndarray) -> float:
    return float(MAD * np.median(np.abs(values)))
