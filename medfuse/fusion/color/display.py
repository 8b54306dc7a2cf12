"""One colour image of anatomy and uptake: the bivariate map of OKLab, or a palette, and both values read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfuse.errors import ImageError
from medfuse.fusion.color.arrays import ArrayLike, as_given, shown_together
from medfuse.fusion.color.oklab import bivariate, bivariate_scale, read_bivariate
from medfuse.fusion.color.palettes import FALLING, PALETTES, fuse_color, palette

OKLAB = "OKLAB"
COLOUR_MAPS = (OKLAB, *PALETTES)
"""The words of the configurations for a colour map."""
BLENDS = ("luma", "alpha")
_ALONE = "HOT_IRON"  # of an uptake without anatomy, where the map needs both
_ALPHA = 0.5

Window = tuple[float, float]


@dataclass(frozen=True)
class ColourFusion:
    """How anatomy and uptake become one colour image.

    | palette | blend | lightness | colour |
    |---|---|---|---|
    | `OKLAB` | | anatomy | hue and chroma from the uptake, see `bivariate`; both can be read back |
    | any other | `luma` | fused structure and palette, see `fuse_color`: hotter is never darker | palette |
    | any other | `alpha` | `(1 - alpha) anatomy + alpha palette(uptake)`, alpha 0.5 | likewise |

    Attributes:
        palette: One of `COLOUR_MAPS`, in any case.
        blend: One of `BLENDS`; None: `luma`, and `alpha` for a palette that gets darker where uptake grows.

    Raises:
        ImageError: There is no such palette or blend, or the two do not go together.
    """

    palette: str = OKLAB
    blend: str | None = None

    def __post_init__(self) -> None:
        """Check the words."""
        name = str(self.palette).upper()
        if name not in COLOUR_MAPS:
            raise ImageError(
                f"The palette must be one of {', '.join(COLOUR_MAPS)}, got {self.palette!r}; choose one of them."
            )
        if self.blend is not None and self.blend not in BLENDS:
            raise ImageError(f"The blend must be one of {', '.join(BLENDS)}, got {self.blend!r}; choose one of them.")
        if self.blend is not None and name == OKLAB:
            raise ImageError(f"The blend must come with a palette other than {OKLAB}, got {self.blend}; leave it out.")
        if self.blend == "luma" and name in FALLING:
            raise ImageError(f"The blend of {name} must be alpha, as it gets darker where uptake grows, got luma.")
        object.__setattr__(self, "palette", name)
        if name != OKLAB and self.blend is None:
            object.__setattr__(self, "blend", "alpha" if name in FALLING else "luma")

    @property
    def alone(self) -> str:
        """Palette of the uptake where it is shown without anatomy."""
        return _ALONE if self.palette == OKLAB else self.palette

    @property
    def shows_anatomy(self) -> bool:
        """Whether source 1 itself gives the lightness, and not the fused image."""
        return self.blend != "luma"

    def __call__(self, anatomy: ArrayLike, uptake: ArrayLike) -> ArrayLike:
        """Return sRGB **[..., 3]** in 0..1.

        Args:
            anatomy: Anatomy, or with `luma` the fused structure, in its display window, 0..1; clipped beyond.
            uptake: Uptake in its display window, 0..1; clipped likewise. Broadcasts with `anatomy`.

        Raises:
            GeometryError: The two shapes do not broadcast.
            ImageError: An image holds NaN or infinity.
        """
        if self.palette == OKLAB:
            return bivariate(anatomy, uptake)
        if self.blend == "luma":
            return fuse_color(anatomy, uptake, self.palette)
        return _overlay(anatomy, uptake, self.palette)

    def scale(self, steps: int = 256, levels: int = 5) -> np.ndarray:
        """Return the colour bar **[levels, steps, 3]** sRGB: the uptake from 0 to 1, the brightest anatomy first.

        It is at several lightnesses where the colour depends on them, for `OKLAB`, and else one row.
        """
        if self.palette == OKLAB:
            return bivariate_scale(steps, levels)
        places = np.linspace(0, len(palette(self.palette)) - 1, steps).round().astype(int)
        return np.asarray(palette(self.palette)[places][None])

    def record(self, windows: Any) -> dict[str, Any]:
        """Return what a record says of the colours; windows are those of both sources."""
        return {"palette": self.palette, "blend": self.blend, "windows": windows}

    def described(self, windows: tuple[str, str]) -> str:
        """Return in a sentence what the colours mean; windows are those of both sources, with name and unit."""
        if self.palette == OKLAB:
            return (
                f"Colour: bivariate OKLab map of medfuse, lightness {windows[0]}, hue blue to orange {windows[1]}; "
                "medfuse.read_back returns both."
            )
        how = "over fused structure" if self.blend == "luma" else f"at alpha {_ALPHA} over {windows[0]}"
        return f"Colour: palette {self.palette} {how}, {windows[1]}."


def read_back(rgb: ArrayLike, anatomy: Window = (0.0, 1.0), uptake: Window = (0.0, 1.0)) -> tuple[np.ndarray, ...]:
    """Read both values of a colour image in the `OKLAB` map back, in their units.

    Args:
        rgb: **[..., 3]**, uint8 or in 0..1; a volume that nibabel read as RGB (fields R, G, B) is taken, too.
        anatomy: Ends of the window in which the anatomy was shown, in its unit. The record of a case has them under
            `display.windows`, and so has the description in DICOM.
        uptake: Likewise of the uptake.

    Returns:
        Anatomy and uptake, each **[...]** float32 in its unit; what was beyond a window is at its end. The error is
        some levels of 255 at most, on average a fifth of a percent of the window.

    Raises:
        GeometryError: The last axis is not 3.
        ImageError: NaN or infinity, or a window whose ends do not rise.
    """
    for name, (low, high) in (("anatomy", anatomy), ("uptake", uptake)):
        if not -np.inf < low < high < np.inf:
            raise ImageError(f"The window of the {name} must be a lower and a higher value, got {low} and {high}.")
    if isinstance(rgb, np.ndarray) and rgb.dtype.names == ("R", "G", "B"):
        rgb = np.stack([rgb[name] for name in rgb.dtype.names], -1)
    values = zip(read_bivariate(rgb), (anatomy, uptake), strict=True)
    return tuple((low + value * (high - low)).astype(np.float32) for value, (low, high) in values)


def _overlay(anatomy: ArrayLike, uptake: ArrayLike, name: str) -> ArrayLike:
    wants_tensor = isinstance(anatomy, Tensor) or isinstance(uptake, Tensor)
    s, u = shown_together(anatomy=anatomy, uptake=uptake)
    table = torch.tensor(palette(name)).to(s)
    colour = table[(u.clamp(0, 1) * (len(table) - 1)).round().long()]
    return as_given((1 - _ALPHA) * s.clamp(0, 1)[..., None] + _ALPHA * colour, wants_tensor)
