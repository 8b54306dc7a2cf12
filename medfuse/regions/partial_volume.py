"""Corrections for partial volumes by labels, the classical ones, beside which a restoration can be held.

    GTM:  y_i = sum_j w_ij t_j,    w_ij the mean in region i of the blurred indicator of region j
    RBV:  x   = y s / (h * s),     s the image in which each region j has its value t_j of the GTM

with h the point spread function (PSF). Both take each region for uniform, what has no label for one region more, and
the labels for true: where a label is wrong, or a lesion lies in a region, they are wrong as well. Where the field of
view of the PET ends, the blur is that of what lies within over its share, `(h * s) / (h * 1)`.

Reference:
    Rousset, Ma and Evans, Correction for partial volume effects in PET: principle and validation (J Nucl Med 1998).
    Thomas et al., The importance of appropriate partial volume correction for PET quantification in Alzheimer's disease
    (Eur J Nucl Med Mol Imaging 2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import find_objects, gaussian_filter

from medfuse.errors import GeometryError
from medfuse.regions.values import as_array, labels_in, layers_of

_SIGMAS = 4.0  # reach of the Gaussian
_MOST = 300  # regions; the matrix takes one blur for each
_FWHM_PER_SIGMA = 2.3548200450309493
_SINGULAR = 1e6  # condition number from which the matrix tells regions no longer apart
_EMPTY = 1e-6  # of the largest value: below it a blurred model is no divisor


@dataclass(frozen=True)
class PartialVolume:
    """What labels and the PSF make of the values of a PET.

    Attributes:
        gtm: Value of each region by the geometric transfer matrix, by label.
        rbv: Mean of each region after region-based voxel-wise correction, by label.
    """

    gtm: dict[int, float]
    rbv: dict[int, float]


def correct_by_labels(
    image: Any, labels: Any, *, affine: Any, fwhm_mm: Sequence[float], inside: Any = None
) -> PartialVolume | None:
    """Correct a PET for the blur between regions, by their labels.

    Args:
        image: The PET **[X, Y, Z]**, as given.
        labels: Label of each voxel **[X, Y, Z]**, 0 for none.
        affine: **[4, 4]**, voxel index to mm.
        fwhm_mm: FWHM of the PSF along each axis of the volume, mm; 0 for none.
        inside: Voxels that were measured, bool **[X, Y, Z]**, which hold all labels; None for all.

    Returns:
        Both corrections; None where regions overlap, are more than 300, or cannot be told apart.

    Raises:
        GeometryError: If the shapes differ.
    """
    layers = layers_of(labels)
    if len(layers) != 1:
        return None
    y, marks = as_array(image).astype(np.float64), np.rint(layers[0]).astype(np.int64)
    if y.shape != marks.shape:
        raise GeometryError(f"Image and labels must share a grid, got {y.shape} and {marks.shape}; resample them.")
    known = labels_in(layers)
    if not known or len(known) > _MOST:
        return None
    spacing = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    sigma = np.asarray(fwhm_mm, dtype=np.float64) / _FWHM_PER_SIGMA / spacing  # voxels
    rows = np.where(marks > 0, np.searchsorted(known, marks) + 1, 0)  # 0: the rest
    seen = np.ones(y.shape) if inside is None else as_array(inside).astype(np.float64)
    share = 1.0 if inside is None else np.maximum(_blurred(seen, sigma), _EMPTY)

    def totals(values: np.ndarray) -> np.ndarray:
        return np.bincount(rows.ravel(), values.ravel(), len(known) + 1)

    counts = totals(seen)
    present = counts > 0
    measured = totals(y * seen) / np.maximum(counts, 1)
    transfer = _transfer(rows, counts, sigma, seen / share)[np.ix_(present, present)]
    if np.linalg.cond(transfer) > _SINGULAR:
        return None
    true = np.zeros(len(counts))
    true[present] = np.linalg.solve(transfer, measured[present])
    synthetic = true[rows] * seen
    blurred = _blurred(synthetic, sigma) / share
    divides = np.abs(blurred) > _EMPTY * max(float(np.abs(synthetic).max()), 1e-300)
    voxelwise = np.where(divides, y * synthetic / np.where(divides, blurred, 1.0), y)
    means = totals(voxelwise * seen) / np.maximum(counts, 1)
    return PartialVolume(
        {label: float(true[k]) for k, label in enumerate(known, 1)},
        {label: float(means[k]) for k, label in enumerate(known, 1)},
    )


def _transfer(rows: np.ndarray, counts: np.ndarray, sigma: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return `w_ij`; each region is blurred within reach of it alone, and the rest is what the others leave of 1.

    Args:
        rows: Row of each voxel **[X, Y, Z]**.
        counts: Voxels that were measured of each.
        sigma: Of the blur along each axis, voxels.
        weight: Over which share of the blur each voxel counts, 0 where nothing was measured.
    """
    size = len(counts)
    transfer = np.zeros((size, size))
    reach = np.ceil(_SIGMAS * sigma).astype(int)
    for k, box in enumerate(find_objects(rows), 1):
        if box is None:
            continue
        place = tuple(
            slice(max(s.start - r, 0), min(s.stop + r, n)) for s, r, n in zip(box, reach, rows.shape, strict=True)
        )
        own = rows[place]
        spread = _blurred((own == k).astype(np.float64), sigma) * weight[place]
        transfer[:, k] = np.bincount(own.ravel(), spread.ravel(), size) / np.maximum(counts, 1)
    transfer[:, 0] = 1.0 - transfer[:, 1:].sum(1)
    return transfer


def _blurred(image: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Blur, with half-sample reflection at the border, as the operators of `medfuse.physics`."""
    return np.asarray(gaussian_filter(image, sigma, mode="reflect", truncate=_SIGMAS))
