"""Edges: what arrives in the fused image of the gradients of the sources."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medfuse.metrics.filters import TINY, as_levels, magnitude, mean, ratio, sobel, total

_STRONG = 0.9  # quantile of the gradients of a source above which they are strong
_TIE = 1e-4  # gradients that differ by less are equal: it is the rounding of 0..1 in float32


def edge_transfer(source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float, wrap: bool = False) -> Tensor:
    """Return Q_AB/F: strength and orientation of Sobel edges that are preserved, weighed by the sources' strength.

    The codes that papers quote differ from the paper in two ways, which `wrap=False` follows: the difference of two
    orientations is not taken modulo pi (+89 and -89 degrees count as opposite), and where two strengths are equal, the
    strength itself stands for their ratio. `wrap=True` does neither; its values are 0.005 to 0.03 higher.

    Args:
        source1: **[B or 1, 1, H, W]**.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images.
        wrap: Compare orientations modulo pi.

    Returns:
        **[B]**, 0..0.98; 0.975 at best, for equal images. NaN where both sources are black.

    Reference:
        Xydeas and Petrovic, Objective image fusion performance measure (Electron. Lett. 2000): Tg .9994, kg -15,
        Dg .5, Ta .9879, ka -22, Da .8.
    """
    a, b, f = as_levels(data_range, source1=source1, source2=source2, fused=fused)
    strength_f, angle_f = _polar(f)
    kept = weight = f.new_zeros(())
    for source in (a, b):
        strength, angle = _polar(source)
        share = ratio(torch.minimum(strength, strength_f), torch.maximum(strength, strength_f), 0.0)
        turn = (angle - angle_f).abs()
        if wrap:
            alike = (turn - math.pi / 2).abs() / (math.pi / 2)
        else:
            share = torch.where((strength - strength_f).abs() < _TIE, strength_f, share)
            alike = 1 - turn / (math.pi / 2)
        quality = 0.9994 * torch.sigmoid(15 * (share - 0.5)) * 0.9879 * torch.sigmoid(22 * (alike - 0.8))
        kept, weight = kept + total(quality * strength), weight + total(strength)
    return ratio(kept, weight.expand_as(kept))


def gradient_quality(source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float) -> Tensor:
    """Return Q_G: the idea of Q_AB/F as the toolbox of Liu et al. has it, which is also printed as Q_AB/F.

    Other constants, orientations modulo pi, and the mean over all pixels of the ratio at each: flat background counts.

    Args:
        source1: **[B or 1, 1, H, W]**.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, 0..1; 0.987 at best, for equal images.

    Reference:
        Liu, Blasch et al., Objective assessment of multiresolution image fusion algorithms (TPAMI 2012), section 3.2:
        k -10 and -20, d .5 and .75.
    """
    a, b, f = as_levels(data_range, source1=source1, source2=source2, fused=fused)
    strength_f, angle_f = _polar_toolbox(f)
    quality = weight = f.new_zeros(())
    for source in (a, b):
        strength, angle = _polar_toolbox(source)
        lifted, lifted_f = (torch.where(s == 0, 1e-5, s) for s in (strength, strength_f))
        share = torch.where(strength > strength_f, strength_f / lifted, lifted / lifted_f)
        alike = ((angle - angle_f).abs() - math.pi / 2).abs() * (2 / math.pi)
        kept = torch.sigmoid(10 * (share - 0.5)) * torch.sigmoid(20 * (alike - 0.75))
        quality, weight = quality + kept * lifted, weight + lifted
    return mean(quality / weight)


def edge_preservation(reference: Tensor, image: Tensor, *, data_range: float) -> Tensor:
    """Return the correlation of the gradient vectors of both images on the strongest edges of the reference.

    Those are the tenth of its pixels that are not flat with the largest Sobel gradient.

    Args:
        reference: **[B or 1, 1, H, W]**.
        image: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, -1..1: 1 for the same edges at any contrast, -1 for inverted ones. NaN for a black reference.
    """
    x, y = as_levels(data_range, reference=reference, image=image)
    (xx, xy), (yx, yy) = sobel(x), sobel(y)
    strength = magnitude(xx, xy)
    strong = _strong(strength)
    inner = total((xx * yx + xy * yy) * strong)
    size_x = total(strength.square() * strong)
    size_y = total((yx * yx + yy * yy) * strong).clamp_min(TINY)
    return ratio(inner, (size_x * size_y).sqrt())


def _strong(strength: Tensor) -> Tensor:
    """Mark the strongest tenth of the values above 0; equal values are in together, rounding apart."""
    marks = []
    for sample in strength.detach():
        edges = sample[sample > 1e-6].sort().values
        if len(edges) == 0:
            marks.append(torch.zeros_like(sample))
            continue
        place = _STRONG * (len(edges) - 1)
        low = math.floor(place)
        bound = torch.lerp(edges[low], edges[math.ceil(place)], place - low)
        marks.append((sample >= bound - _TIE).to(sample))
    return torch.stack(marks)


def _polar(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return strength and orientation (-pi/2..pi/2) of the Sobel gradient; a vertical one has pi/2."""
    gx, gy = sobel(x)
    upright = gx.abs() < _TIE
    angle = torch.where(upright, math.pi / 2, torch.atan(-gy / torch.where(upright, 1.0, gx)))
    return magnitude(gx, gy), angle


def _polar_toolbox(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return strength and orientation as the toolbox has them, a horizontal derivative of 0 being 1e-5."""
    gx, gy = sobel(x)
    return magnitude(gx, gy), torch.atan(gy / torch.where(gx == 0, 1e-5, gx))
