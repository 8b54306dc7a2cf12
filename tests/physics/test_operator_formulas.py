"""Operators, each against a formula of its own, or another library's; and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.ndimage
import torch
from physics.close import assert_close, rand
from PIL import Image

from medfuse.errors import DegradationError, GeometryError
from medfuse.physics import (
    Convolution,
    Downsample,
    Gamma,
    GaussianBlur,
    Mask,
    MissingSlices,
    MotionBlur,
)


@pytest.mark.parametrize("sigma", [1.0, 1.6, 2.0, 3.0, 6.0])
@pytest.mark.parametrize("spatial", [(16, 16), (17, 5), (1, 9), (6, 7, 5)])
def test_blur_is_that_of_scipy(sigma, spatial):
    x = rand(1, 1, *spatial)
    expected = scipy.ndimage.gaussian_filter(x[0, 0].numpy(), sigma, mode="reflect", truncate=5.0)
    assert_close(GaussianBlur(sigma).forward(x)[0, 0], torch.from_numpy(expected))


def test_anisotropic_blur_in_mm_is_that_of_scipy():
    x = rand(1, 1, 9, 12, 10)
    spacing, fwhm = (3.27, 1.0, 2.0), 6.0
    sigma = [fwhm / (2 * math.sqrt(2 * math.log(2))) / s for s in spacing]
    radius = [math.ceil(5 * max(sigma))] * 3
    expected = scipy.ndimage.gaussian_filter(x[0, 0].numpy(), sigma, mode="reflect", radius=radius)
    assert_close(GaussianBlur.from_fwhm(fwhm, spacing).forward(x)[0, 0], torch.from_numpy(expected), rtol=1e-5)


def blocks(x: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Average blocks of a 2-D array that is continued by half-sample reflection."""
    (h, w), (a, b) = x.shape, factors
    x = np.pad(x, [(0, -h % a), (0, -w % b)], mode="symmetric")
    return x.reshape(x.shape[0] // a, a, x.shape[1] // b, b).mean((1, 3))


@pytest.mark.parametrize("factors", [(2, 2), (3, 3), (4, 4), (2, 3), (1, 4)])
@pytest.mark.parametrize("spatial", [(12, 24), (13, 17), (5, 3)])
def test_average_is_the_mean_of_blocks(factors, spatial):
    x = rand(1, 1, *spatial)
    assert_close(Downsample(factors).forward(x)[0, 0], torch.from_numpy(blocks(x[0, 0].numpy(), factors)))


def keys(t: float, a: float = -0.5) -> float:
    t = abs(t)
    if t < 1:
        return 1 - (a + 3) * t * t + (a + 2) * t**3
    return a * (t**3 - 5 * t * t + 8 * t - 4) if t < 2 else 0.0


def bicubic(x: np.ndarray, s: int) -> np.ndarray:
    """Shrink the first axis by direct summation of the widened cubic kernel about the centre of each block."""
    n, small, reach = len(x), -(-len(x) // s), 3 * s
    padded = np.pad(x, [(reach, reach + s), *[(0, 0)] * (x.ndim - 1)], mode="symmetric")
    rows = []
    for i in range(small):
        centre = s * i + (s - 1) / 2
        inside = range(max(-reach, s * i - 2 * s), min(n + reach + s, s * i + 3 * s))
        weights = np.array([keys((j - centre) / s) for j in inside])
        weights /= weights.sum()
        rows.append(sum(w * padded[reach + j] for w, j in zip(weights, inside, strict=True)))
    return np.array(rows)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_is_the_sum_over_its_kernel(factor):
    x = rand(1, 1, 24, 36)
    expected = bicubic(bicubic(x[0, 0].numpy(), factor).T, factor).T
    assert_close(Downsample(factor, "bicubic").forward(x)[0, 0], torch.from_numpy(expected.copy()))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_is_that_of_pillow_away_from_the_border(factor):
    x = rand(1, 1, 48, 36)
    small = (36 // factor, 48 // factor)
    image = Image.fromarray(x[0, 0].float().numpy()).resize(small, Image.Resampling.BICUBIC)
    ours = Downsample(factor, "bicubic").forward(x)[0, 0, 2:-2, 2:-2]
    assert_close(ours.float(), torch.from_numpy(np.array(image))[2:-2, 2:-2], rtol=1e-5)


@pytest.mark.parametrize(("length", "angle"), [(1.0, 0.0), (5.0, 0.0), (5.0, 90.0), (7.5, 30.0), (4.0, 135.0)])
def test_motion_is_the_mean_over_a_moving_image(length, angle):
    x = rand(1, 1, 20, 17)
    padded = np.pad(x[0, 0].numpy(), 8, mode="symmetric")
    rows, columns = np.mgrid[8:28, 8:25].astype(float)
    points = math.ceil(length * 16)
    path = ((np.arange(points) + 0.5) / points - 0.5) * (length - 1)
    expected = np.mean(
        [
            scipy.ndimage.map_coordinates(
                padded, [rows - t * math.sin(math.radians(angle)), columns + t * math.cos(math.radians(angle))], order=1
            )
            for t in path
        ],
        axis=0,
    )
    assert_close(MotionBlur(length, angle).forward(x)[0, 0], torch.from_numpy(expected))


def test_motion_in_a_plane_of_a_volume_is_the_plane_motion_of_each_slice():
    x = rand(1, 1, 4, 9, 8)
    volume = MotionBlur(4.0, 30.0, ndim=3).forward(x)
    across = MotionBlur(4.0, 30.0, ndim=3, plane=(0, 1)).forward(x)
    for i in range(4):
        assert_close(volume[:, :, i], MotionBlur(4.0, 30.0).forward(x[:, :, i]))
    for i in range(8):
        assert_close(across[..., i], MotionBlur(4.0, 30.0).forward(x[..., i]))


def test_convolution_is_that_of_scipy():
    x, k = rand(1, 1, 11, 9), rand(1, 3, 5, seed=3)
    expected = scipy.ndimage.convolve(x[0, 0].numpy(), k[0].numpy(), mode="reflect")
    assert_close(Convolution(k).forward(x)[0, 0], torch.from_numpy(expected))


def test_masks_blank_what_was_not_measured():
    x = rand(1, 2, 4, 5) + 5
    assert torch.equal(
        MissingSlices((1, -1), axis=0).forward(x) == 0, (x * 0 + torch.tensor([0, 1, 0, 1.0])[:, None]) == 1
    )
    dead = torch.ones(4, 5, dtype=torch.bool)
    dead[2, 3] = False
    assert torch.equal(Mask(dead).forward(x)[0, 0] == 0, ~dead)


def test_gamma_is_odd_and_inverted_by_its_reciprocal():
    x = rand(1, 1, 5, 5)
    assert_close(Gamma(1 / 1.7)(Gamma(1.7)(x)), x)
    assert_close(Gamma(1.7)(-x), -Gamma(1.7)(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianBlur(-1.0), "not negative"),
        (lambda: GaussianBlur(math.nan), "finite"),
        (lambda: GaussianBlur(torch.zeros(2, 2, 2)), "shape"),
        (lambda: GaussianBlur.from_fwhm(4.0, [1.0, 0.0]), "finite"),
        (lambda: Downsample(0), "at least 1"),
        (lambda: Downsample([2, -1]), "at least 1"),
        (lambda: Downsample(2, "nearest"), "average"),
        (lambda: MotionBlur(0.5, 0.0), "at least 1"),
        (lambda: MotionBlur(math.inf, 0.0), "at least 1"),
        (lambda: MotionBlur(3.0, math.nan), "finite"),
        (lambda: Convolution(torch.ones(1, 2, 3)), "odd"),
        (lambda: Convolution(torch.full((1, 3, 3), math.inf)), "finite"),
        (lambda: Gamma(0.0), "positive"),
        (lambda: GaussianBlur([1.0, 2.0, 3.0]).forward(torch.zeros(1, 1, 4, 4)), "values per sample"),
        (lambda: Downsample([2, 2, 2]).forward(torch.zeros(1, 1, 4, 4)), "factors"),
    ],
)
def test_impossible_parameters_are_refused(make, words):
    with pytest.raises(DegradationError, match=words):
        make()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: Downsample(2).adjoint(torch.zeros(1, 1, 4, 4), (9, 8)), "must have shape"),
        (lambda: (GaussianBlur(1.0) @ Downsample(2)).adjoint(torch.zeros(1, 1, 4, 4), (9, 8)), "must have shape"),
        (lambda: MissingSlices((7,), 0).forward(torch.zeros(1, 1, 4, 4)), "within"),
        (lambda: MotionBlur(3.0, 0.0).forward(torch.zeros(1, 1, 4, 4, 4)), "axes"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(act, words):
    with pytest.raises(GeometryError, match=words):
        act()
