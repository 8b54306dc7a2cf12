"""The slowest waves of an image, octave by octave: where their residual proves an estimate off, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_SIDE = 32
"""Side of the data, px, below which nothing is slow."""

_OCTAVES = (0.0, 1 / 128, 1 / 64, 1 / 32, 1 / 16)  # where each slow octave ends, in units of the Nyquist frequency
_LEAST_GAIN = 1e-5  # no division by less


def slow_count(n: int) -> int:
    """Return how many of the n coefficients along an axis are slow."""
    return math.ceil(n * _OCTAVES[-1]) + 1


@torch.no_grad()
def octave_variances(r: Tensor, gram: Tensor, noise: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the error variance of an estimate in each of its slow octaves, 0 where none is proven.

    Args:
        r: The lowest cosine coefficients of the residual, **[B, C, *low]**.
        gram: Eigenvalues of `A A'` there, of the same shape.
        noise: Variance of the noise there, of the same shape.
        sizes: Number of all coefficients along each axis.

    Returns:
        The variance of each coefficient, of the same shape.
    """
    axes = [torch.arange(k, device=r.device, dtype=r.dtype) / n for k, n in zip(r.shape[2:], sizes, strict=True)]
    rate = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    octave = torch.bucketize(rate, rate.new_tensor(_OCTAVES))
    passed = gram >= 0.5 * gram.flatten(2)[..., :1].reshape(*gram.shape[:2], *([1] * len(sizes)))
    variances = torch.zeros_like(r)
    spatial = tuple(range(2, r.ndim))
    for k in range(len(_OCTAVES)):
        member = (passed & (octave == k)).to(r)
        count = member.sum(spatial, keepdim=True).clamp_min(1)
        power = (member * r.square() / noise).sum(spatial, keepdim=True) / count
        excess = (member * (r.square() - noise) / gram.clamp_min(_LEAST_GAIN)).sum(spatial, keepdim=True) / count
        proven = power > 1 + 2 * (2 / count).sqrt()
        variances += member * torch.where(proven, excess.clamp_min(0), 0.0)
    return variances
