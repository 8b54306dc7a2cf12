"""The level of the noise of a volume: bound to an estimate, that of the air, and no more than an estimate leaves.

    sigma <- sigma min(1, chi^2 / (1 - df / n))^(1/2)

`chi^2` of the first steps of the data alone, by the measured noise, and `df` the degrees of freedom that they use up.
What such an estimate does not explain adds to its chi-square: below 1 it can only be the level that is too high.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.physics.models.volume import VolumeModel
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.physics.scanner_noise import ScannerNoise
from medfuse.volumes.proposals import Landweber, landweber

AIR = 0.02
"""Share of the brightest, below which a voxel of the data holds no activity."""


def bound(operator: ScannerSampling, y: Tensor, noise: ScannerNoise, x: Tensor) -> VolumeModel:
    """Return the model, the level of its noise from an estimate `x` and, unless stated, from the air."""
    model = VolumeModel(operator, y, noise)
    if noise.kind != "gaussian" and noise.floor == 0:
        noise = replace(noise, floor=_floor(model, x))
        model = VolumeModel(operator, y, noise, whitening=model.whitening)
    return model.at(x)


def _floor(model: VolumeModel, x: Tensor) -> float:
    """Return the std of the data in the air, rare large values cut; where there is no air, that of faint voxels."""
    signal = model.observe(x)
    top = float(signal.max())
    air = (signal < AIR * top) & model.inside
    lowest = float(model.noise.std(torch.tensor(AIR * top)))
    if int(air.sum()) < 100:
        return lowest
    squares = (model.y - signal)[air].square()
    most = 40 * float(squares.median())
    return max(math.sqrt(float(squares.clamp_max(most if most > 0 else math.inf).mean())), 1e-3 * lowest)


def counted(model: VolumeModel, x: Tensor) -> Tensor | None:
    """Return the voxels of the data whose chi-square is told, bool **[*data]**; None for all.

    A reconstruction that keeps values from being negative leaves no noise in the air that any model here describes.
    """
    if float(model.y[model.inside].min()) < 0:
        return None
    signal = model.observe(x)
    return model.inside & (signal > AIR * signal.max())


def active(model: VolumeModel, x: Tensor) -> Tensor:
    """Return the voxels of the image that are within a voxel of the data of some activity, bool **[*image]**."""
    signal = model.observe(x)
    high = model.inside & (signal > AIR * signal.max())
    return model.operator.lift(F.max_pool3d(high.float()[None, None], 3, 1, 1))[0, 0] > 0


def no_louder(
    operator: ScannerSampling, y: Tensor, noise: ScannerNoise, begun: Landweber, steps: int, tissue: Tensor
) -> ScannerNoise:
    """Return measured noise whose level is no higher than what steps of the data alone leave of them.

    Args:
        operator: `A`.
        y: Data **[*data]**.
        noise: The noise, in their unit.
        begun: What the steps gave.
        steps: Their number.
        tissue: Voxels of the data where the noise was measured, bool **[*data]**.
    """
    x = begun.x[0]
    model = bound(operator, y, noise, x)
    draw = model.probe()
    other = landweber(operator, (y + draw)[None], steps, step=begun.step).x[0]
    chi2 = model.chi2_of(model.white(model.residual(x)), tissue)
    chi2 /= max(1 - model.followed(draw, other - x, tissue), 1e-6)
    return noise if chi2 >= 1 else noise.louder(math.sqrt(chi2))
