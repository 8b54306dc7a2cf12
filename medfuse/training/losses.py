"""Training loss: restoration of both sources, and a fusion that keeps what each of them shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfuse.diffusion import FusionState
from medfuse.fusion.similarity import (
    complementarity,
    edge_preservation,
    gradients,
    shared_information,
    structural_similarity,
    visual_information,
)

_ROUNDING = (0.25 / 255.0) ** 2  # mean squared error below which nothing is left to restore
_REGION = 6  # side of a region, px: what a lesion of 4 px radius holds
_FAINT = 0.05  # level added to that of a region, so that the relative error of an empty one is finite
_RELATIVE_ROUNDING = 1e-3**2  # mean squared relative error of regions below which nothing is left to restore


class FusionLoss(nn.Module):
    """Sum of restoration, fusion and uncertainty terms for one step of the sampler, the last one that was run.

    `L = w_r log sqrt(1 + MSE / r) + w_t |mean x - mean x*| + w_g log sqrt(1 + MSE_6 / r_6) + w_u NLL + w_f F`, F the
    sum of the fusion terms, each times its weight; docs/explanation/method.md, "Training", writes them out.

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
            weaker: Weight of the structural term of the source that is worse off, in each sample.
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
        dissimilarity = cache(lambda: 1 - structural_similarity(pair, target).mean((2, 3)))
        terms: list[tuple[float, Callable[[], Tensor]]] = [
            (self.ssim, lambda: dissimilarity().mean()),
            (self.weaker, lambda: dissimilarity().amax(1).mean()),
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
    first, second = (gradients(source) for source in pair.chunk(2, 1))
    steepness = [g.square().sum(1, keepdim=True) for g in (first, second)]
    return torch.where(steepness[0] >= steepness[1], first, second)


def _pooled(x: Tensor) -> Tensor:
    """Return a batch **[B, C, H, W]** as one image **[1, C, B, H W]**."""
    return x.transpose(0, 1).flatten(2)[None]
