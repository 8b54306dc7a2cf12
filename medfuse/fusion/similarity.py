"""How alike images are, by measures that can be differentiated: for training, and to balance a fused image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_NO_EDGE = (1.0 / 255.0) ** 2  # squared strength of an edge that counts as none
_SHARE, _COSINE = (15.0, 0.5), (45.0, 0.951)  # slope and middle of the sigmoids of strength and direction


def structural_similarity(x: Tensor, y: Tensor, *, size: int = 11, std: float = 1.5, data_range: float = 1.0) -> Tensor:
    """Return the SSIM map of two batches **[B, C, H, W]**, valid part only.

    The Gaussian window is applied as a banded matrix along each axis: on a CPU, the backward pass of a convolution with
    a single channel takes longer than the whole network.

    Reference:
        Wang et al., Image quality assessment: from error visibility to structural similarity (TIP 2004).
    """
    mx, my, xx, yy, xy = _windowed((x, y, x * x, y * y, x * y), size, std)
    vx, vy, vxy = xx - mx * mx, yy - my * my, xy - mx * my
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))


def visual_information(reference: Tensor, x: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Return the pixel-domain visual information fidelity of each image of a batch **[B, C, H, W]**, **[B, C]**.

    The share of the reference's information that an image still carries, over up to four scales: 1 for the image
    itself, 0 for a flat one, above 1 where contrast is raised. Of a reference without any, everything carries all: 1.

    Reference:
        Sheikh and Bovik, Image information and visual quality (TIP 2006); pixel-domain version with the noise variance
        2 of an 8-bit scale.
    """
    noise = 2.0 * (data_range / 255.0) ** 2
    tiny = 1e-2 * noise  # above the rounding of float32, so that flat regions have no wild gradients
    carried = total = reference.new_zeros(reference.shape[:2])
    for size in (17, 9, 5, 3):
        if size < 17:
            reference, x = (v[..., ::2, ::2] for v in _windowed((reference, x), size, size / 5))
        if min(reference.shape[-2:]) < size:
            break
        mr, mx, rr, xx, rx = _windowed((reference, x, reference**2, x**2, reference * x), size, size / 5)
        vr, vx, vrx = (rr - mr * mr).clamp_min(0), (xx - mx * mx).clamp_min(0), rx - mr * mx
        gain = torch.where(vr > tiny, vrx / vr.clamp_min(tiny), 0.0).clamp_min(0)
        rest = (vx - gain * vrx).clamp_min(0)
        carried = carried + torch.log1p(gain * gain * vr / (rest + noise)).sum((-1, -2))
        total = total + torch.log1p(vr / noise).sum((-1, -2))
    return (carried + 1e-3) / (total + 1e-3)


def edge_preservation(reference: Tensor, x: Tensor) -> Tensor:
    """Return how well the edges of references **[B, C, H, W]** survive in images, each **[B]**, 0..1.

    Sobel gradients are compared in strength and direction, each through a sigmoid, and weighed by the strength in the
    reference, over all C references of a sample together. Unlike the metric, it is smooth: the cosine of the angle
    stands for the angle, an inverted edge counts as lost, and an edge that is kept exactly counts as 1.

    Reference:
        Xydeas and Petrovic, Objective image fusion performance measure (Electron. Lett. 2000), with its constants.
    """
    (ax, ay), (bx, by) = _sobel(reference), _sobel(x)
    a, b = (torch.sqrt(u * u + v * v + _NO_EDGE) for u, v in ((ax, ay), (bx, by)))
    share = torch.minimum(a, b) / torch.maximum(a, b)
    cosine = (ax * bx + ay * by + _NO_EDGE) / (a * b)
    kept = _step(*_SHARE, share) * _step(*_COSINE, cosine)
    return (kept * a).sum((1, 2, 3)) / a.sum((1, 2, 3))


def edge_slopes(reference: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `edge_preservation` divides by, and the derivative of what it divides.

    With `E = sum_p kept_p a_p / sum_p a_p`, these are `a_p` and `d(sum_p kept_p a_p) / dx`.

    Args:
        reference: References **[B, C, H, W]**.
        x: Images **[B, 1, H, W]**.

    Returns:
        The strength of each edge of the references, **[B, C, H, W]**, 0 at the border; and by how much the sum of the
        strengths that are kept grows with each pixel of the image, **[B, 1, H, W]**.
    """
    (ax, ay), (bx, by) = _sobel(reference), _sobel(x)
    a, b = (torch.sqrt(u * u + v * v + _NO_EDGE) for u, v in ((ax, ay), (bx, by)))
    share = torch.minimum(a, b) / torch.maximum(a, b)
    cosine = (ax * bx + ay * by + _NO_EDGE) / (a * b)
    by_share, by_cosine = _step(*_SHARE, share), _step(*_COSINE, cosine)
    slope_share, slope_cosine = (
        step[0] * v * (1 - v / _step_end(*step)) for step, v in ((_SHARE, by_share), (_COSINE, by_cosine))
    )
    along = a * slope_share * by_cosine * torch.where(b < a, 1 / a, -a / (b * b)) / b
    across = by_share * slope_cosine / b
    turned = across * cosine * a / b
    rows, columns = (((along - turned) * v + across * u).sum(1, keepdim=True) for u, v in ((ax, bx), (ay, by)))
    # the transposed filter: both derivatives are odd
    slope = -(_sobel(F.pad(rows, [2] * 4))[0] + _sobel(F.pad(columns, [2] * 4))[1])
    return F.pad(a, [1] * 4), slope


def shared_information(reference: Tensor, x: Tensor, *, levels: int = 32, data_range: float = 1.0) -> Tensor:
    """Return the share of the entropy of references **[B, C, H, W]** that images tell of, **[B, C]**, 0..1.

    Mutual information over the entropy of the reference, from histograms. A pixel of an image counts to the two levels
    next to it, in linear shares, which makes the histogram differentiable, and the share of an image with itself less
    than 1. Of a flat reference, everything tells all: 1.

    Args:
        reference: References.
        x: Images **[B, C, H, W]**, or **[B, 1, H, W]** where one is held against all references.
        levels: Levels of the histograms.
        data_range: Full range of the images; what lies beyond counts to the ends.

    Reference:
        Thevenaz and Unser, Optimization of mutual information for multiresolution image registration (TIP 2000), with
        linear splines.
    """
    row = (reference.flatten(2) / data_range).clamp(0, 1).mul(levels - 1).round().long() * levels
    position = (x.expand_as(reference).flatten(2) / data_range).clamp(0, 1) * (levels - 1)
    column = position.detach().long().clamp_max(levels - 2)
    upper = position - column
    joint = x.new_zeros(*row.shape[:2], levels * levels)
    joint = joint.scatter_add(2, row + column, 1 - upper).scatter_add(2, row + column + 1, upper) / row.shape[2]
    table = joint.reshape(*joint.shape[:2], levels, levels)
    of_reference, of_x, of_both = (_entropy(p) for p in (table.sum(3), table.sum(2), joint))
    tiny = 1e-4
    return (of_reference + of_x - of_both + tiny) / (of_reference + tiny)


def complementarity(pair: Tensor, x: Tensor) -> Tensor:
    """Return the correlation of what an image adds to one source with the other source, each way, **[B, 2]**, -1..1.

    Their sum is the SCD. With a source that is flat, nothing correlates: 0.

    Args:
        pair: Both sources **[B, 2, H, W]**.
        x: Fused image **[B, 1, H, W]**.

    Reference:
        Aslantas and Bendes, A new image quality metric for image fusion: the sum of the correlations of differences
        (AEU 2015).
    """
    source, added = (v - v.mean((2, 3), keepdim=True) for v in (pair, x - pair.flip(1)))
    tiny = (0.1 / 255.0) ** 2
    deviation = [(v.square().mean((2, 3)) + tiny).sqrt() for v in (source, added)]
    return (source * added).mean((2, 3)) / (deviation[0] * deviation[1])


def gradients(x: Tensor) -> Tensor:
    """Return forward differences along rows and columns, **[B, 2 C, H-1, W-1]**."""
    corner = x[..., :-1, :-1]
    return torch.cat([x[..., 1:, :-1] - corner, x[..., :-1, 1:] - corner], 1)


def _step(slope: float, middle: float, x: Tensor) -> Tensor:
    """Return a sigmoid that is 1/2 of its end at `middle`, scaled to 1 at `x = 1`."""
    return torch.sigmoid(slope * (x - middle)) * _step_end(slope, middle)


def _step_end(slope: float, middle: float) -> float:
    """Return what that sigmoid tends to."""
    return 1.0 + math.exp(-slope * (1.0 - middle))


def _entropy(p: Tensor) -> Tensor:
    """Return the entropy of distributions along the last axis, in nats."""
    return -(p * p.clamp_min(1e-12).log()).sum(-1)


def _sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Sobel derivatives along rows and columns, valid part only, **[B, C, H-2, W-2]** each."""
    rows, columns = x[..., 2:, :] - x[..., :-2, :], x[..., 2:] - x[..., :-2]
    return (
        rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:],
        columns[..., :-2, :] + 2 * columns[..., 1:-1, :] + columns[..., 2:, :],
    )


def _windowed(images: Sequence[Tensor], size: int, std: float) -> list[Tensor]:
    """Filter images of one shape with a Gaussian window, valid part only."""
    rows, columns = (_window_matrix(n, size, std, images[0]) for n in images[0].shape[-2:])
    return [rows @ v @ columns.T for v in images]


def _window_matrix(n: int, size: int, std: float, like: Tensor) -> Tensor:
    """Return the banded matrix **[n - size + 1, n]** of a normalised Gaussian window."""
    taps = torch.arange(size, device=like.device, dtype=like.dtype) - (size - 1) / 2
    kernel = torch.exp(-0.5 * (taps / std) ** 2)
    offset = torch.arange(n, device=like.device) - torch.arange(n - size + 1, device=like.device)[:, None]
    inside = (offset >= 0) & (offset < size)
    return torch.where(inside, (kernel / kernel.sum())[offset.clamp(0, size - 1)], 0.0)
