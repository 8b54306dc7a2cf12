"""Pictures to judge a fusion by: a mosaic of a volume, a contact sheet of 2-D images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medfuse.errors import GeometryError, ImageError
from medfuse.report.canvas import (
    DPI,
    ENDS,
    FONT,
    FOOT,
    GAP,
    HEADER,
    INK,
    MARGIN,
    MARK,
    PLANES,
    SIDE,
    SOFT,
    add_axes,
    add_text,
    as_array,
    heading,
    letters,
    meeting_point,
    new_figure,
    orientation,
    save_png,
    scale_bar,
    turned,
    window,
)
from medfuse.transforms.color import palette as color_palette

_WIDTH, _MAX_HEIGHT, _MAX_CELL, _BARS = 1800.0, 1160.0, 330.0, 74.0  # px


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
    path: str | Path | BinaryIO,
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
        path: PNG to write, atomically, or an open binary file; 1800 px wide, up to about 1200 high.
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
    shape = as_array(sources[0]).shape
    turn, to_world = orientation(shape, as_array(affine))
    mri, pet, mri_restored, pet_restored, fusion = (turned(v, shape, turn) for v in (*sources, *restored, fused))
    colour = turned(rgb, (*shape, 3), turn) / (255 if as_array(rgb).dtype == np.uint8 else 1)
    centre = meeting_point(pet_restored, voxel, np.linalg.inv(to_world) @ as_array(affine))

    window1 = window(np.percentile(mri, (0.5, 99.5)))
    window2 = window(pet_window or (min(0.0, pet.min()), np.percentile(pet, 99.8)))
    columns = [
        _Column("MRI", mri, "gray", window1),
        _Column("MRI restored", mri_restored, "gray", window1),
        _Column("PET", pet, palette, window2),
        _Column("PET restored", pet_restored, palette, window2),
        _Column("Fused", fusion, "gray", window(np.percentile(fusion, (0.5, 99.8)))),
        _Column("Colour fusion", colour.clip(0, 1), palette, window2),
    ]
    bars = [
        _Bar(f"MRI [{units[0]}]", 0, 1),
        _Bar(f"PET [{units[1]}]    maximum {pet.max():.3g}, restored {pet_restored.max():.3g}", 2, 3),
        _Bar("Fused [normalised, dimensionless]", 4, 4),
        _Bar(f"PET [{units[1]}] over fused structure", 5, 5),
    ]
    if weight is not None:
        columns.append(_Column("Fusion weight", turned(weight, shape, turn), "gray", (0.0, 1.0)))
        bars.append(_Bar("0 all PET, 1 all MRI", 6, 6))
    figure = _mosaic(columns, bars, centre, to_world, convention == "radiological")
    heading(figure, title, [*notes[:3], f"{convention} convention"])
    save_png(figure, path)


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
    cell = min(_MAX_CELL, (_WIDTH - 2 * MARGIN - SIDE) / len(column_titles) - GAP)
    table = [(name, [_picture(image, name) for image in images]) for name, images in rows]
    if any(len(images) != len(column_titles) for _, images in table):
        raise GeometryError(f"Every row must have {len(column_titles)} images, got another number; fill the gaps.")
    heights = [max(cell * image.shape[0] / image.shape[1] for image in images) for _, images in table]
    width = max(2 * MARGIN + SIDE + len(column_titles) * (cell + GAP) - GAP, 760.0)
    figure = new_figure(width, HEADER + sum(heights) + GAP * (len(rows) - 1) + FOOT)
    top = HEADER
    for row, ((name, images), height) in enumerate(zip(table, heights, strict=True)):
        add_text(figure, MARGIN + SIDE / 2, top + height / 2, name, color=SOFT, rotation=90, ha="center")
        for column, image in enumerate(images):
            left = MARGIN + SIDE + column * (cell + GAP)
            if row == 0:
                add_text(figure, left + cell / 2, top - 16, column_titles[column], size=16, ha="center")
            scaled = cell * image.shape[0] / image.shape[1]
            axes = add_axes(figure, left, top + (height - scaled) / 2, cell, scaled)
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="antialiased")
        top += height + GAP
    heading(figure, title, notes[:3])
    save_png(figure, path)


def _mosaic(
    columns: Sequence[_Column], bars: Sequence[_Bar], centre: np.ndarray, to_world: np.ndarray, radiological: bool
) -> Figure:
    """Lay out the panels: one scale for all of them, rows as high as their planes."""
    spacing = np.linalg.norm(to_world[:3, :3], axis=0)
    size = spacing * columns[0].volume.shape[:3]  # mm
    cell_mm = max(size[0], size[1])
    rows_mm = [size[up] for _, _, _, up in PLANES]
    step = (_WIDTH - 2 * MARGIN - SIDE + GAP) / len(columns)
    free = _MAX_HEIGHT - HEADER - _BARS - FOOT - 2 * GAP
    scale = min((step - GAP) / cell_mm, free / sum(rows_mm))  # px per mm
    figure = new_figure(_WIDTH, HEADER + scale * sum(rows_mm) + 2 * GAP + _BARS + FOOT)
    world = to_world[:3, :3] @ centre + to_world[:3, 3]

    top = HEADER
    for row, (plane, fixed, right, up) in enumerate(PLANES):
        width, height = scale * size[right], scale * size[up]
        place = f"{plane}   {ENDS[fixed][int(world[fixed] >= 0)]} {abs(world[fixed]):.0f} mm"
        add_text(figure, MARGIN + SIDE / 3, top + height / 2, place, color=SOFT, rotation=90, ha="center")
        for index, column in enumerate(columns):
            left = MARGIN + SIDE + index * step + (step - GAP - width) / 2
            if row == 0:
                add_text(figure, left + width / 2, top - 16, column.title, size=16, ha="center")
            axes = add_axes(figure, left, top, width, height)
            cut = _panel(axes, column, (fixed, right, up), centre, radiological)
            if index == 0:
                letters(axes, ENDS[right][:: -1 if radiological else 1], ENDS[up], cut)
                if row == 0:
                    scale_bar(figure, left + 10, top + height - 10, width, scale)
        top += height + GAP
    for bar in bars:
        _colour_bar(figure, bar, columns[bar.first], MARGIN + SIDE + bar.first * step, top + 10, step)
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
        axes.axvline(x, start, end, color=MARK, linewidth=1.0)
        axes.axhline(y, start, end, color=MARK, linewidth=1.0)
    return (x + 0.5) / image.shape[1], (y + 0.5) / image.shape[0]


def _colour_bar(figure: Figure, bar: _Bar, column: _Column, left: float, top: float, step: float) -> None:
    span = (bar.last - bar.first + 1) * step - GAP
    inset = 0.06 * step
    axes = add_axes(figure, left + inset, top, span - 2 * inset, 9)
    colours = ScalarMappable(Normalize(*column.window), ListedColormap(color_palette(column.palette)))
    axes.set_axis_on()
    scale = figure.colorbar(colours, cax=axes, orientation="horizontal")
    scale.outline.set_visible(False)
    scale.locator = MaxNLocator(4 * (bar.last - bar.first + 1), steps=[1, 2, 5, 10])
    axes.tick_params(colors=SOFT, labelsize=12 * 72 / DPI, length=3, width=0.7, pad=2, labelfontfamily=FONT)
    add_text(figure, left + span / 2, top + 42, bar.label, size=13, color=INK, ha="center")


def _picture(image: Any, name: str) -> np.ndarray:
    array = as_array(image)
    if 0 in array.shape or not (array.ndim == 2 or array.shape[2:] == (3,)):
        raise GeometryError(f"The images of {name} must be [H, W] or [H, W, 3], got {array.shape}; reshape them.")
    if not np.isfinite(array).all():
        raise ImageError(f"The images of {name} must be finite, got NaN or infinity; repair them.")
    return array.clip(0, 1)
