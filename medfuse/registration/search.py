"""The search for a rigid map: two images at several resolutions, many starts, and three independent searches.

Matrices map points of the moving world to the fixed one, RAS mm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from medfuse.errors import GeometryError, ImageError, RegistrationError
from medfuse.registration.geometry import Grid, max_distance
from medfuse.registration.match import Match, Volume
from medfuse.registration.similarity import MEASURES, Measure

Start: TypeAlias = Literal["identity", "geometry", "mass"]

_BLOCK = 45.0  # mm, edge of a block of the chequerboard
_FINEST = 2.0  # mm, finer voxels are averaged
_MAX_SHEAR = 1e-3
TURNS = np.array(list(itertools.product((0.0, 25.0, -25.0), repeat=3)))  # rotation vectors, deg: 0, 25, 35 and 43 deg
_TILT = 8.0  # deg, of the starts of a half against those of all data
_CLIMBS, _KEPT = 5, 3  # starts that are climbed from, under each measure, and optima that are refined
_SAME = 4.0  # mm, optima that are nearer are one
_FEWEST = 4  # points along an axis, where there are as many voxels


class Level(NamedTuple):
    """One resolution: smoothing, distance and largest number of points, bins, first step, least gain, most steps."""

    fixed_sigma: float
    moving_sigma: float
    spacing: float
    points: int
    bins: int
    step: float
    gain: float
    steps: int


COARSE = Level(6.0, 6.0, 12.0, 8_000, 24, 8.0, 1e-5, 40)
MEDIUM = Level(2.0, 2.0, 4.0, 30_000, 40, 2.0, 1e-6, 40)
FINE = Level(2.0, 1.0, 2.0, 120_000, 48, 0.5, 1e-7, 40)


class Found(NamedTuple):
    """An optimum: the map **[4, 4]**, and its score, the normalised mutual information, 1..2."""

    matrix: np.ndarray
    score: float


class Search:
    """Two volumes at all resolutions; equal calls give equal results.

    Attributes:
        centre: Centre of the fixed field of view **[3]**, RAS mm.
    """

    def __init__(
        self, fixed: np.ndarray, fixed_grid: Grid, moving: np.ndarray, moving_grid: Grid, *, seed: int
    ) -> None:
        """Check the volumes **[X, Y, Z]**, and prepare them.

        Raises:
            ImageError: If a volume is not 3-D, constant or not finite.
            GeometryError: If an affine is singular, not finite or sheared.
        """
        still, mobile = checked_volume(fixed, fixed_grid, "fixed"), checked_volume(moving, moving_grid, "moving")
        self.centre = fixed_grid.centre
        self._grids = moving_grid, fixed_grid
        rng = np.random.default_rng(seed)
        share = min(1.0, moving_grid.volume / fixed_grid.volume)
        smoothed = {sigma: smooth(still, sigma) for sigma in {level.fixed_sigma for level in (COARSE, MEDIUM, FINE)}}
        self._matches: dict[Level, Match] = {}
        self._black: dict[Level, np.ndarray] = {}
        for level in (COARSE, MEDIUM, FINE):
            index, place = scatter(still, level, rng)
            values, _ = smoothed[level.fixed_sigma].at(index)
            points = still.affine[:3, :3] @ index + still.affine[:3, 3:]
            moved = smooth(mobile, level.moving_sigma)
            self._matches[level] = Match(points, values, moved, bins=level.bins, share=share)
            self._black[level] = _chequerboard(place, still)
        self._pivot = _mass(still)
        self._shifts: dict[str, np.ndarray] = {
            "identity": np.zeros(3),
            "geometry": fixed_grid.centre - moving_grid.centre,
            "mass": self._pivot - _mass(mobile),
        }

    def shifts(self, names: Iterable[Start]) -> list[np.ndarray]:
        """Return the shifts **[4, 4]** under which the images overlap, without near repetitions.

        Raises:
            RegistrationError: A start is unknown.
        """
        result: list[np.ndarray] = []
        for name in names:
            if name not in self._shifts:
                raise RegistrationError(f"A start must be one of {', '.join(self._shifts)}, got {name!r}; choose one.")
            start = np.eye(4)
            start[:3, 3] = self._shifts[name]
            new = all(np.linalg.norm((start - other)[:3, 3]) > 2.0 for other in result)
            if new and math.isfinite(self._matches[COARSE].score(start)):
                result.append(start)
        return result

    def optima(self, shifts: Sequence[np.ndarray], half: Literal[0, 1] | None = None) -> list[Found]:
        """Search with all points, or with those of one colour of a chequerboard; return what was found, the best first.

        Each shift is turned in `TURNS` ways. The similarity of all these starts is looked up at the coarsest level, by
        normalised mutual information and by the correlation ratio, whose optima lie elsewhere where they are wrong.
        The best starts of each are climbed from; the best optima are refined, and compared by the first alone.

        A half knows nothing of what the other half or all data found. It has starts of its own: all are tilted, those
        of the other half the other way.
        """
        matches, tilt = self._matches, 0.0
        if half is not None:
            matches = {level: m.subset(self._black[level] == (half == 0)) for level, m in matches.items()}
            tilt = (_TILT, -_TILT)[half]
        coarse = matches[COARSE]
        starts = [turn @ shift for shift in shifts for turn in self._turns(tilt)]
        scores = [coarse.scores(start) for start in starts]
        climbed = [
            self._climb(starts[k], coarse, COARSE, measure)
            for measure in MEASURES
            for k in sorted(range(len(starts)), key=lambda k: -scores[k][measure])[:_CLIMBS]
        ]
        found = self._distinct(climbed)[:_KEPT]
        for level in (MEDIUM, FINE):
            found = self._distinct([self._climb(f.matrix, matches[level], level) for f in found])
        return found

    def by_ratio(self, matrix: np.ndarray) -> np.ndarray:
        """Return the optimum of the correlation ratio next to a map."""
        return self._climb(matrix, self._matches[FINE], FINE, "ratio").matrix

    def runner_up(self, best: Found, others: Iterable[Found]) -> float:
        """Return the highest score, over all points, of optima elsewhere than the best; 1 if there are none."""
        elsewhere = (o.matrix for o in others if self._distance(o, best) > _SAME)
        return max((1.0, *(self._matches[FINE].score(matrix) for matrix in elsewhere)))

    def metric(self, matrix: np.ndarray) -> float:
        """Return the mutual information over all points, nats; minus infinity without overlap."""
        return self._matches[FINE].information(matrix)

    @staticmethod
    def _climb(matrix: np.ndarray, match: Match, level: Level, measure: Measure = "information") -> Found:
        found = match.climb(matrix, measure, step=level.step, gain=level.gain, steps=level.steps)
        return Found(found, match.score(found))

    def _turns(self, tilt: float) -> list[np.ndarray]:
        """Return the turns **[4, 4]** about the centre of mass of the fixed image, all tilted by an angle, degrees."""
        lean = Rotation.from_rotvec(np.full(3, tilt / math.sqrt(3)), degrees=True)
        turns = np.tile(np.eye(4), (len(TURNS), 1, 1))
        turns[:, :3, :3] = (lean * Rotation.from_rotvec(TURNS, degrees=True)).as_matrix()
        turns[:, :3, 3] = self._pivot - turns[:, :3, :3] @ self._pivot
        return list(turns)

    def _distinct(self, optima: Iterable[Found]) -> list[Found]:
        """Return optima that lie apart, the best first."""
        kept: list[Found] = []
        for found in sorted(optima, key=lambda item: -item.score):
            if all(self._distance(found, k) > _SAME for k in kept):
                kept.append(found)
        return kept

    def _distance(self, one: Found, other: Found) -> float:
        """Return by how far two optima place the moving image apart, mm."""
        return max_distance(one.matrix, other.matrix, *self._grids, other.matrix)


def checked_volume(array: np.ndarray, grid: Grid, what: str) -> Volume:
    """Check a volume, thin it out to about 2 mm, and cut off its extreme values.

    Raises:
        ImageError: It is no volume, not finite or constant.
        GeometryError: Its affine is no 4 x 4 matrix, not finite, singular or sheared.
    """
    if array.ndim != 3:
        raise ImageError(f"The {what} volume must be 3-D, got shape {array.shape}; pass one volume [X, Y, Z].")
    affine = grid.affine
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise GeometryError(f"The {what} affine must be 4 x 4, finite and not singular; repair the image's header.")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = affine[:3, :3] / spacing
    shear = float(np.abs(direction.T @ direction - np.eye(3)).max())
    if shear > _MAX_SHEAR:
        raise GeometryError(f"The {what} affine must be free of shear, got {shear:.3g}; resample the image first.")
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise ImageError(f"The {what} volume must be finite, got NaN or infinity; repair it first.")
    if values.min() == values.max():
        raise ImageError(f"The {what} volume must not be constant, got {values.min():g} everywhere; check the file.")
    low, high = (float(v) for v in np.percentile(values, (0.2, 99.8)))
    if low < high:
        np.clip(values, low, high, out=values)
    thinned = affine.copy()
    for axis, (n, s) in enumerate(zip(array.shape, spacing, strict=True)):
        factor = max(1, min(int(_FINEST / s + 0.01), n // 8))
        if factor > 1:
            moved = np.moveaxis(values, axis, 0)[: n // factor * factor]
            values = np.moveaxis(moved.reshape(-1, factor, *moved.shape[1:]).mean(1), 0, axis)
            thinned[:3, axis] *= factor
            thinned[:3, 3] += affine[:3, axis] * (factor - 1) / 2
    return Volume(values, thinned)


def smooth(volume: Volume, sigma: float) -> Volume:
    """Smooth a volume by a Gaussian, mm, and scale it to 0..1."""
    values = volume.values
    for axis, (n, s) in enumerate(zip(values.shape, np.linalg.norm(volume.affine[:3, :3], axis=0), strict=True)):
        if n >= 4 and sigma > 0.3 * s:
            values = gaussian_filter1d(values, sigma / s, axis, mode="nearest", truncate=3.0)
    low, high = float(values.min()), float(values.max())
    return Volume(np.ascontiguousarray((values - low) / max(high - low, 1e-30), dtype=np.float32), volume.affine)


def scatter(volume: Volume, level: Level, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one point in each cell of a lattice; return indices and positions along the axes, mm, both **[3, N]**.

    Points on a lattice of their own would fall onto voxels of the moving image now and then, and smoothing by
    interpolation come and go: the similarity would wave.
    """
    shape = np.array(volume.values.shape)
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    extent = shape * spacing
    pitch = max(level.spacing, (float(extent.prod()) / level.points) ** (1 / 3))
    cells = np.maximum(np.round(extent / pitch), np.minimum(shape, _FEWEST)).astype(int)
    place = (np.indices(cells).reshape(3, -1) + rng.random((3, cells.prod()))) * (extent / cells)[:, None]
    return place / spacing[:, None] - 0.5, place


def _chequerboard(place: np.ndarray, volume: Volume) -> np.ndarray:
    """Return which positions **[3, N]**, mm, are black; an axis has two blocks at least."""
    extent = np.array(volume.values.shape) * np.linalg.norm(volume.affine[:3, :3], axis=0)
    return np.asarray((place // np.minimum(_BLOCK, extent / 2)[:, None]).sum(0) % 2 == 0)


def _mass(volume: Volume) -> np.ndarray:
    """Return the centre of mass of what is brighter than the mean, RAS mm."""
    values = volume.values.astype(np.float64)
    values = np.maximum(values - values.mean(), 0.0)
    index = [values.sum(axes) @ np.arange(n) for axes, n in zip(((1, 2), (0, 2), (0, 1)), values.shape, strict=True)]
    return np.asarray((volume.affine @ [*(i / values.sum() for i in index), 1.0])[:3])
