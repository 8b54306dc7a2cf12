from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from medfuse.bundles import load_spec, preset_names
from medfuse.errors import DegradationError
from medfuse.physics import (
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    Identity,
    JointDegradation,
    MotionBlur,
    PoissonNoise,
    RicianNoise,
    SpectralChain,
    parse_degradation,
    replicate,
    sigma_map,
)
from medfuse.physics.degradation import QUANTIZATION, mean_variances


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(*steps: object, source: str = "source1", **context: object) -> Degradation:
    """Parse a list of steps of one source."""
    return getattr(parse_degradation({"version": 1, source: list(steps)}, **context), source)


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=generator(), dtype=torch.float64)


# -------------------------------------------------------------------------------------------------------------- parsing
def test_none_is_no_degradation():
    for spec in (None, {"version": 1}, {"version": 1, "source1": None, "source2": []}):
        for part in parse_degradation(spec):
            assert part.steps == ()
            assert isinstance(part.operator, Identity)
            assert part.noises == ()


def test_every_step_is_built_with_its_values():
    steps = (
        {"blur": {"sigma_px": 2}},
        {"noise": {"kind": "rician", "sigma": 0.04}},
        {"motion": {"length_px": 9, "angle_deg": 30}},
        {"downsample": {"factor": 3, "kind": "bicubic"}},
        {"noise": {"sigma": 0.0314}},
        {"noise": {"kind": "poisson", "counts": 60}},
    )
    blur, rician, motion, small, gaussian, poisson = only(*steps).steps
    assert isinstance(blur, GaussianBlur)
    assert blur.sigma.tolist() == [[2.0]]
    assert isinstance(rician, RicianNoise)
    assert rician.sigma.tolist() == [0.04]
    assert isinstance(motion, MotionBlur)
    assert (motion.length.tolist(), motion.angle.tolist()) == ([9.0], [30.0])
    assert isinstance(small, Downsample)
    assert (small.factor, small.kind) == ((3,), "bicubic")
    assert isinstance(gaussian, GaussianNoise)
    assert gaussian.sigma.tolist() == [0.0314]
    assert isinstance(poisson, PoissonNoise)
    assert poisson.counts.tolist() == [60.0]


@pytest.mark.parametrize("value", [0.9, 1 / 3, 0.0547723, 1e-3, "1e-3"])
def test_numbers_arrive_as_they_were_given(value):
    """In double precision; a YAML reader leaves `1e-3` a string."""
    assert only({"blur": {"sigma_px": value}}).steps[0].sigma.tolist() == [[float(value)]]
    assert only({"noise": {"sigma": value}}).steps[0].sigma.tolist() == [float(value)]
    assert only({"motion": {"length_px": 1 + float(value)}}).steps[0].length.tolist() == [1 + float(value)]


def test_defaults_are_average_gaussian_and_horizontal():
    small, noise, motion = only(
        {"downsample": {"factor": 2}}, {"noise": {"sigma": 0.1}}, {"motion": {"length_px": 3}}
    ).steps
    assert small.kind == "average"
    assert isinstance(noise, GaussianNoise)
    assert motion.angle.tolist() == [0.0]


def test_values_per_axis():
    blur, small = only({"blur": {"sigma_px": [1.0, 2.5]}}, {"downsample": {"factor": [2, 1]}}).steps
    assert blur.sigma.tolist() == [[1.0, 2.5]]
    assert small.factors(2) == (2, 1)


def test_width_in_mm_becomes_pixels_by_the_spacing_of_its_own_source():
    spacing = ((1.0, 1.0), (2.0, 4.0))
    sigma = 6.0 / (2 * math.sqrt(2 * math.log(2)))
    first = only({"blur": {"fwhm_mm": 6.0}}, source="source1", spacing=spacing).steps[0].sigma
    second = only({"blur": {"fwhm_mm": 6.0}}, source="source2", spacing=spacing).steps[0].sigma
    per_axis = only({"blur": {"fwhm_mm": [6.0, 3.0]}}, source="source2", spacing=spacing).steps[0].sigma
    assert torch.allclose(first, torch.tensor([[sigma, sigma]], dtype=torch.float64), rtol=1e-12)
    assert torch.allclose(second, torch.tensor([[sigma / 2, sigma / 4]], dtype=torch.float64), rtol=1e-12)
    assert torch.allclose(per_axis, torch.tensor([[sigma / 2, sigma / 8]], dtype=torch.float64), rtol=1e-12)


def test_full_width_at_half_maximum_is_one():
    """Of a point, four pixels of FWHM leave the half at two pixels."""
    image = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    image[..., 16, 16] = 1.0
    y = only({"blur": {"fwhm_mm": 8.0}}, spacing=((2.0, 2.0), (1.0, 1.0))).operator.forward(image)[0, 0]
    assert float(y[16, 18] / y[16, 16]) == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("kind", ["gaussian", "rician"])
def test_noise_in_the_unit_of_the_input_is_divided_by_its_own_range(kind):
    step = {"noise": {"kind": kind, "sigma": 0.5, "unit": "input"}}
    assert only(step, source="source1", scale=(255.0, 8.0)).steps[0].sigma.tolist() == [0.5 / 255.0]
    assert only(step, source="source2", scale=(255.0, 8.0)).steps[0].sigma.tolist() == [0.0625]


def test_floor_is_that_of_both_sources():
    assert [d.floor for d in parse_degradation({"version": 1}, floor=1e-4)] == [1e-4, 1e-4]
    assert [d.floor for d in parse_degradation(None)] == [QUANTIZATION] * 2


def test_rounding_to_8_bit_has_the_std_of_the_floor():
    x = rand(400, 400)
    assert float(((x * 255).round() / 255 - x).std()) == pytest.approx(QUANTIZATION, rel=0.02)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("blur", "must be a mapping"),
        ([], "must be a mapping"),
        ({}, "`version` of a degradation must be 1, got None"),
        ({"version": 2}, "`version` of a degradation must be 1, got 2"),
        ({"version": 1, "source3": []}, "source3"),
        ({"version": 1, "source3": [], 4: []}, "source3"),
        ({"version": 1, "source1": {"blur": {"sigma_px": 2.0}}}, "must be a list of steps"),
        ({"version": 1, "source2": "blur"}, "must be a list of steps"),
    ],
)
def test_a_specification_that_is_none_is_refused(spec, words):
    with pytest.raises(DegradationError, match=words):
        parse_degradation(spec)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("blur", "must be one of"),
        ({}, "must be one of"),
        ({"blur": {"sigma_px": 1.0}, "noise": {"sigma": 0.1}}, "must be one of"),
        ({"sharpen": {"sigma_px": 1.0}}, "must be one of .*got 'sharpen'"),
        ({"blur": 2.0}, "must be a mapping, got 2.0"),
        ({"blur": None}, "must be a mapping"),
        ({"blur": {}}, "either `sigma_px` or `fwhm_mm`"),
        ({"blur": {"sigma_px": 1.0, "fwhm_mm": 2.0}}, "either `sigma_px` or `fwhm_mm`"),
        ({"blur": {"sigma": 1.0}}, r"unknown: \['sigma'\]"),
        ({"blur": {"sigma": 1.0, 3: 4}}, r"unknown: \['3', 'sigma'\]"),
        ({"blur": {"sigma_px": "wide"}}, "must be a number, got 'wide'"),
        ({"blur": {"sigma_px": {"x": 1}}}, "must be a number"),
        ({"blur": {"sigma_px": "2"}}, "must be a number, got '2', a text; write it without quotes"),
        ({"blur": {"sigma_px": [1, "2"]}}, "a text; write it without quotes"),
        ({"noise": {"sigma": "0.1"}}, "a text; write it without quotes"),
        ({"blur": {"sigma_px": -1.0}}, "not negative"),
        ({"blur": {"sigma_px": math.nan}}, "finite"),
        ({"blur": {"fwhm_mm": 4.0}}, "must come with a pixel spacing"),
        ({"noise": {"sigma": 14}}, "at most 1, the full range, got 14"),
        ({"noise": {"kind": "rician", "sigma": 1.01}}, "at most 1, the full range"),
        ({"motion": {"angle_deg": 3.0}}, r"missing: \['length_px'\]"),
        ({"motion": {"length_px": 0.5}}, "at least 1"),
        ({"motion": {"length_px": [3.0, 4.0]}}, "must be one number"),
        ({"motion": {"length_px": 3.0, "angle_deg": math.inf}}, "at most 360"),
        ({"downsample": {}}, r"missing: \['factor'\]"),
        ({"downsample": {"factor": 2.5}}, "must be an integer"),
        ({"downsample": {"factor": "2"}}, "must be an integer"),
        ({"downsample": {"factor": [2, 1.5]}}, "must be an integer"),
        ({"downsample": {"factor": 0}}, "at least 1"),
        ({"downsample": {"factor": 2, "kind": "nearest"}}, "`average` or `bicubic`"),
        ({"noise": {"kind": "speckle", "sigma": 0.1}}, "gaussian, poisson or rician, got 'speckle'"),
        ({"noise": {}}, "must have `sigma` alone"),
        ({"noise": {"counts": 10}}, "must have `sigma` alone"),
        ({"noise": {"sigma": 0.1, "counts": 10}}, "must have `sigma` alone"),
        ({"noise": {"kind": "poisson", "sigma": 0.1}}, "must have `counts` alone"),
        ({"noise": {"kind": "poisson", "counts": 0}}, "must be positive"),
        ({"noise": {"sigma": -0.1}}, "not negative"),
        ({"noise": {"sigma": [0.1, 0.2]}}, "must be one number"),
        ({"noise": {"sigma": 0.1, "unit": "percent"}}, "`fraction` or `input`, got 'percent'"),
        ({"noise": {"sigma": 0.1, "unit": "input"}}, "must come with the source's range"),
        ({"gamma": {}}, r"missing: \['exponent'\]"),
        ({"gamma": {"exponent": 0.0}}, "at least 0.1, got 0"),
        ({"gamma": {"exponent": math.nan}}, "at least 0.1, got nan"),
        ({"gamma": {"exponent": 11}}, "at most 10"),
        ({"gamma": {"exponent": [0.8, 0.8]}}, "must be one number"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(step, words):
    for source in ("source1", "source2"):
        with pytest.raises(DegradationError, match=words):
            only(step, source=source)


@pytest.mark.parametrize("after", [{"noise": {"sigma": 0.1}}, {"gamma": {"exponent": 0.5}}])
def test_a_power_acts_last(after):
    with pytest.raises(DegradationError, match="`gamma` of `source1` must be the last step"):
        only({"gamma": {"exponent": 0.8}}, after)


@pytest.mark.parametrize("exponent", [0.8, 1.0, 2.2])
def test_a_power_is_undone_before_anything_else(exponent):
    told = only({"noise": {"sigma": 0.1}}, {"downsample": {"factor": 2}}, {"gamma": {"exponent": exponent}})
    plain = only({"noise": {"sigma": 0.1}}, {"downsample": {"factor": 2}})
    x = rand(2, 1, 12, 10)
    y, linear = told.simulate(x, generator()), plain.simulate(x, generator())
    torch.testing.assert_close(y, linear.sign() * linear.abs() ** exponent)
    torch.testing.assert_close(told.observed(replicate(y, told.operator, (12, 10))), linear)
    assert told.operator.out_spatial((12, 10)) == (6, 5) and len(told.noises) == 1


@pytest.mark.parametrize("exponent", [0.5, 0.8, 1.25, 2.2])
def test_the_floor_is_the_rounding_that_is_left_once_a_power_is_undone(exponent):
    told, x = only({"gamma": {"exponent": exponent}}), rand(1, 1, 400, 400)
    stored = (told.simulate(x, generator()) * 255).round() / 255
    assert told.floor == pytest.approx(float((told.linear(stored) - x).square().mean().sqrt()), rel=0.02)
    assert told.floor > QUANTIZATION


def test_a_power_of_a_volume_is_refused():
    with pytest.raises(DegradationError, match="must be that of a 2-D image"):
        only({"gamma": {"exponent": 0.8}}, scale=(2.0, 3.0))


def test_errors_name_the_source():
    with pytest.raises(DegradationError, match="source2"):
        only({"blur": {}}, source="source2")


def test_a_degradation_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Degradation().floor = 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        JointDegradation().source1 = Degradation()


# -------------------------------------------------------------------------------------------------------------- presets
@pytest.mark.parametrize("name", [name for name in preset_names() if name != "auto"])  # which states nothing
def test_presets_parse_and_simulate(name):
    x = rand(2, 1, 16, 16)
    for part in parse_degradation(load_spec(name)):
        y = part.simulate(x, generator())
        assert tuple(y.shape[2:]) == part.operator.out_spatial((16, 16))
        assert bool(y.isfinite().all())


def test_presets_are_the_papers_scenarios():
    assert {"none", "noise", "blur", "low_resolution", "composite"} <= set(preset_names())
    parsed = {name: parse_degradation(load_spec(name)) for name in preset_names()}
    for part in parsed["none"]:
        assert part.steps == ()
    for part in parsed["noise"]:
        assert float(part.steps[0].sigma) ** 2 == pytest.approx(0.003, rel=1e-5)
    for part in parsed["blur"]:
        assert float(part.steps[0].sigma) == 2.0
    assert parsed["low_resolution"].source1.steps == ()
    assert parsed["low_resolution"].source2.steps[0].factor == (2,)
    for part in parsed["composite"]:
        assert float(part.steps[0].sigma) == 2.0
        assert float(part.steps[1].sigma) ** 2 == pytest.approx(0.001, rel=1e-5)
    small = parsed["composite"].source2.steps[2]
    assert (small.factor, small.kind) == ((2,), "bicubic")
    assert len(parsed["composite"].source1.steps) == 2


def test_an_absent_preset_is_refused():
    with pytest.raises(DegradationError, match="must be one of"):
        load_spec("no_such_preset")


# ----------------------------------------------------------------------------------------------------------- simulation
def test_steps_act_in_their_order():
    blur, small, noise = GaussianBlur(1.0), Downsample(2), GaussianNoise(0.1)
    x = rand(2, 1, 8, 8)
    before = Degradation((blur, noise, small)).simulate(x, generator())
    expected = small.forward(noise.sample(blur.forward(x), generator()))
    assert torch.equal(before, expected)
    assert not torch.allclose(before, Degradation((blur, small, noise)).simulate(x, generator()))


def test_operator_is_the_product_of_the_linear_steps():
    degradation = Degradation((GaussianBlur(1.0), GaussianNoise(0.1), MotionBlur(3.0, 0.0), Downsample(2)))
    x = rand(1, 1, 9, 7)
    quiet = Degradation(tuple(s for s in degradation.steps if not isinstance(s, GaussianNoise)))
    assert torch.equal(degradation.operator.forward(x), quiet.simulate(x, generator()))
    assert isinstance(Degradation((GaussianBlur(1.0), Downsample(2))).operator, SpectralChain)


def test_each_noise_knows_what_came_after_it_and_its_grid():
    first, second = GaussianNoise(0.1), PoissonNoise(50.0)
    degradation = Degradation((GaussianBlur(1.0), first, Downsample(2), GaussianBlur(0.5), second))
    (noise1, after1), (noise2, after2) = degradation.noises
    assert (noise1, noise2) == (first, second)
    assert after1.out_spatial((9, 8)) == (5, 4)
    assert isinstance(after2, Identity)
    assert degradation.noise_shapes((9, 8)) == [(9, 8), (5, 4)]


def test_simulation_is_determined_by_its_generator_and_leaves_the_image_alone():
    degradation = Degradation((GaussianBlur(1.0), PoissonNoise(30.0), Downsample(2), RicianNoise(0.05)))
    x = rand(2, 1, 8, 8)
    kept = x.clone()
    assert torch.equal(degradation.simulate(x, generator(1)), degradation.simulate(x, generator(1)))
    assert not torch.equal(degradation.simulate(x, generator(1)), degradation.simulate(x, generator(2)))
    assert torch.equal(x, kept)


# ---------------------------------------------------------------------------------------------------------- noise level
COLOURED = [
    (GaussianNoise(0.05), Downsample(2, "bicubic")),
    (GaussianNoise(0.05), Downsample(4)),
    (GaussianNoise(0.05), GaussianBlur(1.0)),
    (GaussianNoise(0.05), MotionBlur(5.0, 20.0)),
    (PoissonNoise(200.0), Downsample(2)),
    (GaussianBlur(2.0), GaussianNoise(0.05), Downsample(2, "bicubic"), GaussianNoise(0.02)),
]


@pytest.mark.parametrize("steps", COLOURED)
def test_sigma_map_is_the_std_of_simulated_noise(steps):
    x = torch.full((64, 1, 48, 48), 0.4, dtype=torch.float64)
    degradation = Degradation(tuple(steps), floor=1e-6)
    measured = degradation.simulate(x, generator()) - degradation.operator.forward(x)
    expected = sigma_map(degradation, x[:1])
    assert expected.shape == (1, 1, 48, 48)
    assert float(measured.std()) == pytest.approx(float(expected.mean()), rel=0.03)


def test_white_noise_before_bicubic_halving_keeps_a_sixth_of_its_variance():
    gain = Downsample(2, "bicubic").white_gain((960, 960), torch.zeros(1, dtype=torch.float64))
    assert float(gain) == pytest.approx(0.164, abs=0.002)


def test_sigma_map_follows_the_signal_and_the_sample():
    x = torch.tensor([0.2, 0.8], dtype=torch.float64).reshape(2, 1, 1, 1).expand(2, 1, 6, 6)
    poisson = sigma_map(Degradation((PoissonNoise(50.0),), floor=0.0), x)
    assert torch.allclose(poisson[:, 0, 0, 0], (torch.tensor([0.2, 0.8], dtype=torch.float64) / 50).sqrt())
    gaussian = sigma_map(Degradation((GaussianNoise(torch.tensor([0.1, 0.3])),), floor=0.0), x)
    assert torch.allclose(gaussian[:, 0, 0, 0], torch.tensor([0.1, 0.3]).double())
    assert gaussian.shape == x.shape


def test_nothing_is_trusted_beyond_the_floor():
    x = rand(1, 1, 5, 5)
    assert torch.allclose(sigma_map(Degradation(), x), torch.full_like(x, QUANTIZATION))
    both = sigma_map(Degradation((GaussianNoise(0.03),), floor=0.04), x)
    assert torch.allclose(both, torch.full_like(x, 0.05))


def test_mean_variances_are_one_number_per_sample_and_noise():
    x = torch.stack([torch.full((1, 4, 6), 0.3), torch.full((1, 4, 6), 0.6)]).double()
    (first, after), (second, _) = mean_variances(
        Degradation((PoissonNoise(30.0), Downsample(2), GaussianNoise(torch.tensor([0.1, 0.2])))), x
    )
    assert torch.allclose(first, torch.tensor([0.01, 0.02]).double())
    assert torch.allclose(second, torch.tensor([0.01, 0.04]).double())
    assert isinstance(after, Downsample)
