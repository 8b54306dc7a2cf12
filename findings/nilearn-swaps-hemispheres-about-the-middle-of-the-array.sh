#!/usr/bin/env bash
# nilearn.image.swap_img_hemispheres turns the array of voxels around from left to right and keeps the affine, so that
# it mirrors about the middle of the field of view, wherever that lies, and not about the midline x = 0 of the
# coordinates that the image states. A field of view whose middle is 4 mm from the midline puts what it mirrors 8 mm
# from where the other side has it; a region that nilearn's own crop_img has cut out stays on its own side. Asymmetry
# of a head that is perfectly symmetrical becomes 200 %. There is no error and no warning.
#
# nilearn 0.14.1. Its documentation says "assumes that the image is sagitally aligned", which these images are (the
# axes are those of the world, x = 0 is the midsagittal plane), and that no change of the affine is required, which
# holds only where the first and the last sagittal slice are as far from the midline. Its use case is given as ROIs
# across hemispheres.
#
# What is right: NIfTI-1, nifti1.h: +x is right, and in a space such as MNI (sform code 4) x = 0 is the midline, so
# that the mirror image of a point at +x lies at -x. Mirroring the affine and resampling (nilearn's resample_to_img)
# does that.
#
# Whom it hurts: asymmetry maps of FDG and DAT PET, mirrored masks of lesions and seeds, wherever the grid is a
# scanner's or has been cropped. The templates of MNI with as many slices on both sides come out right and hide it.
#
# Output seen:
#   nilearn 0.14.1
#   x from -78 to 78 mm: spot at x = +24, swapped to x = -24, affine mirrored to x = -24
#     a head alike on both sides: asymmetry at the spot 0 %, by the mirrored affine 0 %
#   x from -74 to 82 mm: spot at x = +24, swapped to x = -16, affine mirrored to x = -24
#     a head alike on both sides: asymmetry at the spot 200 %, by the mirrored affine 0 %
#   x from -78 to 98 mm: spot at x = +24, swapped to x = -4, affine mirrored to x = -24
#     a head alike on both sides: asymmetry at the spot 200 %, by the mirrored affine 0 %
#   crop_img of a region around x = +24: swapped to x = +24
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 nibabel==5.4.2 nilearn==0.14.1
venv/bin/python - <<'PY'
import sys

import nibabel
import nilearn
import numpy as np
from nilearn.image import crop_img, resample_to_img, swap_img_hemispheres


def head(first, last, centres):
    """Make an image of 2 mm voxels in MNI space, x from first to last mm, with a spot of 6 mm at each x of centres."""
    data = np.zeros(((last - first) // 2 + 1, 24, 24), np.float32)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = first, -24, -24
    for x in centres:
        k = (x - first) // 2
        data[k - 1 : k + 2, 11:14, 11:14] = 10
    image = nibabel.Nifti1Image(data, affine)
    image.set_sform(affine, code=4)
    return image


def where(image):
    """Return the x of the middle of what is brighter than half of the maximum, in mm."""
    data = image.get_fdata()
    middle = np.argwhere(data > data.max() / 2).mean(axis=0)
    return float(nibabel.affines.apply_affine(image.affine, middle)[0])


def mirrored(image):
    """Mirror an image about x = 0 by its affine, and bring it back to its grid."""
    other = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), np.diag([-1.0, 1.0, 1.0, 1.0]) @ image.affine)
    return resample_to_img(other, image, interpolation="nearest")


def asymmetry(image, other):
    """Return the asymmetry of an image against its mirror image in the middle of the spot at x = +24 mm, in per cent."""
    k = round((24 - image.affine[0, 3]) / 2)
    a, b = (float(i.get_fdata()[k, 12, 12]) for i in (image, other))
    return 200 * (a - b) / (a + b)


print("nilearn", nilearn.__version__)
found = []
for first, last in ((-78, 78), (-74, 82), (-78, 98)):
    one, both = head(first, last, [24]), head(first, last, [-24, 24])
    x, right = where(swap_img_hemispheres(one)), where(mirrored(one))
    print(f"x from {first} to {last} mm: spot at x = {where(one):+.0f}, swapped to x = {x:+.0f}, affine mirrored to x = {right:+.0f}")
    swapped, by_affine = (asymmetry(both, f(both)) for f in (swap_img_hemispheres, mirrored))
    print(f"  a head alike on both sides: asymmetry at the spot {swapped:.0f} %, by the mirrored affine {by_affine:.0f} %")
    found.append((round(x), round(swapped), round(right), round(by_affine)))
region = crop_img(head(-78, 78, [24]))
x = where(swap_img_hemispheres(region))
print(f"crop_img of a region around x = {where(region):+.0f}: swapped to x = {x:+.0f}")
found.append(round(x))
if found != [(-24, 0, -24, 0), (-16, 200, -24, 0), (-4, 200, -24, 0), 24]:
    sys.exit("nilearn behaves otherwise now")
PY
