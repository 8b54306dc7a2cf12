"""The scanner's sampling: exact adjoint, right place, right width, and what it does where fields of view end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medfuse.errors import DegradationError, GeometryError
from medfuse.physics import Grid, ScannerSampling
from medfuse.physics.operators import scanner

FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))


def turned(shape, spacing, angles=(0.0, 0.0, 0.0), centre=(0.0, 0.0, 0.0)):
    """A grid whose field of view is centred at a point, its axes turned by so many degrees about x, y and z."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * np.array(spacing)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine.tolist())


def positions(grid):
    affine = np.array(grid.affine)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


GEOMETRIES = {
    "aligned": ((0, 0, 0), (6.0, 6.0, 6.0), (1.5, 1.5, 1.5), (4, 4, 4)),
    "a little turned, narrower in the plane": ((2, -3, 4), (4.5, 4.5, 5.5), (1.5, 1.5, 1.5), (2, 2, 3)),
    "turned far, isotropic": ((30, -40, 50), (6.0, 6.0, 6.0), (1.5, 1.5, 1.5), (3, 3, 3)),
    "turned far, anisotropic": ((30, -40, 50), (5.0, 5.0, 8.0), (1.5, 1.5, 1.5), (3, 3, 3)),
    "a sagittal image": ((90, 0, 90), (5.0, 6.0, 7.0), (1.5, 1.2, 1.5), (3, 3, 3)),
    "thick slices": ((0, 3, 0), (6.0, 6.0, 6.0), (1.5, 1.5, 5.0), (4, 4, 4)),
}
every = pytest.mark.parametrize("case", GEOMETRIES.values(), ids=GEOMETRIES.keys())


def operator(case, fov=42.0, seen=36.0, centre=(1.3, -0.7, 0.4)):
    angles, fwhm, voxel, data = case
    image = turned(tuple(round(fov / v) for v in voxel), voxel)
    return ScannerSampling(image, turned(tuple(round(seen / v) for v in data), data, angles, centre), fwhm)


def rand(grid, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((2, 1, *grid.shape), generator=generator, dtype=torch.float64).to(dtype)


@every
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_adjoint_passes_the_dot_test(case, dtype, tolerance):
    op = operator(case)
    x, y = rand(op.domain, dtype, 0), rand(op.range, dtype, 1)
    ax, ay = op.forward(x), op.adjoint(y)
    assert ax.dtype == ay.dtype == dtype
    difference = (ax.double() * y).sum() - (x.double() * ay).sum()
    assert abs(float(difference)) <= tolerance * float(ax.double().norm() * y.double().norm())


def test_adjoint_is_the_gradient_of_forward():
    op = operator(GEOMETRIES["turned far, anisotropic"])
    x, y = rand(op.domain, torch.float64, 0).requires_grad_(), rand(op.range, torch.float64, 1)
    (gradient,) = torch.autograd.grad(op.forward(x), x, y)
    assert torch.allclose(op.adjoint(y), gradient, atol=1e-12)


@every
def test_a_gaussian_blob_comes_out_in_its_place_and_with_the_width_of_both(case):
    """A Gaussian through a Gaussian PSF is a Gaussian of the sum of covariances, in closed form."""
    angles, fwhm, voxel, _ = case
    op = operator(case, fov=66.0)
    std, at = max(3.0, max(voxel) * 1.5), np.array([1.0, -2.0, 0.5])
    blob = np.exp(-0.5 * ((positions(op.domain) - at) ** 2).sum(-1) / std**2)
    seen = op.forward(torch.from_numpy(blob)[None, None])[0, 0].numpy()
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    covariance = turn @ np.diag((np.array(fwhm) / FWHM) ** 2) @ turn.T + std**2 * np.eye(3)
    off = positions(op.range) - at
    power = np.einsum("...i,ij,...j", off, np.linalg.inv(covariance), off)
    expected = np.exp(-0.5 * power) * std**3 / math.sqrt(np.linalg.det(covariance))
    inside = op.inside.numpy()
    assert inside.mean() > 0.5
    assert np.abs(seen - expected)[inside].max() < 0.01 * expected.max()


def test_agrees_with_a_simulation_of_its_own():
    """Sharp noise, blurred by scipy in float64 and interpolated by splines: within 2 % of its std."""
    case = ((4, -3, 8), (6.0, 6.0, 6.0), (1.0, 1.0, 1.0), (4, 4, 4))
    op = operator(case, fov=56.0, seen=32.0)
    x = np.random.default_rng(0).normal(size=op.domain.shape)
    blurred = ndimage.gaussian_filter(x, 6.0 / FWHM, truncate=6, mode="constant")
    inverse = np.linalg.inv(np.array(op.domain.affine))
    at = positions(op.range) @ inverse[:3, :3].T + inverse[:3, 3]
    expected = ndimage.map_coordinates(blurred, np.moveaxis(at, -1, 0), order=5)
    seen = op.forward(torch.from_numpy(x)[None, None])[0, 0].numpy()
    assert np.abs(seen - expected).std() < 0.02 * expected.std()


def test_a_transform_moves_points_of_the_data_to_the_image():
    """The same as data whose affine was moved."""
    case = GEOMETRIES["a little turned, narrower in the plane"]
    op = operator(case)
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("xyz", (5, -2, 8), degrees=True).as_matrix()
    moved[:3, 3] = 2.0, -1.0, 3.0
    affine = (np.linalg.inv(moved) @ np.array(op.range.affine)).tolist()
    other = ScannerSampling(op.domain, Grid(op.range.shape, affine), op.fwhm_mm, moved.tolist())
    x = rand(op.domain, torch.float64, 0)
    assert torch.allclose(op.forward(x), other.forward(x), atol=1e-10)


@every
def test_rows_of_voxels_inside_sum_to_one_and_the_others_are_masked(case):
    op = operator(case, seen=60.0)
    total = op.forward(torch.ones((1, 1, *op.domain.shape), dtype=torch.float64))[0, 0]
    inside = op.inside
    assert 0 < int(inside.sum()) < inside.numel()
    assert bool((total[~inside] == 0).all())
    assert float(total[inside].min()) > 0.985
    assert float(total[inside].max()) < 1.005
    assert torch.equal(op.adjoint((~inside)[None, None].double()), torch.zeros((1, 1, *op.domain.shape)).double())


@pytest.mark.parametrize("fwhm", [1.6, 3.7, 4.0, 5.0, 5.1, 6.0])
@pytest.mark.parametrize("count", [24, 28, 33, 40])
def test_any_number_of_voxels_is_seen_alike(count, fwhm):
    """Nodes are taken some at a time, and some may all be so far beyond the image that nothing reaches them."""
    op = ScannerSampling(turned((count, 24, 24), (2.0,) * 3), turned((count - 16, 4, 4), (2.0,) * 3), fwhm)
    total = op.forward(torch.ones((1, 1, *op.domain.shape), dtype=torch.float64))[0, 0]
    assert bool(op.inside.all())
    assert float(total.min()) > 0.985
    assert float(total.max()) < 1.005


def test_seen_is_the_part_of_the_image_that_the_data_look_at():
    image = turned((20, 20, 20), (2.0, 2.0, 2.0))
    op = ScannerSampling(image, turned((10, 10, 5), (4.0, 4.0, 4.0), centre=(0.0, 0.0, -10.0)), 6.0)
    z = positions(image)[..., 2]
    core = (np.abs(positions(image)[..., :2]) < 12).all(-1) & (z > -14)
    seen = op.seen.numpy()
    assert seen[core & (z < -2)].all()
    assert not seen[z > 3].any()


def test_what_lies_outside_a_voxel_changes_nothing_in_it():
    """A point is spread by the PSF alone: 5 FWHM away nothing arrives."""
    op = operator(GEOMETRIES["aligned"], fov=90.0, seen=60.0)
    x = torch.zeros((1, 1, *op.domain.shape))
    x[0, 0, 30, 30, 30] = 1.0
    far = ((positions(op.range) - positions(op.domain)[30, 30, 30]) ** 2).sum(-1) > 30.0**2
    assert float(op.forward(x)[0, 0][torch.from_numpy(far)].abs().max()) < 1e-7
    voxels_per_voxel = 1.5**3 / 4.0**3
    assert float(op.forward(x).sum()) == pytest.approx(voxels_per_voxel, rel=0.01)


IMAGE, DATA = turned((20, 20, 20), (2, 2, 2)), turned((9, 9, 9), (4, 4, 4))
SHEARED = Grid((9, 9, 9), [[4, 1, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]])
SCALE = [[1.1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((IMAGE, SHEARED, 6.0), GeometryError, "right angles"),
        ((SHEARED, DATA, 6.0), GeometryError, "right angles"),
        ((Grid.of_spacing((9, 9), (2, 2)), DATA, 6.0), GeometryError, "three axes"),
        ((IMAGE, DATA, 6.0, SCALE), GeometryError, "must be rigid"),
        ((IMAGE, DATA, 6.0, [[1.0]]), GeometryError, "4 x 4"),
        ((IMAGE, turned((9, 9, 9), (4, 4, 4), centre=(200, 0, 0)), 6.0), GeometryError, "none of its voxels"),
        ((IMAGE, DATA, 2.0), DegradationError, "at least that of the mean over a voxel"),
        ((turned((9, 9, 9), (5, 5, 9)), DATA, 6.0), DegradationError, "0.75 voxels of the image"),
        ((IMAGE, DATA, [6.0, 6.0, 21.0]), DegradationError, "at most 20 mm"),
        ((IMAGE, DATA, [6.0, 6.0]), DegradationError, "one positive number or three"),
        ((IMAGE, DATA, [6.0, 6.0, math.nan]), DegradationError, "one positive number or three"),
    ],
)
def test_what_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        ScannerSampling(*arguments)


def test_shapes_that_do_not_fit_are_refused():
    op = ScannerSampling(IMAGE, DATA, 6.0)
    with pytest.raises(GeometryError, match="operator's grid"):
        op.forward(torch.zeros(1, 1, 9, 9, 9))
    with pytest.raises(GeometryError, match="operator's grid"):
        op.adjoint(torch.zeros(1, 1, 20, 20, 20))


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    """Voxels are sampled by several threads; the order in which a sum is taken is that of one thread."""
    monkeypatch.setattr(scanner, "_AT_ONCE", 300)
    op = operator(GEOMETRIES["a little turned, narrower in the plane"])
    x, y = rand(op.domain, torch.float32, 0), rand(op.range, torch.float32, 1)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with torch.no_grad():
                found.append((op.forward(x), op.adjoint(y), op.lift(y)))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))
    tracked = x.clone().requires_grad_()
    op.forward(tracked).backward(y)  # where gradients are tracked, the transpose is that of one thread, too
    torch.testing.assert_close(tracked.grad, found[0][1])
