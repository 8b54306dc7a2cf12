#!/usr/bin/env bash
# MONAI's RandSimulateLowResolution, which is to blur an image as a coarser scan would, moves it as well: by 0.5 to 1.0
# voxels along each axis, 0.7 on average, always towards higher indices and never back, up to 1.7 voxels along the
# diagonal. The label map of the same sample stays, and so does the affine. The cause is Resize(mode="nearest"), its
# first step, and the usual mode for labels: it takes the first of the voxels that a new voxel covers, but states in the
# affine that it took the middle one. A label map resized 64 -> 16 that way lies 1.5 mm beside its image, which
# was resized with "area" or "trilinear" (1 mm voxels).
#
# MONAI 1.6.1 (torch 2.13.0).
#
# What is right: to sample at the centres of the new voxels. The centroid of a blurred image is the one it had (the mean
# of a convolution with a symmetric kernel), and the centroid in the world of a resized one too, for which the affine is
# there (NIfTI-1, method 2 and 3: i, j, k is the centre of a voxel). Nearest with a fixed side cannot be exact for even
# ratios; half a voxel of the input is what it need not exceed.
#
# Whom it hurts: segmentation and synthesis trained with this augmentation: where it is applied the network learns that
# the border lies off by most of a voxel, and, in pairs of PET and MRI or CT, that one modality does. Labels that
# are resized to a coarser grid by Resized(mode="nearest"): overlap and surface distances.
#
# What to do: RandSimulateLowResolution(downsample_mode="area"), or "trilinear"; Resize(mode="nearest-exact") for labels,
# or Spacing(mode="nearest"), which resamples by affines.
#
# Output seen:
#   MONAI 1.6.1
#   RandSimulateLowResolution, default: moved by 0.70 voxels on average along each axis, from 0.50 to 0.98
#   RandSimulateLowResolution, downsample_mode="area": moved by 0.00 voxels on average along each axis, from -0.02 to 0.01
#   Resize of 64 to 16 voxels of 4 mm, mode trilinear    : ball at 31.20 mm, was at 31.20 mm
#   Resize of 64 to 16 voxels of 4 mm, mode area         : ball at 31.20 mm, was at 31.20 mm
#   Resize of 64 to 16 voxels of 4 mm, mode nearest      : ball at 32.70 mm, was at 31.20 mm
#   Resize of 64 to 16 voxels of 4 mm, mode nearest-exact: ball at 30.70 mm, was at 31.20 mm
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet numpy==2.3.5 monai==1.6.1
venv/bin/python - <<'PY'
import sys

import monai
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import RandSimulateLowResolution, Resize

print("MONAI", monai.__version__)
torch.set_num_threads(1)


def centroid(image):
    """Return the centroid of an image in the world, by its affine."""
    values = np.asarray(image[0], float)
    indices = [np.sum(axis * values) / values.sum() for axis in np.indices(values.shape)]
    return (np.asarray(image.affine) @ [*indices, 1])[:3]


squares = sum((axis - 31.2) ** 2 for axis in np.indices((64, 64, 64)))
blob = MetaTensor(torch.as_tensor(np.exp(-squares / (2 * 5**2)), dtype=torch.float32)[None], affine=torch.eye(4))
shifts = {}
for name, more in (("default", {}), ('downsample_mode="area"', {"downsample_mode": "area"})):
    augmentation = RandSimulateLowResolution(prob=1, **more).set_random_state(0)
    shifts[name] = np.array([centroid(augmentation(blob)) - centroid(blob) for _ in range(60)])
    print(
        f"RandSimulateLowResolution, {name}: moved by {shifts[name].mean():.2f} voxels on average along each axis, "
        f"from {shifts[name].min():.2f} to {shifts[name].max():.2f}"
    )
places = {}
for mode in ("trilinear", "area", "nearest", "nearest-exact"):
    places[mode] = centroid(Resize((16, 16, 16), mode=mode)(blob))[0]
    print(f"Resize of 64 to 16 voxels of 4 mm, mode {mode:13s}: ball at {places[mode]:.2f} mm, was at {centroid(blob)[0]:.2f} mm")
moves = shifts["default"].min() > 0.4 and 0.6 < shifts["default"].mean() < 0.8
stays = np.abs(shifts['downsample_mode="area"'].mean()) < 0.05 and abs(places["area"] - 31.2) < 0.05
if not (moves and stays and abs(places["nearest"] - 32.7) < 0.05):
    sys.exit("MONAI behaves otherwise now")
PY
