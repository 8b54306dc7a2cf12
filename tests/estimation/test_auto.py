"""What `auto` puts in the place of what is unknown."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medfuse.bundles import bundle_dir, load_spec
from medfuse.diffusion import FusionModel, FusionUNet
from medfuse.errors import DegradationError
from medfuse.estimation import estimate
from medfuse.inferers import FusionInferer, VolumeFusionInferer
from medfuse.physics import (
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    JointDegradation,
    PoissonNoise,
    RicianNoise,
    Unknown,
    fit,
    parse_degradation,
    replicate,
)

AUTO = Degradation((Unknown("blur"), Unknown("noise")))


def degraded(image, *, blur=0.0, noise=0.0, seed=1):
    rng = np.random.default_rng(seed)
    blurred = gaussian_filter(image, blur, truncate=6) if blur else image
    return blurred + noise * rng.standard_normal(image.shape)


def pair(first, second=None):
    return torch.from_numpy(np.stack([first, first if second is None else second])).float()


def found(image, part=AUTO, kind="anatomy", **options):
    """Return the known degradation and the estimates of one source."""
    result = estimate(JointDegradation(part, Degradation()), pair(image), (kind, "function"), **options)
    return result.degradation.source1, {e.step: e for e in result.estimates[0]}


def test_auto_is_a_degradation_in_all_its_forms():
    both = JointDegradation(AUTO, AUTO)
    assert parse_degradation("auto") == both
    assert parse_degradation(load_spec("auto")) == both
    assert parse_degradation({"version": 1, "source1": "auto"}) == JointDegradation(AUTO, Degradation())
    steps = [{"blur": {"auto": {"sigma_px": [0.5, 3]}}}, {"noise": {"kind": "rician", "auto": {"sigma": [0, 0.1]}}}]
    parsed = parse_degradation({"version": 1, "source2": steps}).source2
    assert parsed.steps == (Unknown("blur", 0.5, 3.0), Unknown("noise", 0.0, 0.1, "rician"))
    assert parsed.unknown and not parsed.noises and not parsed.blurred


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"motion": "auto"}, "must be a mapping"),
        ({"noise": {"auto": {"sigma": 0.1}}}, "ascending"),
        ({"noise": {"auto": {"sigma": [0.2, 0.1]}}}, "ascending"),
        ({"noise": {"auto": {"sigma": [0, 2]}}}, "from 0 to 1"),
        ({"noise": {"auto": {"sigma_px": [0, 1]}}}, r"\{sigma: \[least, most\]\}"),
        ({"blur": {"auto": None, "sigma_px": 2.0}}, "must have the values"),
        ({"noise": {"auto": None, "kind": "salt"}}, "must be gaussian, poisson or rician"),
    ],
)
def test_what_cannot_be_unknown_is_refused(step, message):
    with pytest.raises(DegradationError, match=message):
        parse_degradation({"version": 1, "source1": [step]})


def test_what_is_unknown_cannot_be_used(scene):
    with pytest.raises(DegradationError, match="estimate it first"):
        fit(JointDegradation(AUTO, AUTO), pair(scene())[None])
    with pytest.raises(DegradationError, match="estimate it first"):
        AUTO.simulate(pair(scene())[None], torch.Generator())


def test_a_clean_image_comes_back_as_it_was(scene, stored):
    part, estimates = found(stored(scene()))
    assert part.steps == ()
    assert all(e.refused and e.stated is None for e in estimates.values())


def test_noise_is_stated_as_it_is_and_blur_a_little_less(scene, stored):
    """A little too much of a blur costs more than as little too little."""
    part, estimates = found(stored(degraded(scene(), blur=2.0, noise=10 / 255)))
    blur, noise = part.steps
    assert isinstance(blur, GaussianBlur) and isinstance(noise, GaussianNoise)
    assert float(noise.sigma) == pytest.approx(10 / 255, rel=0.05)
    assert float(blur.sigma) == pytest.approx(0.97 * math.sqrt(estimates["blur"].value ** 2 - 0.4**2))
    low, high = estimates["blur"].interval
    assert low < estimates["blur"].value < high
    assert estimates["noise"].stated == {"kind": "gaussian", "sigma": float(noise.sigma)}
    assert estimates["noise"].rests_on and estimates["blur"].rests_on


@pytest.mark.parametrize("width", [1.0, 1.2, 2.0])
def test_a_blur_of_an_image_that_is_soft_by_itself_is_not_stated_with_it(scene, stored, width):
    """Widths of blurs in a row add in squares. At 1 px the MRI is worse than the one given from 1.2 times on."""
    for seed in range(2):
        soft = gaussian_filter(scene(seed), 0.5, truncate=6)
        (blur,) = found(stored(degraded(soft, blur=width)))[0].steps
        assert 0.9 * width < float(blur.sigma) < 1.15 * width


@pytest.mark.parametrize("kind", ["visible", "function"])
def test_the_grain_of_an_image_is_not_stated_with_its_noise(scene, stored, kind):
    """Variances add: of 6.1 of 255 in a photograph of grain 3.5, 5 were added."""
    part, estimates = found(stored(degraded(scene(), noise=math.hypot(5, 3.5) / 255)), kind=kind)
    (noise,) = part.steps
    assert float(noise.sigma) == pytest.approx(5 / 255, rel=0.1)
    assert estimates["noise"].value == pytest.approx(math.hypot(5, 3.5) / 255, rel=0.1)


def test_the_blur_of_a_functional_image_is_refused_and_its_noise_is_not(scene, stored):
    part, estimates = found(stored(degraded(scene(), blur=2.0, noise=10 / 255)), kind="function")
    assert [type(step) for step in part.steps] == [GaussianNoise]
    assert estimates["blur"].value is None and "line source" in estimates["blur"].refused


def test_the_blur_of_a_float_image_without_noise_is_found_as_that_of_8_bit(scene, stored):
    """Waves far below the rounding of 8 bit are no sign of another blur: it is stated, and as wide."""
    blurred = gaussian_filter(scene(), 2.0, truncate=6)
    widths = []
    for image in (stored(blurred), blurred):
        (blur,) = found(image)[0].steps
        widths.append(float(blur.sigma))
    assert widths[1] == pytest.approx(widths[0], rel=0.05)
    assert widths[1] == pytest.approx(2.0, rel=0.12)


def test_a_floor_that_falls_is_no_sign_of_a_blur(scene):
    """Noise that was filtered is neither white, as rounding is, nor nothing, as what a blur leaves."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((192, 192)), 0.6)
    part, estimates = found(degraded(scene(), blur=1.5) + 0.4 / 255 * noise / noise.std())
    assert part.steps == ()
    assert "interpolation" in estimates["blur"].refused


def test_bounds_hold_and_what_is_stated_stays(scene, stored):
    image = stored(degraded(scene(), blur=2.0, noise=10 / 255))
    part, _ = found(image, Degradation((GaussianBlur(2.0), Unknown("noise", 0.0, 0.02))))
    blur, noise = part.steps
    assert float(blur.sigma) == 2.0
    assert float(noise.sigma) == pytest.approx(0.02)
    part, _ = found(stored(scene()), Degradation((Unknown("blur", 1.2, 3.0), Unknown("noise", 0.01, 0.1, "rician"))))
    blur, noise = part.steps
    assert float(blur.sigma) == pytest.approx(1.2)
    assert isinstance(noise, RicianNoise) and float(noise.sigma) == pytest.approx(0.01)


def test_counts_are_found(scene, stored):
    counts = 100.0
    image = stored(np.random.default_rng(0).poisson(scene() * counts) / counts)
    part, estimates = found(image, kind="function")
    (noise,) = part.steps
    assert isinstance(noise, PoissonNoise)
    assert estimates["noise"].value == pytest.approx(counts, rel=0.12)


def test_the_noise_of_an_image_with_negative_values_was_not_cut(scene):
    """The fastest waves of what was cut at 0 are weaker; of noise that keeps its negative values they are not."""
    (noise,) = found(degraded(scene(), noise=14 / 255))[0].steps
    assert float(noise.sigma) == pytest.approx(14 / 255, rel=0.05)


def test_noise_before_a_reduction_is_that_before_it(scene, stored):
    image = degraded(scene(side=256), noise=12 / 255)
    small = Downsample(2, "bicubic").forward(torch.from_numpy(image)[None, None])
    big = replicate(torch.from_numpy(stored(small.numpy())), Downsample(2), (256, 256))[0, 0].numpy()
    part, _ = found(big, Degradation((Unknown("noise"), Downsample(2, "bicubic"))))
    assert float(part.steps[0].sigma) == pytest.approx(12 / 255, rel=0.1)


def test_noise_that_neighbours_share_is_refused(scene):
    small = degraded(scene(side=96), noise=40 / 255)
    large = torch.nn.functional.interpolate(torch.from_numpy(small)[None, None], scale_factor=2, mode="bilinear")
    part, estimates = found(large[0, 0].numpy())
    assert not part.noises
    assert "interpolated" in estimates["noise"].refused


def test_a_grainy_image_is_named_and_left(scene, stored):
    """Grain that is stronger where the image is has fast waves that its flat parts do not show: white noise has not."""
    rng = np.random.default_rng(0)
    fast = rng.standard_normal((192, 192))
    fast -= gaussian_filter(fast, 0.8)
    image = scene()
    grainy = image + 0.06 * fast / fast.std() * (image > 0.45) + 6 / 255 * rng.standard_normal((192, 192))
    part, estimates = found(stored(grainy))
    assert part.steps == ()
    assert "grainy" in estimates["noise"].refused and estimates["noise"].value > 3.5 / 255


def test_noise_is_stated_beside_bone_that_was_cut_off_at_full_range(scene, stored):
    """Its edges are fast waves, as of grain; beside bone, grain is told by differences."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:192, :192]
    bone = np.abs(np.hypot(rows - 95.5, columns - 95.5) - 66) < 6 + 5 * np.sin(1.9 * rows) * np.sin(2.1 * columns)
    skull = np.where(bone, 3.0, scene())
    part, estimates = found(stored(skull + 12 / 255 * rng.standard_normal(skull.shape)), kind="function")
    (noise,) = part.steps
    assert float(noise.sigma) == pytest.approx(math.sqrt(12**2 - 3.5**2) / 255, rel=0.07)
    assert "fastest waves not known" in estimates["noise"].rests_on
    fast = rng.standard_normal(skull.shape)
    fast -= gaussian_filter(fast, 0.8)
    grainy = skull + 0.06 * fast / fast.std() * (skull > 0.45) + 6 / 255 * rng.standard_normal(skull.shape)
    part, estimates = found(stored(grainy))
    assert part.steps == () and "grainy" in estimates["noise"].refused


def test_of_an_mri_without_noise_the_bound_by_its_log_is_heeded(scene, stored):
    part, estimates = found(stored(degraded(scene(), blur=2.0)))
    (blur,) = part.steps
    assert float(blur.sigma) == pytest.approx(2.0, rel=0.1)
    assert "bends" in estimates["blur"].rests_on
    part, estimates = found(stored(degraded(scene(), blur=2.0, noise=10 / 255)))
    assert "bends" not in estimates["blur"].rests_on


def test_both_bundles_estimate_what_nobody_stated():
    for bundle in ("pet_mri_fusion", "ir_vis_fusion"):
        config = json.loads((bundle_dir(bundle) / "configs" / "inference.json").read_text(encoding="utf-8"))
        assert parse_degradation(config["degradation"]) == JointDegradation(AUTO, AUTO)


def test_a_small_image_tells_nothing(scene):
    part, estimates = found(scene(side=40))
    assert part.steps == ()
    assert "48 px" in estimates["noise"].refused


def test_a_volume_has_one_estimate_and_its_function_none(scene):
    volume = np.stack([degraded(scene(seed, side=96), noise=0.05, seed=seed) for seed in range(6)], -1)
    result = estimate(parse_degradation("auto"), pair(volume), ("anatomy", "function"), cut=False, across=2)
    (noise,) = result.degradation.source1.noises[0][:1]
    assert float(noise.sigma) == pytest.approx(0.05, rel=0.06)
    assert result.degradation.source2.steps == ()
    assert all("line source" in e.refused or "interpolated to a finer grid" in e.refused for e in result.estimates[1])


def test_a_kind_that_is_none_is_refused(scene):
    with pytest.raises(DegradationError, match=r"must be one of anatomy, visible, infrared, function"):
        found(scene(), kind="ct")


@pytest.fixture(scope="module")
def tiny_network():
    torch.manual_seed(0)
    model = FusionModel(FusionUNet(widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1,), embedding=8))
    return model.eval().requires_grad_(False)


def test_an_inferer_estimates_each_image_by_itself(scene, stored, tiny_network):
    images = torch.stack(
        [pair(stored(degraded(scene(seed, side=96), noise=n / 255))) for seed, n in ((0, 10), (1, 25))]
    )
    inferer = FusionInferer("auto", steps=1)
    together = inferer(images, tiny_network)
    for i, image in enumerate(images):
        alone = inferer(image[None], tiny_network)
        known = estimate(parse_degradation("auto"), image, inferer.kinds).degradation
        told = inferer(image[None], tiny_network, degradation=known)
        for name in ("source1", "source2", "fused"):
            assert torch.equal(together[name][i], alone[name][0])
            assert torch.equal(alone[name], told[name])


def test_a_volume_inferer_takes_auto(scene, tiny_network):
    volume = np.stack([degraded(scene(seed, side=64), noise=0.05, seed=seed) for seed in range(2)], -1)
    inferer = VolumeFusionInferer(FusionInferer("auto", steps=1))
    result = inferer(pair(volume)[None], tiny_network)
    assert result["source1"].shape == (1, 1, 64, 64, 2)
    assert (result["source2"][0, 0] - torch.from_numpy(volume)).abs().max() < 1e-5
    assert (result["source1"][0, 0] - torch.from_numpy(volume)).abs().max() > 1e-3
