from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.errors import DegradationError, GeometryError
from medfuse.metrics import leakage, peak_signal_to_noise_ratio, psnr_gain, residual_statistics
from medfuse.physics import Degradation, GaussianBlur, GaussianNoise


def noise(*shape: int, seed: int, std: float = 1.0) -> Tensor:
    return std * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("share", [1.0, 0.3, 0.0, -0.2])
def test_leakage_is_the_share_of_the_error_that_was_let_through(pair, share):
    a, b = pair
    errors = [noise(*a.shape, seed=s, std=12) for s in (0, 1)]
    d1, d2 = a + errors[0], b + errors[1]
    fused = 0.5 * (a + share * errors[0]) + 0.25 * (b + 0.6 * errors[1])
    result = leakage(a, b, d1, d2, fused, data_range=255.0)
    assert torch.allclose(result, a.new_tensor([share, 0.6]).expand(2, 2), atol=1e-9)
    scaled = leakage(a / 255, b / 255, d1 / 255, d2 / 255, fused / 255, data_range=1.0)
    assert torch.allclose(scaled, result)


def test_leakage_does_not_see_offsets_and_slow_changes(pair):
    a, b = pair
    d1, d2 = a + noise(*a.shape, seed=0, std=12), b + noise(*a.shape, seed=1, std=12)
    shade = 40 * torch.linspace(0, 1, a.shape[3]).expand_as(a)
    plain = leakage(a, b, d1, d2, (d1 + d2) / 2, data_range=255.0)
    assert torch.allclose(plain, torch.ones(2, 2, dtype=torch.float64))
    assert torch.allclose(leakage(a, b, d1, d2, (d1 + d2) / 2 + shade + 7, data_range=255.0), plain, atol=0.02)


def test_leakage_of_a_source_that_was_not_degraded_or_is_not_shown_is_not_defined(pair):
    a, b = pair
    d1, d2 = a + noise(*a.shape, seed=0, std=12), b + noise(*a.shape, seed=1, std=12)
    one_clean = leakage(a, b, d1, b, (d1 + b) / 2, data_range=255.0)
    assert torch.allclose(one_clean[:, 0], a.new_ones(2))
    assert one_clean[:, 1].isnan().all()
    assert leakage(a, b, d1, d2, d1, data_range=255.0)[:, 1].isnan().all()
    assert leakage(a, b, a, b, a, data_range=255.0).isnan().all()


def test_leakage_of_equal_sources_is_found_all_the_same(pair):
    """Both sources alike leave no single answer; the smallest one shares between them."""
    a, _ = pair
    d1, d2 = a + noise(*a.shape, seed=0, std=12), a + noise(*a.shape, seed=1, std=12)
    result = leakage(a, a, d1, d2, 0.5 * d1 + 0.5 * d2, data_range=255.0)
    assert torch.allclose(result, torch.ones(2, 2, dtype=torch.float64))


def test_gain_is_the_difference_of_psnr_and_clips_as_a_display_does(pair):
    a, _ = pair
    degraded = a + noise(*a.shape, seed=0, std=20)
    assert torch.allclose(psnr_gain(a, degraded, degraded, data_range=255.0), a.new_zeros(2))
    better = psnr_gain(a, degraded, (2 * a + degraded) / 3, data_range=255.0)
    assert bool((better > 20 * math.log10(3) - 1).all())
    clipped = degraded.clamp(0, 255)
    assert torch.allclose(psnr_gain(a, degraded, clipped, data_range=255.0), a.new_zeros(2))
    expected = 100 - peak_signal_to_noise_ratio(a, clipped, data_range=255.0)
    assert torch.allclose(psnr_gain(a, degraded, a, data_range=255.0), expected)


def test_the_residual_of_the_true_image_is_white_and_of_chi_square_1():
    truth = 0.5 + 0.3 * torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    degradation = Degradation((GaussianBlur(1.2), GaussianNoise(0.05)))
    blurred = degradation.operator.forward(truth.expand(3, -1, -1, -1))
    residual = noise(3, 1, 96, 96, seed=2, std=0.05) + blurred - degradation.operator.forward(truth)
    result = residual_statistics(residual, 0.05)
    deviation, of_rho = float(result["chi2_sd_if_true"][0]), float(result["rho_sd_if_white"][0])
    assert deviation == pytest.approx(math.sqrt(2) / 96)
    assert bool(((result["chi2"] - 1).abs() < 4 * deviation).all())
    assert bool((result["mean_z"].abs() < 4).all())
    for lag in ("01", "10", "11", "02", "20"):
        assert bool((result[f"rho_{lag}"].abs() < 4 * of_rho).all())
    assert bool(((result["low_high_power"] - 1).abs() < 0.2).all())


def test_copied_noise_over_smoothing_and_stated_noise_show():
    white = noise(1, 1, 64, 64, seed=0)
    assert float(residual_statistics(0.1 * white, 1.0)["chi2"]) < 0.02
    smooth = F.avg_pool2d(white, 3, 1, 1) * 3
    result = residual_statistics(smooth, 1.0)
    assert float(result["low_high_power"]) > 3
    assert min(float(result[f"rho_{lag}"]) for lag in ("01", "10", "11")) > 0.3
    fitted = residual_statistics(white - F.avg_pool2d(white, 3, 1, 1), 1.0)
    assert float(fitted["low_high_power"]) < 0.3
    assert float(residual_statistics(white, 2.0)["chi2"]) == pytest.approx(
        float(residual_statistics(white, 1.0)["chi2"]) / 4
    )


def test_lags_are_rows_then_columns():
    along_rows = noise(1, 1, 64, 64, seed=0)
    along_rows = along_rows[..., :-1] + along_rows[..., 1:]
    result = residual_statistics(along_rows, 1.0)
    assert float(result["rho_01"]) == pytest.approx(0.5, abs=0.06)
    assert abs(float(result["rho_10"])) < 0.06


def test_a_map_of_sigma_weighs_each_pixel():
    sigma = torch.linspace(0.5, 4, 64).expand(1, 1, 64, 64).double()
    result = residual_statistics(sigma * noise(2, 1, 64, 64, seed=1), sigma)
    assert bool(((result["chi2"] - 1).abs() < 0.15).all())


def test_wrong_residuals_are_refused():
    residual = torch.zeros(1, 1, 16, 16)
    with pytest.raises(DegradationError, match="sigma must be positive"):
        residual_statistics(residual, 0.0)
    with pytest.raises(GeometryError, match="sigma must be a number or fit"):
        residual_statistics(residual, torch.ones(5))
    with pytest.raises(GeometryError, match="must be \\[B, 1, H, W\\]"):
        residual_statistics(residual[0], 1.0)
