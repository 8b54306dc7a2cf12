"""How sure a case is: what the inferer says of it, brought to the units of the sources."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfuse.physics import Degradation, JointDegradation, Noise
from medfuse.pipeline.native import NATIVE, RESTORED
from medfuse.pipeline.record import offset_of, scale_of
from medfuse.regions import Draws, intervals


@dataclass(frozen=True, eq=False)
class Certainty:
    """What is known of the error of a case, **[X, Y, Z]** each; of sources in their units, None of one as it was given.

    Attributes:
        deviations: Standard deviation of each voxel of both restored sources.
        fused: That of the fused image, in its own display units; None where both sources are as given.
        invented: Both restored sources less what their data alone say.
        draws: By how much both came out otherwise; None where no intervals were asked for.
        gate: Share of the data alone in source 2, 0..1, where it was restored on its own grid; else None.
    """

    deviations: tuple[Tensor | None, Tensor | None] = (None, None)
    fused: Tensor | None = None
    invented: tuple[Tensor | None, Tensor | None] = (None, None)
    draws: tuple[Draws | None, Draws | None] = (None, None)
    gate: Tensor | None = None


def certainty_of(
    data: Mapping[Hashable, Any],
    degradation: JointDegradation,
    restored: Sequence[Tensor],
    *,
    keys: Sequence[str],
    across: int,
    full: bool,
) -> Certainty:
    """Return how sure a case is.

    Args:
        data: What inferer and transforms say of it: `std1`, `std2`, `alone`, and for intervals `draws1` and `draws2`.
        degradation: What happened to the sources in their planes.
        restored: Both restored sources, still 0..1.
        keys: Names of the sources.
        across: Axis along which the volumes were sliced.
        full: Whether intervals were asked for.
    """
    stds: list[Tensor] = []
    deviations: list[Tensor | None] = []
    invented: list[Tensor | None] = []
    draws: list[Draws | None] = []
    for k, (key, part) in enumerate(zip(keys, degradation, strict=True)):
        native = k == 1 and f"{key}_{NATIVE}" in data and f"{key}_{RESTORED}" in data
        if not (part.steps or native):
            deviations.append(None)
            invented.append(None)
            draws.append(None)
            continue
        scale, steps = scale_of(data, key), kind_of(part)
        changes: Tensor | None
        if native:
            of: int | str = intervals.maker_of(json.loads(data[f"{key}_{NATIVE}"]))
            probes = changes = _plain(data[f"{key}_draws"]) / scale
            std = torch.from_numpy(intervals.size_of(probes))
            alone = (_plain(data[f"{key}_alone"])[0] - offset_of(data, key)) / scale
            level = 1.0
        else:
            of, std, alone = k, _plain(data[f"std{k + 1}"])[0], _plain(data["alone"])[k]
            changes = _plain(data[f"draws{k + 1}"]) if full else None
            level = intervals.level_of(std, changes, restored) if changes is not None else 1.0
        stds.append(std)
        new = restored[k] - alone
        options: dict[str, Any] = {"kind": steps, "across": None if native else across}
        found = intervals.voxel_deviation(std, of, restored[k], new, **options)
        deviations.append(torch.from_numpy(found).mul_(scale))
        invented.append(new * scale)
        draws.append(Draws(changes * scale, level, invented[-1], of, steps) if full and changes is not None else None)
    gate = data.get(f"{keys[1]}_gate")
    return Certainty(
        (deviations[0], deviations[1]),
        torch.from_numpy(np.asarray(intervals.fused_deviation(stds))) if stds else None,
        (invented[0], invented[1]),
        (draws[0], draws[1]),
        None if gate is None else _plain(gate)[0],
    )


def kind_of(part: Degradation) -> str:
    """Return which of `medfuse.regions.intervals.KINDS` happened to a source; `both` where nothing did."""
    noise = [isinstance(step, Noise) for step in part.steps]
    return "both" if any(noise) == (not all(noise)) else "noise" if any(noise) else "blur"


def _plain(values: Any) -> Tensor:
    return torch.as_tensor(values).as_subclass(Tensor).cpu().float()
