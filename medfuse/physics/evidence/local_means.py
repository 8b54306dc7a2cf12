"""Local means: what a small spot of the residual tells of an estimate, where it is more than noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medfuse.physics.models.source import SourceModel
from medfuse.physics.operators.blur import GaussianBlur

_WINDOW = 2.0  # std, px, of the window in which a residual is settled in place
_ROUNDS = 3  # of settling in place: each takes a part of what the one before has left


def settled_in_place(model: SourceModel, x: Tensor, deviations: float) -> Tensor:
    """Return an estimate with what the local mean of its residual tells added to it, by the nonnegative garrote.

    The best estimate of least squares shrinks what is rare: a small cold spot is filled in. So the residual is averaged
    with a Gaussian window of 2 px; of a mean m whose noise has the variance v, `m (1 - k^2 v / m^2)` is added where
    that is positive, three times. Under an operator that moves things, `A'` of it.

    Args:
        model: Any observation model. Data coarser than the image, noise that a later step has coloured, and data for
            which no noise is stated say nothing.
        x: The estimate, **[B, C, *spatial]**, fractions of full range.
        deviations: The number k of standard deviations by which a local mean must exceed its noise to be believed.

    Reference:
        docs/explanation/method.md, "Cold spots settle in place";
        Breiman, Better subset regression using the nonnegative garrote (Technometrics 1995).
    """
    noises = model.degradation.noises
    if not noises or not all(after.is_identity for _, after in noises) or tuple(model.y.shape[2:]) != model.spatial:
        return x
    variance = model.sigma().square()
    window, narrower = GaussianBlur(_WINDOW), GaussianBlur(_WINDOW / math.sqrt(2))
    noise = narrower.forward(variance) / (2 * math.sqrt(math.pi) * _WINDOW) ** (x.ndim - 2)
    least = (deviations**2 * noise).clamp_min(torch.finfo(noise.dtype).tiny)  # square of a mean that is believed
    for _ in range(_ROUNDS):
        mean = window.forward(model.pixels(model.residual(x)))
        x = x + model.placed(mean * (1 - least / torch.maximum(mean.square(), least)))
    return x
