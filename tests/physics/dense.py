"""Degradations, observations of random images, and the dense matrices of both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from medfuse.physics import (
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    JointDegradation,
    KrylovModel,
    LinearOperator,
    MissingSlices,
    MotionBlur,
    SourceModel,
    SpectralModel,
    bind,
    fit,
)

BATCH = 2
RIDGE = 1e-8
SIGMAS = torch.tensor([0.02, 0.08], dtype=torch.float64)
DEGRADATIONS = {
    "none": Degradation(),
    "noise": Degradation((GaussianNoise(SIGMAS),)),
    "blur": Degradation((GaussianBlur(0.7),), floor=0.01),
    "blur-noise": Degradation((GaussianBlur(torch.tensor([0.6, 1.1])), GaussianNoise(0.05))),
    "low-resolution": Degradation((Downsample(2), GaussianNoise(SIGMAS))),
    "composite": Degradation((GaussianBlur(0.9), GaussianNoise(0.06), Downsample(2, "bicubic")), floor=0.01),
    "two-noises": Degradation((GaussianNoise(SIGMAS), Downsample(2), GaussianNoise(0.01))),
}
KRYLOV = {
    "motion": Degradation((MotionBlur(3.0, 30.0), GaussianNoise(SIGMAS))),
    "noise-before-motion": Degradation((GaussianNoise(0.05), MotionBlur(3.0, 30.0)), floor=0.01),
    "missing": Degradation((GaussianBlur(0.8), MissingSlices((1,), 0), GaussianNoise(0.05))),
}
ODD = {
    "odd-composite": Degradation((GaussianBlur(0.9), GaussianNoise(0.06), Downsample(2, "bicubic")), floor=0.01),
    "odd-low-resolution": Degradation((Downsample(3), GaussianNoise(0.05))),
}


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def observe(
    degradation: Degradation, spatial: Sequence[int], seed: int = 0, batch: int = BATCH
) -> tuple[Tensor, Tensor]:
    """Return a random image and its observation."""
    x = rand(batch, 1, *spatial, seed=seed)
    return x, degradation.simulate(x, torch.Generator().manual_seed(seed))


def krylov(degradation: Degradation, y: Tensor, spatial: Sequence[int]) -> KrylovModel:
    return KrylovModel(degradation, y, spatial, tolerance=1e-13, max_iterations=2000)


def tight(degradation: Degradation, y: Tensor, spatial: Sequence[int]) -> SourceModel:
    """Bind an observation; where conjugate gradients do the work, to the last digit."""
    model = bind(degradation, y, spatial)
    return model if isinstance(model, SpectralModel) else krylov(degradation, y, spatial)


def dense(op: LinearOperator, spatial: Sequence[int]) -> Tensor:
    unit = torch.eye(math.prod(spatial), dtype=torch.float64).reshape(-1, 1, 1, *spatial)
    return torch.stack([op.forward(e.expand(BATCH, -1, *spatial)).flatten(1) for e in unit], -1)


def matrices(degradation: Degradation, spatial: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return A and R of each sample; R step by step: each linear step maps it, each noise adds to it."""
    total = torch.eye(math.prod(spatial), dtype=torch.float64).expand(BATCH, -1, -1)
    size = math.prod(spatial)
    covariance = torch.zeros(BATCH, size, size, dtype=torch.float64)
    shape = tuple(spatial)
    for step in degradation.steps:
        if isinstance(step, LinearOperator):
            matrix = dense(step, shape)
            total, covariance = matrix @ total, matrix @ covariance @ matrix.mT
            shape = step.out_spatial(shape)
        else:
            variance = step.variance(torch.zeros(BATCH, 1, *shape, dtype=torch.float64)).flatten(1)
            covariance = covariance + torch.diag_embed(variance)
    return total, covariance + degradation.floor**2 * torch.eye(covariance.shape[1], dtype=torch.float64)


def times(matrix: Tensor, v: Tensor) -> Tensor:
    return (matrix @ v[..., None])[..., 0]


def assert_close(actual: Tensor, expected: Tensor, rtol: float = 1e-8) -> None:
    actual, expected = actual.flatten(), expected.flatten()
    error = float((actual - expected).norm() / expected.norm().clamp_min(1e-300))
    assert error <= rtol, f"relative error {error:.2e}"


def named(*groups: dict[str, Degradation]) -> pytest.MarkDecorator:
    cases = [
        pytest.param(d, (7, 5) if name.startswith("odd") else (8, 6), id=name) for g in groups for name, d in g.items()
    ]
    return pytest.mark.parametrize(("degradation", "spatial"), cases)


everything = named(DEGRADATIONS, KRYLOV, ODD)


def dark_image(size: int) -> Tensor:
    """Return images that are 0 but for a bright disc."""
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) - size / 2] * 2, indexing="ij")
    return ((y**2 + x**2).sqrt() < size / 4).double().expand(BATCH, 1, -1, -1) * 0.7


def fitted(stated: Degradation, y: Tensor) -> SourceModel:
    """Bind an observation on the grid of the image as what its data prove."""
    found = fit(JointDegradation(stated, Degradation()), torch.cat([y, y], 1))
    return bind(found.degradation.source1, y, y.shape[2:])


def smooth_image(size: int) -> Tensor:
    return GaussianBlur(1.5).forward(rand(BATCH, 1, size, size))
