#!/usr/bin/env bash
# med-imagetools reads a PET as SUV unless told otherwise. Where the file has no private element of Philips with a factor of
# SUV (7053,1000), as no other vendor's has, it logs that it calculates the factor from the metadata, and multiplies by 1:
# what it returns as SUV is Bq/ml, 10857 for an SUV of 3. Asked for the activity it returns the same. Then it takes
# absolute values: the negative voxels that some reconstructions have become positive, and noise about 0 a background.
#
# med-imagetools 2.16.0 (SimpleITK 2.5.7 beside it).
#
# What is right: PS3.3 C.8.9.1, Units (0054,1001), BQML: the rescaled values are Bq/ml; SUV by body weight is their product
# with the weight in g over the dose that is left at the reference time of the decay correction (C.8.9.1.1.5; QIBA), here
# START: 70000 g / (370 MBq * 2^(-3600 s / 6586.2 s)). A negative value is negative.
#
# Whom it hurts: thresholds of 2.5 or 4 SUV, images that are cut off at some SUV for a network, and cohorts of Philips and
# other scanners, whose images then differ by a factor of some thousands.
#
# Output seen:
#   med-imagetools 2.16.0
#   right, from SimpleITK and the formula: lesion 3.00, air +0.001 SUV
#   med-imagetools, SUV: lesion 10856.50, air +288.416, least 0.00
#   med-imagetools, ACT: lesion 10856.50, air +288.416, least 0.00
#   activity of the lesion: 10856.50 Bq/ml; air in SUV as read +0.080, right +0.001
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 SimpleITK==2.5.7 med-imagetools==2.16.0
venv/bin/python - <<'PY'
import os
import sys
from importlib.metadata import version

import numpy as np
import SimpleITK as sitk
from imgtools.coretypes import PET
from imgtools.coretypes.imagetypes.pet import PETImageType
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage, generate_uid

print("med-imagetools", version("med-imagetools"))
STUDY, SERIES, FRAME = (generate_uid() for _ in range(3))


def write_slice(path, k, stored, slope):
    """Write slice k of a PET series (PS3.3 A.21), decay-corrected to its start, an hour after the injection."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = PositronEmissionTomographyImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = STUDY, SERIES, FRAME
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^One", "1", "", "O"
    ds.PatientWeight, ds.Modality, ds.Manufacturer, ds.BodyPartExamined = "70", "PT", "Phantom", "BRAIN"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "100000"
    ds.StudyID, ds.SeriesNumber, ds.AccessionNumber, ds.ReferringPhysicianName = "1", 1, "", ""
    ds.PositionReferenceIndicator, ds.InstanceNumber, ds.ImageIndex = "", k + 1, k + 1
    ds.PatientOrientationCodeSequence, ds.PatientGantryRelationshipCodeSequence = [], []
    ds.ImageType, ds.SeriesType, ds.NumberOfSlices = ["ORIGINAL", "PRIMARY"], ["STATIC", "IMAGE"], 4
    ds.Units, ds.CountsSource, ds.DecayCorrection, ds.DecayFactor = "BQML", "EMISSION", "START", "1"
    ds.CorrectedImage, ds.CollimatorType = ["ATTN", "DECY"], "NONE"
    ds.FrameReferenceTime, ds.ActualFrameDuration = "30000", "60000"
    tracer = Dataset()
    tracer.RadionuclideCodeSequence, tracer.RadionuclideTotalDose = [], "370000000"
    tracer.RadiopharmaceuticalStartTime, tracer.RadionuclideHalfLife = "090000", "6586.2"
    ds.RadiopharmaceuticalInformationSequence = [tracer]
    ds.PixelSpacing, ds.SliceThickness, ds.ImageOrientationPatient = [2, 2], 3, [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-10, -20, 30 + 3 * k]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept, ds.PixelData = f"{slope:.5f}", "0", stored.astype("<i2").tobytes()
    ds.save_as(path, enforce_file_format=True)


FACTOR = 70000 / (370e6 * 2 ** (-3600 / 6586.2))  # from Bq/ml to SUV
SLOPE = 0.5
suv = np.zeros((4, 64, 64))
suv += np.random.default_rng(0).normal(0, 0.1, suv.shape)  # air: noise about 0
suv[:, 20:40, 20:40] = 3.0
stored = np.round(suv / FACTOR / SLOPE)
suv = stored * SLOPE * FACTOR
os.makedirs("pet")
for k in range(4):
    write_slice(f"pet/{k}.dcm", k, stored[k], SLOPE)
lesion = np.zeros(suv.shape, bool)
lesion[:, 20:40, 20:40] = True
files = [f"pet/{k}.dcm" for k in range(4)]
right = sitk.GetArrayFromImage(sitk.ReadImage(files)) * FACTOR
print(f"right, from SimpleITK and the formula: lesion {right[lesion].mean():.2f}, air {right[~lesion].mean():+.3f} SUV")
told = {}
for kind in (PETImageType.SUV, PETImageType.ACT):
    image = sitk.GetArrayFromImage(PET.from_dicom("pet", pet_image_type=kind))
    told[kind.value] = (float(image[lesion].mean()), float(image[~lesion].mean()), float(image.min()))
    print(f"med-imagetools, {kind.value}: lesion {image[lesion].mean():.2f}, air {image[~lesion].mean():+.3f}, least {image.min():.2f}")
activity = float(right[lesion].mean() / FACTOR)
print(f"activity of the lesion: {activity:.2f} Bq/ml; air in SUV as read {told['SUV'][1] * FACTOR:+.3f}, right {right[~lesion].mean():+.3f}")
if not (told["SUV"] == told["ACT"] and np.isclose(told["SUV"][0], activity) and told["SUV"][2] >= 0 and right.min() < 0):
    sys.exit("med-imagetools behaves otherwise now")
PY
