#!/usr/bin/env bash
# dcm2niix ignores the sign of Spacing Between Slices in a reconstructed SPECT. When it is negative, as GE workstations
# write it, the slices lie below one another, and dcm2niix places them above one another: a volume from z = 100 down to
# 75 mm is written from 100 up to 125, upside down and outside of where it was. Its warning to check whether slices are
# flipped is the same for both signs, right or wrong. SimpleITK places it right.
#
# dcm2niix 1.0.20260724 against SimpleITK 2.5.7.
#
# What is right: PS3.3 C.8.4.15, NM Reconstruction Module: the sign of Spacing Between Slices (0018,0088) determines the
# direction of stacking; negative means in front of the first slice, against the normal.
#
# Whom it hurts: brain SPECT (DaTSCAN, HMPAO) and cardiac SPECT brought to BIDS or to an MRI: apex and base, uptake of
# striatum and cerebellum.
#
# Output seen:
#   SimpleITK 2.5.7
#   Spacing Between Slices 5: value at z (mm) {100: 100.0, 200: 105.0, 300: 110.0, 400: 115.0, 500: 120.0, 600: 125.0}
#     SimpleITK {100: 100.0, 200: 105.0, 300: 110.0, 400: 115.0, 500: 120.0, 600: 125.0}
#     dcm2niix  {100: 100.0, 200: 105.0, 300: 110.0, 400: 115.0, 500: 120.0, 600: 125.0}
#     dcm2niix says: Warning: Unable to determine slice direction: please check whether slices are flipped
#   Spacing Between Slices -5: value at z (mm) {100: 100.0, 200: 95.0, 300: 90.0, 400: 85.0, 500: 80.0, 600: 75.0}
#     SimpleITK {100: 100.0, 200: 95.0, 300: 90.0, 400: 85.0, 500: 80.0, 600: 75.0}
#     dcm2niix  {100: 100.0, 200: 105.0, 300: 110.0, 400: 115.0, 500: 120.0, 600: 125.0}
#     dcm2niix says: Warning: Unable to determine slice direction: please check whether slices are flipped
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 nibabel==5.4.2 SimpleITK==2.5.7 dcm2niix==1.0.20260724
venv/bin/python - <<'PY'
import os
import subprocess
import sys

import nibabel
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, NuclearMedicineImageStorage, generate_uid


def write(path, spacing):
    """Write a reconstructed SPECT (PS3.3 A.5) of six slices, values 100 to 600, the first at z = 100 mm."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = NuclearMedicineImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^One", "1", "", "O"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "100000"
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber, ds.AccessionNumber = "1", 1, 1, ""
    ds.ReferringPhysicianName, ds.PositionReferenceIndicator, ds.Manufacturer = "", "", "Phantom"
    ds.Modality, ds.BodyPartExamined, ds.CountsAccumulated = "NM", "BRAIN", None
    ds.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    ds.PatientOrientationCodeSequence, ds.PatientGantryRelationshipCodeSequence = [], []
    ds.EnergyWindowInformationSequence, ds.RadiopharmaceuticalInformationSequence = [], []
    ds.RotationInformationSequence, ds.NumberOfRotations = [], 1
    detector = Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = [-10, -20, 100], [1, 0, 0, 0, 1, 0]
    detector.CollimatorType = "PARA"
    ds.DetectorInformationSequence, ds.NumberOfDetectors, ds.NumberOfEnergyWindows = [detector], 1, 1
    ds.NumberOfFrames = ds.NumberOfSlices = 6
    ds.FrameIncrementPointer, ds.SliceVector = 0x00540080, [1, 2, 3, 4, 5, 6]
    ds.PixelSpacing, ds.SliceThickness, ds.SpacingBetweenSlices = [4, 4], 5, spacing
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 16, 16, 15
    ds.PixelData = np.repeat(100 * np.arange(1, 7), 64).astype("<u2").tobytes()
    ds.save_as(path, enforce_file_format=True)


print("SimpleITK", sitk.Version_VersionString())
right = []
for spacing in (5, -5):
    folder = f"spacing{spacing}"
    os.makedirs(folder)
    write(f"{folder}/spect.dcm", spacing)
    command = ["venv/bin/dcm2niix", "-f", "out", "-o", folder, folder]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    nifti = nibabel.load(f"{folder}/out.nii")
    values = nifti.get_fdata()[4, 4]
    converted = {int(value): float((nifti.affine @ (0, 0, k, 1))[2]) for k, value in enumerate(values)}
    image = sitk.ReadImage(f"{folder}/spect.dcm")
    values = sitk.GetArrayFromImage(image)[:, 4, 4]
    other = {int(value): image.TransformIndexToPhysicalPoint((0, 0, k))[2] for k, value in enumerate(values)}
    truth = {100 * (k + 1): 100.0 + spacing * k for k in range(6)}
    print(f"Spacing Between Slices {spacing}: value at z (mm) {truth}")
    print(f"  SimpleITK {other}")
    print(f"  dcm2niix  {dict(sorted(converted.items()))}")
    print("  dcm2niix says:", *[line for line in log.splitlines() if "slice direction" in line])
    right.append((converted == truth, other == truth))
if right != [(True, True), (False, True)]:
    sys.exit("a reader behaves otherwise now")
PY
