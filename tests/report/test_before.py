"""The registered source as it lay before: interpolated once, from the original."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medfuse.pipeline import SaveFusiond
from medfuse.transforms import RegisterRigidd, ResampleToReference

GRID = np.diag([3.0, 3.0, 3.0, 1.0])


def head(shift):
    """Return a ball with a spot beside its middle, moved by a shift in mm."""
    place = np.stack(np.meshgrid(*[3.0 * np.arange(32) - 46.5] * 3, indexing="ij"))
    ball = (np.linalg.norm(place, axis=0) < 36) * (2.0 + np.sin(place[0] / 7) + np.cos(place[1] / 5 + place[2] / 9))
    affine = GRID.copy()
    affine[:3, 3] = shift
    return MetaTensor(torch.from_numpy(ball)[None].float(), affine=torch.from_numpy(affine))


@pytest.fixture(scope="module")
def registered():
    return RegisterRigidd()({"mri": head((0, 0, 0)), "pet": head((4.0, -5.0, 3.0))})


@pytest.fixture
def writer(tmp_path):
    return SaveFusiond(output_dir=tmp_path, weights=tmp_path / "weights.pt")


def test_it_is_the_original_interpolated_once(registered, writer):
    assert registered["pet_registration"]["accepted"]
    once = ResampleToReference()(head((4.0, -5.0, 3.0)), registered["mri"])[0]
    assert torch.equal(writer._before(registered), once.as_tensor())


def test_there_is_none_without_a_registration_or_outside(registered, writer):
    assert writer._before({"mri": head((0, 0, 0)), "pet": head((0, 0, 0))}) is None
    assert writer._before({**registered, "pet_before": head((900.0, 0, 0))}) is None
