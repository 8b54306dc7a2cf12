#!/usr/bin/env bash
# ants.from_numpy and ants.from_sitk turn every signed integer type into unsigned 32-bit integers: a CT in Hounsfield
# units or a residual or parametric map in int16 goes in at -1000 and comes out at 4294966296. The mean of a head CT
# becomes 10^9, thresholds and registrations see air as the brightest tissue, and there is neither an error nor a
# warning. The same array as float is right.
#
# antspyx 0.6.3 (with SimpleITK 2.5.7 for from_sitk).
#
# What is right: air is -1000 HU by the definition of the scale (PS3.3 C.11.1.1.2, Rescale Type HU); CT pixels are
# signed after rescale, and int16 is how both NIfTI and SimpleITK hand them over.
#
# Whom it hurts: all who give ANTs an array of a CT (attenuation maps of PET/CT), or differences and label maps with -1.
#
# Output seen:
#   antspyx 0.6.3
#   from_numpy of int16: [-1000     0    40] becomes [4294966296          0         40] (unsigned int), mean 1431655445.3
#   from_numpy of int32: [-1000     0    40] becomes [4294966296          0         40] (unsigned int), mean 1431655445.3
#   from_numpy of int64: [-1000     0    40] becomes [4294966296          0         40] (unsigned int), mean 1431655445.3
#   from_numpy of float32: [-1000.     0.    40.] becomes [-1000.     0.    40.] (float), mean -320.0
#   from_sitk of int16: [-1000 0 40] becomes [4294966296          0         40] (unsigned int)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 SimpleITK==2.5.7 antspyx==0.6.3
venv/bin/python - <<'PY'
import sys
from importlib.metadata import version

import ants
import numpy as np
import SimpleITK as sitk

print("antspyx", version("antspyx"))
wrong = []
for kind in (np.int16, np.int32, np.int64, np.float32):
    hu = np.array([[[-1000, 0, 40]]], kind)
    image = ants.from_numpy(hu)
    print(f"from_numpy of {hu.dtype}: {hu.ravel()} becomes {image.numpy().ravel()} ({image.pixeltype}), mean {image.mean():.1f}")
    wrong.append(not np.array_equal(image.numpy(), hu))
image = ants.from_sitk(sitk.GetImageFromArray(np.array([[[-1000, 0, 40]]], np.int16)))
print(f"from_sitk of int16: [-1000 0 40] becomes {image.numpy().ravel()} ({image.pixeltype})")
wrong.append(image.numpy().min() != -1000)
if wrong != [True, True, True, False, True]:
    sys.exit("antspyx behaves otherwise now")
PY
