"""What changes of a restored source where the widths, or the levels, that were stated are wrong by 20 %."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from medfuse.physics import JointDegradation, Noise
from medfuse.physics.specification import varied

KINDS = ("widths", "levels")
"""What is wrong, the other being right: widths of blurs; std of noise."""
FACTORS = {"less": 0.8, "more": 1.2}
"""What they are multiplied by, by the names of the records."""
CHANGES = ("rms", "mean", "largest")
"""Of what a source shows, above 2 % of its range: root mean square, mean, and size that 1 in 1000 exceeds."""
_SHOWN, _RARE = 0.02, 1000


def variants(stated: JointDegradation) -> Iterator[JointDegradation | None]:
    """Give degradations of which one of `KINDS` is wrong by one of `FACTORS`, in the order of both.

    None stands for one that is as stated, because nothing of the kind was stated of either source.
    """
    for kind in KINDS:
        for factor in FACTORS.values():
            yield scaled(stated, factor, kind) if any(has(stated, kind)) else None


def has(stated: JointDegradation, kind: str) -> tuple[bool, bool]:
    """Return of which sources something of one of `KINDS` is stated."""
    first, second = (any(_kind_of(step) == kind for step in part.steps) for part in stated)
    return first, second


def scaled(stated: JointDegradation, factor: float, kind: str) -> JointDegradation:
    """Return degradations of which one of `KINDS` is `factor` times as large."""
    wrong = torch.tensor([factor])

    def step_of(step: Any) -> Any:
        return varied(step, wrong) if _kind_of(step) == kind else step

    return JointDegradation(*(replace(part, steps=tuple(map(step_of, part.steps))) for part in stated))


def _kind_of(step: Any) -> str | None:
    if isinstance(step, Noise):
        return "levels"
    return None if varied(step, torch.ones(1)) is step else "widths"


def changes_of(
    restored: Sequence[Tensor], others: Iterable[Sequence[Tensor] | None], stated: JointDegradation
) -> Tensor:
    """Return `CHANGES` of both sources, **[B, 2, 2, 2, 3]**: by `KINDS`, `FACTORS`, and source.

    Args:
        restored: Both sources **[B, *spatial]**.
        others: Both as each of `variants` restores them; None where it is None.
        stated: What was stated of them: a source of which nothing of a kind was is NaN there.
    """
    rows = []
    for kind, other in zip([k for k in KINDS for _ in FACTORS], others, strict=True):
        each = [torch.full((len(x), len(CHANGES)), math.nan) for x in restored]
        if other is not None:
            told = zip(has(stated, kind), restored, other, each, strict=True)
            each = [changes(x, y).cpu() if known else none for known, x, y, none in told]
        rows.append(torch.stack(each, 1))
    return torch.unflatten(torch.stack(rows, 1), 1, (len(KINDS), len(FACTORS)))


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
    """Return the changes of a source for its record, in its unit.

    Args:
        values: **[2, 2, 3]**, of `KINDS` and `FACTORS`; a kind that was not stated of the source is NaN, and left out.
        scale: Its unit, of that of the values.
    """
    return {
        kind: {
            name: {what: scale * float(v) for what, v in zip(CHANGES, row, strict=True)}
            for name, row in zip(FACTORS, rows, strict=True)
        }
        for kind, rows in zip(KINDS, values, strict=True)
        if not math.isnan(float(rows[0, 0]))
    }
