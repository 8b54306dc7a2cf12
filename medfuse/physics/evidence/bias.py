"""Bias of the noise: by how much the mean of many observations lies above the noiseless signal."""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.physics.models.source import Bias, SourceModel
from medfuse.physics.noise import clipped_mean

_AROUND = 5  # px, side of a neighbourhood: all of 25 values are cut at once hardly ever, unless a mask blanked them


def bias_of_noise(model: SourceModel) -> Bias | None:
    """Return the map from a noiseless signal to the bias of its observation, `A x -> E[y] - A x`; None for no bias.

    Both are **[B, C, *data]**. There are three cases:

    - Rician noise, which is biased by itself: the mean of `|A x + sigma n|`, then that of what is cut off below 0.
    - Gaussian noise of which values below 0 were set to 0 as the data were stored, so that 0 is exactly their least
      value: `E[max(A x + sigma n, 0)] - A x`.
    - All else, noise that depends on the signal included: none.

    Where all data of a neighbourhood of 5 px are 0, something else has blanked them, a mask or a border: nothing is
    known there, and the bias is 0. Noise of an average was cut in each of the images averaged, with their std.

    Args:
        model: Any observation model. It is asked for its data and for the std of its noise.
    """
    noises = [noise for noise, _ in model.degradation.noises]
    if not noises or any(noise.depends_on_signal for noise in noises):
        return None
    y = model.y
    cut = y.amin(tuple(range(1, y.ndim)), keepdim=True) == 0
    if any(noise.biased for noise in noises):
        cut = torch.ones_like(cut)
    elif not bool(cut.any()):
        return None
    pool = F.max_pool2d if y.ndim == 4 else F.max_pool3d
    known = (pool(y, _AROUND, stride=1, padding=_AROUND // 2) > 0) & cut
    std = model.sigma().flatten(2).amax(2).reshape(-1, y.shape[1], *([1] * (y.ndim - 2)))
    std = std / noises[0].share

    def bias(signal: Tensor) -> Tensor:
        mean = reduce(lambda v, noise: noise.mean(v), noises, signal)
        return clipped_mean(mean, std).sub_(signal).mul_(known)

    return bias
