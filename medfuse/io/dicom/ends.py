"""Whether a stack has all of its slices, and none of another: positions tell of gaps, but not of the ends.

Images in Acquisition (0020,1002), the numbers of slices that Philips and GE tell, and Instance Numbers that count along
the slices speak of them (PS3.3 C.7.6.1). None of them must be there, images may be numbered in any way, and an
acquisition may give several series. Hence what two of them say alike is refused, and what one says is a doubt.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from medfuse.errors import DicomError
from medfuse.io.dicom.values import Values

_PHILIPS, _PHILIPS_SLICES = 0x20010010, 0x20011018
_GE, _GE_SLICES = 0x00210010, 0x0021104F
PRIVATE_TAGS = (_PHILIPS, _PHILIPS_SLICES, _GE, _GE_SLICES)
_MAKERS = ((_PHILIPS, "Philips Imaging DD 001", _PHILIPS_SLICES), (_GE, "GEMS_RELA_01", _GE_SLICES))
KEYWORDS = (
    "InstanceNumber", "AcquisitionNumber", "ImagesInAcquisition", "NumberOfTemporalPositions", "ConcatenationUID",
    "InConcatenationNumber", "InConcatenationTotalNumber",
)  # fmt: skip
_FEWEST = 4  # slices in which numbers show how they count
_FIRST = 0.1  # part of the slices by which numbers that begin late seem to lack some, and not to count otherwise


@dataclass(frozen=True)
class Numbering:
    """How an image is counted; None or 0 where its header says nothing.

    Attributes:
        number: Instance Number (0020,0013).
        acquisition: Acquisition Number (0020,0012).
        named: How many images there are: Images in Acquisition, or what Philips or GE say.
        concatenation: Concatenation UID (0020,9161) of a multi-frame image in several files.
        part: In-concatenation Number (0020,9162).
        parts: In-concatenation Total Number (0020,9163).
    """

    number: int | None = None
    acquisition: int | None = None
    named: int = 0
    concatenation: str = ""
    part: int = 0
    parts: int = 0


def read_numbering(values: Values) -> Numbering:
    """Read how an image is counted; what cannot be read says nothing, as no pixel depends on it."""

    def count(name: str | int) -> int | None:
        try:
            number = values.number(name)
        except DicomError:
            return None
        return int(number) if number is not None and number == int(number) else None

    def text(name: str | int) -> str:
        try:
            return values.text(name)
        except DicomError:
            return ""

    named = 0 if (count("NumberOfTemporalPositions") or 1) > 1 else count("ImagesInAcquisition") or 0
    for creator, maker, slices in _MAKERS:
        if not named and text(creator) == maker:
            named = count(slices) or 0
    return Numbering(
        number=count("InstanceNumber"),
        acquisition=count("AcquisitionNumber"),
        named=max(named, 0),
        concatenation=text("ConcatenationUID"),
        part=count("InConcatenationNumber") or 0,
        parts=count("InConcatenationTotalNumber") or 0,
    )


def require_parts(images: Sequence[Numbering]) -> None:
    """Refuse a multi-frame image of which a file is missing (PS3.3 C.7.6.16.2.2.4).

    Raises:
        DicomError: If one is.
    """
    groups = defaultdict(list)
    for image in images:
        if image.concatenation:
            groups[image.concatenation].append(image)
    for of in groups.values():
        parts = max(image.parts for image in of)
        missing = sorted(set(range(1, parts + 1)) - {image.part for image in of})
        if missing:
            raise DicomError(
                f"must have the {parts} parts of its concatenation, got {len(of)}; add number {_list(missing)}"
            )


def check_ends(images: Sequence[Numbering], places: Sequence[str]) -> tuple[str, ...]:
    """Hold the slices of a stack against how they are counted.

    Args:
        images: In the order of the slices.
        places: Where each is, for messages.

    Returns:
        Doubts, "may ...", each without full stop.

    Raises:
        DicomError: If a slice at an end is missing, or of another acquisition, by two of the headers.
    """
    count, named = len(images), _one([i.named for i in images]) or 0
    if count < _FEWEST:
        return ()
    acquisitions = Counter(i.acquisition for i in images)
    stray, why = _stray(images, acquisitions)
    if stray is not None:
        what = f"its {'last' if stray else 'first'} slice ({places[stray]})"
        if len(why) > 1 or (named and count == named + 1):
            why += [f"{named} are named"] if named else []
            raise DicomError(f"must be of one acquisition, got another in {what}: {' and '.join(why)}; remove it")
        return (f"may hold a slice of another acquisition, {what}: {' and '.join(why)}",)
    numbers = [i.number for i in images if i.number is not None]
    along = len(numbers) == count and set(_steps(numbers)) in ({1}, {-1})
    if len(acquisitions) == 1 and count < named < 2 * count:
        if not along or min(numbers) < 1 or max(numbers) > named:
            return (f"may lack slices: {named} images are named, and {count} are there",)
        missing = sorted(set(range(1, named + 1)) - set(numbers))
        ends = [places[numbers.index(n)] for n in (min(numbers), max(numbers)) if {n - 1, n + 1} & set(missing)]
        raise DicomError(
            f"must have the {named} images that it names, got {count}; add number {_list(missing)}, beside "
            f"{' and '.join(ends)}"
        )
    late = min(numbers) - 1 if along else 0
    if not named and 1 <= late <= max(1, _FIRST * count):
        first = numbers.index(late + 1)
        which = "first" if first == 0 else "last"
        return (f"may lack its {which} slice: instance numbers begin with {late + 1} ({places[first]})",)
    return ()


def _stray(images: Sequence[Numbering], acquisitions: Counter[int | None]) -> tuple[int | None, list[str]]:
    """Return the place of one slice at an end that is counted otherwise than all others, and why; 0 or -1, or None."""
    for end, inner in ((0, images[1:]), (-1, images[:-1])):
        why = []
        numbers = [i.number for i in inner if i.number is not None]
        steps = set(_steps(numbers))
        own = images[end].number
        if len(numbers) == len(inner) and len(steps) == 1 and 0 not in steps and own is not None:
            step = steps.pop()
            if own != (numbers[-1] + step if end else numbers[0] - step):
                why.append(f"its instance number is {own}, where the others count {numbers[0]} to {numbers[-1]}")
        if len(acquisitions) == 2 and acquisitions[images[end].acquisition] == 1 and None not in acquisitions:
            why.append(f"its acquisition number is {images[end].acquisition}")
        if why:
            return end, why
    return None, []


def _steps(numbers: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise(numbers)]


def _one(values: Sequence[int]) -> int | None:
    return values[0] if len(set(values)) == 1 else None


def _list(numbers: Sequence[int]) -> str:
    some = [str(n) for n in numbers[:3]]
    return " and ".join(some) if len(numbers) <= 3 else f"{', '.join(some)} and {len(numbers) - 3} more"
