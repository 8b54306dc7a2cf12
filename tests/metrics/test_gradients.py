from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medfuse.metrics import edge_preservation, edge_transfer, gradient_quality

BEST = 0.9994 * 0.9879 / (1 + math.exp(-22 * 0.2))


def ramp(degrees: float) -> Tensor:
    """Return a plane whose gradient points that way."""
    y, x = torch.meshgrid(torch.arange(21.0), torch.arange(21.0), indexing="ij")
    angle = math.radians(degrees)
    return (120 + 4 * (math.cos(angle) * x + math.sin(angle) * y)).double().reshape(1, 1, 21, 21)


def test_equal_images_get_the_best_that_the_constants_allow(pair):
    a, _ = pair
    assert torch.allclose(edge_transfer(a, a, a, data_range=255.0), a.new_full((2,), BEST), rtol=1e-6)
    wrapped = BEST / (1 + math.exp(-15 * 0.5))  # equal strengths are a ratio of 1 here
    assert torch.allclose(edge_transfer(a, a, a, data_range=255.0, wrap=True), a.new_full((2,), wrapped))
    toolbox = 1 / (1 + math.exp(-5)) ** 2
    assert torch.allclose(gradient_quality(a, a, a, data_range=255.0), a.new_full((2,), toolbox))


def test_only_the_wrapped_form_knows_that_89_and_minus_89_degrees_are_alike():
    a, f = ramp(89)[..., 2:-2, 2:-2], ramp(91)[..., 2:-2, 2:-2]
    quoted, wrapped = (float(edge_transfer(a, a, f, data_range=255.0, wrap=w)) for w in (False, True))
    assert wrapped > quoted + 0.1
    assert float(edge_transfer(ramp(40), ramp(40), ramp(42), data_range=255.0, wrap=True)) == pytest.approx(
        float(edge_transfer(ramp(40), ramp(40), ramp(42), data_range=255.0)), abs=2e-3
    )


@pytest.mark.parametrize("function", [edge_transfer, gradient_quality])
def test_edges_lost_cost_and_sources_may_be_swapped(pair, function):
    a, b = pair
    maximum = torch.maximum(a, b)
    good = function(a, b, maximum, data_range=255.0)
    assert torch.allclose(function(b, a, maximum, data_range=255.0), good)
    blurred = torch.nn.functional.avg_pool2d(maximum, 5, 1, 2)
    assert bool((function(a, b, blurred, data_range=255.0) < good - 0.1).all())
    flipped = function(a.flip(-1), b.flip(-1), maximum.flip(-1), data_range=255.0)
    assert torch.allclose(flipped, good, atol=0.02)


def test_edge_transfer_of_black_sources_is_not_defined():
    flat = torch.zeros(1, 1, 9, 9)
    assert edge_transfer(flat, flat, ramp(0)[..., :9, :9], data_range=255.0).isnan().all()


def test_flat_background_counts_in_the_toolbox_form_alone(pair):
    a, b = pair
    f = torch.nn.functional.avg_pool2d(torch.maximum(a, b), 3, 1, 1)
    wide = [torch.nn.functional.pad(x, (40, 40, 40, 40)) for x in (a, b, f)]
    assert torch.allclose(edge_transfer(*wide, data_range=255.0), edge_transfer(a, b, f, data_range=255.0), atol=1e-6)
    assert bool((gradient_quality(*wide, data_range=255.0) > gradient_quality(a, b, f, data_range=255.0) + 0.1).all())


def test_edge_preservation_is_blind_to_contrast_and_sees_inversion(pair):
    a, b = pair
    one = a.new_ones(2)
    assert torch.allclose(edge_preservation(a, 0.3 * a, data_range=255.0), one)
    assert torch.allclose(edge_preservation(a, -a, data_range=255.0), -one)
    assert bool((edge_preservation(a, b, data_range=255.0).abs() < 0.9).all())


def test_edge_preservation_looks_at_the_strongest_tenth_alone():
    weak, strong = torch.zeros(2, 1, 1, 80, 80, dtype=torch.float64)
    weak[..., 5:75, 5:75] = 5
    strong[..., 28:52, 28:52] = 200
    assert float(edge_preservation(weak + strong, strong, data_range=255.0)) == pytest.approx(1)
    assert float(edge_preservation(weak + strong, weak, data_range=255.0)) == 0


def test_edge_preservation_of_a_black_source_is_not_defined_and_of_a_black_image_0(pair):
    a, _ = pair
    assert edge_preservation(a * 0, a, data_range=255.0).isnan().all()
    assert torch.equal(edge_preservation(a, a * 0, data_range=255.0), a.new_zeros(2))
