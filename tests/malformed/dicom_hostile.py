"""DICOM that aims at something: names, UIDs, sizes and nestings."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from malformed.corpus import Case
from malformed.dicom_studies import CLASSIC, ENHANCED, FILED, SLICES, deflated, element, raw, tags


def hostile() -> Iterator[Case]:
    """Give names, UIDs, sizes and nestings that aim at something."""
    texts = {
        "a path": b"../../../../tmp/evil",
        "an absolute path": b"/etc/passwd",
        "NUL": b"1.2\0.3",
        "too long": b"1." * 60 + b"1",
        "empty parts": b"1..2",
        "a call": b"$(touch x)",
        "markup": b"<script>",
        "a format": b"{0.__class__}%s%n",
    }
    for name, text in texts.items():
        for keyword in ("SeriesInstanceUID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
            value = tags("*" if keyword[:2] in ("St", "Fr") else "mr_*", **{keyword: text})
            yield Case("DICOM hostile names", f"{name} as {keyword}", FILED, value)
        for keyword in ("PatientID", "PatientName", "SpecificCharacterSet", "StudyDate", "StudyDescription"):
            yield Case("DICOM hostile names", f"{name} as {keyword}", FILED, tags("*", **{keyword: text}))
    long = tags("*", PatientName=b"x" * 60_000)
    yield Case("DICOM hostile names", "a name of 60 000 letters", FILED, long)
    for name, at in {
        "255 letters": "x" * 251 + ".dcm",
        "a new line": "a\nb.dcm",
        "dots": "...dcm",
        "no suffix": "x",
    }.items():
        yield Case(
            "DICOM hostile names",
            f"a file of {name}",
            FILED,
            lambda f, at=at: (f / "mr_3.dcm").rename(f / at),
        )

    def nested(depth: int) -> bytes:
        one = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        return one * depth

    def before_pixels(content: bytes, piece: bytes) -> bytes:
        at = element(content, "SeriesInstanceUID")
        return content[:at] + piece + content[at:]

    empty = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 600_000
    bombs = {
        "deflated, 256 MiB": lambda c: deflated(
            c + struct.pack("<HH2sHI", 0x7FE1, 0x10, b"OB", 0, 256 << 20) + bytes(256 << 20), None
        ),
        "sequences in sequences": lambda c: before_pixels(c, nested(50_000)),
        "600 000 items": lambda c: before_pixels(c, empty),
        "a text of 4 GiB": lambda c: before_pixels(c, struct.pack("<HH2sHI", 8, 0x0115, b"UT", 0, 0xFFFFFFF0)),
        "a text of 64 MiB": lambda c: before_pixels(
            c, struct.pack("<HH2sHI", 8, 0x0115, b"UT", 0, 64 << 20) + b"x" * (64 << 20)
        ),
        "a sequence of 64 KiB that ends early": lambda c: before_pixels(
            c, struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 65536)
        ),
        "elements out of order": lambda c: c[:-1] + c[-1:] + c[element(c, "Rows") : element(c, "Rows") + 10],
    }
    for name, change in bombs.items():
        yield Case("DICOM bombs", name, CLASSIC, raw("mr_3", change))
    for name, values in {
        "frames 30000": {"NumberOfFrames": 30000},
        "rows 32767": {"Rows": 32767, "Columns": 32767},
        "frames 0": {"NumberOfFrames": 0},
        "no groups": {"PerFrameFunctionalGroupsSequence": None},
        "empty groups": {"PerFrameFunctionalGroupsSequence": []},
        "no shared groups": {"SharedFunctionalGroupsSequence": None},
        "fewer frames": {"NumberOfFrames": SLICES - 1},
    }.items():
        yield Case("DICOM bombs", f"enhanced, {name}", ENHANCED, tags("mr_0", **values))
