"""The choice of the model that solves an observation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from medfuse.physics.degradation import Degradation
from medfuse.physics.models.krylov import KrylovModel
from medfuse.physics.models.source import Bias, SourceModel
from medfuse.physics.models.spectral import SpectralModel
from medfuse.physics.operators.blur import SpectralOperator


def choose_model(
    degradation: Degradation,
    y: Tensor,
    spatial: Sequence[int],
    *,
    bias: Callable[[SourceModel], Bias | None] | None = None,
) -> SourceModel:
    """Bind an observation to the model that solves it: in closed form where there is one, else conjugate gradients.

    There is a closed form where all linear steps, those after a noise included, are blur and decimation
    (`SpectralOperator`), and the decimation divides the size of the image.

    Args:
        degradation: What happened to the source.
        y: The observation, **[B, C, *out_spatial]**.
        spatial: Size of the image.
        bias: As in `SourceModel`.
    """
    operator = degradation.operator
    others = [after for _, after in degradation.noises]
    closed = isinstance(operator, SpectralOperator) and operator.divides(spatial)
    model = SpectralModel if closed and all(isinstance(op, SpectralOperator) for op in others) else KrylovModel
    return model(degradation, y, spatial, bias=bias)
