from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from medfuse.diffusion import Evaluator, FusionModel, FusionState, describe
from medfuse.diffusion import sample as sampled
from medfuse.diffusion.unet import FusionUNet
from medfuse.errors import DegradationError
from medfuse.physics import (
    CORRECTIONS,
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    JointDegradation,
    JointObservation,
    MotionBlur,
    PoissonNoise,
    bind,
    replicate,
)
from medfuse.physics import correction as correct


def sample(
    network: nn.Module,
    inputs: Tensor,
    degradation: JointDegradation,
    *,
    correction: str = "cut",
    **options: object,
) -> list[FusionState]:
    """Bind images as they were stated, take all steps, and crop what was continued."""
    known = {key: options.pop(key) for key in ("autocast", "views", "limit") if key in options}
    observation = JointObservation.from_images(degradation.continued(inputs), degradation)
    states = sampled(network, observation, correct=correct(correction), evaluate=Evaluator(**known), **options)
    return [state.cropped(inputs.shape[2:]) for state in states]


NOISY = JointDegradation(Degradation((GaussianNoise(0.05),)), Degradation((GaussianNoise(0.1),)))
COMPOSITE = JointDegradation(
    Degradation((GaussianBlur(1.2), GaussianNoise(0.03))),
    Degradation((GaussianBlur(1.0), GaussianNoise(0.03), Downsample(2, "bicubic"))),
)
SCENARIOS = {
    "none": JointDegradation(),
    "noise": NOISY,
    "composite": COMPOSITE,
    "motion": JointDegradation(
        Degradation((MotionBlur(4.0, 30.0), GaussianNoise(0.03))), Degradation((PoissonNoise(60.0),))
    ),
}
scenarios = pytest.mark.parametrize("degradation", SCENARIOS.values(), ids=SCENARIOS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(dtype: torch.dtype = torch.float64, std: float = 0.02) -> FusionModel:
    """Return a small network with random weights that do something: its residuals are of the order of 10 `std`."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net = FusionModel(FusionUNet(widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1,), embedding=8))
        for p in (net.denoiser.head.weight, net.gain.layers[2].weight):
            nn.init.normal_(p, std=std)
    net.to(dtype)
    net.gain.float()
    return net


def pair(degradation: JointDegradation, size: tuple[int, int] = (16, 12), batch: int = 2, seed: int = 0) -> Tensor:
    """Return degraded random sources on the reference grid."""
    clean = torch.rand(batch, 2, *size, generator=generator(seed), dtype=torch.float64)
    clean = GaussianBlur(1.0).forward(clean)
    observed = []
    for i, part in enumerate(degradation):
        y = part.simulate(clean[:, i : i + 1], generator(seed + 1 + i))
        observed.append(replicate(y, part.operator, size))
    return torch.cat(observed, 1)


class Stub(nn.Module):
    """A network of constants that remembers what it saw."""

    def __init__(
        self, change: tuple[float, float, float], logit: float, variances: tuple[float, float], gain: float
    ) -> None:
        super().__init__()
        self.change, self.logit, self.variances, self.gain = change, logit, variances, gain
        self.features: list[Tensor] = []
        self.conditions: list[Tensor] = []

    def alpha_bar(self, s: Tensor) -> Tensor:
        return 0.125**s

    def gains(self, condition: Tensor) -> Tensor:
        return torch.tensor([[*self.variances, self.gain, 0.9, 0.8]], dtype=torch.float64).expand(len(condition), -1)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        self.features.append(features)
        self.conditions.append(condition)
        values = torch.tensor([*self.change, self.logit, -4.0, -5.0], dtype=torch.float64)
        return values.reshape(1, 6, 1, 1).expand(len(features), 6, *features.shape[2:])


# -------------------------------------------------------------------------------------------------------------- by hand
def by_hand(
    y: tuple[float, float], sigma: tuple[float, float], stub: Stub, steps: int
) -> tuple[list[float], list, list]:
    """Run the method on one pixel, in numbers: no blur acts on a single pixel, so A = 1 and R = sigma^2 + floor^2."""
    floor = 1 / (255 * math.sqrt(12))
    R = [s * s + floor * floor for s in sigma]
    m = 1 / (1 + math.exp(-stub.logit))
    bar = [*y, (y[0] + y[1]) / 2]
    x = [math.sqrt(0.125) * v for v in bar]
    trajectory, features = [], []
    for t in range(steps, 0, -1):
        now, then = 0.125 ** (t / steps), 0.125 ** ((t - 1) / steps)
        level = [v / math.sqrt(now) for v in x]
        features.append([*level, *y, bar[0] - y[0], bar[1] - y[1], math.sqrt(R[0]), math.sqrt(R[1]), *bar])
        x0 = [v - math.sqrt((1 - now) / now) * c * d for v, c, d in zip(bar, (0.9, 0.9, 0.8), stub.change, strict=True)]
        bar = []
        for i in range(2):
            P, r = stub.variances[i], y[i] - x0[i]
            if t == 1 and r * r > R[i]:
                P = max(P, abs(r) * math.sqrt(R[i]) - R[i])
            bar.append(x0[i] + P / (P + R[i]) * r)
        bar.append(x0[2] + stub.gain * (m * bar[0] + (1 - m) * bar[1] - x0[2]))
        trajectory.append(bar)
        e = [(v - math.sqrt(now) * w) / math.sqrt(1 - now) for v, w in zip(x, x0, strict=True)]
        x = [math.sqrt(then) * v + math.sqrt(1 - then) * w for v, w in zip(bar, e, strict=True)]
    return bar, trajectory, features


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("variances", [(1e-4, 2e-3), (0.3, 1e-6)])
def test_one_pixel_is_what_a_hand_computes(steps, variances):
    stub = Stub((0.3, -0.2, 0.1), 0.4, variances, 0.7)
    y = (0.62, 0.31)
    inputs = torch.tensor(y, dtype=torch.float64).reshape(1, 2, 1, 1)
    states = sample(stub, inputs, NOISY, steps=steps)
    final, trajectory, features = by_hand(y, (0.05, 0.1), stub, steps)
    assert len(states) == steps
    assert states[-1].x.flatten().tolist() == pytest.approx(final, rel=1e-4)
    for state, expected in zip(states[:-1], trajectory[:-1], strict=True):
        assert state.x.flatten().tolist() == pytest.approx(expected, rel=1e-10)
    for seen, expected in zip(stub.features, features, strict=True):
        assert seen.flatten().tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert float(states[-1].weight) == pytest.approx(1 / (1 + math.exp(-0.4)))
    assert states[-1].log_variance.flatten().tolist() == [-4.0, -5.0]


def test_the_network_is_told_the_time_and_both_degradations():
    stub = Stub((0.0, 0.0, 0.0), 0.0, (1e-3, 1e-3), 0.5)
    inputs = pair(COMPOSITE)
    sample(stub, inputs, COMPOSITE, steps=4)
    assert [float(c[0, 0]) for c in stub.conditions] == [1.0, 0.75, 0.5, 0.25]
    assert all(c.shape == (2, 25) for c in stub.conditions)
    assert all(f.shape == (2, 12, 16, 12) for f in stub.features)
    first = describe(bind(COMPOSITE.source1, inputs[:, :1], (16, 12)))
    assert torch.allclose(stub.conditions[0][:, 1:13], first)


# ---------------------------------------------------------------------------------------------------------- description
def described(*steps: object, size: tuple[int, int] = (16, 12), batch: int = 1) -> Tensor:
    part = Degradation(tuple(steps))
    y = torch.full((batch, 1, *part.operator.out_spatial(size)), 0.5, dtype=torch.float64)
    return describe(bind(part, y, size))


def test_a_description_holds_noise_scale_and_pass_bands():
    clean = described()
    assert clean.shape == (1, 12)
    assert torch.allclose(clean[:, 1:], torch.tensor([[0.0] + [1.0] * 10], dtype=torch.float64))
    assert float(described(Downsample(2))[0, 1]) == 1.0
    assert float(described(Downsample([1, 4]))[0, 1]) == 1.0
    assert float(described(GaussianNoise(0.1))[0, 0]) > float(described(GaussianNoise(0.01))[0, 0]) > float(clean[0, 0])
    bands = described(GaussianBlur([0.0, 2.0]))[0, 2:].reshape(2, 5)
    assert torch.allclose(bands[0], torch.ones(5, dtype=torch.float64))
    assert bool((bands[1].diff() < 0).all())
    motion = described(MotionBlur(9.0, 0.0), size=(64, 64))[0, 2:].reshape(2, 5)
    assert float(motion[0].min()) > 0.99
    assert float(motion[1, 1]) < 0.5


def test_a_description_is_that_of_each_sample():
    sigma, noise = torch.tensor([0.5, 2.0]), torch.tensor([0.02, 0.1])
    both = described(GaussianBlur(sigma), GaussianNoise(noise), batch=2)
    for b in range(2):
        single = described(GaussianBlur(sigma[b : b + 1]), GaussianNoise(noise[b : b + 1]))
        assert torch.allclose(both[b], single[0], rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------ behaviour
@scenarios
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_any_number_of_steps(degradation, steps):
    states = sample(model(), pair(degradation), degradation, steps=steps)
    assert len(states) == steps
    for state in states:
        assert (state.x.shape, state.weight.shape, state.log_variance.shape) == (
            (2, 3, 16, 12),
            (2, 1, 16, 12),
            (2, 2, 16, 12),
        )
        assert bool(state.x.isfinite().all())
        assert bool(((state.weight >= 0) & (state.weight <= 1)).all())


@pytest.mark.parametrize("size", [(16, 16), (17, 13), (7, 20), (3, 1)])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_any_size_with_any_decimation(size, factor):
    degradation = JointDegradation(
        Degradation((GaussianNoise(0.05),)), Degradation((Downsample(factor), GaussianNoise(0.02)))
    )
    inputs = pair(degradation, size)
    state = sample(model(), inputs, degradation)[-1]
    assert state.x.shape == (2, 3, *size)
    assert state.weight.shape == (2, 1, *size)
    assert bool(state.x.isfinite().all())


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("steps", [1, 3])
def test_every_form_of_the_correction(correction, steps):
    state = sample(model(), pair(COMPOSITE), COMPOSITE, steps=steps, correction=correction)[-1]
    assert bool(state.x.isfinite().all())


@scenarios
@pytest.mark.parametrize("steps", [1, 3])
def test_the_result_explains_the_data(degradation, steps):
    """The discrepancy principle: whatever the network says, the residual is no larger than the noise explains."""
    inputs = pair(degradation, (24, 24))
    restored = sample(model(std=0.05), inputs, degradation, steps=steps)[-1].x.detach()
    for i, source in enumerate(JointObservation.from_images(inputs, degradation)):
        assert float(source.chi2(restored[:, i : i + 1]).max()) <= 1 + 1e-3


def test_what_was_not_degraded_comes_back_as_it_is():
    inputs = pair(JointDegradation())
    for steps in (1, 3):
        state = sample(model(std=0.05), inputs, JointDegradation(), steps=steps)[-1]
        assert torch.allclose(state.x[:, :2], inputs, atol=1e-6)


@scenarios
def test_a_run_keeps_no_state(degradation):
    net, inputs = model(), pair(degradation)
    kept, weights = inputs.clone(), copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    first = sample(net, inputs, degradation)[-1]
    sample(net, pair(NOISY, seed=5), NOISY, steps=5)
    second = sample(net, inputs, degradation)[-1]
    assert torch.equal(first.x, second.x)
    assert torch.equal(inputs, kept)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())


@scenarios
def test_a_sample_does_not_depend_on_its_batch(degradation):
    net, inputs = model(), pair(degradation, batch=4)
    whole = sample(net, inputs, degradation)[-1].x
    for b in (0, 3):
        alone = sample(net, inputs[b : b + 1], degradation)[-1].x
        assert torch.allclose(whole[b], alone[0], rtol=1e-5, atol=1e-6)


def test_a_sample_with_its_own_parameters_does_not_depend_on_its_batch():
    def degradation(index: slice) -> JointDegradation:
        sigma, noise = torch.tensor([0.4, 1.0, 2.0])[index], torch.tensor([0.02, 0.1, 0.05])[index]
        return JointDegradation(
            Degradation((GaussianBlur(sigma), GaussianNoise(noise))), Degradation((Downsample(2), GaussianNoise(noise)))
        )

    net, everyone = model(), slice(None)
    inputs = pair(degradation(everyone), batch=3)
    whole = sample(net, inputs, degradation(everyone))[-1].x
    for b in range(3):
        alone = sample(net, inputs[b : b + 1], degradation(slice(b, b + 1)))[-1].x
        assert torch.allclose(whole[b], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("degradation", [NOISY, COMPOSITE, SCENARIOS["motion"]], ids=["noise", "composite", "motion"])
@pytest.mark.parametrize("steps", [1, 3])
def test_everything_learned_gets_a_gradient(degradation, steps):
    net, inputs = model(), pair(degradation).requires_grad_()
    states = sample(net, inputs, degradation, steps=steps)
    sum(s.x.square().mean() + s.weight.mean() + s.log_variance.mean() for s in states).backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.isfinite().all()), name
    for name in ("schedule.increments", "gain.layers.2.weight", "denoiser.stem.weight", "denoiser.head.weight"):
        assert float(net.get_parameter(name).grad.abs().max()) > 0, name
    assert bool(inputs.grad.isfinite().all())


def test_the_gradient_is_that_of_finite_differences():
    net, inputs = model(), pair(COMPOSITE, (8, 8))
    parameter = net.denoiser.head.bias
    direction = torch.linspace(-1, 1, parameter.numel(), dtype=torch.float64)

    def value() -> Tensor:
        return sample(net, inputs, COMPOSITE, steps=2)[0].x.square().sum()

    (gradient,) = torch.autograd.grad(value(), parameter)
    with torch.no_grad():
        start, h = parameter.clone(), 1e-5
        ends = []
        for sign in (1, -1):
            parameter.copy_(start + sign * h * direction)
            ends.append(value())
        parameter.copy_(start)
    assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=1e-5)


@pytest.mark.parametrize("degradation", [NOISY, COMPOSITE], ids=["noise", "composite"])
def test_bfloat16_stays_near_float32(degradation):
    net, inputs = model(torch.float32), pair(degradation).float()
    exact = sample(net, inputs, degradation)[-1].x.detach()
    rough = sample(net, inputs, degradation, autocast=torch.bfloat16)[-1].x.detach()
    assert rough.dtype == torch.float32
    assert float((exact - rough).abs().max()) < 0.01


# --------------------------------------------------------------------------------------------------------------- errors
@torch.no_grad()
@pytest.mark.parametrize("degradation", [NOISY, COMPOSITE], ids=["noise", "composite"])
def test_with_all_views_a_mirrored_image_gives_the_mirrored_result(degradation):
    """Blur, decimation and this noise know no left and right either, so the physics keep what the views bring."""
    network, inputs = model(), pair(degradation)
    result, turned, single = (
        sample(network, x, degradation, steps=2, views=views)[-1]
        for x, views in ((inputs, 4), (inputs.flip(-1, -2), 4), (inputs.flip(-1, -2), 1))
    )
    for key in ("x", "weight", "log_variance"):
        assert torch.allclose(getattr(turned, key).flip(-1, -2), getattr(result, key), atol=1e-9)
    assert float((single.x.flip(-1, -2) - result.x).abs().max()) > 1e-3


@pytest.mark.parametrize("views", [0, 5])
def test_an_impossible_number_of_views_is_refused(views):
    with pytest.raises(DegradationError, match=f"1 to 4, got {views}"):
        sample(model(), pair(NOISY), NOISY, views=views)


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(steps):
    with pytest.raises(DegradationError, match="at least 1"):
        sample(model(), pair(NOISY), NOISY, steps=steps)


def test_an_unknown_correction_is_refused():
    with pytest.raises(DegradationError, match="got 'hard'"):
        sample(model(), pair(NOISY), NOISY, correction="hard")
