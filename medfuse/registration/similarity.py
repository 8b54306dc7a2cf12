"""How well the values of two images predict each other, from their joint histogram, with the derivative.

Each measure is a function of the joint histogram p(f, m) alone: of the bin f of the fixed and m of the moving value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np

Measure: TypeAlias = Literal["information", "ratio"]

_TINY = 1e-12


def mutual_information(joint: np.ndarray) -> float:
    """Return H(F) + H(M) - H(F, M) of a joint histogram **[F, M]** of sum 1, nats."""
    return _entropy(joint.sum(1)) + _entropy(joint.sum(0)) - _entropy(joint)


def normalised_information(joint: np.ndarray) -> tuple[float, np.ndarray]:
    """Return (H(F) + H(M)) / H(F, M) of a joint histogram **[F, M]**, 1..2, and its derivative **[F, M]**.

    Unlike mutual information, it does not grow by itself when the images overlap more or less.

    Reference:
        Studholme et al., An overlap invariant entropy measure of 3D medical image alignment (Pattern Recognition 1999).
    """
    fixed, moving = joint.sum(1), joint.sum(0)
    both = max(_entropy(joint), _TINY)
    value = (_entropy(fixed) + _entropy(moving)) / both
    slope = value * np.log(joint + _TINY) - np.log(fixed + _TINY)[:, None] - np.log(moving + _TINY)
    return value, slope / both


def correlation_ratio(joint: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the share of the variance of M that F explains, 0..1, from **[F, M]**, and its derivative **[F, M]**.

    It asks for a mean moving value in each bin of the fixed image, not for any dependence: fewer optima, less exact.

    Reference:
        Roche et al., The correlation ratio as a new similarity measure for multimodal image registration (MICCAI 1998).
    """
    level = np.arange(joint.shape[1])
    share, first = joint.sum(1), joint @ level
    mean = first / np.maximum(share, _TINY)
    middle, square = first.sum(), (joint @ level**2).sum()
    variance = max(square - middle**2, _TINY)
    value = ((first * mean).sum() - middle**2) / variance
    slope = (
        (2 * level * mean[:, None] - mean[:, None] ** 2) - 2 * middle * level - value * (level**2 - 2 * middle * level)
    )
    return float(value), slope / variance


MEASURES: dict[Measure, Callable[[np.ndarray], tuple[float, np.ndarray]]] = {
    "information": normalised_information,
    "ratio": correlation_ratio,
}


def _entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(p + _TINY)).sum())
