#!/usr/bin/env bash
# pydicom compresses to JPEG-LS Near-Lossless, which changes pixels by up to the error that was asked for, and leaves
# Lossy Image Compression (0028,2110) at 00, "has not been subjected to lossy compression". With slope 50 and an error
# of 3 the activity in a PET is off by up to 150 Bq/ml, and the file states that it is not. After decompression to any
# lossless syntax nothing is left that tells. No warning is given, and the method's documentation does not mention it.
#
# pydicom 3.0.2 with pyjpegls 1.5.1.
#
# What is right: PS3.3 C.7.6.1.1.5 (Lossy Image Compression): 01 for an image that has been compressed with loss at any
# point of its life, with ratio and method in (0028,2112) and (0028,2114); PS3.5 8.2.3: JPEG-LS Near-Lossless is a lossy
# process.
#
# Whom it hurts: archives and trials that rely on (0028,2110) to keep lossy images out of quantitation.
#
# Output seen:
#   pydicom 3.0.2
#   largest change 150.0 Bq/ml; voxels changed 86%
#   Lossy Image Compression of the near-lossless file: 00
#   Lossy Image Compression after decompression:       00
#   ratio and method stated: False False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 pyjpegls==1.5.1
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


from pydicom.pixels import apply_rescale
from pydicom.uid import JPEGLSNearLossless

print("pydicom", pydicom.__version__)
stored = np.random.default_rng(0).poisson(400, (64, 64))
before = write_slice("before.dcm", 0, stored, "50", LossyImageCompression="00")
after = pydicom.dcmread("before.dcm")
warnings.simplefilter("error")  # a warning would not be silence
after.compress(JPEGLSNearLossless, jls_error=3)
after.save_as("near.dcm")
near = pydicom.dcmread("near.dcm")
error = np.abs(apply_rescale(near.pixel_array, near) - apply_rescale(before.pixel_array, before))
near.decompress()
print("largest change", error.max(), "Bq/ml; voxels changed", f"{(error > 0).mean():.0%}")
print("Lossy Image Compression of the near-lossless file:", after.LossyImageCompression)
print("Lossy Image Compression after decompression:      ", near.LossyImageCompression)
print("ratio and method stated:", "LossyImageCompressionRatio" in after, "LossyImageCompressionMethod" in after)
if error.max() != 150 or after.LossyImageCompression != "00":
    sys.exit("pydicom behaves otherwise now")
PY
