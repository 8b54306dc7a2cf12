"""The search for a rigid map with ITK: two images at several resolutions, and climbs of their mutual information.

Matrices map points of the moving world to the fixed one, RAS mm. ITK's transforms go the opposite way, in LPS; the
conversion happens here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import SimpleITK as sitk

from medfuse.errors import GeometryError, ImageError, RegistrationError
from medfuse.registration.geometry import Grid, orthonormal, shift

Start: TypeAlias = Literal["identity", "geometry", "mass"]

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS and back
_BINS = 48
_BLOCK = 45.0  # mm, edge of a block of the chequerboard
_FINEST = 2.0  # mm, no sampling grid is finer
_MAX_SHEAR = 1e-3


@dataclass(frozen=True)
class Level:
    """One resolution: everything in mm, but for the number of samples and of iterations."""

    fixed_sigma: float
    moving_sigma: float
    spacing: float
    samples: int
    step: float
    min_step: float
    relaxation: float
    iterations: int


COARSE = Level(4.0, 4.0, 8.0, 20_000, 4.0, 0.1, 0.8, 200)
MEDIUM = Level(2.0, 2.0, 4.0, 30_000, 1.0, 0.02, 0.8, 200)
FINE = Level(2.0, 1.0, 2.0, 60_000, 0.3, 0.005, 0.7, 100)


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
        still, mobile = _image(fixed, fixed_grid, "fixed"), _image(moving, moving_grid, "moving")
        self.seed = seed
        self.centre = fixed_grid.centre
        self._levels = {
            level: (_at(still, level.fixed_sigma, level.spacing), _at(mobile, level.moving_sigma, 0.0))
            for level in (COARSE, MEDIUM, FINE)
        }
        self._shifts: dict[str, np.ndarray] = {
            "identity": np.zeros(3),
            "geometry": fixed_grid.centre - moving_grid.centre,
            "mass": _mass(still) - _mass(mobile),
        }

    def starts(self, names: Iterable[Start]) -> list[np.ndarray]:
        """Return the starts from which the images overlap, without near repetitions."""
        result: list[np.ndarray] = []
        for name in names:
            if name not in self._shifts:
                raise RegistrationError(f"A start must be one of {', '.join(self._shifts)}, got {name!r}; choose one.")
            start = np.eye(4)
            start[:3, 3] = self._shifts[name]
            new = all(np.linalg.norm((start - other)[:3, 3]) > 2.0 for other in result)
            if new and math.isfinite(self.metric(start, COARSE)):
                result.append(start)
        return result

    def best(self, starts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
        """Climb from every start, refine the best, and return it with its start; None if all drift apart."""
        climbed = [(found, start) for start in starts if (found := self._climb(start, (COARSE,))) is not None]
        if not climbed:
            return None
        found, start = max(climbed, key=lambda item: self.metric(item[0], COARSE))
        refined = self._climb(found, (MEDIUM, FINE))
        return found if refined is None else refined, start

    def halves(self, matrix: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Refine from `matrix` on each colour of a chequerboard."""
        boards = {level: _chequerboard(self._levels[level][0]) for level in (MEDIUM, FINE)}
        black = self._climb(matrix, (MEDIUM, FINE), boards)
        white = self._climb(matrix, (MEDIUM, FINE), {level: board == 0 for level, board in boards.items()})
        return black, white

    def metric(self, matrix: np.ndarray, level: Level = FINE) -> float:
        """Return the mutual information over all points of the level, nats; minus infinity without overlap."""
        try:
            return -float(self._method(matrix).MetricEvaluate(*self._levels[level]))
        except RuntimeError:  # "All samples map outside moving image buffer"
            return -math.inf

    def _climb(
        self, matrix: np.ndarray, levels: Iterable[Level], masks: Mapping[Level, sitk.Image] | None = None
    ) -> np.ndarray | None:
        """Climb from `matrix` through some levels; None if the images drift apart."""
        for level in levels:
            fixed, moving = self._levels[level]
            method = self._method(matrix)
            method.SetMetricSamplingStrategy(method.RANDOM)
            method.SetMetricSamplingPercentage(min(1.0, level.samples / fixed.GetNumberOfPixels()), self.seed)
            method.SetOptimizerAsRegularStepGradientDescent(
                level.step,
                level.min_step,
                level.iterations,
                relaxationFactor=level.relaxation,
                gradientMagnitudeTolerance=1e-8,
            )
            method.SetOptimizerScalesFromPhysicalShift()
            if masks is not None:
                method.SetMetricFixedMask(masks[level])
            try:
                transform = method.Execute(fixed, moving)
            except RuntimeError:  # as above
                return None
            matrix = _LPS @ np.linalg.inv(_matrix(transform)) @ _LPS
        return matrix

    def _method(self, matrix: np.ndarray) -> sitk.ImageRegistrationMethod:
        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfWorkUnits(1)  # several sum up in any order, and small fields of view amplify the difference
        method.SetMetricAsMattesMutualInformation(_BINS)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetInitialTransform(itk_transform(np.linalg.inv(matrix), self.centre), inPlace=True)
        return method


def itk_transform(matrix: np.ndarray, centre: np.ndarray) -> sitk.Euler3DTransform:
    """Return a rigid **[4, 4]** in RAS mm as ITK's transform about a point **[3]**, both in LPS mm."""
    transform = sitk.Euler3DTransform()
    transform.SetCenter((_LPS[:3, :3] @ centre).tolist())
    transform.SetMatrix(orthonormal((_LPS @ matrix @ _LPS)[:3, :3]).ravel().tolist())
    transform.SetTranslation((_LPS[:3, :3] @ shift(matrix, centre)).tolist())
    return transform


def _matrix(transform: sitk.Transform) -> np.ndarray:
    """Return the **[4, 4]** of a linear ITK transform, by its action on four points."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(e))) - origin for e in np.eye(3)]
    return np.block([[np.stack(columns, 1), origin[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])


def _image(array: np.ndarray, grid: Grid, what: str) -> sitk.Image:
    """Check a volume and make it an ITK image, thinned out to about 2 mm and without its extreme values."""
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
        values = np.clip(values, low, high)
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((_LPS[:3, :3] @ orthonormal(direction)).ravel().tolist())
    image.SetOrigin((_LPS[:3, :3] @ affine[:3, 3]).tolist())
    return sitk.BinShrink(
        image, [max(1, min(int(_FINEST / s + 0.01), n // 8)) for s, n in zip(spacing, array.shape, strict=True)]
    )


def _at(image: sitk.Image, sigma: float, spacing: float) -> sitk.Image:
    """Smooth an image, and thin it out to about a spacing, all in mm."""
    axes = list(zip(image.GetSize(), image.GetSpacing(), strict=True))
    for axis, (n, s) in enumerate(axes):
        if n >= 4 and sigma > 0.3 * s:
            image = sitk.RecursiveGaussian(image, sigma=sigma, direction=axis)
    return sitk.Shrink(image, [max(1, min(round(spacing / s), n // 4)) for n, s in axes])


def _mass(image: sitk.Image) -> np.ndarray:
    """Return the centre of mass of what is brighter than the mean, RAS mm."""
    values = sitk.GetArrayViewFromImage(image).astype(np.float64)
    values = np.maximum(values - values.mean(), 0.0)
    z, y, x = (values.sum(axes) @ np.arange(n) for axes, n in zip(((1, 2), (0, 2), (0, 1)), values.shape, strict=True))
    point = image.TransformContinuousIndexToPhysicalPoint([float(i / values.sum()) for i in (x, y, z)])
    return np.asarray(_LPS[:3, :3] @ point)


def _chequerboard(image: sitk.Image) -> sitk.Image:
    """Return 0 and 1 in blocks of 45 mm."""
    size, spacing = image.GetSize()[::-1], image.GetSpacing()[::-1]
    blocks = [(np.arange(n) * s // _BLOCK).astype(np.uint8) for n, s in zip(size, spacing, strict=True)]
    board = sitk.GetImageFromArray((blocks[0][:, None, None] + blocks[1][:, None] + blocks[2]) % 2)
    board.CopyInformation(image)
    return board
