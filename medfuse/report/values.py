"""Values of a PET, before and after restoration: whole image and labelled regions, in its unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from scipy.signal import oaconvolve

from medfuse.errors import GeometryError
from medfuse.report.canvas import as_array

PEAK_ML = 1.0
_SMALL = -4  # power of ten below which a number has an exponent
_BLOCK = 64  # voxels along each axis that are looked at at once
_FEWEST = 7  # voxels in the sphere of a peak; with fewer, a peak is hardly more than the maximum


def region_values(given: Any, restored: Any, *, affine: Any, labels: Any = None) -> list[dict[str, Any]]:
    """Return mean, maximum and peak of a source and of its restoration, region by region.

    The peak is the largest mean over a sphere of 1 ml whose centre lies in the region; it is None where the voxels are
    too coarse for such a sphere.

    Args:
        given: The source **[X, Y, Z]** in its unit, finite.
        restored: The same, restored.
        affine: **[4, 4]**, voxel index to mm.
        labels: Label of each voxel **[X, Y, Z]**, rounded to integers, 0 for none; or None.

    Returns:
        The whole image (`label` None), then each label above 0, ascending: `label`, `volume_ml`, and under `given` and
        `restored` each `mean`, `max` and `peak`.

    Raises:
        GeometryError: If the shapes differ.
    """
    volumes = {"given": as_array(given), "restored": as_array(restored)}
    marks = None if labels is None else as_array(labels)
    shapes = {v.shape for v in volumes.values()} | ({marks.shape} if marks is not None else set())
    if len(shapes) > 1:
        raise GeometryError(f"Volumes and labels must share a grid, got {sorted(shapes)}; resample them.")
    affine = as_array(affine).astype(np.float64)
    sphere = _sphere(np.linalg.norm(affine[:3, :3], axis=0))
    millilitres = abs(np.linalg.det(affine[:3, :3])) / 1000.0
    found = sorted({int(v) for plane in (() if marks is None else marks) for v in np.unique(np.rint(plane)) if v > 0})
    figures = {kind: _figures(volume, marks, found, sphere) for kind, volume in volumes.items()}
    return [
        {
            "label": None if row == 0 else found[row - 1],
            "volume_ml": float(figures["given"][row]["voxels"] * millilitres),
            **{kind: {k: v for k, v in rows[row].items() if k != "voxels"} for kind, rows in figures.items()},
        }
        for row in range(len(found) + 1)
    ]


def number_text(value: float | None, *, digits: int = 4) -> str:
    """Return a number with so many digits, but never less than its units; a hyphen for None."""
    if value is None:
        return "-"
    size = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{digits - 1}e}" if size < _SMALL else f"{value:.{max(digits - 1 - size, 0)}f}"


def _figures(
    volume: np.ndarray, marks: np.ndarray | None, labels: Sequence[int], sphere: np.ndarray | None
) -> list[dict[str, Any]]:
    """Return voxels, mean, maximum and peak of the whole image, then of each label, block by block in float64."""
    count = len(labels) + 1
    voxels, total = np.zeros(count), np.zeros(count)
    highest, peak = np.full(count, -np.inf), np.full(count, -np.inf)
    for block in product(*(range(0, n, _BLOCK) for n in volume.shape)):
        place = tuple(slice(start, start + _BLOCK) for start in block)
        values = volume[place].astype(np.float64)
        means = None if sphere is None else _means(volume, place, sphere)
        own = None if marks is None else np.rint(marks[place])
        for row, label in enumerate((None, *labels)):
            region: Any = ... if label is None else own == label
            inside = values[region]
            if inside.size:
                voxels[row] += inside.size
                total[row] += inside.sum()
                highest[row] = max(highest[row], inside.max())
                if means is not None:
                    peak[row] = max(peak[row], means[region].max())
    return [
        {
            "voxels": int(voxels[row]),
            "mean": float(total[row] / voxels[row]),
            "max": float(highest[row]),
            "peak": None if sphere is None else float(peak[row]),
        }
        for row in range(count)
    ]


def _means(volume: np.ndarray, place: Sequence[slice], sphere: np.ndarray) -> np.ndarray:
    """Return the mean over a sphere about each voxel of a block; beyond the volume there is zero."""
    reach = [n // 2 for n in sphere.shape]
    around = tuple(slice(max(s.start - r, 0), s.stop + r) for s, r in zip(place, reach, strict=True))
    own = tuple(slice(s.start - a.start, s.stop - a.start) for s, a in zip(place, around, strict=True))
    return np.asarray(oaconvolve(volume[around].astype(np.float64), sphere, mode="same")[own])


def _sphere(spacing: np.ndarray) -> np.ndarray | None:
    """Return a mean over 1 ml as a kernel; None where it would hold too few voxels."""
    radius = (3.0 * 1000.0 * PEAK_ML / (4.0 * np.pi)) ** (1.0 / 3.0)  # mm
    reach = [int(radius // s) for s in spacing]
    index = np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij")
    inside = sum((i * s) ** 2 for i, s in zip(index, spacing, strict=True)) <= radius**2
    return None if inside.sum() < _FEWEST else inside / inside.sum()
