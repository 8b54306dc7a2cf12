"""The fused image, and how it is shown: what follows the restoration of both sources."""

from medfuse.fusion.balance import balanced
from medfuse.fusion.color import (
    ColourFusion,
    bivariate,
    fuse_color,
    fuse_visible,
    palette,
    read_back,
    read_bivariate,
    rgb_to_ycbcr,
    to_uint8,
    ycbcr_to_rgb,
)
from medfuse.fusion.rule import Evidence, FusionRule, TwoScale, fusion_rule

__all__ = [
    "ColourFusion",
    "Evidence",
    "FusionRule",
    "TwoScale",
    "balanced",
    "bivariate",
    "fuse_color",
    "fuse_visible",
    "fusion_rule",
    "palette",
    "read_back",
    "read_bivariate",
    "rgb_to_ycbcr",
    "to_uint8",
    "ycbcr_to_rgb",
]
