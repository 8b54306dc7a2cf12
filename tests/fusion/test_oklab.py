"""The bivariate colour map: both numbers are read back from 8-bit colours, also by eyes that lack a cone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.stats import spearmanr

from medfuse.errors import GeometryError, ImageError
from medfuse.fusion import bivariate, read_bivariate, to_uint8
from medfuse.fusion.color import bivariate_scale, oklab_to_rgb, rgb_to_oklab

# Machado, Oliveira and Fernandes (TVCG 2009), severity 1.0, on linear sRGB
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]


def pair() -> tuple[np.ndarray, np.ndarray]:
    """Return an anatomy with detail and a smooth uptake, both on all of 0..1."""
    random = np.random.default_rng(0)
    images = [gaussian_filter(random.standard_normal((96, 96)), s) for s in (1.5, 6)]
    anatomy, uptake = ((v - v.min()) / np.ptp(v) for v in images)
    return anatomy, uptake


def seen(rgb: np.ndarray, matrix: object) -> np.ndarray:
    """Simulate dichromacy of 8-bit sRGB."""
    x = rgb / 255
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    linear = (linear @ np.array(matrix).T).clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(curved * 255)


def test_oklab_is_the_published_space():
    """Ottosson's own values: white is L = 1, a = b = 0; red is 0.628, 0.225, 0.126."""
    np.testing.assert_allclose(rgb_to_oklab(np.ones(3)), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rgb_to_oklab(np.array([1.0, 0, 0])), [0.62796, 0.22486, 0.12585], atol=1e-4)
    rgb = np.random.default_rng(0).random((50, 3))
    np.testing.assert_allclose(oklab_to_rgb(rgb_to_oklab(rgb)), rgb, atol=1e-9)


def test_both_numbers_are_read_back_from_8_bit_colours():
    anatomy, uptake = pair()
    found_anatomy, found_uptake = read_bivariate(to_uint8(bivariate(anatomy, uptake)))
    assert spearmanr(found_uptake.ravel(), uptake.ravel())[0] >= 0.99
    assert np.abs(found_uptake - uptake).mean() < 0.01
    assert np.abs(found_anatomy - anatomy).mean() < 0.01


def test_the_detail_of_the_anatomy_is_in_the_lightness_of_hot_regions():
    anatomy, uptake = pair()
    lightness = rgb_to_oklab(to_uint8(bivariate(anatomy, uptake)) / 255)[..., 0]
    hot = uptake > 0.45
    m, f = ((v - gaussian_filter(v, 3))[hot] for v in (anatomy, lightness))
    assert np.corrcoef(m, f)[0, 1] >= 0.95
    assert (m * f).sum() / (m * m).sum() >= 0.57


@pytest.mark.parametrize("level", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_hue_never_turns_back_and_nothing_leaves_srgb(level):
    uptake = np.linspace(0, 1, 1001)
    rgb = bivariate(np.full(1001, level), uptake)
    lab = rgb_to_oklab(rgb)
    hue = np.unwrap(np.arctan2(lab[:, 2], lab[:, 1]))
    assert (np.diff(hue) > 0).all()  # also where the chroma is low, for what is empty
    assert 120 < np.rad2deg(hue[-1] - hue[0]) < 180  # from blue to orange
    assert rgb.min() > 0 and rgb.max() < 1  # nothing was cut at the cube


@pytest.mark.parametrize("matrix", [PROTANOPIA, DEUTERANOPIA])
def test_dichromats_keep_the_order_of_the_uptake(matrix):
    """By b alone, and by lightness and b together, as who knows the scale reads it."""
    anatomy, uptake = pair()
    lab = rgb_to_oklab(seen(to_uint8(bivariate(anatomy, uptake)), matrix) / 255)
    assert spearmanr(lab[..., 2].ravel(), uptake.ravel())[0] > 0.95
    assert spearmanr(looked_up(anatomy, uptake, matrix).ravel(), uptake.ravel())[0] > 0.98


@pytest.mark.parametrize("matrix", [np.eye(3), PROTANOPIA, DEUTERANOPIA])
def test_the_ends_of_the_window_are_told_from_what_is_near(matrix):
    """As in a CT: air and bone at the ends of the window, all soft tissue in a tenth of it. Equal values read equal."""
    anatomy, uptake = pair()
    ct = np.where(uptake < 0.4, 0, np.where(uptake > 0.6, 1, 0.3 + 0.5 * (uptake - 0.4)))
    found = looked_up(anatomy, ct, matrix)
    assert spearmanr(found.ravel(), ct.ravel())[0] > 0.95
    assert (found[ct == 0] < 0.02).mean() > 0.98 and (found[ct == 1] > 0.98).mean() > 0.98


def looked_up(anatomy: np.ndarray, uptake: np.ndarray, matrix: object) -> np.ndarray:
    """Return the uptake of the nearest colour of the map, both as they are seen."""
    values = np.linspace(0, 1, 256)
    known, shown = (
        rgb_to_oklab(seen(to_uint8(bivariate(*v)), matrix) / 255)
        for v in ((values[None], values[:, None]), (anatomy, uptake))
    )
    return cKDTree(known.reshape(-1, 3)).query(shown)[1] // 256 / 255


def test_what_is_empty_is_dark_and_uptake_there_is_not():
    empty, faint = (rgb_to_oklab(bivariate(0.0, u))[0] for u in (0.0, 0.1))
    assert empty < 0.2 and faint > 0.27
    assert np.ptp(to_uint8(bivariate(0.0, 0.0)).astype(int)) < 10  # nearly grey


def test_the_scale_shows_the_uptake_at_several_lightnesses():
    scale = bivariate_scale(64, 5)
    assert scale.shape == (5, 64, 3)
    anatomy, uptake = read_bivariate(scale)
    np.testing.assert_allclose(uptake, np.linspace(0, 1, 64)[None].repeat(5, 0), atol=0.02)
    np.testing.assert_allclose(anatomy, np.linspace(1, 0, 5)[:, None].repeat(64, 1), atol=0.02)


def test_tensors_come_back_as_tensors_and_impossible_input_is_refused():
    assert isinstance(bivariate(torch.rand(4, 5), 0.5), torch.Tensor)
    assert read_bivariate(torch.rand(4, 5, 3))[0].shape == (4, 5)
    with pytest.raises(GeometryError, match="broadcast"):
        bivariate(np.zeros((4, 5)), np.zeros((5, 4)))
    with pytest.raises(ImageError, match="uptake must be finite"):
        bivariate(0.5, np.nan)
    with pytest.raises(GeometryError, match="3 long"):
        read_bivariate(np.zeros((4, 4)))
    with pytest.raises(ImageError, match="finite"):
        read_bivariate(np.full((2, 3), np.nan))
