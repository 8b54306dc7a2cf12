"""Grids of voxels, what they share, and rigid maps between them; all in mm, and free of ITK's LPS."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation


class Grid(NamedTuple):
    """The voxels of a volume: their number along each axis **[3]**, and the affine **[4, 4]** from index to mm."""

    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """The middle of the field of view **[3]**, mm."""
        return np.asarray((self.affine @ [*((n - 1) / 2 for n in self.shape), 1.0])[:3])

    @property
    def volume(self) -> float:
        """The volume of the field of view, mm3."""
        return math.prod(self.shape) * abs(float(np.linalg.det(self.affine[:3, :3])))

    @property
    def corners(self) -> np.ndarray:
        """The corners of the field of view **[4, 8]**, homogeneous, mm: half a voxel beyond the outermost centres."""
        return np.asarray(self.affine @ _lattice([np.array([-0.5, n - 0.5]) for n in self.shape]))


def overlap_fraction(grid: Grid, other: Grid, matrix: np.ndarray | None = None, *, max_points: int = 32) -> float:
    """Return the part of a grid's field of view that lies in that of another, half a voxel of border included.

    Args:
        grid: The grid whose voxels are counted.
        other: The grid in which they may lie.
        matrix: **[4, 4]**, maps points of the grid's world to the other's; None for one world.
        max_points: Number of points per axis to look at; more voxels are thinned out evenly.

    Returns:
        0..1.
    """
    return float(_inside(grid, other, matrix, max_points).mean())


def mutual_overlap(grid: Grid, other: Grid, matrix: np.ndarray | None = None) -> float:
    """Return the part of the smaller field of view that lies in the larger one, 0..1; see `overlap_fraction`."""
    back = None if matrix is None else np.linalg.inv(matrix)
    return max(overlap_fraction(grid, other, matrix), overlap_fraction(other, grid, back))


def max_distance(first: np.ndarray, second: np.ndarray, grid: Grid, other: Grid, matrix: np.ndarray) -> float:
    """Return the largest distance between two maps of `grid` over what it shares with `other` under `matrix`, mm."""
    inside, points = _inside(grid, other, matrix, 16).ravel(), grid.affine @ _lattice(_thinned(grid, 16))
    return float(np.linalg.norm(((first - second) @ points[:, inside])[:3], axis=0).max()) if inside.any() else math.inf


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Return axis times angle of a rigid **[4, 4]**, degrees."""
    return np.asarray(Rotation.from_matrix(matrix[:3, :3]).as_rotvec(degrees=True))


def shift(matrix: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return by how much a **[4, 4]** moves a point, mm."""
    return np.asarray((matrix @ [*point, 1.0])[:3] - point)


def orthonormal(matrix: np.ndarray) -> np.ndarray:
    """Return the nearest orthonormal matrix."""
    u, _, v = np.linalg.svd(matrix)
    return np.asarray(u @ v)


def _inside(grid: Grid, other: Grid, matrix: np.ndarray | None, max_points: int) -> np.ndarray:
    """Return which voxels of a thinned grid lie in another one, bool, an axis for each of the grid.

    An index in the other grid is a sum of what each axis adds, so that no list of points is made.
    """
    into = np.linalg.solve(other.affine, grid.affine if matrix is None else matrix @ grid.affine)
    x, y, z = np.ix_(*_thinned(grid, max_points))
    inside = np.asarray(True)
    for (a, b, c, start), n in zip(into[:3], other.shape, strict=True):
        index = (a * x + start) + b * y + c * z
        inside = inside & (index >= -0.5 - 1e-6) & (index <= n - 0.5 + 1e-6)
    return inside


def _thinned(grid: Grid, max_points: int) -> list[np.ndarray]:
    """Return indices along each axis of a grid, of so many voxels at most, evenly apart."""
    return [np.linspace(0, n - 1, min(n, max_points)) for n in grid.shape]


def _lattice(axes: list[np.ndarray]) -> np.ndarray:
    """Return all combinations of the indices along three axes, homogeneous **[4, N]**."""
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    return np.concatenate([points, np.ones((1, points.shape[1]))])
