"""What changes of a restored source where the widths and levels that were stated are wrong by 20 %."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from medfuse.physics import JointDegradation
from medfuse.physics.specification import varied

FACTORS = {"less": 0.8, "more": 1.2}
"""What widths of blurs and std of noise are multiplied by, by the names of the records."""
CHANGES = ("rms", "mean", "largest")
"""Of what a source shows, above 2 % of its range: root mean square, mean, and size that 1 in 1000 exceeds."""
_SHOWN, _RARE = 0.02, 1000


def scaled(stated: JointDegradation, factor: float) -> JointDegradation:
    """Return degradations whose widths of blurs and std of noise are `factor` times as large."""
    wrong = torch.tensor([factor])
    return JointDegradation(
        *(replace(part, steps=tuple(varied(step, wrong) for step in part.steps)) for part in stated)  # type: ignore[arg-type]
    )


def changes(restored: Tensor, other: Tensor, full: float = 1.0) -> Tensor:
    """Return `CHANGES` of each sample, **[B, 3]**, from one restoration **[B, *spatial]** to another.

    Args:
        restored: The one.
        other: The other, likewise.
        full: Full range.
    """
    rows = []
    for x, y in zip(restored, other, strict=True):
        shown = x > _SHOWN * full
        off = (y - x)[shown if bool(shown.any()) else torch.ones_like(shown)].double()
        size = off.abs()
        rare = size.kthvalue(size.numel() - size.numel() // _RARE).values
        rows.append(torch.stack([off.square().mean().sqrt(), off.mean(), rare]))
    return torch.stack(rows).float()


def as_record(values: Tensor, scale: float = 1.0) -> dict[str, Any]:
    """Return the changes of a source, **[2, 3]** of both factors, for its record, in its unit."""
    return {
        name: {kind: scale * float(v) for kind, v in zip(CHANGES, row, strict=True)}
        for name, row in zip(FACTORS, values, strict=True)
    }
