"""Local means: slow waves of an estimate settle for what the data prove."""

from __future__ import annotations

import pytest
import torch
from physics.dense import dark_image, fitted, rand, smooth_image
from torch import Tensor

from medfuse.physics import (
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    PoissonNoise,
    SourceModel,
    bind,
)
from medfuse.physics.evidence import settled_in_place, settled_slowly


def settle(model: SourceModel, x: Tensor, deviations: float | None = None) -> Tensor:
    x = settled_slowly(model, x)
    return x if deviations is None else settled_in_place(model, x, deviations)


@pytest.mark.parametrize(
    "degradation",
    [
        Degradation((GaussianNoise(0.05),)),
        Degradation((GaussianBlur(1.5), PoissonNoise(60.0))),
        Degradation((GaussianBlur(1.0), GaussianNoise(0.03), Downsample(2))),
    ],
)
def test_settling_restores_totals_and_the_means_of_large_regions(degradation):
    x = GaussianBlur(1.5).forward(dark_image(128) + 0.1)
    y = degradation.simulate(x, torch.Generator().manual_seed(1))
    model = bind(degradation, y, (128, 128))
    inside = x[0, 0] > 0.79
    biased = 0.9 * x + 0.01
    settled = settle(model, biased)
    assert float((biased.mean() / x.mean() - 1).abs()) > 0.04
    assert float((settled.mean() / x.mean() - 1).abs()) < 0.01
    assert float((settled - x)[..., inside].mean().abs()) < 0.4 * float((biased - x)[..., inside].mean().abs())
    assert float((settled - x).norm()) < float((biased - x).norm())


def test_settling_hardly_moves_what_agrees_with_the_data():
    degradation = Degradation((GaussianBlur(1.5), GaussianNoise(0.05)))
    x = GaussianBlur(1.5).forward(rand(64, 1, 96, 96))
    y = degradation.simulate(x, torch.Generator().manual_seed(2))
    moved = settle(bind(degradation, y, (96, 96)), x) - x
    assert float((moved.flatten(1).norm(dim=1) == 0).double().mean()) > 0.6
    assert float(moved.std()) < 0.05 * 0.05  # a twentieth of the noise


@pytest.mark.parametrize("before", [(), (GaussianBlur(1.7),)])
@pytest.mark.parametrize("noise", [PoissonNoise(60.0), GaussianNoise(0.06)])
def test_a_cold_spot_is_settled_in_place(before, noise):
    degradation = Degradation((*before, noise))
    x = torch.full((40, 1, 96, 96), 0.25, dtype=torch.float64)
    x[..., :40] = 0.9  # so that the mean variance is too much for the spot
    rows, columns = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    spot = (rows - 48) ** 2 + (columns - 70) ** 2 < 4.5**2
    x[..., spot] = 0.1
    y = degradation.simulate(x, torch.Generator().manual_seed(1))
    model = bind(degradation, y, (96, 96))
    filled = x.clone()
    filled[..., spot] = 0.16
    assert float(settle(model, filled)[..., spot].mean()) > 0.155  # too little of the image for the slow waves
    settled = settle(model, filled, 0.7)
    assert float(settled[..., spot].mean()) < 0.16 - 0.6 * 0.06
    far = columns > 80
    assert float((settled - x)[..., far].mean().abs()) < 0.002
    moved = [float((settle(model, x, local) - x)[..., columns > 44].std()) for local in (0.7, 2.0)]
    assert moved[1] < 0.5 * moved[0] < 0.15 * 0.06  # what is right is moved by a small share of the noise


def test_settling_in_place_can_be_trained_through_where_the_residual_is_nothing():
    y = torch.full((1, 1, 48, 48), 0.3, dtype=torch.float64)
    model = bind(Degradation((GaussianNoise(0.05),)), y, (48, 48))
    x = (y + 1e-13).requires_grad_(True)
    settle(model, x, 0.5).sum().backward()
    assert bool(x.grad.isfinite().all())


def test_settling_is_not_led_by_understated_noise_and_spares_what_was_not_degraded():
    x = smooth_image(96)
    y = Degradation((GaussianBlur(2.0), GaussianNoise(0.06))).simulate(x, torch.Generator().manual_seed(3))
    settled = settle(fitted(Degradation((GaussianBlur(2.0), GaussianNoise(0.03))), y), x)
    assert float((settled - x).square().mean().sqrt()) < 0.1 * 0.06
    assert float((settled - x).abs().max()) < 0.06
