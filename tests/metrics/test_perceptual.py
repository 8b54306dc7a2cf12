from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medfuse.metrics import chen_blum_quality, chen_varshney_error


def test_equal_images_are_perfect(pair):
    a, _ = pair
    assert torch.allclose(chen_blum_quality(a, a, a, data_range=255.0), a.new_ones(2))
    assert torch.equal(chen_varshney_error(a, a, a, data_range=255.0), a.new_zeros(2))


@pytest.mark.parametrize("function", [chen_blum_quality, chen_varshney_error])
def test_images_are_stretched_so_gain_and_offset_do_not_count(pair, function):
    a, b = pair
    f = torch.maximum(a, b)
    plain = function(a, b, f, data_range=255.0)
    assert torch.allclose(function(a, b, 0.5 * f + 30, data_range=255.0), plain, rtol=1e-3)
    assert torch.allclose(function(b, a, f, data_range=255.0), plain)


def test_noise_costs(pair):
    a, b = pair
    f = torch.maximum(a, b)
    noisy = f + 25 * torch.randn(f.shape, generator=torch.Generator().manual_seed(0))
    assert bool((chen_blum_quality(a, b, noisy, data_range=255.0) < chen_blum_quality(a, b, f, data_range=255.0)).all())
    assert bool(
        (chen_varshney_error(a, b, noisy, data_range=255.0) > chen_varshney_error(a, b, f, data_range=255.0)).all()
    )


def test_a_block_of_the_error_that_shows_no_edge_of_a_source_does_not_count():
    a = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    a[..., 4:12, 4:12] = 255
    near, far = a.clone(), a.clone()
    near[..., 5:11, 5:11] = 100
    far[..., 50:56, 50:56] = 100
    errors = [float(chen_varshney_error(a, a, f, data_range=255.0)) for f in (near, far)]
    assert errors[1] < 0.01 * errors[0]


def test_blocks_at_the_far_border_are_filled_with_zeros(pair):
    """48 x 56 has half a block of columns: what is appended there is black in a and f alike."""
    a, b = pair
    padded = [F.pad(x, (0, 8)) for x in (a, b, (a + b) / 2)]
    whole = chen_varshney_error(*padded, data_range=255.0)
    assert bool(whole.isfinite().all())
    assert chen_varshney_error(a, b, (a + b) / 2, data_range=255.0).shape == (2,)


def test_black_sources(pair):
    black = torch.zeros(1, 1, 32, 32)
    assert float(chen_blum_quality(black, black, black, data_range=255.0)) == 1
    assert chen_varshney_error(black, black, black + 3, data_range=255.0).isnan().all()


def test_the_sensitivity_depends_on_the_size_of_the_image(pair):
    a, b = pair
    f = (a + b) / 2
    twice = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (a, b, f)]
    small, large = chen_blum_quality(a, b, f, data_range=255.0), chen_blum_quality(*twice, data_range=255.0)
    assert bool(((small - large).abs() > 1e-3).any())
