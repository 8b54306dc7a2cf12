"""The variance of a correction by the discrepancy principle: the chi-square becomes one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from physics.dense import BATCH, DEGRADATIONS, everything, fitted, observe, rand, smooth_image, tight

from medfuse.physics import (
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    bind,
)


@everything
def test_discrepancy_brings_chi_square_to_one(degradation, spatial):
    _, y = observe(degradation, spatial)
    model = tight(degradation, y, spatial)
    x0 = rand(BATCH, 1, *spatial, seed=9)
    assert bool((model.chi2(x0) > 1).all())
    variance = model.discrepancy(x0)
    reachable = model.chi2(model.update(x0, torch.full((BATCH,), 100.0)).x) < 1 - 1e-6
    chi2 = model.chi2(model.update(x0, variance).x)
    assert bool((chi2[reachable] <= 1 + 1e-3).all())
    assert bool((chi2[reachable] >= 1 - 1e-3).all()), "the smallest such variance"
    assert bool((variance > 0).all())


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    st.floats(0.0, 4.0), st.floats(1e-3, 0.2), st.sampled_from([1, 2, 4]), st.floats(1e-3, 1.0), st.integers(0, 10**6)
)
def test_discrepancy_holds_over_the_range_of_training(width, sigma, factor, error, seed):
    degradation = Degradation((GaussianBlur(width), Downsample(factor), GaussianNoise(sigma)))
    x, y = observe(degradation, (16, 16), seed)
    x0 = x + error * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    model = bind(degradation, y, (16, 16))
    variance = model.discrepancy(x0)
    least = model.chi2(model.update(x0, torch.full((BATCH,), 100.0)).x)
    chi2 = model.chi2(model.update(x0, variance).x)
    assert bool((chi2 <= torch.maximum(least, torch.ones(())) + 1e-3).all())
    assert bool((variance[model.chi2(x0) <= 1] == 0).all())


@everything
def test_discrepancy_leaves_a_consistent_estimate_alone(degradation, spatial):
    x, _ = observe(degradation, spatial)
    model = tight(degradation, degradation.operator.forward(x), spatial)
    variance = model.discrepancy(x)
    assert torch.equal(variance, torch.zeros(BATCH, dtype=torch.float64))
    assert torch.equal(model.update(x, variance).x, x)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0, 4.0, 6.0])
@pytest.mark.parametrize("factor", [1, 2])
def test_discrepancy_holds_without_noise_where_the_blur_leaves_next_to_nothing(width, factor):
    """Rounding is all the noise there is: the hardest to reach, in a dozen iterations."""
    degradation = Degradation((GaussianBlur(width), Downsample(factor)))
    x, y = observe(degradation, (48, 48))
    model = bind(degradation, (y * 255).round() / 255, (48, 48))
    x0 = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.02
    variance = model.discrepancy(x0, iterations=12)
    least = model.chi2(model.update(x0, torch.full((BATCH,), 100.0)).x)
    assert bool((model.chi2(model.update(x0, variance).x) <= torch.maximum(least, torch.ones(())) + 1e-3).all())


@pytest.mark.parametrize("told", [0.25, 0.5, 1.0, 2.0])
def test_understated_noise_does_not_blow_up(told):
    """Where a blur of 2 px lets nothing through, the data show how much noise there is."""
    x = smooth_image(64)
    y = Degradation((GaussianBlur(2.0), GaussianNoise(0.03))).simulate(x, torch.Generator().manual_seed(3))
    model = fitted(Degradation((GaussianBlur(2.0), GaussianNoise(0.03 * told))), y)
    x0 = x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert model.sigma().flatten(1).amax(1).tolist() == pytest.approx([0.03 * max(told, 1.0)] * BATCH, rel=0.05)
    assert model.chi2(x).tolist() == pytest.approx([told**-2] * BATCH, rel=0.1), "chi-square still tells"
    error = (model.update(x0, model.discrepancy(x0)).x - x).norm()
    assert float(error) < 1.5 * float((x0 - x).norm())


def test_discrepancy_meets_any_target_it_can_reach():
    degradation = DEGRADATIONS["blur-noise"]
    _, y = observe(degradation, (16, 16))
    model, x0 = bind(degradation, y, (16, 16)), rand(BATCH, 1, 16, 16, seed=9)
    for target in (0.5, 0.9, 2.0):
        chi2 = model.chi2(model.update(x0, model.discrepancy(x0, target=target, iterations=20)).x)
        assert torch.allclose(chi2, torch.full_like(chi2, target), rtol=1e-3)


def test_chi_square_falls_as_the_variance_grows():
    degradation = DEGRADATIONS["composite"]
    _, y = observe(degradation, (16, 16))
    model, x0 = bind(degradation, y, (16, 16)), rand(BATCH, 1, 16, 16, seed=9)
    path = torch.stack([model.chi2(model.update(x0, torch.full((BATCH,), v)).x) for v in (0.0, 1e-4, 1e-2, 1.0, 100.0)])
    assert bool((path.diff(dim=0) < 0).all())


def test_consistency_returns_an_observation_to_which_nothing_happened():
    y = rand(BATCH, 1, 8, 6)
    model, x0 = bind(Degradation(), y, (8, 6)), rand(BATCH, 1, 8, 6, seed=9)
    assert torch.allclose(model.update(x0, model.consistency(x0)).x, y, atol=1e-6)
    noisy = bind(DEGRADATIONS["noise"], y, (8, 6))
    assert torch.equal(noisy.consistency(x0), noisy.discrepancy(x0))
