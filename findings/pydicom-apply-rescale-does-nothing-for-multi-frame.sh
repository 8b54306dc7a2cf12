#!/usr/bin/env bash
# pydicom's apply_rescale and apply_modality_lut return the stored values of an enhanced multi-frame image unchanged:
# they look for Rescale Slope at the top of the data set, and in a multi-frame image it stands in the functional groups.
# Values of 1600 Bq/ml come back as 400; a CT 1024 HU too high. Neither an error nor a warning tells a finished modality
# transform from none at all. The same slices in the classic series are scaled.
#
# pydicom 3.0.2. highdicom 0.28.2, which looks into the functional groups, gives the right values from the same file.
#
# What is right: PS3.3 C.7.6.16.2.9, Pixel Value Transformation Macro, which takes the place of the Modality LUT Module
# (C.11.1) in multi-frame images with functional groups.
#
# Whom it hurts: all code that handles classic PET by apply_rescale(ds.pixel_array, ds), as its documentation shows, and
# meets its first enhanced file.
#
# Output seen:
#   pydicom 3.0.2
#   classic slices, apply_rescale         [100.0, 400.0, 900.0, 1600.0]
#   multi-frame, highdicom                [100.0, 400.0, 900.0, 1600.0]
#   multi-frame, apply_rescale            [100, 200, 300, 400]
#   multi-frame, apply_modality_lut       [100, 200, 300, 400]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 highdicom==0.28.2
venv/bin/python - <<'PY'
import warnings

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


import highdicom
from highdicom.legacy import LegacyConvertedEnhancedPETImage
from pydicom.pixels import apply_modality_lut, apply_rescale

print("pydicom", pydicom.__version__)
slices = [write_slice("slice.dcm", k, np.full((8, 8), 100 * (k + 1)), str(k + 1)) for k in range(4)]
classic = [float(apply_rescale(ds.pixel_array, ds)[0, 0]) for ds in slices]
uids = {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid()}
LegacyConvertedEnhancedPETImage(slices, series_number=2, instance_number=1, **uids).save_as("multi.dcm")
image = pydicom.dcmread("multi.dcm")
warnings.simplefilter("error")  # a warning would not be silence
rescaled = apply_rescale(image.pixel_array, image)[:, 0, 0].tolist()
modality = apply_modality_lut(image.pixel_array, image)[:, 0, 0].tolist()
right = sorted(highdicom.imread("multi.dcm").get_volume().array[:, 0, 0].tolist())
print("classic slices, apply_rescale        ", classic)
print("multi-frame, highdicom               ", right)
print("multi-frame, apply_rescale           ", sorted(rescaled))
print("multi-frame, apply_modality_lut      ", sorted(modality))
if classic != right or sorted(rescaled) != [100, 200, 300, 400] or rescaled != modality:
    sys.exit("pydicom behaves otherwise now")
PY
