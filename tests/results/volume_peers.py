"""Other methods for a PET on its own grid, all with the same operator A, as counterparts: in the bench alone.

Region methods get regions from the same MRI, or the true ones. Those of the MRI: k-means of its intensity within the
true brain (which favours them), its bias divided out, three classes, cut into 24 (grey), 8 (white) and 2 (csf) parcels
of space; what is bright outside the brain is one region.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from results.volume_scenes import Problem, brain_mask
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from medfuse.bundles import bundle_dir
from medfuse.training.volumes import Tissue
from medfuse.volumes import Estimator, by_rule, load_estimator, restore_volume

Method = Callable[[Problem], tuple[Tensor, dict[str, float]]]

ITERATIONS = 10
_BIAS = 10  # voxels: std of the Gaussian that takes the bias of an MRI for what is smooth
_PARCELS = {Tissue.GREY: 24, Tissue.WHITE: 8, Tissue.CSF: 2, Tissue.DEEP: 2, Tissue.SKULL: 1, Tissue.SCALP: 1}
_ORDER = {  # tissues by rising intensity
    "t1": (Tissue.CSF, Tissue.GREY, Tissue.WHITE),
    "t2": (Tissue.WHITE, Tissue.GREY, Tissue.CSF),
    "pd": (Tissue.WHITE, Tissue.GREY, Tissue.CSF),
}


def resampled(p: Problem) -> Tensor:
    """Return the PET interpolated linearly, **[S, *image]**, as every method here."""
    return p.operator.lift(p.ys[:, None])[:, 0]


def wiener(p: Problem) -> Tensor:
    """Filter on the PET's grid, then interpolate; the spectrum of the image is a power law fitted to the data."""
    grid, fwhm = p.operator.range, p.operator.fwhm_mm
    pad, noise = 8, float((p.model.std.double() ** 2).mean())
    filtered = []
    for y in p.ys.numpy():
        wide = np.pad(y, pad, mode="edge")
        omega = [2 * np.pi * np.fft.fftfreq(n, s) for n, s in zip(wide.shape, grid.spacing, strict=True)]
        omega[2] = omega[2][: wide.shape[2] // 2 + 1]
        k = np.meshgrid(*omega, indexing="ij", sparse=True)
        transfer = np.exp(-0.5 * sum((w * f / 2.3548) ** 2 for w, f in zip(k, fwhm, strict=True)))
        spectrum, square = np.fft.rfftn(wide), sum(w**2 for w in k)
        power = np.abs(spectrum) ** 2 / wide.size
        fit = (power > 10 * noise) & (transfer > 0.3) & (square > 0.02**2)
        slope, level = np.polyfit(np.log(square[fit]), np.log((power[fit] - noise) / transfer[fit] ** 2), 1)
        prior = np.exp(level + slope * np.log(np.maximum(square, square[square > 0].min())))
        sharp = np.fft.irfftn(spectrum * transfer * prior / (transfer**2 * prior + noise), wide.shape, axes=(0, 1, 2))
        filtered.append(sharp[(slice(pad, -pad),) * 3])
    return p.operator.lift(torch.from_numpy(np.stack(filtered)).float()[:, None])[:, 0]


def richardson_lucy(p: Problem) -> Tensor:
    """Multiply by back-projected ratios, from the mean on."""
    y = (p.ys * p.model.inside).clamp_min(0)[:, None]
    seen = p.operator.adjoint(p.model.inside.float()[None, None])
    x = (seen > 0.05 * seen.max()) * y.mean((1, 2, 3, 4), keepdim=True)
    for _ in range(ITERATIONS):
        x = x * p.operator.adjoint(y / p.operator.forward(x).clamp_min(1e-3)) / seen.clamp_min(1e-3)
    return x[:, 0]


def van_cittert(p: Problem) -> Tensor:
    """Iterate `x <- max(x + 1.5 A'(y - A x) / |A'A|, 0)`, the reblurred Van Cittert, from the interpolated PET on."""
    y, a = p.ys[:, None], p.operator
    v = torch.randn((1, 1, *a.domain.shape), generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        v = a.adjoint(a.forward(v))
        norm = float(v.norm())
        v = v / norm
    x = a.lift(y)
    for _ in range(ITERATIONS):
        x = (x + 1.5 / norm * a.adjoint((y - a.forward(x)) * p.model.inside)).clamp_min(0)
    return x[:, 0]


def true_regions(p: Problem) -> list[np.ndarray]:
    """Return the regions of the true tissues, cut into parcels; the same for all of the stack."""
    return [_parcels(p.labels)] * len(p.ys)


def mri_regions(p: Problem) -> list[np.ndarray]:
    """Return the regions that are seen in each MRI."""
    brain, found = brain_mask(p.labels), []
    for k, mri in enumerate(p.mris.numpy()):
        if k == 3:
            found.append(found[0])
            continue
        classes = np.where(mri > 0.3 * np.median(mri[brain]), np.uint8(Tissue.SCALP), np.uint8(0))
        classes[brain] = np.array(_ORDER[p.contrast], np.uint8)[_kmeans(mri, brain)]
        found.append(_parcels(classes))
    return found


def iterative_yang(p: Problem, regions: list[np.ndarray]) -> Tensor:
    """Multiply the interpolated PET by a piecewise constant image over its blurred self, ten times.

    The blur is told with that of the interpolation: `fwhm^2 + 8 ln 2 voxel^2 / 6`.
    """
    steps = zip(p.operator.fwhm_mm, p.operator.range.spacing, strict=True)
    sigma = [np.sqrt(f**2 + 8 * np.log(2) * v**2 / 6) / 2.3548 / p.operator.domain.spacing[0] for f, v in steps]
    restored = []
    for y, parcels in zip(resampled(p).numpy(), regions, strict=True):
        x, flat = y.copy(), parcels.ravel()
        count = np.maximum(np.bincount(flat), 1)
        for _ in range(ITERATIONS):
            means = np.maximum(np.bincount(flat, x.ravel()) / count, 1e-3).astype(np.float32)
            constant = means[parcels]
            x = y * constant / np.maximum(ndimage.gaussian_filter(constant, sigma, truncate=3), 1e-3)
        restored.append(x)
    return torch.from_numpy(np.stack(restored)).float()


def gtm(p: Problem, regions: list[np.ndarray]) -> Tensor:
    """Return the piecewise constant image that fits the data best (geometric transfer matrix, least squares)."""
    restored, done = [], {}
    rows = p.model.inside.flatten()
    for y, parcels in zip(p.ys, regions, strict=True):
        if id(parcels) not in done:
            masks = (torch.from_numpy((parcels == k).astype(np.float32)) for k in range(1, int(parcels.max()) + 1))
            columns = [p.operator.forward(mask[None, None]).flatten()[rows] for mask in masks]
            done = {id(parcels): torch.stack(columns, 1).double()}
        v = done[id(parcels)]
        gram = v.mT @ v + 1e-6 * torch.eye(v.shape[1], dtype=v.dtype)
        values = torch.linalg.solve(gram, v.mT @ y.flatten()[rows].double())
        restored.append(torch.cat([values.new_zeros(1), values]).float()[torch.from_numpy(parcels.astype(np.int64))])
    return torch.stack(restored)


def rule(p: Problem, estimator: Estimator = by_rule) -> tuple[Tensor, dict[str, float]]:
    """Restore by this project's rule, which says of itself what the others need a draw of the noise for."""
    restored, one = [], p.scans["all"]
    for y, mri in zip(p.ys[:3], p.mris, strict=False):
        scan = (one.grid, mri, p.operator.domain, one.transform.tolist(), one.fwhm_mm, one.noise)
        restored.append(restore_volume(y, *scan, estimator=estimator))
    told = {"chi-square": restored[0].chi2, "degrees of freedom": restored[0].df}
    return torch.stack([r.restored for r in restored]), told | {"corrected chi-square": restored[0].corrected_chi2}


def medfuse(p: Problem) -> tuple[Tensor, dict[str, float]]:
    """Restore by this project as it does by default, with its trained network, which mends what the rule leaves."""
    return rule(p, load_estimator(bundle_dir("pet_mri_fusion") / "models" / "volumes.pt"))


def _alone(method: Callable[[Problem], Tensor]) -> Method:
    return lambda p: (method(p), {})


METHODS: dict[str, Method] = {
    "medfuse": medfuse,
    "medfuse, rule": rule,
    "resampled": _alone(resampled),
    "Wiener": _alone(wiener),
    "Richardson-Lucy": _alone(richardson_lucy),
    "Van Cittert": _alone(van_cittert),
    "iterative Yang, MRI": _alone(lambda p: iterative_yang(p, mri_regions(p))),
    "GTM, MRI": _alone(lambda p: gtm(p, mri_regions(p))),
    "iterative Yang, true": _alone(lambda p: iterative_yang(p, true_regions(p))),
    "GTM, true": _alone(lambda p: gtm(p, true_regions(p))),
}
"""Return the stack that a problem's stack is restored to, and what the method says of it; *true* ones know too much."""


def _kmeans(mri: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Return the class, by rising intensity, of the voxels of the brain; the bias is found between two rounds."""
    image = np.log(np.maximum(mri, 1e-3))
    bias = np.zeros_like(image)
    weight = ndimage.gaussian_filter(brain.astype(np.float32), _BIAS) + 1e-6
    for _ in range(3):
        values = np.exp(image - bias)[brain]
        means = np.percentile(values, [5, 45, 85])
        for _ in range(20):
            nearest = np.abs(values[:, None] - means).argmin(1)
            means = np.array([values[nearest == k].mean() if (nearest == k).any() else means[k] for k in range(3)])
        left = np.zeros_like(image)
        left[brain] = np.clip(image[brain] - np.log(means[nearest]), -0.2, 0.2)
        bias = ndimage.gaussian_filter(left, _BIAS) / weight
    return nearest


def _parcels(tissue: np.ndarray) -> np.ndarray:
    """Cut each tissue into parcels of space, numbered on from 1."""
    rng, out, first = np.random.default_rng(0), np.zeros(tissue.shape, np.int16), 1
    for kind, number in _PARCELS.items():
        places = np.argwhere(tissue == kind)
        if not len(places):
            continue
        centres = places[rng.choice(len(places), number)].astype(float)
        for _ in range(2):
            nearest = cKDTree(centres).query(places)[1]
            for k in range(number):
                if (nearest == k).any():
                    centres[k] = places[nearest == k].mean(0)
        out[tuple(places.T)] = first + nearest
        first += number
    return out
