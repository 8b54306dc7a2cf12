"""A visible image: its luma is restored and fused, its chroma is restored as a pair of images of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.fusion.color.ycbcr import TO_YCBCR, recolor, rgb_to_ycbcr
from medfuse.physics import AveragedNoise, Degradation, GaussianNoise, JointDegradation, Noise

# Where each channel of RGB has independent noise of standard deviation 1: that of Cb and of Cr; the regression of the
# noise of Y on theirs; and the standard deviation of what it leaves, which is the noise of (R + G + B) / 3
_CHROMA_GAINS = tuple(float(v) for v in TO_YCBCR[1:].norm(dim=1))
_LUMA_BY_CHROMA = tuple(map(float, torch.linalg.lstsq(TO_YCBCR[1:].T, TO_YCBCR[0]).solution))
_LUMA_GAIN = 3**-0.5


def luma_degradation(channels: Degradation) -> Degradation:
    """Return what happened to the luma where this happened to each channel of RGB, the noise independent in each.

    Linear operators act on luma as on each channel. Of the noise it is what remains once that of the chroma is known
    and subtracted, see `fuse_visible`: its standard deviation is 0.577 of that of a channel, and would else be 0.668.
    Poisson noise counts as that of grey. The mean of noise that is biased, or was cut at 0, stays that of a channel.
    """
    return _mixed(channels, _LUMA_GAIN, lambda noise: AveragedNoise(noise, _LUMA_GAIN))


def chroma_degradation(channels: Degradation, luma: Tensor) -> JointDegradation:
    """Return what happened to Cb and to Cr where this happened to each channel of RGB, the noise independent in each.

    The noise of a colour difference does not depend on that difference: Poisson and Rician noise become Gaussian noise
    of the same variance.

    Args:
        channels: What happened to each channel.
        luma: Of the image, **[B, H, W]**: its mean is the level of Poisson noise.
    """
    level = luma.clamp_min(0).mean((1, 2))

    def gaussian(gain: float) -> Callable[[Noise], Noise]:
        return lambda noise: GaussianNoise(gain * noise.variance(level[:, None]).sqrt().flatten())

    return JointDegradation(*(_mixed(channels, gain, gaussian(gain)) for gain in _CHROMA_GAINS))


def fuse_visible(
    fuse: Callable[..., Mapping[str, Tensor]],
    visible: Tensor,
    other: Tensor,
    degradation: JointDegradation,
) -> dict[str, Tensor]:
    """Restore a batch of visible images, in colour or grey, and fuse them with images of another kind.

    The luma is fused with the other image. Where something happened to the visible image, its chroma is restored
    before, by the same network, as a pair and in one step, for more steps serve the fusion alone. What the restored
    chroma leaves of the data is noise, a control variate for that of the luma: both are sums of the same noise of R, G
    and B. So the luma is fused as `Y - sum_k b_k (C_k - A C_k')`, with C_k the data of Cb and Cr, C_k' what is
    restored of them, and b the regression of the noise of Y on theirs, -0.476 and -0.229. Both fused and restored image
    get the restored chroma.

    Args:
        fuse: From a pair **[B, 2, H, W]** and its degradation to `source1`, `source2`, `fused` and `weight`, each
            **[B, 1, H, W]**: a bundle's inferer and network. For the chroma it is called with the keywords `steps` and
            `balance`, which override its own, and `misfit`, by which it returns also what its sources leave of the
            data, as `medfuse.inferers.FusionInferer` does.
        visible: **[B, H, W, 3]** or **[B, H, W]**, 0..1.
        other: Infrared **[B, H, W]**, 0..1.
        degradation: What happened to each channel of the visible image, and to the other one.

    Returns:
        `fused` and `source1` of the shape of `visible`, `source2` and `weight` **[B, H, W]**.
    """
    if visible.ndim == 3:
        return _grey(fuse(torch.stack([visible, other], 1), degradation))
    channels, ycbcr = replace(degradation.source1, gamma=1.0), rgb_to_ycbcr(degradation.source1.linear(visible))
    pair, chroma = torch.stack([ycbcr[..., 0], other], 1), ycbcr[..., 1:].movedim(-1, 1) + 0.5
    del visible, other, ycbcr  # large images leave room for both runs of the network
    if channels.steps:
        least = pair[:, :1].amin((1, 2, 3), keepdim=True).clamp_max(0)  # where values below 0 were cut, they stay so
        what = chroma_degradation(channels, pair[:, 0])
        answer = fuse(chroma, what, steps=1, misfit=True, balance=0)
        for share, misfit in zip(_LUMA_BY_CHROMA, answer["misfit"].chunk(2, 1), strict=True):
            pair[:, :1] -= share * misfit
        torch.maximum(pair[:, :1], least, out=pair[:, :1])
        chroma, channels = torch.cat([answer["source1"], answer["source2"]], 1), luma_degradation(channels)
        del answer, misfit
    result = _grey(fuse(pair, JointDegradation(channels, degradation.source2)))
    del pair
    chroma = chroma.movedim(1, -1) - 0.5
    return result | {k: recolor(result[k], chroma) for k in ("source1", "fused")}


def _grey(result: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the images of a fusion, each **[B, H, W]**."""
    return {kind: result[kind][:, 0] for kind in ("source1", "source2", "fused", "weight")}


def _mixed(channels: Degradation, gain: float, mix: Callable[[Noise], Noise]) -> Degradation:
    """Return the degradation of a weighted sum of channels: the operators as they are, the noise mixed."""
    if channels.gamma != 1:
        raise DegradationError(f"the power must be undone before channels are mixed, got gamma {channels.gamma:g}.")
    steps = tuple(mix(step) if isinstance(step, Noise) else step for step in channels.steps)
    return Degradation(steps, channels.floor * gain)
