"""Collaborative filtering: patches of an estimate that are alike are filtered together, with their data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.physics.degradation import Degradation
from medfuse.physics.models.source import SourceModel
from medfuse.physics.operators.cosine import cosine_basis

MOST = 16
"""Most patches that are filtered together."""

_SIDE, _STEP = 8, 4  # px, of a patch, and from one to the next
_REACH = 4  # px, along each axis, within which patches that are alike are sought
_ROWS = 2  # every so many rows of two patches are compared: as good as all, in half the time
_MORE = 2.0  # error variance of a coefficient over that of a pixel: errors gather where there is something
_RELATIVE = 0.5  # most error variance of a coefficient over its square
_EDGE = 3.0  # beta of the Kaiser window of a patch
_BEYOND = 1e3  # value outside of an image, to which nothing is alike
_GROUPS = {"cpu": 2**10}  # that are filtered at once: what fits into the cache of a core
_GROUPS_ELSEWHERE = 2**16
_PIXELS = 2**21  # of the bands of rows of a large image, each of which is filtered by itself
_HALO = 16  # rows beside a band on which it depends: a patch, its reach and that of those that it is alike


class Grain(NamedTuple):
    """What the filter knows of an image beside the estimate.

    Attributes:
        data: `x + y - E y`, **[B, C, H, W]**: noise which is biased, or was cut off, is not taken for signal.
        noise: Variance of the noise, as it was stored, in each block of 4 x 4 px, **[B C, rows, columns]**.
        error: Predicted variance of the error of the estimate, likewise.
    """

    data: Tensor
    noise: Tensor
    error: Tensor


def is_grainy(degradation: Degradation) -> bool:
    """Tell whether nothing but white noise lies between an image and its data."""
    return degradation.operator.is_identity and degradation.white


def grain(model: SourceModel, x: Tensor, log_variance: Tensor) -> Grain | None:
    """Return what the filter knows of an image, or None where anything but white noise lies between it and its data.

    Args:
        model: Any observation model.
        x: The estimate, **[B, C, H, W]**, fractions of full range.
        log_variance: Predicted log-variance of its error, of the same shape.
    """
    if not is_grainy(model.degradation) or x.ndim != 4:
        return None
    with torch.no_grad():
        x = x.detach()
        noise, error = _noise_of_blocks(model, x), _error_of_blocks(log_variance)  # first, for want of room
        return Grain(model.pixels(model.residual(x)).add_(x), noise, error)


def collaborated(model: SourceModel, x: Tensor, log_variance: Tensor, patches: int) -> Tensor:
    """Return an estimate of which patches that are alike were filtered together, and updated with their data.

    A Wiener filter on groups, as in the second stage of BM3D, with the estimate as its own pilot. For each patch of
    8 x 8 px the most alike ones within 4 px are found in `x`, by every other of its rows. Coefficients are those of the
    cosine waves of a patch and of the Haar waves across the group: X of `x`, Y of its data. With v the variance of the
    noise and e that of the error of `x`, as the network predicts it, what is alike outweighs errors of single patches,
    and the data are believed where there is something:

        S = X^2 / (X^2 + 2 e) X,    p = min(2 e, X^2 / 2),    S + p / (p + v) (Y - S)

    These are put back, where patches overlap averaged by a Kaiser window.

    Args:
        model: Any observation model. Where anything but white noise lies between image and data, or no noise, they are
            left alone: a blur hides what the patches could tell each other.
        x: The estimate, **[B, C, H, W]**, fractions of full range; gradients pass as if nothing had been filtered.
        log_variance: Predicted log-variance of its error, of the same shape.
        patches: How many are filtered together: 1, 2, 4, 8 or 16; 0 for none.

    Returns:
        The image, of the shape of `x`.

    Reference:
        docs/explanation/method.md, "Patches that are alike are filtered together";
        Dabov, Foi, Katkovnik and Egiazarian, Image denoising by sparse 3-D transform-domain collaborative filtering
        (IEEE TIP 2007), section III.
    """
    known = grain(model, x, log_variance) if patches else None
    if known is None:
        return x
    with torch.no_grad():
        pilot, data = (v.detach().flatten(0, 1)[:, None] for v in (x, known.data))
        found = _filtered(pilot, data, known.noise, known.error, patches).view_as(x)
    return x + (found - x.detach()) if x.requires_grad else found


def collaborated_across(images: Sequence[Tensor], known: Sequence[Grain], patches: int) -> Tensor:
    """Return a slice of a volume of which patches were filtered together with those of the slices beside it.

    As `collaborated`, but what is alike is sought in all of the slices.

    Args:
        images: Estimates of the slice and of those beside it, **[1, 1, H, W]** each, the slice itself first.
        known: What is known of each.
        patches: How many are filtered together: 1, 2, 4, 8 or 16.

    Returns:
        The slice, **[1, 1, H, W]**.
    """
    pilot, data = torch.cat(list(images), 1), torch.cat([one.data for one in known], 1)
    return _filtered(pilot, data, known[0].noise, known[0].error, patches)[:, None]


def _noise_of_blocks(model: SourceModel, x: Tensor) -> Tensor:
    """Return the variance of the noise, as it was stored, in each block of 4 x 4 px."""
    levels = model.sigma()
    shares = None if model.bias is None else model.bias.shares(x)
    parts = (levels[:, :, rows].square() * (1 if shares is None else shares[:, :, rows]) for rows in _bands(x))
    return torch.cat([F.avg_pool2d(_padded(part), _STEP) for part in parts], 2).flatten(0, 1)


def _error_of_blocks(log_variance: Tensor) -> Tensor:
    """Return the variance of the error in each block of 4 x 4 px."""
    parts = (log_variance[:, :, rows].detach().float().exp() for rows in _bands(log_variance))
    return torch.cat([F.avg_pool2d(_padded(part), _STEP) for part in parts], 2).flatten(0, 1)


def _bands(image: Tensor) -> list[slice]:
    """Return bands of rows **[..., H, W]** that take little at once, a multiple of the blocks each but for the last."""
    height = image.shape[2]
    rows = max(_PIXELS * height // image.numel() // _STEP * _STEP, _SIDE)
    starts = range(0, max(height - _SIDE, 1), rows)  # a last band of a few rows belongs to the one before
    return [slice(start, start + rows if start + rows < height - _SIDE else height) for start in starts]


def _filtered(x: Tensor, data: Tensor, noise: Tensor, error: Tensor, patches: int) -> Tensor:
    """Return the first of each of the stacks **[n, slices, H, W]**, filtered band by band.

    Noise and error are variances of each block of it **[n, rows, columns]**.
    """
    noise, error = (F.avg_pool2d(v, _SIDE // _STEP, 1) for v in (noise, error))
    found = torch.empty_like(x[:, 0])
    for band in _bands(x):
        first, last = max(band.start - _HALO, 0), min(band.stop + _HALO, x.shape[2])
        pilot, seen = (_padded(v[:, :, first:last]) for v in (x, data))
        at = slice(first // _STEP, first // _STEP + (pilot.shape[2] - _SIDE) // _STEP + 1)
        part = _filtered_at_once(pilot, seen, noise[:, at], error[:, at], patches)
        found[:, band] = part[:, band.start - first : band.stop - first, : x.shape[3]]
    return found


def _filtered_at_once(pilot: Tensor, seen: Tensor, noise: Tensor, error: Tensor, patches: int) -> Tensor:
    """Return the filtered first of each stack; noise and error are variances of each patch **[n, rows, columns]**."""
    basis, edge = _waves_of_a_patch(pilot.dtype, pilot.device)
    back = basis.T * torch.outer(edge, edge).flatten()
    area = pilot.shape[2] * pilot.shape[3]
    within = torch.arange(_SIDE, device=pilot.device)
    within = (within[:, None] * pilot.shape[3] + within).flatten()
    both = pilot.flatten(), seen.flatten()
    total = torch.zeros_like(both[0])
    count = torch.zeros_like(total)
    for rows, at in _groups(pilot, patches):
        pixels = (at[:, :, None] + within).flatten()
        believed, found = (_haar(v.index_select(0, pixels).view(*at.shape, -1) @ basis) for v in both)
        e, v = (_MORE * error[:, rows].reshape(-1, 1, 1)), noise[:, rows].reshape(-1, 1, 1)
        power = believed.square()
        p = torch.minimum(_RELATIVE * power, e)
        believed.mul_(power.div_(power + e))
        patch = _haar(believed.lerp_(found, p.div_(p + v)), inverse=True).flatten(0, 1)
        at = at.flatten()
        if pilot.shape[1] > 1:  # what falls to the slices beside is theirs to find
            own = (at // area % pilot.shape[1] == 0).nonzero()[:, 0]
            at, patch = at[own], patch[own]
            pixels = (at[:, None] + within).flatten()
        total.index_add_(0, pixels, (patch @ back).flatten())
        count.index_add_(0, at, torch.ones_like(at, dtype=pilot.dtype))
    total, count = (v.view_as(pilot)[:, :1] for v in (total, count))
    count = F.pad(count, (_SIDE - 1, 0, _SIDE - 1, 0))
    weight = F.conv2d(F.conv2d(count, edge.view(1, 1, -1, 1)), edge.view(1, 1, 1, -1))  # symmetric: nothing to flip
    return (total / weight)[:, 0]


def _groups(pilot: Tensor, patches: int) -> Iterator[tuple[slice, Tensor]]:
    """Give rows of patches of the first of each stack, and of each the places of those most alike, itself first.

    These are **[patches, count]**; a place is the number of the upper left pixel among all pixels of the stacks
    **[n, slices, H, W]**.
    """
    stacks, slices, height, width = pilot.shape
    across, down = (width - _SIDE) // _STEP + 1, (height - _SIDE) // _STEP + 1
    together = max(1, _GROUPS.get(pilot.device.type, _GROUPS_ELSEWHERE) // (stacks * across))
    around = F.pad(pilot, (_REACH,) * 4, value=_BEYOND)
    side = 2 * _REACH + 1
    left = torch.arange(across, device=pilot.device) * _STEP
    first = torch.arange(stacks, device=pilot.device)[:, None, None] * slices * height * width
    for start in range(0, down, together):
        rows = slice(start, min(start + together, down))
        top, rest = rows.start * _STEP, (rows.stop - rows.start - 1) * _STEP + _SIDE
        part = pilot[:, 0, top : top + rest : _ROWS, None]
        squares = []
        for beside, shift in product(range(slices), range(side)):  # of rows; all shifts of columns at once
            moved = around[:, beside, top + shift : top + shift + rest : _ROWS].unfold(2, width, 1)
            pooled = F.avg_pool2d((moved - part).square_().transpose(1, 2), (_STEP // _ROWS, _STEP))
            pooled = pooled[:, :, 1:] + pooled[:, :, :-1]
            squares.append(pooled[..., 1:] + pooled[..., :-1])
            if shift == _REACH + 1 and rows.stop == down:
                squares[-1][:, :, -1] = _BEYOND  # the last row of such a patch, which is not compared, lies beyond
        distances = torch.stack(squares, 1).flatten(1, 2)  # [n, shifts, rows, columns]
        distances[:, side**2 // 2] = -1.0  # itself, also where all are equal: no pixel goes without a patch
        best = distances.topk(patches, 1, largest=False).indices.permute(0, 2, 3, 1)
        above = torch.arange(rows.start, rows.stop, device=pilot.device)[:, None, None] * _STEP
        y = (above + best // side % side - _REACH).clamp_(0, height - _SIDE).add_(best // side**2, alpha=height)
        at = (left[:, None] + best % side - _REACH).clamp_(0, width - _SIDE).add_(y, alpha=width)
        yield rows, at.add_(first[..., None]).reshape(-1, patches)


def _haar(group: Tensor, *, inverse: bool = False) -> Tensor:
    """Return the orthonormal Haar transform across the groups **[..., patches, n]**, or its inverse."""
    half = math.sqrt(0.5)
    if inverse:
        mean = group[..., :1, :]
        while (known := mean.shape[-2]) < group.shape[-2]:
            change = group[..., known : 2 * known, :]
            mean = torch.stack([mean + change, mean - change], -2).flatten(-3, -2).mul_(half)
        return mean
    changes = []
    while group.shape[-2] > 1:
        one, other = group[..., 0::2, :], group[..., 1::2, :]
        changes.append((one - other).mul_(half))
        group = (one + other).mul_(half)
    return torch.cat([group, *reversed(changes)], -2)


def _padded(image: Tensor) -> Tensor:
    """Return images continued by their last values to a size that patches fill."""
    more = [max(_SIDE, math.ceil(n / _STEP) * _STEP) - n for n in image.shape[2:]]
    return F.pad(image, (0, more[1], 0, more[0]), mode="replicate") if any(more) else image


@lru_cache(maxsize=4)
def _waves_of_a_patch(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the cosine waves of a patch, **[pixels, waves]**, and the window along its sides for the average."""
    with torch.inference_mode(False):
        along = cosine_basis(_SIDE, torch.empty(0, dtype=dtype, device=device))
        edge = torch.kaiser_window(_SIDE, periodic=False, beta=_EDGE, dtype=dtype, device=device)
        return torch.kron(along, along).T.contiguous(), edge
