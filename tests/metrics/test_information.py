from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medfuse.errors import GeometryError, ImageError
from medfuse.metrics import (
    entropy,
    mutual_information,
    nonlinear_correlation_information_entropy,
    normalised_mutual_information,
    visual_information_fidelity,
)


def every_level() -> Tensor:
    return torch.arange(256.0).reshape(1, 1, 16, 16)


def shuffled(seed: int) -> Tensor:
    return (
        every_level()
        .flatten()[torch.randperm(256, generator=torch.Generator().manual_seed(seed))]
        .reshape(1, 1, 16, 16)
    )


@pytest.mark.parametrize(("image", "bits"), [(every_level(), 8), (every_level() * 0, 0), (every_level() % 2, 1)])
def test_entropy_of_known_histograms(image, bits):
    assert float(entropy(image, data_range=255.0)) == pytest.approx(bits)


def test_values_beyond_the_range_fall_into_the_outer_bins():
    image = every_level() % 2 * 900 - 300
    assert float(entropy(image, data_range=255.0)) == pytest.approx(1)


def test_a_tie_between_two_bins_stays_a_tie_on_another_scale():
    """100.5 goes to the even bin, in float32 and on 0..1 too, where it is no longer exact."""
    image = every_level() * 0.5
    whole = entropy(image.double(), data_range=255.0)
    for scaled, data_range in ((image / 255, 1.0), (image * 257, 65535.0), (image.double() / 7, 255.0 / 7)):
        assert torch.equal(entropy(scaled, data_range=data_range), whole)


def test_mutual_information_of_a_copy_is_the_entropy():
    a, b = every_level(), every_level() % 4
    copy = float(mutual_information(a, b, a, data_range=255.0))
    assert copy == pytest.approx(8 + 2)  # b is a function of a: all of its 2 bits are in the copy
    assert float(mutual_information(a, a * 0, a * 0 + 3, data_range=255.0)) == pytest.approx(0, abs=1e-12)


def test_mutual_information_does_not_see_which_values_stand_for_which():
    a, b, f = every_level() // 16, shuffled(1) // 16, shuffled(2) // 16
    inverted = float(mutual_information(a, b, 255 - f, data_range=255.0))
    assert inverted == pytest.approx(float(mutual_information(a, b, f, data_range=255.0)))


def test_normalised_information_is_2_for_three_equal_images_and_blind_to_gain_and_offset(pair):
    a, b = pair
    assert torch.allclose(normalised_mutual_information(a, a, a, data_range=255.0), a.new_tensor([2.0, 2.0]))
    f = (a + b) / 2
    plain = normalised_mutual_information(a, b, f, data_range=255.0)
    assert torch.allclose(normalised_mutual_information(a, b, f / 2 + 30, data_range=255.0), plain)
    assert bool(
        (mutual_information(a, b, f // 2 + 30, data_range=255.0) < mutual_information(a, b, f, data_range=255.0)).all()
    )


def test_normalised_information_of_constant_images_is_0():
    flat = torch.full((1, 1, 8, 8), 9.0)
    assert float(normalised_mutual_information(flat, flat, flat, data_range=255.0)) == 0


def test_ncie_of_equal_and_of_unrelated_images():
    a, flat = every_level(), torch.zeros(1, 1, 16, 16)
    assert float(nonlinear_correlation_information_entropy(a, a, a, data_range=255.0)) == pytest.approx(1)
    lowest = float(nonlinear_correlation_information_entropy(flat, flat, flat, data_range=255.0))
    assert lowest == pytest.approx(1 - math.log(3, 256))


def test_vif_of_the_source_is_1_of_more_contrast_more_and_of_noise_and_blur_less(pair):
    a, _ = pair
    noise = 20 * torch.randn(a.shape, generator=torch.Generator().manual_seed(0))

    def vif(image: Tensor) -> Tensor:
        return visual_information_fidelity(a, image, data_range=255.0)

    assert torch.allclose(vif(a), torch.ones(2, dtype=torch.float64), atol=1e-9)
    assert bool((vif(1.2 * a) > 1.01).all())
    assert bool((vif(a + noise) < 0.8).all())
    assert bool((vif(torch.nn.functional.avg_pool2d(a, 5, 1, 2)) < 0.8).all())
    assert bool((vif(255 - a) < 0.05).all())


def test_vif_of_a_flat_source_is_1():
    flat = torch.full((1, 1, 20, 20), 40.0)
    assert float(visual_information_fidelity(flat, torch.rand(1, 1, 20, 20), data_range=255.0)) == 1


def test_vif_refuses_what_is_smaller_than_its_window():
    small = torch.zeros(1, 1, 16, 40)
    with pytest.raises(GeometryError, match="at least 17 x 17"):
        visual_information_fidelity(small, small, data_range=255.0)


@pytest.mark.parametrize("data_range", [0.0, -1.0, math.inf, math.nan])
def test_the_range_must_be_positive(data_range):
    with pytest.raises(ImageError, match="data_range must be positive"):
        entropy(every_level(), data_range=data_range)
