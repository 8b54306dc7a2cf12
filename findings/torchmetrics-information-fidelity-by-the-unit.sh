#!/usr/bin/env bash
# The visual information fidelity (VIF) of torchmetrics depends on the unit of the images. It adds the visual noise, of
# variance 2, to images of whatever unit, and unlike SSIM and PSNR of the same package takes no data_range. An image with
# noise of 10 % of its range has a VIF of 0.99 as a fraction of 1, 0.78 in SUV up to 10, 0.23 in 8 bits and 0.07 in
# Bq/ml. As a fraction of 1 noise costs next to nothing, so that it is rated above a slight blur (0.79), and in 8 bits far
# below it (0.67): the order of two methods turns round. More contrast counts almost squared. The function and the class
# do the same, without a warning.
#
# torchmetrics 1.9.0 (with torch 2.13.0; sewar 0.4.10 beside it).
#
# What is right: Sheikh and Bovik 2006, "Image information and visual quality": the visual noise of variance 2 was found
# with grey levels from 0 to 255, to which images have to be brought first. To give both images in another unit
# changes no information; a ratio of information has no unit. sewar.vifp of 8 bits gives what torchmetrics gives of
# 8 bits.
#
# Whom it hurts: denoising, synthesis and fusion, where tensors are fractions of 1 as a rule, which is where it sees the
# least noise; tables that compare values computed on tensors with published ones, which are of 8 bits; PET, whose unit
# differs from paper to paper.
#
# What to do: bring both images to 0 to 255 by the same range first, or pass sigma_n_sq = 2 * (range / 255) ** 2.
#
# Output seen:
#   torchmetrics 1.9.0
#   fraction of 1    : noise of 10 % 0.99, blur of 1.5 pixels 0.79, contrast times 2 3.94
#   SUV up to 10     : noise of 10 % 0.78, blur of 1.5 pixels 0.83, contrast times 2 2.51
#   8 bits           : noise of 10 % 0.23, blur of 1.5 pixels 0.67, contrast times 2 1.29
#   Bq/ml up to 40000: noise of 10 % 0.07, blur of 1.5 pixels 0.24, contrast times 2 1.10
#   sewar of 8 bits  : noise of 10 % 0.23, blur of 1.5 pixels 0.67, contrast times 2 1.29
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet numpy==2.3.5 scipy==1.17.1 torchmetrics==1.9.0 sewar==0.4.10
venv/bin/python - <<'PY'
import sys

import numpy as np
import torch
import torchmetrics
from scipy.ndimage import gaussian_filter
from sewar import vifp
from torchmetrics.functional.image import visual_information_fidelity
from torchmetrics.image import VisualInformationFidelity

print("torchmetrics", torchmetrics.__version__)
torch.set_num_threads(1)
y, x = np.mgrid[:128, :128]
head = np.where((x - 64) ** 2 / 50**2 + (y - 64) ** 2 / 58**2 < 1, 0.35, 0)
for i, j, radius, value in ((45, 50, 10, 0.9), (80, 50, 7, 0.75), (64, 85, 14, 0.55), (90, 85, 5, 1), (40, 85, 4, 0.1)):
    head[(x - i) ** 2 + (y - j) ** 2 < radius**2] = value
head = gaussian_filter(head, 1.2)
head /= head.max()
others = {
    "noise of 10 %": head + 0.1 * np.random.default_rng(0).normal(size=head.shape),
    "blur of 1.5 pixels": gaussian_filter(head, 1.5),
    "contrast times 2": 2 * head,
}
found = {}
for unit, full in (("fraction of 1", 1), ("SUV up to 10", 10), ("8 bits", 255), ("Bq/ml up to 40000", 40000)):
    told = []
    for image in others.values():
        pair = [torch.as_tensor(full * values, dtype=torch.float32)[None, None] for values in (image, head)]
        metric = VisualInformationFidelity()
        metric.update(*pair)
        told.append((visual_information_fidelity(*pair).item(), metric.compute().item()))
    print(f"{unit:17s}: " + ", ".join(f"{name} {value:.2f}" for name, (value, _) in zip(others, told)))
    found[unit] = [value for pair in told for value in pair]
right = [float(vifp(255 * head, 255 * image)) for image in others.values()]
print("sewar of 8 bits  : " + ", ".join(f"{name} {value:.2f}" for name, value in zip(others, right)))
agrees = np.allclose(found["8 bits"], np.repeat(right, 2), atol=0.02)
wrong = np.allclose(found["fraction of 1"][::2], (0.99, 0.79, 3.94), atol=0.03)
if not (agrees and wrong and found["Bq/ml up to 40000"][0] < 0.1):
    sys.exit("torchmetrics behaves otherwise now")
PY
