"""Experiments on phantoms of which the truth is known: quantities, lesions, and agreement with the data.

Floats throughout, nothing is clipped. The MRI is blurred by 0.8 px with noise of 10/255, the PET by 4 px FWHM with 60
counts at full range. Twins without some of the lesions share the noise, so that their difference is the response to
those lesions alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results.images import RESTORED, load_module
from scipy import ndimage
from torch import Tensor

from medfuse.metrics import regional_quantitation
from medfuse.physics import bind, parse_degradation
from medfuse.pipeline import Fusion

PET_SIGMA = 4.0 / 2.3548200450309493
SPEC: dict[str, Any] = {
    "version": 1,
    "source1": [{"blur": {"sigma_px": 0.8}}, {"noise": {"sigma": 10 / 255}}],
    "source2": [{"blur": {"sigma_px": PET_SIGMA}}, {"noise": {"kind": "poisson", "counts": 60}}],
}
DEGRADATION = parse_degradation(SPEC)
RIDGES = {"Wiener filter": 0.02, "Wiener filter of least error": 0.05}
"""Ridges of the counterparts; the second, of 0.005, 0.01, 0.02, 0.05, 0.1 and more, errs least on these phantoms."""
METHODS = {"medfuse": "all", "input": "input", **dict(zip(RIDGES, RIDGES, strict=True))}
REGIONS = {1: "white matter", 2: "grey matter", 3: "CSF", 4: "deep nuclei"}
_WHITE, _LARGE, _WIDTH, _PROBE = 1, 200, 4.0, 0.25


def phantoms(fusion: Fusion, bench: Path, *, cases: int = 5, seeds: int = 20) -> dict[str, float]:
    """Return the means over cases and noise seeds, by name."""
    maker = load_module(bench / "phantom.py")
    rows: list[dict[str, float]] = []
    for case in range(cases):
        images, labels, lesions = maker.case(256, np.random.default_rng([0, case]))
        twins = _twins(images, lesions)
        means, single = _run(fusion, twins, case, seeds)
        rows += [
            single,
            *_quantities(twins["all"][0], means, labels, lesions),
            *_responses(twins, means, labels, lesions),
        ]
    keys = sorted({k for row in rows for k in row})
    return {k: float(np.nanmean([row[k] for row in rows if k in row])) for k in keys}


def _twins(images: Mapping[str, Any], lesions: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return the pair **[1, 2, H, W]** with all lesions, without those of the PET alone, and of the MRI alone."""

    def pair(mr: str, pet: str) -> Tensor:
        stacked = np.stack([images[mr] / images["mr"].max(), images[pet] / images["pet"].max()])
        return torch.from_numpy(stacked).float()[None]

    whole, absent = pair("mr", "pet"), pair("mr_absent", "pet_absent")
    y, x = np.mgrid[: whole.shape[2], : whole.shape[3]]
    twins = {"all": whole}
    for channel, name, kinds in ((1, "no PET-only", ("pet_only", "pet_cold")), (0, "no MRI-only", ("mr_only",))):
        inside = np.zeros(whole.shape[2:], bool)
        for lesion in (found for found in lesions if found["kind"] in kinds):
            inside |= np.hypot(y - lesion["y"], x - lesion["x"]) < lesion["radius"] + 3
        twin = whole.clone()
        twin[0, channel] = torch.where(torch.from_numpy(inside), absent[0, channel], whole[0, channel])
        twins[name] = twin
    return twins


def _run(
    fusion: Fusion, twins: Mapping[str, Tensor], case: int, seeds: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the mean images **[2, H, W]** over the noise seeds, and what single images show.

    That are the corrected chi-squares, and the root mean square of the error of the PET in percent of full range.
    """
    means = {name: torch.zeros(twins["all"].shape[1:], dtype=torch.float64) for name in (*twins, "input", *RIDGES)}
    chi2: list[list[float]] = []
    squares = dict.fromkeys(METHODS, 0.0)
    for seed in range(seeds):
        noise = 1000 * case + seed
        for name, clean in twins.items():
            y = _simulate(clean, noise)
            x = _restore(fusion, y)
            means[name] += x[0].double() / seeds
            if name == "all":
                filtered = {method: _wiener(y[0, 1], ridge) for method, ridge in RIDGES.items()}
                means["input"] += y[0].double() / seeds
                for method, image in filtered.items():
                    means[method][1] += image / seeds
                for method, image in ({"medfuse": x[0, 1], "input": y[0, 1]} | filtered).items():
                    squares[method] += float((image - clean[0, 1]).square().mean()) / seeds
                chi2.append(_chi2(fusion, y, x, _simulate(clean, noise + 500) - _noiseless(clean)))
    corrected = np.mean(chi2, 0)
    error = {f"root mean square error of an image, %, {method}": 100 * v**0.5 for method, v in squares.items()}
    names = ("chi-square, corrected, MRI", "chi-square, corrected, PET")
    return means, error | dict(zip(names, map(float, corrected), strict=True))


def _simulate(clean: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([d.simulate(clean[:, i : i + 1], generator) for i, d in enumerate(DEGRADATION)], 1)


def _noiseless(clean: Tensor) -> Tensor:
    return torch.cat([d.operator.forward(clean[:, i : i + 1]) for i, d in enumerate(DEGRADATION)], 1)


def _restore(fusion: Fusion, y: Tensor) -> Tensor:
    out = fusion(y, degradation=SPEC, steps=RESTORED)
    return torch.cat([out["source1"], out["source2"]], 1)


def _chi2(fusion: Fusion, y: Tensor, x: Tensor, probe: Tensor) -> list[float]:
    """Return `chi2 / (1 - df / n)` of each source of a restoration `x` of `y`.

    The degrees of freedom that the fit took from the data are found by Monte Carlo: with another draw of the noise as
    probe, and `x2` the restoration of `y + e probe`, `df = probe' R^-1 A (x2 - x) / e`.
    """
    x2 = _restore(fusion, y + _PROBE * probe)
    corrected = []
    for i, degradation in enumerate(DEGRADATION):
        y1, p1, first, second = (v[:, i : i + 1] for v in (y, probe, x, x2))
        model, moved = (bind(degradation, data, x.shape[2:]) for data in (y1, y1 + p1))
        direction = moved.residual(first) - model.residual(first)
        change = (model.residual(first) - model.residual(second)) / _PROBE
        share = float((direction * model.solve(torch.zeros(1), change).x).mean())
        corrected.append(float(model.chi2(first)) / max(1.0 - share, 0.05))
    return corrected


def _wiener(y: Tensor, ridge: float) -> Tensor:
    """Return the PET restored by a Wiener filter of its point spread, as a counterpart."""
    omega = torch.fft.fftfreq(len(y)).double() * 2 * math.pi
    response = torch.exp(-0.5 * (PET_SIGMA * omega) ** 2)
    transfer = response[:, None] * response
    return torch.fft.ifft2(torch.fft.fft2(y.double()) * transfer / (transfer**2 + ridge)).real


def _quantities(
    truth: Tensor, means: Mapping[str, Tensor], labels: np.ndarray, lesions: Sequence[Mapping[str, Any]]
) -> list[dict[str, float]]:
    """Return total, bias of large regions and contrast recovery of lesions, for each method."""
    rows = []
    marks = torch.from_numpy(labels.astype(np.int64))[None, None]
    interior = torch.from_numpy(np.where(_depth(labels) >= _WIDTH, labels, 0).astype(np.int64))[None, None]
    reference = truth[1].double()[None, None]
    kinds = {lesion["label"]: f"{lesion['kind']} {lesion['radius']:.0f} px" for lesion in lesions}
    for method, key in METHODS.items():
        estimate = means[key][1][None, None]
        rows.append({f"total, {method}": float(estimate.sum() / reference.sum())})
        numbers = regional_quantitation(reference, estimate, marks, background=_WHITE)
        inside = regional_quantitation(reference, estimate, interior)
        for part, found in (("", numbers), ("the interior of ", inside)):
            bias = {
                REGIONS[region]: float(found["bias_pct"][0, k])
                for k, region in enumerate(found["regions"].tolist())
                if region in REGIONS and found["n"][0, k] >= _LARGE
            }
            rows.append({f"bias of {part}{region}, %, {method}": value for region, value in bias.items()})
            rows.append({f"largest bias of {part}a large region, %, {method}": max(map(abs, bias.values()))})
        for k, region in enumerate(numbers["regions"].tolist()):
            if region in kinds and not kinds[region].startswith("mr_only"):
                rows.append({f"contrast recovery, {kinds[region]}, {method}": float(numbers["CRC"][0, k])})
    return rows


def _depth(labels: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel from the nearest pixel of another label, px."""
    return np.max([ndimage.distance_transform_edt(labels == k) for k in np.unique(labels)], axis=0)


def _responses(
    twins: Mapping[str, Tensor], means: Mapping[str, Tensor], labels: np.ndarray, lesions: Sequence[Mapping[str, Any]]
) -> list[dict[str, float]]:
    """Return how much a lesion of one modality alone changes the other, in percent of its mean there."""
    rows = []
    for lesion in lesions:
        inside = torch.from_numpy(labels == lesion["label"])
        if lesion["kind"] == "both" or not bool(inside.any()):
            continue
        in_mri = lesion["kind"] == "mr_only"
        twin, other = ("no MRI-only", 1) if in_mri else ("no PET-only", 0)
        change = (means["all"] - means[twin])[other][inside].mean().abs() / twins["all"][0, other][inside].mean()
        what = "PET changed by a lesion of the MRI alone" if in_mri else "MRI changed by a lesion of the PET alone"
        rows.append({f"{what}, %, {lesion['radius']:.0f} px": 100 * float(change)})
    return rows
