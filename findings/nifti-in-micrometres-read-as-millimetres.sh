#!/usr/bin/env bash
# A NIfTI file may state its lengths in millimetres, metres or micrometres. SimpleITK converts to millimetres; nibabel
# hands out the numbers as they stand, in get_zooms, in the affine, and to all that is built on it. The same valid file
# of 200 micrometre voxels is a volume 1.6 mm wide to the one reader and 1600 mm wide to the other: a factor of 1000 in
# length and 10^9 in volume, without a warning. What is registered, resampled "to 1 mm" or measured on one side does not
# fit the other.
#
# nibabel 5.4.2 against SimpleITK 2.5.7, and nilearn 0.14.1 and dipy 1.12.1, which take nibabel's word. The time axis is
# alike: pixdim[4] = 2000 in ms is 2000 to nibabel and 2.0 to SimpleITK.
#
# What is right: NIfTI-1, nifti1.h, field xyzt_units: codes 1 (metre), 2 (millimetre), 3 (micrometre), 8 (s), 16 (ms)
# give the unit of pixdim, and of the coordinates that qform and sform yield.
#
# Whom it hurts: small-animal PET and MR, microscopy and autoradiography, and whoever brings them together with a
# clinical scan.
#
# Output seen:
#   nibabel 5.4.2 SimpleITK 2.5.7
#   the file says ('micron', 'msec')
#   nibabel   zooms   [200.0, 200.0, 200.0, 2000.0] affine [200.0, 200.0, 200.0]
#   nilearn   affine  [200.0, 200.0, 200.0]
#   dipy      voxels  [200.0, 200.0, 200.0]
#   SimpleITK spacing [0.2, 0.2, 0.2, 2.0]
#   factor in length  1000 in time 1000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 nibabel==5.4.2 SimpleITK==2.5.7 nilearn==0.14.1 dipy==1.12.1
venv/bin/python - <<'PY'
import sys
import warnings

import nibabel
import numpy as np
import SimpleITK as sitk
from dipy.io.image import load_nifti
from nilearn.image import load_img

warnings.simplefilter("ignore")
print("nibabel", nibabel.__version__, "SimpleITK", sitk.Version_VersionString())
micro = nibabel.Nifti1Image(np.ones((8, 8, 8, 2), np.float32), np.diag([200.0, 200, 200, 1]))
micro.header.set_zooms((200, 200, 200, 2000))
micro.header.set_xyzt_units("micron", "msec")
nibabel.save(micro, "micro.nii")

image = nibabel.load("micro.nii")
print("the file says", image.header.get_xyzt_units())
zooms = [float(zoom) for zoom in image.header.get_zooms()]
spacing = sitk.ReadImage("micro.nii").GetSpacing()
print("nibabel   zooms  ", zooms, "affine", np.diag(image.affine)[:3].tolist())
print("nilearn   affine ", np.diag(load_img("micro.nii").affine)[:3].tolist())
print("dipy      voxels ", [float(zoom) for zoom in load_nifti("micro.nii", return_voxsize=True)[2][:3]])
print("SimpleITK spacing", [round(length, 9) for length in spacing])
print("factor in length ", round(zooms[0] / spacing[0]), "in time", round(zooms[3] / spacing[3]))
if round(zooms[0] / spacing[0]) != 1000 or round(zooms[3] / spacing[3]) != 1000:
    sys.exit("a reader behaves otherwise now")
PY
