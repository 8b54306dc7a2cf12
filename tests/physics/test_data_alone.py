"""What the data alone say: everything where nothing hides it, nothing where there is noise alone."""

from __future__ import annotations

import pytest
import torch

from medfuse.physics import Degradation, Downsample, GaussianBlur, GaussianNoise, MotionBlur, bind
from medfuse.physics.evidence.data_alone import data_alone
from medfuse.physics.operators.cosine import cosine_waves


def smooth_image(seed: int = 0, size: int = 64) -> torch.Tensor:
    """An image of a known spectrum, f^-3, drawn from the prior itself."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(size, dtype=torch.float64) / size
    rate = (axis[:, None] ** 2 + axis**2).sqrt()
    waves = torch.randn(1, 1, size, size, generator=generator, dtype=torch.float64) * (rate + 0.02) ** -1.5
    image = cosine_waves(waves, inverse=True)
    return 0.5 + 0.1 * (image - image.mean()) / image.std()


def told(part: Degradation, image: torch.Tensor, seed: int = 1) -> torch.Tensor:
    y = part.simulate(image, torch.Generator().manual_seed(seed))
    return data_alone(bind(part, y, image.shape[2:]))


def test_noise_alone_says_nothing_but_the_mean():
    flat = torch.full((1, 1, 64, 64), 0.5, dtype=torch.float64)
    found = told(Degradation((GaussianNoise(0.1),)), flat)
    assert float((found - 0.5).std()) < 0.01  # a tenth of the noise


@pytest.mark.parametrize(
    "steps", [(GaussianNoise(0.02),), (GaussianBlur(1.5), GaussianNoise(0.01)), (Downsample(2), GaussianNoise(0.01))]
)
def test_it_is_the_least_squares_estimate_of_an_image_of_that_spectrum(steps):
    """No other linear estimate of a stationary image errs less: it is better than the data, and than other powers."""
    image, part = smooth_image(), Degradation(steps)
    found = told(part, image)
    model = bind(part, part.simulate(image, torch.Generator().manual_seed(1)), image.shape[2:])
    error = float((found - image).square().mean())
    assert error < float((model.lifted - image).square().mean())
    mean = torch.full_like(image, float(model.y.mean()))
    for white in (1e-3, 1e-2, 1.0):  # the same with a white prior of any variance
        other = model.update(mean, torch.full((1,), white, dtype=image.dtype)).x
        assert error < float((other - image).square().mean())


@pytest.mark.parametrize("size", [8, 24, 32, 48])
def test_a_small_image_is_more_than_its_mean(size):
    """Its lowest band must hold waves beside the mean: with 32 bands that of 32 px holds none."""
    image = torch.full((1, 1, size, size), 0.2, dtype=torch.float64)
    image[..., size // 4 : -size // 4, size // 4 : -size // 4] = 0.8
    found = told(Degradation((GaussianNoise(0.05),)), image)
    assert float((found - image).square().mean().sqrt()) < 0.12  # of 0.26 by the mean alone


def test_without_degradation_it_is_the_data():
    image = smooth_image()
    assert torch.allclose(told(Degradation(), image), image, atol=1e-4)


def test_behind_a_motion_it_explains_the_data():
    image, part = smooth_image(), Degradation((MotionBlur(5.0, 30.0), GaussianNoise(0.02)))
    y = part.simulate(image, torch.Generator().manual_seed(1))
    model = bind(part, y, image.shape[2:])
    assert float(model.chi2(data_alone(model))) <= 1.01
