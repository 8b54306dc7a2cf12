"""What the learned parts answer, by name: the only place that knows the number of a channel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHANGES, WEIGHT, LOG_VARIANCES = slice(0, 3), slice(3, 4), slice(4, 6)
OUT_CHANNELS = 6
"""Channels of the denoiser's answer: three changes, the logit of the weight, two log-variances."""


class Answer(NamedTuple):
    """What the denoiser says.

    Attributes:
        change: `d`, of source 1, source 2 and the fused image, in units of the noise level, each **[B, 1, *spatial]**.
        weight: `m`, fusion weight of source 1, **[B, 1, *spatial]**, 0..1.
        log_variance: `l`, log of the variance of the error of each restored source, **[B, 2, *spatial]**, squared
            fractions of full range.
    """

    change: tuple[Tensor, ...]
    weight: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, channels: Tensor, dtype: torch.dtype) -> Answer:
        """Name the channels **[B, 6, *spatial]** of a denoiser; the changes are converted as they are used."""
        return cls(
            channels[:, CHANGES].chunk(3, 1),
            channels[:, WEIGHT].to(dtype).sigmoid(),
            channels[:, LOG_VARIANCES].clone(),
        )


class Gains(NamedTuple):
    """What is learned of the size of a step, each **[B]**.

    Attributes:
        variance1: `P1`, error variance of the restored source 1, squared fraction of full range.
        variance2: `P2`, that of source 2.
        fusion: `g`, gain of the fusion row, 0..1.
        sources: `c`, factor of the change of both sources, 0..1.
        fused: `c` of the fused image, 0..1.
    """

    variance1: Tensor
    variance2: Tensor
    fusion: Tensor
    sources: Tensor
    fused: Tensor

    @classmethod
    def of(cls, values: Tensor, dtype: torch.dtype) -> Gains:
        """Name the columns **[B, 5]** of a `GainNetwork`."""
        return cls(*values.to(dtype).unbind(1))
