"""The learned noise schedule: one monotone function of relative time, for any number of steps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MonotoneSchedule(nn.Module):
    """`alpha_bar(s)`, falling from 1 at s = 0: the exponential of a piecewise linear, non-increasing function.

    MONAI's schedulers work on a table of integer times; a few learned steps need a function of real time instead.
    """

    def __init__(self, knots: int = 12, final: float = 0.125) -> None:
        """Make a schedule that starts as `final ** s` (the paper's three alphas of 0.5 give 0.125)."""
        super().__init__()
        increment = -math.log(final) / knots
        self.increments = nn.Parameter(torch.full((knots,), math.log(math.expm1(increment))))

    def forward(self, s: Tensor) -> Tensor:
        """Return `alpha_bar` at relative times `s` in 0..1 (t / T), of the shape of `s`."""
        drops = F.softplus(self.increments)
        position = s[..., None] * len(drops) - torch.arange(len(drops), device=s.device, dtype=s.dtype)
        return torch.exp(-(position.clamp(0.0, 1.0) * drops).sum(-1))
