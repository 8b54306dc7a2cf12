"""The rim: how far beyond the MRI's field of view the image goes on, where the PET shows activity there.

What lies beyond a border spreads into the voxels within it. Where an MRI ends within the body, as that of a limb does,
the image is restored one reach of the PSF further, by the data alone, and then cut to the MRI's field of view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.physics.space import Grid
from medfuse.volumes.level import AIR

_REACH = 2.0  # widths of the PSF: 99 % of a kernel, and as much again, for the estimate is worse at its own border


@dataclass(frozen=True)
class Rim:
    """Voxels that are added to an image **[*image]** before and after each axis.

    Attributes:
        low: Before.
        high: After.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]

    @classmethod
    def of(cls, operator: ScannerSampling, y: Tensor, top: float) -> Rim:
        """Return the rim that an image needs: on each side on which the data go on and show activity.

        Args:
            operator: `A` from the image to all of the data.
            y: Data **[*data]**.
            top: Their brightest in the field of view.
        """
        image, data = operator.domain, operator.range
        counts = [math.ceil(_REACH * max(operator.fwhm_mm) / s) for s in image.spacing]
        active = F.avg_pool3d(y[None, None], 3, 1, 1, count_include_pad=False)[0, 0] > AIR * top
        index = torch.nonzero(active).double()
        there, back = (torch.tensor(grid.affine, dtype=torch.float64) for grid in (data, image))
        turn = torch.linalg.inv(back) @ operator.transform @ there
        at = index.to(turn) @ turn[:3, :3].mT + turn[:3, 3]
        rim = torch.tensor(counts, dtype=torch.float64)
        size = torch.tensor(image.shape, dtype=torch.float64)
        at = at[((at > -0.5 - rim) & (at < size - 0.5 + rim)).all(1)]
        low, high = (at < -0.5).any(0).tolist(), (at > size - 0.5).any(0).tolist()
        return cls(*(tuple(n * bool(v) for n, v in zip(counts, side, strict=True)) for side in (low, high)))

    def __bool__(self) -> bool:
        """Tell whether any voxel is added."""
        return any(self.low) or any(self.high)

    def grid(self, grid: Grid) -> Grid:
        """Return the grid of the image with its rim."""
        first = grid.position([-n for n in self.low])
        rows = [(*row[:-1], p) for row, p in zip(grid.affine, first, strict=False)]
        shape = tuple(n + a + b for n, a, b in zip(grid.shape, self.low, self.high, strict=True))
        return Grid(shape, (*rows, grid.affine[-1]))

    def around(self, maps: Tensor) -> Tensor:
        """Return maps **[K, *image]** with their rim, in which the nearest voxel goes on."""
        sides = [n for pair in zip(reversed(self.low), reversed(self.high), strict=True) for n in pair]
        return F.pad(maps[None], sides, mode="replicate")[0] if self else maps

    def within(self, maps: Tensor) -> Tensor:
        """Return maps **[..., *image with rim]** without it."""
        x, y, z = (slice(a, n - b) for n, a, b in zip(maps.shape[-3:], self.low, self.high, strict=True))
        return maps[..., x, y, z]

    def beyond(self, grid: Grid) -> Tensor:
        """Return which voxels of the image with its rim are of the rim, bool."""
        return F.pad(
            torch.zeros(grid.shape, dtype=torch.bool),
            [n for pair in zip(reversed(self.low), reversed(self.high), strict=True) for n in pair],
            value=True,
        )
