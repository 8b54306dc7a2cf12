from __future__ import annotations

import math

import pytest
import torch

from medfuse.errors import DegradationError
from medfuse.physics import GaussianNoise, PoissonNoise, RicianNoise
from medfuse.physics.noise import AveragedNoise, clipped_mean, clipped_variance

N = 200
LEVELS = (0.0, 0.1, 0.5, 1.0)
NOISES = [GaussianNoise(0.05), PoissonNoise(60.0), RicianNoise(0.04)]
every = pytest.mark.parametrize("noise", NOISES, ids=lambda n: type(n).__name__)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(*levels: float) -> torch.Tensor:
    """Return one flat image of N x N pixels for each level, a batch."""
    return torch.tensor(levels, dtype=torch.float64).reshape(-1, 1, 1, 1).expand(-1, 1, N, N)


def moments(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return y.mean((1, 2, 3)), y.var((1, 2, 3))


def assert_moments(
    y: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, kurtosis: torch.Tensor | float = 3.0
) -> None:
    """Compare with the truth, within five standard errors of each moment."""
    got_mean, got_variance = moments(y)
    assert bool(((got_mean - mean).abs() <= 5 * (variance / N**2).sqrt() + 1e-12).all())
    assert bool(
        (
            (got_variance - variance).abs() <= 5 * variance * ((torch.as_tensor(kurtosis) - 1) / N**2).sqrt() + 1e-12
        ).all()
    )


def test_gaussian_mean_and_variance():
    x = flat(*LEVELS)
    noise = GaussianNoise(0.05)
    assert_moments(noise.sample(x, generator()), x[:, 0, 0, 0], torch.full((4,), 0.0025).double())
    assert torch.allclose(noise.variance(x), torch.full_like(x, 0.0025))


def test_poisson_mean_and_variance():
    x, counts = flat(*LEVELS), 60.0
    noise = PoissonNoise(counts)
    level = x[:, 0, 0, 0]
    kurtosis = 3 + 1 / (counts * level).clamp_min(1e-9)
    assert_moments(noise.sample(x, generator()), level, level / counts, kurtosis)
    assert torch.allclose(noise.variance(x), x / counts)


def test_poisson_observes_whole_counts_and_takes_negative_signals_as_none():
    y = PoissonNoise(60.0).sample(flat(-0.3, 0.4), generator())
    assert torch.equal(y[0], torch.zeros_like(y[0]))
    assert torch.allclose(y * 60, (y * 60).round(), atol=1e-9)
    assert float(PoissonNoise(60.0).variance(flat(-0.3)).max()) == 0


def test_rician_moments_are_those_of_a_magnitude():
    sigma = 0.04
    x = flat(*LEVELS)
    level = x[:, 0, 0, 0]
    y = RicianNoise(sigma).sample(x, generator())
    second = y.square().mean((1, 2, 3))
    spread = (4 * sigma**2 * (level**2 + sigma**2) / N**2).sqrt()
    assert bool(((second - level**2 - 2 * sigma**2).abs() <= 5 * spread).all())
    rayleigh = float(y[0].mean())
    assert abs(rayleigh - sigma * math.sqrt(math.pi / 2)) < 5 * sigma * math.sqrt(2 - math.pi / 2) / N
    assert float(y.min()) >= 0


def test_rician_variance_is_that_of_a_strong_signal():
    noise, x = RicianNoise(0.04), flat(0.5, 1.0)
    assert torch.allclose(moments(noise.sample(x, generator()))[1], noise.variance(x)[:, 0, 0, 0], rtol=0.05)


@every
def test_samples_of_neighbours_are_independent(noise):
    r = noise.sample(flat(0.5), generator()) - 0.5
    r = r - r.mean()
    for lagged in (r[..., 1:] * r[..., :-1], r[..., 1:, :] * r[..., :-1, :]):
        assert abs(float(lagged.mean() / r.var())) < 5 / N


@every
def test_a_generator_decides_everything(noise):
    x = flat(0.2, 0.7)
    first = noise.sample(x, generator(3))
    torch.manual_seed(99)
    assert torch.equal(first, noise.sample(x, generator(3)))
    assert not torch.equal(first, noise.sample(x, generator(4)))
    g = generator(3)
    assert not torch.equal(noise.sample(x, g), noise.sample(x, g))


@every
def test_the_global_generator_is_left_alone(noise):
    before = torch.get_rng_state()
    noise.sample(flat(0.5), generator())
    assert torch.equal(before, torch.get_rng_state())


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_shape_are_preserved_and_inputs_not_modified(noise, dtype):
    x = torch.rand(2, 3, 4, 5, 6, generator=generator()).to(dtype)
    kept = x.clone()
    y, variance = noise.sample(x, generator()), noise.variance(x)
    assert y.dtype == variance.dtype == dtype
    assert y.shape == variance.shape == x.shape
    assert torch.equal(x, kept)


@pytest.mark.parametrize("kind", [GaussianNoise, RicianNoise, PoissonNoise])
def test_each_sample_has_its_own_parameter(kind):
    values = torch.tensor([0.02, 0.1]) if kind is not PoissonNoise else torch.tensor([500.0, 20.0])
    x = flat(0.5, 0.5)
    y = moments(kind(values).sample(x, generator()))[1]
    for b, value in enumerate(values.tolist()):
        single = kind(value)
        assert torch.equal(kind(values).variance(x)[b], single.variance(x[b : b + 1])[0].to(x))
        assert torch.isclose(y[b], single.variance(x[b : b + 1]).mean(), rtol=0.05)


@pytest.mark.parametrize("kind", [GaussianNoise, RicianNoise])
def test_no_noise_changes_nothing(kind):
    x = flat(0.0, 0.3)
    assert torch.equal(kind(0.0).sample(x, generator()), x)


@pytest.mark.parametrize("kind", [GaussianNoise, PoissonNoise, RicianNoise])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, [0.1, -0.1], torch.tensor([math.nan])])
def test_impossible_strengths_are_refused(kind, value):
    with pytest.raises(DegradationError, match="must be finite and not negative"):
        kind(value)


def test_no_counts_at_all_are_refused():
    with pytest.raises(DegradationError, match="must be positive"):
        PoissonNoise(0.0)


@every
def test_mean_is_that_of_many_draws(noise):
    x = flat(*LEVELS)
    y = noise.sample(x, generator(7))
    error = 5 * y.std((1, 2, 3)) / N
    assert bool(((noise.mean(x) - y).mean((1, 2, 3)).abs() <= error + 1e-12).all())


def test_mean_of_what_is_cut_off_at_zero_is_that_of_many_draws():
    x = flat(-0.1, 0.0, 0.02, 0.1, 0.5)
    y = GaussianNoise(0.05).sample(x, generator(8)).clamp_min(0.0)
    error = 5 * y.std((1, 2, 3)) / N
    gap = clipped_mean(x, torch.tensor(0.05, dtype=torch.float64)) - y
    assert bool((gap.mean((1, 2, 3)).abs() <= error + 1e-12).all())
    assert torch.equal(clipped_mean(x, torch.zeros(())), x.clamp_min(0.0))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-math.inf, 1.0), (0.0, math.inf), (0.0, 0.08)])
def test_moments_of_what_is_cut_off_at_both_ends_are_those_of_many_draws(low, high):
    sigma = 0.05
    x = flat(-0.05, 0.0, 0.03, 0.5, 0.97, 1.0, 1.04)
    y = GaussianNoise(sigma).sample(x, generator(9)).clamp(low, high)
    variance = clipped_variance((x - low) / sigma, (high - x) / sigma)[:, 0, 0, 0]
    fourth = (y - y.mean((1, 2, 3), keepdim=True)).pow(4).mean((1, 2, 3))
    error = 5 * ((fourth - y.var((1, 2, 3)).square()).clamp_min(0) / N**2).sqrt()
    assert bool(((variance * sigma**2 - y.var((1, 2, 3))).abs() <= error + 1e-7).all())
    if low == 0:
        std = torch.tensor(sigma, dtype=torch.float64)
        mean = clipped_mean(x, std) - (0 if high == math.inf else clipped_mean(x - high, std))
        assert bool(((mean - y).mean((1, 2, 3)).abs() <= 5 * y.std((1, 2, 3)) / N + 1e-7).all())


def test_noise_that_is_cut_nowhere_keeps_its_variance_and_what_is_beyond_an_end_has_none():
    far = torch.tensor([math.inf, 40.0, 6.0])
    assert torch.allclose(clipped_variance(far, far), torch.ones(3), atol=1e-6)
    assert clipped_variance(torch.tensor([-20.0]), torch.tensor([math.inf])).tolist() == pytest.approx([0.0], abs=1e-6)


@pytest.mark.parametrize("noise", [*NOISES, AveragedNoise(RicianNoise(0.04), 0.5)], ids=lambda n: type(n).__name__)
def test_scatter_is_the_variance_of_many_draws(noise):
    x = flat(*LEVELS)
    y = noise.sample(x, generator(10))
    fourth = (y - y.mean((1, 2, 3), keepdim=True)).pow(4).mean((1, 2, 3))
    error = 5 * ((fourth - y.var((1, 2, 3)).square()).clamp_min(0) / N**2).sqrt()
    assert bool(((noise.scatter(x)[:, 0, 0, 0] - y.var((1, 2, 3))).abs() <= error + 1e-12).all())
