"""Why an MRI should not guide the restoration of a PET, and what its registration says that a user must know."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medfuse.physics.models.volume import VolumeModel
from medfuse.volumes.alignment import Alignment
from medfuse.volumes.gate import common_std, significance
from medfuse.volumes.proposals import guidance, guided

FARTHEST = 5.0  # mm that the registration may be off before it is not believed
WIDEST_GATE = 0.5  # share of the tissue, above which guidance is not believed
_AWAY = 7.0  # mm along each axis, to where the MRI explains nothing
_EXPLAINED = 0.3  # of the variance that it leaves there, the most that it may leave in its place


def believed(alignment: Alignment) -> bool:
    """Tell whether a refined registration is believed."""
    return alignment.moved_mm <= FARTHEST and alignment.std_mm <= FARTHEST


def doubts(
    rough: VolumeModel, model: VolumeModel, features: Tensor, z: Tensor, share: float, name: str, *, shown: Tensor
) -> list[str]:
    """Say why the MRI should not guide: it explains too little, or no more than the same MRI in a wrong place does.

    Args:
        rough: The observation of blocks, for the wrong place.
        model: The observation.
        features: Of the blocks.
        z: Significance of what the guided proposal leaves.
        share: Of the tissue, where the gate is open.
        name: What the first volume is called.
        shown: Voxels of the data that the MRI itself shows, bool **[*data]**.
    """
    if share > WIDEST_GATE:
        return [
            f"the MRI does not explain the {name} in {share:.0%} of the tissue, so it did not guide the restoration"
        ]
    away = [round(_AWAY / step) for step in rough.operator.domain.spacing]
    elsewhere = guidance(rough, torch.roll(features, away, (1, 2, 3)))
    control = significance(rough, guided(rough, elsewhere, rough.y[None])[0])
    left, usual = (max(common_std(m, s, shown) ** 2 - 1, 0.0) for m, s in ((model, z), (rough, control)))
    if left < _EXPLAINED * usual:
        return []
    return [
        f"the MRI explains the {name} hardly better than the same MRI {_AWAY * 3**0.5:.0f} mm away would, so it did "
        "not guide the restoration; check the registration"
    ]


def said(alignment: Alignment, fwhm_mm: Sequence[float], name: str) -> list[str]:
    """Say what the alignment found that the user must know."""
    if not believed(alignment):
        return [
            f"the {name} fits the MRI best {alignment.moved_mm:.1f} mm from where the registration put it (more than "
            f"{FARTHEST:g} mm is not believed), so the MRI did not guide the restoration; check the registration"
        ]
    found = []
    if alignment.moved_mm > max(1.0, 2 * alignment.std_mm):
        found.append(f"the registration was moved by {alignment.moved_mm:.1f} mm to where the {name} fits the MRI best")
    if alignment.psf_doubted:
        widths = " x ".join(f"{w * alignment.psf_share:.1f}" for w in fwhm_mm)
        found.append(
            f"with its MRI the {name} speaks for a PSF of {widths} mm (+- {alignment.psf_spread:.0%}), not for the one "
            "that was undone"
        )
    return found
