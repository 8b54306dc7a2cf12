"""Degradations: what happened to a source, as a list of operators and noise in the order in which it happened.

How they are written down is in `medfuse.physics.specification`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.physics.noise import Noise
from medfuse.physics.operators.base import Gamma, LinearOperator, compose
from medfuse.physics.operators.blur import GaussianBlur, Identity
from medfuse.physics.replication import unreplicate

QUANTIZATION = 1.0 / (255.0 * math.sqrt(12.0))
"""Standard deviation of rounding to 8 bit, as a fraction of full range."""


@dataclass(frozen=True)
class Unknown:
    """A step that happened, or not, and that nobody stated: an estimate takes its place before data are bound.

    Attributes:
        name: `blur`, Gaussian, or `noise`.
        least: Bound of its width, px, or of its std, fraction of full range.
        most: Likewise.
        kind: Of the noise, where it is known: `gaussian`, `rician` or `poisson`.
    """

    name: Literal["blur", "noise"]
    least: float = 0.0
    most: float = math.inf
    kind: str | None = None


@dataclass(frozen=True)
class Degradation:
    """Operators and noise, in the order in which they acted on one source.

    Attributes:
        steps: Linear operators and noise models; and what is unknown, which counts as nothing until it is estimated.
        floor: Smallest noise std that an observation is credited with, as a fraction of full range: the rounding of the
            input (0.29/255 for 8 bit), so that nothing is trusted beyond what was stored; in linear units, after gamma
            has been inverted.
        gamma: Exponent of a point-wise power of the values, which acted last.
        excess: Factor by which the variance of all its noise, the floor included, is known to exceed what is stated,
            **[B]**; None for 1.
    """

    steps: tuple[LinearOperator | Noise | Unknown, ...] = ()
    floor: float = QUANTIZATION
    gamma: float = 1.0
    excess: Tensor | None = field(default=None, compare=False)

    @property
    def operator(self) -> LinearOperator:
        """The linear part `A`."""
        return _linear(self.steps)

    @property
    def noises(self) -> tuple[tuple[Noise, LinearOperator], ...]:
        """Each noise with the linear operators that acted after it."""
        return tuple(
            (step, _linear(self.steps[i + 1 :])) for i, step in enumerate(self.steps) if isinstance(step, Noise)
        )

    @property
    def white(self) -> bool:
        """Whether there is noise, and none that a later step has coloured."""
        return bool(self.noises) and all(after.is_identity for _, after in self.noises)

    @property
    def unknown(self) -> bool:
        """Whether a step is to be estimated, see `medfuse.estimation`."""
        return any(isinstance(step, Unknown) for step in self.steps)

    @property
    def known(self) -> tuple[LinearOperator | Noise, ...]:
        """The steps.

        Raises:
            DegradationError: One is unknown.
        """
        if self.unknown:
            raise DegradationError(
                "a degradation that is used must be known, got a step to be estimated (`auto`); estimate it first, see "
                "`medfuse.estimation.estimate`."
            )
        return tuple(step for step in self.steps if not isinstance(step, Unknown))

    @property
    def blurred(self) -> bool:
        """Whether a Gaussian blur is among the steps."""
        return any(isinstance(step, GaussianBlur) for step in self.steps)

    def noise_shapes(self, spatial: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the spatial shape at which each noise acts on an image of shape `spatial`."""
        shapes, shape = [], tuple(spatial)
        for step in self.known:
            if isinstance(step, Noise):
                shapes.append(shape)
            else:
                shape = step.out_spatial(shape)
        return shapes

    def narrowed(self, share: Tensor) -> Degradation:
        """Return the same with every Gaussian blur of so much of its width: `share` **[B]**, 0..1."""
        return replace(
            self,
            steps=tuple(
                GaussianBlur(step.sigma.to(share) * share[:, None]) if isinstance(step, GaussianBlur) else step
                for step in self.steps
            ),
        )

    def louder(self, excess: Tensor) -> Degradation:
        """Return the same with noise of so many times the variance: `excess` **[B]**."""
        return replace(self, excess=excess)

    def simulate(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Degrade a clean image.

        Args:
            x: **[B, C, *spatial]**, 0..1.
            generator: Source of all randomness.

        Returns:
            The observation **[B, C, *out_spatial]**, not clipped.
        """
        for step in self.known:
            x = step.sample(x, generator) if isinstance(step, Noise) else step.forward(x)
        return x if self.gamma == 1 else Gamma(self.gamma).forward(x)

    def linear(self, stored: Tensor) -> Tensor:
        """Undo the power of stored values, of any shape: what is left is linear in the image, but for its noise."""
        return stored if self.gamma == 1 else Gamma(1 / self.gamma).forward(stored)

    def observed(self, image: Tensor) -> Tensor:
        """Return the observation **[B, C, *out_spatial]** of a stored image on the grid, where it may be replicated."""
        return unreplicate(self.linear(image), self.operator)


@dataclass(frozen=True)
class JointDegradation:
    """The degradations of both sources."""

    source1: Degradation = Degradation()
    source2: Degradation = Degradation()

    def __iter__(self) -> Iterator[Degradation]:
        return iter((self.source1, self.source2))

    @property
    def unknown(self) -> bool:
        """Whether a step of either is to be estimated."""
        return any(part.unknown for part in self)

    def padding(self, shape: Sequence[int]) -> list[int]:
        """Return by how much to continue the end of each axis, last axis first, to where every decimation divides it.

        As `torch.nn.functional.pad` takes it: (0, after the last axis, 0, after the one before, ...).
        """
        padding = []
        for axis in reversed(range(len(shape))):
            factors = []
            for operator in (part.operator for part in self):
                small = operator.out_spatial(shape)
                factors.append(operator.in_spatial(small)[axis] // small[axis])
            padding += [0, -shape[axis] % math.lcm(*factors)]
        return padding

    def continued(self, images: Tensor) -> Tensor:
        """Return images **[B, C, *spatial]**, continued at the ends to where every decimation divides it."""
        padding = self.padding(images.shape[2:])
        return F.pad(images, padding, mode="replicate") if any(padding) else images


def mean_variances(degradation: Degradation, estimate: Tensor) -> list[tuple[Tensor, LinearOperator]]:
    """Return the mean variance **[b]** of each noise and the linear operator that acted after it.

    Signal-dependent noise takes its level from `estimate` **[B, C, *spatial]**; this is the stationary approximation
    with which the closed form is solved.
    """
    axes = tuple(range(1, estimate.ndim))
    return [(noise.variance(estimate).mean(axes), after) for noise, after in degradation.noises]


def sigma_map(degradation: Degradation, estimate: Tensor) -> Tensor:
    """Return the std of the noise in an observation, on the grid of the image.

    Args:
        degradation: The degradation of the source.
        estimate: A rough image **[B, 1, *spatial]**, from which signal-dependent noise takes its level.

    Returns:
        **[B, 1, *spatial]**, fraction of full range. A linear step after the noise scales its variance by the step's
        mean effect on white noise.
    """
    corner = estimate.new_zeros(*estimate.shape[:2], *([1] * (estimate.ndim - 2)))  # white noise needs one value alone
    total = torch.full_like(corner, degradation.floor**2)
    for noise, after in degradation.noises:
        gain = after.white_gain(estimate.shape[2:], estimate)
        variance = noise.variance(estimate if noise.depends_on_signal else corner)
        total = total + variance * gain.reshape(-1, *([1] * (estimate.ndim - 1)))
    if degradation.excess is not None:
        total = total * degradation.excess.reshape(-1, *([1] * (estimate.ndim - 1)))
    return total.sqrt().expand(estimate.shape)


def _linear(steps: Sequence[LinearOperator | Noise | Unknown]) -> LinearOperator:
    return compose(Identity(), *reversed([s for s in steps if isinstance(s, LinearOperator)]))
