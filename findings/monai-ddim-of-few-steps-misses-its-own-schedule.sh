#!/usr/bin/env bash
# MONAI's DDIMScheduler computes time steps spread evenly over the schedule (1000 training steps, 3 at inference: 999,
# 500, 0) but steps by the integer quotient 1000 // 3 = 333: from 999 to 666, where the network is then told that it is
# at 500. With a perfect network, which returns the very noise that was added, the image should be recovered to
# rounding; it is off by 1.7 with 3 steps, 0.53 with 10, and 0.11 with 50, where images range over [0, 1] and the true
# value is 0.5 everywhere. DDIM was made for few steps. Nothing is said; training steps at inference hide it.
#
# MONAI 1.6.1 with torch 2.13.0. Up to 1.5 the spacing of set_timesteps was the quotient, too, and the two agreed.
#
# What is right: Song, Meng, Ermon, Denoising Diffusion Implicit Models, equation 12 with eta = 0: each step goes from x
# at t_i to x at t_(i-1) of one and the same sequence; with the true noise the result is exact for any sequence.
#
# Whom it hurts: synthesis, restoration and fusion of images with few-step samplers: intensities, and so SUV, off by
# what looks like poor training.
#
# Output seen:
#   MONAI 1.6.1 torch 2.13.0+cpu
#      3 steps: [999, 500, 0] ..., step() goes 999 -> 666; largest error 1.71606, along the schedule 0.00001
#     10 steps: [999, 888, 777] ..., step() goes 999 -> 899; largest error 0.52996, along the schedule 0.00001
#     50 steps: [999, 979, 958] ..., step() goes 999 -> 979; largest error 0.10784, along the schedule 0.00002
#   1000 steps: [999, 998, 997] ..., step() goes 999 -> 998; largest error 0.00003, along the schedule 0.00003
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet monai==1.6.1 numpy==2.3.5
venv/bin/python - <<'PY'
import logging
import sys
import warnings
from importlib.metadata import version

import torch

logging.disable(logging.INFO)
from monai.networks.schedulers import DDIMScheduler  # noqa: E402

print("MONAI", version("monai"), "torch", version("torch"))
warnings.simplefilter("error")  # a warning would not be silence
clean = torch.full((1, 1, 8, 8), 0.5)
noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
errors = {}
for steps in (3, 10, 50, 1000):
    scheduler = DDIMScheduler(num_train_timesteps=1000, clip_sample=False)
    scheduler.set_timesteps(steps)
    times = [int(t) for t in scheduler.timesteps]
    kept = scheduler.alphas_cumprod
    start = kept[times[0]].sqrt() * clean + (1 - kept[times[0]]).sqrt() * noise
    image = start
    for t in times:
        image, _ = scheduler.step(noise, t, image)  # the noise that a perfect network finds
    other = start
    for t, before in zip(times, [*times[1:], None], strict=True):  # the same formula along the schedule itself
        found = (other - (1 - kept[t]).sqrt() * noise) / kept[t].sqrt()
        other = found if before is None else kept[before].sqrt() * found + (1 - kept[before]).sqrt() * noise
    errors[steps] = float((image - clean).abs().max())
    mine = float((other - clean).abs().max())
    jump = f"{times[:3]} ..., step() goes {times[0]} -> {times[0] - 1000 // steps}"
    print(f"{steps:4d} steps: {jump}; largest error {errors[steps]:.5f}, along the schedule {mine:.5f}")
if not (errors[3] > 1 and errors[10] > 0.4 and errors[50] > 0.05 and errors[1000] < 1e-3):
    sys.exit("MONAI behaves otherwise now")
PY
