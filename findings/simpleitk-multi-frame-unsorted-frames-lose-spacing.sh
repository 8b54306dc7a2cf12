#!/usr/bin/env bash
# SimpleITK reads a multi-frame image whose frames are stored in another order than they lie in space (interleaved, as
# an MR scanner acquires slices, or PET frames stored as they were reconstructed) with a spacing of 1 x 1 x 1 mm and the
# frames in stored order: in-plane spacing, slice spacing and the order of the slices are all lost, without a warning. A
# pixel of 2 mm becomes one of 1 mm, so volumes are 12 times too small here, and neighbouring slices are not neighbours.
#
# SimpleITK 2.5.7 (ITK 5.4, GDCM). highdicom 0.28.2 puts the same frames in their places. The file is one of highdicom's
# (Legacy Converted Enhanced PET Image) with two frames exchanged, each with its functional groups; nothing else is
# changed.
#
# What is right: PS3.3 C.7.6.16.2.3 (Plane Position Macro), C.7.6.16.2.1 (Pixel Measures Macro: Pixel Spacing stands in
# the Shared Functional Groups and holds whatever the order of frames); PS3.3 C.7.6.16 and C.7.6.17 leave the order of
# frames free.
#
# Whom it hurts: all who take geometry of enhanced multi-frame images from ITK, SimpleITK and what is built on them.
#
# Output seen:
#   SimpleITK 2.5.7
#   frames in place: (z in mm, value) by the file [(30.0, 100), (33.0, 200), (36.0, 300), (39.0, 400)]
#     highdicom  [(30.0, 100), (33.0, 200), (36.0, 300), (39.0, 400)], spacing (3.0, 2.0, 2.0)
#     SimpleITK  [(30.0, 100), (33.0, 200), (36.0, 300), (39.0, 400)], spacing (2.0, 2.0, 3.0)
#   frames exchanged: (z in mm, value) by the file [(30.0, 100), (33.0, 200), (36.0, 300), (39.0, 400)]
#     highdicom  [(30.0, 100), (33.0, 200), (36.0, 300), (39.0, 400)], spacing (3.0, 2.0, 2.0)
#     SimpleITK  [(39.0, 400), (40.0, 200), (41.0, 300), (42.0, 100)], spacing (1.0, 1.0, 1.0)
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
slices = [write_slice("slice.dcm", k, np.full((8, 8), 100 * (k + 1)), "1") for k in range(4)]
uids = {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid()}
image = LegacyConvertedEnhancedPETImage(slices, series_number=2, instance_number=1, **uids)
stored, groups = image.pixel_array.copy(), list(image.PerFrameFunctionalGroupsSequence)
for name, order in (("in place", (0, 1, 2, 3)), ("exchanged", (0, 2, 1, 3))):
    image.PerFrameFunctionalGroupsSequence = [groups[i] for i in order]
    image.PixelData = stored[list(order)].tobytes()
    image.save_as("multi.dcm")
    file = pydicom.dcmread("multi.dcm")
    truth = sorted(
        (float(group.PlanePositionSequence[0].ImagePositionPatient[2]), int(value))
        for group, value in zip(file.PerFrameFunctionalGroupsSequence, file.pixel_array[:, 0, 0], strict=True)
    )
    read = sitk.ReadImage("multi.dcm")
    values = sitk.GetArrayFromImage(read)[:, 0, 0]
    found = [(read.TransformIndexToPhysicalPoint((0, 0, k))[2], int(value)) for k, value in enumerate(values)]
    volume = highdicom.imread("multi.dcm").get_volume()
    other = [(float((volume.affine @ (k, 0, 0, 1))[2]), int(volume.array[k, 0, 0])) for k in range(4)]
    print(f"frames {name}: (z in mm, value) by the file {truth}")
    print(f"  highdicom  {sorted(other)}, spacing {volume.spacing}")
    print(f"  SimpleITK  {sorted(found)}, spacing {read.GetSpacing()}")
    if sorted(other) != truth or (sorted(found) == truth) != (name == "in place"):
        sys.exit("a reader behaves otherwise now")
if read.GetSpacing() != (1.0, 1.0, 1.0):
    sys.exit("SimpleITK behaves otherwise now")
PY
