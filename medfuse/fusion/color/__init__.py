"""Colour: luma and chroma, a bivariate map and palettes for PET over anatomy, and visible images.

No other package knows colour. Everything before it works on scalars, because a colour is no quantity: several PET
palettes get darker where uptake grows.

Every function on images takes numpy arrays or torch tensors of any shape, colour in the last axis, and returns what it
was given: a tensor (same device, float32 or better) if any argument is a tensor, else an array.
"""

from medfuse.fusion.color.arrays import to_uint8
from medfuse.fusion.color.display import BLENDS, COLOUR_MAPS, ColourFusion, read_back
from medfuse.fusion.color.oklab import bivariate, bivariate_scale, oklab_to_rgb, read_bivariate, rgb_to_oklab
from medfuse.fusion.color.palettes import PALETTES, fuse_color, palette
from medfuse.fusion.color.visible import chroma_degradation, fuse_visible, luma_degradation
from medfuse.fusion.color.ycbcr import recolor, rgb_to_ycbcr, ycbcr_to_rgb

__all__ = [
    "BLENDS",
    "COLOUR_MAPS",
    "PALETTES",
    "ColourFusion",
    "bivariate",
    "bivariate_scale",
    "chroma_degradation",
    "fuse_color",
    "fuse_visible",
    "luma_degradation",
    "oklab_to_rgb",
    "palette",
    "read_back",
    "read_bivariate",
    "recolor",
    "rgb_to_oklab",
    "rgb_to_ycbcr",
    "to_uint8",
    "ycbcr_to_rgb",
]
