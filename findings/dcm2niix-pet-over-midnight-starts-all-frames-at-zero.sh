#!/usr/bin/env bash
# dcm2niix gives every frame of a dynamic PET that runs over midnight the start time 0 in the BIDS sidecar
# (FrameTimesStart [0, 0, 0]), though each slice has its Acquisition Date and Time, and Frame Reference Time besides.
# FrameDuration is right, so the frames overlap in the record; a time-activity curve, decay correction, or kinetic model
# made from the sidecar puts the whole scan at time zero. The same scan an hour earlier is right. No warning is printed.
#
# dcm2niix 1.0.20260724.
#
# What is right: PS3.3 C.8.9.4.1.6 (the acquisition starts at Acquisition Date (0008,0022) and Acquisition Time
# (0008,0032)); BIDS, PET: FrameTimesStart is the start time of all frames relative to TimeZero.
#
# Whom it hurts: scans over midnight: rare in the clinic, ordinary for long animal studies, for phantoms that decay
# overnight, and for scanners whose clock is on UTC (midnight UTC is the working day in America and Asia).
#
# Output seen:
#   series time 230000: FrameTimesStart [0, 30, 90], right [0, 30, 90]; FrameDuration [30, 60, 120]; warnings []
#     software: v1.0.20260724
#   series time 235940: FrameTimesStart [0, 0, 0], right [0, 30, 90]; FrameDuration [30, 60, 120]; warnings []
#     software: v1.0.20260724
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 pydicom==3.0.2 dcm2niix==1.0.20260724
venv/bin/python - <<'PY'
import json
import os
import subprocess

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


found = {}
for name, first in (("evening", 23 * 3600), ("midnight", 24 * 3600 - 20)):
    os.makedirs(name)
    starts, durations = (0, 30, 90), (30, 60, 120)
    series = f"{first // 3600:02d}{first // 60 % 60:02d}{first % 60:02d}"
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    for frame, (start, duration) in enumerate(zip(starts, durations, strict=True)):
        day, second = divmod(first + start, 24 * 3600)
        more = uids | {"SeriesType": ["DYNAMIC", "IMAGE"], "NumberOfTimeSlices": 3, "SeriesTime": series}
        more |= {"AcquisitionDate": f"{20240101 + day}", "ActualFrameDuration": str(1000 * duration)}
        more["AcquisitionTime"] = f"{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}"
        more["FrameReferenceTime"] = str(1000 * (start + duration // 2))
        more["DecayFactor"] = f"{2 ** ((start + duration / 2) / 6586.2):.6f}"
        for k in range(4):
            number = 4 * frame + k + 1
            path = f"{name}/{number:02d}.dcm"
            write_slice(path, k, np.full((8, 8), 1000), "0.5", InstanceNumber=number, ImageIndex=number, **more)
    command = ["venv/bin/dcm2niix", "-b", "y", "-f", "out", "-o", name, name]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with open(f"{name}/out.json") as file:
        sidecar = json.load(file)
    found[name] = sidecar["FrameTimesStart"]
    warned = [line for line in log.splitlines() if "ime" in line and "arning" in line]
    print(f"series time {series}: FrameTimesStart {found[name]}, right {list(starts)}; FrameDuration {sidecar['FrameDuration']}; warnings {warned}")
    print("  software:", sidecar["ConversionSoftwareVersion"])
if found != {"evening": [0, 30, 90], "midnight": [0, 0, 0]}:
    sys.exit("dcm2niix behaves otherwise now")
PY
