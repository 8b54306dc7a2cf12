#!/usr/bin/env bash
# Nyxus takes features of arrays after it has made them unsigned integers. Fractions are cut off, so that a lesion of SUV
# 2 to 3 has a mean and a maximum of 2 and no deviation, and blood of SUV 0.95 a mean of 0. Where the image holds a negative
# value its minimum is subtracted from all first: lung of -800 HU has a mean of 200, and of 2222 where the corners
# outside of the reconstruction are at -3024, as some scanners write them. An array of slices that is handed in is itself
# changed by that. There is no error and no warning.
#
# Nyxus 0.11.0.
#
# What is right: IBSI reference manual, intensity-based statistics: the mean (Q4LE), minimum (1GSF) and maximum (84IY) are those
# of the intensities in the ROI, in their unit. numpy gives them. Known to the project, which changed parts of it after
# this release.
#
# Whom it hurts: radiomics of PET in SUV, of CT in HU, of parametric maps (ADC, Ki), and whoever uses the array afterwards.
#
# What to do: multiply by 1000 or so, add an offset that does not depend on the image, and take both out of the features.
#
# Output seen:
#   nyxus 0.11.0
#   PET in SUV:
#     region 1: mean, min, max, sd 2.000, 2.000, 2.000, 0.000; right 2.530, 2.000, 2.996, 0.295
#     region 2: mean, min, max, sd 0.000, 0.000, 0.000, 0.000; right 0.950, 0.900, 0.998, 0.028
#     the array that was handed in is changed: False
#   the same in 1/1000 of SUV:
#     region 1: mean, min, max, sd 2529.645, 2000.000, 2996.000, 294.930; right 2530.156, 2000.300, 2996.213, 294.911
#     region 2: mean, min, max, sd 949.085, 900.000, 998.000, 28.179; right 949.581, 900.019, 998.225, 28.186
#     the array that was handed in is changed: False
#   CT in HU:
#     region 1: mean, min, max, sd 197.990, 138.000, 254.000, 21.057; right -802.010, -862.000, -746.000, 21.057
#     region 2: mean, min, max, sd 1039.247, 1010.000, 1065.000, 9.789; right 39.248, 10.000, 65.000, 9.789
#     the array that was handed in is changed: True
#   the same with a border of -3024:
#     region 1: mean, min, max, sd 2221.990, 2162.000, 2278.000, 21.057; right -802.010, -862.000, -746.000, 21.057
#     region 2: mean, min, max, sd 3063.247, 3034.000, 3089.000, 9.789; right 39.248, 10.000, 65.000, 9.789
#     the array that was handed in is changed: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 nyxus==0.11.0
venv/bin/python - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from nyxus import Nyxus

print("nyxus", version("nyxus"))
FEATURES = ["MEAN", "MIN", "MAX", "STANDARD_DEVIATION"]
labels = np.zeros((2, 64, 64), np.uint32)  # two slices
labels[:, 10:30, 10:30], labels[:, 40:60, 10:30] = 1, 2
rng = np.random.default_rng(0)


def show(title, image):
    """Print the features of both regions in the first slice beside those of numpy, and return the means."""
    truth = [image[0][labels[0] == k].astype(np.float64) for k in (1, 2)]
    given = image.copy()
    table = Nyxus(FEATURES).featurize(given, labels)
    means = []
    print(f"{title}:")
    for k, values in zip((1, 2), truth):
        row = table[(table.ROI_label == k) & (table.intensity_image == table.intensity_image.iloc[0])].iloc[0]
        told = ", ".join(f"{row[name]:.3f}" for name in FEATURES)
        right = ", ".join(f"{v:.3f}" for v in (values.mean(), values.min(), values.max(), values.std(ddof=1)))
        print(f"  region {k}: mean, min, max, sd {told}; right {right}")
        means.append(float(row["MEAN"]))
    print(f"  the array that was handed in is changed: {not np.array_equal(image, given)}")
    return [*means, not np.array_equal(image, given)]


suv = np.full(labels.shape, 0.5, np.float32)
suv[labels == 1] = rng.uniform(2, 2.999, (labels == 1).sum())
suv[labels == 2] = rng.uniform(0.9, 0.999, (labels == 2).sum())
hu = np.full(labels.shape, -1000, np.int16)
hu[labels == 1] = np.round(rng.normal(-800, 20, (labels == 1).sum()))
hu[labels == 2] = np.round(rng.normal(40, 10, (labels == 2).sum()))
padded = hu.copy()
padded[:, 0, :] = -3024
found = [
    show("PET in SUV", suv),
    show("the same in 1/1000 of SUV", 1000 * suv),
    show("CT in HU", hu),
    show("the same with a border of -3024", padded),
]
means = [[round(v) for v in f[:2]] for f in found]
changed = [f[2] for f in found]
truth = [round(float(hu[0][labels[0] == k].mean())) for k in (1, 2)]
right = [[2, 0], [round(1000 * float(suv[0][labels[0] == k].mean())) for k in (1, 2)]]
right += [[t + offset for t in truth] for offset in (1000, 3024)]
if not (np.abs(np.subtract(means, right)).max() <= 1 and changed == [False, False, True, True]):
    sys.exit("Nyxus behaves otherwise now")
PY
