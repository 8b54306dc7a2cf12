"""NIfTI in and out: MONAI's reader of checked volumes; what is written is exact, complete and the same every time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import PathLike
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from medfuse.errors import GeometryError, ImageError
from medfuse.io.atomic import atomic_file
from medfuse.io.foreign import label
from medfuse.io.nifti_files import (
    LIMIT_DIM,
    MAX_BYTES,
    SUFFIXES,
    NiftiInfo,
    check_nifti,
    check_nifti_header,
    read_nifti,
)
from medfuse.io.nonfinite import NONFINITE
from medfuse.io.packing import packed
from medfuse.io.placement import checked_affine

__all__ = [
    "MAX_BYTES",
    "NONFINITE",
    "SUFFIXES",
    "NiftiInfo",
    "NiftiReader",
    "Paths",
    "as_paths",
    "check_nifti",
    "check_nifti_header",
    "write_nifti",
    "write_rgb_nifti",
]
_RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])

Paths = Sequence[PathLike] | PathLike
"""What MONAI hands to a reader: one path, or several."""


class NiftiReader(ImageReader):
    """Read checked NIfTI volumes as scaled float32, for MONAI's `LoadImage(reader="medfuse.io.NiftiReader")`.

    Of the header only the geometry is kept: its text fields may name a patient.

    MONAI's `LoadImage` turns every error that a reader's `read` raises into one about a missing reader. Hence `read`
    only notes the path, and `get_data`, whose errors pass unchanged, checks and loads.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAX_BYTES,
        nonfinite: str = "error",
        strict: bool = False,
        allow_constant: bool = False,
        labels: bool = False,
    ) -> None:
        """Set what to accept.

        Args:
            max_bytes: Largest size to accept, as float32.
            nonfinite: One of `NONFINITE`: what to do with NaN, which SPM writes outside the head, and with infinity:
                refuse the volume ("error"), or write 0 in their place ("zero"). A volume with no finite voxel is
                refused in any case.
            strict: Refuse a header whose sform and qform disagree; else the sform is taken.
            allow_constant: Accept a volume of one value, such as an empty mask.
            labels: Refuse what is no mask: values other than whole numbers from 0 to 16777215, or more than
                1000 of them.

        Raises:
            ImageError: `nonfinite` is another word.
        """
        super().__init__()
        if nonfinite not in NONFINITE:
            raise ImageError(f"nonfinite must be {' or '.join(NONFINITE)}, got {nonfinite!r}; choose one of them.")
        self.max_bytes = max_bytes
        self.nonfinite = nonfinite
        self.strict = strict
        self.allow_constant = allow_constant
        self.labels = labels

    def verify_suffix(self, filename: Paths) -> bool:
        """Return whether every name ends in `.nii` or `.nii.gz`."""
        return all(str(name).lower().endswith(SUFFIXES) for name in as_paths(filename))

    def read(self, data: Paths, **kwargs: Any) -> Path:
        """Note the path of one volume; `get_data` checks and loads it.

        Raises:
            ImageError: If there is more than one path, or an option.
        """
        names = as_paths(data)
        if len(names) != 1 or kwargs:
            raise ImageError(
                f"{type(self).__name__} must get one path and no options, got {len(names)} paths; load them apart."
            )
        return names[0]

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Check and load a volume.

        Args:
            img: What `read` returned.

        Returns:
            float32 array **[X, Y, Z]** and MONAI's metadata, with `nonfinite_fraction`, the part of the voxels that
            were not finite and count as 0, and `nonfinite_inside_fraction`, that of those inside of what is shown,
            where there are such.

        Raises:
            ImageError: As `check_nifti`; also if voxels are not finite or the volume is constant.
            GeometryError: As `check_nifti`.
        """
        volume, info, told = read_nifti(
            img,
            max_bytes=self.max_bytes,
            nonfinite=self.nonfinite,
            strict=self.strict,
            allow_constant=self.allow_constant,
            labels=self.labels,
        )
        return volume, {
            MetaKeys.AFFINE: info.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: info.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(info.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
            **told,
        }


def write_nifti(
    path: str | Path,
    array: Any,
    affine: Any,
    *,
    unit_description: str = "",
    intent_name: str = "",
    cal_min: float | None = None,
    cal_max: float | None = None,
) -> None:
    """Write a float32 NIfTI-1 volume, atomically; equal input gives equal bytes.

    The sform holds the affine, rounded to float32 as the format has it: below 2e-5 mm for a corner 250 mm away. The
    qform, a quaternion with spacings, holds the same where it can (within 1e-3 mm at the corners), and is left unset
    where it cannot, as with shear: a program that reads only the qform then sees none, rather than a wrong one.

    Args:
        path: `.nii` or `.nii.gz`.
        array: **[X, Y, Z]** array or tensor, finite.
        affine: **[4, 4]**, voxel index to RAS mm.
        unit_description: Unit of the values, such as "SUV" or "normalised, dimensionless"; at most 79 ASCII characters.
        intent_name: Short name of the content; at most 15 ASCII characters.
        cal_min: Lower end of the suggested display window, in the values' unit; both ends or neither.
        cal_max: Upper end.

    Raises:
        ImageError: If the suffix is another, a value is not finite or a text too long.
        GeometryError: If the array is not 3-D, or the affine singular or not finite.
    """
    volume = _to_numpy(array).astype(np.float32, copy=False)
    what = label(Path(path))
    if not np.isfinite(volume).all():
        raise ImageError(f"{what} must be finite, got NaN or infinity; nothing was written.")
    if (cal_min is None) != (cal_max is None):
        raise ImageError(f"cal_min and cal_max must be given together, got {cal_min} and {cal_max}; give both.")
    image = _image(volume, affine, what)
    image.header["descrip"] = _text(unit_description, 79, "unit_description")
    image.header["intent_name"] = _text(intent_name, 15, "intent_name")
    if cal_min is not None and cal_max is not None:
        image.header["cal_min"], image.header["cal_max"] = cal_min, cal_max
    _save(image, path)


def write_rgb_nifti(path: str | Path, rgb: Any, affine: Any) -> None:
    """Write a colour NIfTI-1 volume (RGB24), atomically, with the geometry of `write_nifti`.

    Viewers show it in colour; MONAI's readers, and `NiftiReader`, do not read it back.

    Args:
        path: `.nii` or `.nii.gz`.
        rgb: uint8 **[X, Y, Z, 3]**.
        affine: **[4, 4]**, voxel index to RAS mm.

    Raises:
        ImageError: If the suffix is another, or the type not uint8.
        GeometryError: If the shape is another, or the affine singular or not finite.
    """
    colour = np.asarray(rgb)
    what = label(Path(path))
    if colour.dtype != np.uint8:
        raise ImageError(f"{what} must be uint8, got {colour.dtype}; convert it with to_uint8.")
    if colour.ndim != 4 or colour.shape[-1] != 3:
        raise GeometryError(f"{what} must be [X, Y, Z, 3], got {colour.shape}; put the colour last.")
    voxels = np.ascontiguousarray(colour).view(_RGB)[..., 0]
    _save(_image(voxels, affine, what), path)


def _image(voxels: np.ndarray, affine: Any, what: str) -> nib.Nifti1Image:
    """Build an image in memory with sform, qform where exact, spacings and mm."""
    if voxels.ndim != 3 or 0 in voxels.shape or max(voxels.shape) > LIMIT_DIM:
        raise GeometryError(f"{what} must be 3-D, got shape {voxels.shape}; write one volume at a time.")
    matrix = checked_affine(affine, what)
    image = nib.Nifti1Image(voxels, matrix, dtype=voxels.dtype)
    header = image.header
    header.set_xyzt_units("mm")
    header.set_sform(matrix, code="scanner")
    header.set_qform(matrix, code="scanner", strip_shears=True)
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in voxels.shape))])
    if np.abs(corners @ (header.get_qform() - matrix).T).max() > 1e-3:
        header["qform_code"] = 0
    return image


def _save(image: nib.Nifti1Image, path: str | Path) -> None:
    small = _is_packed(Path(path))
    with atomic_file(path) as file:
        if small:
            with packed(file) as archive:
                image.to_stream(archive)
        else:
            image.to_stream(file)


def _is_packed(path: Path) -> bool:
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise ImageError(f"{label(path)} must end in .nii or .nii.gz, got another suffix; rename or convert it.")
    return name.endswith(".gz")


def _text(value: str, limit: int, what: str) -> bytes:
    if not value.isascii() or len(value) > limit:
        raise ImageError(f"{what} must be at most {limit} ASCII characters, got {len(value)}; shorten it.")
    return value.encode()


def _to_numpy(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def as_paths(names: Paths) -> tuple[Path, ...]:
    """Return the paths that MONAI hands to a reader: one, or several."""
    return (Path(names),) if isinstance(names, str | os.PathLike) else tuple(map(Path, names))
