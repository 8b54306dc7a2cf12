"""The same observation of blocks of voxels: what is looked at through a PSF needs no voxels finer than a third of it.

An MRI of 1 mm has eight times the voxels that a PSF of 6 mm asks for. Noise, level, registration and the regression on
the MRI's classes are found on blocks; what is restored is on the MRI's own voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.physics.space import Grid

_PER_WIDTH = 3.0  # blocks in the least width of the PSF
_FINE = 0.8  # mm; as many finer voxels as come closest to it are put together: no PET tells them apart
_PER_PSF = 4.0  # blocks in the least width of the PSF, at least; half of that where there are too many voxels
_MOST = 32_000_000  # voxels; more are put together: each takes up to 120 bytes


def blocks_of(grid: Grid, psf_fwhm_mm: float | Sequence[float]) -> tuple[int, ...]:
    """Return how many voxels along each axis are restored as one: fine ones, and more where there are too many."""
    psf = float(torch.as_tensor(psf_fwhm_mm).min())
    blocks = [max(1, round(min(_FINE, psf / _PER_PSF) / s)) for s in grid.spacing]
    while math.prod(-(-n // b) for n, b in zip(grid.shape, blocks, strict=True)) > _MOST:
        edges = [(b + 1) * s for b, s in zip(blocks, grid.spacing, strict=True)]
        if min(edges) > 2 * psf / _PER_PSF:  # memory is not all
            break
        blocks[edges.index(min(edges))] += 1
    return tuple(blocks)


@dataclass(frozen=True, eq=False)
class Coarse:
    """An operator on blocks of voxels.

    Attributes:
        operator: `A` of means over blocks; the given one where a block is a voxel.
        blocks: Voxels along each side of a block.
        shape: Voxels of the image.
    """

    operator: ScannerSampling
    blocks: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, fine: ScannerSampling) -> Coarse:
        """Return the operator on the largest blocks that its PSF allows."""
        grid, most = fine.domain, min(fine.fwhm_mm) / _PER_WIDTH
        blocks = tuple(min(n, max(1, int(most / s + 1e-6))) for n, s in zip(grid.shape, grid.spacing, strict=True))
        if max(blocks) == 1:
            return cls(fine, blocks, grid.shape)
        return cls(fine.like(image=grid.of_blocks(blocks)), blocks, grid.shape)

    def pooled(self, maps: Tensor) -> Tensor:
        """Return the means over blocks **[K, *blocks]** of maps **[K, *image]**."""
        return pooled(maps, self.blocks)

    def spread(self, maps: Tensor) -> Tensor:
        """Return maps of blocks **[K, *blocks]** interpolated to the voxels that they are means of, **[K, *image]**."""
        return maps if max(self.blocks) == 1 else stretched(maps, self.blocks, self.shape)

    def lift(self, maps: Tensor) -> Tensor:
        """Return maps of the data **[K, *data]** interpolated to the image, **[K, *image]**."""
        return self.spread(self.operator.lift(maps[:, None])[:, 0])


def pooled(maps: Tensor, kernel: Sequence[int]) -> Tensor:
    """Return the means over blocks **[K, *blocks]** of maps **[K, *image]**."""
    if max(kernel) == 1:
        return maps
    return F.avg_pool3d(maps[:, None], tuple(kernel), ceil_mode=True, count_include_pad=False)[:, 0]


def stretched(blocks: Tensor, kernel: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return maps of blocks **[K, *blocks]** interpolated to the voxels that they are means of, **[K, *shape]**."""
    full = [n * k for n, k in zip(blocks.shape[1:], kernel, strict=True)]
    fine = F.interpolate(blocks[:, None], size=full, mode="trilinear", align_corners=False)[:, 0]
    return fine[(slice(None), *(slice(n) for n in shape))]
