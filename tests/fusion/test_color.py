from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from pydicom.pixels import apply_color_lut

from medfuse.errors import DegradationError, GeometryError, ImageError
from medfuse.fusion.color import (
    PALETTES,
    chroma_degradation,
    fuse_color,
    fuse_visible,
    luma_degradation,
    palette,
    recolor,
    rgb_to_ycbcr,
    to_uint8,
    ycbcr_to_rgb,
)
from medfuse.physics import (
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    JointDegradation,
    JointObservation,
    PoissonNoise,
    RicianNoise,
    replicate,
)

LUMA = np.array([0.299, 0.587, 0.114])
GRID = np.linspace(0, 1, 257)
UNIT = st.floats(0, 1)


def lightness(rgb):
    """CIE L* of sRGB (IEC 61966-2-1), 0..100."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


RISING = [name for name in PALETTES if name != "GRAY_INVERTED"]


@pytest.mark.parametrize("name", ["HOT_IRON", "PET", "HOT_METAL_BLUE", "PET_20_STEP", "GRAY"])
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


def test_inverted_grey_is_grey_turned_round_and_a_rainbow_has_all_hues():
    np.testing.assert_array_equal(palette("GRAY_INVERTED"), palette("GRAY")[::-1])
    brightest = palette("RAINBOW").argmax(1)
    assert (palette("RAINBOW")[0] == 0).all() and [brightest[k] for k in (50, 128, 220)] == [
        2,
        1,
        0,
    ]  # blue, green, red
    with pytest.raises(ImageError, match="must not get darker"):
        fuse_color(0.5, 0.5, "GRAY_INVERTED")


def test_palette_is_a_copy():
    palette("GRAY")[:] = 0.5
    assert palette("GRAY")[-1, 0] == 1


def test_unknown_palette_is_refused():
    with pytest.raises(ImageError, match=r"HOT_IRON, .*GRAY, GRAY_INVERTED, got 'JET'"):
        palette("jet")


@pytest.mark.parametrize("name", RISING)
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


@pytest.mark.parametrize("name", RISING)
def test_more_structure_is_brighter_at_any_uptake(name):
    luma = fuse_color(GRID[:, None], GRID[None, :], name) @ LUMA
    assert np.diff(luma, axis=0).min() > 0


@pytest.mark.parametrize("name", RISING)
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


COLOURS = st.tuples(UNIT, UNIT, UNIT).map(np.array)


def hue(rgb):
    """Angle of the colour difference in the plane of Cb and Cr, degrees."""
    _, blue, red = np.moveaxis(rgb_to_ycbcr(rgb), -1, 0)
    return np.degrees(np.arctan2(red, blue))


@given(COLOURS)
def test_recolouring_with_its_own_luma_and_chroma_gives_the_image(rgb):
    ycbcr = rgb_to_ycbcr(rgb)
    np.testing.assert_allclose(recolor(ycbcr[..., 0], ycbcr[..., 1:]), rgb, atol=1e-6)


@given(COLOURS, UNIT)
def test_recolouring_keeps_hue_and_luma_and_never_adds_colour(rgb, luma):
    chroma = rgb_to_ycbcr(rgb)[..., 1:]
    result = recolor(np.array(luma), chroma)
    assert result.min() >= 0 and result.max() <= 1
    assert result @ LUMA == pytest.approx(luma, abs=1e-6)
    left = rgb_to_ycbcr(result)[..., 1:]
    kept = np.linalg.norm(left) / max(np.linalg.norm(chroma), 1e-6)
    assert kept <= 1 + 1e-5
    if np.linalg.norm(left) > 1e-3:
        assert abs((hue(result) - hue(rgb) + 180) % 360 - 180) < 0.1


def test_saturated_colours_keep_their_hue_in_bytes_at_any_luma():
    rng = np.random.default_rng(0)
    rgb = rng.uniform(size=(20000, 3)) * rng.integers(0, 2, (20000, 3))  # on the faces and edges of the cube
    ycbcr = rgb_to_ycbcr(rgb)
    result = to_uint8(recolor(rng.uniform(0.05, 0.95, 20000), ycbcr[:, 1:])) / 255
    coloured = np.linalg.norm(rgb_to_ycbcr(result)[:, 1:], axis=1) > 0.05
    error = np.abs((hue(result) - hue(rgb) + 180) % 360 - 180)[coloured]
    assert coloured.sum() > 5000 and error.mean() < 0.5 and error.max() < 5  # a byte's rounding


def test_blue_and_red_are_not_mixed_up():
    for rgb, name in ((np.array([0.9, 0.1, 0.1]), 0), (np.array([0.1, 0.1, 0.9]), 2)):
        assert recolor(np.array(0.4), rgb_to_ycbcr(rgb)[1:]).argmax() == name


def test_recolouring_refuses_what_is_not_of_one_image():
    with pytest.raises(GeometryError, match="chroma must be"):
        recolor(np.zeros((4, 4)), np.zeros((4, 5, 2)))


@pytest.mark.parametrize("noise", [GaussianNoise(0.05), PoissonNoise(200.0), RicianNoise(0.05)])
def test_noise_of_luma_and_chroma_is_that_of_independent_channels(noise):
    channels = Degradation((noise,))
    grey = torch.full((2, 1, 300, 300), 0.4)
    generator = torch.Generator().manual_seed(0)
    rgb = torch.cat([channels.simulate(grey, generator) for _ in range(3)], 1).movedim(1, -1)
    ycbcr = rgb_to_ycbcr(rgb)
    noise_of_chroma = ycbcr[..., 1:].flatten(0, 2).T
    told = torch.linalg.lstsq(noise_of_chroma.T, (ycbcr[..., 0] - 0.4).reshape(-1, 1)).solution
    images = (ycbcr[..., 0] - (ycbcr[..., 1:] @ told)[..., 0], *ycbcr[..., 1:].unbind(-1))
    parts = (luma_degradation(channels), *chroma_degradation(channels, grey[:, 0]))
    for stored, part in zip(images, parts, strict=True):
        (stated,) = part.steps
        level = grey if part is parts[0] else grey * 0 + 0.5
        assert stored.std() == pytest.approx(float(stated.variance(level).mean().sqrt()), rel=0.02)
        if part is parts[0]:
            assert rgb.mean() == pytest.approx(float(stated.mean(grey).mean()), rel=0.002)
        assert part.floor < channels.floor


def test_operators_act_on_luma_as_on_channels():
    blur = GaussianBlur(1.5)
    assert luma_degradation(Degradation((blur, GaussianNoise(0.1)))).steps[0] is blur
    (noise,) = luma_degradation(Degradation((GaussianNoise(1.0),))).steps
    assert float(noise.variance(torch.zeros(1, 1, 1)).sqrt()) == pytest.approx(3**-0.5)


def test_a_power_must_be_undone_before_channels_are_mixed():
    for mixed in (luma_degradation, lambda channels: chroma_degradation(channels, torch.zeros(1, 2, 2))):
        with pytest.raises(DegradationError, match=r"undone before channels are mixed, got gamma 0\.8"):
            mixed(Degradation(gamma=0.8))


@pytest.mark.parametrize("noise", [GaussianNoise(0.1), RicianNoise(0.08)])
def test_the_dark_of_a_noisy_colour_image_is_not_brighter_than_it_was(noise):
    rng = torch.Generator().manual_seed(0)
    truth = torch.full((1, 1, 96, 96), 0.02)
    truth[..., 40:] = 0.6
    channels = Degradation((noise,))
    rgb = torch.cat([channels.simulate(truth, rng) for _ in range(3)], 1).clamp(0, 1).movedim(1, -1)
    lumas = []

    def restorer(pair: torch.Tensor, what: JointDegradation, **chroma: int) -> dict[str, torch.Tensor]:
        if chroma:
            return answered(pair, torch.full_like(pair, 0.5), what)
        lumas.append(JointObservation.from_images(pair, what).source1.residual(truth))
        return answered(pair, pair, what)

    fuse_visible(restorer, rgb, truth[:, 0], JointDegradation(channels, Degradation()))
    biased = (rgb @ torch.tensor(LUMA).float() - truth[:, 0])[..., :40].mean()
    assert biased > 0.025 and lumas[0][..., :40].mean().abs() < 0.12 * biased


def answered(image: torch.Tensor, restored: torch.Tensor, degradation: JointDegradation) -> dict[str, torch.Tensor]:
    """Return what an inferer would that restores an image like this, and fuses to source 1."""
    first, second = restored.split(1, 1)
    models = JointObservation.from_images(image, degradation)
    misfit = torch.cat([m.misfit(x) for m, x in zip(models, (first, second), strict=True)], 1)
    return {"source1": first, "source2": second, "fused": first, "weight": torch.ones_like(first), "misfit": misfit}


class Copier:
    """Stands in for a network: sources come back as they are, the fused image is source 1; notes its calls."""

    def __init__(self):
        self.calls, self.settings = [], []

    def __call__(self, image, degradation, **settings):
        self.calls.append((image, degradation))
        self.settings.append(settings)
        return answered(image, image, degradation)


def test_visible_is_fused_by_its_luma_and_comes_back_in_colour():
    rng = torch.Generator().manual_seed(0)
    visible, infrared = torch.rand(2, 8, 9, 3, generator=rng), torch.rand(2, 8, 9, generator=rng)
    copier = Copier()
    result = fuse_visible(copier, visible, infrared, JointDegradation())
    ((pair, degradation),) = copier.calls  # nothing happened: the chroma is not touched
    torch.testing.assert_close(pair, torch.stack([visible @ torch.tensor(LUMA).float(), infrared], 1))
    assert not degradation.source1.steps
    for kind in ("source1", "fused"):
        assert (result[kind] - visible).abs().max() < 1e-6
    assert torch.equal(result["source2"], infrared) and result["weight"].shape == (2, 8, 9)


def test_chroma_is_restored_under_the_degradation_of_the_visible_image():
    rng = torch.Generator().manual_seed(0)
    visible, infrared = torch.rand(2, 8, 9, 3, generator=rng), torch.rand(2, 8, 9, generator=rng)
    blur, noise, other = GaussianBlur(1.0), GaussianNoise(0.1), Degradation((GaussianNoise(0.3),))
    copier = Copier()
    fuse_visible(copier, visible, infrared, JointDegradation(Degradation((blur, noise)), other))
    (pair, chroma), (_, luma) = copier.calls
    assert luma.source2 is other and copier.settings == [{"steps": 1, "misfit": True, "balance": 0}, {}]
    torch.testing.assert_close(pair.movedim(1, -1) - 0.5, rgb_to_ycbcr(visible)[..., 1:])
    assert [part.steps[0] for part in chroma] == [blur, blur]
    # ITU-R BT.601-7: Cb = (B - Y) / 1.772, Cr = (R - Y) / 1.402
    rows = (np.array([-0.299, -0.587, 0.886]) / 1.772, np.array([0.701, -0.587, -0.114]) / 1.402)
    for part, row in zip(chroma, rows, strict=True):
        assert float(part.steps[1].sigma[0]) == pytest.approx(0.1 * np.linalg.norm(row))
    result = fuse_visible(copier, visible, infrared, JointDegradation(Degradation((noise,)), other))
    assert (result["source1"] - visible).abs().max() < 1e-6


@pytest.mark.parametrize("before", [(), (GaussianBlur(1.0),), (Downsample(2),)])
def test_what_restored_chroma_leaves_of_the_data_takes_its_part_of_the_noise_from_the_luma(before):
    rng = torch.Generator().manual_seed(0)
    truth = torch.tensor([0.5, 0.4, 0.6]).expand(1, 64, 64, 3)
    channels = Degradation((*before, GaussianNoise(0.05)))
    noisy = torch.cat([channels.simulate(v[:, None], rng) for v in truth.unbind(-1)], 1)
    visible = replicate(noisy, channels.operator, (64, 64)).movedim(1, -1)
    chroma = rgb_to_ycbcr(truth)[..., 1:].movedim(-1, 1) + 0.5
    pairs = []

    def restorer(pair: torch.Tensor, what: JointDegradation, **settings: int) -> dict[str, torch.Tensor]:
        pairs.append(pair)
        return answered(pair, chroma if settings else pair, what)

    result = fuse_visible(restorer, visible, visible[..., 0], JointDegradation(channels, Degradation()))
    mean = (visible - truth).mean(-1)
    torch.testing.assert_close(pairs[1][:, 0] - rgb_to_ycbcr(truth)[..., 0], mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(result["source1"] - truth, mean[..., None].expand_as(truth), rtol=0, atol=1e-5)


def test_a_power_of_the_channels_is_undone_before_the_luma_is_made():
    rng = torch.Generator().manual_seed(0)
    visible, infrared = torch.rand(2, 8, 9, 3, generator=rng), torch.rand(2, 8, 9, generator=rng)
    copier, other = Copier(), Degradation(gamma=2.0)
    result = fuse_visible(copier, visible**0.8, infrared, JointDegradation(Degradation(gamma=0.8), other))
    ((pair, degradation),) = copier.calls
    torch.testing.assert_close(pair[:, 0], rgb_to_ycbcr(visible)[..., 0])
    assert degradation.source1.gamma == 1 and degradation.source2 is other
    torch.testing.assert_close(result["source1"], visible, rtol=0, atol=1e-5)


def test_grey_visible_images_stay_grey_and_keep_their_degradation():
    grey, degradation = torch.rand(2, 8, 9), JointDegradation(Degradation((GaussianNoise(0.1),)))
    copier = Copier()
    result = fuse_visible(copier, grey, grey / 2, degradation)
    assert [what for _, what in copier.calls] == [degradation]
    assert torch.equal(result["source1"], grey) and torch.equal(result["source2"], grey / 2)
