"""Numbers of a PET: regional bias, contrast recovery, total. In the unit of the image, never on a display scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medfuse.errors import GeometryError, ImageError
from medfuse.metrics.filters import TINY, ratio, root

_CONTRASTS = ("contrast_ref", "contrast_est", "CRC", "CNR_est")


def total_ratio(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the total of the estimate over that of the reference: 1 where activity is preserved.

    Args:
        reference: **[B, 1, *spatial]**, any unit (SUV, Bq/ml).
        estimate: The same.

    Returns:
        **[B]**; NaN where the reference's total is 0.

    Raises:
        GeometryError: If the shapes differ.
        ImageError: If a value is NaN or infinity.
    """
    r, e = _volumes(reference=reference, estimate=estimate)
    return ratio(e.flatten(1).sum(1), r.flatten(1).sum(1))


def regional_quantitation(
    reference: Tensor,
    estimate: Tensor,
    labels: Tensor,
    *,
    regions: Sequence[int] | None = None,
    background: int | None = None,
) -> dict[str, Tensor]:
    """Compare a PET with its truth, region by region.

    Args:
        reference: Truth **[B, 1, *spatial]**, any unit (SUV, Bq/ml).
        estimate: The same.
        labels: Region of each voxel, integers **[B, 1, *spatial]**, 0 for none.
        regions: Labels to report, K of them; by default all above 0 that occur in the batch, ascending.
        background: Label of the background of contrasts; without it, those are NaN.

    Returns:
        `regions` **[K]**, and each **[B, K]**, NaN where a region is absent or a division has no sense:
        `n` voxels; `mean_ref`, `mean_est`, `std_est` in the unit; in percent of the reference: `bias_pct` of the mean,
        `max_bias_pct` of the maximum, `rmse_pct`; `cov_ref`, `cov_est`, std over mean within the region; against the
        background, `contrast_ref` and `contrast_est`, the ratio of the means less 1, their ratio `CRC` (contrast
        recovery, 1 at best), and `CNR_est`, the difference of the means over the std of the background.

    Raises:
        GeometryError: If the shapes differ.
        ImageError: If a value is NaN or infinity, or labels are no integers.

    Reference:
        NEMA NU 2, Performance measurements of positron emission tomographs: image quality.
    """
    r, e = _volumes(reference=reference, estimate=estimate)
    if labels.shape != reference.shape:
        raise GeometryError(f"labels must be {tuple(reference.shape)}, got {tuple(labels.shape)}; resample them.")
    if labels.is_floating_point() and not bool((labels == labels.round()).all()):
        raise ImageError("labels must be integers, got fractions; round them.")
    marks = labels.as_subclass(Tensor).to(torch.int64)
    regions = [int(k) for k in marks.unique() if k > 0] if regions is None else list(regions)
    if not regions:
        raise ImageError("labels must hold a region, got none above 0; check them.")
    columns = [_region(r, e, marks == k) for k in regions]
    result = {k: torch.stack([c[k] for c in columns], 1) for k in columns[0]}
    contrasts = _contrasts(result, None if background is None else _region(r, e, marks == background))
    if background in regions:
        for values in contrasts.values():
            values[:, regions.index(background)] = math.nan
    return {"regions": torch.tensor(regions, device=r.device), **result, **contrasts}


def _contrasts(regions: dict[str, Tensor], background: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the numbers that need a background, each **[B, K]**."""
    if background is None:
        return {k: torch.full_like(regions["n"], math.nan) for k in _CONTRASTS}
    other = {k: v[:, None] for k, v in background.items()}
    contrast_ref = ratio(regions["mean_ref"], other["mean_ref"]) - 1
    contrast_est = ratio(regions["mean_est"], other["mean_est"]) - 1
    recovery = ratio(contrast_est, torch.where(contrast_ref.abs() > 1e-9, contrast_ref, 0.0))
    to_noise = (regions["mean_est"] - other["mean_est"]) / other["std_est"].clamp_min(TINY)
    return dict(zip(_CONTRASTS, (contrast_ref, contrast_est, recovery, to_noise), strict=True))


def _region(reference: Tensor, estimate: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the numbers of one region, each **[B]**."""
    r, e, m = reference.flatten(1), estimate.flatten(1), mask.flatten(1)
    count = m.sum(1).to(r)

    def average(x: Tensor) -> Tensor:
        return ratio((x * m).sum(1), count)

    def largest(x: Tensor) -> Tensor:
        return torch.where(m, x, -math.inf).amax(1)

    mean_r, mean_e = average(r), average(e)
    std_r, std_e = (root(average((x - mu[:, None]).square())) for x, mu in ((r, mean_r), (e, mean_e)))
    absent = count == 0
    return {
        "n": count,
        "mean_ref": mean_r,
        "mean_est": mean_e,
        "std_est": std_e,
        "bias_pct": 100 * (ratio(mean_e, mean_r) - 1),
        "max_bias_pct": torch.where(absent, math.nan, 100 * (ratio(largest(e), largest(r)) - 1)),
        "rmse_pct": 100 * ratio(root(average((e - r).square())), mean_r),
        "cov_ref": ratio(std_r, mean_r),
        "cov_est": ratio(std_e, mean_e),
    }


def _volumes(**images: Tensor) -> list[Tensor]:
    shapes = {name: tuple(image.shape) for name, image in images.items()}
    if len(set(shapes.values())) > 1 or any(len(s) < 3 or s[1] != 1 or 0 in s for s in shapes.values()):
        raise GeometryError(f"reference and estimate must both be [B, 1, *spatial], got {shapes}; resample one.")
    volumes = [image.as_subclass(Tensor).to(torch.float64) for image in images.values()]
    if not all(bool(torch.isfinite(v).all()) for v in volumes):
        raise ImageError("reference and estimate must be finite, got NaN or infinity; repair them.")
    return volumes
