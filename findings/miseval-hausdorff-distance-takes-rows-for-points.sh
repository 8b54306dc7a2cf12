#!/usr/bin/env bash
# Three metrics of MISeval are not what they are called. "HD" passes the mask itself to a function that wants a list of
# points, so that each row of pixels counts as one point: two lesions 30 rows apart that share no pixel have a Hausdorff
# distance of 0, two that are 6 columns apart one of 3.46, the square root of 12 differing pixels of a row. "AHD",
# the average Hausdorff distance, returns the maximum, which is the Hausdorff distance. "RI", the Rand index, is
# the accuracy. There is no error and no warning; Dice, AUC, kappa and the adjusted Rand index beside them are right.
#
# MISeval 1.3.0 (scipy 1.17.1 and scikit-learn 1.9.1 beside it). The package comes with a guideline for the evaluation of
# medical image segmentation.
#
# What is right: Taha and Hanbury 2015, "Metrics for evaluating 3D medical image segmentation", which the package cites:
# HD is the maximum of the distances from a voxel of one segmentation to the nearest of the other, in both directions;
# the average HD takes their mean instead, and of the two directions the greater; RI is the share of the pairs of voxels on
# which both segmentations agree (Rand 1971).
#
# Whom it hurts: published tables of segmentation in which HD favours a method that is right in its columns and wrong in
# its rows; maxima that are called averages; Rand indices compared with those of other tools.
#
# Output seen:
#   miseval 1.3.0
#   30 rows   off, Dice 0.00:
#     HD   0.000, right 30.000
#     AHD 30.000, right 25.500
#     RI   0.902, right  0.824
#   2 rows    off, Dice 0.80:
#     HD   0.000, right  2.000
#     AHD  2.000, right  0.300
#     RI   0.980, right  0.962
#   6 columns off, Dice 0.70:
#     HD   3.464, right  6.000
#     AHD  6.000, right  1.050
#     RI   0.971, right  0.943
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 scipy==1.17.1 scikit-learn==1.9.1 miseval==1.3.0 hausdorff==0.2.6
venv/bin/python - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from miseval import evaluate
from scipy.spatial.distance import cdist
from sklearn.metrics import rand_score

print("miseval", version("miseval"))


def lesion(row, column):
    """Make a mask of 10 x 20 pixels in 64 x 64."""
    mask = np.zeros((64, 64), np.int64)
    mask[row : row + 10, column : column + 20] = 1
    return mask


def right(mask, other):
    """Return the maximum and the average Hausdorff distance and the Rand index."""
    distances = cdist(np.argwhere(mask), np.argwhere(other))
    ways = distances.min(axis=0), distances.min(axis=1)
    return max(w.max() for w in ways), max(w.mean() for w in ways), rand_score(mask.ravel(), other.ravel())


truth = lesion(10, 10)
found = []
for name, row, column in (("30 rows", 40, 10), ("2 rows", 12, 10), ("6 columns", 10, 16)):
    other = lesion(row, column)
    told = [float(evaluate(truth, other, metric=metric)) for metric in ("HD", "AHD", "RI")]
    wanted = right(truth, other)
    print(f"{name:9s} off, Dice {evaluate(truth, other, metric='DSC'):.2f}:")
    for metric, value, correct in zip(("HD", "AHD", "RI"), told, wanted):
        print(f"  {metric:3s} {value:6.3f}, right {correct:6.3f}")
    accuracy = float(np.mean(truth == other))
    found.append((round(told[0], 2), bool(np.isclose(told[1], wanted[0])), bool(np.isclose(told[2], accuracy))))
if found != [(0.0, True, True), (0.0, True, True), (3.46, True, True)]:
    sys.exit("MISeval behaves otherwise now")
PY
