#!/usr/bin/env bash
# medpy's resample writes the asked-for spacing into the header, but scipy.ndimage.zoom, to which it hands the work,
# stretches the grid from the centre of the first to the centre of the last voxel into the rounded number of samples.
# The true step of the new samples is another: 7 slices of 6 mm resampled "to 1.5 mm" are 28 slices 1.333 mm apart
# labelled 1.5 mm. An object 18 mm long measures 20.25 mm, 12 % more; the last slice, which lies at 36 mm, is placed at
# 40.5 mm. The error is different for each axis and each size, so it does not cancel.
#
# medpy 0.5.2.
#
# What is right: sampling itself: the sample with index i of a grid with step s that starts at the same place lies at i
# * s. A linear ramp of positions, which linear interpolation reproduces exactly, says what the step is.
#
# Whom it hurts: volumes, distances and registrations after medpy.filter.resample; thick slices most.
#
# Output seen:
#   medpy 0.5.2
#   z: 7 samples of 6.0 mm become 28 samples, stated step 1.5 mm, true step 1.3333 mm
#   last sample: holds the position 36.00 mm, is placed at 40.50 mm
#   an object 18 mm long measures 20.25 mm
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 nibabel==5.4.2 SimpleITK==2.5.7 medpy==0.5.2
venv/bin/python - <<'PY'
import sys
from importlib.metadata import version

import nibabel
import numpy as np
from medpy.filter import image as filters
from medpy.io import load

print("medpy", version("medpy"))
spacing, shape = (2.0, 2.0, 6.0), (41, 41, 7)
z = np.broadcast_to(6.0 * np.arange(7), shape)  # each voxel holds its own position along z, in mm
nibabel.save(nibabel.Nifti1Image(z.astype(np.float32), np.diag([*spacing, 1.0])), "ramp.nii")
ramp, header = load("ramp.nii")
resampled, header = filters.resample(ramp, header, (1.5, 1.5, 1.5), bspline_order=1)
stated = header.get_voxel_spacing()[2]
true = np.diff(resampled[0, 0]).mean()
print(f"z: {shape[2]} samples of {spacing[2]} mm become {resampled.shape[2]} samples, stated step {stated} mm, true step {true:.4f} mm")
print(f"last sample: holds the position {resampled[0, 0, -1]:.2f} mm, is placed at {stated * (resampled.shape[2] - 1):.2f} mm")
print(f"an object 18 mm long measures {18 * stated / true:.2f} mm")
if abs(stated / true - 1.125) > 1e-3:
    sys.exit("medpy behaves otherwise now")
PY
