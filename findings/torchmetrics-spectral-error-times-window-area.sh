#!/usr/bin/env bash
# The relative average spectral error (RASE) of torchmetrics divides the local mean of the reference, which is a mean
# already, by the area of the window once more. With the default window of 8 x 8 it is 64 times too large, with 16 x 16
# 256 times: an image that is 5 % too bright everywhere has a RASE of 320 %, 1280 %, or 80 %, by the window. The
# function and the class do the same. Without a warning: the example in its documentation has a RASE of 5326 %.
#
# torchmetrics 1.9.0 (with torch 2.13.0; sewar 0.4.10 beside it).
#
# What is right: Ranchin and Wald 2000, "Fusion of high spatial and spectral resolution images": RASE = 100 / M *
# sqrt(mean over the N bands of RMSE^2), in per cent, where M is the mean radiance of the N bands. Where the reference
# is the constant M and the error the constant E, that is 100 E / M in each window of each size. sewar.rase, which has
# the same parameters, gives it.
#
# Whom it hurts: comparisons of fusion and of synthesis with values that were published or computed by another tool, or
# with another window; thresholds on it. Ranks within one table, of one window, stay as they are.
#
# What to do: divide by window_size ** 2.
#
# Output seen:
#   torchmetrics 1.9.0
#   5 % too bright, window  4: function     80.00 %, class     80.00 %, sewar   5.00 %, right   5.00 %
#   5 % too bright, window  8: function    320.00 %, class    320.00 %, sewar   5.00 %, right   5.00 %
#   5 % too bright, window 16: function   1280.00 %, class   1280.00 %, sewar   5.00 %, right   5.00 %
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet numpy==2.3.5 torchmetrics==1.9.0 sewar==0.4.10
venv/bin/python - <<'PY'
import sys

import torch
import torchmetrics
from sewar import rase
from torchmetrics.functional.image import relative_average_spectral_error
from torchmetrics.image import RelativeAverageSpectralError

print("torchmetrics", torchmetrics.__version__)
torch.set_num_threads(1)
reference = torch.full((1, 3, 64, 64), 100.0)
image = 1.05 * reference  # 5 % too bright in each band
factors = {}
for window in (4, 8, 16):
    function = relative_average_spectral_error(image, reference, window_size=window).item()
    metric = RelativeAverageSpectralError(window_size=window)
    metric.update(image, reference)
    other = rase(*(bands[0].permute(1, 2, 0).double().numpy() for bands in (reference, image)), ws=window)
    factors[window] = (function / 5, metric.compute().item() / 5, other / 5)
    print(
        f"5 % too bright, window {window:2d}: function {function:9.2f} %, class {metric.compute().item():9.2f} %, "
        f"sewar {other:6.2f} %, right   5.00 %"
    )
for window, (function, metric, other) in factors.items():
    if max(abs(function / window**2 - 1), abs(metric / window**2 - 1), abs(other - 1)) > 1e-3:
        sys.exit("torchmetrics behaves otherwise now")
PY
