from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuse.physics.models.conjugate_gradients import conjugate_gradient, inner


def system(size: int, batch: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return symmetric positive definite matrices [B, N, N] and right-hand sides [B, N]."""
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(batch, size, size, generator=g, dtype=torch.float64)
    matrix = root @ root.mT / size + 0.1 * torch.eye(size, dtype=torch.float64)
    return matrix, torch.randn(batch, size, generator=g, dtype=torch.float64)


def product(matrix: torch.Tensor):
    return lambda v: (matrix @ v[..., None])[..., 0]


def test_inner_products_are_per_sample():
    a, b = torch.arange(12.0).reshape(2, 2, 3), torch.ones(2, 2, 3)
    assert torch.equal(inner(a, b), torch.tensor([15.0, 51.0]).reshape(2, 1, 1))


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 24), st.integers(0, 1000))
def test_solution_equals_the_dense_one(size, seed):
    matrix, rhs = system(size, seed=seed)
    x = conjugate_gradient(product(matrix), rhs, tolerance=1e-13, max_iterations=500).x
    expected = torch.linalg.solve(matrix, rhs)
    assert (x - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9])
def test_residual_falls_below_the_tolerance(tolerance):
    matrix, rhs = system(30)
    x = conjugate_gradient(product(matrix), rhs, tolerance=tolerance).x
    assert bool(((product(matrix)(x) - rhs).norm(dim=1) <= 1.01 * tolerance * rhs.norm(dim=1)).all())


def test_a_start_at_the_solution_needs_one_look_only():
    matrix, rhs = system(12)
    calls = []

    def apply(v: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return product(matrix)(v)

    solution = torch.linalg.solve(matrix, rhs)
    x = conjugate_gradient(apply, rhs, start=solution).x
    assert torch.allclose(x, solution, rtol=1e-12)
    assert len(calls) == 1


def test_iterations_are_bounded():
    matrix, rhs = system(40)
    calls = []

    def apply(v: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return product(matrix)(v)

    conjugate_gradient(apply, rhs, tolerance=0.0, max_iterations=7)
    assert len(calls) == 7


def test_samples_do_not_disturb_each_other():
    """An easy, a hard, a zero and a tiny sample together give what each gives alone."""
    matrix, rhs = system(20, batch=4)
    matrix[0] = torch.eye(20)
    rhs[2] = 0.0
    rhs[3] *= 1e-14
    whole = conjugate_gradient(product(matrix), rhs, tolerance=1e-6).x
    for b in range(4):
        single = conjugate_gradient(product(matrix[b : b + 1]), rhs[b : b + 1], tolerance=1e-6).x
        assert (whole[b] - single[0]).norm() <= 1e-7 * single.norm()
    assert torch.equal(whole[2], torch.zeros(20, dtype=torch.float64))


def test_each_sample_tells_whether_it_has_converged():
    matrix, rhs = system(20, batch=3)
    matrix[0] = torch.eye(20)
    rhs[2] = 0.0
    stopped = conjugate_gradient(product(matrix), rhs, tolerance=1e-12, max_iterations=3)
    assert stopped.converged.tolist() == [True, False, True]
    assert bool(conjugate_gradient(product(matrix), rhs, tolerance=1e-12).converged.all())


def test_zero_needs_no_iteration():
    x = conjugate_gradient(lambda v: pytest.fail("nothing to solve"), torch.zeros(2, 1, 3, 3)).x
    assert torch.equal(x, torch.zeros(2, 1, 3, 3))


def test_gradient_is_that_of_the_dense_solution():
    matrix, rhs = system(8)
    half = (matrix / 2).requires_grad_()
    symmetric = half + half.mT
    rhs.requires_grad_()
    weights = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(3, 8)
    iterated = (conjugate_gradient(product(symmetric), rhs, tolerance=1e-14).x * weights).sum()
    closed = (torch.linalg.solve(symmetric, rhs) * weights).sum()
    ours, theirs = (torch.autograd.grad(v, (half, rhs), retain_graph=True) for v in (iterated, closed))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()


@pytest.mark.parametrize("scale", [0.0, 1e-18, 1e-12, 1e-6])
def test_gradient_stays_finite_beside_a_sample_that_has_nothing_to_solve(scale):
    """A blank slice in a batch: squares of its residual leave the range of float32."""
    diagonal = torch.linspace(1e-4, 1e-3, 50)
    rhs = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [scale]])
    rhs.requires_grad_()
    conjugate_gradient(lambda v: v * diagonal, rhs).x.sum().backward()
    assert bool(rhs.grad.isfinite().all())
