"""Volumes of floating point values as DICOM Parametric Maps. The sections are those of DICOM PS3.3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medfuse.about import __version__
from medfuse.io.dicom.derived import (
    LINEAR,
    MAKER,
    Derivation,
    Grid,
    add_common_references,
    add_compression,
    code_item,
    common_elements,
    derivation_text,
    display_window,
    finished,
    grid_and_frames,
    guarded,
    save,
)
from medfuse.io.dicom.header import MODEL
from medfuse.io.dicom.reference import SourceReference
from medfuse.io.units import find_unit

NO_UNITS = codes.UCUM.NoUnits


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
        name: Of the series, such as `fused` or `pet_restored`.
        explanation: What the values are, at most 64 characters.
        unit: Their UCUM code.
        window: Ends of the display window; None: lowest and highest value.

    Raises:
        DicomError: If DICOM cannot hold the grid or the values.

    Reference:
        A.75, C.8.32.
    """
    grid, frames = grid_and_frames(np.asarray(volume, dtype=np.float32), affine)
    with guarded():
        common = common_elements(derivation, origin, name=name, modality="OT", sop_class=uid.ParametricMapStorage)
        image = _map(grid, frames, common, name.upper()[:16], explanation[:64], unit, window)
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
        save(folder, [finished(image, derivation.uid(name, 1), 1)])


def ucum(unit: str) -> Code:
    """Return the UCUM code of a unit, however it is written; that of no unit for any other text."""
    known = find_unit(unit)
    return Code(known.ucum, "UCUM", known.meaning) if known and known.ucum else NO_UNITS


def _map(
    grid: Grid,
    frames: np.ndarray,
    common: Dataset,
    label: str,
    explanation: str,
    unit: Code,
    window: tuple[float, float] | None,
) -> Dataset:
    """Return a Parametric Map by highdicom, of no one and from nowhere yet."""
    ends = (float(frames.min()), float(frames.max()))
    center, width = display_window(window or ends)
    return highdicom.pm.ParametricMap(
        [template(common, grid, frames.shape)],
        np.ascontiguousarray(frames),
        series_instance_uid=common.SeriesInstanceUID,
        series_number=common.SeriesNumber,
        sop_instance_uid=common.SeriesInstanceUID,
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MODEL,
        software_versions=__version__,
        device_serial_number="0",
        contains_recognizable_visual_features=True,  # a head has a face
        real_world_value_mappings=[
            highdicom.pm.RealWorldValueMapping(label, explanation, unit, value_range=ends, slope=1.0, intercept=0.0)
        ],
        voi_lut_transformations=[
            highdicom.VOILUTTransformation(
                window_center=float(center), window_width=float(width), voi_lut_function=LINEAR
            )
        ],
        content_label=label,
        content_description=explanation,
        **frames_at(grid),
    )


def frames_at(grid: Grid) -> dict[str, Any]:
    """Return where the frames of a grid lie, as highdicom's objects take it."""
    patient = highdicom.CoordinateSystemNames.PATIENT
    spacing, thickness = [float(s) for s in grid.pixel_spacing], float(grid.thickness)
    return {
        "pixel_measures": highdicom.PixelMeasuresSequence(spacing, thickness, thickness),
        "plane_orientation": highdicom.PlaneOrientationSequence(patient, [float(v) for v in grid.orientation]),
        "plane_positions": [
            highdicom.PlanePositionSequence(patient, [float(v) for v in position]) for position in grid.positions
        ],
    }


def template(common: Dataset, grid: Grid, shape: tuple[int, ...]) -> Dataset:
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
