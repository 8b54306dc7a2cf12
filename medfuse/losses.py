"""Training loss: restoration of both sources, and a fusion that keeps what each of them shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfuse.diffusion import FusionState

_ROUNDING = (0.25 / 255.0) ** 2  # mean squared error below which nothing is left to restore
_REGION = 6  # side of a region, px: what a lesion of 4 px radius holds
_FAINT = 0.05  # level added to that of a region, so that the relative error of an empty one is finite
_RELATIVE_ROUNDING = 1e-3**2  # mean squared relative error of regions below which nothing is left to restore


def structural_similarity(x: Tensor, y: Tensor, *, size: int = 11, std: float = 1.5, data_range: float = 1.0) -> Tensor:
    """Return the SSIM map of two batches **[B, C, H, W]**, valid part only.

    The Gaussian window is applied as a banded matrix along each axis: on a CPU, the backward pass of a convolution with
    a single channel takes longer than the whole network.

    Reference:
        Wang et al., Image quality assessment: from error visibility to structural similarity (TIP 2004).
    """
    luminance, structure = _similarity(x, y, size, std, data_range)
    return luminance * structure


def visual_information(reference: Tensor, x: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Return the pixel-domain visual information fidelity of each image of a batch **[B, C, H, W]**, **[B, C]**.

    The share of the reference's information that an image still carries, over up to four scales: 1 for the image
    itself, 0 for a flat one, above 1 where contrast is raised. Of a reference without any, everything carries all: 1.

    Reference:
        Sheikh and Bovik, Image information and visual quality (TIP 2006); pixel-domain version with the noise variance
        2 of an 8-bit scale.
    """
    noise = 2.0 * (data_range / 255.0) ** 2
    tiny = 1e-2 * noise  # above the rounding of float32, so that flat regions have no wild gradients
    carried = total = reference.new_zeros(reference.shape[:2])
    for size in (17, 9, 5, 3):
        if size < 17:
            reference, x = (v[..., ::2, ::2] for v in _windowed((reference, x), size, size / 5))
        if min(reference.shape[-2:]) < size:
            break
        mr, mx, rr, xx, rx = _windowed((reference, x, reference**2, x**2, reference * x), size, size / 5)
        vr, vx, vrx = (rr - mr * mr).clamp_min(0), (xx - mx * mx).clamp_min(0), rx - mr * mx
        gain = torch.where(vr > tiny, vrx / vr.clamp_min(tiny), 0.0).clamp_min(0)
        rest = (vx - gain * vrx).clamp_min(0)
        carried = carried + torch.log1p(gain * gain * vr / (rest + noise)).sum((-1, -2))
        total = total + torch.log1p(vr / noise).sum((-1, -2))
    return (carried + 1e-3) / (total + 1e-3)


def edge_preservation(reference: Tensor, x: Tensor) -> Tensor:
    """Return how well the edges of references **[B, C, H, W]** survive in images, each **[B]**, 0..1.

    Sobel gradients are compared in strength and direction, each through a sigmoid, and weighed by the strength in the
    reference, over all C references of a sample together. Unlike the metric, it is smooth: the cosine of the angle
    stands for the angle, an inverted edge counts as lost, and an edge that is kept exactly counts as 1.

    Reference:
        Xydeas and Petrovic, Objective image fusion performance measure (Electron. Lett. 2000), with its constants.
    """
    (ax, ay), (bx, by) = _sobel(reference), _sobel(x)
    tiny = (1.0 / 255.0) ** 2
    a, b = (torch.sqrt(u * u + v * v + tiny) for u, v in ((ax, ay), (bx, by)))
    share = torch.minimum(a, b) / torch.maximum(a, b)
    cosine = (ax * bx + ay * by + tiny) / (a * b)
    kept = _step(15.0, share, 0.5) * _step(45.0, cosine, 0.951)
    return (kept * a).sum((1, 2, 3)) / a.sum((1, 2, 3))


def shared_information(reference: Tensor, x: Tensor, *, levels: int = 32, data_range: float = 1.0) -> Tensor:
    """Return the share of the entropy of references **[B, C, H, W]** that images tell of, **[B, C]**, 0..1.

    Mutual information over the entropy of the reference, from histograms. A pixel of an image counts to the two levels
    next to it, in linear shares, which makes the histogram differentiable, and the share of an image with itself less
    than 1. Of a flat reference, everything tells all: 1.

    Args:
        reference: References.
        x: Images **[B, C, H, W]**, or **[B, 1, H, W]** where one is held against all references.
        levels: Levels of the histograms.
        data_range: Full range of the images; what lies beyond counts to the ends.

    Reference:
        Thevenaz and Unser, Optimization of mutual information for multiresolution image registration (TIP 2000), with
        linear splines.
    """
    row = (reference.flatten(2) / data_range).clamp(0, 1).mul(levels - 1).round().long() * levels
    position = (x.expand_as(reference).flatten(2) / data_range).clamp(0, 1) * (levels - 1)
    column = position.detach().long().clamp_max(levels - 2)
    upper = position - column
    joint = x.new_zeros(*row.shape[:2], levels * levels)
    joint = joint.scatter_add(2, row + column, 1 - upper).scatter_add(2, row + column + 1, upper) / row.shape[2]
    table = joint.unflatten(2, (levels, levels))
    of_reference, of_x, of_both = (_entropy(p) for p in (table.sum(3), table.sum(2), joint))
    tiny = 1e-4
    return (of_reference + of_x - of_both + tiny) / (of_reference + tiny)


def complementarity(pair: Tensor, x: Tensor) -> Tensor:
    """Return the correlation of what an image adds to one source with the other source, each way, **[B, 2]**, -1..1.

    Their sum is the SCD. With a source that is flat, nothing correlates: 0.

    Args:
        pair: Both sources **[B, 2, H, W]**.
        x: Fused image **[B, 1, H, W]**.

    Reference:
        Aslantas and Bendes, A new image quality metric for image fusion: the sum of the correlations of differences
        (AEU 2015).
    """
    source, added = (v - v.mean((2, 3), keepdim=True) for v in (pair, x - pair.flip(1)))
    tiny = (0.1 / 255.0) ** 2
    deviation = [(v.square().mean((2, 3)) + tiny).sqrt() for v in (source, added)]
    return (source * added).mean((2, 3)) / (deviation[0] * deviation[1])


def gradients(x: Tensor) -> Tensor:
    """Return forward differences along rows and columns, **[B, 2 C, H-1, W-1]**."""
    corner = x[..., :-1, :-1]
    return torch.cat([x[..., 1:, :-1] - corner, x[..., :-1, 1:] - corner], 1)


class FusionLoss(nn.Module):
    """Sum of restoration, fusion and uncertainty terms for one step of the sampler, the last one that was run.

    Restoration: the log of the root mean square error of each source of each sample, the PSNR up to scale. Thus each
    strength of each degradation counts alike, and the best estimate is a mean, not a median, which would be biased
    where uptake is sparse. Total: the bias of the mean of each restored source, which that log hardly feels.
    Regions: the same log of the error of local means relative to what is there: a cold region counts as a hot one.
    Fusion: structure, visual information and edges of both sources, as bright as the brighter one, as steep as the
    steeper one: `1 - SSIM(f, x_i)`, `1 - VIF(x_i, f)`, `1 - edges(x_i, f)`, `|f - max(x_1, x_2)|`, `|grad f - grad
    x_k|`, k the steeper. A mere maximum washes out the MRI's sulci under high uptake; their gradients keep them.
    Optional: the information that the fused images share with the sources, `-log I(x_i; f) / H(x_i)`, over all pixels
    of a batch: within a patch, a copy of either source would share most, over many patches it is one rule for all; and
    what a fused image adds to each source that is the other, `1 - r(f - x_i, x_k)`.
    Black: where both sources are exactly 0, what the fused image shows above it.
    Uncertainty: Gaussian negative log-likelihood of the sources' errors, which trains the log-variance alone.
    """

    def __init__(
        self,
        *,
        restoration: float = 0.08,
        total: float = 0.5,
        regions: float = 0.0,
        fusion: float = 0.1,
        ssim: float = 1.0,
        weaker: float = 0.0,
        information: float = 0.15,
        intensity: float = 1.5,
        gradient: float = 4.0,
        edges: float = 0.5,
        shared: float = 0.0,
        complement: float = 0.0,
        black: float = 50.0,
        uncertainty: float = 1e-3,
    ) -> None:
        """Weigh the terms.

        Args:
            restoration: Weight of the restoration terms.
            total: Weight of the bias of the total.
            regions: Weight of the relative error of the means of small regions.
            fusion: Weight of all fusion terms.
            ssim: Weight of the structural term within the fusion.
            weaker: Weight of contrast and structure of the source that is worse off, in each sample; its local means
                are left out, for which a bright sky would be darkened beside a dark one.
            information: Weight of the visual information within the fusion.
            intensity: Weight of the brighter source within the fusion.
            gradient: Weight of the gradient term within the fusion.
            edges: Weight of the preservation of edges within the fusion.
            shared: Weight of the information that the fused image shares with each source, within the fusion.
            complement: Weight of the correlation of what each source adds to the other, within the fusion.
            black: Weight of what is above 0 in black background within the fusion.
            uncertainty: Weight of the likelihood.
        """
        super().__init__()
        self.restoration, self.total, self.regions, self.fusion = restoration, total, regions, fusion
        self.ssim, self.weaker, self.information = ssim, weaker, information
        self.intensity, self.gradient = intensity, gradient
        self.edges, self.shared, self.complement = edges, shared, complement
        self.black, self.uncertainty = black, uncertainty

    def forward(self, pred: Mapping[str, Any], target: Tensor) -> Tensor:
        """Return the loss.

        Args:
            pred: What `FusionInferer(trajectory=True)` returns.
            target: Clean sources **[B, 2, H, W]**, 0..1.
        """
        state: FusionState = pred["states"][-1]
        return self._restoration(state, target) + self.fusion * self._fusion(state.x[:, 2:], target)

    def _restoration(self, state: FusionState, target: Tensor) -> Tensor:
        error = state.x[:, :2] - target
        squared = error.square()
        restoration = 0.5 * torch.log1p(squared.mean((2, 3)) / _ROUNDING).mean()
        bias = error.mean((2, 3)).abs().mean()
        likelihood = squared.detach() * torch.exp(-state.log_variance) + state.log_variance
        loss = self.restoration * restoration + self.total * bias + self.uncertainty * likelihood.mean()
        return loss + self.regions * self._regional(error, target) if self.regions else loss

    def _regional(self, error: Tensor, target: Tensor) -> Tensor:
        """Return the mean log of the root mean square of the relative error of the means of regions."""
        bias, level = (F.avg_pool2d(v, _REGION, _REGION // 2) for v in (error, target))
        relative = bias / (level + _FAINT)
        return 0.5 * torch.log1p(relative.square().mean((2, 3)) / _RELATIVE_ROUNDING).mean()

    def _fusion(self, fused: Tensor, target: Tensor) -> Tensor:
        pair = fused.expand_as(target)
        brighter = target.amax(1, keepdim=True)
        similarity = cache(lambda: _similarity(pair, target))
        terms: list[tuple[float, Callable[[], Tensor]]] = [
            (self.ssim, lambda: 1 - torch.mul(*similarity()).mean()),
            (self.weaker, lambda: (1 - similarity()[1].mean((2, 3))).amax(1).mean()),
            (self.information, lambda: (1 - visual_information(target, pair)).mean()),
            (self.edges, lambda: (1 - edge_preservation(target, pair)).mean()),
            (self.shared, lambda: -shared_information(_pooled(target), _pooled(fused)).clamp_min(1e-3).log().mean()),
            (self.complement, lambda: (1 - complementarity(target, fused)).mean()),
            (self.intensity, lambda: (fused - brighter).abs().mean()),
            (self.black, lambda: (fused.clamp_min(0) * (brighter == 0)).mean()),
            (self.gradient, lambda: (gradients(fused) - _steeper(target)).abs().mean()),
        ]
        weighed = [weight * term() for weight, term in terms if weight]  # what has no weight is not computed
        return sum(weighed, fused.new_zeros(()))


def _steeper(pair: Tensor) -> Tensor:
    """Return the gradients of the steeper image of each pair **[B, 2, H, W]**, pixel by pixel, as `gradients` does."""
    first, second = (gradients(source) for source in pair.split(1, 1))
    steepness = [g.square().sum(1, keepdim=True) for g in (first, second)]
    return torch.where(steepness[0] >= steepness[1], first, second)


def _step(slope: float, x: Tensor, middle: float) -> Tensor:
    """Return a sigmoid that is 1/2 of its end at `middle`, scaled to 1 at `x = 1`."""
    return torch.sigmoid(slope * (x - middle)) * (1.0 + math.exp(-slope * (1.0 - middle)))


def _pooled(x: Tensor) -> Tensor:
    """Return a batch **[B, C, H, W]** as one image **[1, C, B, H W]**."""
    return x.transpose(0, 1).flatten(2)[None]


def _entropy(p: Tensor) -> Tensor:
    """Return the entropy of distributions along the last axis, in nats."""
    return -(p * p.clamp_min(1e-12).log()).sum(-1)


def _sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Sobel derivatives along rows and columns, valid part only, **[B, C, H-2, W-2]** each."""
    rows, columns = x[..., 2:, :] - x[..., :-2, :], x[..., 2:] - x[..., :-2]
    return (
        rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:],
        columns[..., :-2, :] + 2 * columns[..., 1:-1, :] + columns[..., 2:, :],
    )


def _similarity(
    x: Tensor, y: Tensor, size: int = 11, std: float = 1.5, data_range: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the two factors of the SSIM map: of the local means, and of local contrast and structure."""
    mx, my, xx, yy, xy = _windowed((x, y, x * x, y * y, x * y), size, std)
    vx, vy, vxy = xx - mx * mx, yy - my * my, xy - mx * my
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return (2 * mx * my + c1) / (mx * mx + my * my + c1), (2 * vxy + c2) / (vx + vy + c2)


def _windowed(images: Sequence[Tensor], size: int, std: float) -> list[Tensor]:
    """Filter images of one shape with a Gaussian window, valid part only."""
    rows, columns = (_window_matrix(n, size, std, images[0]) for n in images[0].shape[-2:])
    return [rows @ v @ columns.T for v in images]


def _window_matrix(n: int, size: int, std: float, like: Tensor) -> Tensor:
    """Return the banded matrix **[n - size + 1, n]** of a normalised Gaussian window."""
    taps = torch.arange(size, device=like.device, dtype=like.dtype) - (size - 1) / 2
    kernel = torch.exp(-0.5 * (taps / std) ** 2)
    offset = torch.arange(n, device=like.device) - torch.arange(n - size + 1, device=like.device)[:, None]
    inside = (offset >= 0) & (offset < size)
    return torch.where(inside, (kernel / kernel.sum())[offset.clamp(0, size - 1)], 0.0)
