"""What the network sees: twelve images and twenty-five numbers, in order and by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medfuse.physics import JointObservation, SourceModel

CHANNELS = (
    *("state of source 1", "state of source 2", "state of the fused image"),  # x / sqrt(abar)
    *("regularised inverse of source 1", "regularised inverse of source 2"),  # z
    *("gradient of source 1", "gradient of source 2"),  # A' (A v - y)
    *("noise std of source 1", "noise std of source 2"),
    *("estimate of source 1", "estimate of source 2", "estimate of the fused image"),  # v
)
"""Input channels of the denoiser."""

BANDS = (0.06, 0.15, 0.3, 0.5, 0.8)
"""Frequencies, in units of the Nyquist frequency, at which an operator is described to the network."""

DESCRIPTION = (
    *("noise", "decimation"),
    *(f"pass band {band} of {axis}" for axis in ("rows", "columns") for band in BANDS),
)
CONDITION = ("time", *(f"{feature} of source {i}" for i in (1, 2) for feature in DESCRIPTION))
"""Condition features of the denoiser."""

Axes = tuple[int, int]


def features(
    observation: JointObservation,
    state: Sequence[Tensor],
    inverses: Sequence[Tensor],
    sigmas: Sequence[Tensor],
    estimate: Sequence[Tensor],
) -> list[Tensor]:
    """Return the images that the network sees, each **[B, 1, *spatial]**, in the order of `CHANNELS`.

    Args:
        observation: Both sources, bound to their data.
        state: `x / sqrt(abar)` of source 1, source 2 and fused.
        inverses: `z` of each source.
        sigmas: Std of the noise of each source, fraction of full range.
        estimate: `v`, the clean state as far as it is known.
    """
    pulls = [
        m.gradient(v) * (math.prod(m.spatial) / math.prod(m.y.shape[2:]))
        for m, v in zip(observation, estimate, strict=False)
    ]
    return [*state, *inverses, *pulls, *sigmas, *estimate]


def describe(model: SourceModel, *, plane: Axes = (0, 1)) -> Tensor:
    """Describe a degradation to the network, **[B, 12]**: noise, scale and pass bands, in the order of `DESCRIPTION`.

    - Noise: `0.5 log(sigma) + 2` of its root mean square std, a fraction of full range. About -1 to 1 over the range of
      training; the weights know no other scale, so it is frozen with them.
    - Decimation: log2 of its factor per axis.
    - Pass bands: the power with which cosine waves of five frequencies pass along each axis of the plane.

    Args:
        model: The observation model of a source.
        plane: The two spatial axes of the image that the network sees.
    """
    like = model.y
    batch, ndim = len(like), like.ndim - 2
    omega = torch.tensor(BANDS, device=like.device, dtype=like.dtype) * math.pi
    power = model.operator.power_gains(omega, model.spatial)[:, list(plane)].to(like).flatten(1).expand(batch, -1)
    sigma = model.sigma().square().flatten(1).mean(1, keepdim=True).log() * 0.25 + 2.0
    shrink = math.log2(math.prod(model.operator.in_spatial(model.y.shape[2:])) / math.prod(model.y.shape[2:])) / ndim
    return torch.cat([sigma, torch.full_like(sigma, shrink), power], 1)
