"""Standardised uptake values: pure functions of what PET headers say, and a record of everything that was read.

A value is called SUV only where every header that it depends on is there and makes sense; nothing is guessed. The rules
are those of DICOM PS3.3 C.8.9 and of the vendor-neutral pseudo-code of the Quantitative Imaging Biomarkers Alliance
(QIBA, "Standardized Uptake Value"):

    SUV = value [Bq/ml] * size of the body [g or cm2] / dose [Bq], the dose decayed to the time that the image is
    corrected to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from medfuse.errors import DicomError

KINDS = ("bw", "lbm", "lbm-james", "bsa", "ibw")
CHOICES = ("auto", *KINDS, "none")
UNIT = {"bw": "SUV", "lbm": "SUVlbm", "lbm-james": "SUVlbm", "bsa": "SUVbsa", "ibw": "SUVibw"}
FILE_UNITS = {"BQML": "Bq/ml", "CNTS": "counts", "GML": "g/ml", "CM2ML": "cm2/ml"}

_SIDECAR = "say it in suv.json beside the files, or do without SUV."
# PS3.3 C.8.9.1, SUV Type (0054,1006); absent means body weight. LBM does not say by which formula.
_STATED = {"": "bw", "BW": "bw", "LBMJANMA": "lbm", "LBMJAMES128": "lbm-james", "BSA": "bsa", "IBW": "ibw", "LBM": ""}
_DAY = 86400.0  # s
_MAX_HALF_LIVES = 8.0  # of uptake; beyond, a clock or a date is wrong
_MAX_DATELESS_HALF_LIFE = 6 * 3600.0  # s; beyond, a scan on a later day is usual, and a time of day ambiguous
_SAME = 1.0  # s, by which clocks that mean the same may differ: one may be rounded
_MAX_SPREAD = 10.0  # s, between the starts of the scan as each slice gives it
_RANGES = {  # limits beyond which the unit must be another one than DICOM's
    "weight": (0.2, 700.0),  # kg
    "size": (0.2, 2.8),  # m
    "dose": (1e5, 1e11),  # Bq
    "half_life": (10.0, 1e7),  # s
    "uptake": (0.0, 1e7),  # s
}


@dataclass(frozen=True)
class Moment:
    """A point in time.

    Attributes:
        day: Number of the day, or None where only the time of day is known.
        second: Seconds since midnight.
    """

    day: int | None
    second: float

    def since(self, earlier: Moment) -> float:
        """Return the seconds since an earlier moment; within a day, over midnight, where a date is not known."""
        if self.day is None or earlier.day is None:
            return (self.second - earlier.second) % _DAY
        return (self.day - earlier.day) * _DAY + self.second - earlier.second


@dataclass(frozen=True)
class PetTags:
    """What one PET image says about its values. Empty or None where it says nothing.

    Attributes:
        units: Units (0054,1001).
        suv_type: SUV Type (0054,1006).
        corrections: Corrected Image (0028,0051).
        decay_correction: Decay Correction (0054,1102).
        weight: Patient's Weight (0010,1030), kg.
        size: Patient's Size (0010,1020), m.
        sex: Patient's Sex (0010,0040).
        dose: Radionuclide Total Dose (0018,1074), Bq.
        half_life: Radionuclide Half Life (0018,1075), s.
        philips_suv: SUV factor (7053,1000), g/ml for each count.
        philips_activity: Activity factor (7053,1009), Bq/ml for each count.
        injected: Radiopharmaceutical Start DateTime (0018,1078), or Start Time (0018,1072), which has no date.
        series: Series Date and Time (0008,0021), (0008,0031).
        ge_scan: Start of the scan by GE, (0009,100D).
        corrected_to: Decay Correction DateTime (0018,9701) of enhanced images.
        uptake: Seconds from the injection to the time that the image is corrected to; from no header.
        acquired: Acquisition Date and Time (0008,0022), (0008,0032), of this slice.
        frame_reference: Frame Reference Time (0054,1300) of this slice, s.
        frame_duration: Actual Frame Duration (0018,1242) of this slice, s.
    """

    units: str = ""
    suv_type: str = ""
    corrections: tuple[str, ...] = ()
    decay_correction: str = ""
    weight: float | None = None
    size: float | None = None
    sex: str = ""
    dose: float | None = None
    half_life: float | None = None
    philips_suv: float | None = None
    philips_activity: float | None = None
    injected: Moment | None = None
    series: Moment | None = None
    ge_scan: Moment | None = None
    corrected_to: Moment | None = None
    uptake: float | None = None
    acquired: Moment | None = None
    frame_reference: float | None = None
    frame_duration: float | None = None


_KEYWORDS = {
    "units": "Units",
    "suv_type": "SUVType",
    "corrections": "CorrectedImage",
    "decay_correction": "DecayCorrection",
    "weight": "PatientWeight",
    "size": "PatientSize",
    "sex": "PatientSex",
    "dose": "RadionuclideTotalDose",
    "half_life": "RadionuclideHalfLife",
    "uptake": "UptakeSeconds",
    "philips_suv": "Philips SUV factor (7053,1000)",
    "philips_activity": "Philips activity factor (7053,1009)",
    "injected": "start of the injection (0018,1078) or (0018,1072)",
    "series": "SeriesDate and SeriesTime",
    "ge_scan": "GE scan time (0009,100D)",
    "corrected_to": "DecayCorrectionDateTime",
}
_OF_A_SLICE = ("acquired", "frame_reference", "frame_duration")
OVERRIDES = tuple(_KEYWORDS.values())[:10]  # what a sidecar may say
_UNIT_OF = {"weight": "kg", "size": "m", "dose": "Bq", "half_life": "s", "uptake": "s"}


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


def suv(tags: Sequence[PetTags], kind: str = "auto", overrides: Mapping[str, Any] | None = None) -> Suv:
    """Find the factor that turns the values of a PET series into SUV.

    Args:
        tags: Of each slice.
        kind: By body weight ("bw"), lean body mass ("lbm" by Janmahasatian, "lbm-james"), body surface ("bsa"), ideal
            weight ("ibw"), or not at all ("none"). "auto": what the file holds already, else by body weight where that
            can be computed, else not at all.
        overrides: What a sidecar says instead of the headers; names are those of `OVERRIDES`.

    Returns:
        Factor, unit and record.

    Raises:
        DicomError: If a kind was asked for that cannot be computed, slices contradict each other, or an override is
            unknown or of a wrong type.
    """
    if kind not in CHOICES:
        raise DicomError(f"suv must be one of {', '.join(CHOICES)}, got {kind!r}; choose one of them.")
    one = _overridden(_common(tags), overrides or {})
    record = _record(one, tags)
    if overrides:
        record["overridden"] = ", ".join(sorted(overrides))
    unit = FILE_UNITS.get(one.units, "a.u.")
    if kind == "none":
        return Suv(1.0, unit, {"kind": "none", "reason": "not asked for", **record})
    try:
        factor, found, rule = _factor(one, tags, kind)
    except DicomError as error:
        if kind != "auto":
            raise
        return Suv(1.0, unit, {"kind": "none", "reason": str(error), **record})
    return Suv(factor, UNIT[found or "lbm"], {"kind": found or "lbm", "rule": rule, "factor": factor, **record})


def body_size(kind: str, *, weight: float | None, size: float | None = None, sex: str = "") -> float:
    """Return what SUV is normalised by: g, or cm2 for "bsa".

    Args:
        kind: One of `KINDS`.
        weight: kg.
        size: Height, m.
        sex: "M" or "F"; needed for lean body mass and ideal weight.

    Raises:
        DicomError: If something is missing, or out of the range of a human being in these units.

    Reference:
        lbm: Janmahasatian et al., Clin Pharmacokinet 44 (2005) 1051. lbm-james: James, Research on Obesity, HMSO 1976,
        with his 128 for men (DICOM's LBMJAMES128; a widespread misprint has 120). bsa: Du Bois and Du Bois, Arch Intern
        Med 17 (1916) 863. ibw: Devine, Drug Intell Clin Pharm 8 (1974) 650: 50 kg (men) or 45.5 kg (women), and 2.3 kg
        for each inch above 5 feet.
    """
    if kind == "ibw":
        tall = _checked("size", size)
        ideal = (50.0 if _is_male(sex) else 45.5) + 2.3 * (tall / 0.0254 - 60.0)
        return 1000.0 * _positive(ideal, "ideal weight")
    heavy = _checked("weight", weight)
    if kind == "bw":
        return 1000.0 * heavy
    tall = _checked("size", size)
    if kind == "bsa":
        return 1e4 * 0.007184 * heavy**0.425 * (100.0 * tall) ** 0.725
    male = _is_male(sex)
    if kind == "lbm":
        bmi = heavy / tall**2
        return 1000.0 * 9270.0 * heavy / (6680.0 + 216.0 * bmi if male else 8780.0 + 244.0 * bmi)
    ratio = (heavy / (100.0 * tall)) ** 2
    return 1000.0 * _positive(1.10 * heavy - 128.0 * ratio if male else 1.07 * heavy - 148.0 * ratio, "lean body mass")


def _factor(one: PetTags, tags: Sequence[PetTags], kind: str) -> tuple[float, str, str]:
    """Return the factor, the kind ("" for a lean body mass by an unknown formula) and the rule."""
    if one.units not in FILE_UNITS:
        raise DicomError(f"Units must be {', '.join(FILE_UNITS)} for SUV, got another or none; {_SIDECAR}")
    missing = {"ATTN", "DECY"} - set(one.corrections)
    if missing:
        raise DicomError(
            f"CorrectedImage must name ATTN and DECY for SUV, got none of {' and '.join(sorted(missing))}; {_SIDECAR}"
        )
    if one.units in ("GML", "CM2ML"):
        stated = "bsa" if one.units == "CM2ML" else _STATED.get(one.suv_type)
        if stated is None:
            raise DicomError(f"SUVType must be one of {', '.join(k for k in _STATED if k)}, got another; {_SIDECAR}")
        if kind in ("auto", stated):
            return 1.0, stated, f"the file holds SUV ({one.units})"
        if not stated:
            raise DicomError(f"SUVType must name the formula of its lean body mass, got LBM; {_SIDECAR}")
        return _body(kind, one) / _body(stated, one), kind, f"from the file's SUV by {stated} ({one.units})"
    kind = "bw" if kind == "auto" else kind
    if one.units == "CNTS" and one.philips_suv:
        scale = 1.0 if kind == "bw" else _body(kind, one) / _body("bw", one)
        return one.philips_suv * scale, kind, "counts by the Philips SUV factor"
    activity = 1.0
    if one.units == "CNTS":
        if not one.philips_activity:
            raise DicomError(
                f"CNTS must come with a Philips factor for SUV, got neither (7053,1000) nor (7053,1009); {_SIDECAR}"
            )
        activity = one.philips_activity
    uptake, rule = _uptake(one, tags)
    dose = _checked("dose", one.dose) * 2.0 ** (-uptake / _checked("half_life", one.half_life))
    return activity * _body(kind, one) / dose, kind, rule


def _uptake(one: PetTags, tags: Sequence[PetTags]) -> tuple[float, str]:
    """Return for how long the dose decayed until the time that the image is corrected to, s, and the rule."""
    if one.decay_correction == "ADMIN":
        if one.uptake:
            raise DicomError("UptakeSeconds must be 0 where DecayCorrection is ADMIN, got another; leave it out.")
        return 0.0, "decay corrected to the injection (ADMIN)"
    if one.decay_correction != "START":
        raise DicomError(f"DecayCorrection must be START or ADMIN for SUV, got another or none; {_SIDECAR}")
    half_life = _checked("half_life", one.half_life)
    if one.uptake is not None:
        return _checked("uptake", one.uptake), "dose decayed by the given UptakeSeconds"
    if one.injected is None:
        raise DicomError(f"The injection must have a time for SUV, got neither (0018,1078) nor (0018,1072); {_SIDECAR}")
    if one.injected.day is None and half_life > _MAX_DATELESS_HALF_LIFE:
        raise DicomError(
            f"The injection must have a date for a half life of {half_life:g} s, got a time of day only; {_SIDECAR}"
        )
    reference, name = _reference(one, tags, half_life)
    uptake = reference.since(one.injected)
    if not 0.0 <= uptake <= _MAX_HALF_LIVES * half_life:
        raise DicomError(
            f"The scan must follow the injection within {_MAX_HALF_LIVES:g} half lives, got {uptake:.0f} s by {name}; "
            f"{_SIDECAR}"
        )
    return uptake, f"dose decayed from the injection to {name}"


def _reference(one: PetTags, tags: Sequence[PetTags], half_life: float) -> tuple[Moment, str]:
    """Return the time that the image is decay corrected to, and which header it comes from (QIBA)."""
    if one.corrected_to is not None:
        return one.corrected_to, "DecayCorrectionDateTime"
    acquired = [t.acquired for t in tags if t.acquired is not None]
    first = min(acquired, key=_order) if acquired else None
    if one.series is not None and (first is None or _order(one.series) <= (_order(first)[0], first.second + _SAME)):
        return one.series, "SeriesTime"
    if one.ge_scan is not None:  # the series was made after the acquisition, as by post-processing
        return one.ge_scan, "the GE scan time"
    starts = [start for t in tags if (start := _frame_start(t, half_life)) is not None]
    if len(starts) == len(tags) and starts:
        if max(s.since(min(starts, key=_order)) for s in starts) > _MAX_SPREAD:
            raise DicomError(f"FrameReferenceTime must give one start of the scan, got several; {_SIDECAR}")
        return min(starts, key=_order), "AcquisitionTime less FrameReferenceTime"
    if first is None or len(acquired) < len(tags):
        raise DicomError(f"The scan must have a time for SUV, got no SeriesTime or AcquisitionTime; {_SIDECAR}")
    return first, "the earliest AcquisitionTime"


def _frame_start(tags: PetTags, half_life: float) -> Moment | None:
    """Return the start of the scan by a slice's frame: its reference is the time of the average count rate (QIBA)."""
    if tags.acquired is None or not tags.frame_reference or not tags.frame_duration:
        return None
    decay = math.log(2.0) / half_life * tags.frame_duration
    average = tags.frame_duration / decay * math.log(decay / -math.expm1(-decay))
    return Moment(tags.acquired.day, tags.acquired.second - tags.frame_reference + average)


def _order(moment: Moment) -> tuple[int, float]:
    return moment.day or 0, moment.second


def _common(tags: Sequence[PetTags]) -> PetTags:
    """Return what all slices say alike."""
    if not tags:
        raise DicomError("A PET series must have slices, got none; check the folder.")
    for field in fields(PetTags):
        if field.name not in _OF_A_SLICE and len({getattr(t, field.name) for t in tags}) > 1:
            raise DicomError(f"{_KEYWORDS[field.name]} must be one in all slices, got several; repair the headers.")
    return tags[0]


def _overridden(one: PetTags, overrides: Mapping[str, Any]) -> PetTags:
    names = {keyword: name for name, keyword in _KEYWORDS.items() if keyword in OVERRIDES}
    changes: dict[str, Any] = {}
    for keyword, value in overrides.items():
        if keyword not in names:
            raise DicomError(f"A sidecar must hold {', '.join(OVERRIDES)} only, got another name; remove it.")
        name = names[keyword]
        if name in _RANGES and isinstance(value, int | float) and not isinstance(value, bool):
            changes[name] = _checked(name, float(value))
        elif name not in _RANGES and isinstance(value, str):
            code = value.upper()
            changes[name] = tuple(code.replace(",", "\\").split("\\")) if name == "corrections" else code
        else:
            kind = "a number" if name in _RANGES else "a string"
            raise DicomError(f"{keyword} of a sidecar must be {kind}, got {type(value).__name__}; change it.")
    return replace(one, **changes)


def _record(one: PetTags, tags: Sequence[PetTags]) -> dict[str, Any]:
    """Return every tag that was read: names of codes, numbers, and times as seconds after the injection."""
    read: dict[str, Any] = {}
    for name, keyword in _KEYWORDS.items():
        value = getattr(one, name)
        if isinstance(value, tuple):
            value = "\\".join(value)
        if value not in (None, "") and not isinstance(value, Moment):
            read[keyword] = value
    record: dict[str, Any] = {"tags": read}
    times = {"SeriesTime": one.series, "GE scan time": one.ge_scan, "DecayCorrectionDateTime": one.corrected_to}
    acquired = [t.acquired for t in tags if t.acquired is not None]
    times["AcquisitionTime"] = min(acquired, key=_order) if acquired else None
    if one.injected is not None:
        since = {name: round(t.since(one.injected), 3) for name, t in times.items() if t is not None}
        record["seconds_after_injection"] = since
        record["injection_has_a_date"] = one.injected.day is not None
    return record


def _body(kind: str, one: PetTags) -> float:
    return body_size(kind, weight=one.weight, size=one.size, sex=one.sex)


def _checked(name: str, value: float | None) -> float:
    low, high = _RANGES[name]
    if value is None or not low <= value <= high:
        got = "none" if value is None else f"{value:g}"
        raise DicomError(
            f"{_KEYWORDS[name]} must be {low:g} to {high:g} {_UNIT_OF[name]} for this SUV, got {got}; {_SIDECAR}"
        )
    return value


def _is_male(sex: str) -> bool:
    if sex not in ("M", "F"):
        raise DicomError(f"PatientSex must be M or F for this SUV, got another or none; {_SIDECAR}")
    return sex == "M"


def _positive(value: float, what: str) -> float:
    if value <= 0:
        raise DicomError(f"The {what} must be positive, got {value:g} kg; choose another kind of SUV.")
    return value
