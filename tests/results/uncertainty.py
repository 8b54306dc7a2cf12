"""Calibrates how sure a restoration is, and checks it on others: `python tests/results/uncertainty.py BENCH`.

BENCH is the folder of the instrument, with `dev/` and `phantom.py`. The people of the dev set are parted in two halves;
the factors of `medfuse.regions.intervals` are the quantiles on the first, the coverage is counted on the second, and on
phantoms. Printed as JSON. With `--most N`, N pairs of each set alone, to try it out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, gaussian_filter
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results.images import load_module
from results.phantoms import SPEC

from medfuse.bundles import load_spec
from medfuse.inferers.bootstrap import observed_again
from medfuse.io import read_image
from medfuse.physics import JointDegradation, parse_degradation
from medfuse.pipeline import Fusion, load_fusion
from medfuse.regions.intervals import LEAST, LEVELS, REGION_FACTORS, VOXEL_FACTORS, level_of

PRESETS = ("noise", "blur", "composite")
FIRST_HALF = ("ct_21", "spect_36")  # people on whom the factors are found
DRAWS, RADII, PER_RADIUS, ALIKE = 6, (3, 5, 8, 13, 22, 36), 14, 0.12
PHANTOMS = {
    "phantoms": (0.0, 1.0),
    "MRI off by 2 px": (2.0, 1.0),
    "PSF 10 % wide": (0.0, 1.1),
    "PSF 10 % narrow": (0.0, 0.9),
}


@dataclass(frozen=True)
class Case:
    """A pair of which the truth is known: set, name, truth and given **[1, 2, H, W]**, what was stated, labels."""

    of: str
    name: str
    truth: Tensor
    given: Tensor
    stated: JointDegradation
    labels: np.ndarray | None = None


def dev_cases(bench: Path, most: int | None) -> Iterator[Case]:
    names = sorted(path.stem for path in (bench / "dev" / "clean" / "fun").glob("*.png"))[:most]
    for preset in PRESETS:
        for name in names:
            truth, given = (_pair(bench / "dev" / folder, name) for folder in ("clean", f"deg/{preset}"))
            half = "first half" if name.startswith(FIRST_HALF) else "second half"
            yield Case(f"{half}, {preset}", name, truth, given, parse_degradation(load_spec(preset)))


def phantom_cases(bench: Path, most: int | None) -> Iterator[Case]:
    maker = load_module(bench / "phantom.py")
    true = parse_degradation(SPEC)
    for of, (shift, width) in PHANTOMS.items():
        for case in range(min(most or 5, 5)):
            images, labels, _ = maker.case(256, np.random.default_rng([7, case]))
            rng = np.random.default_rng([3, case])
            texture = gaussian_filter(rng.normal(size=(256, 256)), 4)
            pet = images["pet"] / images["pet"].max() * (1 + 0.08 * texture / texture.std()) / 1.24
            mri = np.roll(images["mr"] / images["mr"].max(), round(shift), 0)
            truth = torch.from_numpy(np.stack([mri, pet])).float()[None]
            generator = torch.Generator().manual_seed(50 + case)
            given = torch.cat([part.simulate(truth[:, i : i + 1], generator) for i, part in enumerate(true)], 1)
            blur, noise = SPEC["source2"]
            wide = [{"blur": {"sigma_px": blur["blur"]["sigma_px"] * width}}, noise]
            yield Case(of, str(case), truth, given, parse_degradation({**SPEC, "source2": wide}), labels)


def measured(fusion: Fusion, case: Case) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return errors and deviations of the voxels of the head, of both sources, and of regions of source 2."""
    found = fusion(case.given, degradation=case.stated, steps=1)
    x, std = (torch.cat([found[f"{name}{k}"] for k in (1, 2)], 1)[0] for name in ("source", "std"))
    draws = []
    for seed in range(DRAWS):
        again = observed_again(x[None], case.given, case.stated, torch.Generator().manual_seed(seed))
        draws.append((fusion(again, degradation=case.stated, steps=1)["source2"][0, 0] - x[1]).numpy())
    error = (x - case.truth[0]).numpy()
    head = binary_fill_holes(gaussian_filter(x[0].numpy(), 2.0) > 0.06)
    voxels = []
    for k in (0, 1):
        inside = head & (x[k].numpy() > 0.01)
        voxels.append({"of": case.of, "source": k, "error": np.abs(error[k][inside]), "std": std[k].numpy()[inside]})
    inside = head & (x[1].numpy() > 0.01)
    level = level_of(std[1][..., None], [draw[..., None] for draw in draws], (x[0][..., None], x[1][..., None]))
    regions = []
    for region in _regions(inside, x[0].numpy(), case.labels):
        means = [draw[region].mean() for draw in draws]
        regions.append({
            "of": case.of,
            "voxels": int(region.sum()),
            "error": abs(float(error[1][region].mean())),
            "drawn": float(np.sqrt(level * np.mean(np.square(means)))),
            "independent": float(np.sqrt(np.square(std[1].numpy()[region]).mean() / region.sum())),
        })  # fmt: skip
    return voxels, regions


def _regions(inside: np.ndarray, mri: np.ndarray, labels: np.ndarray | None) -> Iterator[np.ndarray]:
    """Give discs of one tissue, as the MRI shows it, about random places; then labels."""
    rng = np.random.default_rng(1)
    places, (y, x) = np.argwhere(inside), np.mgrid[: mri.shape[0], : mri.shape[1]]
    for radius in RADII:
        for centre in places[rng.integers(len(places), size=PER_RADIUS)]:
            disc = inside & ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2)
            disc &= np.abs(mri - mri[tuple(centre)]) < ALIKE
            if disc.sum() >= LEAST:
                yield disc
    if labels is not None:
        yield from (region for label in np.unique(labels[labels > 0]) if (region := labels == label).sum() >= LEAST)


def _pair(folder: Path, name: str) -> Tensor:
    images = [read_image(folder / kind / f"{name}.png").array for kind in ("mri", "fun")]
    side = max(image.shape[0] for image in images)
    images = [image.repeat(side // image.shape[0], 0).repeat(side // image.shape[1], 1) for image in images]
    return torch.from_numpy(np.stack(images)).float()[None]


def coverage(error: np.ndarray, deviation: np.ndarray, factors: Sequence[float]) -> list[float]:
    """Return the share of errors within each factor of the deviation, %."""
    return [round(100 * float((error <= factor * deviation).mean()), 1) for factor in factors]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path)
    parser.add_argument("--most", type=int)
    options = parser.parse_args()
    fusion = load_fusion("pet_mri_fusion", device="cpu")
    voxels: list[dict[str, Any]] = []
    regions: list[dict[str, Any]] = []
    for cases in (dev_cases, phantom_cases):
        for case in cases(options.bench, options.most):
            for all_, own in zip((voxels, regions), measured(fusion, case), strict=True):
                all_ += own
    report: dict[str, Any] = {"levels": LEVELS}
    for source in (0, 1):
        own = [v for v in voxels if v["source"] == source and v["of"].startswith("first half")]
        if own:
            ratio = np.concatenate([v["error"] / v["std"] for v in own])
            report[f"voxel_factors_{source + 1}"] = np.quantile(ratio, LEVELS).round(3).tolist()
        for of in dict.fromkeys(v["of"] for v in voxels):
            some = [v for v in voxels if v["source"] == source and v["of"] == of]
            error, std = (np.concatenate([v[key] for v in some]) for key in ("error", "std"))
            thirds = np.array_split(np.argsort(std), 3)
            found = coverage(error, std, VOXEL_FACTORS[source])
            width = VOXEL_FACTORS[source][-1] * std.mean() / max(float(np.quantile(error, found[-1] / 100)), 1e-9)
            report[f"voxels of source {source + 1}, {of}"] = {
                "coverage": found,
                "thirds at 95": [coverage(error[t], std[t], VOXEL_FACTORS[source][-1:])[0] for t in thirds],
                "width over constant": round(float(width), 2),
            }
    own_regions = [r for r in regions if r["of"].startswith("first half")]
    if own_regions:
        ratio = np.array([r["error"] / r["drawn"] for r in own_regions])
        report["region_factors"] = np.quantile(ratio, LEVELS).round(3).tolist()
    for of in dict.fromkeys(r["of"] for r in regions):
        error, drawn, independent = (
            np.array([r[key] for r in regions if r["of"] == of]) for key in ("error", "drawn", "independent")
        )
        report[f"regions, {of}"] = {
            "count": len(error),
            "coverage": coverage(error, drawn, REGION_FACTORS),
            "as if voxels were independent, 95": coverage(error, independent, (1.96,))[0],
        }
    json.dump(report, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
