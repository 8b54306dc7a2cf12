"""How much of a region's values the data do not tell: the restored image less what the data alone say of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medfuse.regions.values import as_array, layers_of


def add_invented(
    regions: Sequence[dict[str, Any]], labels: Any, invented: Any, *, gate: Any = None, inside: Any = None
) -> None:
    """Add to each region what was invented in it: `invented`, with `mean` and `share`.

    `mean` is by how much the mean of the region differs from that by the data alone; `share` is the root mean square of
    the voxels' differences over the absolute mean of the region restored, None where that is 0; `gate`, where it is
    known, is the mean of the gate: 1 where the data alone decided, 0 where the other source guided.

    Args:
        regions: As `region_values` returns them, the whole image first.
        labels: **[X, Y, Z]** or **[L, X, Y, Z]**, as it got them; or None.
        invented: Restored source less the posterior mean by its data alone **[X, Y, Z]**, in its unit, see
            `medfuse.physics.data_alone`.
        gate: Share of the data alone **[X, Y, Z]**, 0..1; None where there is none.
        inside: Voxels that were measured, bool **[X, Y, Z]**: the others do not count in the whole image; None for all.
    """
    values = as_array(invented).astype(np.float64).ravel()
    size = 1 + max((region["label"] for region in regions if region["label"] is not None), default=0)
    count, total, squares, opened = (np.zeros(size) for _ in range(4))
    shut = None if gate is None else as_array(gate).astype(np.float64).ravel()
    for layer in layers_of(labels):
        own = np.rint(layer).astype(np.int64).ravel()
        count += np.bincount(own, minlength=size)
        total += np.bincount(own, values, size)
        squares += np.bincount(own, values**2, size)
        opened += 0 if shut is None else np.bincount(own, shut, size)
    seen = np.s_[:] if inside is None else as_array(inside).astype(bool).ravel()
    whole = values[seen]
    count[0], total[0], squares[0] = len(whole), whole.sum(), np.square(whole).sum()  # the whole image
    opened[0] = 0 if shut is None else shut[seen].sum()
    for region in regions:
        k, level = region["label"] or 0, abs(region["restored"]["mean"])
        share = float(np.sqrt(squares[k] / count[k]) / level) if level > 0 else None
        region["invented"] = {"mean": float(total[k] / count[k]), "share": share}
        region["invented"] |= {} if shut is None else {"gate": float(opened[k] / count[k])}
