"""NIfTI in: what is read is checked first. It needs no MONAI, so it can begin before that is loaded.

nibabel and MONAI load a singular or NaN affine, and a gzip stream whose checksum is wrong, without a word. SimpleITK
turns a file cut in half into a full-size image. Hence `check_nifti`, which reads the whole file once.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medfuse.errors import GeometryError, ImageError
from medfuse.io.contents import GZIP, contents, found_in
from medfuse.io.foreign import label, require_nifti
from medfuse.io.nonfinite import NONFINITE_FRACTION, NONFINITE_INSIDE, zero_nonfinite
from medfuse.io.placement import header_affine, header_placement, require_one_place

SUFFIXES = (".nii", ".nii.gz")
MAX_BYTES = 1 << 30
"""Largest volume that is read, in bytes as float32: 268 million voxels, such as 512 x 512 x 1024."""
LIMIT_DIM = 32767  # of NIfTI-1, the largest header field
_UNKNOWN = ("another file", "convert it to NIfTI")
_CHUNK = 1 << 20
_SLAB = 1 << 25  # bytes of float64 that are scaled at once
_HEADER_BYTES = 540  # of NIfTI-2, the longer one
_MAX_LABELS = 1000  # of a mask; atlases have some hundred
_MAX_LABEL = (1 << 24) - 1  # above it float32 makes one of two labels
_WHOLE = 1e-3  # by which a label may miss a whole number, as with a slope of 1/255
_HEADERS: tuple[tuple[Callable[..., nib.Nifti1Header], int, bytes], ...] = (
    (nib.Nifti1Header, 348, b"n+1\0"),
    (nib.Nifti2Header, 540, b"n+2\0"),
)


@dataclass(frozen=True)
class NiftiInfo:
    """What `check_nifti` found.

    Attributes:
        shape: **[X, Y, Z]**.
        affine: **[4, 4]** float64, voxel index to RAS mm.
        dtype: Type as stored, before scaling.
        placement: What the header says of the place, see `medfuse.io.placement.header_placement`.
        frames: Number of volumes, along the fourth axis.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    placement: dict[str, Any]
    frames: int = 1


def check_nifti(
    path: str | Path, *, max_bytes: int = MAX_BYTES, strict: bool = False, dynamic: bool = False
) -> NiftiInfo:
    """Check that a file is a whole NIfTI-1 or NIfTI-2 volume with sane geometry.

    The file is read once to its end, in pieces: a gzip stream is decoded up to its checksum. The header is judged
    before anything is decoded, and decoding stops when more comes out than the header announces.

    Args:
        path: `.nii` or `.nii.gz`.
        max_bytes: Largest size to accept, as float32.
        strict: Refuse a header whose sform and qform disagree; else the sform is taken, see `medfuse.io.placement`.
        dynamic: Accept a fourth axis, of time; `max_bytes` is then of each volume.

    Returns:
        Shape, affine, type and placement.

    Raises:
        ImageError: If the file is absent, is no single-file NIfTI, is truncated or corrupt, is larger than `max_bytes`
            or than its header says, holds colours or complex numbers, or its slope or intercept makes no sense.
        GeometryError: If the volume is not 3-D (trailing axes of length 1 are allowed), a dimension makes no sense, the
            orientation is absent, the affine is singular, far from right angles or not finite, a voxel is not between
            0.001 and 1000 mm, the unit is not mm, or, if strict, sform and qform disagree.
    """
    return _check(Path(path), max_bytes, strict, dynamic, whole=True)


def check_nifti_header(
    path: str | Path, *, max_bytes: int = MAX_BYTES, strict: bool = False, dynamic: bool = False
) -> NiftiInfo:
    """Check the header of a NIfTI alone, and decode nothing; see `check_nifti`, whose arguments and errors it has."""
    return _check(Path(path), max_bytes, strict, dynamic, whole=False)


def _check(path: Path, max_bytes: int, strict: bool, dynamic: bool, *, whole: bool) -> NiftiInfo:
    what = label(path)
    require_nifti(path)
    if not path.is_file():
        raise ImageError(f"{what} must be a file, got none there; check the path.")
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            head = stream.read(_HEADER_BYTES)
            header = _header(head, what)
            (shape, frames), affine = _shape(header, what, dynamic), header_affine(header, what)
            info = NiftiInfo(shape, affine, _dtype(header, what), header_placement(header, shape, affine), frames)
            _check_scaling(header, what)
            expected = _file_bytes(header, info, what)
            size = 4 * int(np.prod(info.shape, dtype=object))
            if size > max_bytes:
                raise ImageError(
                    f"{what} must decode to at most {max_bytes} bytes as float32, got {info.shape} voxels, {size} "
                    "bytes; crop it, or resample it to larger voxels."
                )
            if strict:
                require_one_place(info.placement, what)
            if not whole:
                return info
            decoded = len(head) + _drain(cast(BinaryIO, stream), expected + 1 - len(head))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        if (found := contents(path) or _UNKNOWN) != GZIP:
            raise ImageError(f"{what} must be a gzip file of a NIfTI, got {found[0]}; {found[1]}.") from error
        raise ImageError(
            f"{what} must be a whole gzip file, got one that is cut short or corrupt; copy it again."
        ) from error
    except OSError as error:
        raise ImageError(f"{what} must be readable, got {error.strerror or 'an error'}; check the file.") from error
    if decoded < expected:
        raise ImageError(f"{what} must hold {expected} bytes, got {decoded}: it is cut short; copy it again.")
    if decoded > expected:
        raise ImageError(f"{what} must hold {expected} bytes, got more: its header is wrong; rewrite it.")
    return info


def read_nifti(
    path: Path,
    *,
    max_bytes: int = MAX_BYTES,
    nonfinite: str = "error",
    strict: bool = False,
    allow_constant: bool = False,
    labels: bool = False,
) -> tuple[np.ndarray, NiftiInfo, dict[str, float]]:
    """Check and load a volume; the options are those of `medfuse.io.NiftiReader`.

    Returns:
        float32 array **[X, Y, Z]**, what was found, and the entries `nonfinite_fraction` and
        `nonfinite_inside_fraction` of its meta data, where they are above 0.

    Raises:
        ImageError: As `check_nifti`; also if voxels are not finite or the volume is constant.
        GeometryError: As `check_nifti`.
    """
    info = check_nifti(path, max_bytes=max_bytes, strict=strict)
    what = label(path)
    try:
        volume = _load(path, info)
    except (HeaderDataError, ImageFileError, ValueError, OSError, EOFError, zlib.error) as error:
        raise ImageError(f"{what} must have a readable header, got a broken one; rewrite the file.") from error
    except MemoryError as error:
        raise ImageError(f"{what} must fit into memory, got {info.shape} voxels; crop it.") from error
    whole, inside = zero_nonfinite(volume, what, nonfinite)
    if not allow_constant and volume.min() == volume.max():
        raise ImageError(f"{what} must show something, got {volume.flat[0]:g} everywhere; check how it was made.")
    if labels:
        _check_labels(volume, what)
    told = {NONFINITE_FRACTION: whole, NONFINITE_INSIDE: inside}
    return volume, info, {name: share for name, share in told.items() if share}


def _load(path: Path, info: NiftiInfo) -> np.ndarray:
    """Return the scaled values as float32 **[X, Y, Z]**, read in slabs: no second copy in another type is made."""
    volume = np.empty(info.shape, np.float32)
    image = cast(nib.Nifti1Image, nib.load(path, keep_file_open=True))
    stored = cast(ArrayProxy, image.dataobj).reshape(info.shape)
    step = max(1, _SLAB // (8 * info.shape[0] * info.shape[1]))
    for start in range(0, info.shape[2], step):
        some = slice(start, start + step)
        with np.errstate(over="ignore", invalid="ignore"):
            volume[:, :, some] = stored[:, :, some]
    return volume


def _check_labels(volume: np.ndarray, what: str) -> None:
    values = np.unique(volume)
    if values[0] < 0 or np.abs(values - np.rint(values)).max() > _WHOLE:
        raise ImageError(f"{what} must hold labels, whole numbers from 0 on, got others; give a mask, not an image.")
    if values[-1] > _MAX_LABEL:  # such as the structure ids of the Allen atlas
        raise ImageError(
            f"{what} must hold labels up to {_MAX_LABEL}, got larger ones, two of which could be taken for one; "
            "renumber them."
        )
    if len(values) > _MAX_LABELS:
        raise ImageError(
            f"{what} must hold at most {_MAX_LABELS} labels, got {len(values)}; give a mask, not an image."
        )


def _header(head: bytes, what: str) -> nib.Nifti1Header:
    for kind, size, magic in _HEADERS:
        if head[:4] in (size.to_bytes(4, "little"), size.to_bytes(4, "big")) and len(head) >= size:
            header = kind(head[:size], check=False)
            if bytes(header["magic"])[:4] == magic:
                return header
    found, remedy = found_in(head) or ("another format or a part of one", "convert it to NIfTI")
    raise ImageError(f"{what} must be a single-file NIfTI, got {found}; {remedy}.")


def _shape(header: nib.Nifti1Header, what: str, dynamic: bool) -> tuple[tuple[int, int, int], int]:
    """Return the shape of a volume, and how many there are."""
    rank = int(header["dim"][0])
    dims = tuple(int(n) for n in header["dim"][1 : rank + 1]) if 1 <= rank <= 7 else ()
    if not dims or min(dims) < 1 or max(dims) > LIMIT_DIM:
        raise GeometryError(f"{what} must have dimensions from 1 to {LIMIT_DIM}, got {dims}; rewrite its header.")
    if rank < 3 or any(n > 1 for n in dims[4 if dynamic else 3 :]):
        raise GeometryError(f"{what} must be 3-D, got shape {dims}; choose or average one volume of it.")
    return (dims[0], dims[1], dims[2]), dims[3] if rank > 3 else 1


def _dtype(header: nib.Nifti1Header, what: str) -> np.dtype:
    try:
        dtype: np.dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise ImageError(f"{what} must hold a known data type, got an unknown code; convert it.") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        kind = "colours" if dtype.kind == "V" else str(dtype)
        raise ImageError(f"{what} must hold real numbers of at most 64 bits, got {kind}; convert it to float32.")
    return dtype


def _check_scaling(header: nib.Nifti1Header, what: str) -> None:
    """Check slope and intercept: a slope of 0 means no scaling at all, and nibabel takes NaN and infinity for it."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite([slope, intercept]).all() or slope < 0 or (slope == 0 and intercept != 0):
        raise ImageError(
            f"{what} must have a positive scl_slope and a finite scl_inter, or 0 for both, got {slope:g} and "
            f"{intercept:g}; rewrite its header."
        )


def _file_bytes(header: nib.Nifti1Header, info: NiftiInfo, what: str) -> int:
    offset = float(header["vox_offset"])
    if not header.single_vox_offset <= offset <= _CHUNK:
        raise ImageError(f"The data of {what} must begin behind its header, got byte {offset:g}; rewrite the file.")
    return int(offset) + int(np.prod((*info.shape, info.frames), dtype=object)) * info.dtype.itemsize


def _drain(stream: BinaryIO, limit: int) -> int:
    """Read up to `limit` bytes to nowhere; return how many came. Reading to the end verifies a gzip checksum."""
    count = 0
    while count < limit:
        piece = len(stream.read(min(_CHUNK, limit - count)))
        if piece == 0:
            break
        count += piece
    return count
