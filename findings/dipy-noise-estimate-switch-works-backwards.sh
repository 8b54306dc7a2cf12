#!/usr/bin/env bash
# dipy's estimate_sigma counts the zero voxels of a masked image unless disable_background_masking=True is given, which
# is documented to make it count them. By default, where only the other voxels should count, the noise of a scan of
# which 10 % is tissue and the rest was zeroed (by the scanner, by skull stripping, by a PET reconstruction's field of
# view) comes out at a third of what it is: 1.6 instead of 5. Asked to take all voxels it leaves the zeros out. The
# denoising built on it (nlmeans with this sigma) then leaves most of the noise in.
#
# dipy 1.12.1.
#
# What is right: the documentation of the parameter (True: all voxels, for backgrounds that hold noise; False: non-zero
# voxels), and the definition of the standard deviation of the noise: it does not depend on how much black lies around
# the patient.
#
# Whom it hurts: denoising and SNR of diffusion MRI and of any masked volume; comparisons between subjects with heads of
# different size.
#
# Output seen:
#   dipy 1.12.1
#   tissue 100%: noise 5; default (non-zero voxels, it says) 4.94; disable_background_masking=True (all voxels, it says) 4.94
#   tissue  50%: noise 5; default (non-zero voxels, it says) 3.50; disable_background_masking=True (all voxels, it says) 4.94
#   tissue  30%: noise 5; default (non-zero voxels, it says) 2.70; disable_background_masking=True (all voxels, it says) 4.91
#   tissue  10%: noise 5; default (non-zero voxels, it says) 1.57; disable_background_masking=True (all voxels, it says) 4.92
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 dipy==1.12.1
venv/bin/python - <<'PY'
import sys

import dipy
import numpy as np
from dipy.denoise.noise_estimate import estimate_sigma

print("dipy", dipy.__version__)
random = np.random.default_rng(0)
found = {}
for share in (1.0, 0.5, 0.3, 0.1):
    volume = 20 + random.normal(0, 5, (200, 40, 40))  # noise of 5 in tissue of 20
    volume[round(200 * share) :] = 0  # and nothing elsewhere
    documented_nonzero = estimate_sigma(volume)[0]
    documented_all = estimate_sigma(volume, disable_background_masking=True)[0]
    found[share] = (documented_nonzero, documented_all)
    print(
        f"tissue {share:4.0%}: noise 5; default (non-zero voxels, it says) {documented_nonzero:.2f}; "
        f"disable_background_masking=True (all voxels, it says) {documented_all:.2f}"
    )
if not (found[0.1][0] < 2 and 4.5 < found[0.1][1] < 5.6 and 4.7 < found[1.0][0] < 5.3):
    sys.exit("dipy behaves otherwise now")
PY
