"""Remove the bias field of an MRI: the smooth multiplicative error that the coils leave in it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from torch import Tensor

from medfuse.errors import ImageError
from medfuse.transforms.typed import NUMPY, copy_of, with_meta_of

BIAS_FIELD = "bias_field"
_MAX_NEGATIVE = 0.05  # of the maximum: what interpolation leaves in an MRI
_LEAST = 16  # voxels that are left along an axis


class CorrectBiasField(Transform):
    """Divide an image by its bias field, estimated by N4 inside an Otsu mask.

    The field has a geometric mean of 1 inside the mask, so the image keeps its level. Outside, where nothing supports
    it, it is held within its range inside.

    Reference:
        Tustison et al., N4ITK: Improved N3 Bias Correction, IEEE TMI 29 (2010) 1310.
    """

    backend = NUMPY

    def __init__(self, *, shrink: int = 4, iterations: Sequence[int] = (50, 50, 50)) -> None:
        """Make the transform.

        Args:
            shrink: Voxels an axis that are averaged before the estimate, which is as good and faster; fewer where less
                than 16 would be left.
            iterations: Largest number of iterations on each level; each level doubles the grid of the spline. A fourth
                level takes tissue for field.

        Raises:
            ImageError: If an option is below 1, or there is no level.
        """
        if shrink < 1 or not iterations or min(iterations) < 1:
            raise ImageError(
                f"shrink and iterations must be at least 1, got {shrink!r} and {tuple(iterations)!r}; change them."
            )
        self.shrink, self.iterations = shrink, tuple(iterations)

    def __call__(self, image: Tensor) -> MetaTensor:
        """Correct a volume **[1, X, Y, Z]**.

        Returns:
            float32, in the unit of the image, with the meta entry `bias_field`: `method`, `shrink` (voxels), and
            `lowest` and `highest` value of the field inside the mask, relative to its geometric mean.

        Raises:
            ImageError: If the image is no such volume, not finite, constant or negative: a field multiplies what is
                at least 0.
        """
        result = copy_of(image) if isinstance(image, MetaTensor) else MetaTensor(torch.as_tensor(image))
        values = _checked(result)
        log_field, record = self._estimate(values)
        corrected = values / np.exp(log_field)
        out = with_meta_of(result, torch.from_numpy(corrected.astype(np.float32))[None])
        out.meta[BIAS_FIELD] = record
        return out

    def _estimate(self, values: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the logarithm of the field **[X, Y, Z]**, and its record."""
        whole = sitk.GetImageFromArray(values.transpose(2, 1, 0))
        small = sitk.BinShrink(whole, [min(self.shrink, max(1, n // _LEAST)) for n in values.shape])
        bright = sitk.And(sitk.OtsuThreshold(small, 0, 1, 200), sitk.Cast(small > 0, sitk.sitkUInt8))
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations(self.iterations)
        n4.Execute(small, bright)
        log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(whole)).transpose(2, 1, 0).astype(np.float64)
        mask = sitk.Resample(bright, whole, sitk.Transform(), sitk.sitkNearestNeighbor)
        inside = log_field[sitk.GetArrayFromImage(mask).transpose(2, 1, 0) > 0]
        middle, low, high = float(inside.mean()), float(inside.min()), float(inside.max())
        record = {
            "method": "N4",
            "shrink": self.shrink,
            "lowest": float(np.exp(low - middle)),
            "highest": float(np.exp(high - middle)),
        }
        return log_field.clip(low, high) - middle, record


def _checked(image: MetaTensor) -> np.ndarray:
    """Return the voxels **[X, Y, Z]** of an image that can have a bias field."""
    if image.ndim != 4 or image.shape[0] != 1:
        raise ImageError(f"The image must be a volume [1, X, Y, Z], got shape {tuple(image.shape)}; pass one channel.")
    values = np.asarray(image.detach().cpu()[0], dtype=np.float32)
    if not np.isfinite(values).all():
        raise ImageError("The image must be finite for a bias field correction, got NaN or infinity; repair it first.")
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise ImageError(f"The image must not be constant, got {low:g} everywhere; check the file.")
    if low < -_MAX_NEGATIVE * high:
        raise ImageError(
            f"The image must be at least 0 for a bias field correction, got {low:g}; do without it, or add an offset."
        )
    return values


class CorrectBiasFieldd(MapTransform):
    """Dictionary version of `CorrectBiasField`; records the field under `<key>_bias_field`."""

    backend = CorrectBiasField.backend

    def __init__(self, keys: KeysCollection, *, allow_missing_keys: bool = False, **options: Any) -> None:
        """Make the transform.

        Args:
            keys: Keys of the volumes **[1, X, Y, Z]**.
            allow_missing_keys: Pass keys that a case has not.
            options: Those of `CorrectBiasField`.

        Raises:
            ImageError: As `CorrectBiasField`.
        """
        super().__init__(keys, allow_missing_keys)
        self.transform = CorrectBiasField(**options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Correct each key.

        Raises:
            ImageError: One cannot be corrected; its key is named.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            try:
                result[key] = self.transform(result[key])
            except ImageError as error:
                raise ImageError(f"{key}: {error}") from error
            result[f"{key}_{BIAS_FIELD}"] = dict(result[key].meta[BIAS_FIELD])
        return result


CorrectBiasFieldD = CorrectBiasFieldDict = CorrectBiasFieldd
__all__ = ["BIAS_FIELD", "CorrectBiasField", "CorrectBiasFieldd"]
