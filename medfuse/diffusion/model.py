"""Everything that is learned, as one module: denoiser, schedule and gains."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medfuse.diffusion.features import CONDITION
from medfuse.diffusion.schedule import MonotoneSchedule


class GainNetwork(nn.Module):
    """Predict, from the condition, the error variance of each restored source and the gain of the fusion row.

    The variances, and the changes that a step may make to the sources and to the fused image, fall with learned powers
    of the relative time s, the first feature of the condition: after the first step the data are in the estimate
    already, and must not count twice.
    """

    def __init__(self, condition_features: int = len(CONDITION), hidden: int = 64, initial_std: float = 0.02) -> None:
        super().__init__()
        final = nn.Linear(hidden, 3)
        self.powers = nn.Parameter(torch.tensor([14.0, 14.0, 14.0, 2.0]))
        self.layers = nn.Sequential(nn.Linear(condition_features, hidden), nn.SiLU(), final)
        nn.init.zeros_(final.weight)
        with torch.no_grad():
            final.bias.copy_(torch.tensor([2 * math.log(initial_std), 2 * math.log(initial_std), 0.0]))

    def forward(self, condition: Tensor) -> Tensor:
        """Return **[B, 5]**, which `medfuse.diffusion.answers.Gains` names."""
        condition = condition.float()
        out = self.layers(condition)
        fall = condition[:, :1].clamp(1e-3, 1.0).pow(self.powers)
        return torch.cat([out[:, :2].clamp(-20.0, 4.0).exp() * fall[:, :2], out[:, 2:].sigmoid(), fall[:, 2:]], 1)


class FusionModel(nn.Module):
    """The learned part of the method. Its `forward` is the denoiser's; scriptable and traceable.

    A TorchScript export serves the inferer as well as the module itself: `alpha_bar` and `gains` are exported with it.
    """

    def __init__(self, denoiser: nn.Module, schedule: nn.Module | None = None, gains: nn.Module | None = None) -> None:
        """Put the parts together.

        Args:
            denoiser: `(image [B, 12, H, W], condition [B, 25]) -> [B, 6, H, W]`, e.g. `medfuse.diffusion.FusionUNet`.
            schedule: `s -> alpha_bar`; a `MonotoneSchedule` where absent.
            gains: `condition -> [B, 5]`; a `GainNetwork` where absent.
        """
        super().__init__()
        self.denoiser = denoiser
        self.schedule = MonotoneSchedule() if schedule is None else schedule
        self.gain = GainNetwork() if gains is None else gains

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """Run the denoiser: **[B, 12, H, W]** and **[B, 25]** to **[B, 6, H, W]**."""
        channels: Tensor = self.denoiser(image, condition)
        return channels

    @torch.jit.export
    def alpha_bar(self, s: Tensor) -> Tensor:
        """Return the schedule at relative times `s`."""
        level: Tensor = self.schedule(s)
        return level

    @torch.jit.export
    def gains(self, condition: Tensor) -> Tensor:
        """Return what `medfuse.diffusion.answers.Gains` names, **[B, 5]**."""
        values: Tensor = self.gain(condition)
        return values
