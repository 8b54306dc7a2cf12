#!/usr/bin/env bash
# imageio reads a DICOM image with unsigned 16-bit pixels and Rescale Slope 1 into SIGNED 16-bit integers, so that 40000
# counts become -25536; an image whose values end between 128 and 255 is read into signed 8-bit integers, so that 200
# becomes -56. A series takes the type of its first slice, so one empty slice makes int8 of the volume: 30000 becomes
# 48. Without slope and intercept, or with a fraction for slope, the same pixels are read right. Nothing is said.
#
# imageio 2.38.1, its own DICOM plugin (imread and volread, format DICOM).
#
# What is right: PS3.3 C.7.6.3.1.1 with Pixel Representation 0 (unsigned) and PS3.3 C.11.1.1.2: output = slope * stored
# value + intercept, which is the stored value here.
#
# Whom it hurts: PET and SPECT counts, CT with intercept -1024 and a first slice of air, teaching notebooks that read
# DICOM with imageio.
#
# Output seen:
#   imageio 2.38.1
#   stored 40000 (unsigned), slope 1: read -25536 (int16), right 40000
#   stored 200 (unsigned), slope 1: read -56 (int8), right 200
#   stored 40000 (unsigned), slope 0.5: read 20000.0 (float32), right 20000
#   series of 0, 10000, 20000, 30000, slope 1: read [0, 16, 32, 48] (int8)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 imageio==2.38.1
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


import contextlib
import io

import imageio
import imageio.v2 as reader

print("imageio", imageio.__version__)
wrong = []
for stored, slope in ((40000, "1"), (200, "1"), (40000, "0.5")):
    write_slice("slice.dcm", 0, np.full((8, 8), stored), slope)
    read = reader.imread("slice.dcm", "DICOM")
    print(f"stored {stored} (unsigned), slope {slope}: read {read[0, 0]} ({read.dtype}), right {stored * float(slope):.0f}")
    wrong.append(read[0, 0] != stored * float(slope))
os.makedirs("series")
for k in range(4):
    write_slice(f"series/{k}.dcm", k, np.full((8, 8), 10000 * k), "1")
with contextlib.redirect_stdout(io.StringIO()):  # its progress
    volume = reader.volread("series", "DICOM")
print(f"series of 0, 10000, 20000, 30000, slope 1: read {volume[:, 0, 0].tolist()} ({volume.dtype})")
if wrong != [True, True, False] or volume.dtype != np.int8:
    sys.exit("imageio behaves otherwise now")
PY
