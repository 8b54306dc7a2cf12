#!/usr/bin/env bash
# Z-RAD resamples an image to a grid with the same middle, as IBSI asks, but adds the shift of the first voxel to x, y and z
# as if the axes of the array ran along them. Where they run to the left, back and head (LPS), as in axial DICOM, it is
# right. Of the same image stored from left to right and from back to front, as NIfTI in RAS is, the new grid is off by the
# difference of the spacings, 2 mm from 4 to 2 mm: planes at one end of the image are lost, planes of zeros come in at the
# other, and of a lesion at that end a part is cut off. Of a sagittal image the shifts change places as well. So the
# features of a lesion depend on the order in which the voxels are stored. There is no error and no warning.
#
# Z-RAD 26.9.0 (with SimpleITK 2.5.7; a radiomics package that says that it complies with IBSI).
#
# What is right: IBSI reference manual, "Interpolation", alignment of the interpolation grid: the centres of both grids
# coincide. The point of index (0, 0, 0) of an image is moved along its axes, that is by its direction times the shift.
#
# Whom it hurts: radiomics of PET, CT and MRI from NIfTI, at the edge of the field of view most (vertex, skull base, thighs),
# and cohorts in which DICOM and NIfTI are mixed.
#
# What to do: turn images and masks to LPS before (SimpleITK's DICOMOrient).
#
# Output seen:
#   Z-RAD 26.9.0
#   stored in LPS: middle of the new grid at [0. 0. 0.] mm, 0 voxels of 0
#     lesion in the middle         : 13.89 ml of 14.08, mean SUV 5.000, right 5.000
#     lesion left, back and below  :  9.14 ml of  9.12, mean SUV 3.214, right 3.212
#     lesion right, front and above:  9.14 ml of  9.12, mean SUV 6.786, right 6.788
#   stored in RAS: middle of the new grid at [-2. -2.  0.] mm, 7950 voxels of 0
#     lesion in the middle         : 13.89 ml of 14.08, mean SUV 5.000, right 5.000
#     lesion left, back and below  :  7.72 ml of  9.12, mean SUV 3.231, right 3.212
#     lesion right, front and above:  9.14 ml of  9.12, mean SUV 6.786, right 6.788
#   stored in PSR: middle of the new grid at [-2.  -0.5  0.5] mm, 4000 voxels of 0
#     lesion in the middle         : 13.60 ml of 14.08, mean SUV 4.999, right 5.000
#     lesion left, back and below  :  7.94 ml of  9.12, mean SUV 3.225, right 3.212
#     lesion right, front and above:  9.42 ml of  9.12, mean SUV 6.791, right 6.788
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 nibabel==5.4.2 SimpleITK==2.5.7 z-rad==26.9.0
venv/bin/python - <<'PY'
import sys
from importlib.metadata import version

import nibabel
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from zrad.image import Image
from zrad.preprocessing import ImageResampler, MaskResampler

print("Z-RAD", version("z-rad"))
SHAPE, SPACING, NEW = (40, 40, 20), np.array([4.0, 4.0, 5.0]), 2.0  # mm
affine = np.diag([*SPACING, 1.0])
affine[:3, 3] = -SPACING * (np.array(SHAPE) - 1) / 2  # the middle of the image is at (0, 0, 0)
points = np.stack(np.meshgrid(*(affine[i, 3] + SPACING[i] * np.arange(n) for i, n in enumerate(SHAPE)), indexing="ij"), -1)
suv = (5 + 0.01 * points.sum(axis=-1)).astype(np.float32)  # SUV rises towards right, front and head
lesions = {"in the middle": (0, 0, 0), "left, back and below": (-70, -70, -45), "right, front and above": (70, 70, 45)}


def stored(data, order):
    """Return an image whose axes run in this order; the same voxels at the same places."""
    image = nibabel.Nifti1Image(data, affine)
    return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(order)))


found = {}
for order in ("LPS", "RAS", "PSR"):
    nibabel.save(stored(suv, order), "pet.nii.gz")
    pet = Image.from_nifti("pet.nii.gz")
    image = ImageResampler(NEW).apply(pet)
    last = np.array(image.origin) + np.reshape(image.direction, (3, 3)) @ (NEW * (np.array(image.shape) - 1))
    middle = (np.array(image.origin) + last) / 2
    found[order] = [float(np.abs(middle).max())]
    print(f"stored in {order}: middle of the new grid at {np.round(middle, 2) + 0.0} mm, {int((image.array == 0).sum())} voxels of 0")
    for name, centre in lesions.items():
        mask = (np.linalg.norm(points - centre, axis=-1) <= 15).astype(np.uint8)
        nibabel.save(stored(mask, order), "mask.nii.gz")
        lesion = MaskResampler(NEW, method="linear").apply(Image.from_nifti_mask("mask.nii.gz", pet))
        volume = float(lesion.array.sum()) * NEW**3 / 1000
        print(
            f"  lesion {name:22s}: {volume:5.2f} ml of {mask.sum() * SPACING.prod() / 1000:5.2f}, "
            f"mean SUV {image.array[lesion.array > 0].mean():.3f}, right {suv[mask > 0].mean():.3f}"
        )
        found[order].append(volume)
off = [found[order][0] for order in ("LPS", "RAS", "PSR")]
lost = [found[order][2] / found["LPS"][2] for order in ("RAS", "PSR")]
if not (off[0] < 0.01 and min(off[1:]) > 0.4 and max(lost) < 0.95):
    sys.exit("Z-RAD behaves otherwise now")
PY
