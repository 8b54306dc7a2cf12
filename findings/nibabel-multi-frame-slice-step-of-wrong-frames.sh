#!/usr/bin/env bash
# nibabel's DICOM wrapper (nibabel.nicom.dicomwrappers, on which dcmstack stands) sorts the frames of a multi-frame
# image, but takes the slice step of the affine from two frames that are not neighbours when the frames are stored in
# another order than they lie in, as interleaved acquisition leaves them (it uses a frame's rank as if it were the
# frame's index). The pixel data are in the right order and the affine is not theirs: slices 3 mm apart from z = 30 to z
# = 45 mm are placed 12 mm apart from z = -15 to z = 45. The warning that nibabel.nicom gives on import is about its
# age, not about this.
#
# nibabel 5.4.2. The file is one of highdicom's (Legacy Converted Enhanced PET Image) indexed by stack and position,
# with frames stored in other orders, each with its functional groups; highdicom 0.28.2 itself reads each of them right.
#
# What is right: PS3.3 C.7.6.16.2.3: each frame's Plane Position Sequence says where it lies; PS3.3 C.7.6.17 (Multi-
# frame Dimension Module): the index values order the frames, the order of storage does not.
#
# Whom it hurts: enhanced PET, MR and CT converted by way of nibabel.nicom: a head four times as long as it is.
#
# Output seen:
#   nibabel 5.4.2
#   by Plane Position Sequence: value at z (mm) {100: 30.0, 200: 33.0, 300: 36.0, 400: 39.0, 500: 42.0, 600: 45.0}
#   frames stored in the order (0, 1, 2, 3, 4, 5)
#     highdicom: {100: 30.0, 200: 33.0, 300: 36.0, 400: 39.0, 500: 42.0, 600: 45.0}
#     nibabel:   {100: 30.0, 200: 33.0, 300: 36.0, 400: 39.0, 500: 42.0, 600: 45.0}
#   frames stored in the order (0, 2, 4, 1, 3, 5)
#     highdicom: {100: 30.0, 200: 33.0, 300: 36.0, 400: 39.0, 500: 42.0, 600: 45.0}
#     nibabel:   {100: -15.0, 200: -3.0, 300: 9.0, 400: 21.0, 500: 33.0, 600: 45.0}
#   frames stored in the order (5, 3, 1, 4, 2, 0)
#     highdicom: {100: 30.0, 200: 33.0, 300: 36.0, 400: 39.0, 500: 42.0, 600: 45.0}
#     nibabel:   {100: -15.0, 200: -3.0, 300: 9.0, 400: 21.0, 500: 33.0, 600: 45.0}
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 highdicom==0.28.2 nibabel==5.4.2
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


warnings.simplefilter("ignore")
import highdicom  # noqa: E402
import nibabel  # noqa: E402
from highdicom.legacy import LegacyConvertedEnhancedPETImage  # noqa: E402
from nibabel.nicom.dicomwrappers import MultiframeWrapper  # noqa: E402

print("nibabel", nibabel.__version__)
slices = [write_slice("slice.dcm", k, np.full((8, 8), 100 * (k + 1)), "1") for k in range(6)]
uids = {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid()}
image = LegacyConvertedEnhancedPETImage(slices, series_number=2, instance_number=1, **uids)
stored, groups = image.pixel_array.copy(), list(image.PerFrameFunctionalGroupsSequence)
organization = image.DimensionOrganizationSequence[0].DimensionOrganizationUID
image.DimensionIndexSequence = [Dataset(), Dataset()]  # by stack and by position in the stack, as scanners index
for index, pointer in zip(image.DimensionIndexSequence, (0x00209056, 0x00209057), strict=True):
    index.DimensionOrganizationUID, index.DimensionIndexPointer = organization, pointer
    index.FunctionalGroupPointer = 0x00209111
for group in groups:
    content, z = group.FrameContentSequence[0], float(group.PlanePositionSequence[0].ImagePositionPatient[2])
    content.StackID, content.InStackPositionNumber = "1", round((z - 30) / 3) + 1
    content.DimensionIndexValues = [1, content.InStackPositionNumber]
truth = {100 * (k + 1): 30.0 + 3 * k for k in range(6)}
print("by Plane Position Sequence: value at z (mm)", truth)
right = []
for order in ((0, 1, 2, 3, 4, 5), (0, 2, 4, 1, 3, 5), (5, 3, 1, 4, 2, 0)):
    image.PerFrameFunctionalGroupsSequence = [groups[i] for i in order]
    image.PixelData = stored[list(order)].tobytes()
    image.save_as("multi.dcm")
    volume = highdicom.imread("multi.dcm").get_volume()
    other = {int(volume.array[k, 0, 0]): float((volume.affine @ (k, 0, 0, 1))[2]) for k in range(6)}
    wrapper = MultiframeWrapper(pydicom.dcmread("multi.dcm"))
    data, affine = wrapper.get_data(), wrapper.affine
    found = {int(data[0, 0, k]): float((affine @ (0, 0, k, 1))[2]) for k in range(6)}
    print(f"frames stored in the order {order}")
    print(f"  highdicom: {dict(sorted(other.items()))}")
    print(f"  nibabel:   {dict(sorted(found.items()))}")
    right.append((found == truth, other == truth))
if right != [(True, True), (False, True), (False, True)]:
    sys.exit("a reader behaves otherwise now")
PY
