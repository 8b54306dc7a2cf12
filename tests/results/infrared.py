"""The pairs of visible and infrared images: their dev set, colours and speed."""

from __future__ import annotations

import math
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results.classical import GAINS, RESTORATIONS
from results.images import SCENARIOS, DevSet, luma, psnr, read
from torch import Tensor

from medfuse.bundles import load_spec
from medfuse.fusion.color import rgb_to_ycbcr
from medfuse.metrics import colour_fidelity
from medfuse.pipeline import Fusion, fuse_images

FUSION = ("SSIM", "SSIM_min", "VIF", "SCD", "MI", "Qabf")
SETS = {"roadscene": "RoadScene", "m3fd": "M3FD", "tno": "TNO"}
_ONE_SCENE = {"m3fd_00033": "m3fd_00000", "tno_04": "tno_03"}  # a moment later
_COLOURED = 0.05  # length of Cb and Cr above which a pixel has a hue


class InfraredDev(DevSet):
    """The pairs of visible and infrared images, the scene and the set of each."""

    kinds, metrics, parts_are, steps = ("vis", "ir"), FUSION, "sets", 3
    tried = (1, 2, 3, 5)

    def __init__(self, bench: Path) -> None:
        super().__init__(bench / "irvis_dev")
        self.owners = [_ONE_SCENE.get(name, name) for name in self.names]
        self.parts = [SETS[name.split("_")[0]] for name in self.names]

    def scores(self, name: str, out: Path, degraded: Path) -> dict[str, float]:
        """Score one pair: its luma, each channel of the visible image, and the hue of the fused one."""
        file = f"{name}.png"
        folders = (self.clean / "vis", degraded / "vis", out / "source1", out / "fused")
        clean, before, after, fused = (read(folder / file).expand(-1, 3, -1, -1) for folder in folders)
        row = super().scores(name, out, degraded)
        for i, channel in enumerate("RGB"):
            for kind, image in (("d", before), ("r", after)):
                row[f"{kind}1_{channel}_PSNR"] = psnr(image[:, i : i + 1], clean[:, i : i + 1])
        row["hue"] = turned(clean, fused)
        row["hue_lab"] = float(colour_fidelity(clean, fused, data_range=1.0)["dH_deg"])
        return row


def classical(dev: InfraredDev) -> dict[str, dict[str, float]]:
    """Return the PSNR of luma, R, G and B that a classical restoration of each by itself gives, by scenario."""
    figures: dict[str, dict[str, float]] = {}
    for scenario, restore in RESTORATIONS.items():
        rows = []
        for name in dev.names:
            clean, before = (
                _luma_and_channels(folder / "vis" / f"{name}.png") for folder in (dev.clean, dev.degraded(scenario))
            )
            after = torch.from_numpy(np.stack([restore(*v) for v in zip(before.numpy(), GAINS, strict=True)]))
            after = (after.clamp(0, 1) * 255).round() / 255
            rows.append([psnr(x, y) for x, y in zip(after, clean, strict=True)])
        figures[scenario] = dict(zip(("luma", *"RGB"), np.mean(rows, 0).tolist(), strict=True))
    return figures


def _luma_and_channels(path: Path) -> Tensor:
    """Return **[4, H, W]**."""
    image = read(path).double()
    return torch.cat([luma(image), image.expand(-1, 3, -1, -1)], 1)[0]


def turned(reference: Tensor, image: Tensor) -> float:
    """Return the mean angle in degrees between colours **[1, 3, H, W]** in the plane of Cb and Cr; NaN of grey images.

    Of pixels that are coloured in the reference, weighed by the lesser chroma of both.
    """
    (b1, r1), (b2, r2) = (rgb_to_ycbcr(x.movedim(1, -1))[..., 1:].unbind(-1) for x in (reference, image))
    angle = torch.atan2(b1 * r2 - r1 * b2, b1 * b2 + r1 * r2).abs()
    chroma = b1.hypot(r1)
    weight = torch.minimum(chroma, b2.hypot(r2)) * (chroma > _COLOURED)
    return math.degrees(float((angle * weight).sum() / weight.sum()))


def speed(dev: InfraredDev, fusion: Fusion, work: Path, *, repeats: int = 3) -> dict[str, Any]:
    """Return the megapixels per second of the images of 1024 x 768, noisy and in colour; T = 3, the best run counts."""
    scenario, folders = "noise", [work / "speed" / kind for kind in dev.kinds]
    for folder in folders:
        folder.mkdir(parents=True)
        for path in (dev.degraded(scenario) / folder.name).glob("m3fd_*.png"):
            shutil.copy(path, folder)
    spec = load_spec(SCENARIOS[scenario], fusion.bundle)
    runs = [fuse_images(*folders, work / "speed" / "out", bundle=fusion, degradation=spec) for _ in range(repeats)]
    return {
        "megapixels_per_second": max(run["speed"]["megapixels_per_second"] for run in runs),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }
