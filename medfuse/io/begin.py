"""How a DICOM file begins: with a preamble and DICM, as it must (PS3.10 7.1), or without, as some files do."""

from __future__ import annotations

import re
from pathlib import Path

HEAD = 132 + 8
"""Bytes that tell."""
_META = re.compile(
    rb"\x02\x00[\x00-\x03\x10\x12\x13]\x00(UL|OB|UI|SH)"
)  # file meta information, explicit little endian
_EXPLICIT = re.compile(rb"\x08\x00[\x00-\x7f]\x00(UL|US|CS|UI|DA|TM|DT|SH|LO|PN|SQ)")  # group 8 of a data set
_IMPLICIT = re.compile(rb"\x08\x00[\x00\x01\x05\x08\x12-\x16\x18]\x00.\x00\x00\x00", re.DOTALL)


def elements_at(head: bytes) -> int | None:
    """Return where the elements of a DICOM file begin, or None for another file.

    Args:
        head: Its first bytes, `HEAD` of them.
    """
    if head[128:132] == b"DICM":
        return 132
    return 0 if any(known.match(head) for known in (_META, _EXPLICIT, _IMPLICIT)) else None


def has_meta(head: bytes) -> bool:
    """Return whether elements begin with the file meta information, which names the transfer syntax."""
    return head[:2] == b"\x02\x00"


def is_explicit(head: bytes) -> bool:
    """Return whether the elements of a data set, in little endian, name their value representation (PS3.5 7.1.2)."""
    return _EXPLICIT.match(head) is not None


def is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM does.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return elements_at(file.read(HEAD)) is not None
