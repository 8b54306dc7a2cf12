"""A blur that is stated wider than the data allow."""

from __future__ import annotations

import math

import pytest
import torch

from medfuse.physics import (
    AveragedNoise,
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    JointDegradation,
    JointObservation,
    MotionBlur,
    bind,
    common_share,
    fit,
    replicate,
)


def scene(seed=0, side=192, fall=2.6):
    """An image whose power falls with a power of the frequency, as that of most images does, **[1, 1, side, side]**."""
    g = torch.Generator().manual_seed(seed)
    rate = torch.fft.fftfreq(side).square()
    rate = (rate[:, None] + rate[None]).sqrt().clamp_min(1 / side)
    waves = torch.fft.fft2(torch.randn(side, side, generator=g)) * rate ** (-fall / 2)
    image = torch.fft.ifft2(waves).real
    image = (image - image.min()) / (image.max() - image.min())
    image[image < 0.45] = 0  # a background, and edges
    return image[None, None]


def observed(image, *steps, seed=1):
    y = Degradation(steps).simulate(image, torch.Generator().manual_seed(seed))
    return (y.clamp(0, 1) * 255).round() / 255


def share(y, *told, spatial=(192, 192)):
    """Return the share of the stated width that the data allow, of data on their own grid."""
    stated = JointDegradation(Degradation(told), Degradation())
    image = replicate(y, stated.source1.operator, spatial)
    return fit(stated, torch.cat([image, image], 1)).findings.blur[:, 0]


def bound(y, *told):
    """Bind data on the grid of the image as what they prove."""
    fitted = fit(JointDegradation(Degradation(told), Degradation()), torch.cat([y, y], 1))
    return bind(fitted.degradation.source1, y, y.shape[2:]), fitted.findings.blur[:, 0]


@pytest.mark.parametrize("sigma", [0.8, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.08])
@pytest.mark.parametrize("fall", [2.0, 3.0])
def test_a_blur_that_is_stated_as_it_was_is_believed(sigma, noise, fall):
    steps = (GaussianBlur(sigma), *([GaussianNoise(noise)] if noise else []))
    for seed in range(4):
        assert share(observed(scene(seed, fall=fall), *steps), *steps) == 1


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_a_blur_that_is_stated_too_wide_is_narrowed_but_not_below_what_happened(sigma):
    y = observed(scene(), GaussianBlur(sigma))
    narrowed = float(share(y, GaussianBlur(1.5 * sigma)))
    assert 0.95 < 1.5 * narrowed < 1.25


def test_one_that_is_stated_too_narrow_is_believed():
    assert share(observed(scene(), GaussianBlur(2.0)), GaussianBlur(1.5)) == 1


def test_what_was_not_blurred_at_all_is_left_almost_as_it_is():
    y = observed(scene())
    model, narrowed = bound(y, GaussianBlur(2.0))
    assert narrowed < 0.4
    told = (model.inverse() - y).square().mean().sqrt()
    assert told < 0.03 < 0.1 < y.std()


def test_a_decimated_source_is_judged_on_its_own_grid():
    y = observed(scene(), GaussianBlur(2.0), Downsample(2))
    assert share(y, GaussianBlur(2.0), Downsample(2)) == 1
    assert 0.6 < share(y, GaussianBlur(3.0), Downsample(2)) < 0.85


def test_noise_that_is_understated_is_noise_and_no_detail():
    y = observed(scene(), GaussianBlur(2.0), GaussianNoise(0.08))
    assert share(y, GaussianBlur(2.0), GaussianNoise(0.04)) == 1


def test_each_image_of_a_batch_is_judged_by_itself():
    wide, narrow = (observed(scene(), GaussianBlur(sigma)) for sigma in (3.0, 1.5))
    both = share(torch.cat([wide, narrow]), GaussianBlur(3.0))
    assert both[0] == 1
    assert both[1] == share(narrow, GaussianBlur(3.0)) < 1


def test_slices_of_a_volume_share_one_blur():
    shares = torch.ones(3, 2, 40)
    shares[0, 0, :3] = torch.tensor([0.5, 0.6, 0.9])  # more than a twentieth
    shares[1, 1, :2] = 0.5  # a twentieth
    assert torch.equal(common_share(shares), torch.tensor([[0.6, 1.0], [1.0, 1.0], [1.0, 1.0]]))


def test_the_model_works_with_the_narrowed_blur():
    y = observed(scene(), GaussianBlur(1.5))
    model, narrowed = bound(y, GaussianBlur(3.0))
    omega = torch.tensor([0.3 * math.pi])
    expected = GaussianBlur(3.0 * float(narrowed)).power_gains(omega, y.shape[2:])
    torch.testing.assert_close(model.operator.power_gains(omega, y.shape[2:]), expected)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_flat_image_says_nothing(value):
    assert share(torch.full((1, 1, 64, 64), value), GaussianBlur(2.0), spatial=(64, 64)) == 1


def test_a_small_image_says_nothing():
    assert share(torch.rand(1, 1, 24, 24), GaussianBlur(2.0), spatial=(24, 24)) == 1


def test_what_is_left_of_the_noise_of_an_average_disproves_no_blur():
    """Where the restored chroma followed its noise, the luma keeps more of it than is stated, at waves that pass."""
    generator = torch.Generator().manual_seed(0)
    image = GaussianBlur(0.7).forward(torch.rand(8, 1, 128, 128, generator=generator, dtype=torch.float64))
    white = torch.randn(image.shape, generator=generator, dtype=torch.float64)
    slow = GaussianBlur(0.7).forward(torch.randn(image.shape, generator=generator, dtype=torch.float64))
    blur, channel = GaussianBlur(2.0), GaussianNoise(0.05)
    y = blur.forward(image) + 0.05 * 3**-0.5 * white + 0.07 * slow
    averaged = share(y, blur, AveragedNoise(channel, 3**-0.5), spatial=image.shape[2:])
    plain = share(y, blur, GaussianNoise(0.05 * 3**-0.5), spatial=image.shape[2:])
    assert bool((averaged == 1).all())
    assert bool((plain < 1).any())


@pytest.mark.parametrize(
    ("happened", "told", "found"),
    [
        ((GaussianBlur(1.2),), (GaussianBlur(1.8),), {"blur"}),
        ((GaussianBlur(3.0), GaussianNoise(0.03)), (GaussianBlur(3.0), GaussianNoise(0.01)), {"noise"}),
        ((MotionBlur(5.0, 30.0), GaussianNoise(0.02)), (MotionBlur(5.0, 30.0), GaussianNoise(0.02)), set()),
        ((GaussianNoise(0.02),), (GaussianNoise(0.02),), set()),
    ],
)
def test_what_a_fit_has_bound_is_what_the_fitted_degradation_binds(happened, told, found):
    y = observed(scene(side=96), *happened)
    inputs = torch.cat([y, y], 1)
    fitted = fit(JointDegradation(Degradation(told), Degradation()), inputs)
    blur, noise = fitted.findings.blur[0, 0], fitted.findings.noise[0, 0]
    assert {name for name, seen in (("blur", blur < 1), ("noise", noise > 1)) if seen} == found
    for model, again in zip(fitted.models, JointObservation.from_images(inputs, fitted.degradation), strict=True):
        assert type(model) is type(again)
        assert torch.equal(
            model.update(0.9 * y, torch.full((1,), 0.01)).x, again.update(0.9 * y, torch.full((1,), 0.01)).x
        )
        assert torch.equal(model.chi2(0.9 * y), again.chi2(0.9 * y))


def test_a_fit_of_parts_keeps_no_models():
    y = observed(scene(side=48), GaussianBlur(1.0)).expand(2, 2, -1, -1)
    stated = JointDegradation(Degradation((GaussianBlur(1.0),)), Degradation())
    assert fit(stated, y, at_once=1).models == ()
