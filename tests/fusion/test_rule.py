"""The fusion rules: what they keep, what comes back, and that they are the same everywhere."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medfuse.errors import DegradationError, GeometryError
from medfuse.fusion.finish import Finish
from medfuse.fusion.rule import RULES, Evidence, TwoScale, fusion_rule, smoothed

RULE = TwoScale()


def textured(height: int = 48, width: int = 40, seed: int = 0) -> torch.Tensor:
    """Return an image **[1, 1, H, W]** of full range with detail of a few px."""
    noise = np.random.default_rng(seed).standard_normal((height, width))
    image = gaussian_filter(noise, 1.2)
    return torch.from_numpy(((image - image.min()) / np.ptp(image)).astype(np.float32))[None, None]


def spot(height: int = 48, width: int = 40, level: float = 0.8) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return level * torch.exp(-((y - height / 2) ** 2 + (x - width / 2) ** 2) / 128.0)[None, None]


def evidence(predicted: torch.Tensor, std: float = 0.0) -> Evidence:
    log_variance = torch.full_like(predicted, std).square().log()
    return Evidence(predicted, torch.full_like(predicted, 0.5), log_variance.expand(-1, 2, -1, -1))


@pytest.mark.parametrize("std", [1.0, 3.5])
@pytest.mark.parametrize("size", [(40, 37), (5, 3), (1, 1)])
def test_the_window_is_scipys_with_reflection(std, size):
    x = torch.rand(2, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [gaussian_filter(v.numpy(), std) for v in x[:, 0]]
    np.testing.assert_allclose(smoothed(x, std)[:, 0].numpy(), expected, atol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_where_one_source_is_empty_the_other_comes_back(scale):
    image, empty = scale * textured(), torch.zeros(1, 1, 48, 40)
    torch.testing.assert_close(RULE(image, empty), image, rtol=0, atol=1e-6)
    torch.testing.assert_close(RULE(empty, image), image, rtol=0, atol=1e-6)


def test_a_negative_uptake_stays_negative_where_there_is_no_anatomy():
    uptake = spot() - 0.2
    torch.testing.assert_close(RULE(torch.zeros_like(uptake), uptake), uptake, rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.3, 0.9])
def test_where_the_anatomy_is_flat_more_uptake_is_brighter(level):
    flat = torch.full((1, 1, 48, 40), level)
    images = [RULE(flat, share * spot())[0, 0, 24, 20] for share in np.linspace(0, 1, 9)]
    assert all(b > a for a, b in pairwise(images))


def test_the_detail_of_the_anatomy_is_kept_under_uptake_where_a_maximum_loses_it():
    anatomy, uptake = 0.6 * textured(), spot()
    hot = (uptake > 0.45 * uptake.max())[0, 0]

    def gain(fused: torch.Tensor) -> float:
        detail = [(v - smoothed(v, 3.0))[0, 0][hot] for v in (anatomy, fused)]
        return float((detail[0] * detail[1]).sum() / detail[0].square().sum())

    assert gain(RULE(anatomy, uptake)) > 0.75
    assert gain(torch.maximum(anatomy, uptake)) < 0.4


def test_dense_bone_stays_white_and_what_is_dark_in_the_other_source_stays_darker():
    """As in CT and MRI: bone at full range under textured skin and marrow, and a ventricle, dark in CT, bright in MRI.

    The base of bone makes room for detail: by `headroom` times what would be above full range.
    """
    anatomy, ct = 0.5 * textured(64, 64), torch.full((1, 1, 64, 64), 0.45)
    ct[..., :16] = 1.0
    ct[..., 26:38, 40:56] = 0.1
    anatomy[..., 26:38, 40:56] += 0.4
    bone = [float(TwoScale(headroom=share)(anatomy, ct)[..., 3:13].mean()) for share in (1, RULE.headroom, 0)]
    assert bone[0] < bone[1] < bone[2] and bone[1] > 0.85
    fused = RULE(anatomy, ct)[0, 0]
    ventricle = slice(29, 35), slice(43, 53)
    assert torch.maximum(anatomy, ct)[0, 0][ventricle].mean() - fused[ventricle].mean() > 0.05


def disc(radius: float, blur: float) -> torch.Tensor:
    """Return a blurred disc **[1, 1, 64, 64]** of 0.9."""
    y, x = np.mgrid[:64, :64] - 31.5
    return torch.from_numpy(gaussian_filter(0.9 * (np.hypot(y, x) < radius), blur).astype(np.float32))[None, None]


def test_an_edge_that_both_sources_have_is_shown_once_and_not_twice():
    """A brain that is bright in both, as cortex in T1 and FDG, gets no bright rim, and no glow beside it."""
    anatomy, uptake = disc(22, 0.7), disc(22, 2.0)
    fused = RULE(anatomy, uptake)
    assert (fused - torch.maximum(anatomy, uptake)).max() < 0.1  # the sum of both details has 0.25 too much
    assert fused[disc(26, 0.0) == 0].max() < 0.02


def test_the_fused_image_is_at_most_one_source_and_the_detail_of_the_other():
    anatomy, uptake = textured(), 0.9 * textured(seed=1)
    rise = [v - smoothed(v, 4.5) for v in (uptake, anatomy)]
    bound = torch.maximum(anatomy + rise[0].clamp_min(0), uptake + rise[1].clamp_min(0))
    assert (RULE(anatomy, uptake) <= bound + 1e-6).all()


def test_opposed_bases_show_the_uptake_and_the_details_of_the_anatomy():
    """White matter is bright in T1 and cold in FDG. Its base yields: it is dark, with the borders of the MRI."""
    white = disc(14, 0.7) / 0.9
    anatomy, uptake = 0.5 + 0.45 * white, 0.9 - 0.55 * disc(14, 2.5) / 0.9
    fused = RULE(anatomy + 0.05 * textured(64, 64), uptake)[0, 0]
    assert fused[28:36, 28:36].mean() < fused[:, :6].mean() - 0.15


def test_a_batch_and_a_volume_of_slices_are_as_each_image_by_itself():
    first, second = torch.cat([textured(seed=k) for k in (1, 2, 3)]), torch.cat([spot(level=v) for v in (0.2, 0.5, 1)])
    together = RULE(first, second)
    for k in range(3):
        assert torch.equal(RULE(first[k : k + 1], second[k : k + 1]), together[k : k + 1])
    assert torch.equal(RULE(first[None], second[None])[0], together)
    mirrored = RULE(first.flip(-1), second.flip(-1)).flip(-1)
    torch.testing.assert_close(mirrored, together, rtol=0, atol=1e-6)


def test_bfloat16_is_computed_in_float32():
    first, second = textured().bfloat16(), spot().bfloat16()
    fused = RULE(first, second)
    assert fused.dtype == torch.bfloat16
    assert torch.equal(fused, RULE(first.float(), second.float()).bfloat16())


def test_noise_in_the_dark_is_not_shown_and_what_is_more_than_noise_is():
    """Within three predicted deviations of 0, where the prediction is black; beyond six nothing is changed."""
    empty, black = torch.zeros(1, 1, 20, 20), torch.zeros(1, 1, 20, 20)
    std = 0.01 / 2**0.5  # of each source, together 0.01
    for level, shown in ((0.02, 0.0), (0.2, 0.2)):
        signal = torch.full_like(empty, level)
        torch.testing.assert_close(RULE(signal, empty, evidence(black, std)), torch.full_like(empty, shown))
        assert torch.equal(RULE(signal, empty, evidence(signal, std)), RULE(signal, empty))  # predicted to be there
        torch.testing.assert_close(RULE(signal, empty, evidence(black, 0.0)), signal)  # nothing to explain it


def test_sources_of_two_shapes_are_refused():
    with pytest.raises(GeometryError, match="images of one shape"):
        RULE(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 9))


def test_the_rules_by_name():
    first, second = textured(), spot()
    what = evidence(first * second)
    assert torch.equal(fusion_rule("predicted")(first, second, what), first * second)
    torch.testing.assert_close(fusion_rule("convex")(first, second, what), (first + second) / 2)
    assert torch.equal(Finish("two_scale")((first, second), what), RULES["two_scale"](first, second, what))
    assert Finish("convex", balance=3).steps == 0
    with pytest.raises(DegradationError, match=r"must be one of .*two_scale.*got 'maximum'"):
        Finish("maximum")
