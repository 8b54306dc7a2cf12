"""NaN and infinity in a volume: refused, or counted as 0, and told apart where they are inside of what it shows."""

from __future__ import annotations

import numpy as np

from medfuse.errors import ImageError

NONFINITE = ("error", "zero")
"""What a reader may do with NaN and infinity."""
_REMEDY = "repair it, or let them count as 0 (--nonfinite zero; in the bundle and in Python nonfinite: zero)"
NONFINITE_FRACTION, NONFINITE_INSIDE = "nonfinite_fraction", "nonfinite_inside_fraction"


def zero_nonfinite(volume: np.ndarray, what: str, nonfinite: str) -> tuple[float, float]:
    """Write 0 in place of NaN and infinity, where asked for.

    Args:
        volume: **[X, Y, Z]**; changed in place.
        what: How to call it in a message.
        nonfinite: One of `NONFINITE`.

    Returns:
        Their part of the voxels, and that of those inside of what the volume shows.

    Raises:
        ImageError: If there are any, and they are not to count as 0, or no voxel is finite.
    """
    bad = ~np.isfinite(volume)
    count = int(bad.sum())
    if count and (nonfinite == "error" or count == bad.size):
        remedy = "check how it was made" if count == bad.size else _REMEDY
        raise ImageError(f"{what} must be finite, got {count} of {bad.size} voxels that are NaN or infinite; {remedy}.")
    volume[bad] = 0
    return count / bad.size, int(_inside(bad).sum()) / bad.size if count else 0.0


def _inside(bad: np.ndarray) -> np.ndarray:
    """Return which voxels lie inside of the others: between them along two axes, or in a plane that lacks them all.

    Outside of a head, as SPM leaves it, a voxel lies between others along one axis at most, as under the chin.
    """
    good, axes, lost = ~bad, np.zeros(bad.shape, np.uint8), np.zeros(bad.shape, bool)
    for axis in range(3):
        between = np.logical_or.accumulate(good, axis)
        between &= np.flip(np.logical_or.accumulate(np.flip(good, axis), axis), axis)
        axes += between
        planes = good.any(axis=tuple(k for k in range(3) if k != axis), keepdims=True)
        lost |= between & ~planes
    inside: np.ndarray = bad & ((axes > 1) | lost)
    return inside
