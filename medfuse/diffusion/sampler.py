"""The reverse process: a few deterministic DDIM steps, each corrected by the joint observation model.

One function serves training and inference. It keeps no state, draws no random number and is differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.diffusion.evaluate import evaluate
from medfuse.errors import DegradationError, GeometryError
from medfuse.physics import CORRECTIONS, JointDegradation, JointObservation, SourceModel

Settle = Sequence[float | None]

_MOST_DEVIATIONS = 100  # beyond which nothing would ever settle
_VIEWS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes along which an image is mirrored for each view of the network."""
_BANDS = (0.06, 0.15, 0.3, 0.5, 0.8)
"""Frequencies, in units of the Nyquist frequency, at which an operator is described to the network."""


@dataclass(frozen=True)
class FusionState:
    """What one step of the sampler believes.

    Attributes:
        x: Restored source 1, restored source 2, fused: **[B, 3, H, W]**.
        weight: Fusion weight of source 1, **[B, 1, H, W]**, 0..1.
        log_variance: Predicted log-variance of the error of each restored source, **[B, 2, H, W]**.
        blur_share: Share of the stated width of each source's blur that is undone, **[B, 2]**: 1 unless the data show
            the blur to be narrower.
        misfit: What the restored sources leave of the data, `y - A x`, **[B, 2, H, W]**, a power undone in `y`; None
            unless asked for.
    """

    x: Tensor
    weight: Tensor
    log_variance: Tensor
    blur_share: Tensor
    misfit: Tensor | None = None


def describe(model: SourceModel) -> Tensor:
    """Describe a degradation to the network: noise, scale and pass bands, **[B, 12]**.

    The features are the log of the noise std, the log of the mean decimation per axis, and the power with which cosine
    waves of five frequencies pass along each of two axes.
    """
    like = model.y
    batch, ndim = len(like), like.ndim - 2
    omega = torch.tensor(_BANDS, device=like.device, dtype=like.dtype) * math.pi
    power = model.operator.power_gains(omega, model.spatial).to(like).flatten(1).expand(batch, -1)
    sigma = model.sigma().square().flatten(1).mean(1, keepdim=True).log() * 0.25 + 2.0
    shrink = math.log2(math.prod(model.operator.in_spatial(model.y.shape[2:])) / math.prod(model.y.shape[2:])) / ndim
    return torch.cat([sigma, torch.full_like(sigma, shrink), power], 1)


def sample(
    network: Any,
    inputs: Tensor,
    degradation: JointDegradation,
    *,
    steps: int = 3,
    correction: str = "cut",
    convex: bool = False,
    autocast: torch.dtype | None = None,
    until: int | None = None,
    trajectory: bool = True,
    misfit: bool = False,
    limit: int | None = None,
    views: int = 1,
    settle: Settle = (None, None),
    blur_share: Tensor | None = None,
) -> list[FusionState]:
    r"""Restore two sources and fuse them.

    Args:
        network: A `medfuse.diffusion.FusionModel`, or its TorchScript export.
        inputs: Degraded sources on the reference grid, **[B, 2, H, W]**, 0..1 nominal and never clipped; a
            low-resolution source is replicated to the grid.
        degradation: What happened to each source.
        steps: Number T of reverse steps, 1 or more.
        correction: Form of the joint correction, see `JointObservation.correct`.
        convex: Return `m x1 + (1 - m) x2` as the fused image of the last step, so that nothing appears in it that is
            in neither restored source.
        autocast: Dtype of the network's arithmetic on its device; the physics stay in the precision of `inputs`.
        until: Stop after so many steps of the `steps`, and track gradients through the last of them only. As each step
            regresses the truth directly, each can be trained by itself.
        trajectory: Return the state after each step; else that after the last alone, in a list of one.
        misfit: Let the last state hold its misfit.
        limit: Number of pixels, B x H x W, on which to run the network at once; see `medfuse.diffusion.evaluate`. The
            physics, which need little memory, always see the whole image.
        views: Number of mirrored views, 1 to 4, of which the network's answers are averaged in each step: the nature of
            an image knows no left and right, the network hardly.
        settle: Standard deviations, for source 1 and source 2, by which the local mean of what a restored source leaves
            of its data must exceed the noise to be believed in the last step; None: slow waves settle alone.
        blur_share: Share of its stated width that the blur of each source has, **[B, 2]**; None: as the data allow.

    Returns:
        The state after each step, the last one the result.

    Raises:
        GeometryError: `inputs` has not the shape [B, 2, H, W].
        DegradationError: An impossible number of steps or views, form of correction or settling.

    Reference:
        Shi et al., DRFusion (CVPR 2026), with the joint correction of `medfuse.physics.observation`; the network sees
        its previous estimate as in Chen, Zhang and Hinton, Analog Bits (ICLR 2023), section 3.2.
    """
    if inputs.ndim != 4 or inputs.shape[1] != 2:
        raise GeometryError(f"inputs must have the shape [B, 2, H, W], got {list(inputs.shape)}.")
    check_settings(steps, correction, views, settle)
    if until is not None and not 1 <= until <= steps:
        raise DegradationError(f"the steps to run must be 1 to {steps}, got {until}.")
    height, width = inputs.shape[2:]
    observation = _observe(inputs, degradation, blur_share)
    chain = _Chain(network, observation, steps, correction, autocast, limit, views, settle)
    states: list[FusionState] = []
    for step in range(steps if until is None else until):
        if step + 1 == until:
            chain.level, chain.estimate = ([v.detach() for v in images] for images in (chain.level, chain.estimate))
        with torch.set_grad_enabled(torch.is_grad_enabled() and until in (None, step + 1)):
            x, weight, log_variance = chain.advance(step)
            if convex and step + 1 == steps:
                x = [*x[:2], weight * x[0] + (1 - weight) * x[1]]
        if trajectory or step + 1 in (steps, until):
            images = (torch.cat(x, 1), weight, log_variance.to(inputs.dtype))
            first, second, third = (v[..., :height, :width] for v in images)
            states.append(FusionState(first, second, third, chain.blur_share))
        del x, weight, log_variance  # a large image leaves room for what is needed only
    if misfit:
        states[-1] = replace(states[-1], misfit=chain.misfit()[..., :height, :width])
    return states


@torch.no_grad()
def blur_shares(inputs: Tensor, degradation: JointDegradation) -> Tensor:
    """Return the `blur_share` of a `FusionState`, **[B, 2]**, without restoring anything; the inputs are as there."""
    return torch.stack([m.blur_share for m in _observe(inputs, degradation)], 1)


def _observe(inputs: Tensor, degradation: JointDegradation, blur_share: Tensor | None = None) -> JointObservation:
    """Bind the sources, continued to where every decimation divides their size."""
    padding = degradation.padding(inputs.shape[2:])
    if any(padding):
        inputs = F.pad(inputs, padding, mode="replicate")
    return JointObservation.from_images(inputs, degradation, blur_share=blur_share)


def check_settings(steps: int, correction: str, views: int, settle: Settle = (None, None)) -> None:
    """Refuse an impossible number of steps or views, form of correction or settling, with a `DegradationError`."""
    if steps < 1:
        raise DegradationError(f"the number of steps must be at least 1, got {steps}.")
    if not 1 <= views <= len(_VIEWS):
        raise DegradationError(f"the number of views must be 1 to {len(_VIEWS)}, got {views}.")
    if correction not in CORRECTIONS:
        raise DegradationError(f"the form of the correction must be one of {CORRECTIONS}, got {correction!r}.")
    if not isinstance(settle, list | tuple) or len(settle) != 2 or not all(map(_is_deviations, settle)):
        raise DegradationError(
            f"settle must be two numbers of standard deviations, each 0 to {_MOST_DEVIATIONS} or null, got {settle!r}."
        )


def _is_deviations(local: Any) -> bool:
    return local is None or (type(local) in (int, float) and 0 <= local <= _MOST_DEVIATIONS)


class _Chain:
    """The steps on one batch: what they share, and the images that each of them replaces.

    A large image leaves room for what is needed only: an image goes as soon as its successor is known.

    Attributes:
        estimate: The clean state as far as it is known: source 1, source 2, fused, each **[B, 1, H, W]**.
        level: The state of the reverse process, `x / sqrt(alpha_bar)`, likewise.
        blur_share: That of `FusionState`.
    """

    def __init__(
        self,
        network: Any,
        observation: JointObservation,
        steps: int,
        correction: str,
        autocast: torch.dtype | None,
        limit: int | None,
        views: int,
        settle: Settle,
    ) -> None:
        """Begin with the regularised inverses of the observation and their mean; the rest is as in `sample`."""
        self._network, self._steps, self._correction = network, steps, correction
        self._autocast, self._limit, self._views, self._settle = autocast, limit, _VIEWS[:views], settle
        self._observation = observation
        self.blur_share = torch.stack([m.blur_share for m in self._observation], 1)
        self._inverses = [m.inverse() for m in self._observation]
        self._sigmas = [m.sigma() for m in self._observation]
        self._described = torch.cat([describe(m) for m in self._observation], 1)
        like = observation.source1.y
        self._times = torch.arange(steps, -1, -1, device=like.device, dtype=like.dtype) / steps
        alpha_bar = network.alpha_bar(self._times).to(like.dtype)
        self._spread = ((1 - alpha_bar[:-1]) / alpha_bar[:-1]).sqrt()
        self.level = [*self._inverses, 0.5 * (self._inverses[0] + self._inverses[1])]
        self.estimate = list(self.level)

    def advance(self, step: int) -> tuple[list[Tensor], Tensor, Tensor]:
        """Take a step; return the corrected state, the fusion weight and the log-variances of a `FusionState`."""
        weight, log_variance, gains = self._regress(step)
        last = step + 1 == self._steps
        # the residual that the regressed state implies
        self.level = [] if last else [v - x for v, x in zip(self.level, self.estimate, strict=True)]
        self._inverses = [] if last else self._inverses
        self.estimate = self._corrected(weight, gains, last=last)
        if not last:
            ratio = self._spread[step + 1] / self._spread[step]
            self.level = [torch.addcmul(x, r, ratio) for x, r in zip(self.estimate, self.level, strict=True)]
        return self.estimate, weight, log_variance

    def misfit(self) -> Tensor:
        """Return the `misfit` of a `FusionState`."""
        return torch.cat([m.misfit(x) for m, x in zip(self._observation, self.estimate, strict=False)], 1)

    def _regress(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Let the network replace the estimate; return the fusion weight, the log-variances and the gains."""
        dtype = self._times.dtype
        condition = torch.cat([self._times[step].expand(len(self._described), 1), self._described], 1)
        output = self._evaluated(self._features(), condition)
        gains = self._network.gains(condition).to(dtype)
        sizes = self._spread[step] * gains[:, [3, 3, 4], None, None]
        for i, size in enumerate(sizes.split(1, 1)):
            self.estimate[i] = self.estimate[i] - size * output[:, i : i + 1].to(dtype)
        return output[:, 3:4].to(dtype).sigmoid(), output[:, 4:].clone(), gains

    def _features(self) -> list[Tensor]:
        """Return what the network sees, in the order that `FusionUNet` states."""
        pulls = [
            m.gradient(x) * (math.prod(m.spatial) / math.prod(m.y.shape[2:]))
            for m, x in zip(self._observation, self.estimate, strict=False)
        ]
        return [*self.level, *self._inverses, *pulls, *self._sigmas, *self.estimate]

    def _evaluated(self, features: list[Tensor], condition: Tensor) -> Tensor:
        """Run the network, it alone in the precision of `autocast`; return the mean of its views."""
        device, dtype = condition.device.type, self._autocast or torch.bfloat16
        with torch.autocast(device, dtype, enabled=self._autocast is not None):
            first, *others = (self._viewed(features, condition, axes) for axes in self._views)
        return torch.stack([v.to(features[0]) for v in (first, *others)]).mean(0) if others else first

    def _viewed(self, features: list[Tensor], condition: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Run the network on the features mirrored along some axes; return its answer mirrored back."""
        if not axes:
            return evaluate(self._network, features, condition, limit=self._limit)
        return evaluate(self._network, [v.flip(axes) for v in features], condition, limit=self._limit).flip(axes)

    def _corrected(self, weight: Tensor, gains: Tensor, *, last: bool) -> list[Tensor]:
        """Return the estimate, corrected by the data, which have the last word."""
        *variances, gain = gains[:, :3].unbind(1)
        if last and self._correction in ("cut", "joint"):
            for i, (m, local) in enumerate(zip(self._observation, self._settle, strict=True)):
                self.estimate[i] = m.settle(self.estimate[i], local)
                variances[i] = torch.maximum(variances[i], m.consistency(self.estimate[i]))
        form = "none" if last and self._correction == "paper" else self._correction
        return self._observation.correct(self.estimate, weight, variances=variances, fusion_gain=gain, form=form)
