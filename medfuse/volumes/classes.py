"""What an MRI offers to guide a PET: shares of its tissues in each voxel, by intensity, and where the PET has uptake.

A voxel at a border holds two tissues, and both its MRI and its uptake are means over them. So the histogram is a
mixture of pure classes, and of what lies evenly between each two neighbours by intensity (Santago and Gage, IEEE TMI 12
(1993) 566); the share of a class is its mean given the intensity. No segmentation, no atlas, any contrast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.errors import ImageError
from medfuse.physics.operators.cosine import along_all
from medfuse.volumes.coarse import stretched

_BINS, _TOP = 512, 1.3  # of the histogram; its end, in parts of the brightest
_FAINT = 0.08  # of the brightest, below which there is no signal
_NARROW, _WIDE = 0.012, 0.06  # std that a pure class may have
_KMEANS, _ROUNDS = 12, 30
_SAMPLES = 50_000
_BIAS_MM, _BIAS_BLOCK_MM, _BIAS_ROUNDS, _MOST_BIAS = 20.0, 6.0, 3, 0.25
_NEAR = 0.08  # of the brightest: how near a class a voxel is that tells the bias
_HOT = 0.25  # of the upper tenth of the uptake
_BLOCK_MM, _CLOSED_MM = 4.0, 8.0


def classes(mri: Tensor, count: int = 5, spacing: Sequence[float] | None = None) -> Tensor:
    """Return the shares of tissues in an MRI by its intensity, **[count, *image]**, which sum to 1, the darkest first.

    Args:
        mri: **[*image]**, any unit.
        count: Number of classes, the background among them.
        spacing: Voxel size, mm: the smooth bias of the coils is found and divided out; None: it is not.

    Raises:
        ImageError: An MRI without signal.
    """
    top = float(torch.quantile(mri.flatten()[:: max(1, mri.numel() // 200_000)], 0.995))
    if not top > 0 or not math.isfinite(top):
        raise ImageError("the MRI must have signal, got an image without; check the file.")
    v = mri / top
    if spacing is not None:
        v = v / _bias(v, count, spacing)
    shares = _shares(v, count)[0]
    at = (v * (_BINS / _TOP) - 0.5).clamp(0, _BINS - 1.001)
    low = at.long()
    part = at - low
    return torch.stack([torch.lerp(row[low], row[low + 1], part) for row in shares.to(v)])


def sided(features: Tensor, uptake: Tensor, spacing: Sequence[float]) -> Tensor:
    """Tell what takes up the tracer from what lies beyond it, as the scalp does from the brain: twice the features.

    Tissues that look alike may lie on both sides. The border is soft, and of the low uptake: the region above a quarter
    of the upper tenth of the uptake, closed, filled and widened by a block of 4 mm.

    Args:
        features: **[K, *image]**.
        uptake: An estimate of the PET, **[*image]**, not negative.
        spacing: Voxel size, mm.

    Returns:
        **[2 K, *image]**, or the features where nothing lies beyond.
    """
    kernel = _block(_BLOCK_MM, spacing, uptake.shape)
    low = F.avg_pool3d(uptake[None, None], kernel, ceil_mode=True, count_include_pad=False)[0, 0]
    signal = low[low > 0.05 * low.max()]
    hot = (low > _HOT * torch.quantile(signal[:: max(1, len(signal) // 200_000)], 0.9)).float()
    reach = round(_CLOSED_MM / _BLOCK_MM)
    wide = F.pad(hot[None, None], [reach + 1] * 6)
    closed = _eroded(_dilated(wide, reach), reach)
    inner = slice(reach + 1, -reach - 1)
    filled = _dilated(1 - _beyond(closed), 1)[..., inner, inner, inner]
    within = stretched(filled[0], kernel, features.shape[1:])[0]
    if float(within.min()) > 0.99:
        return features
    return torch.cat([features * within, features * (1 - within)])


def _dilated(mask: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        mask = F.max_pool3d(mask, 3, 1, 1)
    return mask


def _eroded(mask: Tensor, steps: int) -> Tensor:
    return 1 - _dilated(1 - mask, steps)


def _beyond(mask: Tensor) -> Tensor:
    """Return what of the outside of a mask **[1, 1, ...]** is connected to its corner."""
    free, reached = 1 - mask, torch.zeros_like(mask)
    reached[..., 0, 0, 0] = 1
    while True:
        more = F.max_pool3d(reached, 3, 1, 1) * free
        if torch.equal(more, reached):
            return reached
        reached = more


def _bias(v: Tensor, count: int, spacing: Sequence[float]) -> Tensor:
    """Return the smooth factor by which an MRI is off the levels of its classes: a Gaussian mean of 20 mm std."""
    kernel = _block(_BIAS_BLOCK_MM, spacing, v.shape)
    bias = torch.ones_like(v)
    for _ in range(_BIAS_ROUNDS):
        flat = v / bias
        centres = _shares(flat, count)[1][1:].to(v)
        index = torch.bucketize(flat.contiguous(), (centres[1:] + centres[:-1]) / 2)
        level = centres[index]
        near = ((flat - level).abs() < _NEAR) & (flat > 2 * _FAINT)
        off = ((v.clamp_min(1e-3) / level).log().clamp(-_MOST_BIAS, _MOST_BIAS)) * near
        pooled = F.avg_pool3d(torch.stack([off, near.to(v)])[:, None], kernel, ceil_mode=True)
        rows = []
        for n, k, s in zip(pooled.shape[2:], kernel, spacing, strict=True):
            apart = torch.arange(n, dtype=torch.float64) - torch.arange(n, dtype=torch.float64)[:, None]
            rows.append(torch.exp(-0.5 * (apart * k * s / _BIAS_MM).square()).to(v))
        total, weight = along_all(rows, pooled)
        bias = stretched((total / weight.clamp_min(1e-3)).exp(), kernel, v.shape)[0]
    return bias


def _block(width_mm: float, spacing: Sequence[float], shape: Sequence[int]) -> list[int]:
    """Return how many voxels along each axis make a block of a width, no more than there are."""
    return [min(n, max(1, round(width_mm / s))) for s, n in zip(spacing, shape, strict=True)]


def _shares(v: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the shares of classes at the middle of each bin of intensity, **[count, bins]**, and their levels."""
    signal = v[v > _FAINT].double()
    signal = signal[:: max(1, len(signal) // _SAMPLES)]
    levels = torch.quantile(signal, torch.linspace(0.08, 0.92, count - 1, device=v.device).double())
    for _ in range(_KMEANS):
        nearest = (signal[:, None] - levels).abs().argmin(1)
        sums = torch.zeros_like(levels).index_add_(0, nearest, signal)
        number = torch.bincount(nearest, minlength=count - 1)
        levels = torch.where(number > 0, sums / number.clamp_min(1), levels)
    levels = torch.cat([levels.new_zeros(1), levels])
    histogram = torch.histc(v.float(), _BINS, 0.0, _TOP).double()
    at = (torch.arange(_BINS, device=v.device, dtype=torch.float64) + 0.5) * (_TOP / _BINS)
    stds = torch.full_like(levels, 0.04)
    weights = torch.ones(2 * count - 1, device=v.device, dtype=torch.float64)
    for _ in range(_ROUNDS):
        belief = _belief(at, levels, stds, weights)
        mass = belief * histogram
        weights = mass.sum(1)
        pure, number = mass[:count], mass[:count].sum(1).clamp_min(1e-9)
        moved = (pure @ at) / number
        levels = torch.cat([levels[:1], torch.where(number > 1, moved, levels)[1:]])
        spread = (pure * (at - levels[:, None]).square()).sum(1) / number
        stds = spread.sqrt().clamp(_NARROW, _WIDE)
    belief = _belief(at, levels, stds, weights)
    shares = belief[:count].clone()
    for k in range(count - 1):
        upper = ((at - levels[k]) / (levels[k + 1] - levels[k]).clamp_min(1e-6)).clamp(0, 1)
        shares[k] += belief[count + k] * (1 - upper)
        shares[k + 1] += belief[count + k] * upper
    return shares / shares.sum(0).clamp_min(1e-30), levels


def _belief(at: Tensor, levels: Tensor, stds: Tensor, weights: Tensor) -> Tensor:
    """Return how likely each component is at each intensity: pure classes, then mixtures of neighbours."""
    z = (at - levels[:, None]) / stds[:, None]
    pure = torch.exp(-0.5 * z.square()) / (stds[:, None] * math.sqrt(2 * math.pi))
    low, high = levels[:-1, None], levels[1:, None]
    wide = 0.5 * (stds[1:] + stds[:-1])[:, None]
    between = (torch.special.ndtr((at - low) / wide) - torch.special.ndtr((at - high) / wide)) / (high - low).clamp_min(
        1e-6
    )
    joint = torch.cat([pure, between.clamp_min(0)]) * weights[:, None]
    joint[0] += 1e-12  # somewhere each intensity must belong, the brightest to the last
    joint[len(levels) - 1] += 1e-12 * (at > levels[-1])
    return joint / joint.sum(0)
