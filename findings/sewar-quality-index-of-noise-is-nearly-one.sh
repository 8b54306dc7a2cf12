#!/usr/bin/env bash
# sewar.uqi, the universal image quality index, takes means in the window where its formula has sums, and multiplies the
# mean of the products by the number of pixels all the same. So the means are hardly taken off: instead of the
# covariance it has 64 E[xy] - E[x] E[y], which is 63/64 brightness. Two images that share nothing but their brightness
# score 0.99, an image and its negative 0.98, a grating and a blank page 0.99; the definition gives 0, -1 and 0. With
# larger windows it is no better. Only where the mean is near zero does it come near.
#
# sewar 0.4.10.
#
# What is right: Wang and Bovik 2002, "A universal image quality index", equations 1 and 2: Q = 4 cov(x, y) E[x] E[y] /
# ((var x + var y) (E[x]^2 + E[y]^2)), in [-1, 1], averaged over all windows of 8 x 8; it is 0 where x and y are not
# correlated. The script computes it window by window from numpy.var and the products of deviations; torchmetrics 1.9.0,
# which weights the window otherwise, gave -0.0002 and -0.9993 for the first two.
#
# Whom it hurts: tables of fusion and of synthesis (MR to PET, low to full dose) in which UQI is a column: all methods
# stand at 0.98 or above, and a method that loses all structure does as well. D_lambda, D_s and QNR of sewar, the usual
# figures of pansharpening, are differences of this index.
#
# What to do: take the mean off, or compute the index by the definition as below; the other functions of sewar (ssim,
# vifp, ergas, scc, rase) are not built on it.
#
# Output seen:
#   sewar 0.4.10
#   an image and itself:            sewar  1.000, by definition  1.000
#   noise and other noise:          sewar  0.990, by definition -0.001
#   an image and its negative:      sewar  0.980, by definition -1.000
#   an image and a faint one:       sewar  0.996, by definition  0.198
#   grating and a blank page:       sewar  0.990, by definition  0.000
#   noise of mean zero, and other:  sewar  0.010, by definition  0.003
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 sewar==0.4.10
venv/bin/python - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sewar import uqi

print("sewar", version("sewar"))


def definition(x, y, side=8):
    """Return Wang and Bovik's index of two images, averaged over all windows."""
    x, y = (sliding_window_view(image, (side, side)).reshape(-1, side * side) for image in (x, y))
    mean_x, mean_y = x.mean(1), y.mean(1)
    covariance = ((x - mean_x[:, None]) * (y - mean_y[:, None])).mean(1)
    return np.mean(4 * covariance * mean_x * mean_y / ((x.var(1) + y.var(1)) * (mean_x**2 + mean_y**2)))


random = np.random.default_rng(0)
noise, other = random.normal(100, 10, (2, 128, 128))
grating = 100 + 20 * np.sin(2 * np.pi * np.arange(128) / 8) * np.ones((128, 1))
pairs = {
    "an image and itself": (noise, noise),
    "noise and other noise": (noise, other),
    "an image and its negative": (noise, 200 - noise),
    "an image and a faint one": (noise, 100 + (noise - 100) / 10),
    "grating and a blank page": (grating, np.full((128, 128), 100.0)),
    "noise of mean zero, and other": (noise - 100, other - 100),
}
found = {}
for name, (x, y) in pairs.items():
    found[name] = (uqi(x, y), definition(x, y))
    print(f"{name + ':':31s} sewar {found[name][0]:6.3f}, by definition {found[name][1]:6.3f}")
wrong = [abs(ours - right) > 0.5 for ours, right in found.values()]
if wrong != [False, True, True, True, True, False]:
    sys.exit("sewar behaves otherwise now")
PY
