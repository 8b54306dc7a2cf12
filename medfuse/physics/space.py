"""Grids in space: where the samples of an image lie, in millimetres. Knows neither torch nor numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medfuse.errors import GeometryError

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Grid:
    """The samples of an image: their number along each axis, and the affine from index to position. Immutable.

    Attributes:
        shape: Number of samples along each axis, **[D]**, two or three.
        affine: Rows of the map from homogeneous index to mm, **[D + 1, D + 1]**; the last row is 0, ..., 0, 1. For
            volumes the world is RAS, as NIfTI has it.
    """

    shape: tuple[int, ...]
    affine: tuple[Vector, ...]

    def __post_init__(self) -> None:
        """Take any sequences, and refuse what is no grid.

        Raises:
            GeometryError: A shape that is not positive, an affine of another size, not finite, or without volume.
        """
        shape = tuple(int(n) for n in self.shape)
        rows = tuple(tuple(float(v) for v in row) for row in self.affine)
        size = len(shape) + 1
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise GeometryError(f"a grid must have two or three axes of 1 sample or more, got {shape}.")
        if len(rows) != size or any(len(row) != size for row in rows):
            raise GeometryError(f"the affine of a grid of {len(shape)} axes must be {size} x {size}, got {rows}.")
        if not all(map(math.isfinite, (v for row in rows for v in row))) or rows[-1] != (0.0,) * len(shape) + (1.0,):
            raise GeometryError(f"the affine of a grid must be finite and end with 0, ..., 0, 1, got {rows}.")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", rows)
        if not abs(_determinant([row[:-1] for row in rows[:-1]])) > 0:
            raise GeometryError(f"the axes of a grid must span its space, got the affine {rows}.")

    @classmethod
    def of_spacing(cls, shape: Sequence[int], spacing: Sequence[float]) -> Grid:
        """Return the grid of samples so many mm apart along the axes of the world, the first at the origin."""
        steps = [*spacing, 1.0]
        rows = [[step if i == j else 0.0 for j in range(len(steps))] for i, step in enumerate(steps)]
        return cls(tuple(shape), tuple(map(tuple, rows)))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def spacing(self) -> Vector:
        """Distance of neighbours along each axis, mm."""
        return tuple(math.hypot(*column) for column in self._columns)

    @property
    def axes(self) -> tuple[Vector, ...]:
        """Unit vector of each axis of the grid, in the world."""
        return tuple(tuple(v / step for v in c) for c, step in zip(self._columns, self.spacing, strict=True))

    @property
    def centre(self) -> Vector:
        """Position of the middle of the field of view, mm."""
        return self.position([(n - 1) / 2 for n in self.shape])

    def position(self, index: Sequence[float]) -> Vector:
        """Return the position of an index, which need not be whole, mm."""
        return tuple(sum(a * i for a, i in zip(row, (*index, 1.0), strict=True)) for row in self.affine[:-1])

    def of_blocks(self, blocks: Sequence[int]) -> Grid:
        """Return the grid of the middles of blocks of so many voxels along each axis; the last may hold fewer."""
        first = self.position([(b - 1) / 2 for b in blocks])
        rows = tuple(
            (*(v * b for v, b in zip(row[:-1], blocks, strict=True)), p)
            for row, p in zip(self.affine, first, strict=False)
        )
        shape = tuple(-(-n // b) for n, b in zip(self.shape, blocks, strict=True))
        return Grid(shape, (*rows, self.affine[-1]))

    def same_as(self, other: Grid, *, tolerance: float = 1e-3) -> bool:
        """Tell whether both grids have the same samples at the same places, to within so many mm."""
        if self.shape != other.shape:
            return False
        corners = [[(n - 1) * (k >> d & 1) for d, n in enumerate(self.shape)] for k in range(2**self.ndim)]
        return all(math.dist(self.position(c), other.position(c)) <= tolerance for c in corners)

    @property
    def _columns(self) -> list[Vector]:
        return [tuple(row[d] for row in self.affine[:-1]) for d in range(self.ndim)]


def _determinant(rows: Sequence[Vector]) -> float:
    if len(rows) == 1:
        return rows[0][0]
    minors = ([row[:d] + row[d + 1 :] for row in rows[1:]] for d in range(len(rows)))
    return sum((-1.0) ** d * rows[0][d] * _determinant(minor) for d, minor in enumerate(minors))
