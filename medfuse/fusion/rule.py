"""Fusion rules: how the fused image is computed from both restored sources, `f = R(x1, x2, evidence)`.

A rule is the last row of the joint observation model, `0 = f - R(x1, x2)`. It sees restored sources, never the data,
and nothing flows back from it: a restored source does not depend on how it is fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from medfuse.errors import DegradationError, GeometryError


class Evidence(NamedTuple):
    """What a rule may know beside the restored sources.

    Attributes:
        predicted: The fused image as the network and the corrections left it, **[B, 1, *spatial]**.
        weight: The learned weight m of source 1, 0..1, **[B, 1, *spatial]**.
        log_variance: Log of the predicted variance of the error of each restored source, **[B, 2, *spatial]**.
    """

    predicted: Tensor
    weight: Tensor
    log_variance: Tensor


class FusionRule(Protocol):
    """What all rules have in common."""

    def __call__(self, source1: Tensor, source2: Tensor, evidence: Evidence) -> Tensor:
        """Return the fused image **[B, 1, *spatial]** of restored sources of that shape, 0..1 the full range."""


def predicted(source1: Tensor, source2: Tensor, evidence: Evidence) -> Tensor:
    """Return the fused image as it was learned."""
    return evidence.predicted


def convex(source1: Tensor, source2: Tensor, evidence: Evidence) -> Tensor:
    """Return `m x1 + (1 - m) x2`: nothing appears in it that is in neither restored source."""
    return evidence.weight * source1 + (1 - evidence.weight) * source2


@dataclass(frozen=True)
class TwoScale:
    """Two-scale (base and detail) fusion: the base is the uptake's, the details are those of both, each shown once.

    With `G_s` a Gaussian window of s px, bases `b_i = G_4.5 x_i`, details `d_i = x_i - b_i`, fine details `n_i = x_i -
    G_1 x_i`, local energies `v_i = G_2.5 d_i^2`, and, in 0..1, how active the anatomy is, `w = A / (A + activity)` with
    `A = sqrt(v_1)`, and how hot the uptake, `h = b_2 / (b_2 + hot)`:

        base   = (((1 - w h) b_1)^p + ((1 - room w) b_2)^p)^(1/p)
        detail = d_1 + d_2 - s (v_2 d_1 + v_1 d_2) / (v_1 + v_2)
                 + w (lift (d_2 - n_2) - grain n_2) - soft h n_1
        base  -= headroom G_1.5 M_3 max(base + detail - max(x_1, x_2, 1), 0)
        f      = min(base + detail, max(x_1 + max(d_2, 0), x_2 + max(d_1, 0)))

    `M_3` is the maximum within 3 px, and `s` is the local correlation of both details, `G_2.5(d_1 d_2) / sqrt((v_1 + e)
    (v_2 + e))` with e = 0.002, or 0 where that is negative. So an edge that both sources have is shown once and not
    twice: the weaker of both details is left out there. What is faint counts as unlike, and is added.

    Where one source is empty, the other comes back; where the anatomy is flat, f grows with the uptake. f may leave the
    range of the sources at a place by their own details, and is never above one source and the other's detail. It is
    the same for any batch, and an image is continued by half-sample reflection.

    Of the evidence, the prediction tells what is empty: where it is black, what is left of the noise is not shown, as
    far as the predicted error of the sources explains it. The learned weight is not used.

    Attributes:
        exponent: `p`, at least 1: 1 adds the bases, infinity takes the higher one.
        activity: Local standard deviation of the anatomy's detail that counts as half active.
        hot: Level of the uptake that counts as half hot.
        room: Share of the uptake's base that makes room where there is anatomy.
        lift: By how much the uptake's detail, the finest apart, is raised where there is anatomy.
        grain: Share of the uptake's finest detail, mostly noise and the grid of its pixels, that is left out there.
        soft: Share of the anatomy's finest detail that is left out under uptake.
        headroom: Share of what would exceed full range nearby by which the base is lowered.

    Reference:
        Li, Kang and Hu, Image fusion with guided filtering (TIP 2013), for the two scales; the rest is of medfuse, with
        its constants chosen as docs/explanation/method.md says.
    """

    exponent: float = 2.2
    activity: float = 0.012
    hot: float = 0.45
    room: float = 0.11
    lift: float = 0.2
    grain: float = 0.35
    soft: float = 0.17
    headroom: float = 0.5

    def __call__(self, source1: Tensor, source2: Tensor, evidence: Evidence | None = None) -> Tensor:
        """Return the fused image; the last two axes are those of the image, all others go one by one.

        Args:
            source1: Anatomy, **[..., H, W]** of any size, 0..1 the full range.
            source2: Function, of the same shape.
            evidence: What tells noise in the dark from signal; None: everything is shown.

        Returns:
            Of the dtype of `source1`; computed in float32 or better.

        Raises:
            GeometryError: The shapes differ, or are no images.
        """
        if source1.shape != source2.shape or source1.ndim < 2:
            raise GeometryError(
                f"the sources must be images of one shape, got {list(source1.shape)} and {list(source2.shape)}; "
                "resample one onto the other."
            )
        dtype = torch.promote_types(torch.promote_types(source1.dtype, source2.dtype), torch.float32)
        x = torch.stack([source1, source2]).to(dtype)
        base = smoothed(x, _BASE)
        detail, fine = x - base, x - smoothed(x, _FINE)
        *both, alike = smoothed(torch.stack([*detail.square(), detail[0] * detail[1]]), _SHARED)
        energies = torch.stack(both).clamp_min(0)
        shared = alike.clamp_min(0) / (energies + _FAINT).prod(0).sqrt()
        anatomy, uptake = base.clamp_min(0)
        local = energies[0].sqrt()
        active, hot = local / (local + self.activity), uptake / (uptake + self.hot)

        whole = _norm((1 - active * hot) * anatomy, (1 - self.room * active) * uptake, self.exponent)
        whole = whole + base.clamp_max(0).sum(0)  # what is negative, as in a corrected PET, stays so
        change = detail.sum(0) - shared * (energies.flip(0) * detail).sum(0) / _positive(energies.sum(0))
        change = change + active * (self.lift * (detail[1] - fine[1]) - self.grain * fine[1])
        change = change - self.soft * hot * fine[0]
        beyond = (whole + change - x.amax(0).clamp_min(1)).clamp_min(0)
        whole = whole - self.headroom * smoothed(_highest(beyond, _NEAR), _NEAR / 2)
        bound = (x + detail.flip(0).clamp_min(0)).amax(0)
        fused = torch.minimum(whole + change, bound)
        if evidence is not None:
            fused = _without_noise_in_the_dark(fused, evidence)
        return fused.to(source1.dtype)


_BASE, _FINE, _SHARED = 4.5, 1.0, 2.5  # px, std of the windows
_FAINT = 0.002  # energy below which details count as unlike
_NEAR = 3  # px within which there is to be room below full range
_RADIUS = 4.0  # of a window, in its standard deviations
_BLACK, _NOT_BLACK = 0.5 / 255, 1.5 / 255  # levels of the prediction
_EXPLAINED = 3.0  # standard deviations of an error that noise explains

RULES: dict[str, FusionRule] = {"two_scale": TwoScale(), "convex": convex, "predicted": predicted}
"""The words of the configurations, and the rule of each."""


def fusion_rule(name: str) -> FusionRule:
    """Return a rule by its name.

    Args:
        name: `two_scale`, `convex` or `predicted`.

    Raises:
        DegradationError: There is no such rule.
    """
    if name not in RULES:
        raise DegradationError(f"the fusion rule must be one of {tuple(RULES)}, got {name!r}; choose one of them.")
    return RULES[name]


def smoothed(x: Tensor, std: float) -> Tensor:
    """Filter the last two axes with a Gaussian window, continued by half-sample reflection: any size stays.

    The window ends at four standard deviations. Sums run in one order for each pixel, whatever the batch.
    """
    radius = int(_RADIUS * std + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(radius + 1, dtype=torch.float64) / std) ** 2)
    weights: Sequence[float] = (taps / (taps[0] + 2 * taps[1:].sum())).tolist()
    for axis in (-2, -1):
        n = x.shape[axis]
        places = torch.arange(-radius, n + radius, device=x.device) % (2 * n)
        wide = x.index_select(axis, torch.minimum(places, 2 * n - 1 - places))
        x = wide.narrow(axis, radius, n) * weights[0]
        for k in range(1, radius + 1):
            x = x.add_(wide.narrow(axis, radius - k, n) + wide.narrow(axis, radius + k, n), alpha=weights[k])
    return x


def _without_noise_in_the_dark(fused: Tensor, evidence: Evidence) -> Tensor:
    """Set to 0 what is predicted to be black and within the error; from there to twice the error, ever less of it."""
    black = ((_NOT_BLACK - evidence.predicted) / (_NOT_BLACK - _BLACK)).clamp(0, 1)
    error = _EXPLAINED * evidence.log_variance.exp().sum(1, keepdim=True).sqrt()
    return fused - black * torch.minimum(fused, 2 * error - fused).clamp_min(0)


def _positive(x: Tensor) -> Tensor:
    """Return what may be divided by."""
    return x.clamp_min(torch.finfo(x.dtype).tiny)


def _highest(x: Tensor, radius: int) -> Tensor:
    """Return the maximum of each pixel's neighbourhood, a square, on the last two axes, of values of at least 0."""
    x = pad(x, [radius] * 4)
    for axis in (-2, -1):
        have = 1
        while have < 2 * radius + 1:  # the maximum of `have` pixels and of as many beside them
            step = min(have, 2 * radius + 1 - have)
            n = x.shape[axis] - step
            x, have = torch.maximum(x.narrow(axis, 0, n), x.narrow(axis, step, n)), have + step
    return x


def _norm(x: Tensor, y: Tensor, exponent: float) -> Tensor:
    """Return `(x^p + y^p)^(1/p)` of values of at least 0; exactly the one where the other is 0."""
    high = torch.maximum(x, y)
    ratio = torch.minimum(x, y) / _positive(high)
    return high * (1 + ratio**exponent) ** (1 / exponent)
