"""The choice of the model that solves an observation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medfuse.physics.blur import SpectralOperator
from medfuse.physics.closed_form import SpectralModel
from medfuse.physics.degradation import Degradation
from medfuse.physics.krylov import KrylovModel
from medfuse.physics.sources import SourceModel

_NARROWINGS = 8  # rounds in which a blur is narrowed that the data disprove


def bind(degradation: Degradation, y: Tensor, spatial: Sequence[int]) -> SourceModel:
    """Bind an observation to the model that solves it: closed form where there is one, else conjugate gradients.

    In closed form, a blur that is stated wider than the data allow is narrowed, see `medfuse.physics.sharpness`.
    """
    operators = [degradation.operator, *(after for _, after in degradation.noises)]
    closed = all(isinstance(op, SpectralOperator) for op in operators)
    if not closed or not degradation.operator.divides(spatial):  # type: ignore[attr-defined]
        return KrylovModel(degradation, y, spatial)
    model = SpectralModel(degradation, y, spatial)
    share = y.new_ones(len(y))
    for _ in range(_NARROWINGS):  # with a narrower blur, less of the data is taken for noise, and more of them tells
        allowed = model.allowed_share()
        if bool((allowed == 1).all()):
            break
        share = share * allowed
        model = SpectralModel(degradation.narrowed(share), y, spatial)
    model.blur_share = share
    return model
