"""How a restoration comes out with other noise: observe it again, and restore it again (parametric bootstrap).

Reference:
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 6.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medfuse.physics import JointDegradation, replicate


def observed_again(
    restored: Tensor, given: Tensor, degradation: JointDegradation, generator: torch.Generator
) -> Tensor:
    """Degrade restored sources anew: what they could have been measured as.

    Values stay between the least and the largest that were given, as what cut those off cuts these off.

    Args:
        restored: Both sources **[B, 2, H, W]**, scaled to 0..1.
        given: What was measured, likewise.
        degradation: What happened to the sources.
        generator: Source of the noise, on the device of the images.

    Returns:
        **[B, 2, H, W]**; a source to which nothing happened is the given one.
    """
    found = []
    for i, part in enumerate(degradation):
        image, seen = restored[:, i : i + 1], given[:, i : i + 1]
        if part.steps:
            y = replicate(part.simulate(image.clamp_min(0.0), generator), part.operator, image.shape[2:])
            seen = y.clamp(float(seen.min()), float(seen.max()))
        found.append(seen)
    return torch.cat(found, 1)
