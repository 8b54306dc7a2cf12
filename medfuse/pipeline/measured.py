"""What is measured of a case: values of regions, given and restored, beside the classical corrections by labels."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfuse.io.labels import region_label
from medfuse.physics import Degradation, Downsample, GaussianBlur, Noise
from medfuse.physics.operators.blur import FWHM_PER_SIGMA
from medfuse.regions import Draws, add_intervals, add_invented, correct_by_labels, region_values
from medfuse.transforms.spatial import FIELD_OF_VIEW

_ROUNDING = 1e-6  # voxels

NAMES, KIND, WORLD, OUTSIDE = "region_names", "region_kind", "region_world", "region_outside"
"""Entries of the meta data of regions: their names, as JSON; what the file was; in whose world they lay; which share of
each lies outside of the grid of the results, as JSON."""
EMPTY, LEFT_OUT = "region_empty", "region_left_out"
"""Likewise, names: of what a DICOM file draws and no voxel lies in; of what encloses no volume, such as points."""
CODES = "region_codes"
"""Likewise, as JSON: what they are in the codes of the DICOM file that they come from."""


def mask_of(data: Mapping[Hashable, Any], shape: Sequence[int], *, keys: Sequence[str] = ()) -> Tensor | None:
    """Return the labels of a case **[X, Y, Z]**, or **[L, X, Y, Z]** where regions overlap; None without.

    Args:
        data: What the bundle's transforms know of it.
        shape: Of the grid of the results.
        keys: Names of the sources: what lies outside of the field of view of one of them belongs to no region.
    """
    if data.get("mask") is None:
        return None
    mask = torch.as_tensor(data["mask"]).as_subclass(Tensor).reshape(-1, *shape)
    inside = measured_in(data, shape, keys)
    if inside is not None:
        mask = mask * torch.from_numpy(inside)
    return mask[0] if len(mask) == 1 else mask


def measured_in(data: Mapping[Hashable, Any], shape: Sequence[int], keys: Sequence[str]) -> np.ndarray | None:
    """Return which voxels lie in the field of view of each source, bool **[X, Y, Z]**; None where all do."""
    found = None
    for meta in (data[key].meta for key in keys if hasattr(data.get(key), "meta")):
        if FIELD_OF_VIEW in meta:
            text = meta[FIELD_OF_VIEW]
            affine, own = json.loads(text if isinstance(text, str) else text[0])
            grid = np.asarray(next(data[key] for key in keys).affine, dtype=np.float64)
            inside = within(np.linalg.solve(np.asarray(affine), grid), own, shape)
            found = inside if found is None else found & inside
    return None if found is None or found.all() else found


def unmeasured(data: Mapping[Hashable, Any], shape: Sequence[int], keys: Sequence[str]) -> dict[int, float] | None:
    """Return which share of each region lies outside of the field of view of a source; None without regions."""
    whole, rest = mask_of(data, shape), mask_of(data, shape, keys=keys)
    if whole is None or rest is None:
        return None
    found: dict[int, float] = {}
    for label in (int(v) for v in torch.unique(whole.round()) if v > 0):
        lost = 1.0 - float((rest.round() == label).sum() / (whole.round() == label).sum())
        found |= {label: lost} if lost > 0 else {}
    return found


def within(index: np.ndarray, size: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Tell which voxels of a grid have their centre in the field of view of another, **[*shape]**.

    Args:
        index: **[4, 4]**, from the voxels of the grid to those of the other.
        size: Of the other.
        shape: Of the grid.
    """
    inside = np.ones(tuple(shape), bool)
    for row, most in zip(index, size, strict=False):
        i, j, k = (step * np.arange(n) for step, n in zip(row, shape, strict=False))
        for plane, first in zip(inside, i, strict=True):  # of all at once the places would take eight bytes a voxel
            place = first + j[:, None] + k + row[3]
            plane &= (place >= -0.5 - _ROUNDING) & (place <= most - 0.5 + _ROUNDING)
    return inside


def measure_regions(
    data: Mapping[Hashable, Any],
    given: Tensor,
    restored: Tensor,
    *,
    affine: Any,
    keys: Sequence[str] = (),
    psf: Sequence[float] | None = None,
    reference_region: str | int | None = None,
    drawn: Draws | None = None,
    invented: Tensor | None = None,
    gate: Tensor | None = None,
) -> list[dict[str, Any]]:
    """Return the values of a source in the regions of a case, for its record.

    What lies outside of the field of view of a source, where there are zeros for it, counts in none of them.

    Args:
        data: What the bundle's transforms know of it.
        given: The source **[X, Y, Z]**, in its unit; source 2 where not said otherwise.
        restored: The same, restored.
        affine: **[4, 4]**, voxel index to mm.
        keys: Names of the sources.
        psf: FWHM of the blur that was stated of source 2, along each axis, mm; None for none.
        reference_region: Label or name of the region by whose mean the others are divided (SUVR).
        drawn: What intervals follow from; None for none.
        invented: The source restored less what its data alone say **[X, Y, Z]**, in its unit; None where unknown.
        gate: Share of the data alone in it **[X, Y, Z]**, 0..1; None where unknown.

    Returns:
        As `medfuse.regions.region_values`; with `name` where a table names a region, `codes` where a
        segmentation or a structure set says what it is, `suvr` of a reference region, and
        `gtm` and `rbv` where the blur is known, see `medfuse.regions.correct_by_labels`; and `interval` where there
        are draws, see `medfuse.regions.add_intervals`; `invented` and `gate` where they are
        known, see `medfuse.regions.add_invented`.
    """
    mask = mask_of(data, restored.shape, keys=keys)
    inside = measured_in(data, restored.shape, keys)
    regions = region_values(given, restored, affine=affine, labels=mask, inside=inside)
    if invented is not None:
        add_invented(regions, mask, invented, gate=gate, inside=inside)
    if mask is None:
        return regions
    names = {int(label): name for label, name in json.loads(data["mask"].meta.get(NAMES, "{}")).items()}
    codes = json.loads(data["mask"].meta.get(CODES, "{}"))
    for region in regions:
        region |= {"name": names[region["label"]]} if region["label"] in names else {}
        region |= {"codes": codes[str(region["label"])]} if str(region["label"]) in codes else {}
    if reference_region is not None:
        labels = [region["label"] for region in regions if region["label"] is not None]
        wanted = region_label(reference_region, labels, names)
        by = next(region for region in regions if region["label"] == wanted)
        for state in ("given", "restored"):
            divisor = by[state]["mean"]
            for region in regions:
                region[state]["suvr"] = region[state]["mean"] / divisor if divisor > 0 else None
    corrected = None if psf is None else correct_by_labels(given, mask, affine=affine, fwhm_mm=psf, inside=inside)
    if corrected is not None:
        for region in regions[1:]:
            region |= {"gtm": corrected.gtm[region["label"]], "rbv": corrected.rbv[region["label"]]}
    if drawn is not None:
        add_intervals(regions, mask, drawn)
    return regions


def psf_mm(
    part: Degradation, spacing: Sequence[float], *, spatial_dim: int, narrowed: float | None = None
) -> tuple[float, float, float] | None:
    """Return the FWHM of the blur that was stated of a source, along each axis of its volume, mm.

    Variances add up; the average over s pixels of a decimation has `(s^2 - 1) / 12` pixels^2.

    Args:
        part: What happened to the source, in pixels of a slice.
        spacing: Voxel size **[3]**, mm.
        spatial_dim: Axis along which the volume is sliced; nothing is blurred along it.
        narrowed: Share of its width to which a blur was undone, where the data show it to be narrower.

    Returns:
        None where nothing is blurred, or by what is no Gaussian and no average.
    """
    variance, pixel = np.zeros(2), np.ones(2)
    for step in part.known:
        if isinstance(step, GaussianBlur):
            sigma = np.broadcast_to(np.asarray(step.sigma, dtype=np.float64)[0], 2) * (narrowed or 1.0)
            variance += (sigma * pixel) ** 2
        elif isinstance(step, Downsample):
            factors = np.array(step.factors(2), dtype=np.float64)
            variance += (factors**2 - 1) / 12 * pixel**2
            pixel = pixel * factors
        elif not isinstance(step, Noise):
            return None
    if not variance.any():
        return None
    widths = [math.sqrt(v) * FWHM_PER_SIGMA for v in variance]
    widths.insert(spatial_dim, 0.0)
    first, second, third = (w * float(s) for w, s in zip(widths, spacing, strict=True))
    return first, second, third
