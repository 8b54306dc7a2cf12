"""The values of a data set as plain ones, checked; a broken one is an error of ours that does not repeat it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from medfuse.errors import DicomError
from medfuse.io.suv import Moment

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)")
_TIME = re.compile(r"(\d\d):?(\d\d)?:?(\d\d(?:\.\d{1,6})?)?")
_ZONE = re.compile(r"([+-])(\d\d)(\d\d)$")


def is_uid(text: str) -> bool:
    """Return whether a text is a DICOM UID (PS3.5 9.1)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


class Values:
    """A data set, whose values are asked for by keyword, or by tag where they are private.

    Every method raises a `DicomError` without subject, "must have ...", for a value that makes no sense.
    """

    def __init__(self, dataset: Dataset) -> None:
        converted = dataset.get("UnassignedSharedConvertedAttributesSequence")
        self._places = [dataset, *(converted or [])[:1]]  # where legacy converted images keep some attributes

    def raw(self, name: str | int) -> Any:
        """Return a value as pydicom has it; None where it is absent or empty."""
        for place in self._places:
            try:
                value = place[name].value if name in place else None
            except Exception:
                raise DicomError(f"must have a valid {_label(name)}, got a broken one") from None
            if value is not None and value != "":
                return value
        return None

    def texts(self, name: str | int) -> tuple[str, ...]:
        """Return a value as texts."""
        value = self.raw(name)
        if isinstance(value, bytes):
            value = value.decode("ascii", "replace")
        several = [] if value is None else [value] if isinstance(value, str | int | float | PersonName) else list(value)
        return tuple(str(v).strip(" \0") for v in several)

    def text(self, name: str | int) -> str:
        """Return the first text of a value, or an empty one."""
        return next(iter(self.texts(name)), "")

    def code(self, name: str, known: Sequence[str]) -> str:
        """Return a code of a known list, or OTHER for another one: the text of a header may be anything."""
        value = self.text(name)
        return value if value in known or not value else "OTHER"

    def uid(self, name: str, *, needed: bool = True) -> str:
        """Return a UID; an empty one where it is absent and not needed."""
        value = self.text(name)
        if (value or needed) and not is_uid(value):
            raise DicomError(f"must have a valid {name}, got {'another text' if value else 'none'}")
        return value

    def numbers(self, name: str | int, count: int) -> tuple[float, ...]:
        """Return so many finite numbers."""
        texts = self.texts(name)
        try:
            numbers = tuple(float(t) for t in texts)
        except ValueError:
            numbers = (math.nan,)
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            what = "a finite number" if count == 1 else f"{count} finite numbers"
            raise DicomError(f"must have {what} as {_label(name)}, got {'others' if texts else 'none'}")
        return numbers

    def number(self, name: str | int) -> float | None:
        """Return one finite number, or None where it is absent."""
        return None if self.raw(name) is None else self.numbers(name, 1)[0]

    def count(self, name: str | int, *, default: int | None = None) -> int:
        """Return a whole number of at least 0; the default, where there is one, for an absent value."""
        if default is not None and self.raw(name) is None:
            return default
        value = self.numbers(name, 1)[0]
        if value < 0 or value != int(value):
            raise DicomError(f"must have a count as {_label(name)}, got {value:g}")
        return int(value)

    def items(self, name: str) -> list[Values]:
        """Return the items of a sequence."""
        value = self.raw(name)
        if value is not None and not all(isinstance(item, Dataset) for item in value):
            raise DicomError(f"must have a sequence as {name}, got another value")
        return [Values(item) for item in value or []]

    def moment(self, day: str, time: str, zone: float | None = None) -> Moment | None:
        """Return the moment of a date and a time (PS3.5 6.2, DA and TM), without day where the date is absent.

        Args:
            day: Keyword; empty for none.
            time: Keyword.
            zone: Seconds east of UTC, or None.
        """
        text, written = self.text(time), self.text(day) if day else ""
        if not text:
            return None
        second, number = _second(text), _day(written)
        if second is None or (written and number is None):
            raise DicomError(f"must have a valid {_label(time if second is None else day)}, got another text")
        return Moment(number, second, zone)

    def day(self, name: str) -> int | None:
        """Return the day of a date-time that is cut short after it (PS3.5 6.2, DT), or None."""
        return _day(self.text(name))

    def instant(self, name: str | int, zone: float | None = None) -> Moment | None:
        """Return the moment of a date-time (PS3.5 6.2, DT), in the zone that it tells itself, else in another.

        Args:
            name: Keyword or tag.
            zone: Seconds east of UTC, or None.
        """
        text = self.text(name)
        if not text:
            return None
        own, text = parse_zone(text), _ZONE.sub("", text)
        day, second = _day(text[:8]), _second(text[8:])
        if day is None or second is None:
            raise DicomError(f"must have a valid {_label(name)}, got another text")
        return Moment(day, second, zone if own is None else own)


def parse_zone(text: str) -> float | None:
    """Return the seconds east of UTC that a text ends with, such as +0130, or None.

    Raises:
        DicomError: If no zone is so far from UTC (PS3.5 6.2, DT: -1200 to +1400).
    """
    match = _ZONE.search(text)
    if match is None:
        return None
    zone = float(f"{match[1]}1") * (int(match[2]) * 3600 + int(match[3]) * 60)
    if not -12 * 3600 <= zone <= 14 * 3600 or int(match[3]) > 59:
        raise DicomError("must tell a time zone of -1200 to +1400, got another")
    return zone


def _day(text: str) -> int | None:
    match = _DATE.fullmatch(text)
    try:
        return date(int(match[1]), int(match[2]), int(match[3])).toordinal() if match else None
    except ValueError:
        return None


def _second(text: str) -> float | None:
    match = _TIME.fullmatch(text)
    if not match:
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds if hours < 24 and minutes < 60 and seconds < 61 else None


def _label(name: str | int) -> str:
    return name if isinstance(name, str) else f"({name >> 16:04X},{name & 0xFFFF:04X})"
