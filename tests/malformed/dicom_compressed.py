"""Damages to what frames compressed pixels."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from malformed.corpus import Case, Way, Write
from malformed.dicom_studies import edit, element, raw, tags
from pydicom import uid

_ITEM, _END = b"\xfe\xff\0\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"  # of encapsulated pixels


def compressed(kind: str, way: Way) -> Iterator[Case]:
    """Give damages to what frames compressed pixels."""
    family = f"DICOM {kind}"

    def wrapped(change: Callable[[bytes], bytes]) -> Write:
        """Change the items that hold the pixels, with their end: the last element of a file."""

        def damage(content: bytes) -> bytes:
            at = element(content, "PixelData") + 12
            return content[:at] + change(content[at:])

        return raw("mr_3", damage)

    def stream(change: Callable[[bytes], bytes]) -> Write:
        """Change the one fragment, behind a table of one offset (PS3.5 A.4)."""

        def damage(items: bytes) -> bytes:
            table, fragment = items[:12], change(items[20 : 20 + struct.unpack("<I", items[16:20])[0]])
            fragment += b"\0" * (len(fragment) % 2)
            return table + _ITEM + struct.pack("<I", len(fragment)) + fragment + _END

        return wrapped(damage)

    for keep in (0, 1, 10, 60, 64, 80, 100, -60, -9, -2):
        yield Case(family, f"a stream cut at {keep}", way, stream(lambda s, n=keep: s[:n]))
    for byte in {"RLE": (*range(12), *range(60, 64)), "JPEG-LS": range(26), "JPEG 2000": range(56)}[kind]:

        def change(s: bytes, byte: int = byte) -> bytes:
            return s[:byte] + bytes([s[byte] ^ 1 << byte % 8]) + s[byte + 1 :]

        yield Case(family, f"a bit of byte {byte} of the stream", way, stream(change))
    for name, change in {
        "zeros": lambda s: bytes(len(s)),
        "0xFF": lambda s: b"\xff" * len(s),
        "twice": lambda s: s * 2,
        "text": lambda s: b"x" * 1000,
        "a JPEG": lambda s: b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(99) + b"\xff\xd9",
        "a PNG": lambda s: b"\x89PNG\r\n\x1a\n" + bytes(99),
        "1 MiB behind": lambda s: s + bytes(1 << 20),
    }.items():
        yield Case(family, f"a stream of {name}", way, stream(change))
    for name, change in {
        "no fragment": lambda p: p[:12] + _END,
        "no offset table": lambda p: p[12:],
        "a length of 4 GiB": lambda p: p[:16] + b"\xf0\xff\xff\xff" + p[20:],
        "no end": lambda p: p[:-8],
        "a fragment twice": lambda p: p[:12] + 2 * p[12:-8] + _END,
        "an end alone": lambda p: _END,
        "nothing": lambda p: b"",
        "another tag": lambda p: b"\xfe\xff\x0d\xe0" + p[4:],
    }.items():
        yield Case(family, f"pixels with {name}", way, wrapped(change))
    for name, values in {
        "rows + 1": {"Rows": 37},
        "8 bits": {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
        "8 bits stored": {"BitsStored": 8, "HighBit": 7},
        "32 bits": {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31},
        "3 samples": {"SamplesPerPixel": 3},
        "signed": {"PixelRepresentation": 1},
    }.items():
        yield Case(family, name, way, tags("mr_3", **values))
    for other, syntax in (
        ("RLE", uid.RLELossless),
        ("JPEG-LS", uid.JPEGLSLossless),
        ("JPEG 2000", uid.JPEG2000Lossless),
    ):
        if other != kind:
            wrong = edit("mr_3", lambda d, s=syntax: setattr(d.file_meta, "TransferSyntaxUID", s))
            yield Case(family, f"called {other}", way, wrong)
    native = edit("mr_3", lambda d: setattr(d.file_meta, "TransferSyntaxUID", uid.ExplicitVRLittleEndian))
    yield Case(family, "called native", way, native)
