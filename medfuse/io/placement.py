"""Where a NIfTI header places its voxels: by its sform, by its qform, and by how much these differ.

NIfTI-1 gives a volume two maps to the world. Method 2, the qform, is a rotation with voxel sizes; method 3, the sform,
any affine. Where both codes are above 0, programs differ in which one they take: nibabel, and medfuse, the sform; ITK
the qform, unless the code of the sform is 1 and it has no shear; niivue the one with the larger code, of two equal ones
the sform.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.quaternions import quat2mat
from nibabel.spatialimages import HeaderDataError

from medfuse.errors import GeometryError

_LIMIT_SPACING = (1e-3, 1e3)  # mm
_LIMIT_SHEAR = 0.5  # volume that unit axes must span: that of a gantry tilted by 60 degrees
_APART = 0.5  # voxels by which sform and qform may differ
_ITK_SHEAR = 1.5e-4  # cosine between two axes above which ITK 5.4 takes no sform
_UNITS = {1: "metres", 3: "micrometres"}  # of xyzt_units, NIfTI-1


def header_affine(header: nib.Nifti1Header, what: str) -> np.ndarray:
    """Return the affine **[4, 4]**, voxel index to RAS mm: the sform, or the qform where there is no sform.

    Raises:
        GeometryError: If there is neither, it makes no sense, or the unit is not mm.
    """
    if unit := _UNITS.get(int(header["xyzt_units"]) & 7):
        raise GeometryError(f"{what} must be in mm, got {unit} in its header; convert it to mm.")
    sform, qform = (int(header[f"{kind}_code"]) > 0 for kind in ("sform", "qform"))
    if not sform and not qform:
        raise GeometryError(
            f"{what} must have a qform or an sform, got neither: left and right are unknown; write one."
        )
    if sform:
        return checked_affine(header.get_sform(), what)
    sizes = header["pixdim"][1:4]
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):  # nibabel takes them without a sign, niftilib as 1 mm
        raise GeometryError(f"{what} must have positive voxel sizes (pixdim), got others; rewrite its header.")
    try:
        with np.errstate(all="ignore"):
            affine = _qform(header).get_qform()
    except (HeaderDataError, ValueError) as error:
        raise GeometryError(f"{what} must have a valid qform or sform, got neither; rewrite its header.") from error
    return checked_affine(affine, what)


def header_placement(header: nib.Nifti1Header, shape: tuple[int, int, int], affine: np.ndarray) -> dict[str, Any]:
    """Return what a header says of the place of its volume, for a record.

    Args:
        header: Of the file.
        shape: **[X, Y, Z]**.
        affine: The affine that is used, see `header_affine`.

    Returns:
        `used` (`sform` or `qform`), `sform_code`, `qform_code`, and `agree`: whether both, where both codes are above
        0, place every point of the volume within half a voxel, with the same handedness. Where not, also `apart_mm`,
        the largest distance (None where the qform is not finite, and nothing follows), `mirrored`, and for `sform` and
        `qform` where they put the centres of the first voxel and of the volume, `first_voxel_mm` and `centre_mm`, RAS;
        `itk` and `niivue`: which one these take.
    """
    codes = {kind: int(header[f"{kind}_code"]) for kind in ("sform", "qform")}
    used = "sform" if codes["sform"] > 0 else "qform"
    placement = {"used": used, "sform_code": codes["sform"], "qform_code": codes["qform"], "agree": True}
    if min(codes.values()) <= 0:
        return placement
    other = _qform_as_niftilib(header)
    if not np.isfinite(other).all():
        return placement | {"agree": False, "apart_mm": None, "mirrored": False}
    corners = np.array([(*corner, 1.0) for corner in product(*((-0.5, n - 0.5) for n in shape))]).T
    apart = (other - affine) @ corners
    mirrored = bool(np.linalg.det(other[:3, :3]) * np.linalg.det(affine[:3, :3]) < 0)
    voxels = np.linalg.norm(np.linalg.solve(affine[:3, :3], apart[:3]), axis=0).max()
    if voxels <= _APART and not mirrored:
        return placement
    return placement | {
        "agree": False,
        "apart_mm": float(np.linalg.norm(apart[:3], axis=0).max()),
        "mirrored": mirrored,
        "sform": _places(affine, shape),
        "qform": _places(other, shape),
        "itk": "sform" if codes["sform"] == 1 and not sheared(affine) else "qform",
        "niivue": "qform" if codes["qform"] > codes["sform"] else "sform",
    }


def describe_disagreement(placement: Mapping[str, Any]) -> str:
    """Return in words how sform and qform of a header differ."""
    if placement["apart_mm"] is None:
        return "no one knows how far apart: the qform is not finite"
    both = " and ".join(
        f"its {kind} (code {placement[f'{kind}_code']}) puts the first voxel at "
        f"{_point(placement[kind], 'first_voxel')} mm and the centre at {_point(placement[kind], 'centre')} mm"
        for kind in ("sform", "qform")
    )
    takers = {"sform": ["medfuse", "nibabel"], "qform": []}
    for program in ("ITK", "niivue"):
        takers[placement[program.lower()]].append(program)
    verbs = {kind: "takes" if len(names) == 1 else "take" for kind, names in takers.items()}
    who = "; ".join(f"{', '.join(names)} {verbs[kind]} the {kind}" for kind, names in takers.items() if names)
    mirrored = ", and mirrored" if placement["mirrored"] else ""
    return f"up to {placement['apart_mm']:.1f} mm apart{mirrored}: {both}; {who}"


def require_one_place(placement: Mapping[str, Any], what: str) -> None:
    """Refuse a header whose sform and qform disagree.

    Raises:
        GeometryError: If they do.
    """
    if not placement["agree"]:
        raise GeometryError(
            f"{what} must have an sform and a qform that agree, got two that lie {describe_disagreement(placement)}; "
            "find out which is right and rewrite the header with it alone, or leave out --strict to take the sform."
        )


def sheared(affine: np.ndarray) -> bool:
    """Return whether axes are so far from right angles that a qform, and ITK, cannot hold them."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > _ITK_SHEAR)


def checked_affine(affine: Any, what: str) -> np.ndarray:
    """Return an affine **[4, 4]** as float64.

    Raises:
        GeometryError: If it is not finite, singular or far from right angles, or a voxel is not between 0.001 and
            1000 mm.
    """
    values = np.asarray(affine.detach().cpu() if hasattr(affine, "detach") else affine)
    matrix = values.astype(np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise GeometryError(f"The affine of {what} must be a finite 4 x 4 affine map, got another; rewrite its header.")
    with np.errstate(over="ignore"):
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    low, high = _LIMIT_SPACING
    volume = abs(np.linalg.det(matrix[:3, :3] / spacing)) if spacing.min() > 0 else 0.0
    if volume < 1e-4:
        raise GeometryError(f"The affine of {what} must be invertible, got a singular one; rewrite its header.")
    if volume < _LIMIT_SHEAR:
        raise GeometryError(
            f"The axes of {what} must be near right angles, got unit axes that span {volume:.2g}; resample it."
        )
    if spacing.min() < low or spacing.max() > high:
        raise GeometryError(
            f"{what} must have voxels of {low:g} to {high:g} mm, got {', '.join(f'{s:g}' for s in spacing)}; "
            "rewrite its header."
        )
    return matrix


def _qform(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """Return a header whose handedness, `pixdim[0]`, is one that nibabel takes: 0 counts as 1 (NIfTI-1, method 2)."""
    if header["pixdim"][0] not in (-1, 1):
        header = header.copy()
        header["pixdim"][0] = 1.0
    return header


def _qform_as_niftilib(header: nib.Nifti1Header) -> np.ndarray:
    """Return the qform as niftilib, and so ITK, makes it of any header: it repairs what nibabel refuses.

    A quaternion longer than 1 is scaled, and a voxel size that is not positive is 1 (`nifti_quatern_to_mat44`).
    """
    b, c, d = (float(header[f"quatern_{k}"]) for k in "bcd")
    length = b * b + c * c + d * d
    a = float(np.sqrt(max(1.0 - length, 0.0)))
    if 1.0 - length < 1e-7:
        b, c, d = (v / np.sqrt(length) for v in (b, c, d))
        a = 0.0
    rotation = quat2mat([a, b, c, d])
    sizes = [float(s) if s > 0 else 1.0 for s in header["pixdim"][1:4]]
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ np.diag([*sizes[:2], -sizes[2] if header["pixdim"][0] < 0 else sizes[2]])
    matrix[:3, 3] = [float(header[f"qoffset_{k}"]) for k in "xyz"]
    return matrix


def _places(affine: np.ndarray, shape: tuple[int, int, int]) -> dict[str, list[float]]:
    centre = affine @ [*((n - 1) / 2 for n in shape), 1.0]
    return {
        "first_voxel_mm": [round(float(v), 3) + 0.0 for v in affine[:3, 3]],
        "centre_mm": [round(float(v), 3) + 0.0 for v in centre[:3]],
    }


def _point(places: dict[str, list[float]], name: str) -> str:
    return "(" + ", ".join(f"{v:.1f}" for v in places[f"{name}_mm"]) + ")"
