"""How a fusion is finished: what becomes of the predicted fused image once both sources are restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.fusion.balance import balanced

Finish = Callable[[Tensor, Sequence[Tensor], Tensor], Tensor]
"""From the fused image, both restored sources and the weight m of source 1, each **[B, 1, H, W]**, to the fused one."""


def as_predicted(fused: Tensor, sources: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Return the fused image as it is."""
    return fused


def convex(fused: Tensor, sources: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Return `m x1 + (1 - m) x2`: nothing appears in it that is in neither restored source."""
    return weight * sources[0] + (1 - weight) * sources[1]


@dataclass(frozen=True)
class Balanced:
    """Move the fused image towards the source that it resembles less, see `medfuse.fusion.balance`.

    Attributes:
        steps: Number of steps; 0 for none.
    """

    steps: int

    def __post_init__(self) -> None:
        """Refuse a negative number of steps, with a `DegradationError`."""
        if self.steps < 0:
            raise DegradationError(f"the steps of the balance must be 0 or more, got {self.steps}.")

    def __call__(self, fused: Tensor, sources: Sequence[Tensor], weight: Tensor) -> Tensor:
        """Return the balanced image."""
        return balanced(fused, torch.cat(list(sources), 1), steps=self.steps) if self.steps else fused
