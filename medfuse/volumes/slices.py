"""How thick the slices of an MRI are: over so many mm its values are means already, before any PSF."""

from __future__ import annotations

from collections.abc import Sequence

from medfuse.errors import GeometryError
from medfuse.physics.space import Grid

_THICK = 1.5  # of the finest spacing, from which the extent of a voxel counts
_OVERLAP = 1.05  # of the distance of slices, from which their thickness counts
_THICKEST = 50.0  # mm


def of_blocks(thick: Sequence[float], edges: Sequence[float]) -> tuple[float, ...]:
    """Return over how many mm the values of blocks of voxels are means, where that counts, else 0.

    Args:
        thick: The same of the voxels, see `slices_mm`.
        edges: Of the blocks, mm.
    """
    wide = [max(t, e) if t > 0 else 0.0 for t, e in zip(thick, edges, strict=True)]
    return tuple(t if t >= _THICK * min(edges) or t > _OVERLAP * e else 0.0 for t, e in zip(wide, edges, strict=True))


def slices_mm(grid: Grid, thickness_mm: float | None = None, axis: int | None = None) -> tuple[float, float, float]:
    """Return over how many mm the values of an MRI are means along each axis, where that counts, else 0.

    It counts across slices that are much thicker than their pixels, as those of two-dimensional sequences are, or
    thicker than their distance.

    Args:
        grid: Of the MRI.
        thickness_mm: What its header says, such as `SliceThickness` (0018,0050); None: the distance of slices.
        axis: Across slices; None: that of the largest spacing, and none where the header alone could tell.

    Raises:
        GeometryError: A thickness that is not positive, or above 50 mm.
    """
    if thickness_mm is not None and not 0 < thickness_mm <= _THICKEST:
        raise GeometryError(f"the thickness of slices must be above 0 and at most 50 mm, got {thickness_mm}; check it.")
    spacing, extent = grid.spacing, [0.0, 0.0, 0.0]
    finest, widest = min(spacing), max(spacing)
    if axis is None and widest < _OVERLAP * finest:
        return (0.0, 0.0, 0.0)
    across = spacing.index(widest) if axis is None else axis
    thick = thickness_mm or spacing[across]
    for d, step in enumerate(spacing):
        if d == across:
            extent[d] = thick if thick >= _THICK * finest or thick > _OVERLAP * step else 0.0
        elif step >= _THICK * finest:
            extent[d] = step
    return (extent[0], extent[1], extent[2])
