#!/usr/bin/env bash
# dicompyler-core and pymedphys add the Grid Frame Offset Vector of an RT dose to the z of its Image Position, always.
# The standard has two forms of it: distances from the first plane, which begin with 0, and the patient coordinates z of
# the planes themselves, which begin with that z. Of the second form both count the position twice: a dose grid that
# begins at z = -45 mm is taken to begin at -90 mm, and each plane lies 45 mm too far down. Where the structures are still
# inside of the grid, nothing tells: of one and the same dose the target has a mean of 12 Gy instead of 55, an organ below
# it 52 Gy instead of 21. An organ that is outside of the displaced grid has 0 Gy.
#
# dicompyler-core 0.5.6 (with pydicom 2.4.4, as it needs one before 3), pymedphys 0.41.0; SimpleITK 2.5.7 beside them.
# For dicompyler-core its issue 284 guessed it, in 2022. dciodvfy reports no error on the dose and the structures.
#
# What is right: DICOM PS3.3 C.8.8.3.2, Grid Frame Offset Vector: either relative offsets, the first of them 0, or, where
# Image Orientation (Patient) is 1\0\0\0\1\0 and the first value equals the third of Image Position (Patient), patient
# coordinates. SimpleITK gives both the same planes.
#
# Whom it hurts: DVHs, dose sums and comparisons (gamma) of plans and of radionuclide dose maps exported in the second
# form. With a first plane at z = 0 both forms are the same.
#
# What to do: if the first offset is not 0, subtract it from all: ds.GridFrameOffsetVector = [z - first for z in offsets].
#
# Output seen:
#   dicompyler-core 0.5.6, pymedphys 0.41.0, SimpleITK 2.5.7
#   offsets as distances from the first plane (0, 3, ...), hottest plane at z = 0
#     SimpleITK: hottest plane at z = 0 mm
#     pymedphys: hottest plane at z = 0 mm
#     dicompyler-core: mean dose target 55.4 Gy, organ above 12.0 Gy, organ below 20.8 Gy
#   offsets as patient coordinates z (-45, -42, ...), hottest plane at z = 0
#     SimpleITK: hottest plane at z = 0 mm
#     pymedphys: hottest plane at z = -45 mm
#     dicompyler-core: mean dose target 12.0 Gy, organ above 0.0 Gy, organ below 52.1 Gy
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 scipy==1.17.1 pydicom==2.4.4 SimpleITK==2.5.7 dicompyler-core==0.5.6 pymedphys==0.41.0
venv/bin/python - <<'PY'
import logging
import sys
import warnings
from importlib.metadata import version

import numpy as np
import pydicom
import SimpleITK as sitk
from dicompylercore import dvhcalc
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTDoseStorage, RTPlanStorage, RTStructureSetStorage, generate_uid
from pymedphys.dicom import zyx_and_dose_from_dataset

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")
print(", ".join(f"{name} {version(name)}" for name in ("dicompyler-core", "pymedphys", "SimpleITK")))
STUDY, FRAME = generate_uid(), generate_uid()
FIRST, STEP, PLANES, SIZE, PIXEL = -45.0, 3.0, 41, 41, 3.0  # mm; z from -45 to +75, x and y from -60 to +60
STRUCTURES = {"target": 0.0, "organ above": 45.0, "organ below": -36.0}  # the z of the middle of a cube of 18 mm


def common(sop_class, modality):
    """Make what each object of a study has."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.is_little_endian, ds.is_implicit_VR = True, False
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = STUDY, generate_uid(), FRAME
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^One", "1", "", "O"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "20240101", "100000", "1", "", ""
    ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.PositionReferenceIndicator = modality, "Phantom", 1, ""
    ds.OperatorsName, ds.InstanceNumber = "", 1
    return ds


def write_dose(path, offsets):
    """Write a dose (PS3.3 A.18) that falls off from 60 Gy at z = 0, with these Grid Frame Offsets."""
    ds = common(RTDoseStorage, "RTDOSE")
    z, y, x = np.ogrid[:PLANES, :SIZE, :SIZE]
    squares = (FIRST + STEP * z) ** 2 + (PIXEL * (y - 20)) ** 2 + (PIXEL * (x - 20)) ** 2
    dose = 60 * np.exp(-squares / (2 * 25**2))
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-60, -60, FIRST], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.GridFrameOffsetVector = [PIXEL, PIXEL], STEP, list(offsets)
    ds.NumberOfFrames, ds.FrameIncrementPointer = PLANES, 0x3004000C
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType, ds.DoseGridScaling = "GY", "PHYSICAL", "PLAN", "0.001"
    plan = Dataset()
    plan.ReferencedSOPClassUID, plan.ReferencedSOPInstanceUID = RTPlanStorage, generate_uid()
    ds.ReferencedRTPlanSequence = [plan]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", SIZE, SIZE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = np.round(dose / 0.001).astype("<u2").tobytes()
    ds.save_as(path, write_like_original=False)


def write_structures(path):
    """Write the cubes as a structure set (PS3.3 A.19)."""
    ds = common(RTStructureSetStorage, "RTSTRUCT")
    ds.StructureSetLabel, ds.StructureSetDate, ds.StructureSetTime, ds.ApprovalStatus = "A", "20240101", "100000", "UNAPPROVED"
    frame = Dataset()
    frame.FrameOfReferenceUID = FRAME
    ds.ReferencedFrameOfReferenceSequence = [frame]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for number, (name, middle) in enumerate(STRUCTURES.items(), 1):
        roi, drawn, seen = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ReferencedFrameOfReferenceUID = number, FRAME
        roi.ROIName, roi.ROIGenerationAlgorithm = name, "MANUAL"
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for z in middle + STEP * np.arange(-3, 4):
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
            contour.ContourData = [v for x, y in ((-9, -9), (9, -9), (9, 9), (-9, 9)) for v in (x, y, float(z))]
            drawn.ContourSequence.append(contour)
        seen.ObservationNumber, seen.ReferencedROINumber, seen.RTROIInterpretedType, seen.ROIInterpreter = number, number, "", ""
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
        ds.RTROIObservationsSequence.append(seen)
    ds.save_as(path, write_like_original=False)


def hottest(z, dose):
    """Return the z of the plane with the highest dose."""
    return float(z[np.argmax(dose.reshape(len(dose), -1).max(axis=1))])


write_structures("structures.dcm")
found = {}
for form, start in (("distances from the first plane", 0.0), ("patient coordinates z", FIRST)):
    write_dose("dose.dcm", start + STEP * np.arange(PLANES))
    image = sitk.ReadImage("dose.dcm")
    itk = [image.TransformIndexToPhysicalPoint((0, 0, k))[2] for k in range(PLANES)]
    (z, _, _), dose = zyx_and_dose_from_dataset(pydicom.dcmread("dose.dcm"))
    print(f"offsets as {form} ({start:g}, {start + STEP:g}, ...), hottest plane at z = 0")
    print(f"  SimpleITK: hottest plane at z = {hottest(itk, sitk.GetArrayFromImage(image)):g} mm")
    print(f"  pymedphys: hottest plane at z = {hottest(z, dose):g} mm")
    means = [float(dvhcalc.get_dvh("structures.dcm", "dose.dcm", number + 1).mean) for number in range(len(STRUCTURES))]
    print("  dicompyler-core: mean dose " + ", ".join(f"{name} {mean:.1f} Gy" for name, mean in zip(STRUCTURES, means)))
    found[start] = (hottest(itk, sitk.GetArrayFromImage(image)), hottest(z, dose), *means)
if not (np.allclose(found[0.0], (0, 0, 55.4, 12.0, 20.8), atol=0.5) and np.allclose(found[FIRST], (0, FIRST, 12.0, 0, 52.1), atol=0.5)):
    sys.exit("dicompyler-core or pymedphys behaves otherwise now")
PY
