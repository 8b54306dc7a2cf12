"""Luma and chroma of ITU-R BT.601-7, and how a colour difference is kept within the RGB cube."""

from __future__ import annotations

import torch
from torch import Tensor

from medfuse.errors import GeometryError
from medfuse.fusion.color.arrays import ArrayLike, as_given, as_tensors

# ITU-R BT.601-7, 2.5.1 and 2.5.2: luma weights, and the scale of the colour differences
_KR, _KG, _KB = 0.299, 0.587, 0.114
TO_YCBCR = torch.tensor(
    [
        [_KR, _KG, _KB],
        [-_KR / (2 - 2 * _KB), -_KG / (2 - 2 * _KB), 0.5],
        [0.5, -_KG / (2 - 2 * _KR), -_KB / (2 - 2 * _KR)],
    ],
    dtype=torch.float64,
)
TO_RGB = torch.linalg.inv(TO_YCBCR)


def rgb_to_ycbcr(rgb: ArrayLike) -> ArrayLike:
    """Convert RGB to luma and chroma, in floats and without offsets: an exact round trip with `ycbcr_to_rgb`.

    Args:
        rgb: **[..., 3]**, gamma-encoded as stored in image files; 0..1 gives Y in 0..1, Cb and Cr in -0.5..0.5.

    Returns:
        **[..., 3]** Y, Cb, Cr.

    Raises:
        GeometryError: If the last axis is not 3.

    Reference:
        ITU-R BT.601-7, 2.5.1 and 2.5.2.
    """
    return _multiply(rgb, TO_YCBCR)


def ycbcr_to_rgb(ycbcr: ArrayLike) -> ArrayLike:
    """Convert luma and chroma back to RGB; nothing is clipped.

    Args:
        ycbcr: **[..., 3]** as `rgb_to_ycbcr` returns it.

    Returns:
        **[..., 3]** RGB; beyond 0..1 where luma and chroma lie outside the RGB cube.

    Raises:
        GeometryError: If the last axis is not 3.

    Reference:
        ITU-R BT.601-7, 2.5.1 and 2.5.2.
    """
    return _multiply(ycbcr, TO_RGB)


def recolor(luma: ArrayLike, chroma: ArrayLike) -> ArrayLike:
    """Give an image of its own luma the colour of another, at the same hue.

    Where luma and chroma lie outside the RGB cube the chroma is reduced; hue and luma stay.

    Args:
        luma: **[...]**, clipped to 0..1.
        chroma: **[..., 2]** Cb and Cr, -0.5..0.5.

    Returns:
        **[..., 3]** RGB in 0..1; for the luma and chroma of one image, that image.

    Raises:
        GeometryError: If the last axis of the chroma is not 2, or the shapes do not fit.
    """
    y, c = as_tensors(luma, chroma)
    if c.shape != (*y.shape, 2):
        raise GeometryError(f"chroma must be {(*y.shape, 2)}, got {tuple(c.shape)}; take both from one image.")
    difference = c @ TO_RGB[:, 1:].T.to(c)
    return as_given(add_within_cube(y[..., None].clamp(0, 1), difference), isinstance(luma, Tensor))


def add_within_cube(luma: Tensor, chroma: Tensor) -> Tensor:
    """Add to grey **[..., 1]** a colour difference of zero luma **[..., 3]**, scaled down to stay in the RGB cube."""
    room = torch.where(chroma > 0, 1 - luma, luma).div_(chroma.abs().clamp_min_(1e-12))
    scale = room.amin(-1, keepdim=True).clamp_max_(1)
    del room
    return torch.addcmul(luma, chroma, scale).clamp_(0, 1)


def _multiply(image: ArrayLike, matrix: Tensor) -> ArrayLike:
    (x,) = as_tensors(image)
    if x.ndim == 0 or x.shape[-1] != 3:
        raise GeometryError(f"The last axis must be colour, 3 long, got shape {tuple(x.shape)}; move it to the end.")
    return as_given(x @ matrix.T.to(x), isinstance(image, Tensor))
