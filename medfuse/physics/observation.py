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


class Agreement(NamedTuple):
    """How far restored sources explain their data.

    Attributes:
        chi2: Chi-square per datum, `(y - A x)' R^-1 (y - A x) / n`, of each source, **[B, 2]**: about 1 where it
            explains its data, by the noise as it was stated.
        residual: What each leaves of its data, `y - A x`, in standard deviations of the noise, as stated or proven,
            **[B, 2, *spatial]**, float16: to look at. A low-resolution source is replicated. `A` is the operator of the
            model, in which a blur that the data disprove is narrowed. Noise that a later step has correlated counts
            with its deviation in a pixel. None where it was not asked for.

    Both are 0 of a source to which nothing happened: it comes back as it was, and there is nothing to explain.
    """

    chi2: Tensor
    residual: Tensor | None


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

    def agreement(self, sources: Sequence[Tensor], *, residual: bool = True) -> Agreement:
        """Hold both restored sources **[B, 1, *spatial]** against their data; with or without the residual."""
        first = sources[0]
        chi2 = first.new_zeros(len(first), 2)
        shown = first.new_zeros(len(first), 2, *first.shape[2:], dtype=torch.float16) if residual else None
        largest = torch.finfo(torch.float16).max
        for i, (model, x) in enumerate(zip(self, sources, strict=True)):
            if model.degradation.steps:
                mean = model.observe(x)
                chi2[:, i] = model.chi2(x, mean)
                if shown is not None:
                    shown[:, i] = (model.misfit(x, mean) / model.sigma())[:, 0].clamp(-largest, largest)
        return Agreement(chi2, shown)
