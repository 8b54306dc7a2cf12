"""Scans of phantoms of heads, and twins of them, for every method the same; nothing of it was in any training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medfuse.physics.models.volume import VolumeModel
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.training.brains import COLIN27, Brain, analytic, colin27, icbm152
from medfuse.training.phantoms import Lesion
from medfuse.training.scans import Scan, ScanSetting, scan
from medfuse.training.volumes import ALL_LESIONS, Head, HeadPhantom, Tissue, draw_head

SHAPE, SPACING, VARIATION = (84, 102, 84), 2.0, 0.08
TEXTURES = (0.08, 0.15)
RADII = (12.0, 8.0, 6.0, 4.0)
LESIONS = [
    (kind, radius) for radius in RADII for _ in range(4) for kind in (Lesion.PET_HOT, Lesion.PET_COLD, Lesion.MRI)
]
"""Kinds and radii, mm, of the lesions of a head."""
SETTINGS = (
    ScanSetting((4, 4, 4), (6, 6, 6), (2, -3, 4), (3.3, -2.1, 4.7), 0.05),
    ScanSetting((2, 2, 3), (4.5, 4.5, 5), (-2, 2.5, -3.5), (-2.6, 1.7, 3.1), 0.08),
    ScanSetting((3, 3, 3), (5, 5, 5.5), (4, 1, -2), (1.2, 3.4, -2.2), 0.06),
    ScanSetting((4.2, 4.2, 4.2), (7, 7, 7), (-3, -4, 2), (-4.1, 0.6, 1.4), 0.05),
    ScanSetting((2.5, 2.5, 3.5), (5.5, 5.5, 6), (1, 5, 3), (2.2, -3.3, 0.8), 0.08, noise_fwhm_mm=(2.5, 2.5, 3.5)),
)
"""One for each seed; the last has correlated noise."""
TWINS = {"all": (), "none": ALL_LESIONS, "no MRI-only": (Lesion.MRI,)}


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method is given, and what judges it. Stacks are of the twins in their order, and of `all` with a probe.

    Attributes:
        phantoms: By twin.
        scans: By twin.
        model: The observation of `all` as it is told.
        ys: Stack of data **[4, *data]**.
        mris: Stack of MRIs **[4, *image]**; their noise is that of one draw.
        labels: `Tissue` of each voxel **[*image]**, without lesions.
        contrast: Contrast of the MRI.
        probe: Draw of the noise that the last of the stack holds in addition.
    """

    phantoms: dict[str, HeadPhantom]
    scans: dict[str, Scan]
    model: VolumeModel
    ys: Tensor
    mris: Tensor
    labels: np.ndarray
    contrast: str
    probe: Tensor

    @property
    def operator(self) -> ScannerSampling:
        """`A`, as it is told."""
        return self.model.operator

    def first(self) -> Problem:
        """Return the problem of the twin with all lesions alone."""
        return replace(self, ys=self.ys[:1], mris=self.mris[:1])


def brains(data: Path, colin: Path = COLIN27) -> list[Brain]:
    """Return the brains that can be had: ICBM152, Colin27 where Debian's package is installed; else the formula."""
    found = [icbm152(data / "volumes" / "mni152")] if (data / "volumes" / "mni152").is_dir() else [analytic()]
    return [*found, colin27(colin)] if colin.is_file() else found


def head(
    brain: Brain,
    seed: int,
    *,
    contrast: str = "t1",
    shape: tuple[int, int, int] = SHAPE,
    spacing: float = SPACING,
    fine: int = 2,
) -> Head:
    """Draw the head of a seed; seeds from 9000 on are no training's. With `fine` 1, borders run along its voxels."""
    return draw_head(
        brain,
        seed=(9000, seed),
        shape=shape,
        spacing=spacing,
        contrast=contrast,
        variation=VARIATION,
        lesions=LESIONS,
        mri_noise=0.02,
        fine=fine,
    )


def problem(found: Head, setting: ScanSetting, *, texture: float, seed: int, contrast: str = "t1") -> Problem:
    """Scan a head and its twins with the same noise."""
    phantoms = {name: found.phantom(without=without, texture=texture) for name, without in TWINS.items()}
    scans = {name: scan(p, setting, seed=seed) for name, p in phantoms.items()}
    one = scans["all"]
    operator = ScannerSampling(found.grid, one.grid, one.fwhm_mm, one.transform.tolist())
    model = VolumeModel(operator, torch.from_numpy(one.data), one.noise, signal=torch.from_numpy(one.clean))
    probe = model.probe(1000 + seed)
    data = [torch.from_numpy(s.data) for s in scans.values()]
    mris = [torch.from_numpy(p.mri) for p in phantoms.values()]
    return Problem(
        phantoms,
        scans,
        model,
        torch.stack([*data, data[0] + probe]),
        torch.stack([*mris, mris[0]]),
        phantoms["none"].labels,
        contrast,
        probe,
    )


def brain_mask(labels: np.ndarray) -> np.ndarray:
    """Return what is within the skull, csf included."""
    return np.isin(labels, (Tissue.GREY, Tissue.WHITE, Tissue.CSF, Tissue.DEEP))
