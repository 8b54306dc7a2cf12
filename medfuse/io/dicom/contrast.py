"""What the images of one MRI have in common: images of two contrasts, one between the other, are no volume."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from medfuse.errors import DicomError
from medfuse.io.dicom.values import Values

NUMBERS = ("EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue")
"""Keywords of numbers, PS3.3 C.8.3.1 and C.8.13.5.9."""
_OF_FRAMES = {  # of enhanced images: sequences, and numbers in them (C.8.13.5)
    "MREchoSequence": "EffectiveEchoTime",
    "MRModifierSequence": "InversionTimes",
    "MRTimingAndRelatedParametersSequence": "FlipAngle",
    "MRDiffusionSequence": "DiffusionBValue",
}
_PARTS = {  # of Image Type, beyond the second value: part of a complex image, or what it was made to show
    "M": "magnitude", "MAGNITUDE": "magnitude", "P": "phase", "PHASE": "phase", "PHASE MAP": "phase", "R": "real",
    "REAL": "real", "I": "imaginary", "IMAGINARY": "imaginary", "W": "water", "WATER": "water", "F": "fat",
    "FAT": "fat", "IP": "in phase", "IN_PHASE": "in phase", "OP": "out of phase", "OUT_PHASE": "out of phase",
}  # fmt: skip
_SAME = 0.01  # part by which numbers may differ


def read_contrast(values: Values) -> frozenset[tuple[str, float | str]]:
    """Read what images are held against each other by: names and values, of all frames of a file."""
    shared, per_frame = values.items("SharedFunctionalGroupsSequence"), values.items("PerFrameFunctionalGroupsSequence")
    found: set[tuple[str, float | str]] = set()
    for sequence, keyword in _OF_FRAMES.items():
        for place in (*shared, *per_frame):
            found |= {(keyword, n) for item in _items(place, sequence) for n in _numbers(item, keyword)}
    found |= {(keyword, number) for keyword in NUMBERS for number in _numbers(values, keyword)}
    parts = sorted({_PARTS[text] for text in values.texts("ImageType")[2:] if text in _PARTS})
    return frozenset(found | {("ImageType", " and ".join(parts))} if parts else found)


def mixed(contrasts: Iterable[frozenset[tuple[str, float | str]]]) -> str:
    """Return the name of what several images do not have in common, or nothing."""
    values: dict[str, set[float | str]] = {}
    for contrast in contrasts:
        for name, value in contrast:
            values.setdefault(name, set()).add(value)
    for name, several in values.items():
        numbers = [v for v in several if isinstance(v, float)]
        if numbers and max(numbers) - min(numbers) > _SAME * max(map(abs, numbers)):
            return name
        if not numbers and len(several) > 1:
            return name
    return ""


def _items(values: Values, name: str) -> list[Values]:
    try:
        return values.items(name)
    except DicomError:
        return []


def _numbers(values: Values, name: str) -> Iterator[float]:
    """Give the one number of an element; what cannot be read says nothing: no pixel depends on it."""
    try:
        number = values.number(name)
    except DicomError:
        return
    if number is not None:
        yield number
