"""Bring PET and MRI to one world, and to one grid with a single interpolation."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from inspect import signature
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import MetaKeys, TraceKeys
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medfuse.errors import GeometryError, RegistrationError
from medfuse.registration import Grid, RigidRegistration, mutual_overlap, overlap_fraction, register_rigid
from medfuse.registration.ahead import Pair, registered
from medfuse.registration.files import read_rigid
from medfuse.transforms.typed import NUMPY, affine_of, copy_of, traced, with_meta_of

FIELD_OF_VIEW = "field_of_view"
"""Entry of the meta data of what was resampled: affine and shape of its own grid, as JSON."""
FRAME_OF_REFERENCE = "frame_of_reference"
_PLANES = 32  # of the reference that are sampled at once
_FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


class RegisterRigid(InvertibleTransform):
    """Correct the affine of a volume such that it lies on another one; no voxel is interpolated."""

    backend = NUMPY

    def __init__(self, **options: Any) -> None:
        """Make the transform; `options` are those of `medfuse.registration.register_rigid`.

        Raises:
            TypeError: If an option is unknown.
        """
        signature(register_rigid).bind(None, None, None, None, **options)
        self.options = options

    def __call__(  # type: ignore[override]  # of two images, as MONAI's `ResampleToMatch`
        self, moving: MetaTensor, fixed: MetaTensor
    ) -> tuple[MetaTensor, RigidRegistration]:
        """Register `moving` to `fixed`, both **[1, X, Y, Z]**.

        Returns:
            `moving` with the affine `matrix @ affine`, and the registration.

        Raises:
            MedfuseError: As `medfuse.registration.register_rigid`.
        """
        fixed_array, fixed_grid = _volume(fixed, "fixed image")
        array, grid = _volume(moving, "moving image")
        result = registered(Pair(fixed_array, fixed_grid.affine, array, grid.affine), **self.options)
        return self.move(moving, result.matrix), result

    def move(self, image: MetaTensor, matrix: np.ndarray) -> MetaTensor:
        """Move an image by a **[4, 4]** in its world, RAS mm; `inverse` takes it back."""
        moved = traced(self, copy_of(image), extra_info={"affine": image.affine.tolist()})
        moved.affine = torch.as_tensor(matrix @ affine_of(image))
        return moved

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Give an image its own affine back."""
        restored = copy_of(data)
        info = self.pop_transform(restored)
        restored.affine = torch.tensor(info[TraceKeys.EXTRA_INFO]["affine"], dtype=torch.float64)
        return restored


class RegisterRigidd(MapTransform, InvertibleTransform):
    """Dictionary version of `RegisterRigid`.

    Stores what `RigidRegistration.to_dict` returns under `<moving>_registration`, with `performed` (True), and the
    moving image as it lay under `<moving>_before`. Where registration is skipped: `performed` (False), `accepted`
    (True), `matrix` (identity, or that of the file `<moving>_transform` of the case) and `reasons` (why).

    Whether the images are aligned is decided by the first of these that says so: the argument `aligned`; the case's
    key `aligned`; equal entries `frame_of_reference` in the meta data of both images.
    """

    backend = RegisterRigid.backend

    def __init__(
        self,
        fixed: Hashable = "mri",
        moving: Hashable = "pet",
        *,
        aligned: bool | None = None,
        aligned_key: Hashable = "aligned",
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        """Make the transform.

        Args:
            fixed: Key of the reference **[1, X, Y, Z]**.
            moving: Key of the volume to align **[1, X, Y, Z]**.
            aligned: True skips registration, False forces it, None leaves it to the case.
            aligned_key: Key of the case that says whether its images are aligned.
            allow_missing_keys: Pass a case without both images.
            options: Those of `medfuse.registration.register_rigid`.
        """
        MapTransform.__init__(self, moving, allow_missing_keys)
        self.fixed, self.aligned, self.aligned_key = fixed, aligned, aligned_key
        self.transform = RegisterRigid(**options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Correct the affine of the moving image."""
        result = dict(data)
        for key in self.key_iterator(result):
            if self.fixed not in result and self.allow_missing_keys:
                continue
            why = self._aligned(result, result[key], result[self.fixed])
            given = result.get(f"{key}_transform")
            if given is not None and not why:
                matrix = read_rigid(str(given))
                result[f"{key}_before"] = result[key]
                result[key] = self.transform.move(result[key], matrix)
                told = {"reasons": ["skipped: a transform was given"], "matrix": matrix.tolist()}
                record = {"performed": False, "accepted": True, **told}
            elif why:
                identity = np.eye(4)
                result[key] = self.transform.move(result[key], identity)
                record = {"performed": False, "accepted": True, "reasons": [why], "matrix": identity.tolist()}
            else:
                result[f"{key}_before"] = result[key]
                result[key], registration = self.transform(result[key], result[self.fixed])
                record = {"performed": True, **registration.to_dict()}
            result[f"{key}_registration"] = record
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Give the moving image its own affine back."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform.inverse(result[key])
        return result

    def _aligned(self, data: Mapping[Hashable, Any], moving: MetaTensor, fixed: MetaTensor) -> str:
        """Return why the images count as aligned; empty if they do not."""
        if self.aligned is not None:
            return "skipped: the configuration says aligned" if self.aligned else ""
        said = data.get(self.aligned_key)
        if said is not None:
            return "skipped: the case says aligned" if bool(said) else ""
        frames = [image.meta.get(FRAME_OF_REFERENCE) for image in (moving, fixed)]
        return "skipped: the images share a frame of reference" if frames[0] and frames[0] == frames[1] else ""


class ResampleToReference(InvertibleTransform):
    """Resample a volume once onto the grid of another, in the world that both share.

    A field of view ends half a voxel beyond its outermost voxel centres; up to there, the outermost voxels count.
    """

    backend = NUMPY

    def __init__(
        self,
        *,
        mode: Literal["linear", "nearest"] = "linear",
        padding: Literal["zeros", "border"] = "zeros",
        antialias: bool = True,
    ) -> None:
        """Make the transform.

        Args:
            mode: Interpolation: "linear", or "nearest" for labels.
            padding: What lies beyond the field of view: "zeros", or the nearest voxel ("border").
            antialias: Smooth first along axes on which the reference is coarser, such that a voxel of the FWHM of the
                one becomes a voxel of the other; only for "linear".

        Raises:
            GeometryError: If an option is unknown.
        """
        for what, value, known in (("mode", mode, ("linear", "nearest")), ("padding", padding, ("zeros", "border"))):
            if value not in known:
                raise GeometryError(f"The {what} must be one of {', '.join(known)}, got {value!r}; choose one of them.")
        self.mode, self.padding, self.antialias = mode, padding, antialias

    def __call__(  # type: ignore[override]  # of two images, as MONAI's `ResampleToMatch`
        self, image: MetaTensor, reference: MetaTensor
    ) -> MetaTensor:
        """Resample `image` **[C, X, Y, Z]** onto the grid of `reference` **[C', X', Y', Z']**.

        Returns:
            float32 **[C, X', Y', Z']** with the affine of `reference`, bit by bit, and `outside_fraction` in its meta
            data: the part of the reference's voxels outside of the field of view of `image`.

        Raises:
            GeometryError: If one of them is no volume, an affine is singular or not finite, or the two fields of view
                do not overlap.
        """
        grid, own = _grid(reference, "reference"), _grid(image, "image")
        if mutual_overlap(grid, own) == 0:
            gap = np.linalg.norm(grid.centre - own.centre)
            raise GeometryError(
                f"The fields of view of image and reference must overlap, got none, and centres {gap:.0f} mm apart; "
                "check that both are of one person and session, or let them be registered."
            )
        index = np.linalg.solve(own.affine, grid.affine)
        sigma = _antialias(index) if self.antialias and self.mode == "linear" else (0.0, 0.0, 0.0)
        outside = 1.0 - overlap_fraction(grid, own, max_points=128)
        result = self._resample(image, index, grid.shape, sigma)
        info = {"affine": image.affine.tolist(), "outside_fraction": float(image.meta.get("outside_fraction", -1.0))}
        result = traced(self, result, orig_size=own.shape, extra_info=info)
        result.affine = reference.affine.clone()
        result.meta["outside_fraction"] = outside
        result.meta[FIELD_OF_VIEW] = json.dumps([own.affine.tolist(), list(own.shape)])
        return _described(result)

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Resample an image on the reference's grid back onto the native one, with its affine; nothing is smoothed."""
        image = copy_of(data)
        info = self.pop_transform(image)
        affine = torch.tensor(info[TraceKeys.EXTRA_INFO]["affine"], dtype=torch.float64)
        index = np.linalg.solve(affine_of(image), affine.numpy())
        restored = self._resample(image, index, tuple(int(n) for n in info[TraceKeys.ORIG_SIZE]), (0.0, 0.0, 0.0))
        restored.affine = affine
        earlier = info[TraceKeys.EXTRA_INFO]["outside_fraction"]
        restored.meta.pop("outside_fraction", None)
        restored.meta.pop(FIELD_OF_VIEW, None)
        if earlier >= 0:
            restored.meta["outside_fraction"] = earlier
        return _described(restored)

    def _resample(
        self, image: MetaTensor, index: np.ndarray, shape: tuple[int, ...], sigma: tuple[float, ...]
    ) -> MetaTensor:
        """Sample each channel at `index @ voxel`, in the indices of the image; affines take no part in it."""
        method = sitk.ResampleImageFilter()
        method.SetInterpolator(sitk.sitkLinear if self.mode == "linear" else sitk.sitkNearestNeighbor)
        method.SetTransform(sitk.AffineTransform(index[:3, :3].ravel().tolist(), index[:3, 3].tolist()))
        method.SetUseNearestNeighborExtrapolator(self.padding == "border")
        channels = []
        for channel in image.as_tensor().detach().cpu().float().numpy():
            if any(sigma):
                channel = gaussian_filter(channel, sigma, mode="nearest")
            given = sitk.GetImageFromArray(np.ascontiguousarray(channel.transpose(2, 1, 0)))
            sampled = np.empty(shape, np.float32)
            for start in range(0, shape[2], _PLANES):
                some = sampled[:, :, start : start + _PLANES]
                method.SetSize(some.shape)
                method.SetOutputOrigin((0.0, 0.0, float(start)))
                some[...] = sitk.GetArrayFromImage(method.Execute(given)).transpose(2, 1, 0)
            channels.append(torch.from_numpy(sampled))
        result = channels[0][None] if len(channels) == 1 else torch.stack(channels)
        return with_meta_of(image, result.to(image.device))


class ResampleToReferenced(MapTransform, InvertibleTransform):
    """Dictionary version of `ResampleToReference`."""

    backend = ResampleToReference.backend

    def __init__(
        self, keys: KeysCollection, reference: Hashable = "mri", *, allow_missing_keys: bool = False, **options: Any
    ) -> None:
        """Make the transform.

        Args:
            keys: Keys of the volumes to resample **[C, X, Y, Z]**.
            reference: Key of the volume whose grid they get; not one of `keys`.
            allow_missing_keys: Pass keys that a case has not.
            options: Those of `ResampleToReference`.

        Raises:
            GeometryError: If the reference is one of the keys, or an option is unknown.
        """
        MapTransform.__init__(self, keys, allow_missing_keys)
        if reference in self.keys:
            raise GeometryError(f"The reference must not be one of the keys, got {reference!r}; remove it from them.")
        self.reference = reference
        self.transform = ResampleToReference(**options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample each key onto the reference's grid.

        Raises:
            GeometryError: As `ResampleToReference`; the message names the key.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            try:
                result[key] = self.transform(result[key], result[self.reference])
            except GeometryError as error:
                raise GeometryError(f"{key}: {error}") from None
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample each key back onto its native grid."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform.inverse(result[key])
        return result


def _antialias(index: np.ndarray) -> tuple[float, ...]:
    """Return the std of the smoothing along each axis, voxels."""
    ratio = np.linalg.norm(index[:3, :3], axis=1)  # steps of one reference voxel, in voxels of the image
    return tuple(float(s) for s in np.sqrt(np.clip(ratio**2 - 1.0 - 1e-3, 0.0, None)) / _FWHM_PER_SIGMA)


def _grid(image: Tensor, what: str) -> Grid:
    """Return the grid of a volume.

    Raises:
        GeometryError: If it is no volume with a usable affine.
    """
    if not isinstance(image, MetaTensor) or image.ndim != 4:
        got = tuple(image.shape) if isinstance(image, MetaTensor) else type(image).__name__
        raise GeometryError(f"The {what} must be a MetaTensor [C, X, Y, Z], got {got}; load it with LoadImage.")
    affine = affine_of(image)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.matrix_rank(affine) < 4:
        raise GeometryError(f"The affine of the {what} must be finite and not singular; repair its header.")
    return Grid(tuple(image.shape[1:]), affine)


def _volume(image: MetaTensor, what: str) -> tuple[np.ndarray, Grid]:
    """Return the voxels **[X, Y, Z]** and the grid of a volume of one channel."""
    grid = _grid(image, what)
    if image.shape[0] != 1:
        raise RegistrationError(f"The {what} must have one channel, got {image.shape[0]}; choose one.")
    return np.asarray(image.detach().cpu()[0], dtype=np.float32), grid


def _described(image: MetaTensor) -> MetaTensor:
    """Bring the meta data that describe the grid up to date."""
    if MetaKeys.SPATIAL_SHAPE in image.meta:
        image.meta[MetaKeys.SPATIAL_SHAPE] = np.array(image.shape[1:])
    return image


RegisterRigidD = RegisterRigidDict = RegisterRigidd
ResampleToReferenceD = ResampleToReferenceDict = ResampleToReferenced
__all__ = ["FRAME_OF_REFERENCE", "RegisterRigid", "RegisterRigidd", "ResampleToReference", "ResampleToReferenced"]
