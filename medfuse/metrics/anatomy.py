"""What a fused image keeps of the anatomy under the uptake, and of the uptake: a mean over the image hides it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medfuse.metrics.filters import PEAK, as_levels, gaussian_window, ratio, root, smooth_mirrored, total

_DETAIL, _HOT, _UPTAKE = 3.0, 2.0, 4.0  # px, std of the windows
_SHARE, _ANATOMY, _BODY = 0.45, 0.05, 0.1  # of the maximum; of full range, twice
_LEAST = 100  # pixels of a hot region
_ALIKE = 1e-9  # of the product of both energies: details of which no weights can be told


def anatomy_in_uptake(anatomy: Tensor, function: Tensor, fused: Tensor, *, data_range: float) -> dict[str, Tensor]:
    """Return what the fused image keeps of the detail of both sources in the hot region.

    With `G_s` a Gaussian window of s px (cut at four s, half-sample reflection), the hot region `H` is where `G_2
    function` is above 0.45 of its maximum and the anatomy above 0.05 of full range, and the detail of an image is
    `D x = x - G_3 x`. Then over H

        anatomy_corr = r(D anatomy, D fused)                    Pearson's correlation
        anatomy_gain, function_gain = argmin_{g, h} |D fused - g D anatomy - h D function|^2

    Args:
        anatomy: Source 1, **[B or 1, 1, H, W]**.
        function: Source 2, **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        Each **[B]**; NaN where H has less than 100 pixels, or a detail is constant there. The gains are NaN where both
        sources have the same detail, too.
    """
    a, p, f = as_levels(data_range, anatomy=anatomy, function=function, fused=fused)
    smooth = smooth_mirrored(p, _smoothing(_HOT))
    hot = (smooth > _SHARE * smooth.amax((2, 3), keepdim=True)) & (a > _ANATOMY * PEAK)
    number = total(hot.double())
    enough = number >= _LEAST
    taps = _smoothing(_DETAIL)
    da, dp, df = (torch.where(hot, x - smooth_mirrored(x, taps), 0.0) for x in (a, p, f))

    aa, pp, ap, af, pf = total(da * da), total(dp * dp), total(da * dp), total(da * df), total(dp * df)
    det = aa * pp - ap * ap
    det = torch.where(det > _ALIKE * aa * pp, det, 0.0)
    mean_a, mean_f = (total(x) / number.clamp_min(1) for x in (da, df))
    ca, cf = (torch.where(hot, x - m[:, None, None, None], 0.0) for x, m in ((da, mean_a), (df, mean_f)))
    values = {
        "anatomy_corr": ratio(total(ca * cf), root(total(ca * ca) * total(cf * cf))),
        "anatomy_gain": ratio(pp * af - ap * pf, det),
        "function_gain": ratio(aa * pf - ap * af, det),
    }
    return {name: torch.where(enough, value, math.nan) for name, value in values.items()}


def uptake_rank(anatomy: Tensor, function: Tensor, fused: Tensor, *, data_range: float) -> Tensor:
    """Return Spearman's rank correlation of fused image and function, both smoothed by 4 px, in the body.

    The body is where anatomy or function, smoothed by 2 px, is above 0.1 of full range. Equal values share their mean
    rank.

    Args:
        anatomy: Source 1, **[B or 1, 1, H, W]**.
        function: Source 2, **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, -1..1; NaN where either is constant.

    Reference:
        Spearman, The proof and measurement of association between two things (Am. J. Psychol. 1904).
    """
    a, p, f = as_levels(data_range, anatomy=anatomy, function=function, fused=fused)
    narrow, wide = _smoothing(_HOT), _smoothing(_UPTAKE)
    body = (smooth_mirrored(a, narrow) > _BODY * PEAK) | (smooth_mirrored(p, narrow) > _BODY * PEAK)
    images = [smooth_mirrored(x, wide) for x in (f, p)]
    body, *images = torch.broadcast_tensors(body, *images)
    return torch.stack([_spearman(*(x[i][body[i]] for x in images)) for i in range(len(body))])


def _smoothing(std: float) -> list[float]:
    """Return the taps of a Gaussian window that ends at four standard deviations."""
    return gaussian_window(2 * int(4 * std + 0.5) + 1, std)


def _spearman(x: Tensor, y: Tensor) -> Tensor:
    """Return the rank correlation of two lists."""
    x, y = (_ranks(v) for v in (x, y))
    x, y = x - x.mean(), y - y.mean()
    return ratio((x * y).sum(), ((x * x).sum() * (y * y).sum()).sqrt())


def _ranks(x: Tensor) -> Tensor:
    """Return the rank of each value; equal ones share the mean of theirs."""
    _, place, counts = torch.unique(x, return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0).double() - (counts - 1) / 2
    return ranks[place]
