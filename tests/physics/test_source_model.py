"""The model of one source: against dense matrices, the true image and the bias of clipped noise."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from physics.dense import (
    BATCH,
    DEGRADATIONS,
    KRYLOV,
    ODD,
    assert_close,
    dark_image,
    everything,
    krylov,
    matrices,
    named,
    observe,
    rand,
    tight,
    times,
)
from torch import Tensor

from medfuse.errors import DegradationError, GeometryError
from medfuse.physics import (
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    KrylovModel,
    MotionBlur,
    PoissonNoise,
    RicianNoise,
    SourceModel,
    SpectralModel,
    bind,
    replicate,
)


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
