"""What scans of phantoms measure: noise of a uniform cylinder and of repeated scans, PSF of a line source.

cylinder    relative std = std / mean of the central region                         (NEMA NU 2, image quality)
line        FWHM = 2 sqrt(2 ln 2) std of the Gaussian that fits best across it      (NEMA NU 2, NU 1)
repeat      std = std(first - second) / sqrt(2) where both are homogeneous          (NEMA MS 1)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter, uniform_filter
from scipy.optimize import least_squares

from medfuse.errors import ImageError
from medfuse.estimation.differences import MAD

_FWHM = 2 * math.sqrt(2 * math.log(2))
_WITHIN = 0.5  # of the mean within the cylinder: its border
_RIM_MM, _ENDS = 15.0, 0.25  # what is left out at the border, and at each end of it
_FEWEST = 200  # voxels
_REACH_MM = 25.0  # across a line source
_LEAST_SLICES = 3
_FLAT = 0.5  # of the foreground, that with the smallest slope


@dataclass(frozen=True)
class Measured:
    """What a phantom measures.

    Attributes:
        value: Relative std of a cylinder; std of repeated scans, in their unit; FWHM of a line source across it, mm,
            along each axis of the grid, None along the line.
        spread: Std of that among slices or regions, likewise.
        mean: Mean of the region, in the unit of the image; 0 for a line.
        count: Voxels of the region, or slices along the line.
    """

    value: tuple[float | None, ...]
    spread: tuple[float | None, ...]
    mean: float
    count: int


def cylinder(volume: np.ndarray, spacing: Sequence[float]) -> Measured:
    """Measure the noise of a uniform cylinder **[X, Y, Z]**, in its central region.

    Args:
        volume: Any unit.
        spacing: Voxel size, mm.

    Raises:
        ImageError: Too little of it is uniform.
    """
    volume = np.asarray(volume, np.float64)
    smooth = gaussian_filter(volume, [4 / s for s in spacing])
    inside = smooth > _WITHIN * np.percentile(smooth[smooth > 0.1 * smooth.max()], 75)
    inside = np.pad(inside, 1)
    for axis, step in enumerate(spacing):
        line = np.ones([3 if a == axis else 1 for a in range(3)], bool)
        inside = binary_erosion(inside, line, iterations=max(1, round(_RIM_MM / step)))
    inside = inside[1:-1, 1:-1, 1:-1]
    along = np.flatnonzero(inside.any((0, 1)))
    if len(along) >= 2 * _LEAST_SLICES:
        cut = int(_ENDS * len(along))
        inside[:, :, : along[cut]] = inside[:, :, along[len(along) - 1 - cut] + 1 :] = False
    if inside.sum() < _FEWEST:
        raise ImageError(
            f"a uniform cylinder must hold {_FEWEST} voxels {_RIM_MM:g} mm from its border, got {inside.sum()}; check "
            "the file."
        )
    mean = float(volume[inside].mean())
    slices = [volume[..., k][inside[..., k]] for k in range(volume.shape[2]) if inside[..., k].sum() > 20]
    each = [float(v.std() / v.mean()) for v in slices]
    level = math.sqrt(float(np.mean(np.square(each))))
    return Measured((level,), (float(np.std(each)),), mean, int(inside.sum()))


def line_source(volume: np.ndarray, spacing: Sequence[float]) -> Measured:
    """Measure the PSF of a thin line source **[X, Y, Z]** across it, along the two axes of the grid that cross it.

    Of each slice across it the sums along either axis are fitted by a Gaussian on a constant; the medians count.

    Raises:
        ImageError: No line runs through the volume.
    """
    volume = np.asarray(volume, np.float64)
    bright = volume > 0.25 * np.percentile(volume, 100 - 100 * min(50 / volume.size, 0.01))
    lengths = [int(bright.any(tuple(a for a in range(3) if a != axis)).sum()) for axis in range(3)]
    line = int(np.argmax([n * s for n, s in zip(lengths, spacing, strict=True)]))
    across = [a for a in range(3) if a != line]
    slices = np.moveaxis(volume, line, 0)
    total = slices.sum((1, 2))
    chosen = [k for k in range(len(slices)) if total[k] > 0.5 * np.percentile(total, 90)]
    widths: list[list[float]] = [[], []]
    for k in chosen:
        for i, axis in enumerate(across):
            profile = _profile(slices[k], i, [spacing[a] for a in across])
            if (found := _fitted(profile, spacing[axis])) is not None:
                widths[i].append(found)
    if min(map(len, widths)) < _LEAST_SLICES:
        raise ImageError(
            f"a line source must run through {_LEAST_SLICES} slices or more, got {min(map(len, widths))}; check the "
            "file."
        )
    value: list[float | None] = [None] * 3
    spread: list[float | None] = [None] * 3
    for axis, found_of in zip(across, widths, strict=True):
        value[axis], spread[axis] = float(np.median(found_of)), float(np.std(found_of))
    return Measured(tuple(value), tuple(spread), 0.0, min(map(len, widths)))


def repeated(first: np.ndarray, second: np.ndarray) -> Measured:
    """Measure the noise of two scans of one object, where they are homogeneous, in their unit.

    Raises:
        ImageError: Their shapes differ, or too little is homogeneous.
    """
    if first.shape != second.shape:
        raise ImageError(f"repeated scans must have one shape, got {first.shape} and {second.shape}; check the files.")
    one, two = (np.asarray(v, np.float64) for v in (first, second))
    mean = uniform_filter((one + two) / 2, 5)
    shown = binary_erosion(mean > 0.2 * np.percentile(mean, 99), iterations=2)
    slope = np.sqrt(sum(np.square(part) for part in np.gradient(gaussian_filter(mean, 1.0))))
    if shown.sum() * _FLAT < _FEWEST:
        raise ImageError(f"repeated scans must show {int(_FEWEST / _FLAT)} voxels, got {shown.sum()}; check the files.")
    flat = shown & (slope <= np.quantile(slope[shown], _FLAT))
    off = (one - two)[flat]
    std = MAD * float(np.median(np.abs(off - np.median(off)))) / math.sqrt(2)
    parts = [MAD * float(np.median(np.abs(p - np.median(p)))) / math.sqrt(2) for p in np.array_split(off, 8)]
    return Measured((std,), (float(np.std(parts)),), float(mean[flat].mean()), int(flat.sum()))


def _profile(plane: np.ndarray, axis: int, spacing: Sequence[float]) -> np.ndarray:
    """Return the sums of a plane **[A, B]** along the other axis, within so many mm of its brightest."""
    top = np.unravel_index(int(gaussian_filter(plane, 1.0).argmax()), plane.shape)
    cut = []
    for n, at, step in zip(plane.shape, top, spacing, strict=True):
        reach = math.ceil(_REACH_MM / step)
        cut.append(slice(max(0, int(at) - reach), min(n, int(at) + reach + 1)))
    found: np.ndarray = plane[tuple(cut)].sum(1 - axis)
    return found


def _fitted(profile: np.ndarray, spacing: float) -> float | None:
    """Return the FWHM of the Gaussian that fits a profile best, mm; None where none does."""
    at = np.arange(len(profile)) * spacing
    low, high = float(np.median(profile)), float(profile.max())
    if not high > low:
        return None

    def misfit(p: np.ndarray) -> np.ndarray:
        left: np.ndarray = p[0] + p[1] * np.exp(-0.5 * np.square((at - p[2]) / p[3])) - profile
        return left

    fit = least_squares(misfit, [low, high - low, at[profile.argmax()], 3.0])
    width = abs(float(fit.x[3])) * _FWHM
    return width if 0.5 * spacing < width < _REACH_MM else None
