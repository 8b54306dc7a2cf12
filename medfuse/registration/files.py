"""Rigid maps as ITK's transform files: the only place where positions are LPS mm, as ITK has them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medfuse.errors import RegistrationError
from medfuse.registration.geometry import orthonormal, shift

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS and back
_RIGID = 1e-3  # by which a rotation may miss its unit length and right angles


def euler_transform(matrix: np.ndarray, centre: np.ndarray) -> sitk.Euler3DTransform:
    """Return a rigid **[4, 4]** in RAS mm as ITK's Euler3DTransform about a point **[3]**, RAS mm."""
    transform = sitk.Euler3DTransform()
    transform.SetCenter((_LPS[:3, :3] @ centre).tolist())
    transform.SetMatrix(orthonormal((_LPS @ matrix @ _LPS)[:3, :3]).ravel().tolist())
    transform.SetTranslation((_LPS[:3, :3] @ shift(matrix, centre)).tolist())
    return transform


def affine_transform(matrix: np.ndarray) -> sitk.AffineTransform:
    """Return a **[4, 4]** in RAS mm as ITK's AffineTransform about the origin."""
    turned = _LPS @ matrix @ _LPS
    return sitk.AffineTransform(turned[:3, :3].ravel().tolist(), turned[:3, 3].tolist())


def write_transform(transform: sitk.Transform, path: str | Path, suffix: str) -> None:
    """Write a transform as text, atomically; its folder is made if absent.

    Raises:
        RegistrationError: If the name does not end in `suffix`, as ITK tells formats by it.
        OSError: If the folder cannot be written to.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise RegistrationError(f"The transform's name must end in {suffix}, got {path.suffix!r}; rename it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{secrets.token_hex(6)}{suffix}")
    try:
        sitk.WriteTransform(transform, str(temporary))
        os.replace(temporary, path)  # noqa: PTH105
    finally:
        temporary.unlink(missing_ok=True)


def read_rigid(path: str | Path) -> np.ndarray:
    """Return the rigid map **[4, 4]** of points of the moving world to the fixed one, RAS mm, of an ITK transform.

    Args:
        path: A text file by which ITK resamples: of points of the fixed world to the moving one, LPS mm, as BIDS has it
            (`from-MOVING_to-FIXED_mode-image_xfm.txt`).

    Raises:
        RegistrationError: If it is no linear transform of ITK, or none that leaves shape and size as they are.
    """
    try:
        transform = sitk.ReadTransform(str(path))
        origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
        axes = [np.array(transform.TransformPoint(tuple(axis))) - origin for axis in np.eye(3)]
        linear = transform.IsLinear() or transform.GetName() == "CompositeTransform"
    except RuntimeError as error:
        raise RegistrationError("A transform must be a file of ITK, got another; convert it.") from error
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.column_stack(axes), origin
    far = np.array(transform.TransformPoint((60.0, -70.0, 80.0))) - matrix[:3, :3] @ (60.0, -70.0, 80.0) - origin
    rigid = np.abs(matrix[:3, :3].T @ matrix[:3, :3] - np.eye(3)).max() < _RIGID and np.linalg.det(matrix[:3, :3]) > 0
    if not linear or not rigid or np.abs(far).max() > 1e-3:
        raise RegistrationError("A transform must be rigid, got another; let the images be registered instead.")
    return np.asarray(np.linalg.inv(_LPS @ matrix @ _LPS))
