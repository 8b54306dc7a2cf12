#!/usr/bin/env bash
# SimpleITK reads a PET series whose first slice has a whole-number Rescale Slope (an empty slice is commonly stored
# with slope 1) into 16-bit integers: the slices after it, scaled by slopes of their own to becquerels, lose their
# decimals and wrap round above 32767. 78750 Bq/ml becomes 13214, without a warning. With any fraction as the first
# slope the same files are read right, in 64-bit float. The type of the volume is that of the first file, and the others
# are cast to it.
#
# SimpleITK 2.5.7 (ITK 5.4; itk 5.4.7's imread of a list of files does the same).
#
# What is right: PS3.3 C.11.1.1.2 (output units = slope * stored value + intercept, by each image's own attributes) and
# PS3.3 C.8.9.4, where the PET Image Module has Rescale Slope in each image and lets it vary from slice to slice.
#
# Whom it hurts: all who read PET series by ImageSeriesReader; the hottest slices are the ones that wrap.
#
# Output seen:
#   SimpleITK 2.5.7
#   first slope 1: 16-bit unsigned integer
#     slice 0, slope      1: read       0.00, slope * stored value       0.00
#     slice 1, slope 0.0123: read     387.00, slope * stored value     387.45
#     slice 2, slope 0.0007: read      22.00, slope * stored value      22.05
#     slice 3, slope    2.5: read   13214.00, slope * stored value   78750.00
#   first slope 1.5: 64-bit float
#     slice 0, slope    1.5: read       0.00, slope * stored value       0.00
#     slice 1, slope 0.0123: read     387.45, slope * stored value     387.45
#     slice 2, slope 0.0007: read      22.05, slope * stored value      22.05
#     slice 3, slope    2.5: read   78750.00, slope * stored value   78750.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 SimpleITK==2.5.7
venv/bin/python - <<'PY'
import os

import sys

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage, generate_uid

STUDY, SERIES, FRAME = (generate_uid() for _ in range(3))


def write_slice(path, k, stored, slope, **more):
    """Write slice k of a PET series (PS3.3 A.21), 2 x 2 mm pixels, slices 3 mm apart along +z."""
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
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.PixelData = slope, "0", stored.astype("<u2").tobytes()
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    ds.save_as(path, enforce_file_format=True)
    return ds


import SimpleITK as sitk

print("SimpleITK", sitk.Version_VersionString())
stored = np.full((8, 8), 31500)
for first in ("1", "1.5"):
    os.makedirs(first)
    slopes = (first, "0.0123", "0.0007", "2.5")
    for k, slope in enumerate(slopes):
        write_slice(f"{first}/{k}.dcm", k, stored * (k > 0), slope)  # nothing in the first slice
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(first))
    image = reader.Execute()
    print(f"first slope {first}: {image.GetPixelIDTypeAsString()}")
    read = sitk.GetArrayFromImage(image)[:, 0, 0]
    truth = [float(slope) * 31500 * (k > 0) for k, slope in enumerate(slopes)]
    for k, value in enumerate(read):
        print(f"  slice {k}, slope {slopes[k]:>6}: read {value:10.2f}, slope * stored value {truth[k]:10.2f}")
    if np.allclose(read, truth) != (first == "1.5"):
        sys.exit("SimpleITK behaves otherwise now")
PY
