"""Who is like whom in the MRI, and what a PET gains by it."""

from __future__ import annotations

import pytest
import torch

from medfuse.volumes.bowsher import Neighbours

EVERYWHERE = torch.ones((9, 8, 10), dtype=torch.bool)


def test_the_mean_is_over_voxels_of_the_same_side_of_a_border():
    mri = torch.full((9, 8, 10), 100.0)
    mri[:, :, 5:] = 300.0
    pet = torch.where(mri > 200, 4.0, 1.0)
    near = Neighbours.of(mri, (2.0, 2.0, 2.0), EVERYWHERE)
    assert near.alike.shape == (8, 720)
    inner = (slice(1, -1),) * 3  # a corner of a side has 7 neighbours
    assert torch.equal(near.means(pet[None]).reshape(pet.shape)[inner], pet[inner])


def test_an_mri_that_shows_nothing_moves_no_uptake():
    """A ramp stays: of neighbours that are as alike, none is preferred by its side."""
    shape = (40, 40, 40)
    ramp = torch.arange(40.0).expand(shape)
    for axes in ((0, 1, 2), (0, 2, 1), (2, 1, 0)):
        near = Neighbours.of(torch.ones(shape), (2.0, 2.0, 2.0), torch.ones(shape, dtype=torch.bool))
        moved = near.means(ramp.permute(axes)[None]).reshape(shape) - ramp.permute(axes)
        assert float(moved[2:-2, 2:-2, 2:-2].mean()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("spacing", "reach", "count"),
    [
        ((2.0, 2.0, 2.0), {1}, 8),
        ((1.3, 1.3, 1.3), {1, 2}, 12),
        ((1.0, 1.0, 1.0), {1, 2}, 12),
        ((0.5, 0.5, 0.5), {1, 4}, 12),
        ((1.0, 1.0, 5.0), {1, 2}, 3),
    ],
)
def test_neighbours_are_about_two_millimetres_away_and_of_finer_voxels_beside_each_other_too(spacing, reach, count):
    shape = (12, 12, 12)
    where = torch.zeros(shape, dtype=torch.bool)
    where[6, 6, 6] = True
    near = Neighbours.of(torch.rand(shape, generator=torch.Generator().manual_seed(1)), spacing, where)
    assert near.alike.shape == (count, 1)
    at = torch.stack(torch.unravel_index(near.voxels[0] + near.offsets[near.alike[:, 0].long()], shape)) - 6
    assert set(at.abs().amax(0).tolist()) == reach
    assert spacing[2] < 5 or bool((at[2] == 0).all())


def test_what_is_the_same_everywhere_stays_at_the_borders_of_the_image_too():
    mri = torch.rand((9, 8, 10), generator=torch.Generator().manual_seed(0))
    near = Neighbours.of(mri, (2.0, 2.0, 2.0), EVERYWHERE)
    assert torch.equal(near.means(torch.full((1, *mri.shape), 3.0)), torch.full((1, 720), 3.0))


def test_only_the_voxels_that_are_asked_for_move_and_by_their_strength():
    where = torch.zeros((9, 8, 10), dtype=torch.bool)
    where[2:5, 2:5, 2:5] = True
    generator = torch.Generator().manual_seed(0)
    mri, pet = torch.rand((2, 9, 8, 10), generator=generator)
    near = Neighbours.of(mri, (2.0, 2.0, 2.0), where)
    moved = near.smoothed(pet[None], torch.full((27,), 0.25))[0]
    assert torch.equal(moved[~where], pet[~where])
    assert torch.allclose(moved[where], 0.75 * pet[where] + 0.25 * near.means(pet[None])[0])
    assert torch.equal(near.smoothed(pet[None], torch.zeros(27))[0], pet)


def test_one_voxel_that_outshines_the_mri_changes_nothing_elsewhere():
    """Values of the order of 1, and one of 1e9: what is close is still told by the former."""
    mri = torch.rand((9, 8, 10), generator=torch.Generator().manual_seed(0))
    broken = mri.clone()
    broken[4, 4, 5] = 1e9
    far = torch.ones_like(EVERYWHERE)
    far[3:6, 3:6, 4:7] = False
    whole, other = (Neighbours.of(m, (2.0, 2.0, 2.0), far) for m in (mri, broken))
    same = (whole.alike.sort(0)[0] == other.alike.sort(0)[0]).all(0).float().mean()
    assert float(same) > 0.99


def test_noise_of_a_tissue_falls_and_its_border_stays():
    generator = torch.Generator().manual_seed(0)
    truth = torch.where(torch.arange(24) < 12, 1.0, 4.0).expand(24, 24, 24)
    mri = 200 * truth + 10 * torch.randn(truth.shape, generator=generator)
    near = Neighbours.of(mri, (2.0, 2.0, 2.0), torch.ones(truth.shape, dtype=torch.bool))
    x = truth + torch.randn(truth.shape, generator=generator)
    strength = torch.full((truth.numel(),), 0.8)
    for _ in range(10):
        x = near.smoothed(x[None], strength)[0]
    inner = (x - truth)[3:-3, 3:-3, 3:-3]
    assert float(inner.std()) < 0.25
    assert float(inner[..., 7:11].abs().mean()) < 0.2


def test_no_voxel_is_no_error():
    near = Neighbours.of(torch.rand(4, 4, 4), (2.0, 2.0, 2.0), torch.zeros((4, 4, 4), dtype=torch.bool))
    x = torch.rand(4, 4, 4)
    assert torch.equal(near.smoothed(x[None], torch.zeros(0))[0], x)
