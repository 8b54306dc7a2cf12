"""Observations on the grid of the image: interpolated, replicated, and taken back."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from medfuse.physics.operators.base import LinearOperator


def lift(y: Tensor, operator: LinearOperator, spatial: Sequence[int]) -> Tensor:
    """Interpolate an observation linearly to the grid of the image (the observation itself on an equal grid)."""
    natural = operator.in_spatial(y.shape[2:])
    if tuple(natural) != tuple(y.shape[2:]):
        y = F.interpolate(y, size=natural, mode="bilinear" if y.ndim == 4 else "trilinear", align_corners=False)
    return crop(y, spatial)


def replicate(y: Tensor, operator: LinearOperator, spatial: Sequence[int]) -> Tensor:
    """Repeat each sample of a low-resolution observation over its block, cropped to the grid of the image."""
    for d, (big, small) in enumerate(zip(operator.in_spatial(y.shape[2:]), y.shape[2:], strict=True)):
        y = y.repeat_interleave(big // small, d + 2)
    return crop(y, spatial)


def unreplicate(image: Tensor, operator: LinearOperator) -> Tensor:
    """Take an observation back from its replicated form: the mean of each block.

    A last block that the grid cuts off is filled with its own last samples. That is exact for an image that was
    replicated; for any other, as a restored one, the mean of a cut block is that of what is left of it, unevenly
    weighed.
    """
    small = operator.out_spatial(image.shape[2:])
    factors = [big // n for big, n in zip(operator.in_spatial(small), small, strict=True)]
    if all(f == 1 for f in factors):
        return image
    widths = [f * n - size for f, n, size in zip(factors, small, image.shape[2:], strict=True)]
    image = F.pad(image, [w for width in reversed(widths) for w in (0, width)], mode="replicate")
    return F.avg_pool2d(image, factors) if len(factors) == 2 else F.avg_pool3d(image, factors)


def crop(x: Tensor, spatial: Sequence[int]) -> Tensor:
    """Cut the first samples of each axis of `x` **[B, C, *larger]**, to **[B, C, *spatial]**."""
    for d, n in enumerate(spatial):
        x = x.narrow(d + 2, 0, n)
    return x
