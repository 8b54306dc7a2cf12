"""Diffusion: a few learned steps from two degraded sources to two restored ones and their fusion."""

from medfuse.diffusion.answers import Answer, Gains
from medfuse.diffusion.evaluate import Evaluator
from medfuse.diffusion.features import describe, features
from medfuse.diffusion.model import FusionModel, GainNetwork
from medfuse.diffusion.sampler import FusionState, sample
from medfuse.diffusion.schedule import MonotoneSchedule
from medfuse.diffusion.unet import FusionUNet

__all__ = [
    "Answer",
    "Evaluator",
    "FusionModel",
    "FusionState",
    "FusionUNet",
    "GainNetwork",
    "Gains",
    "MonotoneSchedule",
    "describe",
    "features",
    "sample",
]
