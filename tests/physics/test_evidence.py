"""What the data prove, asked of any observation model: the same under blur, under motion and behind a mask."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medfuse.physics import (
    Degradation,
    GaussianBlur,
    GaussianNoise,
    JointDegradation,
    KrylovModel,
    Mask,
    MissingSlices,
    MotionBlur,
    PoissonNoise,
    RicianNoise,
    SpectralModel,
    bind,
    fit,
)
from medfuse.physics.evidence import bias_of_noise, proven_excess, settled_in_place, settled_slowly
from medfuse.physics.operators.cosine import cosine_waves

SIDE = 96


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def holes() -> Tensor:
    """Return a mask that lacks three pixels of ten."""
    return (torch.rand(SIDE, SIDE, generator=generator(5)) > 0.3).double()


def scene(batch: int = 2) -> Tensor:
    """Return smooth images with a bright disc on grey, **[B, 1, 96, 96]**."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    disc = ((rows - 40) ** 2 + (columns - 50) ** 2 < 24**2).double() * 0.5 + 0.2
    fine = torch.rand(batch, 1, SIDE, SIDE, generator=generator(), dtype=torch.float64)
    return GaussianBlur(1.5).forward(disc + 0.2 * fine)


OPERATORS = {
    "blur": (GaussianBlur(1.5),),
    "motion": (MotionBlur(7.0, 30.0),),
    "blur and motion": (GaussianBlur(1.5), MotionBlur(5.0, -20.0)),
    "mask": (Mask(holes()),),
    "blur behind a mask": (GaussianBlur(1.2), Mask(holes())),
    "missing slices": (MissingSlices(range(0, SIDE, 5), 0),),
}
operators = pytest.mark.parametrize("steps", OPERATORS.values(), ids=OPERATORS)


def model_of(*steps, seed: int = 1):
    degradation = Degradation(steps)
    x = scene()
    return x, bind(degradation, degradation.simulate(x, generator(seed)), x.shape[2:])


# ----------------------------------------------------------------------------------------------------------- slow waves
@operators
def test_a_bias_of_the_mean_settles_under_any_operator(steps):
    """The mean is off by 25 standard deviations of what 9,216 values of noise can do to it."""
    x, model = model_of(*steps, GaussianNoise(0.03))
    settled = settled_slowly(model, x + 0.05)
    assert isinstance(model, SpectralModel if steps == OPERATORS["blur"] else KrylovModel)
    assert float((settled - x).mean((1, 2, 3)).abs().max()) < 0.005
    truth = settled_slowly(model, x)
    assert float((truth - x).std()) < 0.1 * 0.03


@pytest.mark.parametrize("steps", [OPERATORS["motion"], OPERATORS["blur and motion"]])
def test_slow_waves_settle_region_by_region_under_a_motion(steps):
    x, model = model_of(*steps, PoissonNoise(100.0))
    inside = x[0, 0] > 0.7
    biased = 0.9 * x + 0.02
    settled = settled_slowly(model, biased)
    assert float((settled - x)[..., inside].mean().abs()) < 0.4 * float((biased - x)[..., inside].mean().abs())


# ---------------------------------------------------------------------------------------------------------- local means
@pytest.mark.parametrize("steps", [OPERATORS["motion"], OPERATORS["mask"], OPERATORS["blur behind a mask"]])
def test_a_cold_spot_is_settled_in_place_under_any_operator(steps):
    x = torch.full((24, 1, SIDE, SIDE), 0.6, dtype=torch.float64)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    spot = (rows - 48) ** 2 + (columns - 60) ** 2 < 5.5**2
    x[..., spot] = 0.2
    degradation = Degradation((*steps, GaussianNoise(0.05)))
    model = bind(degradation, degradation.simulate(x, generator(2)), x.shape[2:])
    filled = x.clone()
    filled[..., spot] = 0.35
    seen = spot & (model.operator.adjoint(torch.ones_like(model.y))[0, 0] > 0.5)
    settled = settled_in_place(model, filled, 0.7)
    assert float(settled[..., seen].mean()) < 0.35 - 0.3 * 0.15
    far = columns < 30
    assert float((settled - x)[..., far].std()) < 0.4 * 0.05


# --------------------------------------------------------------------------------------------------------- proven noise
@pytest.mark.parametrize("steps", [(GaussianBlur(2.0),), (GaussianBlur(2.0), MotionBlur(5.0, 30.0))])
def test_understated_noise_is_proven_where_a_blur_lets_nothing_through(steps):
    x, model = model_of(*steps, GaussianNoise(0.06))
    stated = Degradation((*steps, GaussianNoise(0.03)))
    louder = bind(stated, model.y, x.shape[2:])
    assert proven_excess(louder).tolist() == pytest.approx([4.0, 4.0], rel=0.1)
    assert proven_excess(model).tolist() == [1.0, 1.0]
    known = bind(stated.louder(proven_excess(louder)), model.y, x.shape[2:])
    assert float(known.sigma().mean()) == pytest.approx(0.06, rel=0.05)
    assert known.chi2(x).tolist() == pytest.approx([4.0, 4.0], rel=0.1), "that of the stated noise"
    zero = torch.zeros(2, dtype=torch.float64)
    r = known.residual(x)
    torch.testing.assert_close(known.covariance(known.solve(zero, r).x), r, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("steps", [OPERATORS["motion"], OPERATORS["mask"], OPERATORS["missing slices"]])
def test_where_nothing_is_silent_nothing_is_proven_of_the_noise(steps):
    x, model = model_of(*steps, GaussianNoise(0.06))
    assert proven_excess(bind(Degradation((*steps, GaussianNoise(0.03))), model.y, x.shape[2:])).tolist() == [1.0, 1.0]


# ------------------------------------------------------------------------------------------------------ width of a blur
def stated(part: Degradation, y: Tensor) -> float:
    return float(fit(JointDegradation(part, Degradation()), torch.cat([y, y], 1)).findings.blur[0, 0])


def falling(side: int = 192) -> Tensor:
    """Return an image whose power falls with the 2.6th power of the frequency."""
    rate = torch.fft.fftfreq(side).square()
    rate = (rate[:, None] + rate[None]).sqrt().clamp_min(1 / side)
    waves = torch.fft.fft2(torch.randn(side, side, generator=generator())) * rate**-1.3
    image = torch.fft.ifft2(waves).real
    return ((image - image.min()) / (image.max() - image.min()))[None, None]


def test_a_blur_that_is_stated_too_wide_is_narrowed_beside_a_motion():
    motion = MotionBlur(4.0, 20.0)
    y = Degradation((GaussianBlur(1.5), motion)).simulate(falling(), generator())
    y = (y * 255).round() / 255
    assert stated(Degradation((GaussianBlur(1.5), motion)), y) == 1
    narrowed = stated(Degradation((GaussianBlur(2.5), motion)), y)
    assert 0.95 * 1.5 < 2.5 * narrowed < 1.35 * 1.5


def test_behind_a_mask_which_mixes_the_waves_nothing_is_known_of_a_width():
    mask = Mask((torch.rand(192, 192, generator=generator(5)) > 0.3).float())
    y = Degradation((GaussianBlur(1.5), mask)).simulate(falling(), generator())
    assert stated(Degradation((GaussianBlur(2.5), mask)), y) == 1


# ---------------------------------------------------------------------------------------------------- bias of the noise
@pytest.mark.parametrize("steps", [(MotionBlur(3.0, 30.0),), (Mask(holes()),)])
@pytest.mark.parametrize("noise", [GaussianNoise(0.06), RicianNoise(0.06)])
def test_the_residual_of_the_truth_has_no_mean_in_the_dark(steps, noise):
    x = scene() * (scene() > 0.5)
    degradation = Degradation((*steps, noise))
    y = degradation.simulate(x, generator()).clamp_min(0)
    model = bind(degradation, y, x.shape[2:])
    dark = degradation.operator.forward(x) < 1e-3
    assert float(model.residual(x)[dark].mean().abs()) < 0.004
    assert float((y - degradation.operator.forward(x))[dark].mean()) > 0.02, "what it would be without"


def bright() -> Tensor:
    """Return images **[8, 1, SIDE, SIDE]** with bone at full range, soft tissue and air: a window of CT."""
    y, x = torch.meshgrid(*[torch.arange(SIDE, dtype=torch.float64)] * 2, indexing="ij")
    r = ((y - SIDE / 2) ** 2 + (x - SIDE / 2) ** 2).sqrt()
    return torch.where(r < 25, 0.4, torch.where(r < 38, 1.0, 0.0)).expand(8, 1, SIDE, SIDE).contiguous()


@pytest.mark.parametrize("stored", [0, 255])
@pytest.mark.parametrize("steps", [(), (MotionBlur(3.0, 30.0),), (GaussianBlur(1.0),)])
@pytest.mark.parametrize("noise", [GaussianNoise(0.06), RicianNoise(0.06)])
def test_the_truth_explains_data_that_were_cut_off_at_both_ends(noise, steps, stored):
    """No mean is left of them in bone, and chi-square is 1: the variance of what is cut off is less, too."""
    x = bright()
    degradation = Degradation((*steps, noise))
    signal = degradation.operator.forward(x)
    y = degradation.simulate(x, generator()).clamp(0, 1)
    y = (y * stored).round() / stored if stored else y
    model = bind(degradation, y, x.shape[2:])
    bone = signal > 1 - 1e-3
    assert float((signal - y)[bone].mean()) > 0.02, "what is cut off of it"
    assert float(model.pixels(model.residual(x))[bone].mean().abs()) < 0.003
    assert float(model.chi2(x).mean()) == pytest.approx(1, abs=0.03)
    if isinstance(noise, GaussianNoise) and not steps:
        assert float(SpectralModel(degradation, y, x.shape[2:]).chi2(x).mean()) < 0.9, "what it would be without"


@pytest.mark.parametrize("told", [0.03, 0.05, 0.058, 0.06])
def test_understated_noise_that_was_cut_off_is_not_blown_up_behind_a_blur(told):
    """What is left of cut noise is less than stated, what a blur hides is noise: together they leave nothing to ask."""
    x = bright()
    y = Degradation((GaussianBlur(2.0), GaussianNoise(0.06))).simulate(x, generator()).clamp(0, 1)
    stated = JointDegradation(*[Degradation((GaussianBlur(2.0), GaussianNoise(told)))] * 2)
    for model in fit(stated, y.expand(-1, 2, -1, -1)).models:
        estimate = x + 0.02 * torch.randn(x.shape, generator=generator(3), dtype=x.dtype)
        updated = model.update(estimate, model.consistency(estimate)).x
        assert float((updated - x).square().mean().sqrt()) < 0.06


@pytest.mark.parametrize("full", [1.0, 0.6])
def test_an_upper_end_is_found_where_values_pile_up(full):
    x = bright() * full
    model = bind(
        Degradation((GaussianNoise(0.06),)), GaussianNoise(0.06).sample(x, generator()).clamp(0, full), x.shape[2:]
    )
    found = bias_of_noise(model)
    assert found is not None and bool((found.end == full).all())


@pytest.mark.parametrize("name", ["not cut", "rounded", "few at the end", "a flat top without noise"])
def test_no_upper_end_is_found_where_none_is(name):
    y = GaussianNoise(0.06).sample(0.7 * bright(), generator())
    if name == "rounded":
        y = (y * 255).round() / 255
    elif name == "few at the end":
        y.clamp_(max=float(y.flatten().sort().values[-4]))
    elif name == "a flat top without noise":  # less noise than a rounding: what is cut off of it does not matter
        y = 0.7 * bright()
        assert float(bias_of_noise(bind(Degradation((GaussianNoise(1e-3),)), y, y.shape[2:]))(y).abs().max()) < 1e-3
        return
    found = bias_of_noise(bind(Degradation((GaussianNoise(0.06),)), y, y.shape[2:]))
    assert found is None or not bool(found.end.isfinite().any())


def test_what_is_saturated_all_around_tells_nothing():
    """At the end the bias is half the mean deviation; a region that shows no noise at all was not cut off."""
    y = GaussianNoise(0.06).sample(bright(), generator()).clamp(0, 1)
    y[..., 40:60, 40:60] = 1
    found = bias_of_noise(bind(Degradation((GaussianNoise(0.06),)), y, y.shape[2:]))
    assert found is not None
    bias = found(torch.ones_like(y))
    assert bool((bias[..., 42:58, 42:58] == 0).all())
    ring = (bright() == 1) & found.known
    assert bias[ring].tolist() == pytest.approx([-0.06 / math.sqrt(2 * math.pi)] * int(ring.sum()), rel=1e-3)


# ------------------------------------------------------------------------------------------------------------ the verbs
@pytest.mark.parametrize("steps", [(GaussianBlur(0.9),), (GaussianNoise(0.1), GaussianBlur(0.9))])
def test_conjugate_gradients_say_of_the_waves_what_the_closed_form_knows(steps):
    degradation = Degradation((*steps, GaussianNoise(0.05)))
    x = scene()
    y = degradation.simulate(x, generator())
    closed, iterated = (model(degradation, y, x.shape[2:]) for model in (SpectralModel, KrylovModel))
    assert torch.allclose(closed.waves(), iterated.waves())
    for ours, theirs in ((iterated.gains, closed.gains), (lambda _: iterated.noises(), lambda _: closed.noises())):
        exact = theirs(degradation.operator).expand_as(y)
        ratio = ours(degradation.operator).expand_as(y) / exact
        assert float(ratio.mean()) == pytest.approx(1, abs=0.03)
        assert float((ratio - 1).std()) < 1.2 * math.sqrt(2 / 8)  # eight images of noise
    counts = [7, 7]
    (ours, _), (exact, _) = spectra = iterated.slow_spectrum(counts), closed.slow_spectrum(counts)
    for slow, known in zip(*spectra, strict=True):
        torch.testing.assert_close(slow.expand_as(known), known, rtol=2e-3, atol=0)
    zero, r = torch.zeros_like(x), cosine_waves(x)[..., :7, :7]
    torch.testing.assert_close(
        iterated.slow_residual(zero, ours), closed.slow_residual(zero, exact), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(iterated.slow_back(r, ours), closed.slow_back(r, exact), rtol=1e-3, atol=1e-4)
