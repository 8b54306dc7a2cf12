#!/usr/bin/env bash
# SimpleITK's DisplacementFieldJacobianDeterminant takes differences along the axes of the array as if they were the axes
# of the world. It uses the spacing of the field and not its direction. Where the axes of the array run to the left, the
# back and the head of the patient, as in ITK's own frame (LPS), it is right. Where they run to the right and the front,
# as in NIfTI images in RAS, two diagonal terms change their sign: a growth of 33 % in volume is told as a loss of 11 %, a
# mere rotation by 20 degrees as a growth of 24 %. In a sagittal acquisition the three axes change places. There is no
# error and no warning; the same map, sampled on another grid, has another determinant.
#
# SimpleITK 2.5.7 (with ITK 5.4; antspyx 0.6.3 beside it). Known to ITK as issue 5358 and changed there in June 2025,
# but not in the ITK of this release.
#
# What is right: the determinant of the derivative of x + u(x) by x, both in mm of the world. It does not depend on the
# grid on which u is sampled. Of an affine map it is the determinant of its matrix everywhere, and 1 of a rotation. To
# differentiate by the world is to multiply by the inverse of the direction too. ants.create_jacobian_determinant_image
# does that.
#
# Whom it hurts: tensor-based morphometry (growth and atrophy from a registration), checks of a registration by folding
# (determinant below 0), lung ventilation from CT, and PET whose activity is modulated by the determinant after warping.
# The simplest phantom, whose direction is the identity, hides it.
#
# What to do: turn the field round to LPS first (DICOMOrient and, for an oblique one, resampling), or differentiate with
# numpy and multiply by the inverse of direction times spacing.
#
# Output seen:
#   SimpleITK 2.5.7, antspyx 0.6.3
#   10 % longer along each axis: determinant 1.331
#     axes to left, back, head (LPS)   : SimpleITK 1.331, antspyx 1.331
#     axes to right, front, head (RAS) : SimpleITK 0.891, antspyx 1.331
#     sagittal: back, down, left       : SimpleITK 0.999, antspyx 1.331
#     LPS turned by 30 degrees         : SimpleITK 1.302, antspyx 1.331
#   12 % along x, -8 % along z: determinant 1.030
#     axes to left, back, head (LPS)   : SimpleITK 1.030, antspyx 1.030
#     axes to right, front, head (RAS) : SimpleITK 0.810, antspyx 1.030
#     sagittal: back, down, left       : SimpleITK 1.000, antspyx 1.030
#     LPS turned by 30 degrees         : SimpleITK 1.016, antspyx 1.030
#   rotation by 20 degrees: determinant 1.000
#     axes to left, back, head (LPS)   : SimpleITK 1.000, antspyx 1.000
#     axes to right, front, head (RAS) : SimpleITK 1.241, antspyx 1.000
#     sagittal: back, down, left       : SimpleITK 0.658, antspyx 1.000
#     LPS turned by 30 degrees         : SimpleITK 0.674, antspyx 1.000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 SimpleITK==2.5.7 antspyx==0.6.3
venv/bin/python - <<'PY'
import sys
from importlib.metadata import version

import ants
import numpy as np
import SimpleITK as sitk

print(f"SimpleITK {sitk.Version_VersionString()}, antspyx {version('antspyx')}")


def turn(degrees):
    """Return the rotation matrix **[3, 3]** about z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


grids = {  # columns: where the axes of the array point, in LPS
    "axes to left, back, head (LPS)": np.eye(3),
    "axes to right, front, head (RAS)": np.diag([-1.0, -1.0, 1.0]),
    "sagittal: back, down, left": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]),
    "LPS turned by 30 degrees": turn(30),
}
maps = {
    "10 % longer along each axis": 1.1 * np.eye(3),
    "12 % along x, -8 % along z": np.diag([1.12, 1, 0.92]),
    "rotation by 20 degrees": turn(20),
}
spacing, size = (2.0, 2.0, 2.0), (12, 12, 12)
indices = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
found = {}
for name, matrix in maps.items():
    print(f"{name}: determinant {np.linalg.det(matrix):.3f}")
    for grid, direction in grids.items():
        places = indices * spacing @ direction.T
        moves = places @ (matrix - np.eye(3)).T
        field = sitk.GetImageFromArray(moves.transpose(2, 1, 0, 3), isVector=True)
        field.SetSpacing(spacing)
        field.SetDirection(direction.ravel())
        told = sitk.DisplacementFieldJacobianDeterminant(field)[6, 6, 6]
        shape = ants.from_numpy(np.zeros(size, np.float32), spacing=spacing, direction=direction)
        warp = ants.from_numpy(moves.astype(np.float32), spacing=spacing, direction=direction, has_components=True)
        other = ants.create_jacobian_determinant_image(shape, warp)[6, 6, 6]
        print(f"  {grid:33s}: SimpleITK {told:.3f}, antspyx {other:.3f}")
        found[name, grid] = (told, other, np.linalg.det(matrix))
straight = [found[name, grid] for name, grid in found if grid.endswith("(LPS)")]
mirrored = [found[name, grid][0] for name, grid in found if grid.endswith("(RAS)")]
right = all(abs(told - truth) < 1e-3 for told, _, truth in straight) and all(abs(v[1] - v[2]) < 1e-3 for v in found.values())
if not (right and np.allclose(mirrored, [0.891, 0.810, 1.241], atol=1e-3)):
    sys.exit("SimpleITK behaves otherwise now")
PY
