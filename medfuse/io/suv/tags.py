"""What PET headers say about their values, as plain values, and what a sidecar may say instead."""

from __future__ import annotations

from dataclasses import dataclass

from medfuse.errors import DicomError

SIDECAR = "say it in suv.json beside the files, or do without SUV."
DAY = 86400.0  # s


class UnknownError(DicomError):
    """Headers do not say what is needed, which contradicts nothing."""


RANGES = {  # limits beyond which the unit must be another one than DICOM's
    "weight": (0.2, 700.0),  # kg
    "size": (0.2, 2.8),  # m
    "dose": (1e5, 1e11),  # Bq
    "half_life": (10.0, 1e8),  # s
    "uptake": (-3600.0, 1e7),  # s; a dynamic scan may begin before the injection
}
UNIT_OF = {"weight": "kg", "size": "m", "dose": "Bq", "half_life": "s", "uptake": "s"}
OVERRIDABLE = {
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
}
OVERRIDES = tuple(OVERRIDABLE.values())
"""What a sidecar may say."""
KEYWORDS = OVERRIDABLE | {
    "nuclide": "RadionuclideCodeSequence",
    "tracer_code": "RadiopharmaceuticalCodeSequence",
    "tracer": "Radiopharmaceutical",
    "philips_suv": "Philips SUV factor (7053,1000)",
    "philips_activity": "Philips activity factor (7053,1009)",
    "injected": "start of the injection (0018,1078) or (0018,1072)",
    "start_time": "RadiopharmaceuticalStartTime (0018,1072)",
    "stopped": "end of the injection (0018,1079) or (0018,1073)",
    "series": "SeriesDate and SeriesTime",
    "ge_scan": "GE scan time (0009,100D)",
    "corrected_to": "DecayCorrectionDateTime",
}
OF_PIXELS = ("units", "suv_type", "corrections", "decay_correction")
"""What the pixels of slices must have in common to be one volume, with or without SUV."""
OF_A_SLICE = ("acquired", "frame_reference", "frame_duration", "decay_factor", "intercept", "faults")


@dataclass(frozen=True)
class Moment:
    """A point in time.

    Attributes:
        day: Number of the day, or None where only the time of day is known.
        second: Seconds since midnight.
        zone: Seconds east of UTC of the clock; None for that of the scanner, where no header tells its zone.
    """

    day: int | None
    second: float
    zone: float | None = None

    def since(self, earlier: Moment) -> float:
        """Return the seconds since an earlier moment; within a day, over midnight, where a date is not known.

        Raises:
            UnknownError: If the zone of one is known, and not that of the other.
        """
        if not self.is_comparable(earlier):
            raise UnknownError(
                "TimezoneOffsetFromUTC must be there where one time is told with an offset from UTC and another "
                f"without, got none; {SIDECAR}"
            )
        apart = self.second - earlier.second - (self.zone or 0.0) + (earlier.zone or 0.0)
        if self.day is None or earlier.day is None:
            return apart % DAY
        return (self.day - earlier.day) * DAY + apart

    def apart(self, other: Moment) -> float:
        """Return the seconds since another moment, before or after; where a date is not known, half a day at most."""
        seconds = self.since(other)
        return seconds - DAY if None in (self.day, other.day) and seconds > DAY / 2 else seconds

    def is_comparable(self, other: Moment) -> bool:
        """Return whether both are told by one clock, or by clocks of known zones (PS3.5 6.2, DT)."""
        return (self.zone is None) == (other.zone is None)


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
        nuclide: Of Radionuclide Code Sequence (0054,0300), such as F-18, or OTHER.
        tracer_code: Nuclide that Radiopharmaceutical Code Sequence (0054,0304) names, or nothing.
        tracer: Nuclide that Radiopharmaceutical (0018,0031) names, or nothing.
        philips_suv: SUV factor (7053,1000), g/ml for each count.
        philips_activity: Activity factor (7053,1009), Bq/ml for each count.
        injected: Radiopharmaceutical Start DateTime (0018,1078), or Start Time (0018,1072), which has no date.
        start_time: Radiopharmaceutical Start Time (0018,1072), by the clock of the scanner.
        stopped: Radiopharmaceutical Stop DateTime (0018,1079), or Stop Time (0018,1073), which has no date.
        series: Series Date and Time (0008,0021), (0008,0031).
        ge_scan: Start of the scan by GE, (0009,100D).
        corrected_to: Decay Correction DateTime (0018,9701) of enhanced images.
        uptake: Seconds from the injection to the time that the image is corrected to; from no header.
        acquired: Acquisition Date and Time (0008,0022), (0008,0032), of this slice.
        frame_reference: Frame Reference Time (0054,1300) of this slice, s.
        frame_duration: Actual Frame Duration (0018,1242) of this slice, s.
        decay_factor: Decay Factor (0054,1321) of this slice.
        intercept: Rescale Intercept (0028,1052) of this slice; of several frames the farthest from 0.
        faults: What is there and cannot be used: name of the attribute, and why, "... must ..., got ...".
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
    nuclide: str = ""
    tracer_code: str = ""
    tracer: str = ""
    philips_suv: float | None = None
    philips_activity: float | None = None
    injected: Moment | None = None
    start_time: Moment | None = None
    stopped: Moment | None = None
    series: Moment | None = None
    ge_scan: Moment | None = None
    corrected_to: Moment | None = None
    uptake: float | None = None
    acquired: Moment | None = None
    frame_reference: float | None = None
    frame_duration: float | None = None
    decay_factor: float | None = None
    intercept: float = 0.0
    faults: tuple[tuple[str, str], ...] = ()


def checked(name: str, value: float | None) -> float:
    """Return a value within the limits of its unit.

    Raises:
        UnknownError: If it is none.
        DicomError: If it is out of them.
    """
    low, high = RANGES[name]
    must = f"{KEYWORDS[name]} must be {low:g} to {high:g} {UNIT_OF[name]} for this SUV"
    if value is None:
        raise UnknownError(f"{must}, got none; {SIDECAR}")
    if not low <= value <= high:
        raise DicomError(f"{must}, got {value:g}; {SIDECAR}")
    return value
