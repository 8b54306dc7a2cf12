"""What the pictures share: one paper, places in px from the top left corner, and volumes turned to RAS order.

Drawn with matplotlib's Figure alone, never pyplot: no state, no window, safe in threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from medfuse import NOTICE
from medfuse.errors import GeometryError, ImageError
from medfuse.io.atomic import atomic_file

MARGIN, SIDE, GAP, HEADER, FOOT = 26.0, 44.0, 6.0, 104.0, 44.0  # px
PAPER, INK, SOFT, MARK = "#0e1116", "#edf0f4", "#98a2b0", "#58c4dd"
DPI, FONT = 100, "DejaVu Sans"
OUTLINE = (Stroke(linewidth=2.5, foreground="black"), Normal())
# Name of a plane, its fixed axis, and the axes to the right and upwards in a volume in RAS order
PLANES = (("Axial", 2, 0, 1), ("Coronal", 1, 0, 2), ("Sagittal", 0, 1, 2))
ENDS = (("L", "R"), ("P", "A"), ("I", "S"))


def letters(axes: Axes, sides: Sequence[str], ends: Sequence[str], cut: tuple[float, float]) -> None:
    """Name the directions at the edges, beside the marks."""
    x, y = (0.5 if abs(at - 0.5) > 0.07 else at - 0.09 for at in cut)
    for place, inwards, letter in (
        ((0, y), (11, 0), sides[0]),
        ((1, y), (-11, 0), sides[1]),
        ((x, 0), (0, 11), ends[0]),
        ((x, 1), (0, -11), ends[1]),
    ):
        axes.annotate(
            letter, place, inwards, xycoords="axes fraction", textcoords="offset points", color=MARK,
            size=13 * 72 / DPI, weight="bold", ha="center", va="center", family=FONT,
            path_effects=OUTLINE,
        )  # fmt: skip


def scale_bar(figure: Figure, left: float, bottom: float, width: float, scale: float) -> None:
    """Draw a length of 1, 2, 5, 10 or 20 cm, at most a third of a panel."""
    length = max((mm for mm in (10, 20, 50, 100, 200) if mm * scale <= width / 3), default=10)
    axes = add_axes(figure, left, bottom - 4, length * scale, 4)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axhline(0.5, color=INK, linewidth=1.6, path_effects=OUTLINE, clip_on=False)
    add_text(figure, left, bottom - 13, f"{length // 10} cm", size=12, path_effects=OUTLINE)


def heading(figure: Figure, title: str, notes: Sequence[str]) -> None:
    """Write title and notes at the top, the notice at the bottom."""
    width, height = figure.get_size_inches() * DPI
    add_text(figure, MARGIN, 38, title, size=24, weight="bold")
    add_text(figure, width - MARGIN, 38, "   |   ".join(notes), color=SOFT, ha="right")
    add_text(figure, MARGIN, height - 20, NOTICE, color=SOFT)
    add_text(figure, width - MARGIN, height - 20, "medfuse", color=SOFT, ha="right")


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
    figure: Figure, x: float, y: float, text: str, *, size: float = 13, color: str = INK, **style: Any
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


def orientation(shape: tuple[int, ...], affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nibabel's orientation of a grid, and the affine of the grid turned to RAS order."""
    good = affine.shape == (4, 4) and np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 1e-9
    if len(shape) != 3 or not good:
        raise GeometryError(f"A picture must have 3-D volumes and an invertible affine, got shape {shape}; check both.")
    turn = nib.io_orientation(affine)
    return turn, affine @ nib.orientations.inv_ornt_aff(turn, shape)


def turned(volume: Any, shape: tuple[int, ...], turn: np.ndarray) -> np.ndarray:
    """Return a volume turned to RAS order."""
    array = as_array(volume)
    if array.shape != shape:
        raise GeometryError(
            f"All volumes of a picture must share a grid, got {array.shape} and {shape}; resample them."
        )
    if not np.isfinite(array).all():
        raise ImageError("A volume to draw must be finite, got NaN or infinity; repair it.")
    return nib.apply_orientation(array, turn)


def meeting_point(uptake: np.ndarray, voxel: Sequence[int] | None, turn: np.ndarray) -> np.ndarray:
    """Return the index in RAS order where the planes meet."""
    if voxel is None:
        border = [n // 8 for n in uptake.shape]
        inner = uptake[tuple(slice(b, n - b) for b, n in zip(border, uptake.shape, strict=True))]
        return np.array(np.unravel_index(int(np.argmax(inner)), inner.shape)) + border
    centre = np.rint(turn @ (*voxel, 1))[:3].astype(int)
    if ((centre < 0) | (centre >= uptake.shape)).any():
        raise GeometryError(f"The voxel must lie inside the volume, got {tuple(voxel)}; choose another.")
    return centre


def window(ends: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the ends of a display window, never equal."""
    low, high = (float(end) for end in ends)
    return low, high if high > low else low + 1.0


def as_array(value: Any) -> np.ndarray:
    """Return an array or tensor as an array."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
