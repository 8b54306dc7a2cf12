"""Pictures of how well things fit: edges of the MRI over the PET, and what the restoration leaves of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_gradient_magnitude, gaussian_laplace

from medfuse.errors import GeometryError
from medfuse.fusion.color import palette as palette_of
from medfuse.io.modalities import DEFAULT_PAIR
from medfuse.io.modalities import titles as titles_of
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
    side_note,
    window,
)
from medfuse.report.paper import INK, MARK, SMALL, SOFT, TITLE, Colours, Panel, Paper, Resampling

_ROW, _WIDTH, _BAR, _HISTOGRAM = 400.0, 1440.0, 66.0, 300.0  # px
_LEAST_ROW = 280.0  # px, with a distribution
_EDGE_MM, _STRONG = 1.8, 82.0  # smoothing before edges are sought; percentile of the gradient that counts as one
_LINE = "#7fe7ff"
_FINE = 3  # times as fine as px a distribution is drawn
_RESIDUAL = 4.0  # ends of the display window, in standard deviations of the noise

Draw = Callable[[Paper, Panel, int], None]


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
    colours, ends = palette_of(palette), window(pet_window)
    first, second = titles_of(names)

    def draw(one: np.ndarray, two: np.ndarray) -> Draw:
        def plane(paper: Paper, panel: Panel, number: int) -> None:
            _, _, right, up = PLANES[number]
            _image(paper, panel, planes.cut(two, number), colours, ends)
            _edges(paper, panel, planes.cut(one, number), (planes.spacing[up], planes.spacing[right]))

        return plane

    paper = _table([(name, draw(planes.turned(one), planes.turned(two))) for name, one, two in rows], planes)
    _bar(paper, colours, ends, f"{second} [{unit}]; lines: edges of the {first}")
    heading(paper, title, [f"edges of the {first} over the {second}", "radiological convention"])
    paper.save_png(path)


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
    planes, colours = ThreePlanes(uptake, affine), colormaps["RdBu_r"](np.linspace(0, 1, 256))[:, :3]

    def draw(volume: np.ndarray) -> Draw:
        def plane(paper: Paper, panel: Panel, number: int) -> None:
            if number == len(PLANES):
                _histogram(paper, panel, volume)
            else:
                _image(paper, panel, planes.cut(volume, number), colours, (-_RESIDUAL, _RESIDUAL))

        return plane

    rows = [(name, draw(planes.turned(volume))) for name, volume in residuals]
    paper = _table(rows, planes, extra=_HISTOGRAM)
    _bar(paper, colours, (-_RESIDUAL, _RESIDUAL), "data less degraded restoration [standard deviations of the noise]")
    heading(paper, title, ["what the restoration leaves of the data", "radiological convention"])
    paper.save_png(path)


def _table(rows: Sequence[tuple[str, Draw]], planes: ThreePlanes, *, extra: float = 0.0) -> Paper:
    """Lay out three planes a row, one scale for all; the first row has titles and letters."""
    shape_mm = planes.size
    widths = [shape_mm[right] for _, _, right, _ in PLANES]
    tallest = max(shape_mm[up] for _, _, _, up in PLANES)
    free = _WIDTH - 2 * MARGIN - SIDE - 3 * GAP - (extra + 60 if extra else 0)
    scale = min(free / sum(widths), _ROW / tallest)  # px per mm
    height = max(scale * tallest, _LEAST_ROW if extra else 0.0)  # a distribution of few slices is to be read, too
    spare = (free - scale * sum(widths)) / 3
    paper = Paper(_WIDTH, HEADER + len(rows) * (height + GAP) + _BAR + FOOT)
    for row, (name, draw) in enumerate(rows):
        top = HEADER + row * (height + GAP)
        side_note(paper, top, height, name)
        left = MARGIN + SIDE
        for number, (title, _, right, up) in enumerate(PLANES):
            width, tall = scale * shape_mm[right], scale * shape_mm[up]
            panel = paper.panel(left + spare / 2, top + (height - tall) / 2, width, tall)
            draw(paper, panel, number)
            if row == 0:
                paper.text(left + spare / 2 + width / 2, HEADER - 18, title, size=TITLE, align="centre")
                letters(paper, panel, ENDS[right][::-1], ENDS[up])
            left += width + spare + GAP
        if extra:
            draw(paper, Panel(left + 50, top + 14, extra - 10, height - 60), len(PLANES))
            if row == 0:
                paper.text(left + 45 + extra / 2, HEADER - 18, "Distribution", size=TITLE, align="centre")
    return paper


def _image(paper: Paper, panel: Panel, image: np.ndarray, colours: Colours, ends: tuple[float, float]) -> None:
    paper.show(panel, image[::-1], colours, ends, Resampling.NEAREST)


def _edges(paper: Paper, panel: Panel, image: np.ndarray, spacing: Sequence[float]) -> None:
    """Draw zero crossings of the Laplacian of a Gaussian where the gradient is strong.

    Reference:
        Marr and Hildreth, Theory of edge detection, Proc. R. Soc. B 207 (1980).
    """
    image = image.astype(np.float64)
    sigma = [max(_EDGE_MM / s, 0.8) for s in spacing]
    gradient = gaussian_gradient_magnitude(image, sigma)
    strong = gradient > max(np.percentile(gradient, _STRONG), 1e-3 * float(np.ptp(image)))
    if strong.any() and min(image.shape) > 1:
        paper.cover(panel, _crossings(gaussian_laplace(image, sigma), strong, panel.pixels[2:])[::-1], _LINE)


def _crossings(values: np.ndarray, where: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return a mask **[2 h, 2 w]** in 0..255 of lines, three of its pixels wide, along which values change sign."""
    fine = 2 * size[0], 2 * size[1]
    positive = np.asarray(Image.fromarray(np.float32(values)).resize(fine, Resampling.BILINEAR)) > 0
    mask = np.zeros(positive.shape, bool)
    mask[1:] |= positive[1:] != positive[:-1]
    mask[:, 1:] |= positive[:, 1:] != positive[:, :-1]
    mask &= np.asarray(Image.fromarray(where).resize(fine, Resampling.NEAREST))
    for _ in range(2):  # to both sides, of rows and of columns
        mask[1:-1] = mask[1:-1] | mask[2:] | mask[:-2]
        mask = mask.T
    return (255 * mask).astype(np.uint8)


def _histogram(paper: Paper, panel: Panel, volume: np.ndarray) -> None:
    """Draw the distribution of a residual beside that of the noise, both as densities."""
    ends = np.linspace(-_RESIDUAL, _RESIDUAL, 61)
    density = np.histogram(volume, ends)[0] / (volume.size * (ends[1] - ends[0]))
    normal = np.exp(-0.5 * ends**2) / np.sqrt(2 * np.pi)
    top = max(1.25 * density.max(), 0.5)
    wide, high = (_FINE * side for side in panel.pixels[2:])
    across = wide * (ends / _RESIDUAL + 1) / 2
    steps, line = (Image.new("L", (wide, high)) for _ in range(2))
    heights = high * (1 - np.repeat([0.0, *density, 0.0], 2)[1:-1] / top)
    ImageDraw.Draw(steps).polygon(list(zip(np.repeat(across, 2), heights, strict=True)), fill=190)
    points = list(zip(across, high * (1 - normal / top), strict=True))
    for start in range(0, len(points) - 2, 3):  # dashes: two parts of three
        ImageDraw.Draw(line).line(points[start : start + 3], fill=255, width=2 * _FINE)
    paper.cover(panel, np.asarray(steps), MARK)
    paper.cover(panel, np.asarray(line), INK)
    paper.text(panel.left + 0.03 * panel.width, panel.top + 12, "dashed: noise of the model", size=SMALL, color=SOFT)
    paper.ticks(panel.left, panel.top + panel.height, panel.width, (-_RESIDUAL, _RESIDUAL), 4)


def _bar(paper: Paper, colours: Colours, ends: tuple[float, float], label: str) -> None:
    top, width = paper.height - FOOT - _BAR + 14, paper.width / 2.2
    paper.bar(MARGIN + SIDE, top, width, colours[None], ends)
    paper.text(MARGIN + SIDE + width + 20, top + 5, label)
