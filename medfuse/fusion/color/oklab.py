"""A bivariate colour map in OKLab: lightness from the anatomy, hue and chroma from the uptake; both can be read back.

The uptake runs from blue over purple and red to orange: its hue never turns back, and neither does the blue-yellow
coordinate b, which people with protanopia and deuteranopia see nearly as others do: as b - 0.155 a and b + 0.078 a. b
depends on the uptake alone, whatever the anatomy, and so the order of the uptake stays theirs, too.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from medfuse.errors import GeometryError, ImageError
from medfuse.fusion.color.arrays import ArrayLike, as_given, as_tensors, shown_together, to_uint8

# Linear sRGB to the responses of the cones, and their cube roots to L, a and b (Ottosson 2020, matrices of 2021)
_TO_CONES = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=torch.float64,
)
_TO_LAB = torch.tensor(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=torch.float64,
)
# The map. All of it lies within sRGB, so nothing is cut that would have to be read back.
_DARKEST, _FLOOR, _LIGHTEST = 0.19, 0.28, 0.865  # L of no anatomy: without uptake, and with; L of the brightest
_RISE = 0.04  # uptake at which the floor is reached
_BLUE, _YELLOW = -0.065, 0.055  # b without uptake, b of the highest
_ORANGE, _RED = 0.045, 0.18  # a of the highest uptake; four times what lies above the straight line half way
_VIVID, _MIDDLE, _SPAN = 0.7, 0.56, 0.3  # more of a, by this share, at a middle lightness
_LEVEL = 0.05  # of b for what a has more: between what either kind of dichromat would see of it
_END, _NEAR = 0.04, 0.02  # share of the path that each end has to itself, and the uptake over which it runs
_EMPTY, _FAINT = 0.2, 0.03  # share of the chroma that is left where nothing is; anatomy from which all of it is
_LEVELS = 256  # of each coordinate in the table by which colours are read


def rgb_to_oklab(rgb: ArrayLike) -> ArrayLike:
    """Convert sRGB to OKLab.

    Args:
        rgb: **[..., 3]**, gamma-encoded as stored in image files, 0..1.

    Returns:
        **[..., 3]** lightness L in 0..1, a from green to red, b from blue to yellow.

    Raises:
        GeometryError: If the last axis is not 3.

    Reference:
        Ottosson, A perceptual color space for image processing (2020); IEC 61966-2-1 for the curve of sRGB.
    """
    x = _colour(rgb)
    linear = torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0) + 0.055) / 1.055) ** 2.4)
    cones = linear @ _TO_CONES.T.to(x)
    return as_given((cones.sign() * cones.abs() ** (1 / 3)) @ _TO_LAB.T.to(x), isinstance(rgb, Tensor))


def oklab_to_rgb(oklab: ArrayLike) -> ArrayLike:
    """Convert OKLab back to sRGB; nothing is clipped.

    Args:
        oklab: **[..., 3]** as `rgb_to_oklab` returns it.

    Returns:
        **[..., 3]** sRGB; beyond 0..1 where no colour of sRGB is.

    Raises:
        GeometryError: If the last axis is not 3.

    Reference:
        As `rgb_to_oklab`.
    """
    x = _colour(oklab)
    linear = (x @ torch.linalg.inv(_TO_LAB).T.to(x)) ** 3 @ torch.linalg.inv(_TO_CONES).T.to(x)
    curved = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return as_given(torch.where(linear <= 0.0031308, 12.92 * linear, curved), isinstance(oklab, Tensor))


def bivariate(anatomy: ArrayLike, uptake: ArrayLike) -> ArrayLike:
    """Show anatomy as lightness and uptake as hue and chroma: one colour for each pair of values.

    Bivariate colour map. With anatomy s and uptake u in 0..1 the colour in OKLab is

        t = 0.92 u + 0.04 (r(u) + 1 - r(1 - u)),    r(x) = sqrt(min(x / 0.02, 1))
        L = L0(u) + (0.865 - L0(u)) s,    L0(u) = 0.19 + 0.09 sqrt(min(u / 0.04, 1))
        a = c (1 + v) p,    b = c (-0.065 + 0.12 t + 0.05 v p),    p = t (0.045 + 0.18 (1 - t))
        v = 0.7 max(1 - ((L - 0.56) / 0.3)^2, 0),    c = 0.2 + 0.8 min(max(s / 0.03, u / 0.04), 1)

    So hue and b follow from the uptake, and the uptake changes the lightness near zero only, where what is empty stays
    dark and nearly grey. Both ends of the window stand a little apart, to be told from what is near. Read it with
    `read_bivariate`.

    Args:
        anatomy: Anatomy in its display window, 0..1; values beyond are clipped, as this is for display.
        uptake: Uptake in its display window, 0..1; clipped likewise. Broadcasts with `anatomy`.

    Returns:
        sRGB **[..., 3]** in 0..1.

    Raises:
        GeometryError: If the two shapes do not broadcast.
        ImageError: If an image holds NaN or infinity.
    """
    wants_tensor = isinstance(anatomy, Tensor) or isinstance(uptake, Tensor)
    s, u = shown_together(anatomy=anatomy, uptake=uptake)
    s, u = s.clamp(0, 1), u.clamp(0, 1)
    floor = _DARKEST + (_FLOOR - _DARKEST) * (u / _RISE).clamp_max(1).sqrt()
    lightness = floor + (_LIGHTEST - floor) * s
    vivid = _VIVID * (1 - ((lightness - _MIDDLE) / _SPAN) ** 2).clamp_min(0)
    t = (1 - 2 * _END) * u + _END * (1 + _near(u) - _near(1 - u))
    red = t * (_ORANGE + _RED * (1 - t))
    share = _EMPTY + (1 - _EMPTY) * torch.maximum(s / _FAINT, u / _RISE).clamp_max(1)
    a, b = (
        share * (1 + vivid) * red,
        share * (torch.lerp(t.new_tensor(_BLUE), t.new_tensor(_YELLOW), t) + _LEVEL * vivid * red),
    )
    return as_given(oklab_to_rgb(torch.stack([lightness, a, b], -1)).clamp(0, 1), wants_tensor)


def read_bivariate(rgb: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Read anatomy and uptake back from the colours of `bivariate`: the nearest colour of the map, in OKLab.

    Of 8-bit colours that `bivariate` gave for 256 levels of each, both come back to within a few levels; of colours
    that are none of the map's, the nearest's.

    Args:
        rgb: **[..., 3]**, uint8, or in 0..1.

    Returns:
        Anatomy and uptake, each **[...]** float32 in 0..1, in the windows in which they were shown.

    Raises:
        GeometryError: If the last axis is not 3.
        ImageError: If it holds NaN or infinity.
    """
    values = rgb.detach().cpu().numpy() if isinstance(rgb, Tensor) else np.asarray(rgb)
    if values.ndim == 0 or values.shape[-1] != 3:
        raise GeometryError(f"The last axis must be colour, 3 long, got shape {values.shape}; move it to the end.")
    if not np.isfinite(values).all():
        raise ImageError("rgb must be finite, got NaN or infinity; repair it first.")
    levels = values if values.dtype == np.uint8 else to_uint8(values)
    colours, place = np.unique(levels.reshape(-1, 3), axis=0, return_inverse=True)
    _, nearest = _tree().query(rgb_to_oklab(colours / 255.0))
    uptake, anatomy = np.divmod(nearest.astype(np.float32)[place.ravel()], _LEVELS)
    last = np.float32(_LEVELS - 1)
    return (anatomy / last).reshape(levels.shape[:-1]), (uptake / last).reshape(levels.shape[:-1])


def bivariate_scale(steps: int = 256, levels: int = 5) -> np.ndarray:
    """Return the scale of the uptake at several lightnesses, for a colour bar.

    Args:
        steps: Number of uptakes, from 0 to 1.
        levels: Number of brightnesses of the anatomy, from 0 to 1.

    Returns:
        **[levels, steps, 3]** float32 sRGB in 0..1, the brightest anatomy first.
    """
    anatomy, uptake = np.linspace(1, 0, levels)[:, None], np.linspace(0, 1, steps)[None]
    return np.asarray(bivariate(anatomy, uptake), dtype=np.float32)


def _near(x: Tensor) -> Tensor:
    """Return 0 at 0, rising steeply to 1 where it is no longer near."""
    return (x / _NEAR).clamp_max(1).sqrt()


@cache
def _tree() -> cKDTree:
    """Return the map's 8-bit colours, uptake by anatomy, as points in OKLab."""
    values = np.linspace(0, 1, _LEVELS)
    return cKDTree(rgb_to_oklab(to_uint8(bivariate(values[None], values[:, None])) / 255.0).reshape(-1, 3))


def _colour(image: ArrayLike) -> Tensor:
    (x,) = as_tensors(image)
    if x.ndim == 0 or x.shape[-1] != 3:
        raise GeometryError(f"The last axis must be colour, 3 long, got shape {tuple(x.shape)}; move it to the end.")
    return x
