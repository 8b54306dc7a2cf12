"""What a PET image says about its values (PS3.3 C.8.9 for classic images, C.8.22 for enhanced ones)."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from medfuse.errors import DicomError
from medfuse.io.dicom.planes import Planes
from medfuse.io.dicom.values import Values, parse_zone
from medfuse.io.suv import FILE_UNITS, PetTags

_GE, _GE_SCAN = 0x00090010, 0x0009100D
_PHILIPS, _PHILIPS_SUV, _PHILIPS_ACTIVITY = 0x70530010, 0x70531000, 0x70531009
PRIVATE_TAGS = (_GE, _GE_SCAN, _PHILIPS, _PHILIPS_SUV, _PHILIPS_ACTIVITY)
_CORRECTIONS = ("DECY", "ATTN", "SCAT", "DTIM", "MOTN", "PMOT", "CLN", "RAN", "RADL", "DCAL", "NORM", "SLSENS")
# UCUM codes in the real world value mappings of enhanced images (PS3.16 CID 84)
_UCUM = {"Bq/ml": "BQML", "{counts}": "CNTS", "g/ml": "GML", "g/ml{SUVbw}": "GML", "{SUVbw}g/ml": "GML"}


def read_pet(values: Values, planes: Planes) -> PetTags:
    """Read what an image says about its values: codes of known lists, numbers, moments.

    Raises:
        DicomError: If a value makes no sense, or there is more than one radiopharmaceutical.
    """
    zone = parse_zone(values.text("TimezoneOffsetFromUTC"))
    agents = values.items("RadiopharmaceuticalInformationSequence")
    if len(agents) > 1:
        raise DicomError(f"must tell of one radiopharmaceutical, got {len(agents)}")
    agent = agents[0] if agents else Values(Dataset())
    corrections = [code for code in values.texts("CorrectedImage") if code in _CORRECTIONS]
    for keyword, code in (("DecayCorrected", "DECY"), ("AttenuationCorrected", "ATTN")):
        if values.text(keyword) == "YES":
            corrections.append(code)
    corrected_to = values.instant("DecayCorrectionDateTime", zone)
    is_ge, is_philips = values.text(_GE) == "GEMS_PETD_01", values.text(_PHILIPS) == "Philips PET Private Group"
    return PetTags(
        units=values.code("Units", tuple(FILE_UNITS)) or _mapped_units(values, planes),
        suv_type=values.code("SUVType", ("BW", "LBM", "LBMJAMES128", "LBMJANMA", "BSA", "IBW")),
        corrections=tuple(corrections),
        decay_correction="START" if corrected_to else values.code("DecayCorrection", ("NONE", "START", "ADMIN")),
        weight=values.number("PatientWeight"),
        size=values.number("PatientSize"),
        sex=values.code("PatientSex", ("M", "F", "O")),
        dose=agent.number("RadionuclideTotalDose"),
        half_life=agent.number("RadionuclideHalfLife"),
        philips_suv=values.number(_PHILIPS_SUV) if is_philips else None,
        philips_activity=values.number(_PHILIPS_ACTIVITY) if is_philips else None,
        injected=agent.instant("RadiopharmaceuticalStartDateTime", zone)
        or agent.moment("", "RadiopharmaceuticalStartTime"),
        series=values.moment("SeriesDate", "SeriesTime"),
        ge_scan=values.instant(_GE_SCAN, zone) if is_ge else None,
        corrected_to=corrected_to,
        acquired=values.instant("AcquisitionDateTime", zone) or values.moment("AcquisitionDate", "AcquisitionTime"),
        frame_reference=_seconds(values.number("FrameReferenceTime")),
        frame_duration=_seconds(values.number("ActualFrameDuration")),
    )


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
        found.add(_UCUM.get(code, "OTHER") if np.allclose(line, (slope, intercept), rtol=1e-6, atol=0) else "OTHER")
    return found.pop() if len(found) == 1 else "OTHER" if found else ""


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000.0
