"""Display palettes of nuclear medicine, and PET in a palette over fused structure."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from medfuse.errors import ImageError
from medfuse.fusion.color.arrays import ArrayLike, as_given, shown_together
from medfuse.fusion.color.ycbcr import TO_YCBCR, add_within_cube

# DICOM PS3.6 Annex B: well-known colour palettes
_PALETTE_UIDS = {
    "HOT_IRON": "1.2.840.10008.1.5.1",
    "PET": "1.2.840.10008.1.5.2",
    "HOT_METAL_BLUE": "1.2.840.10008.1.5.3",
    "PET_20_STEP": "1.2.840.10008.1.5.4",
}
FALLING = ("GRAY_INVERTED",)
"""Palettes that get darker where uptake grows."""
PALETTES = (*_PALETTE_UIDS, "RAINBOW", "GRAY", *FALLING)


def palette(name: str) -> np.ndarray:
    """Return a display palette.

    Args:
        name: One of `PALETTES`, in any case.

    Returns:
        **[256, 3]** float32 RGB in 0..1, from coldest to hottest. A copy: yours to change.

    Raises:
        ImageError: If the name is unknown.

    Reference:
        DICOM PS3.6 Annex B, Well-known Color Palettes; `RAINBOW`, as the NIH palette runs from black over violet, blue,
        green, yellow and red, is nipy_spectral of matplotlib.
    """
    return _palette(name.upper()).copy()


def fuse_color(
    fused: ArrayLike,
    uptake: ArrayLike,
    palette: str = "HOT_IRON",
    *,
    structure: float = 0.5,
    opacity: float = 0.8,
    floor: float = 0.0,
) -> ArrayLike:
    """Lay a PET palette over fused structure such that hotter is never darker.

    The luma is a screen blend, `Y = 1 - (1 - structure fused) (1 - opacity P(u))`, where P is the palette's luma, made
    non-decreasing. It grows with the uptake at any structure, and with the structure at any uptake; cold regions show
    the plain grey structure, and where both are zero the result is black. The chroma is the palette's times the
    opacity, reduced as far as the RGB cube demands at that luma.

    That holds for the luma of BT.601 with every palette. The lightness L* of CIE never falls with HOT_IRON at the
    default structure and opacity, nor with GRAY. It may fall, out of 100, by 0.5 with HOT_IRON at other settings, by 2
    with HOT_METAL_BLUE and by 10 with PET, which change their hue at one luma, and by more with RAINBOW.

    Args:
        fused: Fused structure, 0..1 from black to white; values beyond are clipped, as this is for display.
        uptake: Uptake in its display window, 0..1 from coldest to hottest; clipped likewise. Broadcasts with `fused`.
        palette: One of `PALETTES`, in any case, that do not get darker where uptake grows.
        structure: Luma of the brightest structure in a cold region, in (0, 1]. Less leaves more room for uptake.
        opacity: Weight of the palette, in [0, 1]. Less leaves more structure in hot regions.
        floor: Uptake that counts as cold, in [0, 1); the palette begins there.

    Returns:
        RGB **[..., 3]** in 0..1.

    Raises:
        GeometryError: If the two shapes do not broadcast.
        ImageError: If the palette is unknown, a parameter is out of range, or an image holds NaN or infinity.
    """
    if not (0 < structure <= 1 and 0 <= opacity <= 1 and 0 <= floor < 1):
        raise ImageError(
            "structure, opacity and floor must be in (0, 1], [0, 1] and [0, 1), "
            f"got {structure:g}, {opacity:g} and {floor:g}; change them."
        )
    if palette.upper() in FALLING:
        raise ImageError(f"The palette must not get darker where uptake grows, got {palette}; choose another.")
    table = _palette(palette.upper())
    wants_tensor = isinstance(fused, Tensor) or isinstance(uptake, Tensor)
    s, u = shown_together(fused=fused, uptake=uptake)

    colours = torch.tensor(table).to(s)
    lumas = colours @ TO_YCBCR[0].to(s)
    rising = torch.cummax(lumas, 0).values
    u = (u.clamp(0, 1) - floor).clamp_min(0) / (1 - floor)
    luma = 1 - (1 - structure * s.clamp(0, 1)) * (1 - opacity * _interpolate(rising, u))
    chroma = torch.stack([_interpolate(opacity * (channel - lumas), u) for channel in colours.T], -1)
    return as_given(add_within_cube(luma[..., None], chroma), wants_tensor)


@cache
def _palette(name: str) -> np.ndarray:
    if name in ("GRAY", *FALLING):
        levels = np.arange(256, dtype=np.float32)
        table = np.repeat((levels if name == "GRAY" else levels[::-1])[:, None], 3, axis=1)
    elif name == "RAINBOW":
        from matplotlib import colormaps

        table = colormaps["nipy_spectral"](np.arange(256), bytes=True)[:, :3].astype(np.float32)
    elif name in _PALETTE_UIDS:
        from pydicom.pixels import apply_color_lut

        table = apply_color_lut(np.arange(256, dtype=np.uint8), palette=_PALETTE_UIDS[name]).astype(np.float32)
    else:
        raise ImageError(f"The palette must be one of {', '.join(PALETTES)}, got {name!r}; choose one of them.")
    table /= 255
    table.setflags(write=False)
    return table


def _interpolate(table: Tensor, u: Tensor) -> Tensor:
    """Look up `u` in 0..1 in a table **[n]**, linear between its entries."""
    last = len(table) - 1
    low = (u * last).long().clamp_max_(last - 1)
    return torch.lerp(table[low], table[low + 1], u * last - low)
