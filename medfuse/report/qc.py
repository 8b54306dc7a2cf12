"""Pictures to judge a fusion by: a mosaic of a volume, a contact sheet of 2-D images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from medfuse.errors import GeometryError, ImageError
from medfuse.fusion import ColourFusion
from medfuse.fusion.color import palette
from medfuse.io.modalities import DEFAULT_PAIR, titles
from medfuse.regions.values import as_array
from medfuse.report.canvas import (
    ENDS,
    FOOT,
    GAP,
    HEADER,
    MARGIN,
    PLANES,
    SIDE,
    ThreePlanes,
    heading,
    letters,
    scale_bar,
    side_note,
    window,
)
from medfuse.report.numbers import number_text
from medfuse.report.paper import MARK, SMALL, TITLE, Panel, Paper, Resampling

_WIDTH, _MAX_HEIGHT, _MAX_CELL, _BARS = 1800.0, 1160.0, 330.0, 84.0  # px
_MARK = 0.035  # length of the marks of a cut, as a share of the panel
_PREVIEW = 120.0  # px, side of a picture of a preview
_MOST = 1 << 23  # voxels whose percentiles are found of all
DEFAULT_COLOURS = ColourFusion()


@dataclass(frozen=True)
class _Column:
    title: str
    volume: np.ndarray  # [X, Y, Z], or [X, Y, Z, 3] as bytes or in 0..1, RAS order
    palette: str
    window: tuple[float, float]


@dataclass(frozen=True)
class _Bar:
    label: str
    first: int  # columns that share it
    last: int
    scale: np.ndarray | None = None  # of the colour fusion


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
    colours: ColourFusion = DEFAULT_COLOURS,
    names: tuple[str, str] = DEFAULT_PAIR,
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
        colours: How the colour fusion was made; the PET alone is shown in its palette.
        names: Keys of the sources, where they are others than an MRI and a PET; see `medfuse.io.modalities`.
        convention: "radiological" has the patient's right on the left of the picture, "neurological" on the right.

    Raises:
        GeometryError: If shapes differ, the affine is not invertible, or the voxel lies outside.
        ImageError: If a volume holds NaN or infinity, a window is empty, or an option is unknown.
    """
    if convention not in ("radiological", "neurological"):
        raise ImageError(f"convention must be 'radiological' or 'neurological', got {convention!r}; choose one.")
    if pet_window is not None and not -np.inf < pet_window[0] < pet_window[1] < np.inf:
        raise ImageError(f"pet_window must be a lower and a higher value, got {pet_window}; change it.")
    planes = ThreePlanes(restored[1], affine, voxel=voxel)
    one, two, one_restored, two_restored, fusion = (planes.turned(v) for v in (*sources, *restored, fused))
    colour = planes.turned(rgb, 3)

    first, second = titles(names)
    window1 = window(_percentiles(one, 0.5, 99.5))
    window2 = window(pet_window or (min(0.0, two.min()), _percentiles(two, 99.8)[0]))
    columns = [
        _Column(first, one, "gray", window1),
        _Column(f"{first} restored", one_restored, "gray", window1),
        _Column(second, two, colours.alone, window2),
        _Column(f"{second} restored", two_restored, colours.alone, window2),
        _Column("Fused", fusion, "gray", window(_percentiles(fusion, 0.5, 99.8))),
        _Column("Colour fusion", colour, colours.alone, window2),
    ]
    bars = [
        _Bar(f"{first} [{units[0]}]", 0, 1),
        _Bar(
            f"{second} [{units[1]}]   maximum {number_text(two.max())}, restored {number_text(two_restored.max())}",
            2,
            3,
        ),
        _Bar("Fused, dimensionless", 4, 4),
        _Bar(f"{second} [{units[1]}] in colour", 5, 5, colours.scale()),
    ]
    if weight is not None:
        columns.append(_Column("Fusion weight", planes.turned(weight), "gray", (0.0, 1.0)))
        bars.append(_Bar(f"0 all {second}, 1 all {first}", 6, 6))
    paper = _mosaic(columns, bars, planes, convention == "radiological")
    heading(paper, title, [*notes[:3], f"{convention} convention"])
    paper.save_png(path)


def save_preview(
    path: str | Path,
    *,
    sources: tuple[Any, Any],
    restored: tuple[Any, Any],
    rgb: Any,
    affine: Any,
    pet_window: tuple[float, float],
    colours: ColourFusion = DEFAULT_COLOURS,
    names: tuple[str, str] = DEFAULT_PAIR,
) -> None:
    """Save a small JPEG with an axial plane of MRI, PET and colour fusion, for a list of cases.

    Args:
        path: JPEG to write, atomically; 360 x 120 px.
        sources: As for `save_mosaic`, and so are the others.
        restored: The planes meet where the restored PET is highest.
        rgb: Colour fusion.
        affine: **[4, 4]**.
        pet_window: Ends of the PET's window.
        colours: As for `save_mosaic`.
        names: Keys of the sources.

    Raises:
        GeometryError: If shapes differ, or the affine is not invertible.
        ImageError: If a volume holds NaN or infinity.
    """
    planes = ThreePlanes(restored[1], affine)
    (one, two), (first, second) = (planes.turned(v) for v in sources), titles(names)
    colour = planes.turned(rgb, 3)
    columns = (
        _Column(first, one, "gray", window(_percentiles(one, 0.5, 99.5))),
        _Column(second, two, colours.alone, window(pet_window)),
        _Column("Colour fusion", colour, colours.alone, window(pet_window)),
    )
    paper = Paper(_PREVIEW * len(columns), _PREVIEW)
    width, height = _PREVIEW * planes.size[:2] / max(planes.size[:2])
    for number, column in enumerate(columns):
        left = number * _PREVIEW + (_PREVIEW - width) / 2
        panel = paper.panel(left, (_PREVIEW - height) / 2, width, height)
        _image(paper, panel, planes.cut(column.volume, 0), column)
    paper.save_jpeg(path)


def _percentiles(volume: np.ndarray, *shares: float) -> np.ndarray:
    """Return percentiles of a volume, of large ones by planes evenly spread: of all voxels a copy would be made."""
    found: np.ndarray = np.percentile(volume[:: -(-volume.size // _MOST)], shares)
    return found


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
    paper = Paper(width, HEADER + sum(heights) + GAP * (len(rows) - 1) + FOOT)
    top, grey = HEADER, palette("gray")
    for row, ((name, images), height) in enumerate(zip(table, heights, strict=True)):
        side_note(paper, top, height, name)
        for column, image in enumerate(images):
            left = MARGIN + SIDE + column * (cell + GAP)
            if row == 0:
                paper.text(left + cell / 2, top - 18, column_titles[column], size=TITLE, align="centre")
            scaled = cell * image.shape[0] / image.shape[1]
            panel = paper.panel(left, top + (height - scaled) / 2, cell, scaled)
            larger = scaled >= image.shape[0]
            paper.show(panel, image, grey, (0.0, 1.0), Resampling.NEAREST if larger else Resampling.HAMMING)
        top += height + GAP
    heading(paper, title, notes[:3])
    paper.save_png(path)


def _mosaic(columns: Sequence[_Column], bars: Sequence[_Bar], planes: ThreePlanes, radiological: bool) -> Paper:
    """Lay out the panels: one scale for all of them, rows as high as their planes."""
    cell_mm = max(planes.size[0], planes.size[1])
    rows_mm = [planes.size[up] for _, _, _, up in PLANES]
    step = (_WIDTH - 2 * MARGIN - SIDE + GAP) / len(columns)
    free = _MAX_HEIGHT - HEADER - _BARS - FOOT - 2 * GAP
    scale = min((step - GAP) / cell_mm, free / sum(rows_mm))  # px per mm
    paper = Paper(_WIDTH, HEADER + scale * sum(rows_mm) + 2 * GAP + _BARS + FOOT)

    top = HEADER
    for row, (plane, fixed, right, up) in enumerate(PLANES):
        width, height = scale * planes.size[right], scale * planes.size[up]
        place = f"{ENDS[fixed][int(planes.world[fixed] >= 0)]} {abs(planes.world[fixed]):.0f} mm"
        side_note(paper, top, height, f"{plane}   {place}", plane)
        for index, column in enumerate(columns):
            left = MARGIN + SIDE + index * step + (step - GAP - width) / 2
            if row == 0:
                paper.text(left + width / 2, top - 18, column.title, size=TITLE, align="centre")
            panel = paper.panel(left, top, width, height)
            cut = _panel(paper, panel, column, planes, row, radiological)
            if index == 0:
                letters(paper, panel, ENDS[right][:: -1 if radiological else 1], ENDS[up], cut)
                if row == 0:
                    scale_bar(paper, left + 10, top + height - 10, width, scale)
        top += height + GAP
    for bar in bars:
        column, left, span = columns[bar.first], MARGIN + SIDE + bar.first * step, bar.last - bar.first + 1
        inset, width = 0.06 * step, span * step - GAP
        start, wide, ticks = left + inset, width - 2 * inset, 3 * span
        scale = palette(column.palette)[None] if bar.scale is None else bar.scale
        paper.bar(start, top + 12, wide, scale, column.window, ticks=ticks)
        paper.text(left + width / 2, top + 56, bar.label, size=SMALL, align="centre")
    return paper


def _panel(
    paper: Paper, panel: Panel, column: _Column, planes: ThreePlanes, number: int, radiological: bool
) -> tuple[float, float]:
    """Draw one plane, with marks at its edges where the other two cut it; return where, from below, as fractions."""
    _, _, right, up = PLANES[number]
    image = planes.cut(column.volume, number, radiological=radiological)
    x, y = planes.centre[right], planes.centre[up]
    if radiological:
        x = image.shape[1] - 1 - x
    _image(paper, panel, image, column)
    across, upwards = (x + 0.5) / image.shape[1], (y + 0.5) / image.shape[0]
    middle, level = panel.left + across * panel.width, panel.top + (1 - upwards) * panel.height
    long, high = _MARK * panel.width, _MARK * panel.height
    for start in (panel.top, panel.top + panel.height - high):
        paper.box(middle - 0.5, start, 1, high, MARK)
    for start in (panel.left, panel.left + panel.width - long):
        paper.box(start, level - 0.5, long, 1, MARK)
    return across, upwards


def _image(paper: Paper, panel: Panel, image: np.ndarray, column: _Column) -> None:
    paper.show(panel, image[::-1], palette(column.palette), column.window)


def _picture(image: Any, name: str) -> np.ndarray:
    array = as_array(image)
    if 0 in array.shape or not (array.ndim == 2 or array.shape[2:] == (3,)):
        raise GeometryError(f"The images of {name} must be [H, W] or [H, W, 3], got {array.shape}; reshape them.")
    if not np.isfinite(array).all():
        raise ImageError(f"The images of {name} must be finite, got NaN or infinity; repair them.")
    return array.clip(0, 1)
