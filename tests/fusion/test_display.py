"""How anatomy and uptake become one colour image, and how their values come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medfuse.errors import GeometryError, ImageError
from medfuse.fusion import ColourFusion, bivariate, fuse_color, palette, read_back, to_uint8
from medfuse.fusion.color import COLOUR_MAPS, rgb_to_oklab

GRID = np.linspace(0, 1, 33)


def test_the_default_is_the_map_that_can_be_read_back():
    look = ColourFusion()
    assert (look.palette, look.blend, look.alone, look.shows_anatomy) == ("OKLAB", None, "HOT_IRON", True)
    np.testing.assert_array_equal(look(GRID[:, None], GRID), bivariate(GRID[:, None], GRID))


def test_both_values_come_back_in_their_units():
    """8 bits of the colour leave some levels of each window: 0.5 % of it on average, and never more than 6 %."""
    windows = (-160.0, 240.0), (0.0, 12.0)  # of a CT in HU, and of a PET in SUV
    anatomy, uptake = np.meshgrid(np.linspace(*windows[0], 50), np.linspace(*windows[1], 60))
    shares = [(v - low) / (high - low) for v, (low, high) in zip((anatomy, uptake), windows, strict=True)]
    rgb = to_uint8(bivariate(*shares))
    for found, truth, (low, high) in zip(read_back(rgb, *windows), (anatomy, uptake), windows, strict=True):
        error = np.abs(found - truth) / (high - low)
        assert found.dtype == np.float32 and error.mean() < 0.005 and error.max() < 0.06
    stored = np.zeros(rgb.shape[:2], [("R", "u1"), ("G", "u1"), ("B", "u1")])  # as NIfTI has it
    for k, name in enumerate("RGB"):
        stored[name] = rgb[..., k]
    for found, same in zip(read_back(stored, *windows), read_back(rgb, *windows), strict=True):
        np.testing.assert_array_equal(found, same)


def test_what_is_beyond_a_window_comes_back_as_its_end():
    anatomy, uptake = read_back(to_uint8(bivariate([-3.0, 9.0], [7.0, -1.0])), (0, 100), (0, 10))
    np.testing.assert_allclose(anatomy, [0, 100], atol=1)
    np.testing.assert_allclose(uptake, [10, 0], atol=0.1)


def test_a_plain_overlay_is_half_of_each():
    rgb = ColourFusion("hot_metal_blue", "alpha")(GRID[:, None], 1.0)
    np.testing.assert_allclose(rgb, 0.5 * GRID[:, None, None] + 0.5 * palette("HOT_METAL_BLUE")[-1], atol=1e-6)
    assert isinstance(ColourFusion("PET", "alpha")(torch.rand(4, 5), 0.5), torch.Tensor)


def test_a_palette_is_blended_by_its_luma_unless_it_falls():
    assert ColourFusion("hot_iron").blend == "luma" and not ColourFusion("hot_iron").shows_anatomy
    np.testing.assert_array_equal(ColourFusion("PET")(GRID, 0.7), fuse_color(GRID, 0.7, "PET"))
    assert ColourFusion("gray_inverted").blend == "alpha"
    rgb = ColourFusion("gray_inverted")(0.5, GRID)
    assert (np.diff(rgb.mean(-1)) < 0).all()


@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_every_map_has_a_scale_and_a_sentence(name):
    look = ColourFusion(name)
    scale = look.scale(64, 4)
    assert scale.shape == (4 if name == "OKLAB" else 1, 64, 3) and scale.min() >= 0 and scale.max() <= 1
    text = look.described(("MRI 0 to 90 a.u.", "PET 0 to 7 SUV"))
    assert "PET 0 to 7 SUV" in text and (name in text or name == "OKLAB")
    assert ("read_back" in text) == (name == "OKLAB")


def test_the_bar_of_the_map_shows_several_lightnesses():
    lightness = rgb_to_oklab(ColourFusion().scale(16, 5))[:, 8, 0]
    assert (np.diff(lightness) < -0.1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"palette": "JET"}, "palette must be one of OKLAB"),
        ({"palette": "PET", "blend": "screen"}, "blend must be one of luma, alpha"),
        ({"blend": "alpha"}, "palette other than OKLAB"),
        ({"palette": "GRAY_INVERTED", "blend": "luma"}, "must be alpha"),
    ],
)
def test_words_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ImageError, match=message):
        ColourFusion(**options)


def test_windows_and_images_that_make_no_sense_are_refused():
    for window in ((1.0, 1.0), (2.0, 1.0), (0.0, np.nan), (0.0, np.inf)):
        with pytest.raises(ImageError, match="window of the uptake"):
            read_back(np.zeros((2, 3)), (0, 1), window)
    with pytest.raises(GeometryError, match="3 long"):
        read_back(np.zeros((2, 4)))
