"""Every operator through every law."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from physics.close import assert_close, rand
from torch import Tensor

from medfuse.physics import (
    Composition,
    Convolution,
    Degradation,
    Downsample,
    GaussianBlur,
    Grid,
    Identity,
    KrylovModel,
    LinearOperator,
    Mask,
    MissingSlices,
    MotionBlur,
    SpectralChain,
    SpectralModel,
    SpectralOperator,
    bind,
    compose,
)

BATCH = 2
LAMBDA = 1e-3
shapes = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 7)),
    st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 5)),
)
seeds = st.integers(0, 2**31)


def law(shape=shapes, examples=8):
    """Run a law on drawn shapes and seeds, the same ones every time."""
    settled = settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    return lambda function: settled(given(spatial=shape, seed=seeds)(function))


@dataclass(frozen=True)
class Case:
    """How to make an operator for images of a shape, and how to slice one sample out of its parameters."""

    name: str
    make: Callable[[Sequence[int]], LinearOperator]
    single: Callable[[Sequence[int], int], LinearOperator] | None = None

    def __str__(self) -> str:
        return self.name


def per_axis(spatial: Sequence[int], *values: float) -> list[float]:
    return list(values[: len(spatial)])


def mask(spatial: Sequence[int]) -> Tensor:
    return (rand(BATCH, 1, *spatial, seed=5) > -0.7).double()


def kernel(ndim: int) -> Tensor:
    return rand(BATCH, *(3, 5, 3)[:ndim], seed=6)


class FieldOfView(LinearOperator):
    """The far half of the image along its last axis, which is all that a scanner saw: bound to two grids."""

    def __init__(self, spatial: Sequence[int]) -> None:
        self._first = spatial[-1] // 2
        self._domain = Grid.of_spacing(spatial, [2.0] * len(spatial))
        seen = (*spatial[:-1], spatial[-1] - self._first)
        affine = [list(row) for row in Grid.of_spacing(seen, [2.0] * len(seen)).affine]
        affine[-2][-1] = 2.0 * self._first
        self._range = Grid(seen, affine)

    @property
    def domain(self) -> Grid:
        return self._domain

    @property
    def range(self) -> Grid:
        return self._range

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self._first :].clone()

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        return F.pad(y, (self._first, 0))


SIGMA = torch.tensor([0.6, 1.9], dtype=torch.float64)
SIGMAS = torch.tensor([[0.5, 1.1, 0.8], [1.7, 0.0, 0.9]], dtype=torch.float64)
LENGTH, ANGLE = torch.tensor([5.0, 3.4]), torch.tensor([30.0, -75.0])

CASES = [
    Case("identity", lambda s: Identity()),
    Case("blur", lambda s: GaussianBlur(1.3)),
    Case("blur-none", lambda s: GaussianBlur(0.0)),
    Case("blur-anisotropic", lambda s: GaussianBlur(per_axis(s, 0.4, 1.5, 0.9))),
    Case("blur-mm", lambda s: GaussianBlur.from_fwhm(4.0, per_axis(s, 1.0, 2.0, 3.3))),
    Case("blur-per-sample", lambda s: GaussianBlur(SIGMA), lambda s, b: GaussianBlur(float(SIGMA[b]))),
    Case(
        "blur-per-sample-anisotropic",
        lambda s: GaussianBlur(SIGMAS[:, : len(s)]),
        lambda s, b: GaussianBlur(SIGMAS[b, : len(s)].tolist()),
    ),
    Case("average-2", lambda s: Downsample(2)),
    Case("average-3", lambda s: Downsample(3)),
    Case("average-4", lambda s: Downsample(4)),
    Case("average-anisotropic", lambda s: Downsample([2, 1, 3][: len(s)])),
    Case("bicubic-2", lambda s: Downsample(2, "bicubic")),
    Case("bicubic-3", lambda s: Downsample(3, "bicubic")),
    Case("bicubic-4", lambda s: Downsample(4, "bicubic")),
    Case("composite", lambda s: Downsample(2, "bicubic") @ GaussianBlur(0.8)),
    Case("blur-after-average", lambda s: GaussianBlur(0.7) @ Downsample(2)),
    Case("two-decimations", lambda s: Downsample(3, "bicubic") @ Downsample(2)),
    Case(
        "composite-per-sample",
        lambda s: Downsample(2) @ GaussianBlur(SIGMA),
        lambda s, b: Downsample(2) @ GaussianBlur(float(SIGMA[b])),
    ),
    Case("convolution", lambda s: Convolution(kernel(len(s))), lambda s, b: Convolution(kernel(len(s))[b : b + 1])),
    Case(
        "motion",
        lambda s: MotionBlur(LENGTH, ANGLE, ndim=len(s)),
        lambda s, b: MotionBlur(LENGTH[b], ANGLE[b], ndim=len(s)),
    ),
    Case("motion-other-plane", lambda s: MotionBlur(4.0, 20.0, ndim=len(s), plane=(1, 0))),
    Case("mask", lambda s: Mask(mask(s)), lambda s, b: Mask(mask(s)[b : b + 1])),
    Case("missing-slices", lambda s: MissingSlices((0, -1), axis=1)),
    Case("motion-then-average", lambda s: Downsample(2) @ MotionBlur(3.0, 45.0, ndim=len(s))),
    Case("blur-motion-mask", lambda s: Mask(mask(s)) @ MotionBlur(3.0, 10.0, ndim=len(s)) @ GaussianBlur(0.9)),
    Case("bound-to-grids", lambda s: FieldOfView(s)),
]
every = pytest.mark.parametrize("case", CASES, ids=str)
spectral = pytest.mark.parametrize("case", [c for c in CASES if isinstance(c.make((4, 4)), SpectralOperator)], ids=str)


def dense(op: LinearOperator, spatial: Sequence[int]) -> Tensor:
    """Return the matrix of each sample, [BATCH, M, N], column by column."""
    unit = torch.eye(math.prod(spatial), dtype=torch.float64).reshape(-1, 1, 1, *spatial)
    return torch.stack([op.forward(e.expand(BATCH, -1, *spatial)).flatten(1) for e in unit], -1)


def apply(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix @ x.flatten(1)[..., None])[..., 0]


def image_and_data(op: LinearOperator, spatial: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    return rand(BATCH, 1, *spatial, seed=seed), rand(BATCH, 1, *op.out_spatial(spatial), seed=seed + 1)


# ------------------------------------------------------------------------------------------------------------- the laws
@every
@law()
def test_adjoint_passes_the_dot_test(case, spatial, seed):
    op = case.make(spatial)
    x, y = image_and_data(op, spatial, seed)
    left, right = (op.forward(x) * y).sum(), (x * op.adjoint(y, spatial)).sum()
    assert abs(left - right) <= 1e-11 * (x.norm() * y.norm() + 1)


@every
@law()
def test_forward_is_linear(case, spatial, seed):
    op = case.make(spatial)
    x, z = rand(BATCH, 1, *spatial, seed=seed), rand(BATCH, 1, *spatial, seed=seed + 1)
    assert_close(op.forward(2.5 * x - 0.7 * z), 2.5 * op.forward(x) - 0.7 * op.forward(z))


@every
@law(examples=5)
def test_dense_matrix_gives_forward_and_adjoint(case, spatial, seed):
    op = case.make(spatial)
    matrix = dense(op, spatial)
    x, y = image_and_data(op, spatial, seed)
    assert_close(op.forward(x).flatten(1), apply(matrix, x))
    assert_close(op.adjoint(y, spatial).flatten(1), apply(matrix.mT, y))


@every
@law()
def test_adjoint_is_the_gradient_of_forward(case, spatial, seed):
    op = case.make(spatial)
    x, y = image_and_data(op, spatial, seed)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(op.forward(x), x, y)
    assert_close(op.adjoint(y, spatial), gradient)


def assert_solves(op: LinearOperator, spatial: Sequence[int], seed: int, closed: bool) -> None:
    """Compare with `x + A'(A A' + lambda)^-1 (y - A x)`: a floor of sqrt(lambda), an estimate of variance one."""
    x, y = image_and_data(op, spatial, seed)
    y = op.forward(op.adjoint(y, spatial))  # data that an image can have given: others prove the floor too low
    degradation = Degradation((op,), floor=math.sqrt(LAMBDA))
    model = bind(degradation, y, spatial)
    assert isinstance(model, SpectralModel if closed else KrylovModel)
    if not closed:
        model = KrylovModel(degradation, y, spatial, tolerance=1e-13, max_iterations=1000)
    matrix = dense(op, spatial)
    gram = matrix @ matrix.mT + LAMBDA * torch.eye(matrix.shape[1], dtype=torch.float64)
    left = y.flatten(1) - apply(matrix, x)
    # one by one: batches of matrices with more than 150 rows come out wrong with two threads (pytorch issue 142815)
    solved = torch.stack([torch.linalg.solve(*pair) for pair in zip(gram.expand(BATCH, -1, -1), left, strict=True)])
    step = apply(matrix.mT, solved)
    assert_close(model.update(x, torch.ones(BATCH)).x.flatten(1), x.flatten(1) + step, rtol=1e-8)
    assert_close(model.pseudo_inverse(model.residual(x), ridge=LAMBDA).flatten(1), step, rtol=1e-8)


@every
@law(examples=5)
def test_regularised_solve_equals_the_dense_one(case, spatial, seed):
    op = case.make(spatial)
    assert_solves(op, spatial, seed, closed=isinstance(op, SpectralOperator) and op.divides(spatial))


@spectral
@pytest.mark.parametrize("spatial", [(12, 12), (24, 6), (6, 6, 6)])
def test_closed_form_solves_at_symmetric_borders(case, spatial):
    """Sizes that the decimation divides, so that the closed form itself is on trial, borders included."""
    op = case.make(spatial)
    if not op.divides(spatial):
        spatial = (12, 12)
    assert_solves(case.make(spatial), spatial, 3, closed=True)


@every
@law()
def test_shapes_of_domain_and_range(case, spatial, seed):
    op = case.make(spatial)
    x, y = image_and_data(op, spatial, seed)
    assert tuple(op.forward(x).shape) == (BATCH, 1, *op.out_spatial(spatial))
    assert tuple(op.adjoint(y, spatial).shape) == (BATCH, 1, *spatial)
    natural = op.in_spatial(op.out_spatial(spatial))
    assert op.out_spatial(natural) == op.out_spatial(spatial)
    assert all(big >= n for big, n in zip(natural, spatial, strict=True))


@every
@law(examples=4)
def test_channels_are_treated_alike(case, spatial, seed):
    op = case.make(spatial)
    x = rand(BATCH, 3, *spatial, seed=seed)
    whole = op.forward(x)
    for c in range(3):
        assert_close(whole[:, c : c + 1], op.forward(x[:, c : c + 1]))


@pytest.mark.parametrize("case", [c for c in CASES if c.single], ids=str)
@law()
def test_parameters_per_sample_equal_single_runs(case, spatial, seed):
    op = case.make(spatial)
    x, y = image_and_data(op, spatial, seed)
    whole, back = op.forward(x), op.adjoint(y, spatial)
    for b in range(BATCH):
        single = case.single(spatial, b)
        assert_close(whole[b : b + 1], single.forward(x[b : b + 1]))
        assert_close(back[b : b + 1], single.adjoint(y[b : b + 1], spatial))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_preserved(case, dtype):
    op = case.make((6, 5))
    x, y = (v.to(dtype) for v in image_and_data(op, (6, 5), 0))
    assert op.forward(x).dtype == dtype
    assert op.adjoint(y, (6, 5)).dtype == dtype


@every
def test_float32_agrees_with_float64(case):
    op = case.make((12, 9))
    x, y = image_and_data(op, (12, 9), 0)
    assert_close(op.forward(x.float()).double(), op.forward(x), rtol=1e-5)
    assert_close(op.adjoint(y.float(), (12, 9)).double(), op.adjoint(y, (12, 9)), rtol=1e-5)


@every
def test_inputs_are_not_modified(case):
    op = case.make((6, 5))
    x, y = image_and_data(op, (6, 5), 0)
    kept_x, kept_y = x.clone(), y.clone()
    op.forward(x)
    op.adjoint(y, (6, 5))
    assert torch.equal(x, kept_x)
    assert torch.equal(y, kept_y)


def state(value: object) -> object:
    """Return everything an operator holds, as something that can be compared."""
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), value.flatten().tolist())
    if isinstance(value, (tuple, list)):
        return [state(v) for v in value]
    if hasattr(value, "__dict__"):
        return {k: state(v) for k, v in vars(value).items()}
    return value


@every
def test_a_call_leaves_no_trace_on_the_operator(case):
    op = case.make((6, 5))
    before = copy.deepcopy(state(op))
    x, y = image_and_data(op, (6, 5), 0)
    first = op.forward(x)
    op.adjoint(y, (6, 5))
    _ = op @ GaussianBlur(1.0), GaussianBlur(1.0) @ op
    assert state(op) == before
    assert torch.equal(op.forward(x), first)


@pytest.mark.parametrize(
    "case", [c for c in CASES if isinstance(c.make((7, 5)), (SpectralOperator, MotionBlur))], ids=str
)
def test_rows_of_blur_and_decimation_sum_to_one(case):
    """What is flat stays flat, borders included."""
    flat = case.make((7, 5)).forward(torch.ones(BATCH, 1, 7, 5, dtype=torch.float64))
    assert_close(flat, torch.ones_like(flat))


@every
@law(examples=4)
def test_white_gain_is_the_mean_variance_of_filtered_white_noise(case, spatial, seed):
    op = case.make(spatial)
    if isinstance(op, SpectralOperator):
        spatial = op.in_spatial(op.out_spatial(spatial))
    matrix = dense(op, spatial)
    expected = (matrix @ matrix.mT).diagonal(dim1=1, dim2=2).mean(1)
    gain = op.white_gain(spatial, matrix).expand(BATCH)
    if isinstance(op, SpectralOperator):
        assert_close(gain, expected)
    else:  # a Monte Carlo estimate from eight images
        spread = 4 * math.sqrt(2 / (8 * matrix.shape[1]))
        heavy = (matrix @ matrix.mT).norm(dim=(1, 2)) / (matrix.shape[1] ** 0.5)
        assert bool(((gain - expected).abs() <= spread * heavy + 1e-12).all())


@every
def test_power_gains_of_a_constant_wave(case):
    """A wave of frequency zero passes blur and decimation whole; faster ones never come out stronger than they went."""
    op = case.make((16, 16))
    if isinstance(op, (SpectralOperator, MotionBlur)):
        gains = op.power_gains(torch.tensor([0.0, 0.5, 1.5], dtype=torch.float64), (16, 16))
        assert gains.shape[1:] == (2, 3)
        assert_close(gains[..., 0], torch.ones_like(gains[..., 0]))
        assert float(gains.min()) >= 0
        assert float(gains.max()) <= 1.25


@pytest.mark.parametrize("op", [GaussianBlur(1.1), GaussianBlur([0.5, 2.0])], ids=["isotropic", "anisotropic"])
def test_power_gains_of_a_blur_are_those_of_the_default(op):
    omega = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64) * math.pi
    fast, slow = op.power_gains(omega, (400, 400)), LinearOperator.power_gains(op, omega, (400, 400))
    assert torch.allclose(fast, slow, atol=0.01)


# ---------------------------------------------------------------------------------------------------------- composition
PAIRS = [
    ("blur, average", lambda: (GaussianBlur(1.2), Downsample(2))),
    ("blur, bicubic", lambda: (GaussianBlur(2.0), Downsample(3, "bicubic"))),
    ("average, blur", lambda: (Downsample(2), GaussianBlur(0.9))),
    ("average, bicubic", lambda: (Downsample(3), Downsample(2, "bicubic"))),
    ("bicubic, average", lambda: (Downsample(2, "bicubic"), Downsample(4))),
    ("blur, motion", lambda: (GaussianBlur(1.0), MotionBlur(4.0, 30.0))),
    ("motion, average", lambda: (MotionBlur(4.0, 30.0), Downsample(2))),
    ("average, missing", lambda: (Downsample(2), MissingSlices((0,), 0))),
    ("identity, motion", lambda: (Identity(), MotionBlur(4.0, 30.0))),
]


@pytest.mark.parametrize("pair", [p for _, p in PAIRS], ids=[n for n, _ in PAIRS])
@law(st.tuples(st.integers(1, 25), st.integers(1, 25)), examples=15)
def test_a_product_applies_its_right_factor_first(pair, spatial, seed):
    """For every size: also where the decimation does not divide it and images are continued at the border."""
    first, then = pair()
    product = then @ first
    x = rand(BATCH, 1, *spatial, seed=seed)
    assert_close(product.forward(x), then.forward(first.forward(x)))
    y = rand(BATCH, 1, *product.out_spatial(spatial), seed=seed)
    middle = first.out_spatial(spatial)
    assert product.out_spatial(spatial) == then.out_spatial(middle)
    assert_close(product.adjoint(y, spatial), first.adjoint(then.adjoint(y, middle), spatial))


def test_composition_is_associative_and_flat():
    a, b, c = GaussianBlur(1.0), MotionBlur(3.0, 0.0), Downsample(2)
    x = rand(1, 1, 9, 8)
    left, right = (c @ b) @ a, c @ (b @ a)
    assert_close(left.forward(x), right.forward(x))
    assert isinstance(left, Composition)
    assert len(left.operators) == len(right.operators) == 3


def test_neighbouring_spectral_operators_merge_and_identities_vanish():
    assert isinstance(compose(Downsample(2), GaussianBlur(1.0), GaussianBlur(2.0)), SpectralChain)
    assert isinstance(compose(Identity(), Identity()), Identity)
    blur = GaussianBlur(1.0)
    assert compose(Identity(), blur) is blur
    assert len(compose(MotionBlur(3.0, 0.0), Downsample(2), blur).operators) == 2


def test_two_blurs_add_their_variances():
    x = rand(1, 1, 32, 32)
    assert_close((GaussianBlur(1.2) @ GaussianBlur(1.6)).forward(x), GaussianBlur(2.0).forward(x), rtol=1e-3)
