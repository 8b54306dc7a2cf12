#!/usr/bin/env bash
# A NIfTI whose scl_slope is 0 is unscaled, whatever scl_inter says. SimpleITK adds the intercept all the same: a file
# with slope 0 and intercept 7 is read 7 too high, a CT with a leftover intercept of -1024 is read 1024 HU too low.
# nibabel reads the stored values. Neither says anything.
#
# SimpleITK 2.5.7 (ITK 5.4) against nibabel 5.4.2.
#
# What is right: NIfTI-1, nifti1.h, data scaling: the pair is applied only if the scl_slope field is nonzero.
#
# Whom it hurts: files whose slope was zeroed to say "no scaling" after the voxels had been rewritten, as some writers
# do, with the old intercept left in.
#
# Output seen:
#   SimpleITK 2.5.7 nibabel 5.4.2
#   slope 1, intercept -1024: right [-2024  -984 -1024  -724], nibabel [-2024.  -984. -1024.  -724.], SimpleITK [-2024.  -984. -1024.  -724.]
#   slope 0, intercept     0: right [-1000    40     0   300], nibabel [-1000.    40.     0.   300.], SimpleITK [-1000    40     0   300]
#   slope 0, intercept     7: right [-1000    40     0   300], nibabel [-1000.    40.     0.   300.], SimpleITK [-993.   47.    7.  307.]
#   slope 0, intercept -1024: right [-1000    40     0   300], nibabel [-1000.    40.     0.   300.], SimpleITK [-2024.  -984. -1024.  -724.]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 nibabel==5.4.2 SimpleITK==2.5.7
venv/bin/python - <<'PY'
import struct
import sys

import nibabel
import numpy as np
import SimpleITK as sitk

print("SimpleITK", sitk.Version_VersionString(), "nibabel", nibabel.__version__)
stored = np.array([-1000, 0, 40, 300], np.int16).reshape(2, 2, 1)
found = {}
for slope, intercept in ((1, -1024), (0, 0), (0, 7), (0, -1024)):
    file = bytearray(nibabel.Nifti1Image(stored, np.eye(4)).to_bytes())
    struct.pack_into("<ff", file, 112, slope, intercept)  # scl_slope and scl_inter
    with open("image.nii", "wb") as out:
        out.write(file)
    itk = sitk.GetArrayFromImage(sitk.ReadImage("image.nii")).ravel()
    other = nibabel.load("image.nii").get_fdata().ravel(order="F")
    right = stored.ravel(order="F") * (slope or 1) + (intercept if slope else 0)
    print(f"slope {slope}, intercept {intercept:5d}: right {right}, nibabel {other}, SimpleITK {itk}")
    found[slope, intercept] = (np.array_equal(itk, right), np.array_equal(other, right))
if found != {(1, -1024): (True, True), (0, 0): (True, True), (0, 7): (False, True), (0, -1024): (False, True)}:
    sys.exit("a reader behaves otherwise now")
PY
