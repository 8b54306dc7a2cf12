"""Pairs of volumes whose rigid transform is known: a head made of blobs, or files and their truth."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from medfuse.registration import Grid, RigidRegistration, register_rigid

ROOT = Path(__file__).resolve().parents[1]
DEMO, DOCS = ROOT / "bundles" / "pet_mri_fusion" / "demo", ROOT / "docs"
MIRROR = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS and back
RADIUS = 60.0  # mm, of the synthetic head


class Pair(NamedTuple):
    """Two volumes, their affines, and the truth: moving world to fixed world."""

    fixed: np.ndarray
    fixed_affine: np.ndarray
    moving: np.ndarray
    moving_affine: np.ndarray
    truth: np.ndarray

    def register(self, **options) -> RigidRegistration:
        return register_rigid(*self[:4], **options)

    def errors(self, result: RigidRegistration, points: np.ndarray) -> np.ndarray:
        """Return the target registration error at points **[4, N]** of the moving world, mm."""
        return np.linalg.norm(((result.matrix - self.truth) @ points)[:3], axis=0)

    def brain(self) -> np.ndarray:
        """Return where the anatomy of the fixed image lies in the moving world **[4, N]**."""
        index = np.argwhere(self.fixed > 0.1 * self.fixed.max())[::20]
        return np.linalg.solve(self.truth, self.fixed_affine @ np.c_[index, np.ones(len(index))].T)


def rigid(degrees: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    euler = sitk.Euler3DTransform()
    euler.SetRotation(*np.deg2rad(degrees).tolist())
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.reshape(euler.GetMatrix(), (3, 3)), shift
    return matrix


def grid(shape, spacing, degrees=(0.0, 0.0, 0.0)) -> Grid:
    """Return a grid whose middle is the origin of its world."""
    affine = rigid(degrees, (0, 0, 0)) @ np.diag([*spacing, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def positions(where: Grid) -> np.ndarray:
    index = np.indices(where.shape).reshape(3, -1)
    return where.affine @ np.concatenate([index, np.ones((1, index.shape[1]))])


def anatomy(points: np.ndarray) -> np.ndarray:
    """Return the density of a head made of blobs, a formula that needs no interpolation, at points **[4, N]**."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((60, 3))
    radii = RADIUS * rng.uniform(0, 1, (60, 1)) ** (1 / 3)
    centres = directions / np.linalg.norm(directions, axis=1, keepdims=True) * radii
    blobs = zip(centres, rng.uniform(7, 16, 60), strict=True)
    return sum(np.exp(-0.5 * ((points[:3] - c[:, None]) ** 2).sum(0) / s**2) for c, s in blobs)


def uptake(points: np.ndarray) -> np.ndarray:
    return anatomy(points) ** 2


def synthetic(fixed: Grid, moving: Grid, truth: np.ndarray) -> Pair:
    """Return two images of one head, whose values are related, but not by a line."""
    density = anatomy(positions(fixed))
    mri = np.sin(2.5 * density) ** 2 + 0.3 * np.minimum(density, 1)
    pet = uptake(truth @ positions(moving))
    return Pair(mri.reshape(fixed.shape), fixed.affine, pet.reshape(moving.shape), moving.affine, truth)


MOVED = rigid((6, -4, 8), (8, -6, 5))
GRIDS = {
    "isotropic": (grid((36, 36, 36), (4, 4, 4)), grid((28, 28, 28), (5, 5, 5))),
    "left-handed": (grid((36, 36, 36), (-4, 4, 4)), grid((28, 28, 28), (5, -5, -5))),
    "oblique and anisotropic": (grid((52, 52, 30), (3, 3, 5), (10, -5, 8)), grid((36, 30, 36), (4, 5, 4), (0, 20, 0))),
}
SMALL = synthetic(*GRIDS["isotropic"], MOVED)


def load(folder: Path, mri: str, pet: str, truth: str | None = None) -> Pair:
    """Load a pair and its truth, a transform of SimpleITK from the world of the PET to that of the MRI."""
    volumes = [nib.load(folder / name) for name in (mri, pet)]
    matrix = np.eye(4)
    if truth:
        transform = sitk.Euler3DTransform(sitk.ReadTransform(str(folder / truth)))
        rotation, centre = np.reshape(transform.GetMatrix(), (3, 3)), np.array(transform.GetCenter())
        matrix[:3, :3], matrix[:3, 3] = rotation, transform.GetTranslation() + centre - rotation @ centre
    return Pair(*(part for v in volumes for part in (v.get_fdata(), v.affine)), MIRROR @ matrix @ MIRROR)
