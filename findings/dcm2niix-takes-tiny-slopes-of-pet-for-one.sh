#!/usr/bin/env bash
# dcm2niix takes the Rescale Slopes of a PET series for equal when they are as small as 1e-8, and scales every slice by
# one of them: slices whose slopes are 1, 2, ... 6 times 1e-8 are written as 16-bit integers with one common slope, and
# the last slice is 6 times too small. At 1e-7 and above the same series is written right, as 32-bit float. No warning
# is given.
#
# dcm2niix 1.0.20260724. Its tracker has the symptom from real tau PET (issue 978 there); the threshold and the factor
# are measured here.
#
# What is right: PS3.3 C.8.9.4 (PET Image Module: Rescale Slope in each image, varying by image) and C.11.1.1.2.
#
# Whom it hurts: PET series in which units or an export scaled the values down: a cold slice beside a hot one, SUV
# ratios between cerebellum and cortex.
#
# Output seen:
#   slopes 1e-5 to 6e-5: float32, written / right [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], warnings []
#   slopes 1e-7 to 6e-7: float32, written / right [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], warnings []
#   slopes 1e-8 to 6e-8: uint16, written / right [1.0, 0.5, 0.333, 0.25, 0.2, 0.167], warnings []
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 nibabel==5.4.2 dcm2niix==1.0.20260724
venv/bin/python - <<'PY'
import os
import subprocess

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


import nibabel

ratios = {}
for unit in ("1e-5", "1e-7", "1e-8"):
    os.makedirs(unit)
    slopes = [f"{k + 1}{unit[1:]}" for k in range(6)]
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "NumberOfSlices": 6}
    for k, slope in enumerate(slopes):
        write_slice(f"{unit}/{k}.dcm", k, np.arange(64).reshape(8, 8) * 100, slope, **uids)
    command = ["venv/bin/dcm2niix", "-f", "out", "-o", unit, unit]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    image = nibabel.load(f"{unit}/out.nii")
    peaks = image.get_fdata().max(axis=(0, 1))
    ratios[unit] = peaks / [6300 * float(slope) for slope in slopes]
    warned = [line for line in log.splitlines() if "arning" in line and "slope" in line.lower()]
    print(f"slopes {slopes[0]} to {slopes[-1]}: {image.get_data_dtype()}, written / right {ratios[unit].round(3).tolist()}, warnings {warned}")
if not np.allclose(ratios["1e-7"], 1, rtol=1e-4) or not np.allclose(ratios["1e-8"], 1 / np.arange(1, 7), rtol=1e-3):
    sys.exit("dcm2niix behaves otherwise now")
PY
