"""Standardised uptake values: pure functions of what PET headers say, and a record of everything that was read.

A value is called SUV only where every header that it depends on is there and makes sense; nothing is guessed. The rules
are those of DICOM PS3.3 C.8.9 and of the vendor-neutral pseudo-code of the Quantitative Imaging Biomarkers Alliance
(QIBA, "Standardized Uptake Value"):

    SUV = value [Bq/ml] * size of the body [g or cm2] / dose [Bq], the dose decayed to the time that the image is
    corrected to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from medfuse.errors import DicomError
from medfuse.io.suv import checks
from medfuse.io.suv.checks import Content, Evidence
from medfuse.io.suv.tags import (
    KEYWORDS,
    OF_A_SLICE,
    OF_PIXELS,
    OVERRIDABLE,
    OVERRIDES,
    RANGES,
    SIDECAR,
    Moment,
    PetTags,
    UnknownError,
    checked,
)
from medfuse.io.suv.times import order, uptake
from medfuse.io.units import ARBITRARY, CHOICES, FILE_UNITS, SUV_TYPES, suv_unit

# PS3.3 C.8.9.1, SUV Type (0054,1006); absent means body weight. LBM does not say by which formula.
_STATED = {"": "bw", **SUV_TYPES, "LBM": ""}


@dataclass(frozen=True)
class Suv:
    """How the values of a PET become what they are called.

    Attributes:
        factor: What to multiply the values of the file by.
        unit: Unit of the product: SUV, SUVlbm, SUVbsa, SUVibw; or the file's, where it is no SUV.
        record: The rule, the factor, and every tag that was read; plain numbers, strings and objects. Instead of times,
            seconds after the injection; nothing that names a person or a day.
    """

    factor: float
    unit: str
    record: dict[str, Any]


def suv(
    tags: Sequence[PetTags],
    kind: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    *,
    content: Content | None = None,
    before: float = 0.0,
) -> Suv:
    """Find the factor that turns the values of a PET series into SUV.

    Args:
        tags: Of each slice.
        kind: By body weight ("bw"), lean body mass ("lbm" by Janmahasatian, "lbm-james"), body surface ("bsa"), ideal
            weight ("ibw"), or not at all ("none"). "auto": what the file holds already, else by body weight where that
            can be computed, else not at all.
        overrides: What a sidecar says instead of the headers; names are those of `OVERRIDES`.
        content: What the pixels hold, to be held against the injected activity.
        before: For how long a dynamic scan may have run before the injection, s.

    Returns:
        Factor, unit and record.

    Raises:
        DicomError: If a kind was asked for that cannot be computed, as headers lack something or contradict themselves
            (see `checks`); if the pixels of slices are not of one unit and correction; or an override is unknown or of
            a wrong type.
    """
    if kind not in CHOICES:
        raise DicomError(f"suv must be one of {', '.join(CHOICES)}, got {kind!r}; choose one of them.")
    common, differing = _common(tags)
    one = _overridden(common, overrides or {})
    stated = frozenset(name for name, keyword in OVERRIDABLE.items() if keyword in (overrides or {}))
    evidence = Evidence(one, tags, stated, content, before)
    record = _record(one, tags)
    if overrides:
        record["overridden"] = ", ".join(sorted(overrides))
    unit = FILE_UNITS.get(one.units, ARBITRARY)
    _warn_of_intercepts(evidence)
    warned = {"warnings": list(evidence.warnings)} if evidence.warnings else {}
    if kind == "none":
        return Suv(1.0, unit, {"kind": "none", "reason": "not asked for", **record, **warned})
    try:
        _require_one(differing - set(overrides or ()))
        factor, found, rule = _factor(evidence, kind)
        checks.check_content(evidence, factor, found)
    except DicomError as error:
        if kind != "auto":
            raise
        return Suv(1.0, unit, {"kind": "none", "reason": str(error), **record, **warned})
    if evidence.warnings:
        record["warnings"] = evidence.warnings
    return Suv(
        factor, suv_unit(found or "lbm").name, {"kind": found or "lbm", "rule": rule, "factor": factor, **record}
    )


def _factor(evidence: Evidence, kind: str) -> tuple[float, str, str]:
    """Return the factor, the kind ("" for a lean body mass by an unknown formula) and the rule."""
    one = evidence.one
    evidence.require_sound("units")
    if one.units not in FILE_UNITS:
        raise DicomError(f"Units must be {', '.join(FILE_UNITS)} for SUV, got another or none; {SIDECAR}")
    checks.require_corrected(evidence)
    if one.units in ("GML", "CM2ML"):
        return _stated_factor(evidence, kind)
    kind = "bw" if kind == "auto" else kind
    if one.units == "BQML":
        factor, rule = _activity_factor(evidence, kind)
        return factor, kind, rule
    evidence.require_sound("philips_suv", "philips_activity")
    if min(one.philips_suv or 0.0, one.philips_activity or 0.0) < 0:
        raise DicomError(f"The Philips factors must be positive, got a negative one; {SIDECAR}")
    if one.philips_suv:
        scale = 1.0 if kind == "bw" else checks.body(evidence, kind) / checks.body(evidence, "bw")
        if one.philips_activity:
            _check_factors(evidence, one.philips_activity)
        _warn_of_others(evidence)
        return one.philips_suv * scale, kind, "counts by the Philips SUV factor"
    if not one.philips_activity:
        raise DicomError(
            f"CNTS must come with a Philips factor for SUV, got neither (7053,1000) nor (7053,1009); {SIDECAR}"
        )
    factor, rule = _activity_factor(evidence, kind)
    return one.philips_activity * factor, kind, rule


def _stated_factor(evidence: Evidence, kind: str) -> tuple[float, str, str]:
    """Return the factor for a file that holds SUV; see `_factor`."""
    one = evidence.one
    stated = "bsa" if one.units == "CM2ML" else _STATED.get(one.suv_type)
    if stated is None or (one.units == "CM2ML" and one.suv_type not in ("", "BSA")):
        raise DicomError(
            f"SUVType must be one of {', '.join(k for k in _STATED if k)}, and BSA for CM2ML, got another; {SIDECAR}"
        )
    if one.units == "GML" and stated == "bsa":
        raise DicomError(f"Units must be CM2ML for SUV by body surface (SUVType BSA), got GML; {SIDECAR}")
    _warn_of_others(evidence)
    if kind in ("auto", stated):
        checks.warn_of_body(evidence)
        return 1.0, stated, f"the file holds SUV ({one.units})"
    if not stated:
        raise DicomError(f"SUVType must name the formula of its lean body mass, got LBM; {SIDECAR}")
    factor = checks.body(evidence, kind) / checks.body(evidence, stated)
    return factor, kind, f"from the file's SUV by {stated} ({one.units})"


def _activity_factor(evidence: Evidence, kind: str) -> tuple[float, str]:
    """Return SUV for 1 Bq/ml, and the rule."""
    decays = evidence.one.decay_correction != "ADMIN" or evidence.one.half_life is not None  # else no one needs it
    half_life = checks.half_life(evidence) if decays else None
    seconds, rule = uptake(evidence, half_life)
    decayed = checks.dose(evidence, half_life) * (2.0 ** (-seconds / half_life) if half_life else 1.0)
    return checks.body(evidence, kind) / decayed, rule


def _warn_of_others(evidence: Evidence) -> None:
    """Warn where headers contradict themselves from which someone else computed the SUV of a file."""
    scratch = replace(evidence, warnings=[])
    half_life = _tried(evidence, lambda: checks.half_life(scratch))
    _tried(evidence, lambda: checks.dose(evidence, half_life))
    _tried(evidence, lambda: uptake(scratch, half_life))


def _tried(evidence: Evidence, check: Callable[[], Any]) -> Any:
    """Return what a check finds; None, with a warning, where headers contradict themselves, or say nothing."""
    try:
        return check()
    except UnknownError:
        return None
    except DicomError as error:
        evidence.warn(f"The file holds SUV, computed from headers that contradict themselves: {checks.bare(error)}.")
        return None


def _warn_of_intercepts(evidence: Evidence) -> None:
    farthest = max((t.intercept for t in evidence.slices), key=abs)
    if farthest:
        evidence.warn(
            f"RescaleIntercept must be 0 in a PET (PS3.3 C.8.9.4), got {farthest:g}: it was added to the values, as it "
            "is defined. Check what wrote the files."
        )


def _check_factors(evidence: Evidence, activity: float) -> None:
    """Hold the SUV factor of Philips against what its activity factor gives, where that can be computed."""
    try:
        by_activity = activity * _activity_factor(replace(evidence, warnings=[]), "bw")[0]
    except DicomError:
        return
    checks.require_one_factor(evidence, by_activity)


def _common(tags: Sequence[PetTags]) -> tuple[PetTags, set[str]]:
    """Return what all slices say alike, and the names of what they do not, which is empty then.

    Raises:
        DicomError: If the pixels of slices are not of one unit and correction, or there is no slice.
    """
    if not tags:
        raise DicomError("A PET series must have slices, got none; check the folder.")
    faults = tuple(dict.fromkeys(fault for t in tags for fault in t.faults))
    empty: Any = PetTags()
    differing: dict[str, Any] = {
        field.name: getattr(empty, field.name)
        for field in fields(PetTags)
        if len({getattr(t, field.name) for t in tags}) > 1
    }
    for name in OF_PIXELS:
        if name in differing:
            raise DicomError(f"{KEYWORDS[name]} must be one in all slices, got several; repair the headers.")
    said = {*OF_A_SLICE, *(fault for fault, _ in faults)}  # the faults say why they cannot be used
    return replace(tags[0], **differing | {"faults": faults}), {KEYWORDS[n] for n in differing if n not in said}


def _require_one(differing: Collection[str]) -> None:
    """Raise where slices contradict each other in what an SUV rests on."""
    if differing:
        raise DicomError(f"{min(differing)} must be one in all slices, got several; {SIDECAR}")


def _overridden(one: PetTags, overrides: Mapping[str, Any]) -> PetTags:
    """Return the values with those of a sidecar in place of the headers', and of their faults."""
    names = {keyword: name for name, keyword in OVERRIDABLE.items()}
    changes: dict[str, Any] = {}
    for keyword, value in overrides.items():
        if keyword not in names:
            raise DicomError(f"A sidecar must hold {', '.join(OVERRIDES)} only, got another name; remove it.")
        name = names[keyword]
        if name in RANGES and isinstance(value, int | float) and not isinstance(value, bool):
            changes[name] = checked(name, float(value))
        elif name not in RANGES and isinstance(value, str):
            code = value.upper()
            changes[name] = tuple(code.replace(",", "\\").split("\\")) if name == "corrections" else code
        else:
            kind = "a number" if name in RANGES else "a string"
            raise DicomError(f"{keyword} of a sidecar must be {kind}, got {type(value).__name__}; change it.")
    return replace(one, **changes, faults=tuple(fault for fault in one.faults if fault[0] not in changes))


def _record(one: PetTags, tags: Sequence[PetTags]) -> dict[str, Any]:
    """Return every tag that was read: names of codes, numbers, and times as seconds after the injection."""
    read: dict[str, Any] = {}
    for name, keyword in KEYWORDS.items():
        value = getattr(one, name)
        if isinstance(value, tuple):
            value = "\\".join(value)
        if value not in (None, "") and not isinstance(value, Moment):
            read[keyword] = value
    record: dict[str, Any] = {"tags": read}
    times = {"SeriesTime": one.series, "GE scan time": one.ge_scan, "DecayCorrectionDateTime": one.corrected_to}
    acquired = [t.acquired for t in tags if t.acquired is not None]
    times["AcquisitionTime"] = min(acquired, key=order) if acquired else None
    if one.injected is not None:
        known = {name: t for name, t in times.items() if t is not None and t.is_comparable(one.injected)}
        since = {name: round(t.since(one.injected), 3) for name, t in known.items()}
        record["seconds_after_injection"] = since
        record["injection_has_a_date"] = one.injected.day is not None
    return record
