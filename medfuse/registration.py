"""Rigid registration of two volumes by mutual information, which knows when it failed.

All positions are in RAS millimetres, as nibabel has them; the conversion to ITK's LPS happens here and nowhere else.
Not every pair can be registered by its intensities: where the field of view is small, mutual information has its
optimum far from the truth. So every result is checked by two further registrations, each on one colour of a
chequerboard of blocks. Two disjoint halves of the data that agree on a transform speak for it; if they disagree, it is
refused.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import SimpleITK as sitk

from medfuse.errors import GeometryError, ImageError, RegistrationError

Start: TypeAlias = Literal["identity", "geometry", "mass"]
Vector: TypeAlias = tuple[float, float, float]

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS and back
_BINS = 48
_BLOCK = 45.0  # mm, edge of a block of the chequerboard
_LARGE_MOVE, _SMALL_GAIN = 5.0, 0.05  # mm, and part of the mutual information
_FINEST = 2.0  # mm, no sampling grid is finer
_MAX_SHEAR = 1e-3


@dataclass(frozen=True)
class _Level:
    """One resolution: everything in mm, but for the number of samples and of iterations."""

    fixed_sigma: float
    moving_sigma: float
    spacing: float
    samples: int
    step: float
    min_step: float
    relaxation: float
    iterations: int


_LEVELS = (
    _Level(4.0, 4.0, 8.0, 20_000, 4.0, 0.1, 0.8, 200),
    _Level(2.0, 2.0, 4.0, 30_000, 1.0, 0.02, 0.8, 200),
    _Level(2.0, 1.0, 2.0, 60_000, 0.3, 0.005, 0.7, 100),
)


@dataclass(frozen=True, eq=False)
class RigidRegistration:
    """What a registration found, and whether to believe it.

    Attributes:
        matrix: **[4, 4]** float64; maps points of the MOVING world to the FIXED world, both RAS mm. A moving image is
            corrected by `matrix @ affine`. The identity if the registration was not accepted.
        rotation: Rotation vector of `matrix` about the R, A and S axes, degrees; its length is the angle.
        translation: Displacement of the centre of the fixed field of view by `matrix`, RAS mm.
        fixed_centre: That centre, RAS mm.
        max_displacement: Largest displacement by `matrix` over the moving field of view, mm.
        metric_before: Mutual information where the search started from, nats; higher is better.
        metric_after: The same under `matrix`.
        overlap: Part of the moving field of view that lies in the fixed one under `matrix`, 0..1.
        inconsistency: Largest distance between the transforms found by two disjoint halves of the data, over the common
            field of view, mm; also of a result that was not accepted.
        accepted: Whether the result was believed.
        reasons: Why it was not, in plain words; empty if it was.
    """

    matrix: np.ndarray
    rotation: Vector
    translation: Vector
    fixed_centre: Vector
    max_displacement: float
    metric_before: float
    metric_after: float
    overlap: float
    inconsistency: float
    accepted: bool
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values; the matrix as nested lists."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: _plain(v) for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RigidRegistration:
        """Rebuild a result from what `to_dict` returned; other keys are ignored."""
        known = {f.name: values[f.name] for f in fields(cls)}
        vectors = {k: tuple(known[k]) for k in ("rotation", "translation", "fixed_centre", "reasons")}
        return cls(**{**known, **vectors, "matrix": np.array(known["matrix"], dtype=np.float64)})

    def save_transform(self, path: str | Path) -> None:
        """Write `matrix` as an ITK Euler3DTransform, atomically.

        The file maps MOVING-world points to FIXED-world points, in ITK's LPS mm. ITK resamples by the opposite one:
        `sitk.Resample(moving, fixed, sitk.ReadTransform(path).GetInverse())`.

        Args:
            path: Name ending in `.tfm`; its folder is made if absent.

        Raises:
            RegistrationError: If the name ends otherwise, as SimpleITK tells formats by it.
            OSError: If the folder cannot be written to.
        """
        path = Path(path)
        if path.suffix != ".tfm":
            raise RegistrationError(f"The transform's name must end in .tfm, got {path.suffix!r}; rename it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{secrets.token_hex(6)}.tfm")
        try:
            sitk.WriteTransform(_euler(_LPS @ self.matrix @ _LPS, _LPS[:3, :3] @ self.fixed_centre), str(temporary))
            os.replace(temporary, path)  # noqa: PTH105
        finally:
            temporary.unlink(missing_ok=True)


def register_rigid(
    fixed: np.ndarray,
    fixed_affine: np.ndarray,
    moving: np.ndarray,
    moving_affine: np.ndarray,
    *,
    starts: Iterable[Start] = ("identity", "geometry", "mass"),
    max_rotation: float = 45.0,
    max_translation: float = 60.0,
    max_inconsistency: float = 4.0,
    min_overlap: float = 0.2,
    on_failure: Literal["identity", "raise"] = "identity",
    seed: int = 1,
) -> RigidRegistration:
    """Register two volumes rigidly by Mattes mutual information; equal calls give equal results.

    The coarsest level is tried from every start, and the best of them is refined. Smoothing and steps are in mm, hence
    anisotropic and oblique grids are no special case.

    Args:
        fixed: Reference, such as MRI, **[X, Y, Z]**, finite.
        fixed_affine: **[4, 4]**, voxel index to RAS mm.
        moving: Volume to align, such as PET, **[X, Y, Z]**, finite.
        moving_affine: **[4, 4]**, voxel index to RAS mm.
        starts: Where to start from: "identity", "geometry" (centres of the fields of view), "mass" (centres of mass).
        max_rotation: Largest angle to accept, degrees.
        max_translation: Largest shift from the start to accept, at the centre of the fixed field of view, mm.
        max_inconsistency: Largest disagreement of two halves of the data to accept, mm.
        min_overlap: Smallest part of the smaller field of view that must lie in the other, 0..1.
        on_failure: What to do with a result that is not accepted: return the "identity", or "raise".
        seed: Seed of the random samples.

    Returns:
        Transform and figures; see `accepted` and `reasons`.

    Raises:
        ImageError: If a volume is not 3-D, constant or not finite.
        GeometryError: If an affine is singular, not finite or sheared, or the fields of view do not overlap: from no
            start, or where they lie and registration was not accepted.
        RegistrationError: If the result is not accepted and `on_failure` is "raise", or an option makes no sense.

    Reference:
        D. Mattes et al., PET-CT image registration in the chest using free-form deformations, IEEE TMI 22 (2003).
    """
    if on_failure not in ("identity", "raise"):
        raise RegistrationError(f"on_failure must be 'identity' or 'raise', got {on_failure!r}; choose one of them.")
    pair = _Pair(_image(fixed, fixed_affine, "fixed"), _image(moving, moving_affine, "moving"), seed)
    grids = (np.shape(fixed), np.asarray(fixed_affine, float)), (np.shape(moving), np.asarray(moving_affine, float))

    searched = [(start, pair.optimise(start, _LEVELS[:1])) for start in pair.starts(starts)]
    if not searched:
        raise GeometryError("The fields of view must overlap, got no overlap from any start; add 'geometry' to starts.")
    matrix, inconsistency = np.eye(4), math.inf
    before = after = pair.metric(matrix)
    reasons = ["too little of the images overlaps from any start"]
    coarse = [(found, start) for start, found in searched if found is not None]
    if coarse:
        found, start = max(coarse, key=lambda item: pair.metric(item[0], _LEVELS[0]))
        refined = pair.optimise(found, _LEVELS[1:])
        matrix = found if refined is None else refined
        origin = np.eye(4) if math.isfinite(before) else start
        before, after = pair.metric(origin), pair.metric(matrix)
        inconsistency = _distance(*pair.halves(matrix), grids, matrix)
        reasons = [
            *_too_far(matrix @ np.linalg.inv(start), pair.centre, max_rotation, max_translation),
            *_too_apart(grids, matrix, min_overlap),
            *_too_little(before, after, _distance(matrix, origin, grids, matrix)),
        ]
        if not inconsistency <= max_inconsistency:
            reasons.append(
                f"two halves of the data disagree by {inconsistency:.1f} mm (limit {max_inconsistency:g} mm), "
                "as happens where the field of view is small"
            )
    if reasons:
        text = "; ".join(reasons)
        if on_failure == "raise":
            raise RegistrationError(f"The registration must be reliable, got one where {text}; align the images first.")
        if overlap_fraction(*grids[1], *grids[0]) == 0:
            raise GeometryError(
                f"The fields of view must overlap or be registered, got no overlap, and a registration where {text}; "
                "align the images first."
            )
        matrix, after = np.eye(4), before
    return _result(matrix, pair.centre, grids, before, after, inconsistency, tuple(reasons))


def overlap_fraction(
    shape: Iterable[int],
    affine: np.ndarray,
    other_shape: Iterable[int],
    other_affine: np.ndarray,
    matrix: np.ndarray | None = None,
    *,
    max_points: int = 32,
) -> float:
    """Return the part of a grid's field of view that lies in that of another, half a voxel of border included.

    Args:
        shape: **[X, Y, Z]** of the grid.
        affine: **[4, 4]** of the grid, voxel index to mm.
        other_shape: The same of the other grid.
        other_affine: The same of the other grid.
        matrix: **[4, 4]**, maps points of the grid's world to the other's; None for one world.
        max_points: Number of points per axis to look at; more voxels are thinned out evenly.

    Returns:
        0..1.
    """
    return float(_inside(tuple(shape), affine, tuple(other_shape), other_affine, matrix, max_points)[0].mean())


# --------------------------------------------------------------------------------------------------------- optimisation
class _Pair:
    """Two ITK images at all resolutions. Matrices here map moving to fixed points, RAS mm."""

    def __init__(self, fixed: sitk.Image, moving: sitk.Image, seed: int) -> None:
        self.seed = seed
        self.levels = {
            level: (_at(fixed, level.fixed_sigma, level.spacing), _at(moving, level.moving_sigma, 0.0))
            for level in _LEVELS
        }
        self._lps_centre = _centre(fixed)
        self._shifts: dict[str, np.ndarray] = {
            "identity": np.zeros(3),
            "geometry": self._lps_centre - _centre(moving),
            "mass": _mass(fixed) - _mass(moving),
        }
        self.centre = _LPS[:3, :3] @ self._lps_centre

    def starts(self, names: Iterable[Start]) -> list[np.ndarray]:
        """Return the starts from which the images overlap, without near repetitions."""
        result: list[np.ndarray] = []
        for name in names:
            if name not in self._shifts:
                raise RegistrationError(f"A start must be one of {', '.join(self._shifts)}, got {name!r}; choose one.")
            start = np.eye(4)
            start[:3, 3] = _LPS[:3, :3] @ self._shifts[name]
            if all(np.linalg.norm((start - other)[:3, 3]) > 2.0 for other in result) and math.isfinite(
                self.metric(start, _LEVELS[0])
            ):
                result.append(start)
        return result

    def metric(self, matrix: np.ndarray, level: _Level = _LEVELS[-1]) -> float:
        """Return the mutual information over all points of the level, nats; minus infinity without overlap."""
        method = self._method(matrix)
        try:
            return -float(method.MetricEvaluate(*self.levels[level]))
        except RuntimeError:  # "All samples map outside moving image buffer"
            return -math.inf

    def optimise(
        self, matrix: np.ndarray, levels: Iterable[_Level], masks: Mapping[_Level, sitk.Image] | None = None
    ) -> np.ndarray | None:
        """Climb from `matrix` through some levels; None if the images drift apart."""
        for level in levels:
            fixed, moving = self.levels[level]
            method = self._method(matrix)
            method.SetMetricSamplingStrategy(method.RANDOM)
            share = min(1.0, level.samples / fixed.GetNumberOfPixels())
            method.SetMetricSamplingPercentage(share, self.seed)
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

    def halves(self, matrix: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Repeat the finer levels on each colour of a chequerboard."""
        boards = {level: _chequerboard(self.levels[level][0]) for level in _LEVELS[1:]}
        black = self.optimise(matrix, _LEVELS[1:], boards)
        white = self.optimise(matrix, _LEVELS[1:], {level: board == 0 for level, board in boards.items()})
        return black, white

    def _method(self, matrix: np.ndarray) -> sitk.ImageRegistrationMethod:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(_BINS)
        method.SetInterpolator(sitk.sitkLinear)
        # ITK's transforms map fixed to moving points
        method.SetInitialTransform(_euler(_LPS @ np.linalg.inv(matrix) @ _LPS, self._lps_centre), inPlace=True)
        return method


def _chequerboard(image: sitk.Image) -> sitk.Image:
    """Return 0 and 1 in blocks of 45 mm."""
    size, spacing = image.GetSize()[::-1], image.GetSpacing()[::-1]
    blocks = [(np.arange(n) * s // _BLOCK).astype(np.uint8) for n, s in zip(size, spacing, strict=True)]
    board = sitk.GetImageFromArray((blocks[0][:, None, None] + blocks[1][:, None] + blocks[2]) % 2)
    board.CopyInformation(image)
    return board


# --------------------------------------------------------------------------------------------------------------- result
_Grids: TypeAlias = tuple[tuple[tuple[int, ...], np.ndarray], tuple[tuple[int, ...], np.ndarray]]


def _result(
    matrix: np.ndarray,
    centre: np.ndarray,
    grids: _Grids,
    before: float,
    after: float,
    inconsistency: float,
    reasons: tuple[str, ...],
) -> RigidRegistration:
    (fixed_shape, fixed_affine), (shape, affine) = grids
    corners = affine @ _lattice(shape, 2, border=0.5)
    finite = [v if math.isfinite(v) else 0.0 for v in (before, after)]
    matrix = matrix.copy()
    matrix.setflags(write=False)
    return RigidRegistration(
        matrix=matrix,
        rotation=_vector(_rotation_vector(matrix)),
        translation=_vector(_shift(matrix, centre)),
        fixed_centre=_vector(centre),
        max_displacement=float(np.linalg.norm((matrix @ corners - corners)[:3], axis=0).max()),
        metric_before=finite[0],
        metric_after=finite[1],
        overlap=overlap_fraction(shape, affine, fixed_shape, fixed_affine, matrix),
        inconsistency=min(inconsistency, 1e6),  # JSON knows no infinity
        accepted=not reasons,
        reasons=reasons,
    )


def _too_far(change: np.ndarray, centre: np.ndarray, max_rotation: float, max_translation: float) -> list[str]:
    """Object to a change of the start beyond the limits, degrees and mm."""
    angle, shift = np.linalg.norm(_rotation_vector(change)), np.linalg.norm(_shift(change, centre))
    reasons = []
    if angle > max_rotation:
        reasons.append(f"the rotation is {angle:.0f} deg (limit {max_rotation:g} deg)")
    if shift > max_translation:
        reasons.append(f"the translation is {shift:.0f} mm (limit {max_translation:g} mm)")
    return reasons


def _too_apart(grids: _Grids, matrix: np.ndarray, min_overlap: float) -> list[str]:
    """Object to images that hardly overlap; a small one within a large one overlaps fully."""
    fixed, moving = grids
    covered = max(overlap_fraction(*moving, *fixed, matrix), overlap_fraction(*fixed, *moving, np.linalg.inv(matrix)))
    return [f"the images overlap by {covered:.0%} only (limit {min_overlap:.0%})"] if covered < min_overlap else []


def _too_little(before: float, after: float, distance: float) -> list[str]:
    """Object to a mutual information that fell, or that hardly rose in a large move, mm."""
    if after < 0.99 * before:
        return [f"the mutual information fell from {before:.3f} to {after:.3f}"]
    if distance > _LARGE_MOVE and after < (1.0 + _SMALL_GAIN) * before:
        return [f"a move of {distance:.0f} mm raised the mutual information from {before:.3f} to {after:.3f} only"]
    return []


def _distance(first: np.ndarray | None, second: np.ndarray | None, grids: _Grids, matrix: np.ndarray) -> float:
    """Return the largest distance between two transforms over the field of view common under `matrix`, mm."""
    if first is None or second is None:
        return math.inf
    (fixed_shape, fixed_affine), (shape, affine) = grids
    inside, points = _inside(shape, affine, fixed_shape, fixed_affine, matrix, 16)
    return float(np.linalg.norm(((first - second) @ points[:, inside])[:3], axis=0).max()) if inside.any() else math.inf


def _inside(
    shape: tuple[int, ...],
    affine: np.ndarray,
    other_shape: tuple[int, ...],
    other_affine: np.ndarray,
    matrix: np.ndarray | None,
    max_points: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which points of a grid lie in another one **[N]**, and the points **[4, N]** in their world."""
    points = np.asarray(affine, float) @ _lattice(shape, max_points)
    index = np.linalg.solve(np.asarray(other_affine, float), points if matrix is None else matrix @ points)[:3]
    upper = np.asarray(other_shape, float)[:, None] - 0.5
    return np.asarray(((index >= -0.5 - 1e-6) & (index <= upper + 1e-6)).all(0)), points


def _lattice(shape: tuple[int, ...], max_points: int, border: float = 0.0) -> np.ndarray:
    """Return evenly spaced voxel indices **[4, N]** between the first and last voxel, homogeneous."""
    axes = [np.linspace(-border, n - 1 + border, min(max(n, 2 if border else 1), max_points)) for n in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    return np.concatenate([grid, np.ones((1, grid.shape[1]))])


def _rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Return axis times angle, degrees."""
    versor = sitk.VersorTransform()
    versor.SetMatrix(_orthonormal(matrix[:3, :3]).ravel().tolist())
    x, y, z, w = versor.GetVersor()
    axis, sine = np.array([x, y, z]), math.hypot(x, y, z)
    return np.zeros(3) if sine < 1e-12 else axis / sine * math.degrees(2 * math.atan2(sine, w))


def _shift(matrix: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return (matrix @ [*centre, 1.0])[:3] - centre


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


# ------------------------------------------------------------------------------------------------------------------ ITK
def _image(array: np.ndarray, affine: np.ndarray, what: str) -> sitk.Image:
    """Check a volume and make it an ITK image, thinned out to about 2 mm and without its extreme values."""
    array, affine = np.asarray(array), np.asarray(affine, dtype=np.float64)
    if array.ndim != 3:
        raise ImageError(f"The {what} volume must be 3-D, got shape {array.shape}; pass one volume [X, Y, Z].")
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
    image.SetDirection((_LPS[:3, :3] @ _orthonormal(direction)).ravel().tolist())
    image.SetOrigin((_LPS[:3, :3] @ affine[:3, 3]).tolist())
    factors = [max(1, min(int(_FINEST / s + 0.01), n // 8)) for s, n in zip(spacing, array.shape, strict=True)]
    return sitk.BinShrink(image, factors)


def _at(image: sitk.Image, sigma: float, spacing: float) -> sitk.Image:
    """Smooth an image, and thin it out to about a spacing, all in mm."""
    for axis, (n, s) in enumerate(zip(image.GetSize(), image.GetSpacing(), strict=True)):
        if n >= 4 and sigma > 0.3 * s:
            image = sitk.RecursiveGaussian(image, sigma=sigma, direction=axis)
    factors = [
        max(1, min(round(spacing / s), n // 4)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    return sitk.Shrink(image, factors)


def _centre(image: sitk.Image) -> np.ndarray:
    return np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))


def _mass(image: sitk.Image) -> np.ndarray:
    """Return the centre of mass of what is brighter than the mean, LPS mm."""
    values = sitk.GetArrayViewFromImage(image).astype(np.float64)
    values = np.maximum(values - values.mean(), 0.0)
    z, y, x = (values.sum(axes) @ np.arange(n) for axes, n in zip(((1, 2), (0, 2), (0, 1)), values.shape, strict=True))
    return np.array(image.TransformContinuousIndexToPhysicalPoint([float(i / values.sum()) for i in (x, y, z)]))


def _orthonormal(rotation: np.ndarray) -> np.ndarray:
    """Return the nearest orthonormal matrix."""
    u, _, v = np.linalg.svd(rotation)
    return u @ v


def _euler(matrix: np.ndarray, centre: np.ndarray) -> sitk.Euler3DTransform:
    """Return a rigid **[4, 4]** in LPS as ITK's transform about `centre`."""
    transform = sitk.Euler3DTransform()
    transform.SetCenter([float(c) for c in centre])
    transform.SetMatrix(_orthonormal(matrix[:3, :3]).ravel().tolist())
    transform.SetTranslation(_shift(matrix, np.asarray(centre)).tolist())
    return transform


def _matrix(transform: sitk.Transform) -> np.ndarray:
    """Return the **[4, 4]** of a linear ITK transform, by its action on four points."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(e))) - origin for e in np.eye(3)]
    return np.block([[np.stack(columns, 1), origin[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
