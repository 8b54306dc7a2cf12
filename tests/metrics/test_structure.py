from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import PSNRMetric, SSIMMetric
from skimage.metrics import peak_signal_noise_ratio
from skimage.metrics import structural_similarity as reference_ssim

from medfuse.metrics import (
    mean_psnr,
    multi_scale_structural_similarity,
    peak_signal_to_noise_ratio,
    piella_quality,
    structural_similarity,
    yang_quality,
)


def test_ssim_and_psnr_are_those_of_scikit_image_and_monai(pair):
    a, b = pair
    ssim = structural_similarity(a, b, data_range=255.0)
    psnr = peak_signal_to_noise_ratio(a, b, data_range=255.0)
    for i in range(2):
        x, y = a[i, 0].numpy(), b[i, 0].numpy()
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255.0}
        _, theirs = reference_ssim(x, y, full=True, **options)
        assert float(ssim[i]) == pytest.approx(theirs[5:-5, 5:-5].mean(), rel=1e-10)
        assert float(psnr[i]) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=255), rel=1e-10)
    assert torch.allclose(SSIMMetric(2, data_range=255.0)(b, a)[:, 0].double(), ssim, atol=1e-4)
    assert torch.allclose(PSNRMetric(255.0)(b, a)[:, 0], psnr)


def test_ssim_keeps_its_digits_where_single_precision_loses_them():
    """Bright and flat: the variance is the difference of two large squares."""
    noise = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y = 240 + noise.round(), 240 - noise.round()
    exact = float(structural_similarity(x, y, data_range=255.0))
    _, theirs = reference_ssim(
        x[0, 0].numpy(), y[0, 0].numpy(), full=True, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, data_range=255.0,
    )  # fmt: skip
    assert exact == pytest.approx(theirs[5:-5, 5:-5].mean(), rel=1e-9)


def test_psnr_of_equal_images_is_100_and_of_known_errors_known():
    x = torch.zeros(1, 1, 8, 8)
    assert float(peak_signal_to_noise_ratio(x, x, data_range=1.0)) == pytest.approx(100)
    assert float(peak_signal_to_noise_ratio(x, x + 0.1, data_range=1.0)) == pytest.approx(20, rel=1e-6)
    assert float(mean_psnr(x, x + 0.2, x + 0.1, data_range=1.0)) == pytest.approx(20, rel=1e-6)


@pytest.mark.parametrize(
    ("size", "weight"),
    [((11, 40), 1), ((22, 23), 0.1356), ((87, 90), 0.0711), ((88, 88), 0.0517), ((176, 177), 0.0448)],
)
def test_ms_ssim_uses_as_many_scales_as_fit(size, weight):
    """A difference that vanishes in the mean of neighbours leaves the first scale alone, to the power of its weight."""
    x = 255 * torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    signs = [torch.tensor([0.0] + [(-1.0) ** i for i in range(1, n)]) for n in size]
    y = x + 40 * signs[0][:, None] * signs[1]
    value = multi_scale_structural_similarity(x, y, data_range=255.0)
    first = structural_similarity(x, y, data_range=255.0)
    assert float(first) < 0.95
    assert float(value.log() / first.log()) == pytest.approx(weight, rel=0.02)


def test_ms_ssim_of_an_inverted_image_is_0(pair):
    a, _ = pair
    assert torch.equal(multi_scale_structural_similarity(a, 255 - a, data_range=255.0), a.new_zeros(2))


def test_qw_and_qy_are_1_for_equal_images_and_less_for_others(pair):
    a, b = pair
    for quality in (piella_quality, yang_quality):
        assert torch.allclose(quality(a, a, a, data_range=255.0), a.new_ones(2))
        assert bool((quality(a, b, (a + b) / 2, data_range=255.0) < 0.95).all())
        assert torch.allclose(quality(a, b, a, data_range=255.0), quality(b, a, a, data_range=255.0))


def test_qw_weighs_by_variance_and_knows_nothing_of_flat_sources():
    rng = np.random.default_rng(0)
    a, flat = torch.from_numpy(rng.uniform(0, 255, (1, 1, 24, 24))), torch.full((1, 1, 24, 24), 90.0)
    assert float(piella_quality(a, flat, a, data_range=255.0)) == pytest.approx(1)
    assert piella_quality(flat, flat, a, data_range=255.0).isnan().all()


def test_qy_takes_the_better_source_where_they_differ():
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.integers(0, 256, (1, 1, 24, 24)).astype(float)) for _ in range(2))
    assert float(yang_quality(a, b, a, data_range=255.0)) == pytest.approx(1, abs=1e-3)
    black = torch.zeros(1, 1, 24, 24)
    assert float(yang_quality(black, black, black, data_range=255.0)) == 1


@pytest.mark.parametrize("levels", [(70, 100, 50), (0.1, 0.2, 0.3), (255, 254, 255)])
def test_qy_of_flat_images_compares_their_levels(levels):
    """Their variances are 0, and not the rounding errors of a difference of squares."""
    a, b, f = (torch.full((1, 1, 32, 32), float(level)) for level in levels)
    best = max(2 * x * levels[2] / (x * x + levels[2] ** 2) for x in levels[:2])
    share = sum(2 * x * levels[2] / (x * x + levels[2] ** 2) for x in levels[:2]) / 2
    alike = 2 * levels[0] * levels[1] / (levels[0] ** 2 + levels[1] ** 2) >= 0.75
    assert float(yang_quality(a, b, f, data_range=255.0)) == pytest.approx(share if alike else best, rel=1e-6)
