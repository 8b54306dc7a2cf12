"""The reverse process: a few deterministic DDIM steps, each corrected by the joint observation model.

One function serves training and inference. It keeps no state, draws no random number and is differentiable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medfuse.diffusion.answers import Answer, Gains
from medfuse.diffusion.evaluate import Evaluator
from medfuse.diffusion.features import describe, features
from medfuse.errors import DegradationError
from medfuse.physics import Correction, Cut, JointObservation, Prediction


class FusionState(NamedTuple):
    """What one step of the sampler believes, on the grid on which the sources were bound.

    Attributes:
        images: Restored source 1, restored source 2, fused: each **[B, 1, *spatial]**.
        weight: Fusion weight of source 1, **[B, 1, *spatial]**, 0..1.
        log_variance: Predicted log-variance of the error of each restored source, **[B, 2, *spatial]**.
        converged: Whether the solve of the correction of each source has converged, **[B, 2]**.
    """

    images: Sequence[Tensor]
    weight: Tensor
    log_variance: Tensor
    converged: Tensor

    @property
    def x(self) -> Tensor:
        """All three images as one tensor, **[B, 3, *spatial]**."""
        return torch.cat(list(self.images), 1)

    def cropped(self, spatial: Sequence[int]) -> FusionState:
        """Return the first samples of each axis, so many."""
        part: Any = (..., *(slice(n) for n in spatial))
        return FusionState([v[part] for v in self.images], self.weight[part], self.log_variance[part], self.converged)


def sample(
    network: Any,
    observation: JointObservation,
    *,
    steps: int = 3,
    correct: Correction = Cut(),  # noqa: B008 (immutable)
    evaluate: Evaluator = Evaluator(),  # noqa: B008
    until: int | None = None,
) -> Iterator[FusionState]:
    """Restore two sources and fuse them; give the state after each reverse step, the last one the result.

    The symbols beside the lines are those of docs/explanation/method.md. An image goes as soon as its successor is
    known: a large one leaves room for what is needed.

    Args:
        network: A `medfuse.diffusion.FusionModel`, or its TorchScript export.
        observation: Both sources, bound to their data, see `JointObservation.from_images`.
        steps: Number T of reverse steps, 1 or more.
        correct: How an estimate is made to agree with the data, see `medfuse.physics.corrections`.
        evaluate: How the network is run; the physics stay in the precision of the data.
        until: Stop after so many of the `steps`, and track gradients through the last of them only. As each step
            regresses the truth directly, each can be trained by itself.

    Raises:
        DegradationError: An impossible number of steps, or of steps to run, as the first state is asked for.

    Reference:
        Shi et al., DRFusion (CVPR 2026), with the corrections of `medfuse.physics.corrections`; the network sees its
        previous estimate as in Chen, Zhang and Hinton, Analog Bits (ICLR 2023), section 3.2.
    """
    if steps < 1:
        raise DegradationError(f"the number of steps must be at least 1, got {steps}.")
    if until is not None and not 1 <= until <= steps:
        raise DegradationError(f"the steps to run must be 1 to {steps}, got {until}.")
    like = observation.source1.y
    s = torch.arange(steps, -1, -1, device=like.device, dtype=like.dtype) / steps  # s = t / T, from 1 to 0
    abar = network.alpha_bar(s).to(like.dtype)[:-1]  # at s = 0 it is 1, and the state is the result
    noise = ((1 - abar) / abar).sqrt()  # of the state, over sqrt(abar)
    z = [m.inverse() for m in observation]
    sigmas = [m.sigma() for m in observation]
    described = torch.cat([describe(m, plane=evaluate.plane) for m in observation], 1)
    v = [*z, 0.5 * (z[0] + z[1])]  # the estimate so far
    x = list(v)  # the state, over sqrt(abar)
    for t in range(steps if until is None else until):
        last = t + 1 == steps
        if t + 1 == until:
            v, x = ([image.detach() for image in images] for images in (v, x))
        with torch.set_grad_enabled(torch.is_grad_enabled() and until in (None, t + 1)):
            condition = torch.cat([s[t].expand(len(described), 1), described], 1)
            output = evaluate(network, features(observation, x, z, sigmas, v), condition)
            d, m, log_variance = Answer.of(output, like.dtype)
            p1, p2, g, c, c_fused = Gains.of(network.gains(condition), like.dtype)
            for i, size in enumerate((c, c, c_fused)):
                size = (noise[t] * size).reshape(-1, *[1] * (like.ndim - 1))
                v[i] = v[i] - size * d[i].to(like.dtype)  # x0 = v - c sqrt((1 - abar) / abar) d
            del output, d
            e = [] if last else [a - x0 for a, x0 in zip(x, v, strict=True)]  # the residual that x0 implies
            x, z = [], [] if last else z
            v, converged = correct(observation, Prediction(v, m, (p1, p2), g, last, log_variance))
            x = [torch.addcmul(x0, r, noise[t + 1] / noise[t]) for x0, r in zip(v, e, strict=False)]  # DDIM, eta = 0
        yield FusionState(tuple(v), m, log_variance.to(like.dtype), converged)
        del m, log_variance, e
