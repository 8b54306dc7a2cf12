"""What the network for volumes is trained on: phantoms of heads as a scanner measured them, and its loss.

An example is a head that was scanned and restored by `restore_volume` as far as the rule goes: the network sees in
training what it sees in use. It costs seconds, so it is made once and kept in a file; a training takes patches.

| | |
|---|---|
| brains | all that are given, in turn, deformed strongly (`draw_head`) |
| borders | within the MRI's voxels, as they are; in a fifth along them, as in phantoms that are made on one grid |
| MRI | T1 (three of five), T2 or PD, voxels of 1.4 to 2.6 mm, bias and noise |
| PET | voxels of 2 to 4.2 mm, PSF of 4 to 8 mm told up to 10 % wrong, turned, up to 2 mm off (`random_setting`) |
| skull | one head in six is a brain alone, in MRI and uptake; of one more, the MRI alone was stripped |
| registration | refined by the data in two thirds of them, as it is told in the others |
| noise | Poisson-like, coloured in half of them; its level is told 15 % wrong (std) |
| uptake | 0 to 20 % of texture that the MRI does not show |
| lesions | 24 to 48 spheres of 3 to 12 mm, in the PET alone (hot, cold), in the MRI alone or in both; none in a sixth |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor, nn
from torch.utils.data import Dataset

from medfuse.errors import BundleError, DegradationError
from medfuse.io import atomic_path
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.training.brains import Brain
from medfuse.training.phantoms import CONTRASTS
from medfuse.training.scans import ScanSetting, random_setting, scan
from medfuse.training.volumes import BRAIN, HeadPhantom, draw_head
from medfuse.volumes import Proposals, restore_volume
from medfuse.volumes.network import CHANNELS, UPTAKE, channels

TRUTH, MARK, TISSUE, COUNTS = range(4)
"""Channels of a label: true uptake, 1 + index of the lesion, most of which `Tissue`, and whether the voxel counts."""
_HARD = 5  # of so many heads one has borders along its voxels
_EXTENT = (168.0, 204.0, 168.0)  # mm, of a head
_MOST = (84, 102, 84)  # voxels; of finer ones a part of the head is seen
_MARGIN = 4  # voxels about the head that are kept
_RIM = 2  # voxels of a patch that do not count: the network sees less about them
_UPTAKE, _MRI = [CHANNELS.index(name) for name in UPTAKE], CHANNELS.index("MRI")


def write_examples(folder: str | Path, brains: Sequence[Brain], count: int, *, seed: int = 0) -> Path:
    """Write so many examples as `NNNNN.npz`, float16; those that are there stay, so it may be run again.

    An example whose guidance switches itself off is left out: the network is not asked there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        path = folder / f"{index:05d}.npz"
        if path.is_file():
            continue
        found = example(brains[index // _HARD % len(brains)], (7000, seed, index), hard=index % _HARD == _HARD - 1)
        if found is not None:
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, allow_pickle=False, image=found[0].half().numpy(), label=found[1].half().numpy())
    return folder


def example(brain: Brain, seed: Sequence[int], *, hard: bool = False) -> tuple[Tensor, Tensor] | None:
    """Return channels **[C, *image]** and label **[4, *image]** of a head, uptake in the unit of the channels.

    Args:
        brain: Brain that the head is drawn from.
        seed: Seed of everything random.
        hard: Whether borders run along the MRI's voxels, which hold one tissue each.

    Returns:
        None where guidance switches itself off.

    Raises:
        DegradationError: None of 20 PSFs that were drawn is one that the voxels can hold.
    """
    rng = np.random.default_rng([*seed, 99])
    spacing = float(rng.uniform(1.4, 2.6))
    x, y, z = (min(m, round(e / spacing)) for m, e in zip(_MOST, _EXTENT, strict=True))
    contrast = str(rng.choice(list(CONTRASTS), p=[0.6 if c == "t1" else 0.2 for c in CONTRASTS]))
    lesions = 0 if rng.random() < 1 / 6 else None
    kind = rng.random()
    bare, stripped = kind < 1 / 6, 1 / 12 <= kind < 1 / 3
    what: dict[str, Any] = {"contrast": contrast, "lesions": lesions, "fine": 1 if hard else 2, "bare": bare}
    phantom = draw_head(brain, seed=seed, shape=(x, y, z), spacing=spacing, **what).phantom()
    if stripped:
        phantom = replace(phantom, mri=phantom.mri * np.isin(phantom.labels, BRAIN))
    for attempt in range(20):
        try:
            found = _proposed(phantom, random_setting([*seed, attempt]), rng)
        except DegradationError:  # a PSF that its voxels cannot hold
            continue
        return None if found is None else _kept(*found, phantom)
    raise DegradationError("a PSF that the voxels can hold must be among 20 draws, got none; change the settings.")


class _Proposed(Exception):  # noqa: N818 - it is no error
    """Carries the proposals out of a restoration, which ends there."""

    def __init__(self, given: Proposals) -> None:
        super().__init__()
        self.given = given


def _taken(given: Proposals) -> Tensor:
    raise _Proposed(given)


def _proposed(phantom: HeadPhantom, setting: ScanSetting, rng: Generator) -> tuple[Proposals, float] | None:
    """Return the proposals of a scan, and what is 1 in their unit."""
    one = scan(phantom, setting, seed=int(rng.integers(2**31)))
    noise = replace(one.noise, sigma=one.noise.sigma * float(np.exp(0.15 * rng.standard_normal())))
    pet, mri, place = torch.from_numpy(one.data), torch.from_numpy(phantom.mri), one.transform.tolist()
    told = (place, one.fwhm_mm)
    inside = ScannerSampling(phantom.grid, one.grid, one.fwhm_mm, place).inside
    try:
        restore_volume(
            pet, one.grid, mri, phantom.grid, *told, noise, refine=bool(rng.random() < 2 / 3), estimator=_taken
        )
    except _Proposed as proposed:
        return proposed.given, float(pet[inside].max())
    return None


def _kept(given: Proposals, unit: float, phantom: HeadPhantom) -> tuple[Tensor, Tensor]:
    stacks = ("guided", "mr_free", "strong", "alike", "ys")
    seen, scale = channels(given._replace(**{k: getattr(given, k)[:1] for k in stacks}), (1, 1, 1))
    truth, measured = torch.from_numpy(phantom.pet), given.rim.within(given.model.operator.seen)
    known = (torch.from_numpy(v.astype(np.float32)) for v in (phantom.marks, phantom.labels))
    label = torch.stack([truth / (unit * scale), *known, measured.float()])
    at = torch.nonzero(truth > 0)
    low = (at.amin(0) - _MARGIN).clamp_min(0).tolist()
    high = [min(v + 1 + _MARGIN, n) for v, n in zip(at.amax(0).tolist(), truth.shape, strict=True)]
    box = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
    return given.rim.within(seen[0])[box].contiguous(), label[box].contiguous()


class VolumePatches(Dataset[dict[str, Tensor]]):
    """Patches of examples, drawn in order by a seed: half of them about a lesion, the others anywhere in a brain.

    They are mirrored and turned in all ways that a cube can be; uptake and MRI come in units up to 15 % off, as what
    sets the unit of a case is.
    """

    def __init__(self, folder: str | Path, *, size: int = 32, length: int = 10_000, seed: int = 0) -> None:
        """Read all examples.

        Args:
            folder: What `write_examples` wrote.
            size: Edge of a patch, voxels.
            length: Number of patches.
            seed: Seed of the draws.

        Raises:
            BundleError: There is no example.
        """
        self.size, self.length, self.seed = size, length, seed
        self.examples = []
        for path in sorted(Path(folder).glob("*.npz")):
            with np.load(path, allow_pickle=False) as stored:
                image, label = torch.from_numpy(stored["image"]), torch.from_numpy(stored["label"])
            if min(image.shape[1:]) < size:
                raise BundleError(f"an example must be at least {size} voxels wide, got {tuple(image.shape[1:])}.")
            solid = (label[TISSUE] >= min(BRAIN)) & (label[TISSUE] <= max(BRAIN))
            brain, lesion = (torch.nonzero(v)[:: max(1, int(v.sum()) // 5000)] for v in (solid, label[MARK] > 0))
            self.examples.append((image, label, brain, lesion))
        if not self.examples:
            raise BundleError(f"there must be examples in {folder}, got none; write them with `write_examples`.")

    def __len__(self) -> int:
        """Return the number of patches."""
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return a patch: `image` **[C, *patch]** and `label` **[4, *patch]**."""
        rng = np.random.default_rng((self.seed, index))
        image, label, brain, lesion = self.examples[rng.integers(len(self.examples))]
        places = lesion if len(lesion) and rng.random() < 0.5 else brain
        middle = places[rng.integers(len(places))].numpy() + rng.integers(-6, 7, 3)
        low = [int(np.clip(m - self.size // 2, 0, n - self.size)) for m, n in zip(middle, image.shape[1:], strict=True)]
        box = (slice(None), *(slice(a, a + self.size) for a in low))
        image, label = image[box].float(), label[box].float()
        border = torch.zeros_like(label[COUNTS])
        border[(slice(_RIM, -_RIM),) * 3] = 1
        label[COUNTS] *= border
        unit, mri = np.exp(rng.uniform(-0.15, 0.15, 2))
        image[_UPTAKE] *= float(unit)
        label[TRUTH] *= float(unit)
        image[_MRI] *= float(mri)
        turned = [0, *(1 + int(d) for d in rng.permutation(3))]
        mirrored = [d for d in (1, 2, 3) if rng.random() < 0.5]
        return {k: v.permute(turned).flip(mirrored).contiguous() for k, v in (("image", image), ("label", label))}


class VolumeLoss(nn.Module):
    """Error of the uptake, more in lesions and at borders, and errors of means: of a lesion, a tissue, a place.

        L = sum w (e^2 + c |e|) / sum w + l mean_lesions (mean e)^2 + t mean_tissues (mean e)^2 + d mean (M e)^2

    `e` is in the unit of the channels, about that of grey matter. `w` is 1 in the brain, less elsewhere, and more at
    borders of tissues and in lesions, the more so the smaller they are: a sphere of 4 mm has few voxels. `M` is the
    mean over 3 x 3 x 3 voxels, about what a PSF sees: an error that it holds contradicts the data.
    """

    def __init__(
        self,
        *,
        absolute: float = 0.1,
        lesion: float = 0.3,
        tissue: float = 4.0,
        border: float = 0.5,
        beyond: float = 0.2,
        data: float = 1.0,
    ) -> None:
        """Weigh the terms.

        Args:
            absolute: Weight `c` of the absolute error.
            lesion: Weight `l` of the means of lesions.
            tissue: Weight `t` of the means of tissues in a patch.
            border: What a voxel at a border of tissues counts more.
            beyond: What a voxel beyond the brain counts.
            data: Weight `d` of the means about each voxel.
        """
        super().__init__()
        self.absolute, self.lesion, self.tissue, self.border, self.beyond = absolute, lesion, tissue, border, beyond
        self.data = data

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return the loss of estimates **[B, 1, *patch]** for labels **[B, 4, *patch]**."""
        truth, mark, tissue, counts = label.unbind(1)
        e = x[:, 0] - truth
        brain = (tissue >= min(BRAIN)) & (tissue <= max(BRAIN))
        edge = F.max_pool3d(tissue, 3, 1, 1) != -F.max_pool3d(-tissue, 3, 1, 1)
        sizes, means = _means(e, mark, counts, mark > 0)
        w = torch.where(brain, 1.0, self.beyond) * (1 + self.border * edge)
        w = w + _of_lesions((60 / sizes.clamp_min(1)).clamp(0.3, 2.0), mark)
        w = w * counts
        loss = (w * (e.square() + self.absolute * e.abs())).sum() / w.sum().clamp_min(1)
        nearby = F.avg_pool3d(e * counts, 3, 1, 1, count_include_pad=False).square()
        loss = loss + self.data * (counts * nearby).sum() / counts.sum().clamp_min(1)
        seen = sizes >= 8
        if bool(seen.any()):
            loss = loss + self.lesion * means[seen].square().mean()
        sizes, means = _means(e, tissue, counts, brain & (mark == 0))
        seen = sizes >= 64
        if bool(seen.any()):
            loss = loss + self.tissue * means[seen].square().mean()
        return loss


def _numbered(key: Tensor) -> tuple[Tensor, int]:
    """Return whole numbers that are others for each value and each patch of a batch, and how many there may be."""
    most = int(key.max()) + 1
    batch = torch.arange(len(key), device=key.device).reshape(-1, 1, 1, 1)
    return key.long() + most * batch, most * len(key)


def _means(e: Tensor, key: Tensor, counts: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of voxels and the mean of `e` of each value of a key in each patch."""
    index, most = _numbered(key)
    weight = (counts * where).flatten()
    sizes = torch.zeros(most, device=e.device).index_add_(0, index.flatten(), weight)
    sums = torch.zeros(most, device=e.device).index_add_(0, index.flatten(), weight * e.flatten())
    return sizes, sums / sizes.clamp_min(1)


def _of_lesions(values: Tensor, mark: Tensor) -> Tensor:
    """Return the value of the lesion that a voxel is in, 0 beyond."""
    index, _ = _numbered(mark)
    return values[index] * (mark > 0)
