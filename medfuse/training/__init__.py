"""All that is needed to train, and for nothing else: data sets, phantoms, random degradations, loss, handlers."""

from medfuse.training.brains import brains_of
from medfuse.training.datasets import IMAGE_KIND_WEIGHTS, RandomPatches, image_pairs, slice_pairs
from medfuse.training.degrade import DegradationPrior, DegradeBatch, RandDegrade, RandDegraded, degrade
from medfuse.training.growth import load_grown
from medfuse.training.handlers import (
    BestWeights,
    Bfloat16Inferer,
    Curve,
    GradientClip,
    TimeLimit,
    TrainingState,
    export_weights,
)
from medfuse.training.losses import FusionLoss
from medfuse.training.packs import RESTORATION_KIND_WEIGHTS, read_pack, single_images, write_pack
from medfuse.training.processes import AverageGradients, process_count, process_device, start_processes, stop_processes
from medfuse.training.volume_examples import VolumeLoss, VolumePatches, write_examples

__all__ = [
    "IMAGE_KIND_WEIGHTS",
    "RESTORATION_KIND_WEIGHTS",
    "AverageGradients",
    "BestWeights",
    "Bfloat16Inferer",
    "Curve",
    "DegradationPrior",
    "DegradeBatch",
    "FusionLoss",
    "GradientClip",
    "RandDegrade",
    "RandDegraded",
    "RandomPatches",
    "TimeLimit",
    "TrainingState",
    "VolumeLoss",
    "VolumePatches",
    "brains_of",
    "degrade",
    "export_weights",
    "image_pairs",
    "load_grown",
    "process_count",
    "process_device",
    "read_pack",
    "single_images",
    "slice_pairs",
    "start_processes",
    "stop_processes",
    "write_examples",
    "write_pack",
]
