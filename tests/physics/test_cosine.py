from __future__ import annotations

import pytest
import torch
from scipy import fft
from torch import Tensor

from medfuse.physics import Downsample, GaussianBlur
from medfuse.physics.operators.cosine import apply_along, cosine_transform

# a product with the basis up to 128, with its halves up to 256
lengths = pytest.mark.parametrize("n", [1, 2, 5, 64, 129, 256, 257, 300])


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@lengths
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_cosine_transform_is_that_of_scipy(n, axis):
    shape = [2, 1, 3, 4, 5]
    shape[axis + 2] = n
    x = rand(*shape)
    waves = torch.from_numpy(fft.dct(x.numpy(), axis=axis + 2, norm="ortho"))
    torch.testing.assert_close(cosine_transform(x, axis), waves, rtol=0, atol=1e-12)
    torch.testing.assert_close(cosine_transform(waves, axis, inverse=True), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_large_image_is_transformed_in_parts_with_the_same_result(axis, inverse, monkeypatch):
    x = rand(2, 1, 301, 300).requires_grad_()
    whole = cosine_transform(x, axis, inverse=inverse)
    monkeypatch.setattr("medfuse.physics.operators.cosine._AT_ONCE", 2**13)
    parts = cosine_transform(x, axis, inverse=inverse)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-13)
    gradients = (torch.autograd.grad((y * y).sum(), x)[0] for y in (whole, parts))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inverse", [False, True])
def test_the_gradient_of_a_long_transform_is_its_inverse(inverse):
    x = rand(1, 1, 2, 301).requires_grad_()
    y = cosine_transform(x, 1, inverse=inverse)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(gradient, 2 * x.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("operator", [GaussianBlur(2.0), Downsample(4, "bicubic") @ GaussianBlur(1.5), Downsample(3)])
def test_long_axes_are_filtered_as_short_ones_are(operator):
    """Far from the other end a blur or a decimation of a long image is that of its first samples."""
    x = rand(1, 1, 300, 600)
    whole, part = operator.forward(x), operator.forward(x[..., :120, :120])
    kept = [n * 2 // 3 for n in part.shape[2:]]
    torch.testing.assert_close(whole[..., : kept[0], : kept[1]], part[..., : kept[0], : kept[1]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("operator", [Downsample(4, "bicubic") @ GaussianBlur(1.5), Downsample(3)])
def test_the_adjoint_of_long_axes_is_their_adjoint(operator):
    x, shape = rand(1, 1, 301, 602), operator.out_spatial((301, 602))
    y = rand(1, 1, *shape)
    assert float((operator.forward(x) * y).sum()) == pytest.approx(
        float((x * operator.adjoint(y, (301, 602))).sum()), rel=1e-12
    )


@pytest.mark.parametrize("operator", [GaussianBlur(1.5), Downsample(3), GaussianBlur(torch.tensor([0.5, 2.0]))])
def test_slow_rows_are_the_lowest_of_the_map(operator):
    x = torch.rand(2, 1, 60, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second = operator.analysis(x.shape[2:], x)
    whole = second.forward(first.forward(x, 0), 1)
    slow = apply_along(second.slow(4, x), apply_along(first.slow(5, x), x, 0), 1)
    torch.testing.assert_close(slow, whole[..., :5, :4])


def test_slow_rows_that_were_made_in_inference_serve_training():
    """They are kept with the map, which is kept for all operators of the same width."""
    x = torch.ones(1, 1, 48, 48, requires_grad=True)
    with torch.inference_mode():
        (rows, _) = (along.slow(5, x) for along in GaussianBlur(1.37).analysis((48, 48), x.detach()))
    (again, _) = (along.slow(5, x) for along in GaussianBlur(1.37).analysis((48, 48), x.detach()))
    assert torch.equal(rows, again)
    apply_along(again, x, 0).square().sum().backward()
    assert x.grad.abs().sum() > 0


def test_slow_rows_that_were_made_without_gradients_do_not_take_them_from_a_width():
    blur = GaussianBlur(1.5)
    blur.sigma.requires_grad_()
    first, _ = blur.analysis((48, 48), torch.empty(0))
    with torch.no_grad():
        first.slow(5, torch.empty(0))
    (gradient,) = torch.autograd.grad(first.slow(5, torch.empty(0)).square().sum(), blur.sigma)
    assert gradient.abs().sum() > 0


def test_a_basis_that_was_made_in_inference_serves_training():
    n = 97  # a length that no other test has made a basis of
    with torch.inference_mode():
        expected = cosine_transform(torch.ones(1, 1, 4, n), 1)
    x = torch.ones(1, 1, 4, n, requires_grad=True)
    y = cosine_transform(x, 1)
    assert torch.equal(y, expected)
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach(), rtol=0, atol=1e-5)  # orthonormal: |C x|^2 = |x|^2
