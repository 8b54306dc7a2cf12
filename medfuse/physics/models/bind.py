"""The choice of the model that solves an observation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medfuse.physics.degradation import Degradation
from medfuse.physics.models.krylov import KrylovModel
from medfuse.physics.models.source import SourceModel
from medfuse.physics.models.spectral import SpectralModel
from medfuse.physics.operators.blur import SpectralOperator

_NARROWINGS = 8  # rounds in which a blur is narrowed that the data disprove
_FEW = 0.05  # of the slices of a volume: what fewer of them show is not taken for a property of all


def bind(
    degradation: Degradation, y: Tensor, spatial: Sequence[int], *, blur_share: Tensor | None = None
) -> SourceModel:
    """Bind an observation to the model that solves it: closed form where there is one, else conjugate gradients.

    Args:
        degradation: What happened to the source.
        y: The observation, **[B, C, *out_spatial]**.
        spatial: Size of the image.
        blur_share: Share of its stated width that the blur has, **[B]**; None: a blur that is stated wider than the
            data allow is narrowed, see `medfuse.physics.evidence.blur`. Both in closed form alone.
    """
    operators = [degradation.operator, *(after for _, after in degradation.noises)]
    closed = all(isinstance(op, SpectralOperator) for op in operators)
    if not closed or not degradation.operator.divides(spatial):  # type: ignore[attr-defined]
        return KrylovModel(degradation, y, spatial)
    if blur_share is not None:
        narrower = bool((blur_share < 1).any())
        model = SpectralModel(degradation.narrowed(blur_share) if narrower else degradation, y, spatial)
        model.blur_share = blur_share
        return model
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


def common_share(shares: Tensor) -> Tensor:
    """Return one share of the blur's width for all slices of a volume, **[...]**, from those of each, **[..., N]**.

    All slices went through one scanner. Where more than a twentieth of them show a narrower blur than was stated, the
    median of what these show is meant for all; a slice that shows nothing has no say.
    """
    narrowed = shares < 1
    median = torch.where(narrowed, shares, torch.nan).nanmedian(-1).values
    return torch.where(narrowed.to(shares).mean(-1) > _FEW, median, 1.0)
