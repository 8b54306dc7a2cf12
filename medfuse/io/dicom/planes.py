"""Where the frames of a file lie in the patient, and how their values scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medfuse.errors import DicomError
from medfuse.io.dicom.values import Values

_GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")


@dataclass(frozen=True, eq=False)
class Planes:
    """The planes of the N frames of a file, or of a series (PS3.3 C.7.6.2, C.7.6.16.2, C.11.1).

    Attributes:
        position: **[N, 3]**, centre of the first pixel, LPS mm.
        orientation: **[N, 6]**, direction along a row, then along a column; unit vectors in LPS.
        spacing: **[N, 2]**, distance of rows, then of columns, mm.
        slope: **[N]**.
        intercept: **[N]**; the value of a pixel is `slope * stored + intercept`.
    """

    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray


def read_planes(values: Values, frames: int, *, enhanced: bool, modality: str) -> Planes:
    """Read the planes of a file: a classic image has one, an enhanced one tells them in functional groups.

    Raises:
        DicomError: If something is missing or makes no sense.
    """
    if values.raw("ModalityLUTSequence") is not None:
        raise DicomError("must scale by slope and intercept, got a table (ModalityLUTSequence)")
    if modality == "NM":
        return _reconstructed(values, frames)
    if not enhanced:
        if frames != 1:
            raise DicomError(f"must hold one frame, as its class says, got {frames}")
        return _gathered([(values, values, values, values)], modality)
    shared, per_frame = values.items("SharedFunctionalGroupsSequence"), values.items("PerFrameFunctionalGroupsSequence")
    if len(per_frame) != frames:
        raise DicomError(f"must describe each of its {frames} frames, got {len(per_frame)} functional groups")

    def group(frame: Values, name: str) -> Values | None:
        return next((items[0] for place in (frame, *shared) if (items := place.items(name))), None)

    described = []
    for frame in per_frame:
        groups = [group(frame, name) for name in _GROUPS]
        if None in groups:
            raise DicomError(f"must have a {_GROUPS[groups.index(None)]} for each frame, got none")
        scaling = group(frame, "PixelValueTransformationSequence") or values
        described.append((*(g for g in groups if g), scaling))
    return _gathered(described, modality)


def _reconstructed(values: Values, frames: int) -> Planes:
    """Read the planes of a reconstructed SPECT, of which the first alone has a position (PS3.3 C.8.4.11, C.8.4.15).

    Slice k lies `(k - 1) SpacingBetweenSlices` along the normal of the first, which is the cross product of the
    directions of its row and column; the sign of the spacing tells on which side of it.
    """
    detectors = values.items("DetectorInformationSequence")
    place = next((d for d in (*detectors, values) if d.raw("ImagePositionPatient") is not None), None)
    turn = next((d for d in (*detectors, values) if d.raw("ImageOrientationPatient") is not None), None)
    if place is None or turn is None:
        raise DicomError("must have ImagePositionPatient and ImageOrientationPatient of its first slice, got none")
    step = values.number("SpacingBetweenSlices")
    if not step:
        raise DicomError("must have SpacingBetweenSlices, got none; convert it to NIfTI")
    vector = values.numbers("SliceVector", frames) if values.raw("SliceVector") is not None else range(1, frames + 1)
    first = _gathered([(place, turn, values, values)], "NM")
    normal = np.cross(first.orientation[0, :3], first.orientation[0, 3:])
    position = first.position + (np.asarray(vector, np.float64)[:, None] - 1) * step * normal
    repeated = (np.repeat(v, frames, 0) for v in (first.orientation, first.spacing, first.slope, first.intercept))
    return Planes(position, *repeated)


def _gathered(frames: Sequence[tuple[Values, ...]], modality: str) -> Planes:
    """Read each frame's position, orientation, spacing and scaling from where they are."""
    table = []
    for position, orientation, measures, scaling in frames:
        slope, intercept = scaling.number("RescaleSlope"), scaling.number("RescaleIntercept")
        if slope is None and modality not in ("MR", "NM"):  # type 1 for CT and PET; classic MR and NM images have none
            raise DicomError("must have a finite number as RescaleSlope, got none")
        if slope is not None and slope <= 0:
            raise DicomError(f"must have a RescaleSlope above 0, got {slope:g}")
        if (slope is None) != (intercept is None):
            raise DicomError("must have both RescaleSlope and RescaleIntercept, got one of them")
        table.append(
            (
                *position.numbers("ImagePositionPatient", 3),
                *orientation.numbers("ImageOrientationPatient", 6),
                *measures.numbers("PixelSpacing", 2),
                1.0 if slope is None else slope,
                intercept or 0.0,
            )
        )
    rows = np.array(table, dtype=np.float64)
    return Planes(rows[:, :3], rows[:, 3:9], rows[:, 9:11], rows[:, 11], rows[:, 12])
