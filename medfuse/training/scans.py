"""What a PET scanner measures of a phantom: its own grid, its PSF, its noise, and what the user is told of them.

The data are `A u + noise`, `A` the operator by which the data are restored as well (`ScannerSampling`), applied to the
uptake `u` on the FINE grid of the phantom, of half the edge by default; the restoration has the MRI's. What differs
from one grid to the other, borders within a voxel above all, the restoration cannot explain, as with a real scanner.
The operator itself is tested against an independent simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medfuse.physics.operators.blur import FWHM_PER_SIGMA
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.physics.scanner_noise import ScannerNoise
from medfuse.physics.space import Grid
from medfuse.training.brains import Volume
from medfuse.training.volumes import HeadPhantom

Vector = tuple[float, float, float]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class ScanSetting:
    """How a PET is taken, and what is told of it. Axes are those of the PET.

    Attributes:
        voxel_mm: Edges of a voxel, mm.
        fwhm_mm: Full width of the PSF at half its maximum, mm.
        turn_deg: Rotation of the PET against the MRI, degrees, about x, then y, then z.
        shift_mm: Shift of the PET's middle in the MRI's world, mm.
        noise: Std of the noise at an uptake of `level`, in parts of it.
        level: Uptake that the noise is stated at; 4 is about that of grey matter.
        floor: Least variance, that of the air, in parts of that at `level`; 1 is noise that is the same everywhere.
        noise_fwhm_mm: Full width at half maximum of the noise's correlation kernel, mm; 0 for white noise.
        fov: Share of the head's grid that the PET covers along each axis; below 1 it is truncated.
        misplaced_mm, misplaced_deg: Error of the registration that is told.
        psf_error: Error of the PSF that is told: 0.1 is 10 % too wide.
    """

    voxel_mm: Vector = (4.0, 4.0, 4.0)
    fwhm_mm: Vector = (6.0, 6.0, 6.0)
    turn_deg: Vector = (0.0, 0.0, 0.0)
    shift_mm: Vector = (0.0, 0.0, 0.0)
    noise: float = 0.05
    level: float = 4.0
    floor: float = 0.02
    noise_fwhm_mm: Vector = (0.0, 0.0, 0.0)
    fov: Vector = (1.0, 1.0, 1.0)
    misplaced_mm: Vector = (0.0, 0.0, 0.0)
    misplaced_deg: Vector = (0.0, 0.0, 0.0)
    psf_error: float = 0.0

    @property
    def noise_model(self) -> ScannerNoise:
        """The noise, Poisson-like unless it is the same everywhere."""
        std = self.noise * self.level
        if self.floor >= 1:
            return ScannerNoise(std, "gaussian", self.noise_fwhm_mm)
        return ScannerNoise(std / math.sqrt(self.level), "poisson", self.noise_fwhm_mm, std * math.sqrt(self.floor))

    def told(
        self, *, misplaced_mm: Vector | None = None, misplaced_deg: Vector | None = None, psf_error: float | None = None
    ) -> ScanSetting:
        """Return the same scan, told otherwise."""
        return replace(
            self,
            misplaced_mm=self.misplaced_mm if misplaced_mm is None else misplaced_mm,
            misplaced_deg=self.misplaced_deg if misplaced_deg is None else misplaced_deg,
            psf_error=self.psf_error if psf_error is None else psf_error,
        )


@dataclass(frozen=True)
class Scan:
    """A PET as it was measured, and what a user knows of it.

    Attributes:
        data: **[d, h, w]**, unit of the uptake, float32.
        clean: The same without noise.
        grid: Its grid, mm, in its own world.
        transform: **[4, 4]**, from the PET's world to the MRI's, mm, as it is told.
        true_transform: As it is.
        fwhm_mm: PSF along the axes of the PET, mm, as it is told.
        noise: Its noise.
    """

    data: Volume
    clean: Volume
    grid: Grid
    transform: Matrix
    true_transform: Matrix
    fwhm_mm: Vector
    noise: ScannerNoise


def random_setting(seed: int | Sequence[int]) -> ScanSetting:
    """Draw a scan: voxels of 2 to 4.2 mm, a PSF of 4 to 8 mm told up to 10 % wrong, registered up to 2 mm off.

    Three of ten PETs are truncated along their last axis; half have correlated noise.
    """
    rng = np.random.default_rng(seed)

    def vector(low: float, high: float) -> Vector:
        x, y, z = rng.uniform(low, high, 3).tolist()
        return x, y, z

    plane, slices = rng.uniform(2, 4.2, 2)
    across, along = rng.uniform(4, 8), rng.uniform(0.9, 1.25)
    voxel = (float(plane), float(plane), float(slices))
    least = [step * FWHM_PER_SIGMA / math.sqrt(12) for step in voxel]  # that of the mean over a voxel
    fwhm = [max(width, 1.12 * low) for width, low in zip((across, across, across * along), least, strict=True)]
    direction = rng.standard_normal(3)
    off = rng.uniform(0, 2) * direction / np.linalg.norm(direction)
    truncated, coloured = rng.random(2) < (0.3, 0.5)
    share = float(rng.uniform(0.6, 0.9))
    width = float(rng.uniform(0.6, 1.2))
    return ScanSetting(
        voxel_mm=voxel,
        fwhm_mm=(float(fwhm[0]), float(fwhm[1]), float(fwhm[2])),
        turn_deg=vector(-8, 8),
        shift_mm=vector(-6, 6),
        noise=float(rng.uniform(0.02, 0.12)),
        floor=float(rng.uniform(0.01, 0.1)),
        noise_fwhm_mm=(width * voxel[0], width * voxel[1], width * voxel[2]) if coloured else (0.0, 0.0, 0.0),
        fov=(1.0, 1.0, share if truncated else 1.0),
        misplaced_mm=(float(off[0]), float(off[1]), float(off[2])),
        misplaced_deg=vector(-0.5, 0.5),
        psf_error=float(rng.uniform(-0.1, 0.1)),
    )


def scan(phantom: HeadPhantom, setting: ScanSetting, *, seed: int) -> Scan:
    """Measure a phantom's uptake; the same seed draws the same noise, of which the std alone follows the signal.

    Args:
        phantom: Head.
        setting: How it is taken, and what is told.
        seed: Seed of the noise.

    Raises:
        DegradationError: A PSF that the grids cannot hold.
        GeometryError: A field of view that misses the head.
    """
    extent = [n * s for n, s in zip(phantom.grid.shape, phantom.grid.spacing, strict=True)]
    shape = [max(round(e * f / v), 1) for e, f, v in zip(extent, setting.fov, setting.voxel_mm, strict=True)]
    affine = np.diag([*setting.voxel_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    grid = Grid(tuple(shape), tuple(map(tuple, affine.tolist())))
    true = _rigid(setting.turn_deg, np.array(phantom.grid.centre) + setting.shift_mm)
    wrong = _rigid(setting.misplaced_deg, np.array(setting.misplaced_mm))
    operator = ScannerSampling(phantom.fine_grid, grid, setting.fwhm_mm, true.tolist())
    clean = operator.forward(torch.from_numpy(phantom.fine_pet)[None, None])[0, 0]
    data = setting.noise_model.sample(clean, grid.spacing, torch.Generator().manual_seed(seed))
    told = tuple(width * (1 + setting.psf_error) for width in setting.fwhm_mm)
    return Scan(data.numpy(), clean.numpy(), grid, wrong @ true, true, (told[0], told[1], told[2]), setting.noise_model)


def _rigid(turn_deg: Vector, shift_mm: NDArray[np.float64]) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix
