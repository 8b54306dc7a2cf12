"""The same observation of blocks of voxels: what is looked at through a PSF needs no voxels finer than a third of it.

An MRI of 1 mm has eight times the voxels that a PSF of 6 mm asks for. Noise, level, registration and the regression on
the MRI's classes are found on blocks; what is restored is on the MRI's own voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from medfuse.physics.operators.scanner import ScannerSampling

_PER_WIDTH = 3.0  # blocks in the least width of the PSF


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
