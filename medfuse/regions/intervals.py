"""How far a restored source may be off: of voxels by the deviation of the network, of regions by draws.

    voxel:   s = a_v std                        std, that the network predicts
    region:  s = a_r (l / n sum_k m_k^2)^(1/2)   m_k, mean over the region of draw k of n: x again, less x
             l = |std| / |draws|                 root mean squares over the head

Voxels of a restored image err together, so that the deviation of a mean does not fall with the root of their number;
the draws (observed again, restored again) err together in the same way. What they do not know of is what a restoration
leaves out; `l` is for that. The factors a are conformal: they are the quantiles of |error| / s on people of a
calibration half, so that the interval holds its share of them whatever their distribution.

Reference:
    Lei et al., Distribution-free predictive inference for regression (JASA 2018), section 5.2: locally weighted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from medfuse.regions.values import as_array, layers_of

UNCERTAINTY = ("off", "fast", "full")
"""What may be asked for: nothing, deviations of voxels, intervals of regions as well."""
LEVELS = (0.5, 0.8, 0.9, 0.95)
VOXEL_FACTORS = ((0.597, 1.191, 1.595, 1.989), (0.718, 1.362, 1.734, 2.065))
"""Half widths of the intervals of `LEVELS` of a voxel of each source, in `std`."""
REGION_FACTORS = (0.561, 1.151, 1.640, 2.129)
"""Half widths of the intervals of `LEVELS` of a region of source 2, in the deviation of its draws."""
NORMAL = 1.959963984540054  # half width of an interval of 95 %, in standard deviations
LEAST = 16
"""Voxels of the smallest regions that were calibrated."""
_HEAD, _UPTAKE, _SMOOTH = 0.06, 0.01, 2.0  # of full range, and voxels


def voxel_deviation(std: Any, source: int) -> np.ndarray:
    """Return the standard deviation of each voxel: 1.96 of it are half of the interval of 95 %.

    Args:
        std: What the network predicts, of any shape and unit.
        source: 0 or 1.
    """
    found: np.ndarray = as_array(std) * np.float32(VOXEL_FACTORS[source][-1] / NORMAL)
    return found


def level_of(std: Any, draws: Any, restored: Sequence[Any]) -> float:
    """Return the root mean square of what the network predicts over that of the draws, within the head.

    Args:
        std: Predicted for source 2 **[X, Y, Z]**, fraction of full range.
        draws: **[n, X, Y, Z]**, likewise.
        restored: Both sources **[X, Y, Z]**, 0..1: they show where the head is.
    """
    first, second = (as_array(v) for v in restored)
    inside = (gaussian_filter(first.astype(np.float32), _SMOOTH) > _HEAD) & (second > _UPTAKE)
    predicted = float(np.square(as_array(std)[inside], dtype=np.float64).mean()) if inside.any() else 0.0
    drawn = (
        [float(np.square(as_array(draw)[inside], dtype=np.float64).mean()) for draw in draws] if predicted else [0.0]
    )
    mean = float(np.mean(drawn))
    return math.sqrt(predicted / mean) if mean > 0 else 1.0


def add_intervals(regions: Sequence[dict[str, Any]], labels: Any, draws: Any, *, level: float) -> None:
    """Add to each region the interval of the mean of the restored source 2: `interval`, with `sd`, `low`, `high`.

    Regions of fewer than 16 voxels, which were not calibrated, and the whole image get none.

    Args:
        regions: As `region_values` returns them.
        labels: **[X, Y, Z]** or **[L, X, Y, Z]**, as it got them.
        draws: **[n, X, Y, Z]**, in the unit of the source.
        level: As `level_of`.
    """
    known = {region["label"]: region for region in regions if region["label"] is not None}
    if not known:
        return
    size = max(known) + 1
    squares, voxels = np.zeros(size), np.zeros(size)
    marks = [np.rint(layer).astype(np.int64).ravel() for layer in layers_of(labels)]
    for layer in marks:
        voxels += np.bincount(layer, minlength=size)
    for draw in draws:
        values = as_array(draw).astype(np.float64).ravel()
        total = sum(np.bincount(layer, values, size) for layer in marks)
        squares += (total / np.maximum(voxels, 1)) ** 2
    for label, region in known.items():
        if voxels[label] >= LEAST:
            sd = float(math.sqrt(level * squares[label] / len(draws)) * REGION_FACTORS[-1] / NORMAL)
            mean = region["restored"]["mean"]
            region["interval"] = {"level": LEVELS[-1], "sd": sd, "low": mean - NORMAL * sd, "high": mean + NORMAL * sd}


def disagrees(region: Mapping[str, Any]) -> bool | None:
    """Tell whether a correction by labels lies outside of the interval of a region; None where one is missing."""
    interval, gtm = region.get("interval"), region.get("gtm")
    if interval is None or gtm is None:
        return None
    return not interval["low"] <= gtm <= interval["high"]
