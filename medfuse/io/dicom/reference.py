"""What a derived DICOM object needs of the series that it was made from.

Here, and nowhere else, headers that name a patient are read: a PACS files an object by them. They go into DICOM files
only, never into a message, a log or another output.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pydicom
from pydicom import uid
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from medfuse.errors import DicomError
from medfuse.io.dicom.header import Header, quiet
from medfuse.io.dicom.reader import open_series

# PS3.3 C.7.1.1, C.7.2.1 and C.7.2.2; of type 2: there, if empty
_NEEDED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip
_NAMING = ("PatientName", "PatientID", "PatientBirthDate", "ReferringPhysicianName", "StudyID", "AccessionNumber")
_NAMING_OPTIONAL = ("IssuerOfPatientID", "StudyDescription")
_OPTIONAL = (
    *_NAMING_OPTIONAL, "SpecificCharacterSet", "TimezoneOffsetFromUTC", "PatientAge", "PatientSize", "PatientWeight",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
)  # fmt: skip
_SERIES = ("BodyPartExamined", "Laterality")
_UNPAIRED = (  # parts of the body of which there is one (PS3.16 Annex L)
    "ABDOMEN", "ABDOMENPELVIS", "BLADDER", "BRAIN", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "CSPINE", "ESOPHAGUS",
    "HEAD", "HEADNECK", "HEART", "LIVER", "LSPINE", "LSSPINE", "MEDIASTINUM", "NECK", "NECKCHEST", "PANCREAS", "PELVIS",
    "PROSTATE", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STOMACH", "THYROID", "TLSPINE", "TSPINE", "UTERUS", "WHOLEBODY",
)  # fmt: skip
# PS3.3 C.8.9.1 to C.8.9.5, and what SUV rests on
_PET = (
    "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime", "ActualFrameDuration", "FrameReferenceTime",
    "Units", "SUVType", "CountsSource", "SeriesType", "CorrectedImage", "CollimatorType", "RandomsCorrectionMethod",
    "AttenuationCorrectionMethod", "ScatterCorrectionMethod", "DecayCorrection", "ReconstructionMethod", "DecayFactor",
    "DoseCalibrationFactor", "RadiopharmaceuticalInformationSequence", "PatientOrientationCodeSequence",
    "PatientGantryRelationshipCodeSequence",
)  # fmt: skip
_MAX_STUDY_ID = 16  # PS3.5 6.2, SH; real files overstep it, and a study is found by its UID
_OTHERS = (
    "SOPClassUID", "StudyInstanceUID", "Manufacturer", "ManufacturerModelName", "LossyImageCompression",
    "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
_TAGS = [cast(int, tag_for_keyword(name)) for name in (*_NEEDED, *_OPTIONAL, *_SERIES, *_PET, *_OTHERS)]


@dataclass(frozen=True, eq=False)
class SourceReference:
    """A source series, as derived objects refer to it.

    Attributes:
        study: Study Instance UID, or empty.
        series: Series Instance UID.
        frame_of_reference: UID, or empty.
        instances: SOP class and SOP instance of each file.
        header: Elements of its first file, by time where it is a PET. Not to be changed, logged or shown.
    """

    study: str
    series: str
    frame_of_reference: str
    instances: tuple[tuple[str, str], ...]
    header: Dataset

    @property
    def is_classic_pet(self) -> bool:
        """Whether it holds one PET image in each file."""
        return bool(self.header.SOPClassUID == uid.PositronEmissionTomographyImageStorage)

    @property
    def patient(self) -> str:
        """Patient ID: to be compared, never shown."""
        return str(self.header.get("PatientID") or "")

    def identity(self, *, deidentified: bool = False) -> Dataset:
        """Return the elements by which a PACS files an object: patient, study, body part.

        Args:
            deidentified: Leave what names the patient or the examination blank. Dates, UIDs, sex and size stay.
        """
        found = _copied(self.header, (*_OPTIONAL, *_SERIES))
        for name in _NEEDED:
            setattr(found, name, self.header.get(name))
        found.StudyID = str(found.StudyID or "")[:_MAX_STUDY_ID]
        if found.get("BodyPartExamined") not in _UNPAIRED and "Laterality" not in found:
            found.Laterality = ""  # of type 2C, for paired parts (C.7.3.1); empty: not known
        for name in _NAMING if deidentified else ():
            setattr(found, name, "")
        for name in _NAMING_OPTIONAL if deidentified else ():
            if name in found:
                delattr(found, name)
        return found

    def pet(self) -> Dataset:
        """Return the elements of the modules of a PET series (PS3.3 C.8.9)."""
        return _copied(self.header, _PET)


def read_reference(files: Sequence[str | Path]) -> SourceReference:
    """Read what derived objects need of a series.

    Args:
        files: All files of one usable series.

    Raises:
        DicomError: If they are not, or the headers cannot be read.
    """
    series = open_series(files)
    first = min(series.headers, key=_time)
    try:
        with quiet():
            read = pydicom.dcmread(first.path, stop_before_pixels=True, force=True, specific_tags=cast(Any, _TAGS))
            _drop_unreadable(read, needed=(*_NEEDED, *_OTHERS))
            read.decode()
            header = _copied(read, tuple(e.keyword for e in read if e.keyword))
    except Exception:  # pydicom's errors repeat values of the header
        raise DicomError(
            f"Series {series.uid} must have readable headers for DICOM output, got broken ones; do without it."
        ) from None
    return SourceReference(
        study=str(header.get("StudyInstanceUID") or ""),
        series=series.uid,
        frame_of_reference=series.frame_of_reference,
        instances=tuple((h.sop_class, h.instance) for h in series.headers),
        header=header,
    )


def _time(header: Header) -> tuple[int, float]:
    acquired = header.pet.acquired
    return (acquired.day or 0, acquired.second) if acquired is not None else (0, 0.0)


def _drop_unreadable(dataset: Dataset, needed: Sequence[str] = ()) -> None:
    """Remove malformed elements, also in sequences: an object without them can still be filed.

    Raises:
        Exception: Of any kind, for one that is needed.
    """
    for tag in list(dataset.keys()):
        try:  # pydicom converts a value when it is asked for, or hands it on as a text that it will not write
            element = DataElement(tag, dataset[tag].VR, dataset[tag].value)
        except Exception:
            if keyword_for_tag(tag) in needed:
                raise
            del dataset[tag]
            continue
        for item in element.value if element.VR == "SQ" else ():
            _drop_unreadable(item)


def _copied(source: Dataset, names: Sequence[str]) -> Dataset:
    """Return copies of those elements that have a value; in sequences, too, nothing private."""
    copy = Dataset()
    for name in names:
        if name in source and not source[name].is_empty:
            copy.add_new(name, dictionary_VR(name), deepcopy(source[name].value))
    copy.remove_private_tags()
    return copy
