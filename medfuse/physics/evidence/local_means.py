"""Local means: what a small spot of the residual tells of an estimate, where it is more than noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medfuse.physics.models.source import SourceModel
from medfuse.physics.operators.blur import GaussianBlur

_WINDOW = 2.0  # std, px, of the window in which a residual is settled in place
_NEIGHBOURHOOD = 2.0  # std, px, of the neighbourhood over which the power of local means is looked at
_WINDOW_OF, _SQUARED = GaussianBlur(_WINDOW), GaussianBlur(_WINDOW / math.sqrt(2))
_AROUND = GaussianBlur(_NEIGHBOURHOOD)
_ROUNDS = 3  # of settling in place: each takes a part of what the one before has left


def settled_in_place(model: SourceModel, x: Tensor, deviations: float) -> Tensor:
    """Return an estimate with what the local mean of its residual tells added to it, by firm shrinkage.

    The best estimate of least squares shrinks what is rare: a small cold spot is filled in. So the residual is averaged
    with a Gaussian window of 2 px, to means m whose noise has the variance v. Where they are noise alone, the mean q of
    `m^2 / v` over a neighbourhood is about 1; where something was filled in, all of them stand out together. So the
    share `q / k^2 - 1`, 0 to 1, of m is added, three times, with the share of the first. Under an operator that moves
    things, `A'` of it.

    Args:
        model: Any observation model. Data coarser than the image, noise that a later step has coloured, and data for
            which no noise is stated say nothing.
        x: The estimate, **[B, C, *spatial]**, fractions of full range.
        deviations: The number k of standard deviations by which the local means of a neighbourhood must exceed their
            noise, in the root mean square, to be believed; with `sqrt(2) k` they are believed whole.

    Reference:
        docs/explanation/method.md, "Cold spots settle in place";
        Gao and Bruce, WaveShrink with firm shrinkage (Statistica Sinica 1997); of neighbours, as in Cai and Silverman,
        Incorporating information on neighbouring coefficients into wavelet estimation (Sankhya 2001).
    """
    if not model.degradation.white or tuple(model.y.shape[2:]) != model.spatial:
        return x
    variance = model.sigma().square()
    noise = _SQUARED.forward(variance) / (2 * math.sqrt(math.pi) * _WINDOW) ** (x.ndim - 2)
    noise = noise.clamp_min(torch.finfo(noise.dtype).tiny)
    least = max(deviations**2, torch.finfo(noise.dtype).tiny)
    share = None
    for _ in range(_ROUNDS):
        mean = _WINDOW_OF.forward(model.pixels(model.residual(x)))
        if share is None:
            share = (_AROUND.forward(mean.square() / noise) / least - 1).clamp(0, 1)
        x = x + model.placed(mean * share)
    return x
