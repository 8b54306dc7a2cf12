#!/usr/bin/env bash
# pyCERR takes the first value of Pixel Spacing for the distance of columns and the second for that of rows. They are the
# other way round. With square pixels nothing is seen of it. With pixels of 2 x 3 mm, as coronal and sagittal slices have
# that a workstation made of thick axial ones, all lengths in the plane are exchanged: the contour of a lesion becomes a
# mask 21 mm from the lesion, 27 x 10 mm instead of 18 x 14, its mean in the image is that of what lies beside it, and
# the NIfTI file that it saves is stretched along one axis and squeezed along the other. There is no error and no warning.
#
# pyCERR 2.5.1 (a toolkit for radiomics, dose and outcome models; SimpleITK 2.5.7 beside it).
#
# What is right: PS3.3 10.7.1.3: the first value of Pixel Spacing (0028,0030) is the spacing between the centres of adjacent
# rows, the second that between the centres of adjacent columns.
#
# Whom it hurts: features, doses and SUV of contoured lesions in reformatted PET and CT, in MRI whose pixels are not square,
# and in preclinical PET.
#
# What to do: resample to square pixels before, with a tool that reads them right.
#
# Output seen:
#   pyCERR 2.5.1, SimpleITK 2.5.7
#   rows 2 mm apart, columns 2 mm:
#     distance of columns, of rows: NIfTI 2, 2 mm; SimpleITK 2, 2 mm
#     lesion of 18 x 14 mm: mask of 18 x 14 mm, 0 mm off, mean 100 HU instead of 100
#   rows 2 mm apart, columns 3 mm:
#     distance of columns, of rows: NIfTI 2, 3 mm; SimpleITK 3, 2 mm
#     lesion of 18 x 14 mm: mask of 27 x 10 mm, 21 mm off, mean 0 HU instead of 100
#   rows 3 mm apart, columns 2 mm:
#     distance of columns, of rows: NIfTI 3, 2 mm; SimpleITK 2, 3 mm
#     lesion of 18 x 14 mm: mask of 12 x 21 mm, 21 mm off, mean 0 HU instead of 100
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pydicom==3.0.2 nibabel==5.4.2 SimpleITK==2.5.7 pycerr==2.5.1
venv/bin/python - <<'PY'
import contextlib
import io
import os
import sys
import warnings
from importlib.metadata import version

import nibabel
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

warnings.simplefilter("ignore")
with contextlib.redirect_stdout(io.StringIO()):
    import cerr.plan_container as container
    from cerr.contour import rasterseg

print(f"pyCERR {version('pycerr')}, SimpleITK {sitk.Version_VersionString()}")
SLICES, ROWS, COLUMNS, FIRST, STEP = 9, 31, 31, (-45.0, -45.0, 0.0), 4.0
X, Y = (-20.0, -2.0), (-16.0, -2.0)  # mm; the lesion, from slice 2 to 6


def common(sop_class, modality, study, series, frame, number):
    """Make what each object of the study has."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^One", "1", "", "O"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "100000"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName, ds.PositionReferenceIndicator = "1", "", "", ""
    ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber = modality, "Phantom", 1, number
    ds.OperatorsName = ""
    return ds


def write(folder, spacing):
    """Write a CT of 0 HU with a lesion of 100 HU (PS3.3 A.3), and its contour (PS3.3 A.19)."""
    os.makedirs(folder)
    study, series, frame = (generate_uid() for _ in range(3))
    y = (FIRST[1] + spacing[0] * np.arange(ROWS))[:, None]
    x = (FIRST[0] + spacing[1] * np.arange(COLUMNS))[None]
    inside = (x > X[0]) & (x < X[1]) & (y > Y[0]) & (y < Y[1])
    images = []
    for k in range(SLICES):
        ds = common(CTImageStorage, "CT", study, series, frame, k + 1)
        ds.ImageType, ds.KVP, ds.AcquisitionNumber, ds.PatientPosition = ["DERIVED", "SECONDARY", "REFORMATTED"], None, 1, "HFS"
        ds.PixelSpacing, ds.SliceThickness, ds.ImageOrientationPatient = list(spacing), STEP, [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [FIRST[0], FIRST[1], FIRST[2] + STEP * k]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", ROWS, COLUMNS
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1", "-1024", "HU"
        ds.PixelData = (1024 + 100 * (inside & (2 <= k <= 6))).astype("<u2").tobytes()
        ds.save_as(f"{folder}/ct{k}.dcm", enforce_file_format=True)
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        images.append(image)
    ds = common(RTStructureSetStorage, "RTSTRUCT", study, generate_uid(), frame, 1)
    ds.StructureSetLabel, ds.StructureSetDate, ds.StructureSetTime, ds.ApprovalStatus = "A", "20240101", "100000", "UNAPPROVED"
    of_series, of_study, of_frame, roi, drawn, seen = (Dataset() for _ in range(6))
    of_series.SeriesInstanceUID, of_series.ContourImageSequence = series, images
    of_study.ReferencedSOPClassUID, of_study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", study
    of_study.RTReferencedSeriesSequence = [of_series]
    of_frame.FrameOfReferenceUID, of_frame.RTReferencedStudySequence = frame, [of_study]
    roi.ROINumber, roi.ReferencedFrameOfReferenceUID = 1, frame
    roi.ROIName, roi.ROIGenerationAlgorithm = "lesion", "MANUAL"
    drawn.ReferencedROINumber, drawn.ContourSequence = 1, []
    for k in range(2, 7):
        contour = Dataset()
        contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
        contour.ContourImageSequence = [images[k]]
        corners = ((X[0], Y[0]), (X[1], Y[0]), (X[1], Y[1]), (X[0], Y[1]))
        contour.ContourData = [v for a, b in corners for v in (a, b, FIRST[2] + STEP * k)]
        drawn.ContourSequence.append(contour)
    seen.ObservationNumber, seen.ReferencedROINumber, seen.RTROIInterpretedType, seen.ROIInterpreter = 1, 1, "GTV", ""
    ds.ReferencedFrameOfReferenceSequence, ds.StructureSetROISequence = [of_frame], [roi]
    ds.ROIContourSequence, ds.RTROIObservationsSequence = [drawn], [seen]
    ds.save_as(f"{folder}/contours.dcm", enforce_file_format=True)


found = []
for spacing in ((2.0, 2.0), (2.0, 3.0), (3.0, 2.0)):
    folder = f"{spacing[0]}x{spacing[1]}"
    write(folder, spacing)
    image = sitk.ReadImage([f"{folder}/ct{k}.dcm" for k in range(SLICES)])
    with contextlib.redirect_stdout(io.StringIO()):
        study = container.loadDcmDir(folder)
        study.scan[0].saveNii(f"{folder}.nii.gz")
        mask = rasterseg.getStrMask(0, study)
    saved = np.abs(np.diag(nibabel.load(f"{folder}.nii.gz").affine))[:2]
    rows, columns, _ = np.nonzero(mask)
    middle = FIRST[0] + spacing[1] * columns.mean(), FIRST[1] + spacing[0] * rows.mean()
    size = spacing[1] * (np.ptp(columns) + 1), spacing[0] * (np.ptp(rows) + 1)
    mean = float(study.scan[0].getScanArray()[mask.astype(bool)].mean())
    off = float(np.hypot(middle[0] - np.mean(X), middle[1] - np.mean(Y)))
    print(f"rows {spacing[0]:.0f} mm apart, columns {spacing[1]:.0f} mm:")
    print(f"  distance of columns, of rows: NIfTI {saved[0]:.0f}, {saved[1]:.0f} mm; SimpleITK", end=" ")
    print(f"{image.GetSpacing()[0]:.0f}, {image.GetSpacing()[1]:.0f} mm")
    print(f"  lesion of 18 x 14 mm: mask of {size[0]:.0f} x {size[1]:.0f} mm, {off:.0f} mm off, mean {mean:.0f} HU instead of 100")
    found.append((bool(np.allclose(saved, image.GetSpacing()[:2])), off < 1, mean > 60))
if found != [(True, True, True), (False, False, False), (False, False, False)]:
    sys.exit("pyCERR behaves otherwise now")
PY
