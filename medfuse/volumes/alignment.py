"""Registration and PSF, from the chi-square of the guided proposal on the PET's own grid.

Where the uptake of MRI classes explains the PET, it does so best in the right place and with the right blur. The
residual is fitted by what a small motion, or a small change of the PSF's width, would change of the prediction
(Gauss-Newton), together with what the uptake of the classes would; data that the MRI does not explain count less.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.physics.models.volume import VolumeModel
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.volumes.gate import common_std, significance
from medfuse.volumes.proposals import Guidance, guidance, guided

_STEP = 0.5  # mm, of the finite differences
_WIDER = 0.03  # of the PSF's width, likewise
_LONGEST = 2.0  # mm that one round may move
_MOST_GAIN = 4.0  # by which a step that falls short is multiplied
_SETTLED = 0.05  # mm
_KNOWN = 0.05  # of the width of the PSF, to which nobody knows it better
_TOO_WIDE = 0.14  # of it, the most by which it seemed too wide on 16 scans of phantoms of heads
_OUTLIER = 3.0  # significance, in units of its own std, from which data count less


class Alignment(NamedTuple):
    """What the data say of the registration and of the PSF.

    Attributes:
        transform: **[4, 4]** float64, refined; maps points of the PET's world to the MRI's, mm.
        moved_mm: Root mean square by which the refinement moved the voxels of the PET, mm.
        std_mm: Standard deviation of that, mm.
        psf_share: Width of the PSF that fits best, of the stated one.
        psf_std: Its standard deviation.
        settled: Whether the last round moved by less than 0.05 mm.
        known: Interval in which the width was known before, of the stated one: what lies within contradicts nothing.
    """

    transform: Tensor
    moved_mm: float
    std_mm: float
    psf_share: float
    psf_std: float
    settled: bool
    known: tuple[float, float] = (1.0, 1.0)

    @property
    def psf_spread(self) -> float:
        """Half of the interval of `psf_share`, of the noise alone: no PSF is known to better than 5 %."""
        return max(2 * self.psf_std, _KNOWN)

    @property
    def psf_doubted(self) -> bool:
        """Whether the data refuse the stated PSF: an MRI's shares of tissue are too sharp, and make it seem wider."""
        low, high = min(self.known[0], 1.0), max(self.known[1], 1.0)
        return not low - self.psf_spread <= self.psf_share <= high + _TOO_WIDE + self.psf_spread


def align(model: VolumeModel, features: Tensor, transform: Tensor, *, rounds: int = 4) -> Alignment:
    """Refine a rigid registration by the chi-square on the native grid, and tell the width of the PSF.

    Args:
        model: The observation under the given registration.
        features: Classes of the MRI **[K, *image]**.
        transform: **[4, 4]** that the model's operator was made with.
        rounds: Most rounds.
    """
    start, settled, points = transform, False, _positions(model.operator)
    fit = _fitted(model, features, transform)
    found, gain = fit.step[:6], 1.0
    for _ in range(rounds):
        taken = _shortened(gain * fit.step[:6])
        motion = _motion(taken, fit.reach, fit.centre)
        transform = motion @ transform
        settled = _moved(motion, points) < _SETTLED
        if settled:
            break
        model = VolumeModel(model.operator.like(transform=transform), model.y, model.noise)
        fit = _fitted(model, features, transform)
        gain = _gain(found - fit.step[:6], taken)
        found = fit.step[:6]
    moved = _moved(transform @ torch.linalg.inv(start), points)
    variances = fit.covariance.diagonal()
    share, std = 1 + float(fit.step[6]), float(variances[6].sqrt())
    return Alignment(transform, moved, float(variances[:6].sum().sqrt()), share, std, settled)


class _Fit(NamedTuple):
    step: Tensor  # mm along the world's axes, mm at the rms distance for turns about them, share of the PSF's width
    covariance: Tensor
    reach: float  # rms distance of the voxels from their centre, mm
    centre: Tensor  # of the voxels, mm


def _fitted(model: VolumeModel, features: Tensor, transform: Tensor) -> _Fit:
    """Fit the residual of the guided proposal by a motion, a wider PSF, and other uptake of the classes."""
    given = guidance(model, features)
    x, weights = robust(model, given)
    seen = model.observe(x)
    columns = []
    for axis in range(3):
        shifted = torch.eye(4, dtype=torch.float64)
        shifted[axis, 3] = _STEP
        columns.append(_difference(model.operator.like(transform=shifted @ transform), x, seen, model) / _STEP)
    gradient = torch.stack(columns)
    points = _positions(model.operator)
    centre = points.mean(1)
    lever = (points - centre[:, None]).to(gradient)
    reach = float(lever.square().sum(0).mean().sqrt())
    moment = torch.linalg.cross(lever, gradient.flatten(1)[:, model.inside.flatten()], dim=0) / reach
    for turn in moment:
        column = torch.zeros_like(seen)
        column[model.inside] = turn
        columns.append(column)
    try:
        wide = model.operator.like(wider=1 + _WIDER)
        columns.append(_difference(wide, x, seen, model) / _WIDER)
    except DegradationError:  # at the limit of what a PSF may be
        columns.append(torch.zeros_like(seen))
    root = weights.sqrt()
    sides = [*columns, *given.predicted, (model.y - seen) * model.inside]
    white = torch.stack([model.white(c * root).flatten() for c in sides]).double()
    design, residual = white[:-1], white[-1]
    normal = design @ design.mT
    normal = normal + 1e-9 * normal.diagonal().mean() * torch.eye(len(normal), dtype=torch.float64)
    inverse = torch.linalg.inv(normal)
    step = inverse @ (design @ residual)
    left = (residual - step @ design).square().sum() / (weights * model.whitening.mask).sum().clamp_min(1.0)
    return _Fit(step[:7], inverse[:7, :7] * left.clamp_min(1.0), reach, centre)


def robust(model: VolumeModel, given: Guidance) -> tuple[Tensor, Tensor]:
    """Return the guided estimate **[*image]**, and weights of the data **[*data]**, less where it does not explain."""
    x = guided(model, given, model.y[None])[0]
    z = significance(model, x)
    return x, 1 / (1 + (z / max(common_std(model, z), 1.0) / _OUTLIER).square())


def _difference(operator: ScannerSampling, x: Tensor, seen: Tensor, model: VolumeModel) -> Tensor:
    other = operator.forward(x[None, None])[0, 0]
    return (other - seen) * (operator.inside & model.inside)


def _positions(operator: ScannerSampling) -> Tensor:
    """Return where the voxels of the data that count lie in the world of the image, **[3, N]** float64, mm."""
    index = torch.nonzero(operator.inside).double().mT
    affine = operator.transform @ torch.tensor(operator.range.affine, dtype=torch.float64)
    return affine[:3, :3] @ index + affine[:3, 3:]


def _shortened(step: Tensor) -> Tensor:
    """Return a step, shortened to what one round may move."""
    return step * min(1.0, _LONGEST / max(float(step.norm()), 1e-9))


def _gain(less: Tensor, taken: Tensor) -> float:
    """Return by what the next step is multiplied, from how much less is found after the last one was taken.

    The uptake of classes, regressed nearby, takes a part of a motion upon itself, so that all steps fall short by about
    the same share.
    """
    share = float(less @ taken) / max(float(taken @ taken), 1e-12)
    return 1 / min(max(share, 1 / _MOST_GAIN), 1.0)


def _motion(step: Tensor, reach: float, centre: Tensor) -> Tensor:
    """Return the rigid motion **[4, 4]** of a step."""
    a, b, c = (step[3:] / max(reach, 1e-9)).tolist()
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]], dtype=torch.float64))
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = turn
    motion[:3, 3] = step[:3] + centre - turn @ centre
    return motion


def _moved(motion: Tensor, points: Tensor) -> float:
    """Return the root mean square by which a motion **[4, 4]** moves points **[3, N]**, mm."""
    off = motion - torch.eye(4, dtype=torch.float64)
    return math.sqrt(float((off[:3, :3] @ points + off[:3, 3:]).square().sum(0).mean()))
