"""What a segment is, in codes: taken from a segmentation as plain values, and put into another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset

CATEGORY, TYPE = "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"
ANATOMY = "AnatomicRegionSequence"
_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")
_WORDS = (*_VALUES, "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning")
_WITHIN = {
    TYPE: "SegmentedPropertyTypeModifierCodeSequence",
    ANATOMY: "AnatomicRegionModifierSequence",
    "PrimaryAnatomicStructureSequence": "PrimaryAnatomicStructureModifierSequence",
}
_ALL = (CATEGORY, *_WITHIN)

Codes = dict[str, list[dict[str, Any]]]
"""By DICOM keyword the items of a sequence of codes, each its values by keyword, and its modifiers likewise."""


def codes_of(segment: Dataset) -> Codes:
    """Return category, type and anatomy of a segment, with modifiers; nothing where category or type have no code.

    Reference:
        PS3.3 C.8.20.4 (Segment Description Macro), 8.8 (Code Sequence Macro).
    """
    found: Codes = {}
    for keyword in _ALL:
        items = _items(segment, keyword)
        for item, own in zip(segment.get(keyword) or (), items, strict=False):
            modifiers = _items(item, _WITHIN[keyword]) if keyword in _WITHIN else []
            own |= {_WITHIN[keyword]: modifiers} if modifiers else {}
        found |= {keyword: items} if items else {}
    return found if CATEGORY in found and TYPE in found else {}


def put_codes(segment: Dataset, codes: Mapping[str, Any]) -> None:
    """Put codes as `codes_of` returns them into a segment, in the place of those that it has."""
    for keyword, items in codes.items():
        setattr(segment, keyword, [_dataset(item) for item in items])


def _items(parent: Dataset, keyword: str) -> list[dict[str, Any]]:
    """Return the codes of a sequence; none where one of them is no whole code."""
    found = [{word: str(item[word].value) for word in _WORDS if item.get(word)} for item in parent.get(keyword) or ()]
    whole = all(item.get("CodeMeaning") and any(word in item for word in _VALUES) for item in found)
    known = all("CodingSchemeDesignator" in item or "URNCodeValue" in item for item in found)
    return found if whole and known else []


def _dataset(item: Mapping[str, Any]) -> Dataset:
    found = Dataset()
    for keyword, value in item.items():
        setattr(found, keyword, value if isinstance(value, str) else [_dataset(one) for one in value])
    return found
