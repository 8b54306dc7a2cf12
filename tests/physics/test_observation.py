"""The joint observation model against dense matrices, simulated truth and its own promises."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from physics.dense import BATCH, DEGRADATIONS, KRYLOV, RIDGE, assert_close, matrices, observe, rand, tight, times
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.physics import (
    CORRECTIONS,
    Downsample,
    GaussianBlur,
    JointDegradation,
    JointObservation,
    Prediction,
    correction,
    replicate,
    unreplicate,
)

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
