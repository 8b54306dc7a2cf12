"""Mean, spread and interval of metrics over images, some of which may be of one subject."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

LEVEL, SEED = 0.95, 0
"""Of the intervals, and of their resamples."""


def summarise(
    rows: Sequence[Mapping[str, float]], names: Iterable[str], owners: Sequence[str], resamples: int
) -> dict[str, dict[str, float | int | None]]:
    """Return mean, std, number and interval of each metric over the images for which it is defined.

    Args:
        rows: Metrics of each image.
        names: Metrics to summarise.
        owners: Subject of each image.
        resamples: Number of resamples of the bootstrap.
    """
    summary = {}
    for name in names:
        values = np.array([row.get(name, math.nan) for row in rows])
        known = np.isfinite(values)
        if not known.any():
            continue
        low, high = interval(values[known], [o for o, k in zip(owners, known, strict=True) if k], resamples)
        values = values[known]
        summary[name] = {
            "mean": float(values.mean()),
            "std": float(values.std(ddof=1)) if len(values) > 1 else None,
            "n": len(values),
            "lo": low,
            "hi": high,
        }
    return summary


def interval(values: np.ndarray, owners: Sequence[str], resamples: int) -> tuple[float | None, float | None]:
    """Return the interval of the mean; whole subjects are drawn, as images of one are not independent."""
    _, owner = np.unique(np.array(owners), return_inverse=True)
    sums, counts = np.bincount(owner, weights=values), np.bincount(owner)
    if len(sums) < 2:
        return None, None
    draws = np.random.default_rng(SEED).integers(0, len(sums), (resamples, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
