"""Register two volumes rigidly, and judge the result.

Not every pair can be registered by its intensities: where the field of view is small, mutual information has its
optimum far from the truth. So every result is checked by two further registrations, each on one colour of a
chequerboard of blocks and from starts of its own. Two disjoint halves of the data that agree on a transform speak for
it; if they disagree by much, it is refused. If by less, or where another place fits nearly as well, the correlation
ratio is asked too: the result is refused if that leads elsewhere, and believed with a warning if not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from medfuse.errors import GeometryError, RegistrationError
from medfuse.registration.files import affine_transform, euler_transform, write_transform
from medfuse.registration.geometry import (
    Grid,
    max_distance,
    mutual_overlap,
    overlap_fraction,
    rotation_vector,
    shift,
)
from medfuse.registration.search import TURNS, Search, Start

Vector: TypeAlias = tuple[float, float, float]

_UNSURE = 2.0  # mm, above which a disagreement is a warning
_RIVAL = 0.95  # share of the best score above 1, from which on another place is a warning


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
        metric_before: Mutual information as the images lay, or where the search started from if they did not overlap,
            nats; higher is better.
        metric_after: The same under `matrix`.
        score: Normalised mutual information of the best optimum, 1..2, by which it was chosen; also of a result that
            was not accepted.
        runner_up: That of the best optimum elsewhere, whether all data or a half of them led there; 1, the score of
            images that share nothing, where all starts led to one place.
        starts: Number of starts that were tried.
        overlap: Part of the moving field of view that lies in the fixed one under `matrix`, 0..1.
        inconsistency: Largest distance between the transforms found by all data and by two disjoint halves of
            them, each from starts of its own, over the common field of view, mm; also of a refused result.
        accepted: Whether the result was believed.
        reasons: Why it was not, in plain words; empty if it was.
        warnings: What speaks against a result that was believed all the same, in plain words; empty if nothing does.
    """

    matrix: np.ndarray
    rotation: Vector
    translation: Vector
    fixed_centre: Vector
    max_displacement: float
    metric_before: float
    metric_after: float
    score: float
    runner_up: float
    starts: int
    overlap: float
    inconsistency: float
    accepted: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values; the matrix as nested lists."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: _plain(v) for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RigidRegistration:
        """Rebuild a result from what `to_dict` returned; other keys are ignored."""
        known = {f.name: values[f.name] for f in fields(cls)}
        vectors = {k: tuple(known[k]) for k in ("rotation", "translation", "fixed_centre", "reasons", "warnings")}
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
        write_transform(euler_transform(self.matrix, np.array(self.fixed_centre)), path, ".tfm")

    def save_affine(self, path: str | Path) -> None:
        """Write the inverse of `matrix` as an ITK AffineTransform, atomically: what ANTs and nitransforms resample by.

        The file maps FIXED-world points to MOVING-world points, in ITK's LPS mm, as ITK's resampling asks for:
        `sitk.Resample(moving, fixed, sitk.ReadTransform(path))`. nitransforms reads it with the format "itk".

        Args:
            path: Name ending in `.txt`; its folder is made if absent.

        Raises:
            RegistrationError: If the name ends otherwise, as SimpleITK tells formats by it.
            OSError: If the folder cannot be written to.
        """
        write_transform(affine_transform(np.linalg.inv(self.matrix)), path, ".txt")


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
    """Register two volumes rigidly by normalised mutual information; equal calls give equal results.

    Each start is turned by up to 43 degrees in 27 ways. The most alike of all these are climbed from at a coarse level,
    the best optima are refined, and the one with the highest score is the result. Smoothing and steps are in mm, hence
    anisotropic and oblique grids are no special case.

    Args:
        fixed: Reference, such as MRI, **[X, Y, Z]**, finite.
        fixed_affine: **[4, 4]**, voxel index to RAS mm.
        moving: Volume to align, such as PET, **[X, Y, Z]**, finite.
        moving_affine: **[4, 4]**, voxel index to RAS mm.
        starts: Where to start from: "identity", "geometry" (centres of the fields of view), "mass" (centres of mass).
        max_rotation: Largest angle to accept, degrees.
        max_translation: Largest shift from the start to accept, at the centre of the fixed field of view, mm.
        max_inconsistency: Largest disagreement of two halves of the data to accept, mm; and of the correlation ratio
            with a doubtful result.
        min_overlap: Smallest part of the smaller field of view that must lie in the other, 0..1.
        on_failure: What to do with a result that is not accepted: return the "identity", or "raise".
        seed: Seed of the random samples, 1 or more.

    Returns:
        Transform and figures; see `accepted` and `reasons`.

    Raises:
        ImageError: If a volume is not 3-D, constant or not finite.
        GeometryError: If an affine is singular, not finite or sheared, or the fields of view do not overlap: from no
            start, or where they lie and registration was not accepted.
        RegistrationError: If the result is not accepted and `on_failure` is "raise", or an option makes no sense.

    Reference:
        C. Studholme et al., An overlap invariant entropy measure of 3D medical image alignment, Pattern Recognition 32
        (1999); the histogram as in D. Mattes et al., PET-CT image registration in the chest using free-form
        deformations, IEEE TMI 22 (2003).
    """
    if on_failure not in ("identity", "raise"):
        raise RegistrationError(f"on_failure must be 'identity' or 'raise', got {on_failure!r}; choose one of them.")
    if seed < 1:
        raise RegistrationError(f"The seed must be 1 or more, got {seed}; ITK takes the time of day for 0.")
    fixed_grid, grid = (
        Grid(np.shape(volume), np.asarray(affine, dtype=np.float64))
        for volume, affine in ((fixed, fixed_affine), (moving, moving_affine))
    )
    search = Search(np.asarray(fixed), fixed_grid, np.asarray(moving), grid, seed=seed)
    starts = tuple(starts)
    shifts = search.shifts(starts)
    if not shifts:
        way = "align the images first" if "geometry" in starts else "add 'geometry' to starts"
        raise GeometryError(f"The fields of view must overlap, got no overlap from any start; {way}.")
    (best, *others), (black, *_), (white, *_) = (search.optima(shifts, half) for half in (None, 0, 1))
    matrix = best.matrix
    start = min(shifts, key=lambda s: float(np.linalg.norm(shift(matrix @ np.linalg.inv(s), search.centre))))
    lay = search.metric(np.eye(4))
    before = lay if math.isfinite(lay) else search.metric(start)
    after = search.metric(matrix)
    inconsistency = max(
        max_distance(one.matrix, other.matrix, grid, fixed_grid, matrix)
        for one, other in itertools.combinations((best, black, white), 2)
    )
    reasons = [
        *_too_far(matrix @ np.linalg.inv(start), search.centre, max_rotation, max_translation),
        *_too_apart(mutual_overlap(grid, fixed_grid, matrix), min_overlap),
        *_too_little(before, after),
        *_too_uncertain(inconsistency, max_inconsistency),
    ]
    runner_up = search.runner_up(best, (*others, black, white))
    doubts = _doubts(inconsistency, best.score, runner_up)
    if doubts and not reasons:
        distance = max_distance(search.by_ratio(matrix), matrix, grid, fixed_grid, matrix)
        reasons = _too_different(distance, max_inconsistency, doubts)
    if reasons:
        text = "; ".join(reasons)
        if on_failure == "raise":
            raise RegistrationError(f"The registration must be reliable, got one where {text}; align the images first.")
        if mutual_overlap(grid, fixed_grid) == 0:
            raise GeometryError(
                f"The fields of view must overlap or be registered, got no overlap, and a registration where {text}; "
                "align the images first."
            )
        matrix, after = np.eye(4), lay
    return RigidRegistration(
        **_motion(matrix, grid, fixed_grid),
        metric_before=_finite(before),
        metric_after=_finite(after),
        score=_finite(best.score),
        runner_up=runner_up,
        starts=len(shifts) * len(TURNS),
        inconsistency=min(inconsistency, 1e6),
        accepted=not reasons,
        reasons=tuple(reasons),
        warnings=() if reasons else tuple(doubts),
    )


def _motion(matrix: np.ndarray, grid: Grid, fixed_grid: Grid) -> dict[str, Any]:
    """Return what a map does to a grid, as the fields of a result."""
    matrix = matrix.copy()
    matrix.setflags(write=False)
    return {
        "matrix": matrix,
        "rotation": _vector(rotation_vector(matrix)),
        "translation": _vector(shift(matrix, fixed_grid.centre)),
        "fixed_centre": _vector(fixed_grid.centre),
        "max_displacement": float(np.linalg.norm((matrix @ grid.corners - grid.corners)[:3], axis=0).max()),
        "overlap": overlap_fraction(grid, fixed_grid, matrix),
    }


def _too_far(change: np.ndarray, centre: np.ndarray, max_rotation: float, max_translation: float) -> list[str]:
    """Object to a change of the start beyond the limits, degrees and mm."""
    angle, distance = np.linalg.norm(rotation_vector(change)), np.linalg.norm(shift(change, centre))
    reasons = []
    if angle > max_rotation:
        reasons.append(f"the rotation is {angle:.0f} deg (limit {max_rotation:g} deg)")
    if distance > max_translation:
        reasons.append(f"the translation is {distance:.0f} mm (limit {max_translation:g} mm)")
    return reasons


def _too_apart(overlap: float, min_overlap: float) -> list[str]:
    """Object to images that hardly overlap; a small one within a large one overlaps fully."""
    return [f"the images overlap by {overlap:.0%} only (limit {min_overlap:.0%})"] if overlap < min_overlap else []


def _too_little(before: float, after: float) -> list[str]:
    """Object to a mutual information that fell."""
    return [f"the mutual information fell from {before:.3f} to {after:.3f}"] if after < 0.99 * before else []


def _too_uncertain(inconsistency: float, max_inconsistency: float) -> list[str]:
    """Object to halves of the data that disagree, mm."""
    if inconsistency <= max_inconsistency:
        return []
    return [
        f"two halves of the data disagree by {inconsistency:.1f} mm (limit {max_inconsistency:g} mm), "
        "as happens where the field of view is small"
    ]


def _too_different(distance: float, limit: float, doubts: list[str]) -> list[str]:
    """Object to a doubtful result that the correlation ratio does not share, mm."""
    if distance <= limit:
        return []
    text = f"a second measure, the correlation ratio, places the image {distance:.1f} mm away (limit {limit:g} mm)"
    return [*doubts, text]


def _doubts(inconsistency: float, score: float, runner_up: float) -> list[str]:
    """Return what speaks against a result that is within all limits: a disagreement, mm; another optimum's score."""
    doubts = []
    if inconsistency > _UNSURE:
        doubts.append(f"two halves of the data disagree by {inconsistency:.1f} mm")
    if runner_up - 1.0 > _RIVAL * (score - 1.0):
        doubts.append(f"another place fits nearly as well (score {runner_up:.4f} against {score:.4f})")
    return doubts


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0  # JSON knows no infinity


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
