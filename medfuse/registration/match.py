"""Two images at one resolution: how similar they are under a rigid map, and the climb to the nearest optimum.

ITK has both, but its gradient descent stops early on a narrow ridge, such as that of a head that looks nearly the same
from all sides, and its line searches take ten times as long. L-BFGS learns the shape of the ridge; it needs values and
derivatives that fit each other, and parameters of one scale, which ITK 5.4 does not give it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from medfuse.registration.similarity import MEASURES, Measure, mutual_information

_SPLINE = 3  # bins more than the moving values have, as a cubic spline is four bins wide
_LEAST = 0.05  # of the smaller field of view must lie in the other
_AWAY = 1e3  # cost of a map under which less does: more than of any other


class Volume(NamedTuple):
    """An image **[X, Y, Z]**, float32, 0..1, and its affine **[4, 4]**, to be read between its voxels."""

    values: np.ndarray
    affine: np.ndarray

    def inside(self, index: np.ndarray) -> np.ndarray:
        """Return which indices **[3, N]** lie in the field of view, half a voxel of border included."""
        upper = np.array(self.values.shape)[:, None] - 0.5
        return np.asarray(((index >= -0.5) & (index <= upper)).all(0))

    def at(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Interpolate linearly at indices **[3, N]**; return values **[N]**, and slopes per index **[3, N]**."""
        shape = np.array(self.values.shape)
        lower = np.clip(np.floor(index), 0, np.maximum(shape - 2, 0)[:, None]).astype(np.intp)
        x, y, z = np.clip(index - lower, 0, 1).astype(np.float32)
        flat, first = self.values.ravel(), np.ravel_multi_index(tuple(lower), self.values.shape)
        sx, sy, sz = (s if n > 1 else 0 for s, n in zip((shape[1] * shape[2], shape[2], 1), shape, strict=True))
        starts = [flat[first + k] for k in (0, sy, sx, sx + sy)]
        rises = [flat[first + k + sz] - start for k, start in zip((0, sy, sx, sx + sy), starts, strict=True)]
        a, b, c, d = (start + z * rise for start, rise in zip(starts, rises, strict=True))
        near, far = a + y * (b - a), c + y * (d - c)
        low, high = rises[0] + y * (rises[1] - rises[0]), rises[2] + y * (rises[3] - rises[2])
        slopes = np.stack([far - near, (b - a) + x * ((d - c) - (b - a)), low + x * (high - low)])
        return near + x * (far - near), slopes


class Match:
    """Points of a fixed image with their values, and a moving image, at one resolution.

    Matrices **[4, 4]** map points of the moving world to the fixed one, RAS mm.
    """

    def __init__(
        self, points: np.ndarray, values: np.ndarray, moving: Volume, *, bins: int, share: float = 1.0
    ) -> None:
        """Prepare the points **[3, N]**, RAS mm, and the values there **[N]**, 0..1.

        At most the `share` of the points, 0..1, fits into the moving image, as that is so much smaller.
        """
        self.points, self.values, self.moving, self.bins, self.share = points, values, moving, bins, share
        self._row = np.minimum((values * bins).astype(np.intp), bins - 1) * (bins + _SPLINE)
        number = max(points.shape[1], 1)
        self._centre = points.sum(1) / number
        self._radius = max(math.sqrt(((points - self._centre[:, None]) ** 2).sum() / number), 1.0)
        self._to_index = np.linalg.inv(moving.affine)

    def subset(self, chosen: np.ndarray) -> Match:
        """Return the same with some of the points, **[N]** bool."""
        return Match(self.points[:, chosen], self.values[chosen], self.moving, bins=self.bins, share=self.share)

    def score(self, matrix: np.ndarray, measure: Measure = "information") -> float:
        """Return the similarity of the images under a map; minus infinity where hardly anything overlaps."""
        return self.scores(matrix, (measure,))[measure]

    def scores(self, matrix: np.ndarray, measures: Iterable[Measure] = tuple(MEASURES)) -> dict[Measure, float]:
        """Return it by several measures."""
        found = self._evaluate(np.linalg.inv(matrix))
        return {name: -math.inf if found is None else MEASURES[name](found.joint)[0] for name in measures}

    def information(self, matrix: np.ndarray) -> float:
        """Return the mutual information, nats; minus infinity where hardly anything overlaps."""
        found = self._evaluate(np.linalg.inv(matrix))
        return -math.inf if found is None else mutual_information(found.joint)

    def climb(
        self, matrix: np.ndarray, measure: Measure = "information", *, step: float, gain: float, steps: int
    ) -> np.ndarray:
        """Return the optimum next to `matrix`.

        Args:
            matrix: Where to start from.
            measure: What to raise.
            step: Length of the first step, mm.
            gain: A step that raises the similarity by less, in parts of it, ends the climb.
            steps: Largest number of steps.
        """
        back = np.linalg.inv(matrix)
        unit = step * np.array([1.0, 1.0, 1.0, *[1.0 / self._radius] * 3])  # each moves the image by about a step

        def cost(u: np.ndarray) -> tuple[float, np.ndarray]:
            found = self._slope(back, u * unit, measure)
            return (_AWAY, np.zeros(6)) if found is None else (-found[0], -unit * found[1])

        options = {"maxiter": steps, "maxls": 8, "ftol": gain, "gtol": 1e-6}
        found = minimize(cost, np.zeros(6), jac=True, method="L-BFGS-B", options=options)
        return np.linalg.inv(back @ _move(found.x * unit, self._centre))

    def _slope(self, back: np.ndarray, move: np.ndarray, measure: Measure) -> tuple[float, np.ndarray] | None:
        """Return the similarity under `back @ _move(move)` and its derivative **[6]**; None without overlap."""
        matrix = _move(move, self._centre)
        found = self._evaluate(back @ matrix)
        if found is None:
            return None
        value, table = MEASURES[measure](found.joint)
        rise = _spline(found.fraction, slope=True)
        rise *= table.ravel()[found.cell + np.arange(4)[:, None]]
        pull = (self._to_index @ back)[:3, :3].T @ (rise.sum(0) * found.slopes * (self.bins / found.cell.size))
        arm = matrix[:3, :3] @ (self.points[:, found.inside] - self._centre[:, None])
        torque = [
            (arm[1] * pull[2] - arm[2] * pull[1]).sum(),
            (arm[2] * pull[0] - arm[0] * pull[2]).sum(),
            (arm[0] * pull[1] - arm[1] * pull[0]).sum(),
        ]
        return value, np.concatenate([pull.sum(1), _turn_slope(move[3:]).T @ torque])

    def _evaluate(self, back: np.ndarray) -> _Evaluation | None:
        """Return the joint histogram where `back` takes the points; None where hardly any stay in the image."""
        matrix = self._to_index @ back
        index = matrix[:3, :3] @ self.points + matrix[:3, 3:]
        inside = self.moving.inside(index)
        if inside.sum() <= _LEAST * self.share * inside.size:
            return None
        values, slopes = self.moving.at(index[:, inside])
        position = np.clip(values, 0, 1).astype(np.float64) * self.bins * (1 - 1e-9)
        column = position.astype(np.intp)
        cell, fraction = self._row[inside] + column, position - column
        width = self.bins + _SPLINE
        weights = _spline(fraction)
        joint = sum(np.bincount(cell + k, w, self.bins * width) for k, w in enumerate(weights))
        return _Evaluation(np.reshape(joint / cell.size, (self.bins, width)), inside, cell, fraction, slopes)


class _Evaluation(NamedTuple):
    """The joint histogram **[F, M]**; which points count; their first cell in it, place in that, and slopes."""

    joint: np.ndarray
    inside: np.ndarray
    cell: np.ndarray
    fraction: np.ndarray
    slopes: np.ndarray


def _spline(t: np.ndarray, *, slope: bool = False) -> np.ndarray:
    """Return the weights of the four bins around a place **[N]**, 0..1, of the cubic B-spline, or their slopes."""
    if slope:
        return np.stack([-((1 - t) ** 2), (3 * t - 4) * t, 1 + (2 - 3 * t) * t, t * t]) / 2
    s = t * t * t
    return np.stack([(1 - t) ** 3, 3 * s - 6 * t * t + 4, 1 + 3 * (t + t * t - s), s]) / 6


def _move(move: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the **[4, 4]** that turns by a rotation vector (the last three), rad, about a point, and shifts, mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(move[3:]).as_matrix()
    matrix[:3, 3] = centre + move[:3] - matrix[:3, :3] @ centre
    return matrix


def _turn_slope(turn: np.ndarray) -> np.ndarray:
    """Return by which rotation **[3, 3]** a small change of a rotation vector turns further: its left Jacobian."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-6:
        return np.eye(3)
    x, y, z = axis = turn / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = math.sin(angle) / angle
    return a * np.eye(3) + (1 - a) * np.outer(axis, axis) + (1 - math.cos(angle)) / angle * cross
