"""A trained estimate of a volume: what the rule leaves, mended within bounds.

    x0 = max(l + a (f - l) + b (g - l) + D tanh(r), 0)
    a, b = tanh of what the network says,    D = largest |l - f| + |l - g| among the neighbours

`l` is the rule's estimate, alike where the MRI is; `g` is the guided proposal, `f` the MR-free one. A small U-Net looks
at them, at the evidence of each and at the MRI. So the estimate is a blend of what is proposed, and strays from it by
no more than the proposals differ nearby: where they agree, nothing is added. All that goes in is in units of the uptake
or of the MRI itself, or of std of the noise: SUV, Bq/mL and counts give the same estimate.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfuse.errors import BundleError
from medfuse.volumes.coarse import pooled, stretched
from medfuse.volumes.gate import significance
from medfuse.volumes.restore import Proposals, by_rule

CHANNELS = (
    "alike",
    "strong",
    "guided",
    "free",
    "data",
    "noise",
    "gate",
    "evidence of guided",
    "evidence of strong",
    "evidence of alike",
    "MRI",
    "PSF",
    "voxel",
)
"""What the network sees of each voxel."""
UPTAKE = CHANNELS[:6]
"""Those in the unit of the uptake."""
SPACING = (1.3, 2.7)
"""Voxels, mm, that it was trained for; finer ones are put together for it."""
PSF = (3.5, 9.0)
"""Widths of the PSF, mm, likewise."""
_VOXEL = 2.0  # mm, to which finer voxels are put together


class VolumeUNet(nn.Module):
    """A U-Net of two levels in three dimensions, 228,000 parameters; any size of at least 2 voxels."""

    def __init__(self, width: int = 24, deep: int = 32, *, last: int = 2) -> None:
        """Make it; at first it changes nothing of the rule.

        Args:
            width: Channels of the voxels as they are.
            deep: Channels at half resolution.
            last: Layers after those at half resolution.
        """
        super().__init__()
        self.first = nn.Conv3d(len(CHANNELS), width, 3, padding=1)
        self.second = nn.Conv3d(width, width, 3, padding=1)
        self.down = nn.Conv3d(width, deep, 2, stride=2)
        self.deep = nn.ModuleList(nn.Conv3d(deep, deep, 3, padding=d, dilation=d) for d in (1, 2, 1, 2, 4, 1))
        self.up = nn.Conv3d(deep, width, 1)
        self.last = nn.ModuleList(nn.Conv3d(width, width, 3, padding=1) for _ in range(last))
        self.out = nn.Conv3d(width, 3, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return the estimate **[B, 1, *image]**, in the unit of the proposals of the channels **[B, C, *image]**."""
        alike, guided, free = (x[:, k : k + 1] for k in map(CHANNELS.index, ("alike", "guided", "free")))
        return blended(alike, guided, free, self.said(x).float())

    def said(self, x: Tensor) -> Tensor:
        """Return what `a`, `b` and `r` are of **[B, 3, *image]**, for channels **[B, C, *image]**."""
        h = F.leaky_relu(self.first(x), 0.1)
        fine = h + F.leaky_relu(self.second(h), 0.1)
        even = F.pad(fine, [n % 2 * k for n in reversed(fine.shape[2:]) for k in (0, 1)], mode="replicate")
        h = F.leaky_relu(self.down(even), 0.1)
        for layer in self.deep:
            h = h + F.leaky_relu(layer(h), 0.1)
        h = F.interpolate(self.up(h), size=even.shape[2:], mode="trilinear", align_corners=False)
        h = fine + _cut(h, fine.shape[2:])
        for layer in self.last:
            h = h + F.leaky_relu(layer(h), 0.1)
        said: Tensor = self.out(h)
        return said


def blended(alike: Tensor, guided: Tensor, free: Tensor, said: Tensor) -> Tensor:
    """Return the estimate of what the network says **[B, 3, *image]**, and of proposals **[B, 1, *image]** each."""
    a, b, r = torch.tanh(said).chunk(3, 1)
    apart = F.max_pool3d((alike - free).abs() + (alike - guided).abs(), 3, 1, 1)
    x: Tensor = alike + a * (free - alike) + b * (guided - alike) + apart * r
    return x.clamp_min(0.0)


class TrainedEstimator:
    """An estimator of `restore_volume` that a network makes.

    Where its training has nothing to say of a case, the rule takes its place: voxels beyond 2.7 mm, thick slices, a PSF
    below 3.5 or beyond 9 mm, an MRI that shows nothing where the uptake is.
    """

    def __init__(self, network: VolumeUNet, *, beyond: float = 1.0) -> None:
        """Make it of a trained network.

        Args:
            network: It.
            beyond: Factor by which a PSF may leave the widths that it was trained for.
        """
        self.network, self.beyond = network.eval(), beyond

    def has_say(self, given: Proposals) -> bool:
        """Tell whether the network has a say in the estimate, or the rule alone makes it."""
        return pooling(given, self.beyond) is not None

    @torch.no_grad()
    def __call__(self, given: Proposals) -> Tensor:
        """Return the stack of estimates **[S, *image]**."""
        pool = pooling(given, self.beyond)
        if pool is None:
            return by_rule(given)
        seen, unit = channels(given, pool)
        self.network.to(seen.device)
        found = []
        for k, x in enumerate(seen):  # one at a time: they need room
            said = stretched(self.network.said(x[None])[0], pool, given.gate.shape)[None]
            alike, guided, free = (s[k][None, None] / unit for s in (given.alike, given.guided, given.mr_free))
            found.append(blended(alike, guided, free, said)[0, 0] * unit)
        return torch.stack(found)


def load_estimator(path: str | Path) -> TrainedEstimator:
    """Load an estimator from the state dict of a `VolumeUNet`.

    Raises:
        BundleError: There is no such file, or it holds other weights.
    """
    if not Path(path).is_file():
        raise BundleError(
            f"the weights of the network for volumes must be a file, got none at {path}; check the path, or do without "
            "the network (volume_network: false)."
        )
    network = VolumeUNet()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except (RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise BundleError(
            f"the weights of the network for volumes must be the state dict of a VolumeUNet, got another file at {path}"
            "; check the path."
        ) from error
    return TrainedEstimator(network)


def pooling(given: Proposals, beyond: float = 1.0) -> tuple[int, int, int] | None:
    """Return how many voxels along each axis are put together for the network; None where it was not trained for it."""
    operator = given.model.operator
    if any(operator.slices_mm) or not all(PSF[0] / beyond <= w <= PSF[1] * beyond for w in operator.fwhm_mm):
        return None
    spacing = operator.domain.spacing
    x, y, z = (max(1, round(_VOXEL / s)) for s in spacing)
    fits = all(SPACING[0] <= k * s <= SPACING[1] for k, s in zip((x, y, z), spacing, strict=True))
    return (x, y, z) if fits and float(_level(given.mri, given.mr_free[0])) > 0 else None


def channels(given: Proposals, pool: tuple[int, int, int]) -> tuple[Tensor, float]:
    """Return the channels **[S, C, *pooled]**, and the unit of the uptake among them.

    Args:
        given: The proposals.
        pool: Voxels along each axis that are put together.
    """
    model, free = given.model, given.mr_free
    operator = model.operator
    unit = float(_level(free[0], free[0]))
    left = (given.evidence, given.strong_evidence, significance(model, given.alike[0]))
    noise, *evidence = operator.lift(torch.stack([model.std, *left])[:, None])[:, 0]
    data = operator.lift(given.ys[:, None])[:, 0]
    voxel = math.prod(k * s for k, s in zip(pool, operator.domain.spacing, strict=True)) ** (1 / 3)
    width, native = (math.prod(v) ** (1 / 3) / voxel for v in (operator.fwhm_mm, operator.range.spacing))
    shared = [noise * (10 / unit), given.gate, *(torch.asinh(z) / 2 for z in evidence)]
    shared = [pooled(v[None], pool)[0] for v in (*shared, given.mri / _level(given.mri, free[0]))]
    shared += [torch.full_like(shared[0], math.log(v)) for v in (width, native)]
    stacks = (given.alike, given.strong, given.guided, free, data)
    own = ([pooled(stack[k][None] / unit, pool)[0] for stack in stacks] for k in range(len(free)))
    return torch.stack([torch.stack([*mine, *shared]) for mine in own]), unit


def _level(image: Tensor, uptake: Tensor) -> Tensor:
    """Return the median of an image where the uptake is high: air has no say in it, and a hot spot little."""
    high = uptake.square().sum() / uptake.sum().clamp_min(torch.finfo(uptake.dtype).tiny)
    return image[uptake >= high / 2].median()


def _cut(image: Tensor, shape: torch.Size) -> Tensor:
    """Return the first voxels of an image **[B, C, *image]**, **[B, C, *shape]**."""
    x, y, z = shape
    return image[:, :, :x, :y, :z]
