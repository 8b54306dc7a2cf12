"""Collaborative filtering: held against loops over patches with SciPy's cosine transform, and what it must not do."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor

from medfuse.physics import Degradation, GaussianBlur, GaussianNoise, MotionBlur, PoissonNoise, bind, collaborative
from medfuse.physics.collaborative import collaborated, collaborated_across, grain

HAAR = {
    1: [[1]],
    2: [[1, 1], [1, -1]],
    4: [[1, 1, 1, 1], [1, 1, -1, -1], [2**0.5, -(2**0.5), 0, 0], [0, 0, 2**0.5, -(2**0.5)]],
}
ERROR = 0.02**2


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stripes(size: int = 64, batch: int = 1) -> Tensor:
    """Return images that repeat themselves, between 0.3 and 0.7, **[B, 1, size, size]**."""
    columns = 0.5 + 0.2 * torch.sin(torch.arange(size, dtype=torch.float64) * math.pi / 3)
    return columns.expand(batch, 1, size, size).clone()


def noisy(x: Tensor, *steps, seed: int = 1):
    """Return the observation model of an image under steps, GaussianNoise(0.05) unless others are given."""
    degradation = Degradation(steps or (GaussianNoise(0.05),))
    return bind(degradation, degradation.simulate(x, torch.Generator().manual_seed(seed)), x.shape[2:])


def log_variance(x: Tensor, error: float = ERROR) -> Tensor:
    return torch.full_like(x, math.log(error))


def starts(length: int) -> range:
    return range(0, length - 7, 4)


def by_loops(x: np.ndarray, data: np.ndarray, noise: np.ndarray, error: np.ndarray, patches: int) -> np.ndarray:
    """Filter the first of some slices whose sides are multiples of 4, patch by patch."""
    _, height, width = x.shape
    haar = np.array(HAAR[patches]) / math.sqrt(patches)
    window = np.outer(np.kaiser(8, 3.0), np.kaiser(8, 3.0))
    total, weight = np.zeros_like(x[0]), np.zeros_like(x[0])
    for top in starts(height):
        for left in starts(width):
            here = x[0, top : top + 8 : 2, left : left + 8]
            around = product(range(len(x)), range(top - 4, top + 5), range(left - 4, left + 5))
            near = [(k, i, j) for k, i, j in around if 0 <= i <= height - 8 and 0 <= j <= width - 8]
            near.remove((0, top, left))
            near.sort(key=lambda at: ((x[at[0], at[1] : at[1] + 8 : 2, at[2] : at[2] + 8] - here) ** 2).sum())
            group = [np.s_[k, i : i + 8, j : j + 8] for k, i, j in [(0, top, left), *near][:patches]]

            def waves(image: np.ndarray, group=group) -> np.ndarray:
                return np.einsum("kj,jab->kab", haar, [dctn(image[part], norm="ortho") for part in group])

            mine, found = waves(x), waves(data)
            e, v = 2 * error[top : top + 8, left : left + 8].mean(), noise[top : top + 8, left : left + 8].mean()
            p = np.minimum(e, mine**2 / 2)
            shrunk = mine**2 / (mine**2 + e) * mine
            for part, coefficients in zip(
                group, np.einsum("kj,kab->jab", haar, shrunk + p / (p + v) * (found - shrunk)), strict=True
            ):
                if part[0] == 0:  # what falls to the other slices is theirs to find
                    total[part[1:]] += window * idctn(coefficients, norm="ortho")
                    weight[part[1:]] += window
    return total / weight


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("patches", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 4])
def test_it_is_the_filter_of_the_formula_patch_by_patch(patches, slices, seed):
    x, data = (0.3 + 0.4 * rand(slices, 28, 32, seed=seed + k) for k in (0, 1))
    noise, error = 0.01 * rand(28, 32, seed=2), 0.004 * rand(28, 32, seed=3)
    blocks = [torch.nn.functional.avg_pool2d(v[None], 4) for v in (noise, error)]
    found = collaborative._filtered(x[None], data[None], *blocks, patches)
    expected = by_loops(*(v.numpy() for v in (x, data, noise, error)), patches)
    assert np.abs(found[0].numpy() - expected).max() < 1e-12


def test_few_waves_of_a_patch_hold_what_is_smooth():
    truth = stripes()
    estimate = truth + 0.02 * (rand(*truth.shape, seed=5) - 0.5) * math.sqrt(12)
    found = collaborated(noisy(truth), estimate, log_variance(truth), 1)
    assert float((estimate - truth).std()) == pytest.approx(0.02, rel=0.05)
    assert float((found - truth).std()) < 0.6 * 0.02


def test_what_repeats_itself_is_restored_by_its_repetitions():
    """A texture of which each patch needs all its waves, and the patches of a group have in common."""
    truth = 0.3 + 0.4 * rand(1, 1, 4, 4, seed=9).repeat(1, 1, 16, 16)
    estimate = truth + 0.02 * (rand(*truth.shape, seed=5) - 0.5) * math.sqrt(12)
    model = noisy(truth)
    errors = [float((collaborated(model, estimate, log_variance(truth), k) - truth).std()) for k in (1, 4, 8)]
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < errors[1]


def test_an_error_of_the_estimate_that_the_data_show_is_mended():
    """A bar that the estimate has too faint: its data are believed where it has something."""
    truth = torch.full((1, 1, 64, 64), 0.3, dtype=torch.float64)
    truth[..., 20:44, 28:36] = 0.6
    estimate = 0.3 + 0.8 * (truth - 0.3)
    found = collaborated(noisy(truth), estimate, log_variance(truth, 0.06**2), 4)
    inside = (..., slice(24, 40), slice(29, 35))
    assert float((estimate - truth)[inside].mean()) == pytest.approx(-0.06)
    assert abs(float((found - truth)[inside].mean())) < 0.03
    assert float((found - truth)[..., :20].std()) < 0.004


@pytest.mark.parametrize(
    "steps",
    [(GaussianBlur(1.0), GaussianNoise(0.05)), (GaussianNoise(0.05), GaussianBlur(1.0)), (MotionBlur(5.0, 0.0),), ()],
    ids=["behind a blur", "before a blur", "motion", "nothing"],
)
def test_without_white_noise_alone_an_estimate_is_left_alone(steps):
    x = stripes()
    degradation = Degradation(steps)
    model = bind(degradation, degradation.simulate(x, torch.Generator().manual_seed(0)), x.shape[2:])
    assert collaborated(model, x, log_variance(x), 4) is x
    assert collaborated(noisy(x), x, log_variance(x), 0) is x


def test_samples_of_a_batch_and_parts_of_an_image_do_not_depend_on_each_other(monkeypatch):
    x = stripes(size=44, batch=3) + 0.05 * rand(3, 1, 44, 44)
    model = noisy(x)
    whole = collaborated(model, x, log_variance(x), 4)
    for i in range(3):
        alone = bind(model.degradation, model.y[i : i + 1], x.shape[2:])
        assert torch.equal(collaborated(alone, x[i : i + 1], log_variance(x[:1]), 4), whole[i : i + 1])
    monkeypatch.setitem(collaborative._GROUPS, "cpu", 1)
    assert torch.allclose(collaborated(model, x, log_variance(x), 4), whole, atol=1e-14)
    monkeypatch.setattr(collaborative, "_PIXELS", 3 * 44 * 12)
    assert len(collaborative._bands(x)) == 3
    assert torch.allclose(collaborated(model, x, log_variance(x), 4), whole, atol=1e-14)


def test_bands_of_a_slice_are_filtered_with_the_same_of_those_beside(monkeypatch):
    x = [stripes(size=44) + 0.05 * rand(1, 1, 44, 44, seed=seed) for seed in range(3)]
    known = [grain(noisy(one), one, log_variance(one)) for one in x]
    whole = collaborated_across(x, known, 4)
    monkeypatch.setattr(collaborative, "_PIXELS", 3 * 44 * 12)
    assert len(collaborative._bands(torch.cat(x, 1))) == 3
    assert torch.allclose(collaborated_across(x, known, 4), whole, atol=1e-14)


def test_the_slices_beside_tell_what_a_texture_is():
    """A texture that no slice repeats and all share."""
    truth = 0.3 + 0.4 * rand(1, 1, 64, 64, seed=9)
    x = [truth + 0.02 * (rand(*truth.shape, seed=seed) - 0.5) * math.sqrt(12) for seed in (5, 6, 7)]
    known = [grain(noisy(truth, seed=k), one, log_variance(one)) for k, one in enumerate(x)]
    alone, among = (collaborated_across(x[:n], known[:n], 4) for n in (1, 3))
    assert torch.equal(alone, collaborated(noisy(truth, seed=0), x[0], log_variance(truth), 4))
    assert float((among - truth).std()) < 0.9 * float((alone - truth).std())


@pytest.mark.parametrize("size", [(5, 3), (8, 8), (9, 30), (45, 37)])
def test_any_size_is_filtered(size):
    x = 0.5 + 0.1 * rand(2, 1, *size)
    found = collaborated(noisy(x), x, log_variance(x), 4)
    assert found.shape == x.shape
    assert bool(found.isfinite().all())
    assert 0 < float((found - x).abs().max()) < 0.2


def test_no_pixel_goes_without_a_patch_where_all_are_equal():
    flat = torch.full((1, 1, 40, 40), 0.5, dtype=torch.float64)
    assert float((collaborated(noisy(flat), flat, log_variance(flat), 4) - flat).abs().max()) < 0.05


def test_noise_that_was_cut_off_is_not_taken_for_signal():
    """Below 0 nothing was stored: the mean of the data in the dark is 0.4 standard deviations, that of the image 0."""
    truth = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    truth[..., 32:, :] = 0.5
    degradation = Degradation((GaussianNoise(0.05),))
    y = degradation.simulate(truth, torch.Generator().manual_seed(1)).clamp_min(0)
    found = collaborated(bind(degradation, y, truth.shape[2:]), truth, log_variance(truth, 0.05**2), 4)
    dark = found[..., 4:24, 4:60]
    assert float(y[..., 4:24, 4:60].mean()) > 0.35 * 0.05
    assert abs(float(dark.mean())) < 0.03 * 0.05


def test_noise_that_depends_on_the_signal_is_believed_less_where_there_is_more():
    bright = stripes() + 0.2
    faint = 0.1 * bright
    both = torch.cat([bright, faint], 1).flatten(0, 1)[:, None]
    model = noisy(both, PoissonNoise(400.0))
    moved = collaborated(model, both, log_variance(both, 0.05**2), 4) - both
    assert 1.5 < float(moved[0].std() / moved[1].std()) < 6


def test_gradients_pass_as_if_nothing_had_been_filtered():
    x = stripes(size=32).requires_grad_()
    model = noisy(x.detach())
    collaborated(model, x, log_variance(x), 4).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
