"""What all derived DICOM objects have in common: a grid, an identity, where they come from, and that they are research.

The sections are those of DICOM PS3.3, where not said otherwise.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from medfuse.about import NOTICE, __version__
from medfuse.errors import DicomError
from medfuse.io.atomic import atomic_folder
from medfuse.io.dicom.header import MODEL, quiet
from medfuse.io.dicom.reference import SourceReference

MAKER = "The medfuse authors"  # dcm2niix takes a maker whose name begins with "med" for Mediso
LINEAR = "LINEAR_EXACT"  # windows may be narrower than 1 (C.11.2.1.3.2)
_NUMBERS = {  # of series
    "restored": 9001, "fused": 9002, "fused_rgb": 9003, "fused_rgb_multiframe": 9004, "std": 9005, "regions": 9006,
    "measurements": 9007,
}  # fmt: skip
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "medfuse")
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ANGLE = 1e-3  # cosine that rows and columns may have, as in series that are read
_OBLIQUE = 1e-2  # part of an axis in a direction that is worth a letter
_TILT = 2e-3  # sine of the angle by which the stack may lean, likewise
_SEQUENCE_HEAD = 12  # bytes of tag, VR and length (PS3.5 7.1.2)
_MAX_SIZE = 32767  # rows and columns, likewise


@dataclass(frozen=True, eq=False)
class Derivation:
    """Where the objects of a case come from.

    Attributes:
        sources: The DICOM series that they were made from.
        frame_of_reference: UID of the world that their affines lead to.
        key: Text that differs where inputs, configuration or results differ; all UIDs follow from it.
        deidentified: Whether to leave blank what names the patient.
        created: When.
    """

    sources: tuple[SourceReference, ...]
    frame_of_reference: str
    key: str
    deidentified: bool = False
    created: datetime = field(default_factory=datetime.now)

    def uid(self, *parts: object) -> str:
        """Return the UID of a part by its names: for equal keys always the same (PS3.5 B.2)."""
        return make_uid(self.key, *parts)

    @cached_property
    def source_images(self) -> RawDataElement:
        """A Source Image Sequence of every image of the sources (C.7.6.1.1.4), encoded once: each slice has it."""
        purpose = [code_item(codes.DCM.SourceImageForImageProcessingOperation)]
        images = Dataset()
        images.SourceImageSequence = [item for s in self.sources for item in _references(s.instances)]
        for item in images.SourceImageSequence:
            item.PurposeOfReferenceCodeSequence = purpose
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, images)
        value = buffer.getvalue()[_SEQUENCE_HEAD:]
        return RawDataElement(Tag("SourceImageSequence"), "SQ", len(value), value, 0, False, True)


def make_uid(*parts: object) -> str:
    """Return a UID that follows from the parts' texts (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}"


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the frames of a volume lie, as DICOM says it: decimal strings (C.7.6.2).

    Attributes:
        orientation: **[6]**, direction along a row, then along a column, LPS.
        pixel_spacing: Distance of rows, then of columns, mm.
        thickness: Distance of slices, mm.
        positions: **[Z, 3]**, centre of the first pixel of each frame, LPS mm.
    """

    orientation: list[str]
    pixel_spacing: list[str]
    thickness: str
    positions: list[list[str]]

    @property
    def patient_orientation(self) -> list[str]:
        """Letters of the patient's axes along a row, then along a column, the nearest first (C.7.6.1.1.1)."""
        texts = []
        for direction in np.array([float(v) for v in self.orientation]).reshape(2, 3):
            axes = [a for a in np.argsort(-np.abs(direction), kind="stable") if abs(direction[a]) > _OBLIQUE]
            texts.append("".join("LPH"[a] if direction[a] > 0 else "RAF"[a] for a in axes))
        return texts


def grid_and_frames(volume: np.ndarray, affine: np.ndarray) -> tuple[Grid, np.ndarray]:
    """Turn a volume **[X, Y, Z, ...]** and its affine (RAS mm) into a grid and frames **[slices, rows, columns, ...]**.

    Frames come in the order of their normal, as readers sort them.

    Raises:
        DicomError: If DICOM cannot hold them.
    """
    if min(volume.shape[:3]) < 1 or max(volume.shape[:3]) > _MAX_SIZE:
        raise DicomError(f"A volume must have 1 to {_MAX_SIZE} voxels along each axis, got {volume.shape}; crop it.")
    if not np.isfinite(volume).all() or not np.isfinite(affine).all():
        raise DicomError("A volume must be finite for DICOM, got NaN or infinity; do without DICOM output.")
    lps = _RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    if spacing.min() <= 0:
        raise DicomError(f"Voxels must have a size, got {spacing.min():g} mm; repair the affine.")
    along_row, along_column, step = (lps[:3, :3] / spacing).T
    if abs(along_row @ along_column) > _ANGLE or max(abs(step @ along_row), abs(step @ along_column)) > _TILT:
        raise DicomError("Axes must be at right angles for DICOM, got a sheared grid; do without DICOM output.")
    frames = volume.swapaxes(0, 2)
    positions = lps[:3, 3] + np.arange(len(frames))[:, None] * lps[:3, 2]
    if np.cross(along_row, along_column) @ step < 0:
        frames, positions = frames[::-1], positions[::-1]
    grid = Grid(
        orientation=_decimals((*along_row, *along_column)),
        pixel_spacing=_decimals((spacing[1], spacing[0])),
        thickness=_decimals(spacing[2:])[0],
        positions=[_decimals(p) for p in positions],
    )
    return grid, frames


def common_elements(
    derivation: Derivation, origin: SourceReference, *, name: str, modality: str, sop_class: str
) -> Dataset:
    """Return what every object of a series says of patient, study, series, equipment and world.

    Args:
        derivation: Where it comes from.
        origin: Source whose study it belongs to.
        name: Of the series, such as `pet_restored`; UIDs depend on it.
        modality: Modality (0008,0060).
        sop_class: SOP class UID.

    Reference:
        C.7.1.1, C.7.2.1, C.7.3.1, C.7.4.1, C.7.5.2, C.12.1.
    """
    series = origin.identity(deidentified=derivation.deidentified)
    series.SOPClassUID = sop_class
    series.StudyInstanceUID = origin.study or derivation.uid("study")
    series.SeriesInstanceUID = derivation.uid(name)
    series.Modality, series.SeriesNumber = modality, _NUMBERS[name if name in _NUMBERS else name.rpartition("_")[2]]
    series.SeriesDescription = f"medfuse {name} - RESEARCH USE ONLY"
    series.FrameOfReferenceUID, series.PositionReferenceIndicator = derivation.frame_of_reference, ""
    series.Manufacturer, series.ManufacturerModelName, series.SoftwareVersions = MAKER, MODEL, __version__
    series.DeviceSerialNumber = "0"
    day, time = derivation.created.strftime("%Y%m%d"), derivation.created.strftime("%H%M%S.%f")
    series.InstanceCreationDate = series.ContentDate = day
    series.InstanceCreationTime = series.ContentTime = time
    equipment = [_equipment(codes.DCM.ProcessingEquipment, MAKER, MODEL, __version__)]
    for source in derivation.sources:
        maker, model = (str(source.header.get(n) or "") for n in ("Manufacturer", "ManufacturerModelName"))
        equipment.append(_equipment(codes.DCM.AcquisitionEquipment, maker or "unknown", model))
    series.ContributingEquipmentSequence = equipment
    return series


def add_derivation(dataset: Dataset, derivation: Derivation) -> None:
    """Say that an image is derived, from what, and how far to be trusted (C.7.6.1 and C.12.4)."""
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.DerivationDescription = derivation_text()
    dataset.DerivationCodeSequence = [code_item(codes.DCM.SpatialResampling)]  # CID 7203 knows no restoration or fusion
    dataset["SourceImageSequence"] = derivation.source_images
    dataset.ImageComments = NOTICE
    dataset.BurnedInAnnotation = "NO"
    add_compression(dataset, derivation)


def add_compression(dataset: Dataset, derivation: Derivation) -> None:
    """Say whether a source had lost something by compression: what is derived from it has, too (C.7.6.1.1.5)."""
    dataset.LossyImageCompression = "00"
    for header in (source.header for source in derivation.sources):
        if header.get("LossyImageCompression") == "01":
            dataset.LossyImageCompression = "01"
            for name in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
                if name in header:
                    setattr(dataset, name, header.get(name))
            return


def add_common_references(dataset: Dataset, sources: Iterable[SourceReference]) -> None:
    """List all images that an object refers to, by series, and by study where that is another one (C.12.2)."""
    by_study: dict[str, list[Dataset]] = defaultdict(list)
    for source in sources:
        series = Dataset()
        series.SeriesInstanceUID, series.ReferencedInstanceSequence = source.series, _references(source.instances)
        by_study[source.study].append(series)
    own = by_study.pop(str(dataset.StudyInstanceUID), [])
    if own:
        dataset.ReferencedSeriesSequence = own
    others = []
    for study, items in by_study.items():
        other = Dataset()
        other.StudyInstanceUID, other.ReferencedSeriesSequence = study, items
        others.append(other)
    if others:
        dataset.StudiesContainingOtherReferencedInstancesSequence = others


def derivation_text() -> str:
    """Return what a Derivation Description says."""
    return f"Registered, restored and fused by medfuse {__version__}. {NOTICE}"


def code_item(code: Code) -> Dataset:
    """Return the item of a code sequence (Table 8.8-1)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def finished(dataset: Dataset, instance: str, number: int) -> Dataset:
    """Give an object its own UID and number, and what a file needs (PS3.10 7.1)."""
    dataset.SOPInstanceUID, dataset.InstanceNumber = instance, number
    dataset.preamble = bytes(128)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(instance)
    dataset.file_meta.ImplementationClassUID = UID(make_uid("implementation"))
    dataset.file_meta.ImplementationVersionName = f"medfuse {__version__}"[:16]
    # what is encoded already, the list of source images, then goes into the file as it is
    dataset.set_original_encoding(False, True, dataset._character_set)
    return dataset


def _references(instances: Sequence[tuple[str, str]]) -> list[Dataset]:
    items = []
    for sop_class, instance in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        items.append(item)
    return items


def _equipment(purpose: Code, maker: str, model: str, version: str = "") -> Dataset:
    item = Dataset()
    item.Manufacturer = maker.encode("ascii", "replace").decode()[:64]
    if model:
        item.ManufacturerModelName = model.encode("ascii", "replace").decode()[:64]
    if version:
        item.SoftwareVersions, item.ContributionDescription = version, NOTICE
    item.PurposeOfReferenceCodeSequence = [code_item(purpose)]
    return item


def _decimals(values: Iterable[float]) -> list[str]:
    """Return numbers as texts of at most 16 characters (PS3.5 6.2, DS)."""
    return [format_number_as_ds(float(v)) for v in values]


def display_window(ends: tuple[float, float]) -> tuple[str, str]:
    """Return centre and width (C.11.2); the width must not be 0."""
    low, high = map(float, ends)
    return format_number_as_ds((low + high) / 2), format_number_as_ds(max(high - low, 1e-6))


@contextmanager
def guarded() -> Iterator[None]:
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


def save(folder: Path, images: Iterable[Dataset]) -> None:
    """Write the images of a series, in their order, into a folder that appears complete or not at all."""
    with atomic_folder(folder) as temporary:
        for k, image in enumerate(images, start=1):
            image.save_as(temporary / f"{k:04d}.dcm", enforce_file_format=True)
