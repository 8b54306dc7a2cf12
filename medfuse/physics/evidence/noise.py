"""Proven noise: by how much the data show that the stated noise is understated."""

from __future__ import annotations

import torch
from torch import Tensor

from medfuse.physics.models.source import SourceModel

_SILENT = 1e-5  # power gain below which nothing of an image passes
_DEVIATIONS = 4  # of the mean power of what is noise alone, by which the stated noise must be exceeded


@torch.no_grad()
def proven_excess(model: SourceModel) -> Tensor:
    """Return the factor, 1 or more, by which the data prove the variance of the noise to be understated, **[B]**.

    A plug-in noise estimate: in the n cosine waves k that the operator lets through with a power `(A A')_kk` below
    1e-5, the data `c_k` are noise alone, whatever the image. So `p = 1/n sum_k c_k^2 / R_kk` is 1 for noise as stated,
    with the std `sqrt(2 / n)`. Where `p > 1 + 4 sqrt(2 / n)` the data are believed: the factor is p; else it is 1.
    Noise that is understated would be taken for the image, and blown up.

    Args:
        model: Any observation model, of the stated noise. Where nothing is silent, as without a blur, nothing is known.
    """
    if model.operator.is_identity:
        return model.y.new_ones(len(model.y))
    data = model.waves()
    silent = (model.gains(model.operator) < _SILENT).expand_as(data)
    count = silent.flatten(1).sum(1)
    noise = torch.where(silent, data, 0.0)
    power = (noise.square() / model.noises()).flatten(1).sum(1) / count.clamp_min(1)
    proven = power > 1 + _DEVIATIONS * (2 / count.clamp_min(1)).sqrt()
    return torch.where(proven & (count > 0), power, torch.ones_like(power))
