#!/usr/bin/env bash
# highdicom writes the uncertainty of a measurement with the unit 1 (no units) whatever the unit of the measurement is: an
# SUV of 4.2 g/ml from 3.8 to 4.9 g/ml becomes an SUV of 4.2 g/ml with an upper uncertainty of the pure number 0.7. A
# reader that goes by units finds a ratio, 70 % above, which is 7.1 g/ml in the place of 4.9. MeasurementProperties takes
# upper and lower uncertainty as numbers, knows no unit, and gives no way to state one; nothing is said.
#
# highdicom 0.28.2.
#
# What is right: PS3.3 C.18.1 (Numeric Measurement Macro): the Measurement Units Code Sequence is the unit of the Numeric
# Value beside it; PS3.16 CID 225 and TID 310: the range of upper and lower measurement uncertainty of the measurement
# that holds them; JCGM 100 (GUM) 2.2.3 and 2.3.1: an uncertainty is a dispersion of values of the measurand, and has its
# unit. In UCUM "1" is the unit of ratios.
#
# Whom it hurts: structured reports by TID 1500 with error bars: volumes, diameters, SUV, kinetic parameters.
#
# Output seen:
#   highdicom 0.28.2
#   Diameter 12 mm: upper uncertainty 1.5 in "1" (no units), lower uncertainty 1 in "1" (no units)
#   SUVbw 4.2 {SUVbw}g/ml: upper uncertainty 0.7 in "1" (no units), lower uncertainty 0.4 in "1" (no units)
#   the same, written to a file and read back: the same
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 highdicom==0.28.2
venv/bin/python - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

NAMES = {"371886008": "upper", "371885007": "lower"}
SUV = Code("{SUVbw}g/ml", "UCUM", "Standardized Uptake Value body weight")


def told(measurement):
    """Return value and unit of the uncertainties of a measurement, by name."""
    items = {item.name.value: item for item in measurement[0].ContentSequence if item.ValueType == "NUM"}
    return {name: (float(items[code].value), items[code].unit) for code, name in NAMES.items()}


def shown(measurements):
    lines = []
    for one in measurements:
        parts = [f'{name} uncertainty {value:g} in "{unit.value}" ({unit.meaning})' for name, (value, unit) in told(one).items()]
        lines.append(f"{one.name.meaning} {float(one.value):g} {one.unit.value}: {', '.join(parts)}")
    return lines


print("highdicom", version("highdicom"))
found = [
    sr.Measurement(
        name=codes.SCT.Diameter, value=12.0, unit=codes.UCUM.Millimeter,
        properties=sr.MeasurementProperties(upper_measurement_uncertainty=1.5, lower_measurement_uncertainty=1.0),
    ),
    sr.Measurement(
        name=codes.DCM.Suvbw, value=4.2, unit=SUV,
        properties=sr.MeasurementProperties(upper_measurement_uncertainty=0.7, lower_measurement_uncertainty=0.4),
    ),
]
print(*shown(found), sep="\n")

image = Dataset()
image.file_meta = FileMetaDataset()
image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = (generate_uid() for _ in range(3))
image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "Phantom^One", "1", "", "O"
image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20240101", "100000", "1", ""
image.ReferringPhysicianName, image.Modality, image.Rows, image.Columns = "", "CT", 64, 64
group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
    tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier="lesion"),
    referenced_region=sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POINT, graphic_data=np.array([[8.0, 8.0]]),
        source_image=sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID),
    ),
    measurements=found,
)
observer = sr.ObserverContext(
    observer_type=codes.DCM.Device,
    observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(uid=generate_uid()),
)
report = sr.Comprehensive3DSR(
    evidence=[image],
    content=sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion, imaging_measurements=[group],
    )[0],
    series_number=2, series_instance_uid=generate_uid(), sop_instance_uid=generate_uid(), instance_number=1,
    manufacturer="Phantom",
)
report.save_as("report.dcm")
again = sr.srread("report.dcm").content.get_planar_roi_measurement_groups()[0].get_measurements()
same = shown(again) == shown(found)
print("the same, written to a file and read back:", "the same" if same else "\n".join(shown(again)))
units = {unit.value for one in [*found, *again] for _, unit in told(one).values()}
if units != {"1"} or not same:
    sys.exit("highdicom behaves otherwise now")
PY
