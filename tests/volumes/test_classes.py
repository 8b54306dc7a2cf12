"""Shares of tissues in an MRI by its intensity."""

from __future__ import annotations

import pytest
import torch

from medfuse.volumes.classes import classes, classes_nearby

SPACING = (2.0, 2.0, 2.0)


def narrow_in_wide() -> torch.Tensor:
    """Return an MRI in which a narrow tissue lies below the middle of a wide one, which covers it: its levels cross."""
    u = (torch.arange(6000, dtype=torch.float64) + 0.5) / 6000
    normal = torch.special.ndtri(u)
    parts = [
        torch.zeros(5000),
        0.2 + 0.05 * normal,
        (0.2 - 0.08 * torch.log1p(-u)).clamp_max(1.2),
        0.2 + 0.004 * normal[::2],
        0.2 + 0.004 * normal[1::2],
        0.98 + 0.01 * normal[::2],
        torch.zeros(1000),
    ]
    values = torch.cat(parts).abs().float()
    return values[:27000].reshape(30, 30, 30)


@pytest.mark.parametrize("spacing", [None, SPACING])
def test_the_darkest_class_comes_first_where_a_wide_one_covers_a_narrow_one_too(spacing):
    """The regression ties neighbours by intensity to each other: it must find them side by side."""
    mri = narrow_in_wide()
    shares = classes(mri, 5, spacing).flatten(1)
    means = (shares @ mri.flatten()) / shares.sum(1)
    assert bool((means.diff() > 0).all())
    assert torch.allclose(shares.sum(0), torch.ones(()), atol=1e-5)


def test_classes_nearby_have_the_same_order():
    mri = narrow_in_wide()
    shares = classes_nearby(mri, SPACING).flatten(1)
    means = (shares @ mri.flatten()) / shares.sum(1)
    assert bool((means.diff() > 0).all())
