"""The joint observation of two degraded sources: `y_i = A_i x_i + n_i` with noise of covariance `R_i`, i = 1, 2.

The third row of the model, `0 = f - m x1 - (1 - m) x2`, ties the fused image to them; `medfuse.physics.corrections`
enforces all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medfuse.physics.degradation import Degradation, JointDegradation
from medfuse.physics.evidence.bias import bias_of_noise
from medfuse.physics.models.bind import choose_model
from medfuse.physics.models.source import SourceModel


def bind(degradation: Degradation, y: Tensor, spatial: Sequence[int]) -> SourceModel:
    """Bind an observation to the model that solves it, with the bias that the data show its noise to have.

    Args:
        degradation: What happened to the source: as stated, or fitted to the data, see `medfuse.physics.fit`.
        y: The observation, **[B, C, *out_spatial]**, a power of its values undone.
        spatial: Size of the image.

    Raises:
        GeometryError: The observation has not the shape that the operator gives.
    """
    return choose_model(degradation, y, spatial, bias=bias_of_noise)


class JointObservation(NamedTuple):
    """The observation models of both sources, bound to their data."""

    source1: SourceModel
    source2: SourceModel

    @classmethod
    def from_images(cls, inputs: Tensor, degradation: JointDegradation) -> JointObservation:
        """Bind both channels of a batch on the reference grid.

        Args:
            inputs: **[B, 2, *spatial]**; a low-resolution source is replicated to the grid, each sample `s x s`.
            degradation: What happened to each source, as stated or fitted.
        """
        return cls(
            *(bind(part, part.observed(inputs[:, i : i + 1]), inputs.shape[2:]) for i, part in enumerate(degradation))
        )

    def misfit(self, sources: Sequence[Tensor]) -> Tensor:
        """Return what both sources **[B, 1, *spatial]** leave of their data, `y - A x`, **[B, 2, *spatial]**."""
        return torch.cat([model.misfit(x) for model, x in zip(self, sources, strict=True)], 1)
