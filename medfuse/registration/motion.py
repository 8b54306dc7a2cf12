"""How far a head moved between two images of one scanner, in one world: small motion, found from where it lies."""

from __future__ import annotations

import numpy as np

from medfuse.registration.geometry import Grid
from medfuse.registration.match import Match, Volume
from medfuse.registration.search import COARSE, MEDIUM, checked_volume, scatter, smooth

_BRIGHT = 0.2  # of full range: what moves is the body, not the air around it
_APART = 3.0  # mm, by which two searches may disagree


def measure_motion(still: np.ndarray, moved: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Return the rigid motion of what two volumes of one grid show, and how far it moves it.

    The nearest optimum of the mutual information is climbed to from no motion at all: tracers wash in and out, so
    values do not stay what they are. It is done twice, each time at other points.

    Args:
        still: **[X, Y, Z]**, finite.
        moved: Likewise.
        affine: **[4, 4]**, voxel index to RAS mm, of both.

    Returns:
        **[4, 4]**, from places in `moved` to those in `still`, RAS mm; and the largest displacement of what is bright
        in `still`, mm. None where two searches disagree, as in noise.

    Raises:
        ImageError: If a volume is constant or not finite.
        GeometryError: If the affine is no usable one.
    """
    grid = Grid(still.shape, affine)
    fixed, moving = checked_volume(still, grid, "first"), checked_volume(moved, grid, "second")
    values = smooth(fixed, MEDIUM.fixed_sigma)
    index = np.argwhere(values.values > _BRIGHT).T
    bright = fixed.affine[:3, :3] @ index + fixed.affine[:3, 3:]
    one, other = (_climb(fixed, moving, np.random.default_rng(seed)) for seed in (1, 2))
    if not bright.size or _farthest(one, other, bright) > _APART:
        return None
    return one, _farthest(np.linalg.inv(one), np.eye(4), bright)


def _climb(fixed: Volume, moving: Volume, rng: np.random.Generator) -> np.ndarray:
    """Return the optimum next to no motion, from coarse to fine."""
    matrix = np.eye(4)
    for level in (COARSE, MEDIUM):
        index, _ = scatter(fixed, level, rng)
        values, _ = smooth(fixed, level.fixed_sigma).at(index)
        points = fixed.affine[:3, :3] @ index + fixed.affine[:3, 3:]
        match = Match(points, values, smooth(moving, level.fixed_sigma), bins=level.bins)
        climbed = match.climb(matrix, step=level.step, gain=level.gain, steps=level.steps)
        if match.score(climbed) > match.score(matrix):
            matrix = climbed
    return matrix


def _farthest(one: np.ndarray, other: np.ndarray, points: np.ndarray) -> float:
    """Return the largest distance between two maps **[4, 4]** of points **[3, N]**, mm."""
    apart = (one - other)[:3, :3] @ points + (one - other)[:3, 3:]
    return float(np.linalg.norm(apart, axis=0).max())
