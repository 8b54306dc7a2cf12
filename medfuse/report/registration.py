"""What to know of where the images lie: their headers, registration, frames of reference and fields of view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medfuse.io.modalities import DEFAULT_PAIR, title, titles
from medfuse.io.placement import describe_disagreement
from medfuse.report.finding import Finding

_FAR_MM, _UNSURE_MM = 20.0, 2.0  # a large displacement; how far apart two halves of the data may place the image
_OUTSIDE = 0.01  # of the field of view


def moving_source(record: Mapping[str, Any]) -> str:
    """Return the name of the source that was brought to the grid of the other."""
    reference = (record.get("reference") or {}).get("source")
    return next((name for name in record.get("sources") or {} if name != reference), DEFAULT_PAIR[1])


def placement_findings(record: Mapping[str, Any]) -> list[Finding]:
    """Return what to know of where the headers place the images of a case and its mask, from its record."""
    named = {f"the {title(name)}": source.get("placement") for name, source in (record.get("sources") or {}).items()}
    found = []
    for what, placement in {**named, "the mask": record.get("mask_placement")}.items():
        if placement and not placement.get("agree", True):
            text = f"The header of {what} gives two places, {describe_disagreement(placement)}."
            text += " Find out which is right and rewrite the header with it alone."
            found.append(Finding("warning", text))
    reference = record.get("reference") or {}
    if reference.get("sheared"):
        grid = title(str(reference.get("source", "")))
        text = (
            f"The axes of the {grid}, and so of the results, are not at right angles. ITK and SimpleITK refuse such "
            "NIfTI; nibabel and niivue place it rightly."
        )
        found.append(Finding("note", text))
    return found


def registration_findings(record: Mapping[str, Any]) -> list[Finding]:
    """Return what to know of how the images of a case were brought to one grid, from its record."""
    return [finding for part in (_rigid, _studies, _frames, _coverage) for finding in part(record)]


def _rigid(record: Mapping[str, Any]) -> list[Finding]:
    """Return whether a registration was made and accepted, and how sure it is of itself."""
    registration, moving = record.get("registration"), title(moving_source(record))
    if not registration:
        return [Finding("note", "The images were not registered: they were fused as they lay.")]
    if not registration.get("performed", True):
        why = "; ".join(registration.get("reasons") or ()).removeprefix("skipped: ")
        text = f"No registration was made ({why or 'skipped'}). {_look(record)}"
        return [Finding("note", text)]
    if not registration.get("accepted", True):
        why = "; ".join(registration.get("reasons") or ()) or "it was not reliable"
        text = f"The registration was refused: {why}. The images were fused as they lay."
        return [Finding("warning", text)]
    found = []
    moved, unsure = registration.get("max_displacement") or 0.0, registration.get("inconsistency") or 0.0
    if moved > _FAR_MM:
        far = f"The registration moved the {moving} by up to {moved:.0f} mm, which is much."
        text = f"{far} {_look(record)}"
        found.append(Finding("warning", text))
    doubts = registration.get("warnings")
    if doubts:
        text = f"The registration was accepted, but {'; '.join(doubts)}. {_look(record)}"
        found.append(Finding("warning", text))
    elif unsure > _UNSURE_MM:
        text = f"Two halves of the data place the {moving} up to {unsure:.1f} mm apart: that is how sure it is."
        found.append(Finding("warning", text))
    return found


def _studies(record: Mapping[str, Any]) -> list[Finding]:
    """Two studies of one patient are two positions on the table, and maybe two states of the disease."""
    if record.get("one_study") is not False:
        return []
    text = "The images are of two studies of one patient."
    if (record.get("registration") or {}).get("performed", False):
        return [Finding("note", text)]
    look = _look(record)
    return [Finding("warning", f"{text} They were fused without registration: {look[0].lower()}{look[1:]}")]


def _frames(record: Mapping[str, Any]) -> list[Finding]:
    """Two frames of reference have no place in common until a registration finds it (PS3.3 C.7.4.1.1.1)."""
    if record.get("one_frame") is not False or (record.get("registration") or {}).get("performed", False):
        return []
    look = _look(record)
    text = "The images are of two frames of reference, and were fused without registration"
    return [Finding("warning", f"{text}: {look[0].lower()}{look[1:]}")]


def _coverage(record: Mapping[str, Any]) -> list[Finding]:
    reference = record.get("reference") or {}
    outside = reference.get("outside_fraction") or 0.0
    if outside <= _OUTSIDE:
        return []
    moving, fixed = titles([moving_source(record), str(reference.get("source", ""))])
    return [
        Finding(
            "warning",
            f"{outside:.0%} of the field of view of the {fixed} lies outside that of the {moving}. "
            f"There the {moving} counts as zero, which is no measurement.",
        )
    ]


def _look(record: Mapping[str, Any]) -> str:
    """Return what to do where nobody knows how well the sources fit."""
    first, second = titles(list(record.get("sources") or DEFAULT_PAIR)[:2])
    return f"Check the edges of the {first} over the {second}."
