"""MONAI transforms."""

from medfuse.transforms.color import fuse_color, palette, rgb_to_ycbcr, to_uint8, ycbcr_to_rgb
from medfuse.transforms.degrade import DegradationPrior, DegradeBatch, RandDegrade, RandDegraded
from medfuse.transforms.prepare import PrepareFusion, case_degradation

__all__ = [
    "DegradationPrior",
    "DegradeBatch",
    "PrepareFusion",
    "RandDegrade",
    "RandDegraded",
    "case_degradation",
    "fuse_color",
    "palette",
    "rgb_to_ycbcr",
    "to_uint8",
    "ycbcr_to_rgb",
]
