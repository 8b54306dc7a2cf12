"""Decode a series that has been checked, frame by frame; no codec sees a frame whose own dimensions do not fit."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import numpy as np
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder

from medfuse.errors import DicomError
from medfuse.io.dicom.dynamic import timing_of
from medfuse.io.dicom.header import CODECS, JPEG_LOSSLESS, NATIVE, PixelFormat, quiet
from medfuse.io.dicom.jpeg_lossless import decode
from medfuse.io.dicom.series import Series
from medfuse.io.dynamic import Watch
from medfuse.io.frames import Choice, choose_frames
from medfuse.io.suv import Content

_SOC_SIZ = b"\xff\x4f\xff\x51"  # how a JPEG 2000 code stream begins (ISO/IEC 15444-1 A.4 and A.5)
_SOI = b"\xff\xd8"  # how a JPEG-LS stream begins (ISO/IEC 14495-1 C.1.1)
_END = b"\xff\xd9"
_SOF = 0xF7  # and the marker of its frame header


def choose_of(series: Series, frames: str | None = None) -> Choice:
    """Choose time frames of a series, see `medfuse.io.frames`.

    Raises:
        MedfuseError: If they cannot be chosen so.
    """
    count = len(series.frames)
    return choose_frames(frames, count, timing_of(series) if series.modality == "PT" and count > 1 else None)


def load_volume(
    series: Series, *, factor: float = 1.0, choice: Choice | None = None, watch: Watch | None = None
) -> np.ndarray:
    """Decode a usable series.

    Args:
        series: What `choose_series` returned.
        factor: What to multiply the values by, such as that of `medfuse.io.suv`.
        choice: Which of its time frames, from `choose_of`; None for the average of all.
        watch: Is shown each time frame that is averaged with others, see `medfuse.io.dynamic`.

    Returns:
        float32 **[X, Y, Z]**, rescaled slice by slice, in the order of the affine.

    Raises:
        DicomError: If a file cannot be decoded, or a value is not finite.
    """
    choice = choose_of(series) if choice is None else choice
    several = len(choice.frames) > 1
    volume = np.empty(series.shape, dtype=np.float64 if several else np.float32)
    spacing = np.asarray(series.spacing)
    for n, (k, weight, scale) in enumerate(zip(choice.frames, choice.weights, choice.factors, strict=True)):
        frame = np.empty(series.shape, dtype=np.float32) if several else volume
        for place, values in _slices(series, k):
            with np.errstate(over="ignore"):
                frame[:, :, place] = (values * (scale * factor)).T
        if several:
            if watch is not None:
                watch(k, weight, frame, spacing)
            volume = weight * frame.astype(np.float64) + (volume if n else 0.0)
    if not np.isfinite(volume).all():
        raise DicomError(f"Series {series.uid} must be finite, got values beyond float32; check RescaleSlope.")
    return volume.astype(np.float32, copy=False)


def measure(series: Series, choice: Choice | None = None) -> Content:
    """Return what the pixels of a usable series hold, decoded frame by frame; of a dynamic one, those of its average.

    Raises:
        DicomError: If a file cannot be decoded.
    """
    if len(series.frames) > 1:
        volume = load_volume(series, choice=choice)
        return Content(float(volume.sum(dtype=np.float64)) * voxel_ml(series), float(volume.max()))
    total, highest = 0.0, -np.inf
    for _, values in _slices(series, 0):
        total, highest = total + float(values.sum()), max(highest, float(values.max()))
    return Content(total * voxel_ml(series), highest)


def voxel_ml(series: Series) -> float:
    """Return the volume of a voxel, ml."""
    return abs(float(np.linalg.det(series.affine[:3, :3]))) / 1000.0


def _slices(series: Series, frame: int) -> Iterator[tuple[int, np.ndarray]]:
    """Give each slice's place along the affine's last axis, and its rescaled values **[rows, columns]**, float64."""
    places = {int(index): place for place, index in enumerate(series.frames[frame])}  # of each image among the slices
    start = 0
    for number, header in enumerate(series.headers, start=1):
        pixels, planes = header.pixels, header.planes
        if pixels is None or planes is None:
            raise DicomError("The series must be usable, got one with a problem; choose another.")
        if not any(start + k in places for k in range(pixels.frames)):
            start += pixels.frames
            continue
        try:
            with quiet(), header.path.open("rb") as file:
                for k, stored in enumerate(_frames(file, pixels)):
                    yield places[start + k], stored * planes.slope[k] + planes.intercept[k]
        except DicomError as error:
            raise DicomError(f"{_which(series, number)} {error}; copy or convert it again.") from None
        except Exception:  # decoders raise errors of any kind, and pydicom's repeat values of the header
            raise DicomError(
                f"{_which(series, number)} must hold pixels that can be decoded, got others; copy or convert it again."
            ) from None
        start += pixels.frames


def _which(series: Series, number: int) -> str:
    return f"File {number} of {len(series.headers)} by name of series {series.uid}"


def _frames(file: BinaryIO, pixels: PixelFormat) -> Iterator[np.ndarray]:
    """Give the stored values of each frame, **[rows, columns]**, float64."""
    syntax = uid.UID(pixels.transfer_syntax)
    options: dict[str, Any] = {
        "rows": pixels.rows, "columns": pixels.columns, "samples_per_pixel": 1, "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2", "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_stored, "pixel_representation": int(pixels.signed), "pixel_keyword": "PixelData",
        "pixel_vr": pixels.word, "decoding_plugin": CODECS.get(syntax, ""), "correct_unused_bits": pixels.overlays,
    }  # fmt: skip
    file.seek(pixels.offset)
    count = 0
    for stream in _streams(file, pixels):
        count += 1
        if syntax in JPEG_LOSSLESS:
            frame = decode(stream, pixels)
        else:
            frame, _ = get_decoder(syntax).as_array(stream, index=0, raw=True, **options)
        if frame.shape != (pixels.rows, pixels.columns):
            raise DicomError(f"must hold frames of {pixels.rows} x {pixels.columns}, got another size")
        bits = pixels.bits_stored - pixels.signed
        frame = frame.astype(np.float64)
        if pixels.signed and 1 << bits <= frame.max() < 2 << bits and frame.min() >= 0:  # no sign extension
            frame[frame >= 1 << bits] -= 2 << bits
        if frame.min() < -pixels.signed << bits or frame.max() >= 1 << bits:
            raise DicomError(f"must hold values of {pixels.bits_stored} bits, got others")
        yield frame
    if count != pixels.frames:
        raise DicomError(f"must hold {pixels.frames} frames, got {count}")


def _streams(file: BinaryIO, pixels: PixelFormat) -> Iterator[bytes]:
    """Give each frame, from where the file is, as a decoder takes it."""
    syntax = uid.UID(pixels.transfer_syntax)
    if syntax in NATIVE:
        for _ in range(pixels.frames):
            yield file.read(pixels.frame_bytes)
        return
    for stream in generate_frames(cast(Any, file), number_of_frames=pixels.frames):
        _check_stream(stream, syntax, pixels)
        yield stream if syntax in JPEG_LOSSLESS else encapsulate([stream])


def _check_stream(stream: bytes, syntax: uid.UID, pixels: PixelFormat) -> None:
    """Hold the dimensions that a compressed frame claims by itself against those of the header, before decoding."""
    if len(stream) > 2 * pixels.frame_bytes + (1 << 16):
        raise DicomError(f"must hold frames of about {pixels.frame_bytes} bytes, got one of {len(stream)}")
    if syntax in JPEG_LOSSLESS:  # its decoder looks itself
        return
    if syntax == uid.RLELossless:  # it has no dimensions; a run is at most 64 times its code
        return
    if not stream.rstrip(b"\0").endswith(_END):
        raise DicomError("must hold whole frames, got one that is cut short")
    if stream[:4] == _SOC_SIZ:
        right, low, left, top = struct.unpack(">4I", stream[8:24])
        components, depth, *steps = struct.unpack(">HBBB", stream[40:45])
        claimed = (low - top, right - left, components)
        if (depth >> 7, steps) != (pixels.signed, [1, 1]) or (depth & 127) + 1 < pixels.bits_stored:
            raise DicomError(f"must hold frames of {pixels.bits_stored} bits, signed as its header says, got others")
    else:
        claimed = _jpeg_ls_size(stream)
    if claimed != (pixels.rows, pixels.columns, 1):
        raise DicomError(f"must hold grey frames of {pixels.rows} x {pixels.columns}, got one that says otherwise")


def _jpeg_ls_size(stream: bytes) -> tuple[int, int, int]:
    """Return rows, columns and components of a JPEG-LS stream, or zeros."""
    at = 2
    while stream[:2] == _SOI and at + 10 <= len(stream) and stream[at] == 0xFF:
        if stream[at + 1] == _SOF:
            rows, columns, components = struct.unpack(">HHB", stream[at + 5 : at + 10])
            return rows, columns, components
        at += 2 + struct.unpack(">H", stream[at + 2 : at + 4])[0]
    return 0, 0, 0
