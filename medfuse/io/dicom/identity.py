"""Whose images these are, as digests: they can be compared, and tell no one.

A digest depends on a key that each process makes anew, so that it is of no use outside of it.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, cast

import pydicom
from pydicom.datadict import tag_for_keyword

from medfuse.errors import DicomError
from medfuse.io.dicom.values import Values

_PERSONAL = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "SpecificCharacterSet")
_KEY = secrets.token_bytes(32)


@dataclass(frozen=True)
class Person:
    """The patient of an image, in digests; empty where the header says nothing.

    Attributes:
        number: Of Patient ID (0010,0020).
        issuer: Of Issuer of Patient ID (0010,0021).
        name: Of Patient's Name (0010,0010), without case and empty components.
        birth: Of Patient's Birth Date (0010,0030).
        sex: Of Patient's Sex (0010,0040), where it is M or F.
    """

    number: str = ""
    issuer: str = ""
    name: str = ""
    birth: str = ""
    sex: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What must be one in all files of a series: the number, or without one, name and birth date."""
        return (self.number,) if self.number else ("", self.name, self.birth)

    def contradicts(self, other: Person) -> bool:
        """Return whether two images of one series tell anything differently: there, a patient is written one way.

        A number alone is no proof, as "0" or "1" is given to many.
        """
        pairs = zip(astuple(self), astuple(other), strict=True)
        return any(_differ(one, two) for one, two in pairs)

    def is_another(self, other: Person) -> bool:
        """Return whether two sources are of two patients, by what both tell.

        Two numbers of one issuer are two patients; one number is one, unless issuers, or two of name, birth date and
        sex, differ. Where one has no number, any of these decides. What tells nothing contradicts nothing.
        """
        differing = len(self.differences(other))
        if self.number and other.number:
            return self.number != other.number or _differ(self.issuer, other.issuer) or differing > 1
        return differing > 0

    def differences(self, other: Person) -> tuple[str, ...]:
        """Return the keywords of what two sources tell differently beside their numbers."""
        told = {
            "PatientName": (self.name, other.name),
            "PatientBirthDate": (self.birth, other.birth),
            "PatientSex": (self.sex, other.sex),
        }
        return tuple(keyword for keyword, (one, two) in told.items() if _differ(one, two))


def read_person(values: Values) -> Person:
    """Read who an image is of; what cannot be read counts as its broken text."""
    name = _text(values, "PatientName").split("=")[0].upper()
    sex = _text(values, "PatientSex")
    return Person(
        number=_digest(_text(values, "PatientID")),
        issuer=_digest(_text(values, "IssuerOfPatientID")),
        name=_digest("^".join(" ".join(part.split()) for part in name.split("^")).rstrip("^")),
        birth=_digest(_text(values, "PatientBirthDate")),
        sex=_digest(sex if sex in ("M", "F") else ""),
    )


def person_of_results(folder: Path) -> Person | None:
    """Return who the DICOM results in a folder are of, by the first of its files that can be read; None without any."""
    names = [cast(int, tag_for_keyword(name)) for name in _PERSONAL]
    for path in sorted(folder.rglob("*.dcm")):
        with suppress(Exception):  # of whatever kind; another file may be sound
            read = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=cast(Any, names))
            return read_person(Values(read))
    return None


def _text(values: Values, name: str) -> str:
    try:
        return values.text(name)
    except DicomError:
        return "?"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="replace"), key=_KEY, digest_size=16).hexdigest() if text else ""


def _differ(one: str, other: str) -> bool:
    return bool(one and other) and one != other
