#!/usr/bin/env bash
# nibabel turns an ECAT 7 volume by the patient orientation of its main header and gives all of them one affine, whose
# axes are said to run to the right, to the front and up. Of scans head first it turns all three axes, of scans feet
# first two, of scans whose orientation is unknown none. A patient who lies another way is rotated, and a rotation turns
# none or two axes: with one or three, right and left have changed places. So of the head-first and the feet-first (or
# unknown) readings of one file, one is a mirror image, and nothing says so.
# pypet2bids turns all three axes whatever the header says, so the two tools show the bright voxel of one file at the
# same place head first, on the other side feet first, and at the opposite corner where the orientation is unknown, as it
# is in many files of small-animal and research scanners.
# Their numbers part, too: nibabel multiplies by the calibration factor always, pypet2bids where the file is marked as
# calibrated (1) alone, not where it is marked as uncalibrated (0) or processed (2).
#
# nibabel 5.4.2, pypet2bids 1.6.0.
#
# What is right: one file is one patient; its two readings may differ by a rotation alone.
#
# Whom it hurts: all who read ECAT (HR+, HRRT, small-animal scanners) with one tool and compare with the other's result,
# or take "right" of nibabel's affine at its word.
#
# Output seen:
#   nibabel 5.4.2, pypet2bids 1.6.0
#   head first, supine     bright voxel, mm: nibabel (+6, +10, +9)   pypet2bids (+6, +10, +9)   axes turned against head first: 0
#   feet first, supine     bright voxel, mm: nibabel (-6, +10, +9)   pypet2bids (+6, +10, +9)   axes turned against head first: 1
#   unknown                bright voxel, mm: nibabel (-6, -10, -9)   pypet2bids (+6, +10, +9)   axes turned against head first: 3
#   value of it, calibration 0: nibabel 2500, pypet2bids 1000
#   value of it, calibration 1: nibabel 2500, pypet2bids 2500
#   value of it, calibration 2: nibabel 2500, pypet2bids 1000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet nibabel==5.4.2 pypet2bids==1.6.0
venv/bin/python - <<'PY'
import logging
from importlib.metadata import version

import nibabel as nib
import numpy as np
from nibabel.ecat import EcatHeader, EcatImage, hdr_dtype, subhdr_dtype
from pypet2bids.ecat2nii import ecat2nii

logging.disable(logging.CRITICAL)
NX, NY, NZ = 8, 10, 8


def write_ecat(path, orientation=3, calibration=1):
    """Write an ECAT 7.3 volume of one frame: main header, directory, subheader and int16 voxels of 4, 4 and 6 mm."""
    head = np.zeros((), np.dtype(hdr_dtype).newbyteorder(">"))
    head["magic_number"], head["sw_version"], head["file_type"] = b"MATRIX72v", 73, 7
    head["patient_orientation"], head["calibration_unitS"], head["ecat_calibration_factor"] = orientation, calibration, 2.5
    head["num_planes"], head["num_frames"], head["num_gates"], head["plane_separation"] = NZ, 1, 1, 0.6
    head["data_units"], head["radiopharmaceutical"] = b"Bq/cc", b"FDG"
    sub = np.zeros((), np.dtype(subhdr_dtype).newbyteorder(">"))
    sub["data_type"], sub["num_dimensions"] = 6, 3
    sub["x_dimension"], sub["y_dimension"], sub["z_dimension"] = NX, NY, NZ
    sub["scale_factor"], sub["image_max"], sub["frame_duration"] = 1, 1000, 60000
    sub["x_pixel_size"], sub["y_pixel_size"], sub["z_pixel_size"] = 0.4, 0.4, 0.6
    data = np.zeros((NZ, NY, NX), ">i2")
    data[2, 2, 2] = 1000
    blocks = -(-data.nbytes // 512)
    entries = np.zeros((32, 4), ">i4")
    entries[0], entries[1] = (30, 2, 0, 1), (0x01010001, 3, 3 + blocks, 1)
    with open(path, "wb") as file:
        for part in (head.tobytes(), entries.tobytes(), sub.tobytes()):
            file.write(part.ljust(512, b"\0"))
        file.write(data.tobytes().ljust(blocks * 512, b"\0"))


def bright(array, affine):
    """Return where the bright voxel is, mm, and its value."""
    at = np.unravel_index(array.argmax(), array.shape)
    return np.round(affine @ [*at[:3], 1])[:3].astype(int), float(array.max())


def both(**header):
    """Return place and value by nibabel and by pypet2bids."""
    write_ecat("scan.v", **header)
    one = EcatImage.load("scan.v")
    ecat2nii(ecat_file="scan.v", nifti_file="scan.nii")
    other = nib.load("scan.nii")
    return bright(one.get_fdata(), one.affine), bright(other.get_fdata(), other.affine)


def told(place):
    return "(" + ", ".join(f"{v:+d}" for v in place) + ")"


print(f"nibabel {version('nibabel')}, pypet2bids {version('pypet2bids')}")
names = {3: "head first, supine", 2: "feet first, supine", 8: "unknown"}
turned = []
head_first, _ = both(orientation=3)
for code, name in names.items():
    one, other = both(orientation=code)
    turned.append(int(np.sum(np.sign(one[0]) != np.sign(head_first[0]))))
    print(f"{name:22} bright voxel, mm: nibabel {told(one[0])}   pypet2bids {told(other[0])}   "
          f"axes turned against head first: {turned[-1]}")
values = []
for calibration in (0, 1, 2):
    one, other = both(calibration=calibration)
    values.append((round(one[1]), round(other[1])))
    print(f"value of it, calibration {calibration}: nibabel {values[-1][0]}, pypet2bids {values[-1][1]}")
assert turned == [0, 1, 3], turned
assert values == [(2500, 1000), (2500, 2500), (2500, 1000)], values
PY
