#!/usr/bin/env bash
# SimpleITK scales every frame of a multi-frame PET by the Rescale Slope of the first frame, though each frame states
# its own in the Per-Frame Functional Groups. Here frames of 1600, 1800, 1600 and 200 Bq/ml are read as 1600, 1200, 800
# and 400: the profile through the patient is wrong, without a warning, while the type, the shape and the geometry look
# right.
#
# SimpleITK 2.5.7 (ITK 5.4, GDCM). The file is made by highdicom 0.28.2 from four ordinary slices, as a Legacy Converted
# Enhanced PET Image; an Enhanced PET, MR or CT Image is read alike. highdicom's own reader gives the right values.
#
# What is right: PS3.3 C.7.6.16.2.9 (Pixel Value Transformation Macro): Rescale Slope and Intercept belong to the frame
# when they stand in the Per-Frame Functional Groups Sequence.
#
# Whom it hurts: all who read enhanced PET, where slopes vary by frame as they vary by slice in the classic series.
#
# Output seen:
#   SimpleITK 2.5.7
#   slope of each frame      [4.0, 6.0, 8.0, 2.0]
#   slope * stored value     [1600.0, 1800.0, 1600.0, 200.0]
#   highdicom                [1600.0, 1800.0, 1600.0, 200.0]
#   SimpleITK                [1600, 1200, 800, 400]
#   stored * FIRST slope     [1600.0, 1200.0, 800.0, 400.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 highdicom==0.28.2 SimpleITK==2.5.7
venv/bin/python - <<'PY'
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
import SimpleITK as sitk
from highdicom.legacy import LegacyConvertedEnhancedPETImage

print("SimpleITK", sitk.Version_VersionString())
slopes = ("2", "8", "6", "4")
slices = [write_slice("slice.dcm", k, np.full((8, 8), 100 * (k + 1)), slope) for k, slope in enumerate(slopes)]
uids = {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid()}
LegacyConvertedEnhancedPETImage(slices, series_number=2, instance_number=1, **uids).save_as("multi.dcm")

image = pydicom.dcmread("multi.dcm")
frames = image.PerFrameFunctionalGroupsSequence
own = [float(frame.PixelValueTransformationSequence[0].RescaleSlope) for frame in frames]
truth = image.pixel_array[:, 0, 0] * own
volume = highdicom.imread("multi.dcm").get_volume()
read = sitk.GetArrayFromImage(sitk.ReadImage("multi.dcm"))[:, 0, 0]
print("slope of each frame     ", own)
print("slope * stored value    ", truth.tolist())
print("highdicom               ", volume.array[:, 0, 0].tolist())
print("SimpleITK               ", read.tolist())
print("stored * FIRST slope    ", (image.pixel_array[:, 0, 0] * own[0]).tolist())
if np.allclose(read, truth) or not np.allclose(read, image.pixel_array[:, 0, 0] * own[0]):
    sys.exit("SimpleITK behaves otherwise now")
PY
