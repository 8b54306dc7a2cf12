"""How far a head moved between two images of one scanner, in one world: small motion, found from where it lies."""

from __future__ import annotations

import numpy as np

from medfuse.registration.geometry import Grid
from medfuse.registration.match import Match
from medfuse.registration.search import COARSE, MEDIUM, checked_volume, scatter, smooth

_BRIGHT = 0.2  # of full range: what moves is the body, not the air around it


def measure_motion(
    still: np.ndarray, moved: np.ndarray, affine: np.ndarray, *, seed: int = 1
) -> tuple[np.ndarray, float]:
    """Return the rigid motion of what two volumes of one grid show, and how far it moves it.

    The nearest optimum of the mutual information is climbed to from no motion at all: tracers wash in and out, so
    values do not stay what they are.

    Args:
        still: **[X, Y, Z]**, finite.
        moved: Likewise.
        affine: **[4, 4]**, voxel index to RAS mm, of both.
        seed: Of the points that are looked at.

    Returns:
        **[4, 4]**, from places in `moved` to those in `still`, RAS mm; and the largest displacement of what is bright
        in `still`, mm.

    Raises:
        ImageError: If a volume is constant or not finite.
        GeometryError: If the affine is no usable one.
    """
    grid = Grid(still.shape, affine)
    fixed, moving = checked_volume(still, grid, "first"), checked_volume(moved, grid, "second")
    matrix = np.eye(4)
    rng = np.random.default_rng(seed)
    for level in (COARSE, MEDIUM):
        index, _ = scatter(fixed, level, rng)
        values, _ = smooth(fixed, level.fixed_sigma).at(index)
        points = fixed.affine[:3, :3] @ index + fixed.affine[:3, 3:]
        match = Match(points, values, smooth(moving, level.fixed_sigma), bins=level.bins)
        climbed = match.climb(matrix, step=level.step, gain=level.gain, steps=level.steps)
        if match.score(climbed) > match.score(matrix):
            matrix = climbed
    bright = points[:, values > _BRIGHT]
    back = np.linalg.inv(matrix)
    apart = back[:3, :3] @ bright + back[:3, 3:] - bright
    return matrix, float(np.linalg.norm(apart, axis=0).max()) if bright.size else 0.0
