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
