#!/usr/bin/env bash
# pydicer takes the time of the injection as a time of the day of the scan. A scan after midnight of an injection before
# it has a negative uptake time: with F-18, injection at 23:30 and scan at 00:30, SUV 1.38 becomes 0.000155, 8892 times
# too small, though Radiopharmaceutical Start DateTime names the day. Images that were corrected to the time of the
# administration (Decay Correction ADMIN) are corrected to it once more: 1.46 times too large. Neither is warned of.
#
# pydicer 0.2.0 (converts and analyses folders of DICOM with SimpleITK and pydicom).
#
# What is right: PS3.3 C.8.9.2: Radiopharmaceutical Start DateTime (0018,1078) dates the injection; where it is missing
# the injection lies before the scan. PS3.3 C.8.9.1.1.5 and C.8.9.1: with Decay Correction ADMIN the pixels hold the
# activity at the time of the administration, so that the dose must not decay: SUV = 5000 Bq/ml x 70 kg / 370 MBq.
#
# Whom it hurts: cohorts of PET converted in one go: night scans are empty, series corrected to the injection (as one
# vendor writes them) have uptake by half too large beside those of others.
#
# Output seen:
#   pydicer 0.2.0
#   same day:       SUV 1.3817, right 1.3817, ratio 1.0000
#   over midnight:  SUV 0.0002, right 1.3817, ratio 0.0001
#   ADMIN:          SUV 1.3817, right 0.9459, ratio 1.4606
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==1.26.4 setuptools==75.8.0 wheel versioneer
venv/bin/pip install --quiet --no-build-isolation pyradiomics==3.0.1
venv/bin/pip install --quiet numpy==1.26.4 pydicom==2.4.5 SimpleITK==2.5.7 platipy==0.7.2 pydicer==0.2.0
venv/bin/python - <<'PY'
import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage, generate_uid

from pydicer.convert.pt import convert_dicom_to_nifti_pt

STUDY, SERIES, FRAME = (generate_uid() for _ in range(3))
HALF_LIFE = 6586.2


def write_slice(path, k, stored, slope, **more):
    """Write slice k of a PET series (PS3.3 A.21), 2 x 2 mm pixels, slices 3 mm apart along +z."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = PositronEmissionTomographyImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = STUDY, SERIES, FRAME
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^One", "1", "", "O"
    ds.PatientWeight, ds.Modality, ds.Manufacturer, ds.BodyPartExamined = "70", "PT", "Phantom", "BRAIN"
    ds.StudyID, ds.SeriesNumber, ds.AccessionNumber, ds.ReferringPhysicianName = "1", 1, "", ""
    ds.PositionReferenceIndicator, ds.InstanceNumber, ds.ImageIndex = "", k + 1, k + 1
    ds.PatientOrientationCodeSequence, ds.PatientGantryRelationshipCodeSequence = [], []
    ds.ImageType, ds.SeriesType, ds.NumberOfSlices = ["ORIGINAL", "PRIMARY"], ["STATIC", "IMAGE"], 4
    ds.Units, ds.CountsSource, ds.DecayCorrection, ds.DecayFactor = "BQML", "EMISSION", "START", "1"
    ds.CorrectedImage, ds.CollimatorType = ["ATTN", "DECY"], "NONE"
    ds.FrameReferenceTime, ds.ActualFrameDuration = "30000", "60000"
    ds.PixelSpacing, ds.SliceThickness, ds.ImageOrientationPatient = [2, 2], 3, [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-10, -20, 30 + 3 * k]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.PixelData = slope, "0", stored.astype("<u2").tobytes()
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    ds.save_as(path, write_like_original=False)


def suv(name, injection, scan, **more):
    """SUV that pydicer writes for a series of 5000 Bq/ml; injection and scan as DICOM date-times."""
    os.makedirs(name)
    tracer = Dataset()
    tracer.RadionuclideCodeSequence, tracer.RadionuclideTotalDose = [], "370000000"
    tracer.RadiopharmaceuticalStartTime, tracer.RadiopharmaceuticalStartDateTime = injection[8:], injection
    tracer.RadionuclideHalfLife = str(HALF_LIFE)
    for kind in ("Study", "Series", "Acquisition", "Content"):
        more |= {f"{kind}Date": scan[:8], f"{kind}Time": scan[8:]}
    for k in range(4):
        write_slice(f"{name}/{k}.dcm", k, np.full((8, 8), 10000), "0.5", RadiopharmaceuticalInformationSequence=[tracer], **more)
    convert_dicom_to_nifti_pt(sorted(Path(name).glob("*.dcm")), Path(f"{name}.nii.gz"))
    return float(sitk.GetArrayFromImage(sitk.ReadImage(f"{name}.nii.gz")).max())


print("pydicer", version("pydicer"))
warnings.simplefilter("error")
at_injection = 5000 * 70000 / 370e6
hour = 2 ** (3600 / HALF_LIFE)
rows = (
    ("same day", suv("day", "20240101090000", "20240101100000"), at_injection * hour, 1),
    ("over midnight", suv("night", "20240101233000", "20240102003000"), at_injection * hour, 2 ** (-86400 / HALF_LIFE)),
    ("ADMIN", suv("admin", "20240101090000", "20240101100000", DecayCorrection="ADMIN"), at_injection, hour),
)
for name, got, right, _ in rows:
    print(f"{name + ':':15} SUV {got:.4f}, right {right:.4f}, ratio {got / right:.4f}")
if not np.allclose([got / right for _, got, right, _ in rows], [ratio for *_, ratio in rows], rtol=1e-3):
    sys.exit("pydicer behaves otherwise now")
PY
