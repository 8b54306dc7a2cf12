"""All that is needed to train, and for nothing else: data sets, phantoms, random degradations, loss, handlers."""

from medfuse.training.datasets import IMAGE_KIND_WEIGHTS, RandomPatches, image_pairs, slice_pairs
from medfuse.training.degrade import DegradationPrior, DegradeBatch, RandDegrade, RandDegraded, degrade
from medfuse.training.handlers import BestWeights, GradientClip, TrainingState, export_weights
from medfuse.training.losses import FusionLoss

__all__ = [
    "IMAGE_KIND_WEIGHTS",
    "BestWeights",
    "DegradationPrior",
    "DegradeBatch",
    "FusionLoss",
    "GradientClip",
    "RandDegrade",
    "RandDegraded",
    "RandomPatches",
    "TrainingState",
    "degrade",
    "export_weights",
    "image_pairs",
    "slice_pairs",
]
