"""Pictures of what goes wrong, from the shipped cases alone: what was told, what had happened, and the error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from results.pictures import demo_slice
from torch import Tensor

from medfuse.physics import parse_degradation
from medfuse.pipeline import Fusion
from medfuse.report import save_contact_sheet
from medfuse.training.degrade import degrade

TITLES = ("MRI, true", "degraded", "restored", "error x 4", "PET, true", "degraded", "restored", "error x 4")
NOISE = {"noise": {"kind": "gaussian", "sigma": 0.1}}
FAILURES: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {  # what happened, what was told
    "nothing told": ({"blur": {"sigma_px": 1.5}}, {}),
    "blur too wide": ({"blur": {"sigma_px": 1.0}}, {"blur": {"sigma_px": 2.5}}),
    "half the noise": (NOISE, {"noise": {"kind": "gaussian", "sigma": 0.05}}),
    "twice the noise": (NOISE, {"noise": {"kind": "gaussian", "sigma": 0.2}}),
    "detail destroyed": ({"downsample": {"factor": 4}}, {"downsample": {"factor": 4}}),
}


def failures(fusion: Fusion, path: Path) -> dict[str, tuple[float, float]]:
    """Draw each failure on the shipped sarcoma; return the PSNR in dB of the degraded and of the restored MRI."""
    clean, rows, found = demo_slice("sts_case"), [], {}
    for name, (happened, told) in FAILURES.items():
        inputs = degrade(clean, parse_degradation(_both(happened)), torch.Generator().manual_seed(0), stored=True)
        out = fusion(inputs, degradation=_both(told))
        images = []
        for i, key in enumerate(("source1", "source2")):
            restored, true = out[key][0, 0], clean[0, i]
            images += [true, inputs[0, i], restored, 4 * (restored - true).abs()]
        found[name] = (_psnr(images[1], images[0]), _psnr(images[2], images[0]))
        rows.append((name, [image.clamp(0, 1) for image in images]))
    save_contact_sheet(path, rows, TITLES, title="What goes wrong", notes=("Research use only.",))
    return found


def _both(step: Mapping[str, Any]) -> dict[str, Any]:
    steps = [dict(step)] if step else []
    return {"version": 1, "source1": steps, "source2": steps}


def _psnr(image: Tensor, true: Tensor) -> float:
    return float(-10 * (image - true).square().mean().log10())
