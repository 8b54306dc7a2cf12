"""Experiments on the pairs of the dev set: 8-bit PNG in and out, as for the methods beside which they stand."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfuse.bundles import load_spec
from medfuse.io import read_image, write_image
from medfuse.metrics import Images, measure
from medfuse.pipeline import fuse_images

FUSION = ("SSIM", "SSIM_min", "VIF", "SCD", "MI", "Qabf", "QMI", "QG")
SCENARIOS = {"clean": "none", "noise": "noise", "blur": "blur", "composite": "composite"}
STEPS = (1, 2, 3, 5)
_MEASURED = (*FUSION, "SSIM_1", "SSIM_2", "r1_PSNR", "r2_PSNR", "r1_SSIM", "r2_SSIM")
_SEED = 11


class Dev:
    """The clean pairs, the subject of each, and their scores."""

    def __init__(self, bench: Path, data: Path) -> None:
        self.bench = bench
        self.clean = bench / "dev" / "clean"
        self.names = sorted(p.stem for p in (self.clean / "mri").glob("*.png"))
        with (data / "harvard" / "splits.tsv").open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["split"] == "dev"]
        owner = {f"{row['modality']}_{row['stem']}": row["subject"] for row in rows}
        self.subjects = [owner[name] for name in self.names]

    def degraded(self, scenario: str) -> Path:
        """Return the folder of a scenario's degraded images."""
        return self.bench / "dev" / "deg" / scenario

    def judge(self, out: Path, degraded: Path) -> dict[str, Any]:
        """Score what was written; return the mean, its interval and the subjects' means of each metric."""
        rows = [self._judge(name, out, degraded) for name in self.names]
        summary: dict[str, Any] = {}
        for key in rows[0]:
            known = [(row[key], s) for row, s in zip(rows, self.subjects, strict=True) if math.isfinite(row[key])]
            values, owners = [v for v, _ in known], [s for _, s in known]
            each = {s: float(np.mean([v for v, o in known if o == s])) for s in sorted(set(owners))}
            summary[key] = {"mean": float(np.mean(values)), "interval": interval(values, owners), "subjects": each}
        summary["SSIM_min"]["mean"] = min(summary["SSIM_1"]["mean"], summary["SSIM_2"]["mean"])
        return summary

    def _judge(self, name: str, out: Path, degraded: Path) -> dict[str, float]:
        first, second = (read(self.clean / kind / f"{name}.png") for kind in ("mri", "fun"))
        restored1, restored2, fused = (read(out / kind / f"{name}.png") for kind in ("source1", "source2", "fused"))
        images = Images.of(fused, first, second, data_range=1.0, restored=(restored1, restored2))
        row = {k: float(v) for k, v in measure(images, _MEASURED).items()}
        for i, (kind, clean) in enumerate((("mri", first), ("fun", second)), start=1):
            row[f"d{i}_PSNR"] = _psnr(read(degraded / kind / f"{name}.png"), clean)
        return row


def scenarios(dev: Dev, work: Path) -> dict[str, Any]:
    """Run the paper's scenarios, each with several numbers of steps."""
    result: dict[str, Any] = {}
    for scenario, preset in SCENARIOS.items():
        for steps in STEPS:
            out, spec = work / f"{scenario}_{steps}", load_spec(preset)
            fuse_images(
                dev.degraded(scenario) / "mri", dev.degraded(scenario) / "fun", out, degradation=spec, steps=steps
            )
            result.setdefault(scenario, {})[str(steps)] = dev.judge(out, dev.degraded(scenario))
    return result


def unseen(dev: Dev, work: Path) -> dict[str, Any]:
    """Run degradations that are no preset, made by an independent simulator."""
    simulator = load_module(dev.bench / "degrade.py")
    result = {}
    for k, (name, (made, told)) in enumerate(_other_degradations().items()):
        folder = work / f"unseen_{k}"
        for kind, steps in zip(("mri", "fun"), made, strict=True):
            for stem in dev.names:
                clean = read(dev.clean / kind / f"{stem}.png")[0, 0].numpy() * 255
                y, _ = simulator.degrade(clean, steps, seed=_SEED, source=kind, name=stem)
                write_image(folder / kind / f"{stem}.png", y / 255, bits=8)
        spec = {"version": 1, "source1": told[0], "source2": told[1]}
        fuse_images(folder / "mri", folder / "fun", work / f"unseen_{k}_out", degradation=spec)
        result[name] = dev.judge(work / f"unseen_{k}_out", folder)
    return result


def _other_degradations() -> dict[str, tuple[tuple[Any, Any], tuple[Any, Any]]]:
    """Return, by name, the simulator's steps for both sources, and what medfuse is told of them."""
    motion, motion_told = (
        [{"op": "motion", "length": 15, "angle": 45}],
        [{"motion": {"length_px": 15, "angle_deg": 45}}],
    )
    poisson, poisson_told = [{"op": "poisson", "counts": 50}], [{"noise": {"kind": "poisson", "counts": 50}}]
    rician, rician_told = [{"op": "rician", "sigma": 15}], [{"noise": {"kind": "rician", "sigma": 15 / 255}}]
    gamma = [{"op": "gamma", "g": 0.8}]
    blur, noise = {"op": "blur", "sigma": 1.0}, {"op": "gaussian", "sigma": 10}
    blur_told, noise_told = {"blur": {"sigma_px": 1.0}}, {"noise": {"sigma": 10 / 255}}
    shrink, shrink_told = {"op": "down", "scale": 4, "kind": "average"}, {"downsample": {"factor": 4}}
    return {
        "motion of 15 px": ((motion, motion), (motion_told, motion_told)),
        "Poisson, 50 counts": ((poisson, poisson), (poisson_told, poisson_told)),
        "Rician, 15/255": ((rician, rician), (rician_told, rician_told)),
        "gamma 0.8, of which nothing is told": ((gamma, gamma), ([], [])),
        "blur of 1 px, function / 4, noise 10/255": (
            ([blur, noise], [blur, shrink, noise]),
            ([blur_told, noise_told], [blur_told, shrink_told, noise_told]),
        ),
    }


def wrong(dev: Dev, work: Path) -> dict[str, Any]:
    """Tell medfuse wrong parameters."""
    cases = {
        "noise, half the std told": ("noise", 0.5, 0.0),
        "noise, twice the std told": ("noise", 2.0, 0.0),
        "blur, 0.5 px less told": ("blur", 1.0, -0.5),
        "blur, 0.5 px more told": ("blur", 1.0, 0.5),
        "composite, half the std told": ("composite", 0.5, 0.0),
        "composite, twice the std told": ("composite", 2.0, 0.0),
        "composite, 0.5 px less told": ("composite", 1.0, -0.5),
        "composite, 0.5 px more told": ("composite", 1.0, 0.5),
    }
    result = {}
    for k, (name, (scenario, noise, blur)) in enumerate(cases.items()):
        degraded, spec = dev.degraded(scenario), _changed(load_spec(scenario), noise, blur)
        fuse_images(degraded / "mri", degraded / "fun", work / f"wrong_{k}", degradation=spec)
        result[name] = dev.judge(work / f"wrong_{k}", degraded)
    return result


def _changed(spec: Mapping[str, Any], noise: float, blur: float) -> dict[str, Any]:
    """Return a specification with the std of the noise scaled and the width of the blur shifted."""
    spec = json.loads(json.dumps(spec))
    for s in (*spec["source1"], *spec["source2"]):
        if "noise" in s:
            s["noise"]["sigma"] *= noise
        if "blur" in s:
            s["blur"]["sigma_px"] += blur
    return spec


def interval(values: Sequence[float], owners: Sequence[str]) -> list[float]:
    """Return the 95 % bootstrap interval of the mean; whole subjects are drawn."""
    _, owner = np.unique(np.array(owners), return_inverse=True)
    sums, counts = np.bincount(owner, weights=np.array(values)), np.bincount(owner)
    draws = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
    return np.quantile(sums[draws].sum(1) / counts[draws].sum(1), (0.025, 0.975)).tolist()


def load_module(path: Path) -> ModuleType:
    """Import a script by its path."""
    spec = importlib.util.spec_from_file_location(re.sub(r"\W", "_", path.stem), path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> Tensor:
    """Return an image **[1, 1, H, W]**, 0..1."""
    return torch.from_numpy(read_image(path).array).double()[None, None]


def _psnr(x: Tensor, clean: Tensor) -> float:
    """Return the PSNR in dB, at most 100; a smaller image is brought to size by bicubic interpolation."""
    if x.shape != clean.shape:
        x = torch.nn.functional.interpolate(x, clean.shape[2:], mode="bicubic", antialias=True).clamp(0, 1)
    return min(-10 * math.log10(max(float((x - clean).square().mean()), 1e-10)), 100.0)
