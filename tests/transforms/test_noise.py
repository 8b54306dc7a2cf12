"""The noise that data show: on their own grid, in their foreground, whatever is drawn into them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from medfuse.estimation import noise_profile
from medfuse.physics import parse_degradation
from medfuse.pipeline.facts import noise_of_data
from medfuse.transforms import MeasureNoised

SHAPE = (56, 52, 12)


def head(shape=SHAPE) -> np.ndarray:
    """Return a smooth head of level 0.3 to 1 with two regions, in a black background."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = x**2 / 0.7 + y**2 / 0.8 < 1
    lesion = (x - 0.2) ** 2 + (y + 0.2) ** 2 < 0.05
    return gaussian_filter(inside * (0.6 + 0.1 * z + 0.3 * lesion), (1, 1, 0)) * inside


def seen(image: np.ndarray, sigma: float, **options) -> tuple[float, float]:
    _, least, most = noise_profile(image.astype(np.float32), **options)
    return float(np.median(least)) / sigma, float(np.median(most)) / sigma


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("kind", ["gaussian", "clipped", "rician"])
def test_white_noise_is_measured_in_the_foreground(kind, sigma):
    # a black background, where values were cut off at 0 or are magnitudes, has other noise, and is left out
    rng = np.random.default_rng(0)
    image = head() + rng.normal(0, sigma, SHAPE)
    image = {"clipped": image.clip(0), "rician": np.hypot(image, rng.normal(0, sigma, SHAPE))}.get(kind, image)
    least, most = seen(image, sigma)
    assert 0.9 < least < 1.15
    assert least <= most < 1.8


def test_noise_that_neighbours_share_is_between_least_and_most():
    # rho(1) = exp(-1 / 4) for a kernel of std 1: differences of neighbours see (3 - 4 rho(1) + rho(2)) / 3 = 0.08 of it
    noise = gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), (1, 1, 0))
    least, most = seen(head() + 0.05 * noise / noise.std(), 0.05)
    assert least < 0.2
    assert most > 0.6


def test_counts_are_noisier_where_there_are_more():
    image = np.random.default_rng(0).poisson(400 * head((64, 64, 12))) / 400
    level, least, _ = noise_profile(image)
    assert np.abs(least / np.sqrt(level / 400) - 1).max() < 0.25
    found = noise_of_data(
        torch.from_numpy(noise_profile(5.0 * image)),
        parse_degradation({"version": 1, "source2": [{"noise": {"kind": "poisson", "counts": 400}}]}).source2,
        scale=5.0,
    )
    assert found is not None
    assert found["seen"][0] == pytest.approx(found["stated"], rel=0.15)


def test_where_nothing_can_be_known_nothing_is_said():
    assert noise_profile(np.zeros((30, 30, 4))).shape == (3, 0)
    assert noise_profile(np.ones((8, 30))).shape == (3, 0)
    empty = torch.empty(3, 0)
    stated = parse_degradation({"version": 1, "source1": [{"noise": {"sigma": 0.1}}]})
    assert noise_of_data(empty, stated.source1) is None
    assert noise_of_data(torch.ones(3, 2), stated.source2) is None  # nothing was stated: nothing to contradict


@pytest.mark.parametrize("after", [{"blur": {"sigma_px": 1.5}}, {"downsample": {"factor": 2}}])
def test_of_noise_before_a_linear_step_no_less_is_claimed(after):
    # what a blur leaves is coloured: differences do not see all of it
    part = parse_degradation({"version": 1, "source1": [{"noise": {"sigma": 0.1}}, after]}).source1
    found = noise_of_data(torch.tensor([[0.5], [0.001], [0.002]]), part)
    assert found["stated"] < 0.06
    assert found["seen"][1] == found["stated"]


def test_a_volume_is_measured_in_its_own_unit_across_its_coarsest_axis():
    image = np.moveaxis(40.0 * (head() + np.random.default_rng(0).normal(0, 0.05, SHAPE)), 2, 0)
    affine = torch.diag(torch.tensor([5.0, 2.0, 2.0, 1.0]))
    data = {"pet": MetaTensor(torch.from_numpy(image.astype(np.float32))[None], affine=affine)}
    _, least, _ = MeasureNoised("pet")(data)["pet_noise"]
    assert float(least.median()) == pytest.approx(2.0, rel=0.12)
    assert MeasureNoised("mri", allow_missing_keys=True)(data) == data
