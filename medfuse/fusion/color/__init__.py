"""Colour: luma and chroma, palettes for PET over fused structure, and visible images.

No other package knows colour. Everything before it works on scalars, because a colour is no quantity: several PET
palettes get darker where uptake grows.

Every function on images takes numpy arrays or torch tensors of any shape, colour in the last axis, and returns what it
was given: a tensor (same device, float32 or better) if any argument is a tensor, else an array.
"""

from medfuse.fusion.color.arrays import to_uint8
from medfuse.fusion.color.palettes import PALETTES, fuse_color, palette
from medfuse.fusion.color.visible import chroma_degradation, fuse_visible, luma_degradation
from medfuse.fusion.color.ycbcr import recolor, rgb_to_ycbcr, ycbcr_to_rgb

__all__ = [
    "PALETTES",
    "chroma_degradation",
    "fuse_color",
    "fuse_visible",
    "luma_degradation",
    "palette",
    "recolor",
    "rgb_to_ycbcr",
    "to_uint8",
    "ycbcr_to_rgb",
]
