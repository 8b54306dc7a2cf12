#!/usr/bin/env bash
# ants.dicom_read makes a volume of a DICOM series in the order in which the directory lists its files (os.listdir: no
# order at all), not by position nor by Instance Number, with a slice spacing of 1 mm whatever the positions say, and
# with the origin and direction of whichever file was listed first. Slices 3 mm apart give a volume a third as long;
# whether its slices are in order is up to the file system. Nothing is said.
#
# antspyx 0.6.3.
#
# What is right: PS3.3 C.7.6.2.1.1: Image Position (Patient) and Image Orientation (Patient) say where each slice lies.
#
# Whom it hurts: all who start an ANTs registration of PET to MRI from a folder of DICOM; sizes, volumes and the
# registration are wrong.
#
# Output seen:
#   antspyx 0.6.3
#   slice values by position:  [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1100, 1200] slices 3 mm apart from z = 30
#   slice values as read:      [100, 800, 400, 300, 700, 500, 900, 600, 200, 1000, 1100, 1200]
#   origin (-10.0, -20.0, 30.0) spacing (2.0, 2.0, 1.0)
#   length of the volume: 36.0 mm, as read 12.0 mm
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 antspyx==0.6.3
venv/bin/python - <<'PY'
import os
from importlib.metadata import version

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


import ants

print("antspyx", version("antspyx"))
os.makedirs("series")
order = np.random.default_rng(0).permutation(12)  # names as a PACS gives them: nothing follows from their order
for k in range(12):
    write_slice(f"series/{order[k]:02d}.dcm", k, np.full((8, 8), 100 * (k + 1)), "1", NumberOfSlices=12)
image = ants.dicom_read("series")
values = image.numpy()[0, 0].astype(int).tolist()
print("slice values by position: ", [100 * (k + 1) for k in range(12)], "slices 3 mm apart from z = 30")
print("slice values as read:     ", values)
print("origin", image.origin, "spacing", image.spacing)
print(f"length of the volume: {3.0 * 12} mm, as read {image.spacing[2] * image.shape[2]} mm")
if image.spacing[2] != 1.0 or values == sorted(values):
    sys.exit("ants.dicom_read behaves otherwise now")
PY
