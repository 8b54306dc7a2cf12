"""What the pictures share: one paper, places in px from the top left corner, and three planes in RAS order.

Drawn with matplotlib's Figure alone, never pyplot: no state, no window, safe in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator

from medfuse.about import NOTICE
from medfuse.errors import GeometryError, ImageError
from medfuse.fusion.color import palette as color_palette
from medfuse.io.atomic import atomic_file
from medfuse.regions.values import as_array

MARGIN, SIDE, GAP, HEADER, FOOT = 26.0, 44.0, 6.0, 108.0, 48.0  # px
PAPER, INK, SOFT, MARK = "#0e1116", "#edf0f4", "#98a2b0", "#58c4dd"
DPI, FONT = 100, "DejaVu Sans"
TITLE, LABEL, SMALL = 20.0, 17.0, 15.0  # px, height of letters; a page shows them at about two thirds
_NEAR_END = 0.03  # share of a colour bar within which a number is at its end
_LETTER = 0.62  # mean width of a letter by its height
OUTLINE = (Stroke(linewidth=2.5, foreground="black"), Normal())
# Name of a plane, its fixed axis, and the axes to the right and upwards in a volume in RAS order
PLANES = (("Axial", 2, 0, 1), ("Coronal", 1, 0, 2), ("Sagittal", 0, 1, 2))
ENDS = (("L", "R"), ("P", "A"), ("I", "S"))


class ThreePlanes:
    """Three planes that meet in one voxel, through volumes that are turned to RAS order without resampling.

    Attributes:
        spacing: Voxel size **[3]**, mm, in RAS order.
        size: Field of view **[3]**, mm.
        centre: Index **[3]** of the voxel.
        world: Its place **[3]**, RAS mm.
    """

    def __init__(self, uptake: Any, affine: Any, *, voxel: Sequence[int] | None = None) -> None:
        """Choose the voxel.

        Args:
            uptake: Volume **[X, Y, Z]** whose highest value is where the planes meet; the outer eighth of each axis,
                where a plane would show little, is left out.
            affine: **[4, 4]**, voxel index to RAS mm.
            voxel: Index where they meet instead.

        Raises:
            GeometryError: If it is no volume, the affine is not invertible, or the voxel lies outside.
            ImageError: If the volume holds NaN or infinity.
        """
        self._shape, affine = as_array(uptake).shape, as_array(affine)
        good = affine.shape == (4, 4) and np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 1e-9
        if len(self._shape) != 3 or not good:
            raise GeometryError(
                f"A picture must have 3-D volumes and an invertible affine, got shape {self._shape}; check both."
            )
        self._turn = nib.io_orientation(affine)
        to_world = affine @ nib.orientations.inv_ornt_aff(self._turn, self._shape)
        self.spacing = np.linalg.norm(to_world[:3, :3], axis=0)
        volume = self.turned(uptake)
        self.size = self.spacing * volume.shape
        self.centre = _hottest(volume) if voxel is None else _inside(voxel, np.linalg.inv(to_world) @ affine, volume)
        self.world = to_world[:3, :3] @ self.centre + to_world[:3, 3]

    def turned(self, volume: Any, *channels: int) -> np.ndarray:
        """Return a volume **[X, Y, Z]** of this grid in RAS order, channels behind if there are any.

        Raises:
            GeometryError: If it has another shape.
            ImageError: If it holds NaN or infinity.
        """
        array = as_array(volume)
        if array.shape != (*self._shape, *channels):
            raise GeometryError(
                f"All volumes of a picture must share a grid, got {array.shape} and {self._shape}; resample them."
            )
        if not np.isfinite(array).all():
            raise ImageError("A volume to draw must be finite, got NaN or infinity; repair it.")
        return np.asarray(nib.apply_orientation(array, self._turn))

    def cut(self, volume: np.ndarray, number: int, *, radiological: bool = True) -> np.ndarray:
        """Return one of `PLANES` of a turned volume, its rows upwards, the patient's right on the left by default."""
        fixed = PLANES[number][1]
        image: np.ndarray = np.swapaxes(volume.take(self.centre[fixed], axis=fixed), 0, 1)
        return image[:, ::-1] if radiological else image


def letters(axes: Axes, sides: Sequence[str], ends: Sequence[str], cut: tuple[float, float] = (0.5, 0.5)) -> None:
    """Name the directions at the edges, beside the marks."""
    x, y = (0.5 if abs(at - 0.5) > 0.07 else at - 0.09 for at in cut)
    for place, inwards, letter in (
        ((0, y), (12, 0), sides[0]),
        ((1, y), (-12, 0), sides[1]),
        ((x, 0), (0, 12), ends[0]),
        ((x, 1), (0, -12), ends[1]),
    ):
        axes.annotate(
            letter, place, inwards, xycoords="axes fraction", textcoords="offset points", color=MARK,
            size=LABEL * 72 / DPI, weight="bold", ha="center", va="center", family=FONT, path_effects=OUTLINE,
        )  # fmt: skip


def scale_bar(figure: Figure, left: float, bottom: float, width: float, scale: float) -> None:
    """Draw a length of 1, 2, 5, 10 or 20 cm, at most a third of a panel."""
    length = max((mm for mm in (10, 20, 50, 100, 200) if mm * scale <= width / 3), default=10)
    axes = add_axes(figure, left, bottom - 4, length * scale, 4)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axhline(0.5, color=INK, linewidth=1.6, path_effects=OUTLINE, clip_on=False)
    add_text(figure, left, bottom - 15, f"{length // 10} cm", size=SMALL, path_effects=OUTLINE)


def colour_bar(
    figure: Figure,
    left: float,
    top: float,
    width: float,
    colours: Colormap,
    ends: tuple[float, float],
    *,
    ticks: int = 8,
) -> None:
    """Draw a horizontal bar of colours with at most so many numbers below."""
    axes = add_axes(figure, left, top, width, 10)
    axes.set_axis_on()
    scale = figure.colorbar(ScalarMappable(Normalize(*ends), colours), cax=axes, orientation="horizontal")
    scale.outline.set_visible(False)
    _ticks(axes, ends, ticks, scale.set_ticks)


def colour_scale(
    figure: Figure,
    left: float,
    top: float,
    width: float,
    scale: np.ndarray,
    ends: tuple[float, float],
    *,
    ticks: int = 8,
) -> None:
    """Draw a scale of colours **[levels, steps, 3]** as `colour_bar` does one; several levels lie above each other."""
    height = 10.0 if len(scale) == 1 else 24.0
    axes = add_axes(figure, left, top + 10 - height, width, height)
    axes.set_axis_on()
    low, high = ends
    axes.imshow(scale, extent=(low, high, 0, 1), aspect="auto", interpolation="nearest")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_yticks([])
    _ticks(axes, ends, ticks, axes.set_xticks)


def _ticks(axes: Axes, ends: tuple[float, float], ticks: int, put: Callable[[list[float]], Any]) -> None:
    """Put at most so many numbers below a bar, those at its ends inwards: another bar is near."""
    low, high = ends
    places = [v for v in MaxNLocator(ticks, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= v <= high]
    put(places)
    for place, label in zip(places, axes.get_xticklabels(), strict=True):
        share = (place - low) / max(high - low, 1e-12)
        label.set_horizontalalignment("left" if share < _NEAR_END else "right" if share > 1 - _NEAR_END else "center")
    numbers(axes)


def numbers(axes: Axes) -> None:
    """Style the numbers at an axis."""
    axes.tick_params(colors=SOFT, labelsize=SMALL * 72 / DPI, length=3, width=0.7, pad=2, labelfontfamily=FONT)


def colours_of(palette: str) -> ListedColormap:
    """Return a palette for matplotlib."""
    return ListedColormap(color_palette(palette))


def heading(figure: Figure, title: str, notes: Sequence[str]) -> None:
    """Write title and notes at the top, the notice at the bottom; a long title in smaller letters."""
    width, height = figure.get_size_inches() * DPI
    note = "   |   ".join(notes)
    room = width - 3 * MARGIN - _LETTER * SMALL * len(note)
    add_text(figure, MARGIN, 38, title, size=min(26.0, room / (_LETTER * max(len(title), 1))), weight="bold")
    add_text(figure, width - MARGIN, 38, note, size=SMALL, color=SOFT, ha="right")
    add_text(figure, MARGIN, height - 22, NOTICE, size=SMALL, color=SOFT)
    add_text(figure, width - MARGIN, height - 22, "medfuse", size=SMALL, color=SOFT, ha="right")


def side_note(figure: Figure, top: float, height: float, text: str, short: str = "") -> None:
    """Write along the left side of a row; the short text where the other is longer than the row."""
    chosen = text if _LETTER * LABEL * len(text) <= height else short or text
    size = min(LABEL, height / (_LETTER * len(chosen)))
    add_text(figure, MARGIN + SIDE / 3, top + height / 2, chosen, size=size, color=SOFT, rotation=90, ha="center")


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in px."""
    figure = Figure(figsize=(round(width) / DPI, round(height) / DPI), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add empty axes, placed in px from the top left corner."""
    full_width, full_height = figure.get_size_inches() * DPI
    place = (left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height)
    axes = figure.add_axes(place, facecolor="black")
    axes.set_axis_off()
    return axes


def add_text(
    figure: Figure, x: float, y: float, text: str, *, size: float = LABEL, color: str = INK, **style: Any
) -> None:
    """Write plain text, placed in px from the top left corner; a dollar sign is a dollar sign."""
    width, height = figure.get_size_inches() * DPI
    style = {"va": "center", "family": FONT, "parse_math": False, **style}
    figure.text(x / width, 1 - y / height, text, fontsize=size * 72 / DPI, color=color, **style)


def save_png(figure: Figure, path: str | Path | BinaryIO) -> None:
    """Write a PNG, atomically, or into an open file; equal figures give equal bytes."""
    if not isinstance(path, str | Path):
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": "medfuse", "Comment": NOTICE})
        return
    with atomic_file(path) as file:
        save_png(figure, file)


def _hottest(volume: np.ndarray) -> np.ndarray:
    border = [n // 8 for n in volume.shape]
    inner = volume[tuple(slice(b, n - b) for b, n in zip(border, volume.shape, strict=True))]
    place: np.ndarray = np.array(np.unravel_index(int(np.argmax(inner)), inner.shape)) + border
    return place


def _inside(voxel: Sequence[int], to_turned: np.ndarray, volume: np.ndarray) -> np.ndarray:
    centre = np.rint(to_turned @ (*voxel, 1))[:3].astype(int)
    if ((centre < 0) | (centre >= volume.shape)).any():
        raise GeometryError(f"The voxel must lie inside the volume, got {tuple(voxel)}; choose another.")
    return centre


def save_jpeg(figure: Figure, path: str | Path) -> None:
    """Write a JPEG, atomically; equal figures give equal bytes."""
    with atomic_file(path) as file:
        figure.savefig(file, format="jpeg", dpi=DPI, pil_kwargs={"quality": 85, "comment": NOTICE.encode()})


def window(ends: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the ends of a display window, never equal."""
    low, high = (float(end) for end in ends)
    return low, high if high > low else low + 1.0
