"""The balance of a fused image: a few steps towards the source that it resembles less.

A network that fuses in one pass weighs the sources by what it has seen. How much of each survives in the image at hand
can be measured, for both restored sources are known; so the image itself can be moved to where both survive.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.fusion.similarity import edge_slopes

_SIZE, _STD, _C1, _C2 = 11, 1.5, 0.01**2, 0.03**2  # window and constants of SSIM
_WEAKER, _BOTH, _EDGES = 4.0, 2.0, 1.6  # weights of the terms
_TEMPERATURE = 0.02  # difference in SSIM beyond which the source that is better off hardly counts as the weaker one
_STRIDE = 1 / 150  # a change of a pixel that no step exceeds
_ROWS, _HALO = 128, _SIZE - 1  # rows of a part of an image, and those beyond it that tell on its gradient


@torch.no_grad()
def balanced(fused: Tensor, sources: Tensor, *, steps: int) -> Tensor:
    """Return a fused image that does more justice to the source that it resembles less: a few steps of gradient ascent.

    Each step climbs `J(f) = sum_i (4 p_i + 1) S_i + 1.6 E`, with S_i the mean SSIM of f with source i, p the softmax
    of `-S / 0.02` (1 for the source that is worse off, 0 for the other), and E the share of the edges of both that is
    preserved, see `medfuse.fusion.similarity`. With g the gradient, p held, and its root mean square rms(g), it is
    `f + g / (|g| + rms(g) / 2) / 150`: no pixel changes by more than 1/150, and one by little that matters little.
    Images are taken in parts, so that large ones need little memory; the result is the same. Those below 11 px, the
    window of SSIM, stay as they are.

    Args:
        fused: Fused images **[B, 1, H, W]**, 0..1.
        sources: Both restored sources **[B, 2, H, W]**, 0..1.
        steps: Number of steps; 0 for none.

    Returns:
        **[B, 1, H, W]**.
    """
    height, width = fused.shape[2:]
    if steps < 1 or min(height, width) < _SIZE:
        return fused
    windows = (height - _SIZE + 1) * (width - _SIZE + 1)
    for _ in range(steps):
        slopes = fused.new_empty(len(fused), 3, height, width)
        sums = fused.new_zeros(len(fused), 3)
        for rows in _parts(height):
            slopes[..., rows, :] = _climb(fused, sources, rows, sums)
        weaker = (-sums[:, :2] / windows / _TEMPERATURE).softmax(1)
        weights = torch.cat([(_WEAKER * weaker + _BOTH / 2) / windows, _EDGES / sums[:, 2:]], 1)
        ascent = torch.einsum("bc,bchw->bhw", weights, slopes)[:, None]
        del slopes  # a large image leaves room for little
        typical = torch.linalg.vector_norm(ascent, dim=(1, 2, 3), keepdim=True) / (height * width) ** 0.5
        limit = ascent.abs().add_(0.5 * typical).clamp_min_(torch.finfo(ascent.dtype).tiny)
        fused = torch.add(fused, ascent.div_(limit), alpha=_STRIDE)
    return fused


def _climb(fused: Tensor, sources: Tensor, rows: slice, sums: Tensor) -> Tensor:
    """Return in which direction the SSIM with each source and the preserved edges grow, **[B, 3, rows, W]**.

    Adds to `sums` **[B, 3]** the SSIM of the windows in these rows, and the strength of the edges of the sources.

    Reference:
        Wang and Simoncelli, Maximum differentiation competition (J. Vision 2008), appendix: the derivative of SSIM.
    """
    height, width = fused.shape[2:]
    first, last = max(rows.start - _HALO, 0), min(rows.stop + _HALO, height)
    here = slice(rows.start - first, rows.stop - first)
    f, x = fused[..., first:last, :], sources[..., first:last, :]
    inner, outer = _SIZE // 2, slice(_SIZE // 2, width - _SIZE // 2)
    whole = f.new_zeros(1, 1, last - first, width)  # 1 where a window lies within the image
    whole[..., max(inner - first, 0) : min(height - inner, last) - first, outer] = 1

    mean, mean_x, square, square_x, product = _window(torch.cat([f, x, f * f, x * x, f * x], 1)).split_with_sizes(
        (1, 2, 1, 2, 2), 1
    )
    variance, variance_x, covariance = square - mean**2, square_x - mean_x**2, product - mean * mean_x
    luminance, structure = 2 * mean * mean_x + _C1, 2 * covariance + _C2
    of_luminance, of_structure = mean**2 + mean_x**2 + _C1, variance + variance_x + _C2
    scale = whole / (of_luminance * of_structure)
    similarity = scale * luminance * structure
    sums[:, :2] += similarity[..., here, :].sum((2, 3))
    by_mean = 2 * (scale * mean_x * (structure - luminance) + similarity * mean * (1 / of_structure - 1 / of_luminance))
    by_square, by_product = -similarity / of_structure, 2 * scale * luminance
    by_mean, by_square, by_product = _window(torch.cat([by_mean, by_square, by_product], 1)).chunk(3, 1)
    slope = by_mean + 2 * f * by_square + x * by_product

    strength, edge = edge_slopes(x, f)
    sums[:, 2] += strength[..., here, :].sum((1, 2, 3))
    return torch.cat([slope, edge], 1)[..., here, :]


def _window(x: Tensor) -> Tensor:
    """Take the mean in a Gaussian window about each pixel; what is beyond the image counts as 0."""
    taps = torch.arange(_SIZE, device=x.device, dtype=x.dtype) - _SIZE // 2
    taps = torch.exp(-0.5 * (taps / _STD) ** 2)
    taps = (taps / taps.sum()).expand(x.shape[1], 1, 1, _SIZE)
    x = x.contiguous(memory_format=torch.channels_last)  # else it takes fifteen times as long on a CPU
    x = F.conv2d(x, taps, padding=(0, _SIZE // 2), groups=x.shape[1])
    return F.conv2d(x, taps.mT, padding=(_SIZE // 2, 0), groups=x.shape[1])


def _parts(height: int) -> Iterator[slice]:
    """Give the rows of each part of an image."""
    yield from (slice(i, min(i + _ROWS, height)) for i in range(0, height, _ROWS))
