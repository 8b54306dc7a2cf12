#!/usr/bin/env bash
# torch.histc, torch.histogram, and torch.bincount and scatter_add_ with float32 weights count in float32, one by one: a
# bin stops at 16777216 = 2^24, because adding 1 changes nothing any more. A whole-body PET of 400 x 400 x 400 voxels
# has nearly four times as many, most of them background. A volume of 20 million voxels, of which 95 % are background,
# has an entropy, a mean and an Otsu threshold by histogram that are wrong. With more threads each counts its own share,
# so the limit, and the answer, depends on the number of threads. No warning is given. torch.sum is right.
#
# torch 2.13.0 (CPU).
#
# What is right: the number of voxels. IEEE 754 binary32 has 24 bits of significand, so counts beyond 2^24 need an
# integer or a float64; numpy.histogram counts right.
#
# Whom it hurts: histograms, thresholds, entropies and joint histograms (mutual information) of whole volumes, region
# sizes and sums by label of large backgrounds.
#
# Output seen:
#   torch 2.13.0+cpu
#   numpy.histogram                          background of 19000000 voxels: 19000000
#   torch.histc                              background of 19000000 voxels: 16777216
#   torch.histogram                          background of 19000000 voxels: 16777216
#   torch.sum                                sum of 20000000 ones: 20000000
#   torch.bincount, weights of float32       sum of 20000000 ones: 16777216
#   scatter_add_, float32                    sum of 20000000 ones: 16777216
#   fraction of the patient by torch.histc: 0.0563, right 0.0500
#   torch.histc with 2 threads: 33554432 of 60000000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet numpy==2.3.5
venv/bin/python - <<'PY'
import sys

import numpy as np
import torch

print("torch", torch.__version__)
torch.set_num_threads(1)
voxels = 20_000_000
image = torch.zeros(voxels)
image[: voxels // 20] = 1.0  # 5 % of the voxels are the patient
label, ones = torch.zeros(voxels, dtype=torch.long), torch.ones(voxels)
counts = {
    "numpy.histogram": np.histogram(image.numpy(), bins=2, range=(0, 2))[0][0],
    "torch.histc": torch.histc(image, bins=2, min=0, max=2)[0].item(),
    "torch.histogram": torch.histogram(image, bins=2, range=(0.0, 2.0))[0][0].item(),
}
for name, count in counts.items():
    print(f"{name:40s} background of {voxels - voxels // 20} voxels: {int(count)}")
sums = {
    "torch.sum": ones.sum().item(),
    "torch.bincount, weights of float32": torch.bincount(label, weights=ones).item(),
    "scatter_add_, float32": torch.zeros(1).scatter_add_(0, label, ones).item(),
}
for name, total in sums.items():
    print(f"{name:40s} sum of {voxels} ones: {int(total)}")
histogram = torch.histc(image, bins=2, min=0, max=2)
print(f"fraction of the patient by torch.histc: {(histogram[1] / histogram.sum()).item():.4f}, right 0.0500")
torch.set_num_threads(2)
print("torch.histc with 2 threads:", int(torch.histc(torch.zeros(60_000_000), bins=1, min=-1, max=1).item()), "of 60000000")
limit = 2**24
if [*counts.values()][1:] != [limit] * 2 or [*sums.values()] != [voxels, limit, limit]:
    sys.exit("torch behaves otherwise now")
PY
