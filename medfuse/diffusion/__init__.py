"""Diffusion: a few learned steps from two degraded sources to two restored ones and their fusion."""

from medfuse.diffusion.evaluate import evaluate
from medfuse.diffusion.model import FusionModel, Gains
from medfuse.diffusion.sampler import FusionState, Settle, blur_shares, check_settings, describe, sample
from medfuse.diffusion.schedule import MonotoneSchedule
from medfuse.diffusion.unet import FusionUNet

__all__ = [
    "FusionModel",
    "FusionState",
    "FusionUNet",
    "Gains",
    "MonotoneSchedule",
    "Settle",
    "blur_shares",
    "check_settings",
    "describe",
    "evaluate",
    "sample",
]
