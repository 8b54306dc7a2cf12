"""Pictures to judge a fusion by: a mosaic of a volume, a contact sheet of 2-D images.

Drawn with matplotlib's Figure alone, never pyplot: no state, no window, safe in threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator

from medfuse import NOTICE
from medfuse.errors import GeometryError, ImageError
from medfuse.io.atomic import atomic_file
from medfuse.transforms.color import palette as color_palette

_WIDTH, _MAX_HEIGHT, _MAX_CELL = 1800.0, 1160.0, 330.0  # px
_MARGIN, _SIDE, _GAP, _HEADER, _BARS, _FOOT = 26.0, 44.0, 6.0, 104.0, 74.0, 44.0  # px
_PAPER, _INK, _SOFT, _MARK = "#0e1116", "#edf0f4", "#98a2b0", "#58c4dd"
_DPI, _FONT = 100, "DejaVu Sans"
_OUTLINE = (Stroke(linewidth=2.5, foreground="black"), Normal())
# Name of a plane, its fixed axis, and the axes to the right and upwards in a volume in RAS order
_PLANES = (("Axial", 2, 0, 1), ("Coronal", 1, 0, 2), ("Sagittal", 0, 1, 2))
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class _Column:
    title: str
    volume: np.ndarray  # [X, Y, Z] or [X, Y, Z, 3] in 0..1, RAS order
    palette: str
    window: tuple[float, float]


@dataclass(frozen=True)
class _Bar:
    label: str
    first: int  # columns that share it
    last: int


def save_mosaic(
    path: str | Path,
    *,
    sources: tuple[Any, Any],
    restored: tuple[Any, Any],
    fused: Any,
    rgb: Any,
    affine: Any,
    weight: Any = None,
    units: tuple[str, str] = ("a.u.", "a.u."),
    title: str = "",
    notes: Sequence[str] = (),
    voxel: Sequence[int] | None = None,
    pet_window: tuple[float, float] | None = None,
    palette: str = "HOT_IRON",
    convention: Literal["radiological", "neurological"] = "radiological",
) -> None:
    """Save one PNG with three planes of a case: sources, restored, fused and colour fusion, with colour bars.

    Volumes are turned to the nearest anatomical axes without
    resampling, so an oblique volume is shown along its own axes; proportions follow the voxel size. A source and its
    restoration share one window. The same volumes give the same bytes.

    Args:
        path: PNG to write, atomically; 1800 px wide, up to about 1200 high.
        sources: MRI and PET **[X, Y, Z]** on the reference grid, each in its unit; arrays or tensors.
        restored: The same, restored.
        fused: **[X, Y, Z]**, normalised, dimensionless.
        rgb: Colour fusion **[X, Y, Z, 3]**, uint8 or 0..1.
        affine: **[4, 4]**, voxel index to RAS mm.
        weight: Weight of the MRI in the fusion **[X, Y, Z]** in 0..1, or None.
        units: Units of MRI and PET, such as "a.u." and "SUV".
        title: Case id.
        notes: Short facts such as the degradation used, one line each, at most three.
        voxel: Index where the planes meet; by default the highest uptake of the restored PET, the outer
            eighth of each axis left out, where a plane would show little.
        pet_window: Ends of the PET's window in its unit, the same as the colour fusion's. By default from 0, or the
            lowest value where that is negative, to the 99.8th percentile.
        palette: Palette of the PET, the same as the colour fusion's.
        convention: "radiological" has the patient's right on the left of the picture, "neurological" on the right.

    Raises:
        GeometryError: If shapes differ, the affine is not invertible, or the voxel lies outside.
        ImageError: If a volume holds NaN or infinity, a window is empty, or an option is unknown.
    """
    if convention not in ("radiological", "neurological"):
        raise ImageError(f"convention must be 'radiological' or 'neurological', got {convention!r}; choose one.")
    if pet_window is not None and not -np.inf < pet_window[0] < pet_window[1] < np.inf:
        raise ImageError(f"pet_window must be a lower and a higher value, got {pet_window}; change it.")
    shape = _array(sources[0]).shape
    turn, to_world = _orientation(shape, _array(affine))
    mri, pet, mri_restored, pet_restored, fusion = (_turned(v, shape, turn) for v in (*sources, *restored, fused))
    colour = _turned(rgb, (*shape, 3), turn) / (255 if _array(rgb).dtype == np.uint8 else 1)
    centre = _centre(pet_restored, voxel, np.linalg.inv(to_world) @ _array(affine))

    window1 = _window(np.percentile(mri, (0.5, 99.5)))
    window2 = _window(pet_window or (min(0.0, pet.min()), np.percentile(pet, 99.8)))
    columns = [
        _Column("MRI", mri, "gray", window1),
        _Column("MRI restored", mri_restored, "gray", window1),
        _Column("PET", pet, palette, window2),
        _Column("PET restored", pet_restored, palette, window2),
        _Column("Fused", fusion, "gray", _window(np.percentile(fusion, (0.5, 99.8)))),
        _Column("Colour fusion", colour.clip(0, 1), palette, window2),
    ]
    bars = [
        _Bar(f"MRI [{units[0]}]", 0, 1),
        _Bar(f"PET [{units[1]}]    maximum {pet.max():.3g}, restored {pet_restored.max():.3g}", 2, 3),
        _Bar("Fused [normalised, dimensionless]", 4, 4),
        _Bar(f"PET [{units[1]}] over fused structure", 5, 5),
    ]
    if weight is not None:
        columns.append(_Column("Fusion weight", _turned(weight, shape, turn), "gray", (0.0, 1.0)))
        bars.append(_Bar("0 all PET, 1 all MRI", 6, 6))
    figure = _mosaic(columns, bars, centre, to_world, convention == "radiological")
    _heading(figure, title, [*notes[:3], f"{convention} convention"])
    _save(figure, path)


def save_contact_sheet(
    path: str | Path,
    rows: Sequence[tuple[str, Sequence[Any]]],
    column_titles: Sequence[str],
    *,
    title: str = "",
    notes: Sequence[str] = (),
) -> None:
    """Save one PNG with a table of 2-D images: a row for each pair, a column for each kind.

    Args:
        path: PNG to write, atomically; at most 1800 px wide.
        rows: Name and images **[H, W]** or **[H, W, 3]** in 0..1 (clipped) of each row; arrays or tensors.
        column_titles: One for each image of a row.
        title: Heading.
        notes: Short facts, one line each, at most three.

    Raises:
        GeometryError: If a row has another number of images than there are titles, or an image another shape.
        ImageError: If there is no row, or an image holds NaN or infinity.
    """
    if not rows or not column_titles:
        raise ImageError("A contact sheet must have rows and columns, got none; leave it out.")
    cell = min(_MAX_CELL, (_WIDTH - 2 * _MARGIN - _SIDE) / len(column_titles) - _GAP)
    table = [(name, [_picture(image, name) for image in images]) for name, images in rows]
    if any(len(images) != len(column_titles) for _, images in table):
        raise GeometryError(f"Every row must have {len(column_titles)} images, got another number; fill the gaps.")
    heights = [max(cell * image.shape[0] / image.shape[1] for image in images) for _, images in table]
    width = max(2 * _MARGIN + _SIDE + len(column_titles) * (cell + _GAP) - _GAP, 760.0)
    figure = _figure(width, _HEADER + sum(heights) + _GAP * (len(rows) - 1) + _FOOT)
    top = _HEADER
    for row, ((name, images), height) in enumerate(zip(table, heights, strict=True)):
        _text(figure, _MARGIN + _SIDE / 2, top + height / 2, name, color=_SOFT, rotation=90, ha="center")
        for column, image in enumerate(images):
            left = _MARGIN + _SIDE + column * (cell + _GAP)
            if row == 0:
                _text(figure, left + cell / 2, top - 16, column_titles[column], size=16, ha="center")
            scaled = cell * image.shape[0] / image.shape[1]
            axes = _axes(figure, left, top + (height - scaled) / 2, cell, scaled)
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="antialiased")
        top += height + _GAP
    _heading(figure, title, notes[:3])
    _save(figure, path)


def _mosaic(
    columns: Sequence[_Column], bars: Sequence[_Bar], centre: np.ndarray, to_world: np.ndarray, radiological: bool
) -> Figure:
    """Lay out the panels: one scale for all of them, rows as high as their planes."""
    spacing = np.linalg.norm(to_world[:3, :3], axis=0)
    size = spacing * columns[0].volume.shape[:3]  # mm
    cell_mm = max(size[0], size[1])
    rows_mm = [size[up] for _, _, _, up in _PLANES]
    step = (_WIDTH - 2 * _MARGIN - _SIDE + _GAP) / len(columns)
    free = _MAX_HEIGHT - _HEADER - _BARS - _FOOT - 2 * _GAP
    scale = min((step - _GAP) / cell_mm, free / sum(rows_mm))  # px per mm
    figure = _figure(_WIDTH, _HEADER + scale * sum(rows_mm) + 2 * _GAP + _BARS + _FOOT)
    world = to_world[:3, :3] @ centre + to_world[:3, 3]

    top = _HEADER
    for row, (plane, fixed, right, up) in enumerate(_PLANES):
        width, height = scale * size[right], scale * size[up]
        place = f"{plane}   {_ENDS[fixed][int(world[fixed] >= 0)]} {abs(world[fixed]):.0f} mm"
        _text(figure, _MARGIN + _SIDE / 3, top + height / 2, place, color=_SOFT, rotation=90, ha="center")
        for index, column in enumerate(columns):
            left = _MARGIN + _SIDE + index * step + (step - _GAP - width) / 2
            if row == 0:
                _text(figure, left + width / 2, top - 16, column.title, size=16, ha="center")
            axes = _axes(figure, left, top, width, height)
            cut = _panel(axes, column, (fixed, right, up), centre, radiological)
            if index == 0:
                _letters(axes, _ENDS[right][:: -1 if radiological else 1], _ENDS[up], cut)
                if row == 0:
                    _scale_bar(figure, left + 10, top + height - 10, width, scale)
        top += height + _GAP
    for bar in bars:
        _colour_bar(figure, bar, columns[bar.first], _MARGIN + _SIDE + bar.first * step, top + 10, step)
    return figure


def _panel(
    axes: Axes, column: _Column, plane: tuple[int, int, int], centre: np.ndarray, radiological: bool
) -> tuple[float, float]:
    """Draw one plane, with marks at its edges where the other two cut it; return where, as fractions."""
    fixed, right, up = plane
    image = np.swapaxes(column.volume.take(centre[fixed], axis=fixed), 0, 1)
    x, y = centre[right], centre[up]
    if radiological:
        image, x = image[:, ::-1], image.shape[1] - 1 - x
    low, high = column.window
    colours = ListedColormap(color_palette(column.palette))
    axes.imshow(image, cmap=colours, vmin=low, vmax=high, origin="lower", aspect="auto", interpolation="bilinear")
    for start, end in ((0.0, 0.035), (0.965, 1.0)):
        axes.axvline(x, start, end, color=_MARK, linewidth=1.0)
        axes.axhline(y, start, end, color=_MARK, linewidth=1.0)
    return (x + 0.5) / image.shape[1], (y + 0.5) / image.shape[0]


def _letters(axes: Axes, sides: Sequence[str], ends: Sequence[str], cut: tuple[float, float]) -> None:
    """Name the directions at the edges, beside the marks."""
    x, y = (0.5 if abs(at - 0.5) > 0.07 else at - 0.09 for at in cut)
    for place, inwards, letter in (
        ((0, y), (11, 0), sides[0]),
        ((1, y), (-11, 0), sides[1]),
        ((x, 0), (0, 11), ends[0]),
        ((x, 1), (0, -11), ends[1]),
    ):
        axes.annotate(
            letter, place, inwards, xycoords="axes fraction", textcoords="offset points", color=_MARK,
            size=13 * 72 / _DPI, weight="bold", ha="center", va="center", family=_FONT,
            path_effects=_OUTLINE,
        )  # fmt: skip


def _scale_bar(figure: Figure, left: float, bottom: float, width: float, scale: float) -> None:
    """Draw a length of 1, 2, 5, 10 or 20 cm, at most a third of a panel."""
    length = max((mm for mm in (10, 20, 50, 100, 200) if mm * scale <= width / 3), default=10)
    axes = _axes(figure, left, bottom - 4, length * scale, 4)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axhline(0.5, color=_INK, linewidth=1.6, path_effects=_OUTLINE, clip_on=False)
    _text(figure, left, bottom - 13, f"{length // 10} cm", size=12, path_effects=_OUTLINE)


def _colour_bar(figure: Figure, bar: _Bar, column: _Column, left: float, top: float, step: float) -> None:
    span = (bar.last - bar.first + 1) * step - _GAP
    inset = 0.06 * step
    axes = _axes(figure, left + inset, top, span - 2 * inset, 9)
    colours = ScalarMappable(Normalize(*column.window), ListedColormap(color_palette(column.palette)))
    axes.set_axis_on()
    scale = figure.colorbar(colours, cax=axes, orientation="horizontal")
    scale.outline.set_visible(False)
    scale.locator = MaxNLocator(4 * (bar.last - bar.first + 1), steps=[1, 2, 5, 10])
    axes.tick_params(colors=_SOFT, labelsize=12 * 72 / _DPI, length=3, width=0.7, pad=2, labelfontfamily=_FONT)
    _text(figure, left + span / 2, top + 42, bar.label, size=13, color=_INK, ha="center")


def _heading(figure: Figure, title: str, notes: Sequence[str]) -> None:
    width, height = figure.get_size_inches() * _DPI
    _text(figure, _MARGIN, 38, title, size=24, weight="bold")
    _text(figure, width - _MARGIN, 38, "   |   ".join(notes), color=_SOFT, ha="right")
    _text(figure, _MARGIN, height - 20, NOTICE, color=_SOFT)
    _text(figure, width - _MARGIN, height - 20, "medfuse", color=_SOFT, ha="right")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(round(width) / _DPI, round(height) / _DPI), dpi=_DPI, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add empty axes, placed in px from the top left corner."""
    full_width, full_height = figure.get_size_inches() * _DPI
    place = (left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height)
    axes = figure.add_axes(place, facecolor="black")
    axes.set_axis_off()
    return axes


def _text(figure: Figure, x: float, y: float, text: str, *, size: float = 13, color: str = _INK, **style: Any) -> None:
    """Write plain text, placed in px from the top left corner; a dollar sign is a dollar sign."""
    width, height = figure.get_size_inches() * _DPI
    style = {"va": "center", "family": _FONT, "parse_math": False, **style}
    figure.text(x / width, 1 - y / height, text, fontsize=size * 72 / _DPI, color=color, **style)


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": "medfuse", "Comment": NOTICE})


def _orientation(shape: tuple[int, ...], affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nibabel's orientation of a grid, and the affine of the grid turned to RAS order."""
    good = affine.shape == (4, 4) and np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 1e-9
    if len(shape) != 3 or not good:
        raise GeometryError(f"A mosaic must have 3-D volumes and an invertible affine, got shape {shape}; check both.")
    turn = nib.io_orientation(affine)
    return turn, affine @ nib.orientations.inv_ornt_aff(turn, shape)


def _turned(volume: Any, shape: tuple[int, ...], turn: np.ndarray) -> np.ndarray:
    array = _array(volume)
    if array.shape != shape:
        raise GeometryError(f"All volumes of a mosaic must share a grid, got {array.shape} and {shape}; resample them.")
    if not np.isfinite(array).all():
        raise ImageError("A volume to draw must be finite, got NaN or infinity; repair it.")
    return nib.apply_orientation(array, turn)


def _centre(uptake: np.ndarray, voxel: Sequence[int] | None, turn: np.ndarray) -> np.ndarray:
    """Return the index in RAS order where the planes meet."""
    if voxel is None:
        border = [n // 8 for n in uptake.shape]
        inner = uptake[tuple(slice(b, n - b) for b, n in zip(border, uptake.shape, strict=True))]
        return np.array(np.unravel_index(int(np.argmax(inner)), inner.shape)) + border
    centre = np.rint(turn @ (*voxel, 1))[:3].astype(int)
    if ((centre < 0) | (centre >= uptake.shape)).any():
        raise GeometryError(f"The voxel must lie inside the volume, got {tuple(voxel)}; choose another.")
    return centre


def _window(ends: Sequence[float] | np.ndarray) -> tuple[float, float]:
    low, high = (float(end) for end in ends)
    return low, high if high > low else low + 1.0


def _picture(image: Any, name: str) -> np.ndarray:
    array = _array(image)
    if 0 in array.shape or not (array.ndim == 2 or array.shape[2:] == (3,)):
        raise GeometryError(f"The images of {name} must be [H, W] or [H, W, 3], got {array.shape}; reshape them.")
    if not np.isfinite(array).all():
        raise ImageError(f"The images of {name} must be finite, got NaN or infinity; repair them.")
    return array.clip(0, 1)


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
