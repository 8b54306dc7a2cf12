"""Slow waves: where the slowest octaves of a residual prove an estimate off, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medfuse.physics.models.source import SourceModel

LEAST_SIDE = 32
"""Side of the data, px, below which nothing is slow, and bands of frequencies hold too little."""

_OCTAVES = (0.0, 1 / 128, 1 / 64, 1 / 32, 1 / 16)  # where each slow octave ends, in units of the Nyquist frequency
_LEAST_GAIN = 1e-5  # no division by less


def settled_slowly(model: SourceModel, x0: Tensor) -> Tensor:
    """Return an estimate whose slowest waves are where the data prove them to be.

    In the mean, and in each octave of waves longer than 32 px of the data that keep half of their power, the power of
    the residual is compared with that of the noise. Where it is more than two standard deviations above, the difference
    is taken for the error variance P of the octave, which is updated with it: `x0 + A' P (P A A' + R)^-1 (y - A x0)`,
    in the slow waves alone, where `A A'` and R count as diagonal. So totals and the means of large regions are those of
    the data, whatever the network has learned, and hardly any noise comes along.

    Args:
        model: Any observation model. Data with a side below 32 px say nothing.
        x0: The estimate, **[B, C, *spatial]**, fractions of full range.

    Reference:
        docs/explanation/method.md, "Slow waves settle";
        Mehra, On the identification of variances and adaptive Kalman filtering (IEEE TAC 1970).
    """
    sizes = model.y.shape[2:]
    if min(sizes) < LEAST_SIDE:
        return x0
    counts = [slow_count(n) for n in sizes]
    gain, noise = model.slow_spectrum(counts)
    r = model.slow_residual(x0, gain)
    gram, noise = gain.expand_as(r), noise.expand_as(r)
    variance = octave_variances(r, gram, noise, sizes)
    return x0 + model.slow_back(variance * r / (variance * gram + noise), gain)


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
