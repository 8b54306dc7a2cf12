"""What the headers of a PET say, held against each other, against its pixels, and against what a body can hold.

| value | needed by | held against |
|---|---|---|
| Units | all | the known ones; the activity that the image holds |
| RescaleIntercept | all | 0 (PS3.3 C.8.9.4); the formula is one, so that it is applied, with a warning |
| CorrectedImage | all | ATTN and DECY; DecayCorrection NONE contradicts DECY |
| DecayCorrection | activity | START or ADMIN; DecayFactor |
| RadionuclideTotalDose | activity | its range; the dose for each kg; the activity that the image holds |
| RadionuclideHalfLife | activity, START | its range; the nuclide, see below; the half lives of positron nuclides |
| PatientWeight | bw, lbm, bsa | its range; PatientSize, by the body mass index |
| injection | activity, START | StartTime against StartDateTime; StopTime; time zones; the scan, within 8 half lives |
| scan | activity, START | SeriesTime, AcquisitionTime, FrameReferenceTime, DecayFactor and GE's time: see `times` |
| Philips SUV factor | CNTS | the Philips activity factor, dose and weight, where all are there |
| each of them | all | the other slices; more than one radiopharmaceutical; a value that cannot be read |

RadionuclideCodeSequence, RadiopharmaceuticalCodeSequence and Radiopharmaceutical must name one nuclide, where they name
any. What contradicts something is refused. Where one reading is certain it is taken, with a warning; what is possible,
and unusual, is a warning. An SUV that someone else computed, as in a file in g/ml, does not depend on how dose, half
life and times are read: where these contradict each other it stands, with a warning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from medfuse.errors import DicomError
from medfuse.io.suv.body import body_size
from medfuse.io.suv.nuclides import HALF_LIVES, is_half_life, nuclides_of
from medfuse.io.suv.tags import KEYWORDS, RANGES, SIDECAR, PetTags, checked

_UNITS_OF_TIME = {"minutes": 60.0, "hours": 3600.0, "days": 86400.0, "milliseconds": 1e-3}
_MBQ = 1e6
_DOSE = (0.02, 100.0)  # MBq/kg, from a long scanner's least to perfusion's most
_USUAL_DOSE = (0.3, 20.0)  # 370 MBq for 70 kg are 5.3; for a child of 3 kg, the least that is given, 9
_USUAL_SHORT_DOSE = 60.0  # of water, ammonia or rubidium: 2.2 GBq for 40 kg are 55
_SHORT = 1800.0  # s, half life of what is given in such doses
_SMALL = 2.0  # kg, below which it is an animal, of which the doses for each kg are up to 20 times as high
_SMALL_DOSE = 20.0
_BMI = (5.0, 100.0)  # kg/m2, from a neonate to more than was ever seen
_USUAL_BMI = (10.0, 50.0)  # beyond, the weight may be in pounds
_HELD = 1.3  # times the injected activity: scatter, noise and calibration add to what is there
_FAINT = 0.3  # SUV by body weight: the mean of a body is near 1, and its hottest voxel above
_FACTORS = 0.1  # part by which the factors of Philips may differ: one was noted before headers were amended
_SAID, _REFUSED = 0.02, 0.05  # part of the SUV by which times may contradict each other: silently, and with a warning


@dataclass(frozen=True)
class Content:
    """What the pixels of a PET hold, in the unit of the file.

    Attributes:
        total: Sum of the values times the volume of a voxel, such as Bq/ml * ml.
        highest: Highest value.
    """

    total: float
    highest: float


@dataclass(frozen=True)
class Evidence:
    """All that speaks for an SUV, and the warnings that were found on the way.

    Attributes:
        one: What all slices say.
        slices: What each says.
        stated: Names of what a sidecar said.
        content: What the pixels hold, where they were read.
        before: For how long a dynamic scan may have run before the injection, s; 0 for a static one.
        warnings: Whole sentences.
    """

    one: PetTags
    slices: Sequence[PetTags]
    stated: frozenset[str] = frozenset()
    content: Content | None = None
    before: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def require_sound(self, *names: str) -> None:
        """Refuse what is there and cannot be used.

        Raises:
            DicomError: If one of the named values is such.
        """
        for name, why in self.one.faults:
            if name in names:
                raise DicomError(f"{why}; {SIDECAR}")

    def number(self, name: str) -> float:
        """Return a number that is needed.

        Raises:
            DicomError: If it is not there, cannot be read, or is out of its range.
        """
        self.require_sound(name)
        return checked(name, getattr(self.one, name))

    def known(self, name: str) -> float | None:
        """Return a number that others are held against; None where it is not to be had."""
        value = getattr(self.one, name)
        low, high = RANGES[name]
        sound = name not in {fault for fault, _ in self.one.faults}
        return value if sound and value is not None and low <= value <= high else None

    def warn(self, text: str) -> None:
        """Note a sentence that the person must read."""
        if text not in self.warnings:
            self.warnings.append(text)

    def agree(self, seconds: float, half_life: float, text: str) -> None:
        """Hold times against each other, by what their difference does to the SUV.

        Args:
            seconds: By how much they differ.
            half_life: s.
            text: What must be, and what was got, without full stop.

        Raises:
            DicomError: If the SUV would differ by more than 5 %; from 2 %, it is a warning.
        """
        error = math.expm1(math.log(2.0) * min(abs(seconds) / half_life, 100.0))
        if error > _REFUSED:
            raise DicomError(f"{text}; {SIDECAR}")
        if error > _SAID:
            self.warn(f"{text}: the SUV may be {error:.1%} off.")


def half_life(evidence: Evidence) -> float:
    """Return the half life, s.

    Raises:
        DicomError: If it is that of another nuclide than the named one, or of none, or two nuclides are named.
    """
    value, stated = evidence.one.half_life, "half_life" in evidence.stated
    evidence.require_sound("half_life", *(() if stated else ("nuclide", "tracer_code")))
    try:
        nuclide, by = _named_nuclide(evidence)
    except DicomError as error:
        if not stated:
            raise
        evidence.warn(f"{bare(error)}: the half life of suv.json was taken.")
        nuclide, by = "", ()
    names = " and ".join(KEYWORDS[name] for name in by)
    is_coded = by not in ((), ("tracer",))  # a free text is typed by hand, and only held against the others
    if value is None and is_coded:
        evidence.warn(
            f"RadionuclideHalfLife is missing: that of {nuclide}, which {names} names, was taken, "
            f"{HALF_LIVES[nuclide]:.0f} s."
        )
        return HALF_LIVES[nuclide]
    if value and is_coded and not is_half_life(value, nuclide):
        for unit, seconds in _UNITS_OF_TIME.items():
            if is_half_life(value * seconds, nuclide):
                taken = value * seconds
                evidence.warn(
                    f"RadionuclideHalfLife is {value:g}, the half life of {nuclide} in {unit}, not in seconds: "
                    f"{taken:g} s were taken."
                )
                return taken
    value = evidence.number("half_life")
    if by:
        if is_half_life(value, nuclide):
            return value
        text = (
            f"RadionuclideHalfLife must be that of {nuclide}, {HALF_LIVES[nuclide]:.0f} s, which {names} names, got "
            f"{value:g}"
        )
    elif nuclides_of(value):
        return value
    else:
        text = f"RadionuclideHalfLife must be that of a nuclide of PET, in seconds, got {value:g}"
        likely = [f"{n} in {u}" for u, s in _UNITS_OF_TIME.items() for n in nuclides_of(value * s)]
        text += f", which is {likely[0]}" if len(likely) == 1 else ""
    if not stated:
        raise DicomError(f"{text}; {SIDECAR}")
    evidence.warn(f"{text} from suv.json, which was taken.")
    return value


def _named_nuclide(evidence: Evidence) -> tuple[str, tuple[str, ...]]:
    """Return the nuclide that headers name, and the names of these: none where none is known.

    Raises:
        DicomError: If they name several, or one that is not of PET.
    """
    named = {name: getattr(evidence.one, name) for name in ("nuclide", "tracer_code", "tracer")}
    named = {name: nuclide for name, nuclide in named.items() if nuclide not in ("", "OTHER")}
    told = " and ".join(f"{nuclide} by {KEYWORDS[name]}" for name, nuclide in named.items())
    if len(set(named.values())) > 1:
        raise DicomError(f"The headers must name one nuclide, got {told}; {SIDECAR}")
    if not set(named.values()) <= HALF_LIVES.keys():
        raise DicomError(f"The headers must name a nuclide of PET, got {told}; {SIDECAR}")
    return next(iter(named.values()), ""), tuple(named)


def dose(evidence: Evidence, half_life: float | None = None) -> float:
    """Return the injected activity, Bq.

    Args:
        evidence: What speaks for it.
        half_life: s, where it is known: of what decays within minutes, more is given.

    Raises:
        DicomError: If no one is injected with so little or so much for each kg of body weight.
    """
    value, weight = evidence.number("dose"), evidence.known("weight")
    if weight is None:
        return value
    each, scale = value / _MBQ / weight, _SMALL_DOSE if weight < _SMALL else 1.0
    least, most = _DOSE[0], _DOSE[1] * scale
    if not least <= each <= most:
        text = (
            f"RadionuclideTotalDose must be {least:g} to {most:g} MBq/kg, got {each:.3g} MBq/kg ({value:g} Bq for "
            f"{weight:g} kg)"
        )
        if "dose" not in evidence.stated:
            raise DicomError(f"{text}, probably in another unit than Bq; {SIDECAR}")
        evidence.warn(f"{text} from suv.json, which was taken.")
        return value
    least, most = _USUAL_DOSE
    most = scale * (most if half_life is not None and half_life > _SHORT else _USUAL_SHORT_DOSE)
    if not least <= each <= most:
        evidence.warn(
            f"RadionuclideTotalDose is {value / _MBQ:.3g} MBq for {weight:g} kg, {each:.3g} MBq/kg where {least:g} to "
            f"{most:g} are usual: check its unit, and that of the weight."
        )
    return value


def body(evidence: Evidence, kind: str) -> float:
    """Return what SUV is normalised by, g or cm2.

    Raises:
        DicomError: If something is missing, or weight and size are of no human being.
    """
    one = evidence.one
    evidence.require_sound(*{"bw": ("weight",), "bsa": ("weight", "size")}.get(kind, ("weight", "size", "sex")))
    found = body_size(kind, weight=one.weight, size=one.size, sex=one.sex)
    weight, size = evidence.known("weight"), evidence.known("size")
    if weight is not None and one.size and size is None:
        evidence.warn("PatientSize is no height of a human being in m: check it, and the weight.")
    bmi = None if weight is None or size is None else weight / size**2
    if bmi is not None and not _BMI[0] <= bmi <= _BMI[1]:
        raise DicomError(
            f"PatientWeight and PatientSize must give {_BMI[0]:g} to {_BMI[1]:g} kg/m2, got {bmi:.3g} ({weight:g} kg, "
            f"{size:g} m); {SIDECAR}"
        )
    if bmi is not None and not _USUAL_BMI[0] <= bmi <= _USUAL_BMI[1]:
        evidence.warn(
            f"PatientWeight and PatientSize give {bmi:.3g} kg/m2 ({weight:g} kg, {size:g} m), which is unusual: check "
            "the weight, which is in kg, and the size."
        )
    return found


def bare(error: DicomError) -> str:
    """Return an error in words, without its remedy."""
    return str(error).removesuffix(f"; {SIDECAR}")


def warn_of_body(evidence: Evidence) -> None:
    """Warn where the weight of a body is doubtful, by which someone else computed the SUV of a file."""
    if evidence.known("weight") is not None:
        try:
            body(evidence, "bw")
        except DicomError as error:
            evidence.warn(f"{bare(error)}.")


def require_corrected(evidence: Evidence) -> None:
    """Refuse what is not corrected for attenuation and decay, or says both yes and no.

    Raises:
        DicomError: If it is such.
    """
    evidence.require_sound("units", "suv_type", "corrections", "decay_correction")
    missing = {"ATTN", "DECY"} - set(evidence.one.corrections)
    if missing:
        raise DicomError(
            f"CorrectedImage must name ATTN and DECY for SUV, got none of {' and '.join(sorted(missing))}; {SIDECAR}"
        )
    if evidence.one.decay_correction == "NONE":
        raise DicomError(f"DecayCorrection must be START or ADMIN for SUV, got NONE; {SIDECAR}")


def check_content(evidence: Evidence, factor: float, kind: str) -> None:
    """Hold the image against the injected activity: a body holds no more of it (conservation of activity).

    The sum of SUV * ml is the part of the dose in the field of view, times the size of the body: by weight, the mean
    SUV of a whole body is near 1, less what was excreted.

    Args:
        evidence: What speaks for the SUV.
        factor: SUV for a value of the file.
        kind: Of the SUV; empty for a lean body mass by an unknown formula.

    Raises:
        DicomError: If the image holds more than was injected.
    """
    content = evidence.content
    if content is None:
        return
    try:
        size = body(evidence, kind or "lbm")
    except DicomError:
        return  # a file in SUV need not tell the weight
    held = content.total * factor / size
    if held > _HELD:
        is_suv = evidence.one.units in ("GML", "CM2ML")
        wrong = "the unit, or the weight, is wrong" if is_suv else "dose, half life, times or Units are wrong"
        raise DicomError(
            f"The image must hold at most the injected activity, got {held:.3g} times as much as a body of this weight "
            f"can hold: {wrong}; {SIDECAR}"
        )
    weight = evidence.known("weight")
    highest = content.highest * factor * (1000.0 * weight / size if weight else 1.0)
    if highest < _FAINT:
        evidence.warn(
            f"The highest SUV of the image is {highest:.2g}. The mean of a body is near 1: the unit of the dose or of "
            "the image is probably another."
        )


def require_one_factor(evidence: Evidence, by_activity: float) -> None:
    """Hold the SUV factor of Philips against that by its activity factor, dose, weight and times.

    Raises:
        DicomError: If they differ.
    """
    stated = evidence.one.philips_suv
    if stated and abs(by_activity / stated - 1.0) > _FACTORS:
        raise DicomError(
            f"The Philips SUV factor must be that of its activity factor, dose, weight and times, {by_activity:.4g}, "
            f"got {stated:.4g}; {SIDECAR}"
        )
