"""All that is needed to train, and for nothing else: data sets, phantoms, random degradations, loss, handlers."""

from medfuse.training.datasets import IMAGE_KIND_WEIGHTS, RandomPatches, image_pairs, slice_pairs
from medfuse.training.degrade import DegradationPrior, DegradeBatch, RandDegrade, RandDegraded, degrade
from medfuse.training.handlers import BestWeights, GradientClip, TrainingState, export_weights
from medfuse.training.losses import FusionLoss
from medfuse.training.processes import AverageGradients, process_count, process_device, start_processes, stop_processes

__all__ = [
    "IMAGE_KIND_WEIGHTS",
    "AverageGradients",
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
    "process_count",
    "process_device",
    "slice_pairs",
    "start_processes",
    "stop_processes",
]
