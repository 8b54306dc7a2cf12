"""What the pictures share: three planes in RAS order, headings, letters of directions, a scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np

from medfuse.about import NOTICE
from medfuse.errors import GeometryError, ImageError
from medfuse.regions.values import as_array
from medfuse.report.paper import INK, LABEL, SMALL, SOFT, Panel, Paper

MARGIN, SIDE, GAP, HEADER, FOOT = 26.0, 44.0, 6.0, 108.0, 48.0  # px
_INWARDS = 17.0  # px, from an edge to the letter of its direction
_LETTER = 0.62  # mean width of a letter by its height
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


def letters(
    paper: Paper, panel: Panel, sides: Sequence[str], ends: Sequence[str], cut: tuple[float, float] = (0.5, 0.5)
) -> None:
    """Name the directions at the edges of a panel, left, right, below and above, beside the marks of a cut."""
    x, y = (0.5 if abs(at - 0.5) > 0.07 else at - 0.09 for at in cut)
    paper.write(panel, sides[0], (0, 1 - y), (_INWARDS, 0))
    paper.write(panel, sides[1], (1, 1 - y), (-_INWARDS, 0))
    paper.write(panel, ends[0], (x, 1), (0, -_INWARDS))
    paper.write(panel, ends[1], (x, 0), (0, _INWARDS))


def scale_bar(paper: Paper, left: float, bottom: float, width: float, scale: float) -> None:
    """Draw a length of 1, 2, 5, 10 or 20 cm, at most a third of a panel."""
    length = max((mm for mm in (10, 20, 50, 100, 200) if mm * scale <= width / 3), default=10)
    paper.box(left - 1, bottom - 4, length * scale + 2, 4, "black")
    paper.box(left, bottom - 3, length * scale, 2, INK)
    paper.text(left, bottom - 15, f"{length // 10} cm", size=SMALL, outline=True)


def heading(paper: Paper, title: str, notes: Sequence[str]) -> None:
    """Write title and notes at the top, the notice at the bottom.

    A long title is written in smaller letters; one that would be hard to read, above the notes.
    """
    note, room = "   |   ".join(notes), paper.width - 2 * MARGIN
    size = _fitting(title, 26.0, room - MARGIN - _LETTER * SMALL * len(note))
    heights = (38, 38) if size >= SMALL else (26, 58)
    paper.text(MARGIN, heights[0], title, size=size if size >= SMALL else _fitting(title, 26.0, room), bold=True)
    paper.text(paper.width - MARGIN, heights[1], note, size=_fitting(note, SMALL, room), color=SOFT, align="right")
    paper.text(MARGIN, paper.height - 22, NOTICE, size=SMALL, color=SOFT)
    paper.text(paper.width - MARGIN, paper.height - 22, "medfuse", size=SMALL, color=SOFT, align="right")


def _fitting(text: str, size: float, room: float) -> float:
    """Return the height of letters, at most so much and a px at least, at which a text has room."""
    return max(min(size, room / (_LETTER * max(len(text), 1))), 1.0)


def side_note(paper: Paper, top: float, height: float, text: str, short: str = "") -> None:
    """Write along the left side of a row; the short text where the other is longer than the row."""
    chosen = text if _LETTER * LABEL * len(text) <= height else short or text
    size = min(LABEL, height / (_LETTER * len(chosen)))
    paper.text(MARGIN + SIDE / 3, top + height / 2, chosen, size=size, color=SOFT, align="centre", upwards=True)


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


def window(ends: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the ends of a display window, never equal."""
    low, high = (float(end) for end in ends)
    return low, high if high > low else low + max(1.0, 1e-6 * abs(low))  # 1e17 + 1 is 1e17
