#!/usr/bin/env bash
# MIRP multiplies a PET image that is in SUV already (Units GML, SUV Type BW) by the decay from injection to
# acquisition: with F-18 and an hour between them every SUV comes out 1.46 times too large (SUV 5 becomes 7.30); with
# C-11 and the same hour 7.7 times. The scale of every intensity feature shifts with the uptake time of the patient. No
# warning is given: GML is in MIRP's list of units.
#
# MIRP 2.5.0 (an IBSI-compliant radiomics package).
#
# What is right: PS3.3 C.8.9.1.1.3 (Units GML = g/ml) with SUV Type (0054,1006) BW: such values are SUV by body weight,
# in which dose, weight and decay have been taken into account by whoever wrote the file. Nothing is left to correct.
#
# Whom it hurts: radiomics of PET series that a workstation stored as SUV; multi-centre studies, in which some centres
# send BQML and some GML.
#
# Output seen:
#   mirp 2.5.0
#   GML, half-life 6586.2 s: SUV in the file 5.0000, MIRP 7.3032, ratio 1.4606
#   GML, half-life 1223 s: SUV in the file 5.0000, MIRP 38.4659, ratio 7.6932
#   BQML, half-life 6586.2 s: SUV in the file 1.3817, MIRP 1.3817, ratio 1.0000
#   decay over one hour: F-18 1.4606, C-11 7.6932
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
suv = {}
for units, slope, half_life in (("GML", "0.0005", "6586.2"), ("GML", "0.0005", "1223"), ("BQML", "0.5", "6586.2")):
    folder = f"{units}-{half_life}"
    os.makedirs(folder)
    tracer = Dataset()
    tracer.RadionuclideCodeSequence, tracer.RadionuclideTotalDose = [], "370000000"
    tracer.RadiopharmaceuticalStartTime, tracer.RadionuclideHalfLife = "090000", half_life
    more = {"Units": units, "RadiopharmaceuticalInformationSequence": [tracer]}
    if units == "GML":
        more["SUVType"] = "BW"
    for k in range(4):
        write_slice(f"{folder}/{k}.dcm", k, np.full((8, 8), 10000), slope, **more)
    images = mirp.extract_images(image=folder, image_export_format="native")
    suv[folder] = float(images[0][0][0].get_voxel_grid().max())
    truth = 5.0 if units == "GML" else 5000 * 70000 / (370e6 * 2 ** (-3600 / 6586.2))
    print(f"{units}, half-life {half_life} s: SUV in the file {truth:.4f}, MIRP {suv[folder]:.4f}, ratio {suv[folder] / truth:.4f}")
print(f"decay over one hour: F-18 {2 ** (3600 / 6586.2):.4f}, C-11 {2 ** (3600 / 1223):.4f}")
if not np.allclose([suv["GML-6586.2"], suv["GML-1223"]], [5 * 2 ** (3600 / 6586.2), 5 * 2 ** (3600 / 1223)], rtol=1e-4):
    sys.exit("MIRP behaves otherwise now")
PY
