"""What an inferer is told beside the degradation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medfuse.diffusion import Evaluator
from medfuse.errors import DegradationError
from medfuse.fusion.finish import Finish
from medfuse.physics import correction

LIMIT = 2**22
"""Number of pixels up to which an image is not cut, unless told otherwise: the halos of windows multiply its time."""


@dataclass(frozen=True)
class Settings:
    """What an inferer is told beside the degradation; each field is described there. Checked as it is made.

    Raises:
        DegradationError: A field is impossible.
    """

    steps: int = 3
    correction: str = "cut"
    amp: bool | str = "auto"
    limit: int | None = LIMIT
    views: int = 1
    settle: Sequence[float | None] = (None, None)
    patches: int = 0
    balance: int = 0
    fusion_rule: str = "predicted"

    def __post_init__(self) -> None:
        """Refuse what is impossible."""
        if self.steps < 1:
            raise DegradationError(f"the number of steps must be at least 1, got {self.steps}.")
        correction(self.correction, self.settle, self.patches)
        Finish(self.fusion_rule, self.balance)
        self.evaluator(torch.device("cpu"))
        object.__setattr__(self, "settle", tuple(self.settle))

    def evaluator(self, device: torch.device) -> Evaluator:
        """Return how the network is run on a device."""
        autocast = torch.bfloat16 if uses_bfloat16(self.amp, device) else None
        return Evaluator(autocast=autocast, limit=self.limit, views=self.views)

    @property
    def finish(self) -> Finish:
        """How the fusion is finished."""
        return Finish(self.fusion_rule, self.balance)

    @property
    def record(self) -> dict[str, Any]:
        """What a result depends on beside weights, degradation and steps, as JSON."""
        return {
            "correction": self.correction,
            "fusion_rule": self.finish.rule,
            "views": self.views,
            "settle": list(self.settle),
            "patches": self.patches,
            "balance": self.finish.steps,
        }


def uses_bfloat16(amp: bool | str, device: torch.device) -> bool:
    """Tell whether the network should run in bfloat16 on a device.

    Raises:
        DegradationError: `amp` is neither a boolean nor `auto`.
    """
    if isinstance(amp, bool):
        return amp
    if amp != "auto":
        raise DegradationError(f"amp must be true, false or `auto`, got {amp!r}.")
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
