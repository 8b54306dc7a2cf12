"""Experiments on the pairs of a dev set: 8-bit PNG in and out, as for the methods beside which they stand."""

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
from medfuse.fusion.color import rgb_to_ycbcr
from medfuse.io import read_image, write_image
from medfuse.metrics import Images, measure
from medfuse.pipeline import Fusion, fuse_images

FUSION = ("SSIM", "SSIM_min", "VIF", "SCD", "MI", "Qabf", "QMI", "QG")
ANATOMY = ("anatomy_corr", "anatomy_gain", "function_gain", "uptake_rank")
SCENARIOS = {"clean": "none", "noise": "noise", "blur": "blur", "composite": "composite"}
RESTORED = 3  # steps of what is restored alone: they change the fused image
_RESTORATION = ("SSIM_1", "SSIM_2", "r1_PSNR", "r2_PSNR", "r1_SSIM", "r2_SSIM")
_SEED = 11


class DevSet:
    """Clean and degraded pairs, and the scores of what was made of them.

    Attributes:
        kinds: Folders of source 1 and source 2.
        metrics: Metrics of the fused image.
        parts_are: What the figures call the parts.
        steps: Those of which the page speaks.
        tried: All that are measured.
        owners: Whom each pair is of; intervals draw these, as pairs of one owner are not independent.
        parts: The part of the dev set that each pair is in; each has a mean of its own.
        names: The pairs.
    """

    kinds: tuple[str, str]
    metrics: tuple[str, ...]
    parts_are: str
    steps: int
    tried: tuple[int, ...]
    owners: list[str]
    parts: list[str]

    def __init__(self, root: Path) -> None:
        self.root, self.clean = root, root / "clean"
        self.names = sorted(p.stem for p in (self.clean / self.kinds[0]).glob("*.png"))

    def degraded(self, scenario: str) -> Path:
        """Return the folder of a scenario's degraded images."""
        return self.root / "deg" / scenario

    def judge(self, out: Path, degraded: Path) -> dict[str, Any]:
        """Score what was written; return the mean, its interval and the parts' means of each metric.

        SSIM_min is that source's SSIM of which the mean is lower: of other methods no more is known than their means.
        """
        rows = [self.scores(name, out, degraded) for name in self.names]
        summary: dict[str, Any] = {}
        for key in rows[0]:
            of_all = zip((row[key] for row in rows), self.owners, self.parts, strict=True)
            known = [(value, owner, part) for value, owner, part in of_all if math.isfinite(value)]
            values, owners, parts = zip(*known, strict=True)
            each = {p: float(np.mean([v for v, _, part in known if part == p])) for p in sorted(set(parts))}
            summary[key] = {"mean": float(np.mean(values)), "interval": interval(values, owners), self.parts_are: each}
        summary["SSIM_min"] = min((summary["SSIM_1"], summary["SSIM_2"]), key=lambda found: found["mean"])
        return summary

    def scores(self, name: str, out: Path, degraded: Path) -> dict[str, float]:
        """Score one pair, an image in colour by its luma; NaN where a metric is not defined."""
        clean = [luma(read(self.clean / kind / f"{name}.png")) for kind in self.kinds]
        *restored, fused = (luma(read(out / kind / f"{name}.png")) for kind in ("source1", "source2", "fused"))
        images = Images.of(fused, *clean, data_range=1.0, restored=(restored[0], restored[1]))
        row = {k: float(v) for k, v in measure(images, (*self.metrics, *_RESTORATION)).items()}
        for i, kind in enumerate(self.kinds):
            row[f"d{i + 1}_PSNR"] = psnr(luma(read(degraded / kind / f"{name}.png")), clean[i])
        return row


class Dev(DevSet):
    """The pairs of MRI and function, and the subject of each."""

    kinds, metrics, parts_are, steps = ("mri", "fun"), (*FUSION, *ANATOMY), "subjects", 1
    tried = (1, 3)

    def __init__(self, bench: Path, data: Path) -> None:
        super().__init__(bench / "dev")
        self.bench = bench
        with (data / "harvard" / "splits.tsv").open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["split"] == "dev"]
        owner = {f"{row['modality']}_{row['stem']}": row["subject"] for row in rows}
        self.owners = self.parts = [owner[name] for name in self.names]

    def sources(self, out: Path) -> dict[str, float]:
        """Return what each restored source has itself of its detail: the most that a rule can keep of it.

        The restored source stands in the place of the fused image.
        """
        rows = []
        for name in self.names:
            clean = [read(self.clean / kind / f"{name}.png") for kind in self.kinds]
            first, second = (
                measure(Images.of(read(out / kind / f"{name}.png"), *clean, data_range=1.0), ANATOMY[:3])
                for kind in ("source1", "source2")
            )
            rows.append({k: float((second if k == "function_gain" else first)[k]) for k in first})
        return {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}


def scenarios(dev: DevSet, fusion: Fusion, work: Path) -> dict[str, Any]:
    """Run the paper's scenarios, each with several numbers of steps."""
    result: dict[str, Any] = {}
    for scenario, preset in SCENARIOS.items():
        degraded, spec = dev.degraded(scenario), load_spec(preset, fusion.bundle)
        for steps in dev.tried:
            out = work / f"{scenario}_{steps}"
            fuse_images(*(degraded / k for k in dev.kinds), out, bundle=fusion, degradation=spec, steps=steps)
            result.setdefault(scenario, {})[str(steps)] = dev.judge(out, degraded)
        if isinstance(dev, Dev):
            result[scenario]["sources"] = dev.sources(work / f"{scenario}_{dev.steps}")
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
        fuse_images(
            folder / "mri", folder / "fun", work / f"unseen_{k}_out", degradation=spec, steps=RESTORED, device="cpu"
        )
        result[name] = _of_sources(dev.judge(work / f"unseen_{k}_out", folder))
    return result


def _other_degradations() -> dict[str, tuple[tuple[Any, Any], tuple[Any, Any]]]:
    """Return, by name, the simulator's steps for both sources, and what medfuse is told of them."""
    motion, motion_told = (
        [{"op": "motion", "length": 15, "angle": 45}],
        [{"motion": {"length_px": 15, "angle_deg": 45}}],
    )
    poisson, poisson_told = [{"op": "poisson", "counts": 50}], [{"noise": {"kind": "poisson", "counts": 50}}]
    rician, rician_told = [{"op": "rician", "sigma": 15}], [{"noise": {"kind": "rician", "sigma": 15 / 255}}]
    gamma, gamma_told = [{"op": "gamma", "g": 0.8}], [{"gamma": {"exponent": 0.8}}]
    blur, noise = {"op": "blur", "sigma": 1.0}, {"op": "gaussian", "sigma": 10}
    blur_told, noise_told = {"blur": {"sigma_px": 1.0}}, {"noise": {"sigma": 10 / 255}}
    shrink, shrink_told = {"op": "down", "scale": 4, "kind": "average"}, {"downsample": {"factor": 4}}
    return {
        "motion of 15 px": ((motion, motion), (motion_told, motion_told)),
        "Poisson, 50 counts": ((poisson, poisson), (poisson_told, poisson_told)),
        "Rician, 15/255": ((rician, rician), (rician_told, rician_told)),
        "gamma 0.8": ((gamma, gamma), (gamma_told, gamma_told)),
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
        fuse_images(
            degraded / "mri", degraded / "fun", work / f"wrong_{k}", degradation=spec, steps=RESTORED, device="cpu"
        )
        result[name] = _of_sources(dev.judge(work / f"wrong_{k}", degraded))
    return result


def _of_sources(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures that no fusion rule has a part in."""
    return {key: value for key, value in figures.items() if key.startswith(("d1_", "d2_", "r1_", "r2_"))}


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
    """Return an image **[1, 1, H, W]**, or in colour **[1, 3, H, W]**, 0..1."""
    image = torch.from_numpy(read_image(path, color=True).array).double()
    return image[None, None] if image.ndim == 2 else image.movedim(-1, 0)[None]


def luma(image: Tensor) -> Tensor:
    """Return the luma **[1, 1, H, W]** of an image in colour; a grey one is its own."""
    return image if image.shape[1] == 1 else rgb_to_ycbcr(image.movedim(1, -1)).movedim(-1, 1)[:, :1]


def psnr(x: Tensor, clean: Tensor) -> float:
    """Return the PSNR in dB, at most 100; a smaller image is brought to size by bicubic interpolation."""
    if x.shape != clean.shape:
        x = torch.nn.functional.interpolate(x, clean.shape[2:], mode="bicubic", antialias=True).clamp(0, 1)
    return min(-10 * math.log10(max(float((x - clean).square().mean()), 1e-10)), 100.0)
