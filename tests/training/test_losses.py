from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity as reference_ssim
from torch import Tensor

from medfuse.diffusion import FusionState
from medfuse.fusion.similarity import (
    complementarity,
    edge_preservation,
    gradients,
    shared_information,
    structural_similarity,
    visual_information,
)
from medfuse.metrics import mutual_information, sum_of_correlations_of_differences
from medfuse.metrics.gradients import edge_transfer
from medfuse.physics import GaussianBlur
from medfuse.training.losses import FusionLoss


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(seed: int = 0, batch: int = 2, size: tuple[int, int] = (13, 14)) -> FusionState:
    return FusionState(
        rand(batch, 3, *size, seed=seed).split(1, 1),
        rand(batch, 1, *size, seed=seed + 1),
        rand(batch, 2, *size, seed=seed + 2) - 4,
        torch.ones(batch, 2),
    )


# ----------------------------------------------------------------------------------------------------------------- SSIM
@pytest.mark.parametrize("size", [(11, 11), (24, 33), (40, 17)])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_is_that_of_scikit_image(size, data_range):
    x = rand(2, 2, *size) * data_range
    y = (0.7 * x + 0.3 * rand(2, 2, *size, seed=1) * data_range).clamp(0, data_range)
    ours = structural_similarity(x, y, data_range=data_range)
    assert ours.shape == (2, 2, size[0] - 10, size[1] - 10)
    for b, c in np.ndindex(2, 2):
        _, theirs = reference_ssim(
            x[b, c].numpy(),
            y[b, c].numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=data_range,
            full=True,
        )
        inside = torch.from_numpy(theirs[5:-5, 5:-5].copy())
        assert torch.allclose(ours[b, c], inside, rtol=1e-8, atol=1e-10)


def test_ssim_of_an_image_with_itself_is_one_and_with_any_other_less():
    x = rand(1, 1, 20, 20)
    assert torch.allclose(structural_similarity(x, x), torch.ones(1, 1, 10, 10, dtype=torch.float64))
    for other in (x + 0.1, 1 - x, x.mT):
        assert float(structural_similarity(x, other).mean()) < 0.99


def test_ssim_is_symmetric_and_differentiable():
    x, y = rand(1, 1, 12, 13), rand(1, 1, 12, 13, seed=1)
    assert torch.allclose(structural_similarity(x, y), structural_similarity(y, x))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: structural_similarity(v, y), x)


def test_ssim_in_float32_is_precise_enough():
    x, y = rand(1, 1, 32, 32), rand(1, 1, 32, 32, seed=1)
    exact = structural_similarity(x, y)
    assert torch.allclose(structural_similarity(x.float(), y.float()).double(), exact, atol=1e-4)


# --------------------------------------------------------------------------------------------------- visual information
def test_visual_information_is_one_for_the_image_less_for_a_worse_and_none_for_a_flat_one():
    x = rand(2, 2, 64, 48)
    assert torch.allclose(visual_information(x, x), torch.ones(2, 2, dtype=torch.float64), atol=1e-3)
    noisy, noisier = (x + std * (rand(2, 2, 64, 48, seed=1) - 0.5) for std in (0.2, 0.6))
    assert bool((visual_information(x, noisier) < visual_information(x, noisy)).all())
    assert bool((visual_information(x, noisy) < 0.99).all())
    assert float(visual_information(x, torch.full_like(x, 0.5)).max()) < 1e-4


def test_a_reference_without_information_is_carried_by_anything():
    for size in (12, 30):
        flat = torch.full((1, 1, size, size), 0.5, dtype=torch.float64)
        assert float(visual_information(flat, rand(1, 1, size, size))) == pytest.approx(1)


def test_visual_information_knows_no_offset_and_rewards_contrast():
    x = rand(1, 1, 40, 40)
    assert torch.allclose(visual_information(x, x + 0.3), visual_information(x, x), atol=1e-6)
    assert float(visual_information(x, 1.3 * x)) > 1.0 > float(visual_information(x, 0.7 * x))


@pytest.mark.parametrize("size", [(18, 17), (40, 36), (97, 64)])
def test_visual_information_is_differentiable_at_any_size_and_on_black(size):
    x = torch.cat([rand(1, 1, *size), torch.zeros(1, 1, *size, dtype=torch.float64)], 1)
    y = (0.5 * x + 0.1 * rand(1, 2, *size, seed=2) * (x > 0)).detach().requires_grad_()
    visual_information(x, y).sum().backward()
    assert bool(y.grad.isfinite().all())
    assert float(y.grad[:, 0].abs().max()) > 0


def test_visual_information_in_float32_and_on_a_scale_of_255_is_the_same():
    x, y = rand(1, 1, 50, 50), rand(1, 1, 50, 50, seed=1)
    exact = visual_information(x, y)
    assert torch.allclose(visual_information(x.float(), y.float()).double(), exact, rtol=1e-4)
    assert torch.allclose(visual_information(255 * x, 255 * y, data_range=255.0), exact, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------------- edges
def test_edges_are_kept_by_the_image_itself_and_lost_by_a_flat_an_inverted_and_a_turned_one():
    x = rand(2, 1, 24, 20)
    assert edge_preservation(x, x).tolist() == pytest.approx([1, 1])
    assert float(edge_preservation(x, x + 0.3).min()) == pytest.approx(1)
    for other in (torch.full_like(x, 0.5), 1 - x, x.flip(2)):
        assert float(edge_preservation(x, other).max()) < 0.2
    assert float(edge_preservation(x, 0.7 * x).max()) < float(edge_preservation(x, 0.9 * x).min()) < 1


def test_edges_agree_with_the_metric_where_one_source_is_all_there_is():
    x = GaussianBlur(1.5).forward(rand(4, 1, 40, 40))
    x = (x - x.amin((2, 3), keepdim=True)) / (x.amax((2, 3), keepdim=True) - x.amin((2, 3), keepdim=True))
    images = [x + std * (rand(4, 1, 40, 40, seed=3) - 0.5) for std in (0.0, 0.05, 0.2, 0.6)]
    metric = [float(edge_transfer(x, x, y, data_range=1.0, wrap=True).mean()) for y in images]
    ours = [float(edge_preservation(x, y).mean()) for y in images]
    assert ours == pytest.approx(metric, abs=0.12)
    assert sorted(ours, reverse=True) == ours


def test_edges_are_differentiable_on_black_too():
    black = torch.zeros(1, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    edge_preservation(torch.cat([black.detach(), rand(1, 1, 12, 12)], 1), black.expand(1, 2, -1, -1)).sum().backward()
    assert bool(black.grad.isfinite().all())


# --------------------------------------------------------------------------------------------------- shared information
def test_shared_information_agrees_with_the_metric_on_images_of_few_levels():
    """On the levels of the histogram themselves there is nothing to interpolate, and both count the same cells."""
    a, b, f = (torch.randint(0, 4, (2, 1, 30, 30), generator=torch.Generator().manual_seed(k)) for k in range(3))
    f = torch.where(f < 2, a, b)
    a, b, f = (v / 3.0 for v in (a, b, f))
    pair = torch.cat([a, b], 1).double()
    share = shared_information(pair, f.double(), levels=4)
    p = [[(v == level / 3.0).double().mean((2, 3)) for level in range(4)] for v in (a, b)]
    entropy = torch.cat([-sum(q * q.log2() for q in levels) for levels in p], 1)
    metric = mutual_information(a, b, f, data_range=1.0)
    assert (share * entropy).sum(1).tolist() == pytest.approx(metric.tolist(), rel=1e-3)


def test_shared_information_knows_no_tone_and_sees_noise():
    x, noise = rand(1, 2, 64, 64), rand(1, 2, 64, 64, seed=5) - 0.5
    itself, inverted, noisy, noisier, foreign = (
        shared_information(x, y).min() for y in (x, 1 - x, x + 0.1 * noise, x + 0.5 * noise, rand(1, 1, 64, 64, seed=6))
    )
    assert float(itself) == pytest.approx(float(inverted), abs=1e-6)
    assert 0.05 > foreign < noisier < noisy < itself <= 1
    assert torch.allclose(shared_information(255 * x, 255 * noise, data_range=255.0), shared_information(x, noise))


def test_everything_tells_all_of_a_flat_reference_and_a_flat_image_tells_nothing():
    x, flat = rand(1, 1, 20, 20), torch.full((1, 1, 20, 20), 0.3, dtype=torch.float64)
    assert float(shared_information(flat, x)) == pytest.approx(1, abs=1e-3)
    assert float(shared_information(x, flat)) == pytest.approx(0, abs=1e-3)


def test_shared_information_is_differentiable():
    x, y = rand(1, 2, 9, 8), (0.9 * rand(1, 1, 9, 8, seed=1) + 0.05).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: shared_information(x, v, levels=8), y)


# ------------------------------------------------------------------------------------------------------ complementarity
def test_complementarity_sums_to_the_scd():
    pair, fused = rand(3, 2, 20, 21), rand(3, 1, 20, 21, seed=1)
    scd = sum_of_correlations_of_differences(*pair.split(1, 1), fused, data_range=1.0)
    assert complementarity(pair, fused).sum(1).tolist() == pytest.approx(scd.tolist(), abs=1e-5)
    assert complementarity(pair, pair.sum(1, keepdim=True)).flatten().tolist() == pytest.approx([1] * 6, abs=1e-4)


def test_complementarity_of_a_flat_source_is_0_and_differentiable():
    pair = torch.cat([rand(1, 1, 9, 9), torch.zeros(1, 1, 9, 9, dtype=torch.float64)], 1)
    fused = pair[:, :1].clone().requires_grad_()
    value = complementarity(pair, fused)
    value.sum().backward()
    assert float(value[:, 1].detach()) == 0
    assert bool(fused.grad.isfinite().all())


# ------------------------------------------------------------------------------------------------------------ gradients
def test_gradients_are_forward_differences():
    x = torch.arange(6.0).reshape(1, 1, 2, 3) ** 2
    assert torch.equal(gradients(x), torch.tensor([[[[9.0, 15.0]], [[1.0, 3.0]]]]))


# ----------------------------------------------------------------------------------------------------------------- loss
def test_gradient_of_the_loss_is_that_of_finite_differences():
    """The likelihood reaches the log-variance alone, so it is left out where the images vary."""
    target = rand(1, 2, 12, 12, seed=9)
    base = state(batch=1, size=(12, 12))
    x, log_variance = base.x.requires_grad_(), base.log_variance.requires_grad_()

    def by_x(v: Tensor) -> Tensor:
        return FusionLoss(uncertainty=0.0)({"states": [base._replace(images=v.split(1, 1))]}, target)

    def by_variance(v: Tensor) -> Tensor:
        return FusionLoss()({"states": [base._replace(log_variance=v)]}, target)

    assert torch.autograd.gradcheck(by_x, x)
    assert torch.autograd.gradcheck(by_variance, log_variance)


def perfect(target: Tensor, steps: int = 2) -> list[FusionState]:
    """Return states that restore both sources exactly, and fuse equal sources exactly."""
    b, _, h, w = target.shape
    x = torch.cat([target, target[:, :1]], 1)
    weight, log_variance = target.new_full((b, 1, h, w), 0.5), target.new_zeros(b, 2, h, w)
    return [FusionState(x.split(1, 1), weight, log_variance, target.new_ones(b, 2)) for _ in range(steps)]


def test_perfect_restoration_and_fusion_of_equal_sources_cost_nothing():
    target = rand(2, 1, 16, 16).expand(-1, 2, -1, -1)
    assert float(FusionLoss()({"states": perfect(target)}, target)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_any_departure_from_the_perfect_costs(channel):
    target = rand(2, 1, 16, 16).expand(-1, 2, -1, -1)
    loss = FusionLoss()
    best = float(loss({"states": perfect(target)}, target))
    for seed, size in enumerate((0.001, 0.02, 0.3)):
        states = perfect(target)
        x = states[-1].x.clone()
        x[:, channel] += size * (rand(2, 16, 16, seed=seed) - 0.5)
        states[-1] = states[-1]._replace(images=x.split(1, 1))
        assert float(loss({"states": states}, target)) > best


@pytest.mark.parametrize("channel", [0, 1])
def test_perfect_restoration_is_best_for_different_sources_too(channel):
    target = rand(2, 2, 16, 16)
    loss = FusionLoss()
    best = float(loss({"states": perfect(target)}, target))
    states = perfect(target)
    x = states[-1].x.clone()
    x[:, channel] += 0.05 * (rand(2, 16, 16, seed=3) - 0.5)
    states[-1] = states[-1]._replace(images=x.split(1, 1))
    assert float(loss({"states": states}, target)) > best


def test_a_fusion_that_shows_the_stronger_edges_costs_less_than_one_that_shows_none():
    target = torch.zeros(1, 2, 20, 20, dtype=torch.float64)
    target[:, 0, :, 10:] = 1.0
    target[:, 1, 10:, :] = 0.5
    losses = []
    for fused in (target.amax(1, keepdim=True), torch.full((1, 1, 20, 20), 0.4, dtype=torch.float64)):
        s = perfect(target, 1)[0]
        losses.append(
            float(FusionLoss()({"states": [s._replace(images=torch.cat([target, fused], 1).split(1, 1))]}, target))
        )
    assert losses[0] < losses[1]


def test_the_step_that_was_run_last_counts():
    target, s = rand(2, 2, 13, 14, seed=9), state()
    loss = FusionLoss()
    assert torch.equal(loss({"states": [*perfect(target), s]}, target), loss({"states": [s]}, target))


NOTHING = dict.fromkeys(("restoration", "total", "ssim", "information", "intensity", "gradient", "edges", "black"), 0.0)


def cost(target: Tensor, x: Tensor, **weights: float) -> float:
    """Return the loss of a state **[B, 3, H, W]** by the terms that have a weight here."""
    s = perfect(target, 1)[0]._replace(images=x.split(1, 1))
    return float(FusionLoss(**(NOTHING | {"uncertainty": 0.0} | weights))({"states": [s]}, target))


def test_the_weaker_source_is_the_one_of_less_similarity():
    target = rand(3, 2, 20, 20)
    expected = 1 - float(structural_similarity(target[:, :1], target[:, 1:]).mean())
    assert cost(target, torch.cat([target, target[:, :1]], 1), weaker=1) == pytest.approx(0.1 * expected)


def test_the_same_error_costs_more_in_a_cold_region():
    target = torch.full((1, 2, 24, 24), 0.2, dtype=torch.float64)
    target[..., 12:] = 0.8
    off = {}
    for side, where in (("cold", slice(0, 12)), ("hot", slice(12, None))):
        x = perfect(target, 1)[0].x.clone()
        x[:, 1, :, where] -= 0.02
        off[side] = cost(target, x, regions=1)
    assert off["cold"] - off["hot"] == pytest.approx(0.5 * np.log(0.85 / 0.25), abs=0.1)  # one source of two
    spot = perfect(target, 1)[0].x.clone()
    spot[:, 1, 7, 9] += 0.1
    error = np.zeros((24, 24))
    error[7, 9] = 0.1
    means = np.lib.stride_tricks.sliding_window_view(error, (6, 6))[::3, ::3].mean((2, 3))
    level = np.lib.stride_tricks.sliding_window_view(target[0, 1].numpy(), (6, 6))[::3, ::3].mean((2, 3))
    expected = 0.25 * np.log1p(((means / (level + 0.05)) ** 2).mean() / 1e-6)  # of the mean over two sources
    assert cost(target, spot, regions=1) == pytest.approx(expected)
    noise = perfect(target, 1)[0].x + 0.02 * (2 * (torch.arange(24) % 2) - 1)  # the mean of no region changes
    assert cost(target, noise, regions=1) == pytest.approx(0, abs=1e-9)
    level = torch.full((1, 1, 24, 24), 0.45, dtype=torch.float64)
    everywhere = torch.cat([level + 0.05, level - 0.05, level], 1)
    assert cost(level.expand(-1, 2, -1, -1), everywhere, regions=1) == pytest.approx(
        0.5 * np.log1p((0.05 / 0.5) ** 2 / 1e-6)
    )


def test_a_term_without_weight_is_not_computed():
    """Images of 8 x 8 are too small for the windows of the structural term."""
    target, s = rand(1, 2, 8, 8), perfect(rand(1, 2, 8, 8), 1)
    with pytest.raises(RuntimeError):
        FusionLoss()({"states": s}, target)
    assert float(FusionLoss(ssim=0.0)({"states": s}, target)) > 0


def test_black_background_costs_what_is_above_it():
    target = rand(1, 2, 20, 20)
    target[..., :10] = 0.0
    s = perfect(target, 1)[0]
    costs = []
    for level in (-0.02, 0.0, 0.02):
        x = s.x.clone()
        x[:, 2, :, :10] = level
        costs.append(
            float(
                FusionLoss(intensity=0, gradient=0, ssim=0, information=0, edges=0, black=10)(
                    {"states": [s._replace(images=x.split(1, 1))]}, target
                )
            )
        )
    assert costs[0] == costs[1]
    assert costs[2] - costs[1] == pytest.approx(0.1 * 10 * 0.02 / 2)


def test_the_likelihood_trains_the_log_variance_alone_and_finds_the_error():
    target, s = rand(2, 2, 13, 14, seed=9), state()
    x = s.x.requires_grad_()
    s = s._replace(images=x.split(1, 1))
    with_it, without = (FusionLoss(uncertainty=u)({"states": [s]}, target) for u in (1e-3, 0.0))
    a, b = (torch.autograd.grad(v, x, retain_graph=True)[0] for v in (with_it, without))
    assert torch.equal(a, b)
    best = (s.x[:, :2] - target).detach().square().log().requires_grad_()
    FusionLoss()({"states": [s._replace(log_variance=best)]}, target).backward()
    assert float(best.grad.abs().max()) < 1e-15


def test_terms_are_weighed_by_their_arguments():
    target, s = rand(2, 2, 13, 14, seed=9), [state()]
    restoration = float(FusionLoss(fusion=0.0, total=0.0, uncertainty=0.0)({"states": s}, target))
    rmse = (s[0].x[:, :2] - target).square().mean((2, 3)).sqrt()
    assert restoration == pytest.approx(0.08 * float((rmse * 255 / 0.25).log().mean()), rel=1e-3)
    assert float(FusionLoss(restoration=0.0, total=0.0, fusion=0.0, uncertainty=0.0)({"states": s}, target)) == 0
    bias = (s[0].x[:, :2] - target).mean((2, 3)).abs().mean()
    total = float(FusionLoss(restoration=0.0, total=2.0, fusion=0.0, uncertainty=0.0)({"states": s}, target))
    assert total == pytest.approx(2 * float(bias))
    terms = ("ssim", "weaker", "information", "intensity", "gradient", "edges", "black", "shared", "complement")
    parts = [FusionLoss(**{t: float(t == term) for t in terms}, total=0.0, uncertainty=0.0) for term in terms]
    together = FusionLoss(**dict.fromkeys(terms, 1.0), total=0.0, uncertainty=0.0)
    total = sum(float(p({"states": s}, target)) - restoration for p in parts)
    assert float(together({"states": s}, target)) - restoration == pytest.approx(total)
