"""Read what is needed of one DICOM file, and nothing else: no pixel is decoded, no text about a person is kept.

A file may be hostile. Its transfer syntax is read first, such that nothing is ever inflated; the header is read within
a budget of bytes; elements that are not needed are skipped; what is claimed of the pixels is held against the size of
the file. Values of headers appear in no message, as any may name a patient.
"""

from __future__ import annotations

import logging
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from pydicom import config, uid
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_dataset

from medfuse.errors import DicomError
from medfuse.io.acquisition import Acquisition
from medfuse.io.begin import HEAD, elements_at, has_meta, is_explicit
from medfuse.io.contents import contents
from medfuse.io.dicom.acquisition import KEYWORDS as ACQUIRED
from medfuse.io.dicom.acquisition import read_acquisition
from medfuse.io.dicom.contrast import NUMBERS, read_contrast
from medfuse.io.dicom.ends import KEYWORDS as COUNTED
from medfuse.io.dicom.ends import PRIVATE_TAGS as PRIVATE_COUNTS
from medfuse.io.dicom.ends import Numbering, read_numbering
from medfuse.io.dicom.identity import Person, read_person
from medfuse.io.dicom.pet import PRIVATE_TAGS, read_pet
from medfuse.io.dicom.planes import Planes, read_planes
from medfuse.io.dicom.values import Values, is_uid
from medfuse.io.suv import PetTags

NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
# Each with the one decoder that may serve it, so that a result does not depend on what else is installed
CODECS = {
    uid.RLELossless: "pydicom",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
}
JPEG_LOSSLESS = (uid.JPEGLossless, uid.JPEGLosslessSV1)  # see `medfuse.io.dicom.jpeg_lossless`
MODEL = "medfuse"  # model name of what medfuse writes
_CLASSIC = (uid.CTImageStorage, uid.MRImageStorage, uid.PositronEmissionTomographyImageStorage)
_ENHANCED = (
    uid.EnhancedCTImageStorage,
    uid.EnhancedMRImageStorage,
    uid.EnhancedPETImageStorage,
    uid.LegacyConvertedEnhancedCTImageStorage,
    uid.LegacyConvertedEnhancedMRImageStorage,
    uid.LegacyConvertedEnhancedPETImageStorage,
)
CLASSES = (*_CLASSIC, *_ENHANCED, uid.NuclearMedicineImageStorage)
"""SOP classes of the images that are read."""
_MODALITIES = ("CT", "MR", "PT", "NM")
_SPECT = "RECON TOMO"  # third value of the Image Type of a reconstructed SPECT that is not gated (PS3.3 C.8.4.9.1.1)
_ALONE = threading.RLock()  # what `quiet` changes is that of the whole process
_SUFFIXES = (".dcm", ".dicom", ".ima")
_MAX_HEADER = 32 << 20  # bytes
_MAX_READS = 500_000  # two or three for an element; a header of so many empty items would take 1 GB in memory
_MAX_COUNT = 32767  # rows, columns, frames: what a NIfTI can hold
_PIXELS, _OTHER_PIXELS = 0x7FE00010, (0x7FE00008, 0x7FE00009)  # integer; float and double
_UNDEFINED = 0xFFFFFFFF
_CLASS, _SYNTAX = b"\2\0", b"\x10\0"  # elements of the file meta information, group 2
_LONG_VR = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_WANTED = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "FrameOfReferenceUID",
    "ManufacturerModelName", "StudyInstanceUID", "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate",
    *NUMBERS, *COUNTED, *ACQUIRED, "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "UnassignedSharedConvertedAttributesSequence", "NumberOfSlices",
    "Units", "SUVType", "CorrectedImage", "DecayCorrection", "PatientWeight", "PatientSize", "PatientSex",
    "RadiopharmaceuticalInformationSequence", "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime",
    "AcquisitionDateTime", "FrameReferenceTime", "ActualFrameDuration", "TimezoneOffsetFromUTC", "DecayCorrected",
    "DecayCorrectionDateTime", "AttenuationCorrected", "DecayFactor", "DetectorInformationSequence", "SliceVector",
    "SpacingBetweenSlices",
]  # fmt: skip
_OVERLAYS = range(0x60000102, 0x60200102, 0x20000)  # Overlay Bit Position, of up to 16 overlays
_TAGS = [*(cast(int, tag_for_keyword(name)) for name in _WANTED), *PRIVATE_TAGS, *PRIVATE_COUNTS, *_OVERLAYS]


class _CutError(DicomError):
    """Pixels that are not there."""


@dataclass(frozen=True, eq=False)
class PixelFormat:
    """How the pixels of a file are stored.

    Attributes:
        transfer_syntax: Its UID.
        rows: Number of rows.
        columns: Number of columns.
        frames: Number of frames.
        bits_allocated: 8, 16 or 32.
        bits_stored: At most as many.
        signed: Whether stored values are signed.
        word: Value representation of the element, "OB" or "OW".
        offset: Where the element's value begins in the file.
        overlays: Whether overlays are stored in the bits above those of the values (retired, PS3.3 C.9.2).
    """

    transfer_syntax: str
    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    word: str
    offset: int
    overlays: bool

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame."""
        return self.rows * self.columns * self.bits_allocated // 8


@dataclass(frozen=True, eq=False)
class Header:
    """What one file of an image series says. A file with a problem may lack pixels and planes.

    Attributes:
        path: The file.
        instance: SOP Instance UID.
        series: Series Instance UID.
        modality: CT, MR, PT or NM.
        sop_class: SOP Class UID.
        is_localizer: Whether Image Type says so.
        is_result: Whether medfuse wrote it.
        frame_of_reference: UID, or empty.
        slices: Number of Slices (0054,0081) of a PET or SPECT volume, or 0.
        numbering: How it is counted among the images of its acquisition.
        study: Study Instance UID, or empty; a question mark where it is none.
        person: The patient, in digests.
        contrast: Names and values of what one MRI has in common, such as its echo time.
        acquisition: How sharp an image can be.
        pixels: How the pixels are stored.
        planes: Where the frames lie.
        pet: What a PET says about its values.
        problem: Why the file cannot be used, such as "must have ..., got ..."; or empty.
        is_cut: Whether that is because its pixels are cut short.
    """

    path: Path
    instance: str
    series: str
    modality: str
    sop_class: str
    is_localizer: bool = False
    is_result: bool = False
    frame_of_reference: str = ""
    slices: int = 0
    numbering: Numbering = field(default_factory=Numbering)
    study: str = ""
    person: Person = field(default_factory=Person)
    contrast: frozenset[tuple[str, float | str]] = frozenset()
    acquisition: Acquisition = field(default_factory=Acquisition)
    pixels: PixelFormat | None = None
    planes: Planes | None = None
    pet: PetTags = field(default_factory=PetTags)
    problem: str = ""
    is_cut: bool = False


@dataclass(frozen=True)
class Other:
    """A file that is no CT, MR, PET or SPECT image.

    Attributes:
        sop_class: SOP Class UID of a DICOM file; empty for another file.
        study: Its Study Instance UID, or empty.
    """

    sop_class: str = ""
    study: str = ""


def read_header(path: Path) -> Header | Other:
    """Read one file, which may begin without a preamble.

    Returns:
        Its header, with a problem in it if the file is of a known series but cannot be used; or what it is if it is no
        CT, MR, PET or SPECT image.

    Raises:
        DicomError: If it is a DICOM file, by its content or its suffix, of which nothing can be said. The message has
            no subject: "must be ..., got ...".
    """
    try:
        with path.open("rb") as file:
            start = elements_at(file.read(HEAD))
            if start is not None:
                file.seek(start)
                return _read_guarded(_Budget(file, path.stat().st_size), path)
    except OSError as error:
        raise DicomError(f"must be readable, got {error.strerror or 'an error'}") from None
    if path.suffix.lower() in _SUFFIXES:
        kind, remedy = contents(path) or ("another beginning", "")
        raise DicomError(f"must begin with a preamble and DICM, got {kind}{remedy and f' ({remedy})'}")
    return Other()


def _read_guarded(file: _Budget, path: Path) -> Header | Other:
    """Read, and turn errors of any kind into one of ours: pydicom's repeat values of the header."""
    try:
        with quiet():
            header = _read(file, path)
    except DicomError:
        raise
    except Exception:
        raise file.failure or DicomError("must have a well-formed header, got a broken one") from None
    if file.failure:  # pydicom may have taken it for the end of the file
        raise file.failure
    return header


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from warnings and log lines: they repeat values of headers, which may name a patient.

    One thread at a time.
    """
    with _ALONE:
        logger = logging.getLogger("pydicom")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            with warnings.catch_warnings(), config.disable_value_validation():
                warnings.simplefilter("ignore")
                yield
        finally:
            logger.setLevel(level)


class _Budget:
    """A file of which only so much can be read, so many times, and never beyond its end without notice.

    What went wrong is kept in `failure`, as pydicom may hide it.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size
        self._bytes, self._reads = _MAX_HEADER, _MAX_READS
        self.seek, self.tell = file.seek, file.tell
        self.failure: DicomError | None = None

    def read(self, count: int) -> bytes:
        if count > self._bytes:
            self._fail(f"must have a header of at most {_MAX_HEADER} bytes, got more, or a broken length")
        if self._reads == 0:
            self._fail(f"must have a header of at most {_MAX_READS} parts, got more")
        piece = self._file.read(count)
        self._bytes -= len(piece)
        self._reads -= 1
        if len(piece) < count and (piece or count != 8):  # pydicom looks for a next element in 8 bytes
            self._fail("must be a whole file, got one that is cut short in its header")
        return piece

    def _fail(self, message: str) -> NoReturn:
        self.failure = self.failure or DicomError(message)
        raise self.failure


def _read(file: _Budget, path: Path) -> Header | Other:
    syntax, stored_class = _file_meta(file)
    if stored_class == uid.MediaStorageDirectoryStorage:  # a DICOMDIR
        return Other(stored_class)
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        raise DicomError("must not be deflated, got the deflated transfer syntax; convert it to another")
    pixel_data: dict[str, Any] = {}

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if tag == _PIXELS:
            pixel_data.update(
                vr=vr or ("OW" if syntax == uid.ImplicitVRLittleEndian else "UN"), length=length, offset=file.tell()
            )
        return tag == _PIXELS or tag in _OTHER_PIXELS

    values = Values(
        read_dataset(
            cast(BinaryIO, file),
            syntax == uid.ImplicitVRLittleEndian,
            syntax != uid.ExplicitVRBigEndian,
            stop_when=at_pixels,
            specific_tags=cast(Any, _TAGS),
        )
    )
    sop_class, study = values.text("SOPClassUID"), values.text("StudyInstanceUID")
    study = study if is_uid(study) or not study else "?"
    if sop_class and sop_class not in CLASSES:
        return Other(sop_class if is_uid(sop_class) else "", study)
    modality = values.text("Modality")
    if not sop_class or not modality:
        raise DicomError("must have a SOP class and a modality, got none")
    if modality not in _MODALITIES or (modality == "NM" and _SPECT not in values.texts("ImageType")):
        return Other(sop_class, study)
    known = (path, values.uid("SOPInstanceUID"), values.uid("SeriesInstanceUID"), modality, sop_class)
    try:
        pixels = _pixels(values, syntax, pixel_data, file.size)
        planes = read_planes(values, pixels.frames, enhanced=sop_class in _ENHANCED, modality=modality)
        is_pet = modality == "PT"
        return Header(
            *known,
            is_localizer="LOCALIZER" in values.texts("ImageType"),
            is_result=values.text("ManufacturerModelName") == MODEL,
            frame_of_reference=values.uid("FrameOfReferenceUID", needed=False),
            slices=values.count("NumberOfSlices", default=0)
            if modality in ("PT", "NM") and sop_class not in _ENHANCED
            else 0,
            numbering=read_numbering(values),
            study=study,
            person=read_person(values),
            contrast=read_contrast(values) if modality == "MR" else frozenset(),
            acquisition=read_acquisition(values),
            pixels=pixels,
            planes=planes,
            pet=read_pet(values, planes) if is_pet else PetTags(),
        )
    except DicomError as error:
        return Header(*known, problem=str(error), is_cut=isinstance(error, _CutError))


def _file_meta(file: _Budget) -> tuple[str, str]:
    """Return transfer syntax and SOP class, and leave the file where the data set begins (PS3.10 7.1).

    A data set without file meta information is in little endian, and shows whether its VRs are explicit.
    """
    start = file.tell()
    head = file.read(8)
    file.seek(start)
    if not has_meta(head) and start == 0:
        return (uid.ExplicitVRLittleEndian if is_explicit(head) else uid.ImplicitVRLittleEndian), ""
    found: dict[bytes, list[str]] = {_SYNTAX: [], _CLASS: []}
    while True:  # explicit little endian, whatever the data set is
        start = file.tell()
        head = file.read(8)
        if len(head) < 8 or head[:2] != b"\2\0":
            file.seek(start)
            break
        length = struct.unpack("<I", file.read(4))[0] if head[4:6] in _LONG_VR else struct.unpack("<H", head[6:])[0]
        value = file.read(length)
        if head[2:4] in found:
            found[head[2:4]].append(value.rstrip(b"\0 ").decode("ascii", "replace"))
    if len(found[_SYNTAX]) != 1 or not is_uid(found[_SYNTAX][0]):
        raise DicomError("must name one transfer syntax, got none or several")
    return found[_SYNTAX][0], "".join(found[_CLASS])


def _pixels(values: Values, syntax: str, element: dict[str, Any], size: int) -> PixelFormat:
    """Check what is said of the pixels against what the file can hold (PS3.3 C.7.6.3)."""
    if syntax not in (*NATIVE, *CODECS, *JPEG_LOSSLESS):
        name = uid.UID(syntax).name if syntax in uid.UID_dictionary else "another transfer syntax"
        raise DicomError(f"must be uncompressed, RLE, JPEG Lossless, JPEG-LS or JPEG 2000, got {name}; convert it")
    if values.count("SamplesPerPixel") != 1 or values.text("PhotometricInterpretation") != "MONOCHROME2":
        raise DicomError("must be grey (MONOCHROME2, one sample), got another kind of image")
    rows, columns = values.count("Rows"), values.count("Columns")
    frames = values.count("NumberOfFrames", default=1)
    if not all(1 <= n <= _MAX_COUNT for n in (rows, columns, frames)):
        raise DicomError(f"must have 1 to {_MAX_COUNT} rows, columns and frames, got {rows} x {columns} x {frames}")
    allocated, stored = values.count("BitsAllocated"), values.count("BitsStored")
    high, representation = values.count("HighBit", default=stored - 1), values.count("PixelRepresentation")
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high != stored - 1 or representation > 1:
        raise DicomError(f"must have 8, 16 or 32 bits, right-aligned, got {allocated} allocated and {stored} stored")
    if not element:
        raise _CutError("must hold integer pixels, got none, or a file that is cut short")
    if element["vr"] not in ("OB", "OW"):
        raise DicomError("must hold pixels as OB or OW, got another value representation")
    overlays = any(values.count(tag, default=0) >= stored for tag in _OVERLAYS)
    word, offset, signed = element["vr"], element["offset"], representation == 1
    pixels = PixelFormat(syntax, rows, columns, frames, allocated, stored, signed, word, offset, overlays)
    encapsulated = syntax not in NATIVE
    if encapsulated != (element["length"] == _UNDEFINED):
        raise DicomError("must hold pixels as its transfer syntax says, got the other kind")
    expected, there = pixels.frame_bytes * frames, min(element["length"], size - pixels.offset)
    excess = element["length"] - expected  # a few bytes of padding are harmless, a row or a column is not
    if not encapsulated and (there < expected or excess >= min(rows, columns) * allocated // 8):
        raise _CutError(
            f"must hold {expected} bytes of pixels, got {there}: it is cut short, or its dimensions are wrong"
        )
    return pixels
