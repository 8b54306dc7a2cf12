from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medfuse.errors import DegradationError
from medfuse.physics import (
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    JointDegradation,
    PoissonNoise,
    RicianNoise,
    bind,
    unreplicate,
)
from medfuse.training.degrade import DegradationPrior, DegradeBatch, RandDegrade, RandDegraded, degrade

SPEC = {"version": 1, "source1": [{"noise": {"sigma": 0.05}}], "source2": [{"downsample": {"factor": 2}}]}
PRIOR = DegradationPrior()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=generator(seed))


def draws(prior: DegradationPrior = PRIOR, number: int = 400, batch: int = 3) -> list[Degradation]:
    g = generator()
    return [prior.sample(batch, g) for _ in range(number)]


def steps_of(kind: type, degradations: list[Degradation]) -> list:
    return [s for d in degradations for s in d.steps if isinstance(s, kind)]


# ---------------------------------------------------------------------------------------------------------------- prior
def test_strengths_lie_in_their_ranges():
    found = draws()
    blurs = torch.cat([s.sigma.flatten() for s in steps_of(GaussianBlur, found)])
    noises = torch.cat([s.sigma for s in steps_of(GaussianNoise, found) + steps_of(RicianNoise, found)])
    counts = torch.cat([s.counts for s in steps_of(PoissonNoise, found)])
    assert float(blurs.min()) >= 0
    assert 4 < float(blurs.max()) <= 6
    assert float(noises.min()) >= 1e-3
    assert 0.15 < float(noises.max()) <= 50 / 255
    assert 0.25 / (50 / 255) ** 2 <= float(counts.min()) <= float(counts.max()) <= 2500.0 * 1.001
    assert {s.factor for s in steps_of(Downsample, found)} == {(2,), (3,), (4,)}
    assert {s.kind for s in steps_of(Downsample, found)} == {"average", "bicubic"}


def test_weak_degradations_are_drawn_more_often_than_strong_ones():
    found = draws()
    assert float(torch.cat([s.sigma.flatten() for s in steps_of(GaussianBlur, found)]).median()) < 0.4 * 6
    assert float(torch.cat([s.sigma for s in steps_of(GaussianNoise, found)]).median()) < 0.45 * 50 / 255


def test_kinds_are_drawn_as_often_as_they_should():
    found = draws(number=1500)
    clean = sum(not d.steps for d in found) / len(found)
    assert clean == pytest.approx(PRIOR.clean, abs=0.03)
    degraded = [d for d in found if d.steps]
    for kind, probability in ((Downsample, PRIOR.downsample),):
        assert len(steps_of(kind, degraded)) / len(degraded) == pytest.approx(probability, abs=0.04)
    noises = [n for d in degraded for n, _ in d.noises]
    assert len(noises) / len(degraded) == pytest.approx(PRIOR.noise, abs=0.04)
    for kind, probability in ((PoissonNoise, PRIOR.poisson), (RicianNoise, PRIOR.rician)):
        assert sum(isinstance(n, kind) for n in noises) / len(noises) == pytest.approx(probability, abs=0.04)
    blurs = steps_of(GaussianBlur, degraded)
    assert sum(b.sigma.shape[1] == 2 for b in blurs) / len(blurs) == pytest.approx(PRIOR.anisotropic, abs=0.05)


def test_noise_falls_before_and_after_a_decimation():
    orders = {
        isinstance(d.steps[-1], Downsample)
        for d in draws()
        if steps_of(Downsample, [d]) and steps_of(GaussianNoise, [d])
    }
    assert orders == {True, False}


def test_the_kind_is_one_for_a_batch_and_the_strengths_are_those_of_each_sample():
    found = draws(batch=4)
    for step in steps_of(GaussianBlur, found):
        assert step.sigma.shape in ((4, 1), (4, 2))
        assert len(step.sigma[:, 0].unique()) == 4
    for step in steps_of(GaussianNoise, found) + steps_of(RicianNoise, found):
        assert step.sigma.shape == (4,)
    for step in steps_of(PoissonNoise, found):
        assert step.counts.shape == (4,)


def test_what_is_degraded_is_degraded_by_something():
    never = DegradationPrior(clean=0.0, blur=0.0, noise=0.0, downsample=0.0)
    assert all(d.steps for d in draws(never, 20))
    assert all(not d.steps for d in draws(DegradationPrior(clean=1.0), 20))


def test_every_draw_can_be_simulated_and_bound():
    x, g = rand(3, 1, 24, 24), generator(1)
    for degradation in draws(number=30):
        y = degradation.simulate(x, g)
        assert bool(y.isfinite().all())
        assert bool(bind(degradation, y, (24, 24)).inverse().isfinite().all())


# -------------------------------------------------------------------------------------------------------------- degrade
@pytest.mark.parametrize("size", [(16, 16), (13, 17)])
def test_stored_observations_are_values_of_8_bit_within_range(size):
    image = rand(2, 2, *size)
    for prior_seed in range(8):
        g = generator(prior_seed)
        drawn = JointDegradation(*(PRIOR.sample(2, g) for _ in range(2)))
        y = degrade(image, drawn, g, stored=True)
        assert y.shape == image.shape
        assert 0 <= float(y.min()) <= float(y.max()) <= 1
        assert torch.allclose(y * 255, (y * 255).round(), atol=1e-4)


def test_observations_that_are_not_stored_are_not_clipped():
    loud = JointDegradation(Degradation((GaussianNoise(0.3),)))
    y = degrade(rand(1, 2, 32, 32), loud, generator(), stored=False)
    assert float(y[:, 0].min()) < 0
    assert float(y[:, 0].max()) > 1
    assert len((y[:, 0] * 255).frac().unique()) > 500


def test_each_channel_gets_its_own_degradation():
    image = rand(1, 2, 16, 16)
    y = degrade(image, JointDegradation(Degradation(), Degradation((Downsample(2),))), generator(), stored=False)
    assert torch.equal(y[:, :1], image[:, :1])
    low = Downsample(2).forward(image[:, 1:])
    assert torch.allclose(unreplicate(y[:, 1:], Downsample(2)), low)
    assert torch.equal(y[:, 1, ::2], y[:, 1, 1::2])


# ------------------------------------------------------------------------------------------------------------- training
def test_a_batch_is_degraded_by_its_seed():
    batch = {"image": rand(4, 2, 16, 16)}
    runs = [[DegradeBatch(seed=seed, steps=(1, 2, 3)) for _ in range(2)] for seed in (0, 1)]
    for _ in range(4):
        (a, b), (c, _) = [[prepare(batch) for prepare in pair] for pair in runs]
        assert torch.equal(a[0], b[0])
        assert a[3].get("steps") == b[3].get("steps")
        assert not torch.equal(a[0], c[0])


def test_a_batch_comes_with_its_truth_and_its_degradation():
    clean = rand(4, 2, 16, 16)
    kept = clean.clone()
    prepare = DegradeBatch(steps=(1, 2, 3))
    seen = set()
    for _ in range(20):
        inputs, target, arguments, kwargs = prepare({"image": clean}, torch.device("cpu"), non_blocking=True)
        assert torch.equal(target, kept)
        assert inputs.shape == clean.shape
        assert arguments == ()
        assert isinstance(kwargs["degradation"], JointDegradation)
        seen.add(kwargs["steps"])
    assert seen == {1, 2, 3}
    assert "steps" not in DegradeBatch()({"image": clean})[3]


def test_about_half_of_the_batches_are_stored():
    prepare, stored = DegradeBatch(source1=DegradationPrior(clean=0.0, noise=1.0, downsample=0.0)), 0
    for _ in range(40):
        y = prepare({"image": rand(1, 2, 8, 8)})[0][:, 0] * 255
        stored += bool(torch.allclose(y, y.round(), atol=1e-4))
    assert 10 <= stored <= 30


def test_a_scenario_is_always_the_same():
    prepare = DegradeBatch(scenarios={"noise": SPEC}, seed=1)
    batch = {"image": rand(2, 2, 16, 16), "scenario": ["noise", "noise"]}
    first = prepare(batch)
    prepare({"image": rand(2, 2, 16, 16)})
    second = prepare(batch)
    assert torch.equal(first[0], second[0])
    assert first[3]["degradation"] is second[3]["degradation"]
    assert torch.allclose(first[0] * 255, (first[0] * 255).round(), atol=1e-4)
    assert torch.equal(first[1], batch["image"])


AROUND = {
    "gaussian": {
        "version": 1,
        "source1": [{"blur": {"sigma_px": [2.0, 1.0]}}, {"noise": {"sigma": 0.1}}],
        "source2": [{"blur": {"sigma_px": 2.0}}, {"downsample": {"factor": 4}}, {"noise": {"sigma": 0.2}}],
    },
    "counts": {
        "version": 1,
        "source1": [{"noise": {"kind": "rician", "sigma": 0.1}}],
        "source2": [{"noise": {"kind": "poisson", "counts": 9}}],
    },
}


def test_batches_are_degraded_around_each_scenario():
    prepare, clean = DegradeBatch(scenarios=AROUND, near=1.0, seed=3), {"image": rand(64, 2, 16, 16)}
    drawn = [prepare(clean)[3]["degradation"] for _ in range(24)]
    gaussian, counts = ([d for d in drawn if len(d.source1.steps) == n] for n in (2, 1))
    assert min(len(gaussian), len(counts)) >= 6 and len(gaussian) + len(counts) == 24
    (blur, noise), (other, shrink, coarse) = gaussian[0].source1.steps, gaussian[0].source2.steps
    (rician,), (poisson,) = counts[0].source1.steps, counts[0].source2.steps
    factors = [blur.sigma / torch.tensor([2.0, 1.0]), noise.sigma / 0.1, other.sigma / 2, coarse.sigma / 0.2]
    for factor in (*factors, rician.sigma / 0.1, (9 / poisson.counts).sqrt()):
        assert 0.7 < float(factor.min()) < 0.78 and 1.3 < float(factor.max()) < 1.42
    assert torch.allclose(blur.sigma[:, 0], 2 * blur.sigma[:, 1]) and int(shrink.factor[0]) == 4
    assert not torch.equal(noise.sigma, gaussian[1].source1.steps[1].sigma)
    again = DegradeBatch(scenarios=AROUND, near=1.0, seed=3)(clean)[3]["degradation"]
    first, second = (d.source2.steps[-1] for d in (drawn[0], again))
    assert all(torch.equal(v, vars(second)[k]) for k, v in vars(first).items())


def test_some_batches_are_drawn_from_the_priors():
    prepare = DegradeBatch(source1=DegradationPrior(clean=1.0), scenarios=AROUND, near=0.5)
    near = sum(bool(prepare({"image": rand(1, 2, 16, 16)})[3]["degradation"].source1.steps) for _ in range(40))
    assert 10 <= near <= 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"near": 0.1}, "must be at least one to draw near them"),
        ({"near": 7, "scenarios": AROUND}, "near must be a probability, 0 to 1, got 7"),
        ({"near": -1, "scenarios": AROUND}, "near must be a probability, 0 to 1, got -1"),
    ],
)
def test_an_impossible_share_near_scenarios_is_refused(settings, message):
    with pytest.raises(DegradationError, match=message):
        DegradeBatch(**settings)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    DegradeBatch()({"image": rand(2, 2, 16, 16)})
    DegradeBatch(scenarios=AROUND, near=1.0)({"image": rand(2, 2, 16, 16)})
    RandDegrade().set_random_state(0)(rand(2, 16, 16))
    assert torch.equal(before, torch.get_rng_state())


# ----------------------------------------------------------------------------------------------------------- transforms
def test_the_transform_is_determined_by_its_seed():
    image = rand(2, 16, 16)
    (a, drawn_a), (b, _), (c, _) = (RandDegrade().set_random_state(seed)(image) for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert isinstance(drawn_a, JointDegradation)
    transform = RandDegrade(SPEC).set_random_state(3)
    assert not torch.equal(transform(image)[0], transform(image)[0])


def test_a_fixed_degradation_is_kept():
    for given in (SPEC, JointDegradation(Degradation((GaussianNoise(0.05),)), Degradation((Downsample(2),)))):
        y, drawn = RandDegrade(given, stored=True).set_random_state(0)(rand(2, 16, 16))
        assert [type(s) for part in drawn for s in part.steps] == [GaussianNoise, Downsample]
        assert y.shape == (2, 16, 16)
        assert torch.allclose(y * 255, (y * 255).round(), atol=1e-4)


def test_the_probability_is_that_of_any_degradation():
    image = rand(2, 16, 16)
    same, drawn = RandDegrade(SPEC, prob=0.0)(image)
    assert torch.equal(same, image)
    assert all(part.steps == () for part in drawn)
    transform = RandDegrade(SPEC, prob=0.5).set_random_state(0)
    changed = sum(not torch.equal(transform(image)[0], image) for _ in range(60))
    assert 15 <= changed <= 45


def test_images_of_another_number_of_channels_are_refused():
    with pytest.raises(DegradationError, match="two channels, got 3"):
        RandDegrade(SPEC)(rand(3, 8, 8))


def test_the_dictionary_transform_keeps_the_clean_pair_and_the_degradation():
    data = {"image": rand(2, 16, 16), "case": "a"}
    transform = RandDegraded(keys="image", degradation=SPEC).set_random_state(0)
    result = transform(data)
    assert set(result) == {"image", "image_clean", "image_degradation", "case"}
    assert torch.equal(result["image_clean"], data["image"])
    assert isinstance(result["image_degradation"], JointDegradation)
    assert set(data) == {"image", "case"}
    again = RandDegraded(keys="image", degradation=SPEC).set_random_state(0)(data)
    assert torch.equal(result["image"], again["image"])


def test_missing_keys_are_allowed_where_asked():
    assert RandDegraded(keys="image", degradation=SPEC, allow_missing_keys=True)({"case": "a"}) == {"case": "a"}
    with pytest.raises(KeyError):
        RandDegraded(keys="image", degradation=SPEC)({"case": "a"})


def test_a_compose_seeds_it():
    data = {"image": rand(2, 16, 16)}
    first, second = (Compose([RandDegraded(keys="image")]).set_random_state(7)(data)["image"] for _ in range(2))
    assert torch.equal(first, second)


def test_meta_tensors_and_volumes_pass():
    image = MetaTensor(rand(2, 8, 8, 6), affine=torch.diag(torch.tensor([2.0, 2, 3, 1])))
    spec = {"version": 1, "source1": [{"blur": {"sigma_px": 1}}], "source2": [{"downsample": {"factor": 2}}]}
    y, _ = RandDegrade(spec)(image)
    assert y.shape == (2, 8, 8, 6)
    assert isinstance(y, MetaTensor)
    assert torch.equal(y.affine, image.affine)
    plain, _ = RandDegrade(spec)(image.as_tensor())
    assert torch.allclose(y.as_tensor(), plain)


def test_random_degradations_of_volumes_and_odd_sizes():
    transform = RandDegrade().set_random_state(0)
    for size in ((9, 7), (8, 7, 6)):
        for _ in range(25):
            y, _ = transform(rand(2, *size))
            assert y.shape == (2, *size)
            assert bool(y.isfinite().all())
