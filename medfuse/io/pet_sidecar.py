"""What the JSON sidecars of a NIfTI PET say: when its frames were, and how its values become SUV.

The fields are those of BIDS (PET, "Time", "Radiochemistry", "Pharmaceuticals"), in the spellings of its drafts, too
(`Unit` for `Units`), and those of dcm2niix. A field that is missing nearer to the image is taken from a sidecar
further up (BIDS: the inheritance principle), weight, height and sex from `participants.tsv`. All times are seconds
after a time zero, which nobody needs to know:

    SUV = value [Bq/ml] * weight [g] / (dose [Bq] * 2**(-(ImageDecayCorrectionTime - InjectionStart) / half life))

dcm2niix before 1.0.20260416 counted the frames of a static scan from the acquisition, and wrote `TimeZero` and
`InjectionStart`; since then it counts from the start of the series and writes neither: a person must add
`InjectionStart` for SUV.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medfuse.errors import DicomError, ImageError, MedfuseError
from medfuse.io.frames import Timing, checked_timing, own_starts
from medfuse.io.sidecars import NO_VALUE, read_sidecar, sidecar_files
from medfuse.io.subjects import find_body
from medfuse.io.suv import HALF_LIVES, Content, PetTags, Suv, suv
from medfuse.io.suv.checks import Evidence
from medfuse.io.suv.nuclides import named_nuclide
from medfuse.io.suv.tags import SIDECAR
from medfuse.io.suv.times import average_time
from medfuse.io.units import ARBITRARY, find_unit

_REMEDY = "say it in the sidecar of the PET, or do without SUV."
_ACTIVITY = {"bq": 1.0, "kbq": 1e3, "mbq": 1e6, "gbq": 1e9, "nci": 37.0, "uci": 3.7e4, "µci": 3.7e4, "mci": 3.7e7}
_MAX_HALF_LIVES = 8.0  # of uptake; beyond, a clock or a date is wrong
_BEFORE = 3600.0  # s, for which a scan may have run before the injection
_ML = ("ml", "cc", "cm3", "cm^3", "cm**3")
_SINGULAR = ("Unit", "InjectedRadioactivityUnit", "BodyWeightUnit")  # of the drafts of BIDS for PET
_DOSES = ("InjectedRadioactivity", "RadionuclideTotalDose")
_NOT = ("", "none", "no", "false", "not corrected", "uncorrected", "nac")


@dataclass(frozen=True)
class PetSidecar:
    """The fields of the sidecars of one image, the nearest first.

    Attributes:
        fields: By their BIDS names.
        body: `weight` in kg, `size` in m, `sex` M or F, as far as a table of participants tells them.
        files: The sidecars and tables, of which a result depends.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @property
    def tells_dose(self) -> bool:
        """Whether there is something that an SUV could be made of."""
        return any(name in self.fields for name in _DOSES)

    def timing(self, count: int) -> Timing | None:
        """Return when the frames of an image of so many were; None where nothing says it.

        Raises:
            ImageError: If the times cannot be those of the image.
        """
        starts, durations = self._list("FrameTimesStart"), self._list("FrameDuration")
        warnings: list[str] = []
        half_life = self._half_life()
        if starts is None and durations is not None:
            centres = self._list("FrameReferenceTime")
            if centres is not None and len(centres) == len(durations) and half_life:
                averages = [average_time(d, half_life) if d > 0 else 0.0 for d in durations]
                starts = centres if centres[0] == 0 else [c - a for c, a in zip(centres, averages, strict=True)]
                warnings.append("FrameTimesStart is missing: the starts of the frames were taken from their middles.")
            else:
                starts = [math.fsum(durations[:k]) for k in range(len(durations))]
                warnings.append("FrameTimesStart is missing: the frames were taken to follow each other.")
        timing = checked_timing(
            starts,
            durations,
            count,
            injection=self._number("InjectionStart"),
            half_life=half_life,
            corrected=self._corrected(),
        )
        if timing is not None and timing.corrected and count > 1:
            timing = own_starts(timing, self._factors() or ())
        return timing and replace(timing, warnings=(*timing.warnings, *(warnings if count > 1 else ())))

    def suv(
        self, kind: str, timing: Timing | None, *, content: Content | None = None, corrected_here: bool = False
    ) -> Suv:
        """Find how the values of the image become SUV, see `medfuse.io.suv.suv`.

        Args:
            kind: One of `medfuse.io.suv.CHOICES`.
            timing: When its frames were.
            content: What its pixels hold.
            corrected_here: Whether its values were decay corrected to the time zero after they were read.

        Returns:
            Factor, unit and record; an empty record where nothing was asked for that could be computed.

        Raises:
            DicomError: If a kind was asked for that cannot be computed.
        """
        unit = str(self.fields.get("Units", "")) or ARBITRARY
        scale = activity_scale(unit)
        if kind == "none":
            return Suv(1.0, unit, {"kind": "none", "reason": "not asked for"})
        if scale is None and kind != "auto":
            raise DicomError(f"Units must be of activity, such as Bq/mL, for SUV, got another or none; {_REMEDY}")
        if scale is None or (kind == "auto" and not self.tells_dose):
            return Suv(1.0, unit, {})  # nothing that an SUV could be made of
        warnings: list[str] = []
        try:
            tags = self._tags(timing, warnings, corrected_here=corrected_here)
            held = content and Content(content.total * scale, content.highest * scale)
            found = suv([tags], "bw" if kind == "auto" else kind, content=held)
        except MedfuseError as error:
            text = _told(str(error)).replace(SIDECAR, _REMEDY)
            if kind != "auto":
                raise DicomError(text) from None
            return Suv(1.0, unit, {"kind": "none", "reason": text})
        record = dict(found.record, rule=found.record["rule"].replace("the given UptakeSeconds", _RULE))
        record["factor"] = found.factor * scale
        if told := [*warnings, *map(_told, record.get("warnings", ()))]:
            record["warnings"] = told
        return Suv(found.factor * scale, found.unit, record)

    def _tags(self, timing: Timing | None, warnings: list[str], *, corrected_here: bool) -> PetTags:
        """Return what the sidecar says, as the headers of a DICOM PET would."""
        half_life, nuclide = self._half_life(), self._nuclide()
        if half_life is None:
            raise DicomError(
                f"TracerRadionuclide must name the nuclide of the PET for SUV, got another or none; {_REMEDY}"
            )
        injection = self._number("InjectionStart")
        if injection is None:
            raise DicomError(
                f"InjectionStart must tell when the injection was, in s after the time zero, got none; {_REMEDY}"
            )
        corrections = ("DECY", *(("ATTN",) if self._attenuation(warnings) else ()))
        reference = 0.0 if corrected_here else self._reference(timing, half_life, warnings)
        if not -_BEFORE <= reference - injection <= _MAX_HALF_LIVES * half_life:
            raise DicomError(
                f"The scan must follow the injection within {_MAX_HALF_LIVES:g} half lives, got "
                f"{reference - injection:.0f} s by ImageDecayCorrectionTime and InjectionStart; {_REMEDY}"
            )
        body = self._body(warnings)
        return PetTags(
            units="BQML",
            corrections=corrections,
            decay_correction="START",
            weight=body.get("weight"),
            size=body.get("size"),
            sex=str(body.get("sex", "")),
            dose=self._dose(),
            half_life=half_life,
            nuclide=nuclide,
            tracer=named_nuclide(str(self.fields.get("TracerName", ""))),
            uptake=reference - injection,
        )

    def _reference(self, timing: Timing | None, half_life: float, warnings: list[str]) -> float:
        """Return the time that the values are decay corrected to, s after the time zero, held against the factors."""
        if self._corrected() is not True:
            raise DicomError(f"ImageDecayCorrected must be true for SUV, got false or none; {_REMEDY}")
        reference = self._number("ImageDecayCorrectionTime")
        if reference is None:
            how = self.fields.get("DecayCorrection")
            reference = {"START": self._number("ScanStart") or 0.0, "ADMIN": self._number("InjectionStart")}.get(
                str(how)
            )
        if reference is None:
            raise DicomError(
                f"ImageDecayCorrectionTime must tell what the PET is decay corrected to, got none; {_REMEDY}"
            )
        factors = self._factors()
        if timing is None or not factors or len(factors) != len(timing.starts) or min(factors) <= 0:
            return reference
        if all(f == 1.0 for f in factors):  # a default
            return reference
        evidence = Evidence(PetTags(), ())
        off = _off(factors, timing, reference, half_life)
        text = (
            "DecayCorrectionFactor must be that from ImageDecayCorrectionTime to each frame, got the factors of "
            f"{abs(off):.0f} s {'more' if off > 0 else 'less'}"
        )
        try:
            evidence.agree(off, half_life, text)
        except DicomError:
            series = self._before_zero("SeriesTime")
            if series is None or abs(_off(factors, timing, series, half_life)) > 0.02 * half_life:
                raise
            warnings.append(
                f"The times count from the acquisition, and the PET is decay corrected to the start of the series, "
                f"{-series:.0f} s before, as its decay factors show: that was taken."
            )
            return series
        warnings += evidence.warnings
        return reference

    def _factors(self) -> list[float] | None:
        return self._list("DecayCorrectionFactor") or self._list("DecayFactor")

    def _before_zero(self, name: str) -> float | None:
        """Return a time of day as s after the time zero; None where one of both is not known."""
        day, told, zero = 86400.0, _seconds(self.fields.get(name)), _seconds(self.fields.get("TimeZero"))
        return None if told is None or zero is None else (told - zero + day / 2) % day - day / 2

    def _attenuation(self, warnings: list[str]) -> bool:
        told = self.fields.get("AttenuationCorrection", self.fields.get("AttenuationCorrectionMethod"))
        if told in NO_VALUE:
            warnings.append(
                "The sidecar does not say whether the PET is corrected for attenuation (AttenuationCorrection): it was "
                "taken to be."
            )
            return True
        return not (told is False or str(told).strip().casefold() in _NOT)

    def _body(self, warnings: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in ("PatientWeight", "BodyWeight"):
            weight = self._number(name)
            if weight is not None:
                unit = str(self.fields.get("BodyWeightUnits", "kg")).casefold() if name == "BodyWeight" else "kg"
                if unit not in ("kg", "g"):
                    raise DicomError(f"BodyWeightUnits must be kg or g, got another; {_REMEDY}")
                found["weight"] = weight / (1000.0 if unit == "g" else 1.0)
                break
        if (size := self._number("PatientSize")) is not None:
            found["size"] = size
        if (sex := str(self.fields.get("PatientSex", "")).upper()[:1]) in ("M", "F"):
            found["sex"] = sex
        other = self.body.get("weight")
        if other and "weight" in found and abs(found["weight"] / other - 1.0) > 0.02:
            warnings.append(
                f"The weight is {found['weight']:g} kg in the sidecar and {other:g} kg in the table of participants: "
                "that of the sidecar was taken."
            )
        return {**self.body, **found}

    def _dose(self) -> float | None:
        dose = self._number("InjectedRadioactivity")
        if dose is None:
            return self._number("RadionuclideTotalDose")
        unit = str(self.fields.get("InjectedRadioactivityUnits", "")).strip().casefold()
        if unit not in _ACTIVITY:
            raise DicomError(
                f"InjectedRadioactivityUnits must be of activity, such as MBq, got another or none; {_REMEDY}"
            )
        return dose * _ACTIVITY[unit]

    def _nuclide(self) -> str:
        return named_nuclide(str(self.fields.get("TracerRadionuclide", "")).strip())

    def _half_life(self) -> float | None:
        return self._number("RadionuclideHalfLife") or HALF_LIVES.get(self._nuclide())

    def _corrected(self) -> bool | None:
        told = self.fields.get("ImageDecayCorrected")
        if isinstance(told, bool):
            return told
        return {"START": True, "ADMIN": True, "NONE": False}.get(str(self.fields.get("DecayCorrection")))

    def _number(self, name: str) -> float | None:
        value = self.fields.get(name)
        if value in NO_VALUE:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ImageError(f"{name} in the sidecar of the PET must be a number, got another value; correct it.")
        return float(value)

    def _list(self, name: str) -> list[float] | None:
        value = self.fields.get(name)
        if value in NO_VALUE or value == []:
            return None
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values):
            raise ImageError(f"{name} in the sidecar of the PET must hold numbers, got other values; correct it.")
        return [float(v) for v in values]


_RULE = "the time from InjectionStart to ImageDecayCorrectionTime"


def read_pet_sidecar(image: Path) -> PetSidecar:
    """Read all sidecars of a NIfTI PET; without one, nothing is known.

    Raises:
        BundleError: If one cannot be read, or says two units.
    """
    files = sidecar_files(image)
    fields: dict[str, Any] = {}
    for path in files:
        content = read_sidecar(path, "the PET")
        for name in _SINGULAR:
            if name in content:
                content.setdefault(f"{name}s", content.pop(name))
        fields |= {name: value for name, value in content.items() if value not in NO_VALUE}
    body, tables = find_body(image) if fields else ({}, ())
    return PetSidecar(fields, body, (*files, *tables))


def activity_scale(unit: str) -> float | None:
    """Return what values in a unit are multiplied by to be in Bq/ml; None for a unit of something else."""
    known = find_unit(unit)
    if known is not None:
        return 1.0 if known.dicom_units == "BQML" else None
    amount, _, volume = unit.strip().casefold().partition("/")
    return _ACTIVITY.get(amount) if volume in _ML else None


def _told(text: str) -> str:
    """Return a message about headers in the names that BIDS has for them."""
    for header, field_name in (
        ("RadionuclideCodeSequence", "TracerRadionuclide"),
        ("Radiopharmaceutical", "TracerName"),
    ):
        text = re.sub(rf"\b{header}\b", field_name, text)
    return text


def _off(factors: Sequence[float], timing: Timing, reference: float, half_life: float) -> float:
    """Return by how many seconds decay factors are off; each may include the decay during its frame, or not."""
    found = []
    for factor, start, duration in zip(factors, timing.starts, timing.durations, strict=True):
        decayed, wait = half_life * math.log2(factor), start - reference
        later = wait + average_time(duration, half_life)
        found.append(decayed - wait if decayed < wait else max(decayed - later, 0.0))
    return max(found, key=abs)


def _seconds(text: Any) -> float | None:
    """Return a time of day, hh:mm:ss, in s after midnight; None for another value."""
    parts = str(text).split(":")
    try:
        hours, minutes, seconds = (float(p) for p in parts)
    except ValueError:
        return None
    return (
        hours * 3600 + minutes * 60 + seconds if 0 <= hours < 24 and 0 <= minutes < 60 and 0 <= seconds < 61 else None
    )
