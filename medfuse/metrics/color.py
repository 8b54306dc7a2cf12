"""Fidelity of colour: a fused colour image beside the colour image of its source, in CIELAB.

RGB means sRGB. The palettes are elsewhere: these functions know no PET.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medfuse.errors import GeometryError, ImageError
from medfuse.metrics.filters import TINY, ratio, root

# IEC 61966-2-1: linear sRGB to CIE XYZ; CIE 15: white of D65 for 2 degrees
_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
_COLOURED, _COLOURLESS = 10.0, 2.0  # chroma above which a pixel has a colour, and below which it has none


def colour_fidelity(reference: Tensor, image: Tensor, *, data_range: float) -> dict[str, Tensor]:
    """Compare the colours of a fused image with those of the coloured source.

    Args:
        reference: The coloured source (PET), sRGB **[B or 1, 3, H, W]**.
        image: The fused image, sRGB **[B, 3, H, W]**.
        data_range: Full range of the images; what lies beyond is clipped.

    Returns:
        Each **[B]**, NaN where no pixel counts: `dE00`, the mean CIEDE2000 difference; over pixels of which the source
        has a chroma above 10: `dE00_pet`, `dC_abs` and `dC_signed`, the difference of chroma (image minus source), and
        `dH_deg`, the mean difference of hue in degrees, weighed by the lesser chroma; `leakC`, the mean chroma where
        the source has one below 2.

    Raises:
        GeometryError: If an image is not [B, 3, H, W] or two do not fit.
        ImageError: If an image holds NaN or infinity, or the range is not positive.
    """
    lab1, lab2 = (rgb_to_lab(x, data_range=data_range) for x in (reference, image))
    if lab1.shape[2:] != lab2.shape[2:] or len({len(lab1), len(lab2)} - {1}) > 1:
        raise GeometryError(
            f"Colour images must fit each other, got {tuple(lab1.shape)} and {tuple(lab2.shape)}; resample one."
        )
    lab1, lab2 = torch.broadcast_tensors(lab1, lab2)
    chroma1, chroma2 = (_length(lab[:, 1], lab[:, 2]) for lab in (lab1, lab2))
    difference = ciede2000(lab1, lab2)
    turn = torch.atan2(lab2[:, 2], lab2[:, 1]) - torch.atan2(lab1[:, 2], lab1[:, 1])
    turn = torch.rad2deg(torch.atan2(turn.sin(), turn.cos())).abs()
    coloured, colourless = chroma1 > _COLOURED, chroma1 < _COLOURLESS
    weight = torch.minimum(chroma1, chroma2) * coloured
    hue = (turn * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(TINY)
    return {
        "dE00": difference.mean((1, 2)),
        "dE00_pet": _mean_where(difference, coloured),
        "dC_abs": _mean_where((chroma2 - chroma1).abs(), coloured),
        "dC_signed": _mean_where(chroma2 - chroma1, coloured),
        "dH_deg": torch.where(coloured.any(-1).any(-1), hue, math.nan),
        "leakC": _mean_where(chroma2, colourless),
    }


def rgb_to_lab(rgb: Tensor, *, data_range: float) -> Tensor:
    """Convert sRGB to CIELAB under D65.

    Args:
        rgb: **[B, 3, H, W]**, gamma-encoded.
        data_range: Full range of the image; what lies beyond is clipped.

    Returns:
        **[B, 3, H, W]** float64: L* in 0..100, a*, b*.

    Raises:
        GeometryError: If the image is not [B, 3, H, W].
        ImageError: If it holds NaN or infinity, or the range is not positive.

    Reference:
        IEC 61966-2-1; CIE 15, Colorimetry.
    """
    if not (math.isfinite(data_range) and data_range > 0):
        raise ImageError(f"data_range must be positive, got {data_range}; give 1.0 for 0..1, 255.0 for 8 bits.")
    if rgb.ndim != 4 or rgb.shape[1] != 3 or rgb.numel() == 0:
        raise GeometryError(f"A colour image must be [B, 3, H, W], got {tuple(rgb.shape)}; give RGB.")
    x = (rgb.as_subclass(Tensor).to(torch.float64) / data_range).clamp(0, 1)
    if not bool(torch.isfinite(x).all()):
        raise ImageError("A colour image must be finite, got NaN or infinity; repair it.")
    linear = torch.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    matrix = torch.tensor(_TO_XYZ, dtype=x.dtype, device=x.device)
    white = torch.tensor(_WHITE, dtype=x.dtype, device=x.device)[:, None, None]
    t = torch.einsum("ij,bjhw->bihw", matrix, linear) / white
    f = torch.where(t > 0.008856, t.clamp_min(0.008856) ** (1 / 3), 7.787 * t + 16 / 116)
    return torch.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def ciede2000(lab1: Tensor, lab2: Tensor) -> Tensor:
    """Return the CIEDE2000 difference of two CIELAB images **[B, 3, H, W]**, with all weights 1, as **[B, H, W]**.

    Reference:
        Sharma, Wu and Dalal, The CIEDE2000 color-difference formula (Color Res. Appl. 2005), equations 2 to 22.
    """
    (l1, a1, b1), (l2, a2, b2) = lab1.unbind(1), lab2.unbind(1)
    mean_c7 = ((_length(a1, b1) + _length(a2, b2)) / 2) ** 7
    stretched = 1.5 - 0.5 * root(mean_c7 / (mean_c7 + 25.0**7))
    a1, a2 = stretched * a1, stretched * a2
    c1, c2 = _length(a1, b1), _length(a2, b2)
    h1, h2 = (torch.atan2(b, a) % (2 * math.pi) for a, b in ((a1, b1), (a2, b2)))

    grey = (c1 == 0) | (c2 == 0)
    turn = h2 - h1
    turn = torch.where(turn > math.pi, turn - 2 * math.pi, torch.where(turn < -math.pi, turn + 2 * math.pi, turn))
    dh = 2 * root(c1 * c2) * torch.sin(torch.where(grey, 0.0, turn) / 2)
    hue = h1 + h2
    apart = (h1 - h2).abs() > math.pi
    hue = torch.where(apart, torch.where(hue < 2 * math.pi, hue + 2 * math.pi, hue - 2 * math.pi), hue) / 2
    hue = torch.where(grey, h1 + h2, hue)

    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    degrees = torch.rad2deg(hue)
    t = 1 - 0.17 * _cos(degrees - 30) + 0.24 * _cos(2 * degrees)
    t = t + 0.32 * _cos(3 * degrees + 6) - 0.20 * _cos(4 * degrees - 63)
    from50 = (lightness - 50) ** 2
    sl = 1 + 0.015 * from50 / (20 + from50).sqrt()
    sc, sh = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    rotation = 60 * torch.exp(-(((degrees - 275) / 25) ** 2))
    rt = -2 * root(chroma**7 / (chroma**7 + 25.0**7)) * torch.sin(torch.deg2rad(rotation))
    dl, dc, dh = (l2 - l1) / sl, (c2 - c1) / sc, dh / sh
    return root(dl * dl + dc * dc + dh * dh + rt * dc * dh)


def _length(a: Tensor, b: Tensor) -> Tensor:
    return root(a * a + b * b)


def _cos(degrees: Tensor) -> Tensor:
    return torch.cos(torch.deg2rad(degrees))


def _mean_where(x: Tensor, mask: Tensor) -> Tensor:
    return ratio((x * mask).sum((1, 2)), mask.sum((1, 2)).to(x))
