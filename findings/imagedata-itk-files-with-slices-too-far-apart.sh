#!/usr/bin/env bash
# imagedata writes the distance of slices twice into ITK files (.mha, .mhd): once as spacing, and once more as the length
# of the third direction cosine, which should be 1. Who places voxels by the file, as ITK, SimpleITK and all that is
# built on them do, multiplies both: slices of 3 mm lie 9 mm apart, those of 5 mm lie 25 mm apart, those of 0.5 mm lie
# 0.25 mm apart. The voxels themselves are right, and so is the NIfTI that imagedata writes of the same series, so that
# the two do not agree. imagedata reads its own file back as 3 mm, which hides it; 1 mm hides it as well.
#
# imagedata 3.10.0 (read with SimpleITK 2.5.7).
#
# What is right: the DICOM it was read from: Image Position (Patient) is the place of the first voxel of each slice
# (PS3.3 C.7.6.2.1.1). MetaImage: TransformMatrix holds direction cosines, unit vectors; the place of voxel i is
# Offset + TransformMatrix * (ElementSpacing * i).
#
# Whom it hurts: who converts a series with imagedata (image_data, or Series.write) for elastix, ANTs, 3D Slicer or
# SimpleITK: volumes by the affine, resampling, registration to another image, contours and landmarks; along the slices
# all is 3 or 5 times too long.
#
# What to do: write NIfTI (formats=["nifti"]). A file that is there already becomes right where SimpleITK writes it as
# NIfTI, which "coerces" the direction, with a warning.
#
# Output seen:
#   imagedata 3.10.0
#   slices 0.5 mm apart: .mha has spacing 0.5, direction (0, 0, 0.5), places slice 5 at 31.25 mm; NIfTI 32.50, DICOM 32.50
#   slices 1.0 mm apart: .mha has spacing 1.0, direction (0, 0, 1), places slice 5 at 35.00 mm; NIfTI 35.00, DICOM 35.00
#   slices 3.0 mm apart: .mha has spacing 3.0, direction (0, 0, 3), places slice 5 at 75.00 mm; NIfTI 45.00, DICOM 45.00
#   slices 5.0 mm apart: .mha has spacing 5.0, direction (0, 0, 5), places slice 5 at 155.00 mm; NIfTI 55.00, DICOM 55.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 SimpleITK==2.5.7 imagedata==3.10.0
venv/bin/python - <<'PY'
import os
import sys
from importlib.metadata import version

import numpy as np
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
from imagedata.series import Series

print("imagedata", version("imagedata"))
places = {}
for apart in (0.5, 1.0, 3.0, 5.0):
    folder = f"series{apart}"
    os.makedirs(folder)
    for k in range(6):
        position = [-10, -20, 30 + apart * k]
        stored = np.full((10, 12), 100 * k)
        write_slice(f"{folder}/{k}.dcm", k, stored, "1", ImagePositionPatient=position, SliceThickness=apart, NumberOfSlices=6)
    series = Series(folder)
    series.write(f"{folder}.mha", formats=["itk"])
    series.write(f"{folder}.nii.gz", formats=["nifti"])
    mha, nifti = sitk.ReadImage(f"{folder}.mha"), sitk.ReadImage(f"{folder}.nii.gz")
    voxels = sitk.GetArrayFromImage(mha)[:, 0, 0]
    places[apart] = [image.TransformIndexToPhysicalPoint((0, 0, 5))[2] for image in (mha, nifti)]
    places[apart].append(30 + 5 * apart)
    print(
        f"slices {apart} mm apart: .mha has spacing {mha.GetSpacing()[2]}, direction (0, 0, {mha.GetDirection()[8]:g}), "
        "places slice 5 at {:.2f} mm; NIfTI {:.2f}, DICOM {:.2f}".format(*places[apart])
    )
    if not np.array_equal(voxels, 100 * np.arange(6)):
        sys.exit("imagedata behaves otherwise now")
for apart, (mha, nifti, dicom) in places.items():
    if abs(mha - (30 + 5 * apart**2)) > 1e-3 or abs(nifti - dicom) > 1e-3:
        sys.exit("imagedata behaves otherwise now")
PY
