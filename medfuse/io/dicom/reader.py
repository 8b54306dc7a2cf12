"""DICOM series, and volumes of either format, as readers for MONAI."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from medfuse.errors import DicomError
from medfuse.io.acquisition import ACQUISITION
from medfuse.io.dicom.series import Series, choose_series, list_series
from medfuse.io.dicom.volume import choose_of, load_volume, voxel_ml
from medfuse.io.dynamic import FRAMES, PetNiftiReader, Watch
from medfuse.io.foreign import require_no_nifti, require_volume
from medfuse.io.modalities import of_dicom
from medfuse.io.nifti import MAX_BYTES, SUFFIXES, NiftiReader, Paths, as_paths
from medfuse.io.suv import CHOICES, Content, Suv, suv
from medfuse.io.texts import read_json
from medfuse.io.units import ARBITRARY

SIDECAR = "suv.json"
FRAME_OF_REFERENCE = "frame_of_reference"  # the key by which medfuse.transforms tells images of one world
DOUBTS = "doubts"  # the key of what a person must look at, see `medfuse.io.dicom.series.Series`
_BEFORE = 3600.0  # s, for which a dynamic scan may run before the injection
_MAX_SIDECAR = 1 << 16  # bytes

Source = str | Path | Sequence[str | Path]


def open_series(
    source: Source, *, modality: str | None = None, uid: str | None = None, max_bytes: int = MAX_BYTES
) -> Series:
    """Find the one series of a folder, a file or files, checked and ready to load; see `choose_series`.

    Raises:
        DicomError: If there is none or more than one, or it is no usable volume.
    """
    folder = list_series(source, max_bytes=max_bytes)
    if isinstance(source, str | Path) and not folder.series and not folder.unreadable:
        require_no_nifti(source)
    return choose_series(folder, modality=modality, uid=uid)


def series_suv(series: Series, kind: str = "auto", *, content: Content | None = None) -> Suv:
    """Find how the values of a PET series become SUV; see `medfuse.io.suv.suv`.

    A file `suv.json` beside the files of the series may replace what headers say or lack.

    Args:
        series: A usable series.
        kind: One of `medfuse.io.suv.CHOICES`.
        content: What its pixels hold, from `measure`, to be held against the injected activity; None to go without.

    Raises:
        DicomError: If a kind was asked for that cannot be computed, or the sidecar cannot be used.
    """
    before = _BEFORE if len(series.frames) > 1 else 0.0
    return suv([header.pet for header in series.headers], kind, _sidecar(series), content=content, before=before)


class DicomReader(ImageReader):
    """Read a checked DICOM series as rescaled float32, for MONAI's `LoadImage(reader="medfuse.io.DicomReader")`.

    Of the headers only the geometry, the modality, the unit, the frame of reference and, for PET, the record of the SUV
    are kept: the rest may name a patient. As in `NiftiReader`, all checks are in `get_data`, whose errors MONAI lets
    pass.
    """

    def __init__(
        self,
        *,
        modality: str | None = None,
        series_uid: str | None = None,
        suv: str = "auto",
        max_bytes: int = MAX_BYTES,
        allow_constant: bool = False,
        frames: str | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Set what to read.

        Args:
            modality: CT, MR or PT; None for any.
            series_uid: Which series, where there are several.
            suv: For PET: one of `medfuse.io.suv.CHOICES`.
            max_bytes: Largest decoded size to accept; of a dynamic PET, of each time frame.
            allow_constant: Accept a volume of one value.
            frames: Which time frames of a dynamic PET, see `medfuse.io.frames`; None for the average of all.
            watch: Is shown each frame that is averaged with others.

        Raises:
            DicomError: `suv` is not among the choices.
        """
        super().__init__()
        if suv not in CHOICES:
            raise DicomError(f"suv must be one of {', '.join(CHOICES)}, got {suv!r}; choose one of them.")
        self.modality, self.series_uid, self.suv = modality, series_uid, suv
        self.max_bytes, self.allow_constant = max_bytes, allow_constant
        self.frames, self.watch = frames, watch

    def verify_suffix(self, filename: Paths) -> bool:
        """Return whether no name is that of a NIfTI: DICOM files and folders have any name."""
        return not any(is_nifti(name) for name in as_paths(filename))

    def read(self, data: Paths, **kwargs: Any) -> tuple[Path, ...]:
        """Note a folder, a file, or the files of a series; `get_data` checks and loads it.

        Raises:
            DicomError: If there is an option.
        """
        if kwargs:
            raise DicomError("DicomReader must get paths and no options, got options; make the reader with them.")
        return as_paths(data)

    def get_data(self, img: Sequence[str | Path]) -> tuple[np.ndarray, dict[str, Any]]:
        """Check and load a series.

        Args:
            img: What `read` returned.

        Returns:
            float32 array **[X, Y, Z]** and MONAI's metadata: the affine in RAS mm, `modality`, `unit`,
            `frame_of_reference` where there is one, `doubts` where there are any, and `suv`, the record of a PET.

        Raises:
            DicomError: If there is not one series, or it cannot be used; see `choose_series` and `load_volume`.
        """
        source = img[0] if len(img) == 1 else img
        series = open_series(source, modality=self.modality, uid=self.series_uid, max_bytes=self.max_bytes)
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: series.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: series.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(series.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
            "modality": series.modality,
            "unit": row.unit if (row := of_dicom(series.modality)) else ARBITRARY,
        }
        if series.frame_of_reference:
            meta[FRAME_OF_REFERENCE] = series.frame_of_reference
        if acquired := series.headers[0].acquisition.record:
            meta[ACQUISITION] = json.dumps(acquired)
        if series.doubts:
            meta[DOUBTS] = list(series.doubts)
        choice = choose_of(series, self.frames if series.modality == "PT" else None)
        if len(series.frames) > 1:
            meta[FRAMES] = json.dumps({**choice.record, "warnings": list(choice.warnings)})
        volume = load_volume(series, choice=choice, watch=self.watch)
        if series.modality == "PT":
            content = Content(float(volume.sum(dtype=np.float64)) * voxel_ml(series), float(volume.max()))
            found = series_suv(series, self.suv, content=content)
            volume *= np.float32(found.factor)
            meta["unit"], meta["suv"] = found.unit, found.record
        if not self.allow_constant and volume.min() == volume.max():
            raise DicomError(f"Series {series.uid} must show something, got one value everywhere; check the scan.")
        return volume, meta


class VolumeReader(ImageReader):
    """Read a NIfTI file or a DICOM series, by what the path is, for `LoadImage(reader="medfuse.io.VolumeReader")`.

    A name that ends in `.nii` or `.nii.gz` is a NIfTI; anything else, a folder or files, is DICOM.
    """

    def __init__(
        self,
        *,
        modality: str | None = None,
        suv: str = "auto",
        nonfinite: str = "error",
        strict: bool = False,
        allow_constant: bool = False,
        uptake: bool = False,
        frames: str | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Set what to accept.

        Args:
            modality: See `DicomReader`.
            suv: See `DicomReader`.
            nonfinite: See `NiftiReader`.
            strict: See `NiftiReader`.
            allow_constant: Accept a volume of one value.
            uptake: Whether it shows the uptake of a tracer: a NIfTI is then read by `PetNiftiReader`, with its sidecar.
            frames: Which frames of a dynamic PET, see `medfuse.io.frames`.
            watch: See `PetNiftiReader`.
        """
        super().__init__()
        common: dict[str, Any] = {"nonfinite": nonfinite, "strict": strict, "allow_constant": allow_constant}
        self._nifti: NiftiReader = (
            PetNiftiReader(frames=frames, suv=suv, watch=watch, **common) if uptake else NiftiReader(**common)
        )
        self._dicom = DicomReader(modality=modality, suv=suv, allow_constant=allow_constant, frames=frames, watch=watch)

    def verify_suffix(self, filename: Paths) -> bool:
        """Return True: what it is shows when it is read."""
        return True

    def read(self, data: Paths, **kwargs: Any) -> Any:
        """Note the path or paths; `get_data` checks and loads them."""
        names = as_paths(data)
        return self._nifti.read(names, **kwargs) if any(map(is_nifti, names)) else self._dicom.read(names, **kwargs)

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Check and load a volume: float32 **[X, Y, Z]** and MONAI's metadata.

        Raises:
            MedfuseError: As `NiftiReader.get_data` or `DicomReader.get_data`.
        """
        if isinstance(img, Path):
            return self._nifti.get_data(img)
        if len(img) == 1:
            require_volume(img[0])
        return self._dicom.get_data(img)


def is_nifti(path: str | Path) -> bool:
    """Return whether a name is that of a NIfTI file."""
    return str(path).lower().endswith(SUFFIXES)


def _sidecar(series: Series) -> Mapping[str, Any]:
    path = Path(os.path.commonpath([file.parent for file in series.files])) / SIDECAR
    if not path.is_file():
        return {}
    try:
        content = read_json(path, max_bytes=_MAX_SIDECAR)
    except (OSError, ValueError):
        raise DicomError(f"{SIDECAR} must be a small, readable JSON file, got another; repair it.") from None
    if not isinstance(content, dict):
        raise DicomError(f"{SIDECAR} must hold an object, got {type(content).__name__}; use {{...}}.")
    return content
