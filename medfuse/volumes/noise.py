"""The noise of a volume, measured from what an estimate of its data alone leaves of them.

The residual of ten Landweber steps holds little of the image, which the PSF keeps to low waves, and most of the noise.
What the steps take of noise is seen on draws that are added to the data: correlation of neighbours and variance of
their residual are known for kernels of several widths, and those of the data lie between.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.physics.operators.blur import FWHM_PER_SIGMA
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.physics.scanner_noise import ScannerNoise, coloured
from medfuse.volumes.proposals import landweber

_WIDTHS = (0.0, 1.0, 1.6, 2.4)  # FWHM of kernels that are tried, voxels
_STEPS = 10
_TISSUE, _FEWEST = 0.1, 500  # of the highest signal; voxels of it
_GROUPS, _GROWS = 6, 0.25  # by signal; power of it with which the std grows, from which noise is Poisson-like
_CLIPPED = 4.0  # robust std


def measure_noise(operator: ScannerSampling, y: Tensor) -> ScannerNoise:
    """Return the noise of data **[*data]**: its level, whether it grows with the signal, and its kernel.

    Raises:
        DegradationError: Less than 500 voxels of tissue, or no noise.
    """
    inside = operator.inside.to(y.device)
    generator = torch.Generator().manual_seed(0)
    x, step = landweber(operator, y[None], _STEPS)
    signal = operator.forward(x[:, None])[0, 0].clamp_min(0)
    residual = (y - signal) * inside
    tissue = inside & (signal > _TISSUE * torch.quantile(signal[inside][::5], 0.99))
    if int(tissue.sum()) < _FEWEST:
        raise DegradationError(
            f"the noise must be stated where it cannot be measured, got {int(tissue.sum())} voxels of tissue; add "
            "`noise: {sigma: ..., unit: input}`."
        )
    grows = _growth(residual, signal, tissue) >= _GROWS
    level = signal.clamp_min(1e-6 * float(signal.max())).sqrt() if grows else torch.ones_like(signal)
    left = _clipped(residual / level * tissue, tissue)
    rough = float(left[tissue].square().mean().sqrt())
    if not rough > 0:
        raise DegradationError("the noise must be stated where the volume has none, got 0; add `noise` to it.")

    def remains(widths: tuple[float, ...]) -> Tensor:
        sigmas = [w / FWHM_PER_SIGMA for w in widths]
        draw = rough * level * coloured(y.shape, sigmas, generator).to(y) * inside
        other = landweber(operator, (y + draw)[None], _STEPS, step=step)[0]
        after = (y + draw - operator.forward(other[:, None])[0, 0]) * inside
        return (after - residual) / level * tissue

    seen = _roughness(left, tissue)
    known = [_roughness(remains((w,) * 3), tissue) for w in _WIDTHS]
    found = [_between([k[axis] for k in known], seen[axis]) for axis in range(3)]
    share = float(remains((found[0], found[1], found[2]))[tissue].square().mean()) / rough**2
    sigma = rough / math.sqrt(max(share, 1e-3))
    x_mm, y_mm, z_mm = (w * s for w, s in zip(found, operator.range.spacing, strict=True))
    return ScannerNoise(sigma, "poisson" if grows else "gaussian", (x_mm, y_mm, z_mm))


def _growth(residual: Tensor, signal: Tensor, tissue: Tensor) -> float:
    """Return the power of the signal with which the robust std of the residual grows."""
    at, off = signal[tissue], residual[tissue]
    groups = torch.argsort(at).tensor_split(_GROUPS)
    levels = torch.stack([at[g].median() for g in groups]).double().log()
    stds = torch.stack([off[g].abs().median() for g in groups]).double().clamp_min(1e-30).log()
    levels = levels - levels.mean()
    spread = float(levels.square().sum())
    return float((levels * stds).sum()) / spread if spread > 1e-3 else 0.0


def _clipped(values: Tensor, where: Tensor) -> Tensor:
    most = _CLIPPED * float(values[where].abs().median()) / 0.6745
    return values.clamp(-most, most) if most > 0 else values


def _roughness(values: Tensor, where: Tensor) -> list[float]:
    """Return what tells the width of the kernel along each axis, and falls as it grows.

    The logarithm of the power of differences along all three axes, less that along the two others: where two or three
    axes are rough at once, little of the image is left.
    """
    whole = F.max_pool3d(1.0 - where.float()[None, None], 5, 1, 2)[0, 0] < 0.5
    whole[:2], whole[-2:], whole[:, :2], whole[:, -2:], whole[..., :2], whole[..., -2:] = [False] * 6
    sharp = [_fourth(values, axis) for axis in range(3)]
    three = _power(_fourth(_fourth(sharp[0], 1), 2), whole)
    others = [_fourth(sharp[1], 2), _fourth(sharp[0], 2), _fourth(sharp[0], 1)]
    return [three - _power(v, whole) for v in others]


def _fourth(values: Tensor, axis: int) -> Tensor:
    """Return fourth differences along an axis; they mean nothing within two voxels of an end."""
    taps = zip((-2, -1, 0, 1, 2), (1.0, -4.0, 6.0, -4.0, 1.0), strict=True)
    return torch.stack([w * values.roll(k, axis) for k, w in taps]).sum(0)


def _power(values: Tensor, where: Tensor) -> float:
    return math.log(max(float(_clipped(values, where)[where].square().mean()), 1e-30))


def _between(known: list[float], seen: float) -> float:
    """Return the width, voxels, whose roughness is the one that was seen; it falls as the width grows."""
    for (low, a), (high, b) in zip(zip(_WIDTHS, known), list(zip(_WIDTHS, known))[1:], strict=False):  # noqa: B905
        if seen >= a:
            return low
        if seen > b:
            return low + (high - low) * (seen - a) / (b - a)
    return _WIDTHS[-1]
