#!/usr/bin/env bash
# platipy turns the contours of an RTSTRUCT into a mask that counts every voxel they touch, not those whose middle lies
# inside: half a voxel too far on each side. A square of 10 x 10 voxels becomes 11 x 11 (21 % more), one of 4 x 4
# becomes 5 x 5 (56 % more), one of 2 x 2 becomes 3 x 3 (125 % more). Volume and TLG of small lesions are too large, and
# their mean takes in what lies around them. dcmrtstruct2nii makes the masks that were drawn, of the same files.
#
# platipy 0.7.2, dcmrtstruct2nii 5, SimpleITK 2.5.7, pydicom 2.4.5.
#
# What is right: contours are in mm (PS3.3 C.8.8.6), and a region has the area that its contour encloses. Of squares
# whose sides run midway between voxels, every rule for what lies on the line gives the same mask.
#
# Whom it hurts: all who measure PET within contours drawn elsewhere, or train on masks made of them; two centres with
# two converters.
#
# Output seen:
#   platipy 0.7.2, dcmrtstruct2nii 5
#   ten  drawn 100 voxels   dcmrtstruct2nii 100   platipy 121
#   four drawn  16 voxels   dcmrtstruct2nii  16   platipy  25
#   two  drawn   4 voxels   dcmrtstruct2nii   4   platipy   9
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet platipy==0.7.2 dcmrtstruct2nii==5 SimpleITK==2.5.7 pydicom==2.4.5 numpy==2.4.6
venv/bin/python - <<'PY'
import contextlib
import io
import logging
import os
import sys
from importlib.metadata import version

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    generate_uid,
)

logging.disable(logging.CRITICAL)
STUDY, SERIES, FRAME = (generate_uid() for _ in range(3))
SLICES, STEP = 6, 3.0


def common(sop_class, modality, series, number):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.is_little_endian, ds.is_implicit_VR = True, False
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = STUDY, series, FRAME
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^One", "1", "", "O"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "20240101", "100000", "1", "", ""
    ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.PositionReferenceIndicator = modality, "Phantom", number, ""
    return ds


def write_slice(path, k):
    """Write slice k of a PET series (PS3.3 A.21), pixels of 2 x 4 mm."""
    ds = common(PositronEmissionTomographyImageStorage, "PT", SERIES, 1)
    ds.PatientWeight, ds.BodyPartExamined = "70", "BRAIN"
    ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240101"
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "100000"
    ds.InstanceNumber, ds.ImageIndex, ds.NumberOfSlices = k + 1, k + 1, SLICES
    ds.PatientOrientationCodeSequence, ds.PatientGantryRelationshipCodeSequence = [], []
    ds.ImageType, ds.SeriesType = ["ORIGINAL", "PRIMARY"], ["STATIC", "IMAGE"]
    ds.Units, ds.CountsSource, ds.DecayCorrection, ds.DecayFactor = "BQML", "EMISSION", "START", "1"
    ds.CorrectedImage, ds.CollimatorType = ["ATTN", "DECY"], "NONE"
    ds.FrameReferenceTime, ds.ActualFrameDuration = "30000", "60000"
    tracer = Dataset()
    tracer.RadionuclideCodeSequence, tracer.RadionuclideTotalDose = [], "370000000"
    tracer.RadiopharmaceuticalStartTime, tracer.RadionuclideHalfLife = "090000", "6586.2"
    ds.RadiopharmaceuticalInformationSequence = [tracer]
    ds.PixelSpacing, ds.SliceThickness, ds.ImageOrientationPatient = [4, 2], STEP, [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-10, -20, 30 + STEP * k]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", 32, 40
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.PixelData = "1", "0", bytes(2 * 32 * 40)
    ds.save_as(path, write_like_original=False)
    return ds.SOPInstanceUID


def image(uid):
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = PositronEmissionTomographyImageStorage, uid
    return ds


def write_structures(path, uids, squares):
    """Write squares (first column, first row, width, slice) as a structure set (PS3.3 A.19)."""
    ds = common(RTStructureSetStorage, "RTSTRUCT", generate_uid(), 2)
    ds.StructureSetLabel, ds.StructureSetDate, ds.StructureSetTime = "A", "20240101", "100000"
    ds.ApprovalStatus, ds.InstanceNumber = "UNAPPROVED", 1
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = SERIES, [image(uid) for uid in uids]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", STUDY
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = FRAME, [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for number, (name, (i, j, width, k)) in enumerate(squares.items(), 1):
        roi, drawn, seen, contour = Dataset(), Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ReferencedFrameOfReferenceUID = number, FRAME
        roi.ROIName, roi.ROIGenerationAlgorithm = name, "MANUAL"
        low, high = (i - 0.5, j - 0.5), (i + width - 0.5, j + width - 0.5)
        corners = [low, (high[0], low[1]), high, (low[0], high[1])]
        contour.ContourImageSequence = [image(uids[k])]
        contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
        contour.ContourData = [v for x, y in corners for v in (-10 + 2 * x, -20 + 4 * y, 30 + STEP * k)]
        drawn.ROIDisplayColor, drawn.ContourSequence, drawn.ReferencedROINumber = [255, 0, 0], [contour], number
        seen.ObservationNumber = seen.ReferencedROINumber = number
        seen.RTROIInterpretedType, seen.ROIInterpreter = "ORGAN", ""
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
        ds.RTROIObservationsSequence.append(seen)
    ds.save_as(path, write_like_original=False)


os.makedirs("series"), os.makedirs("platipy")
uids = [write_slice(f"series/{k}.dcm", k) for k in range(SLICES)]
squares = {"ten": (8, 9, 10, 2), "four": (20, 9, 4, 3), "two": (8, 9, 2, 4)}
write_structures("structures.dcm", uids, squares)
with contextlib.redirect_stdout(io.StringIO()):
    from dcmrtstruct2nii import dcmrtstruct2nii
    from platipy.dicom.io.rtstruct_to_nifti import convert_rtstruct

    dcmrtstruct2nii("structures.dcm", "series", "others")
    convert_rtstruct("series", "structures.dcm", prefix="", output_dir="platipy", output_img="image.nii.gz")
print(f"platipy {version('platipy')}, dcmrtstruct2nii {version('dcmrtstruct2nii')}")
found = {}
for name, (_, _, width, _) in squares.items():
    masks = [sitk.GetArrayFromImage(sitk.ReadImage(f)) > 0 for f in (f"others/mask_{name}.nii.gz", f"platipy/{name}.nii.gz")]
    found[name] = [int(m.sum()) for m in masks]
    print(f"{name:4} drawn {width * width:3d} voxels   dcmrtstruct2nii {found[name][0]:3d}   platipy {found[name][1]:3d}")
if found != {"ten": [100, 121], "four": [16, 25], "two": [4, 9]}:
    sys.exit("they behave otherwise now")
PY
