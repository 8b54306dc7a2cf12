"""What a region is, in codes: taken from a segmentation or a structure set as plain values, put into a segmentation.

Sections are those of DICOM PS3.3, context groups (CID) those of PS3.16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as public
from pydicom.sr.coding import Code

CATEGORY, TYPE = "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"
ANATOMY = "AnatomicRegionSequence"
ROLE_CATEGORY, ROLE = "TherapeuticRoleCategoryCodeSequence", "TherapeuticRoleTypeCodeSequence"
INTERPRETED = "RTROIInterpretedType"
_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")
_WORDS = (*_VALUES, "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning")
_WITHIN = {
    TYPE: "SegmentedPropertyTypeModifierCodeSequence",
    ANATOMY: "AnatomicRegionModifierSequence",
    "PrimaryAnatomicStructureSequence": "PrimaryAnatomicStructureModifierSequence",
}
_ALL = (CATEGORY, *_WITHIN)
_IDENTIFIED = "RTROIIdentificationCodeSequence"
_ANATOMICAL, _TARGET, _DOSE = (
    Code("91723000", "SCT", "Anatomical Structure"),
    public.DCM.RTTarget,
    public.DCM.RTDoseCalculationStructure,
)
_ROLES = {
    "GTV": (_TARGET, Code("228791009", "SCT", "GTV")),
    "CTV": (_TARGET, Code("228792002", "SCT", "CTV")),
    "PTV": (_TARGET, Code("228793007", "SCT", "PTV")),
    "TREATED_VOLUME": (_TARGET, public.DCM.TreatedVolume),
    "IRRAD_VOLUME": (_TARGET, Code("228790005", "SCT", "Irradiated Volume")),
    "OAR": (_DOSE, public.DCM.OrganAtRisk),
    "AVOIDANCE": (_DOSE, public.DCM.AvoidanceVolume),
}
_THINGS = {
    "CAVITY": (_ANATOMICAL, Code("91806002", "SCT", "Body Cavity")),
    "CONTRAST_AGENT": (Code("105590001", "SCT", "Substance"), Code("7140000", "SCT", "Contrast agent")),
}
_CATEGORIES = {"ORGAN": _ANATOMICAL, "OAR": _ANATOMICAL, "CAVITY": _ANATOMICAL} | {
    kind: category for kind, (category, _) in _ROLES.items() if category == _TARGET
}
_ATLAS = "FMA"  # the Foundational Model of Anatomy names nothing else

Codes = dict[str, Any]
"""By DICOM keyword the items of a sequence of codes, each its values by keyword, and its modifiers likewise; and
`RTROIInterpretedType` of a structure set as it stands there."""


def codes_of(segment: Dataset) -> Codes:
    """Return category, type and anatomy of a segment, with modifiers; nothing where category or type have no code.

    Reference:
        C.8.20.4 (Segment Description Macro), 8.8 (Code Sequence Macro).
    """
    found = _described(segment)
    return found if CATEGORY in found and TYPE in found else {}


def codes_of_structure(observations: Iterable[Dataset]) -> Codes:
    """Return what a structure is, as `codes_of`, its therapeutic role, and the type as which it is interpreted.

    The code that identifies a structure is its type. Where it has no category, that of its interpreted type is taken,
    else it is an anatomical structure (a code of the FMA) or a volume that is not specific. A structure without a code
    gets those that the standard maps its interpreted type to; one of which no more than a role is known is that.

    Args:
        observations: Of one structure; the first that says something counts.

    Reference:
        C.8.8.8 (RT ROI Observations Module), C.8.8.8.3.1 (mapping of RT ROI Interpreted Type); CID 9503, 9534, 9535.
    """
    found: Codes = {}
    for observation in observations:
        own = _described(observation)
        types = _items(observation, _IDENTIFIED)
        for item, type_ in zip(observation.get(_IDENTIFIED) or (), types, strict=False):
            modifiers = _items(item, _WITHIN[TYPE])
            type_ |= {_WITHIN[TYPE]: modifiers} if modifiers else {}
        own |= {TYPE: types} if types else {}
        own |= {key: items for key in (ROLE_CATEGORY, ROLE) if (items := _items(observation, key))}
        kind = str(observation.get(INTERPRETED) or "").strip().upper()
        own |= {INTERPRETED: kind} if kind else {}
        found = own | found
    kind = found.get(INTERPRETED, "")
    if kind in _ROLES and not (ROLE in found and ROLE_CATEGORY in found):
        found |= {key: [_item(code)] for key, code in zip((ROLE_CATEGORY, ROLE), _ROLES[kind], strict=True)}
    if TYPE not in found:
        found.pop(CATEGORY, None)
        if kind in _THINGS:
            found |= {key: [_item(code)] for key, code in zip((CATEGORY, TYPE), _THINGS[kind], strict=True)}
        elif ROLE in found and ROLE_CATEGORY in found:
            found |= {CATEGORY: found[ROLE_CATEGORY], TYPE: found[ROLE]}
    elif CATEGORY not in found:
        of_atlas = found[TYPE][0].get("CodingSchemeDesignator") == _ATLAS
        other = _CATEGORIES.get(kind, public.DCM.NonSpecificVolume)
        found[CATEGORY] = [_item(_ANATOMICAL if of_atlas else other)]
    return found


def put_codes(segment: Dataset, codes: Mapping[str, Any]) -> None:
    """Put codes as `codes_of` returns them into a segment, in the place of those that it has."""
    for keyword in _ALL:
        if keyword in codes:
            setattr(segment, keyword, datasets(codes[keyword]))


def datasets(items: Iterable[Mapping[str, Any]]) -> list[Dataset]:
    """Return codes as the items of a sequence."""
    return [_dataset(item) for item in items]


def _described(segment: Dataset) -> Codes:
    """Return category, type and anatomy, with modifiers, as far as they have codes."""
    found: Codes = {}
    for keyword in _ALL:
        items = _items(segment, keyword)
        for item, own in zip(segment.get(keyword) or (), items, strict=False):
            modifiers = _items(item, _WITHIN[keyword]) if keyword in _WITHIN else []
            own |= {_WITHIN[keyword]: modifiers} if modifiers else {}
        found |= {keyword: items} if items else {}
    return found


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


def _item(code: Code) -> dict[str, Any]:
    return {"CodeValue": code.value, "CodingSchemeDesignator": code.scheme_designator, "CodeMeaning": code.meaning}
