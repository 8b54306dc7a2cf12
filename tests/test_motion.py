"""Motion between frames of a dynamic PET: measured, whatever the tracer does meanwhile, and not invented in noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medfuse.registration.motion import measure_motion

SHAPE, SPACING = (40, 44, 24), np.array([4.0, 4.0, 5.0])
AFFINE = np.diag([*SPACING, 1.0])


def head(shift=(0.0, 0.0, 0.0), turn: float = 0.0) -> np.ndarray:
    """A head with a pattern, shifted, mm, and turned about the third axis, rad."""
    centre = (np.array(SHAPE) - 1) / 2
    x, y, z = ((i - c) * s - d for i, c, s, d in zip(np.indices(SHAPE), centre, SPACING, shift, strict=True))
    x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    inside = (x / 60) ** 2 + (y / 72) ** 2 + (z / 50) ** 2 < 1
    pattern = 1 + 0.8 * np.sin(x / 11) * np.cos(y / 13 + 1) + 0.5 * np.sin(z / 9)
    return gaussian_filter(inside * pattern, 0.8)


@pytest.mark.parametrize(("shift", "turn"), [((0, 0, 0), 0), ((5, 0, 0), 0), ((2, -3, 4), 0.06), ((0, 0, 0), 0.1)])
def test_motion_is_measured_though_the_tracer_washes_in(shift, turn):
    noise = np.random.default_rng(0).normal(0, 0.1, SHAPE)
    matrix, farthest = measure_motion(head() + noise, head(shift, turn) ** 2 / 3 + noise[::-1] / 3, AFFINE)
    angle = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
    assert angle == pytest.approx(-np.degrees(turn), abs=0.5)
    expected = np.linalg.norm(shift) if turn == 0 else None
    if expected is not None:
        assert farthest == pytest.approx(expected, abs=1.0)
    else:
        assert farthest > 3.0


def test_there_is_none_in_noise():
    one, other = np.random.default_rng(1).normal(size=(2, *SHAPE))
    assert measure_motion(one, other, AFFINE) is None
