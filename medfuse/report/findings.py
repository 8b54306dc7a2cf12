"""What a reader of a case must know before trusting it, in plain words, from the record alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

UNKNOWN_UNITS = ("a.u.", "", "counts")
CHI2_HIGH, CHI2_LOW = 1.2, 0.5
_FAR_MM, _UNSURE_MM, _OUTSIDE = 20.0, 2.0, 0.01
_SUV_HIGH = 500.0  # more than any tissue, or the bladder, takes up
_CHANGED = 0.1  # blur, noise and sampling leave the mean of an image as it is


@dataclass(frozen=True)
class Finding:
    """One thing to know.

    Attributes:
        level: "warning": something is likely wrong or missing; "note": a limit that always holds, or a choice.
        text: Whole sentences.
    """

    level: Literal["warning", "note"]
    text: str


def findings(record: Mapping[str, Any]) -> list[Finding]:
    """Return what to know about a case, warnings first.

    Args:
        record: The record of a case, as its JSON holds it; unknown or missing entries say nothing.
    """
    parts = (_registration, _coverage, _degradation, _bias_field, _values, _always)
    found = [finding for part in parts for finding in part(record)]
    return sorted(found, key=lambda f: f.level != "warning")


def restored_sources(record: Mapping[str, Any]) -> list[str]:
    """Return the names of the sources of which a degradation was stated."""
    degradation = record.get("degradation") or {}
    return [name for k, name in enumerate(record.get("sources") or {}, 1) if degradation.get(f"source{k}")]


def degradation_name(degradation: Mapping[str, Any]) -> str:
    """Return what a record's degradation is called on pages and pictures, and whence it is known."""
    if not (degradation.get("source1") or degradation.get("source2")):
        return "none stated"
    return f"{degradation.get('name', 'as specified')} ({degradation.get('origin', 'given')})"


def moving_source(record: Mapping[str, Any]) -> str:
    """Return the name of the source that was brought to the grid of the other."""
    reference = (record.get("reference") or {}).get("source")
    return next((name for name in record.get("sources") or {} if name != reference), "pet")


def _registration(record: Mapping[str, Any]) -> list[Finding]:
    registration, moving = record.get("registration"), moving_source(record).upper()
    if not registration:
        return [Finding("note", "The images were not registered: they were fused as they lay.")]
    if not registration.get("performed", True):
        why = "; ".join(registration.get("reasons") or ()).removeprefix("skipped: ")
        text = f"No registration was made ({why or 'skipped'}). Check the edges of the MRI over the PET."
        return [Finding("note", text)]
    if not registration.get("accepted", True):
        why = "; ".join(registration.get("reasons") or ()) or "it was not reliable"
        text = f"The registration was refused: {why}. The images were fused as they lay."
        return [Finding("warning", text)]
    found = []
    moved, unsure = registration.get("max_displacement") or 0.0, registration.get("inconsistency") or 0.0
    if moved > _FAR_MM:
        far = f"The registration moved the {moving} by up to {moved:.0f} mm, which is much."
        text = f"{far} Check the edges of the MRI over the PET."
        found.append(Finding("warning", text))
    if unsure > _UNSURE_MM:
        text = f"Two halves of the data place the {moving} up to {unsure:.1f} mm apart: that is how sure it is."
        found.append(Finding("warning", text))
    return found


def _coverage(record: Mapping[str, Any]) -> list[Finding]:
    reference = record.get("reference") or {}
    outside = reference.get("outside_fraction") or 0.0
    if outside <= _OUTSIDE:
        return []
    moving, fixed = moving_source(record).upper(), str(reference.get("source", "")).upper()
    return [
        Finding(
            "warning",
            f"{outside:.0%} of the field of view of the {fixed} lies outside that of the {moving}. "
            f"There the {moving} counts as zero, which is no measurement.",
        )
    ]


def _degradation(record: Mapping[str, Any]) -> list[Finding]:
    named, sources = restored_sources(record), record.get("sources") or {}
    if not named:
        text = "No degradation was stated, so both sources came back as they were: they were fused, not restored."
        return [Finding("note", text)]
    found = []
    for name, source in sources.items():
        chi2 = source.get("residual_chi2")
        if name not in named:
            text = f"No degradation was stated for the {name.upper()}; it came back as it was."
            found.append(Finding("note", text))
        elif chi2 is not None and chi2 > CHI2_HIGH:
            text = (
                f"The restored {name.upper()} does not explain the data: its residual chi-square is {chi2:.2f}, and "
                "should be about 1 or below. The stated degradation is probably wrong or too weak."
            )
            found.append(Finding("warning", text))
        blur = source.get("narrowed_blur")
        if isinstance(blur, float):
            text = (
                f"The {name.upper()} shows finer detail than its stated blur lets through. "
                f"The blur was undone to {blur:.0%} of its width only. State a narrower one."
            )
            found.append(Finding("warning", text))
        if source.get("solve_converged") is False:
            text = (
                f"The correction of the {name.upper()} by its data is not exact: conjugate gradients stopped at their "
                "limit before they met their tolerance. Restored details may lack agreement with the data."
            )
            found.append(Finding("warning", text))
        if chi2 is not None and chi2 < CHI2_LOW:
            text = (
                f"The residual chi-square of the {name.upper()} is {chi2:.2f}, far below 1. "
                "There is less noise in the data than was stated; the restoration may be too smooth."
            )
            found.append(Finding("warning", text))
    text = (
        "What a degradation has destroyed comes from the network and from the other source, not from the data. "
        "A restored image may show detail that is not there, or miss detail that is."
    )
    return [*found, Finding("note", text)]


def _bias_field(record: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding("note", f"The bias field of the {name.upper()} was removed first: it is shown and written without it.")
        for name, source in (record.get("sources") or {}).items()
        if source.get("bias_field")
    ]


def _values(record: Mapping[str, Any]) -> list[Finding]:
    found = []
    for name, source in (record.get("sources") or {}).items():
        whole: Mapping[str, Any] = next(iter(source.get("regions") or ()), {})
        given, restored = whole.get("given") or {}, whole.get("restored") or {}
        highest = given.get("max") or 0.0
        mean, peak = _change(given, restored, "mean"), _change(given, restored, "max")
        if abs(mean) > _CHANGED:
            text = f"The mean of the restored {name.upper()} is {abs(mean):.0%} {'above' if mean > 0 else 'below'}"
            found.append(Finding("warning", f"{text} that of the {name.upper()} as given. Do not measure in it."))
        if abs(peak) > _CHANGED:
            text = f"The maximum of the restored {name.upper()} is {abs(peak):.0%} {'above' if peak > 0 else 'below'}"
            found.append(Finding("note", f"{text} that of the {name.upper()} as given. Report that of the source."))
        if str(source.get("unit", "")).startswith("SUV") and highest > _SUV_HIGH:
            text = f"The {name.upper()} is said to be in SUV, but its highest value is {highest:.0f}."
            found.append(
                Finding("warning", f"{text} No uptake is so high: the unit is probably another, such as Bq/ml.")
            )
        suv = source.get("suv") or {}
        if suv.get("kind") == "none":
            text = f"The values of the {name.upper()} are no SUV: {suv.get('reason') or 'the headers do not allow it'}."
            found.append(Finding("warning", text))
        elif name != "mri" and source.get("unit", "") in UNKNOWN_UNITS:
            unit = source.get("unit") or "none"
            text = f"The unit of the {name.upper()} is unknown ({unit}): do not compare its values with another scan's."
            found.append(Finding("warning", text))
    return found


def _change(given: Mapping[str, Any], restored: Mapping[str, Any], figure: str) -> float:
    """Return by which part of it a figure differs after restoration."""
    before = given.get(figure) or 0.0
    return (restored.get(figure, before) - before) / before if before > 0 else 0.0


def _always(record: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding("note", "The fused image is normalised and dimensionless. Measure in the sources, never in it."),
        Finding(
            "note",
            "The weights were trained on few subjects, most of them heads, and on phantoms. Other anatomy, tracers and "
            "scanners were not in the training, or hardly.",
        ),
    ]
