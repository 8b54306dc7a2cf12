#!/usr/bin/env bash
# The Hausdorff distance of torchmetrics is right for square images only. Its distance transform writes the distance of
# pixel (i, j) to place i * rows + j of the flattened image, where i * columns + j is meant. In an image with more columns
# than rows the distances come to lie elsewhere: in one of 64 x 65 a mask has a Hausdorff distance of 35 pixels from
# itself, and in one of 64 x 128 two masks that are 4 rows apart have one of 0. With more rows than columns there is an
# IndexError. The function and the class do the same. The examples of its documentation are square.
#
# torchmetrics 1.9.0 (with torch 2.13.0; scipy 1.17.1 beside it).
#
# What is right: the Hausdorff distance of two sets is the greatest of the distances from a point of one to the nearest
# point of the other (Huttenlocher et al. 1993, "Comparing images using the Hausdorff distance"), so that it is 0 from a set
# to itself, and 4 from a rectangle to the same one 4 pixels further, whatever the image around them. scipy's
# directed_hausdorff, both ways, gives it.
#
# Whom it hurts: validation of segmentations slice by slice, on grids that are not square (coronal and sagittal slices,
# cropped fields of view), with Dice beside it right.
#
# What to do: pad both masks with zeros to a square before.
#
# Output seen:
#   torchmetrics 1.9.0
#   image of  64 x  64, itself        : function   0.00, class   0.00, padded to 128 x 128   0.00, right 0.00
#   image of  64 x  64, 4 rows further: function   4.00, class   4.00, padded to 128 x 128   4.00, right 4.00
#   image of  64 x  65, itself        : function  35.00, class  35.00, padded to 128 x 128   0.00, right 0.00
#   image of  64 x  65, 4 rows further: function  35.23, class  35.23, padded to 128 x 128   4.00, right 4.00
#   image of  64 x  96, itself        : function  26.83, class  26.83, padded to 128 x 128   0.00, right 0.00
#   image of  64 x  96, 4 rows further: function  25.30, class  25.30, padded to 128 x 128   4.00, right 4.00
#   image of  64 x 128, itself        : function   0.00, class   0.00, padded to 128 x 128   0.00, right 0.00
#   image of  64 x 128, 4 rows further: function   0.00, class   0.00, padded to 128 x 128   4.00, right 4.00
#   image of 128 x  64, itself        : function IndexError, class IndexError, padded to 128 x 128   0.00, right 0.00
#   image of 128 x  64, 4 rows further: function IndexError, class IndexError, padded to 128 x 128   4.00, right 4.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet numpy==2.3.5 scipy==1.17.1 torchmetrics==1.9.0
venv/bin/python - <<'PY'
import sys

import numpy as np
import torch
import torchmetrics
from scipy.spatial.distance import directed_hausdorff
from torchmetrics.functional.segmentation import hausdorff_distance
from torchmetrics.segmentation import HausdorffDistance

print("torchmetrics", torchmetrics.__version__)
torch.set_num_threads(1)


def rectangle(shape, row):
    """Make a mask of 10 x 20 pixels."""
    mask = torch.zeros(shape, dtype=torch.int64)
    mask[row : row + 10, 10:30] = 1
    return mask[None]


def told(other, mask):
    """Return the distance by the function and by the class, or the name of the error."""
    try:
        function = hausdorff_distance(other, mask, num_classes=2, input_format="index").item()
        metric = HausdorffDistance(num_classes=2, input_format="index")
        metric.update(other, mask)
        return function, metric.compute().item()
    except IndexError as error:
        return type(error).__name__, type(error).__name__


def right(other, mask):
    """Return the distance by scipy."""
    a, b = (np.argwhere(m[0].numpy()) for m in (other, mask))
    return max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0])


found, truth = {}, {}
for shape in ((64, 64), (64, 65), (64, 96), (64, 128), (128, 64)):
    mask = rectangle(shape, 40)
    for name, other in (("itself", mask), ("4 rows further", rectangle(shape, 44))):
        function, metric = told(other, mask)
        truth[shape, name] = right(other, mask)
        padded = [torch.nn.functional.pad(m, (0, 128 - shape[1], 0, 128 - shape[0])) for m in (other, mask)]
        square = told(*padded)[0]
        found[shape, name] = (function, metric, square)
        values = [f"{v:6.2f}" if isinstance(v, float) else v for v in (function, metric, square)]
        print(
            f"image of {shape[0]:3d} x {shape[1]:3d}, {name:14s}: function {values[0]}, class {values[1]}, "
            f"padded to 128 x 128 {values[2]}, right {truth[shape, name]:4.2f}"
        )
good = all(np.isclose(square, truth[k]) for k, (_, _, square) in found.items())
good &= all(np.isclose(v[0], truth[k]) for k, v in found.items() if k[0] == (64, 64))
bad = [round(found[shape, "4 rows further"][0]) for shape in ((64, 65), (64, 96), (64, 128))] == [35, 25, 0]
bad &= all(v[0] == v[1] for v in found.values())
bad &= all(v[0] == "IndexError" for k, v in found.items() if k[0][0] == 128)
if not (good and bad):
    sys.exit("torchmetrics behaves otherwise now")
PY
