"""JPEG Lossless frames, Process 14 (PS3.5 A.4.2; ITU-T T.81 annex H), decoded exactly or refused.

GDCM, which is in SimpleITK, decodes them; of a stream that is cut short it makes a whole image without a word. Hence it
is shown one frame at a time, in a file of our own making, after the markers of the stream were held against the header;
and after that the bits which the decoded image takes by the stream's own code are counted: they must be all that there
are. A lossless code has one image for each stream, so nothing else can have been decoded.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from medfuse.errors import DicomError
from medfuse.io.dicom.header import PixelFormat

_EOI, _SOS, _SOF3, _DHT, _DRI = 0xD9, 0xDA, 0xC3, 0xC4, 0xDD
_SKIPPED = (0xFE, *range(0xE0, 0xF0))  # comments and data of applications
_WHOLE = 16  # category of a difference of 32768, which has no further bits


@dataclass(frozen=True)
class _Scan:
    """What a stream says of its one scan: code lengths by category, predictor, rows between restarts, coded bytes."""

    precision: int
    lengths: dict[int, int]
    predictor: int
    interval: int
    coded: bytes


def decode(stream: bytes, pixels: PixelFormat) -> np.ndarray:
    """Return the stored values of a frame, **[rows, columns]**, unsigned.

    Args:
        stream: From the start of image to its end.
        pixels: What the header says of the frame.

    Raises:
        DicomError: If the stream is no whole, lossless frame of that size; without subject.
    """
    scan = _read(stream, pixels)
    frame = _decoded(stream, pixels, scan.precision)
    if frame.shape != (pixels.rows, pixels.columns):
        raise DicomError(f"must hold frames of {pixels.rows} x {pixels.columns}, got another size")
    _check_bits(frame, scan)
    return frame


def _read(stream: bytes, pixels: PixelFormat) -> _Scan:
    """Read the markers; any that is not needed for such a frame is refused."""
    precision, interval, at = 0, 0, 2
    tables: dict[int, dict[int, int]] = {}
    if stream[:2] != b"\xff\xd8":
        raise DicomError("must hold JPEG frames, got another beginning")
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker, length = stream[at + 1], struct.unpack(">H", stream[at + 2 : at + 4])[0]
        segment, start = stream[at + 4 : at + 2 + length], at + 2 + length
        if marker == _SOF3:
            precision, rows, columns, components = struct.unpack(">BHHB", segment[:6])
            if (rows, columns, components) != (pixels.rows, pixels.columns, 1):
                raise DicomError(
                    f"must hold grey frames of {pixels.rows} x {pixels.columns}, got one that says otherwise"
                )
            if not pixels.bits_stored <= precision <= pixels.bits_allocated <= 16:
                raise DicomError(f"must hold frames of {pixels.bits_stored} bits, got {precision}")
        elif marker == _DHT:
            tables.update(_tables(segment))
        elif marker == _DRI:
            samples = struct.unpack(">H", segment[:2])[0]
            interval, rest = divmod(samples, pixels.columns)
            if rest:
                raise DicomError("must restart its code at rows, got a restart within one")
        elif marker == _SOS:
            number, _, table, predictor, _, low = struct.unpack(">6B", segment[:6])
            if number != 1 or not precision or not 1 <= predictor <= 7 or low & 15 or table >> 4 not in tables:
                raise DicomError("must hold frames of one lossless scan, got others")
            return _Scan(precision, tables[table >> 4], predictor, interval, _coded(stream[start:]))
        elif marker not in _SKIPPED:
            raise DicomError("must hold lossless JPEG frames, got another process")
        at = start
    raise DicomError("must hold whole JPEG frames, got one without its scan")


def _tables(segment: bytes) -> Iterator[tuple[int, dict[int, int]]]:
    """Give the number of each Huffman table, and the length of the code of each category (T.81 B.2.4.2)."""
    at = 0
    while at + 17 <= len(segment):
        number, counts = segment[at], segment[at + 1 : at + 17]
        values = segment[at + 17 : at + 17 + sum(counts)]
        lengths = [length for length, count in enumerate(counts, start=1) for _ in range(count)]
        if len(values) != len(lengths) or number > 3 or any(v > _WHOLE for v in values):
            raise DicomError("must hold frames of a known code, got another")
        yield number, dict(zip(values, lengths, strict=True))
        at += 17 + len(lengths)


def _coded(rest: bytes) -> bytes:
    """Return the coded bytes up to the end of the image, stuffing left in."""
    end = rest.rstrip(b"\0")
    if not end.endswith(bytes((0xFF, _EOI))):
        raise DicomError("must hold whole frames, got one that is cut short")
    return end[:-2]


def _decoded(stream: bytes, pixels: PixelFormat, precision: int) -> np.ndarray:
    """Let GDCM decode a frame, of which it sees nothing but its dimensions."""
    frame = Dataset()
    frame.file_meta = FileMetaDataset()
    frame.file_meta.TransferSyntaxUID = uid.UID(pixels.transfer_syntax)
    frame.file_meta.MediaStorageSOPClassUID = frame.SOPClassUID = uid.SecondaryCaptureImageStorage
    frame.file_meta.MediaStorageSOPInstanceUID = frame.SOPInstanceUID = uid.UID("2.25.1")
    frame.Modality, frame.SamplesPerPixel, frame.PhotometricInterpretation = "OT", 1, "MONOCHROME2"
    frame.Rows, frame.Columns = pixels.rows, pixels.columns
    frame.BitsAllocated = 8 if precision <= 8 else 16
    frame.BitsStored, frame.HighBit, frame.PixelRepresentation = precision, precision - 1, 0
    frame.PixelData = encapsulate([stream])
    frame["PixelData"].VR = "OB"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        frame.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        return np.asarray(sitk.GetArrayFromImage(reader.Execute())).squeeze(0)


def _check_bits(frame: np.ndarray, scan: _Scan) -> None:
    """Hold the bits that a frame takes against those that there are, up to the fill of the last byte."""
    values = frame.astype(np.int64)
    rows = scan.interval or len(values)
    blocks = [values[k : k + rows] for k in range(0, len(values), rows)]
    parts = _parts(scan.coded)
    if len(parts) != len(blocks):
        raise DicomError("must hold whole frames, got one with other restarts than it says")
    for block, coded in zip(blocks, parts, strict=True):
        difference = (block - _predicted(block, scan)) & 0xFFFF
        size = np.where(difference < 1 << 15, difference, (1 << 16) - difference)
        category = np.ceil(np.log2(size + 1)).astype(int)
        category[difference == 1 << 15] = _WHOLE
        numbers = np.bincount(category.ravel(), minlength=_WHOLE + 1)
        used = [k for k in range(_WHOLE + 1) if numbers[k]]
        if any(k not in scan.lengths for k in used):
            raise DicomError("must hold whole frames, got one that its own code does not tell")
        bits = sum(int(numbers[k]) * (scan.lengths[k] + (k if k < _WHOLE else 0)) for k in used)
        if not 0 <= 8 * len(coded) - bits < 8:
            raise DicomError("must hold whole frames, got one that is cut short or corrupt")


def _parts(coded: bytes) -> list[bytes]:
    """Return the coded bytes between restarts, without stuffing (T.81 B.1.1.5)."""
    first, *pieces = coded.split(b"\xff")
    parts = [bytearray(first)]
    for piece in pieces:
        if piece[:1] == b"\0":
            parts[-1] += b"\xff" + piece[1:]
        elif piece and 0xD0 <= piece[0] <= 0xD7:
            parts.append(bytearray(piece[1:]))
        elif piece:  # several 0xFF in a row fill
            raise DicomError("must hold whole frames, got a marker within one")
    return [bytes(part) for part in parts]


def _predicted(block: np.ndarray, scan: _Scan) -> np.ndarray:
    """Return what each sample is predicted to be (T.81 H.1.2.1): the first by half of the range."""
    a = np.zeros_like(block)
    a[:, 1:] = block[:, :-1]
    b, c = np.zeros_like(block), np.zeros_like(block)
    b[1:], c[1:, 1:] = block[:-1], block[:-1, :-1]
    found = (a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1), (a + b) >> 1)[scan.predictor - 1].copy()
    found[0, 1:] = a[0, 1:]
    found[1:, 0] = b[1:, 0]
    found[0, 0] = 1 << (scan.precision - 1)
    return found
