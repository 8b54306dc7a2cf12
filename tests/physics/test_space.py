"""Grids in millimetres, and operators that are bound to them."""

from __future__ import annotations

import math

import pytest
import torch

from medfuse.errors import GeometryError
from medfuse.physics import Grid, LinearOperator, compose

TURNED = Grid((4, 6), ((0.0, -3.0, 10.0), (2.0, 0.0, -5.0), (0.0, 0.0, 1.0)))


class Between(LinearOperator):
    """Something from one grid to another of the same shape."""

    def __init__(self, domain: Grid, range: Grid) -> None:
        self._grids = domain, range

    @property
    def domain(self) -> Grid:
        return self._grids[0]

    @property
    def range(self) -> Grid:
        return self._grids[1]

    def forward(self, x):
        return x

    def adjoint(self, y, spatial=None):
        return y


def test_everything_is_in_mm():
    assert TURNED.spacing == (2.0, 3.0)
    assert TURNED.axes == ((0.0, 1.0), (-1.0, 0.0))
    assert TURNED.position((1, 2)) == (10 - 6.0, -5 + 2.0)
    assert TURNED.centre == TURNED.position((1.5, 2.5))
    assert Grid.of_spacing((2, 3, 4), (1.0, 2.0, 4.5)).spacing == (1.0, 2.0, 4.5)


def test_blocks_lie_in_the_middle_of_their_voxels():
    blocks = TURNED.of_blocks((2, 3))
    assert blocks.shape == tuple(-(-n // b) for n, b in zip(TURNED.shape, (2, 3), strict=True))
    assert blocks.position((0, 0)) == TURNED.position((0.5, 1.0))
    assert blocks.position((1, 2)) == pytest.approx(TURNED.position((2.5, 7.0)))


def test_equal_grids_are_equal_and_near_ones_the_same():
    near = Grid(TURNED.shape, [[v + 1e-5 for v in row] if k < 2 else row for k, row in enumerate(TURNED.affine)])
    assert Grid([4, 6], [list(row) for row in TURNED.affine]) == TURNED
    assert hash(near) != hash(TURNED) and near.same_as(TURNED) and not near.same_as(TURNED, tolerance=1e-6)
    assert not TURNED.same_as(Grid((6, 4), TURNED.affine))


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((4,), ((1, 0), (0, 1)), "two or three axes"),
        ((4, 0), TURNED.affine, "1 sample or more"),
        ((4, 6, 2), TURNED.affine, "must be 4 x 4"),
        ((4, 6), ((1, 0, math.nan), (0, 1, 0), (0, 0, 1)), "must be finite"),
        ((4, 6), ((1, 0, 0), (0, 1, 0), (0, 1, 1)), "end with 0"),
        ((4, 6), ((1, 2, 0), (2, 4, 0), (0, 0, 1)), "must span"),
    ],
)
def test_what_is_no_grid_is_refused(shape, affine, message):
    with pytest.raises(GeometryError, match=message):
        Grid(shape, affine)


def test_operators_follow_one_another_where_their_grids_meet():
    other = Grid.of_spacing((4, 6), (1.0, 1.0))
    both = compose(Between(TURNED, other), Between(other, TURNED))
    assert both.domain == other and both.range == other
    with pytest.raises(GeometryError, match="must take the grid that Between gives"):
        compose(Between(TURNED, other), Between(TURNED, other))
    composed = compose(Between(other, other), Between(TURNED, other))
    assert (composed.domain, composed.range) == (TURNED, other)
    assert composed.out_spatial((4, 6)) == (4, 6) and composed.in_spatial((4, 6)) == (4, 6)
    with pytest.raises(GeometryError, match="must be on the operator's grid"):
        Between(TURNED, other).out_spatial((6, 4))
    assert torch.equal(composed.forward(torch.ones(1, 1, 4, 6)), torch.ones(1, 1, 4, 6))
