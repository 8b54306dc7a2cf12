"""How a fusion is finished: what becomes of the fused image once both sources are restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.fusion.balance import balanced
from medfuse.fusion.rule import Evidence, fusion_rule


@dataclass(frozen=True)
class Finish:
    """Compute the fused image by a rule, then move it towards the source that it resembles less.

    Attributes:
        rule: Name of the rule, see `medfuse.fusion.rule`.
        balance: Number of steps of `medfuse.fusion.balance`; 0 for none, as always after `convex`, whose point is that
            nothing appears in it that is in neither source.
    """

    rule: str = "predicted"
    balance: int = 0

    def __post_init__(self) -> None:
        """Refuse an unknown rule and a negative number of steps, with a `DegradationError`."""
        fusion_rule(self.rule)
        if self.balance < 0:
            raise DegradationError(f"the steps of the balance must be 0 or more, got {self.balance}.")

    @property
    def steps(self) -> int:
        """Number of steps of the balance that are taken."""
        return 0 if self.rule == "convex" else self.balance

    def __call__(self, fused: Tensor, sources: Sequence[Tensor], weight: Tensor) -> Tensor:
        """Return the finished image.

        Args:
            fused: As the network and the corrections left it, **[B, 1, H, W]**.
            sources: Both restored sources, of that shape.
            weight: Weight m of source 1, of that shape.
        """
        fused = fusion_rule(self.rule)(sources[0], sources[1], Evidence(fused, weight))
        return balanced(fused, torch.cat(list(sources), 1), steps=self.steps) if self.steps else fused
