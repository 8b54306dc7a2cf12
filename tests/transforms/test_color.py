from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from pydicom.pixels import apply_color_lut

from medfuse.errors import GeometryError, ImageError
from medfuse.transforms.color import PALETTES, fuse_color, palette, rgb_to_ycbcr, to_uint8, ycbcr_to_rgb

LUMA = np.array([0.299, 0.587, 0.114])
GRID = np.linspace(0, 1, 257)
UNIT = st.floats(0, 1)


def lightness(rgb):
    """CIE L* of sRGB (IEC 61966-2-1), 0..100."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


@pytest.mark.parametrize("name", PALETTES)
def test_palette_runs_from_black_to_white(name):
    table = palette(name.lower())
    assert (table.shape, table.dtype) == ((256, 3), np.float32)
    assert (table[0] == 0).all()
    assert (table[-1] == 1).all()


def test_palettes_are_those_of_the_standard():
    bytes_ = apply_color_lut(np.arange(256, dtype=np.uint8), palette="1.2.840.10008.1.5.1")
    np.testing.assert_array_equal(to_uint8(palette("HOT_IRON")), bytes_)
    # DICOM PS3.6 Annex B.1.1: red first, then green, then blue
    np.testing.assert_array_equal(bytes_[[0, 127, 128, 191, 255]][:, 0], [0, 254, 255, 255, 255])
    np.testing.assert_array_equal(bytes_[[0, 128, 255]][:, 2], [0, 0, 255])


def test_palette_is_a_copy():
    palette("GRAY")[:] = 0.5
    assert palette("GRAY")[-1, 0] == 1


def test_unknown_palette_is_refused():
    with pytest.raises(ImageError, match="HOT_IRON, PET, HOT_METAL_BLUE, GRAY, got 'JET'"):
        palette("jet")


@pytest.mark.parametrize("name", PALETTES)
@pytest.mark.parametrize("options", [{}, {"structure": 1.0, "opacity": 1.0}, {"floor": 0.2}, {"structure": 0.2}])
def test_hotter_is_never_darker(name, options):
    rgb = fuse_color(GRID[:, None], GRID[None, :], name, **options)
    assert rgb.shape == (257, 257, 3)
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    assert np.diff(rgb @ LUMA, axis=1).min() > -1e-6
    assert np.diff(to_uint8(rgb) @ LUMA, axis=1).min() > -1  # a byte's rounding


@pytest.mark.parametrize(("name", "fall"), [("HOT_IRON", 1e-4), ("GRAY", 1e-4), ("HOT_METAL_BLUE", 2), ("PET", 10)])
@pytest.mark.parametrize("options", [{}, {"structure": 1.0, "opacity": 1.0}, {"structure": 0.2}])
def test_hotter_is_hardly_darker_to_the_eye(name, fall, options):
    """In lightness, too: never with the default palette, by no more than documented with the others."""
    fall = 0.5 if options and name == "HOT_IRON" else fall
    light = lightness(fuse_color(GRID[:, None], GRID[None, :], name, **options))
    assert (np.maximum.accumulate(light, axis=1) - light).max() < fall


@pytest.mark.parametrize("name", PALETTES)
def test_more_structure_is_brighter_at_any_uptake(name):
    luma = fuse_color(GRID[:, None], GRID[None, :], name) @ LUMA
    assert np.diff(luma, axis=0).min() > 0


@pytest.mark.parametrize("name", PALETTES)
def test_cold_is_plain_structure_and_background_black(name):
    rgb = fuse_color(GRID, 0.1, name, structure=0.6, floor=0.1)
    np.testing.assert_allclose(rgb, 0.6 * GRID[:, None].repeat(3, 1), atol=1e-6)
    assert (fuse_color(0.0, 0.0, name) == 0).all()


def test_uptake_alone_shows_the_palette_itself():
    rgb = fuse_color(np.zeros(256), np.arange(256) / 255, "HOT_IRON", opacity=1.0)
    np.testing.assert_allclose(rgb, palette("HOT_IRON"), atol=1e-5)


def test_values_beyond_the_window_are_clipped():
    np.testing.assert_array_equal(fuse_color([-1.0, 2.0], [-3.0, 7.0]), fuse_color([0.0, 1.0], [0.0, 1.0]))


@pytest.mark.parametrize("shape", [(), (5,), (4, 5), (2, 1, 3, 4, 5)])
def test_any_shape_any_kind(shape):
    s, u = np.random.default_rng(0).random((2, *shape))
    array = fuse_color(s, u)
    assert isinstance(array, np.ndarray)
    assert array.shape == (*shape, 3)
    tensor = fuse_color(MetaTensor(torch.as_tensor(s)), torch.as_tensor(u))
    assert type(tensor) is torch.Tensor
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert fuse_color(s.astype(np.float16), np.asarray(1)).dtype == np.float32


def test_inputs_are_not_changed():
    s, u = torch.rand(4), torch.rand(4)
    before = s.clone(), u.clone()
    fuse_color(s, u)
    assert torch.equal(s, before[0])
    assert torch.equal(u, before[1])


@pytest.mark.parametrize(
    "options", [{"structure": 0}, {"structure": 1.1}, {"opacity": -0.1}, {"floor": 1.0}, {"floor": float("nan")}]
)
def test_parameters_out_of_range_are_refused(options):
    with pytest.raises(ImageError, match="structure, opacity and floor"):
        fuse_color(0.5, 0.5, **options)


def test_bad_images_are_refused():
    with pytest.raises(GeometryError, match="broadcast"):
        fuse_color(np.ones(3), np.ones(4))
    with pytest.raises(ImageError, match="uptake must be finite"):
        fuse_color(np.ones(3), np.array([0, np.nan, 1]))


@settings(max_examples=200, deadline=None)
@given(st.tuples(UNIT, UNIT, UNIT))
def test_ycbcr_round_trip_is_exact(rgb):
    rgb = np.array(rgb)
    y, cb, cr = rgb_to_ycbcr(rgb)
    assert abs(y - rgb @ LUMA) < 1e-12
    assert max(abs(cb), abs(cr)) <= 0.5 + 1e-12
    np.testing.assert_allclose(ycbcr_to_rgb(rgb_to_ycbcr(rgb)), rgb, atol=1e-13)


def test_every_8_bit_colour_survives_in_float32():
    levels = np.arange(0, 256, 5, dtype=np.float32) / 255
    rgb = np.stack(np.meshgrid(levels, levels, levels), -1)
    np.testing.assert_array_equal(to_uint8(ycbcr_to_rgb(rgb_to_ycbcr(rgb))), to_uint8(rgb))


def test_chroma_is_in_the_standard_order():
    """Cb follows blue, Cr follows red: BT.601, pure blue and pure red."""
    np.testing.assert_allclose(
        rgb_to_ycbcr([[0.0, 0, 1], [1, 0, 0]])[:, 1:], [[0.5, -0.081312], [-0.168736, 0.5]], atol=1e-6
    )


def test_last_axis_must_be_colour():
    with pytest.raises(GeometryError, match=r"got shape \(3, 4\)"):
        rgb_to_ycbcr(np.ones((3, 4)))


def test_bytes_round_half_to_even():
    np.testing.assert_array_equal(to_uint8(torch.tensor([-1, 0.5 / 255, 1.5 / 255, 2.0])), [0, 0, 2, 255])
