"""The PSF of a PET, measured by its MRI: folds of two tissues in a ball."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from medfuse.physics import Grid
from medfuse.volumes import measure_psf, narrowest_psf
from medfuse.volumes.classes import classes, classes_nearby, within_uptake

N, SIDE, PET = 48, 2.0, 3.0  # voxels and mm of the MRI, mm of the PET


def centred(n, spacing):
    rows = [[spacing if i == j else 0.0 for j in range(3)] + [-(n - 1) / 2 * spacing] for i in range(3)]
    return Grid((n, n, n), (*map(tuple, rows), (0.0, 0.0, 0.0, 1.0)))


def made(fwhm, *, moved=(0.0, 0.0, 0.0), grey=4.0, noise=0.1, seed=0, related=True):
    """MRI and PET with their grids: axes are the world's; `moved` is the way of the PET against what is told, mm."""
    rng = np.random.default_rng(seed)
    at = (np.indices((N, N, N)) - (N - 1) / 2) * SIDE
    ball = np.sqrt((at**2).sum(0)) < 42
    folds = ndimage.gaussian_filter(rng.standard_normal((N, N, N)), 2) > 0
    mri = np.where(ball, np.where(folds, 0.6, 0.85), 0) + rng.normal(0, 0.02, ball.shape)
    uptake = np.where(ball, np.where(folds if related else folds[::-1], grey, 1.0), 0)
    pet = ndimage.gaussian_filter(uptake, np.array(fwhm) / 2.3548 / SIDE)
    n = int(N * SIDE / PET)
    index = ((np.indices((n, n, n)) - (n - 1) / 2) * PET + np.reshape(moved, (3, 1, 1, 1))) / SIDE + (N - 1) / 2
    pet = ndimage.map_coordinates(pet, index, order=3) + rng.normal(0, noise, (n, n, n))
    return [torch.from_numpy(pet).float(), centred(n, PET), torch.from_numpy(mri).float(), centred(N, SIDE)]


@pytest.mark.parametrize("fwhm", [(5.0, 5.0, 7.0), (8.0, 6.0, 6.0)])
def test_the_width_along_each_axis_is_found(fwhm):
    """Squares of widths add: of what blurred the uptake, and of the mean over a voxel of the MRI, 2 mm."""
    found = measure_psf(*made(fwhm))
    truth = [(w**2 + 2.3548**2 * SIDE**2 / 12) ** 0.5 for w in fwhm]
    assert found.refused == ""
    assert found.fwhm_mm == pytest.approx(truth, rel=0.03)
    assert all(low < w < high for low, w, high in zip(found.low, truth, found.high, strict=True))


def test_a_pet_that_lies_elsewhere_seems_wider_until_it_is_moved():
    """Off by 2 mm the width in the place that is given is too large; the best place is found, and both are told."""
    found = measure_psf(*made((5, 5, 5), moved=(1.5, -1.0, 1.0)))
    assert found.moved_mm == pytest.approx(2.06, abs=0.3)
    assert min(found.given) > max(found.refined)
    rows = zip(found.low, found.refined, found.given, found.high, strict=True)
    assert all(low < refined < given < high for low, refined, given, high in rows)
    assert found.refined == pytest.approx([(25 + 2.3548**2 * SIDE**2 / 12) ** 0.5] * 3, rel=0.03)
    placed = measure_psf(*made((5, 5, 5), moved=(1.5, -1.0, 1.0)), refine=False)
    assert placed.fwhm_mm == found.given


def test_where_the_mri_ends_within_the_body_the_psf_is_no_narrower():
    """Columns that end where the MRI does: the uptake beyond made it 2.6 and 3.0 mm wide there, to within 0.5 mm."""
    rng = np.random.default_rng(1)
    at = (np.indices((N, N, N)) - (N - 1) / 2) * SIDE
    ball = np.sqrt((at**2).sum(0)) < 44
    white = np.hypot(*at[:2]) < 26 + 4 * np.cos(3 * np.arctan2(at[1], at[0]))
    mri = np.where(ball, np.where(white, 0.85, 0.6), 0) + rng.normal(0, 0.02, ball.shape)
    uptake = np.where(ball, np.where(white, 1.0, 4.0), 0)
    n = int(N * SIDE / PET)
    index = ((np.indices((n, n, n)) - (n - 1) / 2) * PET) / SIDE + (N - 1) / 2
    pet = ndimage.map_coordinates(ndimage.gaussian_filter(uptake, 6 / 2.3548 / SIDE), index, order=3)
    pet = torch.from_numpy(pet + rng.normal(0, 0.1, pet.shape)).float()
    for first, last in ((0, 34), (10, 38)):
        rows = [list(row) for row in centred(N, SIDE).affine]
        rows[2][3] += first * SIDE
        some = torch.from_numpy(mri[..., first:last].copy()).float()
        found = measure_psf(pet, centred(n, PET), some, Grid((N, N, last - first), rows))
        assert found.fwhm_mm[:2] == pytest.approx([6.14, 6.14], rel=0.03)
        assert found.fwhm_mm[2] > 4.5
        assert "not known to better than" in found.refused  # few folds across the end are left


def test_a_bright_rim_of_the_mri_alone_is_no_blur():
    """A voxel that holds csf and bone is as bright as grey matter, and takes up nothing: the rim does not count."""
    pet, grid, mri, mri_grid = made((5.0, 5.0, 5.0))
    radius = torch.stack(torch.meshgrid(*[(torch.arange(N) - (N - 1) / 2) * SIDE] * 3, indexing="ij")).norm(dim=0)
    found = measure_psf(pet, grid, mri.masked_fill((radius > 42) & (radius < 44), 0.6), mri_grid)
    assert found.fwhm_mm == pytest.approx([(25 + 2.3548**2 * SIDE**2 / 12) ** 0.5] * 3, rel=0.03)


def test_a_border_is_no_layer_of_a_third_tissue():
    """Voxels of a border hold any share of white matter and csf; by intensity alone the half of it is grey matter."""
    rng = np.random.default_rng(0)
    share = np.linspace(0, 1, 32)
    mri = np.full((32, 32, 32), 0.85)
    mri[:, :, :16], mri[:, :, 16], mri[16:] = 0.2, 0.2 + 0.65 * share, 0.525  # csf, the border; a block of grey matter
    image = torch.from_numpy(mri + rng.normal(0, 0.015, mri.shape)).float()
    by_intensity, nearby = classes(image, 4, (2.0,) * 3), classes_nearby(image, (2.0,) * 3, 4)
    assert torch.allclose(nearby.sum(0), torch.ones(()), atol=1e-4)
    assert float(nearby[2, 20:].mean()) > 0.99  # grey matter where it is
    assert float(by_intensity[2, 2:10, :, 16].mean()) > 0.4
    assert float(nearby[2, 2:10, :, 16].mean()) < 0.2


def test_uptake_that_the_mri_does_not_explain_tells_no_psf():
    assert measure_psf(*made((5, 5, 5), related=False)).refused


def test_too_little_tissue_tells_no_psf():
    pet, grid, mri, mri_grid = made((5, 5, 5))
    far = [(torch.arange(n) - (n - 1) / 2).abs() > 6 for n in mri.shape]
    mri = mri.masked_fill(far[0][:, None, None] | far[1][:, None] | far[2], 0.0)
    assert "too few voxels" in measure_psf(pet, grid, mri, mri_grid).refused


@pytest.mark.parametrize("apart", [44.0, 56.0])
def test_tissue_and_uptake_apart_tell_no_psf(apart):
    """Two balls of 24 mm that share a lens of a few voxels, or none: any width explains those."""
    generator = torch.Generator().manual_seed(0)
    at = torch.stack(torch.meshgrid(*[(torch.arange(64) - 31.5) * SIDE] * 3, indexing="ij"))
    left, right = (at - torch.tensor([x, 0.0, 0.0]).reshape(3, 1, 1, 1) for x in (-apart / 2, apart / 2))
    mri = (left.norm(dim=0) < 24) * (0.7 + 0.3 * (torch.rand(64, 64, 64, generator=generator) > 0.5))
    pet = (right.norm(dim=0) < 24) + 0.02 * torch.randn(64, 64, 64, generator=generator)
    grid = centred(64, SIDE)
    assert "too few voxels" in measure_psf(pet, grid, mri, grid, refine=False).refused


def test_a_pet_without_uptake_tells_no_psf():
    _, grid, mri, mri_grid = made((5, 5, 5))
    for pet in (torch.zeros(grid.shape), -torch.ones(grid.shape)):
        assert "too few voxels" in measure_psf(pet, grid, mri, mri_grid).refused


def test_what_lies_deep_in_the_uptake_is_told_in_mm():
    """A ball of 20 mm, whose border is some 1 mm further out once it is smoothed; where it is cut off, no border."""
    z, y, x = np.meshgrid(*[(np.arange(n) - 0.5 * (n - 1)) * s for n, s in ((24, 2), (16, 3), (12, 4))], indexing="ij")
    radius = torch.from_numpy(np.sqrt(x**2 + y**2 + z**2))
    deep = within_uptake((radius < 20).float(), (2.0, 3.0, 4.0), 6.0)
    assert bool(deep[radius < 14].all()) and not bool(deep[radius > 16].any())
    cut = within_uptake((radius < 20).float()[12:], (2.0, 3.0, 4.0), 6.0)
    assert torch.equal(cut[:3], deep[12:15])


def test_the_narrowest_psf_is_taken_by_the_operator():
    from medfuse.physics.operators.scanner import ScannerSampling

    pet, mri = centred(12, 4.0), centred(24, 2.0)
    assert narrowest_psf(pet, mri) == pytest.approx([2.3548 * 4 / 12**0.5] * 3, rel=1e-3)
    ScannerSampling(mri, pet, narrowest_psf(pet, mri))
