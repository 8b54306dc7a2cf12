#!/usr/bin/env bash
# MIRP computes the local and global intensity peak of a PET (IBSI VJGA, 0F91: mean over a sphere of 1 ml) in two ways,
# by the number of voxels of the region. Up to 300 the sphere counts the voxels that were measured; from 301 on zeros
# beyond the end of the image count as well. In a uniform PET of SUV 5 a region in the first slice has a global peak
# of 5.0 with 300 voxels, and of 3.09 with 301, without a warning.
#
# MIRP 2.5.0 (an IBSI-compliant radiomics package).
#
# What is right: nothing was measured beyond the end of the image, so that it is no zero; the mean of a uniform image is
# its value, whatever the size of the region. IBSI's definition of the peaks does not depend on the number of voxels.
#
# Whom it hurts: SUVpeak of lesions at the end of the field of view (skull base or vertex, upper thighs), and follow-ups
# in which a lesion grows past 300 voxels, 8 x 8 x 5 of them: its peak falls though its uptake is the same.
#
# Output seen:
#   mirp 2.5.0
#   uniform SUV 5, region of 300 voxels in the first slice: global peak 5.0000
#   uniform SUV 5, region of 301 voxels in the first slice: global peak 3.0894
#   uniform SUV 5, region of 300 voxels in the middle slice: global peak 5.0000
#   uniform SUV 5, region of 301 voxels in the middle slice: global peak 5.0000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 nibabel==5.4.2 mirp==2.5.0
venv/bin/python - <<'PY'
import logging
import sys
from importlib.metadata import version

import mirp
import nibabel as nib
import numpy as np

print("mirp", version("mirp"))
logging.disable(logging.INFO)
affine = np.diag([2.0, 2.0, 2.0, 1.0])  # mm
pet = np.full((40, 40, 20), 5.0, np.float32)
nib.save(nib.Nifti1Image(pet, affine), "pet.nii.gz")
peaks = {}
for place, plane in (("first slice", 0), ("middle slice", 10)):
    for count in (300, 301):
        mask = np.zeros(pet.shape, np.uint8)
        where = np.argwhere(np.ones((30, 11)))[:count]
        mask[5 + where[:, 0], 10 + where[:, 1], plane] = 1
        nib.save(nib.Nifti1Image(mask, affine), "mask.nii.gz")
        table = mirp.extract_features(
            image="pet.nii.gz", mask="mask.nii.gz", image_modality="pet", base_feature_families="local_intensity"
        )[0]
        name = next(column for column in table.columns if "peak_glob" in column)
        peaks[place, count] = float(table[name].iloc[0])
        print(f"uniform SUV 5, region of {count} voxels in the {place}: global peak {peaks[place, count]:.4f}")
if not (peaks["first slice", 301] < 4 < 4.99 < min(peaks["first slice", 300], peaks["middle slice", 301])):
    sys.exit("MIRP behaves otherwise now")
PY
