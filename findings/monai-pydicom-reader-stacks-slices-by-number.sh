#!/usr/bin/env bash
# MONAI's PydicomReader stacks the files of a folder by Instance Number and takes the step between slices from the first
# and the last of them. Numbers that follow the acquisition (interleaved slices) give a volume whose slices lie where
# others should be; a dynamic PET of two frames, 1 to 4 and 5 to 8, gives one volume of eight slices half as far apart as
# they are, in which the head appears twice, each half as long. No warning, no error, and the affine looks sound.
#
# MONAI 1.6.1, pydicom 3.0.2. SimpleITK 2.5.7 reads the interleaved files in their places.
#
# What is right: PS3.3 C.7.6.1.1.1 (Instance Number identifies an image, and says nothing of its place); C.7.6.2.1.1
# (Image Position and Orientation (Patient) do); C.8.9.4 (a dynamic PET series numbers its images slice by slice, frame
# by frame, with the same positions in each frame).
#
# Whom it hurts: all who load DICOM by LoadImage(reader="PydicomReader"): dynamic PET, diffusion series with several
# b-values, interleaved MRI.
#
# Output seen:
#   MONAI 1.6.1
#   numbers along z        by the files [(30, 100), (33, 200), (36, 300), (39, 400)]
#     SimpleITK            [(30, 100), (33, 200), (36, 300), (39, 400)]
#     PydicomReader        [(30, 100), (33, 200), (36, 300), (39, 400)]
#   numbers interleaved    by the files [(30, 100), (33, 200), (36, 300), (39, 400)]
#     SimpleITK            [(30, 100), (33, 200), (36, 300), (39, 400)]
#     PydicomReader        [(30, 100), (33, 300), (36, 200), (39, 400)]
#   two frames             by the files [(30, 100), (30, 500), (33, 200), (33, 600), (36, 300), (36, 700), (39, 400), (39, 800)]
#     PydicomReader        0 warnings, shape (8, 8, 8), spacing 1.286 mm for 3
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet monai==1.6.1 numpy==2.3.5 pydicom==3.0.2 SimpleITK==2.5.7
venv/bin/python - <<'PY'
import sys
import warnings
from pathlib import Path

import monai
import numpy as np
import SimpleITK as sitk
from monai.transforms import LoadImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage, generate_uid

STUDY, SERIES, FRAME = (generate_uid() for _ in range(3))


def write_slice(path, number, z, value, frames):
    """Write an image of a PET series (PS3.3 A.21), 2 x 2 mm pixels, slices 3 mm apart."""
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
    ds.PositionReferenceIndicator, ds.InstanceNumber, ds.ImageIndex = "", number, number
    ds.PatientOrientationCodeSequence, ds.PatientGantryRelationshipCodeSequence = [], []
    ds.ImageType, ds.NumberOfSlices = ["ORIGINAL", "PRIMARY"], 4
    ds.SeriesType = ["DYNAMIC" if frames > 1 else "STATIC", "IMAGE"]
    if frames > 1:
        ds.NumberOfTimeSlices = frames
    ds.Units, ds.CountsSource, ds.DecayCorrection, ds.DecayFactor = "BQML", "EMISSION", "START", "1"
    ds.CorrectedImage, ds.CollimatorType = ["ATTN", "DECY"], "NONE"
    ds.FrameReferenceTime, ds.ActualFrameDuration = str(30000 + 60000 * ((number - 1) // 4)), "60000"
    tracer = Dataset()
    tracer.RadionuclideCodeSequence, tracer.RadionuclideTotalDose = [], "370000000"
    tracer.RadiopharmaceuticalStartTime, tracer.RadionuclideHalfLife = "090000", "6586.2"
    ds.RadiopharmaceuticalInformationSequence = [tracer]
    ds.PixelSpacing, ds.SliceThickness, ds.ImageOrientationPatient = [2, 2], 3, [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-10, -20, z]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", 8, 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
    ds.PixelData = np.full((8, 8), value, "<u2").tobytes()
    ds.save_as(path, enforce_file_format=True)


print("MONAI", monai.__version__)
load = LoadImage(reader="PydicomReader", image_only=True)
scans = {  # Instance Number, z in mm, value
    "numbers along z": [(1, 30, 100), (2, 33, 200), (3, 36, 300), (4, 39, 400)],
    "numbers interleaved": [(1, 30, 100), (3, 33, 200), (2, 36, 300), (4, 39, 400)],
    "two frames": [(k + 1, 30 + 3 * (k % 4), 100 * (k + 1)) for k in range(8)],
}
for name, images in scans.items():
    folder = Path(name)
    folder.mkdir()
    for number, z, value in images:
        write_slice(folder / f"{number}.dcm", number, z, value, len(images) // 4)
    truth = sorted((z, value) for _, z, value in images)
    print(f"{name:<22} by the files {truth}")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        volume = load(str(folder))
    if len(images) > 4:
        spacing = float(np.linalg.norm(volume.affine[:3, 2]))
        ours = [w for w in warned if issubclass(w.category, UserWarning)]
        print(f"  PydicomReader        {len(ours)} warnings, shape {tuple(volume.shape)}, spacing {spacing:.3f} mm for 3")
        if tuple(volume.shape) != (8, 8, 8) or round(spacing, 3) != 1.286:
            sys.exit("PydicomReader behaves otherwise now")
        continue
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    other = sitk.ReadImage(files)
    values = sitk.GetArrayFromImage(other)[:, 0, 0]
    theirs = sorted((round(other.TransformIndexToPhysicalPoint((0, 0, k))[2]), int(v)) for k, v in enumerate(values))
    found = sorted(
        (round(float((volume.affine @ np.array([0, 0, k, 1.0]))[2])), int(volume[0, 0, k])) for k in range(4)
    )
    print(f"  SimpleITK            {theirs}")
    print(f"  PydicomReader        {found}")
    if theirs != truth or (found == truth) != (name == "numbers along z"):
        sys.exit("a reader behaves otherwise now")
PY
