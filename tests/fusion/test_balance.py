from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medfuse.fusion import balance
from medfuse.fusion.balance import balanced
from medfuse.fusion.similarity import edge_preservation, structural_similarity
from medfuse.physics import GaussianBlur


def scene(
    size: tuple[int, int] = (40, 36), batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return pairs of smooth sources and their mean, which favours neither, **[B, 3, H, W]**, 0..1."""
    generator = torch.Generator().manual_seed(seed)
    pair = GaussianBlur(1.0).forward(torch.rand(batch, 2, *size, generator=generator, dtype=dtype))
    pair[:, 1] = 0.2 + 0.3 * pair[:, 1]
    return torch.cat([pair, (0.8 * pair[:, :1] + 0.2 * pair[:, 1:])], 1)


def similarity(fused: Tensor, sources: Tensor) -> Tensor:
    return structural_similarity(fused.expand_as(sources), sources).mean((2, 3))


def test_the_slopes_are_those_of_autograd():
    images = scene()
    sources, fused = images[:, :2], images[:, 2:].clone().requires_grad_(True)
    sums = torch.zeros(2, 3, dtype=torch.float64)
    slopes = balance._climb(fused.detach(), sources, slice(0, 40), sums)
    values = similarity(fused, sources)
    for k in (0, 1):
        (expected,) = torch.autograd.grad(values[:, k].sum(), fused, retain_graph=True)
        torch.testing.assert_close(slopes[:, k : k + 1] / (30 * 26), expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(sums[:, :2] / (30 * 26), values.detach())
    (expected,) = torch.autograd.grad(edge_preservation(sources, fused.expand_as(sources)).sum(), fused)
    torch.testing.assert_close(slopes[:, 2:] / sums[:, 2, None, None, None], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 20, 39])
def test_parts_give_the_same_as_the_whole(rows, monkeypatch):
    images = scene()
    whole = balanced(images[:, 2:], images[:, :2], steps=2)
    monkeypatch.setattr(balance, "_ROWS", rows)
    torch.testing.assert_close(balanced(images[:, 2:], images[:, :2], steps=2), whole, rtol=0, atol=1e-12)


def test_the_source_that_is_worse_off_gains_and_edges_count(monkeypatch):
    images = scene((64, 64))
    sources, fused = images[:, :2], images[:, 2:]
    before, after = (similarity(f, sources) for f in (fused, balanced(fused, sources, steps=5)))
    assert bool((before[:, 1] < before[:, 0]).all())
    assert bool((after[:, 1] > before[:, 1] + 0.05).all())
    assert bool((after.amin(1) > before.amin(1)).all())
    kept = edge_preservation(sources, balanced(fused, sources, steps=5).expand_as(sources))
    monkeypatch.setattr(balance, "_EDGES", 0.0)
    without = edge_preservation(sources, balanced(fused, sources, steps=5).expand_as(sources))
    assert bool((kept > without + 0.01).all())


def test_no_pixel_changes_by_more_than_the_stride():
    images = scene()
    change = balanced(images[:, 2:], images[:, :2], steps=3) - images[:, 2:]
    assert 1 / 150 < float(change.abs().max()) <= 3 / 150 + 1e-6


def test_an_image_does_not_depend_on_its_batch():
    images = scene(batch=3)
    together = balanced(images[:, 2:], images[:, :2], steps=2)
    torch.testing.assert_close(balanced(images[1:2, 2:], images[1:2, :2], steps=2), together[1:2])


def test_what_shows_both_alike_hardly_moves():
    image = scene()[:, :1]
    moved = balanced(image, image.expand(-1, 2, -1, -1), steps=3)
    assert float(similarity(moved, image).min()) > 0.98


@pytest.mark.parametrize(("size", "steps"), [((10, 40), 3), ((40, 10), 3), ((40, 40), 0)])
def test_what_is_too_small_or_not_asked_for_stays(size, steps):
    images = scene(size)
    assert torch.equal(balanced(images[:, 2:], images[:, :2], steps=steps), images[:, 2:])


def test_flat_images_stay_finite():
    flat = torch.full((1, 3, 20, 20), 0.3)
    assert bool(balanced(flat[:, 2:], flat[:, :2], steps=3).isfinite().all())
    black = torch.zeros(1, 3, 20, 20)
    assert float(balanced(black[:, 2:], black[:, :2], steps=3).abs().max()) == 0


def test_float32_is_close_to_float64():
    exact, single = scene(), scene(dtype=torch.float64).float()
    found = balanced(single[:, 2:], single[:, :2], steps=3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), balanced(exact[:, 2:], exact[:, :2], steps=3), rtol=0, atol=1e-4)
