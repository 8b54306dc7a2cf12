"""Refuse volumes that nothing sensible can be done with, before any work."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medfuse.errors import GeometryError, ImageError
from medfuse.registration import Grid, mutual_overlap
from medfuse.transforms.typed import TORCH, affine_of

_NEEDLE = 1e-6  # determinant of unit axes below which a grid is flat


class CheckVolumesd(MapTransform):
    """Check volumes **[1, X, Y, Z]** and their geometry, and change nothing."""

    backend = TORCH

    def __init__(
        self,
        keys: KeysCollection,
        *,
        overlap: bool = True,
        spacing: tuple[float, float] = (0.05, 50.0),
        allow_missing_keys: bool = False,
    ) -> None:
        """Make the check.

        Args:
            keys: Keys of the volumes.
            overlap: Whether all fields of view must overlap in their world. False where registration follows, which can
                start from the centres of the fields of view.
            spacing: Smallest and largest voxel size to accept, mm.
            allow_missing_keys: Pass keys that a case has not.
        """
        super().__init__(keys, allow_missing_keys)
        self.overlap, self.spacing = overlap, spacing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check each key.

        Raises:
            ImageError: If a volume is no volume of one channel, or is constant or not finite.
            GeometryError: If an affine is not finite or singular, a voxel size makes no sense, or two fields of view do
                not overlap.
        """
        result = dict(data)
        keys = list(self.key_iterator(result))
        for key in keys:
            _check_values(key, result[key])
            self._check_geometry(key, result[key])
        if self.overlap:
            for first, second in combinations(keys, 2):
                _check_overlap(first, result[first], second, result[second])
        return result

    def _check_geometry(self, key: Hashable, image: MetaTensor) -> None:
        affine = affine_of(image)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError(f"The affine of {key} must be finite, got NaN or infinity; repair the header.")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if (spacing == 0).any() or abs(np.linalg.det(affine[:3, :3] / spacing)) < _NEEDLE:
            raise GeometryError(f"The affine of {key} must be invertible, got a singular one; repair the header.")
        low, high = self.spacing
        if (spacing < low).any() or (spacing > high).any():
            sizes = " x ".join(f"{s:g}" for s in spacing)
            raise GeometryError(
                f"The voxels of {key} must be between {low:g} and {high:g} mm, got {sizes} mm; repair the header."
            )


def _check_values(key: Hashable, image: Any) -> None:
    if not isinstance(image, MetaTensor):
        raise ImageError(f"{key} must be a MetaTensor, got {type(image).__name__}; load it with LoadImage.")
    shape = tuple(image.shape)
    if len(shape) == 5 or (len(shape) == 4 and shape[0] > 1):
        raise ImageError(
            f"{key} must be one 3-D volume [1, X, Y, Z], got shape {shape}: a 4-D series or several channels; "
            "extract one frame, or average over time, first."
        )
    if len(shape) != 4 or min(shape[1:]) < 2:
        raise ImageError(
            f"{key} must be a 3-D volume [1, X, Y, Z] of at least 2 voxels an axis, got shape {shape}; "
            "pass the whole volume, with its channel first."
        )
    values = image.as_tensor()
    finite = values.isfinite()
    if not bool(finite.all()):
        bad = f"{1 - float(finite.float().mean()):.2%} NaN or infinity" if bool(finite.any()) else "no finite voxel"
        raise ImageError(f"{key} must be finite, got {bad}; repair the image.")
    if bool(values.min() == values.max()):
        raise ImageError(f"{key} must not be constant, got {float(values.min()):g} everywhere; check the file.")


def _check_overlap(first: Hashable, one: MetaTensor, second: Hashable, other: MetaTensor) -> None:
    grid, other_grid = (Grid(tuple(image.shape[1:]), affine_of(image)) for image in (one, other))
    if mutual_overlap(grid, other_grid) == 0:
        gap = np.linalg.norm(grid.centre - other_grid.centre)
        raise GeometryError(
            f"The fields of view of {first} and {second} must overlap, got none, and centres {gap:.0f} mm apart; "
            "check that both are of one person and session, or register them."
        )


CheckVolumesD = CheckVolumesDict = CheckVolumesd
__all__ = ["CheckVolumesd"]
