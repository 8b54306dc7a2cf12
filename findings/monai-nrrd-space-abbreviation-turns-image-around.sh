#!/usr/bin/env bash
# MONAI's NrrdReader knows one way to write one space: the words "left-posterior-superior". A NRRD whose header says the
# same as "LPS", which the format allows, is taken for RAS without conversion: the image is turned by 180 degrees about
# the z axis, left and right as well as front and back exchanged. One in "left-anterior-superior" is mirrored left to
# right. No warning is given, and SimpleITK reads all six spellings right.
#
# MONAI 1.6.1 with pynrrd 1.1.3, against SimpleITK 2.5.7.
#
# What is right: the NRRD format definition, section on orientation, field "space": "left-posterior-superior" or "LPS",
# "right-anterior-superior" or "RAS", "left-anterior-superior" or "LAS" name the patient axes in which space directions
# and space origin are given.
#
# Whom it hurts: NRRD volumes and segmentations that were not written by ITK or 3D Slicer (which write the long name),
# read beside NIfTI or DICOM in one pipeline: labels on the wrong side of the head.
#
# Output seen:
#   MONAI 1.6.1 pynrrd 1.1.3
#   left-posterior-superior  voxel (1, 2, 3) lies at RAS [-12. -26.  42.]: MONAI [-12. -26.  42.], SimpleITK [-12. -26.  42.]
#   right-anterior-superior  voxel (1, 2, 3) lies at RAS [12. 26. 42.]: MONAI [12. 26. 42.], SimpleITK [12. 26. 42.]
#   left-anterior-superior   voxel (1, 2, 3) lies at RAS [-12.  26.  42.]: MONAI [12. 26. 42.], SimpleITK [-12.  26.  42.]
#   LPS                      voxel (1, 2, 3) lies at RAS [-12. -26.  42.]: MONAI [12. 26. 42.], SimpleITK [-12. -26.  42.]
#   RAS                      voxel (1, 2, 3) lies at RAS [12. 26. 42.]: MONAI [12. 26. 42.], SimpleITK [12. 26. 42.]
#   LAS                      voxel (1, 2, 3) lies at RAS [-12.  26.  42.]: MONAI [12. 26. 42.], SimpleITK [-12.  26.  42.]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet monai==1.6.1 pynrrd==1.1.3 numpy==2.3.5 SimpleITK==2.5.7
venv/bin/python - <<'PY'
import logging
import sys
import warnings
from importlib.metadata import version

import nrrd
import numpy as np
import SimpleITK as sitk

logging.disable(logging.INFO)
from monai.transforms import LoadImage  # noqa: E402

print("MONAI", version("monai"), "pynrrd", version("pynrrd"))
warnings.simplefilter("ignore")
load = LoadImage(reader="NrrdReader", image_only=True)
warnings.simplefilter("error")  # a warning on reading would not be silence
right = {}
spaces = {"left-posterior-superior": (-1, -1, 1), "right-anterior-superior": (1, 1, 1), "left-anterior-superior": (-1, 1, 1)}
spaces |= {"LPS": (-1, -1, 1), "RAS": (1, 1, 1), "LAS": (-1, 1, 1)}
for space, axes in spaces.items():
    header = {"space": space, "space directions": np.diag([2.0, 3, 4]), "space origin": [10.0, 20, 30]}
    nrrd.write("image.nrrd", np.zeros((2, 3, 4), np.float32), header | {"kinds": ["domain"] * 3})
    image = load("image.nrrd")
    monai = (image.affine.numpy() @ (1, 2, 3, 1))[:3]
    itk = np.array(sitk.ReadImage("image.nrrd").TransformIndexToPhysicalPoint((1, 2, 3))) * (-1, -1, 1)  # LPS to RAS
    truth = np.array([12.0, 26, 42]) * axes
    right[space] = (np.allclose(monai, truth), np.allclose(itk, truth))
    print(f"{space:24s} voxel (1, 2, 3) lies at RAS {truth}: MONAI {monai}, SimpleITK {itk}")
if [monai for monai, _ in right.values()] != [True, True, False, False, True, False]:
    sys.exit("MONAI behaves otherwise now")
if not all(itk for _, itk in right.values()):
    sys.exit("SimpleITK behaves otherwise now")
PY
