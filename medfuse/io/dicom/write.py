"""Results as DICOM: restored PET, fused volume and colour fusion, as series that a PACS can file and readers can place.

Each function takes a plain volume **[X, Y, Z]** and its affine, and writes one series into a folder of its own, which
appears complete or not at all. The sections are those of DICOM PS3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from medfuse.errors import DicomError
from medfuse.io.dicom.derived import (
    LINEAR,
    Derivation,
    Grid,
    add_derivation,
    common_elements,
    display_window,
    finished,
    grid_and_frames,
    guarded,
    make_uid,
    save,
)
from medfuse.io.dicom.parametric import ucum, write_parametric_map
from medfuse.io.dicom.reference import SourceReference, read_reference
from medfuse.io.units import suv_unit

__all__ = [
    "Derivation",
    "SourceReference",
    "make_uid",
    "pet_units",
    "read_reference",
    "ucum",
    "write_color_multiframe",
    "write_color_series",
    "write_parametric_map",
    "write_pet",
]

_MAX_INT16 = 32767
_STATIC = ("STATIC", "WHOLE BODY")  # types of PET series that are one volume (C.8.9.1.1.4)
_EMPTY_TEXTS = ("AcquisitionDate", "AcquisitionTime", "ActualFrameDuration", "DoseCalibrationFactor", "CorrectedImage")
_EMPTY_SEQUENCES = (
    "RadiopharmaceuticalInformationSequence", "PatientOrientationCodeSequence", "PatientGantryRelationshipCodeSequence",
)  # fmt: skip


def write_pet(
    folder: Path,
    volume: np.ndarray,
    affine: np.ndarray,
    derivation: Derivation,
    *,
    pet: SourceReference,
    units: str | None = None,
    suv_type: str | None = None,
    window: tuple[float, float] | None = None,
    name: str = "pet_restored",
    frames: Mapping[str, Any] | None = None,
    half_life: float | None = None,
) -> None:
    """Write a restored PET as a classic PET image series; one slope, each value off by half a quantum at most.

    Times, decay factor and corrections are those of the source's first image by time, or those of the time frames that
    were chosen of a dynamic one; what the source lacks stays out.

    Args:
        folder: Folder of the series.
        volume: **[X, Y, Z]**.
        affine: **[4, 4]**, voxel index to RAS mm.
        derivation: Where it comes from.
        pet: The source PET, a classic one, in whose study it is filed.
        units: Units (0054,1001), such as GML for SUV; None: those of the source, with its SUV type.
        suv_type: SUV Type (0054,1006), such as BW; with units only.
        window: Ends of the display window.
        name: Of the series, `KEY_restored`.
        frames: Record of the time frames of a dynamic source, see `medfuse.io.frames`.
        half_life: Of the nuclide, s, for the decay factor of those.

    Raises:
        DicomError: If DICOM cannot hold the grid or the values.

    Reference:
        A.21, C.8.9.
    """
    grid, stack = grid_and_frames(np.asarray(volume, dtype=np.float64), affine)
    slope = format_number_as_ds(float(np.abs(stack).max()) / _MAX_INT16 or 1.0)
    stored = np.rint(stack / float(slope)).astype("<i2")
    with guarded():
        series = _series(derivation, pet, name, "PT", uid.PositronEmissionTomographyImageStorage)
        series.update(pet.pet())
        if frames is not None and "start_s" in frames:
            _set_times(series, frames, half_life)
        series.ImageType = ["DERIVED", "PRIMARY"]  # no PET is secondary (C.8.9.4.1.1)
        for name in _EMPTY_TEXTS:  # of type 2, as the sequences
            setattr(series, name, series.get(name))
        for name in _EMPTY_SEQUENCES:
            setattr(series, name, series.get(name) or [])
        for agent in series.RadiopharmaceuticalInformationSequence:
            agent.setdefault("RadionuclideCodeSequence", [])
        kinds = series.get("SeriesType") or ""
        kind = kinds if isinstance(kinds, str) else str(kinds[0])
        series.SeriesType = [kind if kind in _STATIC else "STATIC", "IMAGE"]
        series.CountsSource = series.get("CountsSource") or "EMISSION"
        series.CollimatorType = series.get("CollimatorType")
        if units is not None:
            series.Units, series.SUVType = units, suv_type
        if not series.get("SUVType"):
            series.pop("SUVType", None)
        series.Units = series.get("Units") or "NONE"
        series.NumberOfSlices = len(stored)
        series.RescaleIntercept, series.RescaleSlope = "0", slope
        if window is not None:
            series.WindowCenter, series.WindowWidth = display_window(window)
            series.VOILUTFunction = LINEAR

        def image(k: int) -> Dataset:
            return _slice(series, derivation, grid, stored, k, ImageIndex=k + 1)

        save(folder, map(image, range(len(stored))))


def _set_times(series: Dataset, frames: Mapping[str, Any], half_life: float | None) -> None:
    """Put in the times of the frames that were averaged, which are none of one image of the source (C.8.9.4)."""
    start, end = float(frames["start_s"]), float(frames["end_s"])
    for name in ("AcquisitionDate", "AcquisitionTime", "DecayFactor"):
        series.pop(name, None)
    series.ActualFrameDuration = round(1000 * float(frames["measured_s"]))
    middle = (start + end) / 2
    series.FrameReferenceTime = format_number_as_ds(1000 * middle)
    if half_life and middle >= 0:
        series.DecayFactor = format_number_as_ds(2.0 ** (middle / half_life))


def write_color_series(
    folder: Path,
    rgb: np.ndarray,
    affine: np.ndarray,
    derivation: Derivation,
    *,
    origin: SourceReference,
    key: str = "",
) -> None:
    """Write a colour volume as a series of Secondary Captures that know where they lie.

    Position and orientation are more than the class asks for: a Standard Extended SOP Class (PS3.2 3.11.2).

    Args:
        folder: Folder of the series.
        rgb: **[X, Y, Z, 3]**, uint8.
        affine: **[4, 4]**, voxel index to RAS mm.
        derivation: Where it comes from.
        origin: Source in whose study it is filed.
        key: What the colours mean, for the derivation description.

    Raises:
        DicomError: If DICOM cannot hold the grid.

    Reference:
        A.8.1, C.8.6.
    """
    grid, frames = _colour(rgb, affine)
    with guarded():
        series = _series(derivation, origin, "fused_rgb", "OT", uid.SecondaryCaptureImageStorage)
        _explain(series, key)
        series.ConversionType, series.PatientOrientation = "WSD", grid.patient_orientation

        def image(k: int) -> Dataset:
            return _slice(series, derivation, grid, frames, k)

        save(folder, map(image, range(len(frames))))


def write_color_multiframe(
    folder: Path,
    rgb: np.ndarray,
    affine: np.ndarray,
    derivation: Derivation,
    *,
    origin: SourceReference,
    key: str = "",
) -> None:
    """Write a colour volume as one Multi-frame True Color Secondary Capture, with functional groups for its planes.

    Args:
        folder: Folder of the series.
        rgb: **[X, Y, Z, 3]**, uint8.
        affine: **[4, 4]**, voxel index to RAS mm.
        derivation: Where it comes from.
        origin: Source in whose study it is filed.
        key: What the colours mean, for the derivation description.

    Raises:
        DicomError: If DICOM cannot hold the grid.

    Reference:
        A.8.5, C.7.6.16, C.8.6.3.
    """
    grid, frames = _colour(rgb, affine)
    name = "fused_rgb_multiframe"
    with guarded():
        image = _series(derivation, origin, name, "OT", uid.MultiFrameTrueColorSecondaryCaptureImageStorage)
        _explain(image, key)
        image.ConversionType, image.PatientOrientation = "WSD", grid.patient_orientation
        image.NumberOfFrames = len(frames)
        image.FrameIncrementPointer = 0x00182005
        image.SliceLocationVector = [format_number_as_ds(k * float(grid.thickness)) for k in range(len(frames))]
        measures, orientation = Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness = grid.pixel_spacing, grid.thickness
        measures.SpacingBetweenSlices = grid.thickness
        orientation.ImageOrientationPatient = grid.orientation
        shared = Dataset()
        shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
        image.SharedFunctionalGroupsSequence = [shared]
        image.PerFrameFunctionalGroupsSequence = [_plane(position) for position in grid.positions]
        _set_pixels(image, frames, frames.shape[1:3])
        save(folder, [finished(image, derivation.uid(name, 1), 1)])


def pet_units(suv: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return Units and SUV Type of values by their SUV record; None and None: as in the source's headers."""
    tags = suv["tags"]
    units, kind = tags.get("Units"), tags.get("SUVType")
    if suv["kind"] != "none" and not (suv["factor"] == 1.0 and units in ("GML", "CM2ML")):
        unit = suv_unit(suv["kind"])
        return unit.dicom_units, unit.suv_type
    return (None, None) if units is None or "OTHER" in (units, kind) else (units, kind)


def _series(derivation: Derivation, origin: SourceReference, name: str, modality: str, sop_class: str) -> Dataset:
    """Return what all images of a series share."""
    series = common_elements(derivation, origin, name=name, modality=modality, sop_class=sop_class)
    add_derivation(series, derivation)
    return series


def _explain(image: Dataset, key: str) -> None:
    """Add what the colours mean to the derivation description (ST: 1024 characters at most, C.7.6.1.1.3)."""
    image.DerivationDescription = f"{image.DerivationDescription} {key}".strip()[:1024]


def _slice(
    series: Dataset, derivation: Derivation, grid: Grid, frames: np.ndarray, k: int, **more: int | str
) -> Dataset:
    """Return one single-frame image of a series (C.7.6.2)."""
    image = Dataset()
    image.update(series)
    image.ImagePositionPatient, image.ImageOrientationPatient = grid.positions[k], grid.orientation
    image.PixelSpacing, image.SliceThickness = grid.pixel_spacing, grid.thickness
    for name, value in more.items():
        setattr(image, name, value)
    _set_pixels(image, frames[k], frames.shape[1:3])
    return finished(image, derivation.uid(series.SeriesInstanceUID, k + 1), k + 1)


def _set_pixels(image: Dataset, pixels: np.ndarray, size: tuple[int, ...]) -> None:
    """Put in pixels, int16 and grey or uint8 and RGB (C.7.6.3)."""
    image.Rows, image.Columns = size
    image.BitsAllocated = image.BitsStored = 8 * pixels.itemsize
    image.HighBit, image.PixelRepresentation = image.BitsStored - 1, int(pixels.dtype.kind == "i")
    if pixels.itemsize == 1:
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    else:
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    data = pixels.tobytes()
    image.PixelData = data + bytes(len(data) % 2)
    image["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"


def _plane(position: list[str]) -> Dataset:
    group, plane = Dataset(), Dataset()
    plane.ImagePositionPatient = position
    group.PlanePositionSequence = [plane]
    return group


def _colour(rgb: np.ndarray, affine: np.ndarray) -> tuple[Grid, np.ndarray]:
    if rgb.dtype != np.uint8 or rgb.ndim != 4 or rgb.shape[3] != 3:
        raise DicomError(f"A colour volume must be [X, Y, Z, 3] of uint8, got {rgb.shape} of {rgb.dtype}; convert it.")
    return grid_and_frames(rgb, affine)
