"""Sound DICOM studies of an MRI and a PET, and what damages a file of theirs."""

from __future__ import annotations

import importlib.util
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from malformed.corpus import Way, Write, flip
from pydicom import config, dcmread, uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

_spec = importlib.util.spec_from_file_location("scans", Path(__file__).resolve().parents[1] / "io" / "conftest.py")
scans = importlib.util.module_from_spec(_spec)
sys.modules["scans"] = scans  # dataclasses look there
_spec.loader.exec_module(scans)

SLICES = 6
_FUSE = ("fuse", "--dicom", "IN", "--out", "OUT", "--suv", "bw", "--steps", "1")
_CALLS = (("dicom", "IN"), (*_FUSE, "--no-dicom"))


@cache
def study() -> tuple[Any, Any]:
    """Return an MRI and a PET of one world."""

    def ball(shape: tuple[int, int, int], top: float) -> np.ndarray:
        axes = [(np.arange(n) - (n - 1) / 2) / n for n in shape]
        r = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
        noise = np.random.default_rng(0).normal(0, 0.01 * top, shape)
        return np.abs(top * (0.6 * (r < 0.45) + 0.4 * (r < 0.2)) + noise).astype(np.int16)

    turn = scans.rotation(0.3, -0.2, 0.5)
    mri = scans.Scan(stored=ball((SLICES, 36, 32), 900), turn=turn, slopes=(0.5,) * SLICES, intercept=3.0)
    pet = scans.Scan(
        modality="PT",
        stored=ball((SLICES, 14, 12), 20000),
        turn=turn,
        spacing=(3.0, 5.0, 3.0),
        slopes=(1.7, 1.1, 2.9, 0.8, 1.3, 2.0),
        series="1.2.826.0.1.7.2",
    )
    return mri, pet


def write(folder: Path, **datasets: list[Dataset]) -> None:
    for name, of in datasets.items():
        scans.write(of, folder, name=name + "_{}.dcm")


def _classic(folder: Path) -> None:
    mri, pet = study()
    slices = pet.slices()
    for dataset in slices:
        dataset.NumberOfSlices = SLICES
    write(folder, mr=mri.slices(), pt=slices)


def _enhanced(folder: Path) -> None:
    mri, pet = study()
    write(folder, mr=[mri.enhanced()], pt=pet.slices())


def _compressed(syntax: str) -> Write:
    def sound(folder: Path) -> None:
        mri, pet = study()
        slices = mri.slices()
        for dataset in slices:
            dataset.PixelRepresentation = 0
            dataset.compress(syntax, generate_instance_uid=False)
        write(folder, mr=slices, pt=pet.slices())

    return sound


CLASSIC, ENHANCED = Way(_classic, _CALLS), Way(_enhanced, _CALLS)
FILED = Way(_classic, (_FUSE,))  # DICOM is written, too
PACKED = {
    "RLE": Way(_compressed(uid.RLELossless), _CALLS),
    "JPEG-LS": Way(_compressed(uid.JPEGLSLossless), _CALLS),
    "JPEG 2000": Way(_compressed(uid.JPEG2000Lossless), _CALLS),
}


def edit(name: str, change: Callable[[Dataset], Any]) -> Write:
    """Return the damage that changes the data sets of files; a star stands for any number."""

    def damage(folder: Path) -> None:
        for path in sorted(folder.glob(f"{name}.dcm")):
            with config.disable_value_validation():
                dataset = dcmread(path)
                dataset.decode  # noqa: B018  (a data set is parsed when it is read, its elements when asked for)
                change(dataset)
                dataset.save_as(path, enforce_file_format=False)

    return damage


def tags(name: str, **values: Any) -> Write:
    """Return the damage that sets elements as they are: None removes one, ... empties it, bytes are taken as text."""
    texts = {Tag(keyword): value for keyword, value in values.items() if isinstance(value, bytes)}

    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            place = dataset
            if keyword.startswith("Radio"):
                place = dataset.RadiopharmaceuticalInformationSequence[0]
            if value is None:
                del place[keyword]
            elif value is ...:
                place[keyword].value = None
            elif isinstance(value, bytes):
                place[Tag(keyword)] = DataElement(Tag(keyword), "LO", "Q" * len(value))
            else:
                setattr(place, keyword, value)

    def write(content: bytes) -> bytes:  # pydicom would not write any text
        for tag, text in texts.items():
            head = struct.pack("<HH2sH", tag.group, tag.element, b"LO", len(text) + len(text) % 2)
            assert head + b"Q" * len(text) in content
            content = content.replace(head + b"Q" * len(text), head + text)
        return content

    return both(edit(name, change), raw(name, write))


def raw(name: str, change: Callable[[bytes], bytes]) -> Write:
    """Return the damage to the bytes of files."""

    def damage(folder: Path) -> None:
        for path in sorted(folder.glob(f"{name}.dcm")):
            path.write_bytes(change(path.read_bytes()))

    return damage


def both(*damages: Write) -> Write:
    """Return the damages one after the other."""

    def damage(folder: Path) -> None:
        for one in damages:
            one(folder)

    return damage


def shift(vector: Sequence[float], along: int = 2, mm: float = 1.0) -> Callable[[Dataset], None]:
    """Move a slice along the normal (2), or within its plane, by mm."""
    direction = study()[0].turn[:, along] if not len(vector) else np.asarray(vector)

    def change(dataset: Dataset) -> None:
        dataset.ImagePositionPatient = [
            float(p + mm * d) for p, d in zip(dataset.ImagePositionPatient, direction, strict=True)
        ]

    return change


def element(content: bytes, keyword: str) -> int:
    """Return where an element of explicit little endian begins in a file."""
    tag = Tag(keyword)
    return content.index(struct.pack("<HH", tag.group, tag.element), 132)


def flips(name: str, keyword: str, bytes_: Sequence[int]) -> Iterator[tuple[str, Write]]:
    for k in bytes_:
        for bit in range(8) if k >= 8 else ((3 * k + 1) % 8,):

            def damage(folder: Path, k: int = k, bit: int = bit) -> None:
                content = (folder / f"{name}.dcm").read_bytes()
                flip(f"{name}.dcm", element(content, keyword) + k, bit)(folder)

            yield f"{keyword}, bit {bit} of byte {k} ({name})", damage


def new(dataset: Dataset, k: int) -> Dataset:
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{k + 1}"
    return dataset


def halve(dataset: Dataset) -> None:
    dataset.Rows //= 2
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]


def patched(content: bytes, keyword: str, offset: int, piece: bytes) -> bytes:
    at = element(content, keyword) + offset
    return content[:at] + piece + content[at + len(piece) :]


def deflated(content: bytes, explicit: bytes | None) -> bytes:
    """Return a file in the deflated transfer syntax (PS3.5 A.5)."""
    explicit = explicit or b"\x02\0\x10\0UI\x14\0" + uid.ExplicitVRLittleEndian.encode() + b"\0"
    text = uid.DeflatedExplicitVRLittleEndian.encode()
    meta = b"\x02\0\x10\0UI" + struct.pack("<H", len(text) + len(text) % 2) + text + b"\0" * (len(text) % 2)
    end = content.index(explicit) + len(explicit)
    while content[end : end + 2] == b"\x02\0":
        end += 8 + struct.unpack("<H", content[end + 6 : end + 8])[0]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return content[:end].replace(explicit, meta) + squeeze.compress(content[end:]) + squeeze.flush()
