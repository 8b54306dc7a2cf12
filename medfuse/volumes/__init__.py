"""Volumes as their scanner measured them: restored from proposals, on the grid of the MRI, by the data on their own."""

from medfuse.physics.operators.scanner import narrowest_psf
from medfuse.volumes.network import TrainedEstimator, load_estimator
from medfuse.volumes.restore import Estimator, Proposals, RestoredVolume, by_rule, restore_volume
from medfuse.volumes.slices import slices_mm
from medfuse.volumes.width import PsfEstimate, measure_psf

__all__ = [
    "Estimator",
    "Proposals",
    "PsfEstimate",
    "RestoredVolume",
    "TrainedEstimator",
    "by_rule",
    "load_estimator",
    "measure_psf",
    "narrowest_psf",
    "restore_volume",
    "slices_mm",
]
