#!/usr/bin/env bash
# MIRP decays the dose of a whole-body PET to the Acquisition Time of each slice, though the voxels of all bed positions
# were corrected to one time, the start of the series. Each bed's SUV comes out too large by its delay: with F-18 and
# beds of 3 minutes the same activity grows from SUV 1.382 in the first bed to 1.548 in the seventh, 12 % at the far end
# of the patient, without a warning.
#
# MIRP 2.5.0 (an IBSI-compliant radiomics package).
#
# What is right: PS3.3 C.8.9.1.1.5: if decay correction is applied, all images of the series are corrected to the same
# time, which follows from Decay Factor and Frame Reference Time. The slices here say so: their Decay Factors are those
# of a correction to the Series Time.
#
# Whom it hurts: radiomics and SUV of whole-body PET, legs against head, and follow-ups that were scanned in the other
# direction.
#
# Output seen:
#   mirp 2.5.0
#   bed 0: 5000 Bq/ml at the Series Time is SUV 1.3817, MIRP 1.3817,  0.00 %
#   bed 1: 5000 Bq/ml at the Series Time is SUV 1.3817, MIRP 1.4081,  1.91 %
#   bed 2: 5000 Bq/ml at the Series Time is SUV 1.3817, MIRP 1.4350,  3.86 %
#   bed 3: 5000 Bq/ml at the Series Time is SUV 1.3817, MIRP 1.4625,  5.85 %
#   bed 4: 5000 Bq/ml at the Series Time is SUV 1.3817, MIRP 1.4904,  7.87 %
#   bed 5: 5000 Bq/ml at the Series Time is SUV 1.3817, MIRP 1.5190,  9.93 %
#   bed 6: 5000 Bq/ml at the Series Time is SUV 1.3817, MIRP 1.5480, 12.04 %
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 mirp==2.5.0
venv/bin/python - <<'PY'
import os
import logging
import warnings
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


import mirp

print("mirp", version("mirp"))
warnings.simplefilter("error")  # neither warnings nor logged ones are hidden
logging.disable(logging.INFO)
half_life = 6586.2
os.makedirs("beds")
for bed in range(7):
    seconds = 180 * bed  # one slice for each bed, 3 minutes after one another
    more = {"SeriesType": ["WHOLE BODY", "IMAGE"], "NumberOfSlices": 7, "ActualFrameDuration": "180000"}
    more |= {"AcquisitionTime": f"10{seconds // 60:02d}00", "FrameReferenceTime": f"{(seconds + 90) * 1000}"}
    more["DecayFactor"] = f"{2 ** ((seconds + 90) / half_life):.6f}"  # to 100000, the Series Time
    write_slice(f"beds/{bed}.dcm", bed, np.full((8, 8), 10000), "0.5", **more)
images = mirp.extract_images(image="beds", image_export_format="native")
suv = images[0][0][0].get_voxel_grid()[:, 0, 0]
truth = 5000 * 70000 / (370e6 * 2 ** (-3600 / half_life))
for bed, value in enumerate(suv):
    print(f"bed {bed}: 5000 Bq/ml at the Series Time is SUV {truth:.4f}, MIRP {value:.4f}, {100 * (value / truth - 1):5.2f} %")
if not np.allclose(suv, truth * 2 ** (180 * np.arange(7) / half_life), rtol=1e-4):
    sys.exit("MIRP behaves otherwise now")
PY
