r"""Observation operators `y = A x`: the base classes, masks and composition.

An operator acts on tensors `[B, C, *spatial]` with two or three spatial axes of any size. It is immutable. Its numeric
parameters are numbers, or tensors whose first axis is the batch, so that each sample of a batch can have its own.
`A @ B` applies `B` first. Only `forward` and `adjoint` are ever required of an operator. Most are free of shape; one
that is bound to grids states them as `domain` and `range`, see `medfuse.physics.space`.

Blur and decimation are in `blur.py`, convolution with any kernel in `convolution.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor

from medfuse.errors import DegradationError, GeometryError
from medfuse.physics.space import Grid


class Operator(ABC):
    """An observation `x -> h(x)`, linear or not."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Observe `x` **[B, C, *spatial]**."""

    def out_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the spatial shape of the observation of an image of shape `spatial`."""
        return tuple(spatial)

    def __call__(self, x: Tensor) -> Tensor:
        """Observe `x`."""
        return self.forward(x)


class LinearOperator(Operator):
    """A linear observation with its adjoint."""

    @abstractmethod
    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Apply the transpose.

        Args:
            y: **[B, C, *out_spatial]**.
            spatial: Shape of the domain; needed only where it does not follow from the shape of `y`
                (down-sampling of a size that is no multiple of the factor).

        Returns:
            **[B, C, *spatial]**.
        """

    @property
    def domain(self) -> Grid | None:
        """Grid of the images that it takes, mm; None: it takes images of any."""
        return None

    @property
    def range(self) -> Grid | None:
        """Grid of the data that it gives, mm; None: it has no grid of its own, and `out_spatial` says their shape."""
        return None

    def out_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the observation of an image of shape `spatial`: that of the range, where it has one.

        Raises:
            GeometryError: An image of another shape than that of the domain.
        """
        if self.domain is not None and tuple(spatial) != self.domain.shape:
            raise GeometryError(f"an image must be on the operator's grid {self.domain.shape}, got {tuple(spatial)}.")
        return tuple(spatial) if self.range is None else self.range.shape

    def in_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the natural domain of an observation of shape `spatial`: that of the domain, where it has one."""
        return tuple(spatial) if self.domain is None else self.domain.shape

    is_identity = False
    """Whether the operator changes nothing, so that a composition can leave it out."""

    @property
    def shift_invariant(self) -> bool:
        """Whether it does the same everywhere, so that it keeps the frequencies of an image apart."""
        return False

    def followed_by(self, later: LinearOperator) -> LinearOperator | None:
        """Return this operator and then `later` as one of its own family; None where only a `Composition` will do."""
        return None

    def power_gains(self, omega: Tensor, spatial: Sequence[int]) -> Tensor:
        """Return the power with which cosine waves along each axis pass, **[b, D, K]**; 1 where nothing is lost.

        Args:
            omega: Angular frequencies, radians per pixel, **[K]**.
            spatial: Shape of the image; only operators that are not shift-invariant depend on it.
        """
        ndim = len(spatial)
        waves = []
        for d, n in enumerate(spatial):
            j = torch.arange(n, device=omega.device, dtype=omega.dtype) + 0.5
            wave = torch.cos(omega[:, None] * j)
            waves.append(wave.reshape(-1, *([1] * d), n, *([1] * (ndim - d - 1))).expand(-1, *spatial))
        x = torch.stack(waves).flatten(0, 1)[None]
        axes = tuple(range(2, ndim + 2))
        powers = self.forward(x).square().mean(axes) / x.square().mean(axes)
        return powers.reshape(len(powers), ndim, len(omega))

    def white_gain(self, spatial: Sequence[int], like: Tensor) -> Tensor:
        """Return the mean variance **[b]** of white noise of unit variance after the operator, `trace(A A') / n`.

        The default is a Monte Carlo estimate with a fixed seed.
        """
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((1, 8, *spatial), generator=generator, dtype=torch.float64).to(like)
        return self.forward(x).square().flatten(1).mean(1)

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        """Return the operator that applies `other` first, then this one."""
        return compose(self, other)


class Gamma(Operator):
    """Point-wise power `sign(x) |x|^gamma`: the simplest non-linear observation.

    Raises:
        DegradationError: The power is not positive.
    """

    def __init__(self, gamma: float) -> None:
        if not gamma > 0:
            raise DegradationError(f"gamma must be positive, got {gamma}.")
        self.gamma = float(gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Observe `x`."""
        return x.sign() * x.abs().pow(self.gamma)


class Mask(LinearOperator):
    """Pixels that were measured (1) and that were not (0): dead pixels, missing data."""

    def __init__(self, mask: Tensor) -> None:
        """Make a mask from a tensor **[*spatial]** or **[b, 1, *spatial]** of zeros and ones."""
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        """Blank what was not measured."""
        return x * self.mask.to(x)

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Blank what was not measured."""
        return y * self.mask.to(y)


class MissingSlices(LinearOperator):
    """Slices along one axis that were not measured, for images of any size."""

    def __init__(self, indices: Sequence[int], axis: int) -> None:
        self.indices, self.axis = tuple(indices), axis

    def forward(self, x: Tensor) -> Tensor:
        """Blank the missing slices.

        Raises:
            GeometryError: The image has no such slice.
        """
        n = x.shape[self.axis + 2]
        if any(not -n <= i < n for i in self.indices):
            raise GeometryError(f"missing slices must lie within the {n} of axis {self.axis}, got {self.indices}.")
        keep = x.new_ones(n)
        keep[[i % n for i in self.indices]] = 0.0
        return x * keep.reshape([-1 if d == self.axis + 2 else 1 for d in range(x.ndim)])

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Blank the missing slices."""
        return self.forward(y)


class Composition(LinearOperator):
    """Operators applied one after another."""

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        """Put operators in the order in which they act.

        Raises:
            GeometryError: The domain of one is another grid than the range of the one before.
        """
        self.operators = tuple(operators)
        for first, then in pairwise(self.operators):
            given, taken = first.range, then.domain
            if given is not None and taken is not None and not given.same_as(taken):
                raise GeometryError(
                    f"{type(then).__name__} must take the grid that {type(first).__name__} gives, "
                    f"got {taken.shape} at {taken.spacing} mm after {given.shape} at {given.spacing} mm."
                )

    @property
    def domain(self) -> Grid | None:
        """That of the first operator."""
        return self.operators[0].domain

    @property
    def range(self) -> Grid | None:
        """That of the last operator."""
        return self.operators[-1].range

    @property
    def shift_invariant(self) -> bool:
        """Whether all of them are."""
        return all(op.shift_invariant for op in self.operators)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the first, then the next, and so on."""
        return reduce(lambda v, op: op.forward(v), self.operators, x)

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Apply the adjoints in reverse order."""
        spatial = self.in_spatial(y.shape[2:]) if spatial is None else spatial
        shapes = [tuple(spatial)]
        for op in self.operators[:-1]:
            shapes.append(op.out_spatial(shapes[-1]))
        for op, shape in zip(reversed(self.operators), reversed(shapes), strict=True):
            y = op.adjoint(y, shape)
        return y

    def out_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the shape after the last operator."""
        return reduce(lambda s, op: op.out_spatial(s), self.operators, tuple(spatial))

    def in_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the natural domain before the first operator."""
        return reduce(lambda s, op: op.in_spatial(s), reversed(self.operators), tuple(spatial))


def compose(*operators: LinearOperator) -> LinearOperator:
    """Compose as in a product of matrices, of at least one: the last operator acts first.

    Identities are left out, and neighbours of one family become one operator.
    """
    flat: list[LinearOperator] = []
    for op in reversed(operators):
        flat += op.operators if isinstance(op, Composition) else [op]
    merged: list[LinearOperator] = []
    for op in flat:
        if op.is_identity:
            continue
        joined = merged[-1].followed_by(op) if merged else None
        if joined is None:
            merged.append(op)
        else:
            merged[-1] = joined
    if not merged:
        return operators[0]
    return merged[0] if len(merged) == 1 else Composition(merged)
