"""The fused image, and how it is shown: what follows the restoration of both sources."""

from medfuse.fusion.balance import balanced
from medfuse.fusion.color import fuse_color, fuse_visible, palette, rgb_to_ycbcr, to_uint8, ycbcr_to_rgb

__all__ = ["balanced", "fuse_color", "fuse_visible", "palette", "rgb_to_ycbcr", "to_uint8", "ycbcr_to_rgb"]
