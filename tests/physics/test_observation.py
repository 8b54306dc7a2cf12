"""The joint observation model against dense matrices, simulated truth and its own promises."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medfuse.errors import DegradationError, GeometryError
from medfuse.physics import (
    CORRECTIONS,
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    JointDegradation,
    JointObservation,
    KrylovModel,
    LinearOperator,
    MissingSlices,
    MotionBlur,
    PoissonNoise,
    Prediction,
    RicianNoise,
    SourceModel,
    SpectralModel,
    bind,
    correction,
    fit,
    replicate,
    unreplicate,
)
from medfuse.physics.evidence import settled_in_place, settled_slowly

BATCH = 2
RIDGE = 1e-8
SIGMAS = torch.tensor([0.02, 0.08], dtype=torch.float64)
DEGRADATIONS = {
    "none": Degradation(),
    "noise": Degradation((GaussianNoise(SIGMAS),)),
    "blur": Degradation((GaussianBlur(0.7),), floor=0.01),
    "blur-noise": Degradation((GaussianBlur(torch.tensor([0.6, 1.1])), GaussianNoise(0.05))),
    "low-resolution": Degradation((Downsample(2), GaussianNoise(SIGMAS))),
    "composite": Degradation((GaussianBlur(0.9), GaussianNoise(0.06), Downsample(2, "bicubic")), floor=0.01),
    "two-noises": Degradation((GaussianNoise(SIGMAS), Downsample(2), GaussianNoise(0.01))),
}
KRYLOV = {
    "motion": Degradation((MotionBlur(3.0, 30.0), GaussianNoise(SIGMAS))),
    "noise-before-motion": Degradation((GaussianNoise(0.05), MotionBlur(3.0, 30.0)), floor=0.01),
    "missing": Degradation((GaussianBlur(0.8), MissingSlices((1,), 0), GaussianNoise(0.05))),
}
ODD = {
    "odd-composite": Degradation((GaussianBlur(0.9), GaussianNoise(0.06), Downsample(2, "bicubic")), floor=0.01),
    "odd-low-resolution": Degradation((Downsample(3), GaussianNoise(0.05))),
}


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def observe(
    degradation: Degradation, spatial: Sequence[int], seed: int = 0, batch: int = BATCH
) -> tuple[Tensor, Tensor]:
    """Return a random image and its observation."""
    x = rand(batch, 1, *spatial, seed=seed)
    return x, degradation.simulate(x, torch.Generator().manual_seed(seed))


def krylov(degradation: Degradation, y: Tensor, spatial: Sequence[int]) -> KrylovModel:
    return KrylovModel(degradation, y, spatial, tolerance=1e-13, max_iterations=2000)


def tight(degradation: Degradation, y: Tensor, spatial: Sequence[int]) -> SourceModel:
    """Bind an observation; where conjugate gradients do the work, to the last digit."""
    model = bind(degradation, y, spatial)
    return model if isinstance(model, SpectralModel) else krylov(degradation, y, spatial)


def dense(op: LinearOperator, spatial: Sequence[int]) -> Tensor:
    unit = torch.eye(math.prod(spatial), dtype=torch.float64).reshape(-1, 1, 1, *spatial)
    return torch.stack([op.forward(e.expand(BATCH, -1, *spatial)).flatten(1) for e in unit], -1)


def matrices(degradation: Degradation, spatial: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return A and R of each sample; R step by step: each linear step maps it, each noise adds to it."""
    total = torch.eye(math.prod(spatial), dtype=torch.float64).expand(BATCH, -1, -1)
    size = math.prod(spatial)
    covariance = torch.zeros(BATCH, size, size, dtype=torch.float64)
    shape = tuple(spatial)
    for step in degradation.steps:
        if isinstance(step, LinearOperator):
            matrix = dense(step, shape)
            total, covariance = matrix @ total, matrix @ covariance @ matrix.mT
            shape = step.out_spatial(shape)
        else:
            variance = step.variance(torch.zeros(BATCH, 1, *shape, dtype=torch.float64)).flatten(1)
            covariance = covariance + torch.diag_embed(variance)
    return total, covariance + degradation.floor**2 * torch.eye(covariance.shape[1], dtype=torch.float64)


def times(matrix: Tensor, v: Tensor) -> Tensor:
    return (matrix @ v[..., None])[..., 0]


def assert_close(actual: Tensor, expected: Tensor, rtol: float = 1e-8) -> None:
    actual, expected = actual.flatten(), expected.flatten()
    error = float((actual - expected).norm() / expected.norm().clamp_min(1e-300))
    assert error <= rtol, f"relative error {error:.2e}"


def named(*groups: dict[str, Degradation]) -> pytest.MarkDecorator:
    cases = [
        pytest.param(d, (7, 5) if name.startswith("odd") else (8, 6), id=name) for g in groups for name, d in g.items()
    ]
    return pytest.mark.parametrize(("degradation", "spatial"), cases)


everything = named(DEGRADATIONS, KRYLOV, ODD)


# ------------------------------------------------------------------------------------------- one source, dense matrices
@everything
def test_answers_of_a_source_equal_the_dense_ones(degradation, spatial):
    _, y = observe(degradation, spatial)
    x0 = rand(BATCH, 1, *spatial, seed=9)
    model = tight(degradation, y, spatial)
    A, R = matrices(degradation, spatial)
    r = y.flatten(1) - times(A, x0.flatten(1))
    P = torch.tensor([0.03, 0.2], dtype=torch.float64)
    solved = torch.linalg.solve(P[:, None, None] * A @ A.mT + R, r)
    assert_close(model.update(x0, P).x, x0.flatten(1) + P[:, None] * times(A.mT, solved))
    assert_close(model.gradient(x0), -times(A.mT, r))
    assert_close(model.chi2(x0), (r * torch.linalg.solve(R, r)).mean(1))


@everything
def test_update_is_the_minimum_of_both_distances(degradation, spatial):
    """`(A' R^-1 A + 1/P) d = A' R^-1 (y - A x0)`: the same by the other form of the normal equations."""
    _, y = observe(degradation, spatial)
    x0 = rand(BATCH, 1, *spatial, seed=9)
    A, R = matrices(degradation, spatial)
    weighted = A.mT @ torch.linalg.inv(R)
    normal = weighted @ A + torch.eye(A.shape[2], dtype=torch.float64) / 0.05
    d = torch.linalg.solve(normal, times(weighted, y.flatten(1) - times(A, x0.flatten(1))))
    updated = tight(degradation, y, spatial).update(x0, torch.full((BATCH,), 0.05)).x
    assert_close(updated, x0.flatten(1) + d)


@named(DEGRADATIONS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_closed_form_equals_conjugate_gradients(degradation, spatial, ndim):
    spatial = (*spatial, 4)[:ndim]
    _, y = observe(degradation, spatial)
    closed, iterated = bind(degradation, y, spatial), krylov(degradation, y, spatial)
    assert isinstance(closed, SpectralModel)
    x0 = rand(BATCH, 1, *spatial, seed=9)
    P = torch.tensor([0.001, 0.3], dtype=torch.float64)
    for one, other in (
        (closed.update(x0, P).x, iterated.update(x0, P).x),
        (closed.gradient(x0), iterated.gradient(x0)),
        (closed.inverse(), iterated.inverse()),
        (closed.chi2(x0), iterated.chi2(x0)),
        (closed.discrepancy(x0), iterated.discrepancy(x0)),
        (closed.sigma(), iterated.sigma()),
        (closed.pseudo_inverse(closed.residual(x0), 1e-3), iterated.pseudo_inverse(iterated.residual(x0), 1e-3)),
    ):
        assert_close(one, other)


@everything
def test_gram_and_covariance_are_consistent_with_the_solve(degradation, spatial):
    _, y = observe(degradation, spatial)
    model = tight(degradation, y, spatial)
    r = model.residual(rand(BATCH, 1, *spatial, seed=9))
    P = torch.tensor([0.03, 0.2], dtype=torch.float64)
    u = model.solve(P, r).x
    assert_close(P.reshape(-1, 1, 1, 1) * model.gram(u) + model.covariance(u), r)


def test_binding_takes_the_closed_form_where_there_is_one():
    def model(degradation: Degradation, spatial: tuple[int, ...]) -> type:
        return type(bind(degradation, torch.zeros(BATCH, 1, *degradation.operator.out_spatial(spatial)), spatial))

    assert all(model(d, (8, 6)) is SpectralModel for d in DEGRADATIONS.values())
    assert all(model(d, (8, 6)) is KrylovModel for d in KRYLOV.values())
    assert all(model(d, (7, 5)) is KrylovModel for d in ODD.values())


def test_the_misfit_is_on_the_grid_of_the_image_and_zero_for_what_explains_the_data():
    degradation = Degradation((GaussianBlur(0.9), Downsample(2), GaussianNoise(0.05)))
    x = rand(BATCH, 1, 9, 12)
    y = degradation.operator.forward(x)
    model = bind(degradation, y + 0.5, x.shape[2:])
    torch.testing.assert_close(model.misfit(x), torch.full_like(x, 0.5))
    torch.testing.assert_close(model.misfit(x - x), replicate(y, degradation.operator, (9, 12)) + 0.5)


def test_an_observation_of_the_wrong_shape_is_refused():
    with pytest.raises(GeometryError, match=r"must have shape \(4, 3\), got \(8, 6\)"):
        bind(DEGRADATIONS["composite"], torch.zeros(1, 1, 8, 6), (8, 6))


@pytest.mark.parametrize("degradation", [KRYLOV["motion"], KRYLOV["noise-before-motion"]])
def test_the_closed_form_refuses_what_it_cannot_solve(degradation):
    with pytest.raises(DegradationError, match="blur and decimation"):
        SpectralModel(degradation, torch.zeros(1, 1, 8, 6), (8, 6))


# ------------------------------------------------------------------------------------------------------- the true image
TRUTHS = {
    "noise": (Degradation((GaussianNoise(0.05),), floor=0.0), (48, 48)),
    "noise-per-sample": (Degradation((GaussianNoise(torch.linspace(0.02, 0.2, 192)),), floor=0.0), (48, 48)),
    "poisson": (Degradation((PoissonNoise(60.0),), floor=0.0), (48, 48)),
    "blur-noise": (Degradation((GaussianBlur(2.0), GaussianNoise(0.05)), floor=0.0), (48, 48)),
    "low-resolution": (Degradation((Downsample(2), GaussianNoise(0.05)), floor=0.0), (48, 48)),
    "composite": (
        Degradation((GaussianBlur(2.0), GaussianNoise(0.0316), Downsample(2, "bicubic")), floor=1e-6),
        (48, 48),
    ),
    "composite-odd": (
        Degradation((GaussianBlur(2.0), GaussianNoise(0.0316), Downsample(2, "bicubic")), floor=1e-6),
        (37, 47),
    ),
    "two-noises": (Degradation((GaussianNoise(0.05), Downsample(3), GaussianNoise(0.02)), floor=0.0), (48, 48)),
    "motion-noise": (Degradation((MotionBlur(5.0, 30.0), GaussianNoise(0.05)), floor=0.0), (48, 48)),
    "noise-motion": (
        Degradation((GaussianNoise(0.05), MotionBlur(3.0, 30.0), GaussianNoise(0.02)), floor=0.0),
        (32, 32),
    ),
}


@pytest.mark.parametrize(("degradation", "spatial"), TRUTHS.values(), ids=TRUTHS)
def test_chi_square_of_the_true_image_is_one(degradation, spatial):
    """Operator and noise model together: the residual of the truth is exactly the noise, whitened."""
    x = GaussianBlur(0.7).forward(rand(192, 1, *spatial, seed=0))  # white noise would be too sharp for a blurred image
    y = degradation.simulate(x, torch.Generator().manual_seed(0))
    chi2 = bind(degradation, y, spatial).chi2(x)
    assert chi2.shape == (192,)
    assert float(chi2.mean()) == pytest.approx(1.0, abs=0.02)
    assert float(chi2.std()) == pytest.approx(math.sqrt(2 / y[0].numel()), rel=0.25)


def test_chi_square_of_a_rounded_clean_image_is_one():
    x = rand(16, 1, 48, 48)
    y = (x * 255).round() / 255
    assert float(bind(Degradation(), y, (48, 48)).chi2(x).mean()) == pytest.approx(1.0, abs=0.02)


def test_chi_square_sees_a_wrong_noise_level_and_a_wrong_operator():
    truth = Degradation((GaussianBlur(2.0), GaussianNoise(0.02)))
    x, y = observe(truth, (48, 48))
    louder = bind(Degradation((GaussianBlur(2.0), GaussianNoise(0.04))), y, (48, 48)).chi2(x)
    sharper = bind(Degradation((GaussianBlur(1.0), GaussianNoise(0.02))), y, (48, 48)).chi2(x)
    assert float(louder.max()) < 0.3
    assert float(sharper.min()) > 2


def test_an_update_from_noise_comes_nearer_to_the_truth():
    degradation = Degradation((GaussianBlur(0.6), GaussianNoise(0.02)))
    x, y = observe(degradation, (16, 16))
    x0 = x + 0.2 * (rand(*x.shape, seed=4) - 0.5)
    model = bind(degradation, y, (16, 16))
    updated = model.update(x0, torch.full((BATCH,), 0.04 / 12)).x
    assert float((updated - x).norm()) < 0.75 * float((x0 - x).norm())
    assert float(model.chi2(updated).max()) < float(model.chi2(x0).min())


# ------------------------------------------------------------------------------------------------------- biased noise
DARK = {
    "noise": Degradation((GaussianNoise(0.06),)),
    "blur-noise": Degradation((GaussianBlur(1.0), GaussianNoise(0.06))),
    "low-resolution": Degradation((Downsample(2), GaussianNoise(0.06))),
    "motion": Degradation((MotionBlur(3.0, 30.0), GaussianNoise(0.06))),
    "rician": Degradation((RicianNoise(0.06),)),
    "blur-rician": Degradation((GaussianBlur(1.0), RicianNoise(0.06))),
}


def dark_image(size: int) -> Tensor:
    """Return images that are 0 but for a bright disc."""
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) - size / 2] * 2, indexing="ij")
    return ((y**2 + x**2).sqrt() < size / 4).double().expand(BATCH, 1, -1, -1) * 0.7


@pytest.mark.parametrize("degradation", DARK.values(), ids=DARK)
def test_the_residual_of_the_truth_has_no_mean_although_negative_values_were_cut_off(degradation):
    x = dark_image(96)
    y = degradation.simulate(x, torch.Generator().manual_seed(0)).clamp_min(0.0)
    model = bind(degradation, y, (96, 96))
    back = model.gradient(x).mean((1, 2, 3))
    plain = model.back(model.observe(x) - model.observe(lifted_mean(model))).mean((1, 2, 3))
    bound = 5 * 0.06 / 96 * math.sqrt(model.y.shape[-1] / 96)
    assert bool((back.abs() < bound).all()), back
    assert bool((plain.abs() > 2 * bound).all()), "what it would be without"


def lifted_mean(model: SourceModel) -> Tensor:
    """Return a flat image that is as bright as the data are on average."""
    return model.y.mean((2, 3), keepdim=True).expand(-1, -1, *model.spatial)


def test_data_that_have_negative_values_or_were_blanked_are_not_taken_for_cut_off():
    x, degradation = dark_image(64), Degradation((GaussianNoise(0.06),))
    y = degradation.simulate(x, torch.Generator().manual_seed(0))
    assert torch.equal(bind(degradation, y, (64, 64)).residual(x), y - x)
    blanked = torch.where(x > 0, y, 0.0)  # a mask was put on after the noise
    far = F.max_pool2d(x, 9, 1, 4) == 0
    assert torch.equal(bind(degradation, blanked, (64, 64)).residual(x)[far], torch.zeros(int(far.sum())).double())


# ---------------------------------------------------------------------------------------------------------- slow waves
def settle(model: SourceModel, x: Tensor, deviations: float | None = None) -> Tensor:
    x = settled_slowly(model, x)
    return x if deviations is None else settled_in_place(model, x, deviations)


def fitted(stated: Degradation, y: Tensor) -> SourceModel:
    """Bind an observation on the grid of the image as what its data prove."""
    found = fit(JointDegradation(stated, Degradation()), torch.cat([y, y], 1))
    return bind(found.degradation.source1, y, y.shape[2:])


@pytest.mark.parametrize(
    "degradation",
    [
        Degradation((GaussianNoise(0.05),)),
        Degradation((GaussianBlur(1.5), PoissonNoise(60.0))),
        Degradation((GaussianBlur(1.0), GaussianNoise(0.03), Downsample(2))),
    ],
)
def test_settling_restores_totals_and_the_means_of_large_regions(degradation):
    x = GaussianBlur(1.5).forward(dark_image(128) + 0.1)
    y = degradation.simulate(x, torch.Generator().manual_seed(1))
    model = bind(degradation, y, (128, 128))
    inside = x[0, 0] > 0.79
    biased = 0.9 * x + 0.01
    settled = settle(model, biased)
    assert float((biased.mean() / x.mean() - 1).abs()) > 0.04
    assert float((settled.mean() / x.mean() - 1).abs()) < 0.01
    assert float((settled - x)[..., inside].mean().abs()) < 0.4 * float((biased - x)[..., inside].mean().abs())
    assert float((settled - x).norm()) < float((biased - x).norm())


def test_settling_hardly_moves_what_agrees_with_the_data():
    degradation = Degradation((GaussianBlur(1.5), GaussianNoise(0.05)))
    x = GaussianBlur(1.5).forward(rand(64, 1, 96, 96))
    y = degradation.simulate(x, torch.Generator().manual_seed(2))
    moved = settle(bind(degradation, y, (96, 96)), x) - x
    assert float((moved.flatten(1).norm(dim=1) == 0).double().mean()) > 0.6
    assert float(moved.std()) < 0.05 * 0.05  # a twentieth of the noise


@pytest.mark.parametrize("before", [(), (GaussianBlur(1.7),)])
@pytest.mark.parametrize("noise", [PoissonNoise(60.0), GaussianNoise(0.06)])
def test_a_cold_spot_is_settled_in_place(before, noise):
    degradation = Degradation((*before, noise))
    x = torch.full((40, 1, 96, 96), 0.25, dtype=torch.float64)
    x[..., :40] = 0.9  # so that the mean variance is too much for the spot
    rows, columns = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    spot = (rows - 48) ** 2 + (columns - 70) ** 2 < 4.5**2
    x[..., spot] = 0.1
    y = degradation.simulate(x, torch.Generator().manual_seed(1))
    model = bind(degradation, y, (96, 96))
    filled = x.clone()
    filled[..., spot] = 0.16
    assert float(settle(model, filled)[..., spot].mean()) > 0.155  # too little of the image for the slow waves
    settled = settle(model, filled, 0.7)
    assert float(settled[..., spot].mean()) < 0.16 - 0.6 * 0.06
    far = columns > 80
    assert float((settled - x)[..., far].mean().abs()) < 0.002
    moved = [float((settle(model, x, local) - x)[..., columns > 44].std()) for local in (0.7, 2.0)]
    assert moved[1] < 0.5 * moved[0] < 0.15 * 0.06  # what is right is moved by a small share of the noise


def test_settling_in_place_can_be_trained_through_where_the_residual_is_nothing():
    y = torch.full((1, 1, 48, 48), 0.3, dtype=torch.float64)
    model = bind(Degradation((GaussianNoise(0.05),)), y, (48, 48))
    x = (y + 1e-13).requires_grad_(True)
    settle(model, x, 0.5).sum().backward()
    assert bool(x.grad.isfinite().all())


def test_settling_is_not_led_by_understated_noise_and_spares_what_was_not_degraded():
    x = smooth_image(96)
    y = Degradation((GaussianBlur(2.0), GaussianNoise(0.06))).simulate(x, torch.Generator().manual_seed(3))
    settled = settle(fitted(Degradation((GaussianBlur(2.0), GaussianNoise(0.03))), y), x)
    assert float((settled - x).square().mean().sqrt()) < 0.1 * 0.06
    assert float((settled - x).abs().max()) < 0.06


# ---------------------------------------------------------------------------------------------------------- discrepancy
@everything
def test_discrepancy_brings_chi_square_to_one(degradation, spatial):
    _, y = observe(degradation, spatial)
    model = tight(degradation, y, spatial)
    x0 = rand(BATCH, 1, *spatial, seed=9)
    assert bool((model.chi2(x0) > 1).all())
    variance = model.discrepancy(x0)
    reachable = model.chi2(model.update(x0, torch.full((BATCH,), 100.0)).x) < 1 - 1e-6
    chi2 = model.chi2(model.update(x0, variance).x)
    assert bool((chi2[reachable] <= 1 + 1e-3).all())
    assert bool((chi2[reachable] >= 1 - 1e-3).all()), "the smallest such variance"
    assert bool((variance > 0).all())


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    st.floats(0.0, 4.0), st.floats(1e-3, 0.2), st.sampled_from([1, 2, 4]), st.floats(1e-3, 1.0), st.integers(0, 10**6)
)
def test_discrepancy_holds_over_the_range_of_training(width, sigma, factor, error, seed):
    degradation = Degradation((GaussianBlur(width), Downsample(factor), GaussianNoise(sigma)))
    x, y = observe(degradation, (16, 16), seed)
    x0 = x + error * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    model = bind(degradation, y, (16, 16))
    variance = model.discrepancy(x0)
    least = model.chi2(model.update(x0, torch.full((BATCH,), 100.0)).x)
    chi2 = model.chi2(model.update(x0, variance).x)
    assert bool((chi2 <= torch.maximum(least, torch.ones(())) + 1e-3).all())
    assert bool((variance[model.chi2(x0) <= 1] == 0).all())


@everything
def test_discrepancy_leaves_a_consistent_estimate_alone(degradation, spatial):
    x, _ = observe(degradation, spatial)
    model = tight(degradation, degradation.operator.forward(x), spatial)
    variance = model.discrepancy(x)
    assert torch.equal(variance, torch.zeros(BATCH, dtype=torch.float64))
    assert torch.equal(model.update(x, variance).x, x)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0, 4.0, 6.0])
@pytest.mark.parametrize("factor", [1, 2])
def test_discrepancy_holds_without_noise_where_the_blur_leaves_next_to_nothing(width, factor):
    """Rounding is all the noise there is: the hardest to reach, in a dozen iterations."""
    degradation = Degradation((GaussianBlur(width), Downsample(factor)))
    x, y = observe(degradation, (48, 48))
    model = bind(degradation, (y * 255).round() / 255, (48, 48))
    x0 = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.02
    variance = model.discrepancy(x0, iterations=12)
    least = model.chi2(model.update(x0, torch.full((BATCH,), 100.0)).x)
    assert bool((model.chi2(model.update(x0, variance).x) <= torch.maximum(least, torch.ones(())) + 1e-3).all())


@pytest.mark.parametrize("told", [0.25, 0.5, 1.0, 2.0])
def test_understated_noise_does_not_blow_up(told):
    """Where a blur of 2 px lets nothing through, the data show how much noise there is."""
    x = smooth_image(64)
    y = Degradation((GaussianBlur(2.0), GaussianNoise(0.03))).simulate(x, torch.Generator().manual_seed(3))
    model = fitted(Degradation((GaussianBlur(2.0), GaussianNoise(0.03 * told))), y)
    x0 = x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert model.sigma().flatten(1).amax(1).tolist() == pytest.approx([0.03 * max(told, 1.0)] * BATCH, rel=0.05)
    assert model.chi2(x).tolist() == pytest.approx([told**-2] * BATCH, rel=0.1), "chi-square still tells"
    error = (model.update(x0, model.discrepancy(x0)).x - x).norm()
    assert float(error) < 1.5 * float((x0 - x).norm())


def smooth_image(size: int) -> Tensor:
    return GaussianBlur(1.5).forward(rand(BATCH, 1, size, size))


def test_discrepancy_meets_any_target_it_can_reach():
    degradation = DEGRADATIONS["blur-noise"]
    _, y = observe(degradation, (16, 16))
    model, x0 = bind(degradation, y, (16, 16)), rand(BATCH, 1, 16, 16, seed=9)
    for target in (0.5, 0.9, 2.0):
        chi2 = model.chi2(model.update(x0, model.discrepancy(x0, target=target, iterations=20)).x)
        assert torch.allclose(chi2, torch.full_like(chi2, target), rtol=1e-3)


def test_chi_square_falls_as_the_variance_grows():
    degradation = DEGRADATIONS["composite"]
    _, y = observe(degradation, (16, 16))
    model, x0 = bind(degradation, y, (16, 16)), rand(BATCH, 1, 16, 16, seed=9)
    path = torch.stack([model.chi2(model.update(x0, torch.full((BATCH,), v)).x) for v in (0.0, 1e-4, 1e-2, 1.0, 100.0)])
    assert bool((path.diff(dim=0) < 0).all())


def test_consistency_returns_an_observation_to_which_nothing_happened():
    y = rand(BATCH, 1, 8, 6)
    model, x0 = bind(Degradation(), y, (8, 6)), rand(BATCH, 1, 8, 6, seed=9)
    assert torch.allclose(model.update(x0, model.consistency(x0)).x, y, atol=1e-6)
    noisy = bind(DEGRADATIONS["noise"], y, (8, 6))
    assert torch.equal(noisy.consistency(x0), noisy.discrepancy(x0))


# --------------------------------------------------------------------------------------------------------- both sources
PAIRINGS = [
    ("noise", "composite"),
    ("none", "low-resolution"),
    ("blur-noise", "motion"),
    ("blur", "two-noises"),
]
GAIN = torch.tensor([0.3, 0.9], dtype=torch.float64)
VARIANCES = (torch.tensor([0.01, 0.2], dtype=torch.float64), torch.tensor([0.05, 0.002], dtype=torch.float64))


class Joint:
    """A joint observation of small random images, with its dense matrices."""

    def __init__(self, names: tuple[str, str], spatial: tuple[int, int] = (6, 4)) -> None:
        parts = [{**DEGRADATIONS, **KRYLOV}[name] for name in names]
        self.spatial, self.models = spatial, []
        for i, part in enumerate(parts):
            _, y = observe(part, spatial, seed=i)
            self.models.append(tight(part, y, spatial))
        self.observation = JointObservation(*self.models)
        self.A, self.R = zip(*(matrices(part, spatial) for part in parts), strict=True)
        self.y = [m.y.flatten(1) for m in self.models]
        self.x0 = rand(BATCH, 3, *spatial, seed=11)
        self.weight = rand(BATCH, 1, *spatial, seed=12)

    def correct(self, form: str) -> Tensor:
        return corrected(self, self.x0, self.weight, form=form)

    def columns(self) -> list[Tensor]:
        return list(self.x0.flatten(2).unbind(1))


def corrected(
    joint: Joint,
    x0: Tensor,
    weight: Tensor,
    variances: Sequence[Tensor] = VARIANCES,
    gain: Tensor = GAIN,
    form: str = "cut",
) -> Tensor:
    """Correct a state [B, 3, *spatial]."""
    predicted = Prediction(x0.split(1, 1), weight, variances, gain)
    return torch.cat(correction(form)(joint.observation, predicted).x, 1)


pairings = pytest.mark.parametrize("names", PAIRINGS, ids=" + ".join)


@pairings
def test_cut_form_equals_its_dense_formula(names):
    joint = Joint(names)
    m = joint.weight.flatten(1)
    x1, x2, f = joint.columns()
    updated = []
    for x, A, R, y, P in zip((x1, x2), joint.A, joint.R, joint.y, VARIANCES, strict=True):
        gram = P[:, None, None] * A @ A.mT + R
        updated.append(x + P[:, None] * times(A.mT, torch.linalg.solve(gram, y - times(A, x))))
    fused = f + GAIN[:, None] * (m * updated[0] + (1 - m) * updated[1] - f)
    assert_close(joint.correct("cut"), torch.stack([*updated, fused], 1))


@pairings
def test_joint_form_equals_the_dense_normal_equations(names):
    """All three unknowns at once: two data terms, the fusion row and the distance to the estimate."""
    joint = Joint(names)
    n = math.prod(joint.spatial)
    m = torch.diag_embed(joint.weight.flatten(1))
    eye, zero = torch.eye(n, dtype=torch.float64).expand(BATCH, -1, -1), torch.zeros(BATCH, n, n, dtype=torch.float64)
    p1, p2 = (v[:, None, None] for v in VARIANCES)
    pf = (p1 + p2) / 2
    rf = pf * (1 - GAIN[:, None, None]) / GAIN[:, None, None]
    (A1, A2), (R1, R2) = joint.A, joint.R
    row = torch.cat([-m, -(eye - m), eye], 2)
    first = torch.cat([A1, torch.zeros(BATCH, A1.shape[1], 2 * n, dtype=torch.float64)], 2)
    second = torch.cat([torch.zeros(BATCH, A2.shape[1], n, dtype=torch.float64), A2, zero[:, : A2.shape[1]]], 2)
    prior = torch.cat(
        [
            torch.cat([eye / p1, zero, zero], 2),
            torch.cat([zero, eye / p2, zero], 2),
            torch.cat([zero, zero, eye / pf], 2),
        ],
        1,
    )
    normal = (
        first.mT @ torch.linalg.solve(R1, first)
        + second.mT @ torch.linalg.solve(R2, second)
        + row.mT @ row / rf
        + prior
    )
    x0 = torch.cat(joint.columns(), 1)
    right = (
        times(first.mT, torch.linalg.solve(R1, joint.y[0]))
        + times(second.mT, torch.linalg.solve(R2, joint.y[1]))
        + times(prior, x0)
    )
    assert_close(joint.correct("joint").flatten(1), torch.linalg.solve(normal, right))


@pairings
def test_paper_form_equals_its_dense_block_inverse(names):
    """`x0 - A+ (A x0 - y)` with the block inverse [[A1+, 0, 0], [0, A2+, 0], [m A1+, (1-m) A2+, I]]."""
    joint = Joint(names)
    n = math.prod(joint.spatial)
    m = joint.weight.flatten(1)
    M, eye = torch.diag_embed(m), torch.eye(n, dtype=torch.float64).expand(BATCH, -1, -1)
    A1, A2 = joint.A
    n1, n2 = A1.shape[1], A2.shape[1]

    def pinv(A: Tensor) -> Tensor:
        return A.mT @ torch.linalg.inv(A @ A.mT + RIDGE * torch.eye(A.shape[1], dtype=torch.float64))

    def zeros(*size: int) -> Tensor:
        return torch.zeros(BATCH, *size, dtype=torch.float64)

    forward = torch.cat(
        [
            torch.cat([A1, zeros(n1, n), zeros(n1, n)], 2),
            torch.cat([zeros(n2, n), A2, zeros(n2, n)], 2),
            torch.cat([-M, M - eye, eye], 2),
        ],
        1,
    )
    inverse = torch.cat(
        [
            torch.cat([pinv(A1), zeros(n, n2), zeros(n, n)], 2),
            torch.cat([zeros(n, n1), pinv(A2), zeros(n, n)], 2),
            torch.cat([M @ pinv(A1), (eye - M) @ pinv(A2), eye], 2),
        ],
        1,
    )
    x0 = torch.cat(joint.columns(), 1)
    y = torch.cat([*joint.y, zeros(n)], 1)
    assert_close(joint.correct("paper").flatten(1), x0 - times(inverse, times(forward, x0) - y))


@pairings
def test_no_correction_returns_the_estimate(names):
    joint = Joint(names)
    assert torch.equal(joint.correct("none"), joint.x0)


@pairings
def test_the_fusion_never_changes_a_restored_source(names):
    """Bit for bit, whatever weight, gain and fused estimate."""
    joint = Joint(names)
    reference = joint.correct("cut")[:, :2]
    for seed in range(4):
        x0 = torch.cat([joint.x0[:, :2], 100 * rand(BATCH, 1, *joint.spatial, seed=seed)], 1)
        x = corrected(joint, x0, rand(*joint.weight.shape, seed=seed), gain=rand(BATCH, seed=seed))
        assert torch.equal(x[:, :2], reference)


def test_the_joint_form_does_change_them():
    joint = Joint(("noise", "composite"))
    assert not torch.allclose(joint.correct("joint")[:, :2], joint.correct("cut")[:, :2], rtol=1e-3)


def test_full_gain_makes_the_fused_image_convex_and_none_leaves_it():
    joint = Joint(("noise", "composite"))
    for gain in (0.0, 1.0):
        x = corrected(joint, joint.x0, joint.weight, gain=torch.full((BATCH,), gain, dtype=torch.float64))
        convex = joint.weight * x[:, 0:1] + (1 - joint.weight) * x[:, 1:2]
        assert_close(x[:, 2:], convex if gain else joint.x0[:, 2:])


@pytest.mark.parametrize("form", CORRECTIONS)
def test_corrections_are_differentiable_and_leave_their_inputs_alone(form):
    joint = Joint(("blur-noise", "low-resolution"))
    x0, weight, gain = (v.clone().requires_grad_() for v in (joint.x0, joint.weight, GAIN))
    variances = tuple(v.clone().requires_grad_() for v in VARIANCES)
    corrected(joint, x0, weight, variances, gain, form).square().sum().backward()
    assert bool(x0.grad.isfinite().all())
    if form in ("cut", "joint"):
        assert all(bool(v.grad.isfinite().all() & (v.grad != 0).all()) for v in (weight, gain, *variances))
    assert torch.equal(x0.detach(), joint.x0)


def test_an_unknown_form_is_refused():
    with pytest.raises(DegradationError, match=r"must be one of .* got 'hard'"):
        correction("hard")


def test_from_images_binds_each_channel_to_its_own_degradation():
    degradation = JointDegradation(DEGRADATIONS["noise"], DEGRADATIONS["composite"])
    x = rand(BATCH, 2, 8, 6)
    ys = [part.simulate(x[:, i : i + 1], torch.Generator().manual_seed(i)) for i, part in enumerate(degradation)]
    inputs = torch.cat([replicate(y, part.operator, (8, 6)) for y, part in zip(ys, degradation, strict=True)], 1)
    observation = JointObservation.from_images(inputs, degradation)
    for model, y, part in zip(observation, ys, degradation, strict=True):
        assert_close(model.y, y, rtol=1e-14)
        assert model.degradation is part
        assert model.lifted.shape == (BATCH, 1, 8, 6)


# --------------------------------------------------------------------------------------------------- the reference grid
grids = st.one_of(st.tuples(*[st.integers(1, 17)] * 2), st.tuples(*[st.integers(1, 7)] * 3))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(grids, st.sampled_from([1, 2, 3, 4]), st.sampled_from(["average", "bicubic"]), st.integers(0, 1000))
def test_replication_is_undone_exactly_for_any_size(spatial, factor, kind, seed):
    operator = Downsample(factor, kind) @ GaussianBlur(1.0)
    y = rand(BATCH, 1, *operator.out_spatial(spatial), seed=seed)
    image = replicate(y, operator, spatial)
    assert tuple(image.shape[2:]) == spatial
    assert torch.allclose(unreplicate(image, operator), y, rtol=1e-14, atol=0)
    single = y.float()
    assert torch.allclose(unreplicate(replicate(single, operator, spatial), operator), single, rtol=1e-6, atol=0)


def test_replication_repeats_each_sample_over_its_block():
    y = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    expected = torch.tensor([[1.0, 1, 1, 2], [1, 1, 1, 2], [3, 3, 3, 4]])
    assert torch.equal(replicate(y, Downsample([2, 3]), (3, 4))[0, 0], expected)


def test_an_image_on_the_full_grid_passes_as_it_is():
    x = rand(1, 1, 5, 5)
    assert unreplicate(x, GaussianBlur(1.0)) is x
