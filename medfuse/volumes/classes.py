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
from medfuse.volumes.proposals import CLASSES, windows

_BINS, _TOP = 512, 1.3  # of the histogram; its end, in parts of the brightest
_FAINT = 0.08  # of the brightest, below which there is no signal
_NARROW, _WIDE = 0.012, 0.06  # std that a pure class may have
_KMEANS, _ROUNDS = 12, 30
_SAMPLES = 50_000
_BIAS_MM, _BIAS_BLOCK_MM, _BIAS_ROUNDS, _MOST_BIAS = 20.0, 6.0, 3, 0.25
_NEAR = 0.08  # of the brightest: how near a class a voxel is that tells the bias
_HOT = 0.25  # of the upper tenth of the uptake
_BLOCK_MM, _CLOSED_MM = 4.0, 8.0
_SMOOTHED_MM = 2.0  # std
_NEARBY_MM, _NEARBY_ROUNDS = 2.5, 3
_ANYWHERE = 0.01  # of a class, how likely it is where none is nearby


def classes(mri: Tensor, count: int = CLASSES, spacing: Sequence[float] | None = None) -> Tensor:
    """Return the shares of tissues in an MRI by its intensity, **[count, *image]**, which sum to 1, the darkest first.

    Args:
        mri: **[*image]**, any unit.
        count: Number of classes, the background among them.
        spacing: Voxel size, mm: the smooth bias of the coils is found and divided out; None: it is not.

    Raises:
        ImageError: An MRI without signal.
    """
    v = _in_parts(mri)
    if spacing is not None:
        v = v / _bias(v, count, spacing)
    shares = _shares(v, count)[0]
    at = (v * (_BINS / _TOP) - 0.5).clamp(0, _BINS - 1.001)
    low = at.long()
    part = at - low
    return torch.stack([torch.lerp(row[low], row[low + 1], part) for row in shares.to(v)])


def classes_nearby(mri: Tensor, spacing: Sequence[float], count: int = 5) -> Tensor:
    """Return shares as `classes` does, told by what is nearby as well: a border is no thin layer of a third tissue.

    Between white matter and csf there is a voxel that is as bright as grey matter. Any two classes may share a voxel,
    not neighbours by intensity alone, and how likely each is, is its mean share within a few mm (mean-field step of a
    Markov random field; Zhang, Brady and Smith, IEEE TMI 20 (2001) 45).

    Args:
        mri: **[*image]**, any unit.
        spacing: Voxel size, mm.
        count: Number of classes, the background among them.

    Raises:
        ImageError: An MRI without signal.
    """
    v = _in_parts(mri)
    v = v / _bias(v, count, spacing)
    shares, levels, stds = _shares(v, count)
    bins = (v * (_BINS / _TOP)).long().clamp(0, _BINS - 1)
    found = shares.to(v)[:, bins]
    at = (torch.arange(_BINS, device=v.device, dtype=torch.float64) + 0.5) * (_TOP / _BINS)
    i, j = torch.triu_indices(count, count, 1)
    pure = _pure(at, levels, stds)
    pure[0] += 1e-12
    pure[-1] += 1e-12 * (at > levels[-1])
    mixed = _between(at, levels[i, None], levels[j, None], 0.5 * (stds[i] + stds[j])[:, None])
    upper = ((at - levels[i, None]) / (levels[j] - levels[i])[:, None].clamp_min(1e-6)).clamp(0, 1)
    pure, mixed, upper = pure.to(v), mixed.to(v), upper.to(v)
    rows = [windows(n, _NEARBY_MM / s) for n, s in zip(v.shape, spacing, strict=True)]
    for _ in range(_NEARBY_ROUNDS):
        likely = along_all([r.to(v) for r in rows], found[:, None])[:, 0] + _ANYWHERE / count
        found = pure[:, bins] * likely
        for row, part, a, b in zip(mixed, upper, i.tolist(), j.tolist(), strict=True):
            belief = 2 * row[bins] * likely[a] * likely[b]
            share = part[bins]
            found[a] += belief * (1 - share)
            found[b] += belief * share
        found = found / found.sum(0).clamp_min(1e-30)
    return found


def _in_parts(mri: Tensor) -> Tensor:
    """Return an MRI in parts of its brightest."""
    top = float(torch.quantile(mri.flatten()[:: max(1, mri.numel() // 200_000)], 0.995))
    if not top > 0 or not math.isfinite(top):
        raise ImageError("the MRI must have signal, got an image without; check the file.")
    return mri / top


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
    hot = _hot(low).float()
    reach = round(_CLOSED_MM / _BLOCK_MM)
    wide = F.pad(hot[None, None], [reach + 1] * 6)
    closed = _eroded(_dilated(wide, reach), reach)
    inner = slice(reach + 1, -reach - 1)
    filled = _dilated(1 - _beyond(closed), 1)[..., inner, inner, inner]
    within = stretched(filled[0], kernel, features.shape[1:])[0]
    if float(within.min()) > 0.99:
        return features
    found = features.new_empty((2 * len(features), *within.shape))  # a copy of each half is room for nothing
    for half, share in zip(found.chunk(2), (within, 1 - within), strict=True):
        torch.mul(features, share, out=half)
    return found


def within_uptake(pet: Tensor, spacing: Sequence[float], depth_mm: float) -> Tensor:
    """Return which voxels of a PET **[*pet]** lie deeper than so many mm in what takes up the tracer.

    The region is that of `sided`, on the PET's own grid: above a quarter of the upper tenth of the uptake, closed by
    8 mm. The end of the field of view is no border of it.
    """
    rows = [windows(n, _SMOOTHED_MM / s).to(pet) for n, s in zip(pet.shape, spacing, strict=True)]
    low = along_all(rows, pet[None, None])[0, 0].clamp_min(0)
    hot, beyond = _hot(low).float(), [math.ceil(_CLOSED_MM / s) for s in spacing]
    wide = F.pad(hot[None, None], [b for b in reversed(beyond) for _ in range(2)], mode="replicate")[0, 0] > 0
    closed = _away(_away(wide, spacing, _CLOSED_MM) > _CLOSED_MM, spacing, _CLOSED_MM) > _CLOSED_MM
    within = closed[tuple(slice(b, -b) for b in beyond)]
    return _away(~within, spacing, depth_mm) > depth_mm


def _hot(low: Tensor) -> Tensor:
    """Tell which voxels are above a quarter of the upper tenth of the uptake; none where nothing is taken up."""
    signal = low[low > 0.05 * low.max()]
    if not len(signal):
        return torch.zeros_like(low, dtype=torch.bool)
    return low > _HOT * torch.quantile(signal[:: max(1, len(signal) // 200_000)], 0.9)


def _away(mask: Tensor, spacing: Sequence[float], reach: float) -> Tensor:
    """Return how far voxels are from those of a mask, mm, exact to `reach` (distance transform, axis by axis)."""
    most = (reach + max(spacing)) ** 2
    square = torch.where(mask, 0.0, most)
    for axis, step in enumerate(spacing):
        n, before, square = mask.shape[axis], square, square.clone()
        for k in range(1, min(n, int(reach / step) + 2)):
            for a, b in ((0, k), (k, 0)):
                part = square.narrow(axis, a, n - k)
                torch.minimum(part, before.narrow(axis, b, n - k) + (k * step) ** 2, out=part)
    return square.sqrt()


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


def _shares(v: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return shares of classes at the middle of each bin of intensity, **[count, bins]**, their levels, their stds.

    The darkest come first, as neighbours by intensity share voxels: a wide class that covers a narrow one may pass it
    while both are fitted, and then changes places with it.
    """
    signal = v[v > _FAINT].double()
    signal = signal[:: max(1, len(signal) // _SAMPLES)]
    levels = torch.quantile(signal, torch.linspace(0.08, 0.92, count - 1, device=v.device).double())
    for _ in range(_KMEANS):
        nearest = (signal[:, None] - levels).abs().argmin(1)
        sums = torch.zeros_like(levels).index_add_(0, nearest, signal)
        number = torch.bincount(nearest, minlength=count - 1)
        levels = torch.where(number > 0, sums / number.clamp_min(1), levels)
    levels = torch.cat([levels.new_zeros(1), levels.sort()[0]])
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
        order = levels.argsort(stable=True)
        levels, stds, weights[:count] = levels[order], stds[order], weights[order]
    belief = _belief(at, levels, stds, weights)
    shares = belief[:count].clone()
    for k in range(count - 1):
        upper = ((at - levels[k]) / (levels[k + 1] - levels[k]).clamp_min(1e-6)).clamp(0, 1)
        shares[k] += belief[count + k] * (1 - upper)
        shares[k + 1] += belief[count + k] * upper
    return shares / shares.sum(0).clamp_min(1e-30), levels, stds


def _belief(at: Tensor, levels: Tensor, stds: Tensor, weights: Tensor) -> Tensor:
    """Return how likely each component is at each intensity: pure classes, then mixtures of neighbours."""
    pure = _pure(at, levels, stds)
    between = _between(at, levels[:-1, None], levels[1:, None], 0.5 * (stds[1:] + stds[:-1])[:, None])
    joint = torch.cat([pure, between]) * weights[:, None]
    joint[0] += 1e-12  # somewhere each intensity must belong, the brightest to the last
    joint[len(levels) - 1] += 1e-12 * (at > levels[-1])
    return joint / joint.sum(0)


def _pure(at: Tensor, levels: Tensor, stds: Tensor) -> Tensor:
    z = (at - levels[:, None]) / stds[:, None]
    return torch.exp(-0.5 * z.square()) / (stds[:, None] * math.sqrt(2 * math.pi))


def _between(at: Tensor, low: Tensor, high: Tensor, wide: Tensor) -> Tensor:
    """Return the density of mixtures of two classes, all as likely."""
    inside = torch.special.ndtr((at - low) / wide) - torch.special.ndtr((at - high) / wide)
    density: Tensor = inside / (high - low).clamp_min(1e-6)
    return density.clamp_min(0)
