"""Two proposals for what the scanner saw: one from the data alone, one guided by the MRI.

Both look at the data on their own grid, through the same operator A. Stacks **[S, *data]** go through together, so that
it can be told how far a proposal follows the noise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from medfuse.physics.models.volume import VolumeModel
from medfuse.physics.operators.cosine import along_all
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.volumes.coarse import Coarse

_RELAXATION = 1.5  # of the reblurred Van Cittert iteration; below 2 it converges
CLASSES = 5
"""Classes of an MRI by intensity, the background among them."""
_RIDGE = 0.01
_STEP = 3e-4  # cost of the squared difference of neighbouring classes, over that of an error everywhere


class MrFree(NamedTuple):
    """The proposal of the data alone.

    Attributes:
        x: Stack **[S, *image]**.
        iterations: How many it took.
        chi2: Chi-square of the first of the stack.
        step: Size of each, `1.5 / |A'A|`.
    """

    x: Tensor
    iterations: int
    chi2: float
    step: float


class Landweber(NamedTuple):
    """What Landweber steps gave, **[S, *image]**, and their size."""

    x: Tensor
    step: float


def mr_free(model: VolumeModel, ys: Tensor, *, least: int = 10, most: int = 20) -> MrFree:
    """Return the positive Landweber (reblurred Van Cittert) estimate, stopped by the discrepancy.

    It starts from the interpolated data, and `x <- max(x + a A'(y - A x) / |A'A|, 0)`. It ends when the chi-square is
    what the degrees of freedom leave of 1, told by how far the second of the stack follows its noise; but not before
    `least` iterations, for what the classical method gives is the least that is promised.

    Args:
        model: The observation.
        ys: Data **[S, *data]**: the data, and where S = 2, the data with a draw of the noise added.
        least: Least number of iterations.
        most: Most.
    """
    operator, inside = model.operator, model.inside
    x = operator.lift(ys[:, None]).clamp_min(0.0)
    step = _relaxed(operator, ys)
    white = None if len(ys) < 2 else model.white((ys[1] - ys[0]) * inside)
    chi2 = math.inf
    for k in range(1, most + 1):
        predicted = operator.forward(x)
        residual = (ys[:, None] - predicted) * inside
        if k > least:
            e = model.white(residual[0, 0])
            chi2 = model.chi2_of(e)
            df = 0.0 if white is None else 1 - _cosine(white, model.white((residual[1] - residual[0])[0]))
            if chi2 <= 1 - df:
                return MrFree(x[:, 0], k - 1, chi2, step)
        x.add_(operator.adjoint(residual), alpha=step).clamp_min_(0.0)
    return MrFree(x[:, 0], most, model.chi2(x[0, 0]), step)


def landweber(operator: ScannerSampling, ys: Tensor, steps: int, *, step: float | None = None) -> Landweber:
    """Take so many positive Landweber steps from the interpolated data on.

    Args:
        operator: `A`.
        ys: Data **[S, *data]**.
        steps: Their number.
        step: Their size, where it is known.
    """
    inside = operator.inside.to(ys.device)
    size = _relaxed(operator, ys) if step is None else step
    x = operator.lift(ys[:, None]).clamp_min(0.0)
    for _ in range(steps):
        x.add_(operator.adjoint((ys[:, None] - operator.forward(x)) * inside), alpha=size).clamp_min_(0.0)
    return Landweber(x[:, 0], size)


def _cosine(white: Tensor, left: Tensor) -> float:
    return float((white.double() * left).sum() / white.double().square().sum())


def _relaxed(operator: ScannerSampling, like: Tensor) -> float:
    """Return the size of a Landweber step, `1.5 / |A'A|`, by the power method, on the device of `like`."""
    v = torch.ones((1, 1, *operator.domain.shape), dtype=like.dtype, device=like.device)
    size = 1.0
    for _ in range(4):
        v = operator.adjoint(operator.forward(v))
        size = float(v.norm())
        v = v / size
    return _RELAXATION / size


class Guidance(NamedTuple):
    """What the MRI offers: features, and how the scanner would see each.

    Attributes:
        features: **[K, *image]**.
        predicted: `A` of each, **[K, *data]**.
        coarse: The operator on blocks.
    """

    features: Tensor
    predicted: Tensor
    coarse: Coarse


def guidance(model: VolumeModel, features: Tensor, coarse: Coarse | None = None) -> Guidance:
    """Return features **[K, *image]** with how the scanner would see them, for which blocks of voxels are enough."""
    coarse = coarse or Coarse.of(model.operator)
    predicted = [coarse.operator.forward(coarse.pooled(f[None])[None])[0] * model.inside for f in features]
    return Guidance(features, torch.cat(predicted), coarse)


def guided(model: VolumeModel, given: Guidance, ys: Tensor, *, width_mm: float = 6.0) -> Tensor:
    """Return `sum_k c_k g_k`, where the uptake `c` of each class is regressed in Gaussian windows of the data's grid.

    `c` is the least-squares fit of the data by `A g_k`, near each voxel by itself, drawn a little to that of the whole
    volume; it is interpolated to the image. Through a PSF the layers of a fold are nearly one, and classes next to each
    other by intensity could take up too much and too little in turn: in the whole volume their differences cost, within
    the uptake and the background left out, whose share at the border of the uptake is like no tissue.

    Args:
        model: The observation.
        given: The features, by intensity: `CLASSES` within the uptake, and as many beyond if any.
        ys: Data **[S, *data]**.
        width_mm: Std of the windows, mm.

    Returns:
        **[S, *image]**.
    """
    f = given.predicted
    w = model.inside / model.std.square()
    w = w / w[model.inside].mean()
    rows = [windows(n, width_mm / s).to(f) for n, s in zip(f.shape[1:], model.operator.range.spacing, strict=True)]

    def near(a: Tensor) -> Tensor:
        return along_all(rows, a[None])[0]

    flat = f.flatten(1).double()
    normal = (flat * w.flatten()) @ flat.mT + 1e-9 * torch.eye(len(f), dtype=torch.float64, device=f.device)
    normal += _STEP * (flat.sum(0) @ w.flatten().double()) * _steps(len(f)).to(normal)
    whole = torch.linalg.solve(normal, (flat * w.flatten()) @ ys.flatten(1).double().mT).mT.to(f)  # [S, K]
    k = len(f)
    upper = [(i, j) for i in range(k) for j in range(i, k)]
    pairs = near(torch.stack([w * f[i] * f[j] for i, j in upper]))
    of_pair = torch.empty((k, k), dtype=torch.int64)
    for n, (i, j) in enumerate(upper):
        of_pair[i, j] = of_pair[j, i] = n
    ridge = _RIDGE * near(w[None])[0].clamp_min(1e-6)
    right = torch.stack([near(w * f * (y - torch.tensordot(c0, f, 1))) for y, c0 in zip(ys, whole, strict=True)], 1)

    def solved(plane: int) -> Tensor:
        gram = pairs[of_pair, plane] + ridge[plane] * torch.eye(k)[..., None, None].to(f)
        found: Tensor = torch.linalg.solve(*(m.movedim((0, 1), (-2, -1)) for m in (gram, right[:, :, plane])))
        return found

    local = torch.stack(list(map(solved, range(len(ridge))))) + whole.mT  # [*data, K, S]
    out = f.new_zeros((len(ys), *given.features.shape[1:]))
    for x, c in zip(out, local.movedim((-1, -2), (0, 1)), strict=True):
        maps = given.coarse.operator.lift(c[:, None])[:, 0]
        for m, feature in zip(maps, given.features, strict=True):
            x.addcmul_(given.coarse.spread(m[None])[0], feature)
    return out


def _steps(count: int) -> Tensor:
    """Return `D'D`, `D c` the differences of tissues within the uptake that are neighbours by intensity, **[K, K]**."""
    rows = torch.eye(count, dtype=torch.float64).diff(dim=0)[1 : CLASSES - 1]
    return rows.mT @ rows


def windows(n: int, sigma: float) -> Tensor:
    """Return a Gaussian window about each of n samples, [n, n], continued at the ends by the nearest sample."""
    off = torch.arange(n, dtype=torch.float64) - torch.arange(n, dtype=torch.float64)[:, None]
    rows = torch.exp(-0.5 * (off / max(sigma, 1e-3)).square())
    return rows / rows.sum(1, keepdim=True)
