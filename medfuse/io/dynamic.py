"""A NIfTI PET as one volume: its frames are chosen and averaged, and its values become SUV, by its sidecars."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from monai.utils import MetaKeys, SpaceKeys
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medfuse.errors import ImageError
from medfuse.io.acquisition import ACQUISITION, sidecar_acquisition
from medfuse.io.foreign import label
from medfuse.io.frames import Choice, Timing, choose_frames
from medfuse.io.nifti import MAX_BYTES, NiftiInfo, NiftiReader, check_nifti
from medfuse.io.nonfinite import NONFINITE_FRACTION, NONFINITE_INSIDE, zero_nonfinite
from medfuse.io.pet_sidecar import read_pet_sidecar
from medfuse.io.suv import CHOICES, Content

FRAMES = "frames"
"""The meta entry with the record of the frames, as JSON: `record` and `warnings`."""
_ONE = {"count": 1, "frames": "1"}

Watch = Callable[[int, float, np.ndarray, np.ndarray], None]
"""Is shown each frame that is averaged with others: index, weight, values **[X, Y, Z]**, voxel size **[3]**, mm."""


class PetNiftiReader(NiftiReader):
    """Read a static or dynamic NIfTI PET with its sidecars as float32, for MONAI's `LoadImage`.

    What frames are taken is said in `medfuse.io.frames`, and how SUV is found in `medfuse.io.pet_sidecar`. As in
    `NiftiReader`, all checks are in `get_data`.
    """

    def __init__(
        self,
        *,
        frames: str | None = None,
        suv: str = "auto",
        nonfinite: str = "error",
        strict: bool = False,
        max_bytes: int = MAX_BYTES,
        allow_constant: bool = False,
        watch: Watch | None = None,
    ) -> None:
        """Set what to read.

        Args:
            frames: A choice of frames; None for the average of all.
            suv: One of `medfuse.io.suv.CHOICES`.
            nonfinite: NaN and infinity, see `NiftiReader`.
            strict: Refuse a header whose sform and qform disagree.
            max_bytes: Largest size of one frame to accept, as float32.
            allow_constant: Accept a volume of one value.
            watch: Is shown each frame that is averaged with others.

        Raises:
            ImageError: `suv` is not among the choices, or `nonfinite` is another word.
        """
        super().__init__(max_bytes=max_bytes, nonfinite=nonfinite, strict=strict, allow_constant=allow_constant)
        if suv not in CHOICES:
            raise ImageError(f"suv must be one of {', '.join(CHOICES)}, got {suv!r}; choose one of them.")
        self.frames, self.suv, self.watch = frames, suv, watch

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Check and load a PET.

        Args:
            img: What `read` returned.

        Returns:
            float32 array **[X, Y, Z]** and MONAI's metadata: the affine in RAS mm, `unit` where the sidecar says it,
            `suv`, the record of how it was found, where there is a sidecar, and `frames`, as JSON, where there are
            several or their times are known.

        Raises:
            ImageError: If the file cannot be used, see `check_nifti`, or the frames cannot be chosen so.
            GeometryError: As `check_nifti`.
            BundleError: If a sidecar cannot be read.
            DicomError: If an SUV was asked for that cannot be computed.
        """
        info = check_nifti(img, max_bytes=self.max_bytes, strict=self.strict, dynamic=True)
        what, sidecar = label(img), read_pet_sidecar(img)
        timing = _timing(sidecar.timing, info.frames)
        choice = choose_frames(self.frames, info.frames, timing, correct=self.suv != "none")
        volume, nonfinite, inside = self._average(img, info, choice, what)
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: info.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: info.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(info.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
            **({NONFINITE_FRACTION: nonfinite} if nonfinite else {}),
            **({NONFINITE_INSIDE: inside} if inside else {}),
        }
        if choice.record != _ONE or choice.warnings:
            meta[FRAMES] = json.dumps({**choice.record, "warnings": list(choice.warnings)})
        if acquired := sidecar_acquisition(sidecar.fields).record:
            meta[ACQUISITION] = json.dumps(acquired)
        if sidecar.fields:
            voxel = abs(float(np.linalg.det(info.affine[:3, :3]))) / 1000.0
            content = Content(float(volume.sum(dtype=np.float64)) * voxel, float(volume.max()))
            corrected = "decay_corrected_to_s" in choice.record
            found = sidecar.suv(self.suv, timing, content=content, corrected_here=corrected)
            volume *= np.float32(found.factor)
            meta |= {"unit": found.unit} | ({"suv": found.record} if found.record else {})
        elif self.suv not in ("auto", "none"):
            sidecar.suv(self.suv, timing)
        if not self.allow_constant and volume.min() == volume.max():
            raise ImageError(f"{what} must show something, got {volume.flat[0]:g} everywhere; check how it was made.")
        return volume, meta

    def _average(self, path: Path, info: NiftiInfo, choice: Choice, what: str) -> tuple[np.ndarray, float, float]:
        """Return the weighted average of the frames, which part of their voxels was not finite, and which inside."""
        volume, bad = np.zeros(info.shape, np.float32), np.zeros(2)
        total = np.zeros(info.shape, np.float64) if len(choice.frames) > 1 else volume
        spacing = np.linalg.norm(info.affine[:3, :3], axis=0)
        try:
            for values, k, weight, factor in zip(
                _frames(path, info, choice.frames), choice.frames, choice.weights, choice.factors, strict=True
            ):
                bad += np.array(zero_nonfinite(values, what, self.nonfinite)) / len(choice.frames)
                if factor != 1.0:
                    values *= np.float32(factor)
                if len(choice.frames) > 1 and self.watch is not None:
                    self.watch(k, weight, values, spacing)
                total += np.float64(weight) * values if total.dtype == np.float64 else values
        except (HeaderDataError, ImageFileError, OSError, EOFError, zlib.error) as error:
            raise ImageError(f"{what} must have a readable header, got a broken one; rewrite the file.") from error
        except MemoryError as error:
            raise ImageError(f"{what} must fit into memory, got {info.shape} voxels; crop it.") from error
        return total.astype(np.float32, copy=False), float(bad[0]), float(bad[1])


def _timing(timing_of: Callable[[int], Timing | None], count: int) -> Timing | None:
    """Return the times of the frames; of a static PET, nothing depends on those that make no sense."""
    try:
        return timing_of(count)
    except ImageError:
        if count > 1:
            raise
        return None


def _frames(path: Path, info: NiftiInfo, chosen: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Give frames one by one, float32 **[X, Y, Z]**: of a long scan, there is no room for all."""
    image = cast(nib.Nifti1Image, nib.load(path, keep_file_open=True))
    stored = cast(ArrayProxy, image.dataobj).reshape((*info.shape, info.frames))
    for k in chosen:
        with np.errstate(over="ignore", invalid="ignore"):
            yield np.asarray(stored[..., k]).astype(np.float32)
