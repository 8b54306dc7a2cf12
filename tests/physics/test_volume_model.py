"""A volume on its scanner's grid: chi-square of the truth, whitening, and a correction held against a dense solve."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from medfuse.errors import DegradationError, GeometryError
from medfuse.physics import Grid, ScannerNoise, ScannerSampling, VolumeModel, Whitening
from medfuse.physics.models.lanczos import lanczos

FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))
SHAPE = (40, 42, 38)


def geometry(data=(34, 36, 32), spacing=(3.0, 3.0, 3.0)):
    """An image of 3 mm voxels, and data of 3 mm a little turned within it."""
    turn = math.radians(4.0)
    rows = [[math.cos(turn), -math.sin(turn), 0, 0], [math.sin(turn), math.cos(turn), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    affine = np.array(rows) @ np.diag([*spacing, 1.0])
    centre = (np.array(SHAPE) - 1) / 2 * 3.0
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(data) - 1) / 2)
    return ScannerSampling(Grid.of_spacing(SHAPE, (3.0, 3.0, 3.0)), Grid(data, affine.tolist()), 6.5)


def body():
    """Two tissues with a lesion, in air."""
    index = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    radius = np.sqrt((index**2).sum(0))
    x = np.where(radius < 0.7, 4.0, 0.0)
    x[radius < 0.45] = 1.0
    x[18:22, 18:22, 18:22] = 7.0
    return torch.from_numpy(x).float()


NOISES = {
    "white": ScannerNoise(0.2),
    "coloured": ScannerNoise(0.2, fwhm_mm=(5.0, 5.0, 3.0)),
    "Poisson-like": ScannerNoise(0.1, "poisson", floor=0.03),
    "coloured and Poisson-like": ScannerNoise(0.1, "poisson", (4.0, 4.0, 4.0), floor=0.03),
}


def simulated(noise, clean, spacing, seed):
    """Noise as numpy and scipy make it: white, filtered on a larger grid, of unit std, times the std of each voxel."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=[n + 24 for n in clean.shape])
    unit = np.zeros([25] * 3)
    unit[12, 12, 12] = 1.0
    sigmas = [w / FWHM / s for w, s in zip(noise.fwhm_mm, spacing, strict=True)]
    kernel = ndimage.gaussian_filter(unit, sigmas, truncate=8)
    coloured = ndimage.gaussian_filter(white, sigmas, truncate=8) / np.sqrt((kernel**2).sum())
    std = noise.sigma if noise.kind == "gaussian" else np.maximum(noise.sigma * np.sqrt(clean), noise.floor)
    return torch.from_numpy(clean + std * coloured[12:-12, 12:-12, 12:-12]).float()


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES.keys())
def test_chi_square_of_the_true_image_is_one_in_tissue_and_in_air(noise):
    """Within 3 %, over three draws."""
    op, x = geometry(), body()
    clean = op.forward(x[None, None])[0, 0].numpy()
    tissue = torch.from_numpy(clean > 0.4)
    found = []
    for seed in range(3):
        model = VolumeModel(op, simulated(noise, clean, op.range.spacing, seed), noise).at(x)
        found.append([model.chi2(x), model.chi2(x, tissue & op.inside), model.chi2(x, ~tissue & op.inside)])
    assert np.abs(np.mean(found, 0) - 1).max() < 0.03


def test_noise_that_is_stated_twice_too_small_gives_a_chi_square_of_four():
    op, x = geometry(), body()
    noise = ScannerNoise(0.2, fwhm_mm=(5.0, 5.0, 3.0))
    clean = op.forward(x[None, None])[0, 0].numpy()
    y = simulated(ScannerNoise(0.4, fwhm_mm=noise.fwhm_mm), clean, op.range.spacing, 0)
    assert VolumeModel(op, y, noise).chi2(x) == pytest.approx(4.0, rel=0.06)


def test_white_noise_whitened_as_coloured_is_not_one():
    """Else the width would not matter."""
    op, x = geometry(), body()
    clean = op.forward(x[None, None])[0, 0].numpy()
    y = simulated(NOISES["white"], clean, op.range.spacing, 0)
    assert VolumeModel(op, y, NOISES["coloured"]).chi2(x) > 1.5


@pytest.mark.parametrize("sigmas", [(0.0, 0.0, 0.0), (0.9, 0.7, 0.5), (1.4, 0.0, 1.0)])
def test_whitening_has_an_exact_adjoint(sigmas):
    inside = torch.ones((14, 12, 10), dtype=torch.bool)
    inside[:3] = False
    whitening = Whitening(inside, sigmas)
    generator = torch.Generator().manual_seed(0)
    n = torch.randn(inside.shape, generator=generator)
    e = torch.randn(whitening.forward(n).shape, generator=generator)
    left, right = (whitening.forward(n) * e).sum(), (n * whitening.adjoint(e)).sum()
    assert abs(float(left - right)) < 1e-5 * float(whitening.forward(n).norm() * e.norm())
    assert bool((whitening.adjoint(e)[:3] == 0).all())


def test_one_krylov_space_solves_for_every_strength():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn((20, 20), generator=generator, dtype=torch.float64)
    matrix, start = root @ root.mT, torch.randn(20, generator=generator, dtype=torch.float64)
    space = lanczos(lambda v: matrix @ v, start, strength=1.0, tolerance=1e-12, iterations=20)
    for strength in (1e-3, 0.1, 1.0):
        exact = torch.linalg.solve(strength * matrix + torch.eye(20, dtype=torch.float64), start)
        assert torch.allclose(space.solve(strength), exact, rtol=1e-6, atol=1e-8)
        assert space.square(strength) == pytest.approx(float(exact.square().sum()), rel=1e-6)


def small():
    op = ScannerSampling(
        Grid.of_spacing((9, 8, 8), (3.0, 3.0, 3.0)),
        Grid((5, 5, 4), [[3.2, 0, 0, 6], [0, 3.2, 0, 5], [0, 0, 3.2, 5], [0, 0, 0, 1]]),
        5.0,
    )
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(op.domain.shape, generator=generator) * 9
    y = op.forward(x[None, None])[0, 0] + 0.7 * torch.randn(op.range.shape, generator=generator)
    return op, y, torch.rand(op.domain.shape, generator=generator)


def test_the_correction_is_the_dense_one_and_its_chi_square_what_it_says():
    op, y, spread = small()
    model = VolumeModel(op, y, ScannerNoise(0.7))
    x0 = torch.zeros(op.domain.shape)
    found = model.corrected(x0, spread, target=1.0, tolerance=1e-6, iterations=80)
    unit = torch.eye(x0.numel()).reshape(-1, 1, *x0.shape)
    matrix = op.forward(unit)[:, 0].flatten(1).mT.double()
    b = matrix[op.inside.flatten()] / 0.7
    r = (y[op.inside] / 0.7).double()
    c = spread.flatten().double()
    inner = found.strength * (b * c) @ b.mT + torch.eye(len(b), dtype=torch.float64)
    step = found.strength * c * (b.mT @ torch.linalg.solve(inner, r))
    assert torch.allclose(found.x.flatten().double(), step, rtol=1e-3, atol=1e-3 * float(step.abs().max()))
    assert model.chi2(found.x) == pytest.approx(found.chi2, rel=1e-3)
    assert found.chi2 == pytest.approx(1.0, rel=0.3)
    assert found.chi2 <= 1.0


def test_degrees_of_freedom_are_the_trace_of_what_follows_the_data():
    """Of `A x = H y`, by a dense solve; the probe's estimate is within a few of its std, sqrt(2 |H|^2) / n."""
    op, y, spread = small()
    model = VolumeModel(op, y, ScannerNoise(0.7))
    found = model.corrected(torch.zeros(op.domain.shape), spread, target=1.0, tolerance=1e-6, iterations=160)
    unit = torch.eye(spread.numel()).reshape(-1, 1, *spread.shape)
    b = op.forward(unit)[:, 0].flatten(1).mT.double()[op.inside.flatten()] / 0.7
    k = found.strength * (b * spread.flatten().double()) @ b.mT
    follows = k @ torch.linalg.inv(k + torch.eye(len(k), dtype=torch.float64))
    std = math.sqrt(2 * float(follows.square().sum())) / len(k)
    assert abs(found.df - float(follows.trace()) / len(k)) < 3 * std
    left = torch.eye(len(k), dtype=torch.float64) - follows
    told = model.followed(model.probe(), found.change)
    assert abs(told - 1 + float((left @ left.mT).trace()) / len(k)) < 3 * std
    assert told > found.df + 3 * std / 2  # this estimate is no projection


def test_an_estimate_that_agrees_with_the_data_stays():
    op, x = geometry(), body()
    model = VolumeModel(op, op.forward(x[None, None])[0, 0], ScannerNoise(0.2))
    found = model.corrected(x)
    assert found.strength == 0
    assert torch.equal(found.x, x)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sigma": 0.0}, "must be positive and finite"),
        ({"sigma": math.nan}, "must be positive and finite"),
        ({"sigma": 1.0, "kind": "rician"}, "gaussian or poisson"),
        ({"sigma": 1.0, "fwhm_mm": (1.0, -1.0, 1.0)}, "from 0 to 30 mm"),
        ({"sigma": 1.0, "fwhm_mm": (1.0, 1.0)}, "from 0 to 30 mm"),
        ({"sigma": 1.0, "floor": -1.0}, "not negative"),
    ],
)
def test_noise_that_is_refused(values, words):
    with pytest.raises(DegradationError, match=words):
        ScannerNoise(**values)


def test_data_on_another_grid_are_refused():
    with pytest.raises(GeometryError, match="operator's grid"):
        VolumeModel(geometry(), torch.zeros(3, 3, 3), ScannerNoise(0.1))
