"""What is said of DICOM that is no CT, MR, PET or SPECT image: what it is, and the way out."""

from __future__ import annotations

from collections.abc import Mapping

from pydicom import uid

from medfuse.io.modalities import of_dicom

_NM = (uid.NuclearMedicineImageStorage,)
_PICTURES = (
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
)
_REMEDY = {
    **dict.fromkeys(
        _NM,
        "planar nuclear medicine, projections or a gated SPECT (NM); give the reconstructed SPECT, whose Image Type "
        "says RECON TOMO, or convert it to NIfTI with dcm2niix",
    ),
    **dict.fromkeys(_PICTURES, "pictures of a screen (Secondary Capture); give the images that they were made of"),
    uid.RawDataStorage: "raw data; give the reconstructed images",
    uid.EncapsulatedPDFStorage: "a document; give the images",
    uid.ParametricMapStorage: "a parametric map; convert it to NIfTI",
    uid.SegmentationStorage: "a segmentation; give it to --mask",
    uid.RTStructureSetStorage: "structures of radiotherapy; give them to --mask, and here their images",
}


def class_name(sop_class: str) -> str:
    """Return the name of a SOP class, by the dictionary: a UID of a file may be any text."""
    return uid.UID_dictionary[sop_class][0] if sop_class in uid.UID_dictionary else "another SOP class"


def describe(classes: Mapping[str, int]) -> list[str]:
    """Return a line for each SOP class: how many files of it there are, and what they are."""
    lines = []
    for sop_class, count in sorted(classes.items(), key=lambda item: class_name(item[0])):
        remedy = _REMEDY.get(uid.UID(sop_class))
        lines.append(f"{class_name(sop_class)}: {count} files, not read" + (f": {remedy}" if remedy else ""))
    return lines


def why_none(classes: Mapping[str, int], modality: str | None, *, is_file: bool, has_series: bool) -> str:
    """Return why no series was found, in one sentence; empty where what else is there is not the reason.

    Args:
        classes: How many files there are of each SOP class that is not read.
        modality: That was looked for, or None.
        is_file: Whether there was one file, and no folder.
        has_series: Whether there is a series of another modality.
    """
    row = of_dicom(modality or "")
    named = sorted(classes, key=lambda c: (c not in _NM, uid.UID(c) not in _REMEDY))
    if has_series and not (row and row.has_uptake and named and named[0] in _NM):
        return ""
    what = f"{row.article} {row.title}" if row else "a CT, MR, PET or SPECT"
    place = f"The folder must hold {what} series"
    if is_file:
        place = f"The file must be NIfTI (.nii, .nii.gz) or {what} image"
    if not named:
        return f"{place} in DICOM, got another file; convert it to NIfTI." if is_file else ""
    remedy = _REMEDY.get(uid.UID(named[0])) or f"{class_name(named[0])}; give the images, or NIfTI"
    return f"{place} in DICOM, got {remedy}."
