"""Where the guided proposal explains the data, and where it does not: evidence, and a gate from it, on the data's grid.

The evidence is a matched filter: the whitened residual, averaged over what the PSF would make of a point, in units of
its own std: noise alone gives `z` of std 1. The gate opens where `z^2` leaves what most of the volume shows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.physics.models.volume import VolumeModel
from medfuse.physics.operators.blur import FWHM_PER_SIGMA
from medfuse.physics.operators.cosine import along_all

LOW, HIGH = 3.0, 5.0  # significance from which the gate opens, and at which it is open


def significance(model: VolumeModel, x: Tensor, *, share: float = 0.7) -> Tensor:
    """Return how many std the data lie above what an estimate predicts, near each voxel of the data, **[*data]**.

    Args:
        model: The observation.
        x: The estimate **[*image]**.
        share: Std of the filter, of that of the PSF less the noise's own kernel.
    """
    e = model.white(model.residual(x))[tuple(slice(n) for n in model.y.shape)]
    spacing = model.operator.range.spacing
    rows = []
    widths = zip(e.shape, model.operator.fwhm_mm, model.noise.fwhm_mm, spacing, strict=True)
    for n, psf, kernel, step in widths:
        sigma = share * math.sqrt(max(psf**2 - kernel**2, 0.0)) / FWHM_PER_SIGMA / step
        off = torch.arange(n, dtype=torch.float64) - torch.arange(n, dtype=torch.float64)[:, None]
        row = torch.exp(-0.5 * (off / max(sigma, 1e-3)).square())
        rows.append((row / row.square().sum(1, keepdim=True).sqrt()).to(e))
    z = along_all(rows, e[None, None])[0, 0]
    return z / model.whitening.power.clamp_min(1e-3)[tuple(slice(n) for n in model.y.shape)].sqrt() * model.inside


def common_std(model: VolumeModel, z: Tensor, where: Tensor | None = None) -> float:
    """Return the robust std of a significance over the tissue: 1 where an estimate explains all but the noise.

    Args:
        model: The observation.
        z: The significance **[*data]**.
        where: Voxels of the data to look at, bool **[*data]**; all where None.
    """
    inside = model.inside if where is None else model.inside & where
    tissue = inside & (model.y > 0.1 * model.y[inside].max())
    return float(z[tissue].abs().median()) / 0.6745


def gate(model: VolumeModel, z: Tensor, *, low: float = LOW, high: float = HIGH) -> Tensor:
    """Return the share of the MR-free proposal **[*image]**, 0..1, from the significance of the guided one's residual.

    The significance is taken in units of its own robust std over the volume, where that is above 1: uptake that the MRI
    does not show, everywhere, is not what a gate is for.
    """
    z = z.abs() / max(common_std(model, z), 1.0)
    opened = ((z.square() - low**2) / (high**2 - low**2)).clamp(0, 1)
    opened = F.max_pool3d(opened[None, None], 3, 1, 1)
    return model.operator.lift(opened)[0, 0].clamp(0, 1)
