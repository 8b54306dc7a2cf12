"""Results as DICOM: restored PET, fused volume and colour fusion, as series that a PACS can file and readers can place.

Each function takes a plain volume **[X, Y, Z]** and its affine, and writes one series into a folder of its own, which
appears complete or not at all. The sections are those of DICOM PS3.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import format_number_as_ds

from medfuse import __version__
from medfuse.errors import DicomError
from medfuse.io.atomic import atomic_folder
from medfuse.io.dicom.derived import (
    MAKER,
    Derivation,
    Grid,
    add_common_references,
    add_compression,
    add_derivation,
    code_item,
    common_elements,
    derivation_text,
    finished,
    grid_and_frames,
    make_uid,
)
from medfuse.io.dicom.header import quiet
from medfuse.io.dicom.reference import SourceReference, read_reference

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

NO_UNITS = codes.UCUM.NoUnits
# Units (0054,1001) and SUV Type (0054,1006) of what `medfuse.io.suv` computes (C.8.9.1)
_SUV = {
    "bw": ("GML", "BW"),
    "lbm": ("GML", "LBMJANMA"),
    "lbm-james": ("GML", "LBMJAMES128"),
    "bsa": ("CM2ML", "BSA"),
    "ibw": ("GML", "IBW"),
}
_UCUM = {  # PS3.16 CID 84 and 85
    "SUV": Code("{SUVbw}g/ml", "UCUM", "Standardized Uptake Value body weight"),
    "SUVlbm": Code("{SUVlbm}g/ml", "UCUM", "Standardized Uptake Value lean body mass"),
    "SUVbsa": Code("{SUVbsa}cm2/ml", "UCUM", "Standardized Uptake Value body surface area"),
    "SUVibw": Code("{SUVibw}g/ml", "UCUM", "Standardized Uptake Value ideal body weight"),
    "Bq/ml": Code("Bq/ml", "UCUM", "Becquerels/milliliter"),
    "counts": Code("{counts}", "UCUM", "Counts"),
}
_NUMBERS = {"pet_restored": 9001, "fused": 9002, "fused_rgb": 9003, "fused_rgb_multiframe": 9004}  # of series
_MAX_INT16 = 32767
_LINEAR = "LINEAR_EXACT"  # windows may be narrower than 1 (C.11.2.1.3.2)
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
) -> None:
    """Write a restored PET as a classic PET image series; one slope, each value off by half a quantum at most.

    Times, decay factor and corrections are those of the source's first image by time; what the source lacks stays out.

    Args:
        folder: Folder of the series.
        volume: **[X, Y, Z]**.
        affine: **[4, 4]**, voxel index to RAS mm.
        derivation: Where it comes from.
        pet: The source PET, a classic one, in whose study it is filed.
        units: Units (0054,1001), such as GML for SUV; None: those of the source, with its SUV type.
        suv_type: SUV Type (0054,1006), such as BW; with units only.
        window: Ends of the display window.

    Raises:
        DicomError: If DICOM cannot hold the grid or the values.

    Reference:
        A.21, C.8.9.
    """
    grid, frames = grid_and_frames(np.asarray(volume, dtype=np.float64), affine)
    slope = format_number_as_ds(float(np.abs(frames).max()) / _MAX_INT16 or 1.0)
    stored = np.rint(frames / float(slope)).astype("<i2")
    with _guarded():
        series = _series(derivation, pet, "pet_restored", "PT", uid.PositronEmissionTomographyImageStorage)
        series.update(pet.pet())
        series.ImageType = ["DERIVED", "PRIMARY"]  # no PET is secondary (C.8.9.4.1.1)
        for name in _EMPTY_TEXTS:  # of type 2, as the sequences
            setattr(series, name, series.get(name))
        for name in _EMPTY_SEQUENCES:
            setattr(series, name, series.get(name) or [])
        for agent in series.RadiopharmaceuticalInformationSequence:
            agent.setdefault("RadionuclideCodeSequence", [])
        kind = str((list(series.get("SeriesType") or []) or [""])[0])
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
            series.WindowCenter, series.WindowWidth = _window(window)
            series.VOILUTFunction = _LINEAR

        def image(k: int) -> Dataset:
            return _slice(series, derivation, grid, stored, k, ImageIndex=k + 1)

        _save(folder, map(image, range(len(stored))))


def write_parametric_map(
    folder: Path,
    volume: np.ndarray,
    affine: np.ndarray,
    derivation: Derivation,
    *,
    origin: SourceReference,
    name: str,
    explanation: str,
    unit: Code = NO_UNITS,
    window: tuple[float, float] | None = None,
) -> None:
    """Write a volume as a Parametric Map: one file of float32, in which nothing is rounded.

    Args:
        folder: Folder of the series.
        volume: **[X, Y, Z]**.
        affine: **[4, 4]**, voxel index to RAS mm.
        derivation: Where it comes from.
        origin: Source in whose study it is filed.
        name: `fused` or `pet_restored`.
        explanation: What the values are, at most 64 characters.
        unit: Their UCUM code.
        window: Ends of the display window; None: lowest and highest value.

    Raises:
        DicomError: If DICOM cannot hold the grid or the values.

    Reference:
        A.75, C.8.32.
    """
    grid, frames = grid_and_frames(np.asarray(volume, dtype=np.float32), affine)
    ends = (float(frames.min()), float(frames.max()))
    center, width = _window(window or ends)
    with _guarded():
        common = _series(derivation, origin, name, "OT", uid.ParametricMapStorage, image=False)
        patient = highdicom.CoordinateSystemNames.PATIENT
        image = highdicom.pm.ParametricMap(
            [_template(common, grid, frames.shape)],
            np.ascontiguousarray(frames),
            series_instance_uid=common.SeriesInstanceUID,
            series_number=common.SeriesNumber,
            sop_instance_uid=derivation.uid(name, 1),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name="medfuse",
            software_versions=__version__,
            device_serial_number="0",
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                highdicom.pm.RealWorldValueMapping(
                    name.upper()[:16], explanation[:64], unit, value_range=ends, slope=1.0, intercept=0.0
                )
            ],
            voi_lut_transformations=[
                highdicom.VOILUTTransformation(
                    window_center=float(center), window_width=float(width), voi_lut_function=_LINEAR
                )
            ],
            content_label=name.upper()[:16],
            content_description=explanation[:64],
            pixel_measures=highdicom.PixelMeasuresSequence(
                [float(s) for s in grid.pixel_spacing], float(grid.thickness), float(grid.thickness)
            ),
            plane_orientation=highdicom.PlaneOrientationSequence(patient, [float(v) for v in grid.orientation]),
            plane_positions=[
                highdicom.PlanePositionSequence(patient, [float(v) for v in position]) for position in grid.positions
            ],
        )
        image.update(common)
        derived = Dataset()
        derived.DerivationDescription = derivation_text()
        derived.DerivationCodeSequence = [code_item(codes.DCM.SpatialResampling)]
        derived["SourceImageSequence"] = derivation.source_images
        image.SharedFunctionalGroupsSequence[0].DerivationImageSequence = [derived]
        for frame in image.PerFrameFunctionalGroupsSequence:
            frame.pop("DerivationImageSequence", None)
        for item in (*image.DimensionOrganizationSequence, *image.DimensionIndexSequence):
            item.DimensionOrganizationUID = derivation.uid(name, "dimensions")
        image.pop("ReferencedSeriesSequence", None)
        add_common_references(image, derivation.sources)
        add_compression(image, derivation)
        _save(folder, [finished(image, derivation.uid(name, 1), 1)])


def write_color_series(
    folder: Path, rgb: np.ndarray, affine: np.ndarray, derivation: Derivation, *, origin: SourceReference
) -> None:
    """Write a colour volume as a series of Secondary Captures that know where they lie.

    Position and orientation are more than the class asks for: a Standard Extended SOP Class (PS3.2 3.11.2).

    Args:
        folder: Folder of the series.
        rgb: **[X, Y, Z, 3]**, uint8.
        affine: **[4, 4]**, voxel index to RAS mm.
        derivation: Where it comes from.
        origin: Source in whose study it is filed.

    Raises:
        DicomError: If DICOM cannot hold the grid.

    Reference:
        A.8.1, C.8.6.
    """
    grid, frames = _colour(rgb, affine)
    with _guarded():
        series = _series(derivation, origin, "fused_rgb", "OT", uid.SecondaryCaptureImageStorage)
        series.ConversionType, series.PatientOrientation = "WSD", grid.patient_orientation

        def image(k: int) -> Dataset:
            return _slice(series, derivation, grid, frames, k)

        _save(folder, map(image, range(len(frames))))


def write_color_multiframe(
    folder: Path, rgb: np.ndarray, affine: np.ndarray, derivation: Derivation, *, origin: SourceReference
) -> None:
    """Write a colour volume as one Multi-frame True Color Secondary Capture, with functional groups for its planes.

    Args:
        folder: Folder of the series.
        rgb: **[X, Y, Z, 3]**, uint8.
        affine: **[4, 4]**, voxel index to RAS mm.
        derivation: Where it comes from.
        origin: Source in whose study it is filed.

    Raises:
        DicomError: If DICOM cannot hold the grid.

    Reference:
        A.8.5, C.7.6.16, C.8.6.3.
    """
    grid, frames = _colour(rgb, affine)
    name = "fused_rgb_multiframe"
    with _guarded():
        image = _series(derivation, origin, name, "OT", uid.MultiFrameTrueColorSecondaryCaptureImageStorage)
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
        _save(folder, [finished(image, derivation.uid(name, 1), 1)])


def pet_units(suv: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return Units and SUV Type of values by their SUV record; None and None: as in the source's headers."""
    tags = suv["tags"]
    units, kind = tags.get("Units"), tags.get("SUVType")
    if suv["kind"] != "none" and not (suv["factor"] == 1.0 and units in ("GML", "CM2ML")):
        return _SUV[suv["kind"]]
    return (None, None) if units is None or "OTHER" in (units, kind) else (units, kind)


def ucum(unit: str) -> Code:
    """Return the UCUM code of a unit of medfuse; that of no unit for any other text."""
    return _UCUM.get(unit, NO_UNITS)


def _series(
    derivation: Derivation, origin: SourceReference, name: str, modality: str, sop_class: str, *, image: bool = True
) -> Dataset:
    """Return what all images of a series share."""
    series = common_elements(
        derivation, origin, name=name, modality=modality, sop_class=sop_class, number=_NUMBERS[name]
    )
    if image:
        add_derivation(series, derivation)
    return series


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


def _template(common: Dataset, grid: Grid, shape: tuple[int, ...]) -> Dataset:
    """Return a nameless image on the grid, from which highdicom takes the world; who the patient is comes after."""
    image = Dataset()
    for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(image, name, "")
    for name in ("StudyDate", "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator"):
        setattr(image, name, "")
    image.SOPClassUID, image.SOPInstanceUID = uid.MRImageStorage, common.SeriesInstanceUID
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(image, name, common.get(name))
    image.Rows, image.Columns = shape[1:]
    image.ImagePositionPatient, image.ImageOrientationPatient = grid.positions[0], grid.orientation
    image.PixelSpacing, image.SliceThickness = grid.pixel_spacing, grid.thickness
    return image


def _colour(rgb: np.ndarray, affine: np.ndarray) -> tuple[Grid, np.ndarray]:
    if rgb.dtype != np.uint8 or rgb.ndim != 4 or rgb.shape[3] != 3:
        raise DicomError(f"A colour volume must be [X, Y, Z, 3] of uint8, got {rgb.shape} of {rgb.dtype}; convert it.")
    return grid_and_frames(rgb, affine)


def _window(ends: tuple[float, float]) -> tuple[str, str]:
    """Return centre and width (C.11.2); the width must not be 0."""
    low, high = map(float, ends)
    return format_number_as_ds((low + high) / 2), format_number_as_ds(max(high - low, 1e-6))


@contextmanager
def _guarded() -> Iterator[None]:
    """Turn errors of any kind but those of the disk into one of ours: pydicom's repeat values of the header."""
    try:
        with quiet():
            yield
    except (DicomError, OSError):
        raise
    except Exception:
        raise DicomError(
            "Headers of the sources must be valid for DICOM output, got others; do without DICOM output."
        ) from None


def _save(folder: Path, images: Iterable[Dataset]) -> None:
    with atomic_folder(folder) as temporary:
        for k, image in enumerate(images, start=1):
            image.save_as(temporary / f"{k:04d}.dcm", enforce_file_format=True)
