"""Descriptive statistics of the fused image, and its correlation with the sources."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medfuse.metrics.filters import as_levels, mean, ratio, root, total


def standard_deviation(fused: Tensor, *, data_range: float) -> Tensor:
    """Return SD, the population standard deviation, on 0..255.

    Args:
        fused: **[B, 1, H, W]**.
        data_range: Full range of the image.

    Returns:
        **[B]**.
    """
    (f,) = as_levels(data_range, fused=fused)
    return root(mean((f - f.mean((1, 2, 3), keepdim=True)).square()))


def spatial_frequency(fused: Tensor, *, data_range: float) -> Tensor:
    """Return SF, the root of the mean squared differences along rows plus those along columns, on 0..255.

    Args:
        fused: **[B, 1, H, W]**.
        data_range: Full range of the image.

    Returns:
        **[B]**.

    Reference:
        Eskicioglu and Fisher, Image quality measures and their performance (IEEE Trans. Commun. 1995).
    """
    (f,) = as_levels(data_range, fused=fused)
    return root(mean(f.diff(dim=3).square()) + mean(f.diff(dim=2).square()))


def average_gradient(fused: Tensor, *, data_range: float) -> Tensor:
    """Return AG, the mean of `sqrt((gx^2 + gy^2) / 2)`, on 0..255 per pixel.

    Differences are central, one-sided at the border.

    Args:
        fused: **[B, 1, H, W]**.
        data_range: Full range of the image.

    Returns:
        **[B]**.

    Reference:
        Cui et al., Detail preserved fusion of visible and infrared images (Opt. Commun. 2015).
    """
    (f,) = as_levels(data_range, fused=fused)
    gy, gx = torch.gradient(f, dim=(2, 3))
    return mean(root((gx * gx + gy * gy) / 2))


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Return Pearson's correlation of two batches **[B, 1, H, W]**, as **[B]**; NaN where one is constant."""
    x, y = (v - v.mean((1, 2, 3), keepdim=True) for v in (x, y))
    return ratio(total(x * y), root(total(x * x) * total(y * y)))


def correlation_coefficient(source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float) -> Tensor:
    """Return CC, the mean of the correlations of the fused image with both sources.

    Args:
        source1: **[B or 1, 1, H, W]**.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, -1..1; NaN where an image is constant.
    """
    a, b, f = as_levels(data_range, source1=source1, source2=source2, fused=fused)
    return (correlation(a, f) + correlation(b, f)) / 2


def sum_of_correlations_of_differences(source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float) -> Tensor:
    """Return SCD, `r(f - b, a) + r(f - a, b)`: does what one source adds look like the other?

    Args:
        source1: **[B or 1, 1, H, W]**.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, -2..2. NaN where it is not defined: the fused image differs from a source by a constant (a copy of one
        source, say), or a source is constant.

    Reference:
        Aslantas and Bendes, A new image quality metric for image fusion (AEU 2015).
    """
    a, b, f = as_levels(data_range, source1=source1, source2=source2, fused=fused)
    value = correlation(f - b, a) + correlation(f - a, b)
    copied = (_constant(f - a) | _constant(f - b)) | (_constant(a) | _constant(b))
    return torch.where(copied, math.nan, value)


def _constant(x: Tensor) -> Tensor:
    """Tell which samples vary by no more than rounding, **[B]**."""
    return x.amax((1, 2, 3)) - x.amin((1, 2, 3)) < 1e-9
