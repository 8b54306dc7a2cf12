"""Volumes as their scanner measured them: restored from proposals, on the grid of the MRI, by the data on their own."""

from medfuse.volumes.restore import Estimator, Proposals, RestoredVolume, gated, restore_volume

__all__ = ["Estimator", "Proposals", "RestoredVolume", "gated", "restore_volume"]
