"""Bowsher's prior by the MRI, plug and play: a voxel of the PET is like those neighbours that it is like in the MRI.

    x <- max(D (x + a A'(y - A x) / |A'A|), 0),    D x = x + s (1 - gate) (mean of x over the alike neighbours - x)

A step towards the data and a mean over neighbours take turns: proximal gradients with a denoiser in place of a prior
(Venkatakrishnan et al., Plug-and-Play Priors, 2013), whose neighbours are those of Bowsher et al. (Utilizing MRI
information to estimate F18-FDG distributions in rat flank tumors, 2004). No value of the MRI reaches the PET: it only
tells who is alike, so tissue need not be told apart, and a lesion that the MRI alone shows changes hardly anything.

A few strong rounds come first. What they leave of the data is uptake that the MRI does not show, small lesions above
all; there the gate opens, the data alone have their say, and the weaker rounds that follow smooth less.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.physics.models.volume import VolumeModel
from medfuse.volumes.gate import gate as opened
from medfuse.volumes.gate import significance
from medfuse.volumes.proposals import MrFree

_FIRST, _THEN = (0.8, 6), (0.4, 12)  # strength, and number of rounds
_LOW, _HIGH = 1.6, 3.2  # std of what the first rounds leave, from which the gate opens, and at which it is open
_REACH = 2.0  # mm from a voxel to its neighbours along an axis, or one voxel where those are larger
_CORNER = 1.8  # times that, how far they are at most
_ALIKE = 0.3  # share of the neighbours that are taken for alike: 8 of 26
_TIE = 1e-6  # of the MRI's largest value: of neighbours as close, chance takes one, not their order
_BRIGHTEST = 100.0  # medians of the MRI: a value above that is an outlier, and no measure of what is close
_AT_ONCE = 2**18  # voxels


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Who is like whom.

    Attributes:
        voxels: Flat indices of the voxels that have neighbours, **[N]**, int32.
        alike: Which of the offsets lead to the most alike neighbours of each, **[k, N]**, uint8.
        offsets: Differences of flat indices **[C]**, int32; the last is 0.
    """

    voxels: Tensor
    alike: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, mri: Tensor, spacing: Sequence[float], where: Tensor) -> Neighbours:
        """Find, of all voxels about 2 mm away, the 30 % whose MRI is the closest.

        Of finer voxels half as many of those next to each other join them: otherwise voxels of even and of odd places
        would never meet, and stripes would grow.

        Args:
            mri: The MRI **[*image]**, any unit.
            spacing: Its voxels, mm. Slices that are further apart than that have no neighbours among each other.
            where: The voxels that are asked for, bool **[*image]**.
        """
        steps = [max(1, round(_REACH / s)) for s in spacing]
        most = _CORNER * max(_REACH, min(k * s for k, s in zip(steps, spacing, strict=True)))
        rings = [
            [
                p
                for p in itertools.product(*((-k, 0, k) for k in reach))
                if 0 < sum((a * s) ** 2 for a, s in zip(p, spacing, strict=True)) <= most**2
            ]
            for reach in ((steps, [1, 1, 1]) if max(steps) > 1 else (steps,))
        ]
        places = [p for ring in rings for p in ring]
        parts = [max(1, round(_ALIKE * len(ring) / (1 + k))) for k, ring in enumerate(rings)]
        voxels = torch.nonzero(where.reshape(-1))[:, 0].int()
        chance = torch.rand((len(places), _AT_ONCE), generator=torch.Generator().manual_seed(0)).to(mri)
        chance *= _TIE * _largest(mri, where)
        around = [s for k in reversed(steps) for s in (k, k)]
        wide = F.pad(mri[None, None], around, value=torch.inf)[0, 0]  # what lies beyond the image is like nothing
        middles = torch.nonzero(F.pad(where, around).reshape(-1))[:, 0].int()
        flat, leaps = wide.reshape(-1), _leaps(places, wide.shape)
        alike = torch.empty((sum(parts), len(voxels)), dtype=torch.uint8, device=mri.device)
        for start in range(0, len(voxels), _AT_ONCE):
            part = middles[start : start + _AT_ONCE]
            own = flat.index_select(0, part)
            apart = torch.stack([(flat.index_select(0, part + leap) - own).abs_() for leap in leaps])
            apart += chance[:, : len(part)]
            first, found = 0, []
            for ring, count in zip(rings, parts, strict=True):
                nearest, chosen = apart[first : first + len(ring)].topk(count, 0, largest=False)
                found.append((chosen + first).masked_fill(nearest.isinf(), len(places)))  # beyond the image: itself
                first += len(ring)
            alike[:, start : start + _AT_ONCE] = torch.cat(found).to(torch.uint8)
        offsets = torch.tensor([*_leaps(places, mri.shape), 0], dtype=torch.int32, device=mri.device)
        return cls(voxels, alike, offsets)

    def mask(self, like: Tensor) -> Tensor:
        """Return 1 for the voxels and 0 beyond them, **[*image]** as `like`."""
        return torch.zeros_like(like).reshape(-1).index_fill_(0, self.voxels.long(), 1.0).reshape(like.shape)

    def means(self, x: Tensor) -> Tensor:
        """Return the means over the alike neighbours of the voxels **[S, N]**, of a stack **[S, *image]**."""
        flat = x.flatten(1)
        found = flat.new_empty((len(flat), len(self.voxels)))
        for start in range(0, len(self.voxels), _AT_ONCE):
            part = self.voxels[start : start + _AT_ONCE]
            total = flat.new_zeros((len(flat), len(part)))
            for row in self.alike[:, start : start + _AT_ONCE]:
                at = self.offsets.index_select(0, row.int()).add_(part)
                for mine, image in zip(total, flat, strict=True):
                    mine += image.index_select(0, at)
            found[:, start : start + _AT_ONCE] = total / len(self.alike)
        return found

    def smoothed(self, x: Tensor, strength: Tensor) -> Tensor:
        """Return a stack **[S, *image]**, moved to the means by the strength of each of the voxels **[N]**, 0..1."""
        out, where = x.flatten(1).clone(), self.voxels.long()
        for image, means in zip(out, self.means(x), strict=True):
            image.index_copy_(0, where, torch.lerp(image.index_select(0, where), means, strength))
        return out.reshape(x.shape)


def _leaps(places: Sequence[Sequence[int]], shape: Sequence[int]) -> list[int]:
    """Return by how much a flat index changes for each difference of places in an image."""
    return [(a * shape[1] + b) * shape[2] + c for a, b, c in places]


def _largest(mri: Tensor, where: Tensor) -> float:
    """Return the largest magnitude of an MRI, outliers left out."""
    largest, there = float(mri.abs().max()), mri[where].abs()
    there = there[there > 0]
    return min(largest, _BRIGHTEST * float(there.median())) if len(there) else largest


class Likened(NamedTuple):
    """Estimates that are alike where the MRI is.

    Attributes:
        x: Stack **[S, *image]**.
        gate: Where the data alone had their say **[*image]**, 0..1.
        strong: What the strong rounds gave, from which the gate comes, **[S, *image]**.
        evidence: Significance of what those leave of the data **[*data]**.
    """

    x: Tensor
    gate: Tensor
    strong: Tensor
    evidence: Tensor


def likened(model: VolumeModel, near: Neighbours, ys: Tensor, x: Tensor, free: MrFree, gate: Tensor) -> Likened:
    """Let estimates follow the data, and be alike where the MRI is; beyond the neighbours' voxels they stay.

    Args:
        model: The observation.
        near: Who is alike.
        ys: Data **[S, *data]**.
        x: Where to begin, **[S, *image]**.
        free: The proposal of the data alone; its steps are of the size that these take.
        gate: Share of the uptake that the MRI is known not to show **[*image]**, 0..1.
    """
    active = near.mask(x[0])
    step = free.step * active

    def rounds(x: Tensor, strength: float, gate: Tensor, count: int) -> Tensor:
        weight = strength * (1 - gate.reshape(-1)[near.voxels.long()])
        for _ in range(count):
            left = (ys[:, None] - model.operator.forward(x[:, None])) * model.inside
            x = model.operator.adjoint(left)[:, 0].mul_(step).add_(x)
            x = near.smoothed(x, weight).clamp_min_(0.0)
        return x

    strength, count = _FIRST
    strong = rounds(x, strength, torch.zeros_like(gate), count)
    evidence = significance(model, strong[0])
    gate = torch.maximum(gate, active * opened(model, evidence, low=_LOW, high=_HIGH))
    strength, count = _THEN
    return Likened(rounds(torch.lerp(strong, free.x, gate), strength, gate, count), gate, strong, evidence)
