"""Values of a PET, before and after restoration: whole image and labelled regions, in its unit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.signal import oaconvolve

from medfuse.errors import GeometryError
from medfuse.report.canvas import as_array

PEAK_ML = 1.0
_SMALL = -4  # power of ten below which a number has an exponent
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
    volumes = {"given": as_array(given).astype(np.float64), "restored": as_array(restored).astype(np.float64)}
    marks = None if labels is None else np.rint(as_array(labels)).astype(np.int64)
    shapes = {v.shape for v in volumes.values()} | ({marks.shape} if marks is not None else set())
    if len(shapes) > 1:
        raise GeometryError(f"Volumes and labels must share a grid, got {sorted(shapes)}; resample them.")
    affine = as_array(affine).astype(np.float64)
    sphere = _sphere(np.linalg.norm(affine[:3, :3], axis=0))
    peaks = {k: None if sphere is None else oaconvolve(v, sphere, mode="same") for k, v in volumes.items()}
    millilitres = abs(np.linalg.det(affine[:3, :3])) / 1000.0
    found = [] if marks is None else [int(k) for k in np.unique(marks) if k > 0]
    rows = []
    for label in (None, *found):
        region = np.ones(volumes["given"].shape, bool) if label is None or marks is None else marks == label
        values = {k: _figures(v, peaks[k], region) for k, v in volumes.items()}
        rows.append({"label": label, "volume_ml": float(region.sum() * millilitres), **values})
    return rows


def number_text(value: float | None, *, digits: int = 4) -> str:
    """Return a number with so many digits, but never less than its units; a hyphen for None."""
    if value is None:
        return "-"
    size = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{digits - 1}e}" if size < _SMALL else f"{value:.{max(digits - 1 - size, 0)}f}"


def _figures(volume: np.ndarray, peaks: np.ndarray | None, region: np.ndarray) -> dict[str, float | None]:
    inside = volume[region]
    peak = None if peaks is None else float(peaks[region].max())
    return {"mean": float(inside.mean()), "max": float(inside.max()), "peak": peak}


def _sphere(spacing: np.ndarray) -> np.ndarray | None:
    """Return a mean over 1 ml as a kernel; None where it would hold too few voxels."""
    radius = (3.0 * 1000.0 * PEAK_ML / (4.0 * np.pi)) ** (1.0 / 3.0)  # mm
    reach = [int(radius // s) for s in spacing]
    index = np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij")
    inside = sum((i * s) ** 2 for i, s in zip(index, spacing, strict=True)) <= radius**2
    return None if inside.sum() < _FEWEST else inside / inside.sum()
