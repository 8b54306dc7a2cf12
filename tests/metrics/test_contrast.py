from __future__ import annotations

import math

import pytest
import torch

from medfuse.metrics import (
    average_gradient,
    correlation_coefficient,
    spatial_frequency,
    standard_deviation,
    sum_of_correlations_of_differences,
)

RAMP = (3.0 * torch.arange(10.0)[:, None] + 4.0 * torch.arange(12.0)).reshape(1, 1, 10, 12)


def test_statistics_of_a_ramp_are_known():
    assert float(spatial_frequency(RAMP, data_range=255.0)) == pytest.approx(5)
    assert float(average_gradient(RAMP, data_range=255.0)) == pytest.approx(5 / math.sqrt(2))
    variance = 9 * (10**2 - 1) / 12 + 16 * (12**2 - 1) / 12
    assert float(standard_deviation(RAMP, data_range=255.0)) == pytest.approx(math.sqrt(variance))


@pytest.mark.parametrize("function", [spatial_frequency, average_gradient, standard_deviation])
def test_statistics_are_on_the_scale_of_8_bits_and_do_not_see_offsets(function):
    whole = function(RAMP, data_range=255.0)
    assert torch.allclose(function(RAMP / 255 + 0.2, data_range=1.0), whole)
    assert float(function(RAMP * 0 + 7, data_range=255.0)) == 0


def test_correlation_of_the_fused_image_with_both_sources(pair):
    a, b = pair
    assert torch.allclose(correlation_coefficient(a, a, 0.5 * a + 3, data_range=255.0), a.new_ones(2))
    assert torch.allclose(correlation_coefficient(a, a, 255 - a, data_range=255.0), -a.new_ones(2))
    assert bool(correlation_coefficient(a, b, a * 0, data_range=255.0).isnan().all())


def test_scd_of_the_sum_is_2_and_of_copies_not_defined(pair):
    a, b = pair

    def scd(f: torch.Tensor) -> torch.Tensor:
        return sum_of_correlations_of_differences(a, b, f, data_range=255.0)

    assert torch.allclose(scd(a + b), a.new_full((2,), 2.0))
    assert torch.allclose(scd((a + b) / 2), scd(((a + b) / 2) + 11))
    for copy in (a, b, a + 5):
        assert bool(scd(copy).isnan().all())
    assert bool(sum_of_correlations_of_differences(a, b * 0 + 4, (a + 4) / 2, data_range=255.0).isnan().all())


def test_scd_tells_the_samples_of_a_batch_apart(pair):
    a, b = pair
    value = sum_of_correlations_of_differences(a, b, torch.stack([a[0], a[1] + b[1]]), data_range=255.0)
    assert value[0].isnan()
    assert float(value[1]) == pytest.approx(2)
