#!/usr/bin/env bash
# nibabel.processing.smooth_image computes in the type in which an image happens to be stored. If that is an integer
# type without a slope, the result of each of the three passes, one an axis, is cut off to whole numbers, towards
# zero: counts of 2 on average become 0.8, those of 0.9 vanish, larger ones lose 1.5 on average, and a mask loses its
# soft edge and all that is nearer to it than the kernel reaches, which of a small region is everything. The same
# values stored as float, or as integers with a slope, are smoothed rightly. Nothing is said. (resample_from_to and
# conform keep the integer type as well, but round to the nearest, and so keep the mean.)
#
# nibabel 5.4.2, beside nilearn 0.14.1. The documentation of smooth_image does not speak of types. It hands the array
# to scipy.ndimage.gaussian_filter, whose documentation says that intermediate arrays have the type of the output.
#
# What is right: a Gaussian kernel sums to one, so the mean of a uniform image stays; and NIfTI-1, nifti1.h: datatype
# says how voxels are stored, not which values may come of them.
#
# Whom it hurts: PET in counts, maps of events and of overlap, CT; and partial-volume correction, where masks of
# regions (uint8 as a rule) are smoothed to the resolution of the scanner to get their spill-over.
#
# Output seen:
#   nibabel 5.4.2 nilearn 0.14.1
#   counts of   0.9 on average, smoothed by 8 mm: as int16   0.00, as int16 with a slope   0.90, as float32   0.90, nilearn of int16   0.90
#   counts of   2.0 on average, smoothed by 8 mm: as int16   0.78, as int16 with a slope   1.99, as float32   1.99, nilearn of int16   1.99
#   counts of  10.0 on average, smoothed by 8 mm: as int16   8.51, as int16 with a slope  10.01, as float32  10.01, nilearn of int16  10.01
#   sphere of 8 mm radius, smoothed by 6 mm: its 257 voxels sum to 0 as uint8, 257 as float32; values [0] as uint8
#   resampled to half a voxel off: counts of 0.9 on average as int16 0.90, as float32 0.90
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 scipy==1.17.1 nibabel==5.4.2 nilearn==0.14.1
venv/bin/python - <<'PY'
import sys

import nibabel
import nilearn
import numpy as np
from nibabel.processing import resample_from_to, smooth_image
from nilearn.image import smooth_img

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def stored(name, values, kind, slope=None):
    """Write values as a NIfTI file of a data type, with a slope if there is one, and load the file."""
    image = nibabel.Nifti1Image((values / (slope or 1)).astype(np.float64 if slope else kind), AFFINE)
    image.set_data_dtype(kind)
    if slope:
        image.header.set_slope_inter(slope, 0)
    image.to_filename(name)
    back = nibabel.load(name)
    if not np.allclose(back.get_fdata(), values, atol=1e-3):
        sys.exit(f"{name} does not hold the values")
    return back


def mean(image):
    """Return the mean of the inner voxels of an image."""
    return float(image.get_fdata()[4:-4, 4:-4, 4:-4].mean())


print("nibabel", nibabel.__version__, "nilearn", nilearn.__version__)
rng = np.random.default_rng(0)
found = []
for level in (0.9, 2.0, 10.0):
    counts = rng.poisson(level, (40, 40, 40))
    whole, real = stored("int16.nii", counts, np.int16), stored("float32.nii", counts, np.float32)
    sloped = stored("slope.nii", counts, np.int16, slope=0.5)
    means = [mean(smooth_image(image, 8)) for image in (whole, sloped, real)] + [mean(smooth_img(whole, 8))]
    text = "as int16 {:6.2f}, as int16 with a slope {:6.2f}, as float32 {:6.2f}, nilearn of int16 {:6.2f}".format(*means)
    print(f"counts of {level:5.1f} on average, smoothed by 8 mm: {text}")
    found.append([bool(abs(m - level) < 0.05) for m in means] == [False, True, True, True])
place = 2.0 * (np.indices((24, 24, 24)) - 12)
sphere = np.sqrt((place**2).sum(axis=0)) <= 8
mask, real = (smooth_image(stored("mask.nii", sphere, kind), 6).get_fdata() for kind in (np.uint8, np.float32))
values = np.unique(mask).astype(int).tolist()
print(f"sphere of 8 mm radius, smoothed by 6 mm: its {sphere.sum()} voxels sum to {mask.sum():.0f} as uint8, {real.sum():.0f} as float32; values {values} as uint8")
found.append(bool(mask.sum() < 0.5 * sphere.sum() and abs(real.sum() - sphere.sum()) < 1))
counts = rng.poisson(0.9, (40, 40, 40))
shifted = AFFINE.copy()
shifted[:3, 3] = 1
whole, real = (mean(resample_from_to(stored("again.nii", counts, kind), (counts.shape, shifted))) for kind in (np.int16, np.float32))
print(f"resampled to half a voxel off: counts of 0.9 on average as int16 {whole:.2f}, as float32 {real:.2f}")
found.append(abs(whole - 0.9) < 0.05 and abs(real - 0.9) < 0.05)
if not all(found):
    sys.exit("nibabel behaves otherwise now")
PY
