"""What a PET image says about its values (PS3.3 C.8.9 for classic images, C.8.22 for enhanced ones)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import numpy as np
from pydicom.dataset import Dataset

from medfuse.errors import DicomError
from medfuse.io.dicom.planes import Planes
from medfuse.io.dicom.values import Values, parse_zone
from medfuse.io.suv import FILE_UNITS, Moment, PetTags
from medfuse.io.suv.nuclides import named_nuclide, nuclides_in
from medfuse.io.units import SUV_TYPES, find_unit

_GE, _GE_SCAN = 0x00090010, 0x0009100D
_PHILIPS, _PHILIPS_SUV, _PHILIPS_ACTIVITY = 0x70530010, 0x70531000, 0x70531009
PRIVATE_TAGS = (_GE, _GE_SCAN, _PHILIPS, _PHILIPS_SUV, _PHILIPS_ACTIVITY)
_CORRECTIONS = ("DECY", "ATTN", "SCAT", "DTIM", "MOTN", "PMOT", "CLN", "RAN", "RADL", "DCAL", "NORM", "SLSENS")
_SCHEMES = {"SNM3": "SRT", "99SDM": "SRT", "SNOMED": "SCT", "SNOMED-CT": "SCT"}  # that use the codes of others
_NUCLIDES, _TRACERS = ("cid4020", "cid18"), ("cid4021", "cid25")  # of PS3.16, for PET and others
_OF_AGENT = ("dose", "half_life", "nuclide", "tracer_code", "tracer", "injected", "start_time", "stopped")
_ROUNDED = 60.0  # s, by which two notes of one acquisition may differ

T = TypeVar("T")


class _Told:
    """Collects what can be read, and for what cannot the reason: no pixel depends on it."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []

    def of(self, name: str, read: Callable[[], T], default: T) -> T:
        """Return what is read, or the default, with a fault of that name."""
        try:
            return read()
        except DicomError as error:
            self.faults.append((name, f"The headers {error}"))
            return default


def read_pet(values: Values, planes: Planes) -> PetTags:
    """Read what an image says about its values: codes of known lists, numbers, moments.

    What cannot be read is in the faults of the tags.
    """
    told = _Told()
    none: list[Values] = []
    agents = told.of("dose", lambda: values.items("RadiopharmaceuticalInformationSequence"), none)
    if told.faults or len(agents) > 1:
        why = "The headers must tell of one radiopharmaceutical, got "
        why += "something else" if told.faults else str(len(agents))
        told.faults = [(name, why) for name in _OF_AGENT]
        agents = []
    agent = agents[0] if agents else Values(Dataset())
    zone = told.of("injected", lambda: parse_zone(values.text("TimezoneOffsetFromUTC")), None)

    def number(name: str, place: Values, tag: str | int) -> float | None:
        return told.of(name, lambda: place.number(tag), None)

    def code(name: str, keyword: str, known: tuple[str, ...]) -> str:
        return told.of(name, lambda: values.code(keyword, known), "")

    corrected_to = told.of("corrected_to", lambda: values.instant("DecayCorrectionDateTime", zone), None)
    start_time = told.of("start_time", lambda: agent.moment("", "RadiopharmaceuticalStartTime", zone), None)
    is_ge = told.of("ge_scan", lambda: values.text(_GE) == "GEMS_PETD_01", False)
    is_philips = told.of("philips_suv", lambda: values.text(_PHILIPS) == "Philips PET Private Group", False)
    units = told.of("units", lambda: values.code("Units", tuple(FILE_UNITS)) or _mapped_units(values, planes), "OTHER")
    return PetTags(
        units=units,
        suv_type=code("suv_type", "SUVType", (*SUV_TYPES, "LBM")),
        corrections=told.of("corrections", lambda: _corrections(values), ()),
        decay_correction=code("decay_correction", "DecayCorrection", ("NONE", "START", "ADMIN"))
        if corrected_to is None
        else "START",
        weight=number("weight", values, "PatientWeight"),
        size=number("size", values, "PatientSize"),
        sex=code("sex", "PatientSex", ("M", "F", "O")),
        dose=number("dose", agent, "RadionuclideTotalDose"),
        half_life=number("half_life", agent, "RadionuclideHalfLife"),
        nuclide=told.of("nuclide", lambda: _nuclide(agent), ""),
        tracer_code=told.of(
            "tracer_code", lambda: _coded_nuclide(agent, "RadiopharmaceuticalCodeSequence", _TRACERS, ""), ""
        ),
        tracer=told.of("tracer", lambda: named_nuclide(agent.text("Radiopharmaceutical")), ""),
        philips_suv=number("philips_suv", values, _PHILIPS_SUV) if is_philips else None,
        philips_activity=number("philips_activity", values, _PHILIPS_ACTIVITY) if is_philips else None,
        injected=told.of("injected", lambda: _injected(agent, zone, start_time), None),
        start_time=start_time,
        stopped=told.of("stopped", lambda: _stopped(agent, zone), None),
        series=told.of("series", lambda: values.moment("SeriesDate", "SeriesTime", zone), None),
        ge_scan=told.of("ge_scan", lambda: values.instant(_GE_SCAN, zone), None) if is_ge else None,
        corrected_to=corrected_to,
        acquired=told.of("acquired", lambda: _acquired(values, zone), None),
        frame_reference=_seconds(number("frame_reference", values, "FrameReferenceTime")),
        frame_duration=_seconds(number("frame_duration", values, "ActualFrameDuration")),
        decay_factor=number("decay_factor", values, "DecayFactor"),
        intercept=float(max(planes.intercept, key=abs)),
        faults=tuple(told.faults),
    )


def _corrections(values: Values) -> tuple[str, ...]:
    found = [code for code in values.texts("CorrectedImage") if code in _CORRECTIONS]
    for keyword, code in (("DecayCorrected", "DECY"), ("AttenuationCorrected", "ATTN")):
        if values.text(keyword) == "YES":
            found.append(code)
    return tuple(found)


def _injected(agent: Values, zone: float | None, start_time: Moment | None) -> Moment | None:
    """Return the injection by its date-time, or by its time of day, for which a date-time may tell the day alone."""
    day = agent.day("RadiopharmaceuticalStartDateTime")
    if day is not None and start_time is not None:
        return Moment(day, start_time.second, zone)
    return agent.instant("RadiopharmaceuticalStartDateTime", zone) or start_time


def _stopped(agent: Values, zone: float | None) -> Moment | None:
    """Return the end of the injection; midnight, without a date, is a default."""
    local = agent.moment("", "RadiopharmaceuticalStopTime", zone)
    return agent.instant("RadiopharmaceuticalStopDateTime", zone) or (local if local and local.second else None)


def _acquired(values: Values, zone: float | None) -> Moment | None:
    """Return the acquisition by date and time, else by the date-time, and hold the one against the other."""
    local = values.moment("AcquisitionDate", "AcquisitionTime", zone)
    whole = values.instant("AcquisitionDateTime", zone)
    if local is None or whole is None:
        return local or whole
    if whole.is_comparable(local):
        if abs(whole.apart(local)) > _ROUNDED:
            raise DicomError("must have one AcquisitionDateTime and AcquisitionTime, got two that differ")
        return whole if local.day is None else local
    return local


def _nuclide(agent: Values) -> str:
    """Return the radionuclide, such as F-18, of Radionuclide Code Sequence; OTHER for another, empty for none.

    Raises:
        DicomError: If code and meaning are of two nuclides, or there are two.
    """
    return _coded_nuclide(agent, "RadionuclideCodeSequence", _NUCLIDES, "OTHER")


def _coded_nuclide(agent: Values, keyword: str, lists: tuple[str, ...], other: str) -> str:
    """Return the nuclide that the codes of a sequence name; another text where there are codes, and none does."""
    found: set[str] = set()
    items = agent.items(keyword)
    for item in items:
        scheme = item.text("CodingSchemeDesignator")
        known = _meaning(_SCHEMES.get(scheme, scheme), item.text("CodeValue"), lists)
        found |= nuclides_in(known) | nuclides_in(item.text("CodeMeaning"))
    if len(found) > 1:
        raise DicomError(f"must tell of one nuclide in {keyword}, got several")
    return found.pop() if found else other if items else ""


@cache
def _meaning(scheme: str, value: str, lists: tuple[str, ...]) -> str:
    """Return the meaning of a code, in SNOMED CT, in SRT, which it came from, in DCM and others; or nothing."""
    from pydicom.sr.codedict import codes  # half a second of imports, for PET alone
    from pydicom.sr.coding import Code

    asked = Code(value, scheme, "")
    known = (getattr(group, name) for group in (getattr(codes, cid) for cid in lists) for name in group.dir())
    return next((code.meaning for code in known if code == asked), "")


def _mapped_units(values: Values, planes: Planes) -> str:
    """Return the units of an enhanced image's real world value mappings, where these scale as the rescaling does."""
    shared, per_frame = values.items("SharedFunctionalGroupsSequence"), values.items("PerFrameFunctionalGroupsSequence")
    found = set()
    for group, slope, intercept in zip(per_frame, planes.slope, planes.intercept, strict=False):
        mapping = next((m for place in (group, *shared) for m in place.items("RealWorldValueMappingSequence")), None)
        if mapping is None:
            return ""
        line = (mapping.number("RealWorldValueSlope") or 0.0, mapping.number("RealWorldValueIntercept") or 0.0)
        code = next((c.text("CodeValue") for c in mapping.items("MeasurementUnitsCodeSequence")), "")
        found.add(_coded_units(code) if np.allclose(line, (slope, intercept), rtol=1e-6, atol=0) else "OTHER")
    return found.pop() if len(found) == 1 else "OTHER" if found else ""


def _coded_units(code: str) -> str:
    """Return the Units (0054,1001) that a UCUM code stands for (PS3.16 CID 84); OTHER where they do not tell it all."""
    unit = find_unit(code)
    return unit.dicom_units if unit and unit.kind in ("", "bw") and unit.dicom_units else "OTHER"


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000.0
