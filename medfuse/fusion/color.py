"""Colour: palettes for PET, a PET palette over fused structure, and luma with chroma.

No other module knows colour. Everything before it works on scalars, because a colour is no quantity: several PET
palettes get darker where uptake grows. A visible image is its luma, which is restored and fused, and its chroma, which
is restored as a pair of images of its own (`fuse_visible`).

Every function on images takes numpy arrays or torch tensors of any shape, colour in the last axis, and returns what it
was given: a tensor (same device, float32 or better) if any argument is a tensor, else an array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from medfuse.errors import DegradationError, GeometryError, ImageError
from medfuse.physics import AveragedNoise, Degradation, GaussianNoise, JointDegradation, Noise

ArrayLike: TypeAlias = Any  # numpy array, torch tensor or number; what comes in goes out

# DICOM PS3.6 Annex B: well-known colour palettes
_PALETTE_UIDS = {
    "HOT_IRON": "1.2.840.10008.1.5.1",
    "PET": "1.2.840.10008.1.5.2",
    "HOT_METAL_BLUE": "1.2.840.10008.1.5.3",
}
PALETTES = (*_PALETTE_UIDS, "GRAY")

# ITU-R BT.601-7, 2.5.1 and 2.5.2: luma weights, and the scale of the colour differences
_KR, _KG, _KB = 0.299, 0.587, 0.114
_TO_YCBCR = torch.tensor(
    [
        [_KR, _KG, _KB],
        [-_KR / (2 - 2 * _KB), -_KG / (2 - 2 * _KB), 0.5],
        [0.5, -_KG / (2 - 2 * _KR), -_KB / (2 - 2 * _KR)],
    ],
    dtype=torch.float64,
)
_TO_RGB = torch.linalg.inv(_TO_YCBCR)
# Where each channel of RGB has independent noise of standard deviation 1: that of Cb and of Cr; the regression of the
# noise of Y on theirs; and the standard deviation of what it leaves, which is the noise of (R + G + B) / 3
_CHROMA_GAINS = tuple(float(v) for v in _TO_YCBCR[1:].norm(dim=1))
_LUMA_BY_CHROMA = tuple(map(float, torch.linalg.lstsq(_TO_YCBCR[1:].T, _TO_YCBCR[0]).solution))
_LUMA_GAIN = 3**-0.5


def palette(name: str) -> np.ndarray:
    """Return a display palette.

    Args:
        name: One of `PALETTES`, in any case.

    Returns:
        **[256, 3]** float32 RGB in 0..1, from coldest to hottest. A copy: yours to change.

    Raises:
        ImageError: If the name is unknown.

    Reference:
        DICOM PS3.6 Annex B, Well-known Color Palettes.
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
    with HOT_METAL_BLUE and by 10 with PET, which change their hue at one luma.

    Args:
        fused: Fused structure, 0..1 from black to white; values beyond are clipped, as this is for display.
        uptake: Uptake in its display window, 0..1 from coldest to hottest; clipped likewise. Broadcasts with `fused`.
        palette: One of `PALETTES`, in any case.
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
    table = _palette(palette.upper())
    wants_tensor = isinstance(fused, Tensor) or isinstance(uptake, Tensor)
    s, u = _tensors(fused, uptake)
    try:
        s, u = torch.broadcast_tensors(s, u)
    except RuntimeError as error:
        raise GeometryError(
            f"fused and uptake must have shapes that broadcast, got {tuple(s.shape)} and {tuple(u.shape)}; "
            "resample one onto the other."
        ) from error
    for what, image in (("fused", s), ("uptake", u)):
        if not bool(torch.isfinite(image).all()):
            raise ImageError(f"{what} must be finite, got NaN or infinity; repair it first.")

    colours = torch.tensor(table).to(s)
    lumas = colours @ _TO_YCBCR[0].to(s)
    rising = torch.cummax(lumas, 0).values
    u = (u.clamp(0, 1) - floor).clamp_min(0) / (1 - floor)
    luma = 1 - (1 - structure * s.clamp(0, 1)) * (1 - opacity * _interpolate(rising, u))
    chroma = torch.stack([_interpolate(opacity * (channel - lumas), u) for channel in colours.T], -1)
    return _like(_add_within_cube(luma[..., None], chroma), wants_tensor)


def to_uint8(rgb: ArrayLike) -> np.ndarray:
    """Convert values in 0..1 to bytes, rounding half to even and clipping what lies beyond.

    Args:
        rgb: Array or tensor of any shape, finite.

    Returns:
        uint8 array of the same shape.
    """
    values = rgb.detach().cpu().numpy() if isinstance(rgb, Tensor) else np.asarray(rgb)
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


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
    return _multiply(rgb, _TO_YCBCR)


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
    return _multiply(ycbcr, _TO_RGB)


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
    y, c = _tensors(luma, chroma)
    if c.shape != (*y.shape, 2):
        raise GeometryError(f"chroma must be {(*y.shape, 2)}, got {tuple(c.shape)}; take both from one image.")
    difference = c @ _TO_RGB[:, 1:].T.to(c)
    return _like(_add_within_cube(y[..., None].clamp(0, 1), difference), isinstance(luma, Tensor))


def luma_degradation(channels: Degradation) -> Degradation:
    """Return what happened to the luma where this happened to each channel of RGB, the noise independent in each.

    Linear operators act on luma as on each channel. Of the noise it is what remains once that of the chroma is known
    and subtracted, see `fuse_visible`: its standard deviation is 0.577 of that of a channel, and would else be 0.668.
    Poisson noise counts as that of grey. The mean of noise that is biased, or was cut at 0, stays that of a channel.
    """
    return _mixed(channels, _LUMA_GAIN, lambda noise: AveragedNoise(noise, _LUMA_GAIN))


def chroma_degradation(channels: Degradation, luma: Tensor) -> JointDegradation:
    """Return what happened to Cb and to Cr where this happened to each channel of RGB, the noise independent in each.

    The noise of a colour difference does not depend on that difference: Poisson and Rician noise become Gaussian noise
    of the same variance.

    Args:
        channels: What happened to each channel.
        luma: Of the image, **[B, H, W]**: its mean is the level of Poisson noise.
    """
    level = luma.clamp_min(0).mean((1, 2))

    def gaussian(gain: float) -> Callable[[Noise], Noise]:
        return lambda noise: GaussianNoise(gain * noise.variance(level[:, None]).sqrt().flatten())

    return JointDegradation(*(_mixed(channels, gain, gaussian(gain)) for gain in _CHROMA_GAINS))


def fuse_visible(
    fuse: Callable[..., Mapping[str, Tensor]],
    visible: Tensor,
    other: Tensor,
    degradation: JointDegradation,
) -> dict[str, Tensor]:
    """Restore a batch of visible images, in colour or grey, and fuse them with images of another kind.

    The luma is fused with the other image. Where something happened to the visible image, its chroma is restored
    before, by the same network, as a pair and in one step, for more steps serve the fusion alone. What the restored
    chroma leaves of the data is noise, which tells of the noise of the luma, for both are sums of the same noise of R,
    G and B: its regression on the noise of the chroma is subtracted. Both fused and restored image get the restored
    chroma.

    Args:
        fuse: From a pair **[B, 2, H, W]** and its degradation to `source1`, `source2`, `fused` and `weight`, each
            **[B, 1, H, W]**: a bundle's inferer and network. For the chroma it is called with the keywords `steps` and
            `balance`, which override its own, and `misfit`, by which it returns also what its sources leave of the
            data, as `medfuse.inferers.FusionInferer` does.
        visible: **[B, H, W, 3]** or **[B, H, W]**, 0..1.
        other: Infrared **[B, H, W]**, 0..1.
        degradation: What happened to each channel of the visible image, and to the other one.

    Returns:
        `fused` and `source1` of the shape of `visible`, `source2` and `weight` **[B, H, W]**.
    """
    if visible.ndim == 3:
        return _grey(fuse(torch.stack([visible, other], 1), degradation))
    channels, ycbcr = replace(degradation.source1, gamma=1.0), rgb_to_ycbcr(degradation.source1.linear(visible))
    pair, chroma = torch.stack([ycbcr[..., 0], other], 1), ycbcr[..., 1:].movedim(-1, 1) + 0.5
    del visible, other, ycbcr  # large images leave room for both runs of the network
    if channels.steps:
        least = pair[:, :1].amin((1, 2, 3), keepdim=True).clamp_max(0)  # where values below 0 were cut, they stay so
        what = chroma_degradation(channels, pair[:, 0])
        answer = fuse(chroma, what, steps=1, misfit=True, balance=0)
        for share, misfit in zip(_LUMA_BY_CHROMA, answer["misfit"].split(1, 1), strict=True):
            pair[:, :1] -= share * misfit
        torch.maximum(pair[:, :1], least, out=pair[:, :1])
        chroma, channels = torch.cat([answer["source1"], answer["source2"]], 1), luma_degradation(channels)
        del answer, misfit
    result = _grey(fuse(pair, JointDegradation(channels, degradation.source2)))
    del pair
    chroma = chroma.movedim(1, -1) - 0.5
    return result | {k: recolor(result[k], chroma) for k in ("source1", "fused")}


def _grey(result: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the images of a fusion, each **[B, H, W]**."""
    return {kind: result[kind][:, 0] for kind in ("source1", "source2", "fused", "weight")}


@cache
def _palette(name: str) -> np.ndarray:
    if name == "GRAY":
        table = np.repeat(np.arange(256, dtype=np.float32)[:, None], 3, axis=1)
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


def _add_within_cube(luma: Tensor, chroma: Tensor) -> Tensor:
    """Add to grey **[..., 1]** a colour difference of zero luma **[..., 3]**, scaled down to stay in the RGB cube."""
    room = torch.where(chroma > 0, 1 - luma, luma).div_(chroma.abs().clamp_min_(1e-12))
    scale = room.amin(-1, keepdim=True).clamp_max_(1)
    del room
    return torch.addcmul(luma, chroma, scale).clamp_(0, 1)


def _mixed(channels: Degradation, gain: float, mix: Callable[[Noise], Noise]) -> Degradation:
    """Return the degradation of a weighted sum of channels: the operators as they are, the noise mixed."""
    if channels.gamma != 1:
        raise DegradationError(f"the power must be undone before channels are mixed, got gamma {channels.gamma:g}.")
    steps = tuple(mix(step) if isinstance(step, Noise) else step for step in channels.steps)
    return Degradation(steps, channels.floor * gain)


def _multiply(image: ArrayLike, matrix: Tensor) -> ArrayLike:
    (x,) = _tensors(image)
    if x.ndim == 0 or x.shape[-1] != 3:
        raise GeometryError(f"The last axis must be colour, 3 long, got shape {tuple(x.shape)}; move it to the end.")
    return _like(x @ matrix.T.to(x), isinstance(image, Tensor))


def _tensors(*images: ArrayLike) -> tuple[Tensor, ...]:
    """Return the images as plain tensors of one floating dtype, float32 or better, on one device."""
    device = next((i.device for i in images if isinstance(i, Tensor)), None)
    tensors = [torch.as_tensor(i if isinstance(i, Tensor) else np.array(i)).as_subclass(Tensor) for i in images]
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(t.to(device=device, dtype=dtype) for t in tensors)


def _like(result: Tensor, wants_tensor: bool) -> ArrayLike:
    return result if wants_tensor else result.numpy()
