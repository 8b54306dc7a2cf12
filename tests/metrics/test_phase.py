from __future__ import annotations

import pytest
import torch

from medfuse.metrics import phase_congruency, phase_congruency_quality
from medfuse.metrics.phase import _bank


def step(height: float = 100.0) -> torch.Tensor:
    x = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    x[..., 20:44] = height
    return x


def test_congruency_is_highest_at_a_step_and_does_not_see_its_height():
    congruency, most, least = phase_congruency(step())
    row = congruency[0, 0, 32]
    assert float(row.max()) > 0.25
    assert float(row.max()) <= 1
    assert int(row.argmax()) in (19, 20, 43, 44)
    assert float(row[[8, 31, 56]].max()) < 0.1 * float(row.max())
    assert torch.allclose(phase_congruency(step(200.0))[0], congruency, atol=1e-4)
    assert bool((most >= least).all())


def test_quality_of_equal_images_is_high_and_falls_with_blur_and_noise(pair):
    """It stays below 1, as features of the sources are cut out, and those of the fused image are not."""
    a, b = pair
    best = phase_congruency_quality(a, a, a, data_range=255.0)
    assert bool(((best > 0.95) & (best < 1)).all())
    f = torch.maximum(a, b)
    good = phase_congruency_quality(a, b, f, data_range=255.0)
    noise = 40 * torch.randn(f.shape, generator=torch.Generator().manual_seed(0))
    for worse in (torch.nn.functional.avg_pool2d(f, 7, 1, 3), f + noise):
        assert bool((phase_congruency_quality(a, b, worse, data_range=255.0) < 0.7 * good).all())


def test_sources_without_features_give_0():
    flat = torch.full((1, 1, 32, 32), 80.0)
    assert float(phase_congruency_quality(flat, flat, step()[..., :32, :32], data_range=255.0)) == 0


@pytest.mark.parametrize("size", [(33, 40), (40, 33)])
def test_images_of_any_proportions(size):
    x = 255 * torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert 0.6 < float(phase_congruency_quality(x, x, x, data_range=255.0)) < 1
    turned = phase_congruency(x.mT.contiguous())[0].mT
    assert torch.allclose(turned, phase_congruency(x)[0], atol=0.02)


def test_filters_made_in_inference_mode_serve_training_too():
    _bank.cache_clear()
    x = step()[..., :40, :40].clone()
    with torch.inference_mode():
        phase_congruency_quality(x, x, x, data_range=255.0)
    f = (x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    phase_congruency_quality(x, x, f, data_range=255.0).sum().backward()
    assert bool(f.grad.isfinite().all())
    assert float(f.grad.abs().max()) > 0
