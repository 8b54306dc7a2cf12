"""Pictures of how well things fit: edges of the MRI over the PET, and what the restoration leaves of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from scipy.ndimage import affine_transform, gaussian_gradient_magnitude, gaussian_laplace

from medfuse.errors import GeometryError
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
    PAPER,
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
    turned,
    window,
)
from medfuse.transforms.color import palette as color_palette

_ROW, _WIDTH, _BAR, _HISTOGRAM = 400.0, 1440.0, 66.0, 300.0  # px
_EDGE_MM, _STRONG = 1.8, 82.0  # smoothing before edges are sought; percentile of the gradient that counts as one
_LINE = "#7fe7ff"
_RESIDUAL = 4.0  # ends of the display window, in standard deviations of the noise

Draw = Callable[[Axes, int], None]


def taken_back(moved: Any, affine: Any, matrix: Any) -> np.ndarray:
    """Return a registered volume as it lay before, on the same grid, interpolated once more; for pictures only.

    Args:
        moved: **[X, Y, Z]**, registered.
        affine: **[4, 4]** of the grid, voxel index to RAS mm.
        matrix: **[4, 4]** that registered it, RAS mm.
    """
    affine = as_array(affine)
    index = np.linalg.inv(affine) @ as_array(matrix) @ affine
    return affine_transform(as_array(moved), index[:3, :3], index[:3, 3], order=1, cval=0.0)


def save_overlay(
    path: str | Path | BinaryIO,
    rows: Sequence[tuple[str, Any, Any]],
    *,
    affine: Any,
    unit: str,
    pet_window: tuple[float, float],
    palette: str = "HOT_IRON",
    title: str = "",
) -> None:
    """Save a PNG with edges of the MRI over the PET in three planes, a row for each state.

    Args:
        path: PNG to write, atomically, or an open binary file.
        rows: Name, MRI and PET **[X, Y, Z]** of each state, such as before and after registration. The planes meet in
            the hottest voxel of the last.
        affine: **[4, 4]**, voxel index to RAS mm.
        unit: Unit of the PET.
        pet_window: Ends of the PET's window.
        palette: Palette of the PET.
        title: Heading.

    Raises:
        GeometryError: If shapes differ, or the affine is not invertible.
        ImageError: If a volume holds NaN or infinity.
    """
    shape = as_array(rows[0][1]).shape
    turn, to_world = orientation(shape, as_array(affine))
    states = [(name, turned(mri, shape, turn), turned(pet, shape, turn)) for name, mri, pet in rows]
    centre = meeting_point(states[-1][2], None, to_world)
    spacing = np.linalg.norm(to_world[:3, :3], axis=0)
    colours, (low, high) = ListedColormap(color_palette(palette)), window(pet_window)

    def draw(state: tuple[str, np.ndarray, np.ndarray]) -> Draw:
        def plane(axes: Axes, number: int) -> None:
            _, fixed, right, up = PLANES[number]
            _image(axes, _cut(state[2], fixed, centre), cmap=colours, vmin=low, vmax=high)
            _edges(axes, _cut(state[1], fixed, centre), (spacing[up], spacing[right]))

        return plane

    figure = _table([(state[0], draw(state)) for state in states], shape_mm=spacing * states[0][1].shape)
    _bar(figure, colours, (low, high), f"PET [{unit}]; lines: edges of the MRI")
    heading(figure, title, ["edges of the MRI over the PET", "radiological convention"])
    save_png(figure, path)


def save_residuals(
    path: str | Path | BinaryIO,
    residuals: Sequence[tuple[str, Any]],
    *,
    affine: Any,
    uptake: Any,
    title: str = "",
) -> None:
    """Save a PNG with residuals in three planes and their distribution, a row for each source.

    Args:
        path: PNG to write, atomically, or an open binary file.
        residuals: Name and residual **[X, Y, Z]** of each source, in standard deviations of the noise.
        affine: **[4, 4]**, voxel index to RAS mm.
        uptake: Volume **[X, Y, Z]** in whose hottest voxel the planes meet.
        title: Heading.

    Raises:
        GeometryError: If shapes differ, the affine is not invertible, or there is no residual.
        ImageError: If a volume holds NaN or infinity.
    """
    if not residuals:
        raise GeometryError("The residuals must be those of a source, got none; leave the picture out.")
    shape = as_array(uptake).shape
    turn, to_world = orientation(shape, as_array(affine))
    centre = meeting_point(turned(uptake, shape, turn), None, to_world)
    volumes = [(name, turned(volume, shape, turn)) for name, volume in residuals]
    spacing, colours = np.linalg.norm(to_world[:3, :3], axis=0), colormaps["RdBu_r"]

    def draw(volume: np.ndarray) -> Draw:
        def plane(axes: Axes, number: int) -> None:
            if number == len(PLANES):
                _histogram(axes, volume)
            else:
                cut = _cut(volume, PLANES[number][1], centre)
                _image(axes, cut, cmap=colours, vmin=-_RESIDUAL, vmax=_RESIDUAL)

        return plane

    rows = [(name, draw(volume)) for name, volume in volumes]
    figure = _table(rows, shape_mm=spacing * volumes[0][1].shape, extra=_HISTOGRAM)
    _bar(figure, colours, (-_RESIDUAL, _RESIDUAL), "data less degraded restoration [standard deviations of the noise]")
    heading(figure, title, ["what the restoration leaves of the data", "radiological convention"])
    save_png(figure, path)


def _table(rows: Sequence[tuple[str, Draw]], *, shape_mm: np.ndarray, extra: float = 0.0) -> Figure:
    """Lay out three planes a row, one scale for all; the first row has titles and letters."""
    widths = [shape_mm[right] for _, _, right, _ in PLANES]
    tallest = max(shape_mm[up] for _, _, _, up in PLANES)
    free = _WIDTH - 2 * MARGIN - SIDE - 3 * GAP - (extra + 60 if extra else 0)
    scale = min(free / sum(widths), _ROW / tallest)  # px per mm
    height = scale * tallest
    spare = (free - scale * sum(widths)) / 3
    figure = new_figure(_WIDTH, HEADER + len(rows) * (height + GAP) + _BAR + FOOT)
    for row, (name, draw) in enumerate(rows):
        top = HEADER + row * (height + GAP)
        add_text(figure, MARGIN + SIDE / 3, top + height / 2, name, size=15, color=SOFT, rotation=90, ha="center")
        left = MARGIN + SIDE
        for number, (title, _, right, up) in enumerate(PLANES):
            width, tall = scale * shape_mm[right], scale * shape_mm[up]
            axes = add_axes(figure, left + spare / 2, top + (height - tall) / 2, width, tall)
            draw(axes, number)
            if row == 0:
                add_text(figure, left + spare / 2 + width / 2, HEADER - 16, title, size=16, ha="center")
                letters(axes, ENDS[right][::-1], ENDS[up], (0.5, 0.5))
            left += width + spare + GAP
        if extra:
            draw(add_axes(figure, left + 50, top + 14, extra - 10, height - 60), len(PLANES))
            if row == 0:
                add_text(figure, left + 45 + extra / 2, HEADER - 16, "Distribution", size=16, ha="center")
    return figure


def _cut(volume: np.ndarray, fixed: int, centre: np.ndarray) -> np.ndarray:
    """Return one plane with rows upwards, the patient's right on its left side."""
    image = np.swapaxes(volume.take(centre[fixed], axis=fixed), 0, 1)
    return image[:, ::-1]


def _image(axes: Axes, image: np.ndarray, **style: Any) -> None:
    axes.imshow(image, origin="lower", aspect="auto", interpolation="nearest", **style)


def _edges(axes: Axes, image: np.ndarray, spacing: Sequence[float]) -> None:
    """Draw zero crossings of the Laplacian of a Gaussian where the gradient is strong.

    Reference:
        Marr and Hildreth, Theory of edge detection, Proc. R. Soc. B 207 (1980).
    """
    image = image.astype(np.float64)
    sigma = [max(_EDGE_MM / s, 0.8) for s in spacing]
    gradient = gaussian_gradient_magnitude(image, sigma)
    strong = gradient > max(np.percentile(gradient, _STRONG), 1e-3 * float(np.ptp(image)))
    if strong.any() and min(image.shape) > 1:
        crossing = np.ma.masked_where(~strong, gaussian_laplace(image, sigma))
        if crossing.min() < 0 < crossing.max():
            axes.contour(crossing, levels=[0.0], colors=_LINE, linewidths=1.1)


def _histogram(axes: Axes, volume: np.ndarray) -> None:
    """Draw the distribution of a residual beside that of the noise, both as densities."""
    axes.set_axis_on()
    axes.set_facecolor(PAPER)
    ends = np.linspace(-_RESIDUAL, _RESIDUAL, 61)
    density = np.histogram(volume, ends)[0] / (volume.size * (ends[1] - ends[0]))
    axes.stairs(density, ends, fill=True, color=MARK, alpha=0.75)
    normal = np.exp(-0.5 * ends**2) / np.sqrt(2 * np.pi)
    axes.plot(ends, normal, color=INK, linewidth=1.3, linestyle=(0, (4, 2)))
    axes.set(xlim=(-_RESIDUAL, _RESIDUAL), ylim=(0, max(1.25 * density.max(), 0.5)), yticks=[])
    axes.text(
        0.03, 0.96, "dashed: the stated noise", transform=axes.transAxes, color=SOFT, family=FONT,
        size=12 * 72 / DPI, va="top",
    )  # fmt: skip
    axes.tick_params(colors=SOFT, labelsize=12 * 72 / DPI, length=3, width=0.7, labelfontfamily=FONT)
    for side in axes.spines.values():
        side.set_visible(False)


def _bar(figure: Figure, colours: Colormap, ends: tuple[float, float], label: str) -> None:
    width, height = figure.get_size_inches() * DPI
    axes = add_axes(figure, MARGIN + SIDE, height - FOOT - _BAR + 12, width / 2.2, 9)
    axes.set_axis_on()
    scale = figure.colorbar(ScalarMappable(Normalize(*ends), colours), cax=axes, orientation="horizontal")
    scale.outline.set_visible(False)
    axes.tick_params(colors=SOFT, labelsize=12 * 72 / DPI, length=3, width=0.7, pad=2, labelfontfamily=FONT)
    add_text(figure, MARGIN + SIDE + width / 2.2 + 18, height - FOOT - _BAR + 17, label)
