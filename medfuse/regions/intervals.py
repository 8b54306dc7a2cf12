"""How far a restored image may be off: of voxels by what the network predicts, of regions by draws.

    voxel:   s = a std^b1 q^b2 g^b3              std, that the network predicts; q, local size of what was invented;
                                                 g, local gradient of the restored image
    fused:   s = a (std_1^2 + std_2^2)^(1/2)     the fusion adds the details of both
    region:  s = a ((t l)^2 / n sum_k m_k^2 + (u i)^2 + (w c)^2)^(1/2)
             m_k, mean over the region of draw k of n: x again, less x;  l = |std| / |draws|, root mean squares over the
             head;  i, mean over the region of what was invented;  c, of what was corrected: x less the given source

Voxels of a restored image err together, so that the deviation of a mean does not fall with the root of their number;
the draws (observed again, restored again) err together in the same way. What they do not know of is bias: what a
restoration leaves out at an edge, and a blur that is stated wrong. What the data do not tell, `i`, and what the blur
took from the region or gave to it, `c`, are the measures of it. Powers and terms are fitted, for noise alone, blur
alone and both, and the factors a are conformal: they are the quantiles of |error| / s on people of a calibration half
and on phantoms of the training, so that the interval holds its share of them whatever their distribution. All are in
`calibration.json`, with the hash of the weights of which they are; `tests/results/uncertainty.py` writes it.

Reference:
    Lei et al., Distribution-free predictive inference for regression (JASA 2018), section 5.2: locally weighted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from importlib.resources import files
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from medfuse.regions.values import as_array, layers_of

UNCERTAINTY = ("off", "fast", "full")
"""What may be asked for: nothing, deviations of voxels, intervals of regions as well."""
LEVELS = (0.5, 0.8, 0.9, 0.95)
NORMAL = 1.959963984540054  # half width of an interval of 95 %, in standard deviations
LEAST = 16
"""Voxels of the smallest regions that were calibrated."""
NATIVE, NETWORK = "native", "network"
"""In place of the number of a source: one restored on its own grid, by the rule or by the network for volumes."""
KINDS = ("noise", "blur", "both")
"""What happened to a source, as the calibration tells it apart; whatever is no noise counts as blur."""


@dataclass(frozen=True, eq=False)
class Draws:
    """What the interval of a region follows from.

    Attributes:
        changes: By how much a restored source came out otherwise **[n, X, Y, Z]**, in its unit.
        level: As `level_of`; 1 on its own grid.
        invented: The source less what its data alone say **[X, Y, Z]**, in its unit.
        source: 0 or 1, `NATIVE` or `NETWORK`.
        kind: One of `KINDS`; on its own grid it plays no part.
    """

    changes: Any
    level: float
    invented: Any
    source: int | str
    kind: str = "both"


_HEAD, _UPTAKE, _SMOOTH = 0.06, 0.01, 2.0  # of full range, and voxels
_FAINT = 1e-3  # of full range: below it a feature tells nothing
_RESTORED, _STILL = 0.5, 1e-4  # share of a region; of the largest change, which rounding does not reach
_NEAR, _SHARP, _ABOUT = 1.5, 0.7, 2.0  # voxels, widths of the local means of the features


@cache
def calibration() -> dict[str, Any]:
    """Return what was calibrated: `weights_sha256`, `voxel`, `fused` and `region`.

    And how many of the regions of phantoms intervals of 95 % held, %, by what was told wrong and by kind of region:
    `held`, of both sources. `native_voxel`, `native_region` and `native_held` are those of a source on its own grid
    by the rule, `network_...` by the network of `network_weights_sha256`.
    """
    found: dict[str, Any] = json.loads((files("medfuse.regions") / "calibration.json").read_text(encoding="utf-8"))
    return found


def maker_of(native: Mapping[str, Any]) -> str:
    """Return who made the estimate of a source on its own grid, by what is known of it: `NETWORK` or `NATIVE`."""
    return NETWORK if native.get("weights_sha256") else NATIVE


def _calibrated(what: str, source: int | str, kind: str) -> dict[str, Any]:
    """Return powers or terms, and factors, of voxels or regions."""
    known = calibration()
    return dict(known[f"{source}_{what}"] if isinstance(source, str) else known[what][kind][source])


def voxel_features(std: Any, restored: Any, invented: Any, *, across: int | None = None) -> np.ndarray:
    """Return the logarithms of `std`, of the local size of what was invented, and of the local gradient **[..., 3]**.

    Args:
        std: What the network predicts, fraction of full range, an image or a volume.
        restored: The restored source, likewise.
        invented: It less what its data alone say, likewise.
        across: Axis of a volume along which it is sliced: features are those of slices; None: of all axes.
    """
    values, other = as_array(restored).astype(np.float32), as_array(invented).astype(np.float32)
    axes = [axis for axis in range(values.ndim) if axis != across]

    def smooth(image: np.ndarray, width: float) -> np.ndarray:
        return np.asarray(gaussian_filter(image, [width if axis in axes else 0.0 for axis in range(image.ndim)]))

    sharp = smooth(values, _SHARP)
    steep = sum(np.square(np.gradient(sharp, axis=axis)) for axis in axes if sharp.shape[axis] > 1)
    sizes = [
        as_array(std).astype(np.float32) ** 2,
        smooth(other**2, _NEAR),
        smooth(steep * np.ones_like(sharp), _ABOUT),
    ]
    return np.stack([0.5 * np.log(np.maximum(size, 0) + _FAINT**2) for size in sizes], -1)


def voxel_deviation(
    std: Any, source: int | str, restored: Any, invented: Any, *, kind: str = "both", across: int | None = None
) -> np.ndarray:
    """Return the standard deviation of each voxel, float32: 1.96 of it are half of the interval of 95 %.

    Args:
        std: What the network predicts, fraction of full range, an image or a volume; on its own grid the local size of
            a draw.
        source: 0 or 1, `NATIVE` or `NETWORK`.
        restored: The restored source, likewise.
        invented: It less what its data alone say, likewise.
        kind: One of `KINDS`.
        across: As `voxel_features`.
    """
    own = _calibrated("voxel", source, kind)
    features = voxel_features(std, restored, invented, across=across)
    found: np.ndarray = np.exp(features @ np.array(own["powers"], np.float32)) * own["factors"][-1] / NORMAL
    return found.astype(np.float32)


def size_of(draws: Any) -> np.ndarray:
    """Return the local root mean square of draws **[n, X, Y, Z]**: a few of them tell little of a voxel."""
    mean = sum(np.square(as_array(draw), dtype=np.float32) for draw in draws) / len(draws)
    found: np.ndarray = np.sqrt(np.maximum(gaussian_filter(mean, _NEAR), 0.0))
    return found


def fused_deviation(stds: Sequence[Any]) -> np.ndarray:
    """Return the standard deviation of each voxel of the fused image, in its own display units.

    It is that of the error against what the same rule makes of the true sources.

    Args:
        stds: What the network predicts of the sources to which something happened, fraction of full range.
    """
    squares = sum(np.square(as_array(std), dtype=np.float32) for std in stds)
    found: np.ndarray = np.sqrt(squares) * np.float32(calibration()["fused"]["factors"][-1] / NORMAL)
    return found


def level_of(std: Any, draws: Any, restored: Sequence[Any]) -> float:
    """Return the root mean square of what the network predicts over that of the draws, within the head.

    Args:
        std: Predicted of a source **[X, Y, Z]**, fraction of full range.
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


def add_intervals(regions: Sequence[dict[str, Any]], labels: Any, drawn: Draws) -> None:
    """Add to each region the interval of the mean of a restored source: `interval`, with `sd`, `low`, `high`.

    Regions of fewer than 16 voxels, which were not calibrated, and the whole image get none; nor do those of which
    draws leave half of the voxels or more as they are: what was not restored, such as air, does not tell its error.

    Args:
        regions: As `region_values` returns them.
        labels: **[X, Y, Z]** or **[L, X, Y, Z]**, as it got them.
        drawn: What they follow from.
    """
    known = {region["label"]: region for region in regions if region["label"] is not None}
    if not known:
        return
    own = _calibrated("region", drawn.source, drawn.kind)
    size = max(known) + 1
    marks = [np.rint(layer).astype(np.int64).ravel() for layer in layers_of(labels)]
    voxels = np.zeros(size)
    for layer in marks:
        voxels += np.bincount(layer, minlength=size)

    def means(values: Any) -> np.ndarray:
        flat = as_array(values).astype(np.float64).ravel()
        return np.asarray(sum(np.bincount(layer, flat, size) for layer in marks) / np.maximum(voxels, 1))

    squares = sum(means(change) ** 2 for change in drawn.changes) / len(drawn.changes)
    largest = reduce(np.maximum, (np.abs(as_array(change)) for change in drawn.changes))
    moved = means(largest > _STILL * largest.max())
    told = (own["draws"] * drawn.level) ** 2 * squares + (own["invented"] * means(drawn.invented)) ** 2
    for label, region in known.items():
        if voxels[label] >= LEAST and moved[label] > _RESTORED:
            mean = region["restored"]["mean"]
            square = told[label] + (own["corrected"] * (mean - region["given"]["mean"])) ** 2
            sd = math.sqrt(square) * own["factors"][-1] / NORMAL
            region["interval"] = {"level": LEVELS[-1], "sd": sd, "low": mean - NORMAL * sd, "high": mean + NORMAL * sd}


def disagrees(region: Mapping[str, Any]) -> bool | None:
    """Tell whether a correction by labels lies outside of the interval of a region; None where one is missing."""
    interval, gtm = region.get("interval"), region.get("gtm")
    if interval is None or gtm is None:
        return None
    return not interval["low"] <= gtm <= interval["high"]
