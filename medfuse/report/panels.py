"""Pictures of how well things fit: edges of the MRI over the PET, and what the restoration leaves of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_gradient_magnitude, gaussian_laplace

from medfuse.errors import GeometryError
from medfuse.io.modalities import DEFAULT_PAIR
from medfuse.io.modalities import titles as titles_of
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
    SMALL,
    SOFT,
    TITLE,
    ThreePlanes,
    add_axes,
    add_text,
    colour_bar,
    colours_of,
    heading,
    letters,
    new_figure,
    numbers,
    save_png,
    side_note,
    window,
)

_ROW, _WIDTH, _BAR, _HISTOGRAM = 400.0, 1440.0, 66.0, 300.0  # px
_EDGE_MM, _STRONG = 1.8, 82.0  # smoothing before edges are sought; percentile of the gradient that counts as one
_LINE = "#7fe7ff"
_RESIDUAL = 4.0  # ends of the display window, in standard deviations of the noise

Draw = Callable[[Axes, int], None]


def save_overlay(
    path: str | Path | BinaryIO,
    rows: Sequence[tuple[str, Any, Any]],
    *,
    affine: Any,
    unit: str,
    pet_window: tuple[float, float],
    palette: str = "HOT_IRON",
    title: str = "",
    names: tuple[str, str] = DEFAULT_PAIR,
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
        names: Keys of the sources, where they are others than an MRI and a PET; see `medfuse.io.modalities`.

    Raises:
        GeometryError: If shapes differ, or the affine is not invertible.
        ImageError: If a volume holds NaN or infinity.
    """
    planes = ThreePlanes(rows[-1][2], affine)
    colours, (low, high) = colours_of(palette), window(pet_window)
    first, second = titles_of(names)

    def draw(one: np.ndarray, two: np.ndarray) -> Draw:
        def plane(axes: Axes, number: int) -> None:
            _, _, right, up = PLANES[number]
            _image(axes, planes.cut(two, number), cmap=colours, vmin=low, vmax=high)
            _edges(axes, planes.cut(one, number), (planes.spacing[up], planes.spacing[right]))

        return plane

    figure = _table([(name, draw(planes.turned(one), planes.turned(two))) for name, one, two in rows], planes)
    _bar(figure, colours, (low, high), f"{second} [{unit}]; lines: edges of the {first}")
    heading(figure, title, [f"edges of the {first} over the {second}", "radiological convention"])
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
    planes, colours = ThreePlanes(uptake, affine), colormaps["RdBu_r"]

    def draw(volume: np.ndarray) -> Draw:
        def plane(axes: Axes, number: int) -> None:
            if number == len(PLANES):
                _histogram(axes, volume)
            else:
                _image(axes, planes.cut(volume, number), cmap=colours, vmin=-_RESIDUAL, vmax=_RESIDUAL)

        return plane

    rows = [(name, draw(planes.turned(volume))) for name, volume in residuals]
    figure = _table(rows, planes, extra=_HISTOGRAM)
    _bar(figure, colours, (-_RESIDUAL, _RESIDUAL), "data less degraded restoration [standard deviations of the noise]")
    heading(figure, title, ["what the restoration leaves of the data", "radiological convention"])
    save_png(figure, path)


def _table(rows: Sequence[tuple[str, Draw]], planes: ThreePlanes, *, extra: float = 0.0) -> Figure:
    """Lay out three planes a row, one scale for all; the first row has titles and letters."""
    shape_mm = planes.size
    widths = [shape_mm[right] for _, _, right, _ in PLANES]
    tallest = max(shape_mm[up] for _, _, _, up in PLANES)
    free = _WIDTH - 2 * MARGIN - SIDE - 3 * GAP - (extra + 60 if extra else 0)
    scale = min(free / sum(widths), _ROW / tallest)  # px per mm
    height = scale * tallest
    spare = (free - scale * sum(widths)) / 3
    figure = new_figure(_WIDTH, HEADER + len(rows) * (height + GAP) + _BAR + FOOT)
    for row, (name, draw) in enumerate(rows):
        top = HEADER + row * (height + GAP)
        side_note(figure, top, height, name)
        left = MARGIN + SIDE
        for number, (title, _, right, up) in enumerate(PLANES):
            width, tall = scale * shape_mm[right], scale * shape_mm[up]
            axes = add_axes(figure, left + spare / 2, top + (height - tall) / 2, width, tall)
            draw(axes, number)
            if row == 0:
                add_text(figure, left + spare / 2 + width / 2, HEADER - 18, title, size=TITLE, ha="center")
                letters(axes, ENDS[right][::-1], ENDS[up])
            left += width + spare + GAP
        if extra:
            draw(add_axes(figure, left + 50, top + 14, extra - 10, height - 60), len(PLANES))
            if row == 0:
                add_text(figure, left + 45 + extra / 2, HEADER - 18, "Distribution", size=TITLE, ha="center")
    return figure


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
        0.03, 0.98, "dashed: the stated noise", transform=axes.transAxes, color=SOFT, family=FONT,
        size=SMALL * 72 / DPI, va="top",
    )  # fmt: skip
    numbers(axes)
    for side in axes.spines.values():
        side.set_visible(False)


def _bar(figure: Figure, colours: Colormap, ends: tuple[float, float], label: str) -> None:
    width, height = figure.get_size_inches() * DPI
    top = height - FOOT - _BAR + 14
    colour_bar(figure, MARGIN + SIDE, top, width / 2.2, colours, ends)
    add_text(figure, MARGIN + SIDE + width / 2.2 + 20, top + 5, label)
